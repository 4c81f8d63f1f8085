from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from importlib import metadata
from types import ModuleType

import pytest

import aioapiqueue
from aioapiqueue import exceptions

PROMISED = [
    "Adaptive",
    "ApiQueue",
    "ApiQueueError",
    "Calendar",
    "Concurrency",
    "LaneStats",
    "Limit",
    "LimiterView",
    "Observer",
    "QueueClosed",
    "QueueFull",
    "Rate",
    "Registry",
    "Slot",
    "SlotTimeout",
    "Stats",
    "Window",
    "WouldWait",
    "rate_limited",
]
# anyio itself, and what it imports on one Python or another.
THIRD_PARTY = {"anyio", "idna", "sniffio", "typing_extensions"}
LOADED = """
import json, sys
before = set(sys.modules)
import aioapiqueue
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Names of the modules that `import aioapiqueue` loads in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-c", LOADED],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
    )
    return json.loads(run.stdout)


def test_import_loads_only_anyio(loaded):
    """Import loads nothing third party but anyio.

    The core costs its users no dependency but anyio.
    """
    packages = {name.partition(".")[0] for name in loaded}
    assert packages - set(sys.stdlib_module_names) - {"aioapiqueue"} <= THIRD_PARTY


def test_import_loads_no_edge(loaded):
    """Import loads no edge and no program.

    Integrations, the hub, the command line and the test loop are imported by who needs them.
    """
    outside = ("aioapiqueue.integrations", "aioapiqueue.testing", "aioapiqueue_run")
    assert not [name for name in loaded if name.startswith(outside)]


def test_version_is_that_of_the_package(loaded):
    """`__version__` is what is installed, and costs no look at the metadata."""
    assert aioapiqueue.__version__ == metadata.version("aioapiqueue")
    assert "importlib.metadata" not in loaded


def test_metadata_claims_what_is_true():
    """The extra `boto` brings boto3, and nothing is said of trio, on which nothing runs."""
    described = metadata.metadata("aioapiqueue")
    brought = [
        need.partition(">")[0]
        for need in described.get_all("Requires-Dist")
        if re.search(r"extra == .boto.", need)
    ]
    assert sorted(brought) == ["boto3", "botocore"]
    assert "Framework :: AsyncIO" in described.get_all("Classifier")
    assert "Framework :: AnyIO" not in described.get_all("Classifier")


def test_all_holds_what_was_promised():
    """`__all__` lists each name once, and none of the promised ones is missing."""
    assert sorted(set(aioapiqueue.__all__)) == sorted(aioapiqueue.__all__)
    assert set(PROMISED) <= set(aioapiqueue.__all__)
    assert set(exceptions.__all__) <= set(aioapiqueue.__all__)


def test_all_matches_what_the_package_exports():
    """Nothing public is left out of `__all__`, and nothing in it is missing."""
    public = {
        name
        for name in dir(aioapiqueue)
        if not name.startswith("_") and not isinstance(getattr(aioapiqueue, name), ModuleType)
    }
    assert public == set(aioapiqueue.__all__)


def undocumented(name):
    """Return which of an exported name and its methods have no docstring of their own."""
    exported = getattr(aioapiqueue, name)
    if not inspect.isclass(exported) and not inspect.isroutine(exported):
        return []  # an alias of types has nowhere to keep one
    found = [] if is_documented(name, exported) else [name]
    if inspect.isclass(exported):
        found += [
            f"{name}.{key}"
            for key, value in vars(exported).items()
            if not key.startswith("_")
            and (inspect.isroutine(value) or isinstance(value, property))
            and not is_documented(key, value)
        ]
    return found


def test_every_export_is_documented():
    """Each public class and function has a docstring of its own, and so has each of its methods."""
    assert [one for name in aioapiqueue.__all__ for one in undocumented(name)] == []


def is_documented(name, thing):
    """Tell a docstring from none, and from the signature that a dataclass makes up."""
    doc = thing.__doc__ or ""
    return bool(doc.strip()) and not doc.startswith(f"{name}(")
