"""Translates messages into the form that the script `gcra.lua` reads, and its replies."""

from __future__ import annotations

import json
import math
import random
import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from aioapiqueue import Budget, Concurrency, Rate, Window
from aioapiqueue._shared.decisions import Closing, Decision
from aioapiqueue._shared.limit_table import key_of
from aioapiqueue._shared.redis import messages
from aioapiqueue._shared.redis.refusals import raises
from aioapiqueue._shared.redis.session import LASTING, REFUNDABLE
from aioapiqueue._shared.statement_json import plain_costs
from aioapiqueue.spi import CALLS, cost_units, statements

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from aioapiqueue import Limit, Ramp
    from aioapiqueue.adaptive import Adaptive

_LATEST = 2**53
"""Stands for an infinite timestamp or priority: the server counts exactly up to this number."""

_EXACT = 2**52
_DOUBLE, _WHOLE = struct.Struct(">d"), struct.Struct(">q")
(_BITS_OF_EXACT,) = _WHOLE.unpack(_DOUBLE.pack(_EXACT))


class Unreadable(Exception):  # noqa: N818 - never leaves the package
    """The server has data that aioapiqueue never writes. The text names it."""


class OtherVersion(Exception):  # noqa: N818 - never leaves the package
    """Another version of aioapiqueue uses this quota. The text names the version."""


class Evicts(Exception):  # noqa: N818 - never leaves the package
    """The server may evict keys, and so what was spent of a budget.

    Args:
        policy: its `maxmemory-policy`; "": it cannot be read.
    """

    def __init__(self, policy: str) -> None:
        super().__init__(policy)
        self.policy = policy


