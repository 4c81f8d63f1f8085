"""docs/json.md lists each key that commands write with `--json`, with its type, and no other."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.run.activation import Inactive, Why
from aioapiqueue_run.cli.run.gates import judge, read_gate
from aioapiqueue_run.cli.run.json_report import FORMAT, json_report, json_text
from aioapiqueue_run.cli.run.model import Outcome
from aioapiqueue_run.cli.run.shared_address import read_address
from aioapiqueue_run.cli.run.shared_server import Shared
from aioapiqueue_run.gateway.counts import GatewayCounts
from aioapiqueue_run.hub import OTHERS, CallStats
from tests.helpers.plans import other_runs, plan_of
from tests.helpers.price_snapshot import LATER, own_prices
from tests.helpers.shared_client import open_without_server

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform == "win32", reason="run needs POSIX"),
]

PAGE = (Path(__file__).parents[3] / "docs" / "json.md").read_text("utf-8")
LINE = re.compile(r"( *)([\w?, ]+?)(\[\])?(\|null)?(?:: (.+))?")
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool}


@dataclasses.dataclass
class Node:
    """What the page says of one key."""

    kind: str = ""
    listed: bool = False
    null: bool = False
    optional: bool = False
    keys: dict[str, Node] = dataclasses.field(default_factory=dict)


def schema(command="run"):
    """The tree of the keys that a command writes, and its named shapes."""
    blocks = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    block = dict(zip(("run", "limits --prices"), blocks, strict=True))[command]
    root = Node()
    path = [root]
    for line in block.splitlines():
        indent, names, listed, null, kind = LINE.fullmatch(line).groups()
        depth = len(indent) // 2
        del path[depth + 1 :]
        for name in names.split(", "):
            node = Node(kind or "", bool(listed), bool(null), name.endswith("?"))
            path[depth].keys[name.rstrip("?")] = node
        path.append(node)
    named = [name for name in root.keys if name[0].isupper()]
    shapes = {name: root.keys.pop(name).keys for name in named}
    return root, shapes


def wrong(value, node, shapes, where="", seen=None):
    """Yield what differs between a value and what the page says; note the keys that were met."""
    if value is None:
        if not (node.null or node.kind.endswith("|null")):
            yield f"{where} is null"
    elif node.listed:
        for one in value:
            yield from wrong(one, dataclasses.replace(node, listed=False), shapes, where, seen)
    elif keys := node.keys | shapes.get(node.kind, {}):
        yield from (f"{where}.{name} is not on the page" for name in value if name not in keys)
        for name, one in keys.items():
            if name in value:
                seen.add(f"{where}.{name}")
                yield from wrong(value[name], one, shapes, f"{where}.{name}", seen)
            elif not one.optional:
                yield f"{where}.{name} is missing"
    else:
        yield from mistyped(value, node.kind.removesuffix("|null"), where)


def mistyped(value, kind, where):
    """Yield what is not of the type that the page says."""
    if kind.startswith("{"):
        kind, values = kind.strip("{}"), list(value.values())
    else:
        values = value if kind.endswith("[]") else [value]
        kind = kind.removesuffix("[]")
    for one in values if kind else ():
        if not isinstance(one, TYPES[kind]) or (kind != "bool" and isinstance(one, bool)):
            yield f"{where} is {one!r}, and not {kind}"


def all_keys(node, shapes, where=""):
    """Yield the path of each key of the page."""
    for name, one in (node.keys | shapes.get(node.kind, {})).items():
        yield f"{where}.{name}"
        yield from all_keys(one, shapes, f"{where}.{name}")


PROGRAM = """
    import random
    random.random = lambda: 0.0  # of which boto3 makes the time until it tries again
    begin()
    ec2 = client()
    for _ in range(3):
        ec2.describe_snapshots()
    for _ in range(4):
        ec2.describe_volumes()
    client("sts").get_caller_identity()
