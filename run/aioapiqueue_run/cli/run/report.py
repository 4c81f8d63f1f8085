"""The messages of a run during it and at its end, and its exit code."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from aioapiqueue.recording.spi import added_up, as_clock
from aioapiqueue.registry.spi import origin_of
from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import MAX_LISTED, pluralize, prefixed, unbroken, wrapped
from aioapiqueue_run.cli.run.activation import Why
from aioapiqueue_run.cli.run.advice import (
    after_dry_run,
    after_throttling,
    command_to_copy,
    limits_to_try,
    listed,
    published_of,
)
from aioapiqueue_run.cli.run.errors import ExitCode
from aioapiqueue_run.cli.run.figures import dry_run_table, rows, table
from aioapiqueue_run.cli.run.gates import Measured
from aioapiqueue_run.cli.run.gateway import is_installed
from aioapiqueue_run.cli.run.limits_applied import unused
from aioapiqueue_run.cli.run.limits_in_words import named
from aioapiqueue_run.hub import OTHERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
    "probably a launcher with its own sitecustomize. Use the other order: LAUNCHER aioapiqueue "
    "run ... -- COMMAND.",
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
    text = wrapped(
        _ABOUT[inactive.why].format(
            who=f"{inactive.command or name} (process {inactive.pid})",
            hint=_AWS_CLI if _is_aws_cli(name) else _NOT_ACTIVATED,
            detail=inactive.detail,
        )
    )
    if inactive.why is Why.LATE:
        return text
    done = "It is stopped, so that no call is sent unpaced." if stopped else "IT IS NOT PACED."
    return f"{text}\n{done}"


def verdict(plan: RunPlan, outcome: Outcome) -> int:
    """Return the exit code: the program's own, unless that would hide a fault of the pacing."""
    if outcome.stopped is not None:
        return outcome.stopped
    code = outcome.code or 0
    if code:
        return code
    if not_paced(plan, outcome) and not plan.allow_inactive:
        return ExitCode.INACTIVE
    return ExitCode.GATE if any(one.failed for one in outcome.judged) else 0


def not_paced(plan: RunPlan, outcome: Outcome) -> int:
    """Return the number of Pythons that were not paced; 1 if nothing at all was paced."""
    if plan.isolate:  # no call could bypass the gateway
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


def measure(plan: RunPlan, outcome: Outcome) -> Measured:
    """Return the metrics of the run, for its gates."""
    measured = Measured(not_paced=not_paced(plan, outcome))
    total = added_up(outcome.figures)
    paced = added_up([one for one in outcome.figures if one.paced])
    measured.answers, measured.throttled = total.answers, total.throttled
    measured.failed, measured.refused = total.errors, total.refused
    measured.waits, measured.unpaced = paced.wait_times, total.calls - paced.calls
    if outcome.gateway is not None:
        # Requests that the gateway answers before it asks the hub, whose figures lack them.
        measured.refused += sum(outcome.gateway["unknown_hosts"].values())
        measured.refused += sum(outcome.gateway["forbidden"].values())
        lost = sum(outcome.gateway["unreachable"].values())
        measured.answers += lost
        measured.failed += lost
    summed_up = any(one.service == OTHERS and one.paced for one in outcome.figures)
    measured.unused = None if summed_up else len(unused(outcome.figures, plan.registry))
    return measured


def _is_aws_cli(name: str) -> bool:
    return PurePath(name).name == "aws"


def _has_own_botocore(plan: RunPlan, outcome: Outcome) -> bool:
    """Return whether this was AWS's build of the CLI, which contains its own botocore."""
    return _is_aws_cli(plan.launch.name) and not _hooked(plan, outcome)


