"""The site: its settings with an address of the repository and without, and the check of it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.helpers.build_hook import hook
from tests.helpers.check_site import wrong_with

EXAMPLE, VARIABLE = hook.EXAMPLE, hook.VARIABLE
CONF = Path(__file__).parents[1] / "docs" / "conf.py"
PAGE = """<title>x</title><div class="sidebar-brand-text">aioapiqueue 1.2.3</div>
<img src="scan.svg"><div class="table-wrapper docutils container"><table><tr></tr></table></div>"""
LINKS = (
    """<a href="{address}/edit/main/docs/{page}.md">Edit</a><a href="{address}/issues">Issues</a>"""
)


def settings(monkeypatch, address):
    """Return what `docs/conf.py` sets, where the variable has this value."""
    monkeypatch.setenv(VARIABLE, address)
    monkeypatch.setattr("sys.path", [*sys.path])
    return runpy.run_path(str(CONF))


def test_pages_lead_to_the_repository(monkeypatch):
    """With an address: to the source of each page, its editor, the repository and its issues."""
    options = settings(monkeypatch, EXAMPLE)["html_theme_options"]
    assert options["source_edit_link"] == f"{EXAMPLE}/edit/main/docs/{{filename}}"
    assert options["source_view_link"] == f"{EXAMPLE}/blob/main/docs/{{filename}}"
    assert [one["url"] for one in options["footer_icons"]] == [EXAMPLE, f"{EXAMPLE}/issues"]


def test_without_an_address_they_lead_nowhere(monkeypatch):
    """No address is made up."""
    assert "html_theme_options" not in settings(monkeypatch, "")


def test_a_bad_address_ends_the_build(monkeypatch):
    """As it ends that of the package."""
    with pytest.raises(ValueError, match="it ends with a slash"):
        settings(monkeypatch, f"{EXAMPLE}/")


def test_version_is_shown(monkeypatch):
    """The title of each page has it."""
    told = settings(monkeypatch, "")
    assert told["html_title"] == f"aioapiqueue {told['release']}"


@pytest.fixture
def site(tmp_path):
    """A site of two pages."""

    def write(address=None, **changed):
        for name in ("index", "run"):
            links = LINKS.format(address=address, page=name) if address else ""
            (tmp_path / f"{name}.html").write_text(changed.get(name, PAGE) + links)
        return tmp_path

    return write


def test_a_good_site_passes(site):
    """With links and without; what Sphinx makes of no source is not looked at."""
    (site() / "genindex.html").write_text("")
    assert wrong_with(site(), None, "1.2.3") == []
    assert wrong_with(site(EXAMPLE), EXAMPLE, "1.2.3") == []


def test_faults_of_a_site_are_found(site):
    """Each by itself."""
    assert wrong_with(site(), None, "1.2.4") == [
        "index.html: it does not show the version 1.2.4",
        "run.html: it does not show the version 1.2.4",
    ]
    bare = PAGE.replace("<img", "<b")
    assert wrong_with(site(index=bare), None, "1.2.3") == [
        "index.html: it has a picture and a table of figures"
    ]
    assert wrong_with(site(run=PAGE + "<table>"), None, "1.2.3") == [
        "run.html: a table is not in a box that scrolls"
    ]
    assert len(wrong_with(site(EXAMPLE), None, "1.2.3")) == 2
    assert len(wrong_with(site(), EXAMPLE, "1.2.3")) == 4
