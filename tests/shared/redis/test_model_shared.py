"""Real processes share the tokens of one model, which none of them was configured with."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any, Self

import pytest

from tests.helpers.model_server import ModelServer
from tests.helpers.modules import command_of

pytestmark = pytest.mark.real

WORKER = "tests.helpers.model_worker"


class Fleet:
    """So many processes that call a server.

    Args:
        count: how many.
        settings: of each.
    """

    def __init__(self, count: int, settings: dict[str, Any]) -> None:
        self._processes = [
            subprocess.Popen(
                command_of(WORKER, json.dumps(settings | {"number": number})),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        """Wait until each is ready to begin."""
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def send_line(self) -> None:
        """Let all begin, or end."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def end(self) -> list[dict[str, Any]]:
        """Let all end; return their figures."""
        self.send_line()
        figures = [json.loads(process.communicate(timeout=60)[0]) for process in self._processes]
        assert {process.returncode for process in self._processes} == {0}
        return figures


@pytest.mark.slow
@pytest.mark.parametrize("latency", [(0.02, 0.1), (0.2, 1.0)])
def test_processes_share_a_models_tokens(valkey, name, latency):
    """Four processes use what a model takes, and it refuses nothing.

    Half of it has been used by others before: what they learn is not enough to know that.
    """
    seconds, tokens, period = 20, 2000, 10.0
    settings = {"url": valkey.url, "name": name, "callers": 15}
    with (
        ModelServer(tokens, period=period, used=tokens / 2, latency=latency) as server,
        Fleet(4, settings | {"port": server.port}) as fleet,
    ):
        fleet.send_line()
        time.sleep(seconds)
        figures = fleet.end()
    assert [one["errors"] for one in figures] == [[]] * 4
    assert [one["fault"] for one in figures] == [""] * 4
    assert [one["learnt"] for one in figures] == [["2000 tokens per 10s burst 2000"]] * 4
    assert all(one["released"] > 0 for one in figures)
    assert server.refused == 0
    assert server.spent > tokens  # all that it has at first, and more of what it has again
