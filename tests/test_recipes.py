"""The recipes for Scrapy and Celery, as the page has them: real spiders and real workers."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers.servers import Server
from tests.helpers.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.real, pytest.mark.posix]

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
SPIDER = """
import sys
import scrapy
from scrapy.crawler import CrawlerProcess
from middlewares import RateLimit

class Shop(scrapy.Spider):
    name = "shop"

    async def start(self):
        for number in range(6):
            yield scrapy.Request(f"http://127.0.0.1:{sys.argv[1]}/{number}")

    def parse(self, response):
        print(response.url.rpartition("/")[2])

process = CrawlerProcess({
    "DOWNLOADER_MIDDLEWARES": {"middlewares.RateLimit": 950},
    "EXTENSIONS": {"scrapy.extensions.remote_control.RemoteControl": None},
    "LOG_LEVEL": "ERROR",
    "TELNETCONSOLE_ENABLED": False,
})
process.crawl(Shop)
process.start()
"""
SENDER = """
import sys
import tasks

tasks.app.conf.broker_url = sys.argv[1]
for number in range(8):
    tasks.fetch.delay(number)
"""
DONE = re.compile(r"\[\S+ (\S+): WARNING/(ForkPoolWorker-\d)\] fetched (\d)")


def recipe(heading):
    """Return the program under a heading of the page."""
    section = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    [code] = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return code


class Shop(BaseHTTPRequestHandler):
    """Throttles the third request, for half a second."""

    def do_GET(self):
        """Note when the request arrived."""
        self.server.arrivals.append((time.monotonic(), self.path[1:]))
        throttled = len(self.server.arrivals) == 3
        self.send_response(429 if throttled else 200)
        if throttled:
            self.send_header("Retry-After", "0.5")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """Run a spider with the middleware: when each request arrived, and what the spider got."""
    folder = tmp_path_factory.mktemp("scrapy")
    (folder / "middlewares.py").write_text(recipe("Scrapy"))
    (folder / "crawl.py").write_text(SPIDER)
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        server.arrivals = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            done = subprocess.run(
                [sys.executable, "crawl.py", str(server.server_port)],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        finally:
            server.shutdown()
            thread.join()
    assert done.returncode == 0, done.stderr
    return server.arrivals, done.stdout.split()


def test_spider_is_paced(crawl):
    """Requests to a host come at 10 per second; a throttled one holds all, and is sent again."""
    arrivals, parsed = crawl
    assert sorted(parsed) == list("012345")
    sent = [name for _, name in arrivals]
    assert len(sent) == 7
    assert sent.count(sent[2]) == 2
    instants = [instant for instant, _ in arrivals]
    gaps = [later - earlier for earlier, later in itertools.pairwise(instants)]
    # A request is on its way for some milliseconds, and for more on a busy machine.
    assert sum(gaps) > 5 * 0.1 + 0.5 - 0.1
    assert gaps[2] > 0.45


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """Run a worker with two processes: when each task called, and in which process."""
    folder = tmp_path_factory.mktemp("celery")
    hub = tmp_path_factory.mktemp("hub")
    hub.chmod(0o700)
    (folder / "tasks.py").write_text(recipe("Celery"))
    (folder / "send.py").write_text(SENDER)
    environment = os.environ | {"AIOAPIQUEUE_HUB_DIR": str(hub)}
    output = folder / "output"
    with Server() as broker, output.open("w") as log:
        subprocess.run(
            [sys.executable, "send.py", broker.url],
            cwd=folder,
            env=environment,
            timeout=PATIENCE,
            check=True,
        )
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "tasks", "-b", broker.url),
                *("worker", "--concurrency=2", "--loglevel=WARNING"),
            ],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_until(lambda: len(DONE.findall(output.read_text())) == 8, "eight calls")
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(PATIENCE)
    return DONE.findall(output.read_text())


def test_worker_processes_share_a_limit(worked):
    """Two processes together start 10 calls a second, not 20."""
    assert {number for *_, number in worked} == set("01234567")
    assert len({process for _, process, _ in worked}) == 2
    instants = sorted(datetime.strptime(at, "%H:%M:%S,%f") for at, *_ in worked)  # noqa: DTZ007 - both of one log
    took = (instants[-1] - instants[0]).total_seconds()
    assert took > 0.7 - 0.05
