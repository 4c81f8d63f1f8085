"""The most tokens that a prompt can have, for each form of content of each provider.

The prices here are 1 USD a token of input and nothing for output, so that a request reserves as
many USD as its prompt can have tokens.
"""

from __future__ import annotations

import pytest

from aioapiqueue.integrations import llm

WINDOW = 5_000_000
TABLE = {"input": 1e6, "output": 0, "context_window": WINDOW}
LONG = "lengthy text " * 100
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI = "/v1beta/models/gemini-2.5-flash:generateContent"
PNG = "iVBORw0KGgo="
URL = f"data:image/png;base64,{PNG}"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": LONG}}}


def most(profile, path, body, **rates):
    """Return the most that a request costs."""
    own = profile.with_(prices={"*": {**TABLE, **rates}}, max_output=1)
    body = {"model": "gpt-4o", **body}
    if path == GEMINI:
        body.pop("model")
    request = own.read(host="h", path=path, body=body)
    body = own.with_maximum(request) or body
    request = own.read(host="h", path=path, body=body)
    return own.priced(request, {}, 0)[1]["usd"]


def chat(*parts, role="user", **fields):
    """Return messages of OpenAI."""
    return {"messages": [{"role": role, "content": [*parts] or "Hi", **fields}]}


def claude(*parts, **fields):
    """Return messages of Anthropic."""
    return {"messages": [{"role": "user", "content": [*parts] or "Hi"}], **fields}


def gemini(*parts, **fields):
    """Return contents of Gemini."""
    return {"contents": [{"role": "user", "parts": [*parts] or [{"text": "Hi"}]}], **fields}


def items(*found, **fields):
    """Return items of OpenAI's responses."""
    return {"input": [*found], **fields}


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": LONG}}
TOOL = {"name": "f", "description": LONG}
CLAUDE_CALL = {"type": "tool_use", "id": "t", "name": "f", "input": {"type": "image", "x": LONG}}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": LONG}
BEDROCK_CALL = {"toolUse": {"toolUseId": "t", "name": "f", "input": {"image": LONG}}}
BEDROCK_RESULT = {"toolResult": {"toolUseId": "t", "content": [{"json": {"source": LONG}}]}}
SAYS = {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}

