"""Real boto3 clients in real threads, against an endpoint on loopback, and against moto."""

import asyncio
import io
import itertools
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import boto3
import botocore.session
import pytest
from aiobotocore.session import get_session as get_aio_session
from anyio.from_thread import start_blocking_portal
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    Credentials,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from moto.server import ThreadedMotoServer

from aioapiqueue import Adaptive, ApiQueue, NestedSlotWarning, QueueClosed
from aioapiqueue.integrations.botocore import pace_session, paced
from aioapiqueue.registry import Registry, ServiceLimits
from aioapiqueue.threads import blocking
from tests.helpers import introspect
from tests.helpers.threads import PATIENCE, figures

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("no_machine_configuration")]

INTERVAL = 0.05
CREDENTIALS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret"}
ONE_ATTEMPT = {"retries": {"total_max_attempts": 1}}
EC2 = "<Response><Errors><Error><Code>%s</Code></Error></Errors></Response>"
QUERY = "<ErrorResponse><Error><Code>%s</Code></Error></ErrorResponse>"


@pytest.fixture(scope="module")
def loader():
    """Read botocore's service models once, not in every test."""
    return botocore.session.get_session().get_component("data_loader")


@pytest.fixture
def session(loader):
    """Give each test a session of its own."""
    core = botocore.session.get_session()
    core.register_component("data_loader", loader)
    return boto3.Session(botocore_session=core, region_name="eu-west-1", **CREDENTIALS)


