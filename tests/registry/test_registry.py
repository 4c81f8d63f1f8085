from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import re
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioapiqueue import Observer, QueueClosed, Rate, Window, WouldWait
from aioapiqueue.adaptive import Adaptive
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry import InForce, QueueKey, Registry, ServiceLimits
from aioapiqueue.registry.spi import forget_idle
from aioapiqueue.spi import QueueReader
from tests.helpers.garbage import leave_older_alone
from tests.helpers.registries import queue_of

DOC = (Path(__file__).parents[2] / "docs" / "limits.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\S+)( wrong)?\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
GOOD = [text for kind, wrong, text in BLOCKS if kind == "toml" and not wrong]


def problems_of(text):
    """Return what is wrong with a file."""
    with pytest.raises(LimitsError) as caught:
        Registry.parse(text)
    return list(caught.value.problems)


def names(registry):
    """Return the names of the queues in being."""
    return sorted(queue.name for queue in registry.queues.values())


# The schema


def test_the_document_has_examples():
    """docs/limits.md shows files, and all blocks of it are found here."""
    assert len(GOOD) > 5
    assert len(BLOCKS) == DOC.count("\n```") / 2


@pytest.mark.parametrize("text", GOOD)
def test_examples_of_the_document_load(text):
    """Every limits.toml that the document shows is one, and says something."""
    assert list(Registry.parse(text))


def test_document_shows_errors_of_its_mistakes():
    """The file with mistakes gives exactly the message that the document shows."""
    after = iter(BLOCKS)
    wrong = next(text for _, wrong, text in after if wrong)
    assert "\n".join(problems_of(wrong)) + "\n" == next(after)[2]


PYTHON = [
    (code, out) for (kind, _, code), (_, _, out) in itertools.pairwise(BLOCKS) if kind == "python"
]


@pytest.mark.parametrize(("code", "out"), PYTHON)
def test_document_python_prints_what_it_shows(code, out, capsys):
    """Each Python example runs and prints the block after it."""
    exec(compile(code, "docs/limits.md", "exec"), {})  # noqa: S102 - our own document
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("written", "limits"),
    [
        ('"10/s"', [Rate(10)]),
        ('"100ms"', [Rate(1, 0.1)]),
        ('"20/s burst 100"', [Rate(20, burst=100)]),
        ('"20/s BURST 2.5"', [Rate(20, burst=2.5)]),
        ('"20/s (burst 100)"', [Rate(20, burst=100)]),
        ('"5000 in any 1h"', [Window(5000, 3600)]),
        ('"5000 in any hour"', [Window(5000, 3600)]),
        ('" 10/s ,5000 in any 3600s"', [Rate(10), Window(5000, 3600)]),
        ('["10/s", "5/s burst 3"]', [Rate(10), Rate(5, burst=3)]),
        ('{rate = "20/s", burst = 100}', [Rate(20, burst=100)]),
        ('{window = "5000/h"}', [Window(5000, 3600)]),
        ('{rate = "20/s", window = "7 per 2s"}', [Rate(20), Window(7, 2)]),
        ('[{rate = "20/s", burst = 100}, {window = "5/s"}, "1/s"]',
         [Rate(20, burst=100), Window(5, 1), Rate(1)]),
        ('"unlimited"', []),
        ('" Unlimited "', []),
    ],
)  # fmt: skip
def test_limits_are_written_in_many_ways(written, limits):
    """A limit means the same as a service, as its rate, and in a lane."""
    for text in (
        f"ec2 = {written}" if written[0] != "{" else f"[ec2]\nrate = {written}",
        f"[ec2]\nrate = {written}",
    ):
        assert Registry.parse(text).services["ec2"].rate == tuple(limits)
    lanes = (
        Registry.parse(f'[ec2]\nrate = "9/s"\nlanes = {{"*" = {written}}}').services["ec2"].lanes
    )
    assert lanes == {"*": tuple(limits)}


@given(
    st.builds(Rate, st.integers(1, 10**5), st.integers(1, 10**5), st.integers(1, 10**5))
    | st.builds(Window, st.integers(1, 10**5), st.integers(1, 10**5))
)
def test_limits_read_as_they_print(limit):
    """What a limit prints as is read as an equal one."""
    assert ServiceLimits(str(limit)).rate == (limit,)


