"""What is peculiar to botocore: threads without a loop, and what boto3 builds on it (moto)."""

import asyncio
import io
import itertools
import os
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
import botocore.loaders
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

from aioapiqueue import ApiQueue, NestedSlotWarning
from aioapiqueue.integrations.botocore import pace_session, paced
from aioapiqueue.registry import Registry
from aioapiqueue.threads import blocking
from tests.helpers import introspect
from tests.helpers.aws_clients import CREDENTIALS
from tests.helpers.lazily import lazily
from tests.helpers.threads import PATIENCE, figures

moto = lazily("moto.server")

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("no_machine_configuration")]

INTERVAL = 0.05


@pytest.fixture(scope="module")
def loader():
    """Read botocore's service models once, not in every test."""
    found = botocore.loaders.create_loader()
    found.load_service_model("ec2", "service-2")
    return found


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


def test_slot_around_a_call_warns(create, queue):
    """At the second: the client takes one for each request itself."""
    with paced(create(), queue) as ec2:
        ec2.describe_snapshots()
        with blocking(queue).slot():
            ec2.describe_snapshots()
        with pytest.warns(NestedSlotWarning) as caught, blocking(queue).slot():
            ec2.describe_snapshots()
    assert caught[0].filename == __file__


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


def test_role_has_one_quota(served, session):
    """Keys of the old form do not contain the account, but botocore knows the role's."""
    keys = (f"ASIAIOSFODNN7EXAMP{letter}A" for letter in "LMN")

    def assume_role(**_):
        expiry = datetime.now(UTC) + timedelta(hours=1)
        secrets = {"SecretAccessKey": "s", "SessionToken": "t", "Expiration": expiry}
        role = {"Arn": "arn:aws:sts::029608264753:assumed-role/reader/session"}
        return {"Credentials": {"AccessKeyId": next(keys), **secrets}, "AssumedRoleUser": role}

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


def test_unsuitable_arguments_are_refused(session, loader, queue):
    """Clients and sessions of aiobotocore are errors at once, which say where they belong."""
    theirs = get_aio_session()
    theirs.register_component("data_loader", loader)
    resource = session.resource("ec2")
    for client in (resource, session, "ec2"):
        with (
            pytest.raises(TypeError, match=" is not a botocore client"),
            paced(client, queue),
        ):
            pytest.fail("it was let in")
    with (
        pytest.raises(TypeError, match=r"pace the meta\.client of a resource$"),
        paced(resource, queue),
    ):
        pytest.fail("it was let in")
    with pytest.raises(TypeError, match=r": use aioapiqueue\.integrations\.aiobotocore$"):
        pace_session(theirs, queue)

    async def main():
        async with theirs.create_client("ec2", "eu-west-1", **CREDENTIALS) as client:
            with paced(client, queue):
                pytest.fail("it was let in")

    with pytest.raises(TypeError, match=r": use aioapiqueue\.integrations\.aiobotocore$"):
        asyncio.run(main())
    with pytest.raises(TypeError, match=r"ec2 can be paced by .*, not by '10/s'"):
        pace_session(session, {"ec2": "10/s"})
    with pytest.raises(TypeError, match=r"a session can be paced by .*, not by '10/s'"):
        pace_session(session, "10/s")


def test_ctrl_c_releases_the_slot(served):
    """KeyboardInterrupt ends a call wherever it is; the queue is as if it had never been."""
    served.answer = lambda arrival: (
        served.HANG if arrival.action == "DescribeVolumes" else (200, "<Response/>")
    )
    program = f"""
        import os, signal, threading, time, botocore.session
        from aioapiqueue import ApiQueue
        from aioapiqueue.integrations.botocore import paced
        from aioapiqueue.threads import blocking

        queue = ApiQueue("100ms", concurrency=1)

        def figures():
            return blocking(queue).call(lambda: (queue.waiting, queue.running))

        def interrupt(when):
            while figures() != when:
                time.sleep(0.01)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        client = botocore.session.get_session().create_client(
            "ec2", "eu-west-1", endpoint_url="{served.url}",
            aws_access_key_id="a", aws_secret_access_key="s",
        )
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
def moto_url(loader):
    """Serve moto in a thread, with the services imported that are used."""
    with pytest.MonkeyPatch.context() as environment:
        # Its 1,300 images take seconds to load.
        environment.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        environment.delenv("AWS_PROFILE", raising=False)  # of the user who runs the tests
        environment.setenv("AWS_CONFIG_FILE", os.devnull)
        server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        core = botocore.session.get_session()
        core.register_component("data_loader", loader)
        for service, call in (("ec2", "describe_volumes"), ("s3", "list_buckets")):
            client = core.create_client(service, "eu-west-1", endpoint_url=url, **CREDENTIALS)
            getattr(client, call)()
            client.close()
        yield url
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
    data = bytes(range(256)) * (2 * part // 256) + b"end"
    transfer = TransferConfig(
        multipart_threshold=part, multipart_chunksize=part, preferred_transfer_client="classic"
    )
    s3.upload_fileobj(io.BytesIO(data), "bucket", "k", Config=transfer)
    copy = io.BytesIO()
    s3.download_fileobj("bucket", "k", copy, Config=transfer)
    assert copy.getvalue() == data
    assert notes.released[:2] == ["CreateBucket", "CreateMultipartUpload"]
    assert notes.released.count("UploadPart") == notes.released.count("GetObject") == 3
    assert figures(queue) == (0, 0)


def test_many_transfers_keep_the_rate(session, moto_url):
    """Eight uploads and downloads by as many threads start no more calls than the rate allows."""
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

    assert all(crowd(copy, 8))
    assert len(list(bucket.objects.all())) == 8
    released = queue.stats.released
    assert released >= 1 + 8 * 2 + 1
    assert time.monotonic() - start >= (released - 1) / 50 - 0.02
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
