"""Programs that know nothing of us, an endpoint for their calls, and `aioapiqueue run` on them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from botocore.loaders import Loader

from aioapiqueue.schedules.spi import HUB_DIR
from tests.helpers.company_proxy import CompanyProxy
from tests.helpers.hubs import ask_hub
from tests.helpers.measured import COVERAGE
from tests.helpers.own_network import OwnNetwork
from tests.helpers.run_here import run_here
from tests.helpers.signed_aws import KEY, SECRET, SignedAws
from tests.helpers.words import words_of

if TYPE_CHECKING:
    from collections.abc import Callable

CATCH_UP = 0.010  # seconds, a queue's default
PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines

# `begin` tells when the first call cannot have been yet; `until_exists`, when the test wants to.
HELPERS = """
import os, sys, time

def begin():
    with open(os.environ["BEGUN"], "a") as file:
        file.write(f"{time.monotonic()}\\n")

def until_exists(path):
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        assert time.monotonic() < deadline, path
        time.sleep(0.02)

"""

THROTTLED = (
    "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Slow down.</Message>"
    "</Error></Errors></Response>"
)

PROGRAM = (
    HELPERS
    + """
os.environ["AWS_DATA_PATH"] = os.environ["EC2_MODEL"]
import boto3, functools

@functools.cache
def client(service="ec2"):
    return boto3.client(service, endpoint_url=os.environ["AWS"], region_name="eu-west-1",
                        aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="x")

def calls(number, threads=8):
    from concurrent.futures import ThreadPoolExecutor
    ec2 = client()
    begin()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: ec2.describe_snapshots(), range(number)))

