"""Turns the quotas of an account, as Service Quotas lists them, into the text of a limits.toml."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue import Rate
from aioapiqueue.registry.spi import published, published_limits, unknown_operation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue.registry import PublishedLimit

__all__ = ["SERVICES", "GrantedRates", "ServiceQuota", "problem_of", "read_quotas", "to_toml"]

ServiceQuota = Mapping[str, Any]

_BUCKET = r"(?P<operation>\w+)(?P<unfiltered> unfiltered)? request bucket (?P<kind>{})"
_CAPACITY, _REFILL = "maximum capacity", "refill rate"


class _QuotaNames(NamedTuple):
    """The code of a service in Service Quotas, and patterns for names of quotas.

    Attributes:
        code: the code of the service.
        names: the pattern for the request rate of one operation.
        shared: the pattern for a rate that several operations share.
    """

    code: str
    names: str
    shared: str | None = None


SERVICES = {
    "ec2": _QuotaNames("ec2", _BUCKET.format(f"{_CAPACITY}|{_REFILL}")),
    "cloudformation": _QuotaNames("cloudformation", r"Throttle rate limit for (?P<operation>\w+)"),
    "cloudtrail": _QuotaNames(
        "cloudtrail", r"Transactions per second \(TPS\) for the (?P<operation>\w+) API"
    ),
    "cloudwatch": _QuotaNames("monitoring", r"Rate of (?P<operation>\w+) requests"),
    "ecr": _QuotaNames("ecr", r"Rate of (?P<operation>\w+) requests"),
    "kms": _QuotaNames(
        "kms",
        r"(?P<operation>\w+) request rate",
        r"Cryptographic operations \((?P<kind>symmetric)\) request rate",
    ),
    "logs": _QuotaNames(
        "logs",
        r"(?P<operation>\w+) throttle limit in transactions per second(?P<kind> in a burst)?",
    ),
    "secretsmanager": _QuotaNames(
        "secretsmanager",
        r"Rate of (?P<operation>\w+) API requests",
        r"Combined rate of (?P<operations>\w+(?:, (?:and )?\w+| and \w+)+) API requests",
    ),
}
"""The services whose quotas name operations, by their names in `create_client`."""

_LOOKS_LIKE_RATE = re.compile(
    r"bucket|\brates?\b|throttle|per (second|minute|hour)\b|\bTP[SM]\b", re.IGNORECASE
)
_LEAST, _MOST = 1e-9, 1e11  # calls a second: limits.toml accepts them, and no quota is near them


@dataclass(slots=True)
class GrantedRates:
    """The request rates among the quotas of one service.

    Attributes:
        service: the service's name in `create_client`.
        rates: the granted rates that differ from the published ones, by operation, variant
            (`"DescribeVolumes unfiltered"`) or bucket.
        adjustable: the names of those that AWS raises on request.
        same: number of rates that are as AWS publishes them.
        unmapped: quotas that seem to be request rates, each with the reason why it is not in
            `rates`.
        others: number of other quotas.
    """

    service: str
    rates: dict[str, Rate] = field(default_factory=dict)
    adjustable: set[str] = field(default_factory=set)
    same: int = 0
    unmapped: list[str] = field(default_factory=list)
    others: int = 0


def read_quotas(service: str, quotas: Iterable[ServiceQuota]) -> GrantedRates:
    """Return the request rates among quotas.

    Args:
        service: one of `SERVICES`.
        quotas: the quotas of the service, as Service Quotas returns them.
    """
    found = GrantedRates(service)
    names = re.compile(SERVICES[service].names)
    half: dict[str, dict[str, float]] = {}  # a refill and a capacity are two quotas of one rate
    for quota in quotas:
        name = str(quota.get("QuotaName", ""))
        match = names.fullmatch(name)
        if bucket := _bucket(service, name):
            if problem := problem_of(quota):
                found.unmapped.append(f"{name}: {problem}")
            else:
                _note_shared_rate(found, bucket, quota)
            continue
        if match is None:
            if _LOOKS_LIKE_RATE.search(name):
                found.unmapped.append(f"{name}: its name contains no operation")
            else:
                found.others += 1
            continue
        operation = match["operation"]
        if problem := problem_of(quota) or unknown_operation(service, operation):
            found.unmapped.append(f"{name}: {problem}")
            continue
        parts = match.groupdict()
        key = operation + (parts.get("unfiltered") or "")
        kind = _REFILL if parts.get("kind") in (None, _REFILL) else _CAPACITY
        half.setdefault(key, {})[kind] = quota["Value"]
        if quota.get("Adjustable"):
            found.adjustable.add(key)
    for key, values in half.items():
        _note_rate(found, key, values)
    return found


def _bucket(service: str, name: str) -> PublishedLimit | None:
    """Return the shared bucket that a quota is for, found by the operations or kind in its name."""
    match = re.fullmatch(SERVICES[service].shared or "", name)
    if match is None:
        return None
    parts = match.groupdict()
    operations = set(re.split(r",? and |, ", parts.get("operations") or ""))
    for figure in published_limits(service):
        # The name of a quota has ReplicateSecretToRegion for ReplicateSecretToRegions.
        named = {one if one in operations else one.removesuffix("s") for one in figure.operations}
        if figure.shared and (
            figure.name == f"{parts.get('kind')} cryptography" or named == operations
        ):
            return figure
    return None


def _note_shared_rate(found: GrantedRates, bucket: PublishedLimit, quota: ServiceQuota) -> None:
    """Note the rate of a shared bucket if it differs from the published one."""
    rate = quota["Value"]
    if math.isclose(bucket.rate.calls / bucket.rate.per, rate):
        found.same += 1
        return
    key = bucket.name or ""
    found.rates[key] = Rate(int(rate) if rate == int(rate) else rate)
    if quota.get("Adjustable"):
        found.adjustable.add(key)


def problem_of(quota: ServiceQuota, *, period: str = "SECOND", most: float = _MOST) -> str | None:
    """Return why a quota is not a rate; None if it is.

    Args:
        quota: the quota, as Service Quotas returns it.
        period: the unit of time that the quota must be for, if it has one.
        most: the largest value.
    """
    value = quota.get("Value")
    if not isinstance(value, int | float) or not _LEAST <= value <= most:
        return f"its value is {value!r}"
    given = quota.get("Period") or {}
    if (given.get("PeriodValue", 1), given.get("PeriodUnit", period)) != (1, period):
        return f"its period is {given.get('PeriodValue')} {given.get('PeriodUnit')}"
    return None


def _note_rate(found: GrantedRates, key: str, values: Mapping[str, float]) -> None:
    """Note the rate of one operation, whose refill rate, capacity or both are known."""
    variant = key.partition(" ")[2]
    figure = published(found.service, key)
    named = {one.name for one in published_limits(found.service)}
    if variant in named and figure is None:
        found.unmapped.append(f"{key}: AWS publishes no such bucket for this operation")
        return
    if _REFILL not in values and figure is None:
        found.unmapped.append(f"{key}: it has a capacity but no refill rate")
        return
    # If only one of the two is listed, the other is as published.
    rate = values.get(_REFILL) or (figure.rate.calls / figure.rate.per if figure else 0)
    burst = max(1, values.get(_CAPACITY) or (figure.rate.burst if figure else 1))
    new = Rate(int(rate) if rate == int(rate) else rate, burst=burst)
    if (
        figure is not None
        and not figure.shared
        and math.isclose(figure.rate.calls / figure.rate.per, rate)
        and figure.rate.burst == burst
    ):
        found.same += 1
    else:
        found.rates[key] = new


def to_toml(found: Iterable[GrantedRates], *, region: str, share: str, when: str) -> str:
    """Return a limits.toml with the published limits, and the granted ones that differ from them.

    Args:
        found: the rates of each service.
        region: the Region of the quotas.
        share: the share of them to use, such as "50%".
        when: the day on which they were listed.
    """
    lines = [
        f"# The limits that AWS publishes, and what Service Quotas listed on {when} for {region}.",
        "# Only this share of them is used, which leaves the rest to other callers: see",
        "# aioapiqueue docs limits.",
        'preset = "aws"',
        f'share = "{share}"',
    ]
    for one in found:
        if one.rates:
            lines += ["", f"[{one.service}.quotas]"]
        for key, rate in sorted(one.rates.items()):
            name = key if key.isidentifier() else f'"{key}"'
            remark = "" if key in one.adjustable else "  # not adjustable"
            lines.append(f'{name} = "{rate}"{remark}')
    return "\n".join(lines) + "\n"
