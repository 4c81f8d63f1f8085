"""What pacing means for clients of botocore and of aiobotocore alike, against an endpoint."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import botocore.loaders
import botocore.session
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from botocore.parsers import ResponseParserError
from botocore.retries.standard import ExponentialBackoff

from aioapiqueue import Adaptive, ApiQueue, QueueClosed
from aioapiqueue.registry import Registry, ServiceLimits
from tests.helpers import introspect
from tests.helpers.aws_clients import CREDENTIALS, PATIENCE, Coroutines, Threads
from tests.helpers.yardstick import delay

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("no_machine_configuration")]

INTERVAL = 0.03
ONE_ATTEMPT = {"retries": {"total_max_attempts": 1}}
STANDARD = {"retries": {"mode": "standard", "total_max_attempts": 5}}
# How three protocols say which error it is.
EC2 = "<Response><Errors><Error><Code>%s</Code></Error></Errors></Response>"
QUERY = "<ErrorResponse><Error><Code>%s</Code></Error></ErrorResponse>"
JSON = '{"__type": "%s", "message": "m"}'


@pytest.fixture(autouse=True)
def _botocore_reads_files(blockbuster):
    """Let botocore read its service models from disk while it makes a client."""
    blockbuster.deactivate()


@pytest.fixture(scope="module")
def models():
    """Read botocore's service models once, not in every test."""
    found = botocore.loaders.create_loader()
    found.load_service_model("ec2", "service-2")
    return found


@pytest.fixture(scope="module", params=[Coroutines, Threads], ids=lambda one: one.name)
def library(request, models):
    """Give the library whose turn it is, once it is imported."""
    core = request.param("http://127.0.0.1", models).session
    assert core.get_available_services()
    return request.param


@pytest.fixture
async def aws(library, models, endpoint):
    """Give `aws.call(client, operation)` and the like, with a session for each test."""
    async with library(endpoint.url, models) as ready:
        endpoint.watch(ready.session)
        yield ready


@pytest.fixture
async def queue():
    """Release one call in each interval; check that nothing is left of them."""
    async with ApiQueue("30ms") as running:
        yield running
        assert (running.waiting, running.running) == (0, 0)


