"""What outlasts a hub: up to how much of each limit may have been let through.

Before a hub lets a call go, its file says so: not each call, but up to which point calls may go
before the file has to say more. A new hub counts all of that as let through. So a hub that is
killed, or a machine that is restarted, never gives anybody a fresh burst or window; it costs a
second of a rate, or a hundredth of a window, at most.

- Of a `Rate`, the file has an instant at which all that may go is paid off.
- Of a `Window` or `Calendar`, it has what has gone, and how much more may go.
- Each row belongs to one limit and stays when the limit is replaced, so that it resumes if it is
  set again. A limit without a row starts with the charges of the limits that it replaces.
- Instants are kept on two clocks, see `saved_states.py`.
- Keys of lanes, which may name tenants, are hashed, with a salt of the file's own.
- A transaction survives the process that has written it, but perhaps not a power failure of the
  next seconds. Nobody is made to wait for a disk for the sake of a second's calls; for quotas of a
  day and more, the file is synchronized.

It is an SQLite database, as that is what survives being killed at any instant.
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

from aioapiqueue import Calendar, Rate, Window
from aioapiqueue._shared.host_hub.saved_states import (
    SHARE,
    Clocks,
    Record,
    carried_to,
    data_of,
    is_used,
    restore,
)
from aioapiqueue.spi import algorithms, limit_types

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue._shared.host_hub.saved_states import Carried

__all__ = ["Journal"]

_AHEAD = 1.0
"""Seconds of a rate that may go before the file has to say more: one transaction a second."""
_LONG = 86_400.0
"""Seconds: for quotas of such periods, the file is synchronized."""
Rows = dict[str, tuple[str, bool]]
"""What the file has of the limits of a lane, by their texts: the data, and whether the limit was
replaced."""
_LAYOUT = 2
"""Another one whenever what is in the file, or what it means, changes."""
_LOCKED = 0.05
"""Seconds to wait for somebody who has the file locked, as a backup: nobody is served meanwhile."""
_LOCKED_AT_FIRST = 3.0
"""The same when a hub starts: without the file, quotas would be as new for as long as it runs."""
_REST = 0.5
"""Seconds after trouble until it is tried again."""


class Journal:
    """A file of what limits have let through.

    Args:
        path: of the file; made, with its directory, if it does not exist.

    Attributes:
        was_in_use: whether the hub before this one had clients when it ended, or was killed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken: str | None = None
        """Why the file was not read, if it was not."""
        self._trouble: str | None = None
        """Why it could not be written to when that was tried last."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.OperationalError:  # of the moment: it is full, or somebody has it locked
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
        self._gone: dict[tuple[str, str, str], Record] = {}
        """Those of limits that are in force no more, and have still to be written, by row."""
        self._replaced: set[tuple[str, str, str]] = set()
        """Rows of limits that were replaced, which the file does not know yet."""
        self._rests_until = self._reads_at = -math.inf
        """The instants until which nothing is written, or read, after trouble."""

    def _open(self) -> None:
        self._file = sqlite3.connect(self.path, isolation_level=None, timeout=_LOCKED_AT_FIRST)
        try:
            self._read()
        except BaseException:
            # Before it is moved: so SQLite takes in what a hub that was killed has left beside it.
            self._file.close()
            raise

    def _read(self) -> None:
        run = self._file.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        run(
            "CREATE TABLE IF NOT EXISTS used (quota TEXT, lane TEXT, rule TEXT, data TEXT, "
            "over REAL, replaced INTEGER, PRIMARY KEY (quota, lane, rule)) WITHOUT ROWID"
        )
        if self._meta("layout", str(_LAYOUT)) != str(_LAYOUT):
            raise sqlite3.DatabaseError("another version of aioapiqueue wrote it")
        self._salt = self._meta("salt", secrets.token_hex(16))
        self.was_in_use = self._meta("ended", "yes") == "no"
        self._must_begin = False
        """Whether the file has still to be told that a hub runs."""
        try:
            self._begin()
        except sqlite3.Error as error:  # on a full disk, what is in it counts all the same
            self._trouble, self._must_begin = self._trouble_of(error), True
        run(f"PRAGMA busy_timeout = {_LOCKED * 1000:.0f}")

    def _begin(self) -> None:
        self._set_meta("ended", "no")
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
        """Return what the file has of the limits of a lane, by limit; None: it cannot be read now.

        Args:
            quota: the name of its quota.
            key: of the lane, in a list; `[]` for the queue's own limits.
            now: the present instant.
        """
        if now < self._reads_at:
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
            rows: what the file has of the lane.
            quota: as of `rows`.
            key: as of `rows`.
            states: the new ones, and the limits that they are of.
            in_force: all limits of the lane.
            clocks: the machine's, at the present instant.

        Returns:
            The records of the limits that the file keeps.
        """
        lane, now = self._hashed(key), clocks.now
        rules = set(map(str, in_force))
        former = {
            rule: data
            for rule, (data, replaced) in rows.items()
            if not replaced
            and rule not in rules
            and (quota, lane, rule) not in self._gone
            and (quota, lane, rule) not in self._replaced
        }
        states = list(states)
        known = {str(limit): rows.get(str(limit), (None, True)) for limit, _ in states}
        kept = {rule: data for rule, (data, is_news) in known.items() if not is_news and data}
        carried: Mapping[Limit, Carried] = {}
        if former or 0 < len(kept) < len(states):
            carried = carried_to(former, kept, in_force, clocks)
        records = []
        for limit, state in states:
            if not isinstance(limit, Rate | Window | Calendar):
                continue
            row = (quota, lane, str(limit))
            record = Record(row, state, -math.inf, limit_types.period_of(limit) >= _LONG)
            records.append(record)
            self._replaced.discard(row)
            gone = self._gone.pop(row, None)
            if gone is not None:  # it comes back before it was written
                restore(state, data_of(gone, clocks, exact=True)[0], clocks)
                self._dirty[record] = None
                continue
            data, is_news = known[row[2]]
            if data is not None:
                with contextlib.suppress(ValueError, TypeError, KeyError):  # else as good as none
                    restore(state, json.loads(data), clocks)
            if is_news and limit in carried:
                charges, more = carried[limit]
                state.take_over([*charges, (now, more)], now, beside=True)
                if isinstance(
                    state, algorithms.TokenBucket
                ):  # a hundredth of a day may be hours of a rate
                    more = min(more, max(1, state.burst / SHARE))
                state.take_over([*charges, (now, more)], now)
            may_go = data is not None and not isinstance(state, algorithms.TokenBucket)
            if may_go or (is_news and is_used(state, now)):
                self._dirty[record] = None  # what may have gone has gone; or it was carried over
        self._replaced.update((quota, lane, rule) for rule in former)
        return records

    def replaced(self, record: Record) -> None:
        """Note that the state in a record is now that of another limit, with its own record."""
        self._dirty.pop(record, None)
        self._replaced.add(record.row)

    def _hashed(self, key: Sequence[Hashable]) -> str:
        text = json.dumps([self._salt, key])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def note(self, record: Record, costs: Sequence[float]) -> None:
        """Note that something was let through: before anybody knows, `commit` is to be called."""
        state = record.state
        if isinstance(state, algorithms.TokenBucket):
            if state.tat > record.bound:
                ahead = _AHEAD if state.interval < _AHEAD else 0.0
                record.bound = state.tat + ahead
                self._dirty[record] = None
            return
        record.bound -= costs[state.unit] if state.unit < len(costs) else 0
        if record.bound < 0:
            self._dirty[record] = None

    def commit(self, now: float) -> None:
        """Write what is to be written."""
        if now < self._rests_until:
            return
        if self._dirty or self._replaced or self._must_begin:
            dirty, self._dirty = self._dirty, {}
            if not self._write(list(dirty), now, exact=False):
                self._dirty = dirty | self._dirty
                return
        if self._gone and self._write(list(self._gone.values()), now, exact=True):
            self._gone.clear()

    def close_records(
        self, records: Iterable[Record], now: float, *, replaced: bool = False
    ) -> None:
        """Write exactly what these limits have let through: they are in force no more.

        Args:
            records: theirs.
            now: the present instant.
            replaced: whether others have taken their place.
        """
        for one in records:
            one.replaced = replaced
            self._dirty.pop(one, None)
            self._gone[one.row] = one
        if not replaced:  # else after those that have taken their place
            self.commit(now)

    def _write(self, records: Sequence[Record], now: float, *, exact: bool) -> bool:
        """Write; return whether it was written.

        Where it cannot be (a full disk), calls go on all the same, and it is tried again: what is
        at stake is a second's calls, if this process is killed meanwhile.
        """
        clocks = Clocks(now)
        rows = []
        for one in records:
            data, over = data_of(one, clocks, exact=exact)
            rows.append((*one.row, json.dumps(data), clocks.to_wall(over), one.replaced))
        run, is_long = self._file.execute, any(one.is_long for one in records)
        try:
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
                one.bound = -math.inf
            with contextlib.suppress(sqlite3.Error):
                run("ROLLBACK")
            return False
        return True

    def forget(self, quota: str, records: Iterable[Record]) -> bool:
        """Forget what a quota has let through; return whether anything was known.

        Args:
            quota: its name.
            records: of the limits that it has in memory, which count nothing any more.

        Raises:
            OSError: it cannot be written to.
        """
        try:
            rows = self._file.execute("DELETE FROM used WHERE quota = ?", (quota,)).rowcount
        except sqlite3.Error as error:
            raise OSError(self._trouble_of(error)) from None
        for record in records:
            record.bound = -math.inf
            self._dirty.pop(record, None)
        gone = [row for row in self._gone if row[0] == quota]
        for row in gone:
            del self._gone[row]
        return rows > 0 or bool(gone)

    def close(self, now: float, *, in_use: bool) -> None:
        """Note that this hub has ended by itself.

        Args:
            now: the present instant.
            in_use: whether there were clients, which may come back with permits to the next one.
        """
        self._rests_until = -math.inf
        self.commit(now)
        with contextlib.suppress(sqlite3.Error):
            self._set_meta("ended", "no" if in_use else "yes")
        self._file.close()
