"""What PyPI shows: the README, in which no link or picture breaks for want of the repository."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PAGE = SETTINGS["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
URL = re.compile(r"https?://[^\s)\"'>`\]]+")
TARGETS = re.compile(
    r"""\]\(\s*<?([^)\s>]*)"""  # [text](target), ![text](target)
    r"""|^\s*\[[^\]]+\]:\s*(\S+)"""  # [name]: target
    r"""|<[^>]*\b(?:src|srcset|href)\s*=\s*["']?([^"'\s>]+)""",
    re.MULTILINE,
)


def shown():
    """Return the page as it is in the metadata of the wheel that is tested."""
    found = metadata.metadata("aioapiqueue")
    # Where something has imported importlib_metadata, that finds it, and has the page as a field.
    return found.get_payload() or found["Description"]


def targets(page):
    """Return what the links and pictures of a page lead to, but for those in code."""
    prose = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page))
    return ["".join(found) for found in TARGETS.findall(prose)]


def on_pypi(text):
    """Return Markdown as it is in the metadata."""
    for change in PAGE["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    return text


def test_every_target_is_a_url():
    """PyPI can follow whole URLs alone, and each is one that the README has."""
    assert [one for one in targets(shown()) if not one.startswith(("https://", "http://"))] == []
    assert set(URL.findall(shown())) <= set(URL.findall(README))


def test_the_rest_is_the_readme():
    """No code is changed; without links, and what is said of the pages, it is the README."""
    assert FENCED.findall(shown()) == FENCED.findall(README)
    first, *_ = README.splitlines()
    assert shown().startswith(f"{first}\n")
    assert shown().endswith(PAGE["fragments"][-1]["text"])


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("see [docs/run.md](docs/run.md)", "see `docs/run.md`"),
        ("see [docs/run.md](docs/run.md#a-report).", "see `docs/run.md`."),
        ("[`docs/run.md`](docs/run.md)", "`docs/run.md`"),
        ("[how it is\nbuilt](docs/built.md#seam)", "how it is\nbuilt (`docs/built.md`)"),
        ("[to begin](#install)", "to begin"),
        ("![a chart](docs/chart.svg)", "a chart"),
        ("[![a chart](docs/chart.svg)](docs/peers.md)", "a chart (`docs/peers.md`)"),
        ('<img src="docs/chart.svg" width="5" alt="a chart">', "a chart"),
        ('<img alt="a chart" src="docs/chart.svg"/>', "a chart"),
        ('<picture><source srcset="docs/dark.svg">x</picture>', "x"),
        ('<a href="docs/run.md">to run</a>', "to run"),
        ("[SemVer](https://semver.org)", "[SemVer](https://semver.org)"),
        ("![x](https://semver.org/x.svg)", "![x](https://semver.org/x.svg)"),
        ("rates[0](name), lanes['a']('b')", "rates[0](name), lanes['a']('b')"),
    ],
)
def test_a_relative_link_becomes_text(written, text):
    """Its text is left, and the page's name; what is code or a whole URL stays as it is."""
    assert on_pypi(written) == text


def test_a_relative_target_is_found():
    """What looks for links finds each form, and none in code."""
    page = '[a](b.md) ![c](d.svg "e")\n[f]: g.md\n<img src="h.png"><a href=i>\n`[j](k)`\n'
    assert targets(page) == ["b.md", "d.svg", "g.md", "h.png", "i"]
