"""`HostSchedule`: one quota for all processes of a user on one host."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from aioapiqueue._shared.host.connection import HubLink
from aioapiqueue._shared.host.directory import HUB_DIR
from aioapiqueue._shared.host.limiter import HostLimiter
from aioapiqueue._shared.host.messages import Terms
from aioapiqueue._shared.limit_table import LimitTable
from aioapiqueue._shared.local_sockets import check_system
from aioapiqueue._shared.options import as_fallback, check_unused, yielding
from aioapiqueue._shared.statement_json import check_key

if TYPE_CHECKING:
    from aioapiqueue import Rate
    from aioapiqueue._shared.host.session import Delay
    from aioapiqueue.spi import Host, seam

__all__ = ["HostSchedule"]

_LONGEST_NAME = 1000


class HostSchedule:
    """Share one quota among all processes of a user on one host.

        queue = ApiQueue("20/s", lanes={"search": "2/s"}, schedule=HostSchedule("crm"))

    Use it for the workers of a web server, a `multiprocessing` pool or cron jobs. No server is
    needed: the first process starts the host hub, a small process that exits a few seconds after
    the last one that uses it. Every limit and lane applies to all processes together, and so do
    `concurrency`, `set_rate`, `pause`, throttling and the remaining quota given to `sync`.

    If processes give different limits for one name or lane, a call obeys all of them: the strictest
    limit applies. Processes take turns among calls of the same priority; a more urgent call goes
    first, whichever process it waits in. `order` and timeouts apply within each process.

    If the hub dies, calls wait until the next one has started, or continue at `fallback`. A process
    that dies frees its permits at once. A waiting caller can be cancelled at any time: a slot
    granted meanwhile is refunded.

    `try_slot` always raises `WouldWait`, because only the hub knows whether there is room.
    `aioapiqueue hub status` (extra `cli`) shows every quota and its users.

    Args:
        name: the quota's name, the same in all its processes; 1 to 1,000 characters.
        fallback: the rate of this queue while a hub that died is replaced, such as `"1/s"`. By
            default, calls wait. It does not apply if no hub can be started or a hub of another
            version runs: calls then raise `SharedError` at once.

    Raises:
        TypeError: `name` is not a string, or `fallback` is not a rate of calls.
        ValueError: `name` is empty or too long, or `fallback` is malformed.
        RuntimeError: this system has no Unix domain sockets.
    """

    kind = "name"
    """The namespace of the name: quotas of different kinds never share."""
    program: str | None = None
    """Name of the program in `hub status`; None: that of the process."""

    def __init__(self, name: str, *, fallback: str | Rate | None = None) -> None:
        check_system()
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        if not 0 < len(name) <= _LONGEST_NAME:
            raise ValueError(
                f"name must have 1 to {_LONGEST_NAME:,} characters, not {len(name):,}. Name the "
                'quota, such as "crm" or "openai gpt-5"'
            )
        self.name = name
        self.fallback = as_fallback(fallback)
        self.delays: dict[Delay, tuple[int, float]] = {}
        """Waits caused by limits of other processes: number of calls and total seconds."""
        self.shared_with: dict[str, None] = {}
        """Other runs that used the quota at the same time, by first appearance."""
        self._in_use = False

    def make_limiter(self, host: Host, settings: seam.LimitSettings) -> HostLimiter:
        """Create the limiter of one queue; see `LimiterFactory`. `ApiQueue` calls this.

        Raises:
            RuntimeError: another queue already uses this schedule.
            TypeError: the `Adaptive` has its own recovery curve, or a lane's key is not text, a
                number or a tuple of these.
        """
        check_unused(self, in_use=self._in_use)
        policy = yielding(settings.adaptive)
        for key in settings.lanes:
            if key is None:  # sent to the hub, None means the whole queue
                raise TypeError(
                    "a lane with the key None cannot be shared: give its calls another key"
                )
            check_key(key)
        table = LimitTable(host, settings, shares_all=True)
        terms = Terms(
            tuple(settings.limits),
            {key: tuple(own) for key, own in settings.lanes.items()},
            None if settings.concurrency == math.inf else int(settings.concurrency),
            settings.catch_up,
            policy,
            tuple(host.units.names),
        )
        self._in_use = True  # only now: after an error above, the schedule can be used again
        return HostLimiter(
            host,
            self.link(host, terms),
            table,
            fallback=self.fallback,
            catch_up=settings.catch_up,
            delays=self.delays,
            shared_with=self.shared_with,
        )

    def link(self, host: Host, terms: Terms) -> HubLink:
        """Create the connection of one queue to the hub. Tests replace this."""
        directory = os.environ.get(HUB_DIR)
        quota = (self.kind, self.name)
        return HubLink(host, quota, terms, directory=directory, program=self.program)

    def __repr__(self) -> str:
        return f"HostSchedule({self.name!r})"
