"""Answers that take far longer to read than to send: the event loop runs, the caller gets them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import json
import random

import httpx
import httpx2
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm
from tests.helpers import introspect

MalformedUsageError = introspect.malformed_usage()
llm_usage = introspect.llm_usage()

JSON, SSE = "application/json", "text/event-stream"
URL = "http://x/v1/chat/completions"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "x" * 36}], "max_tokens": 100}
RESERVED = {"calls": 1, "tokens": 13 + 100}
USAGE = b'"usage": {"prompt_tokens": 12, "completion_tokens": 40}}'
SETTLED = {"calls": 1, "tokens": 52}
PASS = 65_536  # bytes, decoded, between two passes of the event loop at most


def answering(library, pieces, kind, **headers):
    """Return a transport whose answer comes in these pieces, without a pause between them."""

    class Body(library.AsyncByteStream):
        async def __aiter__(self):
            for piece in pieces:
                yield piece

    return library.MockTransport(
        lambda _: library.Response(
            200, headers={"content-type": kind, **headers}, stream=Body(), request=_
        )
    )


def ready(body, kind):
    """Return a transport whose body comes with the head of the answer, as from a cache."""
    return httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers={"content-type": kind}, content=body)
    )


async def ask(transport, *, library=httpx2):
    """Return the answer, what the call cost, how often something else ran, and the malformed."""
    passes = itertools.count()

    async def others():
        while True:
            next(passes)
            await asyncio.sleep(0)

    async with (
        ApiQueue(lanes={"*": ()}) as queue,
        llm.client(queue, llm.compatible, library=library.__name__, transport=transport) as client,
    ):
        task = asyncio.create_task(others())
        response = await client.post(URL, json=ASKED)
        ran = next(passes)
        task.cancel()
        assert queue.running == 0
        return response.content, queue.stats.costs, ran, queue.stats.malformed


def noise(size, seed=1):
    """Return letters that gzip makes about half as long."""
    return random.Random(seed).randbytes(size // 2).hex().encode()


def in_gzip(body, level=9):
    """Return a body in one piece as gzip, and its header."""
    return [gzip.compress(body, level)], {"content-encoding": "gzip"}


BOMBS = {
    "strings": (b'{"a": [' + b'"",' * 1_000_000, JSON),
    "line ends": (b"\n" * 3_000_000, SSE),
    "CRLF": (b"\r\n" * 1_500_000, SSE),
    "short events": (b"data: {}\n\n" * 250_000, SSE),
    "the usage after it": (b'{"a": "' + b" " * 3_000_000 + b'", ' + USAGE, JSON),
}


@pytest.mark.parametrize(
    ("name", "library"),
    [(name, httpx2) for name in BOMBS]
    # The reader is the same: once is enough of those that take it longest.
    + [(name, httpx) for name in BOMBS if name not in {"strings", "short events"}],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_bomb_keeps_its_reservation(name, library, run_virtual):
    """3 kB that are 3 MB are not read, but counted; the caller gets all of them."""
    body, kind = BOMBS[name]
    pieces, headers = in_gzip(body)
    transport = answering(library, pieces, kind, **headers)
    content, costs, _, malformed = run_virtual(lambda: ask(transport, library=library))
    assert content == body
    assert (costs, malformed) == (RESERVED, 1)


@pytest.mark.parametrize("cut", [10_000_000, 300])
def test_the_loop_runs_meanwhile(cut, run_virtual):
    """After each 64 kB, decoded, however small the pieces are in which they come."""
    body = b'{"a": "' + b"".join(noise(600, n) + b" " * 9000 for n in range(300)) + b'", ' + USAGE
    (whole,), headers = in_gzip(body)
    pieces = [whole[start : start + cut] for start in range(0, len(whole), cut)]
    transport = answering(httpx2, pieces, JSON, **headers)
    content, costs, ran, malformed = run_virtual(lambda: ask(transport))
    assert content == body
    assert (costs, malformed) == (SETTLED, 0)
    assert ran >= len(body) // PASS


def test_the_loop_runs_during_plain_chunks(run_virtual):
    """So it does where nothing is compressed, in a chunk of any size."""
    body = b'{"a": "' + noise(1_000_000) + b'", ' + USAGE
    content, costs, ran, _ = run_virtual(lambda: ask(answering(httpx2, [body], JSON)))
    assert (content, costs) == (body, SETTLED)
    assert ran >= len(body) // PASS


def test_the_loop_runs_in_ready_answers(run_virtual):
    """So it does where the body came with the head, as from a cache."""
    body = b'{"a": "' + noise(1_000_000) + b'", ' + USAGE
    content, costs, ran, _ = run_virtual(lambda: ask(ready(body, JSON)))
    assert (content, costs) == (body, SETTLED)
    assert ran >= len(body) // PASS


def token(rng):
    """Return a token with its log probability, as OpenAI's API has it."""
    text = f"{rng.choice(['the', 'answer', 'is', 'blue'])}{rng.randint(0, 999)}"
    return {"token": text, "logprob": -9 * rng.random(), "bytes": list(text.encode())}


def test_a_long_answer_is_read(run_virtual):
    """2,000 tokens with 20 log probabilities each, more than is always read, settle their call."""
    rng = random.Random(1)
    tokens = [{**token(rng), "top_logprobs": [token(rng) for _ in range(20)]} for _ in range(2000)]
    body = json.dumps({"choices": [{"logprobs": {"content": tokens}}]}).encode()[:-1] + b"," + USAGE
    assert len(body) > 2_800_000
    pieces, headers = in_gzip(body, 1)
    found = run_virtual(lambda: ask(answering(httpx2, pieces, JSON, **headers)))
    assert found[1] == SETTLED
    assert found[3] == 0


