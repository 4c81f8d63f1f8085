"""The SDKs, imported where tests need them, and before what a single test takes is measured."""

from __future__ import annotations

import asyncio
import gc
import importlib

import pytest

from aioapiqueue.integrations import llm
from tests.helpers.garbage import leave_older_alone
from tests.helpers.llm_sdks import SDKS
from tests.helpers.llm_servers import prompt

AMPLE = dict.fromkeys(
    ("calls", "calls_per_day", "tokens", "input_tokens", "output_tokens"), 1_000_000
)


@pytest.fixture(scope="session")
def sdks():
    """Make a call and read a stream by each SDK: at their first, they import and build their types.

    That takes seconds of CPU, which a test with a real clock would otherwise lose somewhere on its
    way, and a bound on a single test would count.
    """

    async def warm_up(sdk):
        async with sdk.server(AMPLE) as server, sdk(server) as one:
            await one.ask(prompt(40, out=100), 200)
            await one.read(prompt(40, out=100), 200)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        for sdk in SDKS.values():
            runner.run(warm_up(sdk))
    return SDKS


@pytest.fixture(scope="session")
def prices():
    """Import the price package, which takes half a second, and reads files."""
    importlib.import_module("genai_prices")


@pytest.fixture
def own_garbage():
    """Let `gc.collect()` find what this test leaves behind, and nothing else do so before it.

    To look through all SDKs takes a second, and what other tests have left may warn as it goes, for
    which this one would fail. A thread that collects by itself would end things at another moment.
    """
    gc.disable()
    leave_older_alone()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def price_package():
    """Import the price package before an async test does, whose event loop it would block."""
    llm.openai.load_prices()
