"""Real processes share a quota in real time; the slow ones measure what the issue asks for."""

import json
import signal
import time
from collections import Counter

import pytest

from tests.helpers.servers import until
from tests.helpers.worker import RELEASED, START
from tests.helpers.workers import Workers, fullest, most_at_once

pytestmark = pytest.mark.real

CATCH_UP = 0.010  # seconds, the default
AHEAD = 0.2
_PLACES_POLL = 0.2  # a process looks that often for places, and a bit


def shares(workers, begin=0.0, end=float("inf")):
    """Return how many calls of each process were released from `begin` until before `end`."""
    chosen = [one for one in workers.arrivals if one.what == RELEASED and begin <= one.at < end]
    return Counter(one.worker for one in chosen)


def of_those(workers, *numbers):
    """Return what has arrived from some of the processes."""
    return [one for one in workers.arrivals if one.worker in numbers]


def between(instants, begin, end):
    """Return how many of these there are from `begin` until before `end`."""
    return sum(begin <= instant < end for instant in instants)


def in_good_order(figures):
    """Tell whether all went on to the end, and none of their callers had an error."""
    return all(one["errors"] == [] and one["fault"] == "" for one in figures)


def test_processes_keep_the_limit_together(valkey, name):
    """Processes never have more than the limit together.

    However they are scheduled, and if half of them are killed: no call is early, or too many.
    """
    rate, patient = 1000, {"timeout": 30}  # a machine that stands still is no fault
    with Workers(4, valkey.url, name, f"{rate}/s", schedule=patient) as workers:
        begun = workers.begin()
        until(lambda: workers.count(RELEASED) >= rate / 4, "too few calls")
        until(lambda: set(shares(workers)) == set(range(4)), "somebody has nothing")
        killed = workers.kill([0, 1])
        so_far = workers.count(RELEASED)
        until(lambda: workers.count(RELEASED) >= so_far + rate / 4, "too few calls")
        figures = workers.end()
    assert len(figures) == 2
    assert in_good_order(figures)
    assert {one["faults"] for one in figures} == {0}
    assert sum(one["asks"] for one in figures) < sum(one["released"] for one in figures) / 2
    for number, instant in enumerate(workers.instants(), start=1):
        assert number <= 1 + (instant - begun + CATCH_UP) * rate
    assert shares(workers, killed).keys() & {2, 3}


def test_processes_keep_several_limits(valkey, name):
    """Four processes whose calls come under two lanes and count tokens keep each limit together.

    The lanes let 200 and 300 per second through, the tokens 250.
    """
    patient = {"timeout": 30}  # as above
    options = {"lanes": {"a": "200/s", "b": "300/s"}}
    slot = {"keys": ["a", "b"], "cost": {"tokens": 10}}
    limits = "1000/s", "2500 tokens/s burst 10"
    with Workers(
        4, valkey.url, name, *limits, callers=20, queue=options, schedule=patient, slot=slot
    ) as workers:
        begun = workers.begin()
        until(lambda: workers.count(RELEASED) >= 80, "too few calls")
        until(lambda: set(shares(workers)) == set(range(4)), "somebody has nothing")
        figures = workers.end()
    assert in_good_order(figures)
    assert {one["faults"] for one in figures} == {0}
    for number, instant in enumerate(workers.instants(), start=1):
        assert number <= 1 + (instant - begun + CATCH_UP) * 200


@pytest.mark.slow
def test_eight_processes_use_a_high_rate(valkey, name):
    """Eight processes use a high rate to the full.

    1,000 per second for 30 s: all of it, no more in any second, to each its eighth.
    """
    rate, seconds = 1000, 30
    with Workers(8, valkey.url, name, f"{rate}/s") as workers:
        workers.begin()
        until(lambda: workers.count(RELEASED), "nobody begins")
        time.sleep(seconds + 0.5)
        figures = workers.end()
    assert in_good_order(figures)
    instants = workers.instants()
    first, last = instants[0], instants[0] + seconds
    total = between(instants, first, last)
    assert 0.99 * rate * seconds <= total <= 1 + rate * (seconds + CATCH_UP)
    assert fullest(instants, 1.0) <= 1 + rate + 0.01 * rate
    each = shares(workers, first, last)
    assert all(abs(8 * each[number] / total - 1) < 0.2 for number in range(8)), each
    assert sum(one["asks"] for one in figures) < 0.1 * sum(one["released"] for one in figures)


