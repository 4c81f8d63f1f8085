import asyncio
import contextlib
import gc
import json
import os
import socket
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioapiqueue.registry import Registry
from aioapiqueue_run.hub import Hub
from tests.helpers import introspect

pytestmark = pytest.mark.real

PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines
HELLO = {"do": "hello", "version": 2, "pid": os.getpid()}
ASK = {"do": "ask", "id": 1, "service": "ec2", "operation": "DescribeRegions"}

numbers = st.integers(1, 4) | st.integers() | st.floats() | st.booleans() | st.none()
words = st.sampled_from(
    ["hello", "ask", "end", "free", "leave", "hooked", "bye", "ec2", "iam", "RequestLimitExceeded"]
)
values = (
    numbers
    | words
    | st.text()
    | st.recursive(
        st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
    )
)
keys = st.sampled_from(
    [
        *("do", "id", "version", "pid", "executable", "python", "botocore"),
        *("service", "operation", "region", "key", "account", "nested", "again"),
        *("status", "code", "retry_after", "amz_retry_after", "failed", "parameters"),
    ]
)
# A message that is right, but for what is changed in it.
message = st.builds(
    lambda base, changes: base | changes,
    st.sampled_from(
        [
            HELLO,
            HELLO | {"executable": "/x", "python": "3"},
            ASK,
            ASK | {"id": 2, "nested": True},
            ASK | {"id": 2, "again": True},
            ASK | {"parameters": {"MaxCount": 2, "Filters": 1}},
            ASK | {"service": "https://api.test", "operation": "GET /search/*"},
            *({"do": word, "id": number} for word in ("end", "free", "leave") for number in (1, 2)),
            {"do": "end", "id": 1, "status": 503, "code": "Throttling", "retry_after": "0"},
        ]
    ),
    st.dictionaries(keys, values, max_size=1) | st.just({}),
)
short = st.none() | st.floats(0, 0.01)  # times: this hub has others to serve
number = short | st.sampled_from([0, 7, 1e9, -1, 1e10, float("nan"), True, "7", [], {}])
quota = st.fixed_dictionaries({}, optional={"remaining": number, "reset": short, "limit": number})
advice = st.fixed_dictionaries(
    {"do": st.just("advice"), "id": st.sampled_from([1, 2, 0, None])},
    optional={
        "throttled": st.booleans() | number,
        "hold": short | st.sampled_from([-1, 1e10, float("inf"), "1"]),
        "remaining": st.lists(quota | values, max_size=18) | values,
        "refused": values,
        "malformed": values,
    },
)
line = (message | advice).map(lambda fields: json.dumps(fields).encode() + b"\n")
junk = st.binary(max_size=200) | st.binary(min_size=1, max_size=20).map(lambda some: some * 1000)
stream = st.lists(st.one_of(line, line, line, junk), max_size=12).map(b"".join)
greeted = stream.map(lambda rest: json.dumps(HELLO).encode() + b"\n" + rest)


