"""What was refused and can be sent again goes again: in its old place, charged again."""

import asyncio
import gc
import io
import json
import random
import time

import pytest

from aioapiqueue import ApiQueue, SlotTimeout, WouldWait

pytestmark = pytest.mark.real

JSON = [("Content-Type", "application/json")]
GONE = json.dumps({"error": {"code": "insufficient_quota", "message": "Pay."}}).encode()


def refuse_first(server, reply, status=429, headers=(), body=b"slow down"):
    """Have the first request refused, and the others answered."""
    server.answer = lambda _: (
        reply.of(status, headers, body) if len(server.arrivals) == 1 else reply.of()
    )


async def assert_free(queue, server):
    """Check that nobody holds or waits for a place, and that no connection is left in use."""
    assert (queue.running, queue.waiting) == (0, 0)
    async with asyncio.timeout(60):
        while server.connections:  # they close as the other side notices
            # urllib3 closes those of a pool that is gone. More than once: the thread that had the
            # error may be about to drop it, and with it the pool.
            gc.collect()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("status", "method"),
    [(429, "GET"), (429, "POST"), (418, "POST"), (529, "PATCH"), (503, "GET"), (503, "PUT")],
)
async def test_a_refused_request_goes_again(every_client, server, reply, status, method):
    """With the same body; the caller sees the answer, and the slot is released."""
    refuse_first(server, reply, status)
    queue = ApiQueue(concurrency=1)
    async with every_client(queue, resend=3) as paced:
        assert await paced.fetch(server.url(), method, b"content") == (200, b"ok")
    assert [arrival.body for arrival in server.arrivals] == [b"content"] * 2
    assert (queue.stats.released, queue.running) == (2, 0)


@pytest.mark.parametrize(
    ("status", "method"), [(503, "POST"), (503, "PATCH"), (403, "GET"), (500, "GET")]
)
async def test_other_answers_are_final(every_client, server, reply, status, method):
    """Nobody knows whether such a request was carried out; a 403 will not change."""
    refuse_first(server, reply, status)
    async with ApiQueue() as queue, every_client(queue, resend=3) as paced:
        assert await paced.fetch(server.url(), method, b"") == (status, b"slow down")
    assert len(server.arrivals) == 1


async def test_by_default_nothing_goes_again(every_client, server, reply):
    """Retries are the caller's, or those of an SDK."""
    refuse_first(server, reply)
    async with ApiQueue() as queue, every_client(queue) as paced:
        assert await paced.fetch(server.url()) == (429, b"slow down")
    assert len(server.arrivals) == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_at_most_so_often(every_client, server, reply, chunked):
    """Then the caller sees the refusal, with its body."""
    server.answer = lambda _: reply.of(429, JSON, b'{"slow": "down"}', chunked=chunked)
    queue = ApiQueue(concurrency=1)
    async with every_client(queue, resend=2) as paced:
        assert await paced.fetch(server.url()) == (429, b'{"slow": "down"}')
    assert len(server.arrivals) == 3
    assert (queue.stats.throttled, queue.running) == (3, 0)


async def test_a_one_shot_body_goes_once(every_client, server, reply):
    """A generator is used up: the caller sees the refusal."""
    refuse_first(server, reply)
    async with ApiQueue() as queue, every_client(queue, resend=3) as paced:
        body = paced.one_shot(b"once")
        assert await paced.fetch(server.url(), "POST", body) == (429, b"slow down")
    assert len(server.arrivals) == 1
    assert b"once" in server.arrivals[0].body


async def test_a_file_goes_once(every_client, server, reply):
    """It has been read to its end."""
    refuse_first(server, reply)
    async with ApiQueue() as queue, every_client(queue, resend=3) as paced:
        assert await paced.upload(server.url(), io.BytesIO(b"once")) == 429
    assert len(server.arrivals) == 1
    assert b"once" in server.arrivals[0].body


async def test_a_refusal_for_good_is_final(every_client, server, reply):
    """It is counted, and slows nobody down."""
    server.answer = lambda _: reply.of(429, JSON, GONE)
    async with ApiQueue(lanes={"*": ()}) as queue, every_client(queue, resend=3) as paced:
        assert await paced.fetch(server.url()) == (429, GONE)
        assert queue.estimate(key="127.0.0.1") == 0
    assert len(server.arrivals) == 1
    assert (queue.stats.refused_by_server, queue.stats.throttled) == (1, 0)


async def test_it_goes_in_its_old_place(every_client, server, reply):
    """Those who joined later come after it; and after the time that the server has named."""
    server.answer = lambda _: None
    queue = ApiQueue(concurrency=1)
    async with every_client(queue, resend=1) as paced:
        first = asyncio.ensure_future(paced.get(server.url("/first")))
        await server.arrived(1)
        others = [asyncio.ensure_future(paced.get(server.url(f"/{n}"))) for n in range(3)]
        while queue.waiting < 3:  # noqa: ASYNC110 - threads take their time
            await asyncio.sleep(0.005)
        server.answer = lambda _: reply.of()
        for connection in server.connections:
            connection.write(reply.of(429, [("Retry-After", "0.2")]))
        assert await asyncio.gather(first, *others) == [200] * 4
    paths = [arrival.path for arrival in server.arrivals]
    assert paths[:2] == ["/first", "/first"]
    assert server.arrivals[1].at - server.arrivals[0].at > 0.2 - 0.020
    assert sorted(paths[2:]) == ["/0", "/1", "/2"]


