"""Check a release as its users get it: `python -m tests.helpers.package DIST`.

Part of `uvx nox -s package`, which builds DIST: the wheels and sdists of `aioapiqueue` and of
`aioapiqueue-run`. The release workflow also names the tag.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.helpers.build_hook import hook
from tests.helpers.package import built, installed
from tests.helpers.package.process import FailedError


def main() -> None:
    """Check all of it; the first fault ends the check with exit code 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dist", type=Path, help="the folder with two wheels and two sdists")
    parser.add_argument("--tag", help="the tag that is released, as v1.2.3")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            check(given.dist.resolve(), given.tag, Path(folder))
    except FailedError as error:
        sys.exit(f"{given.dist}: {error}")


def check(dist: Path, tag: str | None, folder: Path) -> None:
    """Check the files first, which takes a second, and then their installation."""
    library, programs = built.find(dist, "aioapiqueue"), built.find(dist, "aioapiqueue_run")
    built.check_contents(library, built.files_of_library(), built.DATA_OF_LIBRARY)
    built.check_contents(programs, built.files_of_programs(), built.DATA_OF_PROGRAMS)
    built.check_size(library)
    built.check_size(programs)
    built.check_pins(library, programs)
    built.check_links(library.wheel, os.environ.get(hook.VARIABLE) or None)
    for one in (library, programs):
        built.check_page(one.wheel)
        if tag is not None:
            built.check_tag(one.wheel, tag)
    for one in (library, programs):
        built.check_same(one, folder / one.wheel.name)
    built.check_with_address(folder / "linked")

    version = built.metadata_of(library.wheel)["Version"]
    wheels = installed.Wheels(dist, installed.download(dist, version, folder / "others"), version)
    installed.check_library(wheels, folder / "library")
    installed.check_programs(wheels, folder / "programs")
    installed.check_extras(wheels, folder / "extras")
    installed.check_pipx(wheels, folder / "pipx")
    installed.check_uv_tool(wheels, folder / "tool")
    installed.check_checkout(folder / "checkout")


if __name__ == "__main__":
    main()
