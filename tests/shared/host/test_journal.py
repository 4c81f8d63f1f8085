"""What outlasts a hub: no end of it, and no restart of the machine, gives a fresh quota."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioapiqueue import ApiQueue
from aioapiqueue.spi import limit_types
from tests.helpers import introspect
from tests.helpers.limiters import OnHost
from tests.helpers.virtual_hub import VirtualHub, folder_in_memory, journals
from tests.properties.test_changed_kinds import SIZES, holds_whatever_is_set

wire = introspect.hub_messages()

DAY = 86_400


@pytest.fixture(autouse=True)
def blocking(blockbuster):
    """A hub's writes block it: that takes less than to hand them to a thread."""
    blockbuster.deactivate()


@contextmanager
def locked(file, kind="IMMEDIATE"):
    """Have somebody else write to the file meanwhile, as a backup does."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=0)) as other:
        other.execute(f"BEGIN {kind}")
        yield
        other.execute("ROLLBACK")


async def starts_of(queue, number, within, **call):
    """Return when so many calls have started, that were made at once, of those within a time."""
    loop, starts = asyncio.get_running_loop(), []

    async def one():
        async with queue.slot(**call):
            starts.append(loop.time())

    tasks = [asyncio.create_task(one()) for _ in range(number)]
    await asyncio.wait(tasks, timeout=within)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return starts


async def test_killed_hub_gives_no_fresh_burst(open_journal):
    """At most the second that was written ahead is lost."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("10/s burst 50", schedule=hub.schedule("crm"))
    first = await starts_of(queue, 60, 1)
    assert 59 <= len(first) <= 60
    hub.kill()
    again = await starts_of(queue, 100, 2)
    # What comes back in two seconds, less the one that the file was ahead.
    assert 9 <= len(again) <= 20


async def test_killed_hub_gives_no_fresh_window(open_journal):
    """At most a hundredth of it is lost each time."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("1000 in any 1h", schedule=hub.schedule("crm"))
    total = []
    for _ in range(10):
        total += await starts_of(queue, 60, 1)
        hub.kill()
    total += await starts_of(queue, 2000, 10)
    assert 1000 - 10 * 11 <= len(total) <= 1000
    await asyncio.sleep(3600)
    assert len(await starts_of(queue, 2000, 10)) == 1000


async def test_ended_hub_loses_nothing(open_journal):
    """One that ends by itself knows exactly what was let through."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("100 in any 1d", schedule=hub.schedule("crm"))
    total = []
    for _ in range(10):
        total += await starts_of(queue, 9, 1)
        hub.end()
    total += await starts_of(queue, 100, 10)
    assert len(total) == 100


async def test_calendar_day_outlasts_hubs(open_journal):
    """Ten restarts a day do not multiply a daily quota."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("50 in each day", schedule=hub.schedule("crm"))
    total = []
    for number in range(10):
        total += await starts_of(queue, 4, 1)
        (hub.kill if number % 2 else hub.end)()
    total += await starts_of(queue, 100, 10)
    assert 50 - 5 <= len(total) <= 50
    await asyncio.sleep(DAY)
    assert len(await starts_of(queue, 100, 10)) == 50


async def test_other_boot_goes_by_the_wall_clock(open_journal, monkeypatch):
    """After a restart of the machine, the wall clock says how long it was off."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("100 in any 1h", schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 200, 1)) == 100
    wall = time.time()
    introspect.replace(monkeypatch, "name of a boot", lambda: "another")
    monkeypatch.setattr(time, "time", lambda: wall + 1800)
    hub.kill()
    assert await starts_of(queue, 1, 1795) == []
    assert len(await starts_of(queue, 200, 10)) >= 99


