"""The profiles of the providers."""

from __future__ import annotations

import re

from aioapiqueue.integrations.llm._bedrock import BedrockProfile
from aioapiqueue.integrations.llm._profile import Profile
from aioapiqueue.integrations.llm._request import Endpoint
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

openai = Profile(
    name="openai",
    endpoints=_OPENAI,
    units=("tokens",),
    periods={CALLS: _MINUTE, "tokens": _MINUTE},
    refills=True,
    # OpenAI counts the prompt and the maximum of a request when it arrives, and refunds nothing.
    # Without a maximum, it counts the default of completions, which is 16.
    default_output=16,
)

azure = openai.with_(name="azure")
"""Azure OpenAI: like `openai`, with the deployment as the model."""

compatible = Profile(
    name="compatible",
    endpoints=_OPENAI,
    units=("tokens",),
    # Such servers do not document how they count. Most likely, they count the actual output.
    credits=True,
    default_output=512,  # a page of text; settled when the response ends
)
"""Servers with OpenAI's protocol: Mistral, OpenRouter, vLLM, Together, Fireworks and so on."""

groq = compatible.with_(
    name="groq",
    # Its headers report the requests per day and the tokens per minute.
    periods={CALLS: _DAY, "tokens": _MINUTE},
    counts_cache_reads=False,  # "Cached tokens do not count towards your rate limits"
)

anthropic = Profile(
    name="anthropic",
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
    endpoints=(
        Endpoint(
            r"/models/(?P<model>[^/:]+):(?:streamGenerateContent|generateContent)",
            prompt=("systemInstruction", "system_instruction", "contents", "tools"),
            most=("generationConfig.maxOutputTokens", "generation_config.max_output_tokens"),
            choices=("generationConfig.candidateCount",),
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
    endpoints=(
        Endpoint(
            r"Converse|ConverseStream",
            prompt=("system", "messages", "toolConfig"),
            most=("inferenceConfig.maxTokens",),
        ),
        Endpoint(
            r"InvokeModel|InvokeModelWithResponseStream",
            prompt=(
                *("system", "messages", "tools", "prompt", "inputText", "message"),
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
