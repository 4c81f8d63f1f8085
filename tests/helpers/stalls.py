"""How long this machine stood still while a test measured: that is no fault of what it measured.

A bound on how long something takes is written `took < 0.5 + stalls.seconds`: on a machine that
runs, that is the bound; what a busy or virtual machine keeps from this process goes beside it.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Self

# Under another thread's computations, a nap takes up to 5 ms more: that is no stall.
_NAP = _NOTICED = 0.010  # seconds


class Stalls:
    """A thread that naps again and again, and adds up by how much its naps were too long.

    It is a thread of its own so that a loop that is blocked, which may be what is tested, does not
    count. Use it as a context manager, or the fixture `stalls`, which measures the whole test.
    """

    def __init__(self) -> None:
        self._lost = 0.0
        self._since = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._nap, name="stalls", daemon=True)

    def __enter__(self) -> Self:
        self._since = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """What was lost so far, the nap that may not have ended yet included."""
        since, lost = self._since, self._lost
        return lost + _excess(time.monotonic() - since)

    def _nap(self) -> None:
        while not self._over.is_set():
            time.sleep(_NAP)
            now = time.monotonic()
            self._lost += _excess(now - self._since)
            self._since = now


def _excess(took: float) -> float:
    return took - _NAP if took > _NAP + _NOTICED else 0.0


def waited_for_a_core() -> float:
    """Return for how many seconds some process has waited for a core since the machine started."""
    try:
        some = Path("/proc/pressure/cpu").read_text("ascii").partition("\n")[0]
    except OSError:  # another system, or an older Linux
        return 0.0
    return int(some.rpartition("total=")[2]) / 1e6
