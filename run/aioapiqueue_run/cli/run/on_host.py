"""The host hub, through which a run shares its limits with this user's other runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from aioapiqueue import HostSchedule, SharedError
from aioapiqueue.schedules.spi import HUB_DIR, Unreachable, reach
from aioapiqueue_run.cli.run.errors import NotStarted
from aioapiqueue_run.cli.run.outages import Outages

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OnHost"]


class OnHost:
    """Gives each queue its schedule; `outages` observes the queues.

    Args:
        program: the name of the program that other runs see.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._schedules: list[HostSchedule] = []
        lost = "lost the host hub, which enforces the limits: calls wait for another hub"
        self.outages = Outages(lambda _: lost, "connected to the hub again")

    async def start(self, say: Callable[[str], None]) -> None:
        """Make sure that a hub runs, before anything else is started.

        Args:
            say: writes a message.

        Raises:
            NotStarted: no hub runs, and none can be started.
        """
        self.outages.say = say
        try:
            # If this is cancelled, the thread may still start a hub, which ends when it is unused.
            await to_thread.run_sync(_ensure_hub, abandon_on_cancel=True)
        except (SharedError, Unreachable) as error:
            why = f"{error}; nothing was started. To run without sharing limits: --private"
            raise NotStarted(why) from None

    def schedule(self, name: str) -> HostSchedule:
        """Return the schedule of a queue."""
        schedule = HostSchedule(name)
        # These quotas are separate from those of library users.
        schedule.kind, schedule.program = "run", self._program
        self._schedules.append(schedule)
        return schedule

    @property
    def shared_with(self) -> dict[str, list[str]]:
        """The queues that each other run used at the same time, by its program and process."""
        found: dict[str, list[str]] = {}
        for schedule in self._schedules:
            for whose in schedule.shared_with:
                found.setdefault(whose, []).append(schedule.name)
        return found

    def as_json(self) -> dict[str, Any]:
        """Return all figures for the JSON. Times are in seconds."""
        # The limits of other runs that delayed calls, the longest delay first.
        delays = [
            {"queue": schedule.name, **delay._asdict(), "calls": calls, "seconds": seconds}
            for schedule in self._schedules
            for delay, (calls, seconds) in schedule.delays.items()
        ]
        delays.sort(key=lambda one: -one["seconds"])
        return {"times_lost": self.outages.times, "delays": delays}


def _ensure_hub() -> None:
    """Connect to the hub, which starts it if none runs."""
    reach({"command": "status"}, override=os.environ.get(HUB_DIR)).sock.close()
