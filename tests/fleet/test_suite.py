"""The tests of the local queue, of queues whose limits are kept on a real server instead.

They are the same functions, with their virtual time and their figures, with three differences:

- Instants are compared to two microseconds: the server counts whole ones.
- What the local queue knows at once, this one knows when the server has answered. So whoever says
  something to the queue (`throttled`, `settle`, ...) goes on when it has been heard, in which no
  time passes.
- `try_slot` never gives a slot here, so those who want one at once await `enqueue`.
"""

from __future__ import annotations

import ast
import asyncio
import itertools
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
from _pytest.assertion.rewrite import rewrite_asserts
from hypothesis import assume, given, is_hypothesis_test, settings
from hypothesis import strategies as st
from servers import fresh_name
from test_promises import ARRIVALS, CATCH_UP, RATES, STALLS, Recording, releases
from virtual_client import VirtualClient

from aioapiqueue import ApiQueue, Window
from aioapiqueue.integrations.redis import SharedSchedule

ROUNDING = 2e-6

MODULES = (
    "test_adaptive",
    "test_cancellation",
    "test_decorator",
    "test_events",
    "test_lane_patterns",
    "test_lanes",
    "test_live_control",
    "test_map",
    "test_promises",
    "test_queue",
    "test_slot",
    "test_waiting",
)

_LAST = "`estimate` and `stats.rate` are of the last answer to a request for slots"
_FIRST = "who comes in one pass of the loop is sorted before anybody has had an answer"
_MANY = "tens of thousands of calls, each asked for: minutes"

EXCLUDED = {
    # adaptive
    "test_hold_alone_slows_nothing_down": _LAST,
    "test_after_an_hour_without_a_call_it_starts_anew": _LAST,
    "test_push_back_slows_down_the_lane_that_was_pushed_back": _LAST,
    "test_promise_8_push_back_is_heard_once": _LAST,
    "test_a_controller_that_fails_costs_no_slot": "a curve of one's own is refused (TypeError)",
    # estimates
    "test_an_estimate_is_what_the_newcomer_then_waits": _LAST,
    "test_estimate_and_try_slot_know_the_lane": _LAST,
    "test_a_held_lane_is_not_forgotten": _LAST,
    "test_a_lane_that_is_not_fresh_yet_is_not_forgotten": "the server keeps the lanes' state",
    "test_a_slot_tells_of_push_back_under_its_key": _LAST,
    "test_settling_reaches_lane_and_window": _LAST,
    # to the float; as below
    "test_promise_1_the_limit_holds": "its bound is in calls, not in seconds",
    "test_promise_1_a_window_holds": "its bound is a float",
    # at once
    "test_a_timeout_is_at_once_where_even_the_next_slot_is_too_late": "only the server knows",
    "test_try_slot_says_when_to_come_again": "`try_slot` never gives a slot",
    "test_a_lower_priority_goes_first_also_if_it_comes_later": _FIRST,
    "test_priority_and_timeout": _FIRST,
    "test_priority_reaches_across_lanes_and_within_one": _FIRST,
    "test_a_slot_handed_on_is_heard_of_as_released_then_cancelled": "withdrawn before the answer",
    "test_cancelled_while_aclose_drains": "`aclose` tells the server before it ends",
    "test_the_figures_add_up": "its `stats` count the requests, too",
    # size
    "test_fair_gives_each_of_1000_keys_its_turn_beside_a_flood": _MANY,
    "test_a_stall_with_10000_waiters_makes_no_burst": _MANY,
    "test_the_nth_release_is_at_n_intervals_without_drift": _MANY,  # 1,000 in test_script.py
    "test_results_that_were_fetched_are_not_kept": _MANY,
    "test_lanes_used_once_are_forgotten": _MANY,
}
SLOW = {
    "test_it_settles_beside_a_bystander_who_leaves_and_comes_back",
    "test_without_it_the_bystander_starves",
}
NOT_AHEAD = {  # what was leased before a change of limits is used, or lost
    "test_set_rate_to_a_slower_one_counts_the_debt_in_calls",
    "test_a_new_lane_for_those_who_wait_already",
}
"""These hold to the instant only without slots taken ahead of their time."""

SAYS = {"throttled", "settle", "set_rate", "pause", "resume", "enqueue", "try_slot"}


class Rounding(ast.NodeTransformer):
    """Compare instants to whole microseconds."""

    def visit_Constant(self, node):
        """Replace the nanosecond."""
        return ast.Constant(ROUNDING) if node.value == 1e-9 else node


