"""python-telegram-bot's own `ExtBot`, paced: on loopback, and in virtual time.

The same server answers both: over HTTP, or as the bot's `BaseRequest`, which takes no time but what
it says.
"""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from datetime import timedelta
from importlib import import_module
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from aioapiqueue import ApiQueue
from tests.helpers.lazily import lazily

error, ext, sending = (lazily(f"telegram.{name}") for name in ("error", "ext", "request"))
paced = lazily("aioapiqueue.integrations.telegram")

# The library warns of its own attribute whenever it makes the error.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`retry_after`:telegram.warnings.PTBDeprecationWarning"
)
CATCH_UP = 0.010  # seconds, a queue's default
DOCUMENTED = {"group:*": "1/s, 20 in any 1min", "chat:*": "1/s"}


class Server:
    """Speaks enough of the Bot API, and notes what arrives when.

    `refuse` maps a text to the `retry_after` of its next refusals; `take` to the seconds that it
    takes to be answered.
    """

    def __init__(self, clock):
        self.arrivals = []
        self.refuse = {}
        self.take = {}
        self._clock = clock

    async def answer(self, method, text, chat):
        """Return the status and the JSON for one request."""
        self.arrivals.append((self._clock(), text or method, chat))
        await asyncio.sleep(self.take.get(text, 0))
        if self.refuse.get(text):
            seconds = self.refuse[text].pop(0)
            return 429, {
                "ok": False,
                "error_code": 429,
                "description": f"Too Many Requests: retry after {seconds}",
                "parameters": {"retry_after": seconds},
            }
        if method == "getMe":
            return 200, {"ok": True, "result": {"id": 1, "is_bot": True, "first_name": "bot"}}
        place = {"id": 1, "type": "private"}
        return 200, {"ok": True, "result": {"message_id": 1, "date": 0, "chat": place}}

    def at(self, *texts):
        """Return when these arrived, each time, in seconds since the first arrival of all."""
        return [at - self.arrivals[0][0] for at, text, _ in self.arrivals if text in texts]

    @property
    def texts(self):
        """What arrived, in order."""
        return [text for _, text, _ in self.arrivals]


@pytest.fixture(scope="module", autouse=True)
def imported():
    """Import python-telegram-bot, once."""
    import_module("telegram.ext")
    import_module("aioapiqueue.integrations.telegram")


def direct(server):
    """Return what a bot sends with: straight to a server."""

    class Direct(sending.BaseRequest):
        read_timeout = None

        async def initialize(self):
            """Need nothing."""

        async def shutdown(self):
            """Need nothing."""

        async def do_request(self, url, method, request_data=None, **_):  # noqa: ARG002 - the library's
            """Send one request."""
            data = request_data.parameters if request_data else {}
            status, answer = await server.answer(
                url.rpartition("/")[2], data.get("text"), data.get("chat_id")
            )
            return status, json.dumps(answer).encode()

    return Direct()


def bot_of(queue, **how):
    """Return a bot in virtual time, and its server."""
    server = Server(asyncio.get_running_loop().time)
    limiter = paced.QueueRateLimiter(queue, **how)
    request = direct(server)
    bot = ext.ExtBot("1:t", request=request, get_updates_request=request, rate_limiter=limiter)
    return bot, server


@pytest.fixture
async def http_server():
    """Serve on a free port of loopback."""
    server = Server(time.monotonic)

    async def handle(request):
        data = {name: of[0] for name, of in parse_qs(await request.text()).items()}
        method = request.path.rpartition("/")[2]
        status, answer = await server.answer(method, data.get("text"), data.get("chat_id"))
        return web.json_response(answer, status=status)

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/bot"
    yield server
    await runner.cleanup()


@pytest.mark.real
async def test_over_http(http_server):
    """An application's bot is paced by chat and as a whole, and obeys a real 429."""
    queue = ApiQueue("100/s", lanes={"group:*": "10/s", "chat:*": "20/s"})
    limiter = paced.QueueRateLimiter(queue, max_retries=1)
    builder = ext.Application.builder().token("1:t").base_url(http_server.url)
    application = builder.rate_limiter(limiter).updater(None).build()
    http_server.refuse["refused"] = [0.2]
    async with application:
        bot = application.bot
        assert bot.first_name == "bot"
        began = time.monotonic()
        await asyncio.gather(
            *(bot.send_message(-5, f"group {number}") for number in range(3)),
            *(bot.send_message(5, f"chat {number}") for number in range(3)),
        )
        await bot.send_message(6, "refused")
    group, chat = (
        [at for at, text, _ in http_server.arrivals if text.startswith(kind)]
        for kind in ("group", "chat")
    )
    for number in range(3):
        assert group[number] - began >= number * 0.1 - CATCH_UP
        assert chat[number] - began >= number * 0.05 - CATCH_UP
    first, second = http_server.at("refused")
    assert second - first >= 0.2
    assert queue.stats.throttled == 1
    assert queue.running == 0


