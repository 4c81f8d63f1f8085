"""Asks Service Quotas what AWS grants an account, and writes it as a limits.toml."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue._rate import Rate
from aioapiqueue.cli._limits_table import say
from aioapiqueue.registry import Registry, _names
from aioapiqueue.registry._published import DEFAULT_SHARE, published, published_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence

    from aioapiqueue.registry._published import PublishedLimit

__all__ = ["SERVICES", "Answers", "Found", "NotAsked", "ask", "read_quotas", "to_toml"]

Quota = Mapping[str, Any]

_BUCKET = r"(?P<operation>\w+)(?P<unfiltered> unfiltered)? request bucket (?P<kind>{})"
_CAPACITY, _REFILL = "maximum capacity", "refill rate"


class _Service(NamedTuple):
    """How Service Quotas names a service, its quotas of request rates, and of shared ones."""

    code: str
    names: str
    shared: str | None = None


SERVICES = {
    "ec2": _Service("ec2", _BUCKET.format(f"{_CAPACITY}|{_REFILL}")),
    "cloudformation": _Service("cloudformation", r"Throttle rate limit for (?P<operation>\w+)"),
    "cloudtrail": _Service(
        "cloudtrail", r"Transactions per second \(TPS\) for the (?P<operation>\w+) API"
    ),
    "cloudwatch": _Service("monitoring", r"Rate of (?P<operation>\w+) requests"),
    "ecr": _Service("ecr", r"Rate of (?P<operation>\w+) requests"),
    "kms": _Service(
        "kms",
        r"(?P<operation>\w+) request rate",
        r"Cryptographic operations \((?P<kind>symmetric)\) request rate",
    ),
    "logs": _Service(
        "logs",
        r"(?P<operation>\w+) throttle limit in transactions per second(?P<kind> in a burst)?",
    ),
    "secretsmanager": _Service(
        "secretsmanager",
        r"Rate of (?P<operation>\w+) API requests",
        r"Combined rate of (?P<operations>\w+(?:, (?:and )?\w+| and \w+)+) API requests",
    ),
}
"""Those whose quotas name operations, as AWS's pages of them do."""

_A_RATE = re.compile(
    r"bucket|\brates?\b|throttle|per (second|minute|hour)\b|\bTP[SM]\b", re.IGNORECASE
)
_LEAST, _MOST = 1e-9, 1e11  # what limits.toml can say, and more than any quota of a rate has
_TIMEOUT = 20
_ATTEMPTS = 3
_MOST_PAGES = 500  # of one listing: EC2's two have some 20 of 100 quotas each
# What botocore raises where JSON is something else than it expects.
_MISREAD = (AttributeError, LookupError, TypeError, RecursionError)
_SOMETHING_ELSE = "what answers in the place of Service Quotas is something else"


class NotAsked(Exception):  # noqa: N818 - what happened, not what kind of error it is
    """Service Quotas has not answered, or not all; the message says why."""


