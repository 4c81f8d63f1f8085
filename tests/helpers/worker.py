"""One process of a fleet: calls as fast as its queue lets it, and tells the observer of each.

Started by `workers.Workers` with its settings, JSON, as the argument. It says "ready" on its
standard output, begins at a line on its standard input, ends when that is closed, and prints its
figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import sys
import time
from dataclasses import asdict

import redis.asyncio

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule

RECORD = struct.Struct("=BBd")  # what happened, the worker's number, CLOCK_MONOTONIC in seconds
RELEASED, START, END = 0, 1, 2  # by the queue; as the body begins; as it ends


class Events:
    """Tells of each release, and keeps the kinds of the rarer events."""

    def __init__(self, tell):
        self.kinds = []
        self._tell = tell

    def on_event(self, event):
        """Hear of one."""
        if event.kind == "released":
            self._tell(RELEASED, event.at)
        elif event.kind not in {"joined", "finished", "cancelled"}:
            self.kinds.append(event.kind)


def say(line):
    """Send a line to the process that started this."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(settings):
    """Do what the settings say."""
    number, pipe, body = settings["number"], settings["pipe"], settings["body"]

    def tell(what, at):
        # A pipe takes so few bytes all at once or not at all, beside any other writer.
        os.write(pipe, RECORD.pack(what, number, at))

    events = Events(tell)
    client = redis.asyncio.from_url(settings["url"])
    schedule = SharedSchedule(client, settings["name"], **settings["schedule"])
    queue = ApiQueue(
        *settings["limits"], schedule=schedule, observers=[events], **settings["queue"]
    )

    async def caller():
        while True:
            async with queue.slot(**settings["slot"]):
                tell(START, time.monotonic())
                if body:
                    await asyncio.sleep(body)
                    tell(END, time.monotonic())

    async with queue, client:
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        callers = [asyncio.create_task(caller()) for _ in range(settings["callers"])]
        await asyncio.to_thread(sys.stdin.readline)
        for each in callers:
            each.cancel()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        stats = queue.stats
        await queue.aclose(drain=False)
    errors = [repr(each) for each in outcomes if not isinstance(each, asyncio.CancelledError)]
    figures = asdict(stats) | {"rate": str(stats.rate), "events": events.kinds, "errors": errors}
    say(json.dumps(figures))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        asyncio.run(main(json.loads(sys.argv[1])))
