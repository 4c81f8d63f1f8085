"""What the limiters of LangChain's and LlamaIndex's own models have in common."""

from __future__ import annotations

import asyncio
import time

import pytest
from anyio.from_thread import BlockingPortal

from aioapiqueue import ApiQueue, QueueClosed
from tests.helpers.paced_models import LIBRARIES, assert_paced


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request):
    """Give each library, imported."""
    return LIBRARIES[request.param]()


async def test_async_calls_are_paced(library):
    """Each of 4 at once starts at its instant, and is one call."""
    queue = ApiQueue("10/s")
    model = library.model(queue)
    answers = await asyncio.gather(*(library.ask(model) for _ in range(4)))
    assert answers == ["42"] * 4
    assert model.calls == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert queue.stats.released == 4
    assert queue.running == 0


async def test_a_stream_is_one_call(library):
    """It waits before its first part, and not before the others."""
    model = library.model(ApiQueue("10/s"))
    for _ in range(2):
        assert await library.read(model) == ["4", "2"]
    assert model.calls == pytest.approx([0.0, 0.1])


async def test_models_have_their_lanes(library):
    """Of two limiters with a key each, on one queue, each keeps its lane's limit."""
    queue = ApiQueue(lanes={"small": "10/s", "large": "2/s"})
    small, large = library.model(queue, key="small"), library.model(queue, keys=("large",))
    await asyncio.gather(*(library.ask(model) for model in (small, large) for _ in range(2)))
    assert small.calls == pytest.approx([0.0, 0.1])
    assert large.calls == pytest.approx([0.0, 0.5])


async def test_priority_goes_first(library):
    """A limiter with a lower priority is served before those that wait already."""
    queue = ApiQueue("10/s")
    plain, urgent = library.model(queue), library.model(queue, priority=-1)
    await asyncio.gather(*(library.ask(model) for model in (plain, plain, urgent)))
    assert plain.calls == pytest.approx([0.0, 0.2])
    assert urgent.calls == pytest.approx([0.1])


async def test_cancelled_wait_uses_nothing(library):
    """The one behind it has its slot."""
    loop, queue = asyncio.get_running_loop(), ApiQueue("10/s")
    model = library.model(queue)
    calls = [asyncio.create_task(library.ask(model)) for _ in range(3)]
    await asyncio.sleep(0.05)
    calls[1].cancel()
    await asyncio.wait(calls)
    assert calls[1].cancelled()
    assert model.calls == pytest.approx([0.0, 0.1])
    assert loop.time() == pytest.approx(0.1)
    assert queue.stats.released == 2


async def test_closed_queue_reaches_caller(library):
    """The model is not called."""
    queue = ApiQueue("10/s")
    model = library.model(queue)
    await queue.aclose()
    with pytest.raises(QueueClosed, match="accepts no more calls"):
        await library.ask(model)
    assert model.calls == []


@pytest.mark.real
def test_sync_calls_are_paced(library):
    """Calls wait in the thread that makes them."""
    queue = ApiQueue("50/s")
    model = library.model(queue)
    begun = time.monotonic()
    answers = [library.ask_blocking(model) for _ in range(4)]
    assert answers == ["42"] * 4
    assert len(model.calls) == queue.stats.released == 4
    assert_paced(model.calls, begun, 0.02)


@pytest.mark.real
async def test_portal_serves_both(library):
    """With a portal to the loop of the coroutines, both are paced as one."""
    async with BlockingPortal() as portal:
        queue = ApiQueue("50/s")
        model = library.model(queue, portal=portal)
        begun = time.monotonic()
        await asyncio.gather(
            *(library.ask(model) for _ in range(2)),
            *(asyncio.to_thread(library.ask_blocking, model) for _ in range(2)),
        )
    assert queue.stats.released == 4
    assert_paced(model.calls, begun, 0.02)


@pytest.mark.parametrize(
    ("queue", "match"),
    [
        (ApiQueue("10/s", concurrency=5), "{} does not report when a call ends"),
        (ApiQueue(lanes={"chat": "5 at once"}), "{} does not report when a call ends"),
        (
            ApiQueue("10/s", "30000 tokens/min burst 30000"),
            "limits tokens, which {} does not report",
        ),
        (
            ApiQueue("10/s", lanes={"chat": "30000 tokens/min"}),
            "limits tokens, which {} does not report",
        ),
        (
            ApiQueue("5 usd in all"),
            r"limits usd, which {} .*: pass llm.client\(queue, profile\) to",
        ),
        (ApiQueue(lanes={"other": "5 usd in each day or raise"}), "limits usd, which {} .* HTTP"),
    ],
    ids=["concurrency", "of a lane", "tokens", "tokens of a lane", "usd", "usd of a lane"],
)
def test_what_it_cannot_keep_is_refused(library, queue, match):
    """At construction, with what to do: a call that costs too much is not waited for for ever."""
    with pytest.raises(ValueError, match=match.format(library.name)) as raised:
        library.limiter(queue, key="chat")
    assert "use a queue" in str(raised.value)


def test_no_queue_is_refused(library):
    """A limit in the place of a queue is named."""
    with pytest.raises(TypeError, match=f"{library.name} needs an ApiQueue, not '10/s'"):
        library.limiter("10/s")