def test_table_takes_burst_and_window():
    """A service's own table may hold what a limit's table holds."""
    text = '[ec2]\nrate = "20/s"\nburst = 100\nwindow = "5000/h"'
    assert Registry.parse(text).services["ec2"].rate == (Rate(20, burst=100), Window(5000, 3600))


async def test_weights_reach_the_queue():
    """Operations of a service, and of services that share a queue, have the shares of the table."""
    text = '[ec2]\nrate = "1000/s"\norder = "fair"\nweights = {"Describe*" = 3}'
    registry = Registry.parse(text)
    assert registry.services["ec2"] == ServiceLimits(
        "1000/s", order="fair", weights={"Describe*": 3}
    )
    with pytest.raises(LimitsError, match='write order = "fair", too'):
        ServiceLimits("1000/s", weights={"Describe*": 3})
    queue, started = queue_of(registry, "ec2"), []
    (await queue.enqueue()).release()
    keys = ["RunInstances"] * 8 + ["DescribeImages"] * 8
    futures = [queue.enqueue(key=key) for key in keys]
    for future in futures:
        future.add_done_callback(lambda done: started.append(done.result().key))
    await asyncio.gather(*futures)
    assert started[:8].count("DescribeImages") == 6


async def test_every_key_reaches_the_queue():
    """Limits, lanes, order, concurrency and adaptive of a table are those of its queues."""
    registry = Registry.parse(
        '[ec2]\nrate = "20/s burst 9"\norder = "fair"\nconcurrency = 3\n'
        'adaptive = {floor = "2/s", backoff = 0.5}\nlanes = {DescribeSnapshots = "5/s burst 2"}'
    )
    limits = registry.services["ec2"]
    assert limits == ServiceLimits(
        "20/s burst 9",
        lanes={"DescribeSnapshots": "5/s burst 2"},
        order="fair",
        concurrency=3,
        adaptive=Adaptive("2/s", 0.5),
    )
    queue = queue_of(registry, "ec2")
    assert queue.limits == (Rate(20, burst=9),)
    with queue.try_slot(key="DescribeSnapshots"), queue.try_slot(key="DescribeSnapshots"):
        with pytest.raises(WouldWait):
            queue.try_slot(key="DescribeSnapshots")
        with queue.try_slot(), pytest.raises(WouldWait):
            queue.try_slot()
    async with queue.slot() as slot:
        slot.throttled()
    assert queue.stats.backed_off == 1


def test_service_limits_are_values():
    """They compare, hash and print by what they say, cannot be changed, and can be varied."""
    one = ServiceLimits("10/s", lanes={"A": "1/s"})
    assert one == ServiceLimits([Rate(10)], lanes={"A": [Rate(1)]})
    assert len({one, ServiceLimits(Rate(10), lanes={"A": "1/s"})}) == 1
    assert dataclasses.replace(one, rate="20/s").rate == (Rate(20),)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.rate = ()
    with pytest.raises(TypeError):
        one.lanes["A"] = ()
    assert repr(ServiceLimits()) == "ServiceLimits()"
    assert repr(one) == (
        "ServiceLimits(rate=(Rate(calls=10, per=1.0, burst=1),), "
        "lanes={'A': (Rate(calls=1, per=1.0, burst=1),)})"
    )
    assert eval(repr(one), {**globals()}) == one  # noqa: S307 - our own text


def test_code_reads_as_a_file():
    """Tables, shorthands and `ServiceLimits` in code are read as the same words in a file."""
    text = '[default]\nrate = "1/s"\n[ec2]\nrate = "10/s"\nscope = ["account"]'
    file = Registry.parse(text)
    code = Registry({"ec2": {"rate": "10/s", "scope": ["account"]}}, default="1/s")
    assert dict(file.services) == dict(code.services)
    assert file.default == code.default == ServiceLimits("1/s")
    assert Registry({"ec2": file.services["ec2"]}).services == file.services


# Which queue