"""
)


# What programs call of EC2, all of whose 800 operations take boto3 another 0.1 s.
OPERATIONS = (
    *("DescribeImages", "DescribeSnapshotAttribute", "DescribeSnapshots"),
    *("DescribeStoreImageTasks", "DescribeVolumes", "RunInstances"),
)


@functools.cache
def ec2_model():
    """Return the model of these operations, as botocore has it of all: its path, and JSON."""
    loader = Loader()
    version = loader.determine_latest_version("ec2", "service-2")
    model = loader.load_service_model("ec2", "service-2", version)
    operations = {name: model["operations"][name] for name in OPERATIONS}
    shapes, unseen = {}, list(operations.values())
    while unseen:
        match unseen.pop():
            case {"shape": str(name), **rest}:
                unseen += rest.values()
                if name not in shapes:
                    shapes[name] = model["shapes"][name]
                    unseen.append(shapes[name])
            case dict() as inner:
                unseen += inner.values()
            case list() as inner:
                unseen += inner
    less = {"metadata": model["metadata"], "operations": operations, "shapes": shapes}
    return Path("ec2", version, "service-2.json"), json.dumps(less)


class Aws(ThreadingHTTPServer):
    """Answers every call at once, and notes when it came and which it was."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self):
        self.arrivals: list[tuple[float, str]] = []
        self.throttles = lambda _: False
        """Whether a call of this name is answered with a push-back."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that is killed is none of the server's business."""

    def most_in(self, seconds):
        """The most calls in any window of so many seconds."""
        times = sorted(at for at, _ in self.arrivals)
        return max(sum(0 <= other - at < seconds for other in times) for at in times)

    def assert_paced(self, rate, begun, burst=1):
        """Check that no call came sooner than the rate allows, with the first just after `begun`.

        The gaps between arrivals say less: one that is held up on its way comes close to the next.
        """
        for number, (at, _) in enumerate(sorted(self.arrivals), start=1):
            assert at - begun >= (number - burst) / rate - CATCH_UP, number

    def count(self, at_least, within=PATIENCE):
        """Wait until so many calls have come."""
        deadline = time.monotonic() + within
        while len(self.arrivals) < at_least:
            assert time.monotonic() < deadline, f"{len(self.arrivals)} calls of {at_least}"
            time.sleep(0.02)

    def still(self, seconds):
        """Wait until no call has come for so long; return how many there are."""
        deadline = time.monotonic() + PATIENCE
        count, since = len(self.arrivals), time.monotonic()
        while time.monotonic() < since + seconds:
            assert time.monotonic() < deadline, f"{len(self.arrivals)} calls, and more come"
            time.sleep(0.02)
            if len(self.arrivals) != count:
                count, since = len(self.arrivals), time.monotonic()
        return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        """Answer any call of the query protocol."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        action = parse_qs(body).get("Action", ["?"])[0]
        self.server.arrivals.append((time.monotonic(), action))
        throttled = self.server.throttles(action)
        answer = (THROTTLED if throttled else f"<Response><{action}Result/></Response>").encode()
        self.send_response(503 if throttled else 200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        """Stay silent."""


@pytest.fixture
def aws():
    """Serve on a free port of loopback."""
    with Aws() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@dataclasses.dataclass
class Ended:
    """What came of a run."""

    code: int
    out: bytes
    err: bytes
    seconds: float

    @property
    def words(self):
        """Our own words on stderr, without their line breaks."""
        return words_of(self.err.decode())


class Runner:
    """Starts `python -m aioapiqueue run`, with an empty folder for its temporary files."""

    def __init__(self, folder, temporary, aws_url):
        self.folder = folder
        self.temporary = temporary
        self.within = list
        """Returns a command line that runs another one where a test wants it."""
        self.within_here = list
        """The value of `within` that `here` has been prepared for."""
        self._begun = folder / "begun"
        self._url = aws_url

    def script(self, text, name="program.py"):
        """Write a program and return its path."""
        model, content = ec2_model()
        model = self.folder / "models" / model
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_text(content)
        path = self.folder / name
        path.write_text(PROGRAM + textwrap.dedent(text))
        return str(path)

    def plain(self, text, name="plain.py"):
        """Write a program that calls nobody."""
        path = self.folder / name
        path.write_text(HELPERS + textwrap.dedent(text))
        return str(path)

    def environment(self, **more):
        """What CI may have: no HOME, no TERM, and nothing that a colour could come from."""
        kept = {"PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "VIRTUAL_ENV", HUB_DIR, COVERAGE}
        return {name: os.environ[name] for name in kept if name in os.environ} | {
            "TMPDIR": str(self.temporary),
            "AWS": self._url,
            "BEGUN": str(self._begun),
            "EC2_MODEL": str(self.folder / "models"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "COLUMNS": "80",
            **more,
        }

    def arguments(self, *arguments):
        """The command line of `aioapiqueue run`."""
        return self.within([sys.executable, "-m", "aioapiqueue", "run", *map(str, arguments)])

    def start(self, *arguments, env=None, **options):
        """Start it, with its output in pipes."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            self.arguments(*arguments), env=self.environment(**(env or {})), **(pipes | options)
        )

    def end(self, process, within=PATIENCE, send=None):
        """Wait for its end."""
        began = time.monotonic()
        out, err = process.communicate(send, timeout=within)
        return Ended(process.returncode, out or b"", err or b"", time.monotonic() - began)

    def __call__(self, *arguments, within=PATIENCE, send=None, **options):
        """Run it to its end."""
        if send is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*arguments, **options) as process:
            try:
                return self.end(process, within, send)
            finally:
                process.kill()

    def here(self, *arguments, env=None, send=None, within=PATIENCE):
        """Run it to its end in this process; its program is a process as ever.

        That is the same command without the start of another Python, and its imports: for tests of
        what a run says, counts and paces. Those of signals, of open files, and of what a run does
        as a process start one.
        """
        assert self.within in (list, self.within_here), "only a process can run elsewhere"
        began = time.monotonic()
        words = ["run", *map(str, arguments)]
        code, out, err = run_here(words, self.environment(**(env or {})), send or b"", within)
        return Ended(code, out, err, time.monotonic() - began)

    @property
    def begun(self):
        """When the first program was about to make its first call."""
        return min(map(float, self._begun.read_text().split()))

    @property
    def leftovers(self):
        """What is left in the folder for temporary files."""
        return list(self.temporary.iterdir())


@pytest.fixture
def temporary():
    """Give an empty folder with a short path, as a socket's has to be; pytest's own are long."""
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        yield Path(folder)


@pytest.fixture
def run(tmp_path, temporary, aws):
    """Run `aioapiqueue run`."""
    return Runner(tmp_path, temporary, aws.url)


@pytest.fixture
def quiet_run(tmp_path, temporary):
    """Run it on programs that call nobody."""
    return Runner(tmp_path, temporary, "http://127.0.0.1:9")


@pytest.fixture(scope="session")
def python():
    """The Python of the tests, whose environment has boto3."""
    return sys.executable


