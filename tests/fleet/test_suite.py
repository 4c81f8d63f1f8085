"""The tests of the local queue, of queues whose limits are kept on a real server instead.

They are the same functions, with their virtual time and their figures, with these differences:

- Instants are compared to two microseconds: the server counts whole ones.
- What the local queue knows at once, this one knows when the server has answered. So whoever says
  something to the queue (`throttled`, `settle`, ...) goes on when it has been heard, in which no
  time passes.
- `try_slot` never gives a slot here, so those who want one at once await `enqueue`.
- Some are changed in a word or a number, as `CHANGES` has it.

What cannot hold here is `EXCLUDED`; test_suite_other.py has what holds instead.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
from _pytest.assertion.rewrite import rewrite_asserts
from hypothesis import is_hypothesis_test, settings

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient

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
    "properties.test_promises",
    "test_queue",
    "test_slot",
    "test_waiting",
)

EXCLUDED = {
    "test_a_controller_that_fails_costs_no_slot": "a curve of one's own is refused",
    "test_a_timeout_is_at_once_where_even_the_next_slot_is_too_late": "only the server knows",
    "test_lanes_used_once_are_forgotten": "it looks at lanes all of which are in use at once",
    "test_promise_8_push_back_is_heard_once": "it looks into the local schedule",
    "test_settling_reaches_lane_and_window": "it estimates higher costs, of windows",
    "test_try_slot_says_when_to_come_again": "`try_slot` never gives a slot",
}
"""Of each, test_suite_other.py has its like; of lanes, test_many_lanes.py."""

_AFTER_FIRST = {"asyncio.gather(": "_after_first("}

CHANGES = {
    # Instants are whole microseconds.
    "test_promise_1_the_limit_holds": {
        "+ 1e-6": "+ 2e-3",  # calls, in two of them at 1000/s
        "grain=grain": "grain=min(grain, catch_up)",  # always later than that, a slot is lost
    },
    "test_promise_1_a_window_holds": {">= per": ">= per - 2e-6"},
    "test_an_estimate_is_what_the_newcomer_then_waits": {
        ", Window(4, 1), Window(7, 3)": "",  # of those, it is no more than an estimate
        "== exactly([estimate for estimate, _ in pairs])": "== pytest.approx("
        "[estimate for estimate, _ in pairs], abs=3e-6)",  # of three instants
    },
    # Who comes in one pass of the loop is sorted before anybody has had an answer.
    "test_a_lower_priority_goes_first_also_if_it_comes_later": {
        "group.create_task(call(name, priority))": "group.create_task(call(name, priority));"
        " await _heard()"
    },
    "test_priority_and_timeout": _AFTER_FIRST,
    "test_priority_reaches_across_lanes_and_within_one": _AFTER_FIRST,
    # What happens at once there is to be heard first.
    "test_a_slot_handed_on_is_heard_of_as_released_then_cancelled": {
        "queue.enqueue().cancel()": "first = queue.enqueue(); await _heard(); first.cancel()"
    },
    "test_cancelled_while_aclose_drains": {"closing.cancel()": "closing.cancel(); await _heard()"},
    "test_the_figures_add_up": {"before = queue.stats": "before = _without_asks(queue.stats)"},
    # Which lanes are kept is the server's to know.
    "test_a_lane_that_is_not_fresh_yet_is_not_forgotten": {
        'assert "a" in introspect.lanes_of(queue)': "pass"  # it goes on to see whether it is known
    },
    "test_after_an_hour_without_a_call_it_starts_anew": {
        "queue.stats.lanes == 3": '(await gaps(queue, 3, key="a"))[1] > 0.21',
        "queue.stats.lanes == 1": '(await gaps(queue, 3, key="a"))[1] == exactly(0.2)',
    },
    # Each call is asked for, so there are fewer.
    "test_fair_gives_each_of_1000_keys_its_turn_beside_a_flood": {
        "range(999)": "range(99)",
        "== 999": "== 99",
        "* 1000 /": "* 100 /",
    },
    "test_a_stall_with_10000_waiters_makes_no_burst": {"10_000": "1_000"},
    "test_the_nth_release_is_at_n_intervals_without_drift": {"10_000": "1_000"},
    "test_results_that_were_fetched_are_not_kept": {"20_000": "1_000", "% 1000": "% 100"},
}
SLOW = {
    "test_a_bystander_who_calls_in_step_does_not_bear_all_refusals",
    "test_it_settles_beside_a_bystander_who_leaves_and_comes_back",
    "test_without_it_the_bystander_starves",
}

SAYS = {"throttled", "hold", "settle", "set_rate", "pause", "resume", "enqueue", "try_slot"}


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


async def after_first(first, *others, **options):
    """Gather calls, the first of which has had its answer when the others come."""
    first = asyncio.ensure_future(first)
    await heard()
    return await asyncio.gather(first, *others, **options)


def without_asks(stats):
    """Leave out how often the server was asked."""
    return dataclasses.replace(stats, asks=0)


async def heard():
    """Let the queue and the server talk."""
    for _ in range(20):
        await asyncio.sleep(0)


def exactly(expected):
    """Compare instants to the microsecond."""
    return pytest.approx(expected, abs=ROUNDING)


def changed(source):
    """Make the `CHANGES` to a module's text."""
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        begin = min(one.lineno for one in (node, *getattr(node, "decorator_list", ()))) - 1
        for old, new in CHANGES.get(getattr(node, "name", ""), {}).items():
            text = "".join(lines[begin : node.end_lineno])
            assert old in text, f"{node.name} has no {old!r} any more"
            assert "\n" not in old + new, "the lines keep their numbers"
            lines[begin : node.end_lineno] = text.replace(old, new).splitlines(keepends=True)
    return "".join(lines)


def load(name):
    """Return the module `name`, as shared queues need it."""
    path = find_spec(f"tests.{name}").origin
    source = changed(Path(path).read_text("utf-8"))
    tree = Shared().visit(Rounding().visit(ast.parse(source)))
    ast.fix_missing_locations(tree)
    rewrite_asserts(tree, source.encode(), path)
    module = types.ModuleType(f"shared_{name}")
    module.__file__ = path
    exec(compile(tree, path, "exec", dont_inherit=True), vars(module))  # noqa: S102 - our own tests
    vars(module).update(_heard=heard, _after_first=after_first, _without_asks=without_asks)
    if hasattr(module, "exactly"):
        module.exactly = exactly
    return module


def pytest_generate_tests(metafunc):
    """Run each test without slots taken ahead, and with those that are taken by default."""
    servers = ["valkey", pytest.param("debian_redis", marks=pytest.mark.slow)]
    metafunc.parametrize("ahead", [0.0, 0.2])
    metafunc.parametrize("server_name", servers)


_FOUND = [
    (key, value)
    for name in MODULES
    for key, value in vars(load(name)).items()
    if key.startswith("test_")
]
assert len(dict(_FOUND)) == len(_FOUND), "two tests have the same name"
_NAMED = EXCLUDED.keys() | CHANGES.keys() | SLOW
assert set(dict(_FOUND)) >= _NAMED, "a test has another name now"
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
