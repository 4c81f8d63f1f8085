"""Handles the time during which the authority over a queue's limits cannot be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.spi import algorithms, seam

if TYPE_CHECKING:
    from aioapiqueue import Rate
    from aioapiqueue.exceptions import SharedError
    from aioapiqueue.spi import Host


class Unreachable(Exception):  # noqa: N818 - never leaves the library
    """The authority does not reply at present. The text has the reason, without credentials."""


class Outage:
    """The outages of one queue: counted, reported once each, and bridged by the fallback rate.

    Args:
        host: the queue's dispatcher.
        fallback: the local rate during an outage; None: calls wait.
        catch_up: seconds by which late calls may be made up for.

    Attributes:
        faults: number of requests, or attempts to connect, that failed.
        fault: why the authority cannot be reached; "": it can.
        fallback: the state of the fallback rate while it is in force, else None.
    """

    def __init__(self, host: Host, fallback: Rate | None, *, catch_up: float) -> None:
        self.faults = 0
        self.fault = ""
        self._lost = self._meanwhile = ""
        self._host = host
        self._rate = fallback
        self._catch_up = catch_up
        self.reset()

    def reset(self) -> None:
        """Start on another event loop, whose clock may differ."""
        self.fallback: algorithms.TokenBucket | None = None
        # One for all outages of a loop: each new one would allow another burst.
        self._bucket = None
        if self._rate is not None:
            self._bucket = algorithms.TokenBucket(self._rate, catch_up=self._catch_up)

    def begin(self, why: str, *, lost: str, until: str) -> None:
        """Note that the authority cannot be reached.

        Args:
            why: the reason.
            lost: what the log and observers report.
            until: the end of the sentence "calls wait until ...".
        """
        is_first, self.fault = not self.fault, why
        if self._bucket is not None and self.fallback is None:
            self._bucket.on_idle(self._host.loop.now())  # the time since the last outage counts
            self.fallback = self._bucket
        if is_first:
            do = "wait" if self._rate is None else f"continue at the fallback rate of {self._rate}"
            self._report(lost, f"{do} until {until}")

    def refuse(self, error: SharedError) -> None:
        """Fail all waiting calls: the authority refuses this queue until the user corrects that."""
        is_first, self.fault = not self.fault, str(error)
        self.fallback = None  # waiting does not help, and neither would a slower rate
        if is_first:
            self._report(self.fault, "fail with SharedError until this is corrected")
        for call in list(self._host.waiters):  # a copy: `fail` removes calls
            self._host.fail(call, "refused", error)

    def _report(self, lost: str, meanwhile: str) -> None:
        # Before the event: its log line is made of them (`snapshot`).
        self._lost, self._meanwhile = lost, meanwhile
        self._host.emit("disconnected")

    def end(self) -> None:
        """Note that the authority answers."""
        if self.fault:
            self.fault, self.fallback = "", None
            self._host.emit("reconnected")

    def stats(
        self, *, lanes: int, rate: float, paused_until: float, held_until: float, asks: int
    ) -> seam.LimiterStats:
        """Return a limiter's figures; only the authority knows what remains.

        Args:
            lanes: number of lanes in memory.
            rate: calls per second after slow-downs; inf: the limits apply unchanged.
            paused_until: the instant at which a pause ends.
            held_until: the instant at which a hold of everything ends.
            asks: number of requests sent.
        """
        return seam.LimiterStats(
            lanes=lanes,
            remaining={},
            budgets={},
            rate=rate,
            paused_until=paused_until,
            held_until=held_until,
            asks=asks,
            faults=self.faults,
            fault=self.fault,
            lost=self._lost,
            meanwhile=self._meanwhile,
        )
