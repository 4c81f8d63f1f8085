"""The names of AWS services, operations and parameters: checks them, and suggests the nearest."""

from __future__ import annotations

import difflib
import re
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue.registry._report import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from aioapiqueue.registry._report import Report

_FILE = Path(__file__).parent / "presets" / "operations.txt"
_MOST_MEANT = 5  # names in one suggestion
_LONGEST = 60  # characters; comparing longer names is slow and finds no match
_CHECK = "use --no-check, or check = false in limits.toml"
_CHECK_IN_CODE = "use check=False in its ServiceLimits"


class ServiceList(NamedTuple):
    """The services and operations that two versions of botocore know.

    Attributes:
        newest: the newer version, such as "1.44.8".
        read: the day on which it was the newest version, such as "2026-11-30".
        ids: other names of services, such as the ids in botocore's event names, with the name in
            `create_client`: `{"auto-scaling": "autoscaling"}`.
        operations: the operations of each service, as one text separated by white space.
    """

    newest: str
    read: str
    ids: Mapping[str, str]
    operations: Mapping[str, str]


@cache
def service_list() -> ServiceList:
    """Return what the file lists. The first call reads it, which takes about 1 ms."""
    header, _, entries = _FILE.read_text("utf-8").partition("\n\n")
    about = dict(re.findall(r"^# (\S+): +(\S+)$", header, re.MULTILINE))
    ids: dict[str, str] = {}
    operations: dict[str, str] = {}
    # A line that begins with a space continues the entry above it. A service can have two entries:
    # the one with a "+" has the operations that only the newer botocore knows.
    for entry in re.split(r"\n(?! )", entries.strip()):
        head, _, names = entry.removeprefix("+").partition(":")
        service, _, id_ = head.partition("=")
        operations[service] = operations.get(service, "") + names
        if id_:
            ids[id_] = service
    # An id that is also a name (`sms-voice=pinpoint-sms-voice`): both are the same service.
    for id_ in ids.keys() & operations.keys():
        ids[ids.pop(id_)] = id_
    return ServiceList(about["newest"], about["read"], ids, operations)


def canonical(service: str) -> str:
    """Return the name that the registry uses for a service, which may be given by its id."""
    return service_list().ids.get(service, service)


def is_listed(service: str) -> bool:
    """Return whether our own list has a service, named as in `create_client`."""
    return service in service_list().operations


def matches_any(name: str, patterns: Collection[str]) -> bool:
    """Return whether a name matches one of `patterns`: names, or prefixes with a `*`."""
    return name in patterns or any(
        name.startswith(one[:-1]) for one in patterns if one.endswith("*")
    )


def unknown_service(name: str, report: Report | None = None) -> str | None:
    """Return why a service's name is refused, with a suggestion; None if the name is known.

    Args:
        name: the name to look up.
        report: limits the number of suggestions, which take milliseconds each, and tells limits in
            code from those in a file. Default: suggest, and explain how a file skips the check.
    """
    ours = service_list()
    if name in ours.operations or name in _installed():  # ours first: botocore is slow to load
        return None
    if name in ours.ids:
        meant = f": did you mean {ours.ids[name]!r}?"
    else:
        meant = _did_you_mean(name, chain(ours.operations, _installed()), report)
    return f"there is no AWS service {quoted(name)}{meant} ({_newer(report)})"


def unknown_operation(service: str, name: str, report: Report | None = None) -> str | None:
    """Return why an operation's name is refused, with a suggestion; None if the name is known.

    Names of an unknown service are never refused. "default" has no operations except "*".

    Args:
        service: the service's name in `create_client`, or "default".
        name: the name to look up, or a prefix with a `*`.
        report: as for `unknown_service`; a suggestion takes up to 30 ms.
    """
    if name == "*":
        return None
    if service == "default":
        shown = quoted(name)
        return f'default accepts only "*": limit {shown} in the table of its service'
    # Our list first: the installed botocore may be newer, but is slow to load. `_known` is empty if
    # neither knows the service.
    if _exists(name, operations(service)) or _exists(name, _known(service)) or not _known(service):
        return None
    near: Iterable[str] = _known(service)
    if name.endswith("*"):  # compare it with prefixes of the same length
        near = (f"{one[: len(name) - 1]}*" for one in near)
    meant = _did_you_mean(name, near, report)
    return f"{service} has no operation {quoted(name)}{meant} ({_newer(report)})"