@pytest.mark.parametrize("step", [-7 * DAY, -3600])
async def test_wall_clock_set_back_makes_nobody_wait(open_journal, monkeypatch, step):
    """Nothing is owed for longer than when it was written."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("10/s burst 10", "30 in any 60s", schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 100, 10)) == 30
    wall = time.time()
    introspect.replace(monkeypatch, "name of a boot", lambda: "another")
    monkeypatch.setattr(time, "time", lambda: wall + step)
    hub.kill()
    began = asyncio.get_running_loop().time()
    starts = await starts_of(queue, 100, 70)
    assert 29 <= len(starts) <= 30
    assert max(starts) - began <= 60 + 3


async def test_step_of_the_wall_clock_changes_nothing(open_journal, monkeypatch):
    """While the machine runs, its own clock holds."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("10 in any 1h", schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 20, 1)) == 10
    wall = time.time()
    monkeypatch.setattr(time, "time", lambda: wall + DAY / 2)
    hub.kill()
    assert await starts_of(queue, 5, 3000) == []


async def test_lanes_outlast_hubs_and_their_keys_are_hashed(file, open_journal):
    """A tenant's window is its own after a restart, and its name is not in the file."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue(lanes={"tenant:*": "5 in any 1h"}, schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 9, 1, key="tenant:acme")) == 5
    hub.kill()
    assert await starts_of(queue, 9, 1, key="tenant:acme") == []
    assert len(await starts_of(queue, 9, 1, key="tenant:other")) == 5
    for part in file.parent.iterdir():
        assert b"acme" not in part.read_bytes()


async def test_limit_that_comes_back_goes_on(open_journal):
    """A client that leaves and returns finds its own limit as it was, beside others."""
    hub = VirtualHub(open_journal)
    other = ApiQueue("1000/s", schedule=hub.schedule("crm"))
    assert len(await starts_of(other, 1, 1)) == 1
    for _ in range(3):
        daily = ApiQueue("6 in any 1d", schedule=hub.schedule("crm"))
        await starts_of(daily, 2, 1)
        await daily.aclose()
        assert len(await starts_of(other, 20, 1)) == 20
    daily = ApiQueue("6 in any 1d", schedule=hub.schedule("crm"))
    assert await starts_of(daily, 5, 1) == []


@pytest.mark.real
@pytest.mark.parametrize("limit", ["3 in any 1h", "3 in each day"])
async def test_lanes_hold_on_a_real_clock(open_journal, limit):
    """A lane that is idle when its call comes is forgotten and made again: it goes on as it was."""
    terms = wire.Terms((), {"*": (limit_types.parse_limit(limit),)}, None, 0.01, None, ("calls",))
    for expected in (3, 0):  # the first hub has not ended: it was killed
        quotas = introspect.hub_quotas(open_journal())
        hello = {"kind": "name", "quota": "crm", "terms": terms.as_json()}
        client = quotas.welcome(hello, lambda _: None)
        for ticket in range(1, 20):
            client.receive([["join", ticket, ["acme"], None, 0]])
            await asyncio.sleep(0.001)
        granted = sum(text.startswith('["grant"') for text in client.outbox)
        assert granted == expected
        client.leave()


async def test_changed_limits_have_rows_of_their_own(open_journal):
    """`set_rate` to a window of a day is kept, as if it had been there from the start."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("100 in any 1h", schedule=hub.schedule("crm"))
    await starts_of(queue, 1, 1)
    queue.set_rate("10 in any 1d")
    assert len(await starts_of(queue, 20, 1)) == 9  # one has gone
    hub.kill()
    assert await starts_of(queue, 20, 1) == []


async def test_others_in_between_do_not_refill(open_journal):
    """A client with another window comes and goes: the first one's is as it was."""
    hub = VirtualHub(open_journal)
    for number, expected in ((1, 10), (2, 0)):
        daily = ApiQueue("10 in any 1d", schedule=hub.schedule("crm"))
        assert len(await starts_of(daily, 20, 1)) == expected, number
        await daily.aclose()
        other = ApiQueue("2 in any 1s", schedule=hub.schedule("crm"))
        await starts_of(other, 2, 1)
        await other.aclose()


