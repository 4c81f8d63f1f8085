"""The messages of a run during it and at its end, and its exit code."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from aioapiqueue.recording.spi import added_up, as_clock
from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import pluralize, prefixed, unbroken
from aioapiqueue_run.cli.run.activation import Why
from aioapiqueue_run.cli.run.advice import (
    after_dry_run,
    after_throttling,
    command_to_copy,
    listed,
    published_of,
)
from aioapiqueue_run.cli.run.budgets import budgets_left
from aioapiqueue_run.cli.run.errors import ExitCode
from aioapiqueue_run.cli.run.figures import dry_run_table, rows, table
from aioapiqueue_run.cli.run.gates import WAITS
from aioapiqueue_run.cli.run.gateway import is_installed
from aioapiqueue_run.cli.run.held import held_by
from aioapiqueue_run.cli.run.limits_applied import unused
from aioapiqueue_run.cli.run.limits_in_words import named
from aioapiqueue_run.hub import OTHERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aioapiqueue.recording.spi import CallTotals
    from aioapiqueue_run.cli.run.activation import Inactive
    from aioapiqueue_run.cli.run.model import Outcome, RunPlan

__all__ = [
    "about",
    "headline",
    "measure",
    "not_paced",
    "remarks",
    "tables",
    "to_copy",
    "verdict",
]

_AWS_CLI = (
    "AWS's own build of the AWS CLI 2 cannot be paced: it ignores PYTHONPATH. The AWS CLI 1 from "
    "PyPI can, and so can the AWS CLI 2 from Debian."
)
_NOT_ACTIVATED = (
    "Possible reasons: the options -I, -E or -S, a changed PYTHONPATH, or Python before 3.9. If it "
    "only starts slowly, use --grace 60."
)
_ABOUT = {
    Why.NEVER: "{who} is Python, but did not load the pacing. {hint}",
    Why.EXEC: "{who} loaded the pacing, then replaced itself with another Python, which did not: "
    "because of the options -I, -E or -S, a changed PYTHONPATH, or a launcher with its own "
    "sitecustomize. With a launcher, use the other order: LAUNCHER aioapiqueue run ... -- COMMAND.",
    Why.UNHOOKED: "{who} uses a botocore that cannot be paced: {detail}. Is it older than 1.31, or "
    "much newer?",
    Why.LATE: "{who} created clients before its botocore was paced, because botocore was not "
    "loaded by a normal import. Calls until then were not paced.",
}


def _calls(plan: RunPlan, count: int | None = None) -> str:
    """Return which calls are counted, or how many."""
    what = "call" if plan.registry.hosts else "AWS call"
    return f"{what}s" if count is None else pluralize(count, what)


def about(inactive: Inactive, name: str, *, stopped: bool) -> str:
    """Return the message about a Python that is not paced, for when it is found.

    Args:
        inactive: the Python.
        name: the name of the program.
        stopped: whether the program is stopped because of it.
    """
    text = _ABOUT[inactive.why].format(
        who=f"{inactive.command or name} (process {inactive.pid})",
        hint=_AWS_CLI if _is_aws_cli(name) else _NOT_ACTIVATED,
        detail=inactive.detail,
    )
    if inactive.why is Why.LATE:
        return text
    done = "It is stopped, so that no call is sent unpaced." if stopped else "It is not paced."
    return f"{text}\n{done}"


def verdict(plan: RunPlan, outcome: Outcome) -> int:
    """Return the exit code: the program's own, unless that would hide a fault of the pacing."""
    if outcome.stopped is not None:
        return outcome.stopped
    code = outcome.code or 0
    if code:
        return code
    if not_paced(plan, outcome) and not plan.given.allow_inactive:
        return ExitCode.INACTIVE
    return ExitCode.GATE if any(one.failed for one in outcome.judged) else 0


def not_paced(plan: RunPlan, outcome: Outcome) -> int:
    """Return the number of Pythons that were not paced; 1 if nothing at all was paced."""
    if plan.given.isolate:  # no call could bypass the gateway
        return 0
    if outcome.gateway is None:
        nothing = not outcome.processes or _has_own_botocore(plan, outcome)
    else:
        nothing = not _hooked(plan, outcome) and not outcome.gateway["connections"]
    return max(_inactive(plan, outcome), int(nothing))


