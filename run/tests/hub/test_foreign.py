import asyncio
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers import introspect

pytestmark = pytest.mark.real

SYNC = """
import concurrent.futures, importlib.util, sys
assert importlib.util.find_spec("aioapiqueue") is None
assert importlib.util.find_spec("anyio") is None or "aiobotocore" in sys.argv
if importlib.util.find_spec("boto3"):
    import boto3
    sts = boto3.client("sts")
else:
    import botocore.session
    sts = botocore.session.get_session().create_client("sts")
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda _: sts.get_caller_identity(), range(12)))
"""
AIO = """
import asyncio
from aiobotocore.session import get_session
async def main():
    async with get_session().create_client("sts") as sts:
        await asyncio.gather(*(sts.get_caller_identity() for _ in range(12)))
asyncio.run(main())
"""
SIDE_BY_SIDE = 0.25
"""How long the last of twelve green threads waits at least, in seconds, at 20 per second.

It waits 0.55 s, less the time that the program takes to sign twelve calls. If they blocked each
other, none would wait longer than 0.05 s.
"""


def interpreter(version):
    """Return the Python of a version, or skip the test."""
    installed = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    found = shutil.which(f"python{version}", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    for candidate in (*map(str, installed), found):
        if candidate is not None:
            return candidate
    pytest.skip(f"no Python {version} on this machine")


async def paced(bench, tools, python, source, *, botocore=None, **environment):
    """Run a program under a hub, and check that its twelve calls came at 20 per second."""
    async with bench.hub({"sts": "20/s"}) as hub:
        code, out, err = await bench.run(source, hub, python=python, **environment)
        assert (code, out) == (0, ""), err
        assert hub.figures[0].calls == len(bench.loopback.arrivals) == 12
        bench.assert_paced(20)
        process = list(hub.processes.values())[-1]
        assert process.python.startswith(environment.get("VERSION", ""))
        assert process.botocore is not None
        assert botocore is None or process.botocore.startswith(botocore)
        await tools.until(lambda: introspect.requests_of(hub) == 0)


async def test_python_without_our_packages(bench, tools):
    """A program on the newest Python, which has botocore and nothing of ours, is paced."""
    if sys.version_info[:2] == (3, 13):
        pytest.skip("this is that Python")
    python = interpreter("3.13")
    packages = bench.directory / "packages"
    packages.mkdir()
    for name in ("botocore", "jmespath", "dateutil", "urllib3", "six"):
        origin = Path(importlib.util.find_spec(name).origin)
        origin = origin if name == "six" else origin.parent
        (packages / origin.name).symlink_to(origin)
    path = f"{tools.BOOTSTRAP}:{packages}"
    await paced(bench, tools, python, SYNC, PYTHONPATH=path, VERSION="3.13")


@pytest.fixture(scope="session")
def environments(tmp_path_factory):
    """Give `make(version, *requirements)`, which makes environments, each of them once."""
    root = tmp_path_factory.mktemp("environments")
    made = {}

    async def run(*command):
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(300):
            _, err = await process.communicate()
        assert process.returncode == 0, err.decode()

    async def make(version, *requirements):
        if (version, requirements) not in made:
            uv = shutil.which("uv") or pytest.skip("uv makes the environments")
            home = root / str(len(made))
            await run(uv, "venv", "-q", "--python", interpreter(version), str(home))
            await run(uv, "pip", "install", "-q", "--python", str(home), *requirements)
            made[version, requirements] = str(home / "bin" / "python")
        return made[version, requirements]

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        ("3.9", "botocore==1.31.0", "1.31.0"),
        ("3.9", "boto3==1.35.68", "1.35."),  # of November 2024
        ("3.9", "boto3", "1."),  # the newest that still supports it
        ("3.10", "boto3", "1."),
        ("3.12", "boto3==1.35.68", "1.35."),
        ("3.13", "boto3", "1."),
    ],
)
async def test_foreign_boto3_is_paced(bench, tools, environments, case):
    """The same script is paced on old and new Pythons, with old and new botocores."""
    version, requirement, botocore = case
    python = await environments(version, requirement)
    await paced(bench, tools, python, SYNC, botocore=botocore, VERSION=version)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        ("3.9", "aiobotocore==2.6.0", "1.31."),
        ("3.9", "aiobotocore==2.15.2", "1.35."),  # of October 2024
        ("3.13", "aiobotocore", "1."),
    ],
)
async def test_foreign_aiobotocore_is_paced(bench, tools, environments, case):
    """A script of aiobotocore is paced on old and new Pythons, from botocore 1.31 on."""
    version, requirement, botocore = case
    python = await environments(version, requirement)
    await paced(bench, tools, python, AIO, botocore=botocore, VERSION=version)


@pytest.mark.slow
async def test_gevent_stops_no_other_greenlet(bench, tools, environments):
    """In a program patched by gevent, greenlets wait for their turns side by side."""
    python = await environments("3.12", "botocore", "gevent")
    source = """
        from gevent import monkey; monkey.patch_all()
        import gevent, time, botocore.session
        sts = botocore.session.get_session().create_client("sts")
        ticks = []
        def tick():
            while True:
                ticks.append(time.monotonic())
                gevent.sleep(0.01)
        ticker = gevent.spawn(tick)
        calls = [gevent.spawn(sts.get_caller_identity) for _ in range(12)]
        gevent.joinall(calls, raise_error=True)
        ticker.kill()
        longest = max(b - a for a, b in zip(ticks, ticks[1:]))
        assert longest < 0.25, longest              # blocked, it would be at least 0.5
    """
    limits = {"sts": {"rate": "20/s", "concurrency": 1}}
    async with bench.hub(limits) as hub:
        assert await bench.run(source, hub, python=python) == (0, "", "")
        assert hub.figures[0].calls == 12
        assert hub.figures[0].longest_wait > SIDE_BY_SIDE


@pytest.mark.slow
async def test_eventlet_program_is_paced(bench, tools, environments):
    """In a program patched by eventlet, green threads wait for their turns, and no other way."""
    python = await environments("3.12", "botocore", "eventlet")
    source = """
        import warnings; warnings.simplefilter("ignore")
        import eventlet; eventlet.monkey_patch()
        import botocore.session
        sts = botocore.session.get_session().create_client("sts")
        pool = eventlet.GreenPool(12)
        list(pool.imap(lambda _: sts.get_caller_identity(), range(12)))
    """
    async with bench.hub({"sts": {"rate": "20/s", "concurrency": 1}}) as hub:
        code, _, err = await bench.run(source, hub, python=python)
        assert code == 0, err
        assert hub.figures[0].calls == 12
        assert hub.figures[0].longest_wait > SIDE_BY_SIDE
