"""`prices=` and `max_output=` of a profile: where the prices of a model come from."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import httpx2
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm
from tests.helpers.priced_calls import QUESTION, PricedCalls, chat_answer, per_million

pytestmark = pytest.mark.usefixtures("price_package")

TABLE = {"input": 3, "output": 7}
OWN = {"prices": {"*": {"input": 1, "output": 1}}}


@pytest.mark.parametrize(
    ("prices", "model", "expected"),
    [
        (None, "gpt-4o", 20 * 2.5 + 5 * 10),
        ({"mine": "gpt-4o"}, "mine", 20 * 2.5 + 5 * 10),
        ({"mine-*": "gpt-4o"}, "mine-2", 20 * 2.5 + 5 * 10),
        ({"mine-*": "gpt-4o", "mine-b*": TABLE}, "mine-b", 20 * 3 + 5 * 7),
        ({"mine-b": TABLE, "mine-b*": "gpt-4o"}, "mine-b", 20 * 3 + 5 * 7),
        ({"gpt-4o": TABLE}, "gpt-4o", 20 * 3 + 5 * 7),
        ({"gpt-4o-mini": TABLE}, "gpt-4o", 20 * 2.5 + 5 * 10),
        (lambda _, usage: 50e-6 if usage is None else 41e-6, "mine", 41),
    ],
)
async def test_prices_by_model(prices, model, expected):
    """A name, a prefix, a table, a function; the others keep the prices of the package."""
    async with PricedCalls(llm.openai.with_(prices=prices), chat_answer(20, 5)) as calls:
        await calls.chat(model=model, max_completion_tokens=100)
        assert calls.spent == per_million(expected)
    assert calls.reserved[0] > calls.spent


async def test_table_has_all_kinds():
    """Each kind of token has its price, or that of the kind it belongs to."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 10, "image_tokens": 5},
        "completion_tokens_details": {"audio_tokens": 20, "reasoning_tokens": 12},
    }
    kinds = {"cache_read": 1, "input_audio": 30, "output_audio": 60}
    profile = llm.openai.with_(prices={"m": {"input": 2, "output": 8, **kinds}})
    async with PricedCalls(profile, chat_answer(usage=usage)) as calls:
        await calls.chat(model="m", max_completion_tokens=100)
        # Images and reasoning have no price of their own here.
        read = (100 - 40 - 10) * 2 + 40 * 1 + 10 * 30
        assert calls.spent == per_million(read + (50 - 20) * 8 + 20 * 60)


@pytest.mark.parametrize(
    ("prices", "error", "words"),
    [
        (5, TypeError, r'prices must be a function .* or a mapping such as \{"my-model": .* not 5'),
        (["gpt-4o"], TypeError, "prices must be a function"),
        ("gpt-4o", TypeError, 'or {"my-deployment": "gpt-4o"}, not \'gpt-4o\''),
        ({"m": 2.5}, TypeError, r"prices\['m'\] must be the name of a model or a table .* not 2.5"),
        ({"m": None}, TypeError, r"prices\['m'\] must be"),
        ({"m": {"output": 1}}, ValueError, r"prices\['m'\] needs a price for \"input\", in USD"),
        ({"m": {"input": -1}}, ValueError, r"prices\['m'\]\['input'\].* -1"),
        ({"m": {"input": float("inf")}}, ValueError, r"prices\['m'\]\['input'\]"),
        ({"m": {"input": "2.5"}}, TypeError, r"prices\['m'\]\['input'\].*'2.5'"),
        (
            {"m": {"input": 1, "outputs": 2}},
            TypeError,
            r"prices\['m'\] has no option outputs=: did you mean output=\?",
        ),
    ],
)
def test_wrong_prices_are_refused(prices, error, words):
    """As the profile is made, with the key that is wrong and what to write."""
    with pytest.raises(error, match=words):
        llm.openai.with_(prices=prices)


async def later(request, usage):
    """Price nothing: a coroutine function is refused."""


def test_wrong_functions_are_refused():
    """A coroutine function would return no amount."""
    with pytest.raises(TypeError, match="prices must be a plain function, not the coroutine"):
        llm.openai.with_(prices=later)


@pytest.mark.parametrize("most", [0, -1, 1.5, "100", True])
def test_wrong_maximum_is_refused(most):
    """It is a whole number, at least 1."""
    with pytest.raises((TypeError, ValueError), match=r"max_output.*" + re.escape(repr(most))):
        llm.openai.with_(max_output=most)


CHAT = "/chat/completions"
CONTENTS = [{"role": "user", "parts": [{"text": "Why?"}]}]
GEMINI = "/models/gemini-2.0-flash:generateContent"
CONFIG = {"temperature": 0}


