import ast
import asyncio
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aioapiqueue.registry import parameter_counts
from aioapiqueue_run.hub import protocol as _protocol
from tests.helpers import introspect
from tests.helpers.measured import COVERAGE

pytestmark = pytest.mark.real

# A client of a small service, without boto3: quick to import.
SYNC = """
import botocore.session
sts = botocore.session.get_session().create_client("sts")
"""
AIO = """
import asyncio
from aiobotocore.session import get_session
"""


async def test_interpreter_reports_hello_hooked_bye(bench, tools):
    """A program that uses botocore is known with its versions, and that it ended well."""
    async with bench.hub({}) as hub:
        code, out, err = await bench.run("import botocore; print(botocore.__version__)", hub)
        assert (code, err) == (0, "")
        code, _, err = await bench.run(SYNC, hub)
        assert (code, err) == (0, "")
        # Its last words may still be on their way.
        await tools.until(lambda: sum(bool(one.ended) for one in hub.processes.values()) == 2)
        plain, hooked = hub.processes.values()
    assert plain.executable == sys.executable
    assert plain.python == ".".join(map(str, sys.version_info[:3]))
    assert (plain.botocore, plain.exited) == (None, True)
    assert (hooked.botocore, hooked.exited) == (out.strip(), True)


async def test_reports_outlive_the_program(bench, tools):
    """A hub that is busy while a program comes and goes knows of it what it would have known."""
    async with bench.hub({}) as hub:
        subprocess.run(  # noqa: ASYNC221 - the hub's loop is to stand still meanwhile
            [sys.executable, "-c", "import botocore.client"],
            env=bench.environment | hub.environment,
            check=True,
        )
        assert not hub.processes
        await tools.until(lambda: any(process.ended for process in hub.processes.values()))
        (process,) = hub.processes.values()
    assert process.botocore is not None
    assert process.exited


async def test_killed_program_has_not_exited(bench, tools):
    """A killed process has ended, but did not exit."""
    async with bench.hub({}) as hub:
        program = await bench.start("import time; time.sleep(60)", hub)
        await tools.until(lambda: program.pid in hub.processes)
        process = hub.processes[program.pid]
        program.process.kill()
        await tools.until(lambda: process.ended is not None)
        assert not process.exited


async def test_start_imports_little(bench, monkeypatch):
    """What the bootstrap imports at the start are built-in and extension modules."""
    monkeypatch.delenv(COVERAGE, raising=False)  # which imports them before
    async with bench.hub({}) as hub:
        source = "import sys; print(*sorted(sys.modules))"
        _, without, _ = await bench.run(source, None)
        _, having, err = await bench.run(source, hub)
        assert err == ""
        more = set(having.split()) - set(without.split())
        builtin = {"__future__", "_socket", "_json", "atexit", "_thread", "time"}
        allowed = builtin | {"sitecustomize", "_aioapiqueue"}
        assert more <= allowed
        assert "_socket" in more


def test_bootstrap_is_plain_python_39(tools):
    """The bootstrap has the syntax of Python 3.9, and imports the standard library only."""
    files = [*tools.BOOTSTRAP.rglob("*.py")]
    assert len(files) > 5
    for file in files:
        tree = ast.parse(file.read_text(), feature_version=(3, 9))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        names = {alias.name for node in imports for alias in node.names}
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names |= {node.module for node in froms if not node.level}
        names = {name.partition(".")[0] for name in names}
        assert names <= sys.stdlib_module_names | {"_aioapiqueue", "sitecustomize"}, file


def test_bootstrap_has_the_same_check(tools):
    """It cannot import aioapiqueue in other programs, so it has a copy of `peer_of`."""
    entry = tools.BOOTSTRAP / "_aioapiqueue" / "__init__.py"
    assert inspect.getsource(introspect.local_sockets().peer_of) in entry.read_text("utf-8")


def test_bootstrap_has_a_copy_of_the_registry(tools):
    """It reads calls of botocore as the registry does, and needs no other file of aioapiqueue."""
    original = Path(inspect.getfile(parameter_counts))
    copy = tools.BOOTSTRAP / "_aioapiqueue" / original.name
    assert copy.read_bytes() == original.read_bytes()


