"""What requests cost, and come under, as each provider counts: read from their JSON alone."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioapiqueue.integrations import llm
from tests.helpers import introspect

MalformedUsageError = introspect.malformed_usage()

TEXT = "x" * 400  # 100 tokens
MESSAGES = [{"role": "user", "content": TEXT}]  # and 4 for the message
PROFILES = [
    llm.openai,
    llm.azure,
    llm.compatible,
    llm.groq,
    llm.anthropic,
    llm.gemini,
    llm.bedrock,
]


async def later(_):
    """Return, of a request or of a text, nothing that can be used."""


def read(profile, path, body, **more):
    """Return a request with this body, as a profile reads it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return profile.read(host="api.example.com", path=path, content=content, **more)


def cost(profile, path, body, **more):
    """Return what it costs."""
    return dict(profile.cost_of(read(profile, path, body, **more)))


def chat(**more):
    """Return the body of a chat completion."""
    return {"model": "m", "messages": MESSAGES, **more}


@pytest.mark.parametrize(
    ("profile", "path", "body", "expected"),
    [
        (llm.openai, "/v1/chat/completions", chat(max_tokens=50), {"tokens": 154}),
        (llm.openai, "/v1/chat/completions", chat(max_completion_tokens=50, n=3), {"tokens": 254}),
        (llm.openai, "/v1/chat/completions", chat(), {"tokens": 120}),
        (
            llm.openai,
            "/v1/responses",
            {"model": "o3", "instructions": TEXT, "input": TEXT, "max_output_tokens": 9},
            {"tokens": 209},
        ),
        (
            llm.openai,
            "/v1/completions",
            {"model": "a", "prompt": TEXT, "max_tokens": 5, "best_of": 4},
            {"tokens": 120},
        ),
        (
            llm.openai,
            "/v1/completions",
            {"model": "a", "prompt": [TEXT] * 3, "max_tokens": 5, "n": 2},
            {"tokens": 330},
        ),
        (llm.openai, "/v1/embeddings", {"model": "e", "input": [TEXT, TEXT]}, {"tokens": 200}),
        (llm.openai, "/v1/embeddings", {"model": "e", "input": [[1, 2], [3]]}, {"tokens": 3}),
        (llm.openai, "/v1/images/generations", {"model": "i", "prompt": TEXT}, {"tokens": 0}),
        (llm.openai, "/v1/batches", {"endpoint": "/v1/responses"}, {"tokens": 0}),
        (llm.azure, "/openai/deployments/d/chat/completions", chat(), {"tokens": 120}),
        (llm.groq, "/openai/v1/chat/completions", chat(), {"tokens": 104 + 512}),
        (llm.compatible, "/v1/chat/completions", chat(max_tokens=50), {"tokens": 154}),
        (
            llm.anthropic,
            "/v1/messages",
            {"model": "claude", "system": TEXT, "messages": MESSAGES, "max_tokens": 50},
            {"input_tokens": 204, "output_tokens": 50},
        ),
        (
            llm.anthropic,
            "/v1/messages/count_tokens",
            {"model": "claude", "messages": MESSAGES},
            {"input_tokens": 0, "output_tokens": 0},
        ),
        (
            llm.gemini,
            "/v1beta/models/gemini-2.5-flash:generateContent",
            {"contents": [{"role": "user", "parts": [{"text": TEXT}]}]},
            {"input_tokens": 104},
        ),
        (
            llm.gemini,
            "/v1beta/models/e:embedContent",
            {"content": {"parts": [{"text": TEXT}]}},
            {"input_tokens": 102},
        ),
        (llm.gemini, "/v1/models/e:batchEmbedContents", {"requests": []}, {"input_tokens": 0}),
        (
            llm.gemini,
            "/v1/models/i:predict",
            {"instances": [{"prompt": TEXT}]},
            {"input_tokens": 0},
        ),
    ],
)
def test_costs_of_each_endpoint(profile, path, body, expected):
    """A call, and the tokens of its prompt and of the answer that it allows."""
    assert cost(profile, path, body) == {"calls": 1, **expected}


