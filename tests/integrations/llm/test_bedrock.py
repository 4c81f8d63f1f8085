"""Bedrock through real clients of aiobotocore and boto3, against a server on loopback."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import asynccontextmanager

import boto3
import botocore.session
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import aiobotocore as by_aiobotocore
from aioapiqueue.integrations import botocore as by_botocore
from aioapiqueue.integrations import llm
from aioapiqueue.registry import Registry
from tests.helpers.bedrock_clients import (
    CONVERSE,
    ESTIMATE,
    KEY,
    MODEL,
    OPERATIONS,
    TEXT,
    a_session,
    options,
    stream_of,
)
from tests.helpers.llm_servers.bedrock import BedrockServer

pytestmark = pytest.mark.real

PATIENCE = 60  # seconds: far more than anything here takes
USED = 40 + 5 * 100  # a token of the answer counts five times


def a_queue():
    """Return a queue that knows no limits of a model."""
    return ApiQueue(lanes={"*": ()})


@asynccontextmanager
async def paced_client(queue, **how):
    """Give a server, and a client of aiobotocore whose calls a queue paces."""
    async with (
        BedrockServer(**how) as server,
        by_aiobotocore.paced(
            a_session().create_client("bedrock-runtime", **options(server)),
            queue,
            profile=llm.bedrock,
        ) as client,
    ):
        yield server, client


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_aiobotocore(operation, blockbuster):
    """A call is charged its prompt and maximum, and settled by what its answer says."""
    blockbuster.deactivate()  # botocore reads its models
    queue, session = a_queue(), a_session()
    by_aiobotocore.pace_session(session, {"bedrock-runtime": queue}, profile=llm.bedrock)
    async with (
        BedrockServer() as server,
        session.create_client("bedrock-runtime", **options(server)) as client,
    ):
        answer = await getattr(client, operation)(**OPERATIONS[operation])
        if "stream" in operation:
            assert queue.stats.costs == {"calls": 1, "tokens": ESTIMATE + 500}
            assert len([event async for event in stream_of(answer)]) >= 2
        assert queue.stats.costs == {"calls": 1, "tokens": USED}
        assert server.calls[0][1] == MODEL
    assert queue.running == 0


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_boto3(operation, blockbuster):
    """The same in a thread."""
    blockbuster.deactivate()
    queue = a_queue()

    def call(server):
        session = boto3.Session(botocore_session=a_session(botocore))
        by_botocore.pace_session(session, {"bedrock-runtime": queue}, profile=llm.bedrock)
        client = session.client("bedrock-runtime", **options(server))
        answer = getattr(client, operation)(**OPERATIONS[operation])
        if "stream" in operation:
            assert len(list(stream_of(answer))) >= 2
        client.close()

    async with BedrockServer() as server:
        await asyncio.to_thread(call, server)
    await settled(queue, {"calls": 1, "tokens": USED}.__eq__)


async def test_limits_of_a_model(blockbuster):
    """Limits are of a model in a Region; a call of another model has others."""
    blockbuster.deactivate()
    queue = ApiQueue(lanes={KEY: "600 tokens/min burst 600", "*": ()})
    async with paced_client(queue) as (_, client):
        await client.converse(**CONVERSE)
        assert queue.estimate(key=KEY, cost={"tokens": 60}) == 0  # 543 were reserved, 540 used
        assert queue.estimate(key=KEY, cost={"tokens": 70}) > 0
        await client.converse(**{**CONVERSE, "modelId": "amazon.nova-lite-v1:0"})
    assert queue.stats.lanes[KEY].costs["tokens"] == USED
    assert queue.stats.lanes["*"].costs["tokens"] == 140  # its answers count once


async def test_throttled(blockbuster):
    """Push-back is that of the model; what was refused is a call, and no tokens."""
    blockbuster.deactivate()
    queue = a_queue()
    async with paced_client(queue) as (server, client):
        server.refuse = True
        with pytest.raises(client.exceptions.ThrottlingException):
            await client.converse(**CONVERSE)
    assert queue.stats.lanes["*"].throttled == 1
    assert queue.stats.costs == {"calls": 1, "tokens": 0}


def test_other_services_as_before():
    """A profile leaves other services alone: one call each, by operation."""
    queue = ApiQueue("10/s")
    by_aiobotocore.pace_session(a_session(), queue, profile=llm.bedrock)
    assert llm.bedrock.asked_for("ec2", "DescribeInstances", "eu-west-1", {}) is None


def test_registry_is_refused():
    """A registry has costs of its own."""
    with pytest.raises(TypeError, match=r"needs an ApiQueue for .*, not a Registry"):
        by_aiobotocore.pace_session(a_session(), Registry({}), profile=llm.bedrock)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_gen_len": 7}, 7),
        ({"textGenerationConfig": {"maxTokenCount": 7}}, 7),
        ({"inferenceConfig": {"max_new_tokens": 7}}, 7),
        ({"inferenceConfig": {"maxTokens": 7}}, 7),
        ({}, 64_000),
    ],
)
def test_maximum_of_each_model(body, tokens):
    """Each family of models has its own name for the maximum; without one, much is reserved."""
    parameters = {"modelId": "m", "body": json.dumps(body).encode()}
    found = llm.bedrock.asked_for("bedrock-runtime", "InvokeModel", "us-east-1", parameters)
    assert found[:2] == ("m us-east-1", {"calls": 1, "tokens": tokens})


@pytest.mark.parametrize(
    ("model", "body", "tokens"),
    [
        ("amazon.titan-embed-text-v2:0", {"inputText": TEXT}, ESTIMATE - 4),
        ("cohere.embed-english-v3", {"texts": [TEXT], "input_type": "search_query"}, ESTIMATE - 4),
        ("cohere.rerank-v3-5:0", {"query": "", "documents": [TEXT]}, ESTIMATE - 4),
        ("amazon.nova-canvas-v1:0", {"textToImageParams": {"text": TEXT}}, 0),
        ("stability.sd3-5-large-v1:0", {"mode": "text-to-image"}, 0),
    ],
)
def test_answers_that_are_no_text(model, body, tokens):
    """Of those, nothing is reserved: they cost their prompt, where that is text."""
    parameters = {"modelId": model, "body": json.dumps(body)}
    found = llm.bedrock.asked_for("bedrock-runtime", "InvokeModel", "us-east-1", parameters)
    assert found[1] == {"calls": 1, "tokens": tokens}


async def test_answer_that_names_its_input_alone(blockbuster):
    """It has no text, whatever the model is called: what was reserved for that comes back."""
    blockbuster.deactivate()
    queue = a_queue()
    model = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc"
    async with paced_client(queue, used=(12, None)) as (_, client):
        await client.invoke_model(modelId=model, body=json.dumps({"inputText": TEXT}))
    assert queue.stats.costs == {"calls": 1, "tokens": 12}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_output_above_what_was_allowed(operation, blockbuster):
    """It is counted as malformed, and of it the call keeps what it was charged."""
    blockbuster.deactivate()
    queue = a_queue()
    async with paced_client(queue, used=(40, 600)) as (_, client):
        answer = await getattr(client, operation)(**OPERATIONS[operation])
        if "stream" in operation:
            async for _ in stream_of(answer):
                pass
    assert queue.stats.costs == {"calls": 1, "tokens": 40 + 500}
    assert queue.stats.malformed == 1


WITH_IMAGE = [
    {"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": b"x"}}}]}
]
IMAGE_BODY = {
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
                }
            ],
        }
    ],
    "max_tokens": 500,
}


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_input_that_closes_a_model(operation, blocks, blockbuster, caplog):
    """At a limit, 1e9 tokens of a call with an image are malformed, and 1.2e6 are charged."""
    blockbuster.deactivate()
    parameters = {
        **OPERATIONS[operation],
        **({"messages": WITH_IMAGE} if "converse" in operation else {}),
        **({"body": json.dumps(IMAGE_BODY)} if "invoke" in operation else {}),
    }

    def ask(server, queue):
        client = boto3.client("bedrock-runtime", **options(server))
        with by_botocore.paced(client, queue, profile=llm.bedrock):
            answer = getattr(client, operation)(**parameters)
            list(stream_of(answer) or ())
        client.close()

    async def call(used):
        queue = ApiQueue(lanes={"*": "600000 tokens/min burst 600000"}, name="models")
        if blocks:
            async with BedrockServer(used=used) as server:
                await asyncio.to_thread(ask, server, queue)
        else:
            async with paced_client(queue, used=used) as (_, client):
                answer = await getattr(client, operation)(**parameters)
                if "stream" in operation:
                    async for _ in stream_of(answer):
                        pass
        await settled(queue, lambda costs: queue.stats.malformed or costs["tokens"] == used[0])
        return queue.stats.malformed, queue.stats.costs["tokens"]

    assert await call((1_200_000, 0)) == (0, 1_200_000)
    assert caplog.records == []
    estimate = 1611 if "converse" in operation else 1604  # an image, and the message around it
    assert await call((10**9, 0)) == (1, estimate + 500)
    async with asyncio.timeout(PATIENCE):  # it is counted before the log has it
        while not caplog.records:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.001)
    (record,) = caplog.records
    assert (
        '1000000000 tokens, far above the limit "600000 tokens/min burst 600000"' in record.message
    )


async def read(stream, pieces, has_read, *, waits):
    """Read so many pieces of text, and leave the stream, or wait with the last one in hand."""
    seen = 0
    async for event in stream:
        seen += "contentBlockDelta" in event or "chunk" in event
        if seen == pieces:
            has_read.set()
            if not waits:
                break
            await asyncio.sleep(1000)


async def settled(queue, is_settled):
    """Wait until what the calls have cost is so: it is soon, as the loop goes on."""
    async with asyncio.timeout(PATIENCE):
        while not is_settled(queue.stats.costs):  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.001)


@pytest.mark.usefixtures("own_garbage")
@pytest.mark.parametrize("how", ["break", "close", "cancel"])
@pytest.mark.parametrize("operation", [one for one in OPERATIONS if "stream" in one])
async def test_stream_left_early(operation, how, blockbuster):
    """What has come is settled: its events are text, and the rest was never made."""
    blockbuster.deactivate()
    queue = a_queue()
    # 50 letters are 13 tokens, by estimate.
    expected = {"calls": 1, "tokens": ESTIMATE + 5 * 13}
    async with paced_client(queue, pieces=["hello"] * 20) as (_, client):
        stream = stream_of(await getattr(client, operation)(**OPERATIONS[operation]))
        has_read = asyncio.Event()
        read_all = asyncio.ensure_future(read(stream, 10, has_read, waits=how != "break"))
        async with asyncio.timeout(PATIENCE):
            await has_read.wait()
        if how == "close":
            stream.close()
            assert queue.stats.costs == expected
        read_all.cancel()
        await asyncio.wait([read_all])
        gc.collect()
        await settled(queue, expected.__eq__)  # the loop ends the iterators that were left
    assert queue.stats.costs == expected


async def test_stream_that_is_read_on(blockbuster):
    """One that is left after its first event, and gone on with, is settled by all of it."""
    blockbuster.deactivate()
    queue = a_queue()
    async with paced_client(queue, pieces=["hello"] * 20) as (_, client):
        stream = stream_of(await client.converse_stream(**CONVERSE))
        async for event in stream:
            if "contentBlockDelta" in event:
                break
        await settled(queue, lambda costs: costs["tokens"] < ESTIMATE + 50)
        async for _ in stream:
            pass
    assert queue.stats.costs == {"calls": 1, "tokens": USED}


async def test_stream_left_early_in_a_thread(blockbuster):
    """The same with boto3."""
    blockbuster.deactivate()
    queue = a_queue()

    def call(server):
        client = boto3.client("bedrock-runtime", **options(server))
        with by_botocore.paced(client, queue, profile=llm.bedrock):
            stream = client.converse_stream(**CONVERSE)["stream"]
            for event in stream:
                if "contentBlockDelta" in event:
                    break
            stream.close()
        client.close()

    async with BedrockServer(pieces=["hello"] * 20) as server:
        await asyncio.to_thread(call, server)
    expected = {"calls": 1, "tokens": ESTIMATE + 5 * 2}
    await settled(queue, expected.__eq__)


def test_profile_of_another_library():
    """One for HTTP clients is refused with what it is for."""
    with pytest.raises(
        TypeError,
        match=r"<Profile anthropic.* is not a profile for AWS clients: write profile=llm\.bedrock",
    ):
        by_aiobotocore.pace_session(
            a_session(), {"bedrock-runtime": a_queue()}, profile=llm.anthropic
        )


@pytest.mark.parametrize("parameters", [None, {}, {"modelId": "m", "body": b"\xff"}, {"body": 3}])
def test_strange_parameters(parameters):
    """Whatever it is, it costs a call at least, and raises nothing."""
    found = llm.bedrock.asked_for("bedrock-runtime", "InvokeModel", "us-east-1", parameters)
    assert found is None or found[1]["calls"] == 1
