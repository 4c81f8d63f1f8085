"""What a request costs, what it has cost, and what an answer asks for: functions of the user."""

import asyncio
import logging
import time
from importlib import import_module

import pytest

from aioapiqueue import ApiQueue, UnknownKeyWarning
from aioapiqueue.integrations.http import Advice, Learning

pytestmark = pytest.mark.real

HOST = "127.0.0.1"
PLAIN = ["httpx", "sync httpx2", "aiohttp", "requests"]
"""One client of each kind."""


@pytest.fixture
async def reported():
    """Collect errors that are nobody's: on the loop, or in a thread that has none."""
    heard = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context["exception"]))

    class Handler(logging.Handler):
        def emit(self, record):
            heard.append(record.exc_info[1])

    handler = Handler()
    logging.getLogger("asyncio").addHandler(handler)
    yield heard
    logging.getLogger("asyncio").removeHandler(handler)


@pytest.mark.parametrize(
    "cost",
    [{"tokens": 40}, lambda request: {"tokens": 40 if "dear" in str(request.url) else 1}],
    ids=["a mapping", "a function"],
)
async def test_cost_is_charged(every_client, server, cost):
    """A queue that counts tokens is charged what each request costs."""
    queue = ApiQueue("100 tokens in any 10min")
    async with every_client(queue, cost=cost) as paced:
        assert await paced.get(server.url("/dear")) == 200
        assert queue.estimate(cost={"tokens": 60}) == 0
        assert queue.estimate(cost={"tokens": 61}) > 500


async def test_cost_may_be_a_number(every_client, server):
    """It is of calls."""
    queue = ApiQueue("10 in any 10min")
    async with every_client(queue, cost=4) as paced:
        assert await paced.get(server.url()) == 200
        assert queue.estimate(cost=6) == 0
        assert queue.estimate(cost=7) > 500


async def test_functions_get_the_librarys_objects(every_client, server):
    """Its request and its response, so that they can be used as its documentation says."""
    seen = []

    def note(*given):
        seen.append([type(one).__module__.partition(".")[0] for one in given])

    queue = ApiQueue()
    functions = {"key": note, "settle": note, "advise": note}
    functions |= {"cost": lambda request: note(request) or 1}
    functions |= {"priority": lambda request: note(request) or 0}
    async with every_client(queue, **functions) as paced:
        assert await paced.get(server.url()) == 200
        library = seen[0][0]
    assert library in {"httpx", "httpx2", "aiohttp", "requests"}
    assert seen == [[library]] * 4 + [[library, library, "builtins"]]


async def test_priority_of_a_request(every_client, server):
    """The urgent goes first, with the same slot: none is taken twice."""
    queue = ApiQueue("50/s")
    priority = lambda request: -1 if "urgent" in str(request.url) else 0  # noqa: E731 - short
    async with every_client(queue, priority=priority) as paced:
        queue.pause()
        calls = []
        for path in ("/first", "/second", "/urgent"):
            calls.append(asyncio.ensure_future(paced.get(server.url(path))))
            async with asyncio.timeout(60):
                while queue.waiting < len(calls):  # noqa: ASYNC110 - maybe by a thread
                    await asyncio.sleep(0.005)
        queue.resume()
        assert await asyncio.gather(*calls) == [200] * 3
    assert [arrival.path for arrival in server.arrivals] == ["/urgent", "/first", "/second"]
    assert queue.stats.released == 3


@pytest.mark.parametrize("every_client", PLAIN, indirect=True)
async def test_priority_may_be_a_number(every_client, server):
    """Before or after all others that use the queue."""
    queue = ApiQueue("50/s")
    order = []

    async def other():
        async with queue.slot():
            order.append(len(server.arrivals))

    async with every_client(queue, priority=1) as paced:
        queue.pause()
        call = asyncio.ensure_future(paced.get(server.url()))
        async with asyncio.timeout(60):
            while not queue.waiting:  # noqa: ASYNC110 - maybe by a thread
                await asyncio.sleep(0.005)
        others = [asyncio.ensure_future(other()) for _ in range(2)]
        await asyncio.sleep(0)
        queue.resume()
        await asyncio.gather(call, *others)
    assert order == [0, 0]


