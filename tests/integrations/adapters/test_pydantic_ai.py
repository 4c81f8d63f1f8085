"""pydantic-ai's own agents and models, paced: runs, streams, errors, cancellation."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue, QueueFull
from tests.helpers.lazily import lazily

ai, direct, parts = (lazily(f"pydantic_ai{name}") for name in ("", ".direct", ".messages"))
concurrency, function, mock = (
    lazily(f"pydantic_ai.models.{name}") for name in ("concurrency", "function", "test")
)
paced = lazily("aioapiqueue.integrations.pydantic_ai")

TOOK = 1.0  # seconds that a call takes


@pytest.fixture(scope="module", autouse=True)
def imported():
    """Import pydantic-ai, and what runs an agent, once."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(ai.Agent(mock.TestModel()).run("?"))


def messages():
    """Return what a model is asked."""
    return [parts.ModelRequest.user_text_prompt("?")]


class Api:
    """In the place of an API: takes a second, and notes who is in it when."""

    def __init__(self):
        self.starts = []
        self.running = self.most = 0

    def model(self, limiter):
        """Return a model of this API, limited."""
        wrapped = function.FunctionModel(self.answer, stream_function=self.stream)
        return concurrency.limit_model_concurrency(wrapped, limiter)

    async def answer(self, *_):
        """Take a second."""
        self.begin()
        try:
            await asyncio.sleep(TOOK)
        finally:
            self.running -= 1
        return parts.ModelResponse(parts=[parts.TextPart("42")])

    async def stream(self, *_):
        """Take half a second after each of two parts."""
        self.begin()
        try:
            for part in ("4", "2"):
                yield part
                await asyncio.sleep(TOOK / 2)
        finally:
            self.running -= 1

    def begin(self):
        """Note a call."""
        self.starts.append(asyncio.get_running_loop().time())
        self.running += 1
        self.most = max(self.most, self.running)


async def test_pace_and_permits_hold():
    """Runs of an agent start at the queue's pace, two at once at most."""
    api, queue = Api(), ApiQueue("10/s", concurrency=2)
    agent = ai.Agent(api.model(paced.QueueConcurrencyLimiter(queue)))
    runs = await asyncio.gather(*(agent.run("?") for _ in range(4)))
    assert [run.output for run in runs] == ["42"] * 4
    assert api.starts == pytest.approx([0.0, 0.1, 1.0, 1.1])
    assert api.most == 2
    assert queue.running == 0


async def test_agent_limit():
    """As `max_concurrency` of an agent, it paces whole runs."""
    queue = ApiQueue("2/s")
    agent = ai.Agent(mock.TestModel(), max_concurrency=paced.QueueConcurrencyLimiter(queue))
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(agent.run("?") for _ in range(3)))
    assert loop.time() == pytest.approx(1.0)
    assert (queue.stats.released, queue.running) == (3, 0)


async def test_stream_closed_in_another_task():
    """It holds its permit until then; the next one starts at that instant."""
    api, queue = Api(), ApiQueue(concurrency=1)
    model = api.model(paced.QueueConcurrencyLimiter(queue))
    assert isinstance(model, concurrency.ConcurrencyLimitedModel)
    opened, closed = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def opens():
        streaming = direct.model_request_stream(model, messages())
        stream = await streaming.__aenter__()
        async for _ in stream:
            break
        opened.set_result(streaming)
        await closed.wait()

    async def closes():
        streaming = await opened
        await asyncio.sleep(3)
        assert queue.running == 1
        await streaming.__aexit__(None, None, None)

    opening, closing = asyncio.create_task(opens()), asyncio.create_task(closes())
    await opened
    await direct.model_request(model, messages())
    await closing
    closed.set()
    await opening
    assert api.starts == pytest.approx([0.0, 3.0])
    assert api.most == 1
    assert queue.running == 0


async def test_stream_is_left_halfway():
    """An agent's stream that is left before its end gives back its permit."""
    api, queue = Api(), ApiQueue(concurrency=1)
    agent = ai.Agent(api.model(paced.QueueConcurrencyLimiter(queue)))
    for _ in range(2):
        async with agent.run_stream("?") as result:
            async for text in result.stream_text(debounce_by=None):
                assert text == "4"
                break
    assert len(api.starts) == 2
    assert queue.running == 0


async def test_error_gives_back_permit():
    """A call that fails is over."""
    queue = ApiQueue(concurrency=1)

    async def fails(*_):
        raise ConnectionError("the API is gone")

    model = concurrency.limit_model_concurrency(
        function.FunctionModel(fails), paced.QueueConcurrencyLimiter(queue)
    )
    for _ in range(2):
        with pytest.raises(ConnectionError, match="the API is gone"):
            await direct.model_request(model, messages())
    assert queue.running == 0