@pytest.mark.parametrize("end", ["kill", "end"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10/h burst 10", "10 in any 1h"),
        ("10/d burst 10", "10 in each day"),
        ("10 in each day", "10 in any 24h"),
        ("10/h burst 10", "10/d burst 10"),
        ("10 in any 1h", "10 in any 2h"),
    ],
)
async def test_other_limits_go_on_where_the_last_ones_were(open_journal, one, other, end):
    """A program that is started with other limits gets no fresh quota, whatever hub was there."""
    hub, started = VirtualHub(open_journal), []
    for limit in (one, other, one, other):
        queue = ApiQueue(limit, "1 tokens/s", lanes={"a": limit}, schedule=hub.schedule("crm"))
        calls = {"cost": {"tokens": 0}, "key": "a"}
        started.append(len(await starts_of(queue, 20, 1, **calls)))
        await queue.aclose()
        getattr(hub, end)()
    assert started == [10, 0, 0, 0]


@pytest.mark.parametrize("end", ["kill", "end"])
@pytest.mark.parametrize("key", [None, "t1", "t*"])
async def test_set_rate_is_kept_without_a_call(open_journal, key, end):
    """A hub that ends before anybody has called since the limits were set has them in its file."""
    hub = VirtualHub(open_journal)
    lanes = {"t*": "10 in any 1s"}
    queue = ApiQueue("10 in any 1s", lanes=lanes, schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 20, 0.5, key="t1")) == 10
    queue.set_rate("10/h burst 10", key=key)
    await asyncio.sleep(10)
    await queue.aclose()
    getattr(hub, end)()
    own = "10/h burst 10" if key is None else "100/s burst 100"
    lanes = {"t*": "100/s burst 100", key: "10/h burst 10"} if key else {}
    queue = ApiQueue(own, lanes=lanes, schedule=hub.schedule("crm"))
    assert await starts_of(queue, 20, 1, key="t1") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("400 tokens/h burst 400", "400 tokens in any 1h"),
        ("400 tokens in any 1h", "400 tokens/h burst 400"),
    ],
)
async def test_settlement_after_a_change_is_kept(open_journal, one, other):
    """A settlement from nothing is in the file, though nobody called since the limit changed."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue(one, schedule=hub.schedule("crm"))
    slot = await queue.enqueue(cost={"tokens": 0})
    queue.set_rate(other)
    for _ in range(10):
        await asyncio.sleep(0)
    slot.settle({"tokens": 400})
    for _ in range(10):
        await asyncio.sleep(0)
    hub.kill()
    assert await starts_of(queue, 1, 60, cost={"tokens": 400}) == []


@pytest.mark.parametrize("end", ["kill", "end"])
async def test_raised_numbers_are_no_debt(open_journal, end):
    """Two limits that are both raised with a restart: each goes on with what it has itself.

    After a kill, a hundredth of the day may have started besides: a burst and more.
    """
    hub = VirtualHub(open_journal)
    queue = ApiQueue("60/min burst 60", "10000 in each day", schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 300, 200)) == 259
    await asyncio.sleep(60)
    await queue.aclose()
    getattr(hub, end)()
    queue = ApiQueue("100/min burst 100", "20000 in each day", schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 1, 1)) == 1


async def test_limit_beside_is_counted(open_journal):
    """A limit that a restart adds starts with the calls of the one that stays."""
    hub = VirtualHub(open_journal)
    for limits, expected in (
        (["10 in any 1h"], 10),
        (["10 in any 1h", "10/h burst 10"], 0),
        (["10/h burst 10"], 0),
    ):
        queue = ApiQueue(*limits, schedule=hub.schedule("crm"))
        assert len(await starts_of(queue, 20, 1)) == expected
        await queue.aclose()
        hub.end()


async def test_file_that_cannot_be_read_is_read_again(open_journal, monkeypatch):
    """A limit that is replaced while a read fails (an error of the disk) is not forgotten."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("10/h burst 10", schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 20, 1)) == 10
    introspect.replace(monkeypatch, "reads of a journal", lambda *_: None)
    queue.set_rate("10 in any 1h")
    assert await starts_of(queue, 1, 1) == []
    monkeypatch.undo()
    assert await starts_of(queue, 1, 1) == []
    await queue.aclose()
    hub.kill()
    queue = ApiQueue("10 in any 1h", schedule=hub.schedule("crm"))
    assert await starts_of(queue, 20, 1) == []