@pytest.fixture
def _no_back_off(monkeypatch):
    """Let botocore try again at once: only the queue makes an attempt wait."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)


@pytest.fixture
def crowd(aws):
    """Make one call, then the others at once, and return all answers.

    The first of a client takes longer: by so much the others would come later than they may.
    """

    async def calls(client, operation, count, **arguments):
        first = await aws.call(client, operation, **arguments)
        others = (aws.call(client, operation, **arguments) for _ in range(count - 1))
        return [first, *await asyncio.gather(*others)]

    return calls


@pytest.fixture
def at_once(aws, endpoint):
    """Make each call once, and then all of them at once; the endpoint has noted these alone.

    The first of each client takes longer: by so much they would be apart without pacing, too.
    """

    async def all_calls(calls, times=1):
        for client, operation in calls:
            await aws.call(client, operation)
        endpoint.begun = None
        endpoint.arrivals.clear()
        await asyncio.gather(*(aws.call(*one) for one in calls * times))

    return all_calls


async def test_calls_arrive_one_interval_apart(aws, crowd, endpoint, queue, stalls):
    """Calls made at once arrive one at a time, and no later than the rate asks for.

    On a busy machine, they may be later in proportion.
    """
    ec2 = await aws.client()
    async with aws.paced(ec2, queue):
        await aws.call(ec2, "describe_regions")
        start = time.monotonic()
        await crowd(ec2, "describe_snapshots", 12)
        took = time.monotonic() - start
    assert len(endpoint.arrivals) == queue.stats.released == 13
    endpoint.assert_paced(INTERVAL)
    most = 12 * INTERVAL + 0.25 + stalls.seconds  # not so much as with intervals of twice that
    assert took < most or took < most * delay()


@pytest.mark.usefixtures("_no_back_off")
async def test_every_retry_waits_its_turn(aws, crowd, endpoint, queue):
    """Retries of throttled calls are paced together with first attempts."""
    endpoint.answer = lambda _: (
        endpoint.THROTTLED if 1 < len(endpoint.arrivals) <= 7 else (200, "<Response/>")
    )
    ec2 = await aws.client(**STANDARD)
    async with aws.paced(ec2, queue):
        answers = await crowd(ec2, "describe_snapshots", 7)
    attempts = [1 + answer["ResponseMetadata"]["RetryAttempts"] for answer in answers]
    assert len(endpoint.arrivals) == sum(attempts) == 13
    endpoint.assert_paced(INTERVAL)
    assert queue.stats.throttled == 6


async def test_pages_and_polls_are_paced(aws, endpoint, queue):
    """Each page of a paginator is paced, and each poll of a waiter that does not pause itself."""

    def answer(arrival):
        if arrival.action == "DescribeInstanceStatus":
            state = "ok" if len(endpoint.arrivals) == 11 else "initializing"
            return 200, (
                "<Response><instanceStatusSet><item><instanceStatus><status>"
                f"{state}</status></instanceStatus></item></instanceStatusSet></Response>"
            )
        number = int(arrival.parameters.get("NextToken", ["0"])[0])
        token = f"<nextToken>{number + 1}</nextToken>" if number < 5 else ""
        return 200, f"<Response><reservationSet/>{token}</Response>"

    endpoint.answer = answer
    ec2 = await aws.client()
    async with aws.paced(ec2, queue):
        assert len(await aws.pages(ec2, "describe_instances")) == 6
        await aws.until(
            ec2,
            "instance_status_ok",
            InstanceIds=["i-1"],
            WaiterConfig={"Delay": 0, "MaxAttempts": 10},
        )
    assert len(endpoint.arrivals) == 11
    endpoint.assert_paced(INTERVAL)


async def test_call_is_signed_after_waiting(aws, crowd, endpoint):
    """The last of four calls arrives with a fresh signature, after it has waited for 1.2 s."""
    ec2 = await aws.client()
    async with ApiQueue("400ms") as queue, aws.paced(ec2, queue):
        await crowd(ec2, "describe_snapshots", 4)
    endpoint.assert_paced(0.4)
    endpoint.assert_signed_late(0.4)


async def test_slot_is_held_until_the_response(aws, endpoint, queue):
    """A slot is held while the request is on its way, and no longer than the response."""
    ec2 = await aws.client()
    async with aws.paced(ec2, queue):
        held = []
        endpoint.answer = lambda _: held.append(queue.running) or (200, "<Response/>")
        await aws.call(ec2, "describe_snapshots")
        assert queue.running == 0
    assert held == [1]


async def test_read_timeout_releases_the_slot(aws, endpoint, queue):
    """A request that is given up on gives its slot back."""
    endpoint.answer = lambda _: endpoint.HANG
    ec2 = await aws.client(read_timeout=0.2, **ONE_ATTEMPT)
    async with aws.paced(ec2, queue):
        with pytest.raises(ReadTimeoutError):
            await aws.call(ec2, "describe_snapshots")
        assert queue.running == 0
    assert len(endpoint.arrivals) == 1


@pytest.mark.usefixtures("_no_back_off")
async def test_refused_connection_releases_the_slot(aws, queue, unused_tcp_port):
    """Each attempt at an endpoint that refuses connections is released, and paced."""
    ec2 = await aws.client(
        url=f"http://127.0.0.1:{unused_tcp_port}",
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    start = time.monotonic()
    async with aws.paced(ec2, queue):
        with pytest.raises(EndpointConnectionError):
            await aws.call(ec2, "describe_snapshots")
        assert queue.running == 0
    assert queue.stats.released == 3
    assert time.monotonic() - start >= 2 * INTERVAL - 0.010


async def test_signing_error_releases_the_slot(aws, endpoint, queue):
    """An exception between the slot and the request gives the slot back."""

    def no_credentials(**_):
        raise LookupError

    ec2 = await aws.client()
    ec2.meta.events.register("before-sign.ec2", no_credentials)
    async with aws.paced(ec2, queue):
        with pytest.raises(LookupError):
            await aws.call(ec2, "describe_snapshots")
        assert queue.running == 0
    assert queue.stats.released == 1
    assert not endpoint.arrivals


async def test_unreadable_response_releases_the_slot(aws, endpoint, queue):
    """A response that botocore cannot parse, for which no event comes, gives the slot back."""
    endpoint.answer = lambda _: (200, "<not xml")
    ec2 = await aws.client(**ONE_ATTEMPT)
    async with aws.paced(ec2, queue):
        with pytest.raises(ResponseParserError, match="Unable to parse response"):
            await aws.call(ec2, "describe_snapshots")
        assert queue.running == 0


async def test_an_error_answer_reaches_the_caller(aws, endpoint, queue):
    """What AWS answers reaches the caller as without pacing."""
    endpoint.answer = lambda _: endpoint.THROTTLED
    ec2 = await aws.client(**ONE_ATTEMPT)
    async with aws.paced(ec2, queue):
        with pytest.raises(ClientError, match="RequestLimitExceeded"):
            await aws.call(ec2, "describe_snapshots")
        assert queue.running == 0


async def test_a_closed_queue_fails_the_call(aws, endpoint):
    """What the queue raises reaches the caller of the client's method, and nothing is sent."""
    queue = ApiQueue("100ms")
    await queue.aclose()
    ec2 = await aws.client()
    async with aws.paced(ec2, queue):
        with pytest.raises(QueueClosed):
            await aws.call(ec2, "describe_snapshots")
    assert not endpoint.arrivals