def headline(plan: RunPlan, outcome: Outcome, code: int) -> str:
    """Return the summary of a run: how it ended, and its calls."""
    name, seconds = printable(PurePath(plan.launch.name).name), as_clock(outcome.seconds)
    if outcome.stopped is not None:
        end = f"{name} was stopped after {seconds}; aioapiqueue run exits with {code}"
    else:
        end = f"{name} ended after {seconds} with exit code {outcome.code}"
        if code != outcome.code:
            end += f"; aioapiqueue run exits with {code}"
    total = added_up(outcome.figures)
    if not total.calls:
        return wrapped(f"{end}; no {_calls(plan)} counted")
    calls = _calls(plan, total.calls)
    if not plan.dry_run:
        paced = sum(figure.calls for figure in outcome.figures if figure.paced)
        calls += f", {paced:,} of them paced"
    calls += f"; {total.throttled:,} throttled, {pluralize(total.errors, 'other error')}"
    if total.refused:
        calls += f", {total.refused:,} refused (not sent)"
    return f"{wrapped(end)}\n{wrapped(calls)}"


def tables(plan: RunPlan, outcome: Outcome) -> str:
    """Return the table of all services, at most 80 columns wide, with an empty line around it."""
    if not outcome.figures:
        return ""
    if plan.dry_run:
        found = rows(outcome.figures, outcome.buckets)
        text = dry_run_table(found, outcome.seconds, _published)
    else:
        # A service may have paced and unpaced calls: each kind has its row.
        paced = [one for one in outcome.figures if one.paced]
        free = [one for one in outcome.figures if not one.paced]
        found = rows(paced, outcome.buckets) + rows(free)
        text = table(found, plan.limits)
    return f"\n{text}\n\n"


def _published(service: str, lane: str) -> str:
    """Return the published limit of a lane, for the table."""
    figure = published_of(service, lane)
    return "" if figure is None else str(figure.rate)


def remarks(plan: RunPlan, outcome: Outcome) -> list[str]:
    """Return the messages below the table."""
    lines = [] if outcome.stopped is not None else list(_warnings(plan, outcome))
    lines += after_throttling(plan, outcome)
    if outcome.shared is not None:
        lines.append(_of_shared(outcome.shared))
    if outcome.shared_with:
        lines.append(_of_sharers(outcome.shared_with))
    if outcome.on_host is not None and outcome.on_host["delays"]:
        lines.append(_of_others(outcome.on_host["delays"]))
    services = [one for one in outcome.figures if one.service != OTHERS]
    if len(services) < len(outcome.figures):
        lines.append(
            f"{OTHERS} adds up calls of further kinds (service, operation, Region, account), "
            f"beyond the first {len(services):,}"
            + ("" if plan.dry_run else "; they are paced as well")
        )
    # Without any call, all limits are unused, which the headline makes clear. So list them then
    # only if a gate depends on it.
    asked = any(gate.metric == "unused" for gate in plan.gates)
    entries = unused(outcome.figures, plan.registry) if outcome.figures or asked else []
    unseen = set(_unseen(plan, outcome))  # hosts that the warnings name already
    names = [" ".join(named(entry)) for entry in entries if entry.service not in unseen]
    if names:
        lines.append(f"limits that applied to no call: {listed(names)}")
    lines += after_dry_run(outcome, suggested=limits_to_try(plan, outcome).values())
    return [*lines, *_gates(outcome)]


def to_copy(plan: RunPlan, outcome: Outcome) -> str:
    """Return the command of the paced run, on its own line; "" unless this is a dry run."""
    if not plan.dry_run or not outcome.figures:
        return ""
    return f"{prefixed('to pace this program, run:')}\n  {command_to_copy(plan, outcome)}\n\n"


def _gates(outcome: Outcome) -> Iterator[str]:
    """Yield the results of the gates: each that failed, then the others in one line."""
    for one in outcome.judged:
        if one.failed:
            yield f'FAILED: --fail-on "{one.gate.text}": {one.found}'
    met = [f'"{one.gate.text}" ({one.found})' for one in outcome.judged if not one.failed]
    if met:
        yield f"passed: --fail-on {', '.join(met)}"