async def test_replaced_limit_is_taken_over_once(open_journal):
    """What a limit let through counts for the one that replaced it, not for all that come later."""
    hub = VirtualHub(open_journal)
    for limit, expected in (("1000/d burst 1000", 1000), ("100000/s burst 1000", 500), ("9/s", 1)):
        await asyncio.sleep(1)
        queue = ApiQueue(limit, schedule=hub.schedule("crm"), catch_up=0)  # not in groups
        assert len(await starts_of(queue, 1000, 0.005)) == expected, limit
        await queue.aclose()
        hub.end()


async def test_settled_units_that_were_unused_are_kept(open_journal):
    """What a call has cost of a unit that it was to use nothing of is in the file, too."""
    hub = VirtualHub(open_journal)
    limits = ("1000 tokens in any 1d", "100/s")
    queue = ApiQueue(*limits, schedule=hub.schedule("llm"))
    for _ in range(9):
        async with queue.slot(cost={"tokens": 0}) as slot:
            slot.settle({"tokens": 100})
    for _ in range(10):
        await asyncio.sleep(0)
    hub.kill()
    assert await starts_of(queue, 1, 5, cost={"tokens": 200}) == []


async def test_unwritable_file_stops_nobody(file, open_journal):
    """Calls go on; what is wrong is told, and it is tried again."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("10/s burst 10", schedule=hub.schedule("crm"))
    await starts_of(queue, 1, 1)
    with locked(file, "EXCLUSIVE"):
        hub.quotas.by_name["name", "crm"].records.close()  # so that each start is to be written
        assert len(await starts_of(queue, 5, 1)) == 5
        assert "cannot be written to" in hub.quotas.problem
    await asyncio.sleep(0.5)  # so long it is left alone
    assert len(await starts_of(queue, 5, 5)) == 5
    assert hub.quotas.problem is None
    hub.kill()
    assert len(await starts_of(queue, 20, 0.5)) <= 10


@pytest.mark.parametrize("limit", ["10/h burst 10", "10 in any 1h"])
async def test_what_is_written_late_is_all_that_went(file, open_journal, limit):
    """A file that was locked when calls went says so later, though nothing went since."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue(limit, schedule=hub.schedule("crm"))
    hub.quotas.commit(0)
    with locked(file):
        assert len(await starts_of(queue, 10, 1)) == 10
    hub.quotas.commit(asyncio.get_running_loop().time() + 1)
    assert hub.quotas.problem is None
    hub.kill()
    assert await starts_of(queue, 1, 300) == []


async def test_locked_file_is_waited_for_at_the_start(file, open_journal):
    """A hub that starts beside a backup goes on where the last one was."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("5 in any 1d", schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 5, 1)) == 5
    other = sqlite3.connect(file, isolation_level=None, timeout=0, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, other.execute, ("ROLLBACK",))
    timer.start()
    hub.kill()
    timer.join()
    other.close()
    assert await starts_of(queue, 1, 3600) == []


async def test_limit_that_ends_while_the_file_is_locked(file, open_journal):
    """What it has let through is written later, or goes on where the limit comes back."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("5 in any 1h", schedule=hub.schedule("crm"))
    await starts_of(queue, 2, 1)
    with locked(file):
        await starts_of(queue, 3, 1)
        queue.set_rate("100/s")
        await starts_of(queue, 1, 1)
        queue.set_rate("5 in any 1h")  # it is back before the file could be written to
        assert await starts_of(queue, 1, 60) == []
        queue.set_rate("100/s")
        await starts_of(queue, 1, 1)
    await asyncio.sleep(1)
    await starts_of(queue, 1, 1)
    await queue.aclose()
    hub.kill()
    queue = ApiQueue("5 in any 1h", schedule=hub.schedule("crm"))
    assert await starts_of(queue, 1, 60) == []


