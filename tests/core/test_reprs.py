"""What queues and figures look like at a prompt and in a notebook: short, and nothing injected."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from aioapiqueue import ApiQueue, LaneStats, Stats
from aioapiqueue.spi import Reporter
from aioapiqueue.threads import blocking
from tests.helpers.learning import answer, learning

EVIL = "</td><script>alert('1')</script><img src=x onerror=\"alert(2)\">&amp;"
"""A key, as somebody might choose one whose name a server passes on."""
TAGS = {"table", "caption", "tr", "th", "td"}
PAGE = Path(__file__).parents[2] / "docs" / "jupyter.md"


class Table(HTMLParser):
    """Reads the cells of tables, as a browser shows them; refuses what is no table."""

    def __init__(self, source):
        super().__init__()
        self.rows = []
        self._open = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        """Allow only what a table consists of, with a style and nothing else."""
        assert tag in TAGS
        assert {name for name, _ in attrs} <= {"style"}
        self._open.append(tag)
        if tag in {"caption", "tr"}:
            self.rows.append([])
        if tag in {"caption", "th", "td"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        """Require that tags are closed in order."""
        assert self._open.pop() == tag

    def handle_data(self, data):
        """Take the text of a cell."""
        if self._open and self._open[-1] in {"caption", "th", "td"}:
            self.rows[-1][-1] += data


def rows(thing):
    """Return the rows of what a notebook shows of a thing."""
    return Table(thing._repr_html_()).rows


async def test_a_queue_is_a_table():
    """It has limits, state and figures; of those that are 0, only three; and a row for a lane."""
    queue = ApiQueue("10/s", "5 at once", name="crm", lanes={"tenant:*": "2/s", "search": "1/s"})
    assert rows(ApiQueue()) == [
        ["ApiQueue"],
        ["limits", "unlimited"],
        ["state", "open"],
        ["waiting", "0"],
        ["running", "0"],
        ["released", "0"],
    ]
    for _ in range(2):
        async with queue.slot(key="tenant:acme"):
            pass
    queue.pause()
    assert rows(queue) == [
        ["ApiQueue 'crm'"],
        ["limits", "10/s, 5 at once"],
        ["state", "paused"],
        ["waiting", "0"],
        ["running", "0"],
        ["lanes_in_memory", "1"],
        ["released", "2"],
        ["waited", "0.5 s"],
        ["longest_wait", "0.5 s"],
        ["costs", "calls: 2"],
        ["remaining", "calls: 0, permits: 0"],
        ["lane", "released", "waited", "longest_wait", "costs", "remaining"],
        ["'tenant:*'", "2", "0.5 s", "0.5 s", "calls: 2", ""],
        ["'search'", "", "", "", "", "calls: 1"],
    ]
    assert rows(blocking(queue)) == rows(queue)
    assert rows(queue.stats)[:3] == [["Stats"], ["lanes_in_memory", "1"], ["released", "2"]]
    assert rows(queue.stats.lanes["search"]) == [["LaneStats"], ["remaining", "calls: 1"]]


async def test_nothing_is_injected():
    """Names, keys, units and faults may be anybody's choice: they are text, and bounded."""
    queue = ApiQueue("10/s", name=EVIL, lanes={EVIL: "1/s", (EVIL, 1): "1/s", "k" * 9999: "2/s"})
    async with queue.slot(keys=(EVIL, (EVIL, 1))):
        pass
    found = rows(queue)
    assert found[0] == [f"ApiQueue {EVIL!r}"]
    assert {repr(EVIL), repr((EVIL, 1))} < {row[0] for row in found}
    evil = Stats(fault=EVIL, costs={EVIL: 1}, learnt={EVIL: ()}, remaining={EVIL: 2.5})
    assert rows(evil) == [
        ["Stats"],
        ["costs", f"{EVIL!r}: 1"],
        ["remaining", f"{EVIL!r}: 2.5"],
        ["learnt", f"{EVIL!r}: "],
        ["fault", EVIL],
    ]
    assert max(len(cell) for row in found for cell in row) < 250


