"""Events as log records: quiet in a healthy run, and structured."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from aioapiqueue import ApiQueue, QueueFull, Rate
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
    queue.throttled()
    assert caplog.messages == [
        "queue crm: throttled a (retry after 2.5 s)",
        "queue crm: throttled a (and 29 more since the last line)",
        "queue crm: throttled",
    ]
    first = caplog.records[0]
    assert first.levelno == logging.WARNING
    assert first.aioapiqueue["retry_after"] == 2.5
    assert "duration" not in first.aioapiqueue
    json.dumps(first.aioapiqueue, default=str)


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
        "queue crm: held a (for 3 s)",
        "queue crm: paused",
        "queue crm: resumed",
    ]
    assert caplog.records[0].aioapiqueue["limits"][0] == Rate(20)
    assert {record.levelno for record in caplog.records} == {logging.INFO}


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
    logger.setLevel(logging.ERROR)
    try:
        with pytest.raises(QueueFull):
            queue.enqueue(key="b")
    finally:
        logger.setLevel(logging.NOTSET)
    assert len(caplog.records) == 1
    for slot in slots:
        slot.cancel()


async def test_many_keys_take_bounded_memory():
    """Keys are told apart as long as they are few."""
    observer = LoggingObserver()
    queue = ApiQueue(lanes={"*": "unlimited"}, observers=[observer])
    for number in range(5_000):
        queue.throttled(key=number)
    assert len(observer._last) <= 1_000  # noqa: SLF001 - nothing else shows it
