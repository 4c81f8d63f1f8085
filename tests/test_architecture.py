"""Who imports whom: one direction, and no circle (see docs/architecture.md)."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import aioapiqueue

ROOT = Path(aioapiqueue.__file__).parent
APART = ROOT / "hub" / "bootstrap"  # runs in other programs, without aioapiqueue

CORE = ("exceptions", "_limits", "_core", "_server_quotas")
POLICY = (  # each may import those before it
    *("spi", "adaptive", "threads", "testing", "_recording", "_shared", "schedules", "registry"),
)
EDGES = ("integrations",)
PROGRAMS = ("hub", "gateway", "cli", "demo", "__main__")
LAYERS = (CORE, POLICY, EDGES, PROGRAMS)


@cache
def modules():
    """Return the name of each module of the package, without the package's own, and its file."""
    files = [file for file in sorted(ROOT.rglob("*.py")) if APART not in file.parents]
    parts = {file: file.relative_to(ROOT).with_suffix("").parts for file in files}
    names = {".".join(part for part in parts[file] if part != "__init__"): file for file in files}
    return {name or "aioapiqueue": file for name, file in names.items()}


@cache
def imports():
    """Return which modules each module imports anywhere, be it for types only."""
    known = modules()
    graph = {}
    for name, file in known.items():
        graph[name] = found = set()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: imports are absolute"
                # A name in a package may be one of its modules.
                inner = {f"{node.module}.{alias.name}": alias.name for alias in node.names}
                of_package = [one for one in inner if one.removeprefix("aioapiqueue.") in known]
                wanted = of_package or [node.module]
            else:
                continue
            for one in wanted:
                if one == "aioapiqueue" or one.startswith("aioapiqueue."):
                    found.add(one.removeprefix("aioapiqueue."))
        found.discard(name)
        if name == "aioapiqueue":  # the rest of the package is loaded when it is first used
            found = graph[name] = {one for one in found if room(one) in CORE}
        found -= {one for one in found if one.startswith("hub.bootstrap.")}  # imports none of these
    return graph


def circles():
    """Return each set of modules that import each other in a circle (Tarjan's algorithm)."""
    graph, index, low, stack, found = imports(), {}, {}, [], []

    def visit(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            circle = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def room(name):
    """Return the first part of a module's name, which says where it belongs."""
    return name.partition(".")[0]


def test_every_module_has_a_layer():
    """A new room is put into one of the layers above, and into docs/architecture.md."""
    placed = {one for layer in LAYERS for one in layer} | {"aioapiqueue"}
    assert {room(name) for name in modules()} <= placed


@pytest.mark.usefixtures("no_collector")
def test_no_circle():
    """Not one, in any wing, counting imports in functions and those for types only."""
    assert circles() == []


def allowed(name):
    """Return the first parts of what a module may import."""
    layer = next(number for number, layer in enumerate(LAYERS) if room(name) in layer)
    rooms = {one for below in LAYERS[: layer + 1] for one in below}
    if room(name) in CORE:
        # What servers report is attached to a queue by the core itself, for now.
        return set(CORE if room(name) in CORE[2:] else CORE[: CORE.index(room(name)) + 1])
    if room(name) in POLICY:
        rooms = {*CORE, *POLICY[: POLICY.index(room(name)) + 1]}
    return rooms | {"aioapiqueue"}  # as users do


def test_one_direction():
    """Core, policy, edges, programs: each imports of its own layer and those before it."""
    wrong = [
        f"{name} imports {other}"
        for name in modules()
        if name != "aioapiqueue"
        for other in sorted(imports()[name])
        if room(other) not in allowed(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_circle_is_found(monkeypatch):
    """What looks for circles finds one."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}}
    monkeypatch.setitem(circles.__globals__, "imports", lambda: graph)
    assert circles() == [["b", "c"]]


def names_in(*nodes):
    """Return how often each name is used in some statements."""
    return Counter(node.id for one in nodes for node in ast.walk(one) if isinstance(node, ast.Name))


def lost(source):
    """Return what a test file defines and nothing uses: a test by another name is not run."""
    tree = ast.parse(source)
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not node.decorator_list and not node.name.startswith(("test_", "pytest_"))
    ]
    used = names_in(tree) if functions else {}
    return [one.name for one in functions if used[one.name] == names_in(one)[one.name]]


def test_each_function_is_used():
    """No test is lost by its name; so is found a function that no test needs any longer."""
    tests = Path(__file__).parent
    wrong = [
        f"{file.relative_to(tests)}: {name}"
        for file in sorted(tests.rglob("test_*.py"))
        for name in lost(file.read_text("utf-8"))
    ]
    assert not wrong, "\n".join(wrong)
    assert lost("async def mocks_it(): mocks_it()\ndef used(): pass\ndef test_it(): used()") == [
        "mocks_it"
    ]
