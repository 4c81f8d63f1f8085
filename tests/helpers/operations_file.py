"""Write `aioapiqueue/registry/presets/operations.py`: what botocore says of each AWS service.

`uvx nox -s names` does it, with the botocore of uv.lock and the newest one. The test in
tests/registry/test_operations.py compares the file with the former.
"""

from __future__ import annotations

import json
import sys
import textwrap
from importlib.metadata import distributions
from pathlib import Path

FILE = Path(__file__).parents[2] / "aioapiqueue" / "registry" / "presets" / "operations.py"
COMMAND = "uvx nox -s names"

TEXT = '''\
"""The operations of each AWS service, by the name that `create_client` takes.

As botocore {locked} has them, which is the one in uv.lock; entries that begin with "+" are what
only botocore {newest} has. Written by `{command}`, and compared with botocore by a test.
"""

__all__ = ["OPERATIONS"]

OPERATIONS = """
{entries}
"""
'''


def operations_of(folder=None):
    """Return each service's operations, as a botocore has them: by default the one installed."""
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
        name: set(loader.load_service_model(name, "service-2")["operations"])
        for name in loader.list_available_services("service-2")
    }


def version_of(folder=None):
    """Return the version of a botocore: by default of the one installed."""
    path = sys.path if folder is None else [str(folder)]
    return next(one.version for one in distributions(name="botocore", path=path))


def entries(locked, newest):
    """Yield the text of each service, its lines at most 100 columns wide."""
    for service in sorted({*locked, *newest}):
        known = locked.get(service, set())
        for mark, names in (("", known), ("+", newest.get(service, set()) - known)):
            if names:
                text = " ".join([f"{mark}{service}:", *sorted(names)])
                yield textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False)


def main(newest):
    """Write the file."""
    text = TEXT.format(
        command=COMMAND,
        locked=version_of(),
        newest=version_of(newest),
        entries="\n".join(entries(operations_of(), operations_of(newest))),
    )
    FILE.write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