class Codec:
    """Translates for one queue.

    Args:
        settings: of its schedule.
        catch_up: seconds by which a slot may be used late.
        adaptive: how to slow down when a call is throttled.
        units: the places of units in costs.
    """

    def __init__(
        self,
        settings: messages.SharedSettings,
        *,
        catch_up: float,
        adaptive: Adaptive | None,
        units: cost_units.Units,
    ) -> None:
        # In braces: a cluster hashes only this part, so all keys of the quota are on one node.
        self.base = f"{{aioapiqueue:{settings.name}}}"
        """The prefix of all keys of the quota."""
        # A message is sent again until then, and may take a little longer to arrive.
        self._remembered = {
            lasts: _micro(seconds + 2 * settings.timeout)
            for lasts, seconds in ((False, REFUNDABLE), (True, LASTING))
        }
        self._adaptive = adaptive
        self._units = units
        times = {"catch_up": catch_up, "ahead": settings.ahead, "lease": settings.lease}
        self._constants = {name: _micro(seconds) for name, seconds in times.items()}

    def encode(
        self, envelope: messages.Envelope, *, checks_memory: bool = False
    ) -> tuple[list[str], str, str]:
        """Return the keys, the verb and the payload of a message.

        Args:
            envelope: the message.
            checks_memory: whether the server must refuse if it may evict keys. Default: False.
        """
        base, message = self.base, envelope.message
        # Each key is in the list, and the payload has its number in it: a script must be told all
        # keys that it uses, so that a cluster can find their node and an ACL can check them.
        keys = [base, f"{base}:who", f"{base}:places"]
        specs = [self.spec(lane, limits, keys) for lane, limits in envelope.limits.items()]
        _add_reports(specs, envelope)
        if isinstance(message, messages.Ask):
            for spec, place in zip(specs, message.places, strict=True):
                spec["waited"] = _micro(place.waited)
                spec["round_position"] = place.round_position
        payload = self._constants | {
            "sender": envelope.sender,
            "revision": envelope.revision,
            "permits": envelope.permits,
            "queue": specs[0],
            "lanes": specs[1:],
            **self._fields(envelope),
        }
        # What most messages need not say is left out: the server parses each payload. JSON has no
        # infinity, either.
        if envelope.concurrency < math.inf:
            payload["concurrency"] = envelope.concurrency
        if len(self._units) > 1:
            payload["units"] = self._units.names
        if envelope.follows:
            payload["follows"] = True
        reserved = envelope.reserved
        if reserved is not None:
            payload |= _reserved(envelope, reserved, specs, keys)
            if checks_memory:
                payload["checks_memory"] = True
        if envelope.number:
            remembered = self._remembered[reserved is not None and reserved.lasts]
            keys.append(f"{base}:said:{envelope.sender}")
            payload["number"] = [len(keys), envelope.number, remembered]
        return keys, type(message).__name__.lower(), json.dumps(payload, allow_nan=False)

    def _fields(self, envelope: messages.Envelope) -> dict[str, Any]:
        """Return the fields of a kind of message."""
        message = envelope.message
        # From 1, as Lua counts.
        numbers = {lane: number for number, lane in enumerate(message.lanes, 1)}
        match message:
            case messages.Ask():
                lines = {line.scope: number for number, line in enumerate(message.lines, 1)}
                return {
                    "lines": [
                        [[numbers[lane] for lane in scope.lanes], numbers.get(waits_for, 0)]
                        for scope, waits_for in message.lines
                    ],
                    "requests": [
                        [
                            lines.get(one.scope, 0),
                            plain_costs(one.costs),
                            one.number,
                            _rank(one.first),
                            _rank(one.last),
                        ]
                        for one in message.requests
                    ],
                    "most": message.most,
                    "slots": message.slots,
                    "jitter": _micro(message.jitter),
                    "lateness": _micro(message.lateness),
                }
            case messages.Adjust():
                return {
                    "changes": [
                        [
                            [numbers[lane] for lane in one.lanes],
                            one.timestamp,
                            one.costs,
                            one.charged,
                            one.started or one.charged,
                            _micro(one.late),
                        ]
                        for one in message.changes
                    ]
                }
            case messages.Decide():
                return _decisions_to_store(message, numbers)
            case messages.SlowDown():
                return _slow_down(message, envelope.now)
            case _:
                return _of_answer(message, numbers, envelope.now)

    def spec(self, lane: Hashable, limits: Sequence[Limit], keys: list[str]) -> dict[str, Any]:
        """Return the limits of a lane; append the keys of their states."""
        if lane is None:
            key, number = self.base, 1
        else:
            key = f"{self.base}:lane:{json.dumps(key_of(lane))}"
            keys.append(key)
            number = len(keys)
        keys.append(f"{key}:out")
        place = len(keys)
        return {"key": number, "out_key": place, "limits": self._limit_specs(limits, key, keys)}

    def _limit_specs(
        self, limits: Sequence[Limit], key: str, keys: list[str]
    ) -> list[dict[str, Any]]:
        """Return limits in the script's form; append the keys of their logs."""
        specs: list[dict[str, Any]] = []
        # Logs are numbered by unit, as the script numbers states: see `match_names` there.
        windows: dict[str, int] = defaultdict(int)
        for limit in limits:
            unit = self._unit_spec(limit)
            if not isinstance(limit, Concurrency | Budget) and raises(limit):
                unit["raises"] = True
            if isinstance(limit, Rate):
                spec = {"kind": "r", "interval": limit.interval * 1e6, "burst": limit.burst, **unit}
                specs.append(spec if limit.ramp is None else spec | _ramp_spec(limit, limit.ramp))
            elif isinstance(limit, Window):  # a `Concurrency` is `Envelope.concurrency`
                named = "" if limit.unit == CALLS else f"{limit.unit}:"
                keys.append(f"{key}:window:{named}{windows[limit.unit]}")
                windows[limit.unit] += 1
                per = _micro(limit.per)
                specs.append(
                    {"kind": "w", "calls": limit.calls, "per": per, "log": len(keys), **unit}
                )
            elif isinstance(limit, Budget):
                specs.append({"kind": "b", "amount": limit.amount, **unit})
        adaptive = self._adaptive
        if adaptive is not None:
            lead, ceiling = _leading_limit(limits)
            spec = {
                "kind": "g",
                "floor": adaptive.least(ceiling, CALLS if lead is None else lead.unit),
                "backoff": adaptive.backoff,
                "recovery": adaptive.recovery,
                **self._unit_spec(lead),
            }
            if ceiling < math.inf:
                spec["ceiling"] = ceiling
            if adaptive.concurrency:
                spec["concurrency"] = adaptive.concurrency
            specs.append(spec)
        return specs

    def _unit_spec(self, limit: Limit | None) -> dict[str, Any]:
        """Return the name and the place of the unit that a limit counts, unless it is calls."""
        if limit is None or isinstance(limit, Concurrency) or limit.unit == CALLS:
            return {}
        return {"unit": limit.unit, "place": self._units.place_of(limit.unit) + 1}

    def decode(
        self, envelope: messages.Envelope, answer: Sequence[Any]
    ) -> messages.Reply | messages.Differing:
        """Return the reply of the script.

        Raises:
            Unreadable: another program has written the limits that it contains.
            OtherVersion: another version of aioapiqueue has written there.
            Evicts: the server may evict keys, or does not let this user know.
        """
        word, *rest = answer
        word = _text(word)
        if word == "version":
            raise OtherVersion(f"the key {self.base} was written by {_version(*rest)}")
        if word == "evicts":
            raise Evicts(_text(rest[0]))
        if word != "ok":
            timestamp, revision, whole, decisions = rest
            return messages.Differing(timestamp, revision, bool(whole), self._decisions(decisions))
        timestamp, epoch, figures, *found = rest
        statuses = [_status(one) for one in figures]
        if envelope.reserved is not None:
            statuses = list(map(_with_budgets, statuses, envelope.limits.values()))
        common = timestamp, epoch, dict(zip(envelope.limits, statuses, strict=True))
        message = envelope.message
        match message:
            case messages.Ask():
                share, position, short, grants, later, *refused = found
                slots = [
                    messages.GrantedSlot(message.requests[n - 1], *rest)
                    for n, *rest in _chunks(3, grants)
                ]
                postponed = [
                    messages.Postponement(message.lines[n - 1].scope, message.lanes[m - 1], *rest)
                    for n, m, *rest in _chunks(4, later)
                ]
                refusals = [
                    _refusal(message, envelope, *each)
                    for flat in refused
                    for each in _chunks(5, flat)
                ]
                granted = messages.Granted(share, slots, postponed, bool(short), position, refusals)
                return messages.Reply(*common, granted=granted)
            case messages.Decide():
                revision, outdated = found
                return messages.Reply(*common, revision=-1 if outdated else revision)
            case messages.SlowDown():
                return messages.Reply(*common, backed_off=bool(found[0]))
            case _:
                return messages.Reply(*common)

    def _decisions(self, text: bytes | str) -> Sequence[Decision]:
        try:
            return _stored_decisions(_text(text) or "[[], []]")
        except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
            what = f"{self.base} has unreadable limits (conf): {type(error).__name__}: {error}"
            raise Unreadable(what[:300]) from None


