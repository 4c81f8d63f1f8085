"""What the page on deployment says of CI, containers and services."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.waiting import PATIENCE

PAGE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text("utf-8")
WORKER = """
import asyncio, os, time
from aioapiqueue import ApiQueue, HostSchedule

async def main():
    queue = ApiQueue("10/s", schedule=HostSchedule("crm"))
    for _ in range(4):
        async with queue.slot():
            print(time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)

assert os.getpid() < 10  # in a namespace of its own
asyncio.run(main())
"""
CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--mount", "--net", "--ipc", "--uts")


def blocks(language):
    """Return what the page has in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_yaml_can_be_read():
    """The workflow, the services and the pod, with the keys that matter in each."""
    workflow, services, pod = map(yaml.safe_load, blocks("yaml"))
    steps = workflow["jobs"]["scan"]["steps"]
    assert [step["if"] for step in steps if "upload-artifact" in step.get("uses", "")] == [
        "always()"
    ]
    [report] = [step["with"]["path"] for step in steps if "path" in step.get("with", {})]
    assert any(f"--report {report}" in step.get("run", "") for step in steps)
    places = {volume for one in services["services"].values() for volume in one["volumes"]}
    [(name, folder)] = [place.split(":") for place in places]
    assert name in services["volumes"]
    [dockerfile] = blocks("dockerfile")
    assert f"ENV AIOAPIQUEUE_HUB_DIR={folder}\n" in dockerfile
    assert f"--mode 0700 {folder}\n" in dockerfile
    [secret] = pod["containers"][0]["env"]
    assert f'os.environ.get("{secret["name"]}", ' in PAGE


@pytest.mark.real
@pytest.mark.posix
def test_containers_share_a_directory(tmp_path):
    """Processes that see neither each other nor one network share a limit by it, as on a volume."""
    hub = tmp_path / "hub"
    hub.mkdir(mode=0o700)
    command = [*CONTAINER, *(() if os.geteuid() == 0 else ("--map-root-user",))]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces may be made here")
    workers = [
        subprocess.Popen(
            [*command, sys.executable, "-c", WORKER],
            env=os.environ | {"AIOAPIQUEUE_HUB_DIR": str(hub)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    instants = []
    for worker in workers:
        output, errors = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0, errors
        instants += map(float, output.split())
    assert len(instants) == 8
    assert max(instants) - min(instants) > 0.7 - 0.05
