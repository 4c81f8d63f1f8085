"""Usage with impossible numbers: a call is charged at least its bill, at most what it reserved.

More output than the request allows is possible: it is charged, up to the most of any model.
"""

from __future__ import annotations

import itertools
import json

import httpx2
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm

pytestmark = pytest.mark.usefixtures("prices")

VALUES = [300, 10**9, 10**9 + 1, -5, "many", 1.5, True, [], float("inf")]
"""300 is more than any true number here."""
ALWAYS_IMPOSSIBLE = [10**9, -5, "many"]
LIMIT = "1000000 usd in all"
TEXT = "x" * 200
CACHED = {"type": "text", "text": TEXT, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
OPENAI = {
    "prompt_tokens": 200,
    "completion_tokens": 60,
    "prompt_tokens_details.cached_tokens": 80,
    "prompt_tokens_details.audio_tokens": 0,
    "completion_tokens_details.audio_tokens": 0,
    "completion_tokens_details.reasoning_tokens": 20,
}
ANTHROPIC = {
    "input_tokens": 100,
    "output_tokens": 60,
    "cache_read_input_tokens": 40,
    "cache_creation_input_tokens": 60,
    "cache_creation.ephemeral_1h_input_tokens": 50,
    "cache_creation.ephemeral_5m_input_tokens": 10,
}
CASES = {
    # 120 at 2.50 USD per million, 80 at 1.25, 60 at 10
    "openai": (llm.openai, "/v1/chat/completions", "gpt-4o", TEXT, OPENAI, 0.001),
    # 100 at 1 USD per million, 40 at 0.1, 10 at 1.25, 50 at 2, 60 at 5
    "anthropic": (
        llm.anthropic,
        "/v1/messages",
        "claude-haiku-4-5",
        [CACHED],
        ANTHROPIC,
        0.0005165,
    ),
}


def lies_about(usage):
    """Yield usage in which one number is impossible, or two are."""
    for field, value in itertools.product(usage, VALUES):
        yield {**usage, field: value}
    for pair in itertools.combinations(usage, 2):
        for values in itertools.product(ALWAYS_IMPOSSIBLE, repeat=2):
            yield usage | dict(zip(pair, values, strict=True))


def nested(usage):
    """Return a usage with its details in objects of their own."""
    found = {}
    for field, value in usage.items():
        *outer, name = field.split(".")
        place = found.setdefault(outer[0], {}) if outer else found
        place[name] = value
    return found


def most_above(stated, price):
    """Return the most that a call may be charged for output above the request's maximum."""
    output = stated.get("completion_tokens", stated.get("output_tokens"))
    is_possible = type(output) is int and output > 100
    return min(output, 200_000) * price / 1e6 if is_possible else 0


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("streams", [False, True])
async def test_charged_between_bill_and_reservation(name, streams):
    """Whichever numbers are impossible; true ones are charged to the billionth."""
    profile, path, model, content, true, bill = CASES[name]
    message = {"role": "user", "content": content}
    body = {"model": model, "messages": [message], "max_tokens": 100}
    stated = None

    def answer(_):
        usage = {} if stated is None else {"usage": nested(stated)}
        data = json.dumps(usage).encode()
        if streams:
            return httpx2.Response(
                200, headers={"content-type": "text/event-stream"}, content=b"data: %b\n\n" % data
            )
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=data)

    queue = ApiQueue(LIMIT)
    async with llm.client(queue, profile, transport=httpx2.MockTransport(answer)) as client:

        async def charge():
            before = queue.stats.budgets[LIMIT].spent
            await client.post(f"http://x{path}", json=body)
            return queue.stats.budgets[LIMIT].spent - before

        reserved = await charge()
        assert reserved < 10 * bill
        stated = true
        assert await charge() == pytest.approx(bill, abs=1e-9)
        for stated in lies_about(true):
            above = most_above(stated, 10 if name == "openai" else 5)
            assert bill - 1e-9 < await charge() < reserved + above + 1e-9, stated
    assert queue.stats.malformed > 0
    await queue.aclose()
