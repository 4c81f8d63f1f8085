"""Promise 13 on a host: decisions converge, whatever was cut off and in whatever order it is back.

A history is drawn from a seed, so that a failure is repeated by one number.
"""

from __future__ import annotations

import asyncio
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioapiqueue import ApiQueue
from aioapiqueue.spi import statements
from tests.helpers.introspect import decisions_of, lane_limits_of
from tests.helpers.virtual_hub import VirtualHub

KEYS = (None, "a", "b")
SEEDS = st.integers(0, 2**32)


class Model:
    """What holds, found by looking at all that was decided, with the instants of that."""

    def __init__(self):
        self.limits, self.holds, self.pauses, self.resumed = {}, {}, [], -math.inf

    def paused_until(self):
        """Return when the longest of those pauses ends that nobody has ended."""
        return max((until for at, until in self.pauses if at > self.resumed), default=-math.inf)


class History:
    """Queues that decide, and are cut off from each other at times.

    Args:
        seed: of the history.
        dies: whether queues are closed, and others come.
    """

    def __init__(self, seed, *, dies=False):
        self.rng = random.Random(seed)
        self.hub = VirtualHub()
        self.model = Model()
        self.queues = {}
        """Those that live, and their ways to the hub."""
        self.all = []
        self.dies = dies

    async def __aenter__(self):
        """Play it."""
        await self.play()
        return self

    async def __aexit__(self, *_):
        """Leave nothing behind."""
        for queue in self.all:
            await queue.aclose(drain=False)
        await asyncio.sleep(2)

    async def add(self):
        """Have one more queue, which needs a hub all the time."""
        lanes = {"a": "50/s", "b": "50/s"}
        queue = ApiQueue("100/s", lanes=lanes, schedule=self.hub.schedule("crm"))
        self.queues[queue] = self.hub.links[-1]
        self.all.append(queue)
        queue.enqueue()

    async def play(self):
        """Let all happen; at the end, all can reach a hub."""
        rng = self.rng
        for _ in range(rng.randint(2, 4)):
            await self.add()
            await asyncio.sleep(rng.choice([0, 1]))
        steps = [self.decide] * 4 + [self.block, self.unblock, self.lose, self.kill]
        steps += [self.close, self.replace] * self.dies
        for _ in range(rng.randint(3, 14)):
            await rng.choice(steps)()
            for _ in range(rng.choice([0, 0, 1, 2, 3, 5, 30])):
                await asyncio.sleep(0)
            await asyncio.sleep(rng.choice([0, 0, 0, 0.1, 1.5, 4]))
        links = list(self.queues.values())
        rng.shuffle(links)
        for link in links:
            link.blocked = link.silent = False
            await asyncio.sleep(rng.choice([0, 0, 0.3, 1.2]))
        await asyncio.sleep(5)

    async def decide(self):
        """Have one of them decide something, a millisecond after all before."""
        await asyncio.sleep(0.001)
        rng, model, now = self.rng, self.model, asyncio.get_running_loop().time()
        queue, key = rng.choice(list(self.queues)), rng.choice(KEYS)
        match rng.choice(["set_rate", "pause", "pause", "resume", "hold"]):
            case "set_rate":
                rate = f"{rng.randint(1, 90)}/s"
                queue.set_rate(rate, key=key)
                model.limits[key] = rate
            case "pause":
                seconds = rng.choice([0.5, 20, 60, None])
                queue.pause(seconds)
                model.pauses.append((now, now + (math.inf if seconds is None else seconds)))
            case "resume":
                queue.resume()
                model.resumed = now
            case "hold":
                seconds = rng.choice([0.5, 20, 40])
                queue.hold(seconds, key=key)
                model.holds[key] = max(now + seconds, model.holds.get(key, -math.inf))

    def any_link(self):
        """Return one of the ways to the hub."""
        return self.rng.choice(list(self.queues.values()))

    async def block(self):
        """Cut one off: at once, or once it is lost for another reason; or have it say nothing."""
        link = self.any_link()
        if self.rng.random() < 0.3:
            link.silent = True
        else:
            link.blocked = True
            if self.rng.random() < 0.7:
                link.lose("blocked")

    async def unblock(self):
        """Let one reach the hub again."""
        link = self.any_link()
        link.blocked = link.silent = False

    async def lose(self):
        """End a connection, which is made again at once if it can be."""
        self.any_link().lose("lost")

    async def kill(self):
        """Kill the hub."""
        self.hub.kill()

    async def close(self):
        """Have one of them end, if another is left."""
        if len(self.queues) > 1:
            queue = self.rng.choice(list(self.queues))
            self.queues.pop(queue).drop()

    async def replace(self):
        """Have one more."""
        if len(self.queues) < 4:
            await self.add()


def same_everywhere(history):
    """Return what all of them know, and the hub: one and the same."""
    (quota,) = history.hub.quotas
    assert len(quota.clients) == len(history.queues)
    hub, *queues = (list(decisions_of(one)) for one in (quota, *history.queues))
    assert all(one == hub for one in queues)
    return decisions_of(quota)


async def in_force(history):
    """See that what is decided is what happens: of limits, and of calls that are paused or held."""
    known, now = same_everywhere(history), asyncio.get_running_loop().time()
    (quota,) = history.hub.quotas
    limits = {
        key: [str(one) for one in its] for key, its in known.limits(statements.SetLimits).items()
    }
    status = quota.as_json()
    assert {None: status["limits"], **status["lanes"]}.items() >= limits.items()
    held = max(known.paused_until, known.held_until(None), now)
    assert status["paused"] == (known.paused_until == math.inf)
    assert status["held"] == pytest.approx(held - now if held < math.inf else 0)
    for queue in history.queues:
        lanes = {None: queue.limits, **lane_limits_of(queue)}
        assert {key: [str(one) for one in lanes[key]] for key in limits} == limits
    until = max(known.paused_until, known.held_until(None), known.held_until("a"), now)
    calls = [queue.enqueue(key="a") for queue in history.queues]
    if until == math.inf:
        await asyncio.sleep(100)
        assert not any(call.done() for call in calls)
        next(iter(history.queues)).resume()
        until = now + 100
    await asyncio.sleep(until - asyncio.get_running_loop().time() - 0.01)
    assert not any(call.done() for call in calls)
    await asyncio.sleep(10.01)
    assert all(call.done() for call in calls)
    same_everywhere(history)


async def as_the_model(history):
    """Compare what all know with what was decided."""
    model, now = history.model, asyncio.get_running_loop().time()
    known = same_everywhere(history)
    limits = {key: str(its[0]) for key, its in known.limits(statements.SetLimits).items()}
    assert limits == model.limits
    assert max(known.paused_until, now) == pytest.approx(max(model.paused_until(), now))
    holds = {key: until for key, until in model.holds.items() if until > now}
    assert known.holds() == pytest.approx(holds)


@settings(max_examples=100)
@given(SEEDS)
def test_promise_13_decisions_converge(run_virtual, seed):
    """All hold what was decided last, as if nobody had been cut off."""

    async def play():
        async with History(seed) as history:
            await as_the_model(history)

    run_virtual(play)


@settings(max_examples=100)
@given(SEEDS)
def test_promise_13_though_processes_die(run_virtual, seed):
    """Those that are left hold the same, and so does the hub, which goes by it."""

    async def play():
        async with History(seed, dies=True) as history:
            await in_force(history)

    run_virtual(play)