@pytest.mark.parametrize("every_client", PLAIN, indirect=True)
@pytest.mark.parametrize(
    ("cost", "error"), [(lambda _: -1, ValueError), (lambda _: {"bananas": 1}, ValueError)]
)
async def test_an_invalid_cost_is_the_callers(every_client, server, cost, error):
    """Nothing is sent, and nothing is held."""
    queue = ApiQueue("10/s", concurrency=1)
    async with every_client(queue, cost=cost) as paced:
        with pytest.raises(error, match="cost"):
            await paced.get(server.url())
    assert not server.arrivals
    assert (queue.running, queue.waiting) == (0, 0)


async def test_settle_after_the_body(every_client, server, reply):
    """Once the body has ended, and not before, the true cost is charged."""
    server.answer = lambda _: reply.of(200, [("X-Cost", "20")], b"x", length=2)
    queue = ApiQueue("100 tokens in any 10min")

    def settle(request, response, usage):
        assert (request.method, usage) == ("GET", None)
        return {"tokens": int(response.headers["X-Cost"])}

    async with every_client(queue, cost={"tokens": 90}, settle=settle) as paced:
        async with paced.stream(server.url()) as chunks:
            assert await anext(chunks) == b"x"
            assert queue.estimate(cost={"tokens": 80}) > 0
            for connection in server.connections:
                connection.write(b"y")
            assert b"".join([chunk async for chunk in chunks]) == b"y"
        assert queue.estimate(cost={"tokens": 80}) == 0
        assert queue.estimate(cost={"tokens": 81}) > 0


@pytest.mark.parametrize("every_client", PLAIN, indirect=True)
async def test_settle_may_leave_it(every_client, server):
    """None is as it was."""
    queue = ApiQueue("100 tokens in any 10min")
    settle = lambda *_: None  # noqa: E731 - short
    async with every_client(queue, cost={"tokens": 90}, settle=settle) as paced:
        assert await paced.get(server.url()) == 200
        assert queue.estimate(cost={"tokens": 11}) > 0


