"""Real aiobotocore clients against an endpoint on loopback that notes each arrival."""

import asyncio
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import botocore.session
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioDeferredRefreshableCredentials
from aiobotocore.session import get_session
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from aioapiqueue import Adaptive, ApiQueue, NestedSlotWarning, QueueClosed
from aioapiqueue.integrations.aiobotocore import pace_session, paced
from aioapiqueue.registry import Registry, ServiceLimits
from aioapiqueue.threads import blocking
from tests.helpers import introspect

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("no_machine_configuration")]

INTERVAL = 0.1
PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines
# How three protocols say which error it is.
EC2 = "<Response><Errors><Error><Code>%s</Code></Error></Errors></Response>"
QUERY = "<ErrorResponse><Error><Code>%s</Code></Error></ErrorResponse>"
JSON = '{"__type": "%s", "message": "m"}'
CREDENTIALS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret"}


@pytest.fixture(autouse=True)
def _botocore_reads_files(blockbuster):
    """Let botocore read its service models from disk while it makes a client."""
    blockbuster.deactivate()


@pytest.fixture(scope="module")
def service_models():
    """Read botocore's service models once, not in every test."""
    return get_session().get_component("data_loader")


@pytest.fixture
def session(service_models):
    """Give each test a session of its own."""
    fresh = get_session()
    fresh.register_component("data_loader", service_models)
    return fresh


@pytest.fixture
async def queue():
    """Release one call in every tenth of a second."""
    async with ApiQueue("100ms") as running:
        yield running
        assert running.waiting == 0
        assert running.running == 0


@pytest.fixture
async def create(session, endpoint):
    """Create a client of the endpoint."""
    endpoint.watch(session)

    def create_client(service="ec2", region="eu-west-1", url=endpoint.url, **config):
        return session.create_client(
            service,
            region_name=region,
            endpoint_url=url,
            config=AioConfig(**config),
            **CREDENTIALS,
        )

    return create_client


