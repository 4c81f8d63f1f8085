"""`aioapiqueue run --shared`: real servers, real runs, and no password anywhere."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer

from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.run import run as run_command
from aioapiqueue_run.cli.run.errors import NotStarted
from aioapiqueue_run.cli.run.shared_address import read_address
from aioapiqueue_run.cli.run.shared_server import Shared
from tests.helpers import introspect
from tests.helpers.servers import Server, free_port, until
from tests.helpers.words import words_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="needs Unix domain sockets"),
]

SECRET = "s3/cr@et"  # noqa: S105 - of servers that live for a test
WRITTEN = "s3%2Fcr%40et"
DOCUMENT = (Path(__file__).parents[3] / "docs" / "run-reference.md").read_text("utf-8")


def rules():
    """The rules that docs/run-reference.md gives for a user with no other permissions."""
    (found,) = re.findall(r"^ACL SETUSER pacer on >PASSWORD (.+)$", DOCUMENT, re.MULTILINE)
    return found


def users():
    """One with the documented rules, one with other keys, and two who may not do all of it."""
    return {
        "pacer": (SECRET, rules()),
        "keyless": (SECRET, "~other* +@all"),
        "writeless": (SECRET, "~* +@all -hset"),
        "scriptless": (SECRET, "~* +@all -eval -evalsha"),
    }


@pytest.fixture(autouse=True)
def _may_block(blockbuster):
    """redis-py reads its package's metadata as a client is made: before the program starts."""
    blockbuster.deactivate()


@pytest.fixture(scope="module")
def server():
    """A server with a password and some users."""
    with Server(password=SECRET, users=users()) as one:
        yield one


@pytest.fixture(scope="module")
def secure():
    """The same behind TLS."""
    with Server(password=SECRET, users=users(), tls=True) as one:
        yield one


async def trouble(url):
    """Return what is said of a server that cannot be used; "" of one that can."""
    said, failed = [], None
    try:
        async with Shared(read_address(url)).open(Registry({}), said.append):
            assert not said
    except NotStarted as error:
        failed = error
    if failed is None:
        return ""
    assert SECRET not in str(failed)
    assert WRITTEN not in str(failed)
    assert failed.code == 2
    assert failed.__cause__ is None
    return " ".join(str(failed).split())


def test_documented_rules_cover_the_script():
    """And each command that runs it: what a limit that no test here has needs is allowed too."""
    script, _ = introspect.redis_script()
    used = {command.lower() for command in re.findall(r"redis\.call\('(\w+)'", script)}
    assert {"time", "hset"} <= used
    assert {f"+{command}" for command in used | {"eval", "evalsha"}} == set(rules().split()[1:])


@pytest.mark.parametrize(
    ("login", "remedy"),
    [
        (f":{WRITTEN}@", ""),
        (f"pacer:{WRITTEN}@", ""),
        ("pacer:nope@", "it rejects the password of the user 'pacer': check both"),
        (":nope@", "it rejects the password of the user 'default': check both"),
        ("", "it needs a password: write redis://USER:PASSWORD@HOST"),
        (
            f"keyless:{WRITTEN}@",
            "to access a key): aioapiqueue docs run-reference lists",
        ),
        (
            f"writeless:{WRITTEN}@",
            "to run the 'hset' command): aioapiqueue docs run-reference",
        ),
        (
            f"scriptless:{WRITTEN}@",
            "to run the 'eval' command): aioapiqueue docs run-reference",
        ),
    ],
)
async def test_missing_permissions_name_the_remedy(server, login, remedy):
    """Wrong password, none, other keys, no scripts; the user of the document may."""
    said = await trouble(f"redis://{login}127.0.0.1:{server.port}/0")
    assert remedy in said
    assert bool(said) is bool(remedy)


@pytest.fixture(scope="module")
def others(server):
    """A replica, a full server, and a cluster's node without its cluster."""
    with (
        Server(replica_of=server, users=users()) as replica,
        Server(maxmemory="1mb") as full,
        Server(options={"cluster-enabled": "yes"}) as node,
    ):
        yield replica, full, node


