from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.loaders import create_loader

import aioapiqueue
from aioapiqueue import Rate, Window, WouldWait
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry import (
    PublishedLimit,
    Registry,
    ServiceLimits,
    VariantKey,
    parameter_counts,
)
from aioapiqueue.registry.spi import published_limits
from tests.helpers import introspect
from tests.helpers.models import NAMES, OLDER
from tests.helpers.registries import queue_of

presets = introspect.presets()

FOLDER = Path(aioapiqueue.__file__).parent / "registry" / "presets"
DOC = (Path(__file__).parents[2] / "docs" / "presets.md").read_text("utf-8")
PAGES = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.toml")}
RESEARCHED = {
    *("apigateway", "cloudformation", "cloudtrail", "cloudwatch", "dynamodb", "ec2", "ecr", "ecs"),
    *("elb", "elbv2", "kms", "lambda", "logs", "organizations", "route53", "route53resolver", "s3"),
    *("secretsmanager", "service-quotas", "sqs", "ssm", "sts"),
    *("bedrock", "bedrock-agent", "bedrock-agent-runtime", "bedrock-runtime", "emr", "kinesis"),
    *("bedrock-data-automation", "bedrock-data-automation-runtime", "rds", "ses", "sesv2", "wafv2"),
}
# The page of EC2's limits lists it; botocore has no such operation.
UNKNOWN = {"ec2": {"DeleteCoipPoolPermission"}, "organizations": {"EnableFullControl"}}
HERE = {"region": "eu-west-1", "account": "111122223333"}


def operations(service):
    """Return what botocore's model of a service has."""
    return set(create_loader().load_service_model(service, "service-2")["operations"])


def needs(registry, service, operation, **parameters):
    """Return the keys and the cost of a call."""
    call = registry.find_call(service, operation, **HERE, parameters=parameter_counts(parameters))
    return call.keys, call.cost


def instances(number, burst):
    """Return a rate of instances."""
    return Rate(number, burst=burst, unit="instances")


def lane(registry, service, key):
    """Return the limits that a key of a service's own queue has."""
    limits = registry.services[service].queue_lanes
    fits = [name for name in limits if name.endswith("*") and key.startswith(name[:-1])]
    return tuple(limits.get(key) or limits[max(fits, key=len)])


# The data


def test_every_researched_service_has_a_preset():
    """There is a file for each service whose request rates were found, and it is read."""
    assert set(PAGES) >= RESEARCHED
    assert set(PAGES) == {name for name in NAMES if published_limits(name)}
    assert all(page["service"] == name for name, page in PAGES.items())


DAY = dt.date(2026, 11, 24)
NEEDED = {"service", "scope", "source", "read", "adjustable", "refill"}
OPTIONAL = {one.name for one in dataclasses.fields(PublishedLimit)} - NEEDED - {"rate"}
PRESET_KEYS = NEEDED | OPTIONAL | {"capacity", "unknown"}
"""All keys that a file may have, at its top or in a limit."""


def faults_of_page(page):
    """Yield what is wrong with the keys of a file."""
    for limit in page["limit"]:
        both = {**page, **limit}
        yield from NEEDED - {*both}
        yield from {*both} - PRESET_KEYS - {"limit"}
        # A `datetime` is a date, too.
        yield from ("read" for one in (page, limit) if type(one.get("read", DAY)) is not dt.date)


def test_every_file_has_its_keys():
    """Each limit has all keys that it needs, none that is not known, and the day as a date."""
    assert {
        name: [*faults_of_page(page)] for name, page in PAGES.items() if [*faults_of_page(page)]
    } == {}


def test_every_key_is_on_the_page():
    """docs/presets.md has a row for each key that a file may have, and for no other."""
    rows = re.findall(r"^\| `(\w+)` \|", DOC, re.MULTILINE)
    assert sorted({*rows}) == sorted({*PRESET_KEYS, "limit"})
    assert Counter(rows) == Counter(dict.fromkeys(rows, 1))
    used = {key for page in PAGES.values() for one in (page, *page["limit"]) for key in one}
    assert used <= {*rows}


def load(folder, monkeypatch, text):
    """Return the limits of a file in another folder."""
    (folder / "route53.toml").write_text(text)
    introspect.replace(monkeypatch, "folder of presets", folder)
    return published_limits.__wrapped__("route53")


