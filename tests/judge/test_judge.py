"""Random histories of all options together, on each kind of limiter."""

from __future__ import annotations

import pytest

from aioapiqueue import ApiQueue
from tests.helpers import introspect
from tests.helpers.limiters import OnHost, Shared
from tests.judge.plan import draw
from tests.judge.trial import PATIENCE, play, reduced

SIZE = 20
SHARED_PATIENCE = 0.1
"""Seconds in which a hub or a server is asked, and answers."""
NOT_ON_A_SERVER = frozenset({"calendar", "permits"})


def judge(seeds, *, make=lambda: ApiQueue, patience=PATIENCE, without=frozenset()):
    """Play the histories of some seeds; reduce and show the first that is wrong."""

    def play_it(plan):
        return play(plan, make=make(), patience=patience)

    for seed in seeds:
        plan = draw(seed, SIZE, without=without)
        if play_it(plan):
            plan = reduced(plan, play_it)
            faults = "\n".join(play_it(plan) or ["nothing, at the second time"])
            events = "\n".join(map(str, plan.events))
            pytest.fail(f"seed {seed}: {faults}\n{plan}\n{events}")


@pytest.mark.parametrize("part", range(3))
def test_local_histories(part):
    """A hundred each."""
    judge(range(100 * part, 100 * part + 100))


@pytest.mark.parametrize("part", range(2))
def test_histories_on_the_host(part):
    """What calls of one process do at a hub."""
    seeds = range(25 * part, 25 * part + 25)
    judge(seeds, make=lambda: OnHost(examples=1).quota(), patience=SHARED_PATIENCE)


@pytest.mark.parametrize("part", range(2))
def test_histories_on_a_server(valkey, part):
    """The same on a server, which has no calendars, and permits of the whole queue only."""
    judge(
        range(25 * part, 25 * part + 25),
        make=lambda: Shared(valkey, ahead=0, examples=1).quota(),
        patience=SHARED_PATIENCE,
        without=NOT_ON_A_SERVER,
    )


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_many_local_histories(part):
    """Twenty thousand in all."""
    judge(range(1000 * part, 1000 * part + 1000))


@pytest.mark.slow
def test_many_histories_on_the_host():
    """Five hundred."""
    judge(range(500), make=lambda: OnHost(examples=1).quota(), patience=SHARED_PATIENCE)


@pytest.mark.slow
def test_many_histories_on_a_server(valkey):
    """Five hundred."""
    judge(
        range(500),
        make=lambda: Shared(valkey, ahead=0, examples=1).quota(),
        patience=SHARED_PATIENCE,
        without=NOT_ON_A_SERVER,
    )


@pytest.mark.parametrize("fault", introspect.JUDGED_FAULTS)
def test_planted_faults_are_found(monkeypatch, fault):
    """Each in one of the first histories; without it, there is nothing wrong with that."""
    with monkeypatch.context() as patch:
        introspect.plant(patch, fault)
        wrong = next((seed for seed in range(400) if play(draw(seed, SIZE))), None)
    assert wrong is not None
    judge([wrong])
