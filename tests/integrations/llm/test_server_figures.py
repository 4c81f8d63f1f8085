"""What the local LLM servers tell: headers and the bodies of refusals, as the SDKs see them."""

from __future__ import annotations

import re
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from tests.helpers.lazily import lazily
from tests.helpers.llm_sdks import SDKS
from tests.helpers.llm_servers import prompt
from tests.helpers.llm_servers.openai import duration

# The servers listen at Unix sockets, in virtual time.
pytestmark = [pytest.mark.posix, pytest.mark.usefixtures("sdks")]

anthropic, openai, errors = lazily("anthropic"), lazily("openai"), lazily("google.genai.errors")


def use(name, limits, *, retries=0, **options):
    """Make a server of that provider, and what connects the SDK with it."""
    sdk = SDKS[name]
    return sdk.server(limits, **options), lambda server: sdk(server, retries=retries)


async def raw_headers(one, text, max_tokens):
    """Return the headers of an answer."""
    made = {"model": "m", "messages": [{"role": "user", "content": text}]}
    resource = getattr(one.client, "chat", None)
    create = resource.completions if resource else one.client.messages
    found = await create.with_raw_response.create(**made, max_tokens=max_tokens)
    return found.headers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.12, "120ms"),
        (0.0001, "1ms"),
        (0.9999, "1s"),
        (59.6, "59.6s"),
        (360, "6m0s"),
        (179.56, "2m59.56s"),
        (3600, "1h0m0s"),
        (86_399.5, "23h59m59.5s"),
    ],
)
def test_duration(seconds, text):
    """Resets are written as OpenAI does, rounded up to a millisecond."""
    assert duration(seconds) == text


async def test_openai_headers():
    """Limit, remaining and reset of requests and tokens; the whole maximum is taken."""
    limits = {"calls": 50, "tokens": 1000}
    serving, connect = use("openai", limits, period=360, algorithm="window")
    async with serving as server, connect(server) as one:
        headers = await raw_headers(one, prompt(40, out=10), 100)
        names = [
            f"x-ratelimit-{what}-{of}"
            for of in ("requests", "tokens")
            for what in ("limit", "remaining")
        ]
        assert [headers[name] for name in names] == ["50", "49", "1000", "860"]
        for name in ("requests", "tokens"):
            assert re.fullmatch(r"5m\d+(\.\d+)?s|6m0s", headers[f"x-ratelimit-reset-{name}"])


async def test_openai_embeddings():
    """Embeddings are decoded by the SDK; the input counts."""
    serving, connect = use("openai", {"calls": 50, "tokens": 1000}, algorithm="window")
    async with serving as server, connect(server) as one:
        found = await one.client.embeddings.create(model="e", input=["abcd", "efghi"])
        assert [item.embedding for item in found.data] == [[1.0, 0.0, 0.0, 0.0]] * 2
        assert found.usage.total_tokens == 3
        plain = await one.client.embeddings.create(model="e", input="abcd", encoding_format="float")
        assert plain.data[0].embedding == [1.0, 0.0, 0.0, 0.0]
        assert server.quotas("e").remaining(server.now(), "tokens") == 1000 - 3 - 1


async def test_openai_refusal():
    """The body says which limit, and the headers when."""
    serving, connect = use("openai", {"calls": 1, "tokens": 500}, period=60)
    async with serving as server, connect(server) as one:
        await one.ask(prompt(10, out=1))
        with pytest.raises(openai.RateLimitError) as caught:
            await one.ask(prompt(10, out=1))
        assert (caught.value.type, caught.value.code) == ("requests", "rate_limit_exceeded")
        assert "requests per min (RPM): Limit 1, Used 1, Requested 1" in caught.value.message
        headers = caught.value.response.headers
        assert int(headers["retry-after"]) in range(56, 61)
        assert 55_000 < int(headers["retry-after-ms"]) <= 60_000
        assert headers["x-ratelimit-remaining-requests"] == "0"


async def test_openai_too_large():
    """What never fits is refused without a time; the switch leaves it out of all refusals."""
    serving, connect = use("openai", {"tokens": 100}, retry_after=False)
    async with serving as server, connect(server) as one:
        with pytest.raises(openai.RateLimitError, match="Request too large for m") as caught:
            await one.ask(prompt(50, out=1), 51)
        assert (caught.value.type, caught.value.code) == ("tokens", "rate_limit_exceeded")
        await one.ask(prompt(90, out=1))
        with pytest.raises(
            openai.RateLimitError, match=r"Used \d+, .* Please try again in"
        ) as caught:
            await one.ask(prompt(90, out=1))
        assert not {"retry-after", "retry-after-ms"} & set(caught.value.response.headers)