def test_example_of_the_page_is_what_we_have(tmp_path, monkeypatch):
    """It loads, and each of its limits is one of the file's, except for the name."""
    example = re.search(r"^```toml\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)[1]
    ours = published_limits("route53")
    shown = load(tmp_path, monkeypatch, example)
    assert len(shown) == 4
    for one in shown:
        same = [
            own
            for own in ours
            if (own.rate, own.scope, own.note, own.shared)
            == (one.rate, one.scope, one.note, one.shared)
            and bool(one.operations) == bool(own.operations)
            and {*one.operations} <= {*own.operations}
            and one.cost.items() <= own.cost.items()
        ]
        assert len(same) == 1, one


def test_every_key_is_read(tmp_path, monkeypatch):
    """A file with all keys loads; of one with any other, the tests name it."""
    text = """\
        service = "route53"
        scope = ["account"]
        source = "https://docs.aws.amazon.com/x"
        read = 2026-11-24
        adjustable = true
        note = "Of all."
        [[limit]]
        name = "changes"
        operations = ["Change*"]
        exclude = ["ChangeTagsForResource"]
        unless_params = ["Id"]
        refill = "5 changes/s"
        capacity = 9
        shared = true
        shared_with = "route53domains"
        cost = {"Change*" = 2}
        enforceable = false
        per = "zone"
        unknown = ["ChangeWhatever"]
    """
    page = tomllib.loads(text)
    assert {*page, *page["limit"][0]} == {*PRESET_KEYS, "limit"}
    (limit,) = load(tmp_path, monkeypatch, text)
    assert limit.rate == Rate(5, burst=9, unit="changes")
    assert [*faults_of_page(page)] == []
    assert [*faults_of_page(tomllib.loads(text.replace("capacity", "capacty")))] == ["capacty"]
    with pytest.raises(LimitsError, match=r"route53.toml: cost.'Change\*': 'x y' is not a cost"):
        load(tmp_path, monkeypatch, text.replace("= 2}", "= 'x y'}"))


PAGE = """\
service = "route53"
scope = ["account"]
source = "https://docs.aws.amazon.com/x"
adjustable = true
read = 2026-11-24
[[limit]]
refill = "5/s"
"""


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_required_key_is_missing(name):
    """Of a file without it, the tests name the key."""
    text = re.sub(rf"^{name} = .*\n", "", PAGE, flags=re.MULTILINE)
    assert name in faults_of_page(tomllib.loads(text))


@pytest.mark.parametrize("value", ['"2026-11-24"', "2026", "2026-11-24T10:00:00", "10:00:00"])
def test_day_is_no_date(value):
    """A text, a number, or a date with a time is found, also if one limit has it."""
    for text in (PAGE.replace("2026-11-24", value), f"{PAGE}read = {value}\n"):
        assert [*faults_of_page(tomllib.loads(text))] == ["read"]


def test_limit_has_its_own_source(tmp_path, monkeypatch):
    """The source and the day of a limit replace those of the page."""
    own = 'source = "https://docs.aws.amazon.com/y"\nread = 2026-11-26\n'
    limits = load(tmp_path, monkeypatch, f'{PAGE}[[limit]]\nrefill = "6/s"\n{own}')
    assert [(one.source[-1], one.read) for one in limits] == [
        ("x", "2026-11-24"),
        ("y", "2026-11-26"),
    ]


def unknown_operations(service):
    """Yield each operation that is named and not in botocore's model, or is and is said not to be.

    That of an older botocore says only which exceptions are none.
    """
    known, unknown = operations(service), set()
    for limit in PAGES[service]["limit"]:
        unknown.update(limit.get("unknown", ()))
        names = [*limit.get("operations", ()), *limit.get("exclude", ()), *limit.get("cost", ())]
        for name in sorted(set(names) - set(limit.get("unknown", ()))):
            begins = name.removesuffix("*")
            named = name in known
            if begins != name:
                named = any(one.startswith(begins) for one in known)
            if not (named or OLDER):
                yield f"{service} has no operation {name}"
    for name in unknown ^ UNKNOWN.get(service, set()):
        yield f"{service} {name}: unknown in the file or here, and not in the other"
    for name in unknown & known:
        yield f"{service} has an operation {name}"


def test_every_operation_exists():
    """Every operation that is named is in botocore's model; the exceptions say so themselves."""
    wrong = [one for service in sorted(PAGES) for one in unknown_operations(service)]
    assert not wrong, "\n".join(wrong)


def parameters_of(model, operation):
    """Return the parameters of an operation, and of structures in them: "Structure.Member"."""
    shapes = model["shapes"]
    own = shapes[model["operations"][operation]["input"]["shape"]]["members"]
    inner = (
        f"{name}.{part}"
        for name, one in own.items()
        for part in shapes[one["shape"]].get("members", ())
    )
    return {*own, *inner}


def test_every_parameter_exists():
    """What chooses a bucket, or counts in one, is a parameter of each of its operations."""
    wrong, loader = [], create_loader()
    for service, page in PAGES.items():
        for limit in page["limit"]:
            chosen = limit.get("unless_params", ())
            wanted = [(one, name) for one in limit.get("operations", ()) for name in chosen]
            costs = limit.get("cost", {}).items()
            wanted += [(one, cost.split("*")[-1]) for one, cost in costs if isinstance(cost, str)]
            model = loader.load_service_model(service, "service-2") if wanted else {}
            wrong += [
                f"{service}: {operation} has no parameter {name}"
                for operation, name in wanted
                if name not in parameters_of(model, operation)
            ]
    assert not wrong, "\n".join(wrong)


def faults(figure):
    """Yield what a published figure lacks."""
    if urlsplit(figure.source).hostname != "docs.aws.amazon.com":
        yield f"its source is {figure.source}"
    # One day more, as it may be tomorrow where the page was read.
    latest = dt.datetime.now(tz=dt.UTC).date() + dt.timedelta(days=1)
    if not DAY <= dt.date.fromisoformat(figure.read) <= latest:
        yield f"it was read on {figure.read}"
    if not isinstance(figure.adjustable, bool):
        yield "whether AWS raises it is not said"
    if not set(figure.scope) <= {"account", "region"}:
        yield f"its scope is {figure.scope}"
    if not (figure.enforceable or figure.note):
        yield "nothing says why it is not kept"
    if figure.shared and not figure.name:
        yield "its bucket has no name"


def test_every_figure_has_its_source():
    """Each has a page of AWS's documentation, the day it was read, and whether AWS raises it."""
    assert all(published_limits(service) for service in PAGES)
    wrong = [
        f"{service} {figure.name or figure.operations}: {fault}"
        for service in sorted(PAGES)
        for figure in published_limits(service)
        for fault in faults(figure)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_operation_has_two_lanes():
    """Of what each operation has for itself, none is named twice; names of buckets are unique."""
    wrong = []
    for service in sorted(PAGES):
        kept = [figure for figure in published_limits(service) if figure.enforceable]
        named = Counter(
            name for one in kept if not (one.shared or one.unless_params) for name in one.operations
        )
        named.update(
            f"the bucket {figure.name}" for figure in kept if figure.shared or figure.unless_params
        )
        wrong += [f"{service}: {name} is there {count} times" for name, count in named.items()
                  if count > 1]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_one_scope_for_each_service():
    """All limits of a service are lanes of one queue, which has one scope."""
    scopes = {
        service: {figure.scope for figure in published_limits(service) if figure.enforceable}
        for service in PAGES
    }
    assert {service: found for service, found in scopes.items() if len(found) > 1} == {}


PUBLISHED = [
    ("ec2", "DescribeVpcs", Rate(20, burst=100)),
    ("ec2", "SearchTransitGatewayRoutes", Rate(20, burst=100)),
    ("ec2", "CreateVpc", Rate(5, burst=50)),
    ("ec2", "RunInstances", Rate(2, burst=5)),
    ("ec2", "TerminateInstances", Rate(5, burst=100)),
    ("ec2", "CreateTags", Rate(10, burst=100)),
    ("ec2", "CreateVpcEndpoint", Rate(0.3, burst=4)),
    ("ec2", "DescribeSnapshots unfiltered", Rate(10, burst=50)),
    ("route53", "ListHostedZones", Rate(10, burst=50)),
    ("route53", "CreateHealthCheck", Rate(0.5, burst=50)),
    ("organizations", "DescribeAccount", Rate(20, burst=30)),
    ("ecs", "RunTask", Rate(20, burst=20)),
    ("cloudtrail", "LookupEvents", Rate(2)),
    ("cloudwatch", "GetMetricData", Rate(500)),
    ("logs", "DescribeLogGroups", Rate(10)),
    ("apigateway", "GetResources", Rate(5, 2)),
    ("apigateway", "DeleteRestApi", Rate(1, 30)),
    ("dynamodb", "DescribeLimits", Rate(1, 60)),
    ("emr", "ListClusters", Rate(0.5, burst=20)),
    ("kinesis", "DescribeStream", Rate(10)),
    ("wafv2", "GetWebACL", Rate(5)),
    ("wafv2", "GetWebACLForResource", Rate(1)),
    ("wafv2", "AssociateWebACL", Rate(1, 2)),
    ("ses", "GetSendQuota", Rate(1)),
    ("bedrock-agent", "StartIngestionJob", Rate(0.1)),
    ("bedrock-runtime", "ApplyGuardrail", Rate(25, burst=25)),
]


def test_whole_share_is_what_is_published():
    """With a share of 100%, single figures of each kind are in force as the pages have them."""
    registry = Registry.parse('preset = "aws"', share="100%")
    wrong = [
        f"{service} {operation}: {found}"
        for service, operation, expected in PUBLISHED
        if (found := lane(registry, service, operation)) != (expected,)
    ]
    assert not wrong, "\n".join(wrong)


def test_what_is_not_published_is_absent():
    """Services whose pages give no rate, and limits of prefixes and queues, pace nothing."""
    registry = Registry.parse('preset = "aws"')
    for service in ("iam", "cloudfront", "eks", "config", "ce", "autoscaling", "s3", "sqs"):
        assert registry.find_call(service, "X", **HERE) is None
    assert registry.find_call("sts", "AssumeRoleWithSAML", **HERE) is None


def test_services_have_limits_of_their_own():
    """RDS has one bucket for all that an account calls, EMR one beside those of its actions."""
    services = Registry.parse('preset = "aws"', share="100%").services
    assert services["rds"].rate == (Rate(12, burst=300),)
    assert services["emr"].rate == (Rate(50, burst=200),)
    assert services["rds"].lanes == {}


def test_sending_is_not_paced_by_presets():
    """How many mails an account may send, and what a stream's shard takes, is its own matter."""
    registry = Registry.parse('preset = "aws"')
    limits = registry.services["ses"].queue_lanes
    assert not [name for name in limits if "SendEmail".startswith(name.rstrip("*"))]
    assert not [name for name in registry.services["kinesis"].queue_lanes if "Record" in name]


def test_organization_limits_are_only_shown():
    """They are published for the same operations, beside an account's, and hold for nobody here."""
    shown = {
        one.name: one.rate for one in published_limits("organizations") if one.per == "organization"
    }
    assert shown["DescribeAccount"] == Rate(24, burst=36)
    assert shown["ListAccounts"] == Rate(9, burst=15)
    assert len(shown) == 12
    registry = Registry.parse('preset = "aws"', share="100%")
    assert lane(registry, "organizations", "DescribeAccount") == (Rate(20, burst=30),)


def test_contradictory_page_gives_the_lower_limit():
    """Elastic Load Balancing's text says 40 and 10/s where its table says 200 and 50/s."""
    for service in ("elb", "elbv2"):
        limits = Registry.parse('preset = "aws"', share="100%").services[service]
        assert limits.rate == limits.buckets["non-mutating"].limits == (Rate(10, burst=40),)
        account, reads = (
            figure for figure in published_limits(service) if "40" in (figure.note or "")
        )
        assert "200" in account.note
        assert "200" in reads.note


# Buckets


def test_unfiltered_reads_have_a_smaller_bucket():
    """Filters, MaxResults or NextToken lead to the larger bucket; ids, or nothing, do not."""
    registry = Registry.parse('preset = "aws"', share="100%")
    for given in ({}, {"SnapshotIds": ["snap-1"]}, {"Filters": []}, {"OwnerIds": ["self"]}):
        assert needs(registry, "ec2", "DescribeSnapshots", **given) == (
            ("DescribeSnapshots unfiltered",),
            1,
        )
    for given in ({"Filters": [{"Name": "x"}]}, {"MaxResults": 5}, {"NextToken": "x"}):
        assert needs(registry, "ec2", "DescribeSnapshots", **given) == (("DescribeSnapshots",), 1)
    assert needs(registry, "ec2", "DescribeVpcs") == (("DescribeVpcs",), 1)


async def test_filtered_and_unfiltered_calls_wait_separately():
    """In one program, 100 filtered calls start at once while the unfiltered wait after 50."""
    registry = Registry.parse('preset = "aws"', share="100%")
    loop = asyncio.get_running_loop()
    started = {"filtered": [], "unfiltered": []}

    async def call(kind, **parameters):
        needs = registry.find_call(
            "ec2", "DescribeSnapshots", **HERE, parameters=parameter_counts(parameters)
        )
        async with needs.queue.slot(keys=needs.keys, cost=needs.cost):
            started[kind].append(loop.time())

    async with registry:
        begin = loop.time()
        await asyncio.gather(
            *(call("unfiltered") for _ in range(60)),
            *(call("filtered", MaxResults=100) for _ in range(120)),
        )
    at_once = {kind: times.count(begin) for kind, times in started.items()}
    assert at_once == {"filtered": 100, "unfiltered": 50}
    assert max(started["filtered"]) == pytest.approx(begin + 1)  # 20 more at 20/s
    assert max(started["unfiltered"]) == pytest.approx(begin + 1)  # 10 more at 10/s


@pytest.mark.parametrize("rate", ["", 'rate = "unlimited"\n'])
def test_bucket_per_operation_needs_nothing_else(rate):
    """A service without any other limit has them all the same: they are its queue's."""
    registry = Registry.parse(
        f'[ec2]\n{rate}[ec2.buckets.slow]\noperations = ["DescribeSnapshots"]\n'
        'unless = ["Filters"]\neach = true\nrate = "5/s"'
    )
    assert needs(registry, "ec2", "DescribeSnapshots") == (("DescribeSnapshots slow",), 1)
    assert lane(registry, "ec2", "DescribeSnapshots slow") == (Rate(5),)
    assert needs(registry, "ec2", "DescribeSnapshots", Filters=[{}]) == (("DescribeSnapshots",), 1)


def test_instances_cost_resource_tokens():
    """RunInstances(MinCount=5, MaxCount=5) costs 5 resource tokens and 1 request token."""
    registry = Registry.parse('preset = "aws"')
    assert needs(registry, "ec2", "RunInstances", MinCount=5, MaxCount=5) == (
        ("RunInstances", "bucket: RunInstances resources"),
        {"instances": 5},
    )
    for operation in ("StartInstances", "StopInstances", "TerminateInstances"):
        assert needs(registry, "ec2", operation, InstanceIds=["i-1", "i-2", "i-3"]) == (
            (operation, f"bucket: {operation} resources"),
            {"instances": 3},
        )


@pytest.mark.parametrize(
    ("share", "counts", "waits"), [("100%", (1000, 100), 50), ("50%", (1000,), 500)]
)
async def test_large_launch_waits_for_resource_tokens(share, counts, waits):
    """After 1000 instances at once 100 more wait 50 s; at 50%, 1000 wait 500 s from idle."""
    registry = Registry.parse('preset = "aws"', share=share)
    loop = asyncio.get_running_loop()
    async with registry:
        began = loop.time()
        for count in counts:
            parameters = parameter_counts({"MinCount": count, "MaxCount": count})
            call = registry.find_call("ec2", "RunInstances", **HERE, parameters=parameters)
            async with call.queue.slot(keys=call.keys, cost=call.cost):
                pass
        assert loop.time() - began == pytest.approx(waits)


def test_categories_are_shared():
    """Operations of one category of ECS, of STS's six, of SSM's three share one lane."""
    registry = Registry.parse('preset = "aws"')
    for service, one, other in (
        ("ecs", "DescribeClusters", "ListClusters"),
        ("sts", "AssumeRole", "GetCallerIdentity"),
        ("ssm", "GetParameter", "GetParametersByPath"),
    ):
        (_, first), (_, second) = (needs(registry, service, name)[0] for name in (one, other))
        assert first == second
    assert needs(registry, "ecs", "DescribeServices")[0][1] == "bucket: service read"
    assert needs(registry, "ecs", "ListClusters")[0][1] == "bucket: cluster read"


def test_route_53_has_two_buckets():
    """The queue has the account's bucket, the lane the action's; changes count in a third."""
    registry = Registry.parse('preset = "aws"', share="100%")
    assert needs(registry, "route53", "GetHostedZone") == (("GetHostedZone",), 1)
    assert queue_of(registry, "route53", **HERE).limits == (Rate(10, burst=50),)
    assert lane(registry, "route53", "CreateHostedZone") == (Rate(2, burst=40),)
    changes = {"ChangeBatch": {"Comment": "x", "Changes": [{}, {}, {}]}}
    assert needs(registry, "route53", "ChangeResourceRecordSets", **changes) == (
        ("ChangeResourceRecordSets", "bucket: changes"),
        {"changes": 6},
    )
    one = queue_of(registry, "route53", region="eu-west-1", account="1")
    assert one is queue_of(registry, "route53", region="us-east-1", account="1")


async def test_api_gateway_versions_share_a_bucket():
    """Their calls wait in one queue: under one bucket together, each under its own lanes."""
    registry = Registry.parse('preset = "aws"', share="80%")
    first, second = (
        registry.find_call(service, operation, **HERE)
        for service, operation in (("apigateway", "GetRestApis"), ("apigatewayv2", "GetApis"))
    )
    assert first.queue is second.queue is queue_of(registry, "apigatewayv2", **HERE)
    assert first.queue.name == "apigateway 111122223333"
    assert first.keys == ("GetRestApis", "apigateway.GetRestApis", "bucket: account")
    assert second.keys == ("GetApis", "apigatewayv2.GetApis", "bucket: account")
    began = asyncio.get_running_loop().time()
    async with registry, asyncio.TaskGroup() as group:
        for call in [first, second] * 20:
            group.create_task(enter(call))
    assert asyncio.get_running_loop().time() - began == pytest.approx((40 - 32) / 8)


async def enter(call):
    """Wait for a call's slot, and end it."""
    async with call.queue.slot(keys=call.keys, cost=call.cost):
        pass


async def test_joint_queue_keeps_operations_apart():
    """Both versions have a CreateDeployment; the limit of one's does not hold the other's."""
    registry = Registry.parse('preset = "aws"', share="100%")
    loop = asyncio.get_running_loop()
    async with registry:
        for service, seconds in (("apigatewayv2", 0), ("apigateway", 5)):
            call = registry.find_call(service, "CreateDeployment", **HERE)
            began = loop.time()
            await asyncio.gather(*(enter(call) for _ in range(2)))
            assert loop.time() - began == pytest.approx(seconds)


async def test_joint_queue_keeps_services_own_limits():
    """A rate of one version, and how many of its calls may run, hold none of the other."""
    registry = Registry.parse(
        'preset = "aws"\nshare = "100%"\n[apigateway]\nrate = "2/s"\n[apigatewayv2]\n'
        'concurrency = 1\norder = "fair"\nadaptive = true\nlanes = {"*" = "4/s"}'
    )
    first, second = (
        registry.find_call(service, "GetTags", **HERE) for service in ("apigateway", "apigatewayv2")
    )
    assert first.queue is second.queue
    assert first.keys == ("GetTags", "apigateway.GetTags", "bucket: account", "apigateway")
    loop = asyncio.get_running_loop()
    async with registry:
        for call, seconds in ((first, 1), (second, 0.5)):
            began = loop.time()
            await asyncio.gather(*(enter(call) for _ in range(3)))
            assert loop.time() - began == pytest.approx(seconds)
        await asyncio.sleep(1)
        with second.queue.try_slot(keys=second.keys), pytest.raises(WouldWait):
            await asyncio.sleep(1)
            second.queue.try_slot(keys=second.keys)


def test_different_joint_buckets_are_apart():
    """Where a file says something else of the bucket for one version, each has a queue."""
    apart = Registry.parse('preset = "aws"\n[apigatewayv2]\nshare = "10%"')
    first, second = (apart.find_call(one, "X", **HERE) for one in ("apigateway", "apigatewayv2"))
    assert first.queue is not second.queue
    assert first.keys == second.keys == ("X", "bucket: account")
    alone = Registry.parse('[apigatewayv2]\npreset = "aws"')
    assert alone.find_call("apigatewayv2", "X", **HERE).queue.name == "apigatewayv2 111122223333"


def test_adaptive_floor_fits_both_services():
    """A floor above the limits of the other service with the same queue is refused by name."""
    with pytest.raises(
        LimitsError,
        match=r"^limits.toml, line 6: apigatewayv2.adaptive: apigateway and apigatewayv2 share a "
        "queue: .* above",
    ):
        Registry.parse(
            '[apigateway]\npreset = "aws"\nlanes = {GetTags = "1/h"}\n[apigatewayv2]\n'
            'preset = "aws"\nadaptive = {floor = "1 per 99s"}'
        )


def test_lambdas_control_plane_has_exceptions():
    """All of Lambda's operations share 15/s, but for invocations and two reads."""
    registry = Registry.parse('preset = "aws"')
    assert "bucket: control plane" in needs(registry, "lambda", "ListFunctions")[0]
    assert registry.find_call("lambda", "Invoke", **HERE) is not None
    for name in ("Invoke", "GetFunction", "GetPolicy"):
        assert "bucket: control plane" not in needs(registry, "lambda", name)[0]


# Shares


@pytest.mark.parametrize(
    ("published", "share", "left"),
    [
        (Rate(20, burst=100), 0.5, Rate(10, burst=50)),
        (Rate(20, burst=100), 0.8, Rate(16, burst=80)),
        (Rate(2, burst=5), 0.1, Rate(0.2, burst=1)),
        (Rate(5, 2), 0.5, Rate(2.5, 2)),
        (Rate(0.1), 0.5, Rate(0.05)),
        (Rate(0.1), 0.01, Rate(1 / 60)),
        (Rate(1, 60), 0.5, Rate(1, 60)),
        (Rate(1, 120), 0.5, Rate(1, 120)),
    ],
)
def test_share_scales_refill_and_burst(published, share, left):
    """Both are scaled; the burst not below 1, the refill not below one call a minute."""
    found = presets.scaled(published, share)
    assert found.interval == pytest.approx(left.interval)
    assert found.burst == pytest.approx(left.burst)


@pytest.mark.parametrize(
    ("published", "left"),
    [
        ("20/s ramp 2x per 2min", "10/s ramp 2x per 2min"),
        ("20/s burst 10 ramp 2x/min from 4/s", "10/s burst 5 ramp 2x/min from 2/s"),
        ("10/min ramp 2x/min", "5/min ramp 2x/min from 1/min"),
        ("6/min ramp 2x per 10s from 6/min", "3/min"),
    ],
)
def test_share_scales_ramps(published, left):
    """So is the floor, down to one call in each period of the ramp, or it could not be left."""
    assert presets.scaled(Rate.parse(published), 0.5) == Rate.parse(left)


def test_half_is_the_default():
    """A preset without a share leaves half of what is published to others."""
    assert (
        Registry.parse('preset = "aws"').services
        == Registry.parse('preset = "aws"', share="50%").services
    )


def test_shares_of_files_services_and_operations():
    """The nearest share holds; an operation's holds for its smaller bucket too."""
    registry = Registry.parse(
        'preset = "aws"\nshare = "80%"\n[ec2]\nshare = "30%"\n'
        'lanes = {DescribeSnapshots = {share = "10%"}}'
    )
    assert lane(registry, "ec2", "DescribeVpcs") == (Rate(6, burst=30),)
    assert lane(registry, "ec2", "DescribeSnapshots") == (Rate(2, burst=10),)
    assert lane(registry, "ec2", "DescribeSnapshots unfiltered") == (Rate(1, burst=5),)
    assert lane(registry, "ec2", "DescribeVolumes unfiltered") == (Rate(3, burst=15),)
    assert registry.services["sts"].buckets["requests"].limits == (Rate(480),)


def test_share_of_operation_covers_its_resources():
    """RunInstances' tokens, of requests and of resources, are scaled alike; quotas of them too."""
    for quotas, expected in (
        ("", instances(0.2, 100)),
        ('quotas = {"RunInstances resources" = "8/s burst 2000"}', instances(0.8, 200)),
        ('quotas = {"RunInstances resources" = "8 instances/s"}', instances(0.8, 1)),
    ):
        registry = Registry.parse(
            f'preset = "aws"\n[ec2]\nlanes = {{RunInstances = {{share = "10%"}}}}\n{quotas}'
        )
        buckets = registry.services["ec2"].buckets
        assert lane(registry, "ec2", "RunInstances") == (Rate(0.2),)
        assert buckets["RunInstances resources"].limits == (expected,)
        assert buckets["StartInstances resources"].limits == (instances(1, 500),)
    (shown,) = (one for one in Registry.parse(
        '[ec2]\npreset = "aws"\nlanes = {RunInstances = {share = "10%"}}'
    ) if one.bucket == "RunInstances resources")  # fmt: skip
    assert (shown.source, shown.share) == ("10% of ec2-api-throttling.html", 0.1)
    shared = Registry.parse('[ecs]\npreset = "aws"\nlanes = {ListClusters = {share = "10%"}}')
    assert shared.services["ecs"].buckets["cluster read"].limits == (Rate(10, burst=25),)
    assert lane(shared, "ecs", "ListClusters") == (Rate(2, burst=5),)


def test_share_of_variant_is_its_bucket():
    """A share of unfiltered calls is of their own, smaller bucket, and touches no other."""
    registry = Registry.parse(
        '[ec2]\npreset = "aws"\nlanes = {"DescribeSnapshots unfiltered" = {share = "10%"}}'
    )
    assert lane(registry, "ec2", "DescribeSnapshots unfiltered") == (Rate(1, burst=5),)
    assert lane(registry, "ec2", "DescribeSnapshots") == (Rate(10, burst=50),)


def test_single_service_may_use_a_preset():
    """With preset in a service's table, no other service has limits."""
    registry = Registry.parse('[ec2]\npreset = "aws"\nshare = "100%"')
    assert list(registry.services) == ["ec2"]
    without = Registry.parse('preset = "aws"\n[ec2]\npreset = "none"\nrate = "3/s"')
    assert without.services["ec2"] == ServiceLimits("3/s")


def test_file_overrides_what_is_published():
    """A rate comes on top, a lane replaces the operation's own, with both of its buckets."""
    registry = Registry.parse(
        'preset = "aws"\nsts = "7/s"\n[ec2]\nrate = "40/s"\n'
        'lanes = {DescribeSnapshots = "1/s", "Describe*" = "4/s"}\n'
        '[ecs.buckets."cluster read"]\noperations = ["ListClusters"]\nrate = "2/s"'
    )
    assert queue_of(registry, "ec2", **HERE).limits == (Rate(40),)
    assert lane(registry, "ec2", "DescribeVpcs") == (Rate(4),)
    assert lane(registry, "ec2", "DescribeSnapshots") == (Rate(1),)
    assert needs(registry, "ec2", "DescribeSnapshots") == (("DescribeSnapshots",), 1)
    assert needs(registry, "ec2", "DescribeVolumes") == (
        ("DescribeVolumes", "bucket: DescribeVolumes unfiltered"),
        1,
    )
    assert lane(registry, "ec2", "CreateVpc") == (Rate(2.5, burst=25),)
    assert registry.services["ecs"].buckets["cluster read"].limits == (Rate(2),)
    assert registry.services["sts"].rate == (Rate(7),)
    assert registry.services["sts"].buckets


def test_share_is_of_quotas():
    """What AWS grants takes the place of what it publishes, before the share is taken."""
    registry = Registry.parse(
        '[ec2]\npreset = "aws"\nshare = "50%"\n[ec2.quotas]\nDescribeVpcs = "40/s burst 200"\n'
        '"DescribeVolumes unfiltered" = "20/s burst 100"\n'
        '"RunInstances resources" = "8/s burst 2000"'
    )
    assert lane(registry, "ec2", "DescribeVpcs") == (Rate(20, burst=100),)
    assert lane(registry, "ec2", "DescribeVolumes unfiltered") == (Rate(10, burst=50),)
    assert registry.services["ec2"].buckets["RunInstances resources"].limits == (
        instances(4, 1000),
    )


def test_quotas_come_with_their_line():
    """The source of what AWS grants is the line in the file, with the share of it."""
    registry = Registry.parse(
        '[ec2]\npreset = "aws"\n[ec2.lanes]\nRunInstances = {share = "10%"}\n'
        '[ec2.quotas]\nRunInstances = "4/s burst 10"\n"RunInstances resources" = "8/s burst 2000"'
    )
    own = [one for one in registry if one.share is not None and one.figure is None]
    assert [(one.operation or one.bucket, one.source) for one in own] == [
        ("RunInstances", "10% of limits.toml, line 6"),
        ("RunInstances resources", "10% of limits.toml, line 7"),
    ]


def test_presets_may_be_adaptive():
    """The default floor gives way to limits that are lower; one that was asked for does not."""
    registry = Registry.parse('preset = "aws"\n[ec2]\nadaptive = true\n[ecs]\nadaptive = true')
    assert queue_of(registry, "ec2", **HERE)
    assert queue_of(registry, "ecs", **HERE)
    with pytest.raises(LimitsError, match="is above the limits"):
        Registry.parse('[ec2]\npreset = "aws"\nadaptive = {floor = "1/s"}')


async def test_push_back_slows_a_preset_lane():
    """With adaptive, a throttled operation goes slower; others, and its other bucket, do not."""
    loop = asyncio.get_running_loop()
    registry = Registry.parse('[ec2]\npreset = "aws"\nadaptive = true')

    async def seconds(calls, **parameters):
        began = loop.time()
        for _ in range(calls):
            await enter(
                registry.find_call("ec2", "DescribeSnapshots", **HERE, parameters=parameters)
            )
        return loop.time() - began

    async with registry:
        call = registry.find_call("ec2", "DescribeSnapshots", **HERE)
        async with call.queue.slot(keys=call.keys, cost=call.cost) as slot:
            slot.throttled()
        assert call.queue.stats.backed_off == 1
        assert await seconds(25 + 10) > 10 / 5 + 0.5
        assert await seconds(50 + 10, MaxResults=1) == pytest.approx(10 / 10)


def test_share_scales_windows_of_quotas():
    """Of a sliding window that AWS grants, the share is of its calls."""
    registry = Registry.parse(
        '[ec2]\npreset = "aws"\nquotas = {CreateTags = ["10/s burst 4", "5001 in any 1h"]}'
    )
    assert lane(registry, "ec2", "CreateTags") == (Rate(5, burst=2), Window(2500, 3600))


def test_options_override_a_preset():
    """--limit replaces the rate, or one operation's limits with both of its buckets."""
    base = Registry.parse('preset = "aws"')
    registry = Registry.from_options(["ec2=9/s", "ec2.DescribeSnapshots=5/s"], base=base)
    assert queue_of(registry, "ec2", **HERE).limits == (Rate(9),)
    assert needs(registry, "ec2", "DescribeSnapshots") == (("DescribeSnapshots",), 1)
    assert lane(registry, "ec2", "DescribeSnapshots") == (Rate(5),)
    assert registry.services["sts"] == base.services["sts"]
    one = Registry.from_options(["ec2.DescribeSnapshots unfiltered=5/s"], base=base)
    assert not [entry for entry in one if not entry.limits]
    assert lane(one, "ec2", "DescribeSnapshots unfiltered") == (Rate(5),)
    assert lane(one, "ec2", "DescribeSnapshots") == (Rate(10, burst=50),)
    with pytest.raises(LimitsError, match="no bucket 'x'"):
        Registry.from_options(["ec2.DescribeSnapshots x=5/s"], base=base)
    sources = {one.source for one in registry if one.service == "ec2"}
    assert sources == {
        "--limit ec2=9/s",
        "--limit ec2.DescribeSnapshots=5/s",
        "50% of ec2-api-throttling.html",
    }


@pytest.mark.parametrize(
    "registry",
    [
        Registry.parse('preset = "aws"\nshare = "80%"\n[ec2.lanes]\n"Describe*" = "3/s"'),
        Registry.from_options(
            ["ec2.Describe*=3/s"], base=Registry.parse('preset = "aws"', share="80%")
        ),
    ],
    ids=["file", "option"],
)
def test_pattern_holds_beside_variants(registry):
    """Unfiltered calls keep their own bucket and the pattern's lane, each with its source."""
    assert needs(registry, "ec2", "DescribeSnapshots") == (
        ("DescribeSnapshots", "bucket: DescribeSnapshots unfiltered"),
        1,
    )
    assert needs(registry, "ec2", "DescribeSnapshots", MaxResults=5) == (("DescribeSnapshots",), 1)
    assert lane(registry, "ec2", "DescribeSnapshots") == (Rate(3),)
    (shown,) = (one for one in registry if one.bucket == "DescribeSnapshots unfiltered")
    assert (shown.limits, shown.share) == ((Rate(8, burst=40),), 0.8)
    assert shown.source == "80% of ec2-api-throttling.html"
    assert not [one for one in registry if one.bucket == "unfiltered"]
    assert not [one for one in registry if one.source == "code"]


@pytest.mark.parametrize("reverse", [False, True])
def test_pattern_and_operation_both_hold(reverse):
    """In whichever order options come, the operation's own lane takes it out of the pattern's."""
    options = [
        "ec2.Describe*=3/s",
        "ec2.DescribeSnapshots=5/s",
        "ec2.DescribeVolumes unfiltered=1/s",
    ]
    if reverse:
        options.reverse()
    registry = Registry.from_options(options, base=Registry.parse('preset = "aws"'))
    assert needs(registry, "ec2", "DescribeSnapshots") == (("DescribeSnapshots",), 1)
    assert lane(registry, "ec2", "DescribeSnapshots") == (Rate(5),)
    assert needs(registry, "ec2", "DescribeVolumes") == (("DescribeVolumes unfiltered",), 1)
    assert lane(registry, "ec2", "DescribeVolumes unfiltered") == (Rate(1),)
    assert len(needs(registry, "ec2", "DescribeInstances")[0]) == 2


def test_share_of_pattern_covers_variants():
    """Unfiltered calls have it of their smaller bucket; an operation's own share goes first."""
    registry = Registry.parse(
        'preset = "aws"\n[ec2.lanes]\nDescribeVolumes = {share = "30%"}\n'
        '"Describe*" = {share = "10%"}'
    )
    assert lane(registry, "ec2", "DescribeVpcs") == (Rate(2, burst=10),)
    assert lane(registry, "ec2", "DescribeSnapshots unfiltered") == (Rate(1, burst=5),)
    assert lane(registry, "ec2", "DescribeVolumes unfiltered") == (Rate(3, burst=15),)
    capped = Registry.from_options(["ec2.Describe*=2/s"], base=registry).services["ec2"]
    assert capped.buckets["DescribeSnapshots unfiltered"].limits == (Rate(1, burst=5),)


@pytest.mark.parametrize("reverse", [False, True])
def test_options_may_name_operation_and_variant(reverse):
    """In whichever order they come, each is kept: the lane replaces only what is not named."""
    options = ["ec2.DescribeSnapshots=5/s", "ec2.DescribeSnapshots unfiltered=1/s"]
    if reverse:
        options.reverse()
    registry = Registry.from_options(options, base=Registry.parse('preset = "aws"'))
    assert needs(registry, "ec2", "DescribeSnapshots") == (("DescribeSnapshots unfiltered",), 1)
    assert lane(registry, "ec2", "DescribeSnapshots unfiltered") == (Rate(1),)
    assert lane(registry, "ec2", "DescribeSnapshots") == (Rate(5),)


def test_lane_keeps_its_own_tables_buckets():
    """What one table says of an operation and of its unfiltered calls is kept, both of it."""
    registry = Registry.parse(
        '[ec2]\npreset = "aws"\nlanes = {DescribeSnapshots = "8/s"}\n[ec2.buckets.unfiltered]\n'
        'operations = ["DescribeSnapshots"]\nunless = ["Filters"]\neach = true\nrate = "1/s"'
    )
    assert needs(registry, "ec2", "DescribeSnapshots") == (("DescribeSnapshots unfiltered",), 1)
    assert lane(registry, "ec2", "DescribeSnapshots unfiltered") == (Rate(1),)
    assert lane(registry, "ec2", "DescribeSnapshots") == (Rate(8),)


def test_named_variant_is_added():
    """What is said of unfiltered calls holds for operations that have no such bucket at AWS."""
    text = 'preset = "aws"\n[ec2.lanes]\n"DescribeVpcs unfiltered" = "1/s"'
    option = ["ec2.DescribeVpcs unfiltered=1/s"]
    for registry in (
        Registry.parse(text),
        Registry.from_options(option, base=Registry.parse('preset = "aws"')),
    ):
        assert needs(registry, "ec2", "DescribeVpcs") == (("DescribeVpcs unfiltered",), 1)
        assert lane(registry, "ec2", "DescribeVpcs unfiltered") == (Rate(1),)
        assert needs(registry, "ec2", "DescribeVpcs", MaxResults=5) == (("DescribeVpcs",), 1)


def test_entries_tell_what_they_come_from():
    """A registry's entries carry the published figure, the share, and what is in a bucket."""
    entries = list(Registry.parse('preset = "aws"\n[ec2]\nrate = "40/s"'))
    assert not [one for one in entries if one.source.startswith("limits.toml") and one.figure]
    (mine,) = (one for one in entries if one.figure is None)
    assert (mine.service, mine.operation, mine.source) == ("ec2", None, "limits.toml, line 3")
    (reads,) = (one for one in entries if (one.service, one.operation) == ("ec2", "Describe*"))
    assert reads.figure.rate == Rate(20, burst=100)
    assert (reads.share, reads.source) == (0.5, "50% of ec2-api-throttling.html")
    (resources,) = (one for one in entries if one.bucket == "RunInstances resources")
    assert resources.members.operations == ("RunInstances",)


def test_own_limit_has_its_own_source():
    """A lane that is as fast as what is published comes from the file that sets it."""
    text = 'preset = "aws"\n[ec2.lanes]\nCreateTags = "5/s burst 50"\nDeleteTags = "5/s"'
    registry = Registry.parse(text)
    sources = {one.operation: one.source for one in registry if one.service == "ec2"}
    assert sources["CreateTags"] == "limits.toml, line 3"
    assert sources["DeleteTags"] == "limits.toml, line 4"
    assert lane(registry, "ec2", "CreateTags") == lane(Registry.parse('preset = "aws"'), "ec2",
                                                       "CreateTags")  # fmt: skip


def test_default_adds_nothing_to_presets():
    """A service with a preset has no limits of [default] among those in force."""
    registry = Registry.parse('preset = "aws"\n[default]\nrate = "7/s"')
    found = [one.service for one in registry if one.source == "limits.toml, line 3"]
    assert found == ["default"]
    assert queue_of(registry, "ec2").limits == ()


def test_unlimited_lifts_a_published_limit():
    """A service whose own published limit a table lifts shows no limit for all its operations."""
    registry = Registry.parse('[route53]\npreset = "aws"\nrate = "unlimited"')
    assert queue_of(registry, "route53").limits == ()
    assert not [one for one in registry if one.operation is None and one.bucket is None]


def test_variants_are_lanes_with_own_keys():
    """The lane of a variant has a VariantKey; its text is what files and calls have."""
    limits = Registry.parse(
        'preset = "aws"\n[ec2.lanes]\n"DescribeVolumes unfiltered" = "1/s"'
    ).services["ec2"]
    variant = VariantKey("DescribeVolumes", "unfiltered")
    assert str(variant) == "DescribeVolumes unfiltered"
    assert limits.lanes[variant] == limits.queue_lanes[str(variant)] == (Rate(1),)
    again = ServiceLimits(lanes=limits.lanes, buckets=limits.buckets, scope=limits.scope)
    assert again == limits


def test_pattern_of_an_own_bucket_is_found_in_its_line():
    """A lane for several operations of a bucket of the same table: the error names the lane."""
    bucket = 'a = {operations = ["RunInstances"], rate = "1/s", each = true}'
    text = f'[ec2]\nrate = "1/s"\n[ec2.buckets]\n{bucket}\n[ec2.lanes]\n"Run* a" = "1/s"'
    says = "limits.toml, line 6: ec2.lanes.'Run* a': write the full name of an operation, not"
    with pytest.raises(LimitsError, match=re.escape(says)):
        Registry.parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('share = "50%"\n[ec2]\nrate = "1/s"',
         'line 1: share: this needs a preset: add preset = "a'),
        ('preset = "awz"', "line 1: preset: 'awz' is not a preset: write \"aws\""),
        ('preset = "aws"\nshare = "0%"', "line 2: share: '0%' is not a share: write"),
        ('preset = "aws"\nshare = 50', "line 2: share: 50 is not a share"),
        ('preset = "aws"\nshare = "150%"', "'150%' is more than AWS publishes"),
        ('[ec2]\nshare = "50%"', "line 2: ec2.share: this needs a preset:"),
        ('[ec2]\nlanes = {X = {share = "5%"}}', "line 2: ec2.lanes.X: this needs a preset:"),
        ('[iam]\npreset = "aws"', "line 1: iam: AWS publishes no request limits for iam"),
        ('[s3]\npreset = "aws"',
         "line 1: s3: AWS publishes no request limits for s3 that can be enforced here"),
        ('[sts]\npreset = "aws"\nlanes = {X = {share = "5%"}}', "sts.lanes.X: AWS publishes no"),
        ('[sts]\npreset = "aws"\nquotas = 5', "line 3: sts.quotas: 5 is not a table"),
        ('[sts]\npreset = "aws"\nquotas = {GetCallerId = "1/s"}', "did you mean 'GetCallerIdent"),
        ('[sts]\npreset = "aws"\nquotas = {AssumeRole = "x"}', "AssumeRole: 'x' is not a limit"),
        ('preset = "aws"\n[ec2.lanes]\nDescribeSnapshot = {share = "5%"}',
         "line 3: ec2.lanes.DescribeSnapshot: ec2 has no operation 'DescribeSnapshot': did you"),
        ('preset = "aws"\n[ec2.lanes]\n"DescribeVpcs unfilterd" = {share = "5%"}',
         "AWS publishes no request limit for 'DescribeVpcs unfilterd'"),
        ('[ec2]\npreset = "aws"\n[ec2.quotas]\n"DescribeVpcs unfiltered" = "1/s"',
         "ec2.quotas.'DescribeVpcs unfiltered': AWS has no bucket 'unfiltered' for 'DescribeVpcs'"),
        ('[ec2]\npreset = "none"\nshare = "10%"\nrate = "1/s"',
         'line 3: ec2.share: this needs a preset, but preset = "none" is set'),
        ('[route53resolver]\npreset = "aws"\nlanes = {ListResolverRules = {share = "10%"}}',
         "for 'ListResolverRules' alone, only one for all operations of route53resolver together"),
        ('[default]\npreset = "aws"\nrate = "1/s"',
         "default.preset: the default cannot start from a preset: write this at the top of the"),
        ('[default]\nrate = "1/s"\nquotas = {RunInstances = "1/s"}',
         "cannot start from a preset: write this in the table of a service"),
        ("[ec2]\nbuckets = 5", "line 2: ec2.buckets: 5 is not a table"),
        ("[ec2.buckets]\na = 5", "line 2: ec2.buckets.a: 5 is not a table"),
        ('[ec2.buckets.a]\nrate = "1/s"', "line 1: ec2.buckets.a: no operations are given"),
        ('[ec2.buckets.a]\noperations = ["RunInstances"]', "ec2.buckets.a: no limit is given"),
        ('[ec2.buckets.a]\noperations = ["Run"]\nrate = "1/s"', "ec2 has no operation 'Run'"),
        ('[ec2.buckets.a]\noperations = "Run*"\nrate = "1/s"', "'Run*' is not a list of names"),
        ('[ec2.buckets.a]\noperations = ["Run*"]\nrate = "1/s"\neach = true',
         "with each = true, write full names, not 'Run*'"),
        ('[ec2.buckets.a]\noperations = ["Run*"]\nrate = "1/s"\ncost = {RunInstances = "x y"}',
         "line 4: ec2.buckets.a.cost.RunInstances: 'x y' is not a cost"),
        ('[ec2.buckets.a]\noperations = ["Run*"]\nrate = "1/s"\ncost = {RunInstances = "MaxCuont"}',
         "none of these operations has a parameter 'MaxCuont': did you mean 'Max"),
        ('[ec2.buckets.a]\noperations = ["Describe*"]\nrate = "1/s"\nunless = ["Filtres"]',
         "line 4: ec2.buckets.a.unless: none of these operations has a parameter 'Filtres': did"),
        ('[ec2.buckets.a]\noperations = ["Run*"]\nrate = "1/s"\ncost = {CreateTags = 2}',
         "ec2.buckets.a.cost.CreateTags: this is not one of the bucket's operations"),
        ('[ec2]\nrate = "1/s"\nlanes = {"Run* x" = "1/s"}', "ec2 has no bucket 'x'"),
        ('preset = "aws"\n[ec2.lanes]\n"Describe* unfiltered" = "1/s"',
         "line 3: ec2.lanes.'Describe* unfiltered': write the full name of an operation, not"),
        ('[ec2]\nrate = "1/s"\nlanes = {"Runn*" = "1/s"}', "ec2 has no operation 'Runn*'"),
    ],
)  # fmt: skip
def test_mistakes_in_presets_and_buckets(text, says):
    """Each mistake gives one message, with its line and key, and what to write."""
    with pytest.raises(LimitsError) as caught:
        Registry.parse(text)
    assert len(caught.value.problems) == 1
    assert re.sub(r"\s+", " ", str(caught.value)).find(says) >= 0


