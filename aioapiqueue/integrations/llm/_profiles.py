"""The profiles of the providers."""

from __future__ import annotations

import re
from dataclasses import replace

from aioapiqueue.integrations.llm._bedrock import BedrockProfile
from aioapiqueue.integrations.llm._profile import Profile
from aioapiqueue.integrations.llm._request import Endpoint
from aioapiqueue.integrations.llm._tariffs import Pricing
from aioapiqueue.spi import CALLS

_MINUTE = 60.0
_DAY = 86_400.0

_TOOLS = ("tools", "functions", "response_format")
_OPENAI = (
    Endpoint(
        r"(?:/deployments/(?P<model>[^/]+))?/chat/completions",
        prompt=("messages", *_TOOLS),
        most=("max_completion_tokens", "max_tokens"),
        choices=("n",),
    ),
    Endpoint(
        r"/responses",
        prompt=("instructions", "input", "tools", "text"),
        most=("max_output_tokens",),
    ),
    Endpoint(
        r"(?:/deployments/(?P<model>[^/]+))?/completions",
        prompt=("prompt", "suffix"),
        most=("max_tokens",),
        choices=("n", "best_of"),
    ),
    Endpoint(r"(?:/deployments/(?P<model>[^/]+))?/embeddings", prompt=("input",)),
    # These cost a request and no tokens: no response states the tokens of images and audio.
    Endpoint(
        r"(?:/deployments/(?P<model>[^/]+))?"
        r"/(?:images/generations|audio/speech|moderations|rerank)"
    ),
)

# Published by the providers, or measured by users where nothing is: gpt-4o-mini has 2,833 tokens
# and 5,667 for each of up to 8 tiles; models with patches up to 1,536 times 2.46; the newest ones
# have counted 14,364 for a photo of 12 megapixels. Claude: 4,784. Gemini: 258 for each tile, whose
# edge is two thirds of the image's shorter one; 48 tiles are an image of 16:1. Llama 3.2: 6,404,
# which is more than other models of Bedrock and Groq count.
_FEW = dict.fromkeys(
    [
        "gpt-4*",
        "chatgpt-4*",
        "o1*",
        "o3*",
        "o4*",
        "gpt-5",
        "gpt-5-*",
        "gpt-5.1*",
        "gpt-5.2*",
        "gpt-5.3*",
    ],
    3_800,
)
_MANY = dict.fromkeys(("gpt-4o-mini*", "ft:gpt-4o-mini*"), 48_169)
_UNKNOWN = {"o3-mini*": 20_000, "*": 20_000}  # o3-mini has no published number of its own
_OPENAI_PRICING = Pricing(provider="openai", image_tokens={**_FEW, **_MANY, **_UNKNOWN})

openai = Profile(
    name="openai",
    pricing=_OPENAI_PRICING,
    endpoints=_OPENAI,
    units=("tokens",),
    periods={CALLS: _MINUTE, "tokens": _MINUTE},
    refills=True,
    # OpenAI counts the prompt and the maximum of a request when it arrives, and refunds nothing.
    # Without a maximum, it counts the default of completions, which is 16.
    default_output=16,
)

azure = openai.with_(
    name="azure",
    # "If the service performs processing, you will be charged even if the status code is not 200",
    # as for a content filter (400).
    pricing=replace(
        _OPENAI_PRICING,
        provider="azure",
        # A deployment with a table of its own may be any model.
        image_tokens={**_OPENAI_PRICING.image_tokens, "*": 48_169},
        names_models=False,
        charges_rejected=True,
    ),
)
"""Azure OpenAI: like `openai`, with the deployment as the model."""

compatible = Profile(
    name="compatible",
    # `max_tokens` first: it is what most of these servers know.
    endpoints=tuple(replace(one, most=one.most[::-1]) for one in _OPENAI),
    units=("tokens",),
    # Such servers do not document how they count. Most likely, they count the actual output.
    credits=True,
    default_output=512,  # a page of text; settled when the response ends
)
"""Servers with OpenAI's protocol: Mistral, OpenRouter, vLLM, Together, Fireworks and so on."""

