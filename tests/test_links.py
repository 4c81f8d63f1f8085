"""Links within the repository lead somewhere: those of the README, the changelog and `.github`."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob(".github/**/*.md"))]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")
OUTSIDE = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")
VENDORS = {
    "Anthropic": ("anthropic.com", "claude.com"),
    "AWS": ("amazon.com",),
    "Google": ("google.com", "google.dev"),
    "OpenAI": ("openai.com",),
    "Vertex AI": ("google.com",),
}
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def slug(heading):
    """Return what a heading is called in links, as GitHub has it."""
    return "#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken(page):
    """Return each link of a page that leads to no file, or to no heading of it."""
    found = []
    for name, heading in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        target = page.parent / name if name else page
        if not target.exists():
            found.append(name)
        elif heading:
            text = FENCED.sub("", target.read_text("utf-8"))
            if heading not in map(slug, HEADING.findall(text)):
                found.append(f"{name}{heading}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Each relative link names a file that is there, and a heading that it has."""
    assert broken(page) == []


def led_astray(text):
    """Return the links of a text that name a vendor and lead to somebody else's site."""
    return [
        (name, url)
        for name, url in OUTSIDE.findall(FENCED.sub("", text))
        for vendor, domains in VENDORS.items()
        if vendor in name
        and not f".{urlsplit(url).hostname}".endswith(tuple(f".{one}" for one in domains))
    ]


def test_a_vendors_name_leads_there():
    """A link named after a vendor leads to that vendor, not to what others say of its API."""
    for page in (*PAGES, *(ROOT / "docs").rglob("*.md")):
        assert led_astray(page.read_text("utf-8")) == [], page
    assert led_astray("[OpenAI](https://openai.com.example.org/x)") != []
    assert led_astray("[OpenAI](https://help.openai.com/x), [x](https://semver.org)") == []


def test_a_broken_link_is_found(tmp_path):
    """A missing file is found, and so is a missing heading; what is in code is no link."""
    (tmp_path / "there.md").write_text("# One `word`, and two\n\n```\n# No heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#one-word-and-two) [c](https://semver.org) ![d](away.svg)\n"
        "[e](there.md#no-heading) [f](#nothing)\n\n```\n[g](away.md)\n```\n"
    )
    assert broken(page) == ["away.svg", "there.md#no-heading", "#nothing"]
