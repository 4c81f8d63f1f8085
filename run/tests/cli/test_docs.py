"""`aioapiqueue docs`, and what messages and pages say of commands: all of it is there."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

import aioapiqueue
import aioapiqueue_run
from aioapiqueue.docs.spi import entries, pages
from aioapiqueue_run.cli.app import app

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PACKAGE = Path(aioapiqueue.__file__).parent
PROGRAMS = Path(aioapiqueue_run.__file__).parent
SHELL = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"aioapiqueue docs(?:`+)? +`?(?P<page>[\w./-]+)")
APART = {"index", "api", "changelog"}
"""Pages of the site alone, and what only proofreaders read."""
ENTRIES = entries(DOCS / "api.md")


def invoke(*arguments):
    """Run the command in this process."""
    return CliRunner().invoke(app, ["docs", *arguments])


def strings():
    """Return each text in the code of both packages that is no docstring: what a user may read."""
    for file in (*PACKAGE.rglob("*.py"), *PROGRAMS.rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        apart = {
            id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
        }  # docstrings, of attributes too
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in apart:
                yield file, text


def test_docs_lists_all_pages():
    """Without a name: each page of docs/, and its title, at 80 columns."""
    result = invoke()
    assert result.exit_code == 0
    lines, _, hint = result.output.partition("\n\n")
    listed = dict(line.split(maxsplit=1) for line in lines.splitlines())
    assert hint.startswith("To print a page: aioapiqueue docs PAGE\n")
    files = {
        file.relative_to(DOCS).with_suffix("").as_posix()
        for file in DOCS.rglob("*.md")
        if "_build" not in file.parts
    }
    assert set(listed) == files - APART | {"grafana.json"}
    assert listed["run"] == "aioapiqueue run"
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize(
    "name",
    ["limits", "limits.md", "docs/limits.md", "aiolimiter", "migrate/aiolimiter", "run#output"],
)
def test_docs_prints_a_page(name):
    """By its name, as a link has it or as people write it; without the marks for our tests."""
    result = invoke(name)
    assert result.exit_code == 0
    stem = name.rpartition("/")[2].partition("#")[0].removesuffix(".md")
    file = next(DOCS.rglob(f"{stem}.md"))
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("<!--")]
    assert result.output.splitlines() == lines


@pytest.mark.parametrize("name", ["ApiQueue", "aioapiqueue.ApiQueue"])
def test_docs_prints_a_class(name):
    """Its options, one a line, and its docstring; then its methods."""
    result = invoke(name)
    assert result.exit_code == 0
    assert "\n    maxsize: int = 0,\n" in result.output
    assert "\n    maxsize: " in result.output.partition("\nArgs:\n")[2]
    assert "\n    slot " in result.output.partition("\nMembers:\n")[2]
    assert max(map(len, result.output.splitlines())) <= 96  # those of examples
    slot = invoke(f"{name}.slot")
    assert slot.output.startswith("aioapiqueue.ApiQueue.slot(")
    assert "timeout" in slot.output


@pytest.mark.parametrize("name", ["Stats.waiting", "aioapiqueue.Rate.burst", "Event.kind"])
def test_docs_prints_the_class_of_a_field(name):
    """A field has no text of its own: the docstring of its class says what it is."""
    owner, _, field = name.rpartition(".")
    shown = invoke(name).output
    assert shown == invoke(owner).output
    assert f"    {field}: " in shown


def test_docs_lists_the_reference():
    """`docs api` lists what the site has, under its headings."""
    shown = re.findall(r"^  (\S+)$", invoke("api").output, re.MULTILINE)
    text = (DOCS / "api.md").read_text("utf-8")
    assert len(shown) == len(re.findall(r"^\.\. auto\w+:: ", text, re.MULTILINE)) > 30
    assert shown == [name.removeprefix("aioapiqueue.") for name in ENTRIES]


@pytest.mark.parametrize("module", sorted({name.rpartition(".")[0] for name in ENTRIES}))
def test_docs_prints_each_entry(module):
    """Each has a text, or is a constant."""
    for name in (one for one in ENTRIES if one.rpartition(".")[0] == module):
        shown = invoke(name.removeprefix("aioapiqueue."))
        assert shown.exit_code == 0
        assert len(shown.output.splitlines()) > 1 or f"{name} = " in shown.output, name
        assert "ForwardRef" not in shown.output


def test_missing_extra_is_named(monkeypatch):
    """An entry whose module needs another package has its docstring, and what to install."""
    monkeypatch.setitem(sys.modules, "aioapiqueue.integrations.prometheus", None)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "aioapiqueue.integrations.prometheus")
    result = invoke("PrometheusObserver")
    assert result.exit_code == 0
    doc = "aioapiqueue.integrations.prometheus.PrometheusObserver\n\nExport the metrics"
    assert result.output.startswith(doc)
    assert 'pip install "aioapiqueue[prometheus]"' in " ".join(
        result.output.replace("aioapiqueue: ", "").split()
    )
    refused = invoke("PrometheusObserver.for_queue")
    assert refused.exit_code == 2
    assert 'pip install "aioapiqueue[prometheus]"' in " ".join(
        refused.output.replace("aioapiqueue: ", "").split()
    )


def test_extra_of_a_package_is_named(monkeypatch):
    """The docstring is found in a module of the package that has the name."""
    for name in [one for one in sys.modules if one.startswith("aioapiqueue.integrations.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    result = invoke("SharedSchedule")
    assert result.exit_code == 0
    assert "\nArgs:\n    client: " in result.output
    end = 'SharedSchedule needs redis: pip install "aioapiqueue[redis]"'
    assert result.output.endswith(f"\n\nIts signature and members are not shown: {end}\n")


def test_docs_prints_the_dashboard():
    """As the file is, to be written to one."""
    assert invoke("grafana.json").output == (DOCS / "grafana.json").read_text("utf-8")


def test_unknown_page_is_refused():
    """With the nearest name, or with how to see them all."""
    result = invoke("limitz")
    assert (result.exit_code, result.output) == (
        2,
        "aioapiqueue: there is no page limitz: did you mean limits?\n",
    )
    assert "to list the pages, run aioapiqueue docs" in invoke("xyz").output
    assert "there is no page Httppacer: did you mean HttpPacer?" in invoke("Httppacer").output
    assert "there is no page ApiQeue: did you mean ApiQueue?" in invoke("ApiQeue").output
    assert invoke("ApiQueue._hidden").exit_code == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Apiqueue.slot", ": did you mean ApiQueue.slot?"),
        ("apiqueue.SLOT()", ": did you mean ApiQueue.slot?"),
        ("slot", ": did you mean ApiQueue.slot or Slot?"),
        ("queueratelimiter", ": did you mean QueueRateLimiter?"),  # of three modules
        ("Set_Rate", ": did you mean ApiQueue.set_rate?"),
        ("limit", ": did you mean Limit or limits?"),
        ("docker", "; headings that contain it: deploy: Docker"),
        ("Stamina", "; headings that contain it: recipes: Retry with stamina"),
    ],
)
def test_names_in_another_case_and_headings_are_suggested(name, said):
    """Members are found without their class; words are looked for in the headings of pages."""
    result = invoke(name)
    assert result.exit_code == 2
    words = " ".join(result.output.replace("aioapiqueue: ", "").split())
    assert words == f"there is no page {name}{said}"


def test_headings_are_looked_for_in_five_pages(monkeypatch, tmp_path):
    """The first of each page, and none in an example or for a word of two letters."""
    files = {f"p{number}": tmp_path / f"p{number}.md" for number in range(7)}
    for name, file in files.items():
        file.write_text(f"# {name}\n\n```sh\n# a zymurgy\n```\n\n## A `Zymurgy`\n\n## Zymurgy 2\n")
    files["p0"].write_text("# None\n\n```sh\n# a zymurgy\n```\n")
    monkeypatch.setattr("aioapiqueue.docs.spi.pages", lambda: files)
    said = " ".join(invoke("zymurgy").output.replace("aioapiqueue: ", "").split())
    named = "; ".join(f"p{number}: A Zymurgy" for number in range(1, 6))
    assert said == f"there is no page zymurgy; headings that contain it: {named}"
    assert "headings" not in invoke("zy").output


def test_page_in_another_case_is_printed():
    """Where nothing else has the name."""
    assert invoke("HTTP").output == invoke("http").output
    assert invoke("HTTP").exit_code == 0
    assert invoke("Registry").output.startswith("aioapiqueue.Registry(")


@pytest.mark.real
def test_wheel_has_its_pages(tmp_path):
    """What is installed prints them without a checkout."""
    if (PACKAGE.parent / "docs").is_dir():
        pytest.skip("this is not the installed wheel")
    run = subprocess.run(
        [sys.executable, "-m", "aioapiqueue", "docs", "run"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert run.stdout.startswith("# aioapiqueue run\n")


@pytest.mark.usefixtures("no_collector")
def test_messages_name_pages_that_exist():
    """A message sends nobody to a file of the checkout, nor to a page that there is not."""
    named = set()
    for file, text in strings():
        assert not re.search(r"\bdocs/\w+\.md", text), f"{file}: {text}"
        named |= {match["page"].rstrip(".") for match in NAMED.finditer(text)}
    assert {"limits", "run", "gateway"} <= named
    others = {"PAGE", "NAME", "api", "ApiQueue"}  # what `docs` itself says
    assert named - others <= set(pages())


def texts(value):
    """Yield each text in a value of YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


