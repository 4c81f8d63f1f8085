"""The journal: a file of how much of each limit may be used, which outlasts the hub.

The file is written ahead: not for each call, but with a point up to which calls may start before
the file is written again. The next hub counts everything up to that point as used. So a hub that is
killed, or a machine that restarts, never grants a fresh burst or window. This costs at most a
second of a rate, a hundredth of a window, or a thousandth of a budget.

- For a `Rate`, the file has the instant at which everything up to that point has recovered.
- For a `Window` or `Calendar`, it has what is used, and how much more may be used.
- For a `Budget`, the same, but at most a thousandth more. Its row is never deleted, except by
  `forget`.
- Each row belongs to one limit. It stays when the limit is replaced, and counts again if the limit
  is set again. A limit without a row starts with the charges of the limits that it replaces.
- Instants are kept on two clocks, see `saved_states.py`.
- Keys of lanes, which may name tenants, are hashed, with a salt of the file's own.
- A transaction survives the process that wrote it, but perhaps not a power failure within the next
  seconds: calls do not wait for a disk. For limits of a day and more, the file is synchronized.

It is an SQLite database, because that survives a kill at any instant.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import secrets
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aioapiqueue import Budget, Calendar, Rate, Window
from aioapiqueue._shared.host_hub.saved_states import (
    Clocks,
    Record,
    carried_to,
    data_of,
    restore,
    take_over,
)
from aioapiqueue.spi import algorithms, limit_types

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue._shared.host_hub.saved_states import Carried

_AHEAD = 1.0
"""Seconds of a rate that may be used before the next write: one transaction a second."""
_LONG = 86_400.0
"""Seconds: for limits with such a period or a longer one, the file is synchronized."""
Rows = dict[str, tuple[str, bool]]
"""The rows of a lane's limits, by the limits' texts: the data, and whether it was replaced."""
_LAYOUT = 3
"""The version of the file's contents: raise it with each change of their form or meaning."""
_LOCKED = 0.05
"""Seconds to wait while a backup, say, has the file locked: no client is served meanwhile."""
_LOCKED_AT_FIRST = 3.0
"""The same when a hub starts: without the file, all its quotas would start unused."""
_REST = 0.5
"""Seconds after a failure until the next attempt."""


