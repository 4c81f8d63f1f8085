"""Local servers that speak the protocols of LLM providers, and enforce their quotas.

    async with OpenAIServer({"calls": 60, "tokens": 30_000}, period=10) as server:
        client = AsyncOpenAI(base_url=server.base_url, api_key="mine")
        text = prompt(40, out=120, seconds=0.4)  # 40 tokens; the answer has 120, and takes 0.4 s

What the prompt asks for, what each request costs and what is given back: `prompts`, the modules of
the providers, and `base`. `quotas` and `ledger` need no sockets and take the time as an argument.
"""

from tests.helpers.llm_servers.anthropic import AnthropicServer
from tests.helpers.llm_servers.base import Fault, LLMServer
from tests.helpers.llm_servers.gemini import GeminiServer
from tests.helpers.llm_servers.ledger import Arrival, Ledger
from tests.helpers.llm_servers.openai import AzureServer, GroqServer, OpenAIServer
from tests.helpers.llm_servers.prompts import count_tokens, prompt
from tests.helpers.llm_servers.quotas import Job, Quotas, Refusal, least_time
from tests.helpers.llm_servers.users import SteadyUser, steady_user

__all__ = [
    "AnthropicServer",
    "Arrival",
    "AzureServer",
    "Fault",
    "GeminiServer",
    "GroqServer",
    "Job",
    "LLMServer",
    "Ledger",
    "OpenAIServer",
    "Quotas",
    "Refusal",
    "SteadyUser",
    "count_tokens",
    "least_time",
    "prompt",
    "steady_user",
]