groq = compatible.with_(
    name="groq",
    pricing=Pricing(provider="groq", image_tokens={"*": 6_500}),
    # Its headers report the requests per day and the tokens per minute.
    periods={CALLS: _DAY, "tokens": _MINUTE},
    counts_cache_reads=False,  # "Cached tokens do not count towards your rate limits"
)

anthropic = Profile(
    name="anthropic",
    pricing=Pricing(provider="anthropic", image_tokens={"*": 5_000}, caches_on_request=True),
    answers_refusals=True,
    endpoints=(
        Endpoint(r"/messages", prompt=("system", "messages", "tools"), most=("max_tokens",)),
        # Token counts and batches have limits of their own: their key is the host.
    ),
    units=("input_tokens", "output_tokens"),
    periods=dict.fromkeys((CALLS, "input_tokens", "output_tokens"), _MINUTE),
    refills=True,
    credits=True,
    counts_cache_reads=False,  # for most models
)

gemini = Profile(
    name="gemini",
    pricing=Pricing(
        provider="google", image_tokens={"*": 12_400}, audio_costs_as_text=True, window=1_048_576
    ),
    endpoints=(
        Endpoint(
            r"/models/(?P<model>[^/:]+):(?:streamGenerateContent|generateContent)",
            prompt=("systemInstruction", "system_instruction", "contents", "tools"),
            most=("generationConfig.maxOutputTokens", "generation_config.max_output_tokens"),
            choices=("generationConfig.candidateCount", "generation_config.candidate_count"),
        ),
        Endpoint(
            r"/models/(?P<model>[^/:]+):(?:embedContent|batchEmbedContents)",
            prompt=("content", "requests"),
        ),
        Endpoint(r"/models/(?P<model>[^/:]+):predict"),  # images, counted by request
    ),
    units=("input_tokens",),  # output is not limited
    periods=dict.fromkeys((CALLS, "input_tokens"), _MINUTE),
    credits=True,
)

_BURNS_FIVE = re.compile(r"anthropic\.claude-(?:3-7|(?:[a-z]+-)?[4-9])")


def _burndown(model: str) -> float:
    return 5 if _BURNS_FIVE.search(model) else 1


bedrock = BedrockProfile(
    name="bedrock",
    pricing=Pricing(provider="aws", image_tokens={"*": 6_500}, caches_on_request=True),
    endpoints=(
        Endpoint(
            r"Converse|ConverseStream",
            prompt=("system", "messages", "toolConfig"),
            most=("inferenceConfig.maxTokens",),
        ),
        Endpoint(
            r"InvokeModel|InvokeModelWithResponseStream",
            prompt=(
                *("system", "messages", "tools", "toolConfig", "prompt", "inputText", "message"),
                *("texts", "query", "documents"),  # of Cohere's embeddings and rerankers
            ),
            most=(
                "max_tokens",
                "inferenceConfig.maxTokens",
                "inferenceConfig.max_new_tokens",
                "textGenerationConfig.maxTokenCount",
                "max_gen_len",
                "max_completion_tokens",
            ),
        ),
    ),
    units=("tokens",),
    periods=dict.fromkeys((CALLS, "tokens"), _MINUTE),
    credits=True,
    counts_cache_reads=False,
    # Without a maximum, Bedrock counts that of the model: 64,000 or more for current models.
    default_output=64_000,
    output_weight=_burndown,
)
"""Amazon Bedrock, through `pace_session(..., profile=llm.bedrock)`."""

_PROFILES_BY_HOST = {"openai.com": openai, "azure.com": azure, "groq.com": groq}


def profile_for(host: str, path: str) -> Profile | None:
    """Return the profile for requests to an address, or None if their responses have no tokens.

    Args:
        host: host of the URL, without the port.
        path: path of the URL, without the query.
    """
    for profile in (anthropic, gemini, compatible):
        endpoint = profile.read(host=host, path=path).endpoint
        if endpoint is not None and endpoint.most:
            named = _PROFILES_BY_HOST.items()
            own = [one for name, one in named if f".{host}".endswith(f".{name}")]
            return own[0] if own and profile is compatible else profile
    return None
