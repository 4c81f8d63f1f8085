"""Mistakes in the use of a queue: the error says what to write instead."""

import pytest

from aioapiqueue import ApiQueue, QueueClosed, SlotTimeout, WouldWait
from aioapiqueue.spi import printable


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("rate", ': pass limits first, without a name: ApiQueue("10/s")'),
        ("limits", ': pass limits first, without a name: ApiQueue("10/s")'),
        ("burst", ': write it in the limit: ApiQueue("20/s burst 100")'),
        ("time_period", ': write it in the limit: ApiQueue("7 per 2s")'),
        ("timeout", ": pass it with each call: queue.slot(timeout=...)"),
        ("concurency", ": did you mean concurrency=?"),
        ("max_concurrency", ": did you mean concurrency=?"),
        ("lane", ": did you mean lanes=?"),
        (
            "xyz",
            ": its options are name=, lanes=, order=, concurrency=, maxsize=, overflow=, ",
        ),
    ],
)
def test_unknown_options_name_the_remedy(option, remedy):
    """An option that `ApiQueue` has not is refused with what to write."""
    with pytest.raises(TypeError) as caught:
        ApiQueue("10/s", **{option: 5})
    assert str(caught.value).startswith(f"ApiQueue has no option {option}={remedy}")


def test_acquire_names_slot_and_limiter():
    """`queue.acquire()` does not exist, as `hasattr` says too, and its error names what does."""
    queue = ApiQueue("10/s")
    with pytest.raises(
        AttributeError, match=r"queue\.slot\(\).*queue\.limiter\(\) to code that calls acquire\(\)"
    ) as caught:
        queue.acquire()
    assert (caught.value.name, caught.value.obj) == ("acquire", queue)
    with pytest.raises(AttributeError) as caught:
        ApiQueue.acquire  # noqa: B018 - it raises
    assert caught.value.obj is ApiQueue
    assert not hasattr(queue, "acquire")
    assert not hasattr(ApiQueue, "acquire")
    with pytest.raises(AttributeError, match=r"has no attribute 'aquire'$"):
        queue.aquire()
    # Beside these, CPython does not speed up the look-up of attributes that exist.
    assert not hasattr(ApiQueue, "__getattr__")
    assert ApiQueue.__getattribute__ is object.__getattribute__


async def test_closed_by_its_block_is_said():
    """After `async with queue:`, calls learn that it closed the queue, and that it can be left out.

    So do those who enter it again, as a web framework's start does at the next start.
    """
    queue = ApiQueue("10/s")
    async with queue:
        pass
    said = (
        '"async with queue:" closed it at the end of its block. Leave "async with queue:" out '
        r"\(you need not start or stop a queue\), or create"
    )
    with pytest.raises(QueueClosed, match=f"accepts no more calls: {said}"):
        queue.enqueue()
    await queue.aclose()  # changes nothing
    with pytest.raises(QueueClosed, match=f"accepts no more calls: {said}"):
        queue.enqueue()
    with pytest.raises(
        QueueClosed, match=r"works only once, because it closes .* need not start or stop a queue$"
    ):
        await queue.__aenter__()
    assert queue.closed is True


async def test_closed_by_aclose_is_said():
    """After `aclose()`, calls learn that it was that."""
    queue = ApiQueue("10/s")
    assert queue.closed is False
    await queue.aclose()
    with pytest.raises(QueueClosed, match=r"accepts no more calls: aclose\(\) closed it. Create a"):
        queue.enqueue()
    with pytest.raises(QueueClosed, match=r"is closed: aclose\(\) closed it. Create a new queue"):
        await queue.__aenter__()


@pytest.mark.parametrize(
    ("limit", "due"),
    [
        ("1 per 2960s", "49.3 min"),
        ("1 per 50ms", "0.05 s"),
        ("1 per 60s", "60 s"),
        ("1 per 5h", "5 h"),
        ("1 per 48h", "2 days"),
        ("1 per 1e9s", "11,574 days"),
    ],
)
async def test_durations_are_plain(limit, due):
    """Waits are said in a unit that fits, and never as 2.96e+03 s."""
    queue = ApiQueue(limit)
    await queue.enqueue()
    with pytest.raises(SlotTimeout, match=f"no slot within 0.01 s; the next is due in {due}$"):
        await queue.enqueue(timeout=0.01)
    with pytest.raises(WouldWait, match=f"the next slot is due in {due}$"):
        queue.try_slot()


async def test_a_pause_is_named():
    """What is paused until `resume` is not due in "inf s"."""
    queue = ApiQueue("10/s")
    queue.pause()
    with pytest.raises(WouldWait, match=r"the queue is paused until resume\(\)$"):
        queue.try_slot()


def test_names_of_others_obey_no_terminal():
    """An escape sequence or a line feed in a key is shown, and does nothing."""
    assert printable("tenant\n\x1b[2J\u2028é") == r"tenant\n\x1b[2J\u2028é"


async def test_a_plain_with_names_async_with():
    """`with queue.slot():` does not wait: the error says what does, on a loop and in threads."""
    queue = ApiQueue("10/s")
    remedy = r'write "async with queue\.slot\(\):", or in threads "with blocking\(queue\)\.slot\(\)'
    remedy = f'"with" does not wait for a slot: {remedy}'
    with pytest.raises(RuntimeError, match=remedy), queue.slot():
        pytest.fail("it was let in")
    slot = queue.try_slot()
    slot.release()
    with (
        pytest.raises(RuntimeError, match=r"^this slot has ended: call queue\.slot\(\) again"),
        slot,
    ):
        pytest.fail("it was let in")


async def test_amounts_are_plain():
    """A cost of millions is written as it was given, and not as 1.23457e+06."""
    queue = ApiQueue("1000000 tokens in any 1h")
    with pytest.raises(
        ValueError, match=r"^a cost of 1234567 tokens never fits the limit .1000000 tokens in"
    ):
        queue.try_slot(cost={"tokens": 1_234_567})


def test_many_lanes_are_not_all_listed():
    """An unknown name in the figures is answered with some of those that there are."""
    queue = ApiQueue(lanes={f"host{number}": "1/s" for number in range(1000)})
    with pytest.raises(KeyError, match=r"the lanes are 'host0', .*'host19', \.\.\.\"$"):
        queue.stats.lanes["host"]


def test_overflow_has_two_values():
    """Another one is refused, also where `maxsize` makes sense of the option."""
    with pytest.raises(
        ValueError, match=r'^overflow must be "raise" or "drop_oldest", not .drop.$'
    ):
        ApiQueue(maxsize=5, overflow="drop")


async def test_other_unit_is_named():
    """A cost that names another unit than the limit counts may have it misspelt: both are named."""
    queue = ApiQueue(lanes={"a": "9 reads/s", "b": "9 writes/s"})
    with pytest.raises(ValueError, match="this call names writes instead of reads, but a limit of"):
        queue.try_slot(key="a", cost={"writes": 1})