def _ramp_spec(limit: Rate, ramp: Ramp) -> dict[str, Any]:
    """Return what the script needs of a ramp, beside the rate; times in microseconds."""
    return {
        "kind": "p",
        "floor": ramp.floor_of(limit) * 1e6,
        "growth": ramp.growth / 1e6,
        "reach": ramp.reach,
        "per": ramp.per * 1e6,
    }


def _version(theirs: int, ours: int) -> str:
    which = "an earlier" if theirs < ours else "a later"
    return f"{which} version of aioapiqueue (layout {theirs}; this version has layout {ours})"


def _add_reports(specs: Sequence[dict[str, Any]], envelope: messages.Envelope) -> None:
    """Add the calls in flight to the specs of their lanes."""
    for spec, lane in zip(specs, envelope.limits, strict=True):
        report = envelope.reports.get(lane)
        if report is not None:
            spec["in_flight"] = report.in_flight
            if report.first is not None:
                spec["first"] = report.first


def _reserved(
    envelope: messages.Envelope,
    reserved: messages.Reserved,
    specs: Sequence[dict[str, Any]],
    keys: list[str],
) -> dict[str, Any]:
    """Return the fields for limits that raise; add to the specs what is reserved there."""
    for spec, lane in zip(specs, envelope.limits, strict=True):
        if lane in reserved.costs:
            keys.append(f"{keys[spec['key'] - 1]}:reserved")
            spec |= {"reserved": reserved.costs[lane], "reserved_key": len(keys)}
    fields: dict[str, Any] = {
        "raises": True,
        "sequence": reserved.sequence,
        "answered": reserved.answered,
    }
    return fields if _raising_permits(envelope) is None else fields | {"permits_raise": True}


