"""One call can be read: it enters few files of the library, and few functions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from pathlib import Path
from typing import NamedTuple

import aioapiqueue
from aioapiqueue import ApiQueue
from tests.helpers import introspect

PACKAGE = Path(aioapiqueue.__file__).parent
OF_SEVERAL_LINES = {"scheduler.py", "resorting.py", "wait_lists.py"}


class Entered(NamedTuple):
    """What was entered of the library: functions, each with its file."""

    functions: set[tuple[str, str]]

    @property
    def files(self):
        """The names of their files."""
        return {file for file, _ in self.functions}

    def note(self, frame, event, _):
        """Note a call, as `sys.setprofile` reports it."""
        file = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in file.parents and file.parent.name != "testing":
            self.functions.add((file.name, frame.f_code.co_qualname))


@contextlib.contextmanager
def entered():
    """Yield what the block enters of the library, the VirtualLoop apart."""
    found, before = Entered(set()), sys.getprofile()
    gc.disable()  # which may finalize what other tests have left
    sys.setprofile(found.note)
    try:
        yield found
    finally:
        sys.setprofile(before)
        gc.enable()


async def call(queue, *keys):
    """Make a call; return its slot."""
    async with queue.slot(keys=keys or None) as slot:
        return slot


async def use(queue, *keys):
    """Use a queue as long as it has anything to do for the first time."""
    await asyncio.gather(*(call(queue, *keys) for _ in range(3)))
    await asyncio.sleep(5)


async def test_uncontended_call_enters_four_files():
    """A call that need not wait."""
    queue = ApiQueue("10/s")
    await use(queue)
    with entered() as found:
        slot = await call(queue)
    assert slot.waited == 0
    assert len(found.files) <= 4, found.files
    assert len(found.functions) <= 12, sorted(found.functions)
    assert ("queue.py", "ApiQueue.slot") in found.functions


async def test_queued_call_enters_seven_files():
    """A call that waits, where all calls come under the same limits."""
    queue = ApiQueue("8/s")
    await use(queue)
    await call(queue)
    with entered() as found:
        slot = await call(queue)
    assert slot.waited == 1 / 8
    assert len(found.files) <= 7, found.files
    assert len(found.functions) <= 30, sorted(found.functions)
    assert ("local_limiter.py", "LocalLimiter.release_due") in found.functions
    assert not found.files & OF_SEVERAL_LINES


async def test_lane_call_enters_nine_files():
    """A call that waits for the limit of its key; no call of another key waits."""
    queue = ApiQueue("64/s", lanes={"a": "8/s", "b": "8/s"})
    await use(queue, "a")
    await call(queue, "a")
    with entered() as found:
        slot = await call(queue, "a")
    assert slot.waited == 1 / 8
    assert len(found.files) <= 9, found.files
    assert len(found.functions) <= 45, sorted(found.functions)
    assert ("lane_states.py", "Lanes.find") in found.functions
    assert not found.files & OF_SEVERAL_LINES


async def test_tenants_call_enters_nine_files():
    """A call of a tenant that waits for the limit of its operation, which other tenants use, too.

    A new tenant has called since, so that its lane is looked at, too: is it idle by now?
    """
    queue, ours = ApiQueue("64/s", lanes={"t:*": "8/s", "e": "8/s"}), ("t:1", "e")
    await use(queue, *ours)
    await asyncio.gather(*(call(queue, "t:2", "e") for _ in range(3)), call(queue, *ours))
    with entered() as found:
        slot = await call(queue, *ours)
    assert slot.waited == 1 / 8
    assert len(found.files) <= 9, found.files
    assert len(found.functions) <= 45, sorted(found.functions)
    assert introspect.LOOKS_AT_IDLE_LANE in found.functions
    assert not found.files & OF_SEVERAL_LINES


async def test_call_beside_another_lane():
    """A call that waits for the limit of its key, while a call of another key waits, too."""
    queue = ApiQueue("64/s", lanes={"a": "8/s", "b": "1/s"})
    await use(queue, "a")
    await use(queue, "b")
    others = asyncio.gather(*(call(queue, "b") for _ in range(3)))
    await asyncio.sleep(0)  # so that they wait
    await call(queue, "a")
    with entered() as found:
        slot = await call(queue, "a")
    assert 1 / 10 < slot.waited <= 1 / 8
    assert len(found.files) <= 13, found.files
    assert len(found.functions) <= 71, sorted(found.functions)
    assert found.files > OF_SEVERAL_LINES
    await others


async def test_call_in_turns():
    """A call that waits for its turn, while a call of another key waits, too."""
    queue = ApiQueue("8/s", order="fair")
    await use(queue, "a")
    await use(queue, "b")
    others = asyncio.gather(*(call(queue, "b") for _ in range(3)))
    await asyncio.sleep(0)  # so that they wait
    await call(queue, "a")
    with entered() as found:
        slot = await call(queue, "a")
    assert slot.waited == 1 / 4
    assert len(found.files) <= 11, found.files
    assert len(found.functions) <= 60, sorted(found.functions)
    assert ("orders.py", "FairTurns.served") in found.functions
    await others


async def test_second_line_enters_the_scheduler():
    """Calls of two keys wait: only then there is an order among lines, which is kept."""
    queue, order = ApiQueue("8/s", lanes={"a": "4/s", "b": "4/s"}), []

    async def note(key):
        slot = await call(queue, key)
        order.append((key, slot.waited))

    await asyncio.gather(call(queue, "a"), call(queue, "b"))
    await asyncio.sleep(1 / 16)
    with entered() as found:
        await asyncio.gather(note("a"), note("b"))
    assert order == [("a", 1 / 16), ("b", 3 / 16)]
    assert found.files > OF_SEVERAL_LINES
