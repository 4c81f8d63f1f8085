"""`aioapiqueue limits`, and `discover` against a Service Quotas of our own."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys

import pytest
from botocore.retries.standard import ExponentialBackoff
from typer.testing import CliRunner

from aioapiqueue import Rate
from aioapiqueue.registry import Registry, parameter_counts
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.limits.quotas import read_quotas, to_toml
from tests.helpers import introspect
from tests.helpers.service_quotas import APPLIED, CAPACITY, REFILL, SETTINGS, quota, run, serving
from tests.helpers.stalls import Stalls
from tests.helpers.words import words_of

pytestmark = pytest.mark.real


def run_program(*arguments, cwd, **environment):
    """Run it as a program, whose output is no terminal, and return what came of it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    clean.pop("COLUMNS", None)
    settings = {name: value for name, value in SETTINGS.items() if name != "COLUMNS"}
    return subprocess.run(
        [sys.executable, "-m", "aioapiqueue", "limits", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env={**clean, **settings, **environment},
    )


# What is in force


def test_table_of_ec2_fits_80_columns(tmp_path):
    """It names half of each published figure, the figure, the page and the day it was read."""
    shown = run_program("--service", "ec2", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "ec2, per account and Region" in lines
    assert re.search(
        r"10/s burst 50 +20/s burst 100 +yes +50% of \[1\]\n +each Describe\*", shown.stdout
    )
    assert re.search(
        r"5/s burst 25 +10/s burst 50 +yes .*\n +unfiltered: DescribeInst", shown.stdout
    )
    assert re.search(
        r"1 instances/s burst 500 +2 instances/s burst 1000 +yes .*\n +RunInstances resources",
        shown.stdout,
    )
    assert "[1] docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html" in lines
    assert "    read 2026-11-24" in lines
    assert "Not enforced: console, 10/s burst 100" in shown.stdout
    assert "DeleteCoipPoolPermission, which botocore does not know" in shown.stdout
    assert "…" not in shown.stdout


def test_all_services_fit_80_columns(tmp_path):
    """Without --service all services are shown, with another share where one is given."""
    shown = run("--share", "80%", cwd=tmp_path)
    assert shown.exit_code == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "route53, per account\n" in shown.stdout
    assert "16/s burst 80" in shown.stdout


@pytest.mark.parametrize("options", [(), ("--limits", "mine.toml"), ("--service", "s3")])
def test_each_figure_has_its_day(tmp_path, options):
    """Each page that a row refers to is listed with the day; in JSON, each figure has its own."""
    (tmp_path / "mine.toml").write_text(
        'preset = "aws"\n[ec2.lanes]\nCreateTags = "1/s"\nRunInstances = {share = "20%"}\n'
        '[ec2.quotas]\nDescribeVpcs = "4/s"\n[iam]\nrate = "5/s"\n'
    )
    text = run(*options, cwd=tmp_path).stdout
    pages = re.findall(r"^(\[\d+\]) (?:.*\n)(?: {4,}\S+\n)? {4,}read (\S+)$", text, re.MULTILINE)
    listed = re.findall(r"^\[\d+\]", text, re.MULTILINE)  # pages, and notes of rows
    assert set(re.findall(r"\[\d+\]", text)) == set(listed)
    rows = json.loads(run(*options, "--json", cwd=tmp_path).stdout)
    figures = [row["published"] for row in rows if row["published"]]
    assert {one["read"] for one in figures} == {day for _, day in pages}
    assert all(dt.date.fromisoformat(one["read"]) for one in figures)


def test_file_is_shown_with_its_lines(tmp_path):
    """Limits of a file come with their line; others with what they are a share of."""
    (tmp_path / "mine.toml").write_text(
        'preset = "aws"\n[ec2]\nrate = "40/s"\n[iam]\nrate = "5/s"\n'
    )
    shown = run("--limits", "mine.toml", "--service", "ec2", "--service", "iam", cwd=tmp_path)
    assert re.search(r"40/s .* mine.toml, line 3\n +all calls together", shown.stdout)
    assert re.search(r"5/s .* mine.toml, line 5\n +all calls together", shown.stdout)
    assert "50% of [1]" in shown.stdout


def test_concurrency_and_adaptive_are_shown(tmp_path):
    """A service that limits only the calls in flight does not have "any rate"; nor is more lost."""
    (tmp_path / "mine.toml").write_text(
        'preset = "aws"\n[iam]\nconcurrency = 5\n[sts]\nrate = "9/s"\nadaptive = true\n'
        "[ec2]\nconcurrency = 7\n"
    )
    options = ("--limits", "mine.toml", "--service", "iam", "--service", "sts", "--service", "ec2")
    shown = run(*options, cwd=tmp_path)
    assert shown.exit_code == 0, shown.stderr
    assert re.search(r"5 at once .* mine.toml, line 3\n +all calls together", shown.stdout)
    assert re.search(r"9/s .* mine.toml, line 5\nadaptive\n +all calls together", shown.stdout)
    assert re.search(r"7 at once .* mine.toml, line 8\n +all calls together", shown.stdout)
    assert "any rate" not in shown.stdout
    rows = json.loads(run(*options, "--json", cwd=tmp_path).stdout)
    together = {row["service"]: row for row in rows if not row["operations"]}
    assert together["iam"]["concurrency"] == 5
    assert together["iam"]["adaptive"] is None
    assert together["sts"]["adaptive"] == {
        "floor": None, "backoff": 0.7, "recovery": 20.0, "concurrency": None,
    }  # fmt: skip
    assert together["ec2"]["concurrency"] == 7


def test_json_has_figures_with_their_pages(tmp_path):
    """--json has limits, scope, share, page, day and whether AWS raises it."""
    shown = run("--service", "route53", "--json", cwd=tmp_path)
    rows = json.loads(shown.stdout)
    changes = next(row for row in rows if row["bucket"] == "changes")
    assert changes["limits"] == [{"calls": 50, "per": 1.0, "burst": 750, "unit": "changes"}]
    assert changes["cost"]["ChangeResourceRecordSets"] == "2*ChangeBatch.Changes"
    assert changes["published"]["read"] == "2026-11-24"
    assert changes["published"]["page"].endswith("throttling-api-requests.html")
    assert all(row["share"] == 0.5 and row["scope"] == ["account"] for row in rows)


def test_json_has_what_is_not_kept(tmp_path):
    """What is published of S3 and not enforced is there, marked so."""
    rows = json.loads(run("--service", "s3", "--json", cwd=tmp_path).stdout)
    assert [(row["bucket"], row["kept"], row["limits"]) for row in rows] == [
        ("writes", False, []),
        ("reads", False, []),
    ]
    assert rows[0]["published"]["calls"] == 3500
    assert rows[0]["published"]["for_each"] == "prefix"


def test_long_limits_leave_columns_in_place(tmp_path):
    """One that is wider than its column breaks between words."""
    (tmp_path / "mine.toml").write_text(
        '[ec2]\npreset = "aws"\nquotas = {DescribeTags = "0.123456789/s burst 1800000"}'
    )
    shown = run("--limits", "mine.toml", "--service", "ec2", cwd=tmp_path).stdout
    assert re.search(r"\n0.061728394/s burst +50% of mine.toml,\n900000 +line 3\n", shown)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--service", "iam"], 2, "--service: AWS publishes no limits for iam"),
        (["--service", "ec3"], 2, "did you mean 'ec2'"),
        (["--service", "ec2, s3"], 2, "--service ec2 --service s3"),
        (["--service", "ec3", "--no-check"], 2, "--service: AWS publishes no limits for ec3"),
        (["--share", "200%"], 2, "--share: '200%' is more than AWS publishes"),
        (["--limits", "good.toml", "--share", "0%"], 2, "queue: --share: '0%' is not a share"),
        (["--limits", "none.toml"], 2, "none.toml: cannot be read"),
        (["check", "none.toml"], 1, "none.toml: cannot be read"),
        (["check", "bad.toml"], 1, "bad.toml, line 2: ec2.share: '500%' is more than AWS"),
        (["discover", "--write", "bad.toml"], 2, "--write: bad.toml exists already"),
        (["discover", "--service", "iam"], 2, "--service iam: its quotas do not name operations"),
    ],
)
def test_mistakes_are_refused(arguments, code, message, tmp_path, monkeypatch):
    """A wrong option or file gives a message on stderr and an exit code, and nothing else."""
    (tmp_path / "bad.toml").write_text('[ec2]\nshare = "500%"\npreset = "aws"')
    (tmp_path / "good.toml").write_text('ec2 = "1/s"')
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["limits", *arguments])
    assert (ended.exit_code, ended.stdout) == (code, "")
    assert message in ended.stderr
    assert isinstance(ended.exception, SystemExit)


