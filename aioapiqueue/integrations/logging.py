"""Events of queues as log records of the standard library.

>>> from aioapiqueue.integrations.logging import LoggingObserver
>>> queue = ApiQueue("10/s", name="crm", observers=[LoggingObserver()])

A healthy run logs nothing above INFO. Warnings and errors report throttled calls, refused calls,
timeouts, malformed responses, and a lost connection to the server of a shared quota. A
`threshold` event is a warning at 80 and 100 %, and INFO at 50 %; each is logged, as it comes only
once. Of other kinds, each queue logs at most one event per second; the next record of that kind
contains the number of events that were skipped.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, get_args

from aioapiqueue.spi import events, grammar, printable

if TYPE_CHECKING:
    from aioapiqueue import Event

__all__ = ["LoggingObserver"]

_LEVELS: dict[events.EventKind, int] = {
    "throttled": logging.WARNING,
    "backed_off": logging.WARNING,
    "refused_by_server": logging.WARNING,
    "malformed": logging.WARNING,
    "timed_out": logging.WARNING,
    "refused": logging.WARNING,
    "threshold": logging.WARNING,
    "disconnected": logging.ERROR,
    "reconnected": logging.INFO,
    "limits_changed": logging.INFO,
    "paused": logging.INFO,
    "resumed": logging.INFO,
    "held": logging.INFO,
}
"""Levels by kind of event. All other kinds are DEBUG: every call has such events."""
_INTERVAL = 1.0
"""Least seconds between two records of one kind."""
_WARNED_OF = 0.8
"""The least share of a budget or calendar limit whose use is a warning."""
_CALL_FIELDS = ("priority", "cost", "costs", "waited")
"""Fields that have no meaning if the event belongs to no call."""


class LoggingObserver:
    """Log the events of queues.

    For JSON formatters, each record has the event's fields in `record.aioapiqueue`, as JSON types.

    Args:
        logger: the logger; default: `logging.getLogger("aioapiqueue")`.
        calls: whether to also log every event of every call, at level DEBUG; default False.
    """

    def __init__(self, logger: logging.Logger | None = None, *, calls: bool = False) -> None:
        self._logger = logging.getLogger("aioapiqueue") if logger is None else logger
        self.event_kinds: tuple[events.EventKind, ...] = (
            get_args(events.EventKind) if calls else tuple(_LEVELS)
        )
        """The kinds of events that are logged."""
        self._last: dict[tuple[str | None, events.EventKind], tuple[float, int]] = {}
        """By queue and kind: time of the last record, and the number of events skipped since."""

    def on_event(self, event: Event, /) -> None:
        """Log an event, or count it if the last record of its kind is less than a second old."""
        level = _LEVELS.get(event.kind, logging.DEBUG)
        if event.share is not None and event.share < _WARNED_OF:
            level = logging.INFO
        if event.origin == "learnt":
            level = logging.DEBUG  # many responses state limits
        if not self._logger.isEnabledFor(level):
            return
        skipped = 0
        # At level DEBUG, nothing is skipped; nor is what comes only once.
        if level > logging.DEBUG and event.share is None:
            place = event.queue, event.kind
            at, skipped = self._last.get(place, (float("-inf"), 0))
            # An earlier time comes from another event loop, which has another clock.
            if at <= event.at < at + _INTERVAL:
                self._last[place] = at, skipped + 1
                return
            self._last[place] = event.at, 0
        more = f" (and {skipped:,} more since the last record)" if skipped else ""
        extra = {"aioapiqueue": _plain(event)}
        self._logger.log(level, "%s%s", _in_words(event), more, extra=extra)


def _plain(event: Event) -> dict[str, object]:
    """Return the fields of an event, in types of JSON."""
    fields: dict[str, object] = {}
    for name, value in event._asdict().items():
        if value is None or (event.call is None and name in _CALL_FIELDS):
            continue
        if name == "costs":
            fields[name] = dict(value)
        elif name in ("keys", "limits"):
            # Calls without a key have the key None.
            if value and value != (None,):
                fields[name] = [_as_json(one) for one in value]
        else:
            fields[name] = _as_json(value)
    return fields


def _as_json(value: object) -> object:
    return value if isinstance(value, str | int | float) else str(value)


def _in_words(event: Event) -> str:
    """Return an event as one line of readable text, even if a key has line breaks."""
    text = f"queue {event.queue or '(no name)'}: {event.kind.replace('_', ' ')}"
    if event.key is not None:
        text += f" {event.key}"
    details = {
        "retry after": event.retry_after,
        "for": event.seconds,
        "waited": event.waited or None,
        "ran": event.duration,
    }
    times = [
        f"{name} {grammar.duration_text(value)}"
        for name, value in details.items()
        if value is not None
    ]
    if event.kind == "synced":
        times.append(f"{event.remaining:g} {event.unit} remain")
    if event.share is not None:
        used = ", ".join(map(str, event.limits))
        left = grammar.count_text(event.remaining or 0, event.unit or "")
        times.append(f"{event.share:.0%} of {used} is used; {left} left")
    elif event.limits:
        times.append(", ".join(map(str, event.limits)))
    return printable(f"{text} ({'; '.join(times)})" if times else text)