@pytest.fixture
def served(endpoint_class):
    """Serve the endpoint from a thread of its own, for clients that block."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(endpoint_class()) as serving,
    ):
        serving.wait = lambda count: portal.call(serving.arrived, count)
        yield serving


@pytest.fixture
def create(session, served):
    """Create a client of the endpoint."""
    served.watch(introspect.core_session(session))

    def create_client(service="ec2", *, url=served.url, region="eu-west-1", **config):
        config.setdefault("max_pool_connections", 50)
        return session.client(
            service, region_name=region, endpoint_url=url, config=Config(**config)
        )

    return create_client


@pytest.fixture
def queue():
    """Release one call in every twentieth of a second; check that nothing is left of them."""
    made = ApiQueue("50ms")
    yield made
    assert figures(made) == (0, 0)


@contextmanager
def calls(function, count):
    """Call a function in so many threads."""
    with ThreadPoolExecutor(count) as pool:
        yield [pool.submit(function) for _ in range(count)]


def crowd(function, count):
    """Call a function in so many threads at once, and return all answers."""
    with calls(function, count) as futures:
        return [future.result(timeout=PATIENCE) for future in futures]


def test_threads_arrive_one_interval_apart(served, create, queue, stalls):
    """Calls made at once arrive one at a time, and no later than the rate asks for."""
    with paced(create(), queue) as ec2:
        ec2.describe_regions()  # the first of a client takes longer
        start = time.monotonic()
        crowd(ec2.describe_snapshots, 20)
    assert len(served.arrivals) == 21
    served.assert_paced(INTERVAL)
    assert time.monotonic() - start < 20 * INTERVAL + 1 + stalls.seconds


def test_every_retry_waits_its_turn(served, create, queue):
    """Retries of throttled calls are paced together with first attempts."""
    served.answer = served.refuses(8)
    with paced(create(retries={"mode": "standard", "max_attempts": 5}), queue) as ec2:
        answers = crowd(ec2.describe_snapshots, 8)
    attempts = [1 + answer["ResponseMetadata"]["RetryAttempts"] for answer in answers]
    assert len(served.arrivals) == sum(attempts) == 16
    served.assert_paced(INTERVAL)
    assert queue.stats.throttled == 8


def test_pages_and_polls_are_paced(served, create, queue):
    """Each page of a paginator is paced, and each poll of a waiter that does not pause itself."""

    def answer(arrival):
        if arrival.action == "DescribeInstanceStatus":
            state = "ok" if len(served.arrivals) == 10 else "initializing"
            return 200, (
                "<Response><instanceStatusSet><item><instanceStatus><status>"
                f"{state}</status></instanceStatus></item></instanceStatusSet></Response>"
            )
        number = int(arrival.parameters.get("NextToken", ["0"])[0])
        token = f"<nextToken>{number + 1}</nextToken>" if number < 4 else ""
        return 200, f"<Response><reservationSet/>{token}</Response>"

    served.answer = answer
    with paced(create(), queue) as ec2:
        assert len(list(ec2.get_paginator("describe_instances").paginate())) == 5
        ec2.get_waiter("instance_status_ok").wait(
            InstanceIds=["i-1"], WaiterConfig={"Delay": 0, "MaxAttempts": 9}
        )
    assert len(served.arrivals) == 10
    served.assert_paced(INTERVAL)


def test_call_is_signed_after_waiting(served, create):
    """The last of a queue of three seconds arrives with a fresh signature."""
    with paced(create(), ApiQueue("4/s")) as ec2:
        crowd(ec2.describe_snapshots, 13)
    served.assert_paced(0.25)
    served.assert_signed_late(0.25)


def test_slot_around_a_call_warns(create, queue):
    """At the second: the client takes one for each request itself."""
    with paced(create(), queue) as ec2:
        ec2.describe_snapshots()
        with blocking(queue).slot():
            ec2.describe_snapshots()
        with pytest.warns(NestedSlotWarning) as caught, blocking(queue).slot():
            ec2.describe_snapshots()
    assert caught[0].filename == __file__


def test_slot_is_held_until_the_response(served, create, queue):
    """A slot is held while the request is on its way, and given back when that times out."""
    held = []
    served.answer = lambda _: held.append(queue.running)  # and nothing comes
    with paced(create(read_timeout=1.0, **ONE_ATTEMPT), queue) as ec2:
        with pytest.raises(ReadTimeoutError):
            ec2.describe_snapshots()
        assert figures(queue) == (0, 0)
    assert held == [1]


def test_refused_connection_releases_the_slot(create, queue, unused_tcp_port):
    """Each attempt at an endpoint that refuses connections has a slot, and gives it back."""
    client = create(
        url=f"http://127.0.0.1:{unused_tcp_port}",
        retries={"mode": "standard", "total_max_attempts": 2},
    )
    with paced(client, queue) as ec2, pytest.raises(EndpointConnectionError):
        ec2.describe_snapshots()
    assert queue.stats.released == 2
    assert figures(queue) == (0, 0)


def test_signing_error_releases_the_slot(served, create, queue):
    """An exception between the slot and the request gives the slot back."""

    def no_credentials(**_):
        raise LookupError

    with paced(create(), queue) as ec2:
        ec2.meta.events.register("before-sign.ec2", no_credentials)
        with pytest.raises(LookupError):
            ec2.describe_snapshots()
    assert figures(queue) == (0, 0)
    assert not served.arrivals


def test_back_off_holds_no_slot(served, create, queue, monkeypatch):
    """Between two attempts a call holds nothing."""
    served.answer = served.refuses(1)
    held = []

    def sleep(seconds):
        held.append((seconds, figures(queue), queue.stats.throttled, len(served.arrivals)))

    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=sleep))
    with paced(create(), queue) as ec2:
        ec2.meta.events.register_first(
            "needs-retry.ec2", lambda attempts, **_: 1.5 if attempts == 1 else None
        )
        ec2.describe_snapshots()
    assert held == [(1.5, (0, 0), 1, 1)]
    assert len(served.arrivals) == 2


def test_a_closed_queue_fails_the_call(served, create, queue):
    """What the queue raises reaches the caller of the client's method, and nothing is sent."""
    blocking(queue).close()
    with paced(create(), queue) as ec2, pytest.raises(QueueClosed):
        ec2.describe_snapshots()
    assert not served.arrivals


def test_presigning_uses_no_slot(served, create, queue):
    """Signing a URL sends nothing and waits for nothing."""
    with paced(create("s3"), queue) as s3:
        for _ in range(20):
            s3.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
    assert queue.stats.released == 0
    assert not served.arrivals


