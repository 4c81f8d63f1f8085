"""The two distributions, `aioapiqueue` and `aioapiqueue-run`: one version, the same Pythons."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

import aioapiqueue
import aioapiqueue_run

ROOT = Path(__file__).parents[1]
PROJECTS = {
    name: tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"]
    for name, folder in (("aioapiqueue", "."), ("aioapiqueue-run", "run"))
}
OURS = re.compile(r"aioapiqueue(?:-run)?(?:\[[\w,-]+\])?")


def pins(project):
    """Return the versions of our distributions that a project requires, by name with extras."""
    requirements = [*project["dependencies"]]
    for needed in project.get("optional-dependencies", {}).values():
        requirements += needed
    found = (re.fullmatch(rf"({OURS.pattern})(.*)", one) for one in requirements)
    return {one[1]: one[2] for one in found if one is not None}


def test_both_have_one_version():
    """Both literals and the pins between the distributions are the same version."""
    assert aioapiqueue.__version__ == aioapiqueue_run.__version__
    exactly = f"=={aioapiqueue.__version__}"
    bare = {"aioapiqueue-run", *(f"aioapiqueue-run[{one}]" for one in ("demo", "gateway", "watch"))}
    own = {name: text for name, text in pins(PROJECTS["aioapiqueue"]).items() if name in bare}
    assert own == dict.fromkeys(bare, exactly)
    assert pins(PROJECTS["aioapiqueue-run"]) == dict.fromkeys(
        ("aioapiqueue[report]", "aioapiqueue[aws]"), exactly
    )


@pytest.mark.parametrize("name", PROJECTS)
def test_installed_version_is_the_literal(name):
    """The build takes it from `__init__.py`."""
    assert metadata.version(name) == aioapiqueue.__version__


@pytest.mark.parametrize("name", PROJECTS)
def test_no_url_is_the_package_index(name):
    """Such a link leads back to the page that it is on."""
    urls = PROJECTS[name].get("urls", {})
    assert [url for url in urls.values() if urlsplit(url).hostname.endswith("pypi.org")] == []


@pytest.mark.parametrize("name", PROJECTS)
def test_classifiers_are_what_ci_runs(name):
    """They name the Pythons that CI tests on, and Linux, the only system where it has to pass."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    matrix = workflow["jobs"]["nox"]["strategy"]["matrix"]
    claimed = [one.rpartition(" :: ") for one in PROJECTS[name]["classifiers"]]
    pythons = [last for first, _, last in claimed if first == "Programming Language :: Python"]
    assert pythons == matrix["python-version"]
    assert [last for first, _, last in claimed if first.startswith("Operating System")] == ["Linux"]
    assert workflow["jobs"]["nox"]["runs-on"].startswith("ubuntu")


def test_extras_bring_the_programs():
    """Each extra that has programs needs `aioapiqueue-run`, and nothing beside it."""
    extras = PROJECTS["aioapiqueue"]["optional-dependencies"]
    version = aioapiqueue.__version__
    assert extras["cli"] == [f"aioapiqueue-run=={version}"]
    for name in PROJECTS["aioapiqueue-run"]["optional-dependencies"]:
        assert extras[name] == [f"aioapiqueue-run[{name}]=={version}"]
    (everything,) = extras["all"]
    missing = extras.keys() - set(re.split(r"[\[,\]]", everything))
    assert missing == {
        "all",
        "aws",
        "cli",
        "langchain",
        "llama-index",
        "pydantic-ai",
        "report",
        "telegram",
    }


def test_each_extra_is_on_the_page():
    """The quickstart has a row for each extra, and for no other."""
    page = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    rows = page.partition("\n## Extras\n")[2].partition("\n## ")[0].splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| `")]
    listed = [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]
    extras = PROJECTS["aioapiqueue"]["optional-dependencies"]
    assert sorted(listed) == sorted(extras)
