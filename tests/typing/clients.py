"""What type checkers make of the integrations of HTTP clients: checked by mypy, never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import aiohttp
import httpx
import httpx2
import requests

from aioapiqueue import ApiQueue, ApiQueueError, LimitExceeded
from aioapiqueue.integrations import httpx as for_httpx
from aioapiqueue.integrations import httpx2 as for_httpx2
from aioapiqueue.integrations import llm
from aioapiqueue.integrations.aiohttp import RateLimitedMiddleware
from aioapiqueue.integrations.http import Advice, Learning, Quota, read_advice
from aioapiqueue.integrations.requests import RateLimitedAdapter
from aioapiqueue.threads import blocking

if TYPE_CHECKING:
    from collections.abc import Mapping

queue = ApiQueue("10/s", "30000 tokens/min", lanes={"*": ()})


def tokens(request: httpx.Request) -> dict[str, float]:
    """Find the cost of a request."""
    return {"tokens": len(request.content) / 4}


def used(request: httpx.Request, response: httpx.Response, usage: object) -> dict[str, float]:
    """Find the true cost of a call."""
    return {"tokens": len(request.url.path) + response.status_code + (usage is None)}


def advise(response: httpx.Response) -> Advice | None:
    """Read what an answer asks for."""
    if response.status_code == httpx.codes.OK:
        return None
    return Advice(throttled=True, hold=3, remaining=(Quota("tokens", remaining=0, reset=3),))


def of_httpx() -> None:
    """Both transports take every option."""
    one = for_httpx.RateLimitedTransport(
        queue,
        key="route",
        cost=tokens,
        settle=used,
        advise=advise,
        resend=3,
        learn=Learning(units=("tokens",), periods={"tokens": 60}, refills=True),
        max_hold=60,
        timeout=5,
        verify=False,
        http2=True,
        limits=httpx.Limits(max_connections=5),
        proxy="http://proxy:8080",
        trust_env=False,
        retries=1,
    )
    httpx.AsyncClient(transport=one)
    two = for_httpx.SyncRateLimitedTransport(blocking(queue), httpx.HTTPTransport(), learn=True)
    httpx.Client(transport=two)
    httpx.Client(transport=one)  # type: ignore[arg-type]
    httpx.AsyncClient(transport=two)  # type: ignore[arg-type]
    httpx.Client(mounts={"https://": for_httpx.SyncRateLimitedTransport(queue, cost=2)})
    for_httpx.RateLimitedTransport(queue, httpx.MockTransport(lambda _: httpx.Response(200)))
    for_httpx.RateLimitedTransport(blocking(queue))  # type: ignore[arg-type]
    for_httpx.RateLimitedTransport(queue, resends=3)  # type: ignore[call-arg]
    for_httpx.RateLimitedTransport(queue, cost="tokens")  # type: ignore[arg-type]
    for_httpx.SyncRateLimitedTransport(queue, http_2=True)  # type: ignore[call-arg]
    for_httpx.SyncRateLimitedTransport(queue, httpx.AsyncHTTPTransport())  # type: ignore[arg-type]


def of_httpx2() -> None:
    """The same of the other library."""
    one = for_httpx2.RateLimitedTransport(queue, cost={"tokens": 5}, resend=1, http2=True)
    two = for_httpx2.SyncRateLimitedTransport(queue, httpx2.HTTPTransport(), timeout=None)
    httpx2.AsyncClient(transport=one)
    httpx2.Client(transport=two)
    httpx2.Client(transport=one)  # type: ignore[arg-type]
    httpx.Client(transport=two)  # type: ignore[arg-type]
    for_httpx2.RateLimitedTransport(queue, resends=3)  # type: ignore[call-arg]
    for_httpx2.SyncRateLimitedTransport(queue, max_holds=3)  # type: ignore[call-arg]
    for_httpx2.SyncRateLimitedTransport(queue, learn="yes")  # type: ignore[arg-type]


def of_others() -> None:
    """Middlewares and adapters take the options of pacing."""
    middleware = RateLimitedMiddleware(
        queue, key=lambda request: request.url.host, cost=2, resend=3, learn=True, timeout=5
    )
    aiohttp.ClientSession(middlewares=[middleware])
    RateLimitedMiddleware(queue, resends=3)  # type: ignore[call-arg]
    RateLimitedMiddleware(queue, http2=True)  # type: ignore[call-arg]
    adapter = RateLimitedAdapter(blocking(queue), pool_maxsize=50, key="route", max_hold=60)
    requests.Session().mount("https://", adapter)
    RateLimitedAdapter(queue, resends=3)  # type: ignore[call-arg]
    RateLimitedAdapter(queue, settle=5)  # type: ignore[arg-type]


def of_answers() -> None:
    """What answers say."""
    said = read_advice(429, [("Retry-After", "30")], now=0)
    assert_type(said, Advice)
    assert_type(said.hold, float | None)
    assert_type(said.remaining, tuple[Quota, ...])
    said.hold = 3  # type: ignore[misc]
    Quota("tokens", left=3)  # type: ignore[call-arg]
    Advice(holds=3)  # type: ignore[call-arg]
    Learning(unit="tokens")  # type: ignore[call-arg]


def of_llm() -> None:
    """Clients have the class of their library."""
    profile = llm.openai.with_(key={"gpt-4o-20*": "gpt-4o"}, default_output=500)
    assert_type(profile, llm.Profile)
    assert_type(llm.client(queue, profile), httpx2.AsyncClient)
    assert_type(llm.client(queue, profile, library="httpx", resend=3), httpx.AsyncClient)
    assert_type(llm.sync_client(queue, profile, wait_timeout=30), httpx2.Client)
    assert_type(llm.sync_client(blocking(queue), profile, library="httpx"), httpx.Client)
    llm.client(queue, "openai")  # type: ignore[call-overload]
    llm.client(queue, profile, library="aiohttp")  # type: ignore[call-overload]
    llm.client(blocking(queue), profile)  # type: ignore[call-overload]


def usd(request: llm.LLMRequest, usage: Mapping[str, int] | None) -> float | None:
    """Price a call."""
    if usage is None:
        return 0.04 if request.max_output_tokens else None
    return usage["output_tokens"] * 6e-7


def of_prices(error: Exception) -> None:
    """Prices of calls, and their errors."""
    pricing = llm.Pricing(provider="openai", image_tokens={"gpt-4*": 3800})
    assert_type(pricing.provider, str | None)
    endpoints, units = (llm.Endpoint("/chat"),), ("tokens",)
    llm.Profile(name="a", endpoints=endpoints, units=units, prices=usd, max_output=500)
    named: dict[str, str | Mapping[str, float]] = {"mine": "gpt-4o", "m*": {"input": 2.5}}
    llm.Profile(name="a", endpoints=endpoints, units=units, prices=named, pricing=pricing)
    llm.Profile(name="a", endpoints=endpoints, units=units, prices={"mine": "gpt-4o"})
    llm.Profile(
        name="a", endpoints=endpoints, units=units, prices={"mine": {"input": 2, "output": 9.5}}
    )
    assert_type(llm.openai.with_(prices=usd, max_output=500), llm.Profile)
    assert_type(llm.limit_exceeded(error), LimitExceeded | None)
    assert_type(llm.limit_exceeded(error.__cause__), LimitExceeded | None)
    errors: list[ApiQueueError] = [llm.NoPrice("no price")]
    values: list[ValueError] = [llm.NoPrice("no price")]
    assert_type(queue.stats.prices, str)
    llm.limit_exceeded("error")  # type: ignore[arg-type]
    llm.Pricing("openai")  # type: ignore[call-arg]
    llm.Profile(name="a", endpoints=endpoints, units=units, prices=5)  # type: ignore[arg-type]
    llm.Profile(name="a", endpoints=endpoints, units=units, max_output="5")  # type: ignore[arg-type]
    assert len(errors) == len(values)
