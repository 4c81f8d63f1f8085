"""The files that are released: what is in them, and what the package index makes of them."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from readme_renderer import markdown

from tests.helpers.build_hook import hook
from tests.helpers.package.process import FailedError, run

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).parents[3]
DATA_OF_LIBRARY = (
    "aioapiqueue/docs/pages/quickstart.md",
    "aioapiqueue/integrations/redis/gcra.lua",
    "aioapiqueue/integrations/report/page.html",
    "aioapiqueue/integrations/report/uplot/uPlot.iife.min.js",
    "aioapiqueue/py.typed",
    "aioapiqueue/registry/presets/ec2.toml",
    "aioapiqueue/registry/presets/operations.txt",
)
DATA_OF_PROGRAMS = (
    "aioapiqueue_run/bootstrap/sitecustomize.py",
    "aioapiqueue_run/gateway/aws_calls.json.gz",
    "aioapiqueue_run/gateway/node_hook.cjs",
    "aioapiqueue_run/py.typed",
)


class Built(NamedTuple):
    """The two files of one distribution."""

    wheel: Path
    sdist: Path


def find(dist: Path, name: str) -> Built:
    """Return the files of a distribution, whose name has an underscore in file names.

    Raises:
        FailedError: there is another number of them.
    """
    return Built(only(dist, f"{name}-*.whl"), only(dist, f"{name}-*.tar.gz"))


def only(folder: Path, pattern: str) -> Path:
    """Return the one file that there should be."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise FailedError(
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


def files_of_library() -> set[str]:
    """Return the names of the package's files and of the pages that it prints."""
    docs = ROOT / "docs"
    pages = {
        f"aioapiqueue/docs/pages/{path.relative_to(docs).as_posix()}"
        for path in (*docs.rglob("*.md"), docs / "grafana.json")
        if "_build" not in path.parts
    }
    return pages | files_below(ROOT, "aioapiqueue")


def files_of_programs() -> set[str]:
    """Return the names of the files of the programs."""
    return files_below(ROOT / "run", "aioapiqueue_run")