class Shared(ast.NodeTransformer):
    """Let coroutines await what a queue of its own would know at once."""

    def visit_FunctionDef(self, node):
        """Leave alone what cannot await."""
        return node

    visit_Lambda = visit_FunctionDef  # noqa: N815 - as ast wants it

    def visit_AsyncFunctionDef(self, node):
        """Change the body of a coroutine function."""
        node.body = self.heard(node.body)
        return node

    def visit_Call(self, node):
        """Await a slot."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "try_slot":
            node.func.attr = "enqueue"
            return ast.Await(node)
        return node

    def heard(self, statements):
        """Let the server answer after each statement that says something to the queue."""
        found = []
        for statement in statements:
            defines = isinstance(statement, ast.AsyncFunctionDef | ast.FunctionDef | ast.ClassDef)
            says = not defines and any(
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr in SAYS
                for call in ast.walk(statement)
            )
            for field in () if defines else ("body", "orelse", "finalbody"):
                if inner := getattr(statement, field, None):
                    setattr(statement, field, self.heard(inner))
            found.append(self.visit(statement))
            if says:
                found += ast.parse("await _heard()").body
        return found


async def heard():
    """Let the queue and the server talk."""
    for _ in range(20):
        await asyncio.sleep(0)


def exactly(expected):
    """Compare instants to the microsecond."""
    return pytest.approx(expected, abs=ROUNDING)


def load(name):
    """Return the module `name`, as shared queues need it."""
    path = find_spec(name).origin
    source = Path(path).read_bytes()
    tree = Shared().visit(Rounding().visit(ast.parse(source)))
    ast.fix_missing_locations(tree)
    rewrite_asserts(tree, source, path)
    module = types.ModuleType(f"shared_{name}")
    module.__file__ = path
    exec(compile(tree, path, "exec", dont_inherit=True), vars(module))  # noqa: S102 - our own tests
    module._heard = heard
    if hasattr(module, "exactly"):
        module.exactly = exactly
    return module


def pytest_generate_tests(metafunc):
    """Run each test without slots taken ahead, and with those that are taken by default."""
    ahead = [0.0] if metafunc.function.__name__ in NOT_AHEAD else [0.0, 0.2]
    servers = ["valkey", pytest.param("debian_redis", marks=pytest.mark.slow)]
    metafunc.parametrize("ahead", ahead)
    metafunc.parametrize("server_name", servers)


_FOUND = [
    (key, value)
    for name in MODULES
    for key, value in vars(load(name)).items()
    if key.startswith("test_")
]
assert len(dict(_FOUND)) == len(_FOUND), "two tests have the same name"
assert set(dict(_FOUND)) >= EXCLUDED.keys() | SLOW | NOT_AHEAD, "a test has another name now"
for _key, _value in _FOUND:
    if _key not in EXCLUDED:
        if is_hypothesis_test(_value):
            settings(max_examples=25)(_value)
        globals()[_key] = pytest.mark.slow(_value) if _key in SLOW else _value


@pytest.fixture(autouse=True)
def shared(request, monkeypatch, ahead, server_name):
    """Let every `ApiQueue` of the test share a quota, of its own."""
    init, server = ApiQueue.__init__, request.getfixturevalue(server_name)

    def shared_init(self, *limits, **options):
        schedule = SharedSchedule(VirtualClient(server), fresh_name(), ahead=ahead)
        init(self, *limits, **{"schedule": schedule, **options})

    monkeypatch.setattr(ApiQueue, "__init__", shared_init)


@settings(max_examples=25)
@given(RATES, CATCH_UP, ARRIVALS, STALLS, st.sampled_from([0, 0.001, 0.016]))
def test_the_limit_holds(run_virtual, rate, catch_up, arrivals, stalls, grain):  # noqa: PLR0917 - drawn
    """Promise 1: in any window, at most burst + (W + catch_up) / interval calls are released."""
    assume(grain <= catch_up)  # a loop that is always later than that loses what it is granted

    async def scenario():
        queue = Recording(rate, catch_up=catch_up)
        return [at for at, _ in await releases(queue, arrivals, stalls)]

    times = run_virtual(scenario, grain=grain)
    assert len(times) == len(arrivals)
    for first, last in itertools.combinations(range(len(times)), 2):
        window = times[last] - times[first] + ROUNDING
        allowed = rate.burst + (window + catch_up) / rate.interval
        assert last - first + 1 <= allowed + 1e-6


@settings(max_examples=25)
@given(st.integers(1, 5), st.sampled_from([0.5, 1.0, 3.0]), ARRIVALS, STALLS)
def test_a_window_holds(run_virtual, calls, per, arrivals, stalls):
    """Promise 1: a window never lets more than its calls start in any stretch of its length."""

    async def scenario():
        return [at for at, _ in await releases(Recording(Window(calls, per)), arrivals, stalls)]

    times = run_virtual(scenario)
    assert len(times) == len(arrivals)
    for earlier, later in zip(times, times[calls:], strict=False):
        assert later - earlier >= per - ROUNDING