def test_queue_per_service_account_and_region():
    """By default each account in each Region has a queue of its own, which all operations share."""
    registry = Registry({"ec2": "10/s", "iam": "5/s"})
    queue = queue_of(registry, "ec2", region="eu-west-1", account="1")
    assert queue_of(registry, "ec2", region="eu-west-1", account="1") is queue
    queue_of(registry, "ec2", region="eu-west-1", account="2")
    queue_of(registry, "ec2", region="us-east-1", account="1")
    queue_of(registry, "iam", region="eu-west-1", account="1")
    assert names(registry) == ["ec2 eu-west-1 1", "ec2 eu-west-1 2", "ec2 us-east-1 1",
                               "iam eu-west-1 1"]  # fmt: skip
    assert registry.queues[QueueKey("ec2", "eu-west-1", "1")] is queue


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (["account", "region"], ["ec2 a 1", "ec2 a 2", "ec2 b 1"]),
        (["region", "account"], ["ec2 a 1", "ec2 a 2", "ec2 b 1"]),
        (["region"], ["ec2 a", "ec2 b"]),
        (["account"], ["ec2 1", "ec2 2"]),
        ([], ["ec2"]),
    ],
)
def test_scope_chooses_the_queue(scope, expected):
    """Calls that differ only in what is not in the scope share a queue."""
    registry = Registry({"ec2": {"rate": "10/s", "scope": scope}})
    for region, account in (("a", "1"), ("a", "2"), ("b", "1")):
        queue_of(registry, "ec2", region=region, account=account)
    assert names(registry) == expected


def test_unknown_account_or_region_is_separate():
    """Calls whose account or Region is not known share a queue with each other only."""
    registry = Registry({"ec2": "10/s"})
    unknown = queue_of(registry, "ec2", region="a")
    assert queue_of(registry, "ec2", region="a") is unknown
    assert queue_of(registry, "ec2", region="a", account="1") is not unknown
    assert queue_of(registry, "ec2") is not unknown
    assert names(registry) == ["ec2", "ec2 a", "ec2 a 1"]


def test_unlisted_services_are_not_paced():
    """Without a default, they get no queue, and none is made."""
    registry = Registry({"ec2": "10/s"})
    assert queue_of(registry, "s3") is None
    assert not registry.queues


def test_default_is_a_pattern():
    """Each service that is not listed gets queues of its own, scoped as the default says."""
    registry = Registry.parse(
        '[default]\nrate = "3/s"\nscope = ["account"]\nlanes = {"*" = "2/s"}\n[ec2]\nrate = "10/s"'
    )
    found = [queue_of(registry, service, region="a", account="1") for service in ("s3", "sqs")]
    assert [queue.limits for queue in found] == [(Rate(3),), (Rate(3),)]
    assert queue_of(registry, "s3", region="b", account="1") is found[0]
    assert queue_of(registry, "not-even-a-service") is not None
    queue_of(registry, "ec2", region="a", account="1")
    assert names(registry) == ["ec2 a 1", "not-even-a-service", "s3 1", "sqs 1"]


def test_unlimited_exempts_from_the_default():
    """Its calls get a queue, which counts them and holds nobody."""
    registry = Registry.parse('[default]\nrate = "3/s"\n[s3]\nrate = "unlimited"')
    assert queue_of(registry, "s3").limits == ()


@pytest.mark.parametrize(
    ("listed", "asked"),
    [
        ("autoscaling", "auto-scaling"),
        ("elbv2", "elastic-load-balancing-v2"),
        ("sms-voice", "pinpoint-sms-voice"),
        ("pinpoint-sms-voice", "sms-voice"),
    ],
)
def test_service_ids_are_found(listed, asked):
    """Botocore's service id leads to the same queue as the name that create_client takes."""
    registry = Registry({listed: "10/s"})
    queue = queue_of(registry, asked)
    assert queue is not None
    assert queue_of(registry, listed) is queue
    unlisted = Registry({}, default="10/s")
    assert queue_of(unlisted, asked) is queue_of(unlisted, listed)


def test_newer_service_is_found_by_id():
    """Where neither list knows the name, hyphens make no difference."""
    registry = Registry({"brandnew": {"rate": "1/s", "check": False}})
    assert queue_of(registry, "brand-new") is queue_of(registry, "brandnew") is not None


async def test_queues_pace():
    """Two Regions go at their own pace; a lane of one waits under its service's limits."""
    loop = asyncio.get_running_loop()
    registry = Registry.parse('[ec2]\nrate = "10/s"\nlanes = {DescribeSnapshots = "2/s"}')
    ends = {}

    async def call(operation, region):
        async with queue_of(registry, "ec2", region=region).slot(key=operation):
            ends.setdefault((operation, region), []).append(round(loop.time(), 3))

    calls = [("DescribeSnapshots", "a")] * 3 + [("RunInstances", "a")] * 3
    calls += [("RunInstances", "b")] * 3
    await asyncio.gather(*(call(*which) for which in calls))
    assert ends == {
        ("DescribeSnapshots", "a"): [0, 0.5, 1],
        ("RunInstances", "a"): [0.1, 0.2, 0.3],
        ("RunInstances", "b"): [0, 0.1, 0.2],
    }


