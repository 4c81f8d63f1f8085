"""What `run` quotes of others: nothing that a terminal obeys, and no line of its own."""

from __future__ import annotations

import pytest

from tests.helpers.run_here import run_here

pytestmark = pytest.mark.real

NASTY = "scan\n\x1b[2J\x07.py"
SHOWN = r"scan\n\x1b[2J\x07.py"


def lines_of(text):
    """Return lines, all of which a terminal shows as they are."""
    lines = text.decode().split("\n")
    assert all(line.isprintable() for line in lines)
    return [line for line in lines if line]


@pytest.mark.parametrize("to_file", [False, True], ids=["stderr", "log"])
def test_program_name_forges_no_line(run, tmp_path, to_file):
    """On stderr and in the file of `--log`, of one that runs and of one that is not there."""
    program, log = tmp_path / NASTY, tmp_path / "log"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    options = ["--log", log] if to_file else []
    ended = run.here("--limit", "ec2=10/s", "--no-any", *options, "--", program)
    assert ended.code == 3
    said = lines_of(log.read_bytes() if to_file else ended.err)
    assert any(SHOWN in line for line in said)
    assert all("aioapiqueue: " in line for line in said)
    missing = run.here("--limit", "ec2=10/s", "--no-any", "--", f"{program}x")
    (*_, why) = lines_of(missing.err)
    assert f"{SHOWN}x: no such file" in why


def test_limits_forge_no_line(run, tmp_path):
    """Names in a file of limits: when `run` begins and ends, and in the table of `limits`."""
    limits = tmp_path / "limits.toml"
    limits.write_text(
        '["ec\\u001b[2J\\n2"]\nrate = "1/s"\ncheck = false\n'
        '["ec\\u001b[2J\\n2".lanes]\n"Desc\\u0007\\n" = "2/s"\n'
    )
    shown = {r"ec\x1b[2J\n2", r"Desc\x07\n"}
    said = lines_of(run.here("--limits", limits, "--no-any", "--", "true").err)
    assert all(line.startswith("aioapiqueue: ") for line in said)
    assert all(name in "".join(said) for name in shown)
    code, table, _ = run_here(["limits", "--limits", str(limits)], run.environment(), b"", 60)
    assert code == 0
    assert all(name in "".join(lines_of(table)) for name in shown)
