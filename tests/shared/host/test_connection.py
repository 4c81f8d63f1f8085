"""The connection itself, where its owner is cancelled or closed while it waits for the hub."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from aioapiqueue import ApiQueue, HostSchedule
from aioapiqueue.schedules.spi import HubLocation
from tests.helpers.hubs import ask_hub, hub_in_use, is_used

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.asyncio]


@pytest.fixture
def hub() -> Iterator[Path]:
    """A place for a hub of the test's own."""
    with hub_in_use() as directory:
        yield directory


@contextlib.contextmanager
def silent_hub(directory: Path) -> Iterator[socket.socket]:
    """A hub that accepts connections and says nothing; it is gone afterwards."""
    path = HubLocation(os.fspath(directory)).sockets()[0]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        listener.settimeout(10)
        yield listener
    path.unlink()


def hub_threads() -> set[threading.Thread]:
    """Return the threads in which queues are reaching a hub."""
    return {thread for thread in threading.enumerate() if thread.name == "aioapiqueue hub"}


async def take(queue: ApiQueue) -> None:
    """Take a slot, and end at once."""
    async with queue.slot():
        pass


async def answer(connection: socket.socket) -> None:
    """Read the first message of the queue at the other end, and answer it as a hub does."""
    connection.settimeout(10)
    await asyncio.to_thread(connection.recv, 65536)
    welcome = {"welcome": "0", "now": time.monotonic(), "pid": 1}
    connection.sendall(json.dumps(welcome).encode() + b"\n")


async def is_closed(connection: socket.socket) -> bool:
    """Answer the queue at the other end; return whether it has gone all the same."""
    await answer(connection)
    return await asyncio.to_thread(connection.recv, 1) == b""


async def test_cancelled_while_connecting(hub: Path, blockbuster: object) -> None:
    """Somebody cancels every task: those who wait are served, by a connection that is used."""
    queue = ApiQueue("100/s", schedule=HostSchedule("crm"))
    with silent_hub(hub) as listener:
        waiting = asyncio.create_task(take(queue))
        connection, _ = await asyncio.to_thread(listener.accept)
        (connecting,) = [one for one in asyncio.all_tasks() if one.get_name() == "aioapiqueue hub"]
        connecting.cancel()
    async with asyncio.timeout(20):
        await waiting
    with connection:
        assert await is_closed(connection)  # by the thread that nobody waited for any more
    assert queue.stats.released == 1
    await queue.aclose()


@pytest.mark.parametrize("first", ["answer", "cancellation"])
async def test_cancelled_as_answer_arrives(hub: Path, first: str) -> None:
    """The connection is closed, although the task was cancelled before it could take it."""
    queue = ApiQueue("100/s", schedule=HostSchedule("crm"))
    loop, before = asyncio.get_running_loop(), hub_threads()
    with silent_hub(hub) as listener:
        waiting = asyncio.create_task(take(queue))
        connection, _ = await asyncio.to_thread(listener.accept)
        (connecting,) = [one for one in asyncio.all_tasks() if one.get_name() == "aioapiqueue hub"]
        waiting.cancel()
        await asyncio.wait([waiting])
        await answer(connection)
        if first == "cancellation":
            loop.call_soon(connecting.cancel)
        for thread in hub_threads() - before:
            thread.join(60)  # blocks the loop, which then finds the answer beside the cancellation
        if first == "answer":
            loop.call_soon(connecting.cancel)
        await asyncio.wait([connecting])
    with connection:
        connection.settimeout(0)
        assert connecting.cancelled()
        assert connection.recv(1) == b""
    gc.collect()  # Python warns when it collects a socket that is still open
    await queue.aclose()


@pytest.mark.flaky(reruns=2)
async def test_closed_while_connecting(hub: Path, blockbuster: object) -> None:
    """`aclose` does not wait for a hub that says nothing, and leaves no connection to it.

    It has a second of real time, a fifth of what a hub has to answer.
    """
    queue = ApiQueue("100/s", schedule=HostSchedule("crm"))
    with silent_hub(hub) as listener:
        waiting = asyncio.create_task(take(queue))
        connection, _ = await asyncio.to_thread(listener.accept)
        waiting.cancel()
        async with asyncio.timeout(1):
            await queue.aclose()
    with connection:
        assert await is_closed(connection)
    assert not [one for one in asyncio.all_tasks() if one.get_name() == "aioapiqueue hub"]


