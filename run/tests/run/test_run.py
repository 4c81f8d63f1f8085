"""`aioapiqueue run` as people use it: real processes, their output and their exit codes."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types

import pytest
import typer
from typer.testing import CliRunner

from aioapiqueue import __version__
from aioapiqueue.recording.spi import Recording
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.run import run as run_command
from aioapiqueue_run.cli.run.launch import Launch
from aioapiqueue_run.cli.run.program import Program
from tests.helpers import introspect
from tests.helpers.waiting import wait_until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="needs Unix domain sockets"),
]


@pytest.fixture
def short_steps(monkeypatch):
    """Give time series steps of a tenth of a second, instead of one second; return that."""
    begin = Recording.begin

    def begin_with_short_steps(recording, **instants):
        begin(recording, **instants)
        recording.series.step = 0.1

    monkeypatch.setattr(Recording, "begin", begin_with_short_steps)
    return 0.1


def test_threads_and_children_share_one_limit(run, aws, python, tmp_path, stalls):
    """Threads of a program and of its child keep one rate together; table and JSON say so."""
    ready = tmp_path / "ready"
    child = run.script(f"client(); open({str(ready)!r}, 'w').close(); calls(12)", "child.py")
    program = run.script(f"""
        import subprocess
        child = subprocess.Popen([sys.executable, {child!r}])
        client()
        until_exists({str(ready)!r})
        calls(12)
        sys.exit(child.wait())
    """)
    figures = tmp_path / "figures.json"
    ended = run.here("--limit", "ec2=20/s", "--json", figures, "--", python, program)
    assert ended.code == 0, ended.err
    assert ended.out == b""
    assert [action for _, action in aws.arrivals] == ["DescribeSnapshots"] * 24
    aws.assert_paced(20, run.begun)
    assert aws.arrivals[-1][0] - aws.arrivals[0][0] <= 23 / 20 + 1.0 + stalls.seconds

    assert ended.words.startswith("paced: ec2 20/s not paced: all other calls ")
    assert "24 AWS calls, 24 paced: " in ended.words
    assert max(map(len, ended.err.decode().splitlines())) <= 80
    table = [line.split() for line in ended.err.decode().splitlines()]
    (row,) = [cells for cells in table if cells[:1] == ["DescribeSnapshots"]]
    assert row[1] == "24"
    assert int(row[2]) >= 19  # waited

    told = json.loads(figures.read_text())
    assert (told["exit_code"], told["program_exit_code"], told["dry_run"]) == (0, 0, False)
    (figure,) = told["figures"]
    assert (figure["service"], figure["operation"]) == ("ec2", "DescribeSnapshots")
    assert (figure["region"], figure["paced"], figure["calls"]) == ("eu-west-1", True, 24)
    assert 2 <= told["peaks"]["ec2"] <= 22  # what was let go, not what asked
    assert len(told["processes"]) == 2
    assert run.leftovers == []


def test_dry_run_counts_without_pacing(run, aws, python, tmp_path):
    """It shows calls, mean and peak of each service and operation; limits hold nothing up."""
    program = run.script("""
        client("sts").get_caller_identity()
        calls(40)
        time.sleep(1.02)  # a peak is of a second
        calls(10)
    """)
    figures = tmp_path / "figures.json"
    options = ("--dry-run", "--limit", "ec2=1/s", "--json", figures)
    ended = run.here(*options, "--", python, program)
    assert ended.code == 0, ended.err
    assert len(aws.arrivals) == 51
    told = json.loads(figures.read_text())
    assert {one["service"]: one["calls"] for one in told["figures"]} == {"ec2": 50, "sts": 1}
    # As many as if the first 40 calls had been spread over the whole seconds that they took.
    took = [at for at, action in aws.arrivals if action == "DescribeSnapshots"][39] - run.begun
    assert 40 // (int(took + 0.2) + 1) <= told["peaks"]["ec2"] <= 40
    assert told["dry_run"] is True
    assert told["seconds"] < told["if_paced"]["seconds"]
    assert "dry run: AWS calls are counted, not paced" in ended.words
    table = [line.split() for line in ended.err.decode().splitlines()]
    (row,) = [cells for cells in table if cells[:1] == ["DescribeSnapshots"]]
    assert row[1] == "50"
    assert float(row[2]) == pytest.approx(50 / told["seconds"], abs=0.06)
    assert int(row[3]) == told["peaks"]["ec2"]
    assert " ".join(row[4:7]) == "20/s burst 100"  # what AWS publishes
    *messages, command, _ = ended.err.decode().splitlines()
    assert max(map(len, messages)) <= 80

    # A call a second: of 40 at once, and 10 a second later, the last starts after 49 s.
    if_paced = told["if_paced"]
    (held,) = if_paced["held"]
    assert (held["name"], held["limit"]) == ("ec2", "1/s")
    assert 45 <= held["calls"] <= 49
    assert if_paced["seconds"] == pytest.approx(49, abs=told["seconds"] - 1)
    assert f"limits that would have delayed calls: ec2 1/s ({held['calls']} calls)" in ended.words
    assert "a paced run would take about 0:" in ended.words
    assert command == f"  aioapiqueue run --limit ec2=1/s -- {python} {program}"
    assert if_paced["command"] == command.strip()


def test_dry_run_compares_with_what_aws_publishes(run, aws, python, tmp_path, short_steps):
    """Without a limit: with half of it. What was throttled all the same gets a limit to try."""
    asked = itertools.count()
    aws.throttles = lambda action: action == "ListUsers" and next(asked) % 2 == 0
    program = run.script("""
        from botocore.config import Config
        once = Config(retries={"total_max_attempts": 1})
        ec2 = client()
        for _ in range(70):
            ec2.describe_store_image_tasks()
        for _ in range(60):  # which AWS has no bucket of its own for
            ec2.describe_snapshot_attribute(SnapshotId="snap-1", Attribute="productCodes")
        iam = boto3.client("iam", endpoint_url=os.environ["AWS"], region_name="eu-west-1",
                           aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="x",
                           config=once)
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            try:
                iam.list_users()
            except iam.exceptions.ClientError:
                time.sleep(0.01)
    """)
    figures = tmp_path / "figures.json"
    ended = run.here("--dry-run", "--json", figures, "--", python, program)
    assert ended.code == 0, ended.err
    told = json.loads(figures.read_text())
    assert "no limit is set: using 50% of each limit that AWS publishes" in ended.words
    held = "limits that would have delayed calls: ec2.DescribeStoreImageTasks 0.25/s burst 25 ("
    assert held in ended.words
    assert "ec2.Describe* 10/s burst 50 (" in ended.words
    assert told["if_paced"]["held"][0]["name"] == "ec2.DescribeStoreImageTasks"
    assert told["if_paced"]["held"][1]["name"] == "ec2.Describe*"
    (published,) = (one for one in told["if_paced"]["published"] if one["lane"].endswith("Tasks"))
    assert published == {
        "service": "ec2",
        "lane": "DescribeStoreImageTasks",
        "limit": "0.5/s burst 50",
        "page": "https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html",
        "read": "2026-11-24",
    }
    found = re.search(
        r"iam ListUsers: throttled [\d,]+ times, while (\S+) calls a second", ended.words
    )
    # As many got through in that time as the server has answered, but for those of its ends.
    users = sorted(at for at, action in aws.arrivals if action == "ListUsers")
    served, spent = len(users) // 2, users[-1] - users[0]
    assert (served - 20) / (spent + 0.2) <= float(found[1]) <= served / max(spent - 0.2, 0.1)
    (iam,) = [one["time_series"] for one in told["figures"] if one["service"] == "iam"]
    steps = list(zip(iam["steps"], iam["calls"], iam["throttled"], strict=True))
    first, *_, last = [step for step, _, throttled in steps if throttled]
    through = sum(calls - throttled for step, calls, throttled in steps if first < step < last)
    assert float(found[1]) == pytest.approx(through / ((last - first - 1) * short_steps), rel=0.01)
    # Nothing is published of IAM, so the preset has no limit of it.
    limit = re.search(r"--limit iam\.ListUsers=(\S+)/s$", ended.err.decode(), re.MULTILINE)
    assert float(limit[1]) == pytest.approx(float(found[1]) / 2, rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_process_that_outlives_the_program(run, aws, python, tmp_path):
    """Its calls fail as soon as the run has ended, which says so."""
    ready, ended = tmp_path / "ready", tmp_path / "ended"
    child = run.script(
        f"""
        client()
        open({str(ready)!r}, "w").close()
        until_exists({str(ended)!r})
        try:
            calls(1)
        except Exception as error:
            open({str(tmp_path / "said")!r}, "w").write(type(error).__name__)
        os.rename({str(tmp_path / "said")!r}, {str(tmp_path / "error")!r})
    """,
        "child.py",
    )
    program = run.plain(f"""
        import subprocess
        subprocess.Popen([sys.executable, {child!r}], start_new_session=True)
        until_exists({str(ready)!r})
    """)
    came_of_it = run.here("--limit", "ec2=10/s", "--", python, program)
    ended.touch()
    wait_until((tmp_path / "error").exists)
    assert (tmp_path / "error").read_text() == "PacingError"
    assert came_of_it.words.endswith(
        "still running: 1 process that the program started, and whose calls now fail with "
        "PacingError"
    )


def test_other_operations_are_not_paced(run, python, tmp_path):
    """A limit of one operation concerns no other one: its calls are listed as not paced."""
    program = run.script("""
        ec2 = client()
        for _ in range(3):
            ec2.describe_snapshots()
        ec2.describe_images()
        client("sts").get_caller_identity()
    """)
    figures = tmp_path / "figures.json"
    limits = ("ec2.DescribeImages=50/s", "ec2.DescribeVolumes=5/s", "kms=2/s")
    options = [f"--limit={one}" for one in limits]
    ended = run.here(*options, "--json", figures, "--", python, program)
    assert ended.code == 0, ended.err
    assert "kms 2/s not paced: all other calls " in ended.words
    assert "5 AWS calls, 1 paced: " in ended.words
    text = ended.err.decode()
    rows = [row for row in text.splitlines() if row.startswith(("ec2", "sts", "  Describe"))]
    assert [row.split()[:-5] for row in rows[:2]] == [["ec2", "1"], ["DescribeImages", "1"]]
    assert [row.split()[:-2] for row in rows[2:]] == [
        ["ec2,", "not", "paced", "3"],
        ["DescribeSnapshots", "3"],
        ["sts,", "not", "paced", "1"],
    ]
    assert text.endswith(
        "\naioapiqueue: limits that applied to no call: ec2.DescribeVolumes 5/s, kms 2/s."
        "\naioapiqueue: Compare their names with the calls in the table\n"
    )
    told = json.loads(figures.read_text())
    assert {one["operation"]: one["paced"] for one in told["figures"]} == {
        "DescribeSnapshots": False,
        "DescribeImages": True,
        "GetCallerIdentity": False,
    }
    assert sum(one["calls"] for one in told["figures"] if one["service"] == "ec2") == 4
    assert told["unused"] == [
        {"service": "ec2", "operation": "DescribeVolumes", "bucket": None, "limit": "5/s",
         "source": "--limit ec2.DescribeVolumes=5/s"},
        {"service": "kms", "operation": None, "bucket": None, "limit": "2/s",
         "source": "--limit kms=2/s"},
    ]  # fmt: skip


def test_output_and_input_are_untouched(quiet_run, python, tmp_path):
    """stdout, stderr, stdin and other open files are the program's, byte for byte."""
    program = quiet_run.plain("""
        data = sys.stdin.buffer.read()
        os.write(1, data)
        os.write(2, data[::-1])
        os.write(int(sys.argv[1]), b"by its number")
        os.write(1, b"no line feed at the end")
    """)
    data = bytes(range(256)) * 40
    log = tmp_path / "log"
    log.write_text("what was there\n")
    with (tmp_path / "other").open("wb") as other:
        ended = quiet_run(
            "--limit", "ec2=1/s", "--log", log, "--", python, program, other.fileno(),
            send=data, pass_fds=[other.fileno()],
        )  # fmt: skip
    assert ended.code == 0
    assert ended.out == data + b"no line feed at the end"
    assert ended.err == data[::-1]
    assert (tmp_path / "other").read_bytes() == b"by its number"
    first, *_, last = log.read_text().splitlines()
    assert first == "what was there"
    assert "paced: ec2 1/s" in log.read_text()
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ aioapiqueue: .+", last)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(closed, quiet_run, python, tmp_path):
    """Where stdin, stdout or stderr is closed, as daemons have it, the program runs anyway."""
    there = tmp_path / "there"
    program = quiet_run.plain(f"open({str(there)!r}, 'w').close(); sys.exit(7)")
    command = shlex.join(quiet_run.arguments("--limit", "ec2=1/s", "--", python, program))
    shell = ["sh", "-c", f"{command} {closed}"]
    with subprocess.Popen(
        shell, env=quiet_run.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert quiet_run.end(process).code == 7
    assert there.exists()


def test_exit_code_is_the_programs(quiet_run, python):
    """The program's exit code is ours; that of a signal is what a shell makes of it."""
    for start, end, code in (
        (quiet_run.here, "sys.exit(0)", 0),
        (quiet_run.here, "sys.exit(7)", 7),
        (quiet_run.here, "os.kill(os.getpid(), 9)", 137),
        (quiet_run, "os.kill(os.getpid(), 15)", 143),
    ):
        ended = start("--limit", "ec2=1/s", "--", python, quiet_run.plain(end))
        assert ended.code == code
        assert f", exit code {code}" in ended.words
        assert quiet_run.leftovers == []


def test_missing_program_exits_as_in_shells(quiet_run, tmp_path):
    """No such command is 127, one that may not be executed 126; both are named."""
    ended = quiet_run.here("--limit", "ec2=1/s", "--", "no-such-command")
    assert (ended.code, ended.out) == (127, b"")
    assert ended.words == "no-such-command: command not found in PATH; nothing was started"
    ended = quiet_run.here("--limit", "ec2=1/s", "--", str(tmp_path / "none"))
    assert ended.code == 127
    for quoted, why, hint in (
        ("sh scan.sh 1", "command not found in PATH", ". To run sh, leave out the quotes"),
        ("/bin/sh scan.sh", "no such file", ". To run /bin/sh, leave out the quotes"),
        ("no-such-command 1", "command not found in PATH", ""),
        (" ", "command not found in PATH", ""),
    ):
        ended = quiet_run.here("--limit", "ec2=1/s", "--", quoted)
        assert ended.code == 127
        assert ended.words == f"{quoted}: {why}; nothing was started{hint}"
    script = tmp_path / "script.py"
    script.write_text("print(1)")
    ended = quiet_run.here("--limit", "ec2=1/s", "--", str(script))
    assert ended.code == 126
    assert f"for a script without a shebang: python {script}" in ended.words
    script.write_text("neither a program nor a script")
    script.chmod(0o755)
    ended = quiet_run.here("--limit", "ec2=1/s", "--", str(script))
    assert ended.code == 126
    assert "cannot be started: Exec format error" in ended.words
    assert quiet_run.leftovers == []


def test_arguments_after_the_command_are_its(quiet_run, python):
    """What follows COMMAND is the command's, options and `--` among it, with or without a `--`."""
    program = quiet_run.plain("print(sys.argv[1:])")
    for dashes in ((), ("--",)):
        ended = quiet_run.here(
            "--limit", "ec2=1/s", *dashes, python, program, "--limit", "--", "--help"
        )
        assert (ended.code, ended.out) == (0, b"['--limit', '--', '--help']\n")


def test_option_after_command_gets_hint(quiet_run, python):
    """One of ours among the program's is said to be the program's, unless a `--` says so."""
    program = quiet_run.plain("print(sys.argv[1:])")
    options = ("--limit", "ec2=1/s", "--json=x", "-x")
    ended = quiet_run.here(python, program, *options)
    assert (ended.code, ended.out) == (0, b"['--limit', 'ec2=1/s', '--json=x', '-x']\n")
    name = os.path.basename(python)  # noqa: PTH119
    hint = (
        f"--limit comes after {name}, so {name} gets it. If this is not what you want, put --limit "
        f'before {name}. If it is, write "--" before {name}. '
    )
    assert ended.words.startswith(f"{hint}no limit is set")
    assert max(map(len, ended.err.decode().splitlines())) <= 80
    for others in (
        ("--", python, program, *options),
        (python, program, "--", *options),
        (python, program, "--help", "--limitless", "limit"),
    ):
        # It ends once the options are read.
        told = CliRunner().invoke(app, ["run", "--fallback", "1/s", *map(str, others)])
        assert told.stderr.startswith("aioapiqueue: --fallback needs --shared")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signal_goes_on_to_the_program(name, quiet_run, python):
    """A signal sent to us reaches the program, whose answer to it decides; nothing is left over."""
    program = quiet_run.plain(f"""
        import signal
        def heard(number, _):
            os.write(1, f"heard {{number}}\\n".encode())
            time.sleep(0.1)
            sys.exit(9)
        signal.signal(signal.{name}, heard)
        print("ready", flush=True)
        time.sleep(60)
    """)
    options = ("--limit", "ec2=1/s", "--", python, program)
    # No terminal, so that nobody else sends it SIGINT.
    with quiet_run.start(*options, start_new_session=True) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.Signals[name])
        ended = quiet_run.end(process)
    assert ended.out == f"heard {signal.Signals[name].value}\n".encode(), ended
    assert ended.code == 9
    assert quiet_run.leftovers == []