@pytest.mark.parametrize("body", ["print('theirs')", "import errno; errno.nosuch"])
async def test_next_sitecustomize_is_imported(bench, tools, body):
    """The next sitecustomize runs once, has the name, and may fail, as if ours did not exist."""
    theirs = bench.directory / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text(body)
    source = """
        import sys
        module = sys.modules.get("sitecustomize")
        print(module and module.__file__, *[entry for entry in sys.path if "theirs" in entry])
    """
    code, out, err = await bench.run(source, None, PYTHONPATH=str(theirs))
    async with bench.hub({}) as hub:
        ours = os.pathsep.join([str(tools.BOOTSTRAP), str(theirs)])
        assert await bench.run(source, hub, PYTHONPATH=ours) == (code, out, err)
        assert ("theirs" in out, "Error in sitecustomize" in err) == (True, "errno" in body)
        await tools.until(lambda: hub.processes)
        assert len(hub.processes) == 1


async def test_ours_stays_without_another_sitecustomize(bench, tools):
    """Ours stays in sys.modules and on sys.path, for programs that give that to their children."""
    if (await bench.run("import sitecustomize", None))[0] == 0:
        pytest.skip("this Python has a sitecustomize of its own, as Debian's has")
    async with bench.hub({}) as hub:
        source = "import sys; print(sys.modules['sitecustomize'].__file__, sys.path[1])"
        code, out, err = await bench.run(source, hub)
        assert (code, err) == (0, "")
        assert out.split() == [str(tools.BOOTSTRAP / "sitecustomize.py"), str(tools.BOOTSTRAP)]


async def test_second_copy_only_chains(bench, tools):
    """A second copy of the bootstrap, from another installation, does nothing but chain."""
    copy = bench.directory / "copy"
    copy.mkdir()
    (copy / "sitecustomize.py").write_text((tools.BOOTSTRAP / "sitecustomize.py").read_text())
    async with bench.hub({"sts": "1000/s"}) as hub:
        path = os.pathsep.join([str(tools.BOOTSTRAP), str(copy)])
        source = SYNC + "sts.get_caller_identity()"
        assert await bench.run(source, hub, PYTHONPATH=path) == (0, "", "")
        assert len(hub.processes) == 1
        assert hub.figures[0].calls == 1


async def test_nothing_happens_without_a_hub(bench, tools):
    """The bootstrap alone, without AIOAPIQUEUE_HUB, paces nothing and hooks nothing."""
    source = SYNC + "import sys; sts.get_caller_identity(); print(len(sys.meta_path))"
    plain = await bench.run(source, None)
    assert plain[0] == 0
    assert await bench.run(source, None, PYTHONPATH=str(tools.BOOTSTRAP)) == plain


async def test_isolated_interpreter_is_unknown(bench):
    """`python -I` says no hello: which is how the hub's owner can tell that it is not paced."""
    async with bench.hub({}) as hub:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", "", env=hub.environment
        )
        assert await process.wait() == 0
        assert not hub.processes


@pytest.mark.parametrize("package", ["botocore", "awscli/botocore"])
async def test_unhookable_botocore_cannot_be_imported(bench, tools, package):
    """Where the class of all clients is missing, the import says that nothing would be paced."""
    folder = bench.directory / package
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "client.py").touch()
    name = package.replace("/", ".")
    async with bench.hub({}) as hub:
        code, _, err = await bench.run(f"import {name}.client", hub)
        assert code == 1
        assert f"ImportError: aioapiqueue cannot pace {name}.client" in err
        # The AWS CLI's own botocore is one under another name.
        (folder / "client.py").write_text("class BaseClient: pass")
        (folder / "__init__.py").write_text("__version__ = '1.99.0'")
        assert await bench.run(f"import {name}.client", hub) == (0, "", "")
        # Its last words may still be on their way.
        await tools.until(
            lambda: [process.botocore for process in hub.processes.values()] == [None, "1.99.0"]
        )


