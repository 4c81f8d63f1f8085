"""Python's garbage collector, for tests that wait for what it finds."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["young_garbage"]


@contextmanager
def young_garbage() -> Iterator[None]:
    """Have the collector look at what is made from now on, and at nothing older.

    Late in a run, all that other tests and their SDKs have left takes it a second to go through.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