def test_a_small_dense_answer_is_read(run_virtual):
    """One word again and again: 200 kB in 300 bytes."""
    body = b'{"a": "' + b"blue " * 40_000 + b'", ' + USAGE
    pieces, headers = in_gzip(body)
    assert len(body) > 100 * len(pieces[0])
    found = run_virtual(lambda: ask(answering(httpx2, pieces, JSON, **headers)))
    assert (found[1], found[3]) == (SETTLED, 0)


def test_a_dense_stream_is_read(run_virtual):
    """A model that repeats one word 4,096 times, in a stream that came with gzip: 1 MB in 6 kB."""
    piece = {
        "id": "chatcmpl-9abcdefghijklmnopqrstuvwx",
        "object": "chat.completion.chunk",
        "created": 1712345678,
        "model": "meta-llama/Llama-3-70b-chat-hf",
        "choices": [{"index": 0, "delta": {"content": " the"}, "finish_reason": None}],
        "system_fingerprint": None,
        "usage": None,
    }
    body = (
        b"data: %s\n\n" % json.dumps(piece).encode() * 4096 + b'data: {"a": 1, ' + USAGE + b"\n\n"
    )
    pieces, headers = in_gzip(body)
    assert len(body) > 1_000_000
    assert len(body) > 150 * len(pieces[0])
    found = run_virtual(lambda: ask(answering(httpx2, pieces, SSE, **headers)))
    assert (found[1], found[3]) == (SETTLED, 0)


@pytest.mark.parametrize("is_gzip", [False, True])
def test_a_huge_answer_is_read(is_gzip, run_virtual):
    """1,100 embeddings in base64 are 18 MB, or 14 MB with gzip: the loop runs meanwhile."""
    rng = random.Random(1)
    vectors = [base64.b64encode(rng.randbytes(12_288)) for _ in range(1100)]
    body = b'{"data": [' + b", ".join(b'{"embedding": "%s"}' % one for one in vectors) + b"], "
    body += USAGE
    assert len(body) > 18_000_000  # beyond what is read of a body that is dense
    pieces, headers = in_gzip(body, 1) if is_gzip else ([body], {})
    found = run_virtual(lambda: ask(answering(httpx2, pieces, JSON, **headers)))
    assert (found[0] == body, found[1], found[3]) == (True, SETTLED, 0)
    assert found[2] >= len(body) // PASS


def test_a_huge_dense_answer_is_refused(run_virtual):
    """Beyond 16 MB, one that decodes to more than 8 times what came is not read."""
    for size, cost in ((16_000_000, SETTLED), (18_000_000, RESERVED)):
        parts = [noise(600, n) + b" " * 9000 for n in range(size // 9600)]
        body = b'{"a": "' + b"".join(parts) + b'", ' + USAGE
        pieces, headers = in_gzip(body)
        assert 8 < len(body) / len(pieces[0]) < 100
        found = run_virtual(lambda: ask(answering(httpx2, pieces, JSON, **headers)))  # noqa: B023 - at once
        assert (found[1], found[3]) == (cost, cost == RESERVED)


@pytest.mark.real
async def test_a_blocking_client_counts_it_too(blockbuster):
    """The caller gets the answer there as well, and the call keeps what was reserved."""
    blockbuster.deactivate()  # the client's thread is not the loop's
    body, kind = BOMBS["line ends"]
    (piece,), headers = in_gzip(body)
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers={"content-type": kind, **headers}, content=piece)
    )
    queue = ApiQueue(lanes={"*": ()})

    def post():
        with llm.sync_client(queue, llm.compatible, transport=transport) as client:
            return client.post(URL, json=ASKED).content

    assert await asyncio.to_thread(post) == body
    async with asyncio.timeout(60):  # it is counted in the queue's thread, soon
        while not queue.stats.malformed:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
    assert queue.stats.costs == RESERVED


def test_why_nothing_was_read():
    """The reader says how much it had read of how much."""
    reader = llm_usage.BodyUsageReader.of([("content-type", JSON), ("content-encoding", "gzip")])
    reader.feed(gzip.compress(BOMBS["the usage after it"][0]))
    with pytest.raises(
        MalformedUsageError, match=r"the body decodes from \d+ bytes to 2162688 or more$"
    ):
        reader.usage()


@pytest.mark.parametrize("is_ready", [False, True], ids=["as it comes", "with its head"])
def test_cancelled_while_an_answer_is_read(is_ready, run_virtual):
    """Between two passes of the loop: the slot is given back, and the call costs what was read."""
    event = b'data: {"choices": [{"delta": {"content": "word"}}]}\n\n'
    body = event * (40 * PASS // len(event))

    async def main():
        transport = ready(body, SSE) if is_ready else answering(httpx2, [body], SSE)
        async with (
            ApiQueue(lanes={"*": ()}, concurrency=1) as queue,
            llm.client(queue, llm.compatible, transport=transport) as client,
        ):
            task = asyncio.create_task(client.post(URL, json={**ASKED, "max_tokens": 90_000}))
            for _ in range(20):  # it is in the middle of the body then
                await asyncio.sleep(0)
            assert queue.running == 1
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert queue.running == 0
            read = queue.stats.costs["tokens"] - 13
            assert PASS // len(event) <= read <= 20 * PASS // len(event)

    run_virtual(main)
