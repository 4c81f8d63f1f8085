"""What is private to the library may change without its tests or programs.

Of the tests, `introspect` alone follows; test_architecture has more rules for programs.
"""

import pytest

from tests.helpers import private_names
from tests.helpers.private_names import ALLOWED, INTROSPECT

MOST = 136
"""Number of private names that `introspect` uses, as `names_used` counts them. It may only fall."""


@pytest.mark.parametrize("place", private_names.PLACES)
def test_files_use_no_private_names(place):
    """Neither tests, benchmarks nor programs, but for what `ALLOWED` lists."""
    found = {
        name: private_names.private_names(source, ALLOWED.get(name, ()))
        for name, source in private_names.sources([place]).items()
        if name != INTROSPECT
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_each_exception_is_needed():
    """What a file no longer uses is taken off its list."""
    sources = private_names.sources()
    for file, names in ALLOWED.items():
        found = private_names.private_names(sources[file])
        for name in names:
            assert any(name in (one, one.rpartition(".")[2]) for one in found), (file, name)


def test_introspect_uses_few_names():
    """Each of them is one more that a change of the library may have to follow there."""
    source = private_names.sources()[INTROSPECT]
    found = private_names.names_used(source, ALLOWED[INTROSPECT])
    assert not [name for name in found if name.endswith(".*")], "hands out a whole module"
    assert len(found) <= MOST, sorted(found)


@pytest.mark.parametrize(
    "source",
    [
        "queue._dispatcher",
        "dispatcher_of(queue)._ticker",
        "tables['a']._entries",
        "(await make())._part",
        "introspect._dispatcher_of(queue)",
        "import aioapiqueue\naioapiqueue._core.queue.dispatcher_of",
        "from aioapiqueue.spi import algorithms\nalgorithms._EPS",
        "from aioapiqueue_run.gateway import confinement\nconfinement._connect_to_first",
        "class Own(Limiter):\n    def look(self):\n        return other._held",
    ],
)
def test_attribute_is_found(source):
    """Of whatever it is, but `self`."""
    assert private_names.private_names(source)


@pytest.mark.parametrize(
    "source",
    [
        "import aioapiqueue._core.queue",
        "import aioapiqueue._core.queue as q, json",
        "from aioapiqueue import ApiQueue, _core",
        "from aioapiqueue._limits.limit_types import Rate",
        "from aioapiqueue._shared import decisions",
        "from aioapiqueue.registry import _names",
        "from aioapiqueue . _core import queue",
        "from aioapiqueue_run.gateway.confinement import _connect_to_first",
        "from tests.helpers.introspect import _dispatcher_of",
        "def test():\n    from aioapiqueue.threads import _loop",
    ],
)
def test_import_is_found(source):
    """In any form, of the library or of a helper."""
    assert len(private_names.private_names(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "getattr(queue, '_dispatcher')",
        "monkeypatch.setattr(queue, '_dispatcher', 1)",
        "monkeypatch.setattr(type(queue), '_dispatcher', 1)",
        "monkeypatch.setattr(\n    self.queue(), '_dispatcher', 1)",
        "monkeypatch.setattr('aioapiqueue_run.hub.calls._MAX_STATS', 2)",
        "monkeypatch.setattr(f'{PACKAGE}._core.figures', 2)",
        "monkeypatch.setitem(vars(queue), '_dispatcher', 1)",
        "mock.patch.object(queue, '_control')",
        "mock.patch('aioapiqueue._core.figures.KEYS')",
        "vars(queue)['_dispatcher']",
        "queue.__dict__['_dispatcher']",
        "operator.attrgetter('_dispatcher')(queue)",
        "importlib.import_module('aioapiqueue' + '._core.queue')",
        "CODE = 'import json; from aioapiqueue._shared.host import start; {more}'",
        "CODE = 'from aioapiqueue_run.hub.calls import (\\n    Calls,\\n    _MAX as MOST,\\n)'",
        "CODE = 'calls._MAX_STATS = 2'",
        "CODE = 'f()._dispatcher'",
        "NAME = b'aioapiqueue._shared.host_hub.main'",
    ],
)
def test_string_is_found(source):
    """Whether it names an attribute or a module, or is a program that a test runs."""
    assert len(private_names.private_names(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from aioapiqueue import ApiQueue, __version__",
        "from aioapiqueue.spi import statements",
        "from aioapiqueue.schedules.spi import HubLocation",
        "import aioapiqueue_run.gateway.confinement",
        "from tests.helpers import introspect",
        "self._own, cls._own, super()._own",
        "class Own:\n    def __init__(self):\n        self._own = 1\nOwn()._own",
        "def make(thing): thing.__dict__, pair._replace(left=1), os._exit(0)",
        "NAMES = ['_dispatcher', {'_dispatcher': 1}['_dispatcher'], '__init__']",
        "CODES = ('from aioapiqueue import ApiQueue', 'config._', '0._1')",
    ],
)
def test_public_and_own_names_are_allowed(source):
    """So are those that are documented for programs."""
    assert private_names.private_names(source) == []


def test_names_of_modules_count():
    """One that is handed out counts as all of it; strings and owners of attributes count, too."""
    source = """
def one(monkeypatch):
    from aioapiqueue._core import figures, resorting
    monkeypatch.setattr(resorting, "BUDGET", resorting._QUICK)
    return figures

def other(limiter):
    from aioapiqueue._core.queue import dispatcher_of
    return limiter._scheduler, getattr(limiter, "_scheduler"), scheduler._grant
"""
    assert private_names.names_used(source) == {
        "aioapiqueue._core.figures.*",
        "aioapiqueue._core.resorting.BUDGET",
        "aioapiqueue._core.resorting._QUICK",
        "aioapiqueue._core.queue.dispatcher_of",
        "limiter._scheduler",
        "scheduler._grant",
    }