class Journal:
    """A file of how much of each limit is used.

    Args:
        path: of the file, which is made, with its directory, if it does not exist.

    Attributes:
        was_in_use: whether the hub before this one had clients when it ended, or was killed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken: str | None = None
        """Why the file could not be read; None: it was."""
        self._trouble: str | None = None
        """Why the last attempt to read or write it failed; None: it succeeded."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.OperationalError:  # temporary: the disk is full, or the file is locked
            raise
        except sqlite3.DatabaseError as error:
            self._broken = (
                f"{path} cannot be read ({error}), so all quotas start afresh. The file was "
                f"renamed to {path}.broken"
            )
            path.replace(f"{path}.broken")
            for leftover in ("-wal", "-shm"):
                Path(f"{path}{leftover}").unlink(missing_ok=True)
            self._open()
        self._dirty: dict[Record, None] = {}
        self._closed: dict[tuple[str, str, str], Record] = {}
        """Records of limits no longer in memory, which are still to be written, by row."""
        self._replaced: set[tuple[str, str, str]] = set()
        """Rows of limits that were replaced, which the file does not know yet."""
        self._rests_until = self._reads_at = -math.inf
        """The instants until which nothing is written, or read, after a failure."""

    def _open(self) -> None:
        self._file = sqlite3.connect(self.path, isolation_level=None, timeout=_LOCKED_AT_FIRST)
        try:
            self._read()
        except BaseException:
            # Before the file is renamed: as it closes, SQLite adds the log of a killed hub (-wal).
            self._file.close()
            raise

    def _read(self) -> None:
        run = self._file.execute
        # A commit is then one write to a log; only a checkpoint waits for the disk.
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        run(
            "CREATE TABLE IF NOT EXISTS used (quota TEXT, lane TEXT, rule TEXT, data TEXT, "
            "over REAL, replaced INTEGER, PRIMARY KEY (quota, lane, rule)) WITHOUT ROWID"
        )
        if self._meta("layout", str(_LAYOUT)) != str(_LAYOUT):  # not migrated: quotas start afresh
            raise sqlite3.DatabaseError("another version of aioapiqueue wrote it")
        self._salt = self._meta("salt", secrets.token_hex(16))
        self.was_in_use = self._meta("ended", "yes") == "no"
        self._must_begin = False
        """Whether the file still lacks the note that a hub runs."""
        try:
            self._begin()
        except sqlite3.Error as error:  # a full disk; the contents still count
            self._trouble, self._must_begin = self._trouble_of(error), True
        run(f"PRAGMA busy_timeout = {_LOCKED * 1000:.0f}")

    def _begin(self) -> None:
        self._set_meta("ended", "no")
        # Only limits that recovered a day ago or earlier, in case the wall clock is ahead now.
        self._file.execute("DELETE FROM used WHERE over < ?", (time.time() - _LONG,))

    def _trouble_of(self, error: sqlite3.Error, *, verb: str = "written to") -> str:
        return f"{self.path} cannot be {verb}: {error}"

    @property
    def problem(self) -> str | None:
        """What is wrong with the file; None: nothing."""
        return self._trouble or self._broken

    def _meta(self, name: str, default: str) -> str:
        row = self._file.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is None:
            self._set_meta(name, default)
            return default
        return str(row[0])

    def _set_meta(self, name: str, value: str) -> None:
        self._file.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    # States.

    def rows(self, quota: str, key: Sequence[Hashable], now: float) -> Rows | None:
        """Return the rows of a lane's limits; None: the file cannot be read now.

        Args:
            quota: the name of its quota.
            key: of the lane, in a list; `[]` for the quota's own limits.
            now: the present instant.
        """
        if now < self._reads_at:  # each attempt may wait for a lock
            return None
        select = "SELECT rule, data, replaced FROM used WHERE quota = ? AND lane = ?"
        try:
            found = self._file.execute(select, (quota, self._hashed(key))).fetchall()
        except sqlite3.Error as error:
            self._trouble = self._trouble_of(error, verb="read")
            self._reads_at = now + _REST
            return None
        return {rule: (data, bool(replaced)) for rule, data, replaced in found}

    def adopt(
        self,
        rows: Rows,
        quota: str,
        key: Sequence[Hashable],
        states: Iterable[tuple[Limit, algorithms.LimitState]],
        *,
        in_force: Sequence[Limit],
        clocks: Clocks,
    ) -> list[Record]:
        """Restore the new states of a lane; return their records.

        Args:
            rows: of the lane, as of `rows`.
            quota: as of `rows`.
            key: as of `rows`.
            states: the new states, and their limits.
            in_force: all limits of the lane.
            clocks: the machine's, at the present instant.

        Returns:
            The records of the limits that the file keeps.
        """
        lane, rules = self._hashed(key), set(map(str, in_force))
        # The limits that these replace: in force when the file was written, and no longer. The file
        # is behind for the rows in `_closed` and `_replaced`.
        former = {
            rule: data
            for rule, (data, replaced) in rows.items()
            if not replaced
            and rule not in rules
            and (quota, lane, rule) not in self._closed
            and (quota, lane, rule) not in self._replaced
        }
        states = list(states)
        known = {str(limit): rows.get(str(limit), (None, True)) for limit, _ in states}
        kept = {rule: data for rule, (data, is_new) in known.items() if not is_new and data}
        carried: Mapping[Limit, Carried] = {}
        if former or 0 < len(kept) < len(states):  # a new limit replaces others, or joins them
            carried = carried_to(former, kept, in_force, clocks)
        records = []
        for limit, state in states:
            if isinstance(limit, Rate | Window | Calendar | Budget):
                row, is_long = (quota, lane, str(limit)), limit_types.period_of(limit) >= _LONG
                # -inf: the first call has the record written.
                record = Record(row, state, -math.inf, is_long)
                records.append(record)
                if self._restore(record, known[row[2]], carried.get(limit), clocks):
                    self._dirty[record] = None
        self._replaced.update((quota, lane, rule) for rule in former)
        return records

    def _restore(
        self,
        record: Record,
        known: tuple[str | None, bool],
        carried: Carried | None,
        clocks: Clocks,
    ) -> bool:
        """Restore a new state; return whether its record must be written.

        Args:
            record: of the state.
            known: what the file has of its limit, if anything; and whether the limit is new.
            carried: the charges of the limits that it replaces; None: it replaces none.
            clocks: the machine's, at the present instant.
        """
        state = record.state
        self._replaced.discard(record.row)
        closed = self._closed.pop(record.row, None)
        if closed is not None:  # it is in memory again before it was written
            restore(state, data_of(closed, clocks, exact=True)[0], clocks)
            return True
        data, is_new = known
        if data is not None:
            # Malformed data is ignored.
            with contextlib.suppress(ValueError, TypeError, LookupError):
                restore(state, json.loads(data), clocks)
        if is_new and carried is not None:
            take_over(state, carried, clocks.now)
        # What might have been used under the last hub now counts as used: so it must be written.
        counts_ahead = data is not None and not isinstance(state, algorithms.TokenBucket)
        return counts_ahead or (is_new and len(state.charges(clocks.now)) > 0)

    def replaced(self, record: Record) -> None:
        """Note that the state in a record now belongs to another limit, with its own record."""
        self._dirty.pop(record, None)
        self._replaced.add(record.row)

    def _hashed(self, key: Sequence[Hashable]) -> str:
        text = json.dumps([self._salt, key])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def note(self, record: Record, costs: Sequence[float]) -> None:
        """Note that a call has used a limit; `commit` must follow before its client knows."""
        state = record.state
        if isinstance(state, algorithms.TokenBucket):
            if state.tat > record.bound:
                # At an interval this long, each call exceeds the bound and is written anyway.
                ahead = _AHEAD if state.interval < _AHEAD else 0.0
                record.bound = state.tat + ahead
                self._dirty[record] = None
            return
        record.bound -= costs[state.unit] if state.unit < len(costs) else 0
        if record.bound < 0:
            self._dirty[record] = None

    def note_change(self, record: Record) -> None:
        """Note that a limit has less used than before."""
        self._dirty[record] = None

    @property
    def has_changes(self) -> bool:
        """Whether `commit` has anything to write."""
        return bool(self._dirty or self._replaced or self._closed or self._must_begin)

    def commit(self, now: float) -> None:
        """Write all records that need it."""
        if now < self._rests_until:
            return
        if self._dirty or self._replaced or self._must_begin:
            dirty, self._dirty = self._dirty, {}
            if not self._write(list(dirty), now, exact=False):
                self._dirty = dirty | self._dirty  # tried again after `_REST`
                return
        if self._closed and self._write(list(self._closed.values()), now, exact=True):
            self._closed.clear()

    def close_records(
        self, records: Iterable[Record], now: float, *, replaced: bool = False
    ) -> None:
        """Write the exact use of limits that leave memory.

        Args:
            records: of these limits.
            now: the present instant.
            replaced: whether other limits have replaced them.
        """
        for one in records:
            one.replaced = replaced
            self._dirty.pop(one, None)  # it is written exactly instead
            self._closed[one.row] = one
        if not replaced:  # else with the next `commit`, after the limits that have replaced them
            self.commit(now)

    def _write(self, records: Sequence[Record], now: float, *, exact: bool) -> bool:
        """Write records; return whether that succeeded."""
        # If it fails (on a full disk), calls still start, and `commit` tries again. The calls since
        # are forgotten only if this process is killed before that succeeds.
        clocks = Clocks(now)
        rows = []
        for one in records:
            data, over = data_of(one, clocks, exact=exact)
            rows.append((*one.row, json.dumps(data), clocks.to_wall(over), one.replaced))
        run, is_long = self._file.execute, any(one.is_long for one in records)
        try:
            # Before the transaction, in which SQLite refuses to change it.
            run(f"PRAGMA synchronous = {'FULL' if is_long else 'NORMAL'}")
            run("BEGIN")
            if self._must_begin:
                self._begin()
            self._file.executemany("INSERT OR REPLACE INTO used VALUES (?, ?, ?, ?, ?, ?)", rows)
            # In one transaction with their successors, so that a kill in between loses nothing.
            self._file.executemany(
                "UPDATE used SET replaced = 1 WHERE quota = ? AND lane = ? AND rule = ?",
                self._replaced,
            )
            run("COMMIT")
            self._replaced.clear()
            self._trouble, self._must_begin = None, False
        except sqlite3.Error as error:
            self._trouble = self._trouble_of(error)
            self._rests_until = now + _REST
            for one in records:
                one.bound = -math.inf  # `data_of` has set it as if this had been written
            with contextlib.suppress(sqlite3.Error):
                run("ROLLBACK")
            return False
        return True

    def forget(self, quota: str, records: Iterable[Record]) -> bool:
        """Forget how much of a quota is used; return whether anything was known.

        Args:
            quota: its name.
            records: of its limits in memory, which are restarted.

        Raises:
            OSError: it cannot be written to.
        """
        try:  # the file first: if that fails, nothing is forgotten
            rows = self._file.execute("DELETE FROM used WHERE quota = ?", (quota,)).rowcount
        except sqlite3.Error as error:
            raise OSError(self._trouble_of(error)) from None
        for record in records:
            record.bound = -math.inf
            self._dirty.pop(record, None)
        closed = [row for row in self._closed if row[0] == quota]
        for row in closed:
            del self._closed[row]
        return rows > 0 or bool(closed)

    def close(self, now: float, *, in_use: bool) -> None:
        """Write that this hub has ended by itself, and close the file.

        Args:
            now: the present instant.
            in_use: whether there were clients, which may connect to the next hub with permits.
        """
        self._rests_until = -math.inf  # even after a failure: this is the last attempt
        self.commit(now)
        with contextlib.suppress(sqlite3.Error):
            self._set_meta("ended", "no" if in_use else "yes")
        self._file.close()
