"""Threads where processes fork and end: programs of their own."""

import pytest

from tests.helpers.threads import run_program

pytestmark = pytest.mark.real


def test_forked_child_has_its_queue():
    """A child after a fork has a queue of its own.

    Threads that waited in the parent do not in the child; both go on, each for itself.
    """
    lines = run_program(
        """
        import os, threading, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue("50ms", concurrency=1)

        def work():
            with blocking(queue).slot():
                pass

        outer = blocking(queue).slot().__enter__()      # until all are there
        waiting = [threading.Thread(target=work) for _ in range(4)]
        for thread in waiting:
            thread.start()
        while queue.waiting < 4:
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            print("child", queue.waiting, queue.running, threading.active_count())
            # Of those that waited in the parent, none has a slot here before those that come.
            print("child", blocking(queue).call(queue.estimate) <= 0.05)
            for _ in range(3):
                with blocking(queue).slot():
                    pass
            outer.release()
            del outer
            blocking(queue).call(int)
            print("child", queue.stats.released, queue.waiting, queue.running, flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        outer.release()
        for thread in waiting:
            thread.join()
        blocking(queue).call(int)
        print("parent", status, queue.waiting, queue.running)
        """
    )
    assert lines == ["child 0 0 1", "child True", "child 4 0 0", "parent 0 0 0"]


def test_forks_at_any_moment_work():
    """Forks at any moment leave parent and child working.

    Children forked while threads take slots all work, end in silence, and harm no parent.
    """
    lines = run_program(
        """
        import os, sys, threading, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue("2000/s")
        stop = False

        def work():
            while not stop:
                with blocking(queue).slot():
                    pass

        busy = [threading.Thread(target=work) for _ in range(4)]
        for thread in busy:
            thread.start()
        failed = 0
        for _ in range(25):
            child = os.fork()
            if child == 0:
                stop = True
                for _ in range(5):
                    with blocking(queue).slot(timeout=30):
                        pass
                sys.exit(0)
            failed += os.waitpid(child, 0)[1] != 0
        stop = True
        for thread in busy:
            thread.join(60)
        blocking(queue).call(int)
        print(failed, queue.waiting, queue.running)
        """
    )
    assert lines == ["0 0 0"]


def test_pool_of_forks_works():
    """A pool of forked processes can use the queue.

    Workers that multiprocessing forks pace themselves, and end in silence.
    """
    lines = run_program(
        """
        import multiprocessing, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue("20/s")

        def work(_):
            with blocking(queue).slot():
                return time.monotonic()

        work(0)
        begun = time.monotonic()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            times = sorted(pool.map(work, range(10), chunksize=5))
            pool.close()
            pool.join()
        print(len(times), times[-1] - begun > 0.19)
        """
    )
    assert lines == ["10 True"]


def test_parent_portal_is_refused_in_child():
    """A portal of the parent is refused in the child.

    A child has no thread that runs the parent's loop: it gets an error instead of hanging.
    """
    lines = run_program(
        """
        import os
        from anyio.from_thread import start_blocking_portal
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue()
        with start_blocking_portal() as portal:
            gate = blocking(queue, portal=portal)
            with gate.slot():
                child = os.fork()
                if child == 0:
                    try:
                        gate.slot().__enter__()
                    except RuntimeError as error:
                        print(error)
                    with blocking(queue).slot():
                        print("a loop of its own", flush=True)
                    os._exit(0)
            os.waitpid(child, 0)
        """
    )
    assert "create a portal in the child" in lines[0]
    assert lines[1:] == ["a loop of its own"]


def test_daemon_threads_keep_no_interpreter():
    """The interpreter ends although daemon threads wait.

    Threads that wait for ever keep no process alive, and die in silence.
    """
    lines = run_program(
        """
        import threading, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue()
        queue.pause()

        def work():
            with blocking(queue).slot():
                print("let in")

        for _ in range(50):
            threading.Thread(target=work, daemon=True).start()
        while queue.waiting < 50:
            time.sleep(0.001)
        print("end")
        """
    )
    assert lines == ["end"]


def test_last_threads_get_their_turns():
    """Threads that the program waits for get their turns at its end.

    After the main thread has ended, threads that are no daemons are still served.
    """
    lines = run_program(
        """
        import threading
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue("20/s")

        def work():
            with blocking(queue).slot():
                print("call")

        for _ in range(10):
            threading.Thread(target=work).start()
        print("main ends")
        """
    )
    assert sorted(lines) == ["call"] * 10 + ["main ends"]
    assert lines[-1] == "call"


def test_nothing_starts_before_first_slot():
    """Nothing is started before the first slot.

    Importing the module, and giving access to a queue, starts no thread.
    """
    lines = run_program(
        """
        import threading
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking
        gate = blocking(ApiQueue())
        print(threading.active_count())
        """
    )
    assert lines == ["1"]