async def test_what_is_left_to_be_written_at_the_end(file, open_journal, monkeypatch):
    """It has the instants of when it is written, also where no quota is in memory by then."""
    introspect.replace(monkeypatch, "name of a boot", lambda: "first")
    hub = VirtualHub(open_journal)
    await asyncio.sleep(30 * 86_400)  # for so long, the machine has run
    queue = ApiQueue("10/s burst 10", schedule=hub.schedule("crm"))
    await starts_of(queue, 10, 0.1)
    await queue.aclose()
    with locked(file):
        await asyncio.sleep(10)
        hub.quotas.forget_idle()
        assert not hub.quotas.by_name
    hub.end()
    introspect.replace(monkeypatch, "name of a boot", lambda: "second")
    hub = VirtualHub(open_journal)
    queue = ApiQueue("10/s burst 10", schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 1, 5)) == 1


async def test_reset_of_what_is_still_to_be_written(file, open_journal):
    """It does not come back when it can be written."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("100 in any 1d", schedule=hub.schedule("crm"))
    await starts_of(queue, 1, 1)
    with locked(file):
        await starts_of(queue, 60, 1)
        queue.set_rate("100/s")
        await starts_of(queue, 1, 1)
    assert hub.quotas.reset("crm")
    await asyncio.sleep(1)
    hub.end()
    queue = ApiQueue("100 in any 1d", schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 100, 5)) == 100


async def test_reset_wakes_those_who_wait_in_lanes(open_journal):
    """Also where calls of several lines wait."""
    hub = VirtualHub(open_journal)
    lanes = {"a": "1 in any 1h", "b": "1 in any 1h"}
    queues = [ApiQueue(lanes=lanes, schedule=hub.schedule("crm")) for _ in range(2)]
    for key in lanes:
        (await queues[0].enqueue(key=key)).release()
    waiting = [queue.enqueue(key=key) for queue in queues for key in lanes]
    await asyncio.sleep(1)
    hub.quotas.reset("crm")
    await asyncio.sleep(1)
    assert sum(one.done() for one in waiting) == 2
    for one in waiting:
        one.cancel()


async def test_reset_without_a_file():
    """What is in memory is forgotten all the same."""
    hub = VirtualHub()
    queue = ApiQueue("5 in any 1h", lanes={"*": "1 in any 1h"}, schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 1, 1, key="a")) == 1
    assert hub.quotas.reset("crm")
    assert len(await starts_of(queue, 1, 1, key="a")) == 1


async def test_reset_that_cannot_be_written_says_so(file, open_journal):
    """Else it would come back with the next hub, and nobody would know."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("5 in any 1h", schedule=hub.schedule("crm"))
    await starts_of(queue, 1, 1)
    why = r"quotas\.db cannot be written to: database is locked"
    with locked(file), pytest.raises(OSError, match=why):
        hub.quotas.reset("crm")
    hub.kill()
    assert len(await starts_of(queue, 5, 1)) == 3  # one went, and one is lost with the hub
    assert hub.quotas.reset("crm")


async def test_reset_forgets_what_went_and_ends_no_pause(open_journal):
    """Windows are as new, for those who wait, too; what a user has paused stays so."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("5 in any 1h", schedule=hub.schedule("crm"))
    assert len(await starts_of(queue, 5, 1)) == 5
    waiting = queue.enqueue()
    await asyncio.sleep(1)
    assert hub.quotas.reset("crm")
    await asyncio.sleep(1)
    assert waiting.done()
    waiting.result().release()
    queue.pause()
    await asyncio.sleep(1)
    hub.quotas.reset("crm")
    assert await starts_of(queue, 1, 10) == []
    assert not hub.quotas.reset("unknown")


async def test_settled_upward_is_known_to_the_next(open_journal):
    """What turns out to cost more is owed after a restart, too."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("100 tokens/s burst 100", schedule=hub.schedule("llm"))
    async with queue.slot(cost={"tokens": 10}) as slot:
        slot.settle({"tokens": 1100})
    for _ in range(10):
        await asyncio.sleep(0)
    hub.kill()
    assert await starts_of(queue, 1, 9, cost={"tokens": 100}) == []
    assert len(await starts_of(queue, 1, 5, cost={"tokens": 100})) == 1