@pytest.mark.parametrize(
    ("profile", "path", "body", "key"),
    [
        (llm.openai, "/v1/chat/completions", chat(), "m"),
        (llm.openai, "/v1/images/generations", {"model": "i"}, "i"),
        (llm.openai, "/v1/batches", {}, "api.example.com"),
        (llm.azure, "/openai/deployments/mine/chat/completions", chat(), "mine"),
        (llm.azure, "/openai/v1/responses", {"model": "mine", "input": "x"}, "mine"),
        (llm.gemini, "/v1beta/models/g:streamGenerateContent", {}, "g"),
        (llm.gemini, "/v1/projects/p/locations/l/publishers/google/models/g:predict", {}, "g"),
        (llm.anthropic, "/v1/messages/batches", {"requests": []}, "api.example.com"),
        (llm.anthropic, "/v1/messages", {"model": 7, "max_tokens": 1}, "7"),
    ],
)
def test_key_is_the_model(profile, path, body, key):
    """From the body or the path; the host, where no model is named."""
    assert profile.key_of(read(profile, path, body)) == key


def test_keys_of_families_and_users():
    """A mapping with patterns, and a function that sees the headers."""
    families = {"gpt-4o-20*": "gpt-4o", "gpt-4*": "old", "gpt-4-turbo": "turbo"}
    adapted = llm.openai.with_(key=families)

    def key(model, profile=adapted, **more):
        return profile.key_of(read(profile, "/chat/completions", {"model": model}, **more))

    assert key("gpt-4o-2024-08-06") == "gpt-4o"
    assert key("gpt-4o-mini") == "old"
    assert key("gpt-4-turbo") == "turbo"
    assert key("o3") == "o3"
    by_user = llm.openai.with_(key=lambda one: (one.headers["authorization"][-4:], one.model))
    assert key("o3", by_user, headers={"authorization": "Bearer sk-1234"}) == ("1234", "o3")


IMAGE = "data:image/png;base64," + "A" * 100_000
PARTS = {
    "openai": {"type": "image_url", "image_url": {"url": IMAGE}},
    "responses": {"type": "input_image", "image_url": IMAGE},
    "string": IMAGE,
    "anthropic": {"type": "image", "source": {"type": "base64", "data": IMAGE}},
    "pdf": {"type": "document", "source": {"type": "base64", "data": "A" * 100_000}},
    "gemini": {"inlineData": {"mimeType": "image/png", "data": "A" * 100_000}},
    "gemini file": {"fileData": {"mimeType": "image/png", "fileUri": "files/1"}},
    "bedrock": {"image": {"format": "png", "source": {"bytes": "A"}}},
}


@pytest.mark.parametrize("kind", PARTS)
def test_attachments_are_flat(kind):
    """Whatever its size in bytes, an image is taken for 1,600 tokens, and the text beside it."""
    body = chat(messages=[{"role": "user", "content": [PARTS[kind], {"text": TEXT}]}])
    if kind == "bedrock":
        body["messages"][0]["content"][0]["image"]["source"]["bytes"] = b"A"
        request = llm.openai.read(host="h", path="/chat/completions", body=body)
        found = llm.openai.cost_of(request)["tokens"]
    else:
        found = cost(llm.openai, "/chat/completions", body)["tokens"]
    assert 1600 + 104 + 16 <= found <= 1600 + 104 + 16 + 8  # names of fields around it


def test_text_documents_are_text():
    """A document that is text counts as such."""
    part = {"type": "document", "source": {"type": "text", "media_type": "text/plain"}}
    part["source"]["data"] = TEXT * 100
    body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 0}
    assert 10_004 <= cost(llm.anthropic, "/v1/messages", body)["input_tokens"] <= 10_020


