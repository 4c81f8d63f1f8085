"""Random calls of each provider's models: the request, what it used, and what that costs.

The cost is that of the package genai-prices, by its own arithmetic and its own choice of prices.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from functools import partial

from tests.helpers import billed_answers, billed_chats, billed_formats, billed_images, introspect
from tests.helpers.billed_models import MODELS
from tests.helpers.lazily import lazily

genai_prices = lazily("genai_prices")
llm = lazily("aioapiqueue.integrations.llm")

__all__ = ["Call", "call_of", "usd_up"]

_SINCE = dt.datetime(2026, 11, 28, tzinfo=dt.UTC).timestamp()
_DAYS = 45
_NEW_PRICES = dt.datetime(2027, 1, 1, tzinfo=dt.UTC).timestamp()


@dataclass
class Call:
    """A call of a model.

    Attributes:
        request: as the profile has read it.
        usage: what was used, by the names of genai-prices.
        read: returns the usage that the library finds in the response.
        begin, end: times of the request and of the response.
    """

    profile: object
    model: str
    request: object
    usage: dict
    read: object
    place: dict
    context: dict = field(default_factory=dict)
    factor: Decimal = Decimal(1)
    begin: float = 0.0
    end: float = 0.0

    def bills(self):
        """Return what the call costs by the prices at its begin, and at its end."""
        return [self._bill(at) for at in (self.begin, self.end)]

    def _bill(self, at):
        return self._price(at, genai_prices.Usage(**self.usage)).total_price * self.factor

    def window(self):
        """Return the most tokens of a prompt of the model, or None."""
        return self._price(_SINCE, genai_prices.Usage()).model.context_window

    def _price(self, at, usage):
        return genai_prices.calc_price(
            usage,
            self.model,
            **self.place,
            genai_request_timestamp=dt.datetime.fromtimestamp(at, dt.UTC),
            price_context=self.context or None,
        )


def usd_up(amount):
    """Return an amount, rounded up to a whole billionth."""
    return float(amount.quantize(Decimal("1e-9"), ROUND_CEILING))


def call_of(random, provider, *, is_plain=False):
    """Return a random call; `is_plain`: a chat in English with a maximum of 500."""
    model = random.choice(MODELS[provider])
    found = _MAKERS[provider](random, model, is_plain=is_plain)
    while found.usage["input_tokens"] > (found.window() or math.inf):
        found = _MAKERS[provider](random, model, is_plain=is_plain)
    found.begin = random.choice([_SINCE + random.uniform(0, _DAYS * 86_400), _NEW_PRICES - 60])
    # Some calls wait for hours until they are sent.
    found.end = found.begin + random.choice([2, 70, 600, random.uniform(0, 23 * 3600)])
    return found


def _chat(random, is_plain, **kinds):
    return (
        billed_chats.plain_english(random)
        if is_plain
        else billed_chats.random_chat(random, **kinds)
    )


def _output(random, chat, *, is_plain, reasons=False):
    """Return the tokens of the response, and those of its reasoning."""
    most = chat.most * chat.choices
    if is_plain:
        return {"output_tokens": min(500, max(50, int(random.lognormvariate(5.52, 0.5))))}
    output = random.choice([most, random.randint(1, most), random.randint(1, min(most, 300))])
    found = {"output_tokens": output}
    if reasons and random.random() < 0.5:
        found["output_reasoning_tokens"] = random.randint(0, output)
    return found


def _cached(random, size, *, is_plain, writes=False):
    """Return how many tokens of a prompt a provider reads from its cache, and writes to it."""
    if is_plain or size < 1024 or random.random() < 0.4:
        return {}
    read = random.choice([0, random.randint(1, size // 128) * 128])
    written = random.choice([0, size - read, random.randint(0, size - read)]) if writes else 0
    found = {"cache_read_tokens": read, "cache_write_tokens": written}
    return {name: number for name, number in found.items() if number}


def _marked(random, chat, size):
    """The same where the request has a mark, which may be anywhere."""
    if not chat.lifetime or random.random() < 0.2:
        return {}
    read = random.choice([0, random.randint(0, size), size])
    written = random.choice([size - read, random.randint(0, size - read)])
    found = {"cache_read_tokens": read, "cache_write_tokens": written}
    if chat.lifetime == "1h":
        found["cache_write_1h_tokens"] = written
    return {name: number for name, number in found.items() if number}


def _over_http(profile, host, path, body, answer, **more):
    """Return a call over HTTP, whose response is `answer`."""
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    kind, data = answer

    def read(request):
        reader = introspect.llm_usage().BodyUsageReader.of(
            [("Content-Type", kind)], most_output=request.max_output_tokens
        )
        for start in range(0, len(data), 1000):
            reader.feed(data[start : start + 1000])
        return reader.usage()

    request = profile.read(host=host, path=path, content=content)
    return Call(profile=profile, request=request, read=read, **more)


# OpenAI, and what has its protocol.

_OPENAI_TIERS = {
    "gpt-5-nano": ("flex",),
    "gpt-audio": (),
    "gpt-4o": ("priority", "fast"),
    "gpt-4o-mini": ("priority", "fast"),
    "gpt-4.1-mini": ("priority", "fast"),
}
_WRITES = ("gpt-5.6", "gpt-6")
_REASONS = ("o3", "o4", "gpt-5", "gpt-6")


def _openai_like(random, model, chat, is_plain):
    """Return the usage of a model of OpenAI."""
    size = chat.text_tokens() + 10 * chat.seconds()
    size += sum(billed_images.openai(model, one.width, one.height) for one in chat.images())
    usage = {"input_tokens": size, **_output(random, chat, is_plain=is_plain, reasons=True)}
    if not model.startswith(_REASONS):
        usage.pop("output_reasoning_tokens", None)
    if model != "gpt-audio":
        writes = model.startswith(_WRITES)
        usage |= _cached(random, size, is_plain=is_plain, writes=writes)
    elif chat.seconds():
        usage["input_audio_tokens"] = 10 * chat.seconds()
        usage["output_audio_tokens"] = random.randint(0, usage["output_tokens"])
    return usage


def _openai(random, model, *, is_plain):
    media = ("audio",) if model == "gpt-audio" else ("image",)
    chat = _chat(random, is_plain, media=media, choices=4)
    usage = _openai_like(random, model, chat, is_plain)
    tiers = _OPENAI_TIERS.get(model, ("flex", "priority", "fast"))
    tier = random.choice([None, None, "auto", "default", *tiers]) if not is_plain else None
    served = {"service_tier": "default" if tier in (None, "auto") else tier}
    if tier in ("priority", "fast", "flex") and random.random() < 0.2:
        served = {"service_tier": "default"}  # more than it had room for
    host, factor = "api.openai.com", Decimal(1)
    if not is_plain and random.random() < 0.05:
        host, factor = "eu.api.openai.com", Decimal("1.1")
    if model != "gpt-audio" and random.random() < 0.5:
        chat.choices = 1
        usage["output_tokens"] = min(usage["output_tokens"], chat.most)
        usage["output_reasoning_tokens"] = 0
        path, body = "/v1/responses", billed_formats.responses(chat)
        answer = billed_answers.responses(usage, streams=chat.streams, context=served)
    else:
        path, body = "/v1/chat/completions", billed_formats.chat_completions(chat)
        answer = billed_answers.chat_completions(usage, streams=chat.streams, context=served)
        if "output_audio_tokens" in usage:
            body |= {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    body |= {"model": model, **({} if tier is None else {"service_tier": tier})}
    return _over_http(
        *(llm.openai, host, path, body, answer),
        model=model,
        usage=usage,
        place={"provider_id": "openai"},
        context=served,
        factor=factor,
    )


def _azure(random, model, *, is_plain):
    chat = _chat(random, is_plain, media=("image",), choices=4)
    usage = _openai_like(random, model, chat, is_plain)
    profile = llm.azure.with_(prices={f"our-{one}": one for one in MODELS["azure"]})
    answer = billed_answers.chat_completions(usage, streams=chat.streams, context={})
    body = billed_formats.chat_completions(chat)
    path = f"/openai/deployments/our-{model}/chat/completions"
    return _over_http(
        *(profile, "ours.openai.azure.com", path, body, answer),
        model=model,
        usage=usage,
        place={"provider_id": "azure"},
    )


def _groq(random, model, *, is_plain):
    media = ("image",) if "llama-4" in model else ()
    chat = _chat(random, is_plain, media=media)
    size = chat.text_tokens()
    size += sum(billed_images.llama(one.width, one.height) for one in chat.images())
    usage = {"input_tokens": size, **_output(random, chat, is_plain=is_plain, reasons=True)}
    if "gpt-oss" in model or "kimi" in model:
        usage |= _cached(random, size, is_plain=is_plain)
    answer = billed_answers.chat_completions(usage, streams=chat.streams, context={}, groq=True)
    body = billed_formats.chat_completions(chat) | {"model": model, "reasoning_format": "parsed"}
    return _over_http(
        *(llm.groq, "api.groq.com", "/openai/v1/chat/completions", body, answer),
        model=model,
        usage=usage,
        place={"provider_id": "groq"},
    )


def _compatible(random, model, *, is_plain):
    host = "api.deepseek.com" if model.startswith("deepseek") else "api.mistral.ai"
    path = "/chat/completions" if host.endswith("deepseek.com") else "/v1/chat/completions"
    has_window = model in ("mistral-large-2512", "mistral-small-2603", "mistral-medium-3-5")
    chat = _chat(random, is_plain, media=("image",) if has_window else ())
    size = chat.text_tokens() + 4200 * len(chat.images())
    usage = {"input_tokens": size, **_output(random, chat, is_plain=is_plain, reasons=True)}
    usage |= _cached(random, size, is_plain=is_plain)
    answer = billed_answers.chat_completions(usage, streams=chat.streams, context={})
    body = billed_formats.chat_completions(chat, most="max_tokens") | {"model": model}
    return _over_http(
        *(llm.compatible, host, path, body, answer),
        model=model,
        usage=usage,
        place={"provider_api_url": f"https://{host}{path}"},
    )


# Anthropic and Google.

_FAST = ("claude-opus-5", "claude-opus-5-5", "claude-fable-5-2")
_HIGH_RESOLUTION = ("-5", "-5-5", "-5-2")


def _anthropic(random, model, *, is_plain):
    chat = _chat(random, is_plain, media=("image",), caches=True)
    usage = _claude_usage(random, model, chat, is_plain)
    body = billed_formats.anthropic(chat) | {"model": model}
    context, factor = {"service_tier": "standard"}, Decimal(1)
    if not is_plain and random.random() < 0.3:
        body["service_tier"] = random.choice(["auto", "standard_only"])
        context["service_tier"] = random.choice(["standard", "priority"])
    if model in _FAST and not is_plain and random.random() < 0.3:
        body["speed"], context["speed"] = "fast", random.choice(["fast", "standard"])
    if not is_plain and random.random() < 0.1:
        body["inference_geo"], factor = "us", Decimal("1.1")
    answer = billed_answers.anthropic(usage, streams=chat.streams, context=context)
    return _over_http(
        *(llm.anthropic, "api.anthropic.com", "/v1/messages", body, answer),
        model=model,
        usage=usage,
        place={"provider_id": "anthropic"},
        context=context,
        factor=factor,
    )


def _claude_usage(random, model, chat, is_plain):
    size = chat.text_tokens()
    is_new = "haiku-4" not in model and "opus-4-1" not in model
    size += sum(billed_images.claude(one.width, one.height, is_new=is_new) for one in chat.images())
    usage = {"input_tokens": size, **_output(random, chat, is_plain=is_plain)}
    return usage | _marked(random, chat, size)


def _gemini(random, model, *, is_plain):
    has_price = model in ("gemini-2.0-flash", "gemini-2.5-flash", "gemini-3.1-flash-lite")
    chat = _chat(random, is_plain, media=("image", "audio"), choices=4)
    size = chat.text_tokens() + 32 * chat.seconds()
    size += sum(billed_images.gemini(model, one.width, one.height) for one in chat.images())
    usage = {"input_tokens": size, **_output(random, chat, is_plain=is_plain, reasons=True)}
    if has_price and chat.seconds():
        usage["input_audio_tokens"] = 32 * chat.seconds()
    else:
        usage |= _cached(random, size, is_plain=is_plain)
    action = "streamGenerateContent" if chat.streams else "generateContent"
    answer = billed_answers.gemini(usage, streams=chat.streams)
    path = f"/v1beta/models/{model}:{action}"
    host = "generativelanguage.googleapis.com"
    return _over_http(
        *(llm.gemini, host, path, billed_formats.gemini(chat), answer),
        model=model,
        usage=usage,
        place={"provider_id": "google"},
    )


# Bedrock.


def _bedrock(random, model, *, is_plain):
    is_claude = "claude" in model
    has_images = is_claude or "llama4" in model
    media = ("image",) if has_images else ()
    chat = _chat(random, is_plain, media=media, caches=is_claude)
    invoked = random.random() < 0.3 and (is_claude or "llama3" in model or "nova" in model)
    if invoked and "llama3" in model:
        chat = billed_chats.plain_english(random)
    if is_claude:
        usage = _claude_usage(random, model, chat, is_plain)
    else:
        size = chat.text_tokens()
        size += sum(billed_images.llama(one.width, one.height) for one in chat.images())
        usage = {"input_tokens": size, **_output(random, chat, is_plain=is_plain)}
        usage |= _cached(random, size, is_plain=is_plain) if "nova" in model else {}
    maker = _invoked if invoked else _conversed
    body, operation, read = maker(chat, model, usage)
    _, _, request = llm.bedrock.asked_for(
        "bedrock-runtime", operation, "eu-west-1", {"modelId": model, **body}
    )
    return Call(llm.bedrock, model, request, usage, read, {"provider_id": "aws"})


def _events_read(events, request):
    reader = llm.bedrock.stream_reader(request)
    for event in events:
        reader.feed(event)
    return reader.usage()


def _conversed(chat, _model, usage):
    answer = billed_answers.converse(usage, streams=chat.streams)
    if chat.streams:
        return billed_formats.converse(chat), "ConverseStream", partial(_events_read, answer)
    return (
        billed_formats.converse(chat),
        "Converse",
        lambda _: llm.bedrock.usage_of(answer, {}),
    )


def _invoked(chat, model, usage):
    if "claude" in model:
        body = billed_formats.anthropic(chat) | {"anthropic_version": "bedrock-2023-05-31"}
        body.pop("stream", None)
    elif "nova" in model:
        body = billed_formats.converse(chat) | {"schemaVersion": "messages-v1"}
    else:
        prompt = "".join(part.text for part in chat.parts())
        body = {"prompt": f"{chat.system}{prompt}", "max_gen_len": chat.most, "top_p": 0.9}
    parameters = {"body": json.dumps(body, default=_base64).encode()}
    answer = billed_answers.invoke_model(usage, streams=chat.streams, is_claude="claude" in model)
    if chat.streams:
        return parameters, "InvokeModelWithResponseStream", partial(_events_read, answer)
    return parameters, "InvokeModel", lambda _: llm.bedrock.usage_of({}, answer)


def _base64(data):
    return data.hex()


_MAKERS = {
    "openai": _openai,
    "azure": _azure,
    "anthropic": _anthropic,
    "gemini": _gemini,
    "bedrock": _bedrock,
    "groq": _groq,
    "compatible": _compatible,
}