async def test_attempts_wait_before_signing(bench):
    """Retries wait as first tries do, from any thread, and no signature grows old."""
    answers = iter([bench.loopback.THROTTLED] * 2)
    plain = bench.loopback.answer
    bench.loopback.answer = lambda arrival: next(answers, None) or plain(arrival)
    source = """
        import botocore.session, concurrent.futures
        from botocore.config import Config
        sts = botocore.session.get_session().create_client(
            "sts", config=Config(retries={"mode": "standard", "max_attempts": 5})
        )
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda _: sts.get_caller_identity(), range(12)))
    """
    async with bench.hub({"sts": "10/s"}) as hub:
        assert await bench.run(source, hub) == (0, "", "")
        figure = hub.figures[0]
    assert len(bench.loopback.arrivals) == 14
    assert (figure.calls, figure.throttled, figure.errors) == (14, 2, 0)
    assert (figure.waiting, figure.running) == (0, 0)
    assert (figure.service, figure.operation) == ("sts", "GetCallerIdentity")
    assert (figure.region, figure.account) == ("eu-west-1", "AKIAIOSFODNN7EXAMPLE")
    bench.assert_paced(10)
    # A whole second is what X-Amz-Date counts; the last of them waits for longer.
    signed = sorted(arrival.at - arrival.signature_age for arrival in bench.loopback.arrivals)
    assert all(at + 1 > let_go for at, let_go in zip(signed, bench.released, strict=True))


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_unreadable_answer_is_counted(bench, asynchronous):
    """An error page is an error, with status 429 a throttle, although botocore emits no event."""
    source = SYNC + "sts.get_caller_identity()"
    if asynchronous:
        # Caught: CPython 3.12.1 crashes at its end while a traceback has an XML parser (gh-111784).
        source = f"""{AIO}
import botocore.parsers, sys
async def main():
    async with get_session().create_client("sts") as sts:
        try:
            await sts.get_caller_identity()
        except botocore.parsers.ResponseParserError as error:
            return type(error).__name__
sys.exit(asyncio.run(main()))
"""
    async with bench.hub({"sts": "5/s"}) as hub:
        for status in (400, 429):
            bench.loopback.answer = lambda _, status=status: (status, "", "<html>busy</p>")
            code, _, err = await bench.run(source, hub)
            assert code == 1
            assert "ResponseParserError" in err
        figure = hub.figures[0]
        assert (figure.calls, figure.throttled, figure.errors) == (2, 1, 1)


async def test_aiobotocore_waits_without_blocking_its_loop(bench):
    """Tasks on one loop are paced over one connection while the loop goes on, as threads do."""
    source = (
        AIO
        + """
import threading, time
worst = {"loop": 0, "thread": 0}
def note(who, before):
    worst[who] = max(worst[who], time.monotonic() - before)
async def main():
    async with get_session().create_client("sts") as sts:
        await sts.get_caller_identity()
        calls = asyncio.gather(*(sts.get_caller_identity() for _ in range(10)))
        def nap():
            while not calls.done():
                before = time.monotonic()
                time.sleep(0.01)
                note("thread", before)
        thread = threading.Thread(target=nap)
        thread.start()
        while not calls.done():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            note("loop", before)
        await calls
        thread.join()
        print(worst["loop"] - worst["thread"])
asyncio.run(main())
"""
    )
    async with bench.hub({"sts": "12/s"}) as hub:
        code, out, err = await bench.run(source, hub)
        assert (code, err) == (0, "")
        assert float(out) < 0.4  # blocked, it would be 0.8, and a stall is the thread's, too
        figure = hub.figures[0]
        assert (figure.calls, figure.waiting, figure.running) == (11, 0, 0)
    bench.assert_paced(12)


async def test_cancelled_task_gives_everything_back(bench, tools):
    """A task that is cancelled in flight frees its permit at once, one that waits uses no slot."""
    bench.loopback.answer = lambda _: None
    source = (
        AIO
        + """
import os
async def seen(name):
    while not os.path.exists(name):
        await asyncio.sleep(0.01)
async def main():
    async with get_session().create_client("sts") as sts:
        flies, waits, last = [asyncio.create_task(sts.get_caller_identity()) for _ in range(3)]
        await seen("one")
        flies.cancel()
        waits.cancel()
        await asyncio.wait([flies, waits])
        print(flies.cancelled(), waits.cancelled(), flush=True)
        await seen("two")
        last.cancel()
        await asyncio.wait([last])
asyncio.run(main())
"""
    )
    async with bench.hub({"sts": {"rate": "1000/s", "concurrency": 1}}) as hub:
        program = await bench.start(source, hub)
        await tools.until(lambda: len(bench.loopback.arrivals) == 1)
        await tools.until(lambda: hub.figures[0].waiting == 2)
        (bench.directory / "one").touch()
        assert await program.line() == "True True"
        await tools.until(lambda: len(bench.loopback.arrivals) == 2)
        assert (hub.figures[0].calls, hub.figures[0].waiting, hub.figures[0].running) == (2, 0, 1)
        (bench.directory / "two").touch()
        assert await program.end() == ("", "")
        await tools.until(lambda: introspect.requests_of(hub) == 0)
        assert hub.figures[0].errors == 0


