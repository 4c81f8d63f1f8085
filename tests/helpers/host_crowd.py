"""A process with many clients of a quota: sockets that say hello as queues do.

    python -m tests.helpers.host_crowd DIRECTORY NUMBER LANES HOW

`DIRECTORY` is the hub's, which runs. `LANES` is how many each client has. `HOW` they come is
`in-turn` (one when the one before is welcome) or `at-once`. It reads a line before they come and
writes one when all are there; the next line that it reads ends all at once.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import sys

from aioapiqueue.schedules.spi import HubLocation
from tests.helpers import introspect

wire = introspect.hub_messages()

__all__ = ["hello"]


def hello(lanes: int, *, program: str = "crowd", quota: str = "crm", **terms: object) -> bytes:
    """Return what a queue sends first."""
    own = {
        "limits": ["2000/s burst 20"],
        "lanes": [[f"{program}-{number}", [f"{5 + number % 7}/s"]] for number in range(lanes)],
        "concurrency": None,
        "catch_up": 0.05,
        "adaptive": None,
        "units": ["calls"],
        **terms,
    }
    first = {
        "protocol": wire.PROTOCOL,
        "version": wire.own_version(),
        "pid": os.getpid(),
        "program": program,
        "kind": "name",
        "quota": quota,
        "terms": own,
    }
    return json.dumps(first).encode() + b"\n"


class _Crowd:
    def __init__(self, directory: str, line: bytes) -> None:
        self._path = next(path for path in HubLocation(directory).sockets() if path.exists())
        self._line = line
        self._selector = selectors.DefaultSelector()
        self._unwelcome: dict[socket.socket, bytes] = {}

    def connect(self) -> socket.socket:
        """Connect, and say nothing yet."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(os.fspath(self._path))
        sock.settimeout(0)
        self._selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, [self._line])
        self._unwelcome[sock] = self._line
        return sock

    def wait(self) -> None:
        """Say hello on all that are connected, and wait until they are welcome."""
        while self._unwelcome:
            for key, _ in self._selector.select(10):
                sock, unsent = key.fileobj, key.data[0]
                assert isinstance(sock, socket.socket)
                if unsent:
                    key.data[0] = unsent[sock.send(unsent) :]
                    if not key.data[0]:
                        self._selector.modify(sock, selectors.EVENT_READ, key.data)
                    continue
                received = sock.recv(1 << 20)
                assert received, "the hub has ended a connection"
                assert b"refused" not in received, received
                self._unwelcome.pop(sock, None)


def main(directory: str, number: str, lanes: str, how: str) -> None:
    """Come and leave."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    crowd = _Crowd(directory, hello(int(lanes)))
    sys.stdin.readline()
    socks = []
    for _ in range(int(number)):
        socks.append(crowd.connect())
        if how == "in-turn":
            crowd.wait()
    crowd.wait()
    sys.stdout.write("there\n")
    sys.stdout.flush()
    sys.stdin.readline()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
