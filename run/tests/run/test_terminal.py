"""What is on the screen of a terminal of 80 by 24: the program's output, and our line below it."""

from __future__ import annotations

import os
import re
import sys
import time

import pytest

if os.name != "posix":
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

from aioapiqueue_run.cli.run.log import Log
from aioapiqueue_run.cli.run.progress import fit
from tests.helpers import introspect
from tests.helpers.servers import Server
from tests.helpers.terminal import Terminal

pytestmark = pytest.mark.real

# What stands between a terminal and its programs: it stops and continues them, as shells do.
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    os.tcsetpgrp(0, os.getpgrp())
    print("STOPPED", flush=True)
    sys.stdin.readline()
    os.tcsetpgrp(0, child)
    os.killpg(child, signal.SIGCONT)
os.tcsetpgrp(0, os.getpgrp())
print("CODE", os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture
def terminal(run):
    """Run `aioapiqueue run` in a terminal, in the foreground of a shell if that is asked for."""
    opened = []

    def open_terminal(*arguments, under_shell=False, before="", **environment):
        command = run.arguments(*arguments)
        if before:  # in place of `-m aioapiqueue`
            code = f"{before}\nfrom aioapiqueue.__main__ import main; main()"
            command = [sys.executable, "-c", code, *command[3:]]
        if under_shell:
            command = [sys.executable, "-c", SHELL, *command]
        variables = run.environment(**({"TERM": "xterm-256color"} | environment))
        del variables["COLUMNS"]
        opened.append(Terminal(command, variables))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


LIVE = re.compile(
    r"ec2 20/s: \d+ calls, \d+\.\d/s, \d+ waiting, 0 throttled {5,}\d:\d\d"
)  # fmt: skip


def test_refusal_breaks_between_words(terminal, run):
    """In a terminal, no word of a long message is cut; elsewhere, it stays one line."""
    arguments = ("--limit", "ec3=10/s", "--", "true")
    piped = run.here(*arguments)
    (whole,) = piped.err.decode().splitlines()
    assert len(whole) > 80
    shown = terminal(*arguments)
    assert shown.end() == piped.code == 2
    lines = [row for row in shown.rows if row]
    assert len(lines) > 1
    assert all(line.startswith("aioapiqueue: ") for line in lines)
    said = " ".join(line.removeprefix("aioapiqueue: ") for line in lines)
    assert f"aioapiqueue: {said}" == whole


def test_line_stands_below_the_programs_output(terminal, run, python, tmp_path):
    """The last row is ours, the others the program's, whole and in order; at the end it is free."""
    program = run.script("""
        import threading
        thread = threading.Thread(target=calls, args=(12,))
        thread.start()
        for number in range(100):
            print(f"line {number} " + "." * (number % 60), flush=True)
            time.sleep(0.005)
        thread.join()
        until_exists(sys.argv[1])
        sys.stdout.write("no line feed")
    """)
    screen = terminal("--limit", "default=20/s", "--", python, program, tmp_path / "seen")
    screen.until(lambda: LIVE.fullmatch(screen.rows[23]) and screen.rows[21].startswith("line "))
    assert not any(LIVE.search(row) for row in screen.rows[:23])
    (tmp_path / "seen").touch()
    assert screen.end() == 0
    told = [row for row in screen.everything if row.startswith("line ")]
    assert told == [f"line {n} ".rstrip() + " " * (n % 60 > 0) + "." * (n % 60) for n in range(100)]
    # Freed: the closing words have scrolled over it, and nothing is left of it.
    assert not any(LIVE.search(row) for row in screen.everything)
    assert screen.rows[23] == ""
    assert screen.screen.margins in {None, (0, 23)}
    (row,) = [row for row in screen.rows if row.startswith("ec2 20/s ")]
    assert row.split()[2] == "12"
    assert max(map(len, screen.rows)) <= 80


def test_line_shows_a_lost_server(terminal, run, aws, python, tmp_path):
    """And what is done meanwhile: here, the rate of `--fallback` is kept, and the program ends."""
    with Server() as server:
        options = ("--shared", server.url, "--fallback", "40/s", "--limit", "ec2=20/s")
        program = run.script("""
            calls(10)
            until_exists(sys.argv[1])
            calls(10)
            until_exists(sys.argv[2])
        """)
        gone, seen = tmp_path / "gone", tmp_path / "seen"
        screen = terminal(*options, "--", python, program, gone, seen)
        screen.until(lambda: LIVE.fullmatch(screen.rows[23]) and len(aws.arrivals) == 10)
        server.kill()
        gone.touch()
        lost = re.compile(r"SHARED SERVER LOST, each quota continues at 40/s .* {2}\d:\d\d")
        screen.until(lambda: lost.fullmatch(screen.rows[23]))
        seen.touch()
        assert screen.end() == 0
    assert len(aws.arrivals) == 20
    said = " ".join(row.removeprefix("aioapiqueue: ") for row in screen.rows)
    assert re.search(
        r"lost the shared server \(.+\): until it is back, each quota continues at 40/s ", said
    )
    assert re.search(r"unreachable for \d\.\d s; at the end: ", said)
    assert max(map(len, screen.rows)) <= 80


def test_crash_leaves_the_terminal_clean(terminal, run, python, tmp_path):
    """A program that is killed leaves the terminal in order all the same, and its last words."""
    program = run.plain("""
        print("before", flush=True)
        until_exists(sys.argv[1])
        os.write(1, b"torn")
        os.kill(os.getpid(), 9)
    """)
    screen = terminal("--limit", "ec2=20/s", "--", python, program, tmp_path / "seen")
    screen.until(lambda: screen.rows[23].startswith("no AWS calls yet"))
    (tmp_path / "seen").touch()
    assert screen.end() == 137
    assert "before" in screen.rows
    assert any(row.startswith("torn") for row in screen.rows)
    assert not any("no AWS calls yet" in row for row in screen.rows)
    assert screen.screen.margins in {None, (0, 23)}


@pytest.mark.parametrize("size", [(20, 70), (30, 100)])
def test_line_follows_a_change_of_size(terminal, run, python, tmp_path, size):
    """In a smaller or a larger window it is in the last row, and the output stays whole."""
    program = run.script("""
        import threading
        threading.Thread(target=calls, args=(20,)).start()
        number = last = 0
        while not last or number < last:
            print(f"line {number}", flush=True)
            time.sleep(0.01)
            number += 1
            if not last and os.path.exists(sys.argv[1]):
                print("seen", flush=True)
                last = number + 5
        print("end", flush=True)
    """)
    seen = tmp_path / "seen"
    screen = terminal("--limit", "ec2=20/s", "--", python, program, seen)
    screen.until(lambda: LIVE.fullmatch(screen.rows[23]))
    screen.resize(*size)
    screen.until(lambda: LIVE.fullmatch(screen.rows[size[0] - 1]))
    assert sum(LIVE.search(row) is not None for row in screen.rows) == 1

    def last():
        shown = (row for row in screen.rows if re.fullmatch(r"line \d+", row))
        return max((int(row[5:]) for row in shown), default=-1)  # right after a change, none is

    # The emulator drops rows when it is resized, and what was on its way then. What comes after is
    # all there: with the closing table that may follow by now, it is fewer rows than it has.
    resized = last()
    screen.until(lambda: last() > resized + 2)
    seen.touch()
    screen.until(lambda: "end" in screen.rows)
    assert "seen" in screen.rows, "\n".join(screen.rows)
    after = screen.rows[screen.rows.index("seen") + 1 :]
    found = [int(row[5:]) for row in after if re.fullmatch(r"line \d+", row)]
    assert found == list(range(found[0], found[0] + 5))
    assert screen.end() == 0


def test_ctrl_c_reaches_the_program_once(terminal, run, python, tmp_path):
    """The key reaches the program once, by the terminal, and we wait for what it does."""
    program = run.plain("""
        import signal
        signal.signal(signal.SIGINT, lambda *_: os.write(1, b"interrupted\\n"))
        os.write(1, b"ready\\n")
        until_exists(sys.argv[1])
        time.sleep(0.2)
        sys.exit(6)
    """)
    heard = tmp_path / "heard"
    screen = terminal("--limit", "ec2=20/s", "--", python, program, heard, under_shell=True)
    screen.until(lambda: "ready" in screen.rows)
    screen.type("\x03")
    screen.until(lambda: b"interrupted" in screen.raw)
    heard.touch()
    screen.until(lambda: any(row.endswith("CODE 6") for row in screen.rows))
    assert screen.raw.count(b"interrupted") == 1


def test_ctrl_c_shows_what_is_awaited(terminal, run, python, tmp_path):
    """A program that goes on after Ctrl-C does not look as if we hung."""
    program = run.plain("""
        import signal
        signal.signal(signal.SIGINT, lambda *_: None)
        os.write(1, b"ready\\n")
        until_exists(sys.argv[1])
    """)
    told = tmp_path / "told"
    options = ("--limit", "ec2=20/s", "--", python, program, told)
    soon = introspect.code_to_replace("seconds after an interruption", 0.3)
    screen = terminal(*options, under_shell=True, before=soon)
    screen.until(lambda: "ready" in screen.rows)
    screen.type("\x03")
    screen.until(lambda: "aioapiqueue: interrupted: waiting for" in "\n".join(screen.rows))
    told.touch()
    screen.until(lambda: any(row.endswith("CODE 0") for row in screen.rows))


def test_suspended_it_gives_the_row_back(terminal, run, python, tmp_path):
    """Ctrl-Z stops us and the program, with the terminal in order; continued, the line is back."""
    program = run.plain("""
        number = 0
        while not os.path.exists(sys.argv[1]):
            os.write(1, b"line %d\\n" % number)
            number += 1
            time.sleep(0.04)
    """)
    seen = tmp_path / "seen"
    screen = terminal("--limit", "ec2=20/s", "--", python, program, seen, under_shell=True)
    screen.until(lambda: b"line 5" in screen.raw and "no AWS calls yet" in screen.rows[23])
    screen.type("\x1a")
    screen.until(lambda: any(row.endswith("STOPPED") for row in screen.rows))
    assert "no AWS calls yet" not in "\n".join(screen.rows)
    assert screen.screen.margins in {None, (0, 23)}
    before = len(screen.raw)
    time.sleep(0.6)
    screen.read()
    assert len(screen.raw) == before  # nobody writes
    screen.type("\n")
    screen.until(lambda: "no AWS calls yet" in screen.rows[23])
    seen.touch()
    screen.until(lambda: any(row.endswith("CODE 0") for row in screen.rows))
    numbers = [int(n) for n in re.findall(rb"line (\d+)", screen.raw)]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("how", ["dumb", "--no-live", "--log"])
def test_no_line_where_unwanted(how, terminal, run, python, tmp_path):
    """Without a terminal that knows regions, or with an option, no control sequence is written."""
    program = run.plain("print('said', flush=True); time.sleep(0.2)")
    options = {"--no-live": ["--no-live"], "--log": ["--log", tmp_path / "log"]}.get(how, [])
    variables = {"TERM": "dumb"} if how == "dumb" else {}
    screen = terminal("--limit", "ec2=1/s", *options, "--", python, program, **variables)
    assert screen.end() == 0
    assert b"\x1b" not in screen.raw
    if how == "--log":
        assert screen.raw == b"said\r\n"


def test_what_does_not_fit_is_counted():
    """The line shows as many services as there is room for, the most important first."""
    assert fit(["ec2: 1"], "0:01", 20) == "ec2: 1          0:01"
    assert fit(["ec2: 1", "s3: 2"], "0:01", 30) == "ec2: 1 | s3: 2            0:01"
    assert fit(["ec2: 1", "s3: 2", "iam: 33"], "0:01", 29) == "ec2: 1 | s3: 2  +1 more  0:01"
    assert fit(["ec2: 1", "s3: 2", "iam: 3"], "0:01", 25) == "ec2: 1  +2 more      0:01"
    assert fit(["elasticloadbalancing: 12 calls"], "0:01", 20) == "elasticloadbal  0:01"
    assert fit([], "0:01", 10) == "      0:01"
    assert fit(["ec2"], "0:01", 3) == "  0"


def test_each_message_fits_80_columns(capsys):
    """Longer lines would be broken by the terminal, within words. A path stays whole."""
    path = f"/opt/{'python' * 20}"
    Log(None).say(f"waiting for {path} to end. {'Its calls are still paced. ' * 9}\nand so on")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if len(line) > 80] == [f"aioapiqueue: {path}"]
    assert all(line.startswith("aioapiqueue: ") for line in lines)
    assert lines[-1] == "aioapiqueue: and so on"
