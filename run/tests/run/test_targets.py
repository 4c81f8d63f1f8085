"""Where --json and --log go: refused before the program starts, and not lost after it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import termios
import threading
import time

import pytest
from typer.testing import CliRunner

from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.run.errors import NotStarted
from aioapiqueue_run.cli.run.output_file import OutputFile
from tests.helpers.models import operations_of
from tests.helpers.servers import until
from tests.helpers.words import words_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="needs Unix domain sockets"),
]

OPTIONS = ("--json", "--log")


def missing(path):
    """Return the path of a file in a folder that is not there."""
    return path / "no" / "file"


def dangling(path):
    """Return a link to such a file."""
    (path / "link").symlink_to("no/file")
    return path / "link"


def unread(path):
    """Return a pipe that nobody reads."""
    os.mkfifo(path / "pipe")
    return path / "pipe"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path, "Is a directory"),
        (missing, "there is no directory {path}/no"),
        (dangling, "there is no directory {path}/no"),
        (unread, "no process reads this pipe; start the reader first"),
    ],
    ids=["folder", "missing", "dangling", "pipe"],
)
def test_unwritable_target_starts_nothing(make, says, python, tmp_path):
    """It is found out before the program starts: words, exit code 2, and no file is left."""
    target = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    for option, other in (OPTIONS, OPTIONS[::-1]):
        command = ["run", "--limit", "ec2=1/s", option, str(target), other, str(tmp_path / "good")]
        program = f"open({str(tmp_path / 'started')!r}, 'w')"
        told = CliRunner().invoke(app, [*command, "--", python, "-c", program])
        assert (told.exit_code, told.stdout) == (2, "")
        assert told.stderr == (
            f"aioapiqueue: {option}: {target} cannot be written: "
            f"{says.format(path=tmp_path)}; nothing was started\n"
        )
        assert sorted(tmp_path.iterdir()) == before


def test_one_file_for_both_is_refused(python, tmp_path):
    """Figures would take the place of our words, by whichever path it is named."""
    (tmp_path / "link").symlink_to("file")
    options = ["--log", str(tmp_path / "file"), "--json", str(tmp_path / "link")]
    told = CliRunner().invoke(app, ["run", *options, "--", python, "-c", "print('started')"])
    assert (told.exit_code, told.stdout) == (2, "")
    assert f"{tmp_path / 'link'} is also the file of --log: choose another; nothing" in told.stderr


def test_socket_is_not_a_pipe(tmp_path):
    """What cannot be opened for another reason than a pipe's has the system's message."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(NotStarted, match="cannot be written: No such device or address"):
            OutputFile("--log", tmp_path / "socket")


def test_target_of_somebody_else_is_refused(tmp_path):
    """A file that this user may not write is one that cannot be written."""
    path = tmp_path / "file"
    path.write_text("kept")
    path.chmod(0o444)
    with contextlib.ExitStack() as stack:
        if not os.geteuid():
            stack.callback(os.seteuid, 0)
            os.seteuid(65534)
        with pytest.raises(NotStarted, match="cannot be written: Permission denied"):
            OutputFile("--log", path)
    assert path.read_text() == "kept"


def test_target_is_replaced_or_appended_to(tmp_path):
    """What was there stays until figures take its place; a log's words come after it."""
    for append, expected in ((False, "new"), (True, "what was there, and more\nnew")):
        path = tmp_path / "file"
        path.write_text("what was there, and more\n")
        target = OutputFile("--json", path, append=append)
        assert path.read_text() == "what was there, and more\n"
        target.write("new")
        target.discard()
        assert path.read_text() == expected


def test_removed_target_is_made_again(tmp_path):
    """A program may empty the folder, or put another file there; a missing folder is an error."""
    folder = tmp_path / "results"
    folder.mkdir()
    target = OutputFile("--json", folder / "figures.json")
    (folder / "figures.json").unlink()
    target.write("new")
    assert (folder / "figures.json").read_text() == "new"
    (folder / "other").write_text("what another program wrote")
    (folder / "other").replace(folder / "figures.json")
    target.write("newer")
    assert (folder / "figures.json").read_text() == "newer"
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        target.write("newest")
    target.discard()


def test_pipe_with_a_reader_gets_all(quiet_run, python, tmp_path):
    """A pipe that is read works for both, the whole run long."""
    read = {}

    def reader(option):
        read[option] = (tmp_path / option[2:]).read_text()

    threads = []
    for option in OPTIONS:
        os.mkfifo(tmp_path / option[2:])
        threads.append(threading.Thread(target=reader, args=[option]))
        threads[-1].start()
    options = [part for option in OPTIONS for part in (option, tmp_path / option[2:])]
    ended = quiet_run("--limit", "ec2=1/s", *options, "--", python, "-c", "print('ran')")
    for thread in threads:
        thread.join(60)
    assert (ended.code, ended.out, ended.err) == (0, b"ran\n", b"")
    assert json.loads(read["--json"])["exit_code"] == 0
    assert ", exit code 0" in read["--log"]


def test_pipe_whose_reader_goes_away(quiet_run, python, tmp_path):
    """What cannot go there any more goes to stderr, which says why; the exit code stays."""
    log, go = tmp_path / "log", tmp_path / "go"
    os.mkfifo(log)
    program = quiet_run.plain(f"until_exists({str(go)!r})")
    with quiet_run.start("--limit", "ec2=1/s", "--log", log, "--", python, program) as process:
        with log.open() as reader:
            assert "paced: ec2 1/s" in reader.readline()
        go.touch()
        ended = quiet_run.end(process)
    assert ended.code == 0
    assert f"--log: {log} can no longer be written: Broken pipe" in ended.words
    assert ", exit code 0" in ended.words