async def test_broken_file_is_kept_and_replaced(file, open_journal):
    """A hub starts all the same, and says what has become of it."""
    file.write_bytes(b"no database" * 1000)
    journal = open_journal()
    assert "cannot be read" in journal.problem
    assert (file.parent / "quotas.db.broken").read_bytes().startswith(b"no database")
    journal.close(0, in_use=False)
    assert open_journal().problem is None


@pytest.mark.parametrize("layout", [1, 99])
async def test_file_of_another_layout_is_kept(file, open_journal, layout):
    """Nothing of another version is taken for what it is not."""
    open_journal().close(0, in_use=False)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE meta SET value = ? WHERE name = 'layout'", (layout,))
    assert "another version" in open_journal().problem


def test_what_is_kept_is_whole(file, open_journal):
    """Also what a hub wrote last before it was killed, which SQLite keeps beside the file."""
    open_journal().close(0, in_use=False)
    with closing(sqlite3.connect(file)) as database:
        with database:
            database.execute("UPDATE meta SET value = '99' WHERE name = 'layout'")
        parts = {part: part.read_bytes() for part in (file, file.with_name(f"{file.name}-wal"))}
    for part, content in parts.items():  # as if it had not been closed
        part.write_bytes(content)
    assert "another version" in open_journal().problem
    with closing(sqlite3.connect(f"{file}.broken")) as database:
        layout = database.execute("SELECT value FROM meta WHERE name = 'layout'").fetchone()
    assert layout == ("99",)


def test_file_that_cannot_be_used_is_closed(file, open_journal, monkeypatch):
    """A hub that goes on without it does not keep it open."""
    introspect.replace(monkeypatch, "seconds for a locked file", 0)
    with locked(file, "EXCLUSIVE"), pytest.raises(sqlite3.OperationalError) as raised:
        open_journal()
    assert str(raised.value) == "database is locked"
    assert file not in [one.resolve() for one in Path("/proc/self/fd").iterdir()]


