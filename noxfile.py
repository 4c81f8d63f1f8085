"""Everything that is checked, each with its own set-up.

    python3 -m venv .uv && .uv/bin/pip install -q uv && .uv/bin/uvx nox

Without `-s`, only `tests` runs. Arguments after `--` go on to pytest: `-- -k cancel`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

# Tests and benchmarks call uv by its name. `.uv/bin/uvx` says where it is, and is not on PATH.
if "UV" in os.environ:
    os.environ["PATH"] += os.pathsep + str(Path(os.environ["UV"]).parent)

# Tests start hundreds of Pythons: each would compile what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
OF_DEBIAN = (
    *("awscli", "golang-go", "golang-github-aws-aws-sdk-go-v2-dev"),
    *("rclone", "wget", "git", "php-cli", "php-curl", "default-jdk-headless", "iproute2"),
    *("redis-server", "valgrind"),
)
"""Programs and SDKs with which slow tests call AWS and GitHub, what makes a network of its own for
their server, a Redis beside the Valkey that all tests have, and what counts instructions. Node.js,
too, if there is none."""
ALL = ("--numprocesses=3", "--dist=loadfile")
"""All tests run in three processes: on two cores, half of them wait for something."""
WINGS = {
    "integrations": ("tests/integrations",),
    "servers": ("tests/shared", "tests/soak", "tests/mutants"),
    "programs": ("run/tests",),
}
"""Parts of the tests that the workflow runs beside each other; everything else is "core"."""
REINSTALL = ("--reinstall-package=aioapiqueue", "--reinstall-package=aioapiqueue-run")
BENCHMARKS = (
    *("imports", "overhead", "waiters", "observers", "lanes", "host"),
    *("gateway", "adaptive", "accuracy", "on_uvloop"),
)


def set_up(session: nox.Session, *groups: str, editable: bool = True) -> None:
    """Bring the session's environment to what uv.lock says, with every extra."""
    if session.python is None and sys.version_info < (3, 11):
        session.error(
            "nox runs on a Python that is too old for aioapiqueue: `.uv/bin/uvx -p 3.11 nox`"
        )
    # As a wheel, rebuilt every time: what is tested is what would be installed.
    wheel = () if editable else ("--no-editable", *REINSTALL)
    wanted = ("--extra=all", *(f"--group={group}" for group in groups))
    sync(session, session.virtualenv.location, *wanted, *wheel)


def sync(session: nox.Session, environment: str, *wanted: str) -> None:
    """Bring an environment to what uv.lock has of some groups and extras."""
    session.run_install(
        *("uv", "sync", "--quiet", "--frozen", *wanted, f"--python={environment}"),
        env={"UV_PROJECT_ENVIRONMENT": environment},
    )


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python that nox runs on, without those marked slow.

    All of them on the wheels that are released; those of a file that you name on the checkout.
    """
    named = [one for one in session.posargs if one.partition("::")[0].endswith(".py")]
    set_up(session, "test", editable=bool(named))
    session.run("pytest", *(session.posargs or ALL))


@nox.session
@nox.parametrize("name", [nox.param(name, id=name) for name in ("core", *WINGS)])
def wing(session: nox.Session, name: str) -> None:
    """Run one part of the tests, as the workflow does: `-s "wing(core)"`."""
    set_up(session, "test", editable=False)
    session.run("pytest", *ALL, *paths_of(name), *session.posargs)


def paths_of(name: str) -> list[str]:
    """Return the arguments with which pytest runs one part."""
    if name != "core":
        return [str(path) for pattern in WINGS[name] for path in sorted(Path().glob(pattern))]
    others = [f"--ignore-glob={pattern}" for patterns in WINGS.values() for pattern in patterns]
    return ["tests", *others]


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """Run the tests on every supported Python; nox reports those it can neither find nor get."""
    set_up(session, "test", editable=False)
    session.run("pytest", *(session.posargs or ALL))


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows of what it names."""
    resolve(session, "--resolution=lowest-direct")
    session.run("pytest", *(session.posargs or ALL))


@nox.session
def latest(session: nox.Session) -> None:
    """Run the tests with the newest versions there are, whatever uv.lock has."""
    resolve(session, "--upgrade")
    session.run("pytest", *(session.posargs or ALL))


