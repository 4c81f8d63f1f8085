"""Who follows calls: in which order, and from when."""

from __future__ import annotations

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.spi import Follower
from tests.helpers import introspect


class Diary(Follower):
    """Writes down the turns that it is told of."""

    def __init__(self, name, pages, *, is_last=False):
        self.name = name
        self.pages = pages
        self.is_last = is_last

    def started(self, _call, waited):
        """Write it down."""
        self.pages.append((self.name, "started", waited))

    def ended(self, _call, _raised):
        """Write it down."""
        self.pages.append((self.name, "ended"))

    def happened(self, kind, _call, _key, **details):
        """Write down what."""
        self.pages.append((self.name, kind, details))


async def test_follower_comes_while_calls_run():
    """It is told from then on: of the end of a call whose start it has not seen, too."""
    queue, pages = ApiQueue("10/s"), []
    async with queue.slot():
        introspect.follow(queue, Diary("late", pages))
    async with queue.slot() as slot:
        slot.throttled(2)
    async with queue.slot():
        pass
    assert pages == [
        ("late", "ended"),
        ("late", "started", 0.1),
        ("late", "throttled", {"retry_after": 2}),
        ("late", "ended"),
        ("late", "started", 2.0),
        ("late", "ended"),
    ]


async def test_observers_are_told_last():
    """The others in the order in which they came, each of them once."""
    queue, pages = ApiQueue("10/s"), []
    last, one, other = (Diary(name, pages, is_last=name == "c") for name in "cab")
    for diary in (last, one, other, one, last):
        introspect.follow(queue, diary)
    async with queue.slot() as slot:
        slot.throttled()
    assert [name for name, *_ in pages] == ["a", "b", "c"] * 3


@pytest.mark.parametrize("options", [{}, {"concurrency": 5}, {"maxsize": 5, "order": "fair"}])
async def test_nobody_follows_a_plain_queue(options):
    """It pays for one test at each turn: there is nobody to be told."""
    queue = ApiQueue("10/s", **options)
    async with queue.slot(timeout=10):
        assert introspect.followers_of(queue) is None