@pytest.mark.parametrize("hub_does", ["answer", "exit"])
async def test_loop_closed_while_connecting_is_collected(
    hub: Path, blockbuster: object, hub_does: str
) -> None:
    """A loop that is closed while its queue connects is not kept, and neither are its callers.

    The connection is closed by the thread, which finds no loop to give it to.
    """
    queue = ApiQueue("100/s", schedule=HostSchedule("crm"))
    before = hub_threads()
    with silent_hub(hub) as listener:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # of tasks that are destroyed while they wait
        ended = weakref.ref(loop)
        waiting = loop.create_task(take(queue))
        caller = weakref.ref(waiting)
        connection = await accept_beside(listener, loop)
        loop.close()
        del loop, waiting
        with connection:
            if hub_does == "answer":
                assert await is_closed(connection)
    for thread in hub_threads() - before:  # after an exit, it starts a real hub
        await asyncio.to_thread(thread.join, 60)
        assert not thread.is_alive()
    queue.malformed()  # the least use on this loop, which makes the queue forget the other one
    gc.collect()
    assert (ended(), caller()) == (None, None)


async def accept_beside(listener: socket.socket, loop: asyncio.AbstractEventLoop) -> socket.socket:
    """Run a loop until its queue has connected, and return the hub's end of the connection.

    No thread is left that could still refer to the loop.
    """
    accepted = []

    async def connected() -> None:
        accepted.append((await asyncio.to_thread(listener.accept))[0])
        await loop.shutdown_default_executor()

    thread = threading.Thread(target=lambda: loop.run_until_complete(connected()))
    thread.start()
    await asyncio.to_thread(thread.join)
    (connection,) = accepted
    return connection


PROGRAM = """
import asyncio, aioapiqueue

async def main():
    queue = aioapiqueue.ApiQueue("1/s", schedule=aioapiqueue.HostSchedule("crm"))
    await asyncio.wait([queue.enqueue()], timeout=0.1)

asyncio.run(main())
"""


@pytest.mark.flaky(reruns=2)
async def test_program_exits_while_hub_is_silent(hub: Path) -> None:
    """It does not wait for the thread, which would take five seconds."""
    with silent_hub(hub) as listener:
        begun = time.monotonic()
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM)
        connection, _ = await asyncio.to_thread(listener.accept)
        with connection:
            assert await process.wait() == 0
        assert time.monotonic() - begun < 5


@pytest.mark.flaky(reruns=2)
async def test_closing_is_cancelled_while_it_waits_to_tell(hub: Path, blockbuster: object) -> None:
    """`aclose` gives what was just said a second; cancelled, it can be called again.

    That second is real time: it must not have gone by in the tenth before it is cancelled.
    """
    queue = ApiQueue("100/s", schedule=HostSchedule("crm"))
    with silent_hub(hub) as listener:
        queue.hold(60)
        connection, _ = await asyncio.to_thread(listener.accept)
        closing = asyncio.create_task(queue.aclose())
        await asyncio.sleep(0.1)
        assert not closing.done()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        async with asyncio.timeout(3):
            await queue.aclose()
    with connection:
        assert await is_closed(connection)