async def test_its_permit_is_free_meanwhile(every_client, server, reply):
    """While it waits for its time, a request of another lane runs."""
    refuse_first(server, reply, headers=[("Retry-After", "0.3")])
    queue = ApiQueue(lanes={"*": ()}, concurrency=1)
    async with every_client(queue, key="route", resend=1) as paced:
        refused = asyncio.ensure_future(paced.get(server.url("/refused")))
        while not queue.stats.throttled:  # noqa: ASYNC110 - nobody else notices
            await asyncio.sleep(0.005)
        assert await paced.get(server.url("/other")) == 200
        assert (queue.running, queue.waiting) == (0, 1)
        assert await refused == 200
    assert [arrival.path for arrival in server.arrivals] == ["/refused", "/other", "/refused"]


async def test_it_is_charged_again(every_client, server, reply):
    """The server may have counted the refused one."""
    refuse_first(server, reply)
    queue = ApiQueue("20 in any 10min")
    async with every_client(queue, cost=lambda _: 10, resend=1) as paced:
        assert await paced.get(server.url()) == 200
        with pytest.raises(WouldWait):
            queue.try_slot()


@pytest.mark.parametrize("body", [b"", b"slow down", b'{"slow": "down"}'])
async def test_its_connection_is_used_again(every_client, server, reply, body):
    """A small body is read to its end, whatever it is: a connection is worth more than that."""
    refuse_first(server, reply, headers=JSON if b"{" in body else [], body=body)
    async with ApiQueue() as queue, every_client(queue, resend=1) as paced:
        assert await paced.get(server.url()) == 200
    assert [arrival.connection for arrival in server.arrivals] == [1, 1]


async def test_a_long_body_costs_its_connection(every_client, server, reply):
    """It is not read to its end, which may never come."""
    refuse_first(server, reply)
    refusal = reply.of(429, JSON, b"[" * 70_000, length=10_000_000)
    server.answer = lambda _: refusal if len(server.arrivals) == 1 else reply.of()
    async with ApiQueue() as queue, every_client(queue, resend=1) as paced:
        assert await paced.get(server.url()) == 200
    assert [arrival.connection for arrival in server.arrivals] == [1, 2]


async def test_a_crawler_gets_all_answers(every_client, server, reply):
    """Of a server that refuses a third of all requests, 40 calls get 40 answers."""
    refusal = reply.of(429, [("Retry-After", "0.01")])
    rng, refused = random.Random(1), []

    def answer(_):
        # Not each third one: it may be the same call's again and again, as that goes first.
        refused.append(rng.random() < 1 / 3)
        return refusal if refused[-1] else reply.of()

    server.answer = answer
    queue = ApiQueue("1000/s", concurrency=10)
    async with every_client(queue, resend=12) as paced:
        calls = (paced.get(server.url(f"/{number}")) for number in range(40))
        assert await asyncio.gather(*calls) == [200] * 40
    assert len({arrival.path for arrival in server.arrivals}) == 40
    assert queue.stats.throttled == sum(refused) > 12
    assert queue.stats.released == len(server.arrivals) == 40 + queue.stats.throttled
    assert (queue.running, queue.waiting) == (0, 0)


# Each await of a request that may go again: how the server answers, and what is to be seen then.
CANCELLED = {
    "sending": (lambda reply: None, lambda queue, server: server.arrivals),
    "reading the refused body": (
        lambda reply: reply.of(429, [*JSON, ("Retry-After", "30")], b"{", length=9),
        lambda queue, server: server.arrivals,
    ),
    "waiting again": (
        lambda reply: reply.of(429, [*JSON, ("Retry-After", "30")], b"{}"),
        lambda queue, server: queue.waiting,
    ),
    "reading the answer": (
        lambda reply: reply.of(200, [], b"o", length=2),
        lambda queue, server: server.arrivals,
    ),
}


@pytest.mark.usefixtures("young_garbage")
@pytest.mark.parametrize("where", CANCELLED)
async def test_cancelled_at_each_await(client, server, reply, where):
    """Nothing leaks, the slot comes back, and the connection is closed; push-back is heard."""
    answer, is_there = CANCELLED[where]
    server.answer = lambda _: answer(reply)
    queue = ApiQueue(concurrency=1)
    began = time.monotonic()
    async with client(queue, resend=3) as paced:
        request = asyncio.ensure_future(paced.get(server.url()))
        while not is_there(queue, server):  # noqa: ASYNC110 - of two kinds
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        request.cancel()
        await asyncio.wait([request])
        assert request.cancelled()
        assert queue.stats.throttled == ("again" in where or "refused" in where)
        if where != "waiting again":  # there, it has been given back, and may be used
            await assert_free(queue, server)
        assert (queue.running, queue.waiting) == (0, 0)
        # A hold of 30 s, of which some is over already.
        held = queue.estimate() + time.monotonic() - began > 29
        assert held == bool(queue.stats.throttled)
    await assert_free(queue, server)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.usefixtures("young_garbage")
async def test_a_time_out_ends_waiting_again(every_client, server, reply):
    """The caller gets the queue's error: the refusal is gone by then."""
    server.answer = lambda _: reply.of(429, [("Retry-After", "30")])
    queue = ApiQueue(concurrency=1)
    async with every_client(queue, resend=3, timeout=0.1) as paced:
        with pytest.raises(SlotTimeout):
            await paced.get(server.url())
        assert (queue.running, queue.waiting) == (0, 0)
    await assert_free(queue, server)


@pytest.mark.parametrize(
    ("resend", "error", "message"),
    [
        (-1, ValueError, "resend must be"),
        (1.5, TypeError, "resend must be a whole number, not 1.5"),
    ],
)
async def test_invalid_numbers_are_refused(every_client, resend, error, message):
    """The message describes what is valid."""
    with pytest.raises(error, match=message):
        every_client(ApiQueue(), resend=resend)
