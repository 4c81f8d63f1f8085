"""The peer of a local socket: hubs and their clients refuse other users' processes."""

import os
import socket
import sys

import pytest

from tests.helpers import introspect

peer_of = introspect.local_sockets().peer_of


class Answering:
    """A socket whose options all have one value."""

    def __init__(self, value):
        self.value = value

    def getsockopt(self, _level, _option, length):
        """Return the value, as the kernel does for a buffer of this length."""
        return self.value[:length]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no process id")
def test_peer_is_this_process():
    """The kernel knows which process has made the socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == (os.geteuid(), os.getpid())


@pytest.mark.parametrize("system", ["darwin", "freebsd14", "dragonfly6"])
def test_peer_on_macos_and_bsd(system, monkeypatch):
    """LOCAL_PEERCRED has the user id in the second field of 32 bits, and no process id."""
    xucred = b"".join(one.to_bytes(4, sys.byteorder) for one in (0, 501, 1, 20)) + bytes(60)
    monkeypatch.setattr(sys, "platform", system)
    assert peer_of(Answering(xucred)) == (501, None)


def test_peer_is_unknown_elsewhere(monkeypatch):
    """Only the private directory protects the socket."""
    monkeypatch.setattr(sys, "platform", "netbsd10")
    assert peer_of(Answering(b"")) == (None, None)