def test_tools_and_their_calls_count():
    """Schemas and arguments are read by the model, too."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    plain = cost(llm.openai, "/chat/completions", chat())["tokens"]
    assert cost(llm.openai, "/chat/completions", chat(tools=[tool]))["tokens"] > plain + 3
    call = {"role": "assistant", "tool_calls": [{"function": {"arguments": TEXT}}]}
    called = chat(messages=[*MESSAGES, call])
    assert cost(llm.openai, "/chat/completions", called)["tokens"] >= plain + 104


def test_reservations_are_adaptable():
    """`reserve=` and `default_output=` say what an answer is reserved."""
    body = {"model": "c", "messages": MESSAGES, "max_tokens": 5000}
    halved = llm.anthropic.with_(reserve=lambda request: request.max_output_tokens / 3)
    assert cost(halved, "/v1/messages", body)["output_tokens"] == 1667
    assert cost(llm.openai.with_(default_output=0), "/chat/completions", chat())["tokens"] == 104
    fixed = llm.openai.with_(count=lambda text: len(text) / 800)
    assert cost(fixed, "/chat/completions", chat(max_tokens=10))["tokens"] == 15


def test_bedrock_asks_reserve_once():
    """As HTTP clients do: the call keeps what it was charged."""
    averages = iter([100, 200, 300])
    profile = llm.bedrock.with_(reserve=lambda _: next(averages), credits=False)
    call = {"modelId": "m", "messages": [{"role": "user", "content": [{"text": TEXT}]}]}
    _, charged, request = profile.asked_for("bedrock-runtime", "Converse", "eu-west-1", call)
    usage = {"input_tokens": request.input_tokens, "output_tokens": 5}
    assert profile.settled(request, usage)["tokens"] == charged["tokens"]
    assert charged["tokens"] == request.input_tokens + 100


@pytest.mark.parametrize("most", [-1, True, "50", None, [], 1e400, float("nan")])
def test_malformed_maxima_are_none(most):
    """A maximum that is none is as if it were not there; the server will say more."""
    assert cost(llm.openai, "/chat/completions", chat(max_tokens=most))["tokens"] == 120


@pytest.mark.parametrize("profile", PROFILES, ids=lambda one: one.name)
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b"null"])
def test_what_cannot_be_read_costs_a_call(profile, content):
    """Of a known endpoint, or of none."""
    for path in ("/v1/other", "/v1/chat/completions", "/v1/messages", "/models/g:generateContent"):
        request = profile.read(host="h", path=path, content=content)
        assert profile.cost_of(request)["calls"] == 1
        assert profile.key_of(request) in ("h", "g")
        assert profile.settled(request, None) is None
    request = profile.read(host="h", path="/v1/other", content=content)
    assert profile.cost_of(request) == {"calls": 1, **dict.fromkeys(profile.units, 0)}
    assert profile.failed(request, 429) is None


def test_other_methods_are_calls():
    """To list, or to look at a response, is no use of a model."""
    found = read(llm.openai, "/v1/responses", {"model": "o3", "input": TEXT}, method="GET")
    assert llm.openai.cost_of(found) == {"calls": 1, "tokens": 0}
    assert llm.openai.key_of(found) == "api.example.com"


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["role", "text", "type", "source", "data", "bytes", "url", "format"])
            | st.text(),
            inner,
        )
    ),
    max_leaves=20,
)
FIELDS = ["model", "messages", "input", "contents", "system", "max_tokens", "n", "generationConfig"]


@given(
    st.sampled_from(PROFILES),
    st.sampled_from(
        ["/chat/completions", "/responses", "/messages", "/models/g:generateContent", "Converse"]
    ),
    st.dictionaries(st.sampled_from(FIELDS), JSONS),
    st.dictionaries(
        st.sampled_from(["input_tokens", "output_tokens", "cache_read_tokens"]),
        st.integers(0, 100) | st.integers(0, 10**9),
    ),
    st.integers(100, 999),
)
def test_any_json_has_whole_costs(profile, path, body, usage, status):
    """Whatever a body says, costs are whole numbers of the profile's units, not negative."""
    request = profile.read(host="h", path=path, body=body)
    costs = [profile.cost_of(request), profile.failed(request, status) or {}]
    with suppress(MalformedUsageError):  # what cannot be, as far as the body says
        costs.append(profile.settled(request, usage) or {})
    for found in costs:
        assert found.keys() <= {"calls", *profile.units}
        assert all(type(amount) is int and amount >= 0 for amount in found.values())
    hash(profile.key_of(request))