@pytest.mark.parametrize("end", ["cancelled", "by itself"])
async def test_closing_waits_until_all_is_sent(hub: Path, blockbuster: object, end: str) -> None:
    """`aclose` sends all, although the hub reads nothing for a while; cancelled, it just closes."""
    queue = ApiQueue("1000000/s", schedule=HostSchedule("crm"))
    await take(queue)
    pid = (await asyncio.to_thread(ask_hub, hub, command="status"))["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(40_000):  # more than a socket holds
            queue.pause(0.001)
        await asyncio.sleep(0)
        queue.hold(3600)
        closing = asyncio.create_task(queue.aclose())
        await asyncio.sleep(0.1)
        assert not closing.done()
        if end == "cancelled":
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
    finally:
        os.kill(pid, signal.SIGCONT)
    await asyncio.wait([closing])
    other = ApiQueue("1000000/s", schedule=HostSchedule("crm"))
    async with asyncio.timeout(10):
        while await asyncio.to_thread(is_used, hub):
            pass
    if end == "by itself":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await take(other)
    await other.aclose()


async def test_told_before_it_is_closed(hub: Path, blockbuster: object) -> None:
    """A program that only changes a limit, and ends: the others hear of it."""
    async with ApiQueue("100/s", schedule=HostSchedule("crm")) as one:
        await take(one)
        async with ApiQueue("100/s", schedule=HostSchedule("crm")) as other:
            other.set_rate("1/s")
        async with asyncio.timeout(10):
            while [str(limit) for limit in one.limits] != ["1/s"]:
                await take(one)


async def test_hub_reads_on_after_hang_up(hub: Path, blockbuster: object) -> None:
    """The hub reads all that a program sent before it ended, although its answers fail."""
    async with ApiQueue("1000000/s", schedule=HostSchedule("crm")) as queue:
        await take(queue)
        pid = (await asyncio.to_thread(ask_hub, hub, command="status"))["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(200):  # more than the hub reads at once, less than a socket holds
                queue.pause(0.001)
                await asyncio.sleep(0)
            queue.hold(3600)
            await queue.aclose()
        finally:
            os.kill(pid, signal.SIGCONT)
    async with asyncio.timeout(10):
        while await asyncio.to_thread(is_used, hub):
            pass
    async with ApiQueue("1000000/s", schedule=HostSchedule("crm")) as other:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await take(other)


async def test_hub_ends_with_its_welcome(hub: Path, blockbuster: object) -> None:
    """What the queue then sends fails, which is logged as any loss; the next hub serves the call.

    The loop's exception handler has nothing to report.
    """
    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    queue = ApiQueue("100/s", schedule=HostSchedule("crm"))
    with silent_hub(hub) as listener:
        waiting = asyncio.create_task(take(queue))
        connection, _ = await asyncio.to_thread(listener.accept)
        await asyncio.to_thread(connection.recv, 65536)  # its first message
        welcome = {"welcome": "0", "now": time.monotonic(), "pid": 1}
        connection.sendall(json.dumps(welcome).encode() + b"\n")
        connection.close()  # before the loop runs again
    async with asyncio.timeout(20):
        await waiting
    assert queue.stats.faults == 1
    await queue.aclose()
    gc.collect()  # of a task that failed, asyncio reports it then
    assert reports == []


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("closed", "the host hub has exited; calls of the queue (100/s) wait until"),
        ("reset", "lost the connection to the host hub: [Errno "),
        ("last words", 'the host hub ended the connection: {"refused": "x"}; calls of'),
    ],
)
async def test_how_a_hub_ended_is_logged(
    hub: Path, blockbuster: object, caplog: pytest.LogCaptureFixture, ending: str, words: str
) -> None:
    """Whatever ends the connection, the log begins with words on the hub."""
    queue = ApiQueue("100/s", schedule=HostSchedule("crm"))
    with silent_hub(hub) as listener:
        waiting = asyncio.create_task(take(queue))
        connection, _ = await asyncio.to_thread(listener.accept)
        connection.settimeout(10)
        await asyncio.to_thread(connection.recv, 65536)  # its first message
        welcome = {"welcome": "0", "now": time.monotonic(), "pid": 1}
        connection.sendall(json.dumps(welcome).encode() + b"\n")
        # A socket that is closed with something unread resets the connection.
        await asyncio.to_thread(connection.recv, 1 if ending == "reset" else 65536)
        if ending == "last words":
            connection.sendall(b'{"refused": "x"}\n')
        connection.close()
    async with asyncio.timeout(20):
        await waiting
    assert [record.getMessage().startswith(words) for record in caplog.records] == [True]
    await queue.aclose()
