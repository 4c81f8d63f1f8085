"""`aioapiqueue hub`: shows and controls the quotas that the host hub enforces."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from aioapiqueue.exceptions import SharedError
from aioapiqueue.recording.spi import least_left_first
from aioapiqueue.schedules.spi import (
    HUB_DIR,
    HubLocation,
    Unreachable,
    check_system,
    command,
    reach,
)
from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import FAILED, as_argument, console, pluralize, refuse, say
from aioapiqueue_run.cli.help import Command, CommandGroup

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aioapiqueue.recording.spi import LimitUses

__all__ = ["app", "ask_hub", "budget_lines"]

app = typer.Typer(
    name="hub",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Manage the hub, the process that enforces quotas shared by your processes on this host.",
)
_Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of a quota, as shown by `hub status`.")
]
_NONE = "no hub is running; the first process that needs a hub starts one"


@app.command(cls=Command)
def status(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, on one line.")] = False
) -> None:
    """Show each quota, the programs that share it, and their waiting and running calls.

    Exits with 1 if no hub is running or the hub cannot be reached.
    """
    answer = _ask({"command": "status"})
    if as_json:
        typer.echo(json.dumps(answer))
        return
    minutes = (time.time() - answer["started"]) / 60
    hub = f"hub {answer['version']}, process {answer['pid']}, running for {minutes:,.0f} min"
    typer.echo(printable(f"{hub}, at {answer['socket']}"))
    if answer["kept"]:
        typer.echo("the hub runs until you stop it: aioapiqueue hub stop")
    if answer["problem"]:
        say(printable(answer["problem"]))
    if not answer["quotas"]:
        typer.echo("no quota is in use")
    for quota in answer["quotas"]:
        _show(quota)


def _show(quota: dict[str, Any]) -> None:
    out = console()

    def line(text: str) -> None:
        out.print(printable(text), markup=False)

    kind = {"run": " (run)", "name": ""}.get(quota["kind"], "")
    limits = ", ".join(quota["limits"]) or "no overall limit"
    paused = " (paused)" if quota["paused"] else ""
    typer.echo()
    line(f"{quota['name']}{kind}{paused}: {limits}")
    lanes = {key: limits for key, limits in quota["lanes"].items() if limits}
    for key, own in list(lanes.items())[:_MOST_LANES]:
        line(f"  {key}: {', '.join(own)}")
    if len(lanes) > _MOST_LANES:
        line(f"  and {len(lanes) - _MOST_LANES:,} more lanes")
    for text in budget_lines(quota.get("budgets", {}), most=_MOST_BUDGETS, width=out.width):
        line(text)
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("  program", overflow="fold")
    for name in ("process", "waiting", "running", "started"):
        table.add_column(name, justify="right")
    for one in quota["clients"]:
        table.add_row(
            Text(f"  {printable(one['program'])}"),
            str(one["pid"]),
            *(f"{one[name]:,}" for name in ("waiting", "running", "started")),
        )
    if quota["clients"]:
        out.print(table)
    else:
        out.print("  no program is using it")


def budget_lines(budgets: Mapping[str, LimitUses], *, most: int, width: int) -> Iterator[str]:
    """Yield how much is used of a quota's budgets and calendar limits.

    Args:
        budgets: the use of the limits of each lane, and ("") of the quota's own, as the hub
            reports it.
        most: the number of limits to list: first the quota's own, then those with the least left.
        width: columns of the terminal. The figures get a line of their own if there is no room.
    """
    uses = least_left_first(budgets.items())
    for one in uses[:most]:
        lane = f"{printable(one.lane)}, " if one.lane else ""
        name, use = f"  {lane}{printable(one.limit)}:", str(one)
        yield from [f"{name} {use}"] if len(name) + 1 + len(use) <= width else [name, f"    {use}"]
    if len(uses) > most:
        yield f"  and {pluralize(len(uses) - most, 'more budget')}"


_MOST_BUDGETS = 6
"""Number of budgets of which the use is listed; each tenant may have one."""
_MOST_LANES = 12
"""Number of lanes that are listed; a preset of AWS has hundreds."""


@app.command(cls=Command)
def start() -> None:
    """Start the hub, unless it is running, and keep it running until `hub stop`.

    You need this only for programs that cannot start a hub themselves, such as uWSGI.

    Exits with 1 if the hub cannot be started.
    """
    try:
        check_system()
        reached = reach({"command": "keep"}, override=os.environ.get(HUB_DIR))
    except (SharedError, Unreachable, RuntimeError) as error:
        refuse(str(error), FAILED)
    reached.sock.close()  # the hub goes on without clients, because of "keep"
    typer.echo(
        f"the hub is running: process {reached.welcome['pid']}, at {reached.welcome['socket']}"
    )


@app.command(cls=Command)
def stop() -> None:
    """Stop the hub. Queues that still need a hub start another.

    Calls that have started are kept in a file and still count against their limits.

    Exits with 1 if no hub is running or the hub cannot be reached.
    """
    answer = _ask({"command": "stop"}, none="no hub is running")
    typer.echo(f"the hub has stopped (process {answer['pid']})")
    if answer["queues"]:
        queues = pluralize(answer["queues"], "queue")
        say(f"{queues} used the hub and will start another when needed")


@app.command(cls=Command)
def reset(name: _Name) -> None:
    """Reset a quota: forget the calls that have used it, so that its full limits are available.

    Rates lowered by throttling, and limits read from responses, are kept. To reset a quota that no
    program uses now, start the hub first (`hub start`).

    Exits with 1 if no hub is running, the quota is unknown, or the hub's file cannot be written.
    """
    _change(name, "reset")
    typer.echo(f"{printable(name)}: reset")


@app.command(cls=Command)
def pause(name: _Name) -> None:
    """Pause a quota: start no more of its calls, in any process, until you resume it.

    Running calls continue. The pause ends when the last process that uses the quota ends.

    Exits with 1 if no hub is running or no program uses the quota.
    """
    _change(name, "pause")
    typer.echo(f"{printable(name)}: paused; to resume: aioapiqueue hub resume {as_argument(name)}")


@app.command(cls=Command)
def resume(name: _Name) -> None:
    """Resume a quota: end all its pauses, including those of programs.

    Exits with 1 if no hub is running or no program uses the quota.
    """
    _change(name, "resume")
    typer.echo(f"{printable(name)}: resumed")


def _change(name: str, what: str) -> None:
    start = "no hub is running: start it with aioapiqueue hub start, then run this command again"
    none = start if what == "reset" else _NONE
    if not _ask({"command": what, "quota": name}, none=none)["known"]:
        why = f"unknown quota {name!r}, or no program is using it"
        refuse(f"{why}: to list the quotas, run aioapiqueue hub status", FAILED)


def _ask(hello: dict[str, Any], *, none: str = _NONE) -> dict[str, Any]:
    try:
        answer = ask_hub(hello, none=none)
    except (RuntimeError, ValueError) as error:
        refuse(str(error))
    if isinstance(answer, str):
        refuse(answer, FAILED)
    return answer


def ask_hub(hello: dict[str, Any], *, none: str) -> dict[str, Any] | str:
    """Return the host hub's answer to a request, or a message why there is none.

    Args:
        hello: the request.
        none: the message if no hub is running.

    Raises:
        RuntimeError: this system has no Unix domain sockets.
        ValueError: `AIOAPIQUEUE_HUB_DIR` is invalid.
    """
    check_system()
    place = HubLocation(os.environ.get(HUB_DIR))
    try:
        answer = command(place, hello)
    except (OSError, ValueError) as error:  # a ValueError: the answer is no JSON
        return f"cannot reach the hub: {error}"
    if answer is None:
        return none
    if "refused" in answer:
        return f"the hub refused the request: {printable(answer['refused'])}"
    return answer