def test_nested_request_does_not_deadlock(served, create):
    """With room for one call at a time, what signing asks for goes first: nothing deadlocks."""
    queue = ApiQueue("20ms", concurrency=1)
    refresh = threading.Lock()
    with paced(create("sts"), queue) as sts, paced(create(), queue) as ec2:

        def credentials(**_):
            with refresh:
                sts.get_caller_identity()

        ec2.meta.events.register("before-sign.ec2", credentials)
        crowd(ec2.describe_snapshots, 5)
    assert len(served.arrivals) == 10
    assert figures(queue) == (0, 0)


@pytest.mark.parametrize(
    ("service", "call", "status", "body", "throttled"),
    [
        ("ec2", "describe_regions", 503, EC2 % "RequestLimitExceeded", 1),
        ("autoscaling", "describe_tags", 400, QUERY % "RateExceeded", 1),
        ("iam", "list_roles", 429, "<html>", 1),
        ("iam", "list_roles", 409, QUERY % "LimitExceeded", 0),
        ("kms", "list_keys", 400, '{"__type": "LimitExceededException"}', 0),
        ("ce", "get_tags", 400, '{"__type": "LimitExceededException"}', 1),
    ],
)
def test_only_throttles_hold_the_queue(  # noqa: PLR0917 - one a column
    served, create, service, call, status, body, throttled
):
    """Only what says that too many requests came pushes the queue back, for as long as it asks."""
    served.answer = lambda _: (status, body, {"x-amz-retry-after": "60000"})
    queue = ApiQueue()
    period = {"TimePeriod": {"Start": "2026-01-01", "End": "2026-02-01"}}
    arguments = period if service == "ce" else {}
    with paced(create(service, **ONE_ATTEMPT), queue) as client:
        with pytest.raises(Exception, match=r"(?i)exceeded|parse"):
            getattr(client, call)(**arguments)
        assert figures(queue) == (0, 0)
        assert (queue.stats.throttled, queue.stats.malformed) == (throttled, 0)
        assert (queue.estimate() > 50) == bool(throttled)


def test_malformed_hold_is_counted(served, create):
    """Nonsense holds nothing; a hold beyond the maximum is cut to it; both are counted."""
    queue = ApiQueue()
    with paced(create(**ONE_ATTEMPT), queue, max_hold=40) as ec2:
        for count, (value, hold) in enumerate([("NaN", 0), ("86400", 40)], start=1):
            served.answer = served.refuses(1, retry_after=value)
            with pytest.raises(ClientError):
                ec2.describe_snapshots()
            assert (queue.stats.throttled, queue.stats.malformed) == (count, count)
            assert hold - 20 < blocking(queue).call(queue.estimate) <= hold


def test_throttles_in_flight_count_once(served, create):
    """Twenty calls that are all refused slow the queue down once: each slot knows its round."""
    queue = ApiQueue("1000/s", adaptive=Adaptive("1/s"))
    served.answer = served.refuses(20)
    together = threading.Barrier(20)

    def wait_for_all(**_):
        together.wait(PATIENCE)

    with paced(create(**ONE_ATTEMPT), queue) as ec2:
        # After our own: each call has its slot by then, and none has been sent.
        ec2.meta.events.register("before-send.ec2", wait_for_all)
        with calls(ec2.describe_snapshots, 20) as futures:
            pass
    assert all(isinstance(future.exception(), ClientError) for future in futures)
    assert figures(queue) == (0, 0)
    assert (queue.stats.throttled, queue.stats.backed_off) == (20, 1)


def test_client_is_paced_until_last_block(served, create, queue):
    """Nested blocks pace once, in whichever thread; after them the client is as it was."""
    client = create()
    method = introspect.api_call_of(client)
    with paced(client, queue) as ec2:
        with paced(ec2, queue):
            crowd(ec2.describe_snapshots, 3)
        crowd(ec2.describe_snapshots, 3)
        with pytest.raises(RuntimeError, match="paced by another queue"), paced(ec2, ApiQueue()):
            pytest.fail("it was let in")
    assert queue.stats.released == 6
    client.describe_snapshots()
    assert queue.stats.released == 6
    assert introspect.api_call_of(client) == method