@pytest.mark.parametrize(("should_retry", "attempts"), [(False, 1), (None, 2)])
async def test_openai_insufficient_quota(should_retry, attempts):
    """The SDK tries again, unless `x-should-retry` says that it should not."""
    serving, connect = use("openai", {"calls": 9}, retries=1)
    async with serving as server, connect(server) as one:
        server.fail_next(*[server.insufficient_quota(should_retry=should_retry)] * attempts)
        with pytest.raises(openai.RateLimitError) as caught:
            await one.ask(prompt(10, out=1))
        assert caught.value.code == "insufficient_quota"
        assert [arrival.fault for arrival in server.log] == [429] * attempts
        assert server.refusals == []
        assert server.quotas().remaining(server.now(), "calls") == 9


async def test_openai_counts_refused():
    """Where refused requests count, they use up the calls."""
    limits = {"calls": 10, "tokens": 100}
    serving, connect = use("openai", limits, counts_refused=True, algorithm="window")
    async with serving as server, connect(server) as one:
        with pytest.raises(openai.RateLimitError):
            await one.ask(prompt(200, out=1))
        assert server.quotas().remaining(server.now(), "calls") == 9
        assert server.quotas().remaining(server.now(), "tokens") == 100


async def test_azure_figures():
    """Resets are whole seconds, what is unknown is -1, -1 and 0, the code is a number."""
    limits = {"calls": 2, "tokens": 100}
    serving, connect = use("azure", limits, unknown=["tokens"], algorithm="window")
    async with serving as server, connect(server) as one:
        headers = await raw_headers(one, prompt(10, out=1), 10)
        told = {name: headers[name] for name in headers if name.startswith("x-ratelimit")}
        assert told == {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": "1",
            "x-ratelimit-reset-requests": "60",
            "x-ratelimit-limit-tokens": "-1",
            "x-ratelimit-remaining-tokens": "-1",
            "x-ratelimit-reset-tokens": "0",
        }
        with pytest.raises(openai.RateLimitError) as caught:
            await one.ask(prompt(10, out=1), 91)
        assert caught.value.code == "429"


async def test_groq_figures():
    """Requests are those of the day; what was not used of the maximum is back in the headers."""
    limits = {"calls": 9, "calls_per_day": 1000, "tokens": 500}
    serving, connect = use("groq", limits, algorithm="window")
    async with serving as server, connect(server) as one:
        headers = await raw_headers(one, prompt(40, out=10), 300)
        assert headers["x-ratelimit-remaining-requests"] == "999"
        assert headers["x-ratelimit-reset-requests"].startswith(("23h59m", "24h0m0s"))
        assert headers["x-ratelimit-remaining-tokens"] == "450"
        assert server.log[0].costs["tokens"] == 340
        assert server.log[0].back == {"tokens": 290}


async def test_anthropic_headers():
    """Input and output apart and together; what was not made is back when the answer is sent."""
    limits = {"calls": 50, "input_tokens": 40_000, "output_tokens": 8_000}
    serving, connect = use("anthropic", limits, algorithm="window")
    async with serving as server, connect(server) as one:
        headers = await raw_headers(one, prompt(1_400, out=100), 4_000)
        until = datetime.now(UTC) + timedelta(seconds=60)
        expected = {
            "requests": ("50", "49"),
            "tokens": ("48000", "46500"),
            "input-tokens": ("40000", "38600"),
            "output-tokens": ("8000", "7900"),
        }
        for name, figures in expected.items():
            start = f"anthropic-ratelimit-{name}"
            assert (headers[f"{start}-limit"], headers[f"{start}-remaining"]) == figures
            reset = datetime.fromisoformat(headers[f"{start}-reset"])
            assert timedelta() <= until - reset < timedelta(seconds=5)
        assert server.log[0].back == {"output_tokens": 3_900}


async def test_anthropic_rounded_headers():
    """Token figures are to the nearest 1,000 and resets to whole seconds, where wanted."""
    limits = {"calls": 50, "input_tokens": 40_000, "output_tokens": 8_000}
    rounding = {"nearest": 1000, "whole_seconds": True}
    serving, connect = use("anthropic", limits, algorithm="window", **rounding)
    async with serving as server, connect(server) as one:
        headers = await raw_headers(one, prompt(1_400, out=600), 4_000)
        figures = [
            headers[f"anthropic-ratelimit-{name}-remaining"]
            for name in ("requests", "tokens", "input-tokens", "output-tokens")
        ]
        assert figures == ["49", "46000", "39000", "7000"]
        reset = headers["anthropic-ratelimit-requests-reset"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reset)


async def test_anthropic_streams_usage():
    """The usage of the input comes with the first event, without what was cached."""
    serving, connect = use("anthropic", {"input_tokens": 1000}, algorithm="window")
    async with serving as server, connect(server) as one:
        text = prompt(100, out=10, cached=70)
        messages = [{"role": "user", "content": text}]
        events = [
            event
            async for event in await one.client.messages.create(
                model="m", messages=messages, max_tokens=20, stream=True
            )
        ]
        usage = events[0].message.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens) == (30, 70)
        assert [event.type for event in events if event.type != "content_block_delta"] == [
            *("message_start", "content_block_start"),
            *("content_block_stop", "message_delta", "message_stop"),
        ]
        assert events[-2].usage.output_tokens == 10
        assert server.quotas().remaining(server.now(), "input_tokens") == 970


