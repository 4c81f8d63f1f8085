"""Mistakes in the use of a queue: the error says what to write instead."""

import pytest

from aioapiqueue import ApiQueue, QueueClosed, SlotTimeout, WouldWait
from aioapiqueue._printable import printable


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("rate", ': limits come first, without a name: ApiQueue("10/s")'),
        ("limits", ': limits come first, without a name: ApiQueue("10/s")'),
        ("burst", ': a burst is part of its limit: ApiQueue("20/s burst 100")'),
        ("time_period", ': the time is part of the limit: ApiQueue("7 per 2s")'),
        ("timeout", ": calls have time-outs: queue.slot(timeout=...)"),
        ("concurency", ": did you mean concurrency=?"),
        ("max_concurrency", ": did you mean concurrency=?"),
        ("lane", ": did you mean lanes=?"),
        ("xyz", ", but name=, lanes=, order=, concurrency=, maxsize=, overflow=, catch_up=, "),
    ],
)
def test_unknown_options_name_the_remedy(option, remedy):
    """An option that `ApiQueue` has not is refused with what to write."""
    with pytest.raises(TypeError) as caught:
        ApiQueue("10/s", **{option: 5})
    assert str(caught.value).startswith(f"ApiQueue takes no {option}={remedy}")


def test_acquire_names_slot_and_limiter():
    """`queue.acquire()` does not exist, as `hasattr` says too, and its error names what does."""
    queue = ApiQueue("10/s")
    with pytest.raises(
        AttributeError, match=r"queue\.slot\(\).*queue\.limiter\(\)\.acquire\(\)"
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
    said = '"async with queue:" has closed it at its end. A queue needs no start and no stop: leave'
    with pytest.raises(QueueClosed, match=f"takes no more calls: {said}"):
        queue.enqueue()
    await queue.aclose()  # changes nothing
    with pytest.raises(QueueClosed, match=f"takes no more calls: {said}"):
        queue.enqueue()
    with pytest.raises(QueueClosed, match=r"whole life.* no start and no stop: .* leave it open"):
        await queue.__aenter__()
    assert queue.closed is True


async def test_closed_by_aclose_is_said():
    """After `aclose()`, calls learn that it was that."""
    queue = ApiQueue("10/s")
    assert queue.closed is False
    await queue.aclose()
    with pytest.raises(QueueClosed, match=r"takes no more calls: aclose\(\) has closed it: make a"):
        queue.enqueue()


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
    with pytest.raises(SlotTimeout, match=f"no slot within 0.01 s, the next is due in {due}$"):
        await queue.enqueue(timeout=0.01)
    with pytest.raises(WouldWait, match=f"the next slot is due in {due}$"):
        queue.try_slot()


async def test_a_pause_is_named():
    """What is paused until `resume` is not due in "inf s"."""
    queue = ApiQueue("10/s")
    queue.pause()
    with pytest.raises(WouldWait, match=r"it is paused, until resume\(\)$"):
        queue.try_slot()


def test_names_of_others_obey_no_terminal():
    """An escape sequence or a line feed in a key is shown, and does nothing."""
    assert printable("tenant\n\x1b[2J\u2028é") == r"tenant\n\x1b[2J\u2028é"
