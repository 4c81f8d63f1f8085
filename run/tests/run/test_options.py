"""The options of a run: one place has them, and a command line is made from them again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aioapiqueue_run.cli.help import Launcher
from aioapiqueue_run.cli.run.options import RunOptions, signature
from aioapiqueue_run.cli.run.plan import make_plan

GIVEN = RunOptions(
    ["scan", "--all"],
    limit=["ec2=1/s", "s3=2/s"],
    limits=Path("limits.toml"),
    preset="aws",
    share="25%",
    no_check=True,
    shared="redis://host",
    fallback="5/s",
    adaptive=True,
    fail_on=["throttled"],
    any=False,
    isolate=True,
    private=True,
    grace=2.5,
    allow_inactive=True,
)


def read(words):
    """Return the options that a command line gives, as typer reads it."""
    found = []

    def command(**options):
        found.append(RunOptions(**options))

    command.__signature__ = signature()
    app = typer.Typer()
    app.command(cls=Launcher, context_settings={"allow_interspersed_args": False})(command)
    ended = CliRunner().invoke(app, words, env={"AIOAPIQUEUE_SHARED": ""})
    assert ended.exit_code == 0, ended.output
    return found[0]


def test_words_give_the_same_options():
    """Limits, pacing and checks are repeated; nothing that was not given is."""
    assert RunOptions(["scan"]).as_words() == []
    assert read([*GIVEN.as_words(), "--", *GIVEN.command]) == GIVEN
    other = dataclasses.replace(GIVEN, any=True)
    assert read([*other.as_words(), "--", *other.command]) == other


def test_output_is_not_repeated():
    """A run that is repeated is paced, and replaces no file of the run before."""
    other = dataclasses.replace(
        GIVEN,
        dry_run=True,
        log=Path("log"),
        json=Path("x.json"),
        report=Path("x.html"),
        show_accounts=True,
        no_live=True,
    )
    assert other.as_words() == GIVEN.as_words()


@pytest.mark.posix
def test_password_is_not_repeated(monkeypatch):
    """The words to repeat a run have the server without it; nor does a dry run share anything."""
    url = "redis://:geheim@host"
    options = RunOptions(["true"], limit=["ec2=1/s"], dry_run=True, shared=url)
    plan = make_plan(options)
    assert plan.shared is None
    assert plan.given.as_words() == ["--limit", "ec2=1/s", "--shared", "redis://:***@host"]
    assert "geheim" not in repr((options, plan))
    monkeypatch.setenv("AIOAPIQUEUE_SHARED", url)  # which is there for the next run, too
    assert make_plan(options).given.as_words() == ["--limit", "ec2=1/s"]