async def test_cancelled_wait_takes_no_permit():
    """Cancelled while it waits, and in flight: the others have the permits, and no more."""
    api, queue = Api(), ApiQueue(concurrency=1)
    model = api.model(paced.QueueConcurrencyLimiter(queue))
    calls = [asyncio.create_task(direct.model_request(model, messages())) for _ in range(4)]
    await asyncio.sleep(0.5)
    calls[1].cancel()  # waits
    calls[0].cancel()  # is in flight
    await asyncio.wait(calls)
    assert [call.cancelled() for call in calls] == [True, True, False, False]
    assert api.starts == pytest.approx([0.0, 0.5, 1.5])
    assert api.most == 1
    assert queue.running == 0


async def test_cancelled_as_permit_comes():
    """Cancelled between the grant and its resumption, it passes the permit on."""
    queue = ApiQueue(concurrency=1)
    limiter = paced.QueueConcurrencyLimiter(queue)
    await limiter.acquire("first")
    second, third = (asyncio.create_task(limiter.acquire(name)) for name in ("second", "third"))
    await asyncio.sleep(1)
    limiter.release()
    while queue.running == 0:  # noqa: ASYNC110 - the instant before it resumes has no event
        await asyncio.sleep(0)
    assert not second.done()  # it has the permit, and has not resumed
    second.cancel()
    await third
    assert second.cancelled()
    assert queue.running == 1
    limiter.release()
    assert queue.running == 0


async def test_longest_held_is_released():
    """`release` says nothing of whose, so that they go in the order in which they came."""
    ended = []

    class Observer:
        def on_event(self, event):
            if event.kind == "finished":
                ended.append(event.waited)

    limiter = paced.QueueConcurrencyLimiter(ApiQueue("1/s", observers=[Observer()]))
    for number in range(3):
        await limiter.acquire(f"model:{number}")
        await asyncio.sleep(0.5)
    for _ in range(3):
        limiter.release()
    assert ended == pytest.approx([0.0, 0.5, 0.5])


async def test_release_alone_is_refused():
    """More releases than acquisitions would be a bug of the caller."""
    limiter = paced.QueueConcurrencyLimiter(ApiQueue(concurrency=1))
    await limiter.acquire("model")
    limiter.release()
    with pytest.raises(RuntimeError, match=r"release\(\) was called without acquire\(\)"):
        limiter.release()


@pytest.mark.real
def test_permits_of_a_dead_loop():
    """What was held on a loop that is gone is forgotten, and not released in place of the new."""
    queue = ApiQueue(concurrency=1)
    limiter = paced.QueueConcurrencyLimiter(queue)

    async def first():
        await limiter.acquire("model")

    async def second():
        await limiter.acquire("model")
        assert queue.running == 1
        limiter.release()
        assert queue.running == 0
        await limiter.acquire("model")

    asyncio.run(first())
    asyncio.run(second())


async def test_full_queue_reaches_caller():
    """`maxsize` is the queue's, and so is its error."""
    api, queue = Api(), ApiQueue("1/min", maxsize=1)
    model = api.model(paced.QueueConcurrencyLimiter(queue))
    calls = [asyncio.create_task(direct.model_request(model, messages())) for _ in range(3)]
    done, _ = await asyncio.wait(calls)
    errors = [call.exception() for call in calls]
    assert len(done) == 3
    assert [type(error) for error in errors] == [type(None), type(None), QueueFull]
    assert api.starts == pytest.approx([0.0, 60.0])


async def test_models_have_their_lanes():
    """Limiters with a key each share a queue, and none releases another's permit."""
    queue = ApiQueue(lanes={"small": "2 at once", "large": "1 at once"})
    small, large = Api(), Api()
    models = (
        small.model(paced.QueueConcurrencyLimiter(queue, key="small")),
        large.model(paced.QueueConcurrencyLimiter(queue, key="large")),
    )
    await asyncio.gather(
        *(direct.model_request(one, messages()) for one in models for _ in range(4))
    )
    assert (small.most, large.most) == (2, 1)
    assert small.starts == pytest.approx([0.0, 0.0, 1.0, 1.0])
    assert large.starts == pytest.approx([0.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("queue", "kind", "match"),
    [
        (
            ApiQueue("500/min", "30000 tokens/min"),
            ValueError,
            "limits tokens, which pydantic-ai does not report",
        ),
        (
            ApiQueue("5 usd in all"),
            ValueError,
            r"limits usd, which .*: pass llm.client\(queue, profile\) to the model as",
        ),
        (5, TypeError, "pydantic-ai needs an ApiQueue, not 5"),
    ],
    ids=["tokens", "usd", "number"],
)
def test_what_it_cannot_keep_is_refused(queue, kind, match):
    """At construction, with what to do."""
    with pytest.raises(kind, match=match):
        paced.QueueConcurrencyLimiter(queue)


def test_key_and_keys_are_refused():
    """At construction, and not at the first request."""
    with pytest.raises(TypeError, match="pass key= or keys=, not both"):
        paced.QueueConcurrencyLimiter(ApiQueue("10/s"), key="a", keys=("b",))
