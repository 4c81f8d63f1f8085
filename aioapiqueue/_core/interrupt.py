"""Let Ctrl-C end the command line without a traceback while it is still being imported.

Python imports the package before its `__main__`, so nothing there could catch KeyboardInterrupt.
Programs that import the library are not affected.
"""

from __future__ import annotations

import os.path
import signal
import sys

_NAME = "aioapiqueue"


def _is_command() -> bool:
    """Return whether this is `python -m aioapiqueue` or the console script."""
    started = sys.argv[0] if sys.argv else ""
    if started == "-m":  # sys.argv[0] until Python has found the module
        return _NAME in sys.orig_argv
    return os.path.basename(started) in {_NAME, f"{_NAME}.exe"}  # noqa: PTH119 - no pathlib yet


# A signal that is ignored, as under `nohup`, stays ignored. `__main__` restores the handler.
if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