async def test_observers_hear_of_every_queue():
    """An observer of the registry observes all its queues, and gets their names."""

    class Ears:
        heard: list = []  # noqa: RUF012

        def on_event(self, event):
            self.heard.append((event.kind, event.queue, event.key))

    assert isinstance(Ears(), Observer)
    for registry in (
        Registry({"ec2": "10/s"}, observers=[Ears()]),
        Registry.parse('ec2 = "10/s"', observers=[Ears()]),
        Registry.from_options(["ec2=10/s"], observers=[Ears()]),
    ):
        async with queue_of(registry, "ec2", region="a").slot(key="DescribeSnapshots"):
            assert ("released", "ec2 a", "DescribeSnapshots") in Ears.heard
        Ears.heard.clear()


@pytest.mark.real
def test_threads_get_the_same_queue():
    """Of 8 threads that ask for 200 new queues at the same time, none gets one of its own."""
    registry = Registry({"ec2": "10/s"})
    barrier = threading.Barrier(8, timeout=30)
    found = [[] for _ in range(8)]

    def ask(mine):
        for region in map(str, range(200)):
            barrier.wait()
            mine.append(queue_of(registry, "ec2", region=region))

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in found]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert len(set(found[0])) == 200 == len(registry.queues)
    assert all(mine == found[0] for mine in found)


# The end


async def test_leaving_the_block_drains_all_queues():
    """Two queues with two seconds of waiters each are drained in two seconds."""
    loop = asyncio.get_running_loop()
    async with Registry({"ec2": "1/s"}) as registry:
        calls = [queue_of(registry, "ec2", region=region).enqueue() for region in "aabbab"]
    assert loop.time() == 2
    assert all(call.done() and not call.exception() for call in calls)


async def test_exception_in_the_block_refuses_waiters():
    """Nobody is waited for."""
    with pytest.raises(ZeroDivisionError):
        async with Registry({"ec2": "1/s"}) as registry:
            calls = [queue_of(registry, "ec2").enqueue() for _ in range(3)]
            raise ZeroDivisionError
    assert asyncio.get_running_loop().time() == 0
    assert [type(call.exception()) for call in calls] == [type(None), QueueClosed, QueueClosed]


async def test_timeout_is_for_all_queues_together():
    """A timeout of 1.5 s lets each queue go on for 1.5 s, not one after the other."""
    registry = Registry({"ec2": "1/s"})
    calls = [queue_of(registry, "ec2", region=region).enqueue() for region in "aaaabbbb"]
    await registry.aclose(timeout=1.5)
    assert asyncio.get_running_loop().time() == 1.5
    assert sum(call.exception() is None for call in calls) == 4


async def test_cancelling_aclose_refuses_waiters():
    """Cancelled while it drains, it leaves nobody waiting, in any queue."""
    registry = Registry({"ec2": "1/s"})
    calls = [queue_of(registry, "ec2", region=region).enqueue() for region in "aaaabbbb"]
    closing = asyncio.create_task(registry.aclose())
    await asyncio.sleep(0.5)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert asyncio.get_running_loop().time() == 0.5
    assert all(call.done() for call in calls)
    assert sum(isinstance(call.exception(), QueueClosed) for call in calls) == 6


async def test_closed_registry_gives_no_queue():
    """Neither an old queue nor a new one; what is not paced stays so."""
    registry = Registry({"ec2": "1/s"})
    queue = queue_of(registry, "ec2", region="a")
    await registry.aclose()
    assert queue.closed
    for region in "ab":
        with pytest.raises(QueueClosed, match="make a new registry"):
            queue_of(registry, "ec2", region=region)
    assert queue_of(registry, "s3") is None


@pytest.mark.real
async def test_foreign_loop_keeps_no_queue_open():
    """It is named by the RuntimeError that the queue raises; the others are closed."""
    registry = Registry({"ec2": "1000/s"})
    there, go = threading.Event(), threading.Event()

    async def use():
        async with queue_of(registry, "ec2", region="far").slot():
            there.set()
            await asyncio.to_thread(go.wait, 30)

    thread = threading.Thread(target=asyncio.run, args=(use(),))
    thread.start()
    await asyncio.to_thread(there.wait, 30)
    near = queue_of(registry, "ec2", region="near")
    try:
        with pytest.raises(RuntimeError, match="ec2 far"):
            await registry.aclose()
        assert near.closed
    finally:
        go.set()
        await asyncio.to_thread(thread.join, 30)


