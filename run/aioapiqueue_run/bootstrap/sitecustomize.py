"""Makes botocore and aiobotocore ask aioapiqueue's hub before each HTTP attempt of this process.

`aioapiqueue run` puts the folder of this file on PYTHONPATH and the hub's socket into
AIOAPIQUEUE_HUB, so that every Python of the run imports this file at startup, whichever environment
it runs in. Of aioapiqueue, only this folder is needed there, with the standard library of Python
3.9 or later, and botocore 1.31 or later if the program uses it. The protocol is in aioapiqueue's
docs/hub.md.

Until botocore is imported, this costs one message to the hub and one function that all imports
call. Then the package `_aioapiqueue`, beside this file, is loaded, and every client class that
botocore or aiobotocore makes is paced.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING would cost every program the import of typing
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_imports: Any = sys.modules.get("_frozen_importlib")  # what `import` calls
_CLIENTS = ("botocore.client", "awscli.botocore.client")  # the AWS CLI contains its own copy


def _is_client(name: str) -> bool:
    return name == _CLIENTS[0] or name.endswith(f".{_CLIENTS[0]}")  # any program's own copy


def _pacing() -> Any:
    """Load the modules that pace clients, once botocore is imported."""
    # Some programs clear `sys.modules`. A second copy of the package would open its own connection.
    sys.modules.setdefault("_aioapiqueue", _aioapiqueue)
    from _aioapiqueue import hook  # type: ignore[import-not-found]

    return hook


def _hook_late(names: Iterable[str] = _CLIENTS) -> None:
    """Hook modules whose loading we did not see. Raises nothing."""
    if _process.is_hooking or not any(sys.modules.get(name) is not None for name in names):
        return
    _process.is_hooking = True  # what follows imports modules, and each import comes back here
    try:
        for name in names:
            _pacing().hook_loaded(name)
    except Exception as error:  # noqa: BLE001 - the import that led here must not fail
        _process.announce()
        _process.report("unhooked", why=f"{name}: {error!r}"[:512])
    finally:
        _process.is_hooking = False


def _found(name: str, spec: Any) -> Any:
    """Have `botocore.client` hooked once it has been loaded, whichever finder has found it."""
    if spec is None or not _is_client(name):
        return spec
    return _pacing().hook_when_loaded(name, spec, _is_client)


def _watch_imports() -> None:
    """Watch what all imports find, whichever finder finds it."""
    # Not with a finder. One that a program puts before it may find `botocore.client` with its own
    # loader (typeguard's does), and some programs replace the whole of `sys.meta_path`. To move
    # ours to the front again would not help: some remove the first finder, taking it for their own.
    find = _imports._find_spec  # noqa: SLF001 - there is no public way to see all imports

    def _find_spec(name: str, path: Any, target: Any = None) -> Any:
        _hook_late()
        return _found(name, find(name, path, target))

    _find_spec.aioapiqueue = True  # type: ignore[attr-defined] # for a second copy of this file
    _imports._find_spec = _find_spec  # noqa: SLF001 - as above


def _exit() -> None:
    """Hook modules that are not hooked yet, if only to report them, and send `bye`."""
    _hook_late([name for name in list(sys.modules) if _is_client(name)])
    _process.end()


def _activate() -> None:
    import atexit

    _watch_imports()
    # Held during a fork, so that no other thread is opening a connection: a child then knows all
    # connections that it inherits, and closes them.
    os.register_at_fork(
        before=lambda: _process.lock.acquire(),  # noqa: PLW0108 - a child has another lock
        after_in_parent=lambda: _process.lock.release(),  # noqa: PLW0108
        after_in_child=_process.begin_child,
    )
    atexit.register(_exit)
    _process.announce()
    _hook_late()  # what a .pth file has imported


def _chain() -> None:
    """Import the sitecustomize that would have been imported without this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    this = sys.modules.pop(__name__)
    places = [place for place, folder in enumerate(sys.path) if folder == here]
    sys.path[:] = [folder for folder in sys.path if folder != here]
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if error.name != __name__:  # there is one, and it imports something that is missing
            raise
        sys.modules[__name__] = this
    finally:
        # Put the folder back, for programs that pass `sys.path` to their children.
        for place in places:
            sys.path.insert(place, here)
        # Some sitecustomize files (OpenTelemetry's) put themselves first for the children, and
        # import no other: this folder must stay first.
        folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if here in folders[1:]:
            others = [folder for folder in folders if folder != here]
            os.environ["PYTHONPATH"] = os.pathsep.join([here, *others])


if __name__ == "sitecustomize":  # not if a test or a tool imports the file
    try:
        if os.environ.get("AIOAPIQUEUE_HUB") and not hasattr(_imports._find_spec, "aioapiqueue"):  # noqa: SLF001 - as above
            import _aioapiqueue

            _process = _aioapiqueue.process

            _activate()
    finally:  # in a Python without `_find_spec`, which no version has been so far, too
        _chain()