def test_session_paces_later_clients(served, create, queue, session):
    """Later clients of a session share the queue; services that are not named are not paced."""
    before = create()
    pace_session(session, {"ec2": queue})
    pace_session(session, {"ec2": queue, "iam": queue})
    with pytest.raises(RuntimeError, match="another queue paces ec2"):
        pace_session(session, ApiQueue())
    clients = [before, create(), create(region="us-east-2"), create("iam"), create("sts")]
    for client, call in zip(
        clients,
        (
            "describe_regions",
            "describe_regions",
            "describe_regions",
            "list_roles",
            "get_caller_identity",
        ),
        strict=True,
    ):
        getattr(client, call)()
    assert len(served.arrivals) == 5
    assert queue.stats.released == 3


def test_botocore_session_can_be_paced(served, loader, queue):
    """A session without boto3 is paced as one with it."""
    core = botocore.session.get_session()
    core.register_component("data_loader", loader)
    core.set_credentials("AKIDEXAMPLE", "secret")
    served.watch(core)
    pace_session(core, queue)
    ec2 = core.create_client("ec2", "eu-west-1", endpoint_url=served.url)
    crowd(ec2.describe_snapshots, 4)
    assert queue.stats.released == 4
    served.assert_paced(INTERVAL)


def test_registry_finds_each_attempts_queue(served, create, session):
    """Service, Region and account choose the queue; what is not listed is not paced."""
    registry = Registry({"ec2": "100/s", "iam": ServiceLimits("100/s", scope=["account"])})
    pace_session(session, registry)
    for client in (create(), create(region="us-east-2"), create()):
        crowd(client.describe_snapshots, 4)
    create("iam").list_roles()
    create("sts").get_caller_identity()
    account = CREDENTIALS["aws_access_key_id"]
    assert {key[:3]: queue.stats.released for key, queue in registry.queues.items()} == {
        ("ec2", "eu-west-1", account): 8,
        ("ec2", "us-east-2", account): 4,
        ("iam", None, account): 1,
    }
    assert len(served.arrivals) == 14


def test_shared_and_weighted_limits_hold(served, create):
    """A call that several limits are for is charged to each what it uses of that."""
    registry = Registry.parse('preset = "aws"')
    with paced(create(), registry) as ec2:
        crowd(lambda: ec2.run_instances(ImageId="ami-1", MinCount=7, MaxCount=7), 3)
    (queue,) = registry.queues.values()
    assert queue.stats.released == 3
    left = {"keys": ["bucket: RunInstances resources"], "cost": {"instances": 500}}
    assert 15 < blocking(queue).call(queue.estimate, **left) <= 21
    assert figures(queue) == (0, 0)
    assert len(served.arrivals) == 3


def test_refreshed_credentials_keep_their_quota(served, session):
    """Each attempt's own credentials are looked at: another key of the account, the same queue."""
    keys = iter(["ASIAQNZGKIQY56JQ7WML", "ASIAQNZGKIQYZZZZZZZZ", "ASIAY34FZKBOKMUTVV7A"])

    def refresh():
        return {
            "access_key": next(keys),
            "secret_key": "s",
            "token": "t",
            "expiry_time": "2999-01-01T00:00:00Z",
        }

    registry = Registry({"ec2": "100/s"})
    core = introspect.core_session(session)
    pace_session(core, registry)
    introspect.set_credentials(core, DeferredRefreshableCredentials(refresh, "test"))
    ec2 = core.create_client("ec2", "eu-west-1", endpoint_url=served.url)
    for _ in range(3):
        introspect.expire_credentials(core)
        ec2.describe_snapshots()
    released = {key.account: queue.stats.released for key, queue in registry.queues.items()}
    assert released == {"029608264753": 2, "609629065308": 1}