async def test_anthropic_reserves_output():
    """While a call runs its maximum counts; then what it has made."""
    serving, connect = use("anthropic", {"output_tokens": 500}, algorithm="window")
    async with serving as server, connect(server) as one:
        async with aclosing(one.stream(prompt(20, out=100, seconds=50), 300)) as events:
            await anext(events)
            assert server.quotas().remaining(server.now(), "output_tokens") == 200
            with pytest.raises(anthropic.RateLimitError):
                await one.ask(prompt(20, out=50), 300)
        await server.idle()
        assert server.quotas().remaining(server.now(), "output_tokens") == 480


async def test_anthropic_counts_actual_output():
    """Where output is counted as it is made, the maximum does not matter."""
    limits = {"output_tokens": 500}
    serving, connect = use("anthropic", limits, output="actual", algorithm="window")
    async with serving as server, connect(server) as one:
        async with aclosing(one.stream(prompt(20, out=100, seconds=50), 300)) as events:
            await anext(events)
            assert server.quotas().remaining(server.now(), "output_tokens") == 480
            await one.ask(prompt(20, out=50), 1000)
        await server.idle()
        assert server.quotas().remaining(server.now(), "output_tokens") == 430
        assert [arrival.back for arrival in server.log] == [{}, {}]


async def test_anthropic_refusal():
    """The body names the limit, the header whole seconds."""
    serving, connect = use("anthropic", {"input_tokens": 600}, period=60)
    async with serving as server, connect(server) as one:
        await one.ask(prompt(600, out=1), 10)
        with pytest.raises(anthropic.RateLimitError, match="600 input tokens per min") as caught:
            await one.ask(prompt(100, out=1), 10)
        assert caught.value.type == "rate_limit_error"
        assert 5 <= int(caught.value.response.headers["retry-after"]) <= 10


@pytest.mark.parametrize("retry_after", [None, 7])
async def test_anthropic_overloaded(retry_after):
    """A 529 is not counted, and may say when to try again."""
    serving, connect = use("anthropic", {"calls": 5})
    async with serving as server, connect(server) as one:
        server.fail_next(server.overloaded(retry_after=retry_after))
        with pytest.raises(anthropic.OverloadedError) as caught:
            await one.ask(prompt(10, out=1), 10)
        told = caught.value.response.headers.get("retry-after")
        assert told == (retry_after and str(retry_after))
        assert server.quotas().remaining(server.now(), "calls") == 5


@pytest.mark.parametrize(
    ("unit", "name", "metric"),
    [
        ("calls", "PerMinute", "free_tier_requests"),
        ("calls_per_day", "PerDay", "free_tier_requests"),
        ("input_tokens", "PerMinute", "free_tier_input_token_count"),
    ],
)
async def test_gemini_refusal(unit, name, metric):
    """Only the body tells which quota it is, its value, and when to try again."""
    limits = {unit: 1 if unit != "input_tokens" else 20}
    serving, connect = use("gemini", limits)
    async with serving as server, connect(server) as one:
        await one.ask(prompt(20, out=1), 10)
        with pytest.raises(errors.ClientError, match="RESOURCE_EXHAUSTED") as caught:
            await one.ask(prompt(20, out=1), 10)
        failure, retry = caught.value.details["error"]["details"]
        [violation] = failure["violations"]
        assert name in violation["quotaId"]
        assert violation["quotaMetric"].endswith(metric)
        assert violation["quotaValue"] == str(limits[unit])
        period = server.quotas().periods[unit]
        assert period - 5 < float(retry["retryDelay"].removesuffix("s")) <= period
        assert not [header for header in caught.value.response.headers if "retry" in header]


async def test_gemini_without_a_delay():
    """The delay can be left out."""
    serving, connect = use("gemini", {"calls": 1}, retry_delay=False)
    async with serving as server, connect(server) as one:
        await one.ask(prompt(20, out=1))
        with pytest.raises(errors.ClientError) as caught:
            await one.ask(prompt(20, out=1))
        kinds = [detail["@type"] for detail in caught.value.details["error"]["details"]]
        assert kinds == ["type.googleapis.com/google.rpc.QuotaFailure"]


async def test_gemini_usage_adds_up():
    """Each chunk of a stream has the usage so far."""
    serving, connect = use("gemini", {"calls": 9})
    async with serving as server, connect(server) as one:
        usages = [usage async for _, usage in one.stream(prompt(20, out=100))]
        assert usages == [(20, made) for made in (20, 40, 60, 80, 100, 100)]
