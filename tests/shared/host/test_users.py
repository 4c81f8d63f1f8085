"""The hub in its real place: found from anywhere by one user, and by nobody else."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from aioapiqueue.schedules.spi import HUB_DIR
from tests.helpers import introspect
from tests.helpers.hubs import hub_in_use, processes_of
from tests.helpers.modules import ROOT

pytestmark = [pytest.mark.real, pytest.mark.slow]

OTHERS = (65534, 54321)
"""`nobody`, and one without an entry in /etc/passwd, as in containers."""
USE = """
import asyncio, json
from aioapiqueue import ApiQueue, HostSchedule
from aioapiqueue.schedules.spi import HubLocation, command
async def main():
    queue = ApiQueue("100 in any 1h", schedule=HostSchedule("users"))
    async with queue.slot():
        status = await asyncio.to_thread(command, HubLocation(), {"command": "status"})
    await queue.aclose()
    (quota,) = [one for one in status["quotas"] if one["name"] == "users"]
    print(json.dumps([status["pid"], quota["started"], status["socket"]]))
asyncio.run(main())
"""
INTRUDE = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(sys.argv[1])
except PermissionError:
    print("refused")
"""
STOP = "from aioapiqueue.schedules.spi import HubLocation, command; "
STOP += 'command(HubLocation(), {"command": "reset", "quota": "users"}); '
STOP += 'print(command(HubLocation(), {"command": "stop"})["pid"])'


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")
def test_one_hub_for_each_user():
    """A login shell and a process without environment share; another user has its own."""
    python = _python_for_all()
    with tempfile.TemporaryDirectory(prefix="users-", dir="/tmp") as folder:
        packages = Path(folder)
        packages.chmod(0o755)
        for name in ("aioapiqueue", "anyio", "idna", "typing_extensions", "sniffio"):
            _copy(name, packages)

        def run(code, *arguments, user=None, login=False):
            code = f"import sys; sys.path.insert(0, {folder!r})\n{code}"
            command = [python, "-c", code, *arguments]
            variables = {}
            if login:
                command = ["/bin/bash", "-lc", 'exec "$@"', "login", *command]
                variables = os.environ | {"AWS_SECRET_ACCESS_KEY": "x"}
                variables.pop(HUB_DIR)
            groups = None if user is None else []
            ended = subprocess.run(
                command,
                env=variables,
                cwd="/",
                user=user,
                group=user,
                extra_groups=groups,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            return ended.stdout

        try:
            first, started, socket = json.loads(run(USE, login=True))
            assert started == 1
            second, started, _ = json.loads(run(USE))
            assert (second, started) == (first, 2)
            for user in OTHERS:
                other, started, theirs = json.loads(run(USE, user=user))
                assert other != first
                assert (started, Path(theirs).parent.name) == (1, f"aioapiqueue-{user}")
                assert run(INTRUDE, socket, user=user) == "refused\n"
            assert (Path(f"/proc/{first}/environ")).read_bytes() == b""
        finally:
            run(STOP)
            for user in OTHERS:
                run(STOP, user=user)


def test_forgetful_test_is_noticed():
    """One that has lost the variable of the tests fails; a hub that others start fails none."""
    if processes_of(None):
        pytest.skip("this user has a hub")
    variables = {name: value for name, value in os.environ.items() if name != HUB_DIR}
    command = [sys.executable, "-c", introspect.START_HUB]

    def neighbour():  # another run of tests has another mark, and all else has none
        most = resource.getrlimit(resource.RLIMIT_RSS)[1] - 1
        resource.setrlimit(resource.RLIMIT_RSS, (most, most))

    try:
        with pytest.raises(AssertionError, match="own place"), hub_in_use():
            subprocess.run(command, env=variables, check=True)
        end_hub(variables)
        with hub_in_use():
            subprocess.run(command, env=variables, check=True, preexec_fn=neighbour)
            assert processes_of(None)
    finally:
        end_hub(variables)


def end_hub(variables):
    """End the hub in the user's own place, and wait for its end."""
    ended = "from aioapiqueue.schedules.spi import HubLocation, command; "
    ended += 'command(HubLocation(), {"command": "stop"})'
    subprocess.run([sys.executable, "-c", ended], env=variables, check=True)
    while processes_of(None):
        time.sleep(0.01)


def _python_for_all():
    """Return a Python that every user may execute, with what aioapiqueue needs of it."""
    for name in ("python3.11", "python3.12", "python3.13"):
        path = Path("/usr/bin", name)
        if path.exists():
            return str(path)
    return pytest.fail("no Python in /usr/bin: apt-get install python3")


def _copy(name, folder):
    """Copy a package to where every user can read it."""
    if name == "aioapiqueue":
        shutil.copytree(ROOT / name, folder / name)
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return
    origin = Path(spec.origin)
    if origin.name == "__init__.py":
        shutil.copytree(origin.parent, folder / name)
    else:
        shutil.copy(origin, folder)