USAGE = {
    "input_tokens": 90,
    "cache_read_tokens": 30,
    "cache_write_tokens": 5,
    "output_tokens": 20,
}


@pytest.mark.parametrize(
    ("profile", "path", "expected"),
    [
        # What was reserved stays: OpenAI gives nothing back.
        (llm.openai, "/chat/completions", {"tokens": 125 + 50}),
        (llm.azure, "/deployments/d/chat/completions", {"tokens": 125 + 50}),
        (llm.compatible, "/chat/completions", {"tokens": 125 + 20}),
        (llm.groq, "/chat/completions", {"tokens": 95 + 20}),
        (llm.anthropic, "/messages", {"input_tokens": 95, "output_tokens": 20}),
        (llm.gemini, "/models/g:generateContent", {"input_tokens": 125}),
        (llm.bedrock, "Converse", {"tokens": 95 + 20}),
    ],
)
def test_true_costs_by_provider(profile, path, expected):
    """What is given back, and whether the cache counts, differs."""
    request = read(profile, path, {"model": "m", "max_tokens": 50})
    assert profile.settled(request, USAGE) == expected


def test_what_is_not_said_stays():
    """Without usage, nothing is settled; with output only, the input is what was estimated."""
    request = read(llm.anthropic, "/messages", {"messages": MESSAGES, "max_tokens": 50})
    assert llm.anthropic.settled(request, None) is None
    assert llm.anthropic.settled(request, {"output_tokens": 7}) == {
        "input_tokens": 104,
        "output_tokens": 7,
    }


def test_cache_reads_may_count():
    """As they do for some older models of Anthropic."""
    profile = llm.anthropic.with_(counts_cache_reads=True)
    request = read(profile, "/messages", {})
    assert profile.settled(request, USAGE)["input_tokens"] == 125


@pytest.mark.parametrize(
    ("model", "weight"),
    [
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", 1),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", 5),
        ("anthropic.claude-sonnet-4-20250514-v1:0", 5),
        ("global.anthropic.claude-opus-4-5-20251101-v1:0", 5),
        ("anthropic.claude-v2:1", 1),
        ("amazon.nova-pro-v1:0", 1),
    ],
)
def test_bedrock_burns_output_faster(model, weight):
    """An output token of Claude 3.7 and later uses five of the quota, once it is made."""
    body = {"model": model, "inferenceConfig": {"maxTokens": 100}}
    request = llm.bedrock.read(host="us-east-1", path="Converse", body=body)
    assert llm.bedrock.cost_of(request)["tokens"] == 100
    assert llm.bedrock.settled(request, {"input_tokens": 9, "output_tokens": 20}) == {
        "tokens": 9 + 20 * weight
    }


@pytest.mark.parametrize(
    ("profile", "status", "expected"),
    [
        (llm.openai, 429, {"calls": 1, "tokens": 0}),
        (llm.openai, 500, None),
        (llm.openai, 400, None),
        (llm.openai, 200, None),
        (llm.groq, 429, {"calls": 1, "tokens": 0}),
        (llm.groq, 500, {"calls": 1, "tokens": 0}),
        (llm.anthropic, 529, {"calls": 1, "input_tokens": 0, "output_tokens": 0}),
        (llm.anthropic, 500, {"calls": 1, "input_tokens": 104, "output_tokens": 0}),
    ],
)
def test_what_failures_cost(profile, status, expected):
    """What a limit refuses is a call; a provider that gives nothing back keeps other failures."""
    path = "/messages" if profile is llm.anthropic else "/chat/completions"
    messages = MESSAGES if profile is llm.anthropic else []
    request = read(profile, path, {"model": "m", "messages": messages, "max_tokens": 50})
    assert profile.failed(request, status) == expected


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"units": ("token",)}, ValueError, "units must be among tokens, .*, not 'token'"),
        ({"periods": {"tokens": 0}}, ValueError, "periods"),
        ({"default_output": -1}, ValueError, "default_output"),
        ({"attachment_tokens": float("inf")}, ValueError, "attachment_tokens"),
        ({"key": "model"}, TypeError, "key must be a function of the request"),
        ({"count": 4}, TypeError, "count must be a function"),
        ({"reserve": 500}, TypeError, "reserve must be a function"),
        ({"key": later}, TypeError, "key must be a plain function, not the coroutine function"),
        ({"count": later}, TypeError, "count must be a plain function, not the coroutine function"),
        ({"keys": {}}, TypeError, "keys"),
        ({"key": {"gpt-*-mini": "mini"}}, ValueError, r"key\['gpt-\*-mini'\]: .*name each model"),
        ({"prices": {"*-mini": "gpt-4o"}}, ValueError, r"prices\['\*-mini'\]: .*name each model"),
    ],
)
def test_wrong_profiles_are_refused(changes, error, words):
    """As they are made, with what was wrong."""
    with pytest.raises(error, match=words):
        llm.openai.with_(**changes)


