"""Makes the plan of a run from its options, its environment and the files that they name."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from aioapiqueue import Rate
from aioapiqueue.registry import Registry
from aioapiqueue.spi import CALLS
from aioapiqueue_run.cli.console import not_installed
from aioapiqueue_run.cli.hosts import host_problems
from aioapiqueue_run.cli.run.errors import NotStarted
from aioapiqueue_run.cli.run.gates import RunGate, read_gate
from aioapiqueue_run.cli.run.gateway import is_installed
from aioapiqueue_run.cli.run.launch import examine
from aioapiqueue_run.cli.run.log import Log
from aioapiqueue_run.cli.run.model import RunPlan
from aioapiqueue_run.cli.run.on_host import OnHost
from aioapiqueue_run.cli.run.output_file import open_files
from aioapiqueue_run.cli.run.shared_server import SHARED_VARIABLE, Shared
from aioapiqueue_run.hub.spi import QueueRecords

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue_run.cli.run.launch import Launch
    from aioapiqueue_run.cli.run.options import RunOptions

__all__ = ["make_plan"]


def make_plan(options: RunOptions) -> RunPlan:
    """Return the plan of a run; open its files, but start and connect nothing.

    Raises:
        NotStarted: an option, a file or the environment forbids the run. The error contains each
            problem, with its remedy.
    """
    _check_system()
    gates = _gates(options)
    server = _shared(options)
    # A dry run paces nothing, and so shares nothing.
    shared = None if options.dry_run else server
    alone = options.private or options.dry_run or shared is not None
    on_host = None if alone else OnHost(options.program)
    queues = QueueRecords(paced=not options.dry_run)
    registry = _registry(options, shared or on_host, queues)
    launch = examine(
        options.command,
        any_=options.any is True or bool(registry.hosts),
        isolate=options.isolate,
    )
    gateway = _gateway(options, launch, registry)
    # A URL from the variable is not repeated: it will be set again. Another one has no password.
    repeated = server is not None and _shared_by(options) != SHARED_VARIABLE
    given = dataclasses.replace(options, shared=str(server) if repeated else None)
    # Last, so that no error above leaves an empty file.
    files = open_files({"--log": options.log, "--json": options.json, "--report": options.report})
    return RunPlan(
        launch=launch,
        registry=registry,
        log=Log(files.get("--log")),
        files=files,
        shared=shared,
        on_host=on_host,
        given=given,
        gates=gates,
        queues=queues,
        gateway=gateway,
    )


def _check_system() -> None:
    if os.name != "posix":
        raise NotStarted(f"run does not work on {sys.platform}: use WSL")
    if hub := os.environ.get("AIOAPIQUEUE_HUB"):
        raise NotStarted(
            "this command is already inside an aioapiqueue run, and a second run would override "
            f"its limits; nothing was started. If that run has ended: unset AIOAPIQUEUE_HUB ({hub})"
        )


@contextlib.contextmanager
def _invalid(option: str = "") -> Iterator[None]:
    """Raise `NotStarted` for a `ValueError`, with the option before its message."""
    try:
        yield
    except ValueError as error:
        raise NotStarted(f"{option}{error}") from None


def _gates(options: RunOptions) -> list[RunGate]:
    """Return the gates of `--fail-on`; refuse gates that are invalid or can never fail."""
    found: list[RunGate] = []
    problems: list[str] = []
    for text in options.fail_on or ():
        try:
            found.append(read_gate(text, dry_run=options.dry_run))
        except ValueError as error:
            problems.append(f"--fail-on {error}")
    if problems:
        raise NotStarted("\n".join(problems))
    return found


def _shared_by(options: RunOptions) -> str:
    """Return what names the shared server: the option, or the environment variable."""
    return SHARED_VARIABLE if options.shared == os.environ.get(SHARED_VARIABLE) else "--shared"


def _shared(options: RunOptions) -> Shared | None:
    """Return the server that shares the limits, not connected yet; None without one."""
    url, fallback, rate = options.shared, options.fallback, None
    if url is None:
        if fallback is not None:
            raise NotStarted(f"--fallback needs --shared, or {SHARED_VARIABLE} in the environment")
        return None
    name = _shared_by(options)
    if options.private:
        raise NotStarted(f"--private and {name} cannot be combined: remove one of them")
    if importlib.util.find_spec("redis") is None:
        raise NotStarted(f"{name} needs {not_installed('redis-py', 'redis', 'redis')}")
    from aioapiqueue_run.cli.run.shared_address import read_address  # noqa: PLC0415 - the extra

    with _invalid(f"{name}: "):
        address = read_address(url)
    if fallback is not None:
        with _invalid("--fallback: "):
            rate = Rate.parse(fallback)
        if rate.unit != CALLS:
            raise NotStarted(f"--fallback: {fallback!r} does not count calls: remove {rate.unit!r}")
    return Shared(address, rate)


def _registry(
    options: RunOptions, shared: Shared | OnHost | None, queues: QueueRecords
) -> Registry:
    """Return the limits of a run; refuse a run without any."""
    file, share, check = options.limits, options.share, not options.no_check
    preset = options.preset or ("aws" if share or options.has_no_limit else None)
    if share is not None and preset == "none":
        raise NotStarted("--share cannot be combined with --preset none: remove one of them")
    base = None
    with _invalid():
        if file:
            base = Registry.load(file, preset=preset, share=share, check=check)
        elif preset:
            base = Registry.parse("", preset=preset, share=share)
        registry = Registry.from_options(
            options.limit or [],
            base=base,
            check=check,
            adaptive=options.adaptive,
            observers=[queues] if shared is None else [shared.outages, queues],
            schedules=shared.schedule if shared else None,
        )
    if base is not None and not list(registry):
        raise NotStarted(
            f"{file or '--preset none'} contains no limits; see aioapiqueue docs limits"
        )
    return registry


def _gateway(options: RunOptions, launch: Launch, registry: Registry) -> bool:
    """Return whether to start the gateway, which must be possible if something needs it."""
    isolate, wanted = options.isolate, options.any
    if isolate and sys.platform != "linux":
        raise NotStarted(f"--isolate needs Linux, and this is {sys.platform}: use --any")
    if problems := host_problems(registry):
        raise NotStarted("\n".join(problems))
    # What needs the gateway, as the start of an error message.
    needs = ["--isolate"] * isolate + ["--any"] * (wanted is True)
    needs += [f"the limit of {host}" for host in registry.hosts]
    if needs and wanted is False:
        raise NotStarted(f"{needs[0]} and --no-any cannot be combined: remove one of them")
    if needs and not is_installed():
        extra = not_installed("the gateway extra", "gateway", "cryptography h11 http-sf")
        raise NotStarted(f"{needs[0]} needs {extra}")
    if wanted is None and not needs:
        return not launch.python and is_installed()
    return bool(needs)
