"""Promise 13 where a server keeps the quota: who comes back first is no matter.

A history is drawn from a seed, so that a failure is repeated by that number.
"""

from __future__ import annotations

import asyncio
import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.spi import limit_types
from tests.helpers import introspect
from tests.helpers.servers import fresh_name, keys_of
from tests.helpers.virtual_client import EPOCH, VirtualClient

SEEDS = st.integers(0, 2**32)
OWN = Rate(10)
"""The limits of the queue, and of each lane, before somebody sets others."""
KEYS = (None, "a", "b")
APART = 30.0
"""Seconds by which a machine's time of day may be wrong."""
DRIFT = 1e-4
"""Seconds that a machine's clock may gain or lose in each."""
ALIKE = 0.02
"""Seconds by which two may differ about the end of a pause: what clocks drift in a history."""
RETRY = 2.1
"""Seconds after which a process has tried again to reach the server."""


class Model:
    """What holds by all that was decided, in the order of true time."""

    def __init__(self):
        self.limits = {}
        self.pauses = []
        self.holds = {}

    def set_rate(self, key, limit):
        """Replace limits."""
        self.limits[key] = (limit,)

    def pause(self, until):
        """Hold everything."""
        self.pauses.append(until)

    def resume(self):
        """End all pauses."""
        self.pauses = []

    def hold(self, key, until):
        """Extend a hold."""
        self.holds[key] = max(until, self.holds.get(key, until))

    def held_until(self, key):
        """Return until when a key is held; None: everything."""
        ends = [*self.pauses, self.holds.get(None, -math.inf)] if key is None else []
        return max([self.holds.get(key, -math.inf), *ends])


class Process:
    """A queue, with a client and a clock of its own."""

    def __init__(self, server, name, rng):
        self.client = VirtualClient(server)
        self.queue = ApiQueue(
            OWN, lanes={"a": OWN, "b": OWN}, schedule=SharedSchedule(self.client, name)
        )
        apart, drift = rng.uniform(-APART, APART), rng.uniform(-DRIFT, DRIFT)
        introspect.set_clock_apart(self.queue, EPOCH + apart, drift)
        self.waiting = []

    def call(self, key):
        """Have something to ask the server for."""
        slot = self.queue.enqueue(key=key)
        slot.add_done_callback(release)
        self.waiting.append(slot)

    def leave(self):
        """Wait for nothing any more."""
        for slot in self.waiting:
            slot.cancel()
        self.waiting.clear()


def release(done):
    """Give a slot back at once, if there is one."""
    if not done.cancelled() and done.exception() is None:
        done.result().release()


