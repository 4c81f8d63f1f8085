"""The clients that SDKs are given: what they are made with, and what they refuse."""

import asyncio
import gc
import gzip
import json
import re
import socket
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import httpx
import httpx2
import pytest

from aioapiqueue import ApiQueue, NestedSlotWarning, Ramp, Rate, SlotTimeout
from aioapiqueue.integrations import llm
from aioapiqueue.integrations.http import Learning
from tests.helpers.lazily import lazily
from tests.helpers.llm_sdks import SDKS

pytestmark = pytest.mark.usefixtures("sdks")

anthropic, openai = lazily("anthropic"), lazily("openai")

QUESTION = [{"role": "user", "content": "x" * 36}]
COMPLETION = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 40, "total_tokens": 52},
}


def a_queue(**options):
    """Return a queue whose lanes have no limits of their own."""
    return ApiQueue(lanes={"*": ()}, **options)


def pool_of(client):
    """Return the pool of connections that a client's transport has."""
    return client._transport.inner._pool  # noqa: SLF001 - neither library shows it


@pytest.mark.parametrize(
    ("make", "own"),
    [
        (llm.client, "DefaultAsyncHttpxClient"),
        (llm.sync_client, "DefaultHttpxClient"),
    ],
)
@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_as_the_sdks_own(make, own, sdk):
    """Time-outs, redirects and connections are those of the client that the SDK would make."""
    paced, sdks = make(a_queue(), llm.openai), getattr(import_module(sdk), own)()
    assert paced.timeout == sdks.timeout
    assert paced.follow_redirects == sdks.follow_redirects
    theirs = sdks._transport._pool  # noqa: SLF001 - as above
    for limit in ("_max_connections", "_max_keepalive_connections", "_keepalive_expiry"):
        assert getattr(pool_of(paced), limit) == getattr(theirs, limit)


async def test_slot_around_a_request_warns():
    """As of any client: it takes a slot for each request itself."""
    queue = ApiQueue("1000/s", lanes={"*": ()})
    answer = httpx2.MockTransport(lambda _: httpx2.Response(200, json=COMPLETION))
    async with llm.client(queue, llm.openai, transport=answer) as client:

        async def both():
            async with queue.slot():
                await client.post("https://api.test/v1/chat/completions", json={"model": "m"})

        await both()
        with pytest.warns(NestedSlotWarning, match="a slot is held around a client") as caught:
            await both()
    assert caught[0].filename == __file__


async def test_reserve_is_asked_once():
    """It may return another number later: what was reserved is what the call keeps."""
    averages = iter([100, 200, 300])
    profile = llm.openai.with_(reserve=lambda _: next(averages))
    answer = httpx2.MockTransport(lambda _: httpx2.Response(200, json=COMPLETION))
    queue = a_queue()
    async with llm.client(queue, profile, transport=answer) as client:
        body = {"model": "m", "messages": QUESTION}
        await client.post("https://api.test/v1/chat/completions", json=body)
    assert queue.stats.costs == {"calls": 1, "tokens": 12 + 100}
    assert next(averages) == 200


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system names it otherwise")
def test_connections_are_kept_alive():
    """A connection on which a model thinks for long is tested, as anthropic's own client does."""
    theirs = anthropic.DefaultAsyncHttpxClient()._transport._pool._socket_options  # noqa: SLF001 - as above
    ours = pool_of(llm.client(a_queue(), llm.anthropic))._socket_options  # noqa: SLF001 - as above
    assert set(ours) == set(theirs)