def test_role_has_one_quota(served, session):
    """Keys of the old form stand for themselves only; but whose the role is, its ARN says."""
    keys = (f"ASIAIOSFODNN7EXAMP{letter}A" for letter in "LMN")

    def assume_role(**_):
        expiry = datetime.now(UTC) + timedelta(hours=1)
        secrets = {"SecretAccessKey": "s", "SessionToken": "t", "Expiration": expiry}
        return {"Credentials": {"AccessKeyId": next(keys), **secrets}}

    registry = Registry({"ec2": "100/s"})
    core = introspect.core_session(session)
    pace_session(core, registry)
    fetcher = AssumeRoleCredentialFetcher(
        lambda *_, **__: SimpleNamespace(assume_role=assume_role),
        Credentials("AKIAIOSFODNN7EXAMPLE", "s"),
        "arn:aws:iam::029608264753:role/reader",
    )
    credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    introspect.set_credentials(core, credentials)
    ec2 = core.create_client("ec2", "eu-west-1", endpoint_url=served.url)
    for _ in range(2):
        introspect.forget_roles(fetcher)
        introspect.expire_credentials(core)
        ec2.describe_snapshots()
    assert [key.account for key in registry.queues] == ["029608264753"]
    assert next(keys) == "ASIAIOSFODNN7EXAMPNA"  # it was refreshed


def test_coroutines_and_boto3_share_a_queue(served, create):
    """Threads of an asyncio program pace boto3 in the queue that its coroutines use."""
    with start_blocking_portal() as portal:
        queue = ApiQueue("50ms")

        async def call():
            async with queue.slot():
                return asyncio.get_running_loop()

        loop = portal.call(call)
        with pytest.raises(RuntimeError, match="portal="), paced(create(), queue) as ec2:
            ec2.describe_snapshots()
        with paced(create(), blocking(queue, portal=portal)) as ec2:
            crowd(ec2.describe_snapshots, 4)
        assert portal.call(call) is loop
        assert queue.stats.released == 6
    served.assert_paced(INTERVAL)


def test_unsuitable_arguments_are_refused(session, queue):
    """Clients and sessions of aiobotocore are errors at once, which say where they belong."""
    theirs = get_aio_session()
    for client in (session.resource("ec2"), session, "ec2"):
        with (
            pytest.raises(TypeError, match="a botocore client can be paced, not "),
            paced(client, queue),
        ):
            pytest.fail("it was let in")
    with (
        pytest.raises(TypeError, match=r"pace its meta\.client"),
        paced(session.resource("ec2"), queue),
    ):
        pytest.fail("it was let in")
    with pytest.raises(TypeError, match=r"integrations\.aiobotocore is for those"):
        pace_session(theirs, queue)

    async def main():
        async with theirs.create_client("ec2", "eu-west-1", **CREDENTIALS) as client:
            with paced(client, queue):
                pytest.fail("it was let in")

    with pytest.raises(TypeError, match=r"integrations\.aiobotocore is for those"):
        asyncio.run(main())
    with pytest.raises(TypeError, match=r"ec2 can be paced by .*, not by '10/s'"):
        pace_session(session, {"ec2": "10/s"})
    with pytest.raises(TypeError, match=r"a session can be paced by .*, not by '10/s'"):
        pace_session(session, "10/s")
    with pytest.raises(ValueError, match="did you mean 'dynamodb'"):
        pace_session(session, {"dynamobd": queue})