class History:
    """Some processes that decide, are cut off, and come back; a server that loses its data.

    Args:
        server: a real one.
        seed: of the random numbers.
    """

    def __init__(self, server, seed):
        self.rng = random.Random(seed)
        self.server = server
        self.name = fresh_name()
        self.model = Model()

    async def play(self):
        """Return the processes, all of which have talked to the server since."""
        rng = self.rng
        self.processes = [Process(self.server, self.name, rng) for _ in range(rng.randint(2, 4))]
        for one in self.processes:
            one.client.down = rng.random() < 0.3  # some decide before they know the server
        for _ in range(rng.randint(3, 12)):
            await asyncio.sleep(rng.uniform(0.1, 4))
            rng.choice([self.decide, self.decide, self.decide, self.cut, self.talk, self.lose])()
            await self.settle()
        if rng.random() < 0.3:
            self.lose()
        rng.shuffle(self.processes)
        for one in self.processes:
            one.client.down = False
            await asyncio.sleep(rng.choice([0, 1, RETRY]))
            one.call(rng.choice(KEYS))
            await self.settle()
        await asyncio.sleep(RETRY)
        for _ in range(2):  # the second time, all have said what they know
            for one in self.processes:
                for key in KEYS:
                    one.call(key)
            await self.settle()

    async def settle(self):
        """Let all talk to the server as far as they can; then nobody waits any more."""
        await asyncio.sleep(0.01)
        for one in self.processes:
            one.leave()

    def decide(self):
        """Let one of them decide something."""
        rng, now = self.rng, asyncio.get_running_loop().time()
        queue, key = rng.choice(self.processes).queue, rng.choice(KEYS)
        what = rng.choice(["set", "set", "pause", "pause", "resume", "hold"])
        if what == "set":
            limit = Rate(rng.randint(1, 3))
            queue.set_rate(limit, key=key)
            self.model.set_rate(key, limit)
        elif what == "pause":
            seconds = rng.choice([None, 2, 20, 60])
            queue.pause(seconds)
            self.model.pause(math.inf if seconds is None else now + seconds)
        elif what == "resume":
            queue.resume()
            self.model.resume()
        else:
            seconds = rng.choice([2, 20, 60])
            queue.hold(seconds, key=key)
            self.model.hold(key, now + seconds)

    def cut(self):
        """Let one of them reach the server no more, or again."""
        client = self.rng.choice(self.processes).client
        client.down = not client.down

    def talk(self):
        """Let one of them ask for a slot."""
        self.rng.choice(self.processes).call(self.rng.choice(KEYS))

    def lose(self):
        """Let the server lose all that it knows."""
        if found := keys_of(self.server, self.name):
            self.server.sync().delete(*found)

    def kept(self):
        """Return what the server keeps: limits by key, and until when what is held."""
        base = f"{{aioapiqueue:{self.name}}}"
        queue, *lanes = [
            self.server.sync().hgetall(f"{base}{lane}") for lane in ("", ':lane:"a"', ':lane:"b"')
        ]
        _, decisions = json.loads(queue.get(b"conf", b"[[], []]"))
        limits = {
            json.loads(key): tuple(map(limit_types.parse_limit, json.loads(value)))
            for kind, key, _, _, value, _ in decisions
            if kind == "set"
        }
        ends = [
            max(float(fields.get(end, "-inf")) / 1e6 - EPOCH for end in (b"held", b"paused"))
            for fields in (queue, *lanes)
        ]
        return limits, dict(zip(KEYS, ends, strict=True))


def check(history):
    """Check that all know the same, and the server does, as the model has it."""
    now, model = asyncio.get_running_loop().time(), history.model
    limits, held = history.kept()
    assert limits == model.limits
    for key in KEYS:
        expected = max(now, model.held_until(key))
        assert max(now, held[key]) == pytest.approx(expected, abs=ALIKE), key
        for one in history.processes:
            assert max(now, introspect.held_by(one.queue, key)) == pytest.approx(
                expected, abs=ALIKE
            )
    paused_until = max([now, *model.pauses])
    for one in history.processes:
        known, its_pause, _ = introspect.decided_by(one.queue)
        assert known == model.limits
        assert max(now, its_pause) == pytest.approx(paused_until, abs=ALIKE)
        assert one.queue.limits == model.limits.get(None, (OWN,))
        for key in ("a", "b"):
            own = introspect.lane_limits_of(one.queue)[key]
            assert tuple(own) == model.limits.get(key, (OWN,))


def converges(server, run_virtual, seed):
    """Play a history, and check how it ends."""

    async def play():
        history = History(server, seed)
        await history.play()
        try:
            check(history)
        finally:
            for one in history.processes:
                one.leave()
                await one.queue.aclose(drain=False)
            history.lose()

    run_virtual(play)


@pytest.mark.parametrize("part", range(8))
def test_promise_13_decisions_converge(valkey, run_virtual, part):
    """Whatever was cut off, and lost, all hold the latest limits, and the same pauses and holds."""
    for seed in range(50 * part, 50 * part + 50):
        converges(valkey, run_virtual, seed)


@pytest.mark.slow
@settings(max_examples=2000)
@given(SEEDS)
def test_promise_13_for_any_history(valkey, run_virtual, seed):
    """As above, of more histories."""
    converges(valkey, run_virtual, seed)
