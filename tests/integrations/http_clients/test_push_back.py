"""What a server on loopback says of its limits, and what the queue makes of it."""

import asyncio
import time
from email.utils import formatdate

import pytest

from aioapiqueue import Adaptive, ApiQueue

pytestmark = pytest.mark.real

HOST = "127.0.0.1"
OTHER = "elsewhere.example"


def left(remaining, reset, prefix="X-RateLimit"):
    """Make the two headers that most services send."""
    return [(f"{prefix}-Remaining", str(remaining)), (f"{prefix}-Reset", str(reset))]


def wide(text):
    """Write the digits as wide as Chinese characters, which `int()` reads as well."""
    return "".join(chr(0xFEE0 + ord(c)) if c.isdigit() else c for c in text).encode()


# Each: the status, and the headers at an instant. All ask for 30 seconds.
FORMS = {
    "429, seconds": (429, lambda _: [("Retry-After", "30")]),
    "429, HTTP date": (429, lambda now: [("Retry-After", formatdate(now + 30, usegmt=True))]),
    "429, the server's clock is an hour slow": (
        429,
        lambda now: [
            ("Date", formatdate(now - 3600, usegmt=True)),
            ("Retry-After", formatdate(now - 3570, usegmt=True)),
        ],
    ),
    "429, milliseconds": (429, lambda _: [("Retry-After", "40"), ("retry-after-ms", "30000")]),
    "503, milliseconds": (503, lambda _: [("retry-after-ms", "30000")]),
    "429, Azure's milliseconds": (
        429,
        lambda _: [("Retry-After", "40"), ("x-ms-retry-after-ms", "30000")],
    ),
    "503, Azure's milliseconds": (503, lambda _: [("x-ms-retry-after-ms", "30000")]),
    "529, seconds": (529, lambda _: [("retry-after", "30")]),
    "429, Azure, of a deployment without a quota of tokens": (
        429,
        lambda _: [
            ("x-ratelimit-remaining-requests", "9"),
            ("x-ratelimit-remaining-tokens", "-1"),
            ("x-ratelimit-reset-tokens", "59"),
            ("retry-after", "30"),
        ],
    ),
    "503, seconds": (503, lambda _: [("Retry-After", "30")]),
    "503, HTTP date": (503, lambda now: [("Retry-After", formatdate(now + 30, usegmt=True))]),
    "403, GitHub's secondary limit": (
        403,
        lambda now: [("Retry-After", "30"), *left(14, int(now + 3000))],
    ),
    "403, GitHub's primary limit": (403, lambda now: left(0, int(now + 30.5))),
    "RateLimit": (200, lambda _: [("RateLimit", '"default";r=0;t=30')]),
    "RateLimit and its policies": (
        200,
        lambda _: [
            ("RateLimit-Policy", '"burst";q=100;w=60,"daily";q=1000;w=86400'),
            ("RateLimit", '"burst";r=0;t=30,"daily";r=83;t=70000'),
        ],
    ),
    "RateLimit until draft 7": (
        200,
        lambda _: [("RateLimit", "limit=100, remaining=0, reset=30")],
    ),
    "RateLimit until draft 6": (
        200,
        lambda _: [("RateLimit-Limit", "100, 100;w=60"), *left(0, 30, "RateLimit")],
    ),
    "GitHub": (200, lambda now: left(0, int(now + 30.5))),
    "GitLab": (
        200,
        lambda now: [
            ("RateLimit-Limit", "600"),
            ("RateLimit-Observed", "600"),
            ("RateLimit-ResetTime", formatdate(now + 30, usegmt=True)),
            *left(0, int(now + 30.5), "RateLimit"),
        ],
    ),
    "X": (200, lambda now: left(0, int(now + 30.5), "x-rate-limit")),
    "milliseconds since 1970": (200, lambda now: left(0, int(now * 1000) + 30_000)),
    "seconds from now": (200, lambda _: left(0, 30)),
    "Discord": (200, lambda now: [*left(0, now + 99), ("X-RateLimit-Reset-After", "30.0")]),
    "OpenAI, requests": (
        200,
        lambda _: [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-requests", "30s"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ],
    ),
    "OpenAI, tokens": (
        200,
        lambda _: [
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-requests", "20ms"),
            ("x-ratelimit-reset-tokens", "0m29.999s"),
        ],
    ),
    "Anthropic": (
        200,
        lambda now: [
            ("anthropic-ratelimit-requests-remaining", "0"),
            (
                "anthropic-ratelimit-requests-reset",
                time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 30.5)),
            ),
        ],
    ),
}