async def test_ctrl_c_leaves_the_queue(bench, tools):
    """A KeyboardInterrupt reaches a call that waits, and the next call waits behind nobody."""
    source = (
        SYNC
        + """
sts.get_caller_identity()
try:
    sts.get_caller_identity()
except KeyboardInterrupt:
    print("interrupted", flush=True)
sts.get_caller_identity()
"""
    )
    async with bench.hub({"sts": "1/h"}) as hub:
        program = await bench.start(source, hub)
        await tools.until(lambda: hub.figures and hub.figures[0].waiting == 1)
        program.process.send_signal(signal.SIGINT)
        assert await program.line() == "interrupted"
        await tools.until(lambda: (introspect.requests_of(hub), hub.figures[0].waiting) == (1, 1))
        [queue] = bench.registry.queues.values()
        queue.set_rate("1000/s")
        assert await program.end() == ("", "")
        assert (hub.figures[0].calls, hub.figures[0].waiting) == (2, 0)
    assert len(bench.released) == len(bench.loopback.arrivals) == 2


async def test_access_key_is_read_each_time(bench, tools):
    """A client whose credentials change is counted by the new ones, and no secret is sent."""
    source = """
        import botocore.session
        from botocore.credentials import RefreshableCredentials
        from datetime import datetime, timedelta, timezone
        refreshed = []
        def refresh():
            refreshed.append(1)
            key = ["ASIAQNZGKIQY56JQ7WML", "AKIAIOSFODNN7EXAMPLE"][len(refreshed) - 1]
            expires = datetime.now(timezone.utc) + timedelta(seconds=[1, 9999][len(refreshed) - 1])
            return dict(access_key=key, secret_key="hidden", token="hidden",
                        expiry_time=expires.isoformat())
        session = botocore.session.get_session()
        session._credentials = RefreshableCredentials.create_from_metadata(
            refresh(), refresh, "test")
        sts = session.create_client("sts")
        for _ in range(3):
            sts.get_caller_identity()
        print(len(refreshed))
    """
    async with bench.hub({}) as hub:
        code, out, err = await bench.run(source, hub)
        assert (code, err) == (0, "")
        accounts = {figure.account: figure.calls for figure in hub.figures}
    # The first attempt knows the old key, as the refresh is botocore's, when it signs.
    assert accounts == {"029608264753": 1, "AKIAIOSFODNN7EXAMPLE": 2}
    assert out == "2\n"


ROLE = """
import botocore.session
client = botocore.session.Session(profile="role").create_client("sts")
client.get_caller_identity()
client.get_caller_identity()
"""
ROLE_AIO = (
    AIO
    + """
async def main():
    from aiobotocore.session import AioSession
    async with AioSession(profile="role").create_client("sts") as client:
        await client.get_caller_identity()
        await client.get_caller_identity()
asyncio.run(main())
"""
)


