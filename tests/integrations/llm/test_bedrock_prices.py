"""Bedrock's calls under a limit in USD, through real clients against a server on loopback."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import boto3
import botocore.exceptions
import botocore.session
import pytest

from aioapiqueue import ApiQueue, LimitExceeded
from aioapiqueue.integrations import aiobotocore as by_aiobotocore
from aioapiqueue.integrations import botocore as by_botocore
from aioapiqueue.integrations import llm
from tests.helpers.bedrock_clients import (
    CONVERSE,
    KEY,
    MODEL,
    OPERATIONS,
    a_session,
    options,
    stream_of,
)
from tests.helpers.llm_servers.bedrock import BedrockServer
from tests.helpers.priced_calls import BUDGET, per_million

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("price_package", "may_block")]

PRICE = 40 * 3 + 100 * 15  # of the server's usual answer, by Claude Sonnet 4's prices
TINY = "0.0001 usd in all"
ARN = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc123"
PATIENCE = 60  # seconds: far more than anything here takes


@pytest.fixture
def may_block(blockbuster):
    """Let botocore read its models."""
    blockbuster.deactivate()


@asynccontextmanager
async def priced_client(*limits, profile=llm.bedrock, lanes=None, attempts=1, **how):
    """Give a queue, a server, and a client of aiobotocore."""
    queue = ApiQueue(*limits, lanes={"*": ()} if lanes is None else lanes)
    async with (
        BedrockServer(**how) as server,
        by_aiobotocore.paced(
            a_session().create_client("bedrock-runtime", **options(server, attempts=attempts)),
            queue,
            profile=profile,
        ) as client,
    ):
        yield queue, server, client


async def use(queue, limit=BUDGET):
    """Return the use of a budget, once nothing is reserved."""
    async with asyncio.timeout(PATIENCE):
        while queue.stats.budgets[limit].reserved:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.001)
    return queue.stats.budgets[limit]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_aiobotocore(operation):
    """Each operation is settled to the usage in its response, or at the end of its stream."""
    async with priced_client(BUDGET) as (queue, server, client):
        answer = await getattr(client, operation)(**OPERATIONS[operation])
        if "stream" in operation:
            assert queue.stats.costs["usd"] > 500 * 15 / 1e6
            assert len([event async for event in stream_of(answer)]) >= 2
        assert (await use(queue)).spent == per_million(PRICE)
        assert queue.stats.prices.startswith("genai-prices ")
        assert len(server.calls) == 1


def ask_boto3(server, queue, operation, parameters, *, profile=llm.bedrock, attempts=1):
    """Make a call of boto3, and read it to its end."""
    session = boto3.Session(botocore_session=a_session(botocore))
    by_botocore.pace_session(session, {"bedrock-runtime": queue}, profile=profile)
    client = session.client("bedrock-runtime", **options(server, attempts=attempts))
    try:
        answer = getattr(client, operation)(**parameters)
        return list(stream_of(answer)) if "stream" in operation else answer
    finally:
        client.close()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_boto3(operation):
    """The same in a thread."""
    queue = ApiQueue(BUDGET, lanes={"*": ()})
    async with BedrockServer() as server:
        await asyncio.to_thread(ask_boto3, server, queue, operation, OPERATIONS[operation])
        # The queue's thread settles the call after its response.
        async with asyncio.timeout(PATIENCE):
            while queue.stats.costs["usd"] != per_million(PRICE):  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_used_up_budget(operation):
    """`LimitExceeded` reaches the user as it is, and botocore does not try again."""
    parameters = OPERATIONS[operation]
    async with priced_client(TINY, attempts=3) as (queue, server, client):
        with pytest.raises(LimitExceeded, match=TINY) as caught:
            await getattr(client, operation)(**parameters)
        assert llm.limit_exceeded(caught.value) is caught.value
        assert (queue.stats.refused, queue.running, server.calls) == (1, 0, [])


@pytest.mark.parametrize("operation", ["converse", "invoke_model_with_response_stream"])
async def test_used_up_budget_in_threads(operation):
    """The same of boto3."""
    queue = ApiQueue(TINY, lanes={"*": ()})
    parameters = OPERATIONS[operation]
    async with BedrockServer() as server:
        with pytest.raises(LimitExceeded, match=TINY):
            await asyncio.to_thread(ask_boto3, server, queue, operation, parameters, attempts=3)
        assert (queue.stats.refused, server.calls) == (1, [])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({**CONVERSE, "modelId": "mine.unknown-1"}, "a request to the model 'mine.unknown-1'"),
        ({**CONVERSE, "modelId": ARN}, f'prices={{"{ARN}": "known-model"}}'),
        ({**CONVERSE, "inferenceConfig": {}}, "set inferenceConfig.maxTokens in the request"),
        ({**CONVERSE, "performanceConfig": {"latency": "optimized"}}, "optimized latency"),
        ({**CONVERSE, "serviceTier": {"type": "reserved"}}, "service_tier='reserved'"),
    ],
)
async def test_calls_without_price(parameters, words):
    """They are refused once, as they are; boto3 and aiobotocore raise the same error."""
    async with priced_client(BUDGET, attempts=3) as (queue, server, client):
        with pytest.raises(llm.NoPrice) as caught:
            await client.converse(**parameters)
        assert words in str(caught.value)
        other = ApiQueue(BUDGET, lanes={"*": ()})
        with pytest.raises(llm.NoPrice) as caught:
            await asyncio.to_thread(ask_boto3, server, other, "converse", parameters, attempts=3)
        assert words in str(caught.value)
        assert (server.calls, queue.running, other.running) == ([], 0, 0)


@pytest.mark.parametrize("prices", [{ARN: MODEL}, {"arn:aws:bedrock:*": MODEL}])
async def test_inference_profile_with_a_name(prices):
    """Its ARN does not tell the model, so that the user names it."""
    profile = llm.bedrock.with_(prices=prices)
    async with priced_client(BUDGET, profile=profile) as (queue, _, client):
        await client.converse(**{**CONVERSE, "modelId": ARN})
        assert (await use(queue)).spent == per_million(PRICE)


async def test_maximum_is_set_in_converse():
    """Only Converse has one field for all models; other settings stay."""
    profile = llm.bedrock.with_(max_output=50)
    bare = {"modelId": MODEL, "messages": CONVERSE["messages"]}
    async with priced_client(BUDGET, profile=profile) as (_, server, client):
        await client.converse(**bare)
        await client.converse(**bare, inferenceConfig={"temperature": 0.5})
        await client.converse(**CONVERSE)
        stream = await client.converse_stream(**bare)
        assert [event async for event in stream["stream"]]
        with pytest.raises(llm.NoPrice):
            body = json.dumps({"messages": CONVERSE["messages"]})
            await client.invoke_model(modelId=MODEL, body=body)
        asked = [one.get("inferenceConfig") for one in server.bodies]
    assert asked == [
        {"maxTokens": 50},
        {"temperature": 0.5, "maxTokens": 50},
        {"maxTokens": 500},
        {"maxTokens": 50},
    ]


async def test_lane_prices_only_its_calls():
    """A limit in USD of one model: the others need no price."""
    lanes = {KEY: BUDGET, "*": ()}
    async with priced_client(lanes=lanes) as (queue, server, client):
        await client.converse(**{**CONVERSE, "modelId": "mine.unknown-1"})
        await client.converse(**CONVERSE)
        lane = queue.stats.lanes[KEY]
        assert lane.budgets[BUDGET].spent == per_million(PRICE)
        assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("status", "error", "is_free"),
    [
        (400, "ValidationException", True),
        (403, "AccessDeniedException", True),
        (424, "ModelErrorException", True),
        (429, "ThrottlingException", True),
        (408, "ModelTimeoutException", False),
        (500, "InternalServerException", False),
        (503, "ServiceUnavailableException", False),
    ],
)
async def test_failed_calls(status, error, is_free):
    """A refused call is free; after an error of the server, it may have been served."""
    async with priced_client(BUDGET) as (queue, server, client):
        server.failure = (status, error)
        with pytest.raises(botocore.exceptions.ClientError):
            await client.converse(**CONVERSE)
        spent = (await use(queue)).spent
        assert spent == 0 if is_free else spent > 500 * 15 / 1e6


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if "stream" in one])
async def test_stream_left_early_keeps_output(operation):
    """What has arrived may be less than is billed."""
    async with priced_client(BUDGET, pieces=("hello",) * 50) as (queue, _, client):
        answer = await getattr(client, operation)(**OPERATIONS[operation])
        reserved = queue.stats.costs["usd"]
        events = stream_of(answer)
        async for _event in events:
            break
        events.close()
        assert (await use(queue)).spent == reserved > 500 * 15 / 1e6


async def test_output_that_is_not_stated():
    """A response without it keeps the reservation of its output."""
    async with priced_client(BUDGET, used=(40, None)) as (queue, _, client):
        await client.invoke_model(**OPERATIONS["invoke_model"])
        assert (await use(queue)).spent >= 500 * 15 / 1e6


@pytest.mark.parametrize(
    "prices",
    [
        {"amazon.titan-embed-*": {"input": 2}},
        lambda _, usage: 0.5 if usage is None else usage["input_tokens"] * 2e-6,
    ],
)
async def test_embeddings_have_no_output(prices):
    """A response that states only its input settles them, and they need no maximum."""
    profile = llm.bedrock.with_(prices=prices)
    body = json.dumps({"inputText": "word " * 31})
    async with priced_client(BUDGET, profile=profile, used=(40, None)) as (queue, _, client):
        await client.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=body)
        assert (await use(queue)).spent == per_million(40 * 2)


async def test_function_that_fails_at_the_end():
    """The user has the response, and the call keeps what it has reserved."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    def price(_, usage):
        if usage is None:
            return 0.5
        raise KeyError("mine")

    profile = llm.bedrock.with_(prices=price)
    for operation, parameters in OPERATIONS.items():
        async with priced_client(BUDGET, profile=profile) as (queue, _, client):
            answer = await getattr(client, operation)(**parameters)
            if "stream" in operation:
                assert [event async for event in stream_of(answer)]
            assert (await use(queue)).spent == 0.5
    assert len(errors) == len(OPERATIONS)


@pytest.mark.parametrize(
    ("operation", "ttl", "rate"),
    [("InvokeModel", "1h", 4), ("InvokeModel", "5m", 2), ("Converse", "1h", 2)],
)
def test_headers_state_no_time_in_cache(operation, ttl, rate):
    """So that all that `InvokeModel` has written for an hour has the price of an hour."""
    table = {"input": 1e6, "cache_write": 2e6, "cache_write_1h": 4e6, "output": 0}
    profile = llm.bedrock.with_(prices={"*": table}, max_output=9)
    mark = {"type": "ephemeral", "ttl": ttl}
    said = {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": mark}]}
    body = {"messages": [said], "max_tokens": 9, "inferenceConfig": {"maxTokens": 9}, "model": "m"}
    request, _ = profile.priced(profile.read(host="h", path=operation, body=body), {}, 0)
    usage = {"input_tokens": 3, "cache_write_tokens": 10, "output_tokens": 1}
    assert profile.settled(request, usage)["usd"] == 3 + 10 * rate