SAMPLES = {
    "prose": "It is a truth universally acknowledged, that a single man in possession of a good "
    "fortune, must be in want of a wife. However little known the feelings or views of such a man "
    "may be on his first entering a neighbourhood, this truth is so well fixed in the minds of the "
    "surrounding families, that he is considered the rightful property of some one or other.",
    "chinese": "当一个请求的所有限制都有空间时，它就开始；然后在同一时刻向所有限制收费。",  # noqa: RUF001 - as it is written
    "japanese": "すべての制限に余裕があるとき、呼び出しは開始されます。",
    "korean": "모든 제한에 여유가 있을 때 호출이 시작됩니다. 그런 다음 같은 순간에 부과됩니다.",
    "thai": "การเรียกจะเริ่มขึ้นเมื่อทุกขีดจำกัดมีที่ว่าง",
    "russian": "Вызов начинается, когда у всех ограничений есть место.",  # noqa: RUF001 - as it is written
}


@pytest.fixture
def tables(monkeypatch):
    """Have the table of GPT-4, where tiktoken looks for it."""
    llama_index = pytest.importorskip("llama_index")  # and not its core, which takes seconds
    folder = Path(llama_index.__path__[0], "core", "_static", "tiktoken_cache")
    assert folder.is_dir()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", os.fspath(folder))
    introspect.token_counter("gpt-4")  # once it was loaded, tiktoken keeps it


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("name", SAMPLES)
def test_estimate_is_on_the_high_side(name):
    """Compared with what tiktoken counts: never below, and not more than 1.7 times as much."""
    counted = introspect.token_counter("gpt-4")(SAMPLES[name])
    assert counted <= llm.estimate_tokens(SAMPLES[name]) <= 1.7 * counted


@pytest.mark.usefixtures("tables")
def test_tiktoken_counts_where_it_can():
    """A model whose table is here is counted; long texts by their beginning."""
    count = introspect.token_counter("gpt-4-0613")
    assert count("Hello, world!") == 4
    assert count("hello world! " * 20_000) == pytest.approx(60_000, rel=0.01)
    assert count("") == 0


@pytest.mark.parametrize(
    "model", ["gpt-4.1-none", "o3-none", "gpt-unheard-of", "claude-sonnet-4", ""]
)
def test_nothing_is_downloaded(model, monkeypatch, tmp_path):
    """Without a table on this machine, or for other models, there is the estimate."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", os.fspath(tmp_path))
    assert introspect.token_counter(model) is llm.estimate_tokens


@pytest.mark.parametrize("marker", [{}, {"ttl": "5m"}, {"ttl": "1h"}])
def test_cached_prompt_has_only_its_text(marker):
    """However long it is kept: no field of its marker may refer to content elsewhere."""
    part = {"type": "text", "text": TEXT, "cache_control": {"type": "ephemeral", **marker}}
    body = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": [part]}]}
    assert read(llm.anthropic, "/v1/messages", body).most_input_tokens == 10 * 104 + 30_000
