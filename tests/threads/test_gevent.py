"""Greenlets of gevent take slots, in programs in which it has replaced threads."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.helpers.hubs import hub_in_use
from tests.helpers.threads import run_program

pytestmark = pytest.mark.real

PATCHED = """
from gevent import monkey
monkey.patch_all()
import os, random, signal, sys, time
import gevent
from aioapiqueue import ApiQueue, HostSchedule, SlotTimeout, rate_limited
from aioapiqueue.threads import blocking

def figures(queue):
    return blocking(queue).call(lambda: (queue.waiting, queue.running))

def until(condition):
    while not condition():
        gevent.sleep(0.001)
"""


ANYIO_IMPORTS_SSL = tuple(map(int, version("anyio").split(".")[:2])) < (4, 15)
"""Whether anyio takes names of ssl as soon as it is imported, which gevent warns of."""
ABOUT_ANYIO = r"Monkey-patching ssl .*: \['anyio\.streams\.tls \([^']*\)'\]"


def run(source, **how):
    """Run a program after `monkey.patch_all()`; return the lines that it prints."""
    return run_program(PATCHED + source, **how)


def test_example_of_docs_runs():
    """The example of docs/threads.md prints what the page says."""
    page = (Path(__file__).parents[2] / "docs" / "threads.md").read_text("utf-8")
    section = page.split("## gevent")[1]
    code, output = re.search(r"```python\n(.*?)```\n```text\n(.*?)```", section, re.DOTALL).groups()
    assert "\n".join(run_program(code)) + "\n" == output


def test_greenlets_are_paced_in_order():
    """Thirty greenlets start one interval apart, in the order of arrival; others run meanwhile."""
    lines = run("""
released = []

class Released:
    def on_event(self, event):
        if event.kind == "released":
            released.append((event.key, event.at))

queue = ApiQueue("100/s", observers=[Released()])
ticks = inside = most = 0

def tick():
    global ticks
    while True:
        gevent.sleep(0.001)
        ticks += 1

def work(number):
    global inside, most
    with blocking(queue).slot(key=number):
        inside += 1
        most = max(most, inside)
        gevent.sleep(0.2)                   # the others start meanwhile
        inside -= 1

gevent.spawn(tick)
greenlets = [gevent.spawn(work, number) for number in range(30)]
gevent.joinall(greenlets, raise_error=True)
print([key for key, _ in released] == list(range(30)))
times = [at for _, at in released]
print(all(at - times[0] >= 0.01 * (n - 1) - 1e-6 for n, at in enumerate(times)))
print(most > 2)
print(ticks > 20, figures(queue))
""")
    assert lines == ["True", "True", "True", "True (0, 0)"]


def test_a_lone_greenlet_waits():
    """A program without another greenlet waits, although its hub has nothing else to wait for."""
    lines = run("""
queue = ApiQueue("20/s")

@rate_limited(blocking(queue))
def call():
    return time.monotonic()

first, second, third = call(), call(), call()
print(third - first >= 0.09)
print(blocking(queue).estimate() > 0, blocking(queue).call(lambda: queue.running))
blocking(queue).close()
print(queue.closed)
""")
    assert lines == ["True", "True 0", "True"]


def test_many_greenlets_wait_together():
    """Of 2,000 greenlets that wait, each gets its turn."""
    lines = run("""
queue = ApiQueue("10000/s")
queue.pause()
done = []

def work(number):
    with blocking(queue).slot():
        done.append(number)

greenlets = [gevent.spawn(work, number) for number in range(2000)]
until(lambda: queue.waiting == 2000)
blocking(queue).resume()
gevent.joinall(greenlets, raise_error=True)
print(sorted(done) == list(range(2000)), figures(queue))
""")
    assert lines == ["True (0, 0)"]


def test_kills_and_timeouts_leave_nothing():
    """A greenlet that is killed, or timed out, while it waits or runs gives up its place."""
    lines = run("""
queue = ApiQueue("100/s", concurrency=1)
outer = blocking(queue).slot().__enter__()

def work():
    with blocking(queue).slot():
        print("let in")
        gevent.sleep(60)