def test_ctrl_c_releases_the_slot(served):
    """KeyboardInterrupt ends a call wherever it is; the queue is as if it had never been."""
    served.answer = lambda arrival: (
        served.HANG if arrival.action == "DescribeVolumes" else (200, "<Response/>")
    )
    program = f"""
        import os, signal, threading, time, boto3
        from aioapiqueue import ApiQueue
        from aioapiqueue.integrations.botocore import paced
        from aioapiqueue.threads import blocking

        queue = ApiQueue("1s", concurrency=1)

        def figures():
            return blocking(queue).call(lambda: (queue.waiting, queue.running))

        def interrupt(when):
            while figures() != when:
                time.sleep(0.01)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

        client = boto3.client("ec2", "eu-west-1", endpoint_url="{served.url}",
                              aws_access_key_id="a", aws_secret_access_key="s")
        with paced(client, queue) as ec2:
            ec2.describe_snapshots()
            blocking(queue).call(queue.pause)
            for when, call in (((1, 0), ec2.describe_snapshots), ((0, 1), ec2.describe_volumes)):
                threading.Thread(target=interrupt, args=(when,)).start()
                try:
                    call()
                except KeyboardInterrupt:
                    print("interrupted", *figures(), flush=True)
                blocking(queue).call(queue.resume)
            ec2.describe_snapshots()
            print(queue.stats.released)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr
    assert done.stdout.splitlines() == ["interrupted 0 0", "interrupted 0 0", "3"]


# Against moto: what boto3 builds on clients.


@pytest.fixture(scope="module")
def moto_url():
    """Serve moto in a thread."""
    with pytest.MonkeyPatch.context() as environment:
        # Its 1,300 images take seconds to load.
        environment.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


class Notes:
    """Notes the key of each call that is let through."""

    def __init__(self):
        self.released = []

    def on_event(self, event):
        """Note it."""
        if event.kind == "released":
            self.released.append(event.key)


def test_multipart_transfers_are_paced_by_part(session, moto_url):
    """Each part that a transfer's threads send or fetch waits its turn; the data arrive whole."""
    notes = Notes()
    queue = ApiQueue("100/s", observers=[notes])
    pace_session(session, {"s3": queue})
    s3 = session.client("s3", endpoint_url=moto_url)
    s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    part = 5 * 2**20
    data = bytes(range(256)) * (3 * part // 256) + b"end"
    transfer = TransferConfig(
        multipart_threshold=part, multipart_chunksize=part, preferred_transfer_client="classic"
    )
    s3.upload_fileobj(io.BytesIO(data), "bucket", "k", Config=transfer)
    copy = io.BytesIO()
    s3.download_fileobj("bucket", "k", copy, Config=transfer)
    assert copy.getvalue() == data
    assert notes.released[:2] == ["CreateBucket", "CreateMultipartUpload"]
    assert notes.released.count("UploadPart") == notes.released.count("GetObject") == 4
    assert figures(queue) == (0, 0)


def test_many_transfers_keep_the_rate(session, moto_url):
    """Twelve uploads and downloads by as many threads start no more calls than the rate allows."""
    queue = ApiQueue("50/s")
    pace_session(session, queue)
    s3 = session.resource("s3", endpoint_url=moto_url)
    bucket = s3.create_bucket(
        Bucket="many", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    numbers = itertools.count()
    start = time.monotonic()

    def copy():
        name = str(next(numbers))
        bucket.upload_fileobj(io.BytesIO(name.encode()), name)
        got = io.BytesIO()
        bucket.download_fileobj(name, got)
        return got.getvalue() == name.encode()

    assert all(crowd(copy, 12))
    assert len(list(bucket.objects.all())) == 12
    released = queue.stats.released
    assert released >= 1 + 12 * 2 + 1
    assert time.monotonic() - start >= (released - 1) / 50 - 0.05
    assert figures(queue) == (0, 0)


def test_resources_collections_and_waiters_are_paced(session, moto_url):
    """What boto3's resources do is paced, with the operation as the key."""
    notes = Notes()
    pace_session(session, {"ec2": ApiQueue("100/s", observers=[notes])})
    ec2 = session.resource("ec2", endpoint_url=moto_url)
    volume = ec2.create_volume(AvailabilityZone="eu-west-1a", Size=1)
    ec2.meta.client.get_waiter("volume_available").wait(VolumeIds=[volume.id])
    assert [found.id for found in ec2.volumes.all()] == [volume.id]
    volume.delete()
    assert notes.released == ["CreateVolume", "DescribeVolumes", "DescribeVolumes", "DeleteVolume"]


def test_missing_botocore_names_the_extra():
    """Importing the module without its dependency says what to install."""
    program = "import sys; sys.modules['botocore'] = None; import aioapiqueue.integrations.botocore"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        'ImportError: pacing boto3 needs botocore: pip install "aioapiqueue[boto]"' in done.stderr
    )