@pytest.mark.parametrize("every_client", PLAIN, indirect=True)
@pytest.mark.parametrize(
    "settle", [lambda *_: 1 // 0, lambda *_: {"bananas": 1}], ids=["fails", "no such unit"]
)
async def test_errors_of_settle_are_reported(every_client, server, settle, reported):
    """They cost no answer, and the slot is free."""
    queue = ApiQueue(concurrency=1)
    async with every_client(queue, settle=settle) as paced:
        assert await paced.fetch(server.url()) == (200, b"ok")
        async with asyncio.timeout(60):
            while not reported or queue.running:  # noqa: ASYNC110 - maybe by a thread
                await asyncio.sleep(0.005)
    assert [type(error) for error in reported] in ([ZeroDivisionError], [ValueError])


async def test_advise_replaces_the_fields(every_client, server, reply):
    """What it returns counts; where it returns None, the fields do."""
    server.answer = lambda arrival: reply.of(
        200,
        [("X-Wait", "30")] if arrival.path == "/own" else [],
    )

    def advise(response):
        wait = response.headers.get("X-Wait")
        return None if wait is None else Advice(throttled=True, hold=float(wait))

    async with ApiQueue(lanes={"*": ()}) as queue, every_client(queue, advise=advise) as paced:
        assert await paced.get(server.url("/other")) == 200
        assert queue.estimate(key=HOST) == 0
        assert await paced.get(server.url("/own")) == 200
        assert 29 < queue.estimate(key=HOST) <= 30
        assert queue.stats.throttled == 1


@pytest.mark.parametrize("every_client", PLAIN, indirect=True)
async def test_strict_lanes_refuse_wrong_keys(every_client, server):
    """The caller hears which key it was that the function returned; nothing is sent."""
    queue = ApiQueue("1000/s", lanes={"search": "1000/s"}, strict_lanes=True)
    keys = iter(["search", "serach"])
    async with every_client(queue, key=lambda _: next(keys)) as paced:
        assert await paced.get(server.url()) == 200
        with pytest.raises(ValueError, match="for the key 'serach': did you mean 'search'"):
            await paced.get(server.url())
    assert len(server.arrivals) == 1


@pytest.mark.parametrize("every_client", PLAIN, indirect=True)
async def test_unknown_keys_of_requests_warn(every_client, server):
    """Once: of a queue that has lanes, and no limits of its own."""
    queue = ApiQueue(lanes={"search": "1000/s"})
    async with every_client(queue, key=lambda _: "serach") as paced:
        with pytest.warns(UnknownKeyWarning, match="did you mean 'search'"):
            assert await paced.get(server.url()) == 200
        assert await paced.get(server.url()) == 200


@pytest.mark.parametrize("every_client", PLAIN, indirect=True)
async def test_errors_of_advise_are_reported(every_client, server, reply, reported):
    """They cost no answer, and what the fields say is done."""
    server.answer = lambda _: reply.of(429, [("Retry-After", "30")])
    queue = ApiQueue(lanes={"*": ()})
    async with queue, every_client(queue, advise=lambda _: 1 // 0) as paced:
        assert await paced.get(server.url()) == 429
        assert queue.estimate(key=HOST) > 29
    assert [type(error) for error in reported] == [ZeroDivisionError]


class Meter:
    """Reads what a body says that it has cost: its length."""

    def __init__(self, fails):
        self._fails = fails
        self._size = 0

    def feed(self, chunk):
        """Count."""
        assert not self._fails
        self._size += len(chunk)

    def usage(self):
        """Return the count."""
        return {"tokens": self._size}


@pytest.mark.parametrize("every_client", ["httpx", "sync httpx"], indirect=True)
@pytest.mark.parametrize("fails", ["no", "as it is made", "as it reads"])
async def test_a_usage_reader_sees_the_body(
    every_client, server, reply, fails, reported, monkeypatch
):
    """Each chunk passes it, and `settle` gets what it found; its errors cost no answer."""
    integration = import_module("aioapiqueue.integrations.httpx")
    for name in ("RateLimitedTransport", "SyncRateLimitedTransport"):

        def usage_reader(self, request, status, headers):
            assert fails != "as it is made"
            assert (request.method, status, ("x-test", "1") in headers) == ("GET", 200, True)
            return Meter(fails == "as it reads")

        base = getattr(integration, name)
        monkeypatch.setattr(integration, name, type(name, (base,), {"usage_reader": usage_reader}))
    server.answer = lambda _: reply.of(200, [("X-Test", "1")], b"x" * 30)
    queue = ApiQueue("100 tokens in any 10min", concurrency=1)
    settle = lambda request, response, usage: usage  # noqa: E731 - short
    async with every_client(queue, cost={"tokens": 90}, settle=settle) as paced:
        assert await paced.fetch(server.url()) == (200, b"x" * 30)
        left = 70 if fails == "no" else 10
        assert queue.estimate(cost={"tokens": left}) == 0
        assert queue.estimate(cost={"tokens": left + 1}) > 0
        assert queue.running == 0
    assert len(reported) == (fails != "no")


def github(left, seconds):
    """Write what GitHub does of 5 requests in 0.4 seconds, but in milliseconds."""
    return [
        ("X-RateLimit-Limit", "5"),
        ("X-RateLimit-Remaining", str(left)),
        ("X-RateLimit-Reset", f"{(time.time() + seconds) * 1000:.0f}"),
    ]


def ietf(left, seconds):
    """Write the fields of the IETF draft, whose windows are of whole seconds."""
    return [
        ("RateLimit-Policy", '"default";q=5;w=1'),
        ("RateLimit", f'"default";r={left};t={seconds:.3f}'),
    ]


@pytest.mark.parametrize(
    ("every_client", "headers", "window", "limit"),
    [
        ("httpx", github, 0.4, "5 per 400ms burst 5"),
        ("aiohttp", github, 0.4, "5 per 400ms burst 5"),
        ("requests", github, 0.4, "5 per 400ms burst 5"),
        ("httpx", ietf, 1, "5/s burst 5"),
        # Slow: a window takes a second.
        pytest.param("aiohttp", ietf, 1, "5/s burst 5", marks=pytest.mark.slow),
        pytest.param("requests", ietf, 1, "5/s burst 5", marks=pytest.mark.slow),
    ],
    indirect=["every_client"],
)
async def test_limits_are_learnt(every_client, server, reply, headers, window, limit):
    """One call is out until the first answer; then nothing is sent to be refused."""
    windows = {"end": 0.0, "left": 0, "refused": 0}

    def answer(arrival):
        if arrival.at >= windows["end"]:
            windows.update(end=arrival.at + window, left=5)
        windows["left"] -= 1
        if windows["left"] < 0:
            windows["refused"] += 1
            return reply.of(429)
        return reply.of(200, headers(windows["left"], windows["end"] - arrival.at))

    server.answer = lambda _: None
    queue = ApiQueue(lanes={"*": ()})
    learn = Learning(periods={"calls": window})
    async with queue, every_client(queue, learn=learn) as paced:
        calls = [asyncio.ensure_future(paced.get(server.url())) for _ in range(8)]
        await server.arrived(1)
        await asyncio.sleep(0.05)
        assert len(server.arrivals) == 1
        server.answer = answer
        for connection in server.connections:
            connection.write(answer(server.arrivals[0]))
        assert await asyncio.gather(*calls) == [200] * 8
        assert {
            key: [str(one) for one in limits] for key, limits in queue.stats.learnt.items()
        } == {HOST: [limit]}
    assert windows["refused"] == queue.stats.throttled == 0


@pytest.mark.parametrize("every_client", ["httpx", "requests"], indirect=True)
async def test_a_learnt_limit_below_a_cost(every_client, server, reply):
    """Where a call that waits costs more than a limit that is stated, no answer is lost."""
    server.answer = lambda _: reply.of(200, github(4, 0.5))
    queue = ApiQueue(lanes={"*": ()})
    learn = Learning(periods={"calls": 1.0})
    async with queue, every_client(queue, learn=learn, cost=8) as paced:
        calls = (paced.get(server.url()) for _ in range(2))
        assert await asyncio.gather(*calls) == [200] * 2


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"settle": "tokens"}, TypeError, "settle must be a function of the request, the response"),
        ({"advise": Advice()}, TypeError, "advise must be a function of the response, not Advice"),
        ({"learn": "yes"}, TypeError, "learn must be True, False or a Learning, not 'yes'"),
        ({"cost": -1}, ValueError, "cost must be"),
        ({"cost": {"bananas": 1}}, ValueError, "cost names 'bananas'"),
        ({"priority": "high"}, TypeError, "priority takes a number, not 'high'"),
        ({"priority": float("nan")}, ValueError, "priority must be a number"),
    ],
)
async def test_invalid_options_are_refused(every_client, how, error, message):
    """At once, and not at the first request."""
    with pytest.raises(error, match=message):
        every_client(ApiQueue("1/s"), **how)


@pytest.mark.parametrize("name", ["cost", "priority", "settle", "advise"])
@pytest.mark.parametrize("every_client", PLAIN, indirect=True)
async def test_coroutine_functions_are_refused(every_client, name):
    """What they return would never be awaited."""

    async def function(*_):
        return None

    with pytest.raises(TypeError, match=f"{name} must be a plain function of the re"):
        every_client(ApiQueue(), **{name: function})