def test_options_go_where_they_belong():
    """Those of the client, those of the transport, and those of pacing."""
    limits = httpx2.Limits(max_connections=7)
    client = llm.client(
        a_queue(),
        llm.openai,
        timeout=9,
        wait_timeout=3,
        resend=2,
        limits=limits,
        headers={"X-Own": "1"},
        base_url="http://127.0.0.1",
        trust_env=False,
    )
    assert client.timeout == httpx2.Timeout(9)
    assert client._transport.timeout == 3  # noqa: SLF001 - as above
    assert pool_of(client)._max_connections == 7  # noqa: SLF001 - as above
    assert client.headers["x-own"] == "1"
    assert client.headers["accept-encoding"] == "gzip, deflate"
    kept = llm.client(a_queue(), llm.openai, headers={"accept-encoding": "identity"})
    assert kept.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"key": "host"}, TypeError, r"key= is set by the profile: .* profile.with_\(key="),
        ({"cost": 1}, TypeError, "cost= is set by the profile"),
        ({"mounts": {}}, TypeError, "mounts= would bypass the queue"),
        ({"library": "requests"}, ValueError, 'library must be "httpx2" or "httpx"'),
        ({"resend": -1}, ValueError, "resend"),
        ({"wait_timout": 3}, TypeError, r"no option wait_timout=: did you mean wait_timeout=\?"),
        ({"folow_redirects": 1}, TypeError, r"did you mean follow_redirects=\?"),
        ({"costs": 1}, TypeError, r"no option costs=: its options are (?!.*(cost|key|settle)=)"),
        ({"bananas": 1}, TypeError, "bananas=: its options are advise=, auth=, .*timeout="),
    ],
)
def test_wrong_options_are_refused(options, error, words):
    """As the client is made, with what to do instead."""
    for make in (llm.client, llm.sync_client):
        with pytest.raises(error, match=words):
            make(a_queue(), llm.openai, **options)


def test_a_misspelt_unit_is_named(run_virtual):
    """In a limit of the queue, which is refused at once; in one of a lane, as a call comes."""
    with pytest.raises(
        ValueError, match=r"counts only these units: calls, tokens, usd. Did you mean 'tokens'\?"
    ):
        llm.client(ApiQueue("10 token/s"), llm.openai)

    async def post():
        transport = httpx2.MockTransport(lambda _: pytest.fail("sent without a slot"))
        queue = ApiQueue(lanes={"*": "10 token/s"})
        async with llm.client(queue, llm.openai, transport=transport) as client:
            await client.post("http://x/v1/chat/completions", json={"model": "m"})

    with pytest.raises(ValueError, match="this call names tokens instead of token, but a"):
        run_virtual(post)


@pytest.mark.real
@pytest.mark.parametrize(
    ("hidden", "options", "needs", "extra"),
    [
        (["http_sf", "httpx"], "", "http-sf", "httpx2"),
        (["http_sf"], ", library='httpx'", "http-sf", "httpx"),
        (["http_sf", "httpx2"], "", "http-sf", "httpx"),
        (["httpx"], ", library='httpx'", "httpx", "httpx"),
        (["httpx2"], ", library='httpx2'", "httpx2", "httpx2"),
        (["httpx", "httpx2"], "", "httpx2", "httpx2"),
    ],
)
def test_what_is_missing_names_its_extra(hidden, options, needs, extra):
    """Without the library, or without what reads the headers: only the extra of the one in use."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n"
        "from aioapiqueue import ApiQueue\n"
        "from aioapiqueue.integrations import llm\n"
        f"llm.client(ApiQueue('1/s'), llm.openai{options})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert f" needs {needs}" in last
    assert re.findall(r"aioapiqueue\[\w+\]", done.stderr) == [f"aioapiqueue[{extra}]"]


def test_no_profile_is_refused():
    """A name is no profile."""
    with pytest.raises(TypeError, match=r"profile must be a Profile such as llm\.openai"):
        llm.client(a_queue(), "openai")


def test_profile_of_another_library_is_refused():
    """Bedrock's is for clients of botocore; and a transport may be of the other library."""
    with pytest.raises(TypeError, match=r"bedrock.* is for botocore clients.*pace_session"):
        llm.client(a_queue(), llm.bedrock)
    with pytest.raises(TypeError, match='for clients of httpx, pass library="httpx"'):
        llm.client(a_queue(), llm.openai, transport=answering(httpx))


