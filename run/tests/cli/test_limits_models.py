"""`aioapiqueue limits discover --service bedrock`: what is granted of models, as lanes."""

from __future__ import annotations

import ast

import pytest
from typer.testing import CliRunner

from aioapiqueue import ApiQueue, Rate, Window
from aioapiqueue.integrations import llm
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.limits.models import read_models, to_lanes
from tests.helpers import introspect
from tests.helpers.service_quotas import quota, run, serving

pytestmark = pytest.mark.real

NOVA, CLAUDE = "Amazon Nova Lite", "Anthropic Claude Sonnet 4 V1"
DAY = "Model invocation max tokens per day for"
DEFAULTS = [
    quota(f"On-demand model inference requests per minute for {NOVA}", 1000.0),
    quota(f"On-demand model inference tokens per minute for {NOVA}", 2_000_000.0),
    quota(f"Cross-region model inference tokens per minute for {CLAUDE}", 200_000.0),
    quota(f"Global cross-region model inference tokens per day for {CLAUDE}", 9_000_000.0),
    quota(f"{DAY} {CLAUDE} (doubled for cross-region calls)", 144_000_000.0, adjustable=False),
    quota("Cross-Model Max Tokens Per Day", 700_000_000.0),
    quota("CreateAgent requests per second", 6.0),
]
APPLIED = [quota(f"Cross-region model inference requests per minute for {CLAUDE}", 200.0)]
APPLIED += [quota(f"On-demand model inference tokens per minute for {NOVA}", 400_000.0)]


def discover(*arguments, cwd):
    """Ask for Bedrock's quotas of a server that has some."""
    with serving() as server:
        server.listings = {"ListServiceQuotas": APPLIED, "ListAWSDefaultServiceQuotas": DEFAULTS}
        options = ("--service", "bedrock", "--region", "eu-west-1", *arguments)
        return run("discover", *options, cwd=cwd, AWS_ENDPOINT_URL=server.url)


def lanes_of(text):
    """Return the lanes that are printed, as Python reads them."""
    return ast.literal_eval(ast.parse(text).body[0].value)


def read(*quotas, share=100):
    """Return the lanes that quotas lead to, and those that are not mapped."""
    models = read_models([quota(*one) for one in quotas])
    text = to_lanes(models, region="us-east-1", share=share, when="today")
    return lanes_of(text), models.unmapped


NEITHER = "neither for on-demand nor for cross-Region calls of a model"


def test_lanes_of_models_are_printed(tmp_path):
    """Half of what is applied, or else the default, by model and by how it is called."""
    ended = discover(cwd=tmp_path)
    assert ended.exit_code == 0, ended.stderr
    assert "replace each <...> with the modelId of your calls" in ended.stdout
    assert lanes_of(ended.stdout) == {
        f"<{NOVA}, on-demand> eu-west-1": "500/min, 200000 tokens/min",
        f"<{CLAUDE}, cross-region> eu-west-1": (
            "100/min, 100000 tokens/min, 144000000 tokens in any 1d"
        ),
        f"<{CLAUDE}, global cross-region> eu-west-1": "4500000 tokens in any 1d",
    }
    assert f"bedrock: skipped: Cross-Model Max Tokens Per Day: {NEITHER}" in ended.stderr
    assert "bedrock: skipped 1 quota not for models" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_lanes_are_those_of_calls(tmp_path):
    """With the id in its place, a call through `llm.bedrock` has the lane that was printed."""
    text = discover("--share", "100%", cwd=tmp_path).stdout
    model = "eu.anthropic.claude-sonnet-4-20250514-v1:0"
    lanes = lanes_of(text.replace(f"<{CLAUDE}, cross-region>", model))
    parameters = {"modelId": model, "messages": []}
    asked = llm.bedrock.asked_for("bedrock-runtime", "Converse", "eu-west-1", parameters)
    assert asked is not None
    assert introspect.lane_limits_of(ApiQueue(lanes=lanes))[asked[0]] == [
        Rate(200, 60),
        Rate(200_000, 60, unit="tokens"),
        Window(288_000_000, 86_400, unit="tokens"),
    ]