@pytest.mark.parametrize(
    "text",
    [
        "{run} /dev/stdout {program}",
        "{run} /dev/stderr {program} 2>&1 >/dev/stdout",
        "{run} /dev/stdout {program} > {folder}/out; cat {folder}/out",
        """{run} >(cat > {folder}/json; echo x > {folder}/done) {program}
        until [ -s {folder}/done ]; do sleep 0.05; done
        cat {folder}/json""",
    ],
    ids=["stdout", "stderr", "file", "substitution"],
)
def test_targets_of_a_shell_work(text, quiet_run, python, tmp_path):
    """/dev/null, /dev/stdout, and bash's process substitution are files like others."""
    arguments = quiet_run.arguments("--limit", "ec2=1/s", "--log", "/dev/null", "--json")
    run, program = shlex.join(arguments), shlex.join(["--", python, "-c", "print('ran')"])
    done = subprocess.run(
        [shutil.which("bash"), "-c", text.format(run=run, program=program, folder=tmp_path)],
        env=quiet_run.environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    said, _, figures = done.stdout.partition(b"\n")
    assert said == b"ran"
    assert json.loads(figures)["exit_code"] == 0


@pytest.mark.skipif(not os.path.exists("/proc"), reason="needs prlimit")  # noqa: PTH110
@pytest.mark.parametrize("code", [0, 7])
def test_full_target_costs_no_exit_code(code, quiet_run, python, tmp_path):
    """Full only once the program runs: its exit code stays, and stderr says what is lost."""
    program = quiet_run.plain("""
        import resource
        resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (0, 0))
        sys.exit(int(sys.argv[1]))
    """)
    log, figures = tmp_path / "log", tmp_path / "figures.json"
    options = ("--limit", "ec2=1/s", "--log", log, "--json", figures)
    ended = quiet_run(*options, "--", python, program, code)
    assert ended.code == code
    assert f"--log: {log} can no longer be written: File too large" in ended.words
    assert f", exit code {code}" in ended.words
    assert f"--json: {figures} cannot be written: File too large" in ended.words
    assert "paced: ec2 1/s" in log.read_text()


def unread_in(pipe):
    """Return how many bytes are in a pipe."""
    number = bytearray(4)
    fcntl.ioctl(pipe, termios.FIONREAD, number)
    return int.from_bytes(number, sys.byteorder)


def test_json_on_stdout_that_does_not_block(quiet_run, python):
    """A program may leave the stdout that it shares with us so: all of the JSON is written."""
    program = quiet_run.plain("os.set_blocking(1, False); print('x' * 100)")
    limits = [f"--limit=ec2.{name}=1/s" for name in operations_of("ec2")[:500]]  # > 64 kB
    with quiet_run.start(*limits, "--json", "-", "--", python, program) as process:
        until(lambda: unread_in(process.stdout) > 1000, "no JSON is written")
        time.sleep(0.2)  # nobody reads meanwhile, so that the pipe is full
        ended = quiet_run.end(process)
    assert ended.code == 0, ended.err
    _, _, text = ended.out.decode().partition("\n")
    assert len(text) > 100_000  # a pipe has room for 65,536 bytes
    assert len(json.loads(text)["limits"]) == 500


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 2, "--json: - cannot be written: Bad file descriptor; nothing was started"),
        (">/dev/full & touch gone; wait", 0, "--json: - cannot be written: No space left on"),
        ("| { exec <&-; touch gone; }", 0, "--json: - cannot be written: Broken pipe"),
    ],
)
def test_json_on_stdout_that_is_gone(redirection, code, said, quiet_run, python):
    """Refused before the program starts where that is known then; else a message says so."""
    program = quiet_run.plain("until_exists('gone')")
    command = quiet_run.arguments("--limit", "ec2=1/s", "--json", "-", "--", python, program)
    line = f"{{ {shlex.join(command)}; echo CODE $? >&2; }} {redirection}"
    ended = subprocess.run(
        ["/bin/bash", "-c", line],
        env=quiet_run.environment(),
        cwd=quiet_run.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    errors = ended.stderr.decode()
    assert f"CODE {code}" in errors, errors
    assert said in words_of(errors)


@pytest.mark.parametrize(
    ("option", "written"),
    [("--json", '"exit_code": 0'), ("--log", "(?m)^20[0-9TZ:-]+ aioapiqueue: paced: ec2")],
)
def test_redirected_output_is_not_erased(option, written, quiet_run, python, tmp_path):
    """If a file of ours is that of the program's output, what we write follows it there."""
    program = quiet_run.plain("print('its own', flush=True)")
    command = quiet_run.arguments("--limit", "ec2=1/s", option, "both", "--", python, program)
    with (tmp_path / "both").open("wb") as both:
        subprocess.run(
            command, env=quiet_run.environment(), cwd=tmp_path, stdout=both, timeout=60, check=True
        )
    text = (tmp_path / "both").read_text()
    assert "its own\n" in text
    assert re.search(written, text)


def test_messages_go_to_stdout(quiet_run, python):
    """`-` is our stdout for messages, too; the program writes there as well."""
    program = quiet_run.plain("print('its own')")
    ended = quiet_run.here("--limit", "ec2=1/s", "--log", "-", "--", python, program)
    assert (ended.code, ended.err) == (0, b"")
    assert b"paced: ec2 1/s" in ended.out
    assert b"its own\n" in ended.out
