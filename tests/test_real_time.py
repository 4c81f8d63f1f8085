"""A test that bounds real time from above says by what it goes, so that a busy machine is no fault.

That is one of these: a yardstick measured in the same run (`yards`, `slowness`, `delay`, `stalls`),
retries with a count (`flaky`), or the mark `full_speed` or `slow`. A bound of ten seconds or more
only ends what hangs.
"""

from __future__ import annotations

import ast

from tests.helpers.wall import files_of_tests

CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time"}
GOES_BY = {"stalls", "yards", "slowness", "delay"}
MARKS = {"flaky", "full_speed", "slow"}
ENDS_A_HANG = {"deadline", "PATIENCE"}
HANGS = 10  # seconds
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def names_in(*nodes):
    """Return all names and attributes in some expressions."""
    walked = [node for one in nodes for node in ast.walk(one)]
    return {node.id for node in walked if isinstance(node, ast.Name)} | {
        node.attr for node in walked if isinstance(node, ast.Attribute)
    }


def timed_names(function):
    """Return the names of clocks, and of variables that come from one."""
    timed = set(CLOCKS)
    before = set()
    while timed != before:
        before = set(timed)
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and names_in(node.value) & timed:
                timed |= {name for target in node.targets for name in names_in(target)}
    return timed


def bounds_on_time(function):
    """Return the comparisons by which a function bounds real time from above."""
    timed = timed_names(function)
    loops = {id(node.test) for node in ast.walk(function) if isinstance(node, ast.While)}
    found = []
    for node in ast.walk(function):
        if not isinstance(node, ast.Compare) or id(node) in loops:
            continue
        sides = [node.left, *node.comparators]
        for left, sign, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(sign, ast.Lt | ast.LtE):
                smaller, larger = left, right
            elif isinstance(sign, ast.Gt | ast.GtE):
                smaller, larger = right, left
            else:
                continue
            if names_in(smaller) & timed and not is_generous(larger):
                found.append(node)
    return found


def is_generous(bound):
    """Return whether a bound is there only so that a test that hangs ends."""
    if isinstance(bound, ast.Constant):
        return bound.value >= HANGS
    return bool(names_in(bound) & ENDS_A_HANG)


def marks_of(*decorators):
    """Return the names of marks; what `parametrize` has for single cases is none of the test."""
    calls = (one.func if isinstance(one, ast.Call) else one for one in decorators)
    return {one.attr for one in calls if isinstance(one, ast.Attribute)}


def marks_of_file(tree):
    """Return the names of the marks in `pytestmark`."""
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and names_in(*node.targets) == {"pytestmark"}
    ]
    return marks_of(*(one for value in values for one in getattr(value, "elts", [value])))


def says_what_it_goes_by(function):
    """Return whether a function has a yardstick or a mark."""
    used = names_in(function) | {one.arg for one in function.args.args}
    return bool(used & GOES_BY or marks_of(*function.decorator_list) & MARKS)


def unexplained(source):
    """Return the bounds on real time in a file that do not say by what they go."""
    if not any(clock in source for clock in CLOCKS):
        return []
    tree = ast.parse(source)
    if marks_of_file(tree) & MARKS:
        return []
    return [
        f"{bound.lineno}, in {function.name}: {ast.unparse(bound)}"
        for function in ast.walk(tree)
        if isinstance(function, FUNCTIONS) and not says_what_it_goes_by(function)
        for bound in bounds_on_time(function)
    ]


def test_each_bound_says_what_it_goes_by():
    """No test bounds real time without a yardstick, retries or a mark."""
    wrong = [
        f"{file}, line {one}"
        for file in files_of_tests()
        for one in unexplained(file.read_text("utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


CASES = """@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.slow)])"""


def test_a_bare_bound_is_found():
    """Bounds are found through variables and on either side; lower ones and long ones are not."""
    test = """
{mark}
async def test_it({fixture}):
    begun = time.monotonic()
    took = time.monotonic() - begun
    assert {bound}
"""
    for bound in ("took < 2", "0.5 <= took < 2", "2 > took", "time.perf_counter() - begun <= 2"):
        for mark in ("", "@pytest.mark.real", CASES):
            [found] = unexplained(test.format(mark=mark, fixture="", bound=bound))
            assert found == f"6, in test_it: {bound}"
        assert unexplained(test.format(mark="", fixture="stalls", bound=bound)) == []
        for mark in ("@pytest.mark.slow", "@pytest.mark.flaky(reruns=2)"):
            assert unexplained(test.format(mark=mark, fixture="", bound=bound)) == []
        whole_file = "pytestmark = [pytest.mark.real, pytest.mark.slow]"
        assert unexplained(whole_file + test.format(mark="", fixture="", bound=bound)) == []
    for bound in ("took > 2", "2 <= took", "took < 60", "time.monotonic() < deadline"):
        assert unexplained(test.format(mark="", fixture="", bound=bound)) == []