@asynccontextmanager
async def calls(*coroutines):
    """Run coroutines as tasks; whichever is left at the end is cancelled and awaited."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def waiting(queue, count):
    """Wait until so many wait in a queue."""
    async with asyncio.timeout(PATIENCE):
        while queue.waiting != count:  # noqa: ASYNC110 - a figure tells nobody
            await asyncio.sleep(0.001)


async def crowd(first, *others):
    """Await one call, then the others at once, and return all answers.

    The first of a client takes longer: by so much the others would come later than they may.
    """
    return [await first, *await asyncio.gather(*others)]


async def test_concurrent_calls_arrive_one_interval_apart(endpoint, create, queue, stalls):
    """Calls made at once arrive one at a time, and no later than the rate asks for."""
    async with paced(create(), queue) as ec2:
        await ec2.describe_regions()
        start = time.monotonic()
        await asyncio.gather(*(ec2.describe_snapshots() for _ in range(8)))
    assert len(endpoint.arrivals) == 9
    endpoint.assert_paced(INTERVAL)
    assert time.monotonic() - start < 8 * INTERVAL + 0.5 + stalls.seconds


async def test_every_retry_waits_its_turn(endpoint, create, queue):
    """Retries of throttled calls are paced together with first attempts."""
    endpoint.answer = lambda _: (
        endpoint.THROTTLED if 1 < len(endpoint.arrivals) <= 7 else (200, "<Response/>")
    )
    async with paced(create(retries={"mode": "standard"}), queue) as ec2:
        answers = await crowd(*(ec2.describe_snapshots() for _ in range(7)))
    attempts = [1 + answer["ResponseMetadata"]["RetryAttempts"] for answer in answers]
    assert len(endpoint.arrivals) == sum(attempts) == 13
    endpoint.assert_paced(INTERVAL)


async def test_every_page_waits_its_turn(endpoint, create, queue):
    """Each page that a paginator asks for is paced."""

    def page(arrival):
        number = int(arrival.parameters.get("NextToken", ["0"])[0])
        token = f"<nextToken>{number + 1}</nextToken>" if number < 5 else ""
        return 200, f"<Response><reservationSet/>{token}</Response>"

    endpoint.answer = page
    async with paced(create(), queue) as ec2:
        pages = [page async for page in ec2.get_paginator("describe_instances").paginate()]
    assert len(pages) == len(endpoint.arrivals) == 6
    endpoint.assert_paced(INTERVAL)


async def test_polls_of_a_waiter_are_paced(endpoint, create, queue):
    """Each poll of a waiter is paced, even where the waiter itself does not pause."""

    def state(_):
        name = "running" if len(endpoint.arrivals) == 6 else "pending"
        return 200, (
            "<Response><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>"
            f"<instanceState><name>{name}</name></instanceState>"
            "</item></instancesSet></item></reservationSet></Response>"
        )

    endpoint.answer = state
    async with paced(create(), queue) as ec2:
        await ec2.get_waiter("instance_running").wait(
            InstanceIds=["i-1"], WaiterConfig={"Delay": 0, "MaxAttempts": 10}
        )
    assert len(endpoint.arrivals) == 6
    endpoint.assert_paced(INTERVAL)


async def test_call_is_signed_after_waiting(endpoint, create):
    """Each of 14 calls at 4 per second arrives with a fresh signature, after up to 3 s."""
    async with ApiQueue("4/s") as queue, paced(create(), queue) as ec2:
        await crowd(*(ec2.describe_snapshots() for _ in range(14)))
    endpoint.assert_paced(0.25)
    endpoint.assert_signed_late(0.25)


async def test_cancelled_waiters_delay_nobody(endpoint, create, stalls):
    """Fifty calls cancelled in the queue cost those behind them nothing."""
    async with ApiQueue("300ms") as queue, paced(create(), queue) as ec2:
        await ec2.describe_snapshots()
        queue.pause()  # until all are there
        async with calls(*(ec2.describe_volumes() for _ in range(50))) as doomed:
            await waiting(queue, 50)
            async with calls(*(ec2.describe_snapshots() for _ in range(3))) as survivors:
                await waiting(queue, 53)
                start = time.monotonic()
                queue.resume()
                for call in doomed:
                    call.cancel()
                await asyncio.gather(*survivors)
        assert queue.stats.released == 4
    assert time.monotonic() - start < 3 * 0.3 + 0.25 + stalls.seconds
    assert [arrival.action for arrival in endpoint.arrivals] == ["DescribeSnapshots"] * 4
    endpoint.assert_paced(0.3)


async def test_slot_is_held_until_the_response(endpoint, create, queue):
    """A slot is held while the request is on its way, and no longer than the response."""
    endpoint.answer = lambda _: endpoint.HANG if len(endpoint.arrivals) > 1 else (200, "<R/>")
    async with paced(create(), queue) as ec2:
        await ec2.describe_snapshots()
        assert queue.running == 0
        async with calls(ec2.describe_snapshots()):
            await endpoint.arrived(2)
            assert queue.running == 1


async def test_back_off_holds_no_slot(endpoint, create, queue):
    """Between two attempts a call holds nothing."""
    endpoint.answer = lambda _: endpoint.THROTTLED
    async with paced(create(), queue) as ec2:
        ec2.meta.events.register_first("needs-retry.ec2", lambda **_: 60)
        async with calls(ec2.describe_snapshots()):
            await endpoint.arrived(1)
            await asyncio.sleep(0.05)
            assert queue.running == 0


async def test_cancelled_in_flight_releases_its_slot(endpoint, create, queue):
    """A call cancelled while the endpoint hangs gives its slot back at once."""
    endpoint.answer = lambda _: endpoint.HANG
    async with paced(create(), queue) as ec2, calls(ec2.describe_snapshots()) as (call,):
        await endpoint.arrived(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert queue.running == 0


async def test_cancelled_while_signing_releases_its_slot(endpoint, create, queue):
    """A call cancelled between its slot and its request gives the slot back."""
    signing = asyncio.Event()

    async def slow_credentials(**_):
        signing.set()
        await asyncio.sleep(60)

    async with paced(create(), queue) as ec2:
        ec2.meta.events.register("before-sign.ec2", slow_credentials)
        async with calls(ec2.describe_snapshots()) as (call,):
            await signing.wait()
            assert queue.running == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert queue.running == 0
    assert not endpoint.arrivals


async def test_signing_error_releases_the_slot(endpoint, create, queue):
    """An exception between the slot and the request gives the slot back."""

    def no_credentials(**_):
        raise LookupError

    async with paced(create(), queue) as ec2:
        ec2.meta.events.register("before-sign.ec2", no_credentials)
        with pytest.raises(LookupError):
            await ec2.describe_snapshots()
    assert queue.running == 0
    assert not endpoint.arrivals


async def test_unreadable_response_releases_the_slot(endpoint, create, queue):
    """A response that botocore cannot parse, for which no event comes, gives the slot back."""
    endpoint.answer = lambda _: (200, "<not xml")
    async with paced(create(retries={"total_max_attempts": 1}), queue) as ec2:
        with pytest.raises(Exception, match="Unable to parse response"):
            await ec2.describe_snapshots()
        assert queue.running == 0


async def test_refused_connection_releases_the_slot(create, queue, unused_tcp_port):
    """Each attempt at an endpoint that refuses connections is released, and paced."""
    url = f"http://127.0.0.1:{unused_tcp_port}"
    retries = {"mode": "standard", "total_max_attempts": 2}
    async with paced(create(url=url, retries=retries), queue) as ec2:
        with pytest.raises(EndpointConnectionError):
            await ec2.describe_snapshots()
        assert queue.running == 0


async def test_read_timeout_releases_the_slot(endpoint, create, queue):
    """A request that is given up on gives its slot back."""
    endpoint.answer = lambda _: endpoint.HANG
    client = create(read_timeout=0.2, retries={"total_max_attempts": 1})
    async with paced(client, queue) as ec2:
        with pytest.raises(ReadTimeoutError):
            await ec2.describe_snapshots()
        assert queue.running == 0


async def test_an_error_answer_reaches_the_caller(endpoint, create, queue):
    """What AWS answers reaches the caller as without pacing."""
    endpoint.answer = lambda _: endpoint.THROTTLED
    async with paced(create(retries={"total_max_attempts": 1}), queue) as ec2:
        with pytest.raises(ClientError, match="RequestLimitExceeded"):
            await ec2.describe_snapshots()
        assert queue.running == 0


async def test_lanes_are_operations(endpoint, create):
    """A lane named after an operation holds that operation back, and no other."""
    lanes = {"DescribeVolumes": "1/h"}
    async with (
        ApiQueue("100/s", lanes=lanes) as queue,
        paced(create(), queue) as ec2,
        calls(*(ec2.describe_volumes() for _ in range(4))),
    ):
        await asyncio.gather(*(ec2.describe_snapshots() for _ in range(4)))
        await endpoint.arrived(5)
        assert (queue.waiting, queue.stats.released) == (3, 5)
    assert [a.action for a in endpoint.arrivals].count("DescribeVolumes") == 1


async def test_nested_request_does_not_deadlock(endpoint, create):
    """With room for one call at a time, what signing asks for goes first: nothing deadlocks."""
    async with (
        ApiQueue("50ms", concurrency=1) as queue,
        paced(create("sts"), queue) as sts,
        paced(create(), queue) as ec2,
    ):
        refresh = asyncio.Lock()

        async def credentials(**_):
            async with refresh:
                await sts.get_caller_identity()

        ec2.meta.events.register("before-sign.ec2", credentials)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(ec2.describe_snapshots() for _ in range(5)))
        assert queue.running == 0
    assert len(endpoint.arrivals) == 10


async def test_open_client_is_paced(endpoint, create, queue):
    """A client that was open before the block is open after it, and is no longer paced."""
    async with create() as ec2:
        async with paced(ec2, queue) as same:
            assert same is ec2
            await crowd(*(ec2.describe_snapshots() for _ in range(3)))
        endpoint.assert_paced(INTERVAL)
        await asyncio.gather(*(ec2.describe_snapshots() for _ in range(10)))
    assert len(endpoint.arrivals) == 13
    assert queue.stats.released == 3


async def test_block_ends_during_calls(endpoint, create, queue):
    """A call that outlives the block of an open client still gives its slot back."""
    endpoint.answer = lambda _: endpoint.HANG
    async with create() as ec2, AsyncExitStack() as stack:
        async with paced(ec2, queue):
            (call,) = await stack.enter_async_context(calls(ec2.describe_snapshots()))
            await endpoint.arrived(1)
        assert queue.running == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert queue.running == 0


async def test_pacing_twice_is_pacing_once(endpoint, create, queue, session):
    """Neither nesting nor session-wide pacing makes a call wait twice in the same queue."""
    pace_session(session, queue)
    pace_session(session, {"ec2": queue})
    async with paced(create(), queue) as ec2, paced(ec2, queue):
        await crowd(*(ec2.describe_snapshots() for _ in range(5)))
    assert queue.stats.released == 5
    endpoint.assert_paced(INTERVAL)


async def test_outer_block_outlives_the_inner_one(endpoint, create, queue):
    """A client is paced until the last of its blocks ends."""
    async with paced(create(), queue) as ec2:
        async with paced(ec2, queue):
            await ec2.describe_snapshots()
        await crowd(*(ec2.describe_snapshots() for _ in range(3)))
    endpoint.assert_paced(INTERVAL)


async def test_wrapped_client_can_be_paced_again(endpoint, create):
    """Another wrapper put on in the block stays; a later block paces as the first one did."""
    async with create() as ec2, ApiQueue("1s") as first, ApiQueue("100ms") as second:
        async with paced(ec2, first):
            ours = introspect.api_call_of(ec2)

            async def traced(*arguments):
                return await ours(*arguments)

            introspect.set_api_call(ec2, traced)
        async with paced(ec2, second), paced(create("sts"), second) as sts:
            await crowd(
                sts.get_caller_identity(),
                sts.get_caller_identity(),
                ec2.describe_snapshots(),
                ec2.describe_snapshots(),
            )
        assert first.stats.released == 0
    assert [arrival.service for arrival in endpoint.arrivals] == ["sts", "sts", "ec2", "ec2"]
    endpoint.assert_paced(INTERVAL)


async def test_a_second_queue_is_refused(endpoint, create, queue, session):
    """A client or a session that one queue paces already is refused to another."""
    async with ApiQueue("1s") as other:
        async with paced(create(), queue) as ec2:
            with pytest.raises(RuntimeError, match="paced by another queue"):
                async with paced(ec2, other):
                    pytest.fail("it was let in")
            await crowd(*(ec2.describe_snapshots() for _ in range(3)))
        pace_session(session, {"ec2": queue})
        with pytest.raises(RuntimeError, match="another queue paces ec2"):
            pace_session(session, other)
    endpoint.assert_paced(INTERVAL)


async def test_session_paces_later_clients(endpoint, create, queue, session):
    """All later clients of a session share the queue, whatever their region."""
    pace_session(session, {"ec2": queue})
    async with create() as ireland, create(region="us-east-2") as ohio:
        await crowd(
            *(client.describe_snapshots() for client in [ireland, ohio] * 3),
        )
    assert {arrival.region for arrival in endpoint.arrivals} == {"eu-west-1", "us-east-2"}
    endpoint.assert_paced(INTERVAL)


async def test_unnamed_services_are_not_paced(endpoint, create, queue, session):
    """Pacing ec2 leaves sts alone."""
    pace_session(session, {"ec2": queue})
    async with create("sts") as sts, create() as ec2:
        await ec2.describe_snapshots()
        await asyncio.gather(*(sts.get_caller_identity() for _ in range(20)))
    assert len(endpoint.arrivals) == 21
    assert queue.stats.released == 1


async def test_one_queue_paces_all_services(endpoint, create, queue, session):
    """A queue instead of a mapping paces all services, in one stream."""
    pace_session(session, queue)
    async with (
        create() as ec2,
        create("sts") as sts,
        create("s3", s3={"addressing_style": "path"}) as s3,
        create("autoscaling") as autoscaling,
    ):
        await crowd(
            ec2.describe_snapshots(),
            sts.get_caller_identity(),
            s3.list_buckets(),
            autoscaling.describe_auto_scaling_groups(),
        )
    assert {a.service for a in endpoint.arrivals} == {"ec2", "sts", "s3", "autoscaling"}
    endpoint.assert_paced(INTERVAL)


async def test_services_have_client_names(endpoint, create, queue, session):
    """Services whose event names differ from their names are paced too."""
    pace_session(session, {"autoscaling": queue, "elbv2": queue})
    async with create("autoscaling") as autoscaling, create("elbv2") as elbv2:
        await crowd(
            *(autoscaling.describe_auto_scaling_groups() for _ in range(3)),
            *(elbv2.describe_load_balancers() for _ in range(3)),
        )
    assert len(endpoint.arrivals) == queue.stats.released == 6
    endpoint.assert_paced(INTERVAL)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dynamobd", "'dynamodb'"),
        ("EC2", "'ec2'"),
        ("auto-scaling", "'autoscaling'"),
        ("elastic-load-balancing-v2", "'elbv2'"),
        ("Auto Scaling", "'autoscaling'"),
        ("zzzzzzzzzz", "get_available_services"),
    ],
)
async def test_unknown_service_is_refused(session, queue, name, meant):
    """A misspelt service is an error at once, and the error says what was meant."""
    with pytest.raises(ValueError, match=f"unknown AWS service '{name}'.*{meant}"):
        pace_session(session, {"s3": queue, name: queue})


async def test_unsuitable_arguments_are_refused(session, queue):
    """A blocking client, and a rate where a queue belongs, are errors at once."""
    blocking = botocore.session.get_session().create_client("ec2", "eu-west-1", **CREDENTIALS)
    with pytest.raises(TypeError, match="an aiobotocore client can be paced, not <"):
        async with paced(blocking, queue):
            pytest.fail("it was let in")
    blocking.close()
    with pytest.raises(TypeError, match="by an ApiQueue or a Registry, not by '10/s'"):
        pace_session(session, {"ec2": "10/s"})


@pytest.mark.parametrize(
    ("header", "value", "seconds"),
    [("x_amz_retry_after", "700", 0.7), ("retry_after", "1", 1.0), ("retry_after", "0.4", 0.4)],
)
async def test_throttled_answer_holds_all_waiters(  # noqa: PLR0917 - one a column
    endpoint, create, stalls, header, value, seconds
):
    """For as long as the answer asks, neither the retry nor any other call arrives."""
    endpoint.answer = endpoint.refuses(1, **{header: value})
    async with ApiQueue("100/s") as queue, paced(create(), queue) as ec2:
        first = asyncio.ensure_future(ec2.describe_snapshots())
        await endpoint.arrived(1)
        while not queue.stats.throttled:  # noqa: ASYNC110 - a figure tells nobody
            await asyncio.sleep(0.001)
        await asyncio.gather(first, *(ec2.describe_volumes() for _ in range(5)))
        assert queue.stats.throttled == 1
        assert queue.stats.malformed == 0
    assert len(endpoint.arrivals) == 7
    assert endpoint.gaps[0] >= seconds - 0.02
    assert endpoint.arrivals[-1].at - endpoint.arrivals[0].at < seconds + 2 + stalls.seconds


@pytest.mark.parametrize(
    ("service", "call", "status", "body", "throttled"),
    [
        ("ec2", "describe_regions", 503, EC2 % "RequestLimitExceeded", 1),
        ("autoscaling", "describe_tags", 400, QUERY % "RateExceeded", 1),
        ("autoscaling", "describe_tags", 400, QUERY % "Throttling", 1),
        ("iam", "list_roles", 429, "", 1),
        ("kinesis", "list_streams", 400, JSON % "LimitExceededException", 1),
        ("kms", "list_keys", 400, JSON % "LimitExceededException", 0),
        ("iam", "list_roles", 409, QUERY % "LimitExceeded", 0),
        ("iam", "list_roles", 503, QUERY % "ServiceUnavailable", 0),
        ("iam", "list_roles", 403, QUERY % "AccessDenied", 0),
    ],
)
async def test_quotas_of_resources_are_no_throttles(  # noqa: PLR0917 - one a column
    endpoint, create, service, call, status, body, throttled
):
    """Of all errors, only those that say that too many requests came push the queue back."""
    endpoint.answer = lambda _: (status, body, {"Retry-After": "60"})
    async with (
        ApiQueue() as queue,
        paced(create(service, retries={"total_max_attempts": 1}), queue) as client,
    ):
        # XML that cannot be parsed is not a ClientError.
        with pytest.raises((ClientError, ResponseParserError)):
            await getattr(client, call)()
        assert queue.stats.throttled == throttled
        assert (queue.estimate() > 50) == bool(throttled)


@pytest.mark.parametrize("value", ["soon", "-1", "NaN", "1e3", "9" * 40])
async def test_malformed_hold_holds_nothing(endpoint, create, value):
    """Nonsense in a header is counted; the throttle itself still is."""
    endpoint.answer = endpoint.refuses(1, retry_after=value)
    async with ApiQueue() as queue, paced(create(), queue) as ec2:
        await ec2.describe_snapshots()
        assert (queue.stats.throttled, queue.stats.malformed) == (1, 1)
        assert queue.estimate() == 0


async def test_hold_is_cut_to_the_maximum(endpoint, create):
    """A longer hold is cut and counted as malformed; by default it is five minutes at most."""
    retries = {"total_max_attempts": 1}
    endpoint.answer = endpoint.refuses(2, retry_after="86400")
    for how, most in (({"max_hold": 40}, 40), ({}, 300)):
        async with ApiQueue() as queue, paced(create(retries=retries), queue, **how) as ec2:
            with pytest.raises(ClientError):
                await ec2.describe_snapshots()
            assert most - 20 < queue.estimate() <= most
            assert (queue.stats.throttled, queue.stats.malformed) == (1, 1)
    async with ApiQueue() as queue:
        with pytest.raises(ValueError, match="max_hold"):
            async with paced(create(), queue, max_hold=-1):
                pytest.fail("it was let in")


async def test_throttles_in_flight_count_once(endpoint, create):
    """Twenty calls that are all refused slow the queue down once: each slot knows its round."""
    release = asyncio.Event()
    endpoint.answer = endpoint.refuses(20)
    async with ApiQueue("1000/s", adaptive=Adaptive("1/s")) as queue:
        config = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 30}
        async with paced(create(**config), queue) as ec2:

            async def gather_in_flight(**_):
                if queue.running == 20:
                    release.set()
                await release.wait()

            # After our own: each call has its slot by then, and none has been sent.
            ec2.meta.events.register("before-send.ec2", gather_in_flight)
            async with asyncio.timeout(PATIENCE):
                answers = await asyncio.gather(
                    *(ec2.describe_snapshots() for _ in range(20)), return_exceptions=True
                )
        assert all(isinstance(answer, ClientError) for answer in answers)
        assert (queue.stats.throttled, queue.stats.backed_off) == (20, 1)


async def test_push_back_holds_its_lane(endpoint, create):
    """Where an operation has limits of its own, its throttles hold no other operation."""
    endpoint.answer = lambda arrival: (
        (*endpoint.THROTTLED, {"Retry-After": "60"})
        if arrival.action == "DescribeVolumes"
        else (200, "<Response/>")
    )
    async with (
        ApiQueue(lanes={"DescribeVolumes": "10/s", "*": "unlimited"}) as queue,
        paced(create(retries={"total_max_attempts": 1}), queue) as ec2,
    ):
        with pytest.raises(ClientError):
            await ec2.describe_volumes()
        async with asyncio.timeout(PATIENCE):
            await ec2.describe_snapshots()
        assert queue.estimate(key="DescribeVolumes") > 50


async def test_slot_around_a_call_warns(endpoint, create):
    """Once, at the second, whether the queue is one's own or a registry's."""
    del endpoint
    for source in (ApiQueue("1000/s"), Registry({"ec2": "1000/s"})):
        async with paced(create(), source) as ec2:
            await ec2.describe_snapshots()
            queue = source
            if isinstance(source, Registry):
                (queue,) = source.queues.values()

            async def both(queue=queue, ec2=ec2):
                async with queue.slot():
                    await ec2.describe_snapshots()

            await both()
            with pytest.warns(NestedSlotWarning, match="a slot is held around a request") as caught:
                await both()
            await both()
            assert caught[0].filename == __file__


async def test_a_success_is_no_push_back(endpoint, create, queue):
    """An answer that names a throttle among its results throttles nothing."""
    endpoint.answer = lambda _: (
        200,
        '{"Error": {"Code": "Throttling"}, "Keys": []}',
        {"Retry-After": "60"},
    )
    async with paced(create("kms"), queue) as kms:
        await kms.list_keys()
    assert queue.stats.throttled == 0


async def test_registry_finds_each_calls_queue(endpoint, create, session):
    """Service, Region and account choose the queue; what is not listed is not paced."""
    registry = Registry({"ec2": "10/s", "iam": ServiceLimits("5/s", scope=["account"])})
    pace_session(session, registry)
    async with (
        registry,
        create() as ireland,
        create(region="us-east-2") as ohio,
        create("iam") as iam,
        create("sts") as sts,
    ):
        for client in (ireland, ohio, ireland):
            await client.describe_snapshots()
        await iam.list_roles()
        await sts.get_caller_identity()
        account = CREDENTIALS["aws_access_key_id"]
        released = {key[:3]: queue.stats.released for key, queue in registry.queues.items()}
    assert released == {
        ("ec2", "eu-west-1", account): 2,
        ("ec2", "us-east-2", account): 1,
        ("iam", None, account): 1,
    }
    assert len(endpoint.arrivals) == 5


async def test_a_registry_paces_one_client_too(endpoint, create):
    """`paced` takes a registry as well, and the operation is the slot's lane."""
    registry = Registry({"ec2": ServiceLimits("100/s", lanes={"DescribeVolumes": "5/s"})})
    async with registry, paced(create(), registry) as ec2:
        await asyncio.gather(*(ec2.describe_volumes() for _ in range(3)))
        endpoint.assert_paced(0.2)
        await ec2.describe_snapshots()