# Options


def test_options_alone_make_a_registry():
    """Several limits have a comma between them; an operation needs no limits of its service."""
    registry = Registry.from_options(
        ["ec2 = 20/s burst 100, 5000 in any 1h", "s3.ListBuckets=5/s", "s3.*=1/s", "default=3/s"]
    )
    assert registry.services["ec2"].rate == (Rate(20, burst=100), Window(5000, 3600))
    assert registry.services["s3"] == ServiceLimits("3/s", lanes={"ListBuckets": "5/s", "*": "1/s"})
    assert registry.default == ServiceLimits("3/s")
    assert queue_of(registry, "s3").limits == (Rate(3),)


@pytest.mark.parametrize(
    "options", list(itertools.permutations(["s3.*=1/s", "default=3/s", "s3.ListBuckets=2/s"]))
)
def test_order_of_options_is_irrelevant(options):
    """The other calls of a service have the default, wherever it stands."""
    registry = Registry.from_options(options)
    assert registry.services["s3"] == ServiceLimits("3/s", lanes={"*": "1/s", "ListBuckets": "2/s"})


def test_options_override_the_file():
    """Only the rate, or the one lane, is replaced; the file's registry stays as it is."""
    file = Registry.parse(
        '[ec2]\nrate = "10/s"\nscope = ["account"]\nlanes = {RunInstances = "1/s"}\n'
        '[iam]\nrate = "5/s"\n[default]\nrate = "2/s"\nconcurrency = 4'
    )
    both = Registry.from_options(
        ["ec2=100ms", "ec2.DescribeSnapshots=5/s", "s3.ListBuckets=1/s"], base=file
    )
    assert both.services["ec2"] == ServiceLimits(
        "100ms", scope=["account"], lanes={"RunInstances": "1/s", "DescribeSnapshots": "5/s"}
    )
    assert both.services["iam"] == file.services["iam"]
    assert both.services["s3"] == ServiceLimits("2/s", concurrency=4, lanes={"ListBuckets": "1/s"})
    assert both.default == file.default
    assert file.services["ec2"].rate == (Rate(10),)
    assert "s3" not in file.services
    assert [(one.service, one.operation, one.source) for one in both] == [
        ("ec2", None, "--limit ec2=100ms"),
        ("ec2", "RunInstances", "limits.toml, line 4"),
        ("ec2", "DescribeSnapshots", "--limit ec2.DescribeSnapshots=5/s"),
        ("iam", None, "limits.toml, line 6"),
        ("s3", None, "limits.toml, line 8"),
        ("s3", "ListBuckets", "--limit s3.ListBuckets=1/s"),
        ("default", None, "limits.toml, line 8"),
    ]


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("ec2", "write SERVICE=LIMIT, SERVICE.Operation=LIMIT or HOST=LIMIT"),
        ("100ms", "write SERVICE=LIMIT, SERVICE.Operation=LIMIT or HOST=LIMIT"),
        ("=100ms", "write SERVICE=LIMIT, SERVICE.Operation=LIMIT or HOST=LIMIT"),
        ("ec2.=100ms", "write SERVICE=LIMIT, SERVICE.Operation=LIMIT or HOST=LIMIT"),
        ("ec2=", "'' is not a limit"),
        ("ec2=fast", "'fast' is not a limit"),
        ("ec2=10", "'10' is not a limit"),
        ("auto-scaling=1/s", "did you mean 'autoscaling'?"),
        ("ec2.describe_snapshots=1/s", "did you mean 'DescribeSnapshots'?"),
        ("default.ListBuckets=1/s", "in the table of its service"),
    ],
)
def test_invalid_option_is_named(option, problem):
    """The message names the option as it was given, and says what to do."""
    with pytest.raises(LimitsError) as caught:
        Registry.from_options(["iam=1/s", option])
    (line,) = caught.value.problems
    assert line.startswith(f"--limit {option}: ")
    assert problem in line


