"""A Service Quotas of our own, for tests of `aioapiqueue limits discover`.

moto 5.2.5 does not implement ListServiceQuotas: a small server here speaks its protocol instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from aioapiqueue_run.cli.app import app

__all__ = ["APPLIED", "CAPACITY", "REFILL", "SETTINGS", "quota", "run", "serving"]

SETTINGS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "COLUMNS": "80",
}


def run(*arguments, cwd, **environment):
    """Run `aioapiqueue limits` in this process, and return what came of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in (SETTINGS | environment).items():
            patch.setenv(name, value)
        return CliRunner().invoke(app, ["limits", *arguments])


def quota(name, value, *, adjustable=True):
    """Return a quota as Service Quotas describes it, without a value if it has none."""
    code = f"L-{abs(hash(name)) % 16**8:08X}"
    given = {} if value is None else {"Value": value}
    return {"ServiceCode": "ec2", "QuotaCode": code, "QuotaName": name, "Adjustable": adjustable,
            "GlobalQuota": False, "Unit": "None", **given}  # fmt: skip


CAPACITY, REFILL = "request bucket maximum capacity", "request bucket refill rate"
APPLIED = [
    quota(f"DescribeSnapshots {CAPACITY}", 200.0),
    quota(f"DescribeSnapshots {REFILL}", 40.0),
    quota(f"DescribeSnapshots unfiltered {CAPACITY}", 100.0),
    quota(f"DescribeSnapshots unfiltered {REFILL}", 15.0),
    quota(f"RunInstances {CAPACITY}", 5.0, adjustable=False),
    quota(f"RunInstances {REFILL}", 1.0, adjustable=False),
    quota(f"DescribeTags {CAPACITY}", 3000000.0),
    quota(f"DescribeTags {REFILL}", 0.00002),
    quota(f"DescribeVpcs {CAPACITY}", None),
    quota(f"DescribeVpcs {REFILL}", None),
    quota("Running On-Demand Standard instances", 5.0),
    *(quota(f"Instances of kind {number}", 20.0) for number in range(150)),
]
DEFAULTS = [
    quota(f"DescribeSnapshots {CAPACITY}", 100.0),
    quota(f"DescribeSnapshots {REFILL}", 20.0),
    quota(f"DescribeVolumes {CAPACITY}", 150.0),
    quota(f"CreateVpc {CAPACITY}", 50.0),
    quota(f"CreateVpc {REFILL}", 5.0),
    quota(f"DescribeFlyingSaucers {CAPACITY}", 5.0),
    quota(f"CopyImage {REFILL}", 0.0),
    quota("RunInstances resource bucket refill rate", 7.0),
    quota("Rate of something else", 7.0),
]


class ServiceQuotas(ThreadingHTTPServer):
    """Speaks enough of Service Quotas' protocol, and notes when it is asked what."""

    daemon_threads = True

    def __init__(self):
        self.listings = {"ListServiceQuotas": APPLIED, "ListAWSDefaultServiceQuotas": DEFAULTS}
        self.arrivals: list[tuple[float, str]] = []
        self.refusal: tuple[int, str] | None = None
        self.refuse_after = 0
        self.unknown: set[str] = set()
        self.on_a_page = 20
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = self.headers["X-Amz-Target"].partition(".")[2]
        server = self.server
        server.arrivals.append((time.monotonic(), operation))
        if server.refusal and len(server.arrivals) > server.refuse_after:
            status, code = server.refusal
            self.answer(status, {"__type": code, "message": f"{code} for {operation}"})
        elif body["ServiceCode"] in server.unknown:
            self.answer(400, {"__type": "NoSuchResourceException", "message": "not \x1b[31mhere"})
        else:
            quotas = server.listings[operation]
            start = int(body.get("NextToken", "0"))
            end = start + server.on_a_page
            page = {"Quotas": quotas[start:end]}
            if end < len(quotas):
                page["NextToken"] = str(end)
            self.answer(200, page)

    def answer(self, status, content):
        """Send a JSON document."""
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Stay silent."""


@contextlib.contextmanager
def serving():
    """Serve on a free port of loopback."""
    with ServiceQuotas() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
