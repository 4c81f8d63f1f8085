"""Write `aioapiqueue/registry/presets/operations.txt`: the operations of each AWS service.

`uvx nox -s names` does it, with the botocore of uv.lock and the newest one. The test in
tests/registry/test_operations.py compares the file with the former.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
import textwrap
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).parents[2] / "aioapiqueue" / "registry" / "presets" / "operations.txt"
COMMAND = "uvx nox -s names"

TEXT = """\
# The AWS services and their operations that two versions of botocore know: the one in uv.lock, and
# the newest one on the day below. `{command}` writes this file.
#
# uv.lock: {locked}
# newest:  {newest}
# read:    {read}
#
# One entry for each service, named as in `create_client`. A service id that differs, which is the
# name in botocore's events, follows: `autoscaling=auto-scaling`. A line that begins with a space
# continues the entry above it. An entry with a "+" has what only the newest botocore knows.

{entries}
"""


class Service(NamedTuple):
    """What a botocore knows of a service."""

    id: str
    """The service id as botocore's events have it: `auto-scaling`."""
    operations: set[str]


class Header(NamedTuple):
    """The versions of botocore that the file was written from."""

    locked: str
    """The version of botocore in uv.lock."""
    newest: str
    read: str
    """The day on which `newest` was found to be the newest version."""


def services_of(folder=None):
    """Return the services of a botocore, by default the installed one."""
    from botocore.loaders import JSONFileLoader, Loader

    class Plain(JSONFileLoader):
        """Makes plain dictionaries of files, in a third of the time."""

        def _load_file(self, full_path, open_method):
            if not Path(full_path).is_file():
                return None
            with open_method(full_path, "rb") as file:
                return json.loads(file.read())

    folder = Loader.BUILTIN_DATA_PATH if folder is None else str(folder / "botocore" / "data")
    loader = Loader(
        extra_search_paths=[folder], include_default_search_paths=False, file_loader=Plain()
    )
    return {
        name: _service(loader.load_service_model(name, "service-2"))
        for name in loader.list_available_services("service-2")
    }


def _service(model):
    # The id is written as by `botocore.utils.hyphenize_service_id`.
    return Service(
        model["metadata"]["serviceId"].replace(" ", "-").lower(), set(model["operations"])
    )


def version_of(folder=None):
    """Return the version of a botocore, by default the installed one."""
    path = sys.path if folder is None else [str(folder)]
    return next(one.version for one in distributions(name="botocore", path=path))


def header():
    """Return the versions of botocore that the file was written from."""
    return Header(*re.findall(r"^# [\w.]+: +([\d.-]+)$", FILE.read_text("utf-8"), re.MULTILINE))


def listed(*, newer):
    """Return the services of the file: those of the botocore in uv.lock, or what is newer."""
    found = {}
    _, _, entries = FILE.read_text("utf-8").partition("\n\n")
    for entry in entries.strip().replace("\n  ", " ").split("\n"):
        if entry.startswith("+") == newer:
            head, _, names = entry.removeprefix("+").partition(":")
            name, _, id_ = head.partition("=")
            assert name not in found, name
            found[name] = Service(id_ or name, names.split())
    return found


def entries(locked, newest):
    """Yield the text of each service, its lines at most 100 columns wide."""
    for name in sorted({*locked, *newest}):
        known = locked[name].operations if name in locked else set()
        id_, operations = newest.get(name) or locked[name]
        head = name if id_ == name else f"{name}={id_}"
        for mark, names in (("", known), ("+", operations - known)):
            if names:
                text = " ".join([f"{mark}{head}:", *sorted(names)])
                yield textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False)


def day_of(version):
    """Return the day on which a version is the newest: today, or the file's if it has that one."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    return header().read if header().newest == version else today


def main(newest):
    """Write the file."""
    version = version_of(newest)
    text = TEXT.format(
        command=COMMAND,
        locked=version_of(),
        newest=version,
        read=day_of(version),
        entries="\n".join(entries(services_of(), services_of(newest))),
    )
    FILE.write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
