"""`aioapiqueue hub`: what the hub of this host keeps, and how to end it."""

from __future__ import annotations

import json
import os
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from aioapiqueue._fleet.messages import Unreachable
from aioapiqueue._host.place import HUB_DIR, Place, check_system
from aioapiqueue._host.reach import command, reach
from aioapiqueue._printable import printable
from aioapiqueue.cli._console import FAILED, as_argument, console, pluralize, refuse, say, wrapped
from aioapiqueue.cli._help import Command, Group
from aioapiqueue.exceptions import SharedError

__all__ = ["app"]

app = typer.Typer(
    name="hub",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The process that keeps quotas for all processes of this user on this host.",
)
_NONE = "no hub runs: the first process that needs one starts it"


@app.command(cls=Command)
def status(
    *, as_json: Annotated[bool, typer.Option("--json", help="As JSON, on one line.")] = False
) -> None:
    """Show who shares which quota, and how many of its calls wait and run.

    Exits with 1 if no hub runs, or it cannot be reached.
    """
    answer = _ask({"command": "status"})
    if as_json:
        typer.echo(json.dumps(answer))
        return
    answer = _printable(answer)
    minutes = (time.time() - answer["started"]) / 60
    typer.echo(
        f"hub {answer['version']}, process {answer['pid']}, for {minutes:,.0f} min, at "
        f"{answer['socket']}"
    )
    if answer["kept"]:
        typer.echo("it stays until aioapiqueue hub stop")
    if answer["problem"]:
        say(wrapped(answer["problem"]))
    if not answer["quotas"]:
        typer.echo("it keeps no quota now")
    for quota in answer["quotas"]:
        _show(quota)


def _printable(answer: Any) -> Any:  # noqa: ANN401 - JSON
    """Return an answer with all names in it as a terminal may show them."""
    if isinstance(answer, dict):
        return {printable(key): _printable(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [_printable(one) for one in answer]
    return printable(answer) if isinstance(answer, str) else answer


def _show(quota: dict[str, Any]) -> None:
    out = console()
    kind = {"run": " of `run`", "name": ""}.get(quota["kind"], "")
    limits = ", ".join(quota["limits"]) or "no limit of all calls together"
    paused = " (paused)" if quota.get("paused") else ""  # an earlier hub does not say
    out.print(f"\n{quota['name']}{kind}{paused}: {limits}", markup=False)
    lanes = {key: limits for key, limits in quota["lanes"].items() if limits}
    for key, own in list(lanes.items())[:_MOST_LANES]:
        out.print(f"  {key}: {', '.join(own)}", markup=False)
    if len(lanes) > _MOST_LANES:
        out.print(f"  and {len(lanes) - _MOST_LANES:,} more lanes")
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("  program", overflow="fold")
    for name in ("process", "waiting", "running", "started"):
        table.add_column(name, justify="right")
    for one in quota["clients"]:
        table.add_row(
            f"  {one['program']}",
            str(one["pid"]),
            *(f"{one[name]:,}" for name in ("waiting", "running", "started")),
        )
    if quota["clients"]:
        out.print(table)
    else:
        out.print("  nobody uses it now")


_MOST_LANES = 12
"""Lanes that are listed; a preset of AWS has hundreds."""


@app.command(cls=Command)
def start() -> None:
    """Start the hub, if none runs, and have it stay until `hub stop`.

    That is only needed where a program is no Python that could start it itself, as uWSGI is.

    Exits with 1 if it cannot be started.
    """
    _check()
    try:
        reached = reach({"command": "keep"}, override=os.environ.get(HUB_DIR))
    except (SharedError, Unreachable) as error:
        refuse(wrapped(str(error)), FAILED)
    reached.sock.close()
    typer.echo(f"the hub runs: process {reached.welcome['pid']}, at {reached.welcome['socket']}")


@app.command(cls=Command)
def stop() -> None:
    """End the hub. Queues that still need it start another one.

    What was let through is kept in a file, and still counts.

    Exits with 1 if no hub runs, or it cannot be reached.
    """
    answer = _ask({"command": "stop"}, none="no hub runs: there is nothing to stop")
    typer.echo(f"the hub has ended (process {answer['pid']})")
    if answer["queues"]:
        queues = pluralize(answer["queues"], "queue")
        say(wrapped(f"{queues} used it, and will start another one when needed"))


@app.command(cls=Command)
def reset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `hub status` shows it.")],
) -> None:
    """Forget what a quota has let through: its windows and bursts are as new.

    What push-back has lowered, and what a server has said, stays. For a quota that nobody uses now,
    start a hub first (`hub start`).

    Exits with 1 if no hub runs, nothing is known of a quota of that name, or the file of what was
    let through cannot be written to.
    """
    if not _ask({"command": "reset", "quota": name})["known"]:
        refuse(f"nothing is known of a quota {name!r} (see aioapiqueue hub status)", FAILED)
    typer.echo(f"{printable(name)}: forgotten")


@app.command(cls=Command)
def pause(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `hub status` shows it.")],
) -> None:
    """Let nothing of a quota start, in any process, until it is resumed.

    What runs goes on. When the last process that uses it has ended, the pause is over, too.

    Exits with 1 if no hub runs, or nobody uses a quota of that name.
    """
    _set_paused(name, "pause")
    typer.echo(f"{printable(name)}: paused, until: aioapiqueue hub resume {as_argument(name)}")


@app.command(cls=Command)
def resume(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `hub status` shows it.")],
) -> None:
    """End all pauses of a quota, those of its programs, too.

    Exits with 1 if no hub runs, or nobody uses a quota of that name.
    """
    _set_paused(name, "resume")
    typer.echo(f"{printable(name)}: goes on")


def _set_paused(name: str, what: str) -> None:
    if not _ask({"command": what, "quota": name})["known"]:
        refuse(f"nobody uses a quota {name!r} now (see aioapiqueue hub status)", FAILED)


def _check() -> None:
    try:
        check_system()
    except RuntimeError as error:
        refuse(str(error))


def _ask(hello: dict[str, Any], *, none: str = _NONE) -> dict[str, Any]:
    _check()
    try:
        answer = command(Place(os.environ.get(HUB_DIR)), hello)
    except json.JSONDecodeError as error:
        why = f"the hub's answer is no JSON ({error}): end the hub (aioapiqueue hub stop)"
        refuse(wrapped(why), FAILED)
    except ValueError as error:
        refuse(wrapped(str(error)))
    except OSError as error:
        refuse(wrapped(f"the hub cannot be reached: {error}"), FAILED)
    if answer is None:
        refuse(none, FAILED)
    if "refused" in answer:
        refuse(wrapped(f"the hub refuses: {printable(answer['refused'])}"), FAILED)
    return answer