# Each: the headers, and whether they are a hold of the greatest length.
NONSENSE = {
    "negative": ([("Retry-After", "-1")], False),
    "NaN": ([("Retry-After", "NaN")], False),
    "infinite": ([("Retry-After", "inf")], False),
    "empty": ([("Retry-After", "")], False),
    "words": ([("Retry-After", "in a while")], False),
    "binary": ([("Retry-After", b"\xff\xfe\x80 \xe2\x98\x83")], False),
    "a control character": ([("Retry-After", "\x1c30")], False),
    "8,000 digits": ([("Retry-After", "9" * 8000)], False),
    "no date": ([("Retry-After", "Mon, 31 Feb 2026 99:99:99 GMT")], False),
    "1970": ([("Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT")], False),
    "year 9999": ([("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT")], True),
    "30 years": ([("Retry-After", "946684800")], True),
    "contradicting": ([("Retry-After", "7"), ("Retry-After", "4000")], True),
    "wide digits": ([("Retry-After", wide("30"))], False),
    "a date of wide digits": ([("Retry-After", wide("Fri, 31 Dec 9999 23:59:59 GMT"))], False),
    "negative remaining": (left(-2, 30), True),
    "negative reset": (left(0, -30), False),
    "NaN reset": (left(0, "NaN"), False),
    "reset in the year 9999": (left(0, "9999-12-31T23:59:59Z"), True),
    "contradicting resets": ([*left(0, 7), *left(0, 4000)], True),
    "long reset": (left(0, "1" * 8000), False),
    "binary reset": ([("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", b"\xff")], False),
    "negative structured": ([("RateLimit", '"default";r=0;t=-30')], False),
    "malformed structured": ([("RateLimit", '"default;r=0;t=30')], False),
    "empty structured": ([("RateLimit", "")], False),
    "binary structured": ([("RateLimit", b"\xff\xfe")], False),
    "structured in the far future": ([("RateLimit", '"default";r=0;t=999999999')], True),
}


async def test_retry_after_is_obeyed(client, server, reply):
    """The lane holds for 30 seconds, and no other; only a refusal counts as push-back."""
    wrong = []
    for form, (status, headers) in FORMS.items():
        server.answer = lambda _, form=(status, headers): reply.of(form[0], form[1](time.time()))
        async with ApiQueue(lanes={"*": ()}) as queue, client(queue) as paced:
            before = time.monotonic()
            assert await paced.get(server.url()) == status
            held = queue.estimate(key=HOST)
            spent = time.monotonic() - before
            found = queue.estimate(key=OTHER), queue.stats.throttled, queue.stats.malformed
            # A whole number of seconds since 1970 may be up to one second off.
            if held + spent <= 29 or held > 31 or found != (0, status != 200, 0):
                wrong.append(f"{form}: held {held}, {found}")
    assert not wrong, "\n".join(wrong)


async def test_malformed_headers_are_counted(client, server, reply):
    """The client gets its response; the queue holds for `max_hold` or not at all."""
    wrong = []
    for kind, (headers, far) in NONSENSE.items():
        server.answer = lambda _, headers=headers: reply.of(429, headers)
        async with ApiQueue(lanes={"*": ()}) as queue, client(queue, max_hold=20) as paced:
            assert await paced.get(server.url()) == 429
            held = queue.estimate(key=HOST)
            found = queue.stats.malformed, queue.stats.throttled, queue.running
            if not (10 < held <= 20 if far else held == 0) or found != (1, 1, 0):
                wrong.append(f"{kind}: held {held}, {found}")
    assert not wrong, "\n".join(wrong)


