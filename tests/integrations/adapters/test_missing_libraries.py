"""What a user reads who has not installed the library, and what collecting the tests imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

EXTRAS = {
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama-index"),
    "opentelemetry": ("opentelemetry", "opentelemetry"),
    "prometheus": ("prometheus_client", "prometheus"),
    "pydantic_ai": ("pydantic_ai", "pydantic-ai"),
    "redis": ("redis", "redis"),
    "report": ("jinja2", "report"),
    "telegram": ("telegram", "telegram"),
}
"""The package that each adapter needs, and the extra that brings it."""

IMPORT_WITHOUT = """
import importlib, json, sys
found = {}
for adapter, package in json.loads(sys.argv[1]).items():
    sys.modules[package] = None
    try:
        importlib.import_module(f"aioapiqueue.integrations.{adapter}")
    except ImportError as error:
        found[adapter] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def run(program, *args):
    """Return what a program of Python prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_remedy_is_named():
    """Without its library, the import of an adapter fails with what to install."""
    packages = {adapter: package for adapter, (package, _) in EXTRAS.items()}
    found = json.loads(run(IMPORT_WITHOUT, json.dumps(packages)))
    wrong = [
        f"{adapter}: {found.get(adapter)}"
        for adapter, (_, extra) in EXTRAS.items()
        if not re.match("ImportError: .* needs? ", found.get(adapter, ""))
        or f'pip install "aioapiqueue[{extra}]"' not in found[adapter]
    ]
    assert not wrong, "\n".join(wrong)


SDKS = {
    "anthropic",
    "google.genai",
    "langchain_core",
    "langsmith",
    "litellm",
    "llama_index.core",
    "openai",
    "pydantic_ai",
    "sqlalchemy",
    "telegram",
}

COLLECT = """
import importlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(root))
files = [file for folder in sys.argv[2:] for file in sorted((root / folder).glob("*.py"))]
for file in files:
    module = importlib.import_module(".".join(file.relative_to(root).with_suffix("").parts))
    for value in vars(module).values():
        getattr(value, "_mock_name", None)  # pytest asks each of them, to find fixtures
print(len(files), *sys.modules)
"""


def test_collecting_imports_no_sdk():
    """Each worker collects all tests: the one that runs those of an SDK imports it, and only then.

    To import the test modules is what pytest does, in half of the time that pytest takes.
    """
    root, folders = (
        Path(__file__).parents[3],
        ("tests/integrations/llm", "tests/integrations/adapters"),
    )
    number, *loaded = run(COLLECT, str(root), *folders).split()
    assert int(number) > 15
    assert "tests.integrations.adapters.test_telegram" in loaded
    assert SDKS.intersection(loaded) == set()