def _warnings(plan: RunPlan, outcome: Outcome) -> Iterator[str]:
    """Yield warnings about what was not paced, if the program ended by itself."""
    processes, inactive = outcome.processes, outcome.inactive
    done = "counted" if plan.dry_run else "paced"
    if plan.gateway:
        yield from _of_gateway(plan, outcome)
        yield from _forbidden(outcome)
    elif not processes:
        yield (
            f"WARNING: NOTHING WAS {done.upper()}: no Python process loaded the pacing. Without "
            f"--any, only Python 3.9 or later is {done}, and only without -I, -E and -S."
        )
    if not _inactive(plan, outcome):
        inactive = []
    for one in inactive[:MAX_LISTED]:
        since = " FROM THE START" if one.why is Why.LATE else ""
        command = one.command or printable(plan.launch.name)
        yield f"WARNING: NOT PACED{since}: {command} (process {one.pid})"
    if len(inactive) > MAX_LISTED:
        yield f"WARNING: NOT PACED: {len(inactive) - MAX_LISTED:,} more"
    if plan.gateway:
        return
    if processes and _has_own_botocore(plan, outcome):
        yield f"WARNING: NOTHING WAS {done.upper()}: {_AWS_CLI}"
    elif processes and not any(process.botocore for process in processes):
        needs = "" if is_installed() else " (needs pip install 'aioapiqueue[gateway]')"
        yield (
            f"nothing was {done}: no process used botocore. If the program calls AWS in another "
            f"way, use --any{needs}"
        )


def _of_gateway(plan: RunPlan, outcome: Outcome) -> Iterator[str]:
    """Yield remarks from the counts of the gateway."""
    seen = outcome.gateway
    if seen is None:
        yield "WARNING: the local proxy ended unexpectedly: its figures are missing"
        return
    came = seen["calls"] or seen["asked_before"]
    if not came and not seen["connections"] and not _hooked(plan, outcome) and not plan.isolate:
        yield (
            f"WARNING: NOTHING WAS {'COUNTED' if plan.dry_run else 'PACED'}: nothing reached the "
            "local proxy. Either the program made no call, or it called this host "
            "(127.0.0.1), or it ignores HTTPS_PROXY" + _isolation(seen, " (then use --isolate)")
        )
    else:
        if seen["passed_by"] and not outcome.figures and not plan.dry_run:
            passed = listed(list(seen["passed_by"]))
            yield (
                f"no call matched a limit. Connections to {passed} were tunnelled without "
                "inspection"
            )
        yield from _not_called(plan, outcome, seen)
    if outcome.inactive and seen["calls"]:
        processes = pluralize(len(outcome.inactive), "Python process", "Python processes")
        yield (
            f"{processes} did not load the pacing: only calls through the local proxy were paced"
        )
    for host, calls in list(seen["unreachable"].items())[:MAX_LISTED]:
        yield (
            f"WARNING: {pluralize(calls, 'request')} to {host} not sent: the host was unreachable "
            "(the program received status 502)"
        )
    for host, calls in list(seen["unknown_hosts"].items())[:MAX_LISTED]:
        yield (
            f"WARNING: REFUSED: {pluralize(calls, 'request')} to {host}: unknown AWS service or "
            "operation"
        )
    remedy = "See" if plan.isolate else "Try --isolate, or see"
    for host, number in list(seen["untrusted"].items())[:MAX_LISTED]:
        was = "was" if number == 1 else "were"
        how = (
            "closed without a request: the program does not trust the proxy's certificate, or "
            "speaks only HTTP/2"
            if number == seen["silent"].get(host)
            else "closed by a program that does not trust the proxy's certificate"
        )
        yield (
            f"WARNING: {host}: {pluralize(number, 'connection')} {was} {how}. {remedy} aioapiqueue "
            "docs gateway"
        )