# Each: the status, and the headers at an instant. None asks for a hold.
NO_HOLD = {
    "529 alone": (529, lambda _: []),
    "429, an Anthropic subscription": (
        429,
        lambda now: [
            ("anthropic-ratelimit-unified-status", "rejected"),
            ("anthropic-ratelimit-unified-5h-reset", str(int(now + 7200))),
            ("anthropic-ratelimit-unified-7d-reset", str(int(now + 500_000))),
        ],
    ),
    "Azure": (
        200,
        lambda _: [
            ("x-ratelimit-limit-tokens", "-1"),
            ("x-ratelimit-remaining-tokens", "-1"),
            ("x-ratelimit-reset-tokens", "0"),
        ],
    ),
}


async def test_ordinary_answers_hold_nothing(client, server, reply):
    """Where no hold is asked for, there is none; a refusal counts as push-back all the same."""
    for form, (status, headers) in NO_HOLD.items():
        server.answer = lambda _, form=(status, headers): reply.of(form[0], form[1](time.time()))
        async with ApiQueue(lanes={"*": ()}) as queue, client(queue) as paced:
            assert await paced.get(server.url()) == status
            assert queue.estimate(key=HOST) == 0, form
            assert queue.stats.throttled == (status != 200), form
            assert queue.stats.malformed == 0, form


async def test_the_default_longest_hold(every_client, server, reply):
    """A server that asks for a day is asked again after an hour."""
    server.answer = lambda _: reply.of(429, [("Retry-After", "86400")])
    async with ApiQueue(lanes={"*": ()}) as queue, every_client(queue) as paced:
        await paced.get(server.url())
        assert 3590 < queue.estimate(key=HOST) <= 3600
        assert queue.stats.malformed == 1


async def test_without_lanes_the_queue_holds(every_client, server, reply):
    """A queue without lanes holds as a whole."""
    server.answer = lambda _: reply.of(429, [("Retry-After", "30")])
    async with ApiQueue() as queue, every_client(queue) as paced:
        await paced.get(server.url())
        assert 20 < queue.estimate(key=OTHER) <= 30


class Windows:
    """A server that allows so many requests in each window of time, and says how many remain."""

    def __init__(self, server, reply, headers, *, calls, seconds):
        self.refused = 0
        self.number = 0
        self._reply = reply
        self._headers = headers
        self._calls = calls
        self._seconds = seconds
        self._end = 0.0
        self._left = 0
        server.answer = self._answer

    def _answer(self, arrival):
        if arrival.at >= self._end:
            self._end = arrival.at + self._seconds
            self._left = self._calls
            self.number += 1
        if not self._left:
            self.refused += 1
            return self._reply.of(429)
        self._left -= 1
        return self._reply.of(200, self._headers(self._left, self._end - arrival.at))


async def test_nothing_is_sent_to_be_refused(every_client, server, reply, stalls):
    """A queue without limits of its own keeps those that the server sends."""

    def headers(remaining, wait):
        if windows.number % 2:  # a duration
            return [
                ("x-ratelimit-remaining-requests", str(remaining)),
                ("x-ratelimit-reset-requests", f"{wait * 1000:.0f}ms"),
            ]
        return [  # milliseconds since 1970
            ("X-RateLimit-Remaining", str(remaining)),
            ("X-RateLimit-Reset", f"{(time.time() + wait) * 1000:.0f}"),
        ]

    windows = Windows(server, reply, headers, calls=5, seconds=0.15)
    async with ApiQueue(lanes={"*": ()}, concurrency=1) as queue, every_client(queue) as paced:
        start = time.monotonic()
        statuses = [await paced.get(server.url()) for _ in range(17)]
        took = time.monotonic() - start
    assert statuses == [200] * 17
    assert windows.number >= 4
    assert windows.refused == 0
    assert queue.stats.throttled == 0
    assert 0.45 < took < 1.85 + stalls.seconds


