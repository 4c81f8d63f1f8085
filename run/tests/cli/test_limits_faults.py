"""`aioapiqueue limits` on unusual files, and `discover` where Service Quotas does not answer."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.app import app
from aioapiqueue_run.cli.limits.quotas import read_quotas, to_toml

pytestmark = pytest.mark.real


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        """Answer everything alike: with bytes, or as a function has it."""
        self.rfile.read(int(self.headers["Content-Length"]))
        if callable(self.server.behaviour):
            self.server.behaviour(self)
        else:
            self.answer(self.server.behaviour)

    def answer(self, text):
        """Send a document."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Stay silent."""


@contextlib.contextmanager
def answering(behaviour):
    """Serve one answer to all calls on a free port of loopback; yield the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        server.behaviour, server.pages, server.over = behaviour, 0, threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def discover(tmp_path, monkeypatch):
    """Return a function that discovers EC2's quotas in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def run(*arguments, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        command = ["limits", "discover", "--service", "ec2", "--region", "eu-west-1", *arguments]
        return CliRunner().invoke(app, command)

    return run


def quota(name, value):
    """Return a quota as Service Quotas describes it."""
    return {"QuotaCode": name, "QuotaName": name, "Value": value, "Adjustable": True}


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Please log in</html>",
        b"{}",
        b"null",
        b"[]",
        b'"abc"',
        b'{"Quotas": 5}',
        b'{"Quotas": [1]}',
        b'{"Quotas": [{"QuotaCode": "L-1", "Period": 3}]}',
        b'{"Quotas": [{"QuotaCode": ["x"]}]}',
        b'{"Quotas": [{}]}',
        b'{"Quotas": ' + b"[" * 100_000,
    ],
    ids=lambda answer: answer[:24].decode(),
)
def test_other_servers_are_recognized(discover, tmp_path, answer):
    """What a proxy answers in its place, with status 200, is reported as no answer."""
    with answering(answer) as url:
        ended = discover("--write", "limits.toml", AWS_ENDPOINT_URL=url)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "the response is not from Service Quotas" in ended.stderr
    assert "Nothing was written." in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_invalid_quotas_are_left_out(discover):
    """A quota whose fields have other types does no harm."""
    malformed = {"QuotaCode": "L-1", "QuotaName": 5, "Value": "x"}
    with answering(json.dumps({"Quotas": [malformed]}).encode()) as url:
        ended = discover(AWS_ENDPOINT_URL=url)
    assert ended.exit_code == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert Registry.parse(ended.stdout)


def more(handler):
    """Answer each page with the token of another one."""
    handler.server.pages += 1
    page = {"Quotas": [], "NextToken": f"page {handler.server.pages}"}
    handler.answer(json.dumps(page).encode())