async def test_shared_and_weighted_limits_hold(endpoint, create):
    """A call that several limits are for is charged to each what it uses of that."""
    registry = Registry.parse('preset = "aws"')
    endpoint.answer = lambda _: endpoint.HANG if len(endpoint.arrivals) > 1 else (200, "<R/>")
    run = {"ImageId": "ami-1", "MinCount": 7, "MaxCount": 7}
    async with registry, paced(create(), registry) as ec2:
        await ec2.run_instances(**run)
        (queue,) = registry.queues.values()
        assert queue.stats.released == 1
        used = {"keys": ["bucket: RunInstances resources"], "cost": {"instances": 500}}
        assert 5 < queue.estimate(**used) <= 7
        async with calls(ec2.run_instances(**run)):
            await endpoint.arrived(2)
            assert queue.running == 1
        assert queue.running == 0


async def test_refreshed_credentials_keep_their_quota(endpoint, create, session):
    """Each attempt's own credentials are looked at: another key of the account, the same queue."""
    keys = iter(["ASIAQNZGKIQY56JQ7WML", "ASIAQNZGKIQYZZZZZZZZ", "ASIAY34FZKBOKMUTVV7A"])

    async def refresh():
        return {
            "access_key": next(keys),
            "secret_key": "s",
            "token": "t",
            "expiry_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        }

    registry = Registry({"ec2": "100/s"})
    pace_session(session, registry)
    introspect.set_credentials(session, AioDeferredRefreshableCredentials(refresh, "test"))
    client = session.create_client("ec2", "eu-west-1", endpoint_url=endpoint.url)
    async with registry, client as ec2:
        for _ in range(3):
            introspect.expire_credentials(session)
            await ec2.describe_snapshots()
        released = {key.account: queue.stats.released for key, queue in registry.queues.items()}
    assert released == {"029608264753": 2, "609629065308": 1}


async def test_sessions_of_another_kind_are_refused(queue):
    """A blocking session is an error at once, which says where it belongs."""
    with pytest.raises(TypeError, match=r"integrations\.botocore is for those"):
        pace_session(botocore.session.get_session(), queue)
    with pytest.raises(TypeError, match="aiobotocore session can be paced, not 'ec2'"):
        pace_session("ec2", queue)
    with pytest.raises(TypeError, match=r"not by <aioapiqueue\.threads\.Blocking"):
        pace_session(get_session(), blocking(queue))


async def test_a_closed_queue_fails_the_call(endpoint, create):
    """What the queue raises reaches the caller, and nothing is sent."""
    queue = ApiQueue("100ms")
    await queue.aclose()
    async with paced(create(), queue) as ec2:
        with pytest.raises(QueueClosed):
            await ec2.describe_snapshots()
    assert not endpoint.arrivals


async def test_a_refused_mapping_paces_nothing(endpoint, create, queue, session):
    """A mapping with a wrong name in it has no effect."""
    with pytest.raises(ValueError, match="unknown"):
        pace_session(session, {"ec2": queue, "ec3": queue})
    async with create() as ec2:
        await asyncio.gather(*(ec2.describe_snapshots() for _ in range(10)))
    assert queue.stats.released == 0


async def test_presigning_uses_no_slot(endpoint, create, queue):
    """Signing a URL sends nothing and waits for nothing."""
    async with paced(create("s3"), queue) as s3:
        for _ in range(20):
            await s3.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
        await s3.list_buckets()
    assert queue.stats.released == 1
    assert len(endpoint.arrivals) == 1


def test_missing_aiobotocore_names_the_extra():
    """Importing the module without its dependency says what to install."""
    program = (
        "import sys; sys.modules['aiobotocore'] = None; import aioapiqueue.integrations.aiobotocore"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'ImportError: pacing AWS clients needs aiobotocore: pip install "aioapiqueue[aws]"' in (
        done.stderr
    )