def _inactive(plan: RunPlan, outcome: Outcome) -> int:
    """Return the number of Pythons that were not paced."""
    # If calls without the hook's mark reached the gateway, assume that they came from these.
    by_gateway = outcome.gateway is not None and outcome.gateway["calls"]
    return 0 if by_gateway or _only_hosts(plan) else len(outcome.inactive)


_BEFORE_THE_HUB = ("unreachable", "unknown_hosts", "forbidden")
"""Counts of requests that the gateway answers before it asks the hub, whose figures lack them."""


def measure(plan: RunPlan, outcome: Outcome) -> dict[str, float]:
    """Return the metrics of the run, for its gates."""
    total = added_up(outcome.figures)
    paced = added_up([one for one in outcome.figures if one.paced])
    seen = outcome.gateway or {}
    lost, *refused = (sum(seen.get(name, {}).values()) for name in _BEFORE_THE_HUB)
    summed_up = any(one.service == OTHERS and one.paced for one in outcome.figures)
    return {
        "answers": total.answers + lost,
        "throttled": total.throttled,
        "failed": total.errors + lost,
        "refused": total.refused + sum(refused),
        "unused": math.inf if summed_up else len(unused(outcome.figures, plan.registry)),
        "unpaced": total.calls - paced.calls,
        "not paced": not_paced(plan, outcome),
        **{metric: paced.wait_times.percentile(share) for metric, share in WAITS.items()},
    }


def _is_aws_cli(name: str) -> bool:
    return PurePath(name).name == "aws"


def _has_own_botocore(plan: RunPlan, outcome: Outcome) -> bool:
    """Return whether this was AWS's build of the CLI, which contains its own botocore."""
    return _is_aws_cli(plan.launch.name) and not _hooked(plan, outcome)


def headline(plan: RunPlan, outcome: Outcome, code: int) -> str:
    """Return the summary of a run: what was paced, by how much, for which limits; then its end."""
    name, seconds = printable(plan.given.program), as_clock(outcome.seconds)
    if outcome.stopped is not None:
        end = f"{name} was stopped after {seconds}; aioapiqueue run exits with {code}"
    else:
        end = f"{name} ended after {seconds}, exit code {outcome.code}"
        if code != outcome.code and code in _BECAUSE:
            end += f"; aioapiqueue run exits with {code}, {_BECAUSE[code]}"
    total = added_up(outcome.figures)
    refused = f"{total.refused:,} refused (not sent), " if total.refused else ""
    if not total.calls:
        return f"no {_calls(plan)} counted; {refused}{end}"
    calls = _calls(plan, total.calls)
    if plan.given.dry_run:
        calls += " counted"
    else:
        paced = added_up([figure for figure in outcome.figures if figure.paced])
        calls += f", {paced.calls:,} paced"
        calls += f": {_waits(paced, plan, outcome)}" if paced.calls else ""
    errors = pluralize(total.errors, "other error")
    end = f"{refused}{total.throttled:,} throttled, {errors}; {end}"
    return f"{calls}\n{end}"


_BECAUSE: dict[int, str] = {
    ExitCode.INACTIVE: "as calls may have gone unpaced (if that is fine: --allow-inactive)",
    ExitCode.GATE: "because of --fail-on",
}
"""Why we exit with another code than the program."""


_SHORTEST_SHOWN = 0.05  # seconds that calls waited for a limit: less would be "0.0 s"


def _waits(paced: CallTotals, plan: RunPlan, outcome: Outcome) -> str:
    """Return how long calls waited, and for which limits."""
    if not paced.waits:
        return "none waited"
    held = held_by(plan, outcome).most_common()
    held = [one for one in held if one[1] >= _SHORTEST_SHOWN] or held[:1]
    each = len(held) > 1
    names = [unbroken(f"{name} ({seconds:,.1f} s)" if each else name) for name, seconds in held]
    text = f"{paced.waits:,} waited {paced.waited:,.1f} s in total"
    return f"{text} for {listed(names)}" if names else text


