"""Check what is to be released as its users get it: `python -m tests.helpers.package.built DIST`.

Part of `uvx nox -s package`, which builds DIST, and of the release workflow, which names the tag
too. The wheel is installed in new environments, and used away from the checkout.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from readme_renderer import markdown

from tests.helpers.build_hook import hook

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).parents[3]
NEEDED = (
    "py.typed",
    "gateway/aws_calls.json.gz",
    "gateway/node_hook.cjs",
    "hub/bootstrap/sitecustomize.py",
    "integrations/redis/gcra.lua",
    "integrations/report/page.html",
    "integrations/report/uplot/uPlot.iife.min.js",
    "registry/presets/ec2.toml",
)
EXAMPLE = """
import asyncio, sys
import aioapiqueue

async def main():
    queue = aioapiqueue.ApiQueue("20ms")
    begun = asyncio.get_running_loop().time()
    async def call():
        async with queue.slot():
            return asyncio.get_running_loop().time() - begun
    return await asyncio.gather(*(call() for _ in range(3)))

took = asyncio.run(main())
assert took == sorted(took) and took[-1] >= 0.039, took
loaded = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
assert "anyio" in loaded and not loaded & {"typer", "rich", "redis", "httpx", "botocore"}, loaded
print(aioapiqueue.__version__)
"""


class Failed(Exception):  # noqa: N818 - it ends the check, with a sentence
    """What is to be released is not right."""


class Command(NamedTuple):
    """A command that a user gives, how it ends, and what is to be in its output."""

    arguments: tuple[str, ...]
    code: int
    text: str


BARE = (
    Command(("python", "-c", EXAMPLE), 0, ""),
    Command(("aioapiqueue", "--help"), 1, 'pip install "aioapiqueue[cli]"'),
    Command(("python", "-m", "aioapiqueue"), 1, 'pip install "aioapiqueue[cli]"'),
)
WITH_CLI = (
    Command(("aioapiqueue", "--help"), 0, "run"),
    Command(("aioapiqueue", "--version"), 0, "aioapiqueue "),
    Command(("aioapiqueue", "limits", "--service", "ec2"), 0, "DescribeSnapshots"),
    Command(
        ("aioapiqueue", "run", "--limit", "ec2=10/s", "--", "python", "-c", "print(6 * 7)"), 0, "42"
    ),
    Command(("aioapiqueue", "demo"), 1, 'pip install "aioapiqueue[demo]"'),
)


def main() -> None:
    """Check all of it; the first that is not right ends it with exit code 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dist", type=Path, help="the folder with one wheel and one sdist")
    parser.add_argument("--tag", help="the tag that is released, as v1.2.3")
    given = parser.parse_args()
    try:
        wheel, sdist = only(given.dist, "*.whl"), only(given.dist, "*.tar.gz")
        check_contents(wheel)
        check_page(wheel)
        check_links(wheel, os.environ.get(hook.VARIABLE) or None)
        if given.tag is not None:
            check_tag(wheel, given.tag)
        with tempfile.TemporaryDirectory() as folder:
            check_same(wheel, sdist, Path(folder) / "again")
            check_with_address(Path(folder) / "linked")
            check_used(f"{wheel}", BARE, Path(folder) / "bare")
            check_used(f"{wheel}[cli]", WITH_CLI, Path(folder) / "cli")
    except Failed as error:
        sys.exit(f"{given.dist}: {error}")


def only(folder: Path, pattern: str) -> Path:
    """Return the one file that there should be."""
    found = sorted(folder.resolve().glob(pattern))
    if len(found) != 1:
        raise Failed(
            f"one {pattern} is expected, there are {len(found)}: empty it, and build again"
        )
    return found[0]


def files(wheel: Path) -> dict[str, int]:
    """Return the checksum of each file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.CRC for one in archive.infolist()}


def metadata_of(wheel: Path) -> Message:
    """Return a wheel's metadata, whose body is the page."""
    name = next(name for name in files(wheel) if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(name))


def page_of(wheel: Path) -> str:
    """Return the page that the package index renders."""
    return metadata_of(wheel).get_payload(decode=True).decode()


def urls_of(wheel: Path) -> dict[str, str]:
    """Return the links that the package index shows beside the page."""
    found = metadata_of(wheel).get_all("Project-URL", ())
    return dict(one.split(", ", 1) for one in found)


