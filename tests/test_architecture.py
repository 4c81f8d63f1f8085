"""Rooms, doors and the wall around the core: who may import and inherit what (see architecture.md).

Each rule is tried on the library, and on a small library in which somebody has broken it.
"""

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import wall
from tests.helpers.wall import library

MOST_LINES = 600
DATA = {"registry/presets/operations.py"}
"""Files that may be longer: they are tables."""
MOST_PRIVATE = 80
"""Bound of the private names that `introspect` may use."""


def test_every_module_has_a_place():
    """A new room is put into `wall.ORDER`, and into docs/architecture.md."""
    placed = {one for rooms in wall.ORDER for one in rooms}
    assert {wall.room(name) for name in library()} <= placed


def test_few_modules_at_the_root():
    """The root has public modules alone, and can be read at a glance."""
    at_root = [file.name for file in wall.ROOT.glob("*.py")]
    assert len(at_root) <= 12, at_root
    assert all(name.endswith("__.py") or not name.startswith("_") for name in at_root)


@pytest.mark.usefixtures("no_collector")
def test_no_circle():
    """No modules import each other, also not in functions or for types only."""
    assert wall.circles(wall.graph(library())) == []
    assert wall.circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


RULES = {
    "upward": (
        wall.upward,
        {"_core.queue": "from aioapiqueue._server_quotas import ServerQuotas"},
        {"adaptive": "def late():\n from aioapiqueue.registry import Registry"},
        {"_limits.rates": "from aioapiqueue import _core"},
        {"_recording.series": "import aioapiqueue.cli"},
    ),
    "doors": (
        wall.past_doors,
        {"adaptive": "from aioapiqueue._limits.rates import Rate"},
        {"threads": "from aioapiqueue._core import queue"},
        {"cli.app": "from aioapiqueue.registry._names import NAMES"},
        {"cli.app": "from aioapiqueue.registry import _names", "registry._names": ""},
        {"hub": "from aioapiqueue._recording.series import TimeSeries"},
        {"cli.run": "from aioapiqueue.hub import server", "hub.server": ""},
    ),
    "calls": (
        wall.reaches_calls,
        {"hub": "from aioapiqueue._core.queue import dispatcher_of"},
        {"hub": "found = dispatcher_of(queue)"},
        {"hub": "call = cast('Call', slot)"},
        {"hub": "call = cast(spi.Call, slot)"},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_library_keeps(rule):
    """No arrow upward, no import past a door, no way around the public names of a queue."""
    check, *planted = RULES[rule]
    assert check(library()) == []
    for sources in planted:
        assert len(check(sources)) == 1, sources


WAITS = """
class WaitQueue:
    __slots__ = ("_lines",)
    def __init__(self): self._ready = []
    def _drop(self): pass
    def _made(self): raise NotImplementedError
"""
DOOR = "from aioapiqueue._core.wait_queue import WaitQueue"


@pytest.mark.parametrize(
    "body",
    [
        "def pop(self): return self._ready",
        "def pop(self): super()._drop()",
        "def _drop(self): pass",
    ],
)
def test_inherited_reach_is_found(body):
    """A class that reads or overrides what is private to a class of another wing is found."""
    planted = {
        "_core.wait_queue": WAITS,
        "spi": DOOR,
        "_shared.own": f"from aioapiqueue.spi import WaitQueue\nclass Own(WaitQueue):\n {body}",
    }
    assert len(wall.inherited_reach(planted)) == 1
    inner = planted["_shared.own"].replace("aioapiqueue.spi", "aioapiqueue._core.wait_queue")
    assert wall.inherited_reach({"_core.wait_queue": WAITS, "_core.own": inner}) == []


def test_own_names_and_hooks_are_allowed():
    """A class may have private names of its own, and define a method that is made for it."""
    own = "def _made(self): self._own = 1\n def get(self): return self._own + self._made()"
    planted = {
        "_core.wait_queue": WAITS,
        "_shared.own": f"{DOOR}\nclass Own(WaitQueue):\n {own}",
    }
    assert wall.inherited_reach(planted) == []


def test_no_file_is_too_long():
    """A file is read in one sitting; Lua, too."""
    assert not wall.too_long(wall.lengths(), most=MOST_LINES, data=DATA)
    assert wall.too_long({"a.lua": 601, "b.py": 600}, most=600, data=()) == ["a.lua: 601"]


def test_door_of_the_core_is_narrow():
    """All that other wings need to know of the core: at most 30 names, and each is used."""
    assert len(wall.exports(library()["spi"])) <= 30
    assert wall.unused_exports(library(), "spi") == []
    planted = {"spi": "__all__ = ['a', 'b']", "hub": "from aioapiqueue.spi import a"}
    assert wall.unused_exports(planted, "spi") == ["b"]


def test_tests_use_no_private_names():
    """What the library's inside calls itself may change: `introspect` alone follows."""
    planted = Path(__file__).name  # it has the violations that are planted here
    sources = {name: one for name, one in wall.tests().items() if name != planted}
    inside = wall.private_names(sources.pop("helpers/introspect.py"))
    assert len(inside) < MOST_PRIVATE, len(inside)
    found = {
        name: [*sorted(wall.private_names(source)), *wall.set_privately(source)]
        for name, source in sources.items()
    }
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from aioapiqueue._limits.rates import Rate",
        "from aioapiqueue.registry import _names",
        "from aioapiqueue._shared import decisions",
        "import aioapiqueue._core.queue",
        "from aioapiqueue.gateway.confinement import _connect_to_first",
        "def test():\n    from aioapiqueue.threads import _loop",
        "monkeypatch.setattr('aioapiqueue.hub.calls._MAX_STATS', 2)",
        "CODE = 'import json; from aioapiqueue._shared.host import start; {more}'",
        "from aioapiqueue.hub.calls import (\n    Calls as Known,\n    _MAX_STATS as MOST,\n)",
        "NAME = b'aioapiqueue._shared.host_hub.main'",
    ],
)
def test_private_name_is_found(source):
    """In an import, in a program that a test runs, or in a string with dots."""
    assert len(wall.private_names(source)) == 1


