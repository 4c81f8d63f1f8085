"""A hundred processes on virtual time: slow and lossy connections, clocks that are far apart.

The script runs on a real Valkey. Each way takes 1 to 50 ms, so a round trip up to 100; 1 % of the
requests and 1 % of the replies are lost, half of them noticed only by the time-out of a second.
"""

from __future__ import annotations

from functools import partial

import pytest

from aioapiqueue import Window
from benchmarks._simulated_fleet import Fleet, most_in, watch
from tests.helpers.virtual_client import VirtualClient

CATCH_UP = 0.010  # of the queues: their default
BURST = 1
SLOWEST = 0.050
WINDOWS = [0.1, 0.5, 1.0, 2.0]


def within(instants, rate, allowance):
    """Say whether every window has at most `burst + (its length + allowance) x rate` of these."""
    return all(
        most_in(instants, window) <= BURST + (window + allowance) * rate + 1e-6
        for window in WINDOWS
    )


def holds(fleet, seen):
    """Check what is promised of any fleet, however it is connected."""
    late = seen.late
    # No call starts before its instant (a whole microsecond), and none much later: the server's
    # clock is read late by what the quickest round trip leaves open, and catch_up is what is left.
    assert min(late) > -1e-6
    assert max(late) < SLOWEST + CATCH_UP
    assert within(seen.instants, fleet.rate, CATCH_UP)
    assert within(seen.starts, fleet.rate, CATCH_UP + max(late) - min(late))


@pytest.mark.parametrize("processes", [40, pytest.param(100, marks=pytest.mark.slow)])
async def test_many_processes_keep_the_limit(valkey, name, processes):
    """The limit holds for up to a hundred processes.

    10 per second for each, on clocks 30 s apart: the limit holds, and nearly all of it is used.
    """
    fleet = Fleet(10 * processes, processes=processes, seconds=3, settle=2)
    seen = await watch(fleet, partial(VirtualClient, valkey), name)
    holds(fleet, seen)
    assert seen.faults > 0
    # Of the slots, 1 % are in replies that are lost. (Seconds are few: three deviations more.)
    assert len(seen.starts) >= 0.98 * fleet.rate * fleet.seconds
    assert min(seen.each) > 0


async def test_each_process_has_its_share(valkey, name):
    """Without losses, the rate is used up, and each of 10 is within 20 % of its tenth."""
    fleet = Fleet(1000, processes=10, seconds=5, settle=1, loss=0)
    seen = await watch(fleet, partial(VirtualClient, valkey), name)
    holds(fleet, seen)
    assert seen.faults == 0
    assert len(seen.starts) >= 0.99 * fleet.rate * fleet.seconds
    fair = len(seen.starts) / fleet.processes
    assert 0.8 * fair < min(seen.each)
    assert max(seen.each) < 1.2 * fair


async def test_late_first_slots_starve_nobody(valkey, name):
    """Nobody is starved whose first slots all came too late.

    Many a batch at once, in answers of 1 to 50 ms: each goes on with about its share.
    """
    fleet = Fleet(10_000, processes=10, seconds=0.5, settle=0.5, loss=0)
    seen = await watch(fleet, partial(VirtualClient, valkey), name)
    assert min(seen.each) > 0.6 * len(seen.starts) / fleet.processes


async def test_drifting_clocks_are_hardly_early(valkey, name):
    """Clocks of another pace make calls early by a request's way at most.

    At 100 ppm, 6 ms a minute: the limit holds, each call within 2 ms of its slot or later.
    """
    slowest = 0.002
    fleet = Fleet(50, processes=5, seconds=40, latency=(0.0002, slowest), loss=0, drift=1e-4)
    seen = await watch(fleet, partial(VirtualClient, valkey), name)
    late = seen.late
    assert -slowest < min(late) < -1e-6
    assert max(late) < CATCH_UP
    assert within(seen.instants, fleet.rate, CATCH_UP)
    assert within(seen.starts, fleet.rate, CATCH_UP + max(late) - min(late))
    assert len(seen.starts) >= 0.99 * fleet.rate * fleet.seconds


async def test_window_holds_for_an_observer(valkey, name):
    """A window holds for an observer of the calls.

    It is exact, although calls start later than their slots, some more and some less.
    """
    fleet = Fleet(100, seconds=2, settle=1, limits=(Window(100, 1.0),))
    seen = await watch(fleet, partial(VirtualClient, valkey), name)
    assert max(seen.late) - min(seen.late) > 0.005
    assert most_in(seen.starts, 1.0) <= 100
    assert len(seen.starts) >= 0.95 * fleet.rate * fleet.seconds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "seconds"), [(10, 60), (100, 30), (1000, 30), (10_000, 10), (100_000, 3)]
)
async def test_the_limit_holds_at_every_rate(valkey, name, rate, seconds):
    """The same at other rates, and longer."""
    fleet = Fleet(rate, seconds=seconds)
    seen = await watch(fleet, partial(VirtualClient, valkey), name)
    holds(fleet, seen)
    assert len(seen.starts) >= 0.985 * rate * seconds - 1