async def test_unusable_servers_name_the_remedy(server, secure, others):
    """A replica, a full one, none, another kind of server, another port: each with its remedy."""
    replica, full, node = others
    for url, remedy in {
        server.socket_url: "",
        f"{server.url}99": "DB index is out of range",
        f"redis://pacer:{WRITTEN}@127.0.0.1:{replica.port}": "it is a read-only replica",
        f"redis://127.0.0.1:{full.port}": "its memory is full",
        f"redis://127.0.0.1:{node.port}": "it is a node of a cluster",
        f"redis+cluster://127.0.0.1:{node.port}": "the cluster is down or incomplete",
        server.url.replace("redis", "redis+cluster").removesuffix("/0"): "it is not a cluster",
        f"redis+cluster://:nope@127.0.0.1:{server.port}": "it rejects the password",
        f"redis+cluster://127.0.0.1:{server.port}": "it needs a password",
        f"redis+sentinel://127.0.0.1:{server.port}/main": "no Sentinel knows a primary",
        f"redis+sentinel://127.0.0.1:{full.port}/main": "it is not a Sentinel",
        f"redis+sentinel://127.0.0.1:{free_port()}/main": "no Sentinel knows a primary of that",
        f"redis://127.0.0.1:{free_port()}": "(Connection refused): check the host and",
        "redis://no.such.host.invalid": "unknown host name",
        "unix:///no/such.sock": "(No such file or directory): check the path",
        secure.url: "",
        secure.url.partition("?")[0]: "its certificate is not trusted",
        secure.url.partition("?")[0].replace("rediss", "redis"): "write rediss:// instead",
    }.items():
        said = await trouble(url)
        assert remedy in said, url
        assert bool(said) is bool(remedy), (url, said)


async def test_server_quoting_passwords_is_not_quoted():
    """What does not know HELLO answers with what it was sent: a password is not passed on."""

    async def answer(reader, writer):
        heard = (await reader.read(4096)).decode()
        words = [word for word in heard.split("\r\n") if word and word[0] not in "*$"]
        assert SECRET in words
        said = " ".join(f"`{word}`" for word in words[1:])
        writer.write(f"-ERR unknown command `HELLO`, with args beginning with: {said}\r\n".encode())
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        said = await trouble(f"redis://me:{WRITTEN}@127.0.0.1:{port}")
    assert "it lacks or forbids a command" in said