HOSTS = """
[hosts."api.github.com"]
rate = "10/s"
lanes = {"GET /search/*" = "30/min", POST = "30/min"}

[default]
rate = "5/s"
"""


def test_hosts_are_shown(tmp_path):
    """With their lanes, and by whatever name they are asked for; a default is not of them."""
    (tmp_path / "limits.toml").write_text(HOSTS)
    for name in ("https://api.github.com", "API.github.com"):
        shown = run("--limits", "limits.toml", "--service", name, cwd=tmp_path)
        assert shown.stdout.splitlines() == [
            "https://api.github.com",
            "Limit                    AWS publishes            Adjustable Source",
            "10/s                                                         limits.toml, line 3",
            "    all calls together",
            "30/min                                                       limits.toml, line 4",
            "    GET /search/*, POST, each on its own",
            "",
        ]
    ended = run("--limits", "limits.toml", "--service", "slack.com", cwd=tmp_path)
    assert ended.exit_code == 2
    assert "limits.toml has no limit for https://slack.com" in words_of(ended.stderr)
    ended = run("--limits", "limits.toml", "--service", "10.0.0.1", cwd=tmp_path)
    assert ended.exit_code == 2
    assert "--service: '10.0.0.1' is an IP address" in words_of(ended.stderr)
    checked = run("check", "limits.toml", cwd=tmp_path)
    assert "is valid: 4 limits for 1 service and 1 host" in checked.stdout


