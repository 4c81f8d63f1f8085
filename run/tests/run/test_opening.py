"""The message before the program starts: what is paced, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.run.opening import opening
from aioapiqueue_run.cli.run.options import RunOptions
from tests.helpers.plans import plan_of

MANY = [f"ec2.Describe{what}=5/s" for what in ("Images", "Snapshots", "Tags", "Volumes", "Vpcs")]
MANY += [f"iam.List{what}=5/s" for what in ("Groups", "Policies", "Roles", "Users")]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (["default.*=20/s"], "paced: each operation of each service: 20/s"),
        (
            ["ec2=5 at once", "default.*=20/s", "default=9/s"],
            (
                "paced: ec2 5 at once, ec2.* 20/s, each other service: 9/s, "
                "each operation of each other service: 20/s"
            ),
        ),
        (
            ["ec2.DescribeTags=unlimited", "ec2.*=5/s"],
            "paced: ec2.DescribeTags unlimited, ec2.* 5/s\nnot paced: all other calls",
        ),
    ],
)
def test_each_limit_is_listed(limits, said):
    """Limits of all services leave no call unpaced, whether together or for each operation."""
    given = RunOptions(["scan"], limit=limits)
    assert opening(plan_of(Registry.from_options(limits), given=given)) == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": MANY}, "limits\n"),
        ({"limits": Path("a b.toml")}, "limits (`aioapiqueue limits --limits 'a b.toml'` lists"),
        ({"limits": Path("a.toml"), "limit": MANY}, "limits\n"),
        ({"limits": Path("a.toml"), "preset": "none"}, "limits\n"),
        ({"share": "80%"}, "limits (`aioapiqueue limits --share 80%` lists them)\n"),
        ({}, "limits (`aioapiqueue limits` lists them)\n"),
    ],
)
def test_command_lists_the_same_limits(options, said):
    """Only if the command shows those of this run."""
    plan = plan_of(Registry.from_options(MANY), given=RunOptions(["scan"], **options))
    text = opening(plan).replace("\N{NO-BREAK SPACE}", " ")
    assert f"paced: ec2, iam under 9 {said}" in text