async def test_source_of_prices_is_shown():
    """In the text and the table of a queue's figures, from when a call is first priced."""
    queue = ApiQueue("10/s")
    assert queue.stats.prices == ""
    assert "prices" not in repr(queue.stats)
    Reporter(queue).price_from("genai-prices 0.2.3")
    assert queue.stats.prices == "genai-prices 0.2.3"
    assert "prices='genai-prices 0.2.3'" in repr(queue.stats)
    assert ["prices", "genai-prices 0.2.3"] in rows(queue.stats)
    assert ["prices", "genai-prices 0.2.3"] in rows(queue)


async def test_learnt_limit_of_queue_is_shown():
    """Of a queue without lanes, the limit that a response states is that of the queue."""
    queue = learning()
    with queue.try_slot(cost={"tokens": 1}) as slot:
        answer(queue, slot, tokens=10)
    assert ["learnt", "queue: 10 tokens/min burst 10"] in rows(queue)


def test_many_lanes_are_counted():
    """A table has twenty lanes, and says how many more there are."""
    lanes = {f"host{number}": LaneStats(released=number) for number in range(1234)}
    found = rows(Stats(lanes=lanes))
    assert [row[0] for row in found[1:]] == [
        "lane",
        *(f"'host{number}'" for number in range(20)),
        "... 1,214 more",
    ]


def test_a_queue_of_threads_shows_its_queue():
    """And whether it leads to a loop of the user's; its figures are there, too."""
    queue = ApiQueue("10/s", name="crm")
    inner = "<ApiQueue 'crm' 10/s: open, 0 waiting, 0 running>"
    assert repr(blocking(queue)) == f"<Blocking: {inner}>"
    with start_blocking_portal() as portal:
        assert repr(blocking(queue, portal=portal)) == f"<Blocking through a portal: {inner}>"
    with blocking(queue).slot():
        assert blocking(queue).stats.running == 1
    assert blocking(queue).stats == queue.stats
    assert blocking(queue).stats.released == 1


KERNEL = """
import sys
from jupyter_client.manager import KernelManager

manager = KernelManager()
manager.kernel_spec.argv[0] = sys.executable
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)

def show(message):
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        print(content["text"], end="")
    elif kind == "execute_result":
        print(content["data"].get("text/html") or content["data"]["text/plain"])
    elif kind == "error":
        print(content["ename"], content["evalue"])

try:
    for cell in sys.stdin.read().split("# %%\\n"):
        client.execute_interactive(cell, output_hook=show, timeout=60)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


CELLS = (
    *re.findall(r"<!-- cell -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL),
    "queue",
    "from aioapiqueue.threads import blocking\nwith blocking(queue).slot(): pass",
    "async with queue: pass",
    "await fetch('d')",
)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """Run the cells of the page, and some more, in a real kernel of Jupyter; return the output."""
    folder = tmp_path_factory.mktemp("notebook")
    own = dict.fromkeys(("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"), str(folder))
    run = subprocess.run(
        [sys.executable, "-c", KERNEL],
        input="# %%\n".join(CELLS),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | own | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=200,
    )
    return run.stdout


@pytest.mark.real
def test_a_notebook_shows_it(notebook):
    """`await` works in a cell, and a queue that ends one is shown as a table.

    One queue serves several cells, until `async with` closes it.
    """
    parts = re.fullmatch(r"(.*?)(<table>.*</table>)\n(.*)", notebook, re.DOTALL)
    assert parts, notebook
    printed, table, last = parts.groups()
    assert printed == "['<a>', '<b>', '<c>']\n"
    found = Table(table).rows
    assert found[:3] == [["ApiQueue"], ["limits", "10/s"], ["state", "open"]]
    assert ["released", "3"] in found
    blocked, closed = last.splitlines()
    assert blocked.startswith("RuntimeError waiting here would block the event loop")
    assert closed.startswith("QueueClosed ")
    assert '"async with queue:" closed it' in closed
