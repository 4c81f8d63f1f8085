import os
import re
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import aioapiqueue
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.console import pluralize

pytestmark = pytest.mark.real

PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines


@pytest.mark.parametrize(
    "command",
    [
        *("", "demo", "run", "watch", "docs", "limits", "limits check", "limits discover"),
        *("hub", "hub status", "hub reset"),
    ],
)
def test_help_fits_80_columns(command):
    """A flag takes no value, so there is nothing beside it but what it does."""
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert re.search(r"--help +Show this message", shown.stdout)
    assert not re.search(r"<bool>|BOOLEAN|\[\[", shown.stdout)


def test_version_is_shown():
    """`aioapiqueue --version` says it in a line, and nothing else happens."""
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"aioapiqueue {aioapiqueue.__version__}\n")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("run --report -- python x.py", "--report needs a value (FILE.html), but -- follows it"),
        ("run --limit s3=1/s --limit -- x", "--limit needs a value (LIMIT), but -- follows it"),
        ("run --log --json x.json x", "--log needs a value (FILE), but --json follows it"),
        ("run --limits=-- x", "--limits needs a value (FILE), but -- follows it"),
        ("limits --limits --", "--limits needs a value (FILE), but -- follows it"),
        ("demo --rate --snapshots", "--rate needs a value (RATE), but --snapshots follows it"),
    ],
)
def test_options_are_no_values(line, why, tmp_path, monkeypatch):
    """An option whose value was forgotten does not take what comes next; nothing is written."""
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, line.split())
    assert (shown.exit_code, shown.stderr) == (2, f"aioapiqueue: {why}\n")
    assert not list(tmp_path.iterdir())


def test_commands_need_no_http_sf():
    """Only clients of HTTP and the gateway do."""
    program = "import sys; sys.modules['http_sf'] = None; import aioapiqueue_run.cli.app"
    subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=True)


@pytest.mark.posix
@pytest.mark.parametrize("module", ["anyio", "typer"])
def test_ctrl_c_during_imports_is_silent(module, tmp_path):
    """Neither the package's own imports nor the command line's end in a traceback."""
    (tmp_path / f"{module}.py").write_text("import time; print('here', flush=True); time.sleep(60)")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-m", "aioapiqueue", "limits"],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == ("", "")
        assert process.returncode == -signal.SIGINT  # 130, as a shell has it


@pytest.mark.posix
def test_ctrl_c_raises_for_library_users(tmp_path):
    """Only the command line is silent: a program that imports us hears of it."""
    (tmp_path / "anyio.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    source = "try:\n    import aioapiqueue\nexcept KeyboardInterrupt:\n    print('caught')\n"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    shown = subprocess.run(
        [sys.executable, "-c", source],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert shown.stdout == "caught\n"


@pytest.mark.posix
@pytest.mark.parametrize(
    ("first", "then"),
    [("", "default_int_handler"), ("trap '' INT; ", "SIG_IGN")],
)
def test_ctrl_c_raises_unless_ignored(first, then, tmp_path):
    """A command that runs cleans up on Ctrl-C; under nohup, or after a shell's `&`, it lives on."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, signal\n"
        "atexit.register(lambda: print(repr(signal.getsignal(signal.SIGINT))))"
    )
    shown = subprocess.run(
        ["/bin/sh", "-c", f'{first}exec "$0" -m aioapiqueue --version', sys.executable],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert then in shown.stdout


def test_pluralize_handles_one():
    """One call, no calls, thousands of calls."""
    assert [pluralize(number, "call") for number in (0, 1, 2000)] == [
        "0 calls",
        "1 call",
        "2,000 calls",
    ]