@pytest.mark.parametrize(
    ("name", "lane", "limits"),
    [
        ("Cross-Region InvokeModel tokens per minute for X", "cross-region", "100 tokens/min"),
        ("On-demand InvokeModel requests per minute for X", "on-demand", "100/min"),
        ("Global cross-Region model inference requests per minute for X",
         "global cross-region", "100/min"),
    ],
)  # fmt: skip
def test_both_generations_of_names(name, lane, limits):
    """Old names and new ones, in any case, lead to the same lanes."""
    assert read((name, 100.0)) == ({f"<X, {lane}> us-east-1": limits}, [])


def test_days_go_to_known_calls():
    """A day's quota is of the calls that the model has; of both where nothing else is known."""
    per_minute = ("On-demand model inference tokens per minute for X", 10.0)
    doubled = (f"{DAY} X (doubled for cross-region calls)", 50.0)
    assert read(doubled, per_minute)[0] == {
        "<X, on-demand> us-east-1": "10 tokens/min, 50 tokens in any 1d"
    }
    assert read(doubled)[0] == {
        "<X, on-demand> us-east-1": "50 tokens in any 1d",
        "<X, cross-region> us-east-1": "100 tokens in any 1d",
    }
    assert read((f"{DAY} X", 50.0))[0]["<X, cross-region> us-east-1"] == "50 tokens in any 1d"


def test_lower_of_two_quotas_counts():
    """Where both generations of names are listed, and differ, neither is exceeded."""
    names = [
        f"On-demand {word} tokens per minute for X" for word in ("InvokeModel", "model inference")
    ]
    for values in ((7.0, 9.0), (9.0, 7.0)):
        assert read(*zip(names, values, strict=True))[0] == {
            "<X, on-demand> us-east-1": "7 tokens/min"
        }


def test_shares_are_plain_numbers():
    """A share is no more than it says: a day's is whole, a minute's may be a part of a call."""
    names = ("On-demand model inference requests per minute for X", f"{DAY} X")
    assert read((names[0], 100.0), share=7)[0] == {"<X, on-demand> us-east-1": "7/min"}
    assert read((names[0], 1.0), share=50)[0] == {"<X, on-demand> us-east-1": "0.5/min"}
    assert read((names[1], 5.0), share=50)[0]["<X, on-demand> us-east-1"] == "2 tokens in any 1d"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("On-demand model inference tokens per minute for X", 0.0, "its value is 0.0"),
        ("On-demand model inference tokens per minute for X", None, "its value is None"),
        ("On-demand model inference tokens per minute for X", 1e15, "its value is 1000000"),
        ("[bedrock-mantle endpoint] Input tokens per minute for X", 5.0, NEITHER),
        ("On-demand, latency-optimized model inference tokens per minute for X", 5.0, NEITHER),
    ],
)  # fmt: skip
def test_what_has_no_lane_is_listed(name, value, why):
    """Other ways to call, other endpoints, and what is not granted at all."""
    lanes, unmapped = read((name, value))
    assert lanes == {}
    assert [one.startswith(f"{name}: {why}") for one in unmapped] == [True]


def test_periods_have_to_be_those_named():
    """A quota that says it is of an hour is not taken for one of a minute."""
    one = quota("On-demand model inference tokens per minute for X", 60.0)
    for unit, mapped in (("MINUTE", 1), ("HOUR", 0)):
        models = read_models([{**one, "Period": {"PeriodValue": 1, "PeriodUnit": unit}}])
        assert (len(models.granted), len(models.unmapped)) == (mapped, 1 - mapped)


def test_names_cannot_end_the_text():
    """What a name contains stays within its key, be it a quote or an escape."""
    name = 'X", \\ \x1b[31m'
    models = read_models([quota(f"On-demand InvokeModel requests per minute for {name}", 5.0)])
    text = to_lanes(models, region="us-east-1", share=100, when="today")
    assert lanes_of(text) == {f"<{name}, on-demand> us-east-1": "5/min"}
    assert "\x1b" not in text


@pytest.mark.parametrize("more", [("--write", "lanes.py"), ("--service", "ec2")])
def test_models_are_no_limits_toml(more, tmp_path, monkeypatch):
    """Together with a file, or with services that become one, they are refused unasked."""
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["limits", "discover", "--service", "bedrock", *more])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "prints lanes for models, not a limits.toml: use it without --write" in ended.stderr
    assert list(tmp_path.iterdir()) == []
