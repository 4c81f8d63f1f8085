"""The local servers of LLM providers, with the real SDKs and without a queue."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import aiohttp
import httpx
import httpx2
import pytest

from tests.helpers.lazily import lazily
from tests.helpers.llm_sdks import SDKS
from tests.helpers.llm_servers import (
    AnthropicServer,
    GeminiServer,
    GroqServer,
    OpenAIServer,
    prompt,
    steady_user,
)
from tests.helpers.yardstick import slowness

# The servers listen at Unix sockets, in virtual time.
pytestmark = [pytest.mark.posix, pytest.mark.usefixtures("sdks")]

anthropic, openai = lazily("anthropic"), lazily("openai")
genai, types = lazily("google.genai"), lazily("google.genai.types")

AMPLE = dict.fromkeys(
    ("calls", "calls_per_day", "tokens", "input_tokens", "output_tokens"), 100_000
)


@pytest.fixture(params=SDKS)
def sdk(request):
    """Give each SDK."""
    return SDKS[request.param]


def now():
    """Return the time on the loop's clock, which is that of the server's log."""
    return asyncio.get_running_loop().time()


def unused(sdk, tokens):
    """Return what that provider gives back of a maximum of which so much was not used."""
    units = {GroqServer: "tokens", AnthropicServer: "output_tokens"}
    return {units[sdk.server]: tokens} if sdk.server in units else {}


async def test_plain_call(sdk):
    """An answer comes after its time, with the usage that its prompt asks for."""
    async with sdk.server(AMPLE) as server, sdk(server, key="mine") as one:
        begun = now()
        assert await one.ask(prompt(40, out=120, seconds=0.1), 200, model="large") == (40, 120)
        assert now() - begun == pytest.approx(0.1)
        [arrival] = server.log
        assert (arrival.key, arrival.model, arrival.produced) == ("mine", "large", 120)
        assert arrival.ended - arrival.at == pytest.approx(0.1)
        assert not arrival.cancelled


async def test_stream(sdk):
    """The server sends the tokens evenly, the first at once, and the usage with its last event."""
    async with sdk.server(AMPLE) as server, sdk(server) as one:
        usage, instants = await one.read(prompt(40, out=120, seconds=0.3), 100)
        assert usage == (40, 100)
        [arrival] = server.log
        expected = pytest.approx([0.0, 0.06, 0.12, 0.18, 0.24])
        assert [at - arrival.at for at in instants] == expected
        assert arrival.ended - arrival.at == pytest.approx(0.3)
        assert arrival.produced == 100


async def test_refusal(sdk):
    """Above the limit the SDK raises its own error, and the log has the refusal."""
    async with sdk.server({"calls": 1}) as server, sdk(server) as one:
        await one.ask(prompt(out=1))
        with pytest.raises(sdk.refused(), match="429"):
            await one.ask(prompt(out=1))
        with pytest.raises(sdk.refused(), match="429"):
            await one.read(prompt(out=1))
        assert [arrival.refusal is None for arrival in server.log] == [True, False, False]
        assert server.refusals == server.log[1:]
        assert server.refusals[0].refusal.unit == "calls"


async def test_refusal_for_tokens(sdk):
    """A request is judged by its tokens, too, on arrival."""
    async with sdk.server({sdk.tokens: 100}) as server, sdk(server) as one:
        await one.ask(prompt(60, out=10), 10)
        with pytest.raises(sdk.refused()):
            await one.ask(prompt(60, out=10), 10)
        assert [arrival.refusal.unit for arrival in server.refusals] == [sdk.tokens]


@pytest.mark.parametrize(
    ("name", "retries"), [("openai", [0, 0, 1]), ("anthropic", [0, 0, 1]), ("gemini", [0, 0, 0])]
)
async def test_retries_are_counted(name, retries):
    """An SDK that tries again is seen to do so; google-genai does not number its attempts."""
    sdk = SDKS[name]
    async with sdk.server({"calls": 1}, period=0.9) as server, sdk(server, retries=3) as one:
        await one.ask(prompt(out=1))
        await one.ask(prompt(out=1))
        assert [arrival.retry for arrival in server.log] == retries
        assert [arrival.refusal is None for arrival in server.log] == [True, False, True]


@pytest.mark.parametrize("streams", [False, True])
async def test_client_goes_away(sdk, streams):
    """The server stops at once, and gives back what that provider does of what was not made."""
    async with sdk.server(AMPLE, algorithm="window") as server, sdk(server) as one:
        call = one.read if streams else one.ask
        task = asyncio.create_task(call(prompt(40, out=100, seconds=50), 150))
        await server.arrived(1)
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        begun = now()
        await server.idle()
        assert now() == begun  # and not after its 50 s
        [arrival] = server.log
        assert arrival.cancelled
        assert arrival.produced == 20  # the first of 5 pieces
        assert arrival.back == unused(sdk, 130)
        for unit in server.quotas().limits:
            used = arrival.costs.get(unit, 0) - arrival.back.get(unit, 0)
            assert server.quotas().remaining(server.now(), unit) == 100_000 - used


@pytest.mark.parametrize("name", [name for name in SDKS if name != "gemini"])
async def test_abandoned_stream(name):
    """A stream that is left after its first piece ends at once.

    Not so with google-genai 3.6: what it gives out does not close the response below it, so that
    the server goes on to the end.
    """
    sdk = SDKS[name]
    async with sdk.server(AMPLE) as server, sdk(server) as one:
        async with aclosing(one.stream(prompt(40, out=100, seconds=50), 150)) as events:
            assert await anext(events) == ("abc " * 20, None)
        begun = now()
        await server.idle()
        assert now() == begun
        [arrival] = server.log
        assert arrival.cancelled
        assert arrival.back == unused(sdk, 130)


async def test_stream_is_cut(sdk):
    """A stream that the server cuts fails in the SDK, after what was sent."""
    async with sdk.server(AMPLE) as server, sdk(server) as one:
        pieces = []
        with pytest.raises(Exception, match=r"peer closed connection|Connection error"):
            async for piece, _ in one.stream(prompt(40, out=100, cut=2), 150):
                pieces.append(piece)
        assert pieces == ["abc " * 20] * 2
        await server.idle()
        [arrival] = server.log
        assert arrival.cancelled
        assert arrival.back == unused(sdk, 110)


async def test_failed_call_counts(sdk):
    """A request that fails after it was admitted counts as one that ends before its output."""
    async with sdk.server(AMPLE) as server, sdk(server) as one:
        with pytest.raises(Exception, match="Failed"):
            await one.ask(prompt(40, out=100, status=500), 150)
        [arrival] = server.log
        assert (arrival.fault, arrival.produced, arrival.refusal) == (500, 0, None)
        assert arrival.back == unused(sdk, 150)


@pytest.mark.real
async def test_server_comes_and_goes(sdk):
    """It starts within 50 ms of CPU, and ends at once although a request is being answered."""
    starts = []
    for _ in range(5):
        begun = time.process_time()
        async with sdk.server(AMPLE):
            starts.append(time.process_time() - begun)
    assert min(starts) < 0.05 or min(starts) < 0.05 * slowness()
    async with sdk.server(AMPLE) as server:
        one = sdk(server)
        task = asyncio.create_task(one.ask(prompt(out=1, seconds=50), 10))
        await server.arrived(1)
        begun = now()
    assert now() - begun < 10
    async with one:
        with pytest.raises(Exception, match=r"[Cc]onnect"):
            await task


@pytest.mark.real
async def test_no_key(sdk):
    """Without an API key a request is refused, and not counted."""
    async with sdk.server(AMPLE) as server, aiohttp.ClientSession() as session:
        path, body = server.request("m", "hello", 10)
        async with session.post(server.url + path, json=body) as response:
            assert response.status == 401
            assert "No API key" in (await response.json())["error"]["message"]
        assert server.log == []


@pytest.mark.real
async def test_missing_maximum():
    """Anthropic requires `max_tokens`."""
    async with AnthropicServer(AMPLE) as server, aiohttp.ClientSession() as session:
        path, body = server.request("m", "hello", 10)
        del body["max_tokens"]
        headers = {"x-api-key": "mine"}
        async with session.post(server.url + path, json=body, headers=headers) as response:
            assert response.status == 400
            error = (await response.json())["error"]
        assert error == {"type": "invalid_request_error", "message": "max_tokens: Field required"}


@pytest.mark.real
@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
@pytest.mark.parametrize("name", SDKS)
async def test_takes_our_http_client(name, library):
    """Each SDK uses a client of httpx2 that it is given; anthropic refuses one of httpx."""
    sdk = SDKS[name]
    sent = []

    async def note(request):
        sent.append(request.url.path)

    async with (
        library.AsyncClient(timeout=30, event_hooks={"request": [note]}) as http_client,
        sdk.server(AMPLE) as server,
    ):
        if name == "anthropic" and library is httpx:
            with pytest.raises(TypeError, match=r"Use `httpx2.AsyncClient` instead"):
                sdk(server, http_client=http_client)
            return
        async with sdk(server, http_client=http_client) as one:
            assert await one.ask(prompt(40, out=20), 30) == (40, 20)
            assert (await one.read(prompt(40, out=20), 30))[0] == (40, 20)
        assert len(sent) == len(server.log) == 2


def ask_openai(server, http_client):
    """Ask with the blocking client of openai."""
    with openai.OpenAI(base_url=server.base_url, api_key="k", http_client=http_client) as client:
        messages = [{"role": "user", "content": prompt(out=7)}]
        found = client.chat.completions.create(model="m", messages=messages, max_tokens=10)
        return found.usage.completion_tokens


def ask_anthropic(server, http_client):
    """Ask with the blocking client of anthropic."""
    with anthropic.Anthropic(
        base_url=server.base_url, api_key="k", http_client=http_client
    ) as client:
        messages = [{"role": "user", "content": prompt(out=7)}]
        found = client.messages.create(model="m", messages=messages, max_tokens=10)
        return found.usage.output_tokens


def ask_gemini(server, http_client):
    """Ask with the blocking client of google-genai."""
    options = types.HttpOptions(base_url=server.base_url, httpx_client=http_client)
    with genai.Client(api_key="k", http_options=options) as client:
        found = client.models.generate_content(model="m", contents=prompt(out=7))
        return found.usage_metadata.candidates_token_count


@pytest.mark.real
@pytest.mark.parametrize(
    ("server", "ask"),
    [(OpenAIServer, ask_openai), (AnthropicServer, ask_anthropic), (GeminiServer, ask_gemini)],
)
async def test_blocking_sdk(server, ask):
    """The blocking clients take a blocking client of httpx2."""
    async with server(AMPLE) as serving:
        with httpx2.Client(timeout=30) as http_client:
            assert await asyncio.to_thread(ask, serving, http_client) == 7
        assert len(serving.log) == 1


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")
async def test_gemini_by_aiohttp():
    """Without a client of httpx, google-genai uses aiohttp for what is asynchronous."""
    async with GeminiServer(AMPLE) as server:
        options = types.HttpOptions(base_url=server.base_url)
        async with genai.Client(api_key="k", http_options=options).aio as client:
            found = await client.models.generate_content(model="m", contents=prompt(out=7))
            assert type(found.sdk_http_response.headers) is dict
        assert found.usage_metadata.candidates_token_count == 7
        assert len(server.log) == 1


async def test_steady_user_is_cancelled():
    """If what it runs beside fails, it stops at once, although its answers take 50 s."""
    async with OpenAIServer({"calls": 100, "tokens": 10_000}, period=10) as server:
        begun = now()
        with pytest.raises(ZeroDivisionError):
            async with steady_user(server, 1 / 2, seconds=50):
                await server.arrived(1)
                raise ZeroDivisionError
        await server.idle()
        assert now() == begun
        assert all(arrival.cancelled for arrival in server.log)


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
async def test_steady_user(name):
    """It uses its share and no more: alone it is never refused; where nothing is left it is."""
    sdk = SDKS[name]
    limits = {"calls": 60, sdk.tokens: 3000, "output_tokens": 1200}
    async with sdk.server(limits, period=1) as server:
        begun = server.now()
        async with steady_user(server, 1 / 3, key="other") as user:
            assert user.every == pytest.approx(0.05)
            await server.arrived(10)
        assert user.refused == 0
        assert {arrival.key for arrival in server.log} == {"other"}
        first, *_, last = server.log
        assert last.at - begun >= (len(server.log) - 1) * 0.05
        for unit in set(first.costs) & set(limits):
            assert 0.32 <= first.costs[unit] * 20 / limits[unit] <= 1 / 3
        server.quotas().charge(server.now(), {"calls": 6000})
        async with steady_user(server, 1 / 3) as user:
            await server.arrived(len(server.log) + 3)
        assert user.refused == user.sent >= 3
        assert user.refused_share == 1
