"""What is said of a run: before it, after it, and as JSON."""

from __future__ import annotations

import dataclasses
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from aioapiqueue import Rate
from aioapiqueue.cli._console import MAX_LISTED, pluralize, wrapped
from aioapiqueue.cli.run._activation import Why
from aioapiqueue.cli.run._errors import ExitCode
from aioapiqueue.cli.run._figures import (
    Row,
    as_json,
    buckets_as_json,
    dry_run_table,
    duration,
    rows,
    table,
)
from aioapiqueue.cli.run._unused import unused
from aioapiqueue.hub import OTHERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aioapiqueue import Window
    from aioapiqueue.cli.run._activation import Inactive
    from aioapiqueue.cli.run._model import Outcome, Plan
    from aioapiqueue.registry import InForce, Registry

__all__ = [
    "about",
    "headline",
    "in_words",
    "opening",
    "remarks",
    "report",
    "tables",
    "verdict",
]

_AWS_CLI = (
    "version 2 of the AWS CLI from AWS's own installer is frozen and cannot be paced; version 1, "
    "from PyPI, can, and so can version 2 as Debian packages it."
)
_MOST_NAMED = 8
_EXACTLY = 1e-9


def in_words(registry: Registry) -> dict[str, str]:
    """Return the limits of each service and, as `"ec2.DescribeSnapshots"`, of each operation."""
    found: dict[str, list[str]] = {}
    for entry in registry:
        name = entry.service + (f".{entry.operation}" if entry.operation else "")
        if entry.limits or entry.operation:
            words = _limits(entry.limits)
            if entry.bucket:
                # Several operations share it, or parameters choose it.
                name = f"{entry.service} ({entry.bucket})"
            found.setdefault(name, []).append(words)
    services = {**registry.services, "default": registry.default}
    for name, service in services.items():
        if service is not None and service.concurrency is not None:
            found.setdefault(name, []).append(f"{service.concurrency:,} in flight")
    return {name: " and ".join(dict.fromkeys(words)) for name, words in found.items()}


def _limits(limits: Sequence[Rate | Window]) -> str:
    return " and ".join(map(_limit, limits)) or "any rate"


def _limit(limit: Rate | Window) -> str:
    if isinstance(limit, Rate) and limit.calls == 1 and limit.per < 1:
        # "1/0.1s" is how it is written back; people say 10/s, or 30ms.
        if abs(1 / limit.per - round(1 / limit.per)) > _EXACTLY:
            return f"{limit.per * 1000:g}ms" + str(limit).partition("s")[2]
        limit = Rate(round(1 / limit.per), burst=limit.burst)
    return str(limit)


def opening(plan: Plan) -> str:
    """Return what is paced and how, or that nothing is."""
    if plan.dry_run:
        lines = ["dry run: nothing is paced, all AWS calls are counted"]
    else:
        limits = dict(plan.limits)
        rest = limits.pop("default", None)
        if len(limits) <= _MOST_NAMED:
            named = ", ".join(f"{name} at {limit}" for name, limit in limits.items())
        else:
            services = dict.fromkeys(re.split(r"[. ]", name)[0] for name in limits)
            names = (
                ", ".join(services) if len(services) <= _MOST_NAMED else f"{len(services)} services"
            )
            named = (
                f"{names} by {pluralize(len(limits), 'limit')} (`aioapiqueue limits` lists them)"
            )
        if rest is not None:
            other = f"each other service at {rest}" if named else f"each service at {rest}"
            named = ", ".join(filter(None, [named, other]))
        if named:
            lines = [f"paced: {named}"]
            if rest is None:
                # Where a service's limits are of some operations only, it has other calls, too.
                whole = {name.removesuffix(".*") for name in limits}
                rest_of = {re.split(r"[. ]", name)[0] for name in limits} - whole
                lines.append(f"not paced: all other {'calls' if rest_of else 'services'}")
        else:
            lines = ["nothing is paced: what is named is unlimited"]
    if plan.shared is not None:
        lines.append(
            f"not shared: a dry run does not ask {plan.shared}"
            if plan.dry_run
            else f"shared through {plan.shared}; while it cannot be reached, "
            f"{plan.shared.meanwhile}"
        )
    if not plan.launch.python:
        lines.append(
            f"{plan.launch.name} is not Python: only what it starts that is Python is "
            + ("counted" if plan.dry_run else "paced")
        )
    return "\n".join(map(wrapped, lines))