def test_private_name_that_is_set_is_found():
    """Of a module that may be imported, such as those of programs."""
    assert wall.set_privately("monkeypatch.setattr(calls, '_MAX', 2)") == ["_MAX"]
    assert wall.set_privately("monkeypatch.setattr(calls, 'MAX', 2)") == []


@pytest.mark.parametrize(
    "source",
    [
        "from aioapiqueue import ApiQueue, __version__",
        "from aioapiqueue.spi import statements",
        "from aioapiqueue._shared import HubLocation",
        "import aioapiqueue.gateway.confinement",
        "from tests.helpers import introspect",
        "CODES = ('from aioapiqueue import ApiQueue', _another)",
    ],
)
def test_doors_are_allowed(source):
    """So are public names, and modules of programs."""
    assert wall.private_names(source) == set()


def names_in(*nodes):
    """Return how often each name is used in some statements."""
    return Counter(node.id for one in nodes for node in ast.walk(one) if isinstance(node, ast.Name))


def lost(source):
    """Return the functions of a test file that nothing uses: a misspelt test is not run."""
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
    """No test is lost by its name, and no function stays that no test needs any longer."""
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


def test_one_name_for_one_class():
    """A name that two classes have is explained each time; public twins are of two libraries."""
    twins = {"QueueRateLimiter", "RateLimitedTransport", "SyncRateLimitedTransport"}
    assert wall.names_of_several(library()) <= twins | {"_Body", "_SyncBody"}
    planted = {"hub": "class Call: pass", "cli": "class Call: pass\nclass Row: pass"}
    assert wall.names_of_several(planted) == {"Call"}