@pytest.mark.parametrize(
    ("profile", "path", "body", "added"),
    [
        (llm.openai, CHAT, {"messages": QUESTION}, {"max_completion_tokens": 50}),
        (llm.azure, CHAT, {"messages": QUESTION}, {"max_completion_tokens": 50}),
        (llm.compatible, CHAT, {"messages": QUESTION}, {"max_tokens": 50}),
        (llm.groq, CHAT, {"messages": QUESTION}, {"max_tokens": 50}),
        (llm.openai, "/responses", {"input": "Why?"}, {"max_output_tokens": 50}),
        (llm.openai, "/completions", {"prompt": "Why?"}, {"max_tokens": 50}),
        (llm.gemini, GEMINI, {"contents": CONTENTS}, {"generationConfig": {"maxOutputTokens": 50}}),
        (
            llm.gemini,
            GEMINI,
            {"contents": CONTENTS, "generationConfig": CONFIG},
            {"generationConfig": {"temperature": 0, "maxOutputTokens": 50}},
        ),
        (llm.anthropic, "/messages", {"messages": QUESTION}, {"max_tokens": 50}),
        # These have a maximum, or no output that a maximum is for.
        (llm.openai, CHAT, {"messages": QUESTION, "max_completion_tokens": 9}, {}),
        (llm.openai, CHAT, {"messages": QUESTION, "max_tokens": 9}, {}),
        (llm.compatible, CHAT, {"messages": QUESTION, "max_completion_tokens": 9}, {}),
        (llm.openai, "/embeddings", {"input": "Why?"}, {}),
        (llm.openai, "/moderations", {"input": "Why?"}, {}),
        (
            llm.gemini,
            GEMINI,
            {"contents": CONTENTS, "generation_config": {"max_output_tokens": 9}},
            {},
        ),
    ],
)
async def test_maximum_is_set(profile, path, body, added):
    """Where the request has none, in the field that its endpoint has; the rest stays as it is."""
    profile = profile.with_(max_output=50, **OWN)
    async with PricedCalls(profile) as calls:
        response = await calls.post(path, model="m", **body)
        assert response.status_code == 200
    assert calls.bodies == [{"model": "m", **body, **added}]
    request = calls.requests[0]
    assert int(request.headers["content-length"]) == len(request.content)


@pytest.mark.parametrize("limits", [(), ("100/s",)])
async def test_maximum_needs_no_budget(limits):
    """It is set in requests of any queue."""
    async with PricedCalls(llm.openai.with_(max_output=50), limits=limits) as calls:
        await calls.chat(messages=[{"role": "user", "content": "Où? 🙂"}])
    assert calls.bodies[0]["max_completion_tokens"] == 50
    assert calls.bodies[0]["messages"][0]["content"] == "Où? 🙂"


async def test_maximum_is_what_is_reserved():
    """The output at the maximum, whether the request or the profile set it."""
    profile = llm.openai.with_(prices={"*": {"input": 0, "output": 10}}, max_output=50)
    async with PricedCalls(profile) as calls:
        await calls.chat()
        await calls.chat(max_completion_tokens=70)
        await calls.chat(n=3)
    assert calls.reserved == [per_million(500), per_million(700), per_million(1500)]


@pytest.mark.real
def test_maximum_of_sync_clients():
    """They set it, too."""
    seen = []

    def answer(request):
        seen.append(json.loads(request.content)["max_completion_tokens"])
        return httpx2.Response(200, json=chat_answer())

    profile = llm.openai.with_(max_output=50)
    transport = httpx2.MockTransport(answer)
    with llm.sync_client(ApiQueue("100/s"), profile, transport=transport) as client:
        body = {"model": "gpt-4o", "messages": QUESTION}
        client.post("https://api.openai.com/v1/chat/completions", json=body)
    assert seen == [50]


WITHOUT_PACKAGE = """
import json, sys, time
sys.modules["genai_prices"] = None
import httpx2
from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm

answer = json.loads(sys.argv[1])
found = []
for prices in (None, {"gpt-4o": {"input": 3, "output": 7}}, lambda request, usage: 1e-4):
    queue = ApiQueue("5 usd in all", lanes={"*": ()})
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=answer))
    profile = llm.openai.with_(prices=prices)
    with llm.sync_client(queue, profile, transport=transport) as client:
        body = {"model": "gpt-4o", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}
        try:
            client.post("https://api.openai.com/v1/chat/completions", json=body)
        except ImportError as error:
            found.append(str(error))
        else:
            # The queue's thread settles the call after its response.
            while queue.stats.budgets["5 usd in all"].reserved:
                time.sleep(0.001)
            found.append(queue.stats.costs["usd"])
print(json.dumps(found))
"""


def run(program, *args):
    """Return what a program prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", program, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.real
def test_package_is_not_installed():
    """A price needs it unless the user gives one; the error names the extra."""
    message, by_table, by_function = run(WITHOUT_PACKAGE, json.dumps(chat_answer(20, 5)))
    assert 'pip install "aioapiqueue[prices]"' in message
    assert "prices={...}" in message
    assert by_table == per_million(20 * 3 + 5 * 7)
    assert by_function == per_million(100)


WITHOUT_BUDGET = """
import json, sys
import httpx2
from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm

queue = ApiQueue("1000/s", "100000 tokens/s", lanes={"*": ()})
transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=json.loads(sys.argv[1])))
with llm.sync_client(queue, llm.openai, transport=transport) as client:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "?"}]}
    client.post("https://api.openai.com/v1/chat/completions", json=body)
print(json.dumps([name for name in sys.modules if name.startswith("genai_prices")]))
"""


@pytest.mark.real
def test_package_stays_unimported():
    """A client of a queue without a limit in USD does not import it."""
    assert run(WITHOUT_BUDGET, json.dumps(chat_answer())) == []
