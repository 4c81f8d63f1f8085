"""What the journal keeps of one quota: a record of each of its limits in memory.

A limit that comes into memory continues from its record. What calls use afterwards is noted, and
the journal's next `commit` writes it before a client learns that its call started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue._shared.host_hub.limits_in_force import QUEUE
from aioapiqueue._shared.host_hub.saved_states import Clocks, restart

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Sequence

    from aioapiqueue import Limit
    from aioapiqueue._shared.host_hub.journal import Journal
    from aioapiqueue._shared.host_hub.limiter import QuotaLimiter
    from aioapiqueue._shared.host_hub.limits_in_force import LimitsInForce
    from aioapiqueue._shared.host_hub.saved_states import Record
    from aioapiqueue.spi import Call, Host, algorithms, lane_states

_FEW_KEYS = 64
"""Number of keys that counts as few: all of them are restored at once when limits change, and their
records are not cleared."""


class QuotaRecords:
    """The records of one quota. Without a journal, nothing is kept.

    Args:
        name: the kind and the name of the quota.
        limiter: has the states of its limits.
        limits: knows the limits as clients gave them.
        journal: where records are kept; None: nowhere.
        host: the quota's dispatcher.

    Attributes:
        own_states: the states of the quota's own limits that have records.
    """

    def __init__(
        self,
        name: tuple[str, str],
        limiter: QuotaLimiter,
        limits: LimitsInForce,
        journal: Journal | None,
        host: Host,
    ) -> None:
        self._name = " ".join(name)
        self._limiter = limiter
        self._limits = limits
        self._journal = journal
        self._host = host
        self._records: dict[algorithms.LimitState, Record] = {}
        self._known: dict[Hashable, tuple[algorithms.LimitState, ...]] = {}
        """The states of each key, and of `QUEUE`, that have records."""
        self.own_states: tuple[algorithms.LimitState, ...] | None = None
        if journal is not None:
            limiter.lanes.on_new.append(self._lane_made)

    def prepare(self, keys: Iterable[Hashable]) -> None:
        """Restore the limits of these keys, and the quota's own, if they are new in memory."""
        limiter = self._limiter
        if self._journal is None:
            self.own_states = limiter.own.states  # so that `HubQuota.enter` sees nothing to do
            return
        if self.own_states is not limiter.own.states:
            self._adopt(QUEUE, limiter.own.limits, limiter.own.states)
        for key in keys if limiter.lanes.limits else ():
            if key in limiter.lanes.by_key:  # else `_lane_made` is called when its lane is made
                lane = limiter.lanes.get(key, self._host.loop.now())
                if lane is not None and self._known.get(key) is not lane.kept:
                    self._adopt(key, lane.limits, lane.kept)

    def prepare_changed(self, names: Collection[Hashable]) -> None:
        """Restore limits that have changed, while it is known which limits they replace."""
        # A change of a pattern may concern any key. Of many, each is restored at its next call.
        keys = self._limiter.lanes.by_key
        self.prepare([name for name in (names if len(keys) > _FEW_KEYS else keys) if name in keys])

    def _lane_made(self, key: Hashable, lane: lane_states.Lane) -> None:
        """Restore a lane that has just come into memory."""
        self._adopt(key, lane.limits, lane.kept)

    def _adopt(
        self, key: Hashable, limits: Sequence[Limit], states: tuple[algorithms.LimitState, ...]
    ) -> None:
        journal, now = self._journal, self._host.loop.now()
        assert journal is not None  # noqa: S101 - the caller has looked
        place = self._name, [] if key is QUEUE else [key]
        in_force = [self._limits.as_given(limit) for limit in limits]
        # Compared by text: the state stays the same object when a limit is replaced by another of
        # its kind.
        fresh = [
            (plain, state)
            for plain, state in zip(in_force, states, strict=False)
            if state not in self._records or self._records[state].row[2] != str(plain)
        ]
        rows = journal.rows(*place, now) if fresh else {}
        if rows is None:
            return  # the file cannot be read: leave its rows, and read them at the next call
        self._close(set(self._known.get(key, ())).difference(states), now, replaced=True)
        self._known[key] = states
        if key is QUEUE:
            self.own_states = states
        for _, state in fresh:
            if state in self._records:  # the row of its former limit stays, as replaced
                journal.replaced(self._records.pop(state))
        if fresh:
            clocks = Clocks(now, self._host.loop.to_wall)
            records = journal.adopt(rows, *place, fresh, in_force=in_force, clocks=clocks)
            self._records.update((record.state, record) for record in records)
        there = self._limiter.lanes.by_key
        if len(self._known) > 2 * len(there) + _FEW_KEYS:  # rarely, as this is linear
            gone = [one for one in self._known if one is not QUEUE and one not in there]
            self._close([state for one in gone for state in self._known.pop(one)], now)

    def _close(
        self, states: Iterable[algorithms.LimitState], now: float, *, replaced: bool = False
    ) -> None:
        """Write the exact counts of limits that are no longer in memory."""
        records = [self._records.pop(state) for state in states if state in self._records]
        if self._journal is not None:
            self._journal.close_records(records, now, replaced=replaced)

    def note(self, call: Call) -> None:
        """Note that a call has started."""
        if self._journal is not None:
            self._note(self._limiter.states_of(call), call)

    def _note(self, states: Iterable[algorithms.LimitState], call: Call) -> None:
        assert self._journal is not None  # noqa: S101 - the caller has looked
        for state in states:
            record = self._records.get(state)
            if record is not None:
                self._journal.note(record, call.costs)

    def note_settled(self, call: Call) -> None:
        """Note that the cost of a call has changed, even in units that it did not use before."""
        if self._journal is None:
            return
        self.prepare(call.keys)
        limiter, now = self._limiter, self._host.loop.now()
        lanes = [limiter.lanes.get(key, now) for key in call.keys if key in limiter.lanes.by_key]
        # `states_of` has only states that count a unit of the call's former cost.
        states = [*limiter.states_of(call), *limiter.own.states]
        states += [state for lane in lanes if lane is not None for state in lane.kept]
        self._note(dict.fromkeys(states), call)
        self.note_returned(states)

    def note_returned(self, states: Iterable[algorithms.LimitState]) -> None:
        """Note that a call may have given something back, which a budget must not lose."""
        for state in states:
            if state.lasts and (record := self._records.get(state)) is not None:
                assert self._journal is not None  # noqa: S101 - it has made the record
                self._journal.note_change(record)

    def commit(self) -> None:
        """Write to the journal what has been noted."""
        if self._journal is not None and self._journal.has_changes:
            self._journal.commit(self._host.loop.now())

    def close(self) -> None:
        """Write exactly how much calls have used."""
        # A limit that has changed, and that no call has used since, has no record yet.
        self.prepare(list(self._limiter.lanes.by_key))
        self._close(list(self._records), self._host.loop.now())
        self._known.clear()
        self.own_states = None

    def reset(self) -> None:
        """Forget how much calls have used.

        Raises:
            OSError: the journal cannot be written to.
        """
        limiter, now = self._limiter, self._host.loop.now()
        if self._journal is not None:
            self._journal.forget(self._name, self._records.values())
        limiter.own.left_out.clear()
        states = [*limiter.own.states[: len(limiter.own.limits)]]  # slow-downs of `adaptive` stay
        for key in list(limiter.lanes.by_key):
            lane = limiter.lanes.get(key, now)
            if lane is not None:
                states += lane.kept[: len(lane.limits)]
                lane.left_out.clear()
        for state in states:
            restart(state, now)