def _raising_permits(envelope: messages.Envelope) -> Concurrency | None:
    """Return the `Concurrency` for which calls raise; None: they wait for permits."""
    for limit in envelope.limits[None]:
        if isinstance(limit, Concurrency) and limit.number == envelope.concurrency:
            return limit if raises(limit) else None
    return None


def _refusal(  # noqa: PLR0917 - as the script replies
    ask: messages.Ask,
    envelope: messages.Envelope,
    request: int,
    lane: int,
    limit: int,
    remaining: bytes | str,
    resets_in: bytes | str,
) -> messages.Refusal:
    """Return a refusal in a reply: its numbers are from 1. Lane 0: the queue; limit 0: permits."""
    of_lane = ask.lanes[lane - 1] if lane else None
    # As in the specs: permits are not among them.
    limits = [one for one in envelope.limits[of_lane] if not isinstance(one, Concurrency)]
    its = limits[limit - 1] if limit else _raising_permits(envelope)
    assert its is not None  # noqa: S101 - only then does the script refuse for permits
    seconds = float(resets_in)
    return messages.Refusal(
        ask.requests[request - 1],
        of_lane,
        its,
        float(remaining),
        None if math.isinf(seconds) else seconds,
    )


def _micro(seconds: float) -> int:
    return round(seconds * 1e6)


def _rank(rank: tuple[float, float]) -> list[float]:
    return [_counted(one) for one in rank]


