"""The workflow that publishes both distributions."""

from __future__ import annotations

from pathlib import Path

import yaml

WORKFLOW = Path(__file__).parents[1] / ".github" / "workflows" / "release.yml"
JOBS = yaml.safe_load(WORKFLOW.read_text("utf-8"))["jobs"]


def options(job, action):
    """Return the options of each step of a job that uses an action, in their order."""
    steps = (one for one in JOBS[job]["steps"] if one.get("uses", "").startswith(f"{action}@"))
    return [one["with"] for one in steps]


def test_programs_are_published_first():
    """When the library is there, its extras can be installed."""
    steps = options("publish", "pypa/gh-action-pypi-publish")
    assert [one["packages-dir"] for one in steps] == [
        "dist/aioapiqueue-run",
        "dist/aioapiqueue",
    ]


def test_both_distributions_are_attested():
    """Each is one artifact of what was checked, in a folder of its name."""
    assert {one["name"]: one["path"] for one in options("build", "actions/upload-artifact")} == {
        "aioapiqueue-run": "dist/aioapiqueue_run-*",
        "aioapiqueue": "dist/aioapiqueue-*",
    }
    assert options("publish", "actions/download-artifact") == [
        {"pattern": "aioapiqueue*", "path": "dist"}
    ]
    assert options("publish", "actions/attest-build-provenance") == [{"subject-path": "dist/*/*"}]


def test_publishing_needs_ci_and_checks():
    """Nothing is published unless all tests pass on the tag, and the files were checked."""
    assert set(JOBS["publish"]["needs"]) == {"ci", "build"}
    assert any("nox -s package -- --tag" in one.get("run", "") for one in JOBS["build"]["steps"])
