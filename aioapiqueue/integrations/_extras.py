"""Imports of optional libraries."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def needs(library: str, *, to: str, extra: str, hint: str = "") -> Iterator[None]:
    """Name the extra to install if an import in the block fails.

    Args:
        library: the library, and the oldest version that works, if users may have an older one.
        to: what the library is needed for.
        extra: the extra that installs the library.
        hint: more text for the error. Default: none.

    Raises:
        ImportError: an import in the block failed.
    """
    try:
        yield
    except ImportError as error:
        # `llm.client` identifies the missing module by this name, which may be a dependency's.
        raise ImportError(
            f'{to} needs {library}: pip install "aioapiqueue[{extra}]"{hint}', name=error.name
        ) from error
