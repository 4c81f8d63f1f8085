"""Long waits, in virtual time, with a real queue in the place of the hub."""

from __future__ import annotations

import asyncio
import calendar
import math
import time

import anyio
import h11
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue_run.gateway import hub_turns
from aioapiqueue_run.gateway.calls import HTTP, ApiCall, HttpRequest
from aioapiqueue_run.gateway.hub_client import NotPacedError
from aioapiqueue_run.gateway.hub_turns import HubTurns, StaleError
from aioapiqueue_run.gateway.link import ClientClosedError, HttpLink

START = calendar.timegm((1970, 1, 2, 12, 0, 0))  # so early that floats are exact
CALL = ApiCall("ec2", "DescribeVolumes", "eu-west-1", "AKIAIOSFODNN7EXAMPLE")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Have the time of day go with the loop's."""

    class Clock:
        behind = 0.0

        @classmethod
        def time(cls):
            return START + asyncio.get_running_loop().time() - cls.behind

    monkeypatch.setattr(hub_turns, "time", Clock)
    return Clock


class Ask:
    """A request at the queue."""

    def __init__(self, queue, *, again):
        self.turn = asyncio.get_running_loop().create_future()
        self.slot = queue.enqueue(priority=-int(again))
        self.got = None
        self.slot.add_done_callback(self._due)

    def _due(self, slot):
        if not slot.cancelled() and not self.turn.done():
            self.got = slot.result()
            self.turn.set_result(None)

    def leave(self):
        """Leave the line, or give the slot back."""
        if self.got is None:
            self.slot.cancel()
        else:
            self.got.settle(0)
            self.got.release()
        self.turn.cancel()


class Hub:
    """Asks a queue."""

    def __init__(self, limit="1/s"):
        self.queue = ApiQueue(limit)
        self.lost = asyncio.Event()
        self.asked = []

    def ask(self, _, *, again=False):
        """Ask for a turn."""
        ask = Ask(self.queue, again=again)
        self.asked.append(ask)
        return ask


class Stream:
    """The server's side of a connection in memory."""

    def __init__(self):
        self.coming = asyncio.Queue()
        self.sent = []

    async def receive(self):
        """Return what the client has sent."""
        data = await self.coming.get()
        if data is None:
            raise anyio.EndOfStream
        return data

    async def send(self, data):
        """Send to the client."""
        self.sent.append(data)


class Client:
    """A client whose request has come; counts the interim answers that it is sent."""

    def __init__(self, first=b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"):
        self.stream = Stream()
        self.link = HttpLink(self.stream)
        self.stream.coming.put_nowait(first)

    async def connect(self):
        """Return the connection, of which the request has been read."""
        assert isinstance(await self.link.request(), h11.Request)
        return self.link

    def interims(self, status=100):
        """Return how many interim answers have come, all of this status."""
        assert all(one.startswith(b"HTTP/1.1 %d " % status) for one in self.stream.sent)
        return len(self.stream.sent)

    def hang_up(self):
        """Close the connection."""
        self.stream.coming.put_nowait(None)


def stamp(at):
    """Return the header of an instant."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))


def request(*, mark=None, signed=None, target="/"):
    """Return a request, signed now unless it is said otherwise."""
    at = START + asyncio.get_running_loop().time() if signed is None else signed
    headers = {"x-amz-date": stamp(at), "authorization": "AWS4-HMAC-SHA256 ..."}
    if mark:
        headers["amz-sdk-invocation-id"] = mark
    return HttpRequest("POST", "ec2.eu-west-1.amazonaws.com", target, headers)


def now():
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


async def empty(hub):
    """Use up what the limit lets through at once."""
    first = hub.ask(CALL)
    await first.turn


async def test_turn_at_once():
    """Nothing waits, and nothing is sent to the client."""
    hub, client = Hub(), Client()
    await HubTurns(hub).wait(CALL, request(), await client.connect())
    assert (now(), client.interims()) == (0.0, 0)
    assert len(asyncio.all_tasks()) == 1


async def test_interim_answers_while_it_waits():
    """One every 20 s, after which the client's time-out starts again; then its turn."""
    hub, client = Hub("1/min"), Client()
    await empty(hub)
    await HubTurns(hub).wait(CALL, request(), await client.connect())
    assert now() == 60.0
    assert client.interims() == 2  # after 20 and 40 s, and not in the moment of the turn
    assert len(asyncio.all_tasks()) == 1


# As Node.js's `fetch` and undici send it, with and without a User-Agent of their own.
UNDICI = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n"
EXPECTS = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n"


@pytest.mark.parametrize(
    "headers", [{}, {"user-agent": "OpenAI/JS 6.49.0", "sec-fetch-mode": "cors"}]
)
async def test_undici_gets_102(headers):
    """It fails at a `100 Continue` for which it did not ask, and has no bound for others."""
    hub, client = Hub("1/h"), Client(UNDICI)
    await empty(hub)
    unsigned = HttpRequest("POST", "sts.amazonaws.com", "/", headers)
    await HubTurns(hub).wait(CALL, unsigned, await client.connect())
    assert now() == 3600.0
    assert client.interims(102) == 179


async def test_102_does_not_stand_for_the_100_that_a_client_expects():
    """It gets one 100, at which it sends its body, and then as others do."""
    hub, client = Hub("1/min"), Client(EXPECTS)
    await empty(hub)
    await HubTurns(hub).wait(CALL, request(), await client.connect())
    assert [one[9:12] for one in client.stream.sent] == [b"100", b"102"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"user-agent": "Boto3/1.43"}, 11),
        ({"user-agent": "aws-sdk-go-v2/1.30 os/linux lang/go#1.22"}, 0),
        ({"user-agent": "Go-http-client/1.1"}, 0),
        ({"user-agent": "APN/1.0 HashiCorp/1.0 Terraform/1.9 aws-sdk-go-v2/1.2"}, 0),
        ({"user-agent": "node"}, 11),
        ({"upgrade": "websocket", "user-agent": "Python/3.13 websockets/15"}, 0),
    ],
)
async def test_clients_that_bear_no_interim_answers(headers, expected):
    """Go before 1.24 gives up at the sixth, and WebSockets at the first."""
    hub, client = Hub("1 per 239s"), Client()
    await empty(hub)
    asked = request()
    asked.headers |= headers
    await HubTurns(hub).wait(CALL, asked, await client.connect())
    assert client.interims() == expected