def files_below(folder: Path, package: str) -> set[str]:
    """Return the names of a package's files in the checkout."""
    return {
        path.relative_to(folder).as_posix()
        for path in (folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def check_contents(built: Built, expected: set[str], data: tuple[str, ...]) -> None:
    """The wheel has these files, all of them and no other; and no file of data was forgotten."""
    inside = {name for name in files(built.wheel) if ".dist-info/" not in name}
    if inside != expected:
        differ = ", ".join(sorted(inside ^ expected))
        raise FailedError(f"{built.wheel.name} and the checkout differ: {differ}")
    missing = [name for name in data if name not in inside]
    if missing:
        raise FailedError(f"{built.wheel.name} lacks {', '.join(missing)}")
    print(f"{built.wheel.name}: {len(inside)} files, those of the checkout")


def check_size(built: Built) -> None:
    """The page for contributors has the size of the wheel, within a twentieth."""
    name, kilobytes = metadata_of(built.wheel)["Name"], built.wheel.stat().st_size / 1000
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    given = re.search(rf"`{name}`\s\([^)]*\bwheel\sof\s(\d+)\skB", page)
    if given is None or not 0.95 < int(given[1]) / kilobytes < 1.05:
        raise FailedError(
            f"{built.wheel.name} has {kilobytes:.0f} kB: write that into docs/architecture.md"
        )
    print(f"{built.wheel.name}: {kilobytes:.0f} kB")


def check_pins(library: Built, programs: Built) -> None:
    """Each requires the other in its own version: they share more than public names."""
    version = metadata_of(library.wheel)["Version"]
    for one, other in ((library, "aioapiqueue-run"), (programs, "aioapiqueue")):
        needs = metadata_of(one.wheel).get_all("Requires-Dist", ())
        found = [need for need in needs if re.match(rf"{other}(?![\w-])", need)]
        pinned = re.compile(rf"{other}(\[[\w,-]+\])?=={re.escape(version)}(\s*;.*)?")
        if not found or not all(pinned.fullmatch(need) for need in found):
            raise FailedError(f"{one.wheel.name} must pin {other}=={version}, but requires {found}")
    print(f"both require each other in version {version}")


def check_page(wheel: Path) -> None:
    """What PyPI makes of the page has only links and pictures that lead somewhere from there."""
    html = markdown.render(page_of(wheel))
    if html is None:
        raise FailedError("PyPI could not render the page")
    targets = re.findall(r"\b(?:href|src|srcset)=\"([^\"]*)\"", html)
    within = {f"#{name}" for name in re.findall(r"\bid=\"([^\"]*)\"", html)}
    broken = sorted({one for one in targets if not one.startswith("https://")} - within)
    if broken:
        raise FailedError(f"on PyPI these lead nowhere: {', '.join(broken)}; see {wheel.name}")
    print(
        f"the page of {wheel.name} on PyPI: {len(targets)} links, to whole URLs or its own headings"
    )


def check_links(wheel: Path, address: str | None) -> None:
    """The metadata has the project's URLs, and the page leads there; or neither does."""
    expected = hook.project_urls(address, metadata_of(wheel)["Version"]) if address else {}
    if urls_of(wheel) != expected:
        raise FailedError(
            f"the project URLs are {urls_of(wheel)}, not {expected}: see hatch_build.py"
        )
    if address is not None and f"{address}/blob/" not in page_of(wheel):
        raise FailedError(f"the page has no link to {address}: see hatch_build.py")
    print(f"project URLs: {len(expected)}")


def check_with_address(folder: Path) -> None:
    """With an address, everything on the library's page leads there, pictures too."""
    run(
        *("uv", "build", "--quiet", "--wheel", "--no-sources", f"--out-dir={folder}", str(ROOT)),
        env=os.environ | {hook.VARIABLE: hook.EXAMPLE},
    )
    wheel = only(folder, "*.whl")
    check_page(wheel)
    check_links(wheel, hook.EXAMPLE)


def check_tag(wheel: Path, tag: str) -> None:
    """The tag is the version, the changelog has a section for it, and the address is known."""
    version = metadata_of(wheel)["Version"]
    if not urls_of(wheel):
        raise FailedError(
            f"a release needs the address of the repository, but {hook.VARIABLE} is not set. On"
            " GitHub, make it a repository variable (Settings > Secrets and variables > Actions >"
            f" Variables); in a shell, export {hook.VARIABLE}={hook.EXAMPLE}"
        )
    if tag != f"v{version}":
        raise FailedError(f"the tag is {tag}, and {wheel.name} has {version}: see its __init__.py")
    if f"\n## [{version}]" not in (ROOT / "CHANGELOG.md").read_text("utf-8"):
        raise FailedError(f"CHANGELOG.md has no section [{version}]: rename [Unreleased]")
    print(f"{tag}: the version of {wheel.name}, and in CHANGELOG.md")


def check_same(built: Built, folder: Path) -> None:
    """The sdist makes the wheel that was made of the checkout, byte for byte, by pip and by uv.

    uv reads `[tool.uv]` in the sdist, where there is no workspace.
    """
    elsewhere = {name: value for name, value in os.environ.items() if name != hook.VARIABLE}
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir")
    uv = ("uv", "build", "--quiet", "--wheel", "--out-dir")
    for command in (pip, uv):
        to = folder / command[0].rpartition("/")[2]
        run(*command, str(to), str(built.sdist), env=elsewhere)
        again = only(to, "*.whl")
        if again.read_bytes() != built.wheel.read_bytes():
            differ = sorted({name for name, _ in files(again).items() ^ files(built.wheel).items()})
            raise FailedError(f"{built.sdist.name} makes another wheel: {', '.join(differ)}")
    print(f"{built.sdist.name}: makes the same wheel")
