"""SDKs that are imported where a test first uses them."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["lazily"]


class _Lazy:
    """A module that is imported when a public attribute of it is first needed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks all that a test module has: is it a fixture?
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)

    def __repr__(self) -> str:
        return f"<lazily {self._name}>"


def lazily(name: str) -> Any:
    """Return what stands for a module, and imports it at the first use of an attribute.

    Each worker imports every test module before the first test runs. An SDK that takes a second to
    import is imported by the worker that uses it instead: `openai = lazily("openai")`.
    """
    return _Lazy(name)