def test_second_signal_does_not_kill(quiet_run, python, tmp_path):
    """However often a signal comes, the program ends when it wants to."""
    program = quiet_run.plain("""
        import signal
        signal.signal(signal.SIGINT, lambda *_: os.write(1, b"no\\n"))
        signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"no\\n"))
        print("ready", flush=True)
        until_exists(sys.argv[1])
    """)
    enough = tmp_path / "enough"
    with quiet_run.start(
        "--limit", "ec2=1/s", "--", python, program, enough, start_new_session=True
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        for signum in (signal.SIGINT, signal.SIGTERM) * 2:
            process.send_signal(signum)
            assert process.stdout.readline() == b"no\n"
        time.sleep(0.2)
        assert process.poll() is None
        enough.touch()
        assert quiet_run.end(process).code == 0


async def test_signal_at_the_end_keeps_the_exit_code():
    """A signal that comes just as the program ends takes nothing from its exit code."""
    launch = Launch("/bin/sh", "sh", python=False)
    for _ in range(30):
        program = await Program.start(launch, ["sh", "-c", "exit 7"], os.environ)
        ended = asyncio.ensure_future(program.wait())
        while not ended.done():
            program.send(signal.SIGCONT)
            await asyncio.sleep(0)
        assert await ended == 7


def test_ignored_signal_stays_ignored(quiet_run, python, tmp_path):
    """Under nohup the program lives on too."""
    program = quiet_run.plain("""
        print("ready", flush=True)
        until_exists(sys.argv[1])
        print("lives", flush=True)
    """)
    sent = tmp_path / "sent"
    command = ["nohup", *quiet_run.arguments("--limit", "ec2=1/s", "--", python, program, sent)]
    with subprocess.Popen(
        command, env=quiet_run.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        sent.touch()
        ended = quiet_run.end(process)
    assert (ended.code, ended.out) == (0, b"lives\n")


def test_python_path_of_user_is_kept(quiet_run, python, tmp_path):
    """Our folder comes first; what was there comes after it, a sitecustomize in it included."""
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("print('user')")
    program = quiet_run.plain("print(os.environ['PYTHONPATH'].split(os.pathsep)[1:])")
    ended = quiet_run(
        "--limit", "ec2=1/s", "--", python, program,
        env={"PYTHONPATH": f"{folder}{os.pathsep}/no/such/folder"},
    )  # fmt: skip
    # Once by our own Python, which writes it at its end, once by the program's.
    told = ended.out.decode().splitlines()
    assert sorted(told) == [f"['{folder}', '/no/such/folder']", "user", "user"]


def test_long_tmpdir_does_no_harm(quiet_run, python, tmp_path):
    """A socket's path is short, however long that of TMPDIR is."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    program = quiet_run.plain("print(os.environ['AIOAPIQUEUE_HUB'])")
    ended = quiet_run.here("--limit", "ec2=1/s", "--", python, program, env={"TMPDIR": str(folder)})
    assert ended.code == 0
    assert not os.path.exists(os.path.dirname(ended.out.strip()))  # noqa: PTH110, PTH120


def test_killed_run_stops_all_calls(run, aws, python, stalls):
    """`kill -9` of us: each waiting thread gets a clear error within 5 s, and nothing goes out."""
    program = run.script("""
        import threading
        ec2 = client()
        def call():
            began = time.monotonic()
            try:
                while True:
                    ec2.describe_snapshots()
            except Exception as error:
                print(f"{type(error).__name__}: {error}", flush=True)
        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print("end", flush=True)
    """)
    with run.start("--limit", "ec2=4/s", "--", python, program) as process:
        aws.count(2)
        process.kill()
        killed = time.monotonic()
        lines = [process.stdout.readline().decode() for _ in range(6)]
        assert time.monotonic() - killed < 5 + stalls.seconds
        assert lines[5] == "end\n"
        for line in lines[:5]:
            assert line.startswith("PacingError: the call was not sent")
        # One that was let go before may have been on its way: the next would be 0.25 s later.
        assert sum(at > killed for at, _ in aws.arrivals) <= 1
        assert run.end(process).code == -9


def test_lost_hub_ends_the_program(run, aws, python, stalls):
    """The socket gone under us, no new process could be paced: all is stopped, exit code 4."""
    program = run.script("calls(1000)")
    with run.start("--limit", "ec2=20/s", "--", python, program) as process:
        aws.count(2)
        (directory,) = run.leftovers
        (directory / "hub.sock").unlink()
        lost = time.monotonic()
        ended = run.end(process)
    assert ended.code == 4
    assert time.monotonic() - lost < 10 + stalls.seconds
    assert "hub.sock is gone; the program is stopped" in ended.words
    assert all(at < lost + 3 + stalls.seconds for at, _ in aws.arrivals)
    assert run.leftovers == []


def test_children_get_time_to_clean_up(quiet_run, python, tmp_path):
    """A child that takes longer to end than the program, once all is stopped, is not killed."""
    ready, clean = tmp_path / "ready", tmp_path / "clean"
    child = quiet_run.plain(
        f"""
        import signal
        def end(*_):
            time.sleep(0.4)
            open({str(clean)!r}, "w").close()
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        open({str(ready)!r}, "w").close()
        time.sleep(60)
        """,
        "child.py",
    )
    program = quiet_run.plain(f"""
        import subprocess
        subprocess.Popen([sys.executable, {child!r}])
        time.sleep(60)
    """)
    with quiet_run.start("--limit", "ec2=1/s", "--", python, program) as process:
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        (directory,) = quiet_run.leftovers
        (directory / "hub.sock").unlink()
        assert quiet_run.end(process).code == 4
    assert clean.exists()


def test_grandchild_that_stays_fails_closed(run, aws, python, tmp_path):
    """The hub ends with the program; what the program leaves behind sends nothing any more."""
    told = tmp_path / "told"
    child = run.script(f"""
        ec2 = client()
        ec2.describe_snapshots()
        open({str(told)!r} + ".ready", "w").close()
        while os.path.exists(os.environ["AIOAPIQUEUE_HUB"]): time.sleep(0.05)
        try:
            ec2.describe_snapshots()
        except Exception as error:
            text = f"{{type(error).__name__}}: {{error}}"
        open({str(told)!r} + ".new", "w").write(text)
        os.rename({str(told)!r} + ".new", {str(told)!r})
    """, "child.py")  # fmt: skip
    program = run.plain(f"""
        import subprocess
        subprocess.Popen([sys.executable, {child!r}], stdin=-3, stdout=-3, stderr=-3)
        while not os.path.exists({str(told)!r} + ".ready"): time.sleep(0.05)
    """)
    ended = run.here("--limit", "ec2=50/s", "--", python, program)
    assert ended.code == 0
    deadline = time.monotonic() + 60
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told.read_text().startswith("PacingError: the call was not sent")
    assert len(aws.arrivals) == 1


@pytest.mark.slow
def test_sixty_four_threads_keep_one_rate(run, aws, python, tmp_path):
    """At 50/s for 20 s together: 0.98 to 1.00 of it, and at most 52 let go in any second."""
    child = run.script(
        """
        import threading
        ec2 = client()
        end = time.monotonic() + 60
        def call():
            while time.monotonic() < end:
                ec2.describe_snapshots()
        for _ in range(8): threading.Thread(target=call).start()
        """,
        "child.py",
    )
    program = run.plain(f"""
        import subprocess
        children = [subprocess.Popen([sys.executable, {child!r}]) for _ in range(8)]
        time.sleep(32)
        for child in children: child.kill()
    """)
    figures = tmp_path / "figures.json"
    options = ("--limit", "ec2=50/s", "--json", figures)
    ended = run(*options, "--", python, program, within=90)
    assert ended.code == 0
    (figure,) = json.loads(figures.read_text())["figures"]
    assert figure["peak"] <= 52
    times = [at for at, _ in aws.arrivals]
    begin = times[0] + 5  # all have started by then
    inside = [at for at in times if begin <= at < begin + 20]
    assert 0.98 <= len(inside) / (50 * 20) <= 1.002
    # 64 threads before and behind the sockets: a busy machine delays some arrivals.
    assert aws.most_in(1) <= 60


def test_help_fits_a_terminal(quiet_run):
    """`--help` names each option, within 80 columns, and shows an example."""
    ended = quiet_run.here("--help")
    assert ended.code == 0
    text = ended.out.decode()
    assert max(map(len, text.splitlines())) <= 80
    options = "--limit --limits --shared --fallback --dry-run --log --json --no-live --grace"
    for expected in (*options.split(), "--allow-inactive", "ec2=10/s", "-- scout aws"):
        assert expected in text


def test_hub_failing_to_open_starts_nothing(quiet_run, python, temporary):
    """Without a folder for the socket there is no run: said, exit code 2."""
    options = ("--limit", "ec2=1/s", "--", python, "-c", "print('started')")
    blocker = temporary / "file"
    blocker.write_text("")
    code = f"import tempfile; tempfile.tempdir = {str(blocker)!r}\n"
    code += "from aioapiqueue.__main__ import main; main()"
    ended = quiet_run.end(
        subprocess.Popen(
            [python, "-c", code, "run", *options],
            env=quiet_run.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
    )  # fmt: skip
    assert (ended.code, ended.out) == (2, b"")
    assert "the hub, which paces calls, cannot start: " in ended.words


def test_system_without_sockets_is_refused(monkeypatch, capsys):
    """Where Python has no Unix domain sockets: a clear message, exit code 2."""
    monkeypatch.setattr("aioapiqueue_run.cli.run.plan.os", types.SimpleNamespace(name="nt"))
    with pytest.raises(typer.Exit) as ended:
        run_command(command=["program"], limit=["ec2=1/s"])
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == f"aioapiqueue: run does not work on {sys.platform}: use WSL\n"


def test_nested_run_is_refused(quiet_run, python):
    """A second hub would put the limits of the first aside: exit code 2, and nothing is started."""
    inner = quiet_run.arguments("--limit", "ec2=1000/s", "--", python, "-c", "print('started')")
    ended = quiet_run.here("--limit", "ec2=1/s", "--", *inner)
    assert ended.code == 2
    assert "started" not in ended.out.decode()
    assert "this command is already inside an aioapiqueue run" in ended.words


def test_json_goes_to_stdout(run, python):
    """`--json -` is our stdout, after all that the program has written; messages are on stderr."""
    program = run.script("print('its own'); sys.stdout.flush(); calls(3)")
    ended = run.here("--limit", "ec2=50/s", "--json", "-", "--", python, program)
    assert ended.code == 0, ended.err
    own, _, rest = ended.out.decode().partition("\n")
    assert own == "its own"
    told = json.loads(rest)
    assert told["version"] == __version__
    start, end = map(dt.datetime.fromisoformat, (told["start"], told["end"]))
    assert (end - start).total_seconds() == pytest.approx(told["seconds"], abs=0.01)
    assert abs(start.timestamp() - time.time()) < 60


def test_time_series_adds_up(run, aws, python, tmp_path, short_steps):
    """By step and kind of call: the sums are those of the figures, at the time of the calls."""
    left = [2]

    def throttles(_):
        left[0] -= 1
        return left[0] >= 0

    aws.throttles = throttles
    program = run.script("""
        from botocore import retryhandler
        retryhandler.delay_exponential = lambda *_, **__: 0.01  # up to a second otherwise
        calls(8)
        time.sleep(0.3)
        calls(8)
        client("sts").get_caller_identity()
    """)
    figures = tmp_path / "figures.json"
    ended = run.here("--limit", "ec2=20/s", "--json", figures, "--", python, program)
    assert ended.code == 0, ended.err
    told = json.loads(figures.read_text())
    assert told["step_seconds"] == short_steps
    series = {one["service"]: one["time_series"] for one in told["figures"]}
    for figure in told["figures"]:
        one = figure["time_series"]
        for name in ("calls", "throttled", "errors", "refused", "waited"):
            assert sum(one.get(name, ())) == pytest.approx(figure[name], abs=1e-4)
            assert len(one.get(name, one["steps"])) == len(one["steps"])
            assert (name in one) is (figure[name] > 0)  # no list of zeros
    assert sum(series["ec2"]["calls"]) == 18
    # Of two times 8 calls, the last of which is after 7 intervals, and a pause.
    assert series["ec2"]["steps"][-1] - series["ec2"]["steps"][0] >= (0.35 + 0.3) / short_steps
    assert max(series["ec2"]["steps"]) <= told["seconds"] / short_steps
    (ec2,) = [one for one in told["figures"] if one["service"] == "ec2"]
    waits = [ec2["waits"][name] for name in ("p50", "p90", "p99", "max")]
    assert waits == sorted(waits)
    assert waits[-1] == told["waits"]["max"] > 0.1


@pytest.mark.flaky(reruns=2)  # the intervals of calls are real time, of which there is a bound
def test_adaptive_needs_no_file(run, aws, python, tmp_path):
    """With --adaptive, what is throttled slows down: a service without a limit, too."""
    left = [1]

    def throttles(action):
        left[0] -= action == "ListUsers"
        return action == "ListUsers" and left[0] == -7

    aws.throttles = throttles
    program = run.script("""
        from botocore import retryhandler
        retryhandler.delay_exponential = lambda *_, **__: 0.01  # up to a second otherwise
        iam = client("iam")
        begin()
        for _ in range(12):
            iam.list_users()
    """)
    figures = tmp_path / "figures.json"
    options = ("--limit", "ec2=20/s", "--adaptive", "--json", figures)
    ended = run.here(*options, "--", python, program)
    assert ended.code == 0, ended.err
    assert "paced: ec2 20/s, each other service: adaptive" in ended.words
    assert "adaptive: when AWS throttles, rates drop, then recover gradually" in ended.words
    assert "limits that applied to no call: ec2 20/s" in ended.words
    assert "with --adaptive" not in ended.words  # as it is
    (iam,) = json.loads(figures.read_text())["figures"]
    assert (iam["calls"], iam["throttled"], iam["paced"]) == (13, 1, True)
    gaps = [
        later - earlier for (earlier, _), (later, _) in itertools.pairwise(sorted(aws.arrivals))
    ]
    before, after = sorted(gaps[:7])[3], sorted(gaps[-4:])[2]
    assert after > 1.2 * before


def test_nothing_throttled_needs_no_advice(run, python):
    """A run that harmed nobody ends with its table."""
    ended = run.here("--limit", "ec2=50/s", "--", python, run.script("calls(3)"))
    assert "were accepted" not in ended.words
    assert "--adaptive" not in ended.words


def test_line_each_minute_without_terminal(run, python, tmp_path, monkeypatch):
    """Where there is no terminal, as in CI, a line now and then says how far it is."""
    introspect.replace(monkeypatch, "seconds of each look", 0.1)
    for option, wanted in (((), True), (("--no-live",), False)):
        program = run.script(f"calls({40 if wanted else 20})")
        options = ("--limit", "ec2=100/s", "--json", tmp_path / "figures.json", *option)
        ended = run.here(*options, "--", python, program)
        assert ended.code == 0
        said = ended.err.decode()
        lines = re.findall(r"(?m)^aioapiqueue: (ec2 100/s: .* calls?, .* throttled +0:\d\d)$", said)
        assert bool(lines) is wanted, said
        assert all(len(line) <= 80 - len("aioapiqueue: ") for line in lines)
        rates = [float(re.search(r", ([\d.]+)/s", line)[1]) for line in lines]
        # Taken over the seconds before: at first, those in which the program was only starting.
        assert all(rate <= 200 for rate in rates)
        if wanted:
            mean = 40 / json.loads((tmp_path / "figures.json").read_text())["seconds"]
            assert max(rates) >= 0.5 * mean  # the last line comes before the last calls
            assert len(rates) >= 3