def check_contents(wheel: Path) -> None:
    """The wheel has the package and the pages that it prints, all of it, and nothing else."""
    tree = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "aioapiqueue").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    docs = ROOT / "docs"
    tree |= {
        f"aioapiqueue/docs/pages/{path.relative_to(docs).as_posix()}"
        for path in (*docs.rglob("*.md"), docs / "grafana.json")
        if "_build" not in path.parts and path != docs / "reading.md"
    }
    inside = {name for name in files(wheel) if ".dist-info/" not in name}
    if inside != tree:
        raise Failed(f"the wheel and the package differ: {', '.join(sorted(inside ^ tree))}")
    missing = [name for name in NEEDED if f"aioapiqueue/{name}" not in inside]
    if missing:
        raise Failed(f"the wheel lacks {', '.join(missing)}")
    print(f"{wheel.name}: {len(inside)} files, those of the package")


def check_page(wheel: Path) -> None:
    """What PyPI makes of the page has only links and pictures that lead somewhere from there."""
    html = markdown.render(page_of(wheel))
    if html is None:
        raise Failed("PyPI could not render the page")
    targets = re.findall(r"\b(?:href|src|srcset)=\"([^\"]*)\"", html)
    within = {f"#{name}" for name in re.findall(r"\bid=\"([^\"]*)\"", html)}
    broken = sorted({one for one in targets if not one.startswith("https://")} - within)
    if broken:
        raise Failed(f"on PyPI these lead nowhere: {', '.join(broken)}; see pyproject.toml")
    print(f"the page on PyPI: {len(targets)} links, to whole URLs or its own headings")


def check_links(wheel: Path, address: str | None) -> None:
    """The metadata has the project's URLs, and the page leads there; or neither does."""
    expected = hook.project_urls(address, metadata_of(wheel)["Version"]) if address else {}
    if urls_of(wheel) != expected:
        raise Failed(f"the project URLs are {urls_of(wheel)}, not {expected}: see hatch_build.py")
    if address is not None and f"{address}/blob/" not in page_of(wheel):
        raise Failed(f"the page has no link to {address}: see hatch_build.py")
    print(f"project URLs: {len(expected)}")


def check_with_address(folder: Path) -> None:
    """With an address, everything on the page leads there, pictures too."""
    run(
        *("uv", "build", "--quiet", "--wheel", f"--out-dir={folder}", str(ROOT)),
        env=os.environ | {hook.VARIABLE: hook.EXAMPLE},
    )
    wheel = only(folder, "*.whl")
    check_page(wheel)
    check_links(wheel, hook.EXAMPLE)


def check_tag(wheel: Path, tag: str) -> None:
    """The tag is the version, the changelog has a section for it, and the address is known."""
    version = metadata_of(wheel)["Version"]
    if not urls_of(wheel):
        raise Failed(
            f"a release needs the address of the repository, but {hook.VARIABLE} is not set. On"
            " GitHub, make it a repository variable (Settings > Secrets and variables > Actions >"
            f" Variables); in a shell, export {hook.VARIABLE}={hook.EXAMPLE}"
        )
    if tag != f"v{version}":
        raise Failed(f"the tag is {tag}, and the version {version}: see aioapiqueue/__init__.py")
    if f"\n## [{version}]" not in (ROOT / "CHANGELOG.md").read_text("utf-8"):
        raise Failed(f"CHANGELOG.md has no section [{version}]: rename [Unreleased]")
    print(f"{tag}: the version, and in CHANGELOG.md")


def check_same(wheel: Path, sdist: Path, folder: Path) -> None:
    """The sdist makes the wheel which was made of the checkout, byte for byte."""
    elsewhere = {name: value for name, value in os.environ.items() if name != hook.VARIABLE}
    run("uv", "build", "--quiet", "--wheel", f"--out-dir={folder}", str(sdist), env=elsewhere)
    found, expected = files(only(folder, "*.whl")), files(wheel)
    if found != expected:
        differ = sorted(name for name, _ in found.items() ^ expected.items())
        raise Failed(f"the wheel made of the sdist differs: {', '.join(differ)}")
    print(f"{sdist.name}: makes the same wheel")


def check_used(requirement: str, commands: tuple[Command, ...], folder: Path) -> None:
    """Commands do what they should in an environment with nothing but this installed."""
    run("uv", "venv", "--quiet", f"--python={sys.executable}", str(folder))
    run("uv", "pip", "install", "--quiet", f"--python={folder}", requirement)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    for command in commands:
        name, *rest = command.arguments
        output = run(str(programs / name), *rest, code=command.code, cwd=folder)
        shown = " ".join(command.arguments).partition("\n")[0]
        if command.text not in output:
            raise Failed(f"`{shown}` does not say {command.text!r}, but:\n{output}")
        print(f"{shown}: exit code {command.code}")


def run(
    *command: str, code: int = 0, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    """Run a command and return its output."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=cwd, env=env
    )
    if done.returncode != code:
        shown = " ".join(command).partition("\n")[0]
        raise Failed(f"`{shown}` exits with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