async def test_silent_server_is_given_up(monkeypatch):
    """One that accepts and says nothing; here in less, so that the test is short."""
    introspect.replace(monkeypatch, "seconds of a check of a server", 0.2)

    async def listen(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        said = await trouble(f"redis://127.0.0.1:{port}")
    assert "no response within 0.2 s: " in said


def test_signal_ends_the_check_of_a_server(run, python):
    """The run does not wait for a server that says nothing: it ends at once, as a shell expects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        options = ("--shared", url, "--limit", "ec2=5/s", "--", python, "-c", "print('started')")
        with run.start(*options) as process:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1)  # from here on, it waits for a response
                process.send_signal(signal.SIGINT)
                ended = run.end(process)
    assert (ended.code, ended.out) == (128 + signal.SIGINT, b"")
    assert ended.words == f"ended by a signal before {python} was started"
    assert ended.seconds < 4  # five are allowed for the check
    assert run.leftovers == []


def test_wrong_password_starts_nothing(run, server, python, tmp_path):
    """Exit code 2, the program does not run, and no output or file has the password."""
    log, figures = tmp_path / "log", tmp_path / "figures.json"
    options = ("--log", log, "--json", figures, "--limit", "ec2=5/s")
    url = f"redis://pacer:geheim@127.0.0.1:{server.port}/0"
    ended = run.here("--shared", url, *options, "--", python, "-c", "print('started')")
    assert (ended.code, ended.out, ended.err) == (2, b"", b"")
    said = log.read_text()
    assert words_of(said) == (
        f"shared server redis://pacer:***@127.0.0.1:{server.port}/0: it rejects the password of "
        "the user 'pacer': check both; nothing was started"
    )
    assert not figures.exists()
    given = {"AIOAPIQUEUE_SHARED": url}
    ended = run.here(*options[4:], "--", python, "-c", "print('started')", env=given)
    assert (ended.code, ended.out) == (2, b"")
    assert "geheim" not in said + ended.err.decode()
    assert run.leftovers == []


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (
            {"shared": "redis://:geheim@host:port"},
            "--shared: the URL must have one of these forms: redis://USER:PASSWORD@HOST:6379/0, ",
        ),
        ({"shared": ""}, "--shared: the URL must have one of these forms: redis://"),
        ({"fallback": "5/s"}, "--fallback needs --shared, or AIOAPIQUEUE_SHARED"),
        ({"shared": "redis://:geheim@host", "fallback": "5"}, "--fallback: "),
        (
            {"shared": "redis://host", "fallback": "5 tokens/s"},
            "--fallback: '5 tokens/s' does not count calls",
        ),
    ],
)
def test_invalid_options_are_refused(options, remedy, capsys):
    """Before anything connects: exit code 2."""
    with pytest.raises(typer.Exit) as ended:
        run_command(command=["program"], limit=["ec2=1/s"], **options)
    assert ended.value.exit_code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"aioapiqueue: {remedy}")
    assert "geheim" not in said


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"shared": "host"}, "AIOAPIQUEUE_SHARED: the URL must have one of these forms: "),
        (
            {"shared": "redis://host", "private": True},
            "--private and AIOAPIQUEUE_SHARED cannot be combined: remove one of them",
        ),
    ],
)
def test_url_of_the_variable_is_refused(options, refusal, monkeypatch, capsys):
    """The message names the variable, not an option that was not given."""
    monkeypatch.setenv("AIOAPIQUEUE_SHARED", options["shared"])
    with pytest.raises(typer.Exit):
        run_command(command=["program"], limit=["ec2=1/s"], **options)
    assert capsys.readouterr().err.startswith(f"aioapiqueue: {refusal}")


def test_missing_extra_is_named(monkeypatch, capsys):
    """Without redis-py: what to install, exit code 2."""
    monkeypatch.setattr("aioapiqueue_run.cli.run.plan.importlib.util.find_spec", lambda _: None)
    with pytest.raises(typer.Exit) as ended:
        run_command(command=["program"], limit=["ec2=1/s"], shared="redis://:geheim@host")
    assert ended.value.exit_code == 2
    said = capsys.readouterr().err
    assert "pip install 'aioapiqueue[redis]'" in said
    assert "geheim" not in said


def test_dry_run_asks_no_server(quiet_run, python):
    """It paces nothing, so it needs none."""
    url = f"redis://:geheim@127.0.0.1:{free_port()}"
    ended = quiet_run.here("--dry-run", "--shared", url, "--", python, "-c", "import botocore")
    assert ended.code == 0, ended.err
    assert "shared through" not in ended.words
    assert "geheim" not in ended.err.decode()


def test_two_runs_keep_one_limit_together(run, aws, secure, python, tmp_path):
    """Two at once, by TLS and as a user of their own: one rate; each reports the server."""
    program = run.script("""
        assert "AIOAPIQUEUE_SHARED" not in os.environ
        client()
        open(sys.argv[1], "w").close()
        until_exists(sys.argv[2])
        calls(10)
    """)
    url = secure.url.replace(f":{WRITTEN}@", f"pacer:{WRITTEN}@")
    assert "pacer" in url
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    ready = [tmp_path / "one", tmp_path / "two"]
    one, two = (
        ("--limit", "ec2=40/s", "--json", file, "--", python, program, *names)
        for file, names in zip(files, (ready, ready[::-1]), strict=True)
    )
    env = {"AIOAPIQUEUE_SHARED": url}
    with run.start(*one, env=env) as process:
        ends = [run.here(*two, env=env), run.end(process)][::-1]
    shown = f"rediss://pacer:***@127.0.0.1:{secure.port}/0"
    for ended, file in zip(ends, files, strict=True):
        assert ended.code == 0, ended.err
        assert f"shared through {shown}; if it becomes unreachable, calls wait " in ended.words
        assert max(map(len, ended.err.decode().splitlines())) <= 80
        told = json.loads(file.read_text())
        shared = told["shared"]
        assert (shared["server"], shared["fallback"]) == (shown, None)
        (queue,) = shared["queues"]
        assert queue["queue"] == told["figures"][0]["queue"]
        assert queue["asks"] > queue["faults"] >= 0  # a busy machine may hold up an answer
        for text in (ended.err.decode(), ended.out.decode(), file.read_text()):
            assert SECRET not in text
            assert WRITTEN not in text
    assert len(aws.arrivals) == 20
    aws.assert_paced(40, run.begun)
    assert run.leftovers == []


def test_calls_wait_for_a_lost_server(run, aws, python, tmp_path):
    """Killed in the midst: nothing goes out, nobody fails; restarted empty: all goes on."""
    log, figures = tmp_path / "log", tmp_path / "figures.json"
    with Server(password=SECRET) as server, ThreadPoolExecutor() as pool:
        options = ("--shared", server.url, "--limit", "ec2=40/s", "--log", log, "--json", figures)

        def lose_and_restart():
            aws.count(6)
            server.kill()
            until(lambda: "lost the shared server (" in log.read_text(), "nobody misses the server")
            assert aws.still(0.3) < 36  # what was ahead may still go
            server.start()

        restarted = pool.submit(lose_and_restart)
        ended = run.here(*options, "--", python, run.script("calls(36)"))
        restarted.result()
    assert (ended.code, ended.err) == (0, b"")
    assert len(aws.arrivals) == 36
    said = log.read_text()
    words = words_of(said)
    assert re.search(
        r"lost the shared server \(.+\): until it is back, calls wait "
        r"connected to the shared server again, after \d+\.\d s ",
        words,
    )
    assert re.search(r"\d+ requests? failed; unreachable for \d+\.\d s$", words)
    told = json.loads(figures.read_text())
    shared = told["shared"]
    assert shared["times_lost"] == words.count("lost the shared server (") >= 1
    assert shared["times_lost"] == words.count("connected to the shared server again")
    assert 0.3 <= shared["seconds_lost"] <= told["seconds"]
    assert shared["queues"][0]["faults"] >= 1
    assert max(map(len, said.splitlines())) <= 80 + len("2026-11-27T03:55:40Z ")
    assert SECRET not in said + figures.read_text()
    assert WRITTEN not in said + figures.read_text()


def test_password_that_is_changed_refuses_calls(run, aws, server, python):
    """The program's calls fail, with an error that says why and shows no password."""
    program = run.script("""
        ec2 = client()
        try:
            while True:
                ec2.describe_snapshots()
        except Exception as error:
            print(type(error).__name__, error)
    """)
    server.sync().acl_setuser("turncoat", enabled=True, passwords=[f"+{SECRET}"], keys=["*"],
                              categories=["+@all"])  # fmt: skip
    url = f"redis://turncoat:{WRITTEN}@127.0.0.1:{server.port}"
    options = ("--shared", url, "--limit", "ec2=50/s", "--fail-on", "refused")

    def change():
        aws.count(5)
        server.sync().acl_setuser("turncoat", enabled=True, reset_passwords=True)
        server.sync().client_kill_filter(user="turncoat")

    with ThreadPoolExecutor() as pool:
        changed = pool.submit(change)
        ended = run.here(*options, "--", python, program)
    changed.result()
    assert ended.code == 5, ended.err
    assert 'FAILED: --fail-on "refused": 1 of ' in ended.words
    assert " 1 refused (not sent), " in ended.words
    said = ended.out.decode()
    assert said.startswith("PacingError ")
    assert "password" in said
    for text in (said, ended.err.decode()):
        assert SECRET not in text
        assert WRITTEN not in text
