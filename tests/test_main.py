"""The command `aioapiqueue` where only the library is installed, or another version of programs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import aioapiqueue

pytestmark = pytest.mark.real
PATIENCE = 60


def run(program, *arguments):
    """Run the command after some code; return its exit code, stdout and stderr."""
    start = f"import sys; sys.argv[1:] = {arguments!r}; {program}; "
    command = [sys.executable, "-c", f"{start} from aioapiqueue.__main__ import main; main()"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def run_alone(*arguments):
    """Run it where the programs are not installed."""
    return run("sys.modules['aioapiqueue_run'] = None", *arguments)


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("", "cli"),
        ("--help", "cli"),
        ("limits --service ec2", "cli"),
        ("run --limit ec2=1/s -- watch", "cli"),
        ("docs --help", "cli"),
        ("watch --every 2", "watch"),
        ("demo", "demo"),
    ],
)
def test_commands_name_their_extra(line, extra):
    """Each exits with 2 and says what to install."""
    said = f'aioapiqueue: the commands are not installed: pip install "aioapiqueue[{extra}]"\n'
    assert run_alone(*line.split()) == (2, "", said)


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("pipx_metadata.json", "pipx install --force"),
        ("uv-receipt.toml", "uv tool install"),
        ("pyvenv.cfg", "pip install"),
    ],
)
def test_remedy_fits_the_environment(file, how, tmp_path):
    """One that pipx or `uv tool` has made may have no pip, and pip's own would lose the extra."""
    (tmp_path / file).touch()
    prefix = f"sys.prefix = {str(tmp_path)!r}"
    code, _, alone = run(f"sys.modules['aioapiqueue_run'] = None; {prefix}", "limits")
    assert (code, alone.partition("installed: ")[2]) == (2, f'{how} "aioapiqueue[cli]"\n')
    old = "import aioapiqueue_run; aioapiqueue_run.__version__ = '0.0.1'"
    code, _, other = run(f"{old}; {prefix}", "limits")
    needed = f"aioapiqueue[cli]=={aioapiqueue.__version__}"
    assert (code, other.partition("installed: ")[2]) == (2, f'{how} "{needed}"\n')


def test_pages_print_in_any_encoding():
    """A terminal that has no "µ" shows a question mark, and the rest of the page."""
    stream = "import io; sys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'ascii', 'strict')"
    code, text, errors = run(f"sys.modules['aioapiqueue_run'] = None; {stream}", "docs", "measured")
    assert (code, errors) == (0, "")
    assert "?s" in text


def test_version_needs_no_programs():
    """The form for bug reports asks for it first."""
    assert run_alone("--version") == (0, f"aioapiqueue {aioapiqueue.__version__}\n", "")


@pytest.mark.parametrize("page", [[], ["limits"], ["run#output"], ["ApiQueue.slot"]])
def test_docs_need_no_programs(page):
    """Errors of the library name `aioapiqueue docs limits`: it is there where the library is."""
    code, text, errors = run_alone("docs", *page)
    assert (code, errors) == (0, "")
    assert (code, text, errors) == run("pass", "docs", *page)


def test_unknown_page_is_refused_alike():
    """The nearest pages are named, with the programs and without them."""
    said = "aioapiqueue: there is no page limit: did you mean Limit or limits?\n"
    assert run_alone("docs", "limit") == (2, "", said)
    assert run("pass", "docs", "limit") == (2, "", said)


def test_another_version_of_programs_is_refused():
    """Its programs do not run, because they share more than public names with the library."""
    ours = aioapiqueue.__version__
    other = "import aioapiqueue_run; aioapiqueue_run.__version__ = '0.0.1'"
    said = (
        f"aioapiqueue: aioapiqueue {ours} needs aioapiqueue-run {ours}, but 0.0.1 is installed: "
        f'pip install "aioapiqueue[cli]=={ours}"\n'
    )
    assert run(other, "limits") == (2, "", said)


def test_folder_left_behind_is_no_program():
    """A folder with the compiled files of an uninstalled version is an empty package."""
    left = "import types; sys.modules['aioapiqueue_run'] = types.ModuleType('aioapiqueue_run')"
    assert run(left, "limits") == run_alone("limits")


def test_broken_programs_are_a_fault():
    """If a module of every installation is missing, the traceback is shown."""
    code, _, errors = run("sys.modules['typer'] = None", "limits")
    assert code == 1
    assert "ModuleNotFoundError" in errors
    assert "typer" in errors