async def test_presigning_uses_no_slot(aws, endpoint, queue):
    """Signing a URL sends nothing and waits for nothing."""
    s3 = await aws.client("s3")
    async with aws.paced(s3, queue):
        for _ in range(20):
            await aws.presign(s3, "get_object", {"Bucket": "b", "Key": "k"})
        assert queue.stats.released == 0
        await aws.call(s3, "list_buckets")
    assert len(endpoint.arrivals) == queue.stats.released == 1


# Blocks and sessions.


async def test_client_is_paced_until_last_block(aws, crowd, endpoint, queue):
    """Nested blocks pace once, by one queue only; after them the client is as it was, and open."""
    ec2 = await aws.client()
    method = introspect.api_call_of(ec2)
    async with aws.paced(ec2, queue):
        async with aws.paced(ec2, queue):
            await crowd(ec2, "describe_snapshots", 3)
        await crowd(ec2, "describe_snapshots", 3)
        with pytest.raises(RuntimeError, match="another queue already paces this"):
            async with aws.paced(ec2, ApiQueue()):
                pytest.fail("it was let in")
        await aws.call(ec2, "describe_snapshots")
    endpoint.assert_paced(INTERVAL)
    assert queue.stats.released == 7
    await crowd(ec2, "describe_snapshots", 5)
    assert (queue.stats.released, len(endpoint.arrivals)) == (7, 12)
    assert introspect.api_call_of(ec2) == method


async def test_session_paces_later_clients(aws, endpoint, queue):
    """Later clients of a session share the queue; services that are not named are not paced."""
    before = await aws.client()
    aws.pace_session({"ec2": queue})
    aws.pace_session({"ec2": queue, "iam": queue})
    with pytest.raises(RuntimeError, match="another queue already paces ec2"):
        aws.pace_session(ApiQueue())
    ireland, ohio = await aws.client(), await aws.client(region="us-east-2")
    iam, sts = await aws.client("iam"), await aws.client("sts")
    await aws.call(before, "describe_regions")
    await aws.call(sts, "get_caller_identity")
    assert queue.stats.released == 0
    endpoint.begun = None
    endpoint.arrivals.clear()
    for client in (ireland, ohio):
        await aws.call(client, "describe_snapshots")
    await asyncio.gather(
        *(aws.call(client, "describe_snapshots") for client in [ireland, ohio] * 2),
        aws.call(iam, "list_roles"),
    )
    assert {arrival.region for arrival in endpoint.arrivals} == {"eu-west-1", "us-east-2"}
    assert len(endpoint.arrivals) == queue.stats.released == 7
    endpoint.assert_paced(INTERVAL)