@pytest.mark.parametrize("data", [{"boot": 1}, {"boot": 1, "at": []}, []])
async def test_malformed_row_counts_as_none(file, open_journal, data):
    """It was not written by us; the others are read."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("5 in any 1h", schedule=hub.schedule("crm"))
    await starts_of(queue, 1, 1)
    hub.end()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE used SET data = ?", (json.dumps(data),))
    hub.kill()
    assert len(await starts_of(queue, 9, 1)) == 5


async def test_writes_are_few(file, open_journal):
    """One a second for a rate, a hundred for a window: not one for each call."""
    hub, written = VirtualHub(open_journal), []
    queue = ApiQueue("1000/s", "100000 in any 1h", schedule=hub.schedule("crm"))
    await starts_of(queue, 1, 1)
    connection = sqlite3.connect(file)
    versions = set()

    async def watch():
        while True:
            versions.add(connection.execute("PRAGMA data_version").fetchone())
            await asyncio.sleep(0.01)

    watcher = asyncio.create_task(watch())
    written += await starts_of(queue, 2000, 10)
    watcher.cancel()
    connection.close()
    assert len(written) == 2000
    assert len(versions) <= 2 + 2 + 2  # two seconds, and two thousand of a window's hundredth


@contextmanager
def journal_in_memory():
    """Give what opens one for one hub after the other."""
    with folder_in_memory() as folder, journals(folder / "quotas.db") as open_journal:
        yield open_journal


HISTORIES = given(
    seed=st.integers(0, 2**32),
    limit=st.sampled_from(["10/s", "5/s burst 20", "30 in any 5s", "8 in any 1s"]),
)
OTHER_KINDS = given(seed=st.integers(0, 2**32), size=SIZES)


@settings(max_examples=20)
@HISTORIES
def test_no_history_of_kills_breaks_a_limit(run_virtual, seed, limit):
    """Whenever hubs and clients are killed, or end: no window ever has too much."""
    breaks_no_limit(run_virtual, seed, limit)


@pytest.mark.slow
@settings(max_examples=200)
@HISTORIES
def test_no_long_history_breaks_a_limit(run_virtual, seed, limit):
    """The same of more histories."""
    breaks_no_limit(run_virtual, seed, limit)


def breaks_no_limit(run_virtual, seed, limit):
    """Kill hubs and clients, and see what starts."""

    async def history():
        rng = random.Random(seed)
        hub = VirtualHub(open_journal)
        loop, starts = asyncio.get_running_loop(), []
        queues = [ApiQueue(limit, schedule=hub.schedule("crm")) for _ in range(2)]

        async def one(queue):
            async with queue.slot():
                starts.append(loop.time())
                await asyncio.sleep(rng.choice([0, 0.3]))

        tasks = []
        for _ in range(60):
            tasks.append(asyncio.create_task(one(rng.choice(queues))))
            await asyncio.sleep(rng.choice([0, 0, 0.05, 0.4]))
            if rng.random() < 0.15:
                rng.choice([hub.kill, hub.kill, hub.end])()
            if rng.random() < 0.1:
                rng.choice(tasks).cancel()
        await asyncio.wait(tasks)
        for queue in queues:
            await queue.aclose()
        check(limit, starts)

    with journal_in_memory() as open_journal:
        run_virtual(history)


class Restarted(OnHost):
    """Hubs that are killed, or end, before some of the processes begin."""

    rounding = 1e-5
    """The wall clock is kept to a fraction of a microsecond, a process' own far better."""

    def __init__(self, open_journal, seed):
        super().__init__(examples=1)
        self.open_journal = open_journal
        self.rng = random.Random(seed)

    def quota(self):
        """Return what makes queues of one quota."""
        hub = VirtualHub(self.open_journal)

        def make(*limits, **options):
            self.rng.choice([hub.kill, hub.end, lambda: None])()
            return ApiQueue(*limits, schedule=hub.schedule("quota"), **options)

        return make


@settings(max_examples=20)
@OTHER_KINDS
def test_no_history_of_kills_forgets_other_kinds(run_virtual, seed, size):
    """Whatever kinds of limits follow each other, and whatever becomes of the hubs meanwhile."""
    with journal_in_memory() as open_journal:
        holds_whatever_is_set(Restarted(open_journal, seed), run_virtual, seed, size)


@pytest.mark.slow
@settings(max_examples=200)
@OTHER_KINDS
def test_no_history_forgets_kinds_at_length(run_virtual, seed, size):
    """The same of more histories."""
    with journal_in_memory() as open_journal:
        holds_whatever_is_set(Restarted(open_journal, seed), run_virtual, seed, size)


def check(limit, starts):
    """Check that no window has more than the limit says."""
    number, per, burst = {
        "10/s": (10, 1, 1),
        "5/s burst 20": (5, 1, 20),
        "30 in any 5s": (30, 5, None),
        "8 in any 1s": (8, 1, None),
    }[limit]
    for first, at in enumerate(starts):
        for last in range(first, len(starts)):
            within, span = last - first + 1, starts[last] - at
            if burst is None:
                assert within <= number or span >= per - 1e-9
            else:
                assert within <= burst + (span + 0.01) * number / per + 1e-6


async def test_killed_hub_starts_ramps_over(open_journal):
    """The ceiling is at the floor again; what the rate has not recovered is kept."""
    hub = VirtualHub(open_journal)
    queue = ApiQueue("10/s burst 20 ramp 2x per 4s", schedule=hub.schedule("crm"))
    first = await starts_of(queue, 300, 40)
    assert first[-1] - first[-2] < 0.11
    hub.kill()
    again = await starts_of(queue, 300, 4)
    # The burst is scaled to 2, and used up; of the rate, a second was written ahead.
    assert 2 <= len(again) <= 5
