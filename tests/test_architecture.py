"""Rooms, doors and the wall around the core: who may import and inherit what (see architecture.md).

Each rule is tried on the library, and on a small library in which somebody has broken it.
"""

import ast
import itertools
from collections import Counter

import pytest

from tests.helpers import reach, wall
from tests.helpers.wall import library

MOST_LINES = 600
MOST_OF_CORE = 85
"""Number of names by which other wings use the core, directly or in a module of `spi`."""


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


DOOR_OF_CORE = {
    "spi": "from aioapiqueue._core import statements\n__all__ = ['statements', 'Call']",
    "_core.statements": "from dataclasses import dataclass\n__all__ = ['Hold']",
}
RULES = {
    "upward": (
        wall.upward,
        {"_core.queue": "from aioapiqueue._server_quotas import ServerQuotas"},
        {"adaptive": "def late():\n from aioapiqueue.registry import Registry"},
        {"_limits.limit_types": "from aioapiqueue import _core"},
        {"recording._series": "import aioapiqueue_run.cli"},
        {"_core.queue": "import_module('aioapiqueue_run.hub')", "hub": ""},
        {"_core.queue": "import aioapiqueue._core\naioapiqueue.hub.Hub", "_core": "", "hub": ""},
        {"_shared.outage": "from aioapiqueue._shared.host.reach import reach"},
        {"_shared.host.reach": "from aioapiqueue._shared.host_hub.main import main"},
        {"_shared.redis.limiter": "from aioapiqueue._shared.host.scopes import Scopes"},
        {"_shared.host_hub.quota": "from aioapiqueue._shared.redis.leases import Leases"},
        {"integrations.redis.schedule": "from aioapiqueue._shared.host.scopes import Scopes"},
    ),
    "doors": (
        wall.past_doors,
        {"adaptive": "from aioapiqueue._limits.limit_types import Rate"},
        {"threads": "from aioapiqueue._core import queue"},
        {"cli.app": "from aioapiqueue.registry._names import NAMES"},
        {"cli.app": "from aioapiqueue.registry import _names", "registry._names": ""},
        {"hub": "from aioapiqueue.recording._series import TimeSeries"},
        {"cli.run": "from aioapiqueue_run.hub import server", "hub.server": ""},
        {"hub": "import aioapiqueue\naioapiqueue._core.queue.x", "_core": "", "_core.queue": ""},
        {"hub": "import_module('aioapiqueue._core.queue')", "_core": "", "_core.queue": ""},
        {"hub": "modules['aioapiqueue._core.queue']", "_core": "", "_core.queue": ""},
        {"hub": "def do(x: 'aioapiqueue._core.queue.X'): ...", "_core": "", "_core.queue": ""},
        {"hub": "from aioapiqueue.spi import Scheduler", **DOOR_OF_CORE},
        {"hub": "from aioapiqueue.spi import statements\nstatements.dataclass", **DOOR_OF_CORE},
        {"hub": "from aioapiqueue.spi import statements as s\ns._x(1).y", **DOOR_OF_CORE},
        {"hub": "from aioapiqueue import spi\nspi.statements.Other", **DOOR_OF_CORE},
        {
            "hub": "from aioapiqueue.spi import statements\ngetattr(statements, '_x')",
            **DOOR_OF_CORE,
        },
        {"hub": "from aioapiqueue.spi import *", **DOOR_OF_CORE},
        {"hub": "from aioapiqueue.adaptive import Policy", "adaptive": "__all__ = ['Adaptive']"},
        {"hub": "from aioapiqueue._server_quotas import _x", "_server_quotas": "__all__ = []"},
        {"hub": "from aioapiqueue import _x", "aioapiqueue": "__all__ = ['ApiQueue']"},
        {"cli": "from aioapiqueue_run.hub import spi\nspi._x", "hub.spi": "", "hub": ""},
    ),
    "crossings": (
        wall.crossings,
        {"hub": "from aioapiqueue._shared import reach"},
        {"cli.app": "from aioapiqueue.registry import _names", "registry._names": ""},
        {"cli.app": "from aioapiqueue.spi import _x", "registry": "from aioapiqueue.spi import _x"},
        {"gateway": "import aioapiqueue\naioapiqueue._core.queue", "_core": "", "_core.queue": ""},
        {"__main__": "from aioapiqueue._core import interrupt"},
    ),
    "packages": (
        wall.misplaced,
        {"cli.app": "from aioapiqueue import gateway"},
        {"cli.app": "from aioapiqueue.hub import Hub"},
        {"cli.app": "import aioapiqueue\naioapiqueue.hub.Hub"},
        {"cli.run": "command = ('-m', 'aioapiqueue.gateway')"},
        {"hub": "from aioapiqueue.bootstrap import _aioapiqueue"},
        {"hub": "from aioapiqueue_run.registry import Registry"},
        {"registry": "from aioapiqueue_run import recording"},
    ),
    "programs": (
        wall.names_programs,
        {"registry": "import_module('aioapiqueue_run')"},
        {"integrations.http": "def late():\n import aioapiqueue_run as programs"},
        {"threads": "find_spec(f'{__package__}x') or 'aioapiqueue_run'"},
    ),
    "calls": (
        reach.reaches_calls,
        {"hub": "from aioapiqueue._core.queue import dispatcher_of"},
        {"hub": "found = dispatcher_of(queue)"},
        {"hub": "found = aioapiqueue._core.queue.dispatcher_of"},
        {"hub": "call = cast('Call', slot)"},
        {"hub": "call = cast(spi.Call, slot)"},
        {"hub": "call = typing.cast('Call', slot)", "_core.slot": "cast('Call', slot)"},
        {"hub": "from typing import cast as c\ncall = c('DetailedCall | None', slot)"},
        {"hub": "import typing as t\ncall = t.cast(typ='list[Call]', val=slot)"},
        {"hub": "queue = cast(Any, slot).dispatcher"},
        {"hub": "call: Call = slot\nqueue = call.dispatcher", "_shared.host_hub": "it.dispatcher"},
        {"recording": "call = Call.of(slot)"},
        {"recording": "call = spi.DetailedCall.of(slot)", "_shared": "HostCall.of(call)"},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_library_keeps(rule):
    """No arrow upward, no way past a door or between packages, and none around a queue's names."""
    check, *planted = RULES[rule]
    assert check(library()) == []
    for sources in planted:
        assert len(check(sources)) == 1, sources


def test_bootstrap_imports_neither_package():
    """It runs in programs that may have neither, or another version."""
    assert wall.imports_ours(wall.bootstrap()) == []
    planted = "def late():\n from aioapiqueue import ApiQueue"
    assert wall.imports_ours({"hook.py": planted}) == ["hook.py imports aioapiqueue"]
    planted = "import_module('aioapiqueue_run.hub')"
    assert wall.imports_ours({"hook.py": planted}) == ["hook.py imports aioapiqueue_run.hub"]


WAITS = """
class WaitQueue:
    __slots__ = ("_lines",)
    def __init__(self): self._ready = []
    def _drop(self): pass
    def _made(self): raise NotImplementedError
"""
DOOR = "from aioapiqueue._core.wait_queue import WaitQueue"
OWN = "from aioapiqueue.spi import WaitQueue\n"


@pytest.mark.parametrize(
    "source",
    [
        "class Own(WaitQueue):\n def pop(self): return self._ready",
        "class Own(WaitQueue):\n def pop(self): super()._drop()",
        "class Own(WaitQueue):\n def pop(self): super(Own, self)._drop()",
        "class Own(WaitQueue):\n def pop(self): WaitQueue._drop(self)",
        "class Own(WaitQueue):\n def pop(self): type(self)._drop(self)",
        "class Own(WaitQueue):\n def pop(this): return this._ready",
        "class Own(WaitQueue):\n def _drop(self): pass",
        "Base = WaitQueue\nclass Own(Base):\n def _drop(self): pass",
        "class Part:\n def pop(self): return self._ready\nclass Own(Part, WaitQueue): pass",
    ],
)
def test_inherited_reach_is_found(source):
    """A class that reads or overrides what is private to a class of another wing is found."""
    planted = {"_core.wait_queue": WAITS, "spi": DOOR, "_shared.own": OWN + source}
    assert len(reach.inherited_reach(planted)) == 1
    inner = planted["_shared.own"].replace("aioapiqueue.spi", "aioapiqueue._core.wait_queue")
    assert reach.inherited_reach({"_core.wait_queue": WAITS, "_core.own": inner}) == []


def test_own_names_and_hooks_are_allowed():
    """A class may have private names of its own, and define a method that is made for it."""
    own = "def _made(self): self._own = 1\n def get(self): return self._own + self._made()"
    planted = {
        "_core.wait_queue": WAITS,
        "_shared.own": f"{DOOR}\nclass Own(WaitQueue):\n {own}",
    }
    assert reach.inherited_reach(planted) == []


def test_no_file_is_too_long():
    """A file is read in one sitting; Lua, too."""
    assert not wall.too_long(wall.lengths(), most=MOST_LINES)
    assert wall.too_long({"a.lua": 601, "b.py": 600}, most=600) == ["a.lua: 601"]


def test_door_of_the_core_is_narrow():
    """All that other wings use of the core; a module that `spi` exports counts by its names."""
    assert len(wall.exports(library()["spi"])) <= 30
    assert len(wall.door_names(library(), "spi")) <= MOST_OF_CORE
    assert wall.door_names(DOOR_OF_CORE, "spi") == {"Call", "statements.Hold"}


def test_exported_names_are_used():
    """Those of the core, and those of programs, which only their own modules import."""
    programs = [name for name in library() if wall.room(name) in wall.PROGRAMS]
    programs.remove("__main__")  # its `main` is the command
    assert wall.unused_names(library(), ["spi", *programs]) == []
    planted = DOOR_OF_CORE | {"hub": "from aioapiqueue.spi import Call\n__all__ = ['Hub']"}
    assert wall.unused_names(planted, ["spi", "hub"]) == ["spi.statements.Hold", "hub.Hub"]
    planted["cli"] = "from aioapiqueue.spi import statements\nstatements.Hold(1).until"
    assert wall.unused_names(planted, ["spi"]) == []


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


@pytest.mark.usefixtures("no_collector")
def test_each_function_is_used():
    """No test is lost by its name, and no function stays that no test needs any longer."""
    wrong = [
        f"{file}: {name}"
        for file in wall.files_of_tests()
        for name in lost(file.read_text("utf-8"))
    ]
    assert not wrong, "\n".join(wrong)
    assert lost("async def mocks_it(): mocks_it()\ndef used(): pass\ndef test_it(): used()") == [
        "mocks_it"
    ]


def test_one_name_for_one_class():
    """A name that two classes have is explained each time; public twins are of two libraries."""
    twins = {"QueueRateLimiter", "RateLimitedTransport", "SyncRateLimitedTransport"}
    assert reach.names_of_several(library()) <= twins | {"_Body", "_SyncBody"}
    planted = {"hub": "class Call: pass", "cli": "class Call: pass\nclass Row: pass"}
    assert reach.names_of_several(planted) == {"Call"}


def second_docstrings(source):
    """Return the lines of docstrings that follow another one, and so tell of nothing."""
    nodes = ast.walk(ast.parse(source))
    bodies = (body for node in nodes if isinstance(body := getattr(node, "body", None), list))
    return [
        two.lineno
        for body in bodies
        for one, two in itertools.pairwise(body)
        if is_docstring(one) and is_docstring(two)
    ]


def is_docstring(node):
    """Return whether a statement is a text by itself."""
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", 0), str)


def test_one_docstring_for_each_attribute():
    """Where two follow each other, the second tells of another attribute, or of none."""
    assert not [name for name, source in library().items() if second_docstrings(source)]
    planted = 'class Call:\n a = 1\n """One."""\n """Two."""\n b = 2\n """Three."""'
    assert second_docstrings(planted) == [4]
