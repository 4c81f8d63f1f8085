"""The gateway beside users of this host who are not the run's."""

from __future__ import annotations

import os
import subprocess

import pytest

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
if os.geteuid() == 0:
    os.setuid(65534)
held = []
for _ in range(700):
    held.append(socket.create_connection(address, timeout=5))
    with contextlib.suppress(ConnectionError):  # closed already
        held[-1].sendall(b"GET ")
done.write("700")
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


def test_strangers_cannot_occupy_it(paced, run, python):
    """700 connections without the password, where it may open 512 files: the program goes on."""
    (run.folder / "calls.py").write_text(CALLS)
    run.within = lambda command: ["sh", "-c", 'ulimit -n 512; exec "$@"', "sh", *command]
    attack = [python, "-c", OCCUPIES, run.folder]
    with subprocess.Popen(attack, stdin=subprocess.PIPE) as attacker:
        try:
            ended, _ = paced(python, run.folder / "calls.py", run.folder)
            assert attacker.poll() is None
        finally:
            attacker.stdin.close()
            attacker.kill()
    assert ended.out.decode().splitlines() == ["200 True"] * 5, ended.err