def test_a_good_file_is_checked(tmp_path):
    """`limits check` prints how many limits a file has, and exits with 0."""
    (tmp_path / "good.toml").write_text('preset = "aws"\nshare = "30%"\n[iam]\nrate = "5/s"\n')
    ended = run("check", "good.toml", cwd=tmp_path)
    assert ended.exit_code == 0
    assert re.fullmatch(r"good.toml is valid: \d+ limits for 35 services\n", ended.stdout)


# Service Quotas


@pytest.mark.parametrize(
    ("service", "names", "rate"),
    [
        ("cloudformation", ["Throttle rate limit for DescribeStacks"], Rate(30)),
        ("cloudtrail", ["Transactions per second (TPS) for the LookupEvents API"], Rate(30)),
        ("cloudwatch", ["Rate of DescribeAlarms requests"], Rate(30)),
        ("ecr", ["Rate of PutImage requests"], Rate(30)),
        ("kms", ["DescribeKey request rate"], Rate(30)),
        ("secretsmanager", ["Rate of ListSecrets API requests"], Rate(30)),
        ("logs", ["DescribeLogGroups throttle limit in transactions per second"], Rate(30)),
        (
            "logs",
            [
                f"CreateImportTask throttle limit in transactions per second{kind}"
                for kind in ("", " in a burst")
            ],
            Rate(30, burst=30),
        ),
    ],
)
def test_names_of_quotas_lead_to_operations(service, names, rate):
    """Names as AWS's pages of quotas have them are mapped; others are only counted, or listed."""
    others = ["Secrets", "Rate of SEARCH usage in GetMetricData", "Rate of NoSuchThing requests"]
    found = read_quotas(service, [quota(name, 30.0) for name in (*names, *others)])
    assert list(found.rates.values()) == [rate]
    assert next(iter(found.rates)) in names[0]
    assert (len(found.unmapped), found.others) == (2, 1)
    assert Registry.parse(to_toml([found], region="x", share="50%", when="today"))


