"""Runs under a budget: what the program gets when it is used up, and what is shown at the end."""

from __future__ import annotations

import json
import os
import re

import pytest

if os.name != "posix":
    pytest.skip("run needs POSIX", allow_module_level=True)

from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.run.budgets import budgets_left
from aioapiqueue_run.cli.run.model import Outcome
from aioapiqueue_run.hub import Watcher
from aioapiqueue_run.hub.calls import Calls
from aioapiqueue_run.hub.queue_records import QueueRecords
from aioapiqueue_run.hub.records import Kind, ProcessLoad
from tests.helpers.hubs import hub_in_use
from tests.helpers.plans import plan_of

KEY = "AKIAIOSFODNN7EXAMPLE"


@pytest.mark.real
def test_used_up_budget_ends_the_program(run, aws, python, tmp_path):
    """The error has a remedy for `run`; messages, JSON and page have what is left."""
    program = run.script("calls(4, threads=1)")
    figures, page = tmp_path / "figures.json", tmp_path / "report.html"
    limits = ("--limit", "ec2=3 in all", "--limit", "ec2.DescribeSnapshots=9 in each day")
    files = ("--json", figures, "--report", page)
    ended = run.here("--private", *limits, *files, "--", python, program)
    assert (ended.code, len(aws.arrivals)) == (1, 3)
    why = (
        'PacingError: the call was not sent: ec2 DescribeSnapshots: the budget "3 in all" has 0 '
        "left, and this call would cost 1: set a larger one with --limit"
    )
    assert why in ended.err.decode()
    assert "ec2 3 in all: 3 spent, 0 reserved, 0 left" in ended.words
    shown = "ec2.DescribeSnapshots 9 in each day: 3 spent, 0 reserved, 6 left"
    assert shown in ended.words
    assert "later runs" not in ended.words
    found = json.loads(figures.read_text())
    (queue,) = found["queues"]
    (lane,) = queue["lanes"]
    assert queue["budgets"] == {"3 in all": {"spent": 3, "reserved": 0, "left": 0}}
    assert lane["budgets"] == {"9 in each day": {"spent": 3, "reserved": 0, "left": 6}}
    shares = [one["share"] for one in found["changes"] if one["kind"] == "threshold"]
    assert shares == [0.5, 0.8, 1]
    text = page.read_text()
    assert "Budgets at the end" in text
    assert re.search(r"100\N{NO-BREAK SPACE}%</data> of 3 in all is used", text)


@pytest.mark.real
def test_budget_outlasts_a_run_on_the_host(run, python):
    """The next run of this host goes on with it, and the message says how to reset it."""
    program = run.script("calls(2, threads=1)")
    with hub_in_use():
        for left in (1, 0):
            ended = run.here("--limit", "ec2=3 in all", "--", python, program)
            reset = f"to reset it: aioapiqueue hub reset 'ec2 eu-west-1 {KEY}'"
            spent = "what this run spent counts against its budgets in later runs"
            assert f"{spent}; {reset}" in ended.words
            assert ended.code == (0 if left else 1)


@pytest.mark.real
def test_dry_run_counts_refused_calls(run, python, tmp_path):
    """A limit that would refuse calls is not said to have no effect."""
    figures = tmp_path / "figures.json"
    options = ("--dry-run", "--limit", "ec2=2 in all", "--json", figures)
    ended = run.here(*options, "--", python, run.script("calls(5, threads=1)"))
    assert ended.code == 0
    assert "limits that would have refused calls: ec2 2 in all (3 calls)" in ended.words
    assert "no limit would have delayed" not in ended.words
    assert "reserved" not in ended.words
    found = json.loads(figures.read_text())
    assert found["if_paced"]["refused"] == [{"name": "ec2", "limit": "2 in all", "calls": 3}]
    assert "budgets" not in found["queues"][0]


def outcome_of(text, operations, regions=("eu-west-1",)):
    """The outcome of a run that has asked for these calls."""
    records = QueueRecords(paced=True)
    calls = Calls(Registry.parse(text, check=False, observers=[records]), records, Watcher())
    for region in regions:
        for operation in operations:
            kind = Kind("ec2", operation, region, None)
            calls.request(ProcessLoad(), kind, {}, ahead=False)
    return Outcome(code=0, figures=calls.figures, recording=records.recording)


async def test_many_budgets_are_cut():
    """The rest is a number; a bucket and a lane have the names of their limits."""
    operations = [f"Describe{letter}" for letter in "abcdefghij"]
    lanes = "".join(f'{one} = "5 in all"\n' for one in operations)
    bucket = '[ec2.buckets.copies]\noperations = ["Copy"]\nrate = "2 in each month"\n'
    text = f'[ec2]\nrate = "9 in all"\n[ec2.lanes]\n{lanes}{bucket}'
    outcome = outcome_of(text, [*operations, "Copy"])
    lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in budgets_left(plan_of(), outcome)]
    assert lines[:2] == [
        "ec2 9 in all: 0 spent, 0 reserved, 9 left",
        "ec2 (copies) 2 in each month: 0 spent, 0 reserved, 2 left",
    ]
    assert lines[-1] == "and 4 more budgets: --json FILE has all of them"
    assert len(lines) == 9


async def test_queues_of_regions_are_told_apart():
    """Each has limits of its own; to reset them, all of their names are needed."""
    outcome = outcome_of('ec2 = "9 in all"', ["DescribeTags"], ("eu-west-1", "us-east-1"))
    lines = list(budgets_left(plan_of(on_host=object()), outcome))
    assert [line.partition(":")[0] for line in lines] == [
        "ec2 in ec2 eu-west-1 9 in all",
        "ec2 in ec2 us-east-1 9 in all",
        "what this run spent counts against its budgets in later runs; to reset one of 2 quotas",
    ]
    assert lines[-1].endswith(": aioapiqueue hub reset 'ec2 eu-west-1'")


@pytest.mark.parametrize("limit", ["9 in each day", "9/s"])
async def test_only_budgets_outlast_a_run(limit):
    """A calendar limit is recovered with its period, and a rate has no use to show."""
    outcome = outcome_of(f'ec2 = "{limit}"', ["DescribeTags"])
    lines = list(budgets_left(plan_of(on_host=object()), outcome))
    assert len(lines) == (limit == "9 in each day")
    assert not [line for line in lines if "later runs" in line]
