"""Records the calls of the three scans for the report of the demonstration."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from aioapiqueue import __version__
from aioapiqueue.recording.spi import Recording, as_iso
from aioapiqueue.spi import CALLS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue import Event, Rate
    from aioapiqueue.recording.spi import QueueRecord
    from aioapiqueue_run.demo.gate import Ec2Call

__all__ = ["Scans"]

_ONE_CALL = {CALLS: 1}


class Scans:
    """Records the calls of each scan: paced ones as queues report them, unpaced ones at the proxy.

    Throttled calls of all scans are counted at the proxy.
    """

    def __init__(self) -> None:
        self._recording: Recording | None = None
        self._records: dict[str, QueueRecord] = {}
        self._names: dict[str, str] = {}

    def begin(self, names: Mapping[str, str], limits: Mapping[str, Rate], served: Rate) -> None:
        """Begin the recording.

        Args:
            names: the names of the scans by their access keys.
            limits: the limits of the paced scans by their names.
            served: the account's limit for each action of EC2.
        """
        self._names = dict(names)
        recording = self._recording = Recording(now=time.monotonic(), began=time.time())
        for name in names.values():
            limit = limits.get(name)
            label = name if limit else f"{name}: EC2 calls (the account allows {served} per action)"
            self._records[name] = recording.record(
                label, paced=limit is not None, limits=(limit or served,)
            )

    def observer_for(self, name: str) -> _ScanObserver:
        """Return an observer of the queue of a scan."""
        return _ScanObserver(self, name)

    def count_start(self, name: str, waited: float, at: float) -> None:
        """Count a call of a scan that starts, if the scans have begun."""
        if self._recording is not None:
            counts = self._records[name].counts_of()
            self._recording.started(counts, _ONE_CALL, waited, at)

    def count_request(self, call: Ec2Call) -> None:
        """Count a request to EC2 at the proxy."""
        name = self._names.get(call.key)
        if name is None:  # the key of a bystander
            return
        record = self._records[name]
        if not record.paced:
            self.count_start(name, 0.0, call.arrived)
        if call.throttled:
            self._begun.tally(record.counts_of(), "throttled", call.arrived)

    def as_json(self, seconds_of: Mapping[str, float]) -> dict[str, Any]:
        """Return all figures of a report except its verdict.

        Args:
            seconds_of: the duration of each scan.
        """
        recording, now = self._begun, time.monotonic()
        found = recording.as_json(now)
        seconds = found["times"]["seconds"]
        # The scans run independently, so estimates for all of them together mean nothing.
        found["times"] = {"seconds": seconds}
        found["queues"] = [
            record.as_json(seconds_of[name]) for name, record in self._records.items()
        ]
        return {
            "version": __version__,
            "start": as_iso(recording.began),
            "end": as_iso(recording.began + seconds),
            "seconds": seconds,
            **found,
        }

    @property
    def _begun(self) -> Recording:
        assert self._recording is not None  # noqa: S101 - the scans have begun
        return self._recording


class _ScanObserver:
    """Counts the calls of one queue.

    Args:
        scans: the scans, which may begin later.
        name: the name of the scan.
    """

    event_kinds = ()

    def __init__(self, scans: Scans, name: str) -> None:
        self._scans = scans
        self._name = name

    def on_event(self, event: Event, /) -> None:
        """Ignore events: `event_kinds` is empty."""

    def record_start(self, _keys: Sequence[object], waited: float, /) -> None:
        """Count a call that starts."""
        self._scans.count_start(self._name, waited, time.monotonic())

    def record_end(
        self, _keys: Sequence[object], _waited: float, _duration: float, _outcome: str, /
    ) -> None:
        """Count nothing: the proxy and the scan count failures."""
