"""Run the examples of docs/fleet.md, in real time, on a real server.

A block is a complete program, unless the line above it says `<!-- not run: why -->`. A ```text
block right after it is what it prints. The server of the examples, quota.example, is the tests'.
"""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path

import pytest

from aioapiqueue import ApiQueue, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.servers import Server

FLEET = Path(__file__).parents[3] / "docs" / "fleet.md"
BLOCK = re.compile(
    r"^(?P<mark><!-- not run: [^\n]+ -->\n)?"
    r"```python\n(?P<code>.*?)^```$"
    r"(?:\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
BLOCKS = list(BLOCK.finditer(FLEET.read_text("utf-8")))
PLACE = "redis://quota.example:6379/0"
PASSWORD = "PASSWORD"  # noqa: S105 - as the page has it


def line_of(block):
    """Name a block by the line on which its code starts."""
    return f"line {block.string.count(chr(10), 0, block.start('code')) + 1}"


def test_there_are_examples():
    """The page shows Python, all of it is found here, and some of it is run."""
    text = FLEET.read_text("utf-8")
    assert len(BLOCKS) == len(re.findall(r"^\s*```python", text, re.MULTILINE))
    assert any(PLACE in block["code"] and block["output"] for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=line_of)
def test_block(block, valkey, tmp_path, capsys):
    """Each runs as a program of its own, and prints what the page says."""
    code = block["code"].replace(PLACE, valkey.url)
    program = tmp_path / "fleet.py"
    # Blank lines in front make a traceback name the page's line.
    lines = "\n" * block.string.count("\n", 0, block.start("code"))
    program.write_text(lines + code, encoding="utf-8")
    if block["mark"]:
        compile(code, program, "exec")
        return
    runpy.run_path(str(program), run_name="__main__")
    assert capsys.readouterr().out == (block["output"] or "")


def test_options_are_complete():
    """The page has every option of `SharedSchedule` in its table, and its default above that."""
    text = FLEET.read_text("utf-8")
    options = inspect.signature(SharedSchedule).parameters.values()
    written = (
        one.name if one.default is one.empty else f"{one.name}={one.default}" for one in options
    )
    assert f"\nSharedSchedule({', '.join(written)})\n" in text
    _, _, table = text.partition("\n## Options\n")
    table, _, _ = table.partition("\n## ")
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [one.name for one in options]


@pytest.mark.real
async def test_documented_user_has_the_needed_rights(name):
    """The user may do what is needed and nothing else.

    Its rules name what the script calls; with them, every kind of limit works.
    """
    rules = re.search(r"ACL SETUSER pacer on >PASSWORD (.*)", FLEET.read_text("utf-8"))[1]
    script, _ = introspect.redis_script()
    called = {command.lower() for command in re.findall(r"redis\.call\('(\w+)'", script)}
    assert {rule[1:] for rule in rules.split()[1:]} == called | {"eval", "evalsha"}
    with Server(users={"pacer": (PASSWORD, rules)}) as server:
        async with server.client(username="pacer", password=PASSWORD) as client:
            schedule = SharedSchedule(client, name, timeout=30)  # for a machine that stands still
            limits = ["1000/s", Window(1000, 60)]
            queue = ApiQueue(*limits, lanes={"lane": "500/s"}, concurrency=2, schedule=schedule)
            async with queue:
                for key in ("lane", None):
                    async with queue.slot(key=key) as slot:
                        slot.settle(2)
                queue.set_rate("2000/s")
            assert queue.stats.faults == 0
