"""Connections to servers, without a gateway."""

from __future__ import annotations

import asyncio
import gc
import ssl

import pytest

from aioapiqueue.registry.spi import Origin
from aioapiqueue_run.gateway.upstream import Upstream
from aioapiqueue_run.gateway.upstream_proxies import UpstreamProxies

SERVER = Origin("server.test", 80, tls=False)


@pytest.mark.parametrize("others", [0, 1])
async def test_hung_up_clients_leave_no_error(others):
    """A server turns out to be unreachable after that: only those that still wait get the error."""
    failed, logged = asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))

    async def dial(_host, _port):
        await failed.wait()
        raise OSError("unreachable")

    upstream = Upstream(ssl.create_default_context(), UpstreamProxies({}), dial=dial)
    first, *rest = [asyncio.create_task(upstream.reach(SERVER)) for _ in range(1 + others)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    failed.set()
    for task in rest:
        with pytest.raises(OSError, match="unreachable"):
            await task
    for _ in range(5):
        await asyncio.sleep(0)
    assert first.cancelled()
    del first  # its traceback holds the task that has failed
    gc.collect()
    assert logged == []