async def test_documented_limits():
    """30 a second to all, 1 a second to a chat, 20 in any minute to a group."""
    queue = ApiQueue("30/s", lanes=DOCUMENTED)
    bot, server = bot_of(queue)
    await asyncio.gather(
        *(bot.send_message(-5, "group") for _ in range(22)),
        *(bot.send_message(7, "chat") for _ in range(3)),
        *(bot.send_message(1000 + number, "broadcast") for number in range(60)),
    )
    group, chat = server.at("group"), server.at("chat")
    assert group[:20] == pytest.approx([float(number) for number in range(20)], abs=0.1)
    assert group[20:] == pytest.approx([60.0, 61.0], abs=0.1)
    assert chat == pytest.approx([chat[0], chat[0] + 1, chat[0] + 2], abs=0.1)
    everybody = sorted(server.at(*server.texts))
    for number, at in enumerate(everybody[30:]):
        assert at - everybody[number] >= 1 - CATCH_UP
    assert max(server.at("broadcast")) == pytest.approx(64 / 30, abs=0.1)


@pytest.mark.parametrize(
    ("chat", "key"),
    [
        (5, "chat:5"),
        ("5", "chat:5"),
        (-5, "group:-5"),
        ("-5", "group:-5"),
        ("@name", "group:@name"),
    ],
)
async def test_keys_of_chats(chat, key):
    """A channel's or supergroup's name counts as a group; ids may be strings."""
    queue = ApiQueue(lanes={key: "1/s"})
    bot, server = bot_of(queue)
    await asyncio.gather(*(bot.send_message(chat, "text") for _ in range(2)))
    assert server.at("text") == pytest.approx([0.0, 1.0])


async def test_refusal_holds_everybody():
    """Until the end of what it asks for, although others succeed meanwhile."""
    bot, server = bot_of(ApiQueue(lanes=DOCUMENTED), max_retries=1)
    server.refuse["refused"] = [10]
    server.take["slow"] = 2

    async def later():
        await asyncio.sleep(1)
        await asyncio.gather(bot.send_message(3, "later"), bot.get_me())

    await asyncio.gather(bot.send_message(1, "slow"), bot.send_message(2, "refused"), later())
    assert server.at("slow") == [0.0]
    assert server.at("refused") == pytest.approx([0.0, 10.0])
    assert server.at("later", "getMe") == pytest.approx([10.0, 10.0])


async def test_shorter_refusal_shortens_nothing():
    """Of two refusals the later end holds, also for the one that asks for less."""
    bot, server = bot_of(ApiQueue(), max_retries=1)
    server.refuse |= {"long": [10], "short": [1]}
    await asyncio.gather(bot.send_message(1, "long"), bot.send_message(2, "short"))
    assert server.at("short", "long") == pytest.approx([0.0, 0.0, 10.0, 10.0])


async def test_resent_keeps_its_place():
    """What was refused goes before those that waited behind it."""
    bot, server = bot_of(ApiQueue("10/s", lanes={"chat:*": "1/s"}), max_retries=2)
    server.refuse["1"] = [5, 5]
    await asyncio.gather(*(bot.send_message(7, str(number)) for number in range(1, 4)))
    assert server.texts == ["1", "1", "1", "2", "3"]
    expected = pytest.approx([0.0, 5.0, 10.0, 11.0, 12.0], abs=CATCH_UP)
    assert server.at("1", "2", "3") == expected


@pytest.mark.parametrize(("args", "attempts"), [(None, 3), (1, 2), (3, 4)])
async def test_retries(args, attempts):
    """`rate_limit_args` is `max_retries` for one request. The last refusal is raised."""
    queue = ApiQueue()
    bot, server = bot_of(queue, max_retries=2)
    server.refuse["refused"] = [1] * 10
    with pytest.raises(error.RetryAfter):
        await bot.send_message(1, "refused", rate_limit_args=args)
    assert server.at("refused") == pytest.approx([float(number) for number in range(attempts)])
    assert queue.stats.throttled == attempts
    assert queue.running == 0
    assert queue.estimate() == pytest.approx(1.0)  # the last one holds the others, too


async def test_no_retries():
    """0 is none, for one request too: the methods of the bot itself leave out a 0."""
    limiter = paced.QueueRateLimiter(ApiQueue(), max_retries=2)
    sent = []

    async def refused():
        sent.append("refused")
        raise error.RetryAfter(1)

    with pytest.raises(error.RetryAfter):
        await limiter.process_request(refused, (), {}, "sendMessage", {"chat_id": 1}, 0)
    assert sent == ["refused"]


