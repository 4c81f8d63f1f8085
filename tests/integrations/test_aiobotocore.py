"""What is peculiar to aiobotocore: cancellation, and what coroutines do while they wait."""

import asyncio
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager

import botocore.loaders
import botocore.session
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from aioapiqueue import ApiQueue, NestedSlotWarning
from aioapiqueue.integrations.aiobotocore import pace_session, paced
from aioapiqueue.registry import Registry
from aioapiqueue.threads import blocking
from tests.helpers import introspect
from tests.helpers.aws_clients import CREDENTIALS, PATIENCE
from tests.helpers.yardstick import delay

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("no_machine_configuration")]

INTERVAL = 0.1


@pytest.fixture(autouse=True)
def _botocore_reads_files(blockbuster):
    """Let botocore read its service models from disk while it makes a client."""
    blockbuster.deactivate()


@pytest.fixture(scope="module")
def service_models():
    """Read botocore's service models once, not in every test."""
    found = botocore.loaders.create_loader()
    found.load_service_model("ec2", "service-2")
    return found


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


async def test_cancelled_waiters_delay_nobody(endpoint, create, stalls):
    """Fifty calls cancelled in the queue cost those behind them nothing.

    On a busy machine, they may take longer in proportion.
    """
    async with ApiQueue("200ms") as queue, paced(create(), queue) as ec2:
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
                took = time.monotonic() - start
        assert queue.stats.released == 4
    most = 3 * 0.2 + 0.15 + stalls.seconds  # less than one interval more
    assert took < most or took < most * delay()
    assert [arrival.action for arrival in endpoint.arrivals] == ["DescribeSnapshots"] * 4
    endpoint.assert_paced(0.2)


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


async def test_unsuitable_arguments_are_refused(session, service_models, queue):
    """A blocking client, and a rate where a queue belongs, are errors at once."""
    core = botocore.session.get_session()
    core.register_component("data_loader", service_models)
    blocking = core.create_client("ec2", "eu-west-1", **CREDENTIALS)
    with pytest.raises(TypeError, match=r"^<.* is not an aiobotocore client"):
        async with paced(blocking, queue):
            pytest.fail("it was let in")
    blocking.close()
    with pytest.raises(TypeError, match="by an ApiQueue or a Registry, not by '10/s'"):
        pace_session(session, {"ec2": "10/s"})


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


async def test_sessions_of_another_kind_are_refused(queue):
    """A blocking session is an error at once, which says where it belongs."""
    with pytest.raises(TypeError, match=r": use aioapiqueue\.integrations\.botocore$"):
        pace_session(botocore.session.get_session(), queue)
    with pytest.raises(TypeError, match=r"^'ec2' is not an aiobotocore session$"):
        pace_session("ec2", queue)
    with pytest.raises(TypeError, match=r"not by <aioapiqueue\.threads\.Blocking"):
        pace_session(get_session(), blocking(queue))


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
