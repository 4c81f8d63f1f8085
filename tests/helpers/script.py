"""One process's part in a quota, asked of gcra.lua directly."""

from __future__ import annotations

import json
from functools import partial

from redis.exceptions import NoScriptError

from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient

EPOCH = 1_700_000_000_000_000
SECOND = 1_000_000


class Script:
    """One process's part in a quota: everything that it may say, at instants that are given.

    Instants are whole microseconds since `EPOCH`.

    Args:
        server: where.
        limits: of the queue.
        lane: limits of its only lane, in which every call is made; default: there is none.
        catch_up: microseconds.
        ahead: microseconds.
        adaptive: how to slow down.
        places: concurrency.
        of: another process, with which this one shares the quota.
    """

    def __init__(
        self, server, limits, *, lane=None, catch_up=0, ahead=0, adaptive=None, places=-1, of=None
    ):
        self.server = server
        self.limits, self.lane = limits, lane
        self.catch_up, self.ahead, self.places = catch_up, ahead, places
        self.name = of.name if of else fresh_name()
        self.me = fresh_name()
        self.schedule = SharedSchedule(VirtualClient(server), self.name)
        introspect.set_adaptive(self.schedule, adaptive)
        self.rev = 0
        self.turn = self.lane_turn = self.ask_at = 0
        self.running = 0

    def say(self, verb, now, *, waited=0, **fields):
        """Say something; return what is the answer to just that."""
        base = f"{{aioapiqueue:{self.name}}}"
        keys = [base, f"{base}:who", f"{base}:places"]
        limits = partial(introspect.script_limits, self.schedule)
        turn = {"turn": self.turn and EPOCH + self.turn, "waited": waited}
        queue = {
            "key": 1,
            "limits": limits(self.limits, base, keys),
            **turn,
        }
        lanes = []
        if self.lane is not None:
            keys.append(f"{base}:lane")
            turn["turn"] = self.lane_turn and EPOCH + self.lane_turn
            spec = {"key": len(keys), **turn}
            lanes = [spec | {"limits": limits(self.lane, f"{base}:lane", keys)}]
        payload = {
            "me": self.me,
            "rev": self.rev,
            "catch_up": self.catch_up,
            "ahead": self.ahead,
            "lease": 10 * SECOND,
            "places": self.places,
            "running": self.running,
            "queue": queue,
            "lanes": lanes,
            **fields,
        }
        arguments = len(keys), *keys, verb, str(EPOCH + now), json.dumps(payload)
        script, sha = introspect.redis_script()
        try:
            answer = self.server.sync().evalsha(sha, *arguments)
        except NoScriptError:
            answer = self.server.sync().eval(script, *arguments)
        if answer[0] != b"ok":
            return answer
        assert answer[1] == EPOCH + now
        return answer[7:]  # after instant, epoch, held, ready, rate and the lanes'

    def ask(self, now, cost=1, count=1, **fields):
        """Ask for slots once; return their instants, and note until when they may be used."""
        wants = [[0 if self.lane is None else 1, cost, count]]
        answer = self.say("ask", now, wants=wants, most=1000, lead=0, **{"late": 0, **fields})
        _, turn, slots, turns = answer
        self.turn = turn - EPOCH if turn > 0 else turn
        self.lane_turn = turns[1] - EPOCH if turns else 0
        self.ask_at = turns[2] - EPOCH if turns else self.turn
        self.until = [instant - EPOCH for instant in slots[2::3]]
        return [instant - EPOCH for instant in slots[1::3]]

    def slot(self, now, cost=1, **fields):
        """Ask until there is one, or a later time to ask is named; return its instant, or None."""
        for _ in range(5):
            slots = self.ask(now, cost, **fields)
            if slots or self.turn < 0 or self.ask_at > now:
                return slots[0] if slots else None
        raise AssertionError(f"told to ask at {self.ask_at} again and again, at {now}")

    def run(self, now, calls, cost=1):
        """Make calls, each as soon as it may be; return their instants."""
        found = []
        while len(found) < calls:
            slot = self.slot(now, cost)
            if slot is None:
                now = max(now + 1, self.ask_at)
            else:
                found.append(slot)
                now = max(now, slot)
        return found

    def adjust(self, now, at, cost):
        """Charge more for a call, or give back."""
        self.say("adjust", now, items=[[0 if self.lane is None else 1, EPOCH + at, cost]])