killed = gevent.spawn(work)
until(lambda: queue.waiting == 1)
killed.kill()
print("killed", figures(queue))

try:
    with gevent.Timeout(0.05), blocking(queue).slot():
        print("let in")
except gevent.Timeout:
    print("timed out", figures(queue))

try:
    with blocking(queue).slot(timeout=0.05):
        print("let in")
except SlotTimeout:
    print("no slot", figures(queue))

outer.release()
running = gevent.spawn(work)
until(lambda: queue.running == 1 and not queue.waiting)
gevent.sleep(0.05)
running.kill()
print("killed", figures(queue))
with blocking(queue).slot():
    print("goes on")
""")
    assert lines == [
        "killed (0, 1)",
        "timed out (0, 1)",
        "no slot (0, 1)",
        "let in",
        "killed (0, 0)",
        "goes on",
    ]


@pytest.mark.parametrize("kills", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_kills_at_any_moment_keep_permits(kills):
    """Kills at the moment at which slots come lose no permit, and let no more in than there are."""
    program = """
queue = ApiQueue("5000/s", concurrency=3)
random.seed(7)
inside = most = 0

def work():
    global inside, most
    while True:
        with blocking(queue).slot():
            inside += 1
            most = max(most, inside)
            try:
                gevent.sleep(random.choice([0, 0.0005]))
            finally:
                inside -= 1

greenlets = [gevent.spawn(work) for _ in range(10)]
for _ in range(KILLS):
    gevent.sleep(random.random() * 0.002)
    place = random.randrange(10)
    greenlets[place].kill()
    greenlets[place] = gevent.spawn(work)
gevent.killall(greenlets)
print(most, figures(queue), queue.stats.released > 50)
with blocking(queue).slot(), blocking(queue).slot(), blocking(queue).slot():
    print("all three are there")
"""
    lines = run(program.replace("KILLS", str(kills)))
    assert lines == ["3 (0, 0) True", "all three are there"]


def test_ctrl_c_ends_a_greenlets_wait():
    """Ctrl-C in the main greenlet, while it waits, leaves the queue."""
    lines = run("""
gevent.get_hub().NOT_ERROR += (KeyboardInterrupt,)      # or it is printed, too
queue = ApiQueue("100/s", concurrency=1)
with blocking(queue).slot():
    def interrupt():
        until(lambda: queue.waiting)
        os.kill(os.getpid(), signal.SIGINT)
    gevent.spawn(interrupt)
    try:
        with blocking(queue).slot():
            print("let in")
    except KeyboardInterrupt:
        print("interrupted", figures(queue))
print(figures(queue))
""")
    assert lines == ["interrupted (0, 1)", "(0, 0)"]


def test_process_ends_while_greenlets_wait():
    """The end of the main greenlet ends the process, as gevent has it."""
    lines = run("""
queue = ApiQueue("1/min")
let_in = []

def work():
    with blocking(queue).slot():
        let_in.append("one is let in")
        print(*let_in)

for _ in range(5):
    gevent.spawn(work)
until(lambda: let_in and queue.waiting == 4)
""")
    assert lines == ["one is let in"]


def test_loop_ends_before_the_interpreter():
    """An interpreter that ends while gevent runs in the loop's thread may crash."""
    lines = run("""
import asyncio
import atexit

atexit.register(lambda: print("the loop runs:", loop.is_running()))  # the last one, as the first
loop = blocking(ApiQueue("100/s")).call(asyncio.get_running_loop)
""")
    assert lines == ["the loop runs: False"]


def test_threads_of_gevents_pool_wait():
    """Threads of the system, from gevent's own pool, wait in the same queue."""
    lines = run("""
from gevent.threadpool import ThreadPool

queue = ApiQueue("50/s")

def work():
    with blocking(queue).slot():
        return time.monotonic()

pool = ThreadPool(4)
starts = [pool.spawn(work) for _ in range(6)] + [gevent.spawn(work) for _ in range(5)]
times = sorted(one.get() for one in starts)
print(times[-1] - times[0] >= 0.18, figures(queue))
""")
    assert lines == ["True (0, 0)"]


