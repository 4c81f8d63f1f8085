"""The stateful model of the local queue, beside a queue whose limits are kept on a real server."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from aioapiqueue import Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient


def local_model():
    """Return the module of the same name, which tests the local queue."""
    path = Path(__file__).parents[1] / "properties" / "test_model.py"
    spec = importlib.util.spec_from_file_location("local_model", path)
    module = sys.modules["local_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


local = local_model()


def kinds(limits):
    """Return how many rates, and the lengths of the windows."""
    return sorted(limit.per if isinstance(limit, Window) else 0 for limit in limits)


class PatientModel(local.Model):
    """Nobody gives up before its time is over: only the server knows that it would be in vain."""

    def submit(self, call, now):
        """Let it wait, however long that will be."""
        gives_up_at, call.gives_up_at = call.gives_up_at, math.inf
        super().submit(call, now)
        call.gives_up_at = gives_up_at

    def stall(self, since, now):  # noqa: ARG002 - as the model has it
        """After a stall the timers ring before there is any answer."""
        self.waiting = [call for call in self.waiting if call.gives_up_at > now]
        self.run(now, now)


def machine(server, *, lanes, ahead):
    """Return the machine whose queue shares a quota of its own on this server.

    Calls of several costs are of no lane (`lanes=False`), or those of all lanes cost 1: a costly
    call whose lane is not due yet is not overtaken by a cheap one, as it is in a local queue.
    """

    class SharedQueue(local.Queue):
        def __init__(self, *limits, **options):
            schedule = SharedSchedule(VirtualClient(server), fresh_name(), ahead=ahead)
            super().__init__(*limits, schedule=schedule, **options)

        def _join(self, slot, future):
            # As the model has it: nobody gives up at once because of a hold, which may be known.
            held = self._schedule.held
            self._schedule.hold(-math.inf)
            super()._join(slot, future)
            self._schedule.hold(held)

    class SharedMachine(local.QueueMachine):
        queue_class = SharedQueue
        model_class = PatientModel
        rounding = 2e-6  # the server counts whole microseconds

        def fitting(self, key, cost):
            return (key, 1) if lanes else (None, cost)

        def fitting_limits(self, limits, key):
            """Keep the kinds: the server does not forget at once a kind that is gone."""
            before = self.queue.limits if key is None else self.queue._lanes.limits.get(key)
            return limits if before is None or kinds(limits) == kinds(before) else list(before)

        def timers(self):
            """Do not count the one by which places that are taken are kept."""
            return self.loop.pending_timers - len(self.queue._shared._timers)

    return SharedMachine


def run(server, *, lanes, ahead, examples, derandomize):
    """Put them through so many histories."""
    run_state_machine_as_test(
        machine(server, lanes=lanes, ahead=ahead),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            database=None,
            derandomize=derandomize,
            report_multiple_bugs=False,
            phases=[Phase.generate],  # to shrink takes minutes
        ),
    )


@pytest.mark.parametrize("ahead", [0, 0.2])
@pytest.mark.parametrize("lanes", [False, True])
def test_the_model_agrees(each_server, lanes, ahead):
    """The same callers at the same instants, whatever happens, also if slots are taken ahead."""
    run(each_server, lanes=lanes, ahead=ahead, examples=25, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [False, True])
def test_the_model_agrees_at_length(each_server, lanes):
    """The same for longer."""
    run(each_server, lanes=lanes, ahead=0, examples=1000, derandomize=False)