async def test_pacing_twice_is_pacing_once(aws, crowd, endpoint, queue):
    """Neither nesting nor session-wide pacing makes a call wait twice in the same queue."""
    aws.pace_session(queue)
    aws.pace_session({"ec2": queue})
    ec2 = await aws.client()
    async with aws.paced(ec2, queue), aws.paced(ec2, queue):
        await crowd(ec2, "describe_snapshots", 5)
    assert queue.stats.released == 5
    endpoint.assert_paced(INTERVAL)


async def test_one_queue_paces_all_services(aws, at_once, endpoint, queue):
    """A queue instead of a mapping paces all services, in one stream, whatever their names are."""
    aws.pace_session(queue)
    operations = {
        "ec2": "describe_snapshots",
        "sts": "get_caller_identity",
        "s3": "list_buckets",
        "autoscaling": "describe_auto_scaling_groups",
        "elbv2": "describe_load_balancers",
    }
    await at_once([(await aws.client(name), operation) for name, operation in operations.items()])
    services = {arrival.service for arrival in endpoint.arrivals}
    assert services == {"ec2", "sts", "s3", "autoscaling", "elasticloadbalancing"}
    assert (len(endpoint.arrivals), queue.stats.released) == (5, 10)
    endpoint.assert_paced(INTERVAL)


async def test_services_have_client_names(aws, at_once, endpoint, queue):
    """Services whose event names differ from their names are paced too."""
    aws.pace_session({"autoscaling": queue, "elbv2": queue})
    calls = [
        (await aws.client("autoscaling"), "describe_auto_scaling_groups"),
        (await aws.client("elbv2"), "describe_load_balancers"),
    ]
    await at_once(calls, times=3)
    assert (len(endpoint.arrivals), queue.stats.released) == (6, 8)
    endpoint.assert_paced(INTERVAL)


async def test_unknown_service_is_refused(aws, endpoint, queue):
    """A misspelt service is an error at once, which says what was meant; nothing is paced."""
    for name, meant in (
        ("dynamobd", "'dynamodb'"),
        ("EC2", "'ec2'"),
        ("auto-scaling", "'autoscaling'"),
        ("elastic-load-balancing-v2", "'elbv2'"),
        ("Auto Scaling", "'autoscaling'"),
        ("zzzzzzzzzz", "get_available_services"),
    ):
        with pytest.raises(ValueError, match=f"there is no AWS service '{name}': .*{meant}"):
            aws.pace_session({"s3": queue, name: queue})
    await aws.call(await aws.client("s3"), "list_buckets")
    assert len(endpoint.arrivals) == 1
    assert queue.stats.released == 0


# Push-back.


# Each: the service, a call to it, the answer, and whether it is push-back.
ERRORS = [
    ("ec2", "describe_regions", 503, EC2 % "RequestLimitExceeded", 1),
    ("autoscaling", "describe_tags", 400, QUERY % "RateExceeded", 1),
    ("autoscaling", "describe_tags", 400, QUERY % "Throttling", 1),
    ("iam", "list_roles", 429, "", 1),
    ("iam", "list_roles", 429, "<html>", 1),
    ("kinesis", "list_streams", 400, JSON % "LimitExceededException", 1),
    ("ce", "get_tags", 400, '{"__type": "LimitExceededException"}', 1),
    ("kms", "list_keys", 400, JSON % "LimitExceededException", 0),
    ("iam", "list_roles", 409, QUERY % "LimitExceeded", 0),
    ("iam", "list_roles", 503, QUERY % "ServiceUnavailable", 0),
    ("iam", "list_roles", 403, QUERY % "AccessDenied", 0),
]
PERIOD = {"TimePeriod": {"Start": "2026-01-01", "End": "2026-02-01"}}