@dataclass(slots=True)
class Answers:
    """What Service Quotas answered.

    Attributes:
        quotas: by service, as it returns them.
        unknown: services that it does not know in this Region, and what it says.
    """

    quotas: dict[str, list[Quota]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Found:
    """What the quotas of one service say.

    Attributes:
        service: as `create_client` takes it.
        rates: what AWS grants, by operation, or operation and bucket: `"DescribeVolumes
            unfiltered"`.
        adjustable: which of them AWS raises.
        same: how many of them are what AWS publishes.
        unmapped: quotas that seem to be request rates, of what is not known, each with why.
        others: how many quotas are of something else.
    """

    service: str
    rates: dict[str, Rate] = field(default_factory=dict)
    adjustable: set[str] = field(default_factory=set)
    same: int = 0
    unmapped: list[str] = field(default_factory=list)
    others: int = 0


async def ask(services: Sequence[str], *, region: str | None, patience: float) -> Answers:
    """Return the quotas of services as they apply to the account, or as AWS has them by default.

    It paces itself, to a share of what is published of Service Quotas.

    Args:
        services: some of `SERVICES`.
        region: whose quotas; default: that of the environment.
        patience: seconds for all of it together.

    Raises:
        NotAsked: no permission, no network, no credentials, throttled; it knows none of them, or
            has not answered in time.
    """
    try:
        from aiobotocore.config import AioConfig  # type: ignore[import-untyped] # noqa: PLC0415
        from aiobotocore.session import (  # type: ignore[import-untyped] # noqa: PLC0415
            get_session,
        )
        from botocore.exceptions import (  # type: ignore[import-untyped] # noqa: PLC0415
            BotoCoreError,
            ClientError,
            NoRegionError,
        )
        from botocore.parsers import (  # type: ignore[import-untyped] # noqa: PLC0415
            ResponseParserError,
        )

        from aioapiqueue.integrations.aiobotocore import pace_session  # noqa: PLC0415
    except ImportError as error:
        raise NotAsked(
            f'this needs {str(error.name).partition(".")[0]}: pip install "aioapiqueue[aws,cli]" '
            "(with pipx: pipx inject aioapiqueue aiobotocore)"
        ) from None
    registry = Registry.parse(f'[service-quotas]\npreset = "aws"\nshare = "{DEFAULT_SHARE:.0%}"')
    config = AioConfig(
        connect_timeout=_TIMEOUT,
        read_timeout=_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    )
    try:
        session = get_session()
        pace_session(session, {"service-quotas": registry})  # it reads the user's profile
        async with (
            asyncio.timeout(patience),
            registry,
            session.create_client("service-quotas", region_name=region, config=config) as client,
        ):
            answers = Answers()
            for one in services:
                try:
                    answers.quotas[one] = await _quotas(client, SERVICES[one].code)
                except client.exceptions.NoSuchResourceException as error:
                    # Not every service has quotas in every Region: the others may have.
                    answers.unknown[one] = _why(error)
    except TimeoutError:
        raise NotAsked(
            f"Service Quotas has not answered all within {patience:g} s: ask of fewer services "
            "(--service ec2), or give it more time (--timeout)"
        ) from None
    except ClientError as error:
        raise NotAsked(_why(error)) from None
    except NoRegionError:
        raise NotAsked(
            "of which Region? There is none in the environment: --region eu-west-1"
        ) from None
    except (BotoCoreError, ResponseParserError, OSError, ValueError) as error:
        raise NotAsked(f"Service Quotas cannot be asked: {error}") from None
    if not answers.quotas:
        raise NotAsked("; ".join(dict.fromkeys(answers.unknown.values())))
    return answers


async def _quotas(client: Any, code: str) -> list[Quota]:  # noqa: ANN401 - botocore makes it
    """Return the quotas of a service: those applied, and the defaults where none is."""
    found = {
        quota["QuotaCode"]: quota
        async for quota in _pages(client, "list_aws_default_service_quotas", code)
    }
    async for quota in _pages(client, "list_service_quotas", code):
        if "Value" in quota:
            found[quota["QuotaCode"]] = quota
        elif quota["QuotaCode"] not in found:
            own = {"ServiceCode": code, "QuotaCode": quota["QuotaCode"]}
            answer = await _read(client.get_aws_default_service_quota(**own))
            found[quota["QuotaCode"]] = answer.get("Quota", quota)
    return list(found.values())


async def _pages(client: Any, method: str, code: str) -> AsyncIterator[Quota]:  # noqa: ANN401
    """Yield the quotas that a listing has."""
    pages = aiter(client.get_paginator(method).paginate(ServiceCode=code))
    for _ in range(_MOST_PAGES):
        page = await _read(anext(pages, None))
        if page is None:
            return
        # A proxy, or a page that asks for a login: with status 200.
        if not isinstance(page.get("Quotas"), list):
            raise NotAsked(_SOMETHING_ELSE)
        for quota in page["Quotas"]:
            if isinstance(quota.get("QuotaCode"), str):
                yield quota
    raise NotAsked(
        f"what answers in the place of Service Quotas has no end: more than {_MOST_PAGES} pages "
        f"of {code}'s quotas; see which endpoint is asked (AWS_ENDPOINT_URL, a proxy)"
    )


async def _read(answer: Awaitable[Any]) -> Any:  # noqa: ANN401 - as botocore has it
    """Return what botocore makes of an answer.

    Raises:
        NotAsked: it can make nothing of it.
    """
    try:
        return await answer
    except _MISREAD as error:
        raise NotAsked(f"{_SOMETHING_ELSE} ({type(error).__name__})") from None


def _why(error: Any) -> str:  # noqa: ANN401 - a ClientError
    from aioapiqueue.integrations._aws import is_throttle  # noqa: PLC0415 - needs nothing else here

    code = error.response.get("Error", {}).get("Code", "?")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    said = error.response.get("Error", {}).get("Message") or code
    if is_throttle(code, status, operation=error.operation_name, service="service-quotas"):
        return f"Service Quotas throttles this account ({code}): try again later"
    if "AccessDenied" in code or "Unauthorized" in code:
        return (
            f"no permission ({said}): allow servicequotas:ListServiceQuotas, "
            "ListAWSDefaultServiceQuotas and GetAWSDefaultServiceQuota"
        )
    return f"Service Quotas refuses {error.operation_name}: {code}: {said}"


def read_quotas(service: str, quotas: Iterable[Quota]) -> Found:
    """Return which request rates quotas are of.

    Args:
        service: one of `SERVICES`.
        quotas: as Service Quotas returns them.
    """
    found = Found(service)
    names = re.compile(SERVICES[service].names)
    half: dict[str, dict[str, float]] = {}
    for quota in quotas:
        name = str(quota.get("QuotaName", ""))
        match = names.fullmatch(name)
        if bucket := _bucket(service, name):
            if problem := _problem(quota):
                found.unmapped.append(f"{name}: {problem}")
            else:
                _take_shared(found, bucket, quota)
            continue
        if match is None:
            if _A_RATE.search(name):
                found.unmapped.append(f"{name}: no operation's, by its name")
            else:
                found.others += 1
            continue
        operation = match["operation"]
        if problem := _problem(quota) or _names.unknown_operation(service, operation):
            found.unmapped.append(f"{name}: {problem}")
            continue
        parts = match.groupdict()
        key = operation + (parts.get("unfiltered") or "")
        kind = _REFILL if parts.get("kind") in (None, _REFILL) else _CAPACITY
        half.setdefault(key, {})[kind] = quota["Value"]
        if quota.get("Adjustable"):
            found.adjustable.add(key)
    for key, values in half.items():
        _join(found, key, values)
    return found


def _bucket(service: str, name: str) -> PublishedLimit | None:
    """Return which shared bucket a quota is of, by the operations or the kind that it names."""
    match = re.fullmatch(SERVICES[service].shared or "", name)
    if match is None:
        return None
    parts = match.groupdict()
    operations = set(re.split(r",? and |, ", parts.get("operations") or ""))
    for figure in published_limits(service):
        # The names have ReplicateSecretToRegion, for ReplicateSecretToRegions.
        named = {one if one in operations else one.removesuffix("s") for one in figure.operations}
        if figure.shared and (
            figure.name == f"{parts.get('kind')} cryptography" or named == operations
        ):
            return figure
    return None


def _take_shared(found: Found, bucket: PublishedLimit, quota: Quota) -> None:
    """Note the rate of a shared bucket, if it is not what is published."""
    rate = quota["Value"]
    if math.isclose(bucket.rate.calls / bucket.rate.per, rate):
        found.same += 1
        return
    key = bucket.name or ""
    found.rates[key] = Rate(int(rate) if rate == int(rate) else rate)
    if quota.get("Adjustable"):
        found.adjustable.add(key)


def _problem(quota: Quota) -> str | None:
    value = quota.get("Value")
    if not isinstance(value, int | float) or not _LEAST <= value <= _MOST:
        return f"its value is {value!r}"
    period = quota.get("Period") or {}
    if (period.get("PeriodValue", 1), period.get("PeriodUnit", "SECOND")) != (1, "SECOND"):
        return f"it is for {period.get('PeriodValue')} {period.get('PeriodUnit')}"
    return None


def _join(found: Found, key: str, values: Mapping[str, float]) -> None:
    """Note the rate of one operation, of which one or both halves are known."""
    operation, _, variant = key.partition(" ")
    figure = published(found.service, operation, variant or None)
    if variant and figure is None and _known(found.service, variant):
        found.unmapped.append(f"{key}: not one of those that are published to have such a bucket")
        return
    if _REFILL not in values and figure is None:
        found.unmapped.append(f"{key}: a capacity without a refill")
        return
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


def _known(service: str, variant: str) -> bool:
    return any(figure.name == variant for figure in published_limits(service))


def to_toml(found: Iterable[Found], *, region: str, share: str, when: str) -> str:
    """Return a limits.toml: the presets, and what AWS grants where it is something else."""
    lines = [
        f"# What Service Quotas said on {when} of {region}, on top of what AWS publishes.",
        "# share is of both: the rest is left for whoever else calls. See docs/limits.md.",
        'preset = "aws"',
        f'share = "{share}"',
    ]
    for one in found:
        if one.rates:
            lines += ["", f"[{one.service}.quotas]"]
        for key, rate in sorted(one.rates.items()):
            name = key if key.isidentifier() else f'"{key}"'
            lines.append(
                f'{name} = "{say(rate)}"' + ("" if key in one.adjustable else "  # not adjustable")
            )
    return "\n".join(lines) + "\n"