def test_forked_child_starts_its_queue():
    """A child after a fork has a queue of its own, and the parent goes on."""
    lines = run("""
queue = ApiQueue("20/s")
with blocking(queue).slot():
    pass
child = os.fork()
if child == 0:
    for _ in range(2):
        with blocking(queue).slot():
            pass
    print("child", queue.stats.released, flush=True)
    os._exit(0)
with blocking(queue).slot():
    pass
_, status = os.waitpid(child, 0)
print("parent", status, queue.stats.released)
""")
    assert lines == ["child 3", "parent 0 2"]


@pytest.mark.parametrize("first_slot", ["before", "after"])
def test_patch_follows_the_import(first_slot):
    """A patch after the import will do; one after the first use is refused, with what to do.

    From anyio 4.15 on, gevent does not warn of such a patch, either.
    """
    lines = run_program(f"""
from aioapiqueue import ApiQueue
from aioapiqueue.threads import blocking

queue = ApiQueue("20/s")
if {first_slot!r} == "before":
    with blocking(queue).slot():
        pass
from gevent import monkey
if {ANYIO_IMPORTS_SSL}:
    import warnings
    warnings.filterwarnings("ignore", {ABOUT_ANYIO!r}, monkey.MonkeyPatchWarning)
monkey.patch_all()
import gevent

def work():
    with blocking(queue).slot():
        return "let in"

greenlets = [gevent.spawn(work) for _ in range(3)]
try:
    with blocking(queue).slot():
        gevent.joinall(greenlets)
        print([one.value for one in greenlets])
except RuntimeError as error:
    print(error)
    gevent.killall(greenlets)
""")
    if first_slot == "before":
        (line,) = lines
        assert line == (
            "gevent.monkey.patch_all() was called after the first use of blocking(queue): call "
            "it before all other imports"
        )
    else:
        assert lines == ["['let in', 'let in', 'let in']"]


def test_portals_are_refused_under_gevent():
    """A loop of anyio's would run in the thread that waits for it: the error says what to do."""
    lines = run("""
from anyio.from_thread import start_blocking_portal

with start_blocking_portal() as portal:
    try:
        with blocking(ApiQueue("20/s"), portal=portal).slot():
            print("let in")
    except RuntimeError as error:
        print(error)
""")
    (line,) = lines
    assert line == (
        "portal= does not work under gevent, because the portal's loop shares a thread with the "
        "waiting greenlets: leave portal= out, and the queue gets a loop in a thread of its own"
    )


@pytest.mark.parametrize("patch", ["patch_all(thread=False)", "patch_selectors()"])
def test_patch_without_threads_is_refused(patch):
    """No loop runs in a thread of the system then: at once, each time, and with what to do."""
    lines = run_program(f"""
from gevent import monkey
monkey.{patch}
from aioapiqueue import ApiQueue
from aioapiqueue.threads import blocking

queue = blocking(ApiQueue("20/s"))
for _ in range(2):
    try:
        with queue.slot():
            print("let in")
    except RuntimeError as error:
        print(error)
""")
    said = "gevent has patched selectors but not threads (monkey.patch_all(thread=False)), so no "
    assert [line[: len(said)] for line in lines] == [said] * 2
    assert lines[0].endswith("call monkey.patch_all() without thread=False")


@pytest.mark.parametrize("patch", ["patch_socket()", "patch_time()"])
def test_patches_of_little_are_taken(patch):
    """With threads and selectors of the system, slots are as they are without gevent."""
    lines = run_program(f"""
from gevent import monkey
monkey.{patch}
from aioapiqueue import ApiQueue
from aioapiqueue.threads import blocking

with blocking(ApiQueue("20/s")).slot():
    print("let in")
""")
    assert lines == ["let in"]


def test_patched_select_is_no_selector_of_loops():
    """Loops have that of the system where `selectors` was imported before; others are refused."""
    selector, said = run_program("""
from gevent import monkey
monkey.patch_select()
import selectors
from aioapiqueue import ApiQueue
from aioapiqueue.threads import blocking

print(selectors.DefaultSelector.__name__)
try:
    with blocking(ApiQueue("20/s")).slot():
        print("let in")
except RuntimeError as error:
    print(error)
""")
    if selector in {"PollSelector", "SelectSelector"}:
        assert said.startswith("gevent has patched selectors but not threads")
    else:
        assert said == "let in"