def unknown_parameter(
    service: str, operations: tuple[str, ...], name: str, report: Report
) -> str | None:
    """Return why a parameter's name is refused, with a suggestion; None if the name is known.

    Parameters are known from the installed botocore: without it, no name is refused.
    """
    known = _parameters(service, operations)
    if not known or name in known:  # empty without botocore, or if the operations are newer
        return None
    meant = _did_you_mean(name, known, report)
    return (
        f"none of these operations has a parameter {quoted(name)}{meant} "
        f"(if it is newer than the installed botocore, {_CHECK})"
    )


def _newer(report: Report | None) -> str:
    """Return how to switch the check off, for names newer than the list."""
    check = _CHECK_IN_CODE if report is not None and report.in_code else _CHECK
    ours = service_list()
    return f"if it is newer than botocore {ours.newest}, the newest on {ours.read}, {check}"


def _exists(name: str, known: frozenset[str]) -> bool:
    """Return whether a name is known, or if it ends in `*`, whether it matches a known name."""
    return name in known or (name.endswith("*") and f"\n{name[:-1]}" in _lines_of(known))


@cache
def _lines_of(names: frozenset[str]) -> str:
    # Searching one text takes a seventh of the time of comparing each of 830 operations of EC2.
    return "".join(f"\n{name}" for name in names)


def _did_you_mean(name: str, known: Iterable[str], report: Report | None) -> str:
    meant = nearest(name, known) if report is None or report.suggest() else ""
    return f": did you mean {meant}?" if meant else ""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the nearest of some names, quoted; several if they are equally near."""
    # Case and hyphens do not count: "Auto-Scaling" is a perfect match for "autoscaling".
    wanted = _plain(name[:_LONGEST])
    plain = {_plain(one): one for one in sorted(names)}
    close = difflib.get_close_matches(wanted, plain, n=_MOST_MEANT)
    score = [difflib.SequenceMatcher(None, one, wanted).ratio() for one in close]
    best = sorted(plain[one] for one, near in zip(close, score, strict=True) if near == score[0])
    shown = [repr(one) for one in best]
    return " or ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.lower())


@cache
def operations(service: str) -> frozenset[str]:
    """Return the operations of a service in our own list."""
    return frozenset(service_list().operations.get(service, "").split())


@cache
def _known(service: str) -> frozenset[str]:
    """Return the operations of a service in our list and in the installed botocore."""
    return operations(service).union(_operations(service))


@cache
def _parameters(service: str, operations: tuple[str, ...]) -> frozenset[str]:
    """Return the parameters of some operations in the installed botocore."""
    has = (has for one, has in _operations(service).items() if matches_any(one, operations))
    return frozenset(chain.from_iterable(has))


@cache
def _installed() -> frozenset[str]:
    """Return the services in the installed botocore; none if it is not installed."""
    try:
        from botocore.loaders import (  # type: ignore[import-untyped]  # noqa: PLC0415 - optional
            create_loader,
        )
    except ImportError:
        return frozenset()
    return frozenset(create_loader().list_available_services("service-2"))


@cache
def _operations(service: str) -> Mapping[str, frozenset[str]]:
    """Return the operations of a service in the installed botocore, each with its parameters.

    Members of structures are included as `"Structure.Member"`.
    """
    if service not in _installed():
        return {}
    from botocore.loaders import create_loader  # noqa: PLC0415 - installed, as just checked

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
