"""`--limit` and `--adaptive`: limits that options set, on top of those of a registry."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aioapiqueue.adaptive import Adaptive
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry._buckets import lane_key
from aioapiqueue.registry._fields import read_call_limits
from aioapiqueue.registry._hosts import is_host, read_target, suggest_host
from aioapiqueue.registry._model import (
    Entry,
    Layer,
    Layers,
    LimitSource,
    ServiceLimits,
    add_layer,
)
from aioapiqueue.registry._names import canonical, unknown_service
from aioapiqueue.registry._plan import check_shared_queues
from aioapiqueue.registry._report import Report, quoted
from aioapiqueue.registry._tables import check_lane

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue import Limit

_OPTION = (
    "SERVICE=LIMIT, SERVICE.Operation=LIMIT or HOST=LIMIT, such as ec2=100ms, "
    "ec2.DescribeSnapshots=5/s or https://api.github.com=10/s"
)


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
    bases: dict[str, Layer] = {}
    """The limits of each service before the first option."""
    given: dict[str, dict[Entry, tuple[LimitSource, tuple[Limit, ...]]]] = {}
    """All options of each service."""
    for option in options:
        report = Report(f"--limit {quoted(option)[1:-1]}")  # escaped, but without quotes
        # The last =, because a path may contain one.
        target, equals, text = option.rpartition("=")
        try:
            name, operation = target_called(target if equals else "")
        except ValueError as error:
            problems.append(f"{report.source}: {error}")
            continue
        service, entry = canonical(name), Entry(lane_key(operation) if operation else None)
        source, own = LimitSource(report.source), given.setdefault(service, {})
        base = bases.setdefault(service, _base_of(service, found, source))
        if entry in own:
            first = own[entry][0].text
            report.add(
                (), f"{first} is for the same calls: write one option, with a comma between limits"
            )
        own[entry] = source, read_call_limits(text.strip(), report, ())
        if check and base.limits.check:
            _check_names(name, entry, base.limits, report)
        # All options of a service are applied together, like one table, so that their order does
        # not matter.
        lanes = {one.lane: limits for one, (_, limits) in own.items() if one.lane is not None}
        fields = {"lanes": lanes} | ({"rate": own[Entry()][1]} if Entry() in own else {})
        sources = {one: source for one, (source, _) in own.items()}
        found[service] = add_layer(base, fields, sources, report)
        problems += report.problems
    if adaptive:
        found = _all_adaptive(found)
    report = Report("--limit")
    check_shared_queues({name: one.limits for name, one in found.items()}, report, {})
    if problems := [*problems, *report.problems]:
        raise LimitsError(*problems)
    return found


def _base_of(service: str, layers: Layers, source: LimitSource) -> Layer:
    """Return the limits that the first option of a service changes."""
    if is_host(service):  # the default is for services of AWS only
        usual = Layer(ServiceLimits(scope=(), check=False), {Entry(): source})
    else:
        usual = layers.get("default", Layer(ServiceLimits(), {Entry(): source}))
    return layers.get(service, usual)


def _check_names(service: str, entry: Entry, limits: ServiceLimits, report: Report) -> None:
    """Report an unknown service or operation."""
    if service != "default":
        report.add((), unknown_service(service, report))
    if entry.lane is not None:
        check_lane(service, entry.lane, limits, report, ())