async def test_only_throttles_hold_the_queue(aws, endpoint):
    """Of all errors, only those that say that too many requests came push the queue back."""
    wrong = []
    clients = {service: await aws.client(service, **ONE_ATTEMPT) for service, *_ in ERRORS}
    for header in ({"Retry-After": "60"}, {"x-amz-retry-after": "60000"}):
        for service, call, status, body, throttled in ERRORS:
            endpoint.answer = lambda _, answer=(status, body, header): answer
            async with ApiQueue() as queue, aws.paced(clients[service], queue):
                # XML that cannot be parsed is not a ClientError.
                with pytest.raises((ClientError, ResponseParserError)):
                    await aws.call(clients[service], call, **PERIOD if service == "ce" else {})
                found = queue.stats.throttled, queue.stats.malformed, queue.running
                if found != (throttled, 0, 0) or (queue.estimate() > 50) != bool(throttled):
                    wrong.append(f"{service} {status} {body} {header}: {found}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.usefixtures("_no_back_off")
@pytest.mark.parametrize(
    ("header", "value"), [("x_amz_retry_after", "300"), ("retry_after", "0.3")]
)
async def test_throttled_answer_holds_all_waiters(aws, endpoint, stalls, header, value):
    """For as long as the answer asks, neither the retry nor any other call arrives."""
    endpoint.answer = endpoint.refuses(1, **{header: value})
    ec2 = await aws.client(**STANDARD)
    async with ApiQueue("100/s") as queue, aws.paced(ec2, queue):
        first = asyncio.ensure_future(aws.call(ec2, "describe_snapshots"))
        while not queue.stats.throttled:  # noqa: ASYNC110 - a figure tells nobody
            await asyncio.sleep(0.001)
        await asyncio.gather(first, *(aws.call(ec2, "describe_volumes") for _ in range(5)))
        assert (queue.stats.throttled, queue.stats.malformed) == (1, 0)
    assert len(endpoint.arrivals) == 7
    assert endpoint.gaps[0] >= 0.3 - 0.02
    assert endpoint.arrivals[-1].at - endpoint.arrivals[0].at < 0.3 + 2 + stalls.seconds


async def test_malformed_holds_are_counted(aws, endpoint):
    """Nonsense holds nothing; a hold beyond the maximum, or five minutes, is cut to it."""
    ec2 = await aws.client(**ONE_ATTEMPT)
    nonsense = [(value, {}, 0) for value in ("soon", "-1", "NaN", "1e3", "9" * 40)]
    for value, how, hold in [*nonsense, ("86400", {"max_hold": 40}, 40), ("86400", {}, 300)]:
        endpoint.answer = endpoint.refuses(1, retry_after=value)
        async with ApiQueue() as queue, aws.paced(ec2, queue, **how):
            with pytest.raises(ClientError):
                await aws.call(ec2, "describe_snapshots")
            assert (queue.stats.throttled, queue.stats.malformed) == (1, 1)
            assert hold - 20 < queue.estimate() <= hold
    with pytest.raises(ValueError, match="max_hold"):
        async with aws.paced(ec2, ApiQueue(), max_hold=-1):
            pytest.fail("it was let in")


async def test_throttles_in_flight_count_once(aws, endpoint):
    """Twenty calls that are all refused slow the queue down once: each slot knows its round."""
    endpoint.answer = endpoint.refuses(20)
    ec2 = await aws.client(max_pool_connections=30, **ONE_ATTEMPT)
    async with ApiQueue("1000/s", adaptive=Adaptive("1/s")) as queue, aws.paced(ec2, queue):
        # After our own: each call has its slot by then, and none has been sent.
        aws.meet_before_send(ec2, 20)
        calls = (aws.call(ec2, "describe_snapshots") for _ in range(20))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, ClientError) for answer in answers)
        assert (queue.running, queue.waiting) == (0, 0)
        assert (queue.stats.throttled, queue.stats.backed_off) == (20, 1)


async def test_push_back_holds_its_lane(aws, endpoint):
    """Where an operation has limits of its own, its throttles hold no other operation."""
    endpoint.answer = lambda arrival: (
        (*endpoint.THROTTLED, {"Retry-After": "60"})
        if arrival.action == "DescribeVolumes"
        else (200, "<Response/>")
    )
    ec2 = await aws.client(**ONE_ATTEMPT)
    lanes = {"DescribeVolumes": "10/s", "*": "unlimited"}
    async with ApiQueue(lanes=lanes) as queue, aws.paced(ec2, queue):
        with pytest.raises(ClientError):
            await aws.call(ec2, "describe_volumes")
        async with asyncio.timeout(PATIENCE):
            await aws.call(ec2, "describe_snapshots")
        assert queue.estimate(key="DescribeVolumes") > 50