def _not_called(plan: RunPlan, outcome: Outcome, seen: Mapping[str, Any]) -> Iterator[str]:
    """Yield the hosts with limits that got no request, although others did."""
    origins = {name: origin_of(name) for name in _unseen(plan, outcome)}
    # Other remarks explain these two cases.
    hosts = {
        name: one.host
        for name, one in origins.items()
        if one.host not in seen["untrusted"] and one.netloc not in seen["forbidden"]
    }
    # A connection to another port of the host shows that its program does use the proxy.
    came = seen["passed_by"]
    ignored = [name for name, host in hosts.items() if host not in came and not plan.isolate]
    if ignored:
        yield (
            f"no request to {listed(ignored)} reached the local proxy. If the program sent one, it "
            "ignores HTTPS_PROXY" + _isolation(seen, ": use --isolate")
        )
    if others := [name for name in hosts if name not in ignored]:
        yield f"no request to {listed(others)} reached the local proxy"


def _forbidden(outcome: Outcome) -> Iterator[str]:
    """Yield the servers that an isolated program could not reach, if there are any."""
    servers = outcome.gateway and outcome.gateway["forbidden"]
    if servers:
        yield (
            f"WARNING: REFUSED: {pluralize(sum(servers.values()), 'connection')} of the isolated "
            f"program, to {listed(list(servers))}: it can reach only other hosts, by name, on the "
            "ports listed at the start; see aioapiqueue docs gateway"
        )


def _isolation(seen: Mapping[str, Any], advice: str) -> str:
    """Return the advice to isolate the program, or why that is impossible."""
    if here := seen["on_this_host"]:
        return f" (but --isolate would block {listed(here)})"
    return advice


def _only_hosts(plan: RunPlan) -> bool:
    """Return whether all limits are of hosts, which our hook in Python does not pace."""
    hosts, services = plan.registry.hosts, plan.registry.services
    return bool(hosts) and plan.registry.default is None and len(hosts) == len(services)


def _hooked(plan: RunPlan, outcome: Outcome) -> bool:
    """Return whether some process had our hook in Python, and limits that it paces."""
    return not _only_hosts(plan) and any(process.botocore for process in outcome.processes)


def _unseen(plan: RunPlan, outcome: Outcome) -> list[str]:
    """Return the hosts with limits that got no request."""
    seen = {one.service for one in outcome.figures}
    if outcome.gateway is not None:
        seen |= outcome.gateway["unreachable"].keys()
    return [host for host in plan.registry.hosts if host not in seen and OTHERS not in seen]


def _of_others(delays: Sequence[Mapping[str, Any]]) -> str:
    """Return the limits of other runs on this host that delayed calls."""
    named = [
        f"{printable(one['queue'])}{' ' * bool(one['lane'])}{printable(one['lane'])} at "
        f"{one['limit']} ({printable(one['whose'])}): {pluralize(one['calls'], 'call')}, "
        + unbroken(f"{one['seconds']:,.1f} s")
        for one in delays
    ]
    return f"delayed by limits of other runs on this host: {listed(named, '; ')}"


def _of_sharers(shared_with: Mapping[str, Sequence[str]]) -> str:
    """Return the other runs on this host that used the same limits."""
    named = [
        f"{printable(whose)} ({listed([*map(printable, queues)])})"
        for whose, queues in shared_with.items()
    ]
    return f"limits shared with other runs on this host: {listed(named, '; ')}"


def _of_shared(shared: Mapping[str, Any]) -> str:
    """Return a remark about the shared server."""
    asks = sum(one["asks"] for one in shared["queues"])
    faults = sum(one["faults"] for one in shared["queues"])
    text = f"shared through {shared['server']}: {pluralize(asks, 'request')}, {faults:,} failed"
    if times := shared["times_lost"]:
        text += f"; unreachable {f'{times:,} times, ' * (times > 1)}for "
        text += unbroken(f"{shared['seconds_lost']:,.1f} s")
    now = {one["fault"] for one in shared["queues"] if one["fault"]}
    return f"{text}; at the end: {'; '.join(sorted(now))}" if now else text