def drip(handler):
    """Send a byte now and then, so that no single read takes long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not handler.server.over.wait(0.1):
            handler.wfile.write(b" ")


@pytest.mark.parametrize("behaviour", [more, drip], ids=["pages", "drip"])
def test_total_time_is_bounded(discover, tmp_path, behaviour, stalls):
    """Where each answer is in time and the end never comes, --timeout ends it, with its remedy."""
    began = time.monotonic()
    with answering(behaviour) as url:
        ended = discover("--timeout", "0.5", "--write", "limits.toml", AWS_ENDPOINT_URL=url)
    # Without it, the pages would take 100 seconds, and the bytes more than a day.
    assert 0.5 <= time.monotonic() - began < 15 + stalls.seconds
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "did not finish within 0.5 s: ask for fewer services (--service" in ended.stderr
    assert "or raise --timeout" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "x"])
def test_timeout_is_some_time(discover, seconds):
    """No time, or no end of it, is refused before anybody is asked."""
    ended = discover("--timeout", seconds, COLUMNS="200")
    assert ended.exit_code == 2
    assert f"'--timeout': '{seconds}' is invalid: expected" in ended.stderr


def test_missing_library_is_named(discover, monkeypatch):
    """An installation by pipx gets the command that works there."""
    monkeypatch.delitem(sys.modules, "aioapiqueue_run.cli.limits.service_quotas", raising=False)
    monkeypatch.setitem(sys.modules, "aiobotocore.config", None)
    ended = discover()
    assert ended.exit_code == 1
    assert "discover needs aiobotocore, which is not installed" in ended.stderr
    assert "pip install 'aioapiqueue[aws,cli]'" in ended.stderr
    assert "(with pipx: pipx inject aioapiqueue aiobotocore)" in ended.stderr


def test_missing_region_is_named(discover):
    """Without a Region in the environment, the option that names one is shown."""
    ended = discover("--region", "")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "no Region is set: choose one, such as --region eu-west-1" in ended.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AWS_PROFILE": "no-such"}, "The config profile (no-such) could not be found"),
        ({"AWS_ENDPOINT_URL": "no-url"}, "Invalid endpoint: no-url"),
    ],
)
def test_invalid_aws_settings_are_refused(discover, tmp_path, environment, message):
    """A profile that is not there, or an endpoint that is none: a message and exit code 1."""
    ended = discover("--write", "limits.toml", **environment)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert f"cannot reach Service Quotas: {message}" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_never_written_over(discover, tmp_path):
    """A dangling link or a missing directory is refused before AWS is asked."""
    (tmp_path / "link.toml").symlink_to("nowhere.toml")
    for name, message in (
        ("link.toml", "exists already"),
        ("no/limits.toml", "cannot be written: check its name and its directory"),
    ):
        ended = discover("--write", name, AWS_ENDPOINT_URL="http://127.0.0.1:9")
        assert ended.exit_code == 2
        assert f"--write: {name} {message}" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["link.toml"]


@pytest.mark.parametrize("value", [1e-15, 0, -1, 1e13, float("inf"), float("nan"), "5", None])
def test_values_that_are_no_rates(value):
    """What no limits.toml can have is not mapped, instead of a file that check refuses."""
    found = read_quotas("ec2", [quota("DescribeVpcs request bucket refill rate", value)])
    assert found.rates == {}
    assert found.unmapped == [f"DescribeVpcs request bucket refill rate: its value is {value!r}"]


@pytest.mark.parametrize("value", [1e-9, 1e11, 1 / 3, 123456.789])
def test_values_that_are_rates(value):
    """The least and the greatest, and those with many digits."""
    name = "DescribeVpcs request bucket"
    found = read_quotas(
        "ec2", [quota(f"{name} refill rate", value), quota(f"{name} maximum capacity", value)]
    )
    text = to_toml([found], region="x", share="50%", when="today")
    assert Registry.parse(text).services["ec2"].lanes["DescribeVpcs"]


def test_rates_of_a_minute_are_listed():
    """CloudTrail's page has one: it is of an operation, and not silently left out."""
    name = "Transactions per minute (TPM) for the GenerateQuery API"
    assert read_quotas("cloudtrail", [quota(name, 4.0)]).unmapped == [
        f"{name}: its name contains no operation"
    ]


def test_addresses_are_broken_at_a_slash(monkeypatch):
    """Of pages whose address is longer than a line, none has its number or an end alone."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, ["limits", "--service", "elb", "--service", "route53"]).stdout
    assert max(map(len, shown.splitlines())) <= 80
    for address in (
        "docs.aws.amazon.com/elasticloadbalancing/latest/userguide/\n    elb-api-throttling.html",
        "docs.aws.amazon.com/Route53/latest/DeveloperGuide/\n    throttling-api-requests.html",
    ):
        assert re.search(rf"\n\[\d\] {re.escape(address)}\n    read 2026-11-24\n", shown)


@pytest.mark.parametrize("text", ["", "# nothing", 'preset = "none"'])
def test_file_without_limits_is_invalid(tmp_path, monkeypatch, text):
    """What `run` would refuse, `check` does not call right."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.toml").write_text(text)
    ended = CliRunner().invoke(app, ["limits", "check", "empty.toml"])
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "empty.toml has no limits" in ended.stderr


def test_unlisted_service_has_the_defaults(tmp_path, monkeypatch):
    """Of a service without a table, what is shown is what [default] gives it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.toml").write_text('[ec2]\nrate = "5/s"\n[default]\nrate = "10/s"')
    command = ["limits", "--limits", "some.toml", "--service"]
    shown = CliRunner().invoke(app, [*command, "iam"])
    assert shown.exit_code == 0, shown.stderr
    assert re.search(r"^default, .*\n.*\n10/s +some.toml, line 4$", shown.stdout, re.MULTILINE)
    assert "5/s" not in re.findall(r"^\S+", shown.stdout, re.MULTILINE)
    assert CliRunner().invoke(app, [*command, "ec3"]).exit_code == 2