def _counted(figure: float) -> float:
    """Return a figure that the server counts exactly. The order of figures stays."""
    if -_EXACT <= figure <= _EXACT:
        return figure
    # Turns by weights are larger. From 2**52 on, the bits of a float, read as an integer, stand for
    # it, without the last 7 of them: up to 2**180, none is above 2**53.
    (bits,) = _WHOLE.unpack(_DOUBLE.pack(min(abs(figure), 2.0**180)))
    counted: int = min(_LATEST, _EXACT + (bits - _BITS_OF_EXACT) // 2**7)
    return counted if figure > 0 else -counted


def _text(text: bytes | str) -> str:
    return text if isinstance(text, str) else text.decode()


def _chunks(number: int, flat: Sequence[Any]) -> list[Sequence[Any]]:
    """Return the parts, of this length, of a flat list in a reply."""
    return [flat[start : start + number] for start in range(0, len(flat), number)]


def _slow_down(message: messages.SlowDown, now: float) -> dict[str, Any]:
    fields: dict[str, Any] = {"released_at": min(_LATEST, max(-1, message.released_at))}
    if math.isinf(message.until):  # the server named no time
        return fields
    # A span, as the script's clock may not be known here yet; each attempt shortens it.
    return fields | {"hold": max(0, _micro(message.until - now))}


def _decisions_to_store(
    message: messages.Decide, numbers: Mapping[Hashable, int]
) -> dict[str, Any]:
    """Return decisions in the form that the script keeps: texts, as its JSON rounds numbers.

    Holds are listed separately, each with the number of its lane (0: the queue): the script keeps
    them in the state of the lane.
    """
    kept, holds = [], []
    for decision in message.decisions:
        statement = decision.statement
        if isinstance(statement, statements.Hold):
            until = min(_LATEST, _micro(min(statement.until, _LATEST)))
            holds.append([numbers.get(statement.key, 0), until])
            continue
        at, maker, kind, key, value = decision.as_json()
        text = json.dumps(value)
        if isinstance(statement, Closing):  # the script compares instants
            text = "inf" if math.isinf(statement.until) else str(_micro(statement.until))
        kept.append([kind, json.dumps(key[0]) if key else "null", str(at), maker, text])
    # The token becomes the revision if the decisions are news to the script, whose own random
    # numbers are the same in each run. Its JSON reads 50 bits exactly.
    return {"decisions": kept, "holds": holds, "token": random.getrandbits(50) + 1}


def _stored_decisions(text: str) -> list[Decision]:
    """Return the decisions that the script has kept.

    Raises:
        ValueError: another program has written them.
    """
    revisions, decisions = json.loads(text)
    # The script refuses such revisions. If this were lenient, both would exchange them for ever.
    if not all(isinstance(one, str) for one in revisions):
        raise ValueError("no revisions")
    return [_stored_decision(*one) for one in decisions]


def _stored_decision(
    kind: str, key: str, at: str, maker: str, value: str, _revision: str
) -> Decision:
    """Return a decision that the script has kept."""
    if kind not in {"set", "pause", "resume"}:
        raise ValueError(f"no decision: {kind!r}")
    if kind == "pause":
        sent = None if value == "inf" else int(value) / 1e6
    else:
        sent = json.loads(value)
    decision = Decision.from_json([int(at), maker, kind, [json.loads(key)], sent])
    hash(decision)  # a TypeError is reported here: another program has written the key
    return decision


def _of_answer(
    message: messages.Message, numbers: Mapping[Hashable, int], now: float
) -> dict[str, Any]:
    """Return a server's own count in the script's form."""
    match message:
        case messages.Sync():
            counts = [
                _count(one, now) | {"lane": numbers.get(one.lane, 0)}
                for one in message.counts.values()
            ]
            return {"counts": counts}
        case messages.FirstEnded():
            return {"answered": message.answered}
        case _:
            return {}


def _count(count: messages.Count, now: float) -> dict[str, Any]:
    fields = {
        "place": count.unit + 1,
        "left": count.left,
        "reset": _micro(count.until - now),
        "limit": count.limit,
        "released_at": count.released_at,
        "received_at": count.received_at,
    }
    return {name: one for name, one in fields.items() if one is not None}


def _status(figures: Sequence[bytes | str]) -> messages.LimitStatus:
    held_until, rate, counted, number, *rest = map(float, figures)
    split = 3 * int(number)
    bounds = [
        messages.BoundStatus(int(place) - 1, left, until)
        for place, left, until in _chunks(3, rest[:split])
    ]
    return messages.LimitStatus(held_until, rate, tuple(rest[split:]), counted, tuple(bounds))


def _with_budgets(status: messages.LimitStatus, limits: Sequence[Limit]) -> messages.LimitStatus:
    """Return a status with the use of budgets, whose figures are the last ones in a reply."""
    budgets = [one for one in limits if isinstance(one, Budget)]
    if not budgets:
        return status
    split = len(status.ready_at) - 2 * len(budgets)
    uses = _chunks(2, status.ready_at[split:])
    return status._replace(
        ready_at=status.ready_at[:split],
        budgets={
            budget: cost_units.use_of(budget.amount, charged, reserved)
            for budget, (charged, reserved) in zip(budgets, uses, strict=True)
        },
    )


def _leading_limit(limits: Sequence[Limit]) -> tuple[Rate | Window | None, float]:
    """Return the limit whose unit an `Adaptive` counts, and the rate per second in that unit."""
    # As `Adaptive.govern` chooses it: calls, or else the unit of the first limit. Fewer calls use
    # less of the other units, too.
    timed = [limit for limit in limits if isinstance(limit, Rate | Window)]
    if not timed:
        return None, math.inf
    lead = next((limit for limit in timed if limit.unit == CALLS), timed[0])
    return lead, min(limit.calls / limit.per for limit in timed if limit.unit == lead.unit)
