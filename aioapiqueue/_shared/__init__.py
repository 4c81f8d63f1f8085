"""Limits that are kept elsewhere: by the hub of this host, or on a server.

Other wings import these names from here, not from the modules inside. Each is loaded at its first
use: who shares limits through Redis loads nothing of the host's hub, and the reverse.
"""

import typing as _typing

if _typing.TYPE_CHECKING:
    from aioapiqueue._shared.accept import Acceptor, raise_file_limit
    from aioapiqueue._shared.host.directory import HUB_DIR, HubLocation
    from aioapiqueue._shared.host.reach import command, reach
    from aioapiqueue._shared.host.session import Delay
    from aioapiqueue._shared.local_sockets import check_system, listen, peer_of, remove
    from aioapiqueue._shared.outage import Unreachable

__all__ = [
    "HUB_DIR",
    "Acceptor",
    "Delay",
    "HubLocation",
    "Unreachable",
    "check_system",
    "command",
    "listen",
    "peer_of",
    "raise_file_limit",
    "reach",
    "remove",
]

_HOMES = {
    **dict.fromkeys(("HUB_DIR", "HubLocation"), "host.directory"),
    **dict.fromkeys(("command", "reach"), "host.reach"),
    "Delay": "host.session",
    "Unreachable": "outage",
    **dict.fromkeys(("Acceptor", "raise_file_limit"), "accept"),
    **dict.fromkeys(("check_system", "listen", "peer_of", "remove"), "local_sockets"),
}
"""The module of each name."""

if not _typing.TYPE_CHECKING:  # a type checker would take any misspelt name for one of these

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415 - only now needed

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
