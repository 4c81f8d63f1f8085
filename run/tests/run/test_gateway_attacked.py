"""The gateway beside users of this host who are not the run's, and where /proc is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.aws_programs import CURL, as_monotonic, assert_none_early, calls_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="needs Unix domain sockets"),
]

# Waits for the port; then opens connections, as another user where it can, and holds them.
OCCUPIES = """
import contextlib, encodings.idna, os, socket, sys, time
folder = sys.argv[1]
while not os.path.exists(f"{folder}/port"):
    time.sleep(0.02)
with open(f"{folder}/port") as file:
    address = ("127.0.0.1", int(file.read()))
done = open(f"{folder}/occupied.new", "w")
os.rename(f"{folder}/occupied.new", f"{folder}/occupying")
if os.geteuid() == 0 and sys.argv[2] == "another":
    os.setuid(65534)
held = []
for _ in range(300):
    held.append(socket.create_connection(address, timeout=5))
    with contextlib.suppress(ConnectionError):  # closed already
        held[-1].sendall(b"GET ")
done.write("300")
done.close()
sys.stdin.read()
"""
CALLS = """
import os, sys, time, urllib.request
from urllib.parse import urlsplit
folder = sys.argv[1]
with open(f"{folder}/port.new", "w") as file:
    file.write(str(urlsplit(os.environ["HTTPS_PROXY"]).port))
os.rename(f"{folder}/port.new", f"{folder}/port")
while not os.path.exists(f"{folder}/occupying") or not os.path.getsize(f"{folder}/occupying"):
    time.sleep(0.02)
for _ in range(5):
    began = time.monotonic()
    answer = urllib.request.urlopen("http://example.com/x", timeout=6)
    print(answer.status, time.monotonic() - began < 3)
"""


@pytest.mark.flaky(reruns=2)  # that a call takes less than three seconds is real time
@pytest.mark.parametrize("user", ["another", "the same"])
def test_strangers_cannot_occupy_it(paced, run, python, user):
    """300 connections without the password, where it may open 256 files: the program goes on."""
    (run.folder / "calls.py").write_text(CALLS)
    run.within = lambda command: ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *command]
    attack = [python, "-c", OCCUPIES, run.folder, user]
    with subprocess.Popen(attack, stdin=subprocess.PIPE) as attacker:
        try:
            ended, _ = paced(python, run.folder / "calls.py", run.folder)
            assert attacker.poll() is None
        finally:
            attacker.stdin.close()
            attacker.kill()
    assert ended.out.decode().splitlines() == ["200 True"] * 5, ended.err


BURST = """
import base64, os, socket, time, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
user = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
made = [socket.create_connection((proxy.hostname, proxy.port), timeout=20) for _ in range(200)]
time.sleep(0.4)
head = f"Host: example.com\\r\\nProxy-Authorization: Basic {user}"
for one in made:
    one.sendall(f"GET http://example.com/x HTTP/1.1\\r\\n{head}\\r\\n\\r\\n".encode())
print(sum(one.recv(12) == b"HTTP/1.1 200" for one in made))
"""


def test_many_connections_at_once_are_served(paced, run, python):
    """A program makes 200 before its first request, where 128 may be without the password."""
    (run.folder / "burst.py").write_text(BURST)
    run.within = lambda command: ["sh", "-c", 'ulimit -n 512; exec "$@"', "sh", *command]
    ended, _ = paced(python, run.folder / "burst.py")
    assert (ended.code, ended.out) == (0, b"200\n"), ended.err


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="hides /proc in a mount namespace, as root can",
)
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_without_proc(paced, network, run, temporary):
    """As in some chroots: calls are paced, and no key is left in a file."""
    hide = 'mount -t tmpfs none /proc && exec "$@"'
    run.within = lambda command: ["unshare", "--mount", "sh", "-c", hide, "sh", *command]
    script = run.folder / "calls.sh"
    three = "\n".join([CURL] * 3)
    script.write_text(f"test ! -e /proc/self || exit 9\ndate +%s.%N\n{three}\n")
    ended, figures = paced("sh", script, limit="ec2=2/s")
    assert ended.code == 0, ended.err
    began, *answers = ended.out.split()
    assert answers == [b"200"] * 3
    came = [one.at for one in network.aws.arrivals]
    assert_none_early(came, 0.5, begun=as_monotonic(began))
    assert not network.aws.wrong
    assert calls_of(figures) == {"ec2.DescribeVolumes": 3}
    assert not run.leftovers


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="hides /proc in a mount namespace, as root can",
)
def test_isolation_without_proc(paced, network, run):
    """It needs /proc, and says so before anything is started."""
    hide = 'mount -t tmpfs none /proc && exec "$@"'
    run.within = lambda command: ["unshare", "--mount", "sh", "-c", hide, "sh", *command]
    ended, _ = paced("sh", "-c", "echo started", options=["--isolate"])
    assert (ended.code, ended.out) == (2, b"")
    assert "/proc/self/environ" in ended.words
    assert "nothing was started" in ended.words