@pytest.mark.parametrize(("name", "attempts"), [("openai", 1), ("gemini", 1), ("anthropic", 3)])
async def test_what_sdks_make_of_a_timeout(name, attempts):
    """As docs/troubleshooting.md has it: anthropic alone takes it for a lost connection."""
    error = SlotTimeout if attempts == 1 else anthropic.APIConnectionError
    queue = a_queue()
    transport = httpx2.MockTransport(lambda _: pytest.fail("sent without a slot"))
    profile = getattr(llm, name)
    http_client = llm.client(queue, profile, transport=transport, wait_timeout=1)
    where = SimpleNamespace(base_url="http://127.0.0.1/v1")
    async with SDKS[name](where, http_client=http_client, retries=2) as sdk:
        queue.hold(100)
        with pytest.raises(error) as caught:
            await sdk.ask("Why?", 9)
    assert isinstance(caught.value if attempts == 1 else caught.value.__cause__, SlotTimeout)
    assert queue.stats.timed_out == attempts


@pytest.mark.usefixtures("own_garbage")
@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda one: one.__name__)
def test_stream_that_is_only_dropped(library, run_virtual):
    """One that nobody closes is settled by what came, when the garbage collector ends it."""
    events = b"".join(b'data: {"choices": [{"delta": {"content": "word"}}]}\n\n' for _ in range(9))

    class Body(library.AsyncByteStream):
        async def __aiter__(self):
            yield events
            await asyncio.sleep(1000)

    async def left_early(client):
        response = await client.send(
            client.build_request(
                "POST",
                "http://x/v1/chat/completions",
                json={"model": "m", "messages": [], "max_tokens": 1000},
            ),
            stream=True,
        )
        async for _ in response.aiter_raw():
            break
        response.cycle = response  # so that it is not freed at once

    async def main():
        queue = a_queue()
        transport = library.MockTransport(
            lambda _: library.Response(
                200, headers={"content-type": "text/event-stream"}, stream=Body()
            )
        )
        async with (
            queue,
            llm.client(
                queue, llm.compatible, library=library.__name__, transport=transport
            ) as client,
        ):
            await left_early(client)
            gc.collect()
            await asyncio.sleep(1)
            assert queue.stats.costs == {"calls": 1, "tokens": 9}
            assert queue.running == 0

    run_virtual(main)


def answering(library, seen=None, **response):
    """Return a transport that answers every request alike, and notes it."""

    def answer(request):
        if seen is not None:
            seen.append(request)
        return library.Response(200, **(response or {"json": COMPLETION}))

    return library.MockTransport(answer)


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda one: one.__name__)
def test_openai_with_either_library(library, run_virtual):
    """An SDK that takes both is paced through both; the usage settles the call."""

    async def main():
        queue = a_queue()
        transport = answering(library)
        http_client = llm.client(queue, llm.groq, library=library.__name__, transport=transport)
        assert isinstance(http_client, library.AsyncClient)
        async with queue, openai.AsyncOpenAI(api_key="k", http_client=http_client) as client:
            await client.chat.completions.create(model="m", messages=QUESTION, max_tokens=99)
            assert queue.stats.costs == {"calls": 1, "tokens": 52}

    run_virtual(main)


@pytest.mark.real
async def test_client_that_blocks(blockbuster):
    """The same from a thread, with a queue of its own."""
    blockbuster.deactivate()  # the client's thread is not the loop's
    queue = a_queue()
    http_client = llm.sync_client(queue, llm.groq, transport=answering(httpx2))

    def ask():
        with openai.OpenAI(api_key="k", http_client=http_client) as client:
            client.chat.completions.create(model="m", messages=QUESTION, max_tokens=99)

    await asyncio.to_thread(ask)
    async with asyncio.timeout(60):  # it is settled in the queue's thread, soon
        while queue.stats.costs != {"calls": 1, "tokens": 52}:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("encoding", ["gzip", None])
def test_compressed_answers_settle(encoding, run_virtual):
    """The answer is read as it came over the wire, and the caller gets it decoded."""
    body = json.dumps(COMPLETION).encode()
    headers = {"content-type": "application/json"}
    if encoding is not None:
        body, headers = gzip.compress(body), {**headers, "content-encoding": encoding}

    async def main():
        queue = a_queue()
        transport = answering(httpx2, content=body, headers=headers)
        async with queue, llm.client(queue, llm.compatible, transport=transport) as client:
            asked = {"model": "m", "messages": QUESTION}
            response = await client.post("https://a.example/v1/chat/completions", json=asked)
            assert response.json() == COMPLETION
            assert queue.stats.costs == {"calls": 1, "tokens": 52}

    run_virtual(main)


