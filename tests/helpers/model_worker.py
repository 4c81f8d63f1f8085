"""One process of a fleet that calls a `ModelServer`, and learns its limit from the answers.

Started as a module, with its settings, JSON, as the argument. It says "ready", begins at a line on
its standard input, ends at another one, and prints its figures.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import TYPE_CHECKING, Any

import redis.asyncio

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.spi import Reporter

if TYPE_CHECKING:
    from aioapiqueue import Slot


def hear(queue: ApiQueue, slot: Slot, answer: dict[str, float]) -> None:
    """Do with an answer what an integration does."""
    text = f"{answer['limit']:g} tokens per {answer['period']:g}s burst {answer['limit']:g}"
    Reporter(queue).adopt(slot, [Rate.parse(text)])
    slot.sync(answer["remaining"], unit="tokens", reset=answer["reset"], limit=answer["limit"])


async def main(settings: dict[str, Any]) -> None:
    """Do what the settings say."""
    client = redis.asyncio.from_url(settings["url"])
    draw = random.Random(settings["number"])
    schedule = SharedSchedule(client, settings["name"], timeout=30)
    queue = ApiQueue(lanes={"*": ()}, schedule=schedule)
    Reporter(queue).learn(["tokens"])

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", settings["port"])
        try:
            while True:
                tokens = draw.randint(1, 20)
                async with queue.slot(key="model", cost={"tokens": tokens}) as slot:
                    writer.write(json.dumps(tokens).encode() + b"\n")
                    hear(queue, slot, json.loads(await reader.readline()))
        finally:
            writer.close()

    async with queue, client:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        callers = [asyncio.create_task(caller()) for _ in range(settings["callers"])]
        await asyncio.to_thread(sys.stdin.readline)
        for each in callers:
            each.cancel()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        stats = queue.stats
        await queue.aclose(drain=False)
    errors = [repr(each) for each in outcomes if not isinstance(each, asyncio.CancelledError)]
    figures = {
        "released": stats.released,
        "asks": stats.asks,
        "fault": stats.fault,
        "learnt": [str(limit) for limits in stats.learnt.values() for limit in limits],
        "errors": errors,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
