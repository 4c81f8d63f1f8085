"""Has botocore and aiobotocore ask aioapiqueue's hub before each HTTP attempt of this process.

`aioapiqueue run` puts this file's folder on PYTHONPATH and the hub's socket into AIOAPIQUEUE_HUB,
so that every Python of the run imports it at its start, whichever environment it lives in. The
folder is all of aioapiqueue that is there: it needs the standard library of Python 3.9 or later,
and botocore 1.31 or later if the program uses any. The protocol is in aioapiqueue's docs/hub.md.

Until botocore is imported it costs one message to the hub and one entry in `sys.meta_path`. Then
the package `_aioapiqueue`, beside this file, is loaded, and every client class that botocore or
aiobotocore makes is paced.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING would cost every program the import of typing
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_CLIENTS = ("botocore.client", "awscli.botocore.client")  # the AWS CLI brings one of its own


def _is_client(name: str) -> bool:
    return name == _CLIENTS[0] or name.endswith(f".{_CLIENTS[0]}")


def _pacing() -> Any:
    """Load what paces clients, once botocore is there."""
    sys.modules.setdefault("_aioapiqueue", _aioapiqueue)  # programs may have cleared the modules
    from _aioapiqueue import hook  # type: ignore[import-not-found]

    return hook


def _hook_late(names: Iterable[str] = _CLIENTS) -> None:
    """Hook modules that were loaded in a way that we did not see. Raises nothing."""
    if _process.is_hooking or not any(sys.modules.get(name) is not None for name in names):
        return
    _process.is_hooking = True
    try:
        _pacing().hook_loaded(names)
    except Exception as error:  # noqa: BLE001 - whose import this is has no part in it
        _process.report("unhooked", why=repr(error)[:512])
    finally:
        _process.is_hooking = False


def _found(name: str, spec: Any) -> Any:
    """Have `botocore.client` hooked once it has been loaded, by whatever finder it was found."""
    if spec is None or not _is_client(name):
        return spec
    return _pacing().hook_when_loaded(name, spec, _is_client)


class _Finder:
    """Finds nothing itself, but has `botocore.client` hooked once it has been loaded."""

    aioapiqueue = True

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Have the other finders find botocore.client."""
        _hook_late()
        if not _is_client(name):
            return None
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                return _found(name, spec)
        return None


def _watch_imports() -> None:
    """Watch what all imports find, whichever finder finds it.

    A finder that a program puts before ours may find `botocore.client` itself, with a loader of
    its own, and the program may replace the whole of `sys.meta_path`. Our finder is never moved to
    the front again, as programs remove the first one, believing that it is theirs. If a Python has
    no `_find_spec` any more, our finder is left, and modules are hooked late.
    """
    sys.meta_path.insert(0, _Finder())
    machinery: Any = sys.modules.get("_frozen_importlib")
    find = getattr(machinery, "_find_spec", None)
    if find is None:
        return

    def _find_spec(name: str, path: Any, target: Any = None) -> Any:
        _hook_late()
        return _found(name, find(name, path, target))

    machinery._find_spec = _find_spec  # noqa: SLF001 - there is no other way


def _exit() -> None:
    """Hook what is left, at least to report it, and say goodbye."""
    _hook_late([name for name in list(sys.modules) if _is_client(name)])
    _process.end()


def _activate() -> None:
    import atexit

    _watch_imports()
    os.register_at_fork(
        before=lambda: _process.lock.acquire(),  # noqa: PLW0108 - a child has another
        after_in_parent=lambda: _process.lock.release(),  # noqa: PLW0108
        after_in_child=_process.begin_child,
    )
    atexit.register(_exit)
    _process.announce()
    _hook_late()  # what a .pth file has imported


def _chain() -> None:
    """Import the sitecustomize that would have been imported, were this one not there."""
    here = os.path.dirname(os.path.abspath(__file__))
    this = sys.modules.pop(__name__)
    places = [place for place, folder in enumerate(sys.path) if folder == here]
    sys.path[:] = [folder for folder in sys.path if folder != here]
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if error.name != __name__:
            raise
        sys.modules[__name__] = this
    finally:
        # Back, for programs that give sys.path to their children.
        for place in places:
            sys.path.insert(place, here)
        # Some (OpenTelemetry's) put themselves first for the children, and import no other.
        folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if here in folders[1:]:
            others = [folder for folder in folders if folder != here]
            os.environ["PYTHONPATH"] = os.pathsep.join([here, *others])


if __name__ == "sitecustomize":
    if os.environ.get("AIOAPIQUEUE_HUB") and not any(
        getattr(finder, "aioapiqueue", False) for finder in sys.meta_path
    ):
        import _aioapiqueue

        _process = _aioapiqueue.process

        _activate()
    _chain()