def test_configured_tokens_without_learning(run_virtual):
    """A limit of tokens alone paces; what the profile counts besides is only added up."""

    async def main():
        lanes = {"m": "600 output_tokens/min burst 600", "*": ()}
        message = {"usage": {"input_tokens": 9, "output_tokens": 300}}
        transport = answering(httpx2, json=message)
        async with (
            ApiQueue(lanes=lanes) as queue,
            llm.client(queue, llm.anthropic, learn=False, transport=transport) as client,
        ):
            asked = {"model": "m", "messages": QUESTION, "max_tokens": 600}
            for _ in range(2):
                await client.post("https://a.example/v1/messages", json=asked)
            # The second had to wait for the 300 that the first has used.
            assert asyncio.get_running_loop().time() == pytest.approx(30)
            assert queue.stats.costs == {"calls": 2, "input_tokens": 18, "output_tokens": 600}

    run_virtual(main)


def test_profile_with_a_ramp(run_virtual, caplog):
    """What is learnt begins slowly; a limit that is too small for the ramp is learnt without.

    The log says so once.
    """

    async def main():
        headers = {"x-ratelimit-limit-requests": "5", "x-ratelimit-limit-tokens": "6000"}
        transport = answering(httpx2, json=COMPLETION, headers=headers)
        profile = llm.compatible.with_(ramp=Ramp(2, per=60), periods={"calls": 60, "tokens": 60})
        async with (
            ApiQueue(lanes={"*": ()}) as queue,
            llm.client(queue, profile, transport=transport) as client,
        ):
            asked = {"model": "m", "messages": QUESTION, "max_tokens": 60}
            for _ in range(2):
                await client.post("https://a.example/v1/chat/completions", json=asked)
            learnt = {str(one) for one in queue.stats.learnt["m"]}
            assert learnt == {"5/min burst 5", "6000 tokens/min burst 6000 ramp 2x/min"}

    run_virtual(main)
    (record,) = [one for one in caplog.records if "has no ramp" in one.message]
    assert 'write "ramp 2x per 20min"' in record.message


@pytest.mark.parametrize(
    ("ramp", "error", "remedy"),
    [
        (Ramp(2, 60, Rate(1)), ValueError, r"write Ramp\(factor=2, per=60, floor=None\)"),
        ("2x", TypeError, r"such as Ramp\(2, per=120\)"),
    ],
)
@pytest.mark.parametrize("make", [llm.openai.with_, Learning])
def test_ramps_that_fit_no_learnt_limit(make, ramp, error, remedy):
    """Refused at once: the sizes of the limits are not known yet."""
    with pytest.raises(error, match=remedy):
        make(ramp=ramp)


def test_bodies_that_cannot_be_read(run_virtual):
    """A request whose body is made as it is sent is a call, and goes out as it is."""
    seen = []

    async def main():
        async def body():
            yield b'{"model": "m"}'

        queue = a_queue()
        transport = answering(httpx2, seen)
        async with queue, llm.client(queue, llm.openai, transport=transport) as client:
            await client.post("https://a.example/v1/responses", content=body())
            assert queue.stats.costs["calls"] == 1
            assert queue.stats.released == 1

    run_virtual(main)
    assert len(seen) == 1


@pytest.mark.parametrize("make", [llm.client, llm.sync_client])
def test_unit_of_another_provider_is_refused(make):
    """A queue whose own limit counts what the profile does not would refuse each request."""
    queue = ApiQueue("500/min", "30000 tokens/min", name="claude")
    with pytest.raises(ValueError, match='"30000 tokens/min" counts tokens') as error:
        make(queue, llm.anthropic)
    assert "calls, input_tokens, output_tokens" in str(error.value)
    with pytest.raises(ValueError, match="counts token,"):
        make(ApiQueue("30000 token/min"), llm.openai)
    make(queue, llm.openai)
    make(ApiQueue("9 at once", lanes={"gpt*": "30000 tokens/min"}), llm.anthropic)