async def test_a_hold_applies_to_waiting_requests(client, server, reply):
    """A refusal of one request holds all those that already wait behind it."""
    server.answer = lambda arrival: (
        reply.of(429, [("Retry-After", "0.4")]) if arrival.path == "/0" else reply.of()
    )
    async with ApiQueue("50ms", concurrency=1) as queue, client(queue) as paced:
        await asyncio.gather(*(paced.get(server.url(f"/{number}")) for number in range(3)))
    first, second, third = (arrival.at for arrival in server.arrivals)
    assert second - first > 0.4 - 0.020
    assert third >= second
    assert third - first > 0.4 + 0.050 - 0.020


async def test_fifty_refusals_slow_down_once(every_client, server, reply):
    """They were sent at the rate before the slow-down, and mean nothing for the one after it."""
    server.answer = lambda _: None
    queue = ApiQueue("1000/s", adaptive=Adaptive())
    async with queue, every_client(queue) as paced:
        requests = [asyncio.ensure_future(paced.get(server.url())) for _ in range(50)]
        await server.arrived(50)
        for connection in server.connections:
            connection.write(reply.of(429))
        assert await asyncio.gather(*requests) == [429] * 50
        assert queue.stats.throttled == 50
        assert queue.stats.backed_off == 1


async def test_key_route_makes_lanes(every_client, server, reply):
    """`key="route"` is the method, host and path; the query is not in it."""
    server.answer = lambda arrival: (
        reply.of(429, [("Retry-After", "30")]) if "/busy" in arrival.path else reply.of()
    )
    async with ApiQueue(lanes={"*": ()}) as queue, every_client(queue, key="route") as paced:
        assert await paced.get(server.url("/busy/things?page=1")) == 429
        assert await paced.get(server.url("/idle")) == 200
        assert queue.estimate(key=f"GET {HOST}/busy/things") > 20


async def test_key_may_be_a_function(client, server):
    """What it returns for a request is that request's key."""
    seen = []

    def first_part(request):
        seen.append((request.method, request.url.path))
        return request.url.path.split("/")[1]

    queue = ApiQueue(lanes={"slow": "5/s", "*": "unlimited"})
    async with queue, client(queue, key=first_part) as paced:
        start = time.monotonic()
        paths = ["/slow/1", "/slow/2", "/fast/1", "/fast/2"]
        await asyncio.gather(*(paced.get(server.url(path)) for path in paths))
        assert time.monotonic() - start > 0.2 - 0.020
    assert sorted(seen) == sorted(("GET", path) for path in paths)
    assert [arrival.path for arrival in server.arrivals][-1] == "/slow/2"


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"key": "path"}, ValueError, 'key must be "host", "route" or a function of the request'),
        ({"max_hold": -1}, ValueError, "max_hold must be finite and at least 0, not -1"),
        ({"max_hold": float("inf")}, ValueError, "max_hold must be finite"),
        ({"timeout": float("nan")}, ValueError, "timeout must be finite"),
    ],
)
async def test_invalid_arguments_are_refused(every_client, how, error, message):
    """The message describes what is valid."""
    with pytest.raises(error, match=message):
        every_client(ApiQueue(), **how)


async def test_only_queues_are_accepted(every_client):
    """A limit in the place of a queue is refused at once, not at the first request."""
    with pytest.raises(TypeError, match="a paced client needs an ApiQueue, not '10/s'"):
        every_client("10/s")


async def test_a_coroutine_function_as_key(every_client):
    """It is refused: each request's coroutine would be another key, and nothing would be paced."""

    async def key(request):
        return request.url.host

    with pytest.raises(TypeError, match="a plain function of the request, not the coroutine"):
        every_client(ApiQueue(), key=key)
