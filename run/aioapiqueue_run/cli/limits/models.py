"""Turns Bedrock's quotas for models, as Service Quotas lists them, into lanes. Pure functions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioapiqueue import Rate, Window
from aioapiqueue.spi import CALLS, checks
from aioapiqueue_run.cli.limits.quotas import problem_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue import Limit
    from aioapiqueue_run.cli.limits.quotas import ServiceQuota

__all__ = ["BEDROCK", "read_models", "to_lanes"]

BEDROCK = "bedrock"
"""The name of Bedrock in Service Quotas, and for `--service`."""

_ON_DEMAND, _CROSS_REGION = "on-demand", "cross-region"
# Two generations of names: "Cross-Region InvokeModel tokens per minute for ..." and
# "Cross-region model inference tokens per minute for ...". An account may have both.
_OF_CALLS = re.compile(
    rf"(?P<route>(?:global )?{_CROSS_REGION}|{_ON_DEMAND}) (?:model inference|InvokeModel) "
    r"(?P<unit>requests|tokens) per (?P<period>minute|day) for (?P<model>.+)",
    re.IGNORECASE,
)
_OF_A_DAY = re.compile(
    r"Model invocation max (?P<unit>tokens) per (?P<period>day) for (?P<model>.+?)"
    r"(?P<doubled> \(doubled for cross-region calls\))?",
    re.IGNORECASE,
)
_LOOKS_LIKE_MODEL = re.compile(r"\b(requests|tokens) per (minute|day)\b", re.IGNORECASE)
_SECONDS = {"minute": 60, "day": 86_400}


@dataclass(slots=True)
class ModelQuotas:
    """The quotas of an account for models.

    Attributes:
        granted: for each model and route, `("Amazon Nova Lite", "on-demand")`, the quotas by unit
            and period, `("tokens", "minute")`.
        unmapped: quotas that seem to be for models, each with the reason why it is not `granted`.
        others: number of other quotas.
    """

    granted: dict[tuple[str, str], dict[tuple[str, str], float]] = field(default_factory=dict)
    unmapped: list[str] = field(default_factory=list)
    others: int = 0


def read_models(quotas: Iterable[ServiceQuota]) -> ModelQuotas:
    """Return the quotas for calls of models.

    Args:
        quotas: the quotas of Bedrock, as Service Quotas returns them.
    """
    found = ModelQuotas()
    days: list[tuple[str, float, float]] = []
    for quota in quotas:
        name = str(quota.get("QuotaName", ""))
        match = _OF_CALLS.fullmatch(name) or _OF_A_DAY.fullmatch(name)
        if match is None:
            if _LOOKS_LIKE_MODEL.search(name):
                found.unmapped.append(
                    f"{name}: neither for on-demand nor for cross-Region calls of a model"
                )
            else:
                found.others += 1
            continue
        unit, period = match["unit"].lower(), match["period"].lower()
        if problem := problem_of(quota, period=period.upper(), most=checks.LARGEST / 2):
            found.unmapped.append(f"{name}: {problem}")
        elif match.re is _OF_CALLS:
            _note(found, (match["model"], match["route"].lower()), (unit, period), quota["Value"])
        else:
            value = quota["Value"]
            days.append((match["model"], value, value * 2 if match["doubled"] else value))
    for model, once, across in days:
        routes = [(model, _ON_DEMAND), (model, _CROSS_REGION)]
        # The quota of a day names no route: it is for the routes that have quotas of a minute. If a
        # model has none of these, it is for both routes.
        for route in [one for one in routes if one in found.granted] or routes:
            value = once if route[1] == _ON_DEMAND else across
            _note(found, route, ("tokens", "day"), value)
    return found


def _note(found: ModelQuotas, route: tuple[str, str], what: tuple[str, str], value: float) -> None:
    """Note a quota. If it is listed under its old name and its new one, the lower value counts."""
    granted = found.granted.setdefault(route, {})
    granted[what] = min(value, granted.get(what, value))


def to_lanes(models: ModelQuotas, *, region: str, share: float, when: str) -> str:
    """Return Python text: lanes of an `ApiQueue` with the keys of `llm.bedrock`, except for ids.

    Args:
        models: the quotas.
        region: the Region of the quotas.
        share: the share of them to use, in percent.
        when: the day on which they were listed.
    """
    lines = [
        f"# {share:.6g}% of what Service Quotas listed on {when} for Bedrock's models in {region}.",
        "# Lanes for an ApiQueue with llm.bedrock; this is not a limits.toml. Quotas have the",
        "# names of models, not their ids: replace each <...> with the modelId of your calls (see",
        "# aioapiqueue docs limits).",
        "lanes = {",
    ]
    for (model, route), granted in sorted(models.granted.items()):
        limits = ", ".join(
            str(_limit(unit, period, value * share / 100))
            for (unit, period), value in sorted(granted.items(), key=_order)
        )
        lines.append(f"    {json.dumps(f'<{model}, {route}> {region}')}: {json.dumps(limits)},")
    return "\n".join([*lines, "}"]) + "\n"


def _order(one: tuple[tuple[str, str], float]) -> tuple[int, str]:
    (unit, period), _ = one
    return _SECONDS[period], unit


def _limit(unit: str, period: str, value: float) -> Limit:
    counted = CALLS if unit == "requests" else unit
    # AWS does not publish how Bedrock counts a day. Any 24 hours are the strictest way.
    if period == "day":
        return Window(max(1, int(value)), _SECONDS[period], unit=counted)
    rate = float(f"{value:.12g}")  # 7% of 100 is 7, not 7.000000000000001
    return Rate(int(rate) if rate.is_integer() else rate, _SECONDS[period], unit=counted)
