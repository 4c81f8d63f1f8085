"""Scanners of AWS accounts as PyPI has them: how to get, to start and to read each of them."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue.schedules.spi import HUB_DIR
from aioapiqueue_run.demo.scan import REGION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "SCANNERS",
    "SCANNER_KEY",
    "Findings",
    "Scanner",
    "ScannerError",
    "execute",
    "variables_of",
]

# What is installed is the same tomorrow: each scanner's version, and nothing newer than this day.
_NOT_NEWER = "2026-11-20"
_PYTHON = ">=3.11,<3.13"
"""Prowler's bounds; ScoutSuite runs there, too."""
_INSTALL_SECONDS = 600
_END_SECONDS = 5.0
_NOBODY = "http://127.0.0.1:1"  # no process listens there
SCANNER_KEY = "AKIASCANNER000000001"
"""The access key by which its calls are distinguished from others'."""
_COMPLETE = "complete"


class ScannerError(Exception):
    """Raised when a scanner cannot be installed or left no report; the message has what to do."""


@dataclass(frozen=True)
class Findings:
    """What a scanner's own report has.

    Attributes:
        reported: snapshots in it whose permissions it judges.
        public: those among them that it calls public.
    """

    reported: int
    public: int


@dataclass(frozen=True)
class Scanner:
    """A program that asks EC2 for the attributes of each snapshot.

    Attributes:
        name: what people call it.
        requirement: what PyPI calls it, with its version.
        libraries: of those that it brings, which it is worth naming the versions of.
        command: how it is started; it writes its report to the working directory.
        read: reads the report in a working directory; see `findings`.
        throttle: its own option by which it makes so many calls a second, if it has one.
    """

    name: str
    requirement: str
    libraries: tuple[str, ...]
    command: tuple[str, ...]
    read: Callable[[Path], Findings]
    throttle: str | None = None

    def of_services(self, *more: str) -> tuple[str, ...]:
        """Return the command, of EC2 and more services."""
        after = self.command.index("ec2") + 1
        return (*self.command[:after], *more, *self.command[after:])

    def install(self, cache: Path) -> Path:
        """Return its virtual environment under `cache`, which is made if it is not there yet.

        Raises:
            ScannerError: uv is missing, or failed.
        """
        environment = cache / f"{self.requirement}-{_NOT_NEWER}"
        if (environment / _COMPLETE).exists():
            return environment
        uv = shutil.which("uv")
        if uv is None:
            raise ScannerError("uv is needed to install scanners: run this by `uvx nox -s scan`")
        python = environment / "bin" / "python"
        for command in (
            (uv, "venv", "--quiet", "--clear", "--python", _PYTHON, environment),
            (
                *(uv, "pip", "install", "--quiet", "--python", python),
                *("--exclude-newer", _NOT_NEWER, self.requirement),
            ),
        ):
            try:
                subprocess.run(  # noqa: S603 - our own words
                    command, stdout=sys.stderr, timeout=_INSTALL_SECONDS, check=True
                )
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                raise ScannerError(f"{self.requirement} cannot be installed: {error}") from None
        (environment / _COMPLETE).touch()
        return environment

    def findings(self, directory: Path) -> Findings:
        """Return what it found when it ran in `directory`.

        Raises:
            ScannerError: it left no report.
        """
        try:
            return self.read(directory)
        except FileNotFoundError as error:
            raise ScannerError(
                f"{self.name} left no report {error.filename}. {_last_words(directory)}"
            ) from None

    def versions(self, environment: Path) -> str:
        """Return what is installed there: `boto3 1.44.8, Python 3.11.7`."""
        script = (
            "import platform, sys; from importlib.metadata import version; "
            "print(*(f'{name} {version(name)}' for name in sys.argv[1:]), sep=', ', end=', '); "
            "print('Python', platform.python_version())"
        )
        package = self.requirement.partition("==")[0]
        return subprocess.check_output(  # noqa: S603 - as above
            (environment / "bin" / "python", "-c", script, package, *self.libraries), text=True
        ).strip()


def variables_of(url: str, environment: Path, directory: Path) -> dict[str, str]:
    """Return environment variables by which nothing leads outside of this machine.

    Args:
        url: what is AWS for the scanner.
        environment: the scanner's virtual environment.
        directory: what is the user's home for it.
    """
    own = Path(sys.executable).parent
    return {
        "PATH": f"{environment / 'bin'}:{own}:{os.environ['PATH']}",
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "COLUMNS": "80",
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": SCANNER_KEY,
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HTTP_PROXY": _NOBODY,
        "HTTPS_PROXY": _NOBODY,
        "NO_PROXY": "127.0.0.1",
        HUB_DIR: os.environ.get(HUB_DIR) or str(directory.parent),
    }


async def execute(
    command: Sequence[str], directory: Path, environment: dict[str, str], most: float
) -> int:
    """Run a command and return its exit code; cancelled, it ends what it has started.

    Args:
        command: the program, found on the PATH of `environment`, and its arguments.
        directory: where it runs; its files `stdout` and `stderr` take its output.
        environment: its environment variables, all of them.
        most: seconds that it may take.

    Raises:
        ScannerError: it took longer.
    """
    with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *("/usr/bin/env", *command),  # which looks the program up on the new PATH
            cwd=directory,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(most):
                return await process.wait()
        except TimeoutError:
            raise ScannerError(
                f"{shlex.join(command)} had not ended after {most:.0f} s. {_last_words(directory)}"
            ) from None
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process with all that it started; cancelled meanwhile, at once."""
    if process.returncode is None:
        process.terminate()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _last_words(directory: Path) -> str:
    lines = (directory / "stderr").read_text("utf-8", "replace").splitlines()
    return "\n  ".join(("Its last words to stderr:", *lines[-20:]))


def _scoutsuite(directory: Path) -> Findings:
    path = directory / "report" / "scoutsuite-results" / "scoutsuite_results_r.js"
    _, _, results = path.read_text("utf-8").partition("\n")  # the first line makes it JavaScript
    regions = json.loads(results)["services"]["ec2"]["regions"]
    snapshots = regions.get(REGION, {}).get("snapshots", {}).values()
    judged = [one for one in snapshots if one.get("create_volume_permissions") is not None]
    return Findings(len(judged), sum(one["public"] for one in judged))


def _prowler(directory: Path) -> Findings:
    lines = (directory / "report" / "r.csv").read_text("utf-8").splitlines()
    status = {
        row["RESOURCE_UID"]: row["STATUS"]
        for row in csv.DictReader(lines, delimiter=";")
        if row["CHECK_ID"] == "ec2_ebs_public_snapshot"
    }
    return Findings(len(status), sum(one == "FAIL" for one in status.values()))


SCANNERS = {
    "scoutsuite": Scanner(
        name="ScoutSuite",
        requirement="scoutsuite==5.14.0",
        libraries=("boto3", "botocore"),
        command=(
            *("scout", "aws", "--services", "ec2", "--regions", REGION, "--no-browser"),
            *("--report-dir", "report", "--report-name", "r"),
        ),
        read=_scoutsuite,
        throttle="--max-rate",
    ),
    "prowler": Scanner(
        name="Prowler",
        requirement="prowler==5.46.0",
        libraries=("boto3", "botocore"),
        command=(
            *("prowler", "aws", "--services", "ec2", "--region", REGION, "--no-banner"),
            *("--ignore-exit-code-3", "--output-formats", "csv"),
            *("--output-directory", "report", "--output-filename", "r"),
        ),
        read=_prowler,
    ),
}