@pytest.fixture(autouse=True)
def no_quota_of_others(hub_dir):
    """Let no test find its limits used by the one before it, which had the same account."""
    found = ask_hub(hub_dir, command="status")
    for quota in () if found is None else found["quotas"]:
        ask_hub(hub_dir, command="reset", quota=quota["name"])


@dataclasses.dataclass
class Network:
    """AWS, and the company's proxy on the way to it."""

    aws: SignedAws
    proxy: CompanyProxy
    environment: dict[str, str]


_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def network(tmp_path):
    """Give programs a way to AWS, as a company has it: by its proxy, with its own authority."""
    with _network(tmp_path) as network:
        yield network


@contextlib.contextmanager
def _network(folder):
    with SignedAws() as aws, CompanyProxy(aws.port, aws.plain_port, user="me:p%40ss") as proxy:
        authority = folder / "company.pem"
        aws.authority.cert_pem.write_to_path(authority)
        yield Network(
            aws,
            proxy,
            {
                **_CREDENTIALS,
                "SSL_CERT_FILE": str(authority),
                "HTTPS_PROXY": proxy.url,
                "HTTP_PROXY": proxy.url,
                "NO_PROXY": "example.org,.internal",
            },
        )


def _pacing(run, network, folder):
    """Return what runs a program under `run`, and returns what came of it and the figures."""

    def start(*command, limit="ec2=10/s", options=(), env=None, any_=True, **more):
        file = folder / "figures.json"
        limits = [*(["--limit", limit] if limit else []), "--private", *["--any"] * any_, *options]
        environment = network.environment | (env or {})
        ended = run(*limits, "--json", file, "--", *command, env=environment, **more)
        figures = json.loads(file.read_text()) if file.exists() else None
        return ended, figures

    return start


@pytest.fixture
def paced(run, network, tmp_path):
    """Run programs under `run --any`; returns what came of it and the figures."""
    return _pacing(run, network, tmp_path)


@pytest.fixture
def paced_here(run, network, tmp_path):
    """As `paced`, with the run in the test's own process."""
    return _pacing(run.here, network, tmp_path)


@dataclasses.dataclass
class Once:
    """Runs one program for several tests of a module.

    Attributes:
        run: like the fixture of this name.
        network: likewise.
        paced: likewise.
    """

    run: Runner
    network: Network
    paced: Callable[..., tuple[Ended, Any]]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Return a function that returns a new `Once`, which lasts until the end of the module."""
    with contextlib.ExitStack() as stack:

        def make():
            folder = tmp_path_factory.mktemp("once")
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="run-"))
            network = stack.enter_context(_network(folder))
            run = Runner(folder, Path(temporary), "http://127.0.0.1:9")
            return Once(run, network, _pacing(run, network, folder))

        yield make


@dataclasses.dataclass
class Outside:
    """AWS and others on a host of their own, without a proxy on the way there.

    Attributes:
        aws: listens at ports 443 and 80 of the network's address; for other names, too.
        network: in which it is; a test sets `network.names`.
        environment: of programs: credentials, and which authority the server has.
    """

    aws: SignedAws
    network: OwnNetwork
    environment: dict[str, str]


@pytest.fixture
def outside(run, tmp_path):
    """Have `run` and its programs find AWS's names and GitHub's in a network of their own."""
    with OwnNetwork() as network, SignedAws(listen=network.bind) as aws:
        for name in (".amazonaws.com", ".api.aws", "github.com", ".github.com"):
            network.names[name] = network.address
        authority = tmp_path / "authority.pem"
        aws.authority.cert_pem.write_to_path(authority)
        run.within = network.seen_by
        yield Outside(aws, network, {**_CREDENTIALS, "SSL_CERT_FILE": str(authority)})


@pytest.fixture
def paced_outside(run, outside, tmp_path):
    """As `paced`, of programs that find their servers in a network of their own."""
    return _pacing(run, outside, tmp_path)


@pytest.fixture
def paced_outside_here(run, outside, tmp_path, monkeypatch):
    """As `paced_outside`, with the run in the test's own process: its gateway knows the names."""
    python = tmp_path / "python"
    knows = shlex.join(outside.network.seen_by([sys.executable]))
    python.write_text(f'#!/bin/sh\nexec {knows} "$@"\n')
    python.chmod(0o755)
    # The program itself is started by the other Python.
    gateways = types.SimpleNamespace(executable=str(python))
    monkeypatch.setattr("aioapiqueue_run.cli.run.gateway.sys", gateways)
    run.within_here = run.within
    return _pacing(run.here, outside, tmp_path)