async def test_other_errors_are_raised():
    """They are not sent again, and end the call."""
    queue = ApiQueue("10/s")
    limiter = paced.QueueRateLimiter(queue, max_retries=3)
    calls = []

    async def fails(number):
        calls.append(number)
        raise ConnectionError("the API is gone")

    with pytest.raises(ConnectionError, match="the API is gone"):
        await limiter.process_request(fails, (1,), {}, "sendMessage", {"chat_id": 1}, None)
    assert calls == [1]
    assert queue.running == 0


async def test_cancelled_while_it_waits():
    """It uses no slot: the next one has it."""
    queue = ApiQueue("1/s")
    bot, server = bot_of(queue)
    calls = [asyncio.create_task(bot.send_message(n, f"{n}")) for n in (1, 2, 3)]
    await asyncio.sleep(0.5)
    calls[1].cancel()
    await asyncio.wait(calls)
    assert calls[1].cancelled()
    assert server.at("1", "2", "3") == pytest.approx([0.0, 1.0])


async def test_cancelled_in_flight():
    """Its permit is free at once."""
    queue = ApiQueue(concurrency=1)
    bot, server = bot_of(queue)
    server.take["slow"] = 60
    slow = asyncio.create_task(bot.send_message(1, "slow"))
    following = asyncio.create_task(bot.send_message(2, "next"))
    await asyncio.sleep(1)
    slow.cancel()
    await following
    assert server.at("next") == pytest.approx([1.0])
    assert queue.running == 0


async def test_requests_without_chat_go_first():
    """A broadcast does not delay an answer to a button."""
    bot, server = bot_of(ApiQueue("30/s", lanes=DOCUMENTED))
    broadcast = [asyncio.create_task(bot.send_message(n, "broadcast")) for n in range(300)]
    await asyncio.sleep(1)
    await bot.get_me()
    assert server.at("getMe") == pytest.approx([1.0], abs=0.05)
    await asyncio.gather(*broadcast)


async def test_paid_broadcast():
    """It comes under a lane of its own, and not under those of its chat and of all others."""
    lanes = {"free": "30/s", "paid": "1000/s", **DOCUMENTED}
    queue = ApiQueue(lanes=lanes, catch_up=0)  # each call when it is due
    bot, server = bot_of(queue)
    await asyncio.gather(
        *(bot.send_message(5, "paid", allow_paid_broadcast=True) for _ in range(101)),
        *(bot.send_message(number, "free") for number in range(31)),
    )
    assert max(server.at("paid")) == pytest.approx(0.1)
    assert max(server.at("free")) == pytest.approx(1.0)


async def test_turns_by_chat():
    """With `order="fair"`, one chat's many messages do not hold up another's."""
    bot, server = bot_of(ApiQueue("10/s", order="fair"))
    await asyncio.gather(
        *(bot.send_message(1, "many") for _ in range(4)), bot.send_message(2, "one")
    )
    assert server.texts == ["many", "many", "one", "many", "many"]


@pytest.mark.parametrize("as_timedelta", [False, True])
async def test_either_form_of_retry_after(as_timedelta, monkeypatch):
    """Seconds or a timedelta, as the user has set it: read without a warning of ours."""
    monkeypatch.setenv("PTB_TIMEDELTA", "true")
    refusals = [error.RetryAfter(timedelta(seconds=2))]
    if not as_timedelta:
        monkeypatch.delenv("PTB_TIMEDELTA")
    loop = asyncio.get_running_loop()

    async def send():
        if refusals:
            raise refusals.pop()
        return loop.time()

    limiter = paced.QueueRateLimiter(ApiQueue("10/s"), max_retries=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert await limiter.process_request(send, (), {}, "getMe", {}, None) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("queue", "retries", "kind", "match"),
    [
        ("30/s", 0, TypeError, "python-telegram-bot needs an ApiQueue, not '30/s'"),
        (
            ApiQueue("9 tokens/s"),
            0,
            ValueError,
            "limits tokens, which python-telegram-bot does not report: use a queue that",
        ),
        (ApiQueue("30/s"), -1, ValueError, "max_retries must be finite and at least 0"),
        (ApiQueue("30/s"), 1.5, TypeError, "max_retries must be a whole number"),
        (ApiQueue("30/s"), "2", TypeError, "max_retries must be a number"),
    ],
    ids=["no queue", "tokens", "negative", "half", "text"],
)
def test_bad_arguments(queue, retries, kind, match):
    """At construction, with what to do."""
    with pytest.raises(kind, match=match):
        paced.QueueRateLimiter(queue, max_retries=retries)


async def test_bad_rate_limit_args():
    """They are named, and nothing is sent."""
    bot, server = bot_of(ApiQueue("30/s"))
    with pytest.raises(TypeError, match="rate_limit_args must be a number, not 'urgent'"):
        await bot.send_message(1, "text", rate_limit_args="urgent")
    assert server.arrivals == []
