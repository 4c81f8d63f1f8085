"""Hooks `botocore.client` modules, so that the classes of all their clients are paced."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import process
from .clients import pace_class

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


_hooked: set[Any] = set()
"""The classes whose subclasses are paced, or could not be."""


def hook_when_loaded(name: str, spec: Any, is_client: Callable[[str], bool]) -> Any:
    """Have a module hooked once it has been loaded.

    Args:
        name: name of the module.
        spec: its spec, as a finder has found it; this is returned.
        is_client: whether a module of that name has botocore's clients.
    """
    load = getattr(getattr(spec, "loader", None), "exec_module", None)
    if load is None or hasattr(load, "aioapiqueue"):
        return spec

    def exec_module(module: ModuleType) -> None:
        load(module)
        if not is_client(module.__name__):  # one loader may load many modules
            return
        try:
            _hook(module)
        except Exception as error:
            raise ImportError(
                f"aioapiqueue cannot pace {name}: {error!r}. It supports botocore 1.31 or later; "
                "a much newer version may be too different. To run unpaced, unset AIOAPIQUEUE_HUB"
            ) from error

    exec_module.aioapiqueue = True  # type: ignore[attr-defined]
    # On the loader itself: a wrapper in its place would lose its other methods.
    with suppress(Exception):  # if it accepts no attributes, the module is hooked late
        spec.loader.exec_module = exec_module
    return spec


def hook_loaded(name: str) -> None:
    """Hook the module with this name if it is loaded and not hooked yet."""
    base = None  # a module that is still being loaded has none, either
    with suppress(Exception):  # a lazy module may fail at the first access
        base = getattr(sys.modules.get(name), "BaseClient", None)
    if isinstance(base, type) and base not in _hooked:
        _hook(sys.modules[name])


def _hook(module: ModuleType) -> None:
    """Pace the clients of a `botocore.client` that has been imported, unless they are paced."""
    base: Any = module.BaseClient
    if base in _hooked:
        return
    _hooked.add(base)  # first, as what follows may import again, or fail
    own = vars(base).get("__init_subclass__")

    def __init_subclass__(cls: Any, /, **kwargs: object) -> None:  # noqa: N807
        if own is None:
            super(base, cls).__init_subclass__(**kwargs)
        else:  # no botocore has one so far
            own.__get__(None, cls)(**kwargs)
        _pace_service(cls)

    base.__init_subclass__ = classmethod(__init_subclass__)
    # If the module is hooked late, there may be classes already, and clients that have called.
    late = [cls for cls in _subclasses(base) if _pace_service(cls)]
    package = sys.modules[module.__name__.rpartition(".")[0]]
    process.botocore = str(getattr(package, "__version__", "?"))
    process.announce()
    process.report("hooked", botocore=process.botocore, late=bool(late))


def _pace_service(cls: Any) -> bool:
    """Pace the class of a service; return whether that was needed."""
    # Only generated classes have `_PY_TO_OP_NAME` themselves; aiobotocore's base and a program's
    # own subclasses do not. A class that is paced, or has a paced base, has `_aioapiqueue`.
    if "_PY_TO_OP_NAME" not in vars(cls) or hasattr(cls, "_aioapiqueue"):
        return False
    pace_class(cls)
    return True


def _subclasses(base: Any) -> list[Any]:
    """Return all subclasses of a class, each before its own subclasses."""
    found = []
    for cls in type.__subclasses__(base):
        found += [cls, *_subclasses(cls)]
    return found
