"""An AWS-like endpoint that notes what arrives, and the limits that arrivals have to keep."""

from __future__ import annotations

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Arrival", "Bucket", "RecordingEndpoint"]

CATCH_UP = 0.010  # seconds, a queue's default


class Arrival(NamedTuple):
    """One request, as EC2's query protocol has it.

    Attributes:
        at: `time.monotonic()`.
        action: `"RunInstances"`.
        parameters: `{"MinCount": "5", "InstanceId.1": "i-1"}`.
    """

    at: float
    action: str
    parameters: Mapping[str, str]

    @property
    def instances(self) -> int:
        """How many instances a call is about."""
        named = sum(name.startswith("InstanceId.") for name in self.parameters)
        return named or int(self.parameters.get("MaxCount", 1))

    @property
    def unfiltered(self) -> bool:
        """Whether it has neither a filter nor a page size."""
        return not any(re.match(r"Filter\.|MaxResults", name) for name in self.parameters)


class Bucket(NamedTuple):
    """A limit as a test writes it down, apart from what the registry makes of it.

    Attributes:
        name: for messages.
        rate: units per second.
        burst: units at once.
        units: of one arrival; 0: it does not use the bucket.
    """

    name: str
    rate: float
    burst: float
    units: Callable[[Arrival], float]

    def assert_kept(self, arrivals: Iterable[Arrival], *, late: float, least: int) -> None:
        """Check promise 1 in every window: at most burst + (W + catch_up) / interval.

        Args:
            arrivals: of all calls.
            late: seconds by which an arrival may be late, so that the next is close to it.
            least: how many arrivals must have used the bucket, for this to say something.
        """
        used = sorted((one.at, self.units(one)) for one in arrivals if self.units(one))
        assert len(used) >= least, (self.name, used)
        for first, (start, _) in enumerate(used):
            units = 0.0
            for at, one in used[first:]:
                units += one
                most = self.burst + (at - start + CATCH_UP + late) * self.rate
                assert units <= most + 1e-6, (self.name, units, at - start)


class RecordingEndpoint(ThreadingHTTPServer):
    """Answers every call of the query protocol at once; a context manager."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def actions(self) -> Sequence[str]:
        """Return what has arrived, sorted."""
        return sorted(one.action for one in self.arrivals)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RecordingEndpoint

    def do_POST(self) -> None:
        at = time.monotonic()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        values = {name: found[0] for name, found in parse_qs(body).items()}
        action = values.get("Action", "?")
        self.server.arrivals.append(Arrival(at, action, values))
        answer = f"<{action}Response/>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Stay silent."""