def resolve(session: nox.Session, how: str) -> None:
    """Bring the session's environment to what pyproject.toml says, without uv.lock."""
    python = f"--python={session.virtualenv.location}"
    extras = ("--group=test", *REINSTALL, ".[all]", "./run")
    # uv installs the members of a workspace as editable, if it is not told otherwise.
    session.run_install("uv", "pip", "install", "--quiet", "--no-editable", how, python, *extras)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests marked slow: real scanners, other SDKs, a Redis, real time (some hours).

    Debian's packages of other SDKs, Redis and Valgrind are installed if this is Debian, and root.
    """
    set_up(session, "test", "bench", editable=False)
    if shutil.which("apt-get") and os.geteuid() == 0:
        session.run_install("apt-get", "update", "-qq", external=True)
        node = () if shutil.which("npm") else ("nodejs", "npm")
        session.run_install(
            *("apt-get", "install", "-y", "-qq", "--no-install-recommends"),
            *(*OF_DEBIAN, *node),
            external=True,
        )
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Open reports and the site in a headless browser (some minutes).

    It takes Chromium or Chrome as it is installed, or what the variable BROWSER names.
    """
    set_up(session, "test", "bench", "browser", "docs", editable=False)
    session.run("pytest", "-m", "browser", "tests/browser", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, the workflows, and that no private vocabulary comes back."""
    set_up(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("python", "tests/lint_words.py")
    session.run("zizmor", "--offline", "--quiet", ".github")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types: ours strictly, and what users write by pyright, too."""
    set_up(session, "lint", "test", "bench", "browser", "peers")
    session.run("mypy")
    session.run("pyright")


@nox.session
def package(session: nox.Session) -> None:
    """Build what is released, in `dist`, and use it as one without this checkout would.

    `-- --tag v1.2.3` also checks the version, the changelog and the project's address, which it
    takes from the variable AIOAPIQUEUE_REPOSITORY_URL (see hatch_build.py).
    """
    shutil.rmtree("dist", ignore_errors=True)
    sync(session, session.virtualenv.location, "--only-group=package")
    session.run("python", "hatch_build.py")
    kinds = ("--all-packages", "--sdist", "--wheel", "--no-sources")
    session.run("uv", "build", "--quiet", *kinds, "--out-dir=dist", external=True)
    built = sorted(str(file) for file in Path("dist").glob("aioapiqueue*"))
    session.run("twine", "check", "--strict", *built)
    session.run("python", "-m", "tests.helpers.package", "dist", *session.posargs)
    # A few tests of the programs, on these very files: all of them run in `wing(programs)`.
    folder = str(Path(session.create_tmp()) / "installed")
    session.run_install("uv", "venv", "--quiet", "--clear", folder, external=True)
    sync(session, folder, "--extra=all", "--group=test", "--no-install-workspace")
    wheels = [name for name in built if name.endswith(".whl")]
    session.run_install(
        "uv", "pip", "install", "--quiet", "--no-deps", f"--python={folder}", *wheels
    )
    session.run(f"{folder}/bin/pytest", "run/tests/cli/test_app.py", external=True)


@nox.session
def readme(session: nox.Session) -> None:
    """Run the examples in the README, in docs/ and in the docstrings."""
    set_up(session, "test", editable=False)
    session.run("pytest", "tests/test_readme.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation as a site, in docs/_build; a link that leads nowhere is an error.

    With AIOAPIQUEUE_REPOSITORY_URL (see hatch_build.py) its pages link to the repository.
    """
    set_up(session, "docs", "test", editable=False)  # what it documents has to be imported
    session.run("python", "hatch_build.py")
    shutil.rmtree("docs/_build", ignore_errors=True)
    session.run(
        *("sphinx-build", "--fail-on-warning", "--keep-going", "--quiet", "--fresh-env"),
        *("docs", "docs/_build", *session.posargs),
    )
    session.run("python", "-m", "tests.helpers.check_site", "docs/_build")


@nox.session
def names(session: nox.Session) -> None:
    """Write what is known of AWS's operations, from the botocore of uv.lock and from the newest."""
    set_up(session, "test")
    newest = session.create_tmp()
    session.run_install(
        "uv",
        "pip",
        "install",
        "--quiet",
        "--upgrade",
        "--no-deps",
        f"--target={newest}",
        "botocore",
    )
    session.run("python", "tests/helpers/operations_file.py", newest)
    session.run("python", "-m", "tests.helpers.calls_file", newest)


@nox.session
def api(session: nox.Session) -> None:
    """Write down the public API, with which tests compare it (`tests/api.txt`)."""
    set_up(session, "test")
    session.run("python", "-m", "tests.helpers.api_file")


@nox.session
def charts(session: nox.Session) -> None:
    """Write the chart library that reports have in them, as npm has it."""
    version = "1.6.32"
    place = Path("aioapiqueue/integrations/report/uplot")
    found = session.create_tmp()
    session.run_install(
        "npm", "pack", f"uplot@{version}", f"--pack-destination={found}", external=True
    )
    with tarfile.open(Path(found) / f"uplot-{version}.tgz") as archive:
        for name in ("dist/uPlot.iife.min.js", "dist/uPlot.min.css", "LICENSE"):
            member = archive.extractfile(f"package/{name}")
            (place / Path(name).name).write_bytes(member.read())


@nox.session
def bench(session: nox.Session) -> None:
    """Measure overhead, lanes and push-back, and accuracy in real time (a quarter of an hour).

    `-P 3.13 -s bench` does so on Python 3.13, where some goals differ.
    """
    set_up(session, "bench", editable=False)
    missed = []
    for name in BENCHMARKS:
        try:
            session.run("python", f"benchmarks/{name}.py")
        except CommandFailed:  # a missed target is no reason not to measure the others
            missed.append(name)
    if missed:
        session.error(f"Targets missed, or no result: {', '.join(missed)}")


@nox.session(python="3.13")
def peers(session: nox.Session) -> None:
    """Measure other limiters beside ours (40 minutes; `-- --quick`: 5).

    On the newest Python that we test, as token-throttle needs 3.12: `-P 3.11` does without it.
    """
    set_up(session, "peers", editable=False)
    session.run("python", "benchmarks/peers.py", *session.posargs)


@nox.session
def scan(session: nox.Session) -> None:
    """Run real scanners from PyPI on a mock account, unpaced and paced (a quarter of an hour)."""
    set_up(session, "bench", editable=False)
    session.run("python", "benchmarks/scan.py", *session.posargs)


@nox.session
def together(session: nox.Session) -> None:
    """Run two real scanners at once on one mock account, each under `run` (ten minutes)."""
    set_up(session, "bench", editable=False)
    session.run("python", "benchmarks/together.py", *session.posargs)


@nox.session
def fleet(session: nox.Session) -> None:
    """Simulate fleets that share a quota, and measure what one costs a Valkey (ten minutes)."""
    set_up(session, "bench", "test", editable=False)
    session.run("python", "benchmarks/fleet.py", *session.posargs)
    session.run("python", "benchmarks/fleet_lanes.py", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure what the tests run: all lines and branches of the core, 95 % of all (8 minutes).

    Random histories are the same each time: no goal may depend on a rare one.
    """
    set_up(session, "test", "coverage", editable=False)
    session.run("coverage", "erase")
    quick = ("--budget=0", "-m", "not slow and not browser and not full_speed")
    tests = (*quick, *(session.posargs or ALL))
    try:
        # As a file: with `-m`, the packages of the checkout would come before those installed.
        session.run("coverage", "run", f"{session.bin}/pytest", *tests, env={"CI": "true"})
    finally:  # a test that fails is no reason not to know what was measured
        session.run("coverage", "combine", "-q")
        session.run("python", "-m", "tests.coverage_report")


@nox.session
def mutate(session: nox.Session) -> None:
    """Change the core at random, 200 times, and see that tests fail; `-- --sample 20` is shorter.

    It goes on where it was ended.
    """
    set_up(session, "test", "coverage", editable=False)
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Have all go wrong that can, for half an hour in real time; `-- --minutes 2` is shorter."""
    set_up(session, "test", editable=False)
    session.run("python", "tests/soak", *session.posargs)
