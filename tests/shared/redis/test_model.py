"""The stateful model of the local queue, beside a queue whose limits are kept on a real server."""

from __future__ import annotations

import math

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from aioapiqueue import ApiQueue, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.naive_model import Model
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient
from tests.properties.test_model import QueueMachine


def kinds(limits):
    """Return how many rates, and the lengths of the windows."""
    return sorted(limit.per if isinstance(limit, Window) else 0 for limit in limits)


class PatientModel(Model):
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

    A slot that is taken ahead is charged when it is taken, for a call of that cost; the model
    charges it when it is due. So there all costs are 1, and nobody leaves as its slot comes.
    """

    def shared_queue(*limits, **options):
        schedule = SharedSchedule(VirtualClient(server), fresh_name(), ahead=ahead)
        return ApiQueue(*limits, schedule=schedule, **options)

    class SharedMachine(QueueMachine):
        queue_class = staticmethod(shared_queue)
        fault = staticmethod(introspect.let_all_wait)  # as PatientModel has it
        model_class = PatientModel
        rounding = 2e-6  # the server counts whole microseconds
        cancels_at_grants = not ahead

        def fitting(self, key, cost):
            return (key, 1) if lanes else (None, 1 if ahead else cost)

        def fitting_limits(self, limits, key):
            """Keep the kinds: the server does not forget at once a kind that is gone."""
            lanes = introspect.lane_limits_of(self.queue)
            before = self.queue.limits if key is None else lanes.get(key)
            return limits if before is None or kinds(limits) == kinds(before) else list(before)

        def timers(self):
            """Do not count the one by which places that are taken are kept."""
            return self.loop.pending_timers - len(introspect.own_timers_of(self.queue))

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
    run(each_server, lanes=lanes, ahead=ahead, examples=15, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [False, True])
def test_the_model_agrees_at_length(each_server, lanes):
    """The same for longer."""
    run(each_server, lanes=lanes, ahead=0, examples=1000, derandomize=False)