@pytest.mark.parametrize("key", ["ASIAQNZGKIQY56JQ7WML", "ASIAIOSFODNN7EXAMPLE"])
@pytest.mark.parametrize("source", [ROLE, ROLE_AIO], ids=["botocore", "aiobotocore"])
async def test_role_is_known_by_its_arn(bench, tools, source, key):
    """The first call of an assumed role counts for the role's account, as the later ones do."""
    plain = bench.loopback.answer
    role = (
        "<AssumeRoleResponse><AssumeRoleResult><Credentials>"
        f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
        "<SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
        "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )

    def answer(arrival):
        return (200, "", role) if arrival.action == "AssumeRole" else plain(arrival)

    bench.loopback.answer = answer
    config = bench.directory / "config"
    config.write_text(
        "[profile role]\nrole_arn = arn:aws:iam::029608264753:role/reader\n"
        "credential_source = Environment\nregion = eu-west-1\n"
    )
    # With one place, the call that needs the role would otherwise wait for itself.
    limits = {"sts": {"rate": "1000/s", "concurrency": 1, "scope": []}}
    async with bench.hub(limits) as hub:
        assert await bench.run(source, hub, AWS_CONFIG_FILE=str(config)) == (0, "", "")
        calls = {(figure.operation, figure.account): figure.calls for figure in hub.figures}
    assert calls == {
        ("GetCallerIdentity", "029608264753"): 2,
        ("AssumeRole", "AKIAIOSFODNN7EXAMPLE"): 1,
    }
    assert [arrival.action for arrival in bench.loopback.arrivals] == [
        "AssumeRole",
        "GetCallerIdentity",
        "GetCallerIdentity",
    ]


async def test_parameters_are_sent_as_numbers(bench, tools, monkeypatch):
    """Whole numbers, lengths of lists, and 1 for what else is given; no text leaves the program."""
    told = []
    parse = _protocol.parse
    monkeypatch.setattr(_protocol, "parse", lambda line: told.append(line) or parse(line))
    source = """
        import botocore.session
        sts = botocore.session.get_session().create_client("sts")
        sts.assume_role(RoleArn="arn:aws:iam::029608264753:role/hidden", RoleSessionName="hidden",
            DurationSeconds=900, Tags=[{"Key": "hidden", "Value": "hidden"}] * 2)
    """
    async with bench.hub({"sts": "10/s"}) as hub:
        assert await bench.run(source, hub) == (0, "", "")
    [ask] = [json.loads(line) for line in told if b"ask" in line]
    assert ask["parameters"] == {
        "RoleArn": 1,
        "RoleSessionName": 1,
        "DurationSeconds": 900,
        "Tags": 2,
    }
    assert b"hidden" not in b"".join(told)
    assert b"secret" not in b"".join(told)


async def test_any_parameter_name_is_accepted(bench, tools, monkeypatch):
    """Long keys of a map in another script, and enumerations: what botocore takes, the hub does."""
    told = []
    parse = _protocol.parse
    monkeypatch.setattr(_protocol, "parse", lambda line: told.append(line) or parse(line))
    source = """
        import enum, botocore.session
        class Hours(int, enum.Enum):
            SHORT = 900
        session = botocore.session.get_session()
        session.create_client("sts").get_session_token(DurationSeconds=Hours.SHORT)
        item = {f"{number:02} " + "顧" * 60: {"S": "x"} for number in range(70)}
        try:
            session.create_client("dynamodb").put_item(TableName="customers", Item=item)
        except ValueError:
            pass                                    # the answer is XML
    """
    async with bench.hub({"default": "10/s"}) as hub:
        assert await bench.run(source, hub) == (0, "", "")
    facts = [json.loads(line)["parameters"] for line in told if b'"ask"' in line]
    assert facts == [{"DurationSeconds": 900}, {"TableName": 1, "Item": 1}]


async def test_call_without_files_names_remedy(bench, tools):
    """In a program at its limit of open files, the error names that limit and the remedy."""
    source = """
        import os, resource, botocore.session
        sts = botocore.session.get_session().create_client("sts")
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        try:
            while True:
                os.dup(0)
        except OSError:
            pass
        try:
            sts.get_caller_identity()
        except RuntimeError as error:
            print(error)
    """
    async with bench.hub({"sts": "10/s"}) as hub:
        code, out, err = await bench.run(source, hub)
    assert (code, err) == (0, "")
    assert out.startswith("the call was not sent: this process has no file descriptor left")
    assert "ulimit -n" in out
    assert not bench.loopback.arrivals


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_other_bootstrap_is_refused_by_version(bench, tools, tmp_path, asynchronous):
    """A program with the bootstrap of another version learns of both, and sends nothing."""
    other = tmp_path / "hub" / "bootstrap"
    shutil.copytree(tools.BOOTSTRAP, other)
    entry = other / "_aioapiqueue" / "__init__.py"
    text = entry.read_text()
    assert "\nVERSION = 2\n" in text
    entry.write_text(text.replace("\nVERSION = 2\n", "\nVERSION = 1\n"))
    source = (
        AIO + "async def main():\n"
        '    async with get_session().create_client("sts") as sts:\n'
        "        await sts.get_caller_identity()\n"
        "asyncio.run(main())\n"
        if asynchronous
        else SYNC + "sts.get_caller_identity()\n"
    )
    async with bench.hub({"sts": "100/s"}) as hub:
        code, _, err = await bench.run(source, hub, PYTHONPATH=str(other))
    last = err.strip().splitlines()[-1]
    assert (code, bench.loopback.arrivals) == (1, [])
    assert "PacingError: the call was not sent: the hub speaks version 2 of its protocol" in last
    assert "but the client speaks version 1. Either aioapiqueue was upgraded during the run" in last
