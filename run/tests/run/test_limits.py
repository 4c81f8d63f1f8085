"""Invalid limits: a line for each, exit code 2, and nothing started."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from aioapiqueue_run.cli.app import app

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="needs Unix domain sockets"),
]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[ec3]\nrate = "10/s"\n', ("line 1", "'ec3'", "'ec2'")),
        ('[ec2]\nrate = "10/s"\nbrust = 5\n', ("line 3", "'brust'", "'burst'")),
        ('[ec2]\nrate = "10 per fortnight"\n', ("line 2", "'10 per fortnight'", "h or day")),
        ('[ec2.lanes]\nDescribeSnapshots = "5/s"\n', ("line 1", "ec2", "rate =")),
    ],
)
def test_bad_file_is_one_message(text, told, quiet_run, python, tmp_path):
    """A misspelt service, an unknown key, a bad rate, a lane without a queue: one line each."""
    limits = tmp_path / "limits.toml"
    limits.write_text(text)
    ended = quiet_run.here("--limits", limits, "--", python, "-c", "print('started')")
    assert (ended.code, ended.out) == (2, b"")
    (line,) = ended.err.decode().splitlines()
    assert line.startswith(f"aioapiqueue: {limits}, ")
    for expected in told:
        assert expected in line
    assert quiet_run.leftovers == []


def test_each_problem_is_listed_once(quiet_run, python, tmp_path):
    """Bad options are listed together, a line each; so is a missing or an empty file."""
    started = ("--", python, "-c", "print('started')")
    ended = quiet_run.here(
        "--limit", "ec3=1/s", "--limit", "ec2=fast", "--limit", "s3=5/s", *started
    )
    assert (ended.code, ended.out) == (2, b"")
    first, second = ended.err.decode().splitlines()
    assert first.startswith("aioapiqueue: --limit ec3=1/s: ")
    assert second.startswith("aioapiqueue: --limit ec2=fast: ")

    ended = quiet_run.here("--limits", tmp_path / "none.toml", *started)
    assert (ended.code, ended.out, ended.err.count(b"\n")) == (2, b"", 1)
    assert "none.toml: cannot be read" in ended.words

    (tmp_path / "empty.toml").write_text("# nothing\n")
    ended = quiet_run.here("--limits", tmp_path / "empty.toml", *started)
    assert (ended.code, ended.out, ended.err.count(b"\n")) == (2, b"", 1)
    assert "empty.toml contains no limits" in ended.words


@pytest.mark.parametrize("given", ["0", "nan"])
def test_grace_is_some_time(given):
    """No time at all to activate would stop any program: refused."""
    options = ("--limit", "ec2=1/s", "--grace", given, "--", "echo", "started")
    ended = CliRunner().invoke(app, ["run", *options])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert f"'--grace': '{given}' is invalid: expected a number" in ended.stderr


def test_option_goes_before_the_file(run, aws, python, tmp_path):
    """What --limit says of a service takes the place of what --limits says; the rest stays."""
    limits = tmp_path / "limits.toml"
    limits.write_text('[ec2]\nrate = "1/h"\n[ec2.lanes]\nDescribeImages = "1/min"\n')
    program = run.script("calls(3)")
    ended = run.here("--limits", limits, "--limit", "ec2=100/s", "--", python, program)
    assert ended.code == 0
    assert len(aws.arrivals) == 3
    assert "paced: ec2 100/s, ec2.DescribeImages 1" in ended.words


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[ec2]\nconcurrency = 5\n", "paced: ec2 5 at once not paced:"),
        ('[ec2]\nrate = "5/s"\nconcurrency = 2\n', "paced: ec2 5/s and 2 at once not paced:"),
        ("[default]\nconcurrency = 2\n", "paced: each service: 2 at once"),
        ('ec2 = "unlimited"\n', "nothing is paced: no service or host that you named has a limit"),
    ],
)
def test_all_kept_limits_are_listed(text, told, quiet_run, python, tmp_path):
    """How many may be in flight is a limit as well; without any, none is claimed."""
    limits = tmp_path / "limits.toml"
    limits.write_text(text)
    ended = quiet_run.here("--limits", limits, "--", python, "-c", "pass")
    assert ended.words.startswith(told)