class Serving:
    """A hub on a loop of its own, in a thread: Hypothesis is not asynchronous."""

    def __enter__(self):
        self.errors = []
        self.ready = threading.Event()
        self.directory = tempfile.TemporaryDirectory(prefix="aq-")
        self.thread = threading.Thread(target=asyncio.run, args=[self.main()])
        self.thread.start()
        assert self.ready.wait(PATIENCE)
        return self

    async def main(self):
        """Serve until told to stop."""
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        limits = {"ec2": {"rate": "100000/s", "concurrency": 2}}
        path = Path(self.directory.name) / "hub"
        self.registry = Registry(limits)
        async with Hub(self.registry, directory=path) as self.hub:
            self.ready.set()
            await self.stop.wait()

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(PATIENCE)
        self.directory.cleanup()

    def connect(self):
        """Return a socket that is connected to the hub."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(str(self.hub.path))
        return client

    def settled(self):
        """Wait until all is given back: no connection, no request, no place."""
        self.serves()  # clients that came earlier have been accepted, too
        deadline = time.monotonic() + PATIENCE
        while introspect.connections_of(self.hub) or introspect.requests_of(self.hub):
            assert time.monotonic() < deadline, "something of a client that has gone is left"
            time.sleep(0.0005)
        for figure in self.hub.figures:
            assert (figure.waiting, figure.running) == (0, 0), figure
        for queue in self.registry.queues.values():
            assert (queue.waiting, queue.running) == (0, 0), queue
        assert not introspect.clients_of(self.hub)
        assert self.errors == []

    def serves(self):
        """Make sure that an orderly client gets both places."""
        with self.connect() as client:
            for fields in (HELLO, ASK, ASK | {"id": 2}):
                client.sendall(json.dumps(fields).encode() + b"\n")
            with client.makefile("rb") as lines:
                heard = [json.loads(lines.readline()) for _ in range(3)]
        assert heard == [{"version": 2}, {"id": 1, "go": True}, {"id": 2, "go": True}]


@pytest.fixture(scope="module")
def serving():
    """Run a hub with two places."""
    with Serving() as serving:
        yield serving


PIECES = st.lists(st.integers(0, 3000), max_size=6)


@settings(max_examples=100)
@given(data=st.one_of(stream, greeted, greeted), cuts=PIECES)
def test_any_input_costs_no_slot(serving, data, cuts):
    """Whatever a client sends, the hub goes on, and all slots are given back."""
    costs_no_slot(serving, data, cuts)


@pytest.mark.slow  # the same with more examples
@settings(max_examples=200)
@given(data=st.one_of(stream, greeted, greeted), cuts=PIECES)
def test_more_input_costs_no_slot(serving, data, cuts):
    """The hub goes on after many more streams, too."""
    costs_no_slot(serving, data, cuts)


def costs_no_slot(serving, data, cuts):
    """See that all slots are given back after a stream in pieces."""
    with serving.connect() as client, contextlib.suppress(ConnectionError):
        for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True):
            client.sendall(data[begin:end])
        if cuts:  # hang up in an orderly way, and hear it all; else at once
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    serving.settled()


@settings(max_examples=40)
@given(data=greeted)
def test_answers_keep_to_the_protocol(serving, data):
    """A client hears whole lines: its version, turns, errors; nothing after the last."""
    keeps_to_the_protocol(serving, data)


@pytest.mark.slow  # the same with more examples
@settings(max_examples=60)
@given(data=greeted)
def test_more_answers_keep_to_it(serving, data):
    """The answers to many more messages keep to the protocol, too."""
    keeps_to_the_protocol(serving, data)


def keeps_to_the_protocol(serving, data):
    """See that the answers to a stream are of the protocol."""
    with serving.connect() as client:
        heard = b""
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65536):
                heard += chunk
    *lines, rest = heard.split(b"\n")
    assert rest == b""
    messages = [json.loads(one) for one in lines]
    for place, one in enumerate(messages):
        assert one.keys() in ({"version"}, {"id", "go"}, {"id", "error"}, {"error"})
        assert one.keys() != {"error"} or place == len(messages) - 1
    serving.settled()


def test_slow_client_holds_up_nobody(serving):
    """A message that comes byte by byte is understood, while other clients are served."""
    data = b"".join(json.dumps(fields).encode() + b"\n" for fields in (HELLO, ASK))
    with serving.connect() as client:
        for place in range(len(data) - 1):
            client.sendall(data[place : place + 1])
            if place % 40 == 0:
                serving.serves()
        client.sendall(b"\n")
        with client.makefile("rb") as lines:
            assert json.loads(lines.readline()) == {"version": 2}
            assert json.loads(lines.readline()) == {"id": 1, "go": True}
    serving.settled()


@pytest.mark.slow  # `test_memory_is_given_back` sees the same of fewer connections
def test_clients_leave_no_memory_behind(serving):
    """After thousands of connections, good and bad, the hub holds no more than after the first."""
    ask = b"".join(
        json.dumps(fields).encode() + b"\n"
        for fields in (HELLO, *(ASK | {"id": number} for number in range(1, 20)))
    )

    def visit(times):
        for turn in range(times):
            with serving.connect() as client, contextlib.suppress(ConnectionError):
                client.sendall(ask if turn % 2 else b"x" * 10_000)
            if turn % 50 == 0:  # so that as many are there at once the second time
                serving.settled()

    def held():
        time.sleep(1.1)  # the peak of a second needs the times of one second
        serving.settled()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    visit(300)
    tracemalloc.start()
    try:
        visit(300)
        before = held()
        visit(1500)
        after = held()
    finally:
        tracemalloc.stop()
    # A hundredth of what a single request takes, for each connection that has gone.
    assert after - before < 1500 * 20
