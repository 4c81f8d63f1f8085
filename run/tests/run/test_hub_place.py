"""Where the hub's socket lies, and who could put another one there."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

if os.name != "posix":
    pytest.skip("needs Unix domain sockets", allow_module_level=True)

pytestmark = pytest.mark.real

# Lets every call go; says of each connection how many bytes came.
IMPOSTOR = """
import json, os, socket, sys
socket.setdefaulttimeout(10)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
if sys.argv[2:]:
    user = int(sys.argv[2])
    os.setresuid(user, user, user)
listener.listen(100)                            # it is known by who does this
print("listens", flush=True)
while True:
    connection, _ = listener.accept()
    count = 0
    with connection:
        try:
            connection.sendall(b'{"version":1}\\n')
            while heard := connection.recv(65536):
                count += len(heard)
                for line in heard.splitlines():
                    if (message := json.loads(line))["do"] == "ask":
                        connection.sendall(b'{"id":%d,"go":true}\\n' % message["id"])
        except OSError:
            pass
    print(count, flush=True)
"""


def test_impostor_is_sent_nothing(run, aws, python, tmp_path):
    """A program that outlives its hub calls 5 times, while another user listens in its place.

    Other users are made by root alone. For everybody else it is the program that believes to be
    somebody else.
    """
    other = "listens" if os.geteuid() == 0 else "calls"
    result, ready, go = tmp_path / "result", tmp_path / "ready", tmp_path / "go"
    grandchild = run.script(f"""
        ec2 = client()
        open({str(ready)!r}, "w").write(os.environ["AIOAPIQUEUE_HUB"])
        until_exists({str(go)!r})
        if {other!r} == "calls":
            own = os.geteuid()
            os.geteuid = lambda: own + 1
        said = []
        for _ in range(5):
            try:
                ec2.describe_snapshots()
                said.append("sent")
            except Exception as error:
                said.append(f"{{type(error).__name__}}: {{error}}")
        open({str(result)!r} + ".new", "w").write("\\n".join(said))
        os.rename({str(result)!r} + ".new", {str(result)!r})
    """, "grandchild.py")  # fmt: skip
    program = run.plain(f"""
        import subprocess
        subprocess.Popen([sys.executable, {grandchild!r}], stdin=-3, stdout=-3, stderr=-3,
                         start_new_session=True)
        until_exists({str(ready)!r})
    """)
    assert run("--limit", "ec2=50/s", "--", python, program).code == 0
    path = Path(ready.read_text())
    assert not path.parent.exists()

    path.parent.mkdir()
    user = ["65534"] if other == "listens" else []
    with subprocess.Popen(
        [python, "-c", IMPOSTOR, path, *user], stdout=subprocess.PIPE, text=True
    ) as impostor:
        try:
            assert impostor.stdout.readline() == "listens\n"
            go.touch()
            deadline = time.monotonic() + 60
            while not result.exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            received = [impostor.stdout.readline() for _ in range(5)]
        finally:
            impostor.kill()
    shutil.rmtree(path.parent)
    said = result.read_text().splitlines()
    assert len(said) == 5
    for one in said:
        owned = f"PacingError: the call was not sent: the hub's socket {path} belongs to user id "
        assert one.startswith(owned)
        assert ", and this program runs as user id " in one
    assert received == ["0\n"] * 5
    assert aws.arrivals == []


WHERE = """
import os, time
print(os.environ["AIOAPIQUEUE_HUB"], flush=True)
time.sleep(60)
"""


def test_socket_replacing_the_hubs_ends_all(quiet_run, python, stalls):
    """Another socket under the same name is none of ours: exit code 4."""
    with quiet_run.start("--limit", "ec2=5/s", "--", python, "-c", WHERE) as process:
        directory = Path(process.stdout.readline().decode().strip()).parent
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(directory / "new"))
            (directory / "new").rename(directory / "hub.sock")
            other.listen()
            replaced = time.monotonic()
            ended = quiet_run.end(process)
    assert ended.code == 4
    assert time.monotonic() - replaced < 10 + stalls.seconds
    assert re.search(r"the hub's socket \S+ was replaced; the program is stopped", ended.words)
    assert not directory.exists()


def test_folder_moved_away_is_no_traceback(quiet_run, python):
    """Where the whole folder is another, which we may not touch, that is said, and all we say."""
    with quiet_run.start("--limit", "ec2=5/s", "--", python, "-c", WHERE) as process:
        directory = Path(process.stdout.readline().decode().strip()).parent
        away = directory.rename(directory.with_name(f"{directory.name}-away"))
        directory.write_text("not a folder")
        ended = quiet_run.end(process)
    shutil.rmtree(away)
    directory.unlink()
    assert ended.code == 4
    assert "hub.sock is gone; the program is stopped" in ended.words
    assert "Traceback" not in ended.err.decode()


@pytest.fixture
def short():
    """Give a folder whose path is short enough for a socket in it."""
    path = Path(os.path.realpath(tempfile.mkdtemp(prefix="aq-", dir="/tmp")))
    yield path
    shutil.rmtree(path)


def test_tmpdir_writable_by_others_is_refused(quiet_run, python, short):
    """One that lies in a folder of all: exit code 2, what to do, and nothing is started."""
    folder = short / "open"
    inner = folder / "inner"
    inner.mkdir(parents=True)
    folder.chmod(0o777)
    arguments = ("--limit", "ec2=1/s", "--", python, "-c", "print('started')")
    ended = quiet_run(*arguments, env={"TMPDIR": str(inner)})
    assert (ended.code, ended.out) == (2, b"")
    assert "the hub, which paces calls, cannot start: other users could replace" in ended.words
    assert f"{folder} has mode 777, and other users may write to it" in ended.words
    assert "(TMPDIR), or remove their permission: chmod go-w" in ended.words
    assert list(inner.iterdir()) == []
    folder.chmod(0o1777)  # as /tmp
    ended = quiet_run(*arguments, env={"TMPDIR": str(inner)})
    assert (ended.code, ended.out) == (0, b"started\n")
