"""Events as log records: quiet in a healthy run, and structured."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle

import pytest

from aioapiqueue import ApiQueue, QueueFull
from aioapiqueue.integrations.logging import LoggingObserver


async def use(queue, number=5, **how):
    """Make so many calls, one after the other."""
    for _ in range(number):
        async with queue.slot(**how):
            pass


async def test_healthy_run_is_quiet(caplog):
    """Nothing is logged at any level: events of calls are not even made."""
    caplog.set_level(logging.DEBUG)
    await use(ApiQueue("10/s", observers=[LoggingObserver()]))
    assert [record for record in caplog.records if record.name == "aioapiqueue"] == []


async def test_calls_can_be_logged(caplog):
    """With `calls=True`, all of them, as DEBUG."""
    caplog.set_level(logging.DEBUG, "aioapiqueue")
    queue = ApiQueue("10/s", name="crm", observers=[LoggingObserver(calls=True)])
    await use(queue, 2, key="k")
    kinds = [record.aioapiqueue["kind"] for record in caplog.records]
    assert kinds == ["released", "finished", "joined", "released", "finished"]
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert caplog.messages[-1] == "queue crm: finished k (waited 0.1 s; ran 0 s)"


async def test_push_back_is_a_warning(caplog):
    """With what there is to know; of many in a second, one, and their number in the next."""
    queue = ApiQueue("100/s", name="crm", lanes={"a": "50/s"}, observers=[LoggingObserver()])
    for _ in range(30):
        queue.throttled(2.5, key="a")
    await asyncio.sleep(1.1)
    queue.throttled(key="a")
    queue.malformed()
    assert caplog.messages == [
        "queue crm: throttled a (retry after 2.5 s)",
        "queue crm: throttled a (and 29 more since the last record)",
        "queue crm: malformed",
    ]
    first = caplog.records[0]
    assert first.levelno == logging.WARNING
    assert first.aioapiqueue["retry_after"] == 2.5
    assert "duration" not in first.aioapiqueue


async def test_what_an_operator_changes_is_logged(caplog):
    """Limits, holds and pauses, as INFO."""
    caplog.set_level(logging.INFO, "aioapiqueue")
    queue = ApiQueue("100/s", name="crm", observers=[LoggingObserver()])
    queue.set_rate("20/s", "500 in any 1h")
    queue.hold(3, key="a")
    queue.pause()
    queue.resume()
    assert caplog.messages == [
        "queue crm: limits changed (20/s, 500 in any 1h)",
        "queue crm: held (for 3 s)",
        "queue crm: paused",
        "queue crm: resumed",
    ]
    assert caplog.records[0].aioapiqueue["limits"] == ["20/s", "500 in any 1h"]
    assert {record.levelno for record in caplog.records} == {logging.INFO}


async def test_used_budget_is_logged(caplog):
    """Half of it as INFO; each share has a record, also within a second."""
    caplog.set_level(logging.INFO, "aioapiqueue")
    queue = ApiQueue("5 usd in all", name="llm", observers=[LoggingObserver()])
    async with queue.slot(cost={"usd": 3}) as slot:
        slot.settle({"usd": 4.5})
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "queue llm: threshold (50% of 5 usd in all is used; 2 usd left)"),
        ("WARNING", "queue llm: threshold (80% of 5 usd in all is used; 0.5 usd left)"),
    ]
    assert caplog.records[1].aioapiqueue["share"] == 0.8


async def test_each_used_budget_is_logged(caplog):
    """Of two tenants in one second, too: neither event comes again."""
    queue = ApiQueue(lanes={"t:*": "1 in all"}, name="llm", observers=[LoggingObserver()])
    for key in ("t:a", "t:b"):
        await use(queue, 1, key=key)
    assert [message.split()[3] for message in caplog.messages] == ["t:a"] * 2 + ["t:b"] * 2
    assert caplog.messages[3].endswith(" (100% of 1 in all is used; 0 left)")


async def test_refusals_go_to_the_given_logger(caplog):
    """And nothing goes to one whose level is above it."""
    logger = logging.getLogger("mine")
    queue = ApiQueue("1/s", maxsize=1, observers=[LoggingObserver(logger)])
    slots = [queue.enqueue(), queue.enqueue()]
    with pytest.raises(QueueFull):
        queue.enqueue()
    assert [(record.name, record.message) for record in caplog.records] == [
        ("mine", "queue (no name): refused")
    ]
    await asyncio.sleep(0.5)  # after a whole second, another would be a line
    logger.setLevel(logging.ERROR)
    try:
        with pytest.raises(QueueFull):
            queue.enqueue(key="b")
    finally:
        logger.setLevel(logging.NOTSET)
    assert len(caplog.records) == 1
    for slot in slots:
        slot.cancel()


async def test_many_keys_are_no_flood(caplog):
    """Push-back on thousands of keys in a second is one line, and so are holds."""
    caplog.set_level(logging.INFO, "aioapiqueue")
    queue = ApiQueue(lanes={"*": "unlimited"}, observers=[LoggingObserver()])
    for number in range(5_000):
        queue.throttled(key=number)
        queue.hold(1, key=number)
    assert len(caplog.records) == 2
    await asyncio.sleep(1)
    queue.throttled(key="last")
    assert caplog.messages[-1].endswith("(and 4,999 more since the last record)")


async def test_records_can_be_sent_elsewhere(caplog):
    """As JSON, and to another process: of each kind, with keys of any type."""
    caplog.set_level(logging.DEBUG, "aioapiqueue")
    queue = ApiQueue(
        "100/s", "1000 tokens/s burst 1000", name="crm", observers=[LoggingObserver(calls=True)]
    )
    async with queue.slot(keys=(("a", 1), object), cost={"tokens": 3}) as slot:
        slot.settle({"tokens": 2})
        slot.sync(40, reset=30)
        slot.throttled(0.1)
    queue.set_rate("20/s", "900 tokens/s burst 900")
    queue.pause()
    queue.resume()
    kinds = set()
    for record in caplog.records:
        fields = json.loads(json.dumps(record.aioapiqueue))
        assert fields == pickle.loads(pickle.dumps(record.aioapiqueue))  # noqa: S301 - our own
        kinds.add(fields["kind"])
        if fields["kind"] == "settled":
            assert fields["costs"] == {"calls": 1, "tokens": 2}
            assert fields["key"] == "('a', 1)"
        assert ("costs" in fields) == ("call" in fields)
    assert kinds >= {"released", "finished", "settled", "synced", "throttled", "limits_changed"}


async def test_names_forge_no_line(caplog):
    """Names and keys are logged with escapes; the record's fields have them as they are."""
    name, key = "crm\nERROR fake", "tenant\x1b[2J\x07\r\n\u2028"
    queue = ApiQueue("100/s", name=name, observers=[LoggingObserver()])
    queue.throttled(2.5, key=key)
    assert caplog.messages == [
        r"queue crm\nERROR fake: throttled tenant\x1b[2J\x07\r\n\u2028 (retry after 2.5 s)"
    ]
    fields = caplog.records[0].aioapiqueue
    assert (fields["queue"], fields["key"]) == (name, key)