"""


def written(run, python, folder, *options):
    """The JSON of a run."""
    file = folder / "run.json"
    ended = run.here(*options, "--json", file, "--", python, run.script(PROGRAM))
    assert file.exists(), ended.err
    return file.read_text("utf-8")


def synthetic():
    """What runs of this test do not have: a shared server, the gateway, what was not paced."""
    outcome = Outcome(inactive=[Inactive(7, "python a.py", Why.NEVER, program=False)])
    registry = Registry.from_options(["ec2=1/s"])
    shared = Shared(read_address("redis://localhost"), None)
    queue = SimpleNamespace(stats=SimpleNamespace(asks=1, faults=0, fault=""))
    asyncio.run(open_without_server(shared, SimpleNamespace(queues={"ec2": queue})))
    outcome.gateway = GatewayCounts().as_json()
    delay = {"queue": "ec2", "lane": "", "limit": "1/s", "whose": "scout (7)"}
    on_host = other_runs([delay | {"calls": 1, "seconds": 2.5}])
    report = json_report(plan_of(registry, shared=shared, on_host=on_host), outcome, 0)
    report["changes"] = [
        {"at": 1.5, "queue": "ec2", "kind": "held", "lane": "x", "seconds": 2.0},
        {"at": 1.5, "queue": "ec2", "kind": "limits_changed", "limits": [], "origin": "user"},
        {"at": 1.5, "queue": "ec2", "kind": "backed_off", "rate": 2.0},
        {"at": 1.5, "queue": "ec2", "kind": "threshold", "limits": ["9 in all"], "share": 0.8},
    ]
    report["learnt"] = [{"queue": "ec2", "lane": None, "limits": ["1/s"]}]
    return json_text(report)


def test_page_has_each_key(run, aws, python, tmp_path):
    """Of a paced run, a dry run, and of what only other runs have; and no key beside them."""
    answers = iter(range(1, 1000))
    aws.throttles = lambda action: action == "DescribeVolumes" and next(answers) == 2
    root, shapes = schema()
    seen, problems = set(), []
    limits = ("ec2=40/s, 99 in all", "ec2.DescribeVolumes=20/s, 9 in each day")
    options = [f"--limit={one}" for one in (*limits, "iam=3/s", "default=300/s")]
    bucket = '[services.sts]\nbuckets = {requests = {operations = ["*"], rate = "50/s"}}\n'
    (tmp_path / "limits.toml").write_text(bucket)
    refusing = ("--share", "1%", "--limit", "ec2.DescribeVolumes=3 in all")
    texts = [
        written(run, python, tmp_path, "--fail-on", "throttled > 0", *options),
        written(run, python, tmp_path, "--limits", tmp_path / "limits.toml"),
        written(run, python, tmp_path, "--dry-run", "--preset", "aws", *refusing),
        synthetic(),
    ]
    for text in texts:
        problems += wrong(json.loads(text), root, shapes, seen=seen)
    assert not problems
    unseen = {one for one in all_keys(root, shapes) if one not in seen}
    # Errors of other kinds and refusals have their lists of counts, too; none is here.
    assert unseen == {f".figures.time_series.{name}" for name in ("errors", "refused")}


def test_page_has_each_key_of_prices():
    """Of models with tiers, with changes, and with prices that depend on the prompt."""
    root, shapes = schema("limits --prices")
    seen = set()
    with own_prices():
        ended = CliRunner().invoke(app, ["limits", "--prices", "--provider", "all", "--json"])
    told = json.loads(ended.stdout)
    assert not list(wrong(told, root, shapes, seen=seen))
    assert set(all_keys(root, shapes)) == seen
    (swift,) = [one for one in told["models"] if one["model"] == "swift-1"]
    assert swift["rates"]["input"] == 1.5
    assert swift["above"] == {"200000": {"input": 3.0, "output": 9.0}, "400000": {"input": 4.5}}
    ((flex,), (late,)) = swift["tiers"], swift["changes"]
    assert (flex["when"], flex["rates"]["input"]) == ({"service_tier": "flex"}, 0.75)
    assert (late["date"], late["above"]) == (LATER.isoformat(), {"9000": {"input": 0.6}})
    (hourly,) = [one["changes"] for one in told["models"] if one["model"] == "hourly"]
    assert [one["daily"] for one in hourly] == [None, None, ["00:30", "16:30"]]
    assert [one["model"] for one in told["models"] if one["deprecated"]] == ["swift-0"]


def test_unknown_value_of_a_gate_is_null():
    """Where calls are only summed up, `--fail-on unused` has no number, and the file is written."""
    outcome = Outcome(judged=[judge(read_gate("unused"), {"unused": math.inf})])
    (gate,) = json.loads(json_text(json_report(plan_of(), outcome, 5)))["gates"]
    assert gate == {"gate": "unused", "value": None, "failed": True}


def test_sums_have_their_own_series():
    """Calls that are only summed up, paced or not, are not in the time series of both sums."""
    outcome = Outcome()
    sums = [CallStats(OTHERS, OTHERS, None, None, None, paced) for paced in (True, False)]
    for one, number in zip(sums, (2, 3), strict=True):
        for _ in range(number):
            outcome.recording.tally(one, "refused", outcome.recording.now)
    outcome.figures = sums
    told = json_report(plan_of(), outcome, 0)
    assert [one["time_series"]["refused"] for one in told["figures"]] == [[2], [3]]


def test_example_is_as_on_the_page():
    """The example has the keys and types of an entry of `figures`."""
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    root, shapes = schema()
    figure = dataclasses.replace(root.keys["figures"], listed=False)
    seen = set()
    told = json.loads(example)
    assert not list(wrong(told, figure, shapes, seen=seen))
    assert sum(told["time_series"]["waited"]) == pytest.approx(told["waited"], abs=1e-5)
    assert sum(told["time_series"]["calls"]) == told["calls"]
    assert json_text(told) == example  # laid out as a file is


def test_no_figure_is_written_twice(run, aws, python, tmp_path):
    """Each wait is there once, but for the totals of a queue and of the run."""
    text = written(
        run, python, tmp_path, "--limit", "ec2=20/s", "--limit", "ec2.DescribeVolumes=9/s"
    )
    told = json.loads(text)
    assert told["format"] == FORMAT == 2
    assert len(text.splitlines()) < 160
    for figure in told["figures"]:
        del figure["time_series"]  # which has the same step by step
    text = json.dumps(told)
    for figure in told["figures"]:
        if figure["waited"]:
            assert text.count(str(figure["waited"])) == 1
    # The longest of one operation is that of its queue, and of the run.
    assert text.count(f'"max": {told["waits"]["max"]}') == 3
