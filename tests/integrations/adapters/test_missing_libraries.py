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
    program = (
        f"import sys; sys.modules[{package!r}] = None; import aioapiqueue.integrations.{adapter}"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "\nImportError: " in done.stderr
    assert re.search(" needs? ", done.stderr)
    assert f'pip install "aioapiqueue[{extra}]"' in done.stderr