def test_loop_in_a_greenlet_is_named():
    """While `asyncio.run` has one, no greenlet waits; in a thread of gevent's pool, all go on."""
    lines = run("""
import asyncio
queue = blocking(ApiQueue("100/s"))
ended = []

async def main():
    await asyncio.sleep(0.2)
    ended.append(1)

other = gevent.spawn(lambda: asyncio.run(main()))
gevent.sleep(0.05)
try:
    with queue.slot():
        print("let in")
except RuntimeError as error:
    print(error)
other.join()
other = gevent.spawn(lambda: gevent.get_hub().threadpool.apply(asyncio.run, [main()]))
gevent.sleep(0.05)
with queue.slot():
    print("let in", len(ended))
other.join()
print(len(ended))
""")
    error, *others = lines
    assert error.startswith("no greenlet can wait here while an event loop runs in this thread")
    assert (
        "run the loop in a thread with gevent.get_hub().threadpool.apply(asyncio.run, [main()])"
        in error
    )
    assert others == ["let in 1", "2"]


@pytest.mark.posix
def test_a_hub_is_shared_under_gevent():
    """The first starts the hub, from greenlets, and another process has the same quota."""
    source = """
queue = ApiQueue("60/s", schedule=HostSchedule("crm"))

def work():
    with blocking(queue).slot():
        return time.time()

first = len(sys.argv) == 1
if first:
    import subprocess
    with blocking(queue).slot():
        pass                                # the hub is there
    other = subprocess.Popen(
        [sys.executable, "-c", SOURCE, "other"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    other.stdout.readline()                 # it is ready
    other.stdin.write(b"go\\n")
    other.stdin.flush()
else:
    print("ready", flush=True)
    sys.stdin.readline()
greenlets = [gevent.spawn(work) for _ in range(25)]
gevent.joinall(greenlets, raise_error=True)
times = [one.value for one in greenlets]
if first:
    times += map(float, other.communicate()[0].split())
    print(len(times), max(times) - min(times) >= 49 / 60 - 0.1)     # alone, each takes 24 / 60
else:
    print(*times)
"""
    whole = PATCHED + source
    with hub_in_use():
        lines = run_program(f"SOURCE = {whole!r}\n{whole}")
    assert lines == ["50 True"]


def test_sessions_of_requests_are_paced():
    """Requests of greenlets are paced by an adapter, run at once, and follow a Retry-After."""
    lines = run("""
import requests
from gevent.pywsgi import WSGIServer
from aioapiqueue.integrations.requests import RateLimitedAdapter

arrivals, inside, most = [], 0, 0

def application(environ, start_response):
    global inside, most
    arrivals.append(time.monotonic())
    if len(arrivals) == 3:
        start_response("429 Too Many Requests", [("Retry-After-Ms", "400")])
        return [b""]
    inside += 1
    most = max(most, inside)
    gevent.sleep(0.2)
    inside -= 1
    start_response("200 OK", [])
    return [b"ok"]

server = WSGIServer(("127.0.0.1", 0), application, log=None)
server.start()
queue = ApiQueue("50/s")
session = requests.Session()
session.mount("http://", RateLimitedAdapter(queue, resend=1))

def fetch():
    return session.get(f"http://127.0.0.1:{server.server_port}/").text

greenlets = [gevent.spawn(fetch) for _ in range(10)]
gevent.joinall(greenlets, raise_error=True)
print([one.value for one in greenlets] == ["ok"] * 10, len(arrivals), queue.stats.throttled)
print(most > 2, max(b - a for a, b in zip(arrivals, arrivals[1:])) > 0.35)
print(arrivals[-1] - arrivals[0] >= 8 / 50 + 0.35, figures(queue))
""")
    assert lines == ["True 11 1", "True True", "True (0, 0)"]