def test_invalid_options_are_named_together():
    """So is one that is given twice, and one that the file's other words do not allow."""
    file = Registry.parse('[iam]\nrate = "10/s"\nadaptive = {floor = "1/s"}')
    with pytest.raises(LimitsError) as caught:
        Registry.from_options(["ec2=1/s", "ec2=2/s", "iam=0.5/s"], base=file)
    assert len(caught.value.problems) == 2
    assert (
        "--limit ec2=1/s is for the same calls: write one option, with a comma"
        in caught.value.problems[0]
    )
    assert "is above the limits" in caught.value.problems[1]


def test_option_may_name_unchecked_operations():
    """`check = false` in the file holds for options too."""
    file = Registry.parse('[brand-new]\nrate = "1/s"\ncheck = false')
    both = Registry.from_options(["brand-new.DoIt=1/s"], base=file)
    assert both.services["brand-new"].lanes == {"DoIt": (Rate(1),)}


# What is in force


def test_hosts_come_first_and_the_default_last():
    """Whatever the order in the file is, and also if an option adds one."""
    file = Registry.parse('[default]\nrate = "1/s"\n[ec2]\nrate = "1/s"\n[hosts]\n"b.test" = "1/s"')
    both = Registry.from_options(["iam=1/s", "https://a.test=1/s"], base=file)
    expected = ["https://b.test", "https://a.test", "ec2", "iam", "default"]
    assert [one.service for one in both] == expected


def test_limits_in_force_have_sources():
    """Each service, then its operations, with file and line."""
    text = 'iam = "1/s"\n\n[ec2]\n# a comment\nrate = [\n  "10/s",\n]\n[ec2.lanes]\n"*" = "5/s"\n'
    assert list(Registry.parse(text, source="l.toml")) == [
        InForce("iam", None, (Rate(1),), ("account", "region"), "l.toml, line 1"),
        InForce("ec2", None, (Rate(10),), ("account", "region"), "l.toml, line 5"),
        InForce("ec2", "*", (Rate(5),), ("account", "region"), "l.toml, line 9"),
    ]
    assert [one.source for one in Registry({"ec2": "1/s"}, default="1/s")] == ["code", "code"]


def test_a_registry_prints_what_it_paces():
    """Services, the default, and how many queues there are."""
    registry = Registry({"ec2": "10/s"}, default="1/s")
    queue_of(registry, "ec2")
    assert repr(registry) == "<Registry of ec2, default: 1 queue>"
    assert repr(Registry({})) == "<Registry of nothing: 0 queues>"


async def test_queues_at_rest_are_forgotten():
    """What nobody uses, and owes nobody a wait, is given up; whatever else is there stays."""
    leave_older_alone()
    limits = {"rate": "10/s", "lanes": {"DescribeVolumes": "1/min"}}
    registry = Registry({"ec2": limits, "iam": "1/s", "sts": "1/s"})
    ec2, iam, sts = (queue_of(registry, name) for name in ("ec2", "iam", "sts"))
    with ec2.try_slot(), iam.try_slot():
        assert forget_idle(registry) == [sts]
    del sts
    gc.collect()
    assert registry.queues.keys() == {("ec2", None, None), ("iam", None, None)}
    await asyncio.sleep(2)
    with ec2.try_slot(key="DescribeVolumes"), iam.try_slot():
        await asyncio.sleep(2)
        assert forget_idle(registry) == []  # they run
    assert forget_idle(registry) == [iam]
    await asyncio.sleep(57.9)
    assert not QueueReader(ec2).is_idle()  # its lane owes a wait
    ec2.pause()
    await asyncio.sleep(1)
    assert not QueueReader(ec2).is_idle()
    ec2.resume()
    await asyncio.sleep(1)
    assert QueueReader(ec2).is_idle()
    waiting = [ec2.enqueue(key="DescribeVolumes") for _ in range(2)]
    waiting[0].result().release()
    assert not QueueReader(ec2).is_idle()
    waiting[1].cancel()
    await asyncio.sleep(61)
    assert ec2 in forget_idle(registry)
    assert queue_of(registry, "ec2") is ec2  # as somebody has it: us


@pytest.mark.parametrize("key", [None, "DescribeVolumes"])
async def test_queues_of_other_limits_are_kept(key):
    """A rate that was set by hand is not forgotten."""
    registry = Registry({"ec2": {"rate": "10/s", "lanes": {"DescribeVolumes": "1/min"}}})
    queue_of(registry, "ec2").set_rate("1/h", key=key)
    await asyncio.sleep(2)
    assert forget_idle(registry) == []
    assert len(registry.queues) == 1