@pytest.mark.slow
def test_eight_processes_use_a_low_rate(valkey, name):
    """Eight processes use a low rate to the full.

    10 per second for 30 s, give or take one call.
    """
    rate, seconds = 10, 30
    with Workers(8, valkey.url, name, f"{rate}/s") as workers:
        workers.begin()
        until(lambda: workers.count(RELEASED), "nobody begins")
        time.sleep(seconds + 0.5)
        figures = workers.end()
    assert in_good_order(figures)
    instants = workers.instants()
    first, last = instants[0], instants[0] + seconds
    assert abs(between(instants, first, last) - rate * seconds) <= 1
    assert fullest(instants, 1.0) <= rate + 1
    each = shares(workers, first, last)
    assert all(
        abs(each[number] - rate * seconds / 8) <= 0.2 * rate * seconds / 8 for number in each
    )


@pytest.mark.slow
def test_survivors_get_the_rate_soon(valkey, name):
    """Those that live have the whole rate within a second.

    Four of eight are killed.
    """
    rate = 1000
    with Workers(8, valkey.url, name, f"{rate}/s") as workers:
        workers.begin()
        time.sleep(4)
        killed = workers.kill(range(4))
        time.sleep(5)
        assert in_good_order(workers.end())
    instants = workers.instants()
    assert between(instants, killed - 2, killed) >= 0.99 * 2 * rate
    for second in range(1, 4):
        assert between(instants, killed + second, killed + second + 1) >= 0.98 * rate
    assert fullest(instants, 1.0) <= 1 + rate + 0.01 * rate
    each = shares(workers, killed + 1, killed + 4)
    assert all(abs(each[number] / (3 * rate / 4) - 1) < 0.2 for number in range(4, 8)), each


@pytest.mark.slow
def test_survivors_get_permits_within_the_lease(valkey, name):
    """Those that live have all permits within the lease.

    Four of eight are killed, with bodies of theirs running.
    """
    places, lease = 16, 2.0
    options = {"queue": {"concurrency": places}, "schedule": {"lease": lease}, "body": 0.05}
    with Workers(8, valkey.url, name, callers=20, **options) as workers:
        workers.begin()
        time.sleep(3)
        killed = workers.kill(range(4))
        time.sleep(lease + 3)
        assert in_good_order(workers.end())
    alive = of_those(workers, 4, 5, 6, 7)
    assert most_at_once([one for one in workers.arrivals if one.at < killed]) == places
    assert most_at_once(alive) == places
    starts = [one.at for one in alive if one.what == START]
    all_starts = workers.instants(START)
    after = killed + lease + _PLACES_POLL
    assert between(starts, after, after + 2) >= 0.9 * between(all_starts, killed - 2, killed)


@pytest.mark.slow
def test_repeated_data_loss_harms_nobody(server, name):
    """A server that loses everything again and again harms nobody.

    Five times: nobody crashes or hangs, and each outage costs no more than is written.
    """
    rate = 500
    outages = []
    with Workers(8, server.url, name, f"{rate}/s") as workers:
        workers.begin()
        for _ in range(5):
            time.sleep(2.5)
            server.kill()
            killed = time.monotonic()
            time.sleep(0.7)
            started = time.monotonic()
            server.start()
            outages.append((killed, started))
        time.sleep(4)
        figures = workers.end()
    assert in_good_order(figures), json.dumps(figures)
    instants = workers.instants()
    for killed, started in outages:
        # what was at hand, if it is not too late for it
        assert between(instants, killed, started) <= (AHEAD + CATCH_UP) * rate
        limit = 1 + rate * (started + 2.5 - killed + 1 + CATCH_UP)
        assert between(instants, killed - 1, started + 2.5) <= limit + 1 + AHEAD * rate
    assert all(one["faults"] >= 5 for one in figures)
    assert [one["events"] for one in figures] == [["disconnected", "reconnected"] * 5] * 8
    last = outages[-1][1]
    assert between(instants, last + 2.5, last + 3.5) >= 0.98 * rate
    assert set(shares(workers, last + 2.5)) == set(range(8))


@pytest.mark.slow
def test_stopped_process_makes_up_for_nothing(valkey, name):
    """A process that was stopped for a while makes up for nothing.

    Its leases are too old by then.
    """
    rate = 1000
    with Workers(4, valkey.url, name, f"{rate}/s") as workers:
        workers.begin()
        for _ in range(5):
            time.sleep(1.5)
            workers.processes[0].send_signal(signal.SIGSTOP)
            time.sleep(0.15)
            workers.processes[0].send_signal(signal.SIGCONT)
        time.sleep(1.5)
        assert in_good_order(workers.end())
    # Half of what it has leased would be 25 calls.
    assert fullest(workers.instants(), 1.0) <= 1 + rate + 0.02 * rate