READS_MODELS = """
import contextlib
from botocore.loaders import Loader
from aioapiqueue.registry import LimitsError, Registry
read, load = [], Loader.load_service_model
def loading(*which, **options):
    read.append(which)
    return load(*which, **options)
Loader.load_service_model = loading
assert Registry.parse('preset = "aws"\\n[ec2]\\nshare = "30%"').services["ec2"].lanes
assert not read
with contextlib.suppress(LimitsError):
    Registry.parse('[ec2.lanes]\\nDescribeNone = "1/s"')
assert read  # to check a name that is not in a preset
"""


def test_preset_names_are_not_checked():
    """An operation that is newer than the botocore installed is no mistake of the user's."""
    done = subprocess.run([sys.executable, "-c", READS_MODELS], timeout=60, check=True)
    assert done.returncode == 0


# Facts


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"MinCount": 1, "MaxCount": 5}, {"MinCount": 1, "MaxCount": 5}),
        ({"InstanceIds": ["a", "b"], "Empty": []}, {"InstanceIds": 2, "Empty": 0}),
        ({"DryRun": False, "Name": "x", "Size": 1.5}, {"DryRun": 1, "Name": 1, "Size": 1}),
        ({"A": {"B": [1, 2, 3], "C": 4, "D": {}}}, {"A": 1, "A.B": 3, "A.C": 4, "A.D": 1}),
        ({"Below": -3, "Huge": 10**30}, {"Below": 0, "Huge": 2**53}),
        ({}, {}),
        (None, {}),
        ("text", {}),
    ],
)
def test_facts_are_small_numbers(parameters, expected):
    """A whole number is itself, a list its length, whatever else is given 1; no value is kept."""
    assert parameter_counts(parameters) == expected


def test_facts_are_few():
    """Of a call with very many parameters, the first are shown."""
    assert len(parameter_counts({f"P{number}": number for number in range(1000)})) == 64
    structures = {f"P{number}": dict.fromkeys(range(8), 1) for number in range(8)}
    assert parameter_counts({**structures, "MaxCount": 5})["MaxCount"] == 5
