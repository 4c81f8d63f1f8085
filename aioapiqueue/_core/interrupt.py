"""Ctrl-C while the command line is still being imported ends it without a traceback.

The package is imported before its `__main__` is, so nothing there could catch it. Programs
that import the library get KeyboardInterrupt as ever.
"""

from __future__ import annotations

import os.path
import signal
import sys

_NAME = "aioapiqueue"


def _is_command() -> bool:
    """Return whether this is `python -m aioapiqueue` or the console script."""
    started = sys.argv[0] if sys.argv else ""
    if started == "-m":  # what Python calls it until the module is found
        return _NAME in sys.orig_argv
    return os.path.basename(started) in {_NAME, f"{_NAME}.exe"}  # noqa: PTH119 - no pathlib yet


# A signal that is ignored, as under `nohup`, stays ignored. `__main__` restores the handler.
if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
