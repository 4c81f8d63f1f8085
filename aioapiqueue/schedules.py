"""The schedule of a quota that all processes of a user share on one host."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from aioapiqueue._fleet.limits import LimitTable
from aioapiqueue._fleet.options import as_fallback, yielding
from aioapiqueue._host.connection import HubLink
from aioapiqueue._host.limiter import HostLimiter
from aioapiqueue._host.place import HUB_DIR, check_system
from aioapiqueue._host.wire import Terms, check_key

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from aioapiqueue._host.link import Link
    from aioapiqueue._host.session import Delay
    from aioapiqueue._lanes import AdaptivePolicy
    from aioapiqueue._limiter import Host
    from aioapiqueue._rate import Limit, Rate

__all__ = ["HostSchedule"]

_LONGEST_NAME = 1000


class HostSchedule:
    """Keeps the limits of a queue together with all others of this name on this host.

        queue = ApiQueue("20/s", lanes={"search": "2/s"}, schedule=HostSchedule("crm"))

    For the processes of one user: the workers of a web server, `multiprocessing`, cron jobs. They
    need no server: the first of them starts a small process, the hub, which ends by itself a few
    seconds after the last one. Every limit and lane holds for all of them together, in every unit,
    and so do `concurrency`, `set_rate`, `pause`, push-back and what `sync` says.

    Limits add up: where processes give different ones for one name, or one lane, a call comes under
    all of them, equal ones once, so that the strictest decides. Calls of one priority are served in
    turns of their processes; which of its own calls a process starts is its own matter (`order`),
    and so are time-outs. A more urgent call goes first, in whatever process it waits.

    If the hub dies, calls wait while another one is started, which takes a moment. A process that
    dies gives back its permits at once. `aioapiqueue hub status` (with the extra `cli`) shows who
    uses what.

    `try_slot` of such a queue always raises `WouldWait`, as the hub has to be asked.

    Args:
        name: of the quota, as all its processes call it.
        fallback: the rate of this queue alone while there is no hub, as it has just died; default:
            its calls wait. (Where none can be started, or another version's runs, calls raise
            `SharedError` at once.)

    Raises:
        TypeError: a value of another type.
        ValueError: an empty or very long name.
        RuntimeError: this system has no Unix domain sockets.
    """

    kind = "name"
    """What the name is one of: quotas of other kinds have names of their own."""
    program: str | None = None
    """What others are told that this process is; None: its own name."""

    def __init__(self, name: str, *, fallback: str | Rate | None = None) -> None:
        check_system()
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        if not 0 < len(name) <= _LONGEST_NAME:
            raise ValueError(
                f"name must have 1 to {_LONGEST_NAME:,} characters, not {len(name):,}: name the "
                'quota, such as "crm" or "openai gpt-5"'
            )
        self.name = name
        self.fallback = as_fallback(fallback)
        self.delays: dict[Delay, tuple[int, float]] = {}
        """Of limits of others that made calls wait: how many, and how long in all."""
        self._in_use = False

    def make_limiter(
        self,
        host: Host,
        limits: Sequence[Limit],
        lanes: Mapping[Hashable, Sequence[Limit]],
        *,
        concurrency: float,
        catch_up: float,
        adaptive: AdaptivePolicy | None,
    ) -> HostLimiter:
        """Return the part of one queue in the quota; called by `ApiQueue`.

        Args:
            host: the queue's dispatcher.
            limits: of all calls together.
            lanes: limits of single keys and patterns.
            concurrency: how many bodies may run at once, of all processes; inf: any number.
            catch_up: seconds by which late calls may be made up for.
            adaptive: how to slow down on push-back.

        Raises:
            RuntimeError: another queue has it already.
            TypeError: an `Adaptive` with a curve of its own, which the hub has not; or the key
                of a lane that is no text, number or tuple of them.
        """
        if self._in_use:
            raise RuntimeError(f"{self!r} is in use: create one for each queue, with the same name")
        policy = yielding(adaptive)
        for key in lanes:
            if key is None:
                raise TypeError("a lane for the key None cannot be shared: give those calls a key")
            check_key(key)
        table = LimitTable(
            limits,
            lanes,
            concurrency=concurrency,
            catch_up=catch_up,
            adaptive=adaptive,
            report=host.report,
            units=host.units,
            to_wall=host.to_wall,
        )
        terms = Terms(
            tuple(limits),
            {key: tuple(own) for key, own in lanes.items()},
            None if concurrency == math.inf else int(concurrency),
            catch_up,
            policy,
            tuple(host.units.names),
        )
        self._in_use = True
        link = self.link(host, terms)
        return HostLimiter(
            host, link, table, fallback=self.fallback, catch_up=catch_up, delays=self.delays
        )

    def link(self, host: Host, terms: Terms) -> Link:
        """Return the way to the hub, of one queue; for tests."""
        directory = os.environ.get(HUB_DIR)
        quota = (self.kind, self.name)
        return HubLink(host, quota, terms, directory=directory, program=self.program)

    def __repr__(self) -> str:
        return f"HostSchedule({self.name!r})"