async def test_old_http_gets_no_interim_answer():
    """HTTP/1.0 has none: such a client would take it for the answer."""
    hub, client = Hub("1/min"), Client(b"POST / HTTP/1.0\r\nHost: x\r\n\r\n")
    await empty(hub)
    await HubTurns(hub).wait(CALL, request(), await client.connect())
    assert client.interims() == 0


async def test_signature_for_somebody_else_than_aws():
    """Of another store that is signed for as S3 is, nobody knows the clock and the age it takes."""
    hub, client = Hub("1 per 400s"), Client()
    await empty(hub)
    call = ApiCall("https://store.test", "PUT", protocol=HTTP)
    ask = await HubTurns(hub).wait(call, request(signed=START - 1000), await client.connect())
    assert now() == 400.0
    assert ask.good_until == math.inf


async def test_retry_overtakes_what_waits():
    """After 240 s the client must come back: its call leaves the line, and goes first on return."""
    hub, client = Hub("1 per 100s"), Client()
    turns, link = HubTurns(hub), await client.connect()
    await empty(hub)
    ahead = [hub.ask(CALL) for _ in range(3)]
    with pytest.raises(StaleError):
        await turns.wait(CALL, request(mark="a"), link)
    assert now() == pytest.approx(240.0, abs=1e-6)
    assert hub.queue.stats.waiting == 1
    later = hub.ask(CALL)
    await asyncio.sleep(2)
    await turns.wait(CALL, request(mark="a"), link)
    assert now() == 300.0
    assert [one.turn.done() for one in ahead] == [True, True, False]
    assert not later.turn.done()


async def test_retry_after_a_slow_connection_overtakes():
    """A signature that expires between the turn and the connection is signed again as well."""
    hub, client = Hub("1 per 235s"), Client()
    turns, link = HubTurns(hub), await client.connect()
    await empty(hub)
    asked = request(mark="a", signed=START - 1)
    turn = await turns.wait(CALL, asked, link)
    turns.check(turn, CALL, asked)
    await asyncio.sleep(60)
    with pytest.raises(StaleError):
        turns.check(turn, CALL, asked)
    other = hub.ask(CALL)
    await turns.wait(CALL, request(mark="a"), link)
    assert now() == 470.0
    assert not other.turn.done()


async def test_retry_without_a_mark_is_its_like():
    """A client that marks no tries overtakes with the same call; another call does not."""
    hub, client = Hub("1 per 150s"), Client()
    turns, link = HubTurns(hub), await client.connect()
    await empty(hub)
    hub.ask(CALL)
    with pytest.raises(StaleError):
        await turns.wait(CALL, request(), link)
    hub.ask(CALL)
    other = ApiCall("ec2", "DescribeSnapshots", "eu-west-1", "AKIAIOSFODNN7EXAMPLE")
    waits = asyncio.create_task(turns.wait(other, request(), await Client().connect()))
    await asyncio.sleep(1)
    await turns.wait(CALL, request(), link)
    assert now() == 300.0
    assert not waits.done()
    waits.cancel()


@pytest.mark.parametrize(("seconds", "overtakes"), [(29, True), (31, False)])
async def test_retry_is_expected_for_30_seconds(seconds, overtakes):
    """A client that comes later stands in line as any other."""
    hub, client = Hub("1 per 500s"), Client()
    turns, link = HubTurns(hub), await client.connect()
    await empty(hub)
    with pytest.raises(StaleError):
        await turns.wait(CALL, request(mark="a"), link)
    other = hub.ask(CALL)
    await asyncio.sleep(seconds)
    waits = asyncio.create_task(turns.wait(CALL, request(mark="a"), link))
    await asyncio.sleep(500 - now() + 1)
    assert (waits.done(), other.turn.done()) == (overtakes, not overtakes)
    waits.cancel()


