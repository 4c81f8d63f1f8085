"""A test that bounds real time from above says by what it goes, so that a busy machine is no fault.

That is one of these: a yardstick measured in the same run (`yards`, `slowness`, `delay`, `stalls`),
retries with a count (`flaky`), or the mark `full_speed` or `slow`. A bound of ten seconds or more
only ends what hangs.
"""

from __future__ import annotations

import ast
from pathlib import Path

CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time"}
GOES_BY = {"stalls", "yards", "slowness", "delay", "flaky", "full_speed", "slow"}
ENDS_A_HANG = {"deadline", "PATIENCE", "until", "end"}
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
    found = []
    for node in ast.walk(function):
        if not isinstance(node, ast.Compare):
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


def unexplained(source):
    """Return the bounds on real time in a file that do not say by what they go."""
    if not any(clock in source for clock in CLOCKS):
        return []
    tree = ast.parse(source)
    if names_in(*(node for node in tree.body if isinstance(node, ast.Assign))) & {"slow"}:
        return []  # the whole file is marked
    return [
        f"{bound.lineno}, in {function.name}: {ast.unparse(bound)}"
        for function in ast.walk(tree)
        if isinstance(function, FUNCTIONS)
        if not (names_in(function) | {one.arg for one in function.args.args}) & GOES_BY
        for bound in bounds_on_time(function)
    ]


def test_each_bound_says_what_it_goes_by():
    """No test bounds real time without a yardstick, retries or a mark."""
    wrong = [
        f"{file}, line {one}"
        for file in sorted(Path(__file__).parent.rglob("test_*.py"))
        for one in unexplained(file.read_text("utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_a_bare_bound_is_found():
    """Bounds are found through variables and on either side; lower ones and long ones are not."""
    test = """
async def test_it({fixture}):
    begun = time.monotonic()
    took = time.monotonic() - begun
    assert {bound}
"""
    for bound in ("took < 2", "0.5 <= took < 2", "2 > took", "time.perf_counter() - begun <= 2"):
        [found] = unexplained(test.format(fixture="", bound=bound))
        assert found == f"5, in test_it: {bound}"
        assert unexplained(test.format(fixture="stalls", bound=bound)) == []
    for bound in ("took > 2", "2 <= took", "took < 60", "time.monotonic() < deadline"):
        assert unexplained(test.format(fixture="", bound=bound)) == []
