"""Which names AWS's services and operations go by, and which one was probably meant."""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING

from aioapiqueue._limits.report import quoted
from aioapiqueue.presets.services import BOTOCORE, SERVICES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "IDS",
    "NAMES",
    "canonical",
    "nearest",
    "unknown_operation",
    "unknown_parameter",
    "unknown_service",
]

_entries = [entry.partition("=") for entry in SERVICES.split()]

NAMES = frozenset(name for name, _, _ in _entries)
"""The services as `create_client` takes them."""

# A service id that is another one's name belongs to both: they are one service.
IDS = {
    **{id_: name for name, _, id_ in _entries if id_ and id_ not in NAMES},
    **{name: id_ for name, _, id_ in _entries if id_ in NAMES},
}
"""Other names of services, such as the ids in botocore's event names: "auto-scaling"."""

_MOST_MEANT = 5
_LONGEST = 60  # of a name; comparing longer ones takes long and finds nothing


def canonical(service: str) -> str:
    """Return the one name of `service`, which may be given by its service id."""
    return IDS.get(service, service)


def unknown_service(name: str) -> str | None:
    """Say why `name` is no service, and which one was probably meant; None: it is one."""
    if name in NAMES:
        return None
    installed = _installed()
    if name in installed:
        return None
    meant = repr(IDS[name]) if name in IDS else nearest(name, NAMES | installed)
    return (
        f"no AWS service is called {quoted(name)}"
        + (f"; did you mean {meant}?" if meant else "")
        + f" (one newer than botocore {BOTOCORE}: say check = false in its table of limits.toml)"
    )


def unknown_operation(service: str, name: str) -> str | None:
    """Say that `name` is no operation of `service`; None: it is, or there is no botocore to ask."""
    known = _operations(service)
    begins = name.removesuffix("*")
    if not known or name in known or (begins != name and any(map(_begins(begins), known))):
        return None
    meant = nearest(begins, known)
    return (
        f"{service} has no operation {quoted(name)}"
        + (f"; did you mean {meant}?" if meant else "")
        + " (one newer than the botocore here: say check = false in the table)"
    )


def unknown_parameter(service: str, operations: Iterable[str], name: str) -> str | None:
    """Say that none of `operations` has a parameter `name`; None: as `unknown_operation`."""
    known: set[str] = set()
    for one in operations:
        begins = _begins(one[:-1]) if one.endswith("*") else one.__eq__
        known.update(*(has for other, has in _operations(service).items() if begins(other)))
    if not known or name in known:
        return None
    meant = nearest(name, known)
    return (
        f"no call of these has a parameter {quoted(name)}"
        + (f"; did you mean {meant}?" if meant else "")
        + " (one newer than the botocore here: say check = false in the table)"
    )


def _begins(text: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(text)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return, quoted, which of `names` was probably meant; several that are equally near."""
    wanted = _plain(name[:_LONGEST])
    plain = {_plain(one): one for one in sorted(names)}
    close = difflib.get_close_matches(wanted, plain, n=_MOST_MEANT)
    score = [difflib.SequenceMatcher(None, one, wanted).ratio() for one in close]
    best = sorted(plain[one] for one, near in zip(close, score, strict=True) if near == score[0])
    return " or ".join(map(repr, best))


def _plain(name: str) -> str:
    return "".join(name.lower().replace("-", " ").replace("_", " ").split())


@cache
def _installed() -> frozenset[str]:
    """Return the services that the botocore of this environment knows, if there is one."""
    try:
        from botocore.loaders import (  # type: ignore[import-untyped]  # noqa: PLC0415 - optional
            create_loader,
        )
    except ImportError:
        return frozenset()
    return frozenset(create_loader().list_available_services("service-2"))


@cache
def _operations(service: str) -> Mapping[str, frozenset[str]]:
    """Return the operations of a service, each with its parameters and those one level below."""
    if service not in _installed():
        return {}
    from botocore.loaders import create_loader  # noqa: PLC0415 - it is there, as we have just seen

    model = create_loader().load_service_model(service, "service-2")
    shapes = model.get("shapes", {})
    found = {}
    for name, operation in model["operations"].items():
        shape = operation.get("input", {}).get("shape")
        members = shapes[shape].get("members", {}) if shape else {}
        deeper = (
            f"{one}.{inner}"
            for one, member in members.items()
            for inner in shapes[member["shape"]].get("members", ())
        )
        found[name] = frozenset(members).union(deeper)
    return found