async def test_client_that_hangs_up_leaves_the_line():
    """At once, and its turn is for the next."""
    hub, client = Hub("1 per 10s"), Client()
    await empty(hub)
    waits = asyncio.create_task(HubTurns(hub).wait(CALL, request(), await client.connect()))
    await asyncio.sleep(3)
    client.hang_up()
    with pytest.raises(ClientClosedError):
        await waits
    assert now() == 3.0
    assert hub.queue.stats.waiting == 0


async def test_body_is_taken_while_it_waits():
    """The client goes on sending, up to a bound; all of it is there afterwards."""
    first = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"
    hub, client = Hub("1 per 10s"), Client(first)
    await empty(hub)
    link = await client.connect()
    waits = asyncio.create_task(HubTurns(hub).wait(CALL, request(), link))
    for _ in range(30):
        client.stream.coming.put_nowait(b"x" * 10_000)
    await asyncio.sleep(5)
    assert client.stream.coming.qsize() == 3  # beyond 256 kB
    await waits
    assert len(await link.read_body(300_000)) == 300_000


async def test_cancelled_while_it_waits_leaves_the_line():
    """At each of its awaits: at first, and while the client is looked after."""
    for seconds in (0.01, 5.0):
        hub, client = Hub("1 per 10s"), Client()
        await empty(hub)
        waits = asyncio.create_task(HubTurns(hub).wait(CALL, request(), await client.connect()))
        await asyncio.sleep(seconds)
        waits.cancel()
        await asyncio.wait([waits])
        assert waits.cancelled()
        assert hub.queue.stats.waiting == 0
        assert len(asyncio.all_tasks()) == 1


async def test_cancelled_in_the_moment_of_its_turn():
    """The turn is given back, and is the next one's."""
    hub, client = Hub("1 per 10s"), Client()
    await empty(hub)
    waits = asyncio.create_task(HubTurns(hub).wait(CALL, request(), await client.connect()))
    await asyncio.sleep(1)
    hub.asked[-1].turn.add_done_callback(lambda _: waits.cancel())
    await asyncio.wait([waits])
    assert waits.cancelled()
    assert now() == 10.0
    await hub.queue.enqueue()
    assert now() == 10.0


async def test_refused_by_the_hub():
    """The reason is passed on; nothing is left."""

    class Refuses(Hub):
        def ask(self, call, *, again=False):
            ask = super().ask(call, again=again)
            ask.turn.set_exception(NotPacedError("because"))
            return ask

    with pytest.raises(NotPacedError, match="because"):
        await HubTurns(Refuses()).wait(CALL, request(), await Client().connect())


async def test_unsigned_request_waits_for_as_long_as_it_takes():
    """Nothing of it grows old."""
    hub, client = Hub("1/h"), Client()
    await empty(hub)
    unsigned = HttpRequest("POST", "sts.amazonaws.com", "/", {})
    await HubTurns(hub).wait(CALL, unsigned, await client.connect())
    assert now() == 3600.0
    assert client.interims() == 90  # more than 100 are too many for newer Pythons


async def test_signature_that_is_old_on_arrival():
    """A request that stood in line in its own program: it is signed again before it waits."""
    hub = Hub("1/s")
    turns = HubTurns(hub)
    await turns.wait(CALL, request(), await Client().connect())
    with pytest.raises(StaleError):
        await turns.wait(CALL, request(signed=START - 250), await Client().connect())
    assert now() == 0.05  # it was looked whether its turn would come at once


async def test_clock_that_is_wrong(clock):
    """Of a machine an hour ahead: SDKs sign for AWS's time, and no retry is taken for old."""
    clock.behind = -3600.0
    turns = HubTurns(Hub("1 per 100s"))
    await turns.wait(CALL, request(signed=START + 3600), await Client().connect())
    with pytest.raises(StaleError):
        await turns.wait(CALL, request(signed=START), await Client().connect())
    ask = await turns.wait(CALL, request(signed=START), await Client().connect())
    assert now() == 100.0
    assert ask.good_until == pytest.approx(START + 3600 + 290, abs=1)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, math.inf),
        ({"authorization": "Bearer x"}, math.inf),
        ({"x-amz-date": stamp(START)}, math.inf),
        ({"authorization": "x", "x-amz-date": stamp(START)}, START + 290),
        ({"authorization": "x", "x-amz-date": stamp(START - 20)}, START + 270),
        # What is signed for later comes from another clock.
        ({"authorization": "x", "x-amz-date": stamp(START + 20)}, START + 290),
        *(
            ({"authorization": "x", "x-amz-date": malformed}, math.inf)
            for malformed in ("", "yesterday", "20261399T000000Z", "20261127T120000")
        ),
    ],
)
async def test_end_of_a_signature(headers, expected):
    """It is 290 s old then; what is not signed has no end."""
    asked = HttpRequest("GET", "x", "/", headers)
    ask = await HubTurns(Hub()).wait(CALL, asked, await Client().connect())
    assert ask.good_until == expected
