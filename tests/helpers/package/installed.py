"""Use of what is released, in new environments and away from the checkout.

Third-party packages come from a folder of their own: with `--no-index`, pip and uv have ours from
nowhere but the folder that is released.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from tests.helpers.package.process import FailedError, run
from tests.helpers.security_review import findings

ROOT = Path(__file__).parents[3]
PROGRAMS = "Scripts" if sys.platform == "win32" else "bin"
ISOLATED = "--isolated"
"""Without the settings of this machine, which may name folders with other wheels."""
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


class Command(NamedTuple):
    """A command that a user gives, its exit code, and a part of its output."""

    arguments: tuple[str, ...]
    code: int
    text: str


class Wheels(NamedTuple):
    """Where an environment is installed from.

    Attributes:
        dist: the folder of what is released.
        others: the folder of third-party wheels.
        version: of both distributions.
    """

    dist: Path
    others: Path
    version: str

    def options(self) -> tuple[str, ...]:
        """Return the options with which pip and uv look in these folders and nowhere else."""
        return ("--no-index", f"--find-links={self.dist}", f"--find-links={self.others}")

    def requirement(self, extra: str = "") -> str:
        """Return what a user writes; `==`, as pip and uv take a pre-release only if it is named."""
        return f"aioapiqueue{extra}=={self.version}"


SAYS_EXTRA = 'pip install "aioapiqueue[cli]"'
LIBRARY = (
    Command(("python", "-c", EXAMPLE), 0, ""),
    Command(("python", "-c", "import aioapiqueue_run"), 1, "ModuleNotFoundError"),
    Command(("aioapiqueue", "--version"), 0, "aioapiqueue "),
    Command(("aioapiqueue", "docs", "limits"), 0, "# Limits"),
    Command(("aioapiqueue", "--help"), 2, SAYS_EXTRA),
    Command(("python", "-m", "aioapiqueue", "limits"), 2, SAYS_EXTRA),
    Command(("aioapiqueue", "demo"), 2, 'pip install "aioapiqueue[demo]"'),
)
RUN = ("run", "--limit", "ec2=10/s", "--", "python", "-c", "print(6 * 7)")
PACED = (
    Command(("aioapiqueue", "--version"), 0, "aioapiqueue "),
    Command(("aioapiqueue", *RUN), 0, "42"),
)
WITH_PROGRAMS = (
    *PACED,
    Command(("aioapiqueue", "--help"), 0, "run"),
    Command(("aioapiqueue", "limits", "--service", "ec2"), 0, "DescribeSnapshots"),
    Command(("aioapiqueue", "docs", "run"), 0, "# aioapiqueue run"),
    Command(("python", "-m", "aioapiqueue", "hub", "--help"), 0, "status"),
    Command(("aioapiqueue", "demo"), 1, 'pip install "aioapiqueue[demo]"'),
)
OTHER_VERSION = Command(("aioapiqueue", "limits"), 2, "but 0.0.1 is installed")


def download(dist: Path, version: str, folder: Path) -> Path:
    """Put wheels of all third-party packages into a folder, and return it."""
    requirement = f"aioapiqueue[cli,demo,gateway,watch]=={version}"
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet")
    run(*pip, f"--wheel-dir={folder}", f"--find-links={dist}", requirement)
    for file in folder.glob("aioapiqueue*"):
        file.unlink()
    print(f"{len([*folder.iterdir()])} wheels of third-party packages")
    return folder


def pip_install(
    environment: Path, *arguments: str, cwd: Path | None = None, new: bool = True
) -> str:
    """Install by pip into an environment, and return what it prints.

    Args:
        environment: its folder.
        arguments: of `pip install`.
        cwd: the current folder.
        new: whether to make the environment first.
    """
    if new:
        run("uv", "venv", "--quiet", f"--python={sys.executable}", str(environment))
    pip = (sys.executable, "-m", "pip", f"--python={environment}", "install")
    return run(*pip, *arguments, cwd=cwd)


def check_library(wheels: Wheels, folder: Path) -> None:
    """The library alone works, and a security review of it ends soon."""
    pip_install(folder, ISOLATED, *wheels.options(), wheels.requirement())
    check_commands(LIBRARY, folder / PROGRAMS)
    found = findings(site_packages(folder) / "aioapiqueue")
    ours = {file.name for file in site_packages(folder).glob("*aioapiqueue*")}
    if found or ours != {"aioapiqueue", f"aioapiqueue-{wheels.version}.dist-info"}:
        raise FailedError(f"the library installs {sorted(ours)}, and has {found}")
    print("the library alone: no server, nothing that Python starts")


def check_programs(wheels: Wheels, folder: Path) -> None:
    """With the extra `cli`, all commands work; they refuse programs of another version."""
    pip_install(folder, ISOLATED, *wheels.options(), wheels.requirement("[cli]"))
    check_commands(WITH_PROGRAMS, folder / PROGRAMS)
    code = "from importlib.metadata import version; print(version('aioapiqueue-run'))"
    check_commands([Command(("python", "-c", code), 0, wheels.version)], folder / PROGRAMS)
    file = site_packages(folder) / "aioapiqueue_run" / "__init__.py"
    text = file.read_text("utf-8")
    file.unlink()  # uv and pip may have linked it to a cache
    file.write_text(text.replace(f'"{wheels.version}"', '"0.0.1"'), "utf-8")
    check_commands([OTHER_VERSION], folder / PROGRAMS)


def check_extras(wheels: Wheels, folder: Path) -> None:
    """By pip, the other extras bring all that they require, and both of ours."""
    run("uv", "venv", "--quiet", f"--python={sys.executable}", str(folder))
    for extra in ("gateway", "watch", "demo"):
        options = ("--dry-run", ISOLATED, *wheels.options())
        output = pip_install(folder, *options, wheels.requirement(f"[{extra}]"), new=False)
        found = re.findall(r"\baioapiqueue(?:[-_]run)?-(?=\d)(\S+)", output.splitlines()[-1])
        if found != [wheels.version] * 2:
            raise FailedError(f"the extra {extra} brings {found} of ours:\n{output}")
        print(f"aioapiqueue[{extra}]: would be installed")


def check_pipx(wheels: Wheels, folder: Path) -> None:
    """`pipx install` gives a working command."""
    places = {f"PIPX_{name}": str(folder / name) for name in ("HOME", "BIN_DIR", "MAN_DIR")}
    options = f"--pip-args={' '.join(wheels.options())}"
    pipx = (sys.executable, "-m", "pipx", "install", f"--python={sys.executable}", options)
    run(*pipx, wheels.requirement("[cli]"), env=os.environ | places)
    check_commands(PACED, folder / "BIN_DIR", by="pipx")


def check_uv_tool(wheels: Wheels, folder: Path) -> None:
    """`uv tool install` gives a working command."""
    places = {"UV_TOOL_DIR": str(folder / "tools"), "UV_TOOL_BIN_DIR": str(folder / "bin")}
    uv = ("uv", "tool", "install", "--quiet", f"--python={sys.executable}", *wheels.options())
    run(*uv, wheels.requirement("[cli]"), env=os.environ | places)
    check_commands(PACED, folder / "bin", by="uv tool")


def check_checkout(folder: Path) -> None:
    """In a checkout, pip installs both in either order, and leaves no files there.

    Before 23.3, pip finds the library only if it comes first. The README's line works elsewhere.
    """
    before = state_of_checkout()
    line = re.search(r"`pip install ([^`]* CHECKOUT/run)`", (ROOT / "README.md").read_text("utf-8"))
    if line is None:
        raise FailedError("the README has no line that installs both from a checkout")
    pip_install(folder / "readme", *shlex.split(line[1].replace("CHECKOUT", str(ROOT))))
    check_commands(PACED, folder / "readme" / PROGRAMS, by="the README's line")
    for number, order in enumerate(((".[cli]", "./run"), ("./run", ".[cli]"))):
        pip_install(folder / f"{number}", *order, cwd=ROOT)
        check_commands(PACED, folder / f"{number}" / PROGRAMS, by=f"pip install {' '.join(order)}")
    if state_of_checkout() != before:
        raise FailedError(f"pip has changed the checkout: {state_of_checkout()}")


def state_of_checkout() -> str:
    """Return the files in the checkout that are changed, new or ignored."""
    return run("git", "status", "--porcelain", "--ignored", cwd=ROOT)


def check_commands(
    commands: tuple[Command, ...] | list[Command], programs: Path, *, by: str = "pip"
) -> None:
    """Commands do what they should.

    Args:
        commands: to run.
        programs: the folder of the programs of an environment.
        by: what has installed it, for what is printed.
    """
    for command in commands:
        name, *rest = command.arguments
        output = run(str(programs / name), *rest, code=command.code, cwd=programs.parent)
        shown = " ".join(command.arguments).partition("\n")[0]
        if command.text not in output:
            raise FailedError(f"`{shown}` does not say {command.text!r}, but:\n{output}")
        print(f"by {by}: {shown}: exit code {command.code}")


def site_packages(environment: Path) -> Path:
    """Return the folder of an environment's packages."""
    windows = environment / "Lib" / "site-packages"
    return windows if windows.is_dir() else next(environment.glob("lib/python*/site-packages"))