def tables(plan: RunPlan, outcome: Outcome) -> str:
    """Return the table of all services, at most 80 columns wide, with an empty line around it."""
    # The others were given up before they were sent, such as those to an unreachable host.
    figures = [one for one in outcome.figures if one.is_used]
    if not figures:
        return ""
    if plan.given.dry_run:
        found = rows(figures, outcome.buckets)
        text = dry_run_table(found, outcome.seconds, _published)
    else:
        # A service may have paced and unpaced calls: each kind has its row.
        paced = [one for one in figures if one.paced]
        free = [one for one in figures if not one.paced]
        found = rows(paced, outcome.buckets) + rows(free)
        text = table(found, plan)
    return f"\n{text}\n\n"


def _published(service: str, lane: str) -> str:
    """Return the published limit of a lane, for the table."""
    figure = published_of(service, lane)
    return "" if figure is None else str(figure.rate)


def remarks(plan: RunPlan, outcome: Outcome) -> list[str]:
    """Return the messages below the table."""
    lines = [] if outcome.stopped is not None else list(_unpaced(plan, outcome))
    lines += after_throttling(plan, outcome)
    lines += budgets_left(plan, outcome)
    if plan.shared is not None:
        lines += _of_shared(plan.shared.as_json())
    if plan.on_host is not None and (others := plan.on_host.shared_with):
        runs = [f"{printable(whose)} ({listed([*map(printable, queues)])})"
                for whose, queues in others.items()]  # fmt: skip
        lines.append(f"limits shared with other runs on this host: {listed(runs, '; ')}")
    if any(one.service == OTHERS for one in outcome.figures):
        lines.append(
            f"{OTHERS} adds up calls of further kinds (service, operation, Region, account)"
        )
    # Without any call, all limits are unused, which the headline makes clear. So list them then
    # only if a gate depends on it.
    if outcome.figures or any(gate.metric == "unused" for gate in plan.gates):
        names = [" ".join(named(entry)) for entry in unused(outcome.figures, plan.registry)]
        if names:
            lines.append(
                f"limits that applied to no call: {listed(names)}{_why_unused(plan, outcome)}"
            )
    return [*lines, *after_dry_run(outcome), *_gates(outcome)]


def to_copy(plan: RunPlan, outcome: Outcome) -> str:
    """Return the command of the paced run, on its own line; "" unless a dry run would be paced."""
    if not plan.given.dry_run or not any(one.paced for one in outcome.figures):
        return ""
    return f"{prefixed('to pace this program, run:')}\n  {command_to_copy(plan)}\n\n"


def _gates(outcome: Outcome) -> Iterator[str]:
    """Yield the results of the gates: each that failed, then the others in one line."""
    for one in outcome.judged:
        if one.failed:
            yield f'FAILED: --fail-on "{one.gate.text}": {one.found}'
    met = [f'"{one.gate.text}" ({one.found})' for one in outcome.judged if not one.failed]
    if met:
        yield f"passed: --fail-on {', '.join(met)}"


def _unpaced(plan: RunPlan, outcome: Outcome) -> Iterator[str]:
    """Yield remarks about what was not paced, if the program ended by itself."""
    processes, done = outcome.processes, "counted" if plan.given.dry_run else "paced"
    if plan.gateway:
        yield from _of_gateway(plan, outcome, done)
    elif not processes:
        yield (
            f"nothing was {done}: no Python process loaded the pacing. Without --any, only Python "
            f"3.9 or later is {done}, and only without -I, -E and -S"
        )
    elif _has_own_botocore(plan, outcome):
        yield f"WARNING: nothing was {done}: {_AWS_CLI}"
    elif not any(process.botocore for process in processes):
        needs = "" if is_installed() else " (needs pip install 'aioapiqueue[gateway]')"
        yield (
            f"nothing was {done}: no process used botocore. If the program calls AWS in another "
            f"way, use --any{needs}"
        )
    if _inactive(plan, outcome):
        names = [
            f"{one.command or printable(plan.launch.name)} (process {one.pid}"
            f"{', at first' * (one.why is Why.LATE)})"
            for one in outcome.inactive
        ]
        yield f"WARNING: not {done}: {listed(names)}"
    if outcome.outliving:
        yield (
            f"still running: {pluralize(outcome.outliving, 'process', 'processes')} that the "
            "program started, and whose calls now fail with PacingError"
        )


