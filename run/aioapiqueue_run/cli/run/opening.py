"""The message before the program starts: what is paced and how, and what is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aioapiqueue.registry.spi import DEFAULT_SHARE, is_host
from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import as_argument, pluralize, unbroken
from aioapiqueue_run.cli.run.gateway import is_installed, reachable_ports
from aioapiqueue_run.cli.run.limits_in_words import service_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue_run.cli.run.model import RunPlan
    from aioapiqueue_run.cli.run.options import RunOptions

__all__ = ["opening"]

_NO_LIMIT = (
    f"no limit is set: using {DEFAULT_SHARE:.0%} of each limit that AWS publishes. To change this, "
    "use --share or --limit"
)
_MOST_NAMED = 8  # limits or services; a longer list is not read


def opening(plan: RunPlan) -> str:
    """Return the message: what is paced and how, or that nothing is."""
    hosts = plan.registry.hosts
    if plan.given.dry_run:
        to = f" to AWS and to {_listed(list(hosts), 'hosts')}" if hosts else ""
        lines = [f"dry run: {'calls' if hosts else 'AWS calls'}{to} are counted, not paced"]
    else:
        lines = list(_paced(plan))
    if any(entry.adaptive for entry in plan.registry) and not plan.given.dry_run:
        who = "a server" if hosts else "AWS"
        lines.append(f"adaptive: when {who} throttles, rates drop, then recover gradually")
    if plan.shared is not None:
        lines.append(
            f"shared through {plan.shared}; if it becomes unreachable, {plan.shared.meanwhile}"
        )
    done = "counted" if plan.given.dry_run else "paced"
    if plan.given.isolate:
        lines.append(_isolated(plan))
    elif plan.gateway:
        what = "requests to hosts with a limit" if hosts else "programs that are not Python"
        lines.append(
            f"{what} are {done} through a local proxy (HTTPS_PROXY), which not every program uses"
        )
    elif not plan.launch.python:
        remedy = "; to pace other programs, pip install 'aioapiqueue[gateway]'"
        remedy = "" if is_installed() else remedy
        lines.append(
            f"{printable(plan.launch.name)} is not Python: only Python programs that it starts are "
            f"{done}{remedy}"
        )
    return "\n".join([_NO_LIMIT, *lines] if plan.given.has_no_limit else lines)


def _isolated(plan: RunPlan) -> str:
    """Return the line about what an isolated program can reach."""
    ports = reachable_ports(plan.registry)
    # By `setns` to the namespace of another process, which needs CAP_SYS_ADMIN.
    leaves = ". As root, the program could leave the isolation" if os.geteuid() == 0 else ""
    return (
        "isolated: the program reaches other hosts only through a local proxy (ports "
        f"{', '.join(map(str, ports))}), and nothing on this host except Unix sockets{leaves}"
    )


_DEFAULTS = {"default": "each", "default.*": "each operation of each"}


def _paced(plan: RunPlan) -> Iterator[str]:
    """Yield a line about what is paced, and one about what is not."""
    own = {name: limit for name, limit in plan.limits.items() if name not in _DEFAULTS}
    named = dict.fromkeys(map(service_in, own))
    hosts = [one for one in named if is_host(one)]
    parts = [f"{unbroken(name)} {limit}" for name, limit in own.items()]
    if len(parts) > _MOST_NAMED:
        names = _listed(list(named), "services and hosts" if hosts else "services")
        parts = [f"{names} under {pluralize(len(own), 'limit')}{_listed_by(plan.given)}"]
    other = "other service" if len(named) > len(hosts) else "service"
    others = [
        f"{each} {other}{' of AWS' if hosts else ''}: {plan.limits[name]}"
        for name, each in _DEFAULTS.items()
        if name in plan.limits
    ]
    parts += others
    yield (
        f"paced: {', '.join(parts)}"
        if parts
        else "nothing is paced: no service or host that you named has a limit"
    )
    if own and not others:
        yield "not paced: all other calls"
    elif hosts:
        yield "not paced: all other calls to hosts"


def _listed_by(given: RunOptions) -> str:
    """Return the command that lists the limits; "" if none does."""
    if given.limit or (given.limits and given.preset):
        return ""
    options = (("--limits", given.limits), ("--share", given.share))
    words = [f" {name} {as_argument(str(value))}" for name, value in options if value]
    return f" ({unbroken(f'`aioapiqueue limits{str().join(words)}`')} lists them)"


def _listed(names: list[str], what: str) -> str:
    return ", ".join(names) if len(names) <= _MOST_NAMED else f"{len(names)} {what}"
