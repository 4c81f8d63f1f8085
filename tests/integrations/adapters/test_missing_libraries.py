"""What a user reads who has not installed the library."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("adapter", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("opentelemetry", "opentelemetry", "opentelemetry"),
        ("prometheus", "prometheus_client", "prometheus"),
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
        ("redis", "redis", "redis"),
        ("report", "jinja2", "report"),
        ("telegram", "telegram", "telegram"),
    ],
)
def test_remedy_is_named(adapter, package, extra):
    """The import fails with what to install."""
    refused(f"sys.modules[{package!r}] = None; import aioapiqueue.integrations.{adapter}", extra)


@pytest.mark.parametrize(("library", "extra"), [(None, "httpx"), ("httpx2", "httpx2")])
def test_remedy_is_named_for_llm_clients(library, extra):
    """Nothing of the module needs a library until a client is made."""
    program = f"llm.client(ApiQueue('9/s'), llm.anthropic, library={library!r})"
    hidden = "sys.modules['httpx'] = sys.modules['httpx2'] = None"
    imports = "from aioapiqueue import ApiQueue; from aioapiqueue.integrations import llm"
    refused(f"{hidden}; {imports}; {program}", extra)


def refused(program, extra):
    """Assert that a program fails with what to install."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "\nImportError: " in done.stderr
    assert re.search(" needs? ", done.stderr)
    assert f'pip install "aioapiqueue[{extra}]"' in done.stderr