@pytest.mark.parametrize(
    ("service", "name", "bucket"),
    [
        ("kms", "Cryptographic operations (symmetric) request rate", "symmetric cryptography"),
        (
            "secretsmanager",
            ("Combined rate of DeleteResourcePolicy, GetResourcePolicy, PutResourcePolicy, and "
            "ValidateResourcePolicy API requests"),
            "resource policies",
        ),
        (
            "secretsmanager",
            ("Combined rate of PutSecretValue, RemoveRegionsFromReplication, "
            "ReplicateSecretToRegion, StopReplicationToReplica, UpdateSecret, and "
            "UpdateSecretVersionStage API requests"),
            "secret changes",
        ),
        ("secretsmanager", "Combined rate of RotateSecret and CancelRotateSecret API requests",
         "rotation"),
    ],
)  # fmt: skip
def test_quotas_of_shared_buckets_are_mapped(service, name, bucket):
    """By the operations that they name, all of them, or by the kind of keys."""
    found = read_quotas(service, [quota(name, 30.0), quota(f"{name}s", 30.0)])
    assert (found.rates, found.adjustable) == ({bucket: Rate(30)}, {bucket})
    assert len(found.unmapped) == 1
    registry = Registry.parse(to_toml([found], region="x", share="50%", when="today"))
    assert registry.services[service].buckets[bucket].limits == (Rate(15),)
    assert read_quotas("secretsmanager", [quota(
        "Combined rate of DescribeSecret and GetSecretValue API requests", 30.0
    )]).rates == {}  # fmt: skip


@pytest.fixture
def quotas(monkeypatch):
    """Serve few quotas for one test; a client that is refused tries again at once."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)
    with serving() as server:
        server.listings["ListServiceQuotas"] = APPLIED[:11]
        yield server


def asked(server):
    """Return how to ask the server for EC2's quotas: options and environment."""
    options = ("discover", "--service", "ec2", "--region", "eu-west-1")
    return options, {"AWS_ENDPOINT_URL": server.url}


def discover(server, *arguments, cwd):
    """Run `limits discover` for EC2 against the server."""
    options, environment = asked(server)
    return run(*options, *arguments, cwd=cwd, **environment)


@pytest.fixture(scope="module")
def discovered(tmp_path_factory):
    """Let it discover once: its output, the folder it wrote to, and what the server received."""
    folder = tmp_path_factory.mktemp("discovered")
    with serving() as server, Stalls() as stalls:
        options, environment = asked(server)
        ended = run_program(*options, "--write", "limits.toml", cwd=folder, **environment)
        stood_still = stalls.seconds
    return ended, folder, server.arrivals, stood_still


def test_discovered_quotas_become_a_valid_file(discovered):
    """Applied values, and defaults where none is applied, are mapped, halved and merged."""
    ended, folder, *_ = discovered
    assert ended.returncode == 0, ended.stderr
    checked = run("check", "limits.toml", cwd=folder)
    assert checked.exit_code == 0, checked.stderr
    text = (folder / "limits.toml").read_text("utf-8")
    table = text.partition("[ec2.quotas]\n")[2].splitlines()
    assert table == [
        'DescribeSnapshots = "40/s burst 200"',
        '"DescribeSnapshots unfiltered" = "15/s burst 100"',
        'DescribeTags = "2e-05/s burst 3000000"',
        'DescribeVolumes = "20/s burst 150"',
        'RunInstances = "1/s burst 5"  # not adjustable',
    ]
    registry = Registry.load(folder / "limits.toml")
    call = registry.find_call(
        "ec2", "DescribeSnapshots", parameters=parameter_counts({"MaxResults": 5})
    )
    assert call is not None
    assert introspect.lane_limits_of(call.queue)[call.keys[0]] == [Rate(20, burst=100)]
    assert registry.services["sts"].buckets["requests"].limits == (Rate(300),)