async def test_a_success_is_no_push_back(aws, endpoint, queue):
    """An answer that names a throttle among its results throttles nothing."""
    body = '{"Error": {"Code": "Throttling"}, "Keys": []}'
    endpoint.answer = lambda _: (200, body, {"Retry-After": "60"})
    kms = await aws.client("kms")
    async with aws.paced(kms, queue):
        await aws.call(kms, "list_keys")
    assert queue.stats.throttled == 0


# Registries.


async def test_registry_finds_each_calls_queue(aws, crowd, endpoint):
    """Service, Region and account choose the queue; what is not listed is not paced."""
    registry = Registry({"ec2": "100/s", "iam": ServiceLimits("5/s", scope=["account"])})
    aws.pace_session(registry)
    ireland, ohio = await aws.client(), await aws.client(region="us-east-2")
    iam, sts = await aws.client("iam"), await aws.client("sts")
    for client in (ireland, ohio, ireland):
        await crowd(client, "describe_snapshots", 3)
    await aws.call(iam, "list_roles")
    await aws.call(sts, "get_caller_identity")
    account = CREDENTIALS["aws_access_key_id"]
    assert {key[:3]: queue.stats.released for key, queue in registry.queues.items()} == {
        ("ec2", "eu-west-1", account): 6,
        ("ec2", "us-east-2", account): 3,
        ("iam", None, account): 1,
    }
    assert len(endpoint.arrivals) == 11


async def test_a_registry_paces_one_client_too(aws, endpoint):
    """`paced` takes a registry as well, and the operation is the slot's lane."""
    registry = Registry({"ec2": ServiceLimits("1000/s", lanes={"DescribeVolumes": "20/s"})})
    ec2 = await aws.client()
    async with aws.paced(ec2, registry):
        await asyncio.gather(*(aws.call(ec2, "describe_volumes") for _ in range(4)))
        endpoint.assert_paced(0.05)
        await aws.call(ec2, "describe_snapshots")


async def test_shared_and_weighted_limits_hold(aws, crowd, endpoint):
    """A call that several limits are for is charged to each what it uses of that."""
    registry = Registry.parse('preset = "aws"', check=False)
    ec2 = await aws.client()
    held = []

    def answer(_):
        held.extend(queue.running for queue in registry.queues.values())
        return 200, "<R/>"

    endpoint.answer = answer
    async with aws.paced(ec2, registry):
        await crowd(ec2, "run_instances", 2, ImageId="ami-1", MinCount=7, MaxCount=7)
    (queue,) = registry.queues.values()
    assert (queue.stats.released, len(endpoint.arrivals), held) == (2, 2, [1, 1])
    used = {"keys": ["bucket: RunInstances resources"], "cost": {"instances": 500}}
    assert 10 < await aws.ask(queue, lambda: queue.estimate(**used)) <= 14
    assert await aws.ask(queue, lambda: (queue.waiting, queue.running)) == (0, 0)


async def test_refreshed_credentials_keep_their_quota(aws):
    """Each attempt's own credentials are looked at: another key of the account, the same queue."""
    keys = iter(["ASIAQNZGKIQY56JQ7WML", "ASIAQNZGKIQYZZZZZZZZ", "ASIAY34FZKBOKMUTVV7A"])

    def refresh():
        return {
            "access_key": next(keys),
            "secret_key": "s",
            "token": "t",
            "expiry_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        }

    registry = Registry({"ec2": "100/s"})
    aws.pace_session(registry)
    aws.refresh_credentials(refresh)
    ec2 = await aws.client(keys={})
    for _ in range(3):
        introspect.expire_credentials(aws.session)
        await aws.call(ec2, "describe_snapshots")
    released = {key.account: queue.stats.released for key, queue in registry.queues.items()}
    assert released == {"029608264753": 2, "609629065308": 1}
