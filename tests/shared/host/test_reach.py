"""Asking a hub that is just about to end: a real socket, whose other end answers as told."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
import time

import pytest

from aioapiqueue import SharedError
from aioapiqueue.schedules.spi import HubLocation, Unreachable, command, reach

pytestmark = pytest.mark.real


@pytest.fixture
def place():
    """A place of the test's own, whose socket has a short path."""
    with tempfile.TemporaryDirectory(prefix="h-", dir="/tmp") as folder:
        yield HubLocation(folder)


@contextlib.contextmanager
def hubs(place, *answers):
    """Listen there; each connection gets the next answer, or none, and is closed.

    After the last of them nobody listens any more. Gives the list of what was asked.
    """
    asked = []

    def serve():
        with listener:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    asked.append(json.loads(connection.makefile("rb").readline()))
                    # Who has heard enough closes it.
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        connection.sendall(answer)

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(place.sockets()[0]))
    listener.listen()
    listener.settimeout(20)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        thread.join()


def test_hub_that_ends_instead_of_answering_was_the_last(place):
    """Who asks at that instant learns that none runs, not that a connection broke."""
    with hubs(place, b"") as asked:
        assert command(place, {"command": "status"}) is None
    assert asked == [{"command": "status"}]


def test_hub_that_is_there_after_one_has_ended_is_asked(place):
    """Some other process has started it meanwhile."""
    with hubs(place, b"", b'{"pid": 7}\nand more') as asked:
        assert command(place, {"command": "status"}) == {"pid": 7}
    assert asked == [{"command": "status"}] * 2


def test_hubs_that_all_end_are_not_asked_for_ever(place):
    """What is wrong is said in the end."""
    with (
        hubs(place, b"", b'{"pid"', b"") as asked,
        pytest.raises(ConnectionResetError, match="exited before it responded"),
    ):
        command(place, {"command": "status"})
    assert len(asked) == 3


def test_long_answer_is_taken(place):
    """One that names the limits of many lanes has megabytes."""
    answer = {"quotas": ["x" * 100] * 50_000}
    with hubs(place, json.dumps(answer).encode() + b"\n"):
        assert command(place, {"command": "status"}) == answer


def test_answer_without_end_is_refused(place):
    """It says so, and is not taken for a hub that has ended."""
    with (
        hubs(place, b"x" * (65 << 20)) as asked,
        pytest.raises(
            ValueError, match=r"longer than 64 MiB: stop the hub \(aioapiqueue hub stop\)"
        ),
    ):
        command(place, {"command": "status"})
    assert len(asked) == 1


def test_another_time_namespace_is_refused(place):
    """Its clock is not this one, so that grants would come hours early or late."""
    answer = {"welcome": "0", "now": time.monotonic() + 3600, "pid": 1}
    with (
        hubs(place, json.dumps(answer).encode() + b"\n"),
        pytest.raises(SharedError, match=r"another time namespace.*AIOAPIQUEUE_HUB_DIR"),
    ):
        reach({}, override=place.override)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("kill -KILL $$", (Unreachable, "killed while it started")),
        ("kill -TERM $$", (Unreachable, "killed while it started")),
        ("echo no room >&2; exit 1", (SharedError, "cannot be started: no room")),
    ],
)
def test_killed_start_is_no_refusal(place, tmp_path, monkeypatch, ending, expected):
    """A hub that somebody kills as it starts is one that died: callers wait for the next."""
    program = tmp_path / "python3"
    program.write_text(f"#!/bin/sh\n{ending}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    error, words = expected
    with pytest.raises(error, match=words):
        reach({}, override=place.override)


REMEDY = "as the same user id, or set AIOAPIQUEUE_HUB_DIR to a directory of your own"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")
def test_place_of_another_user_is_named(place):
    """The path, whose it is, and what to do; the system says "Permission denied" alone."""
    path = place.sockets()[0]
    os.seteuid(65534)
    try:
        with pytest.raises(SharedError) as caught:
            reach({}, override=place.override)
    finally:
        os.seteuid(0)
    assert str(caught.value).startswith(
        f"the host hub: cannot access {path}: {path.parent} belongs to user id 0, but this "
        "program runs as user id 65534. Run the programs that share a hub "
    )
    assert str(caught.value).endswith(REMEDY)


@pytest.mark.parametrize("seen", ["all", "nothing"])
def test_refused_connection_names_what_can_be_seen(place, monkeypatch, seen):
    """Where all is this user's own, or cannot be looked at, no other user is named."""

    def connect(sock, address):
        raise PermissionError(13, "Permission denied")

    path = place.sockets()[0]
    monkeypatch.setattr(socket.socket, "connect", connect)
    if seen == "nothing":
        path.parent.rmdir()
    try:
        with pytest.raises(PermissionError) as caught:
            command(place, {"command": "status"})
    finally:
        path.parent.mkdir(exist_ok=True)
    start = f"cannot access {path}: user id {os.geteuid()} has no permission. Run the programs "
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(REMEDY)