def test_discovered_quotas_are_what_run_keeps(discovered, tmp_path):
    """`run --limits` takes the file as it was written: half of what the account has."""
    _, folder, *_ = discovered
    command = [sys.executable, "-m", "aioapiqueue", "run", "--limits", folder / "limits.toml"]
    command += ["--json", tmp_path / "figures.json", "--", sys.executable, "-c", "pass"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    limits = json.loads((tmp_path / "figures.json").read_text("utf-8"))["limits"]
    assert limits["ec2.DescribeSnapshots"] == "20/s burst 100"
    assert limits["ec2.RunInstances"] == "0.5/s burst 2.5"


def test_what_cannot_be_mapped_is_said(discovered):
    """Unknown operations, values and names that look like rates are listed on stderr."""
    ended, *_ = discovered
    for name in (
        f"DescribeFlyingSaucers {CAPACITY}: ec2 has no operation",
        f"CopyImage {REFILL}: its value is 0",
        f"DescribeVpcs {REFILL}: its value is None",
        "RunInstances resource bucket refill rate: its name contains no operation",
        "Rate of something else: its name contains no operation",
    ):
        assert f"ec2: skipped: {name}" in ended.stderr
    counted = "5 request rates differ from the published ones, 1 does not; 151 other quotas"
    assert f"ec2: {counted}" in ended.stderr


def test_discover_prints_without_write(quotas, tmp_path):
    """The text alone is on stdout, so that it can be piped; no file is made."""
    ended = discover(quotas, cwd=tmp_path)
    assert ended.stdout.startswith(
        "# The limits that AWS publishes, and what Service Quotas listed "
    )
    assert Registry.parse(ended.stdout).services["ec2"]
    assert list(tmp_path.iterdir()) == []


def test_it_paces_itself(discovered):
    """Its pages come no faster than half of what Service Quotas is published to bear."""
    *_, arrivals, stood_still = discovered
    pages = [at for at, name in arrivals if name == "ListServiceQuotas"]
    assert len(pages) == 9  # 161 quotas, 20 on a page; a burst of 5, then 5 a second
    # As long as the first was held up on its way, the others may come sooner after it.
    assert pages[-1] - pages[0] >= 0.5 - stood_still


@pytest.mark.parametrize(
    ("after", "code", "message"),
    [
        (0, "AccessDeniedException", "no permission (AccessDeniedException for List"),
        (4, "AccessDeniedException", "no permission (AccessDeniedException for List"),
        (4, "TooManyRequestsException", "Service Quotas throttled this account"),
        (0, "NoSuchResourceException", "Service Quotas refused List"),
    ],
)
def test_nothing_is_written_after_a_refusal(quotas, tmp_path, after, code, message):
    """Without permission, or throttled, at once or midway: a message, exit code 1, no file."""
    quotas.refusal, quotas.refuse_after = (400, code), after
    quotas.on_a_page = 4  # three pages of defaults, and as many of what is applied
    ended = discover(quotas, "--write", "limits.toml", cwd=tmp_path)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert message in ended.stderr
    assert "Nothing was written." in ended.stderr
    assert isinstance(ended.exception, SystemExit)
    assert list(tmp_path.iterdir()) == []


def test_unknown_services_are_left_out(quotas, tmp_path):
    """The others are asked and written all the same; with none left, it is an error."""
    quotas.unknown = {"kms"}
    ended = discover(quotas, "--service", "kms", "--write", "limits.toml", cwd=tmp_path)
    assert ended.exit_code == 0, ended.stderr
    assert "kms: the published limits are kept: Service Quotas refused List" in ended.stderr
    assert "not \\x1b[31mhere" in ended.stderr
    assert "\x1b" not in ended.stderr
    assert "[ec2.quotas]" in (tmp_path / "limits.toml").read_text("utf-8")
    quotas.unknown = {"kms", "ec2"}
    ended = discover(quotas, "--service", "kms", "--write", "other.toml", cwd=tmp_path)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert isinstance(ended.exception, SystemExit)
    assert "Nothing was written." in ended.stderr
    assert not (tmp_path / "other.toml").exists()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot reach Service Quotas"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Unable to locate credentials"),
    ],
)
def test_nothing_is_written_without_network(tmp_path, monkeypatch, environment, message):
    """Without a server to reach, or credentials: a message, exit code 1, no file."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)
    ended = run("discover", "--service", "ec2", "--region", "eu-west-1", "--write", "limits.toml",
               cwd=tmp_path, **environment)  # fmt: skip
    assert ended.exit_code == 1
    assert message in ended.stderr
    assert isinstance(ended.exception, SystemExit)
    assert list(tmp_path.iterdir()) == []


def test_a_region_is_needed(tmp_path):
    """Without a Region in the environment or an option, it prints so and exits with 1."""
    ended = run("discover", "--service", "ec2", cwd=tmp_path)
    assert ended.exit_code == 1
    assert isinstance(ended.exception, SystemExit)
    assert "--region" in ended.stderr
