"""Two versions of the library on one name: the later one is refused, whichever it is."""

from __future__ import annotations

import pytest

from aioapiqueue import ApiQueue, SharedError
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.virtual_client import VirtualClient

FIRST_EDITION = {  # what it writes for a rate
    "epoch": "1700000000000000",
    "seen": "1700000000000000",
    "skew": "0",
    "last": "1700000000000000",
    "r1:a": "1700000000000000",
    "r1:u": "1",
    "r1:i": "100000",
    "r1:b": "1",
}


def base(name):
    """Return the key of a quota."""
    return f"{{aioapiqueue:{name}}}"


async def refusal(valkey, name):
    """Ask for a slot; return why it is refused, having seen that nothing was changed."""
    key, server = base(name), valkey.sync()
    before = server.hgetall(key)
    async with ApiQueue("10/s", schedule=SharedSchedule(VirtualClient(valkey), name)) as queue:
        with pytest.raises(SharedError) as caught:
            await queue.enqueue()
        assert queue.stats.fault == str(caught.value)
    assert server.hgetall(key) == before
    assert server.keys(f"{key}*".replace("[", r"\[")) == [key.encode()]
    server.delete(key)
    async with ApiQueue("10/s", schedule=SharedSchedule(VirtualClient(valkey), name)) as queue:
        (await queue.enqueue()).release()
    return str(caught.value)


async def test_first_edition_is_recognised(valkey, name):
    """Its keys have no layout; the error names what to do, and nothing there is touched."""
    valkey.sync().hset(base(name), mapping=FIRST_EDITION)
    text = await refusal(valkey, name)
    assert "an earlier version of aioapiqueue (layout 1; this version has layout 10)" in text
    assert (
        "Use one version in all processes. If no other process uses this name any more, wait"
        in text
    )


@pytest.mark.parametrize("layout", [2, 3, 4, 5, 6, 7, 8, 9])
async def test_versions_before_are_recognised(valkey, name, layout):
    """Each lacks something that is kept now.

    Layout 2 ranks no reservations, 3 does not report calls in flight, 4 undoes upward settlements,
    5 keeps the limits and pauses that were heard last, not those that were decided last, 6 confuses
    the states of limits of one kind that come in another order, 7 does not count the calls between
    two slow-downs, 8 lets the keys of a budget expire, 9 adds up no reservations.
    """
    decided = {
        "rev": "1700000000000000",
        "conf": '[["null", [["rate", 5, 1, 1]]]]',
        "paused": "inf",
    }
    valkey.sync().hset(base(name), mapping=FIRST_EDITION | decided | {"layout": str(layout)})
    text = await refusal(valkey, name)
    assert (
        f"an earlier version of aioapiqueue (layout {layout}; this version has layout 10)" in text
    )


async def test_a_later_version_is_recognised(valkey, name):
    """As the later one sees this."""
    valkey.sync().hset(base(name), mapping=FIRST_EDITION | {"layout": "11"})
    text = await refusal(valkey, name)
    assert "a later version of aioapiqueue (layout 11; this version has layout 10)" in text


async def test_first_edition_refuses_ours(valkey, name):
    """It reads a clock where we write a text, and quotes that: it cannot go on either."""
    async with ApiQueue("10/s", schedule=SharedSchedule(VirtualClient(valkey), name)) as queue:
        (await queue.enqueue()).release()
        seen = valkey.sync().hget(base(name), "seen")
    assert seen == b"another version of aioapiqueue"
    script, _ = introspect.redis_script()
    assert "local LAYOUT = 10" in script
