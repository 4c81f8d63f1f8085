"""`--limit` and `--adaptive`: limits that options set, on top of those of a registry."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from aioapiqueue.adaptive import Adaptive
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry._hosts import (
    is_host,
    lane_problem,
    read_target,
    suggest_host,
    target_of,
)
from aioapiqueue.registry._model import NOTHING, Entry, Layer, Layers, LimitSource, ServiceLimits
from aioapiqueue.registry._names import canonical, unknown_service
from aioapiqueue.registry._plan import check_shared_queues
from aioapiqueue.registry._report import Report, quoted
from aioapiqueue.registry._tables import read_over

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue.registry._report import Place

_OPTION = (
    "SERVICE=LIMIT, SERVICE.Operation=LIMIT or HOST=LIMIT, such as ec2=100ms, "
    "ec2.DescribeSnapshots=5/s or https://api.github.com=10/s"
)
_HOST = Layer(ServiceLimits(scope=(), check=False), {})
"""What the options of a host start from: it has no Regions, and no names to check."""
ADAPTIVE = "--adaptive"
"""The source of limits that are adaptive because of this option."""


def _all_adaptive(layers: Layers) -> Layers:
    """Return limits that make every service adaptive, including services that are not listed."""
    found = Layers(layers)
    default = Layer(ServiceLimits(), {Entry(): LimitSource(ADAPTIVE)})
    # The registry's own default, if any, replaces this one.
    for service, layer in {"default": default, **layers}.items():
        if layer.limits.adaptive is None:
            limits = dataclasses.replace(layer.limits, adaptive=Adaptive())
            found[service] = Layer(limits, layer.sources)
    return found


def target_called(text: str) -> tuple[str, str | None]:
    """Return the service, and the operation if any, that a `--limit` names.

    Args:
        text: the part of the option before the `=`.

    Raises:
        ValueError: the text names neither; the error says why.
    """
    text = text.strip()
    try:
        if host := read_target(text):
            return host
    except ValueError as error:
        raise ValueError(f"{quoted(text)} {error}") from None
    if lane_problem(text) is None:
        shown = target_of("https://HOST", text)
        raise ValueError(f"{quoted(text)} names no host: write {shown}=10/s")
    name, dot, operation = text.partition(".")
    # "ec2.DescribeSnapshots" also looks like a host: its service decides.
    meant = suggest_host(text)
    if meant and ("." in operation or unknown_service(name) is not None):
        raise ValueError(f"{quoted(text)} is not an AWS operation: for a host, write {meant}=10/s")
    if not name or bool(dot) != bool(operation):  # a dot without an operation after it
        raise ValueError(f"write {_OPTION}")
    return name, operation or None


def read_options(
    options: Iterable[str], layers: Layers, *, check: bool = True, adaptive: bool = False
) -> Layers:
    """Return the limits of all services after `--limit` options have replaced some of them.

    Args:
        options: the values of the options.
        layers: the limits before.
        check: False: names are not checked. Default: they are, unless a table switches that off.
        adaptive: whether `--adaptive` is given.

    Raises:
        LimitsError: an option is invalid. The error names all problems.
    """
    found, problems = Layers(layers), list[str]()
    tables: dict[str, dict[str, Any]] = {}
    places: dict[Place, str] = {}
    """The option that gives each limit, and the first one of each service."""
    for option in options:
        text = f"--limit {quoted(option)[1:-1]}"  # escaped, but without quotes
        # The last =, because a path may contain one.
        target, equals, limits = option.rpartition("=")
        try:
            name, operation = target_called(target if equals else "")
        except ValueError as error:
            problems.append(f"{text}: {error}")
            continue
        place = (name, "rate") if operation is None else (name, "lanes", operation)
        if place in places:
            problems.append(
                f"{text}: {places[place]} is for the same calls: write one option, with a comma "
                "between limits"
            )
            continue
        places.setdefault((name,), text)
        places[place] = text
        table = tables.setdefault(name, {})
        if operation is None:
            table["rate"] = limits.strip()
        else:
            table.setdefault("lanes", {})[operation] = limits.strip()
    report = Report("--limit", places)
    # The order of options does not matter: all options of a service are applied together, as one
    # table, and the default comes first, because it applies to services with limits for operations
    # only, too.
    for name, table in sorted(tables.items(), key=lambda one: one[0] != "default"):
        service = canonical(name)
        usual = _HOST if is_host(service) else found.get("default", NOTHING)
        layer = read_over(found.get(service, usual), name, table, report, check=check)
        if "rate" in table:  # also if it is "unlimited"
            source = LimitSource(places[name, "rate"])
            layer = Layer(layer.limits, {**layer.sources, Entry(): source})
        found[service] = layer
    if adaptive:
        found = _all_adaptive(found)
    names = {canonical(name): name for name in tables}
    check_shared_queues({name: one.limits for name, one in found.items()}, report, names)
    if problems := [*problems, *report.problems]:
        raise LimitsError(*problems)
    return found
