"""What the package index shows: links lead to the repository where its address is known.

They are text where it is not: a page on the index has no other pages beside it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from tests.helpers.build_hook import FILE, hook

EXAMPLE, NOTE, VARIABLE = hook.EXAMPLE, hook.NOTE, hook.VARIABLE
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

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


def address():
    """Return the address of the repository that this wheel was built with, or None."""
    urls = metadata.metadata("aioapiqueue").get_all("Project-URL") or ()
    return dict(one.split(", ", 1) for one in urls).get("Source")


def targets(page):
    """Return what the links and pictures of a page lead to, but for those in code."""
    prose = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page))
    return ["".join(found) for found in TARGETS.findall(prose)]


def as_text(text):
    """Return Markdown as it is in the metadata where no address is known."""
    return hook.index_page(text, None, "1.2.3").removesuffix(NOTE)


def linked(text):
    """Return Markdown as it is in the metadata where the address is known."""
    return hook.index_page(text, EXAMPLE, "1.2.3")


def whole(page):
    """Tell whether all links and pictures of a page are whole URLs."""
    return all(one.startswith("https://") for one in targets(page))


def test_every_target_is_a_url():
    """The index can follow whole URLs alone: those of the README, and of the repository."""
    assert whole(shown())
    assert whole(linked(README))
    known = set(URL.findall(README))
    assert {
        url for url in URL.findall(shown()) if not (address() and url.startswith(address()))
    } <= known


def test_the_rest_is_the_readme():
    """No code is changed; but for links, and what is said of the pages, it is the README."""
    for page in (shown(), hook.index_page(README, None, "1"), linked(README)):
        assert FENCED.findall(page) == FENCED.findall(README)
        first, *_ = README.splitlines()
        assert page.startswith(f"{first}\n")
    assert shown().endswith(NOTE) == (address() is None)


def test_summary_and_keywords_say_rate_limiter():
    """Those who search the index for one find this."""
    assert "asyncio rate limiter" in PROJECT["description"]
    assert "rate limiter" in PROJECT["keywords"]
    assert metadata.metadata("aioapiqueue")["Summary"] == PROJECT["description"]


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
    assert as_text(written) == text


BLOB, RAW = f"{EXAMPLE}/blob/v1.2.3", f"{EXAMPLE}/raw/v1.2.3"


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("see [docs/run.md](docs/run.md#a).", f"see [docs/run.md]({BLOB}/docs/run.md#a)."),
        ("[`docs/run.md`](docs/run.md)", f"[`docs/run.md`]({BLOB}/docs/run.md)"),
        ("[how it is\nbuilt](docs/built.md)", f"[how it is\nbuilt]({BLOB}/docs/built.md)"),
        ("[to begin](#install)", f"[to begin]({BLOB}/README.md#install)"),
        ("![a chart](docs/chart.svg)", f"![a chart]({RAW}/docs/chart.svg)"),
        (
            "[![a chart](docs/chart.svg)](docs/peers.md)",
            f"[![a chart]({RAW}/docs/chart.svg)]({BLOB}/docs/peers.md)",
        ),
        ('<img src="a.png" alt="a">', f'<img src="{RAW}/a.png" alt="a">'),
        (
            '<picture><source srcset="a.svg"><img src="b.svg"></picture>',
            f'<picture><source srcset="{RAW}/a.svg"><img src="{RAW}/b.svg"></picture>',
        ),
        (
            '<a href="docs/run.md">[x](y.md)</a>',
            f'<a href="{BLOB}/docs/run.md">[x]({BLOB}/y.md)</a>',
        ),
        ("[SemVer](https://semver.org)", "[SemVer](https://semver.org)"),
        ("![x](https://semver.org/x.svg)", "![x](https://semver.org/x.svg)"),
        ("rates[0](name), `[j](k.md)`", "rates[0](name), `[j](k.md)`"),
        ("```\n[j](k.md)\n```", "```\n[j](k.md)\n```"),
    ],
)
def test_a_relative_link_becomes_whole(written, text):
    """Pages of the version that is shown, pictures as such; code and whole URLs stay."""
    assert linked(written) == text


def test_project_urls():
    """What stands beside a release on the index; the pages are of its version."""
    assert hook.project_urls(EXAMPLE, "1.2.3") == {
        "Homepage": EXAMPLE,
        "Documentation": f"{EXAMPLE}/blob/v1.2.3/docs/index.md",
        "Source": EXAMPLE,
        "Changelog": f"{EXAMPLE}/blob/main/CHANGELOG.md",
        "Issues": f"{EXAMPLE}/issues",
    }
    told = metadata.metadata("aioapiqueue")
    urls = dict(one.split(", ", 1) for one in told.get_all("Project-URL") or ())
    assert urls == (hook.project_urls(address(), told["Version"]) if address() else {})


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("http://git.example.org/team/aioapiqueue", "it does not start with https://"),
        ("git.example.org/team/aioapiqueue", "it does not start with https://"),
        ("https://git.example.org/team/aioapiqueue/", "it ends with a slash"),
        ("https://git.example.org/team/aioapiqueue.git", "it ends with .git"),
        ("https://git.example.org/my team/aioapiqueue", "it contains a space"),
        ("https://git.example.org/team/aioapiqueue\n", "it contains a space"),
        (" ", "it contains a space"),
        ("https://git.example.org", "it is not a host and a path"),
        ("https://git.example.org/team//aioapiqueue", "it is not a host and a path"),
        ("https://me:secret@git.example.org/team/aioapiqueue", "it is not a host and a path"),
        ("https://git.example.org/team/aioapiqueue?tab=readme", "it is not a host and a path"),
    ],
)
def test_a_bad_address_is_refused(value, wrong, monkeypatch):
    """With what is wrong, and what to write instead; by the setting and by argument."""
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=re.escape(wrong)) as refused:
        hook.repository()
    assert str(refused.value) == (
        f"{VARIABLE} is {value!r}: {wrong}. Write the address of the repository's first page, "
        f"such as {EXAMPLE}, or leave the variable empty"
    )


def test_an_address_is_taken_from_the_environment(monkeypatch):
    """Empty is the same as not set: so a workflow passes a variable that there is not."""
    monkeypatch.setenv(VARIABLE, EXAMPLE)
    assert hook.repository() == EXAMPLE
    monkeypatch.setenv(VARIABLE, "")
    assert hook.repository() is None
    monkeypatch.delenv(VARIABLE)
    assert hook.repository() is None
    assert (
        hook.repository("https://git.example.org:8443/a/b/c")
        == "https://git.example.org:8443/a/b/c"
    )


@pytest.mark.parametrize("name", ["release", "ci"])
def test_workflows_pass_the_address(name):
    """The setting is a variable of the repository, for what is released and for what is tried."""
    workflow = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text("utf-8")
    assert f"\n      {VARIABLE}: ${{{{ vars.{VARIABLE} }}}}\n" in workflow


@pytest.mark.real
def test_a_session_says_first_what_is_wrong():
    """A build with `--quiet` does not show the message."""
    for value, code, text in (
        (EXAMPLE, 0, f"links lead to {EXAMPLE}\n"),
        ("", 0, f"links are text: no {VARIABLE}\n"),
        ("x", 1, f"{VARIABLE} is 'x': it does not start with https://."),
    ):
        run = subprocess.run(
            [sys.executable, FILE],
            capture_output=True,
            text=True,
            check=False,
            env={VARIABLE: value},
            timeout=60,
        )
        assert run.returncode == code
        assert (run.stdout + run.stderr).startswith(text)


def test_a_relative_target_is_found():
    """What looks for links finds each form, and none in code."""
    page = '[a](b.md) ![c](d.svg "e")\n[f]: g.md\n<img src="h.png"><a href=i>\n`[j](k)`\n'
    assert targets(page) == ["b.md", "d.svg", "g.md", "h.png", "i"]