def about(inactive: Inactive, name: str, *, stopped: bool) -> str:
    """Return what is said of a Python that is not paced, at once.

    Args:
        inactive: the Python.
        name: of the program that was started.
        stopped: whether it is stopped for that.
    """
    who = f"{inactive.command or name} (process {inactive.pid})"
    if inactive.why is Why.NEVER:
        said = f"{who} is Python, and has not activated the pacing: "
        if _is_aws_cli(name):
            said += _AWS_CLI
        else:
            said += (
                "started with -I, -E or -S, or without our PYTHONPATH, it does not, nor before "
                "Python 3.9. If it only takes long to start: --grace 60."
            )
    elif inactive.why is Why.UNHOOKED:
        said = (
            f"{who} activated the pacing, but has a botocore that cannot be paced: "
            f"{inactive.detail}. Is it before 1.31, or a much later one?"
        )
    elif inactive.why is Why.LATE:
        said = (
            f"{who} had made clients when its botocore was found and paced, as it was loaded "
            "past Python's imports. What they had sent until then was not paced."
        )
        return wrapped(said)
    else:
        said = (
            f"{who} activated the pacing, and then became another Python, which did not: by a "
            "launcher that brings a sitecustomize of its own. Use the other order, LAUNCHER "
            "aioapiqueue run ... -- COMMAND."
        )
    done = "It is stopped, so that nothing goes out unpaced." if stopped else "IT IS NOT PACED."
    return f"{wrapped(said)}\n{done}"


def verdict(plan: Plan, outcome: Outcome) -> int:
    """Return the exit code: the program's own, unless that would hide that it was not paced."""
    if outcome.stopped is not None:
        return outcome.stopped
    code = outcome.code or 0
    if plan.allow_inactive or code:
        return code
    unpaced = outcome.inactive or not outcome.processes or _brings_its_own(plan, outcome)
    return ExitCode.INACTIVE if unpaced else 0


def _is_aws_cli(name: str) -> bool:
    return PurePath(name).name == "aws"


def _brings_its_own(plan: Plan, outcome: Outcome) -> bool:
    """Return whether this was the AWS CLI with a botocore of its own."""
    hooked = any(process.botocore for process in outcome.processes)
    return _is_aws_cli(plan.launch.name) and not hooked


def headline(plan: Plan, outcome: Outcome, code: int) -> str:
    """Return the run in a few words: how it ended, and its calls."""
    figures = outcome.figures
    name = PurePath(plan.launch.name).name
    if outcome.stopped is not None:
        said = f"{name} stopped after {duration(outcome.seconds)}; exit code {code}"
    else:
        said = f"{name} ended after {duration(outcome.seconds)} with exit code {outcome.code}"
        if code != outcome.code:
            said += f"; exit code {code}, see below"
    calls = sum(figure.calls for figure in figures)
    said_of_calls = pluralize(calls, "AWS call")
    if not plan.dry_run:
        paced = sum(figure.calls for figure in figures if figure.paced)
        said_of_calls += f", {paced:,} of them paced"
    throttled = sum(figure.throttled for figure in figures)
    errors = pluralize(sum(figure.errors for figure in figures), "other error")
    said_of_calls += f"; {throttled:,} throttled, {errors}"
    if not calls:
        return wrapped(f"{said}; no AWS calls counted")
    return f"{wrapped(said)}\n{wrapped(said_of_calls)}"


def tables(plan: Plan, outcome: Outcome) -> str:
    """Return the table of all services, at most 80 columns wide, with an empty line around it."""
    if not outcome.figures:
        return ""
    if plan.dry_run:
        found = rows(outcome.figures, outcome.peaks, outcome.buckets)
        text = dry_run_table(found, outcome.seconds)
    else:
        # A service may have calls of both kinds: each kind has its row.
        paced = [one for one in outcome.figures if one.paced]
        free = [one for one in outcome.figures if not one.paced]
        found = rows(paced, outcome.peaks, outcome.buckets) + rows(free, outcome.peaks)
        text = table(found, plan.limits)
    return f"\n{text}\n\n"