def _of_gateway(plan: RunPlan, outcome: Outcome, done: str) -> Iterator[str]:
    """Yield remarks from the counts of the gateway."""
    seen = outcome.gateway
    if seen is None:
        yield "WARNING: the local proxy ended unexpectedly: its figures are missing"
        return
    came = seen["calls"] or seen["asked_before"] or seen["connections"] or plan.given.isolate
    if not came and not _hooked(plan, outcome):
        yield (
            f"no call was {done}: none reached the local proxy. Either the program made no "
            "call, or it called this host (127.0.0.1), or it ignores "
            "HTTPS_PROXY (then use --isolate)"
        )
    elif seen["passed_by"] and not outcome.figures and not plan.given.dry_run:
        passed = listed(list(seen["passed_by"]))
        yield f"no call matched a limit. Connections to {passed} were tunnelled without inspection"
    if outcome.inactive and seen["calls"] and not _only_hosts(plan):
        processes = pluralize(len(outcome.inactive), "Python process", "Python processes")
        yield f"{processes} did not load the pacing: only calls through the local proxy were {done}"
    if hosts := _to_hosts(seen["unreachable"], "request"):
        yield f"not sent, as the host is unreachable: {hosts} (the program received status 502)"
    if hosts := _to_hosts(seen["unknown_hosts"], "request"):
        yield f"WARNING: refused: {hosts}: unknown AWS service or operation; upgrade aioapiqueue"
    if hosts := _to_hosts(seen["untrusted"], "connection"):
        remedy = "see" if plan.given.isolate else "try --isolate, or see"
        yield (
            f"WARNING: {hosts} closed: the program does not trust the proxy's certificate, or "
            f"speaks only HTTP/2; {remedy} aioapiqueue docs gateway"
        )
    if hosts := _to_hosts(seen["forbidden"], "connection"):
        yield (
            f"WARNING: refused, as the program is isolated: {hosts}. It can reach only other "
            "hosts, by name, on the ports listed at the start; see aioapiqueue docs gateway"
        )


def _to_hosts(numbers: Mapping[str, int], what: str) -> str:
    """Return the numbers of requests or connections to hosts."""
    return listed([f"{pluralize(number, what)} to {host}" for host, number in numbers.items()])


def _why_unused(plan: RunPlan, outcome: Outcome) -> str:
    """Return why limits may have applied to no call, and what to do."""
    called = {one.service for one in outcome.figures}
    if outcome.gateway is not None and not (
        plan.given.isolate or called.issuperset(plan.registry.hosts)
    ):
        return ". If the program calls these hosts, it may ignore HTTPS_PROXY: use --isolate"
    unpaced = any(not one.paced for one in outcome.figures)
    return ". Compare their names with the calls in the table" if unpaced else ""


def _only_hosts(plan: RunPlan) -> bool:
    """Return whether all limits are of hosts, which our hook in Python does not pace."""
    hosts, services = plan.registry.hosts, plan.registry.services
    return bool(hosts) and plan.registry.default is None and len(hosts) == len(services)


def _hooked(plan: RunPlan, outcome: Outcome) -> bool:
    """Return whether some process had our hook in Python, and limits that it paces."""
    return not _only_hosts(plan) and any(process.botocore for process in outcome.processes)


def _of_shared(shared: Mapping[str, Any]) -> Iterator[str]:
    """Yield a remark about the shared server, if it was unreachable."""
    faults = sum(one["faults"] for one in shared["queues"])
    if not faults and not shared["times_lost"]:
        return
    text = f"{shared['server']}: {pluralize(faults, 'request')} failed; unreachable for "
    text += unbroken(f"{shared['seconds_lost']:,.1f} s")
    now = {one["fault"] for one in shared["queues"] if one["fault"]}
    yield f"{text}; at the end: {'; '.join(sorted(now))}" if now else text
