"""Unknown services and operations, as the commands report them: without botocore, and many."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from aioapiqueue_run.cli.app import app
from tests.helpers.operations_file import header
from tests.helpers.yardstick import yards

NEWER = (
    f"(if it is newer than botocore {header().newest}, the newest on {header().read}, "
    "use --no-check, or check = false in limits.toml)"
)
UNKNOWN = (
    "ec2 has no operation 'DescribeSnapshotAttribut': did you mean 'DescribeSnapshotAttribute'?"
)

WITHOUT_BOTOCORE = """
import sys
sys.modules["botocore"] = None  # importing it fails
import importlib.util
importlib.util.find_spec = lambda name, find=importlib.util.find_spec: (
    None if name == "botocore" else find(name)
)
from aioapiqueue.__main__ import main
main()
"""


def without_botocore(*arguments, **options):
    """Run the command line where botocore is not installed."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_BOTOCORE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.mark.real
@pytest.mark.posix
def test_mistyped_operation_starts_nothing(tmp_path):
    """Without botocore beside us: exit code 2, the nearest name, and how to say that it is new."""
    command = ["--", sys.executable, "-c", "print('started')"]
    limit = "ec2.DescribeSnapshotAttribut=5/s"
    done = without_botocore("run", "--limit", limit, *command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"aioapiqueue: --limit {limit}: {UNKNOWN} {NEWER}\n"
    done = without_botocore("run", "--no-check", "--limit", limit, *command)
    assert (done.returncode, done.stdout) == (0, "started\n")


@pytest.mark.real
def test_mistyped_file_does_not_pass(tmp_path):
    """`limits check` without botocore: names of lanes, of buckets and patterns are looked up."""
    path = tmp_path / "limits.toml"
    path.write_text(
        '[ec2]\nrate = "1/s"\n[ec2.lanes]\nDescribeSnapshotAttribut = "1/s"\n"Discribe*" = "1/s"\n'
        "[ec2.buckets.some]\n"
        'operations = ["RunInstance", "StartInstances", "Stop*"]\nexclude = ["StopInstance"]\n'
        'rate = "1/s"\ncost = {StopInstanz = 2}\n'
    )
    done = without_botocore("limits", "check", path)
    assert (done.returncode, done.stdout) == (1, "")
    problems = done.stderr.replace(f"aioapiqueue: {path}, ", "").splitlines()
    assert [line.partition(" (")[0] for line in problems] == [
        f"line {line}: ec2.{key}: ec2 has no operation {name!r}: did you mean {meant!r}?"
        for line, key, name, meant in (
            (4, "lanes.DescribeSnapshotAttribut", "DescribeSnapshotAttribut",
             "DescribeSnapshotAttribute"),
            (5, "lanes.'Discribe*'", "Discribe*", "Describe*"),
            (7, "buckets.some.operations", "RunInstance", "RunInstances"),
            (8, "buckets.some.exclude", "StopInstance", "StopInstances"),
            (10, "buckets.some.cost.StopInstanz", "StopInstanz", "StopInstances"),
        )
    ]  # fmt: skip
    done = CliRunner().invoke(app, ["limits", "check", "--no-check", str(path)])
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.real
def test_unchecked_parameters_are_reported(tmp_path, monkeypatch):
    """Only botocore has their names: without it, `limits check` says that they were not checked."""
    path = tmp_path / "limits.toml"
    path.write_text(
        'preset = "aws"\n[ec2.buckets.some]\noperations = ["RunInstances"]\nrate = "1/s"\n'
        'cost = {RunInstances = "MaxCuont"}\n'
    )
    done = without_botocore("limits", "check", path)
    assert done.returncode == 0
    assert done.stderr == (
        f"aioapiqueue: {path}, line 2: some: parameter names were not checked, because botocore "
        "is not installed: pip install botocore (with pipx: pipx inject aioapiqueue botocore)\n"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert CliRunner().invoke(app, ["limits", "check", "--no-check", str(path)]).stderr == ""


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    ("count", "most"), [(5_000, 4), pytest.param(20_000, 9, marks=pytest.mark.slow)]
)
def test_many_unknown_names_are_reported_soon(tmp_path, count, most):
    """Each of so many is reported soon; the first ones with what was meant.

    5,000 took 1 to 2 times the yardstick, 20,000 took 5 to 6 times.
    """
    lanes, patterns, services, keys = (
        "\n".join(line.format(number) for number in range(count // 4))
        for line in (
            "DescribeSnapshotAttri{} = '1/s'",
            "'Describz{}*' = '1/s'",
            "cloudfron{} = '1/s'",
            "rat{} = 1",
        )
    )
    path = tmp_path / "limits.toml"
    path.write_text(f'{services}\n[ec2]\nrate = "1/s"\n{keys}\n[ec2.lanes]\n{lanes}\n{patterns}\n')
    results = []

    def check():
        results.append(CliRunner().invoke(app, ["limits", "check", str(path)]))

    assert yards(check, enough=most) < most
    done = results[-1]
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == count
    assert "did you mean" in done.stderr