def remarks(plan: Plan, outcome: Outcome) -> str:
    """Return what an operator should know beside the figures; "" if there is nothing."""
    lines = []
    if not outcome.processes and outcome.stopped is None:
        lines.append(
            "WARNING: NOTHING WAS PACED: no Python activated the pacing. Only Python programs, "
            "from Python 3.9 on, can be paced, and those started with -I, -E or -S cannot."
        )
    if outcome.stopped is None:
        lines += [
            f"WARNING: NOT PACED{' FROM THE START' if one.why is Why.LATE else ''}: "
            f"{one.command or plan.launch.name} (process {one.pid})"
            for one in outcome.inactive[:MAX_LISTED]
        ]
        if len(outcome.inactive) > MAX_LISTED:
            lines.append(f"WARNING: NOT PACED: {len(outcome.inactive) - MAX_LISTED:,} more")
        if outcome.processes and _brings_its_own(plan, outcome):
            lines.append(f"WARNING: NOTHING WAS PACED: {_AWS_CLI}")
        elif outcome.processes and not any(process.botocore for process in outcome.processes):
            lines.append("no process that can be paced has used botocore: nothing was paced")
    if outcome.shared is not None:
        lines.append(_of_shared(outcome.shared))
    services = [one for one in outcome.figures if one.service != OTHERS]
    if len(services) < len(outcome.figures):
        lines.append(
            f"{len(services):,} kinds of calls (service, operation, Region, account) have figures "
            f"of their own; {OTHERS} is the sum of the rest"
            + ("" if plan.dry_run else ", for which all limits hold as well")
        )
    if outcome.figures and (none := _unused(plan, outcome)):
        lines.append(none)
    if plan.dry_run and services:
        busiest = max(rows(services, outcome.peaks), key=lambda row: row.total.calls)
        lines.append(
            f"to pace it, write --limit {busiest.name}=RATE instead of --dry-run; a rate below "
            "what the other side bears leaves room for others"
        )
    return "\n".join(map(wrapped, lines))


def _unused(plan: Plan, outcome: Outcome) -> str:
    """Return which limits of the user no call came under; "" if there are none."""
    entries = unused(outcome.figures, plan.registry, dry_run=plan.dry_run)
    if not entries:
        return ""
    named = [f"{name} {words}" for name, words in _named(entries[:_MOST_NAMED])]
    more = len(entries) - _MOST_NAMED
    return f"no call came under: {', '.join(named)}" + (f", and {more:,} more" * (more > 0))


def _named(entries: Iterable[InForce]) -> Iterator[tuple[str, str]]:
    """Yield the name of each limit, and what it is, in words."""
    for entry in entries:
        name = entry.service + (f".{entry.operation}" if entry.operation else "")
        if entry.bucket:
            # Several operations share it, or parameters choose it.
            name = f"{entry.service} ({entry.bucket})"
        words = [_limits(entry.limits)] if entry.limits or entry.operation else []
        if entry.concurrency is not None:
            words.append(f"{entry.concurrency:,} in flight")
        if entry.adaptive is not None and not words:
            words.append("adaptive")
        yield name, " and ".join(words)


def _of_shared(shared: Mapping[str, Any]) -> str:
    """Return what there was with the shared server."""
    asks = sum(one["asks"] for one in shared["queues"])
    faults = sum(one["faults"] for one in shared["queues"])
    said = f"shared through {shared['server']}: asked {pluralize(asks, 'time')}"
    said += f", {faults:,} of them in vain"
    if times := shared["times_lost"]:
        seconds = f"{shared['seconds_lost']:,.1f} s"
        said += f"; lost for {seconds}" if times == 1 else f"; lost {times:,} times, for {seconds}"
    now = {one["fault"] for one in shared["queues"] if one["fault"]}
    return f"{said}; at the end: {'; '.join(sorted(now))}" if now else said


def report(plan: Plan, outcome: Outcome, code: int) -> dict[str, Any]:
    """Return all figures as JSON has them. Times are in seconds."""
    found: list[Row] = rows(outcome.figures, outcome.peaks)
    none = unused(outcome.figures, plan.registry, dry_run=plan.dry_run)
    return {
        "command": list(plan.command),
        "dry_run": plan.dry_run,
        "seconds": outcome.seconds,
        "program_exit_code": outcome.code,
        "exit_code": code,
        "limits": plan.limits,
        "shared": outcome.shared,
        "services": [
            {
                "service": row.name,
                "paced": row.total.paced,
                "calls": row.total.calls,
                "paced_calls": row.paced_calls,
                "peak": row.total.peak,
            }
            for row in found
        ],
        "figures": as_json(outcome.figures),
        "buckets": buckets_as_json(outcome.buckets),
        "unused": [
            {
                "service": entry.service,
                "operation": entry.operation,
                "bucket": entry.bucket,
                "limit": words,
                "source": entry.source,
            }
            for entry, (_, words) in zip(none, _named(none), strict=True)
        ],
        "processes": [
            {
                "pid": process.pid,
                "executable": process.executable,
                "python": process.python,
                "botocore": process.botocore,
            }
            for process in outcome.processes
        ],
        "inactive": [dataclasses.asdict(one) | {"why": one.why.value} for one in outcome.inactive],
    }
