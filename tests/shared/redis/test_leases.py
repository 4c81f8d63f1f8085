"""Another clock read on one's own, and who would be next."""

from __future__ import annotations

import random

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.virtual_client import VirtualClient

TRUE_OFFSET = -1_000.0  # the queue's clock less the authority's, in seconds


def ask(clock, at, *, there, back, offset=TRUE_OFFSET):
    """Make a round trip that reaches the authority at its second `at`."""
    clock.update(at + offset - there, at + offset + back, round(at * 1e6))


def test_timestamps_are_never_read_too_early():
    """An instant is never read too early and in the end as late as the quickest answer.

    Over 100 s of answers of 1 to 50 ms each way; never later than it is in doubt of.
    """
    clock, dice, before = introspect.clock_of_server(), random.Random(7), 1.0
    for n in range(1, 10_001):
        ask(clock, n / 100, there=dice.uniform(0.001, 0.050), back=dice.uniform(0.001, 0.050))
        late = clock.to_local(20_000_000) - (20 + TRUE_OFFSET)
        assert -1e-6 < late <= clock.uncertainty + 1e-6
        if n > 2:  # calls that follow upon each other are not pushed together
            assert late > before - 0.01 * (0.01 + 0.049) - 1e-6
        before = late
    assert late < 0.002


def test_uncertainty_is_at_most_quickest_rtt():
    """The doubt is no more than the quickest round trip.

    One answer after 3 + 4 ms: the truth lies within 7 ms.
    """
    clock = introspect.clock_of_server()
    ask(clock, 5, there=0.003, back=0.004)
    assert clock.uncertainty == pytest.approx(0.007, abs=1e-6)
    assert clock.rtt == pytest.approx(0.007, abs=1e-6)


def test_old_replies_are_forgotten():
    """What was learnt is forgotten within a minute and a half.

    Their clock goes 0.1 % slowly: the oldest answers would be read earlier and earlier.
    """
    clock = introspect.clock_of_server()
    for n in range(1, 3000):
        now = n / 10  # on the queue's clock
        clock.update(now - 0.005, now + 0.005, round(now * 0.999 * 1e6))
    assert clock.to_local(round(299.9 * 0.999 * 1e6)) >= 299.9 - 0.005


@pytest.mark.parametrize("step", [30.0, -30.0])
def test_changed_clock_is_adopted_at_once(step):
    """A clock that was set is believed at once.

    The first answer after it says so: what was known before contradicts it.
    """
    clock = introspect.clock_of_server()
    for n in range(1, 50):
        ask(clock, n / 10, there=0.001, back=0.002)
    ask(clock, 6 + step, there=0.001, back=0.002, offset=TRUE_OFFSET - step)
    late = clock.to_local(round((7 + step) * 1e6)) - (7 + TRUE_OFFSET)
    assert late == pytest.approx(0.002, abs=1e-6)


def test_jitter_covers_the_slowest_recent_reply():
    """The lead covers the slowest answer of late.

    How much later than the quickest an answer may be; it fades when there is no need.
    """
    clock = introspect.clock_of_server()
    ask(clock, 1, there=0, back=0.001)
    ask(clock, 2, there=0, back=0.041)
    assert clock.jitter == pytest.approx(0.040, abs=1e-6)
    for n in range(3, 60):
        ask(clock, n, there=0, back=0.001)
    assert clock.jitter < 0.001


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("fifo", ["b-1", "a0", "a0", "c0", "b0", "a1"]),
        ("fair", ["b-1", "a0", "c0", "a0", "b0", "a1"]),
    ],
)
async def test_iteration_is_in_release_order(valkey, name, order, expected):
    """Upcoming names who is next in the order in which they are released.

    By priority, then by arrival or in turns; and asking changes nothing.
    """
    schedule = SharedSchedule(VirtualClient(valkey), name)
    queue = ApiQueue("10/s", order=order, lanes={"a": ()}, schedule=schedule)
    queue.pause()
    released = []

    calls = [("a", 0), ("a", 0), ("c", 0), ("b", 0), ("a", 1), ("b", -1)]
    waiting = [queue.enqueue(key=key, priority=priority) for key, priority in calls]
    scopes, lines = introspect.waiting_scopes_of(queue), introspect.waiters_of(queue).lines
    named = [f"{slot.key}{slot.priority}" for *_, slot in scopes.iter_in_order({*lines.values()})]
    assert named == expected
    queue.resume()
    for future in waiting:
        future.add_done_callback(
            lambda done: released.append(f"{done.result().key}{done.result().priority}")
        )
    await queue.aclose()
    assert released == expected


async def test_iteration_leaves_out_other_keys(valkey, name):
    """Upcoming leaves out lines that are not asked for.

    A lane that is known to be due later is not looked at.
    """
    schedule = SharedSchedule(VirtualClient(valkey), name)
    queue = ApiQueue("10/s", lanes={"a": "1/s"}, schedule=schedule)
    queue.pause()
    waiting = [queue.enqueue(key=key) for key in "abab"]
    scopes, lines = introspect.waiting_scopes_of(queue), introspect.waiters_of(queue).lines
    others = {line for line in lines.values() if line.limits.lanes != ("a",)}
    assert [slot.key for *_, slot in scopes.iter_in_order(others)] == ["b", "b"]
    for future in waiting:
        future.cancel()
