"""Python's garbage collector, for tests that wait for what it finds."""

from __future__ import annotations

import gc

__all__ = ["leave_older_alone"]


def leave_older_alone() -> None:
    """Have the collector look at what is made from now on, and at nothing older.

    Late in a run, all that other tests and their SDKs have left takes it a second to go through. It
    stays as it is for the tests that come: to thaw it would thaw what all test modules import, too.
    """
    gc.freeze()
