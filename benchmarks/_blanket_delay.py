"""One delay before every call to AWS, whatever the service: what is tried first, on PYTHONPATH.

The calls of all threads go out one after the other, BLANKET_SECONDS apart at least.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

try:
    from botocore.endpoint import Endpoint  # type: ignore[import-untyped]  # ships no types
except ImportError:
    pass  # another Python program that the scanner starts
else:
    _send = Endpoint._send  # noqa: SLF001 - each attempt passes here, retries as well
    _interval = float(os.environ["BLANKET_SECONDS"])
    _lock = threading.Lock()

    def _send_later(self: Any, request: Any) -> Any:  # noqa: ANN401 - botocore has no types
        with _lock:
            time.sleep(_interval)
        return _send(self, request)

    Endpoint._send = _send_later  # noqa: SLF001 - as above