def commands():
    """Yield each command of ours for the shell or in a workflow, with the page that shows it."""
    for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        text = page.read_text("utf-8")
        shell = [block[1] for block in SHELL.finditer(text)]
        steps = texts([yaml.safe_load(block[1]) for block in YAML.finditer(text)])
        for block in (*shell, *steps):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                words = shlex.split(line, comments=True)
                while words and ("=" in words[0] or words[0] in {"sudo", "exec"}):
                    words = words[1:]
                if words and words[0] == "aioapiqueue":
                    yield page, words[1:]


def parse(words):
    """Parse a command, its options and arguments; return the path of what would be run."""
    end = next((place for place, word in enumerate(words) if word in {"|", ">", "&"}), None)
    command = typer.main.get_command(app)
    context = command.make_context("aioapiqueue", words[:end])
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]  # noqa: SLF001 - what the next is to parse
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return context.command_path


def test_commands_of_pages_are_valid():
    """Each is parsed: commands, options, and how many arguments there are."""
    wrong, number = [], 0
    for page, words in commands():
        number += 1
        try:
            path = parse(words)
        except Exception as error:  # noqa: BLE001 - whatever typer raises
            path = repr(error)
        if path != " ".join(["aioapiqueue", *words][: path.count(" ") + 1]):
            wrong.append(f"{page.relative_to(ROOT)}: {shlex.join(words)}: {path}")
    assert not wrong, "\n".join(wrong)
    assert number > 10