COUNTED = {
    "text": (llm.openai, CHAT, chat({"type": "text", "text": LONG})),
    "message": (llm.openai, CHAT, {"messages": [{"role": "user", "content": LONG}]}),
    "name": (llm.openai, CHAT, chat(name=LONG)),
    "received": (
        *(llm.openai, CHAT),
        chat(role="assistant", tool_calls=[CALL], refusal=None, annotations=[], audio=None),
    ),
    "citations": (llm.openai, CHAT, chat(annotations=[{"type": "url_citation", "title": LONG}])),
    "tool": (
        *(llm.openai, CHAT),
        {**chat(), "tools": [{"type": "function", "function": {**TOOL, "parameters": {}}}]},
    ),
    "tool schema": (
        *(llm.openai, CHAT),
        {**chat(), "tools": [{"type": "function", "function": {"parameters": SCHEMA}}]},
    ),
    "grammar": (
        *(llm.openai, CHAT),
        {**chat(), "tools": [{"type": "custom", "custom": {"name": "f", "format": GRAMMAR}}]},
    ),
    "format": (
        *(llm.openai, CHAT),
        {**chat(), "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    ),
    "instructions": (llm.openai, RESPONSES, items(instructions=LONG)),
    "output text": (
        *(llm.openai, RESPONSES),
        items(
            {"type": "message", "content": [{"type": "output_text", "text": LONG, "logprobs": []}]}
        ),
    ),
    "function call": (
        *(llm.openai, RESPONSES),
        items({"type": "function_call", "id": "f", "call_id": "c", "name": "f", "arguments": LONG}),
    ),
    "function output": (
        *(llm.openai, RESPONSES),
        items({"type": "function_call_output", "call_id": "c", "output": LONG}),
    ),
    "text format": (
        *(llm.openai, RESPONSES),
        items(text={"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}),
    ),
    "breakpoint": (
        *(llm.openai, CHAT),
        chat({"type": "text", "text": LONG, "prompt_cache_breakpoint": {"mode": "explicit"}}),
    ),
    "system": (llm.anthropic, MESSAGES, claude(system=LONG)),
    "cached": (
        *(llm.anthropic, MESSAGES),
        claude(system=[{"type": "text", "text": LONG, "citations": None}]),
    ),
    "claude's call": (
        llm.anthropic,
        MESSAGES,
        claude({**CLAUDE_CALL, "caller": {"type": "direct"}}),
    ),
    "claude's result": (
        *(llm.anthropic, MESSAGES),
        claude({"type": "tool_result", "tool_use_id": "t", "content": LONG, "is_error": False}),
    ),
    "claude's tool": (llm.anthropic, MESSAGES, claude(tools=[{**TOOL, "input_schema": {}}])),
    "examples": (
        llm.anthropic,
        MESSAGES,
        claude(tools=[{"name": "f", "input_examples": [{"q": LONG}]}]),
    ),
    "thinking": (llm.anthropic, MESSAGES, claude({"type": "thinking", "thinking": LONG})),
    "text document": (
        *(llm.anthropic, MESSAGES),
        claude(
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": LONG},
            }
        ),
    ),
    "claude's format": (
        *(llm.anthropic, MESSAGES),
        claude(output_config={"format": {"type": "json_schema", "schema": SCHEMA}}),
    ),
    "systemInstruction": (
        llm.gemini,
        GEMINI,
        gemini(systemInstruction={"parts": [{"text": LONG}]}),
    ),
    "functionCall": (
        llm.gemini,
        GEMINI,
        gemini({"functionCall": {"name": "f", "args": {"image": LONG}}}),
    ),
    "functionResponse": (
        *(llm.gemini, GEMINI),
        gemini({"functionResponse": {"name": "f", "response": {"file": LONG}}}),
    ),
    "declaration": (
        *(llm.gemini, GEMINI),
        gemini(tools=[{"functionDeclarations": [{"name": "f", "parametersJsonSchema": SCHEMA}]}]),
    ),
    "responseSchema": (llm.gemini, GEMINI, gemini(generationConfig={"responseSchema": SCHEMA})),
    "responseJsonSchema": (
        llm.gemini,
        GEMINI,
        gemini(generationConfig={"responseJsonSchema": SCHEMA}),
    ),
    "bedrock's system": (llm.bedrock, "Converse", {**SAYS, "system": [{"text": LONG}]}),
    "toolUse": (llm.bedrock, "Converse", {"messages": [{"content": [BEDROCK_CALL]}]}),
    "toolResult": (llm.bedrock, "Converse", {"messages": [{"content": [BEDROCK_RESULT]}]}),
    "toolSpec": (
        *(llm.bedrock, "Converse"),
        {**SAYS, "toolConfig": {"tools": [{"toolSpec": {"inputSchema": {"json": SCHEMA}}}]}},
    ),
    "nova's tools": (
        *(llm.bedrock, "InvokeModel"),
        {**SAYS, "toolConfig": {"tools": [{"toolSpec": TOOL}]}, "schemaVersion": "messages-v1"},
    ),
    "llama": (llm.bedrock, "InvokeModel", {"prompt": LONG, "max_gen_len": 1, "top_p": 1}),
    "titan": (
        *(llm.bedrock, "InvokeModel"),
        {"inputText": LONG, "textGenerationConfig": {"maxTokenCount": 1, "topP": 1}},
    ),
    "mistral": (llm.compatible, CHAT, {**chat(name=LONG), "safe_prompt": True, "random_seed": 7}),
    "groq": (llm.groq, CHAT, {**chat(name=LONG), "reasoning_format": "parsed"}),
}


@pytest.mark.parametrize("form", COUNTED)
def test_text_counts_by_its_bytes(form):
    """Wherever it is in a request; a few more for what is around it, and 1,000 for schemas."""
    found = most(*COUNTED[form])
    assert len(LONG) + 100 <= found <= len(LONG) + 1700
    # Letters of two bytes, in place of the spaces.
    profile, path, body = COUNTED[form]
    assert most(profile, path, _with_umlauts(body)) == found + LONG.count(" ")


def _with_umlauts(value):
    if isinstance(value, dict):
        return {name: _with_umlauts(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_umlauts(one) for one in value]
    return value.replace(" ", "ü") if isinstance(value, str) else value


BY_ID = {"audio": {"id": "audio_1"}}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
OPEN = {
    "file": (llm.openai, CHAT, chat({"type": "file", "file": {"file_id": "f"}})),
    "spoken": (llm.openai, CHAT, chat(role="assistant", **BY_ID)),
    "unknown field": (llm.openai, CHAT, {**chat(), "prediction": {"type": "content"}}),
    "unknown type": (llm.openai, CHAT, chat({"type": "hologram"})),
    "unknown part": (llm.openai, CHAT, chat({"type": "text", "text": "x", "hologram": "y"})),
    "earlier response": (llm.openai, RESPONSES, items(previous_response_id="r")),
    "conversation": (llm.openai, RESPONSES, items(conversation="c")),
    "stored item": (llm.openai, RESPONSES, items({"id": "msg_1"})),
    "item reference": (llm.openai, RESPONSES, items({"type": "item_reference", "id": "msg_1"})),
    "reasoning": (llm.openai, RESPONSES, items({"type": "reasoning", "id": "r", "summary": []})),
    "pdf": (llm.anthropic, MESSAGES, claude({"type": "document", "source": PDF})),
    "fileData": (
        *(llm.gemini, GEMINI),
        gemini({"fileData": {"mimeType": "application/pdf", "fileUri": "u"}}),
    ),
    "video": (llm.gemini, GEMINI, gemini({"inlineData": {"mimeType": "video/mp4", "data": "AA"}})),
    "cachedContent": (llm.gemini, GEMINI, gemini(cachedContent="cachedContents/1")),
    "bedrock's document": (
        *(llm.bedrock, "Converse"),
        {"messages": [{"content": [{"document": {"format": "pdf", "source": {"bytes": b"x"}}}]}]},
    ),
    "for the model": (
        *(llm.bedrock, "Converse"),
        {**SAYS, "additionalModelRequestFields": {"messages": [LONG]}},
    ),
    "guardrail": (llm.bedrock, "Converse", {**SAYS, "guardrailConfig": {"trace": "enabled"}}),
}


@pytest.mark.parametrize("form", OPEN)
def test_content_elsewhere_may_fill_the_window(form):
    """Files, earlier responses, and whatever is unknown."""
    assert most(*OPEN[form]) == WINDOW


SOURCE = {"type": "base64", "media_type": "image/png", "data": PNG}
BEDROCK_IMAGE = {"image": {"format": "png", "source": {"bytes": b"png"}}}
IMAGES = {
    "image_url": (llm.openai, CHAT, chat, {"type": "image_url", "image_url": {"url": URL}}, 3800),
    "elsewhere": (
        *(llm.openai, CHAT, chat),
        *({"type": "image_url", "image_url": {"url": "https://h/i.png"}}, 3800),
    ),
    "input_image": (
        *(llm.openai, RESPONSES, lambda one: items({"role": "user", "content": [one]})),
        *({"type": "input_image", "image_url": URL, "detail": "high"}, 3800),
    ),
    "azure": (
        *(llm.azure, "/deployments/d/chat/completions", chat),
        *({"type": "image_url", "image_url": {"url": URL}}, 48_169),
    ),
    "claude": (llm.anthropic, MESSAGES, claude, {"type": "image", "source": SOURCE}, 5000),
    "in a result": (
        *(llm.anthropic, MESSAGES, lambda one: claude({"type": "tool_result", "content": [one]})),
        *({"type": "image", "source": SOURCE}, 5000),
    ),
    "inlineData": (
        *(llm.gemini, GEMINI, gemini),
        *({"inlineData": {"mimeType": "image/png", "data": PNG}}, 12_400),
    ),
    "inline_data": (
        *(llm.gemini, GEMINI, gemini),
        *({"inline_data": {"mime_type": "image/png", "data": PNG}}, 12_400),
    ),
    "bedrock": (
        *(llm.bedrock, "Converse", lambda one: {"messages": [{"content": [one]}]}),
        *(BEDROCK_IMAGE, 6500),
    ),
}


@pytest.mark.parametrize("form", IMAGES)
def test_images_count_at_their_most(form):
    """The tokens of the largest image at the provider, whatever the size of this one."""
    profile, path, body, image, tokens = IMAGES[form]
    text = {"text": "x"} if path in (GEMINI, "Converse") else {"type": "text", "text": "x"}
    # The image stands where the text was: its object, its type and its text.
    without = most(profile, path, body(text))
    assert 100 < without < 300
    assert abs(without + tokens - most(profile, path, body(image))) <= 30


def test_images_have_their_own_price():
    """With the text beside them at its price."""
    image = {"type": "image_url", "image_url": {"url": URL}}
    usual = most(llm.openai, CHAT, chat(image))
    assert most(llm.openai, CHAT, chat(image), input_image=3e6) == usual + 2 * 3800
    assert most(llm.openai, CHAT, chat(), input_image=3e6) == most(llm.openai, CHAT, chat())


SOUND = "A" * 32_000
SOUNDS = {
    "input_audio": (
        *(llm.openai, CHAT),
        chat({"type": "input_audio", "input_audio": {"data": SOUND, "format": "mp3"}}),
    ),
    "inlineData": (
        *(llm.gemini, GEMINI),
        gemini({"inlineData": {"mimeType": "audio/mp3", "data": SOUND}}),
    ),
    "bedrock": (
        *(llm.bedrock, "Converse"),
        {"messages": [{"content": [{"audio": {"source": {"bytes": b"A" * 24_000}}}]}]},
    ),
}


@pytest.mark.parametrize("form", SOUNDS)
def test_audio_counts_by_its_bytes(form):
    """A token for 16 characters of base64, at the price of audio."""
    usual = most(*SOUNDS[form])
    assert 2000 <= usual <= 2300
    assert 3998 <= most(*SOUNDS[form], input_audio=3e6) - usual <= 4004


def test_audio_elsewhere_is_open():
    """A short one may be a reference, of any length."""
    part = {"inlineData": {"mimeType": "audio/mp3", "data": "AAAA"}}
    assert most(llm.gemini, GEMINI, gemini(part)) == WINDOW


def mark(**more):
    """Return Anthropic's mark for a cache."""
    return {"cache_control": {"type": "ephemeral", **more}}


SAID = {"type": "text", "text": "Hi"}
POINT = {"cachePoint": {"type": "default"}}
CACHES = {
    "no mark": (llm.anthropic, MESSAGES, claude(SAID), 1),
    "text": (llm.anthropic, MESSAGES, claude({**SAID, **mark()}), 2),
    "text for an hour": (llm.anthropic, MESSAGES, claude({**SAID, **mark(ttl="1h")}), 4),
    "system": (llm.anthropic, MESSAGES, claude(system=[{**SAID, **mark(ttl="5m")}]), 2),
    "tool": (llm.anthropic, MESSAGES, claude(tools=[{"name": "f", **mark(ttl="1h")}]), 4),
    "image": (llm.anthropic, MESSAGES, claude({"type": "image", "source": SOURCE, **mark()}), 2),
    "all": (llm.anthropic, MESSAGES, claude(SAID, **mark(ttl="1h")), 4),
    "both": (llm.anthropic, MESSAGES, claude({**SAID, **mark()}, {**SAID, **mark(ttl="1h")}), 4),
    "both ways": (
        llm.anthropic,
        MESSAGES,
        claude({**SAID, **mark(ttl="1h")}, {**SAID, **mark()}),
        4,
    ),
    "point": (llm.bedrock, "Converse", {**SAYS, "system": [{"text": "x"}, POINT]}, 2),
    "point for an hour": (
        *(llm.bedrock, "Converse"),
        *({**SAYS, "system": [{"cachePoint": {"type": "default", "ttl": "1h"}}]}, 4),
    ),
    "data": (llm.anthropic, MESSAGES, claude({**CLAUDE_CALL, "input": mark(ttl="1h")}), 1),
    "any time": (llm.openai, CHAT, chat(), 2),
    "any time at Google": (llm.gemini, GEMINI, gemini(), 2),
}


@pytest.mark.parametrize("form", CACHES)
def test_writes_to_a_cache(form):
    """Their price, where a request asks for them, or the provider may write at any time."""
    profile, path, body, factor = CACHES[form]
    usual = most(profile, path, body)
    assert usual < 7000
    assert most(profile, path, body, cache_write=2e6, cache_write_1h=4e6) == factor * usual


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ([1234567890123] * 50, 50 * 13),
        ([1, LONG], len(LONG)),
        ([0.5] * 1000, 4000),  # with a comma after each
        (URL + "A" * 9000, 9000),
        ({"url": URL + "A" * 9000}, 9000),
        ({LONG: True}, len(LONG)),
        ([{"type": "image", "source": LONG}], len(LONG)),
    ],
)
def test_data_of_programs_counts_by_its_bytes(value, size):
    """Numbers by their digits, and text as text, even if it looks like a file."""
    for profile, path, body in (
        (llm.anthropic, MESSAGES, claude({**CLAUDE_CALL, "input": {"x": value}})),
        (llm.gemini, GEMINI, gemini({"functionCall": {"name": "f", "args": {"x": value}}})),
    ):
        assert most(profile, path, body) >= 100 + size


def test_text_that_looks_like_a_file():
    """Only a part for an image is one; text is read as text."""
    assert most(llm.openai, CHAT, chat({"type": "text", "text": URL + "A" * 9000})) >= 9100
    assert most(llm.anthropic, MESSAGES, claude(system=URL + "A" * 9000)) >= 9100


@pytest.mark.parametrize("prompt", [[1, 2, 3] * 100, [[1, 2, 3] * 100]])
def test_token_numbers_count_one_each(prompt):
    """As in a prompt that was tokenized by the caller."""
    assert 300 <= most(llm.openai, "/v1/embeddings", {"input": prompt}) <= 420


def test_lists_with_numbers_and_text():
    """They are no prompt of token numbers, though they begin with a number."""
    assert most(llm.openai, "/v1/embeddings", {"input": [1, LONG]}) >= 100 + len(LONG)


@pytest.mark.parametrize("form", ["format", "text format", "responseSchema", "claude's format"])
def test_schemas_come_with_instructions(form):
    """The provider may add some, up to 1,000 tokens."""
    assert most(*COUNTED[form]) >= len(LONG) + 1100


def test_choices_of_gemini_count():
    """In both spellings of its JSON."""
    body = gemini(generation_config={"max_output_tokens": 9, "candidate_count": 4})
    assert llm.gemini.read(host="h", path=GEMINI, body=body).max_output_tokens == 36


OWN_TOOLS = [
    (llm.openai, CHAT, chat(), {"type": "function", "function": {"name": "f"}}),
    (llm.openai, CHAT, chat(), {"type": "custom", "custom": {"name": "f"}}),
    (llm.anthropic, MESSAGES, claude(), {"name": "f", "input_schema": {}}),
    (llm.anthropic, MESSAGES, claude(), {"type": "bash_20250124", "name": "bash"}),
    (llm.anthropic, MESSAGES, claude(), {"type": "text_editor_20250728", "name": "edit"}),
    (llm.gemini, GEMINI, gemini(), {"functionDeclarations": [{"name": "f"}]}),
    (llm.gemini, GEMINI, gemini(), {"function_declarations": [{"name": "f"}]}),
    (llm.bedrock, "Converse", SAYS, {"toolSpec": {"name": "f"}}),
    (llm.bedrock, "Converse", SAYS, POINT),
]
TOOLS_ELSEWHERE = [
    (llm.openai, RESPONSES, items("Hi"), {"type": "code_interpreter"}),
    (llm.openai, RESPONSES, items("Hi"), {"type": "mcp", "server_label": "s"}),
    (llm.openai, RESPONSES, items("Hi"), {"type": "image_generation"}),
    (llm.anthropic, MESSAGES, claude(), {"type": "web_search_20250305", "name": "web_search"}),
    (llm.anthropic, MESSAGES, claude(), {"type": "code_execution_20250825", "name": "run"}),
    (llm.gemini, GEMINI, gemini(), {"googleSearch": {}}),
    (llm.gemini, GEMINI, gemini(), {"functionDeclarations": [], "codeExecution": {}}),
    (llm.bedrock, "Converse", SAYS, {"systemTool": {"name": "nova_grounding"}}),
]
KNOWN = {"anthropic": "claude-opus-4-6", "bedrock": "amazon.nova-lite-v1:0"}


def price_with(profile, path, body, tool):
    """Return the most USD that a request with a tool costs, by the price package."""
    tools = {"toolConfig": {"tools": [tool]}} if profile is llm.bedrock else {"tools": [tool]}
    named = profile.with_(prices={"*": KNOWN.get(profile.name, "gpt-4o")}, max_output=9)
    if profile is llm.gemini:
        named = profile
    most = {"max_tokens": 9, "max_output_tokens": 9, "inferenceConfig": {"maxTokens": 9}}
    most |= {"generationConfig": {"maxOutputTokens": 9}, "model": "m"}
    request = named.read(host="h", path=path, body={**body, **tools, **most})
    return named.priced(request, {}, 1.8e9)[1]["usd"]


@pytest.mark.usefixtures("price_package")
@pytest.mark.parametrize(("profile", "path", "body", "tool"), OWN_TOOLS)
def test_own_tools_have_a_price(profile, path, body, tool):
    """The user's program runs them."""
    assert price_with(profile, path, body, tool) > 0


@pytest.mark.usefixtures("price_package")
@pytest.mark.parametrize(("profile", "path", "body", "tool"), TOOLS_ELSEWHERE)
def test_tools_elsewhere_have_none(profile, path, body, tool):
    """The provider runs them, for a price of their own."""
    with pytest.raises(llm.NoPrice, match="which the provider runs"):
        price_with(profile, path, body, tool)
