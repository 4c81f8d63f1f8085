"""The limits in force in a quota: all that any of its clients has given, equal ones once.

Clients of one program give the same limits, and there may be hundreds of clients with hundreds of
lanes each. So limits are kept for each set of terms, not for each client. When terms are added or
removed, only the limits of the names that they contain, or may match, are determined again.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from aioapiqueue import Budget, Calendar, Concurrency, Window
from aioapiqueue._shared.host.messages import text_of
from aioapiqueue.spi import lane_states, statements

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue._shared.decisions import Decisions
    from aioapiqueue._shared.host.messages import Terms

_FEW = 1000
"""Number of superfluous names in a log up to which restarting it would cost more than it saves."""


class NamesInForce:
    """The names that have limits, and a log of their changes.

    Hundreds of clients may each have hundreds of lanes that no other client has. All clients are
    sent the same texts, and each client gets each text once: a list of names for each client would
    take a gigabyte.

    Attributes:
        number: number of the last change.
    """

    def __init__(self) -> None:
        self.number = 0
        self._names: dict[Hashable, None] = {}
        self._restart()

    def _restart(self) -> None:
        """Begin the log again, with all names."""
        self._first = self.number
        self._texts = [text_of(list(self._names), None)]
        self._logged = len(self._names)

    def change(self, added: Sequence[Hashable], removed: Sequence[Hashable]) -> None:
        """Note names that have limits now, and those that no longer have any."""
        for name in removed:
            del self._names[name]
        self._names |= dict.fromkeys(added)
        self.number += 1
        self._texts.append(text_of(added, removed))
        self._logged += len(added) + len(removed)
        if self._logged > 2 * len(self._names) + _FEW:  # to name all again is shorter
            self._restart()

    def are_all_in(self, lanes: Mapping[Hashable, object]) -> bool:
        """Return whether these lanes contain all names."""
        # Most clients have fewer lanes, or just these.
        return len(lanes) >= len(self._names) and all(name in lanes for name in self._names)

    def since(self, number: int) -> str:
        """Return the text of the message for a client.

        Args:
            number: of the last change that it knows; -1: none.
        """
        # The first text contains all names as of `_first`, for clients that know an older state.
        skipped = number - self._first + 1 if number >= self._first else 0
        return f'["lanes",[{",".join(self._texts[skipped:])}]]'


Limits = tuple["Limit", ...]


class _WholeQueue:
    """Stands for the whole queue among the names of lanes, as a lane may be named None."""


QUEUE = _WholeQueue()


class LimitsInForce:
    """The limits of a quota, by name: `QUEUE`, or a key or pattern of lanes.

    Args:
        first: the terms of the first client.
        lateness: seconds by which clients may use their grants late.
        decisions: those of all clients, with the limits that `set_rate` has set and that clients
            have learnt from response headers.

    Attributes:
        by_name: the limits. A name whose limits were removed stays, without limits.
        names: the keys and patterns that have limits.
        names_changed: whether the last `update` gave limits to a name that had none, or removed all
            limits of a name.
        has_calendars: whether any limit is a `Calendar`.
        has_budgets: whether any limit is a `Budget`.
    """

    def __init__(self, first: Terms, lateness: float, decisions: Decisions) -> None:
        self.by_name: dict[Hashable, Limits] = {}
        self.names = NamesInForce()
        self.names_changed = False
        self.has_calendars = self.has_budgets = False
        self._lateness = lateness
        self._decisions = decisions
        self._plain_of: dict[Limit, Limit] = {}
        """The limits as clients gave them, by the limits in force, whose windows are longer."""
        self._tables: dict[Terms, _Table] = {}
        self._givers: dict[Hashable, dict[_Table, None]] = {}
        """By name, the tables that contain it; a pattern that matches it does not count."""
        self._with_patterns: dict[_Table, None] = {}
        self._count = 0
        self._stale: dict[Hashable, None] = {}
        """The names whose limits may have changed."""
        self._with_calendars: set[Hashable] = set()
        self._with_budgets: set[Hashable] = set()
        self.add(first)
        self.update()

    def add(self, terms: Terms) -> Terms:
        """Add terms; `update` puts them in force.

        Returns:
            The terms, or equal ones that were added before.
        """
        known = self._tables.get(terms)
        if known is not None:  # the same object, so that hundreds of clients do not keep copies
            return known.terms
        self._count += 1
        table = self._tables[terms] = _Table(
            terms, self._decisions.limits(statements.SetLimits), self._count
        )
        for name in terms.lanes:
            self._givers.setdefault(name, {})[table] = None
        if table.patterns:
            self._with_patterns[table] = None
        # Most terms give names the same limits as those in force, and then need no further work.
        self._stale |= {name: None for name in self._names_of(table) if self._adds(table, name)}
        return terms

    def remove(self, terms: Terms) -> None:
        """Remove terms; `update` applies that."""
        table = self._tables.pop(terms)
        self._with_patterns.pop(table, None)
        for name in terms.lanes:
            givers = self._givers[name]
            del givers[table]
            if not givers:
                del self._givers[name]
        self._stale |= dict.fromkeys(self._names_of(table))

    def _names_of(self, table: _Table) -> Iterable[Hashable]:
        """Return the names to which a table may give limits: with patterns, any name."""
        return (QUEUE, *table.terms.lanes, *(self.by_name if table.patterns else ()))

    def _adds(self, table: _Table, name: Hashable) -> bool:
        """Return whether the newest table may change the limits of a name."""
        in_force = self.by_name.get(name)
        if in_force is None or self._learnt(name):  # learnt limits move to the end
            return True
        return not all(one in in_force for one in self._stretched(table.find(name)))

    def _note_all(self) -> None:
        self._stale |= dict.fromkeys(self.by_name)

    def note(self, given: Iterable[statements.SetLimits | statements.Learnt]) -> None:
        """Note limits that were set or learnt; `update` puts them in force."""
        changes = {one.key: one.limits for one in given if isinstance(one, statements.SetLimits)}
        for table in self._tables.values():
            table.override(changes)
            if table.patterns:
                self._with_patterns[table] = None
        self._stale |= dict.fromkeys(QUEUE if one.key is None else one.key for one in given)
        if lane_states.find_patterns(changes):  # which may match any name
            self._note_all()

    def _learnt(self, name: Hashable) -> Limits:
        key = None if name is QUEUE else name
        return self._decisions.limits_of(statements.Learnt, key) or ()

    def set_lateness(self, lateness: float) -> None:
        """Extend all windows by this time; `update` applies that."""
        if lateness != self._lateness:
            self._lateness = lateness
            self._note_all()

    def update(self) -> dict[Hashable, Limits]:
        """Bring `by_name` up to date; return the names that differ."""
        stale, self._stale = self._stale, {}
        changes: dict[Hashable, Limits] = {}
        added: list[Hashable] = []
        removed: list[Hashable] = []
        for name in stale:
            limits, before = self._find(name), self.by_name.get(name)
            if limits == before:
                continue
            changes[name] = self.by_name[name] = limits
            for kind, names in ((Calendar, self._with_calendars), (Budget, self._with_budgets)):
                names.discard(name)
                if any(isinstance(one, kind) for one in limits):
                    names.add(name)
            if bool(limits) != bool(before) and name is not QUEUE:
                (added if limits else removed).append(name)
        self.has_calendars, self.has_budgets = bool(self._with_calendars), bool(self._with_budgets)
        self.names_changed = bool(added or removed)
        if self.names_changed:
            self.names.change(added, removed)
        return changes

    def _find(self, name: Hashable) -> Limits:
        tables: Iterable[_Table]
        if name is QUEUE:
            tables = self._tables.values()
        elif self._decisions.limits_of(statements.SetLimits, name) is not None:
            tables = (next(iter(self._tables.values())),)  # the same in all of them
        else:
            found = {**self._givers.get(name, {}), **self._with_patterns}
            tables = sorted(found, key=attrgetter("number"))  # so that limits keep their order
        own = (one for table in tables for one in self._stretched(table.find(name)))
        return tuple(dict.fromkeys((*own, *self._learnt(name))))

    def _stretched(self, limits: Iterable[Limit]) -> Iterable[Limit]:
        """Return limits with windows that are long enough for calls that start late."""
        # A window counts a call at its grant, but the client may start the call so much later.
        for one in limits:
            if isinstance(one, Window) and self._lateness:
                longer = replace(one, per=one.per + self._lateness)
                self._plain_of[longer] = one
                yield longer
            else:
                yield one

    def as_given(self, limit: Limit) -> Limit:
        """Return a limit in force as clients gave it."""
        return self._plain_of.get(limit, limit)

    def are_given_by(self, limit: Limit, terms: Terms, name: Hashable) -> bool:
        """Return whether these terms give a limit in force to a name."""
        return limit in self._stretched(self._tables[terms].find(name))


class _Table:
    """The limits of one set of terms, with the changes by `set_rate` since.

    Args:
        terms: the terms of some clients.
        overrides: the limits that were set, by key; None: of the queue.
        number: tables of a lower number come first.
    """

    def __init__(self, terms: Terms, overrides: Mapping[Hashable, Limits], number: int) -> None:
        self.terms = terms
        self.number = number
        self._concurrency: Limits = ()
        if terms.concurrency is not None:
            self._concurrency = (Concurrency(terms.concurrency),)
        self._own: Iterable[Limit] = (*terms.limits, *self._concurrency)
        self._lanes: dict[Hashable, Iterable[Limit]] = dict(terms.lanes)
        self.patterns = lane_states.find_patterns(self._lanes)
        self.override(overrides)

    def override(self, changes: Mapping[Hashable, Limits]) -> None:
        """Replace limits, by key; None: of the queue."""
        if None in changes:  # `concurrency=` of a queue applies whatever `set_rate` sets
            self._own = (*changes[None], *self._concurrency)
        new = {key: limits for key, limits in changes.items() if key is not None}
        self._lanes |= new
        if lane_states.find_patterns(new):
            self.patterns = lane_states.find_patterns(self._lanes)

    def find(self, name: Hashable) -> Iterable[Limit]:
        """Return the limits of a key, or of the keys for which a pattern is the longest match."""
        if name is QUEUE:
            return self._own
        return self._lanes.get(lane_states.name_of(name, self._lanes, self.patterns), ())
