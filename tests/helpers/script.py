"""One process's part in a quota, asked of gcra.lua directly."""

from __future__ import annotations

import json

from redis.exceptions import NoScriptError

from aioapiqueue.spi import cost_units
from tests.helpers import introspect
from tests.helpers.servers import fresh_name

scopes = introspect.scopes()
wire = introspect.redis_messages()

EPOCH = 1_700_000_000_000_000
SECOND = 1_000_000


class Script:
    """One process's part in a quota: everything that it may send, at instants that are given.

    Instants are whole microseconds since `EPOCH`.

    Args:
        server: where.
        limits: of the queue.
        lane: limits of its only lane, in which every call is made; default: there is none.
        catch_up: microseconds.
        ahead: microseconds.
        adaptive: how to slow down.
        concurrency: how many bodies may run at once; default: any number.
        of: another process, with which this one shares the quota.
    """

    def __init__(
        self,
        server,
        limits,
        *,
        lane=None,
        catch_up=0,
        ahead=0,
        adaptive=None,
        concurrency=None,
        of=None,
    ):
        self.server = server
        self.limits, self.lane = limits, lane
        self.catch_up, self.ahead, self.concurrency = catch_up, ahead, concurrency
        self.name = of.name if of else fresh_name()
        self.sender = fresh_name()
        settings = wire.SharedSettings(self.name, ahead=0, timeout=1, lease=10, fallback=None)
        self.units = cost_units.Units()
        self.codec = introspect.redis_codec(
            settings, catch_up=0, adaptive=adaptive, units=self.units
        )
        self.revision = self.decided_at = 0
        self.position = self.lane_position = self.ask_at = 0
        self.short_of_permits = False

    @property
    def lanes(self):
        """The numbers of a call's lanes."""
        return [] if self.lane is None else [1]

    def send(self, verb, now, *, waited=0, **fields):
        """Send something; return what is the reply to just that."""
        base = self.codec.base
        keys = [base, f"{base}:who", f"{base}:places"]
        positions = {None: self.position, scopes.NO_KEY: self.lane_position}
        limits = {None: self.limits} | ({} if self.lane is None else {scopes.NO_KEY: self.lane})
        queue, *lanes = [
            self.codec.spec(lane, own, keys)
            | {"round_position": positions[lane] and EPOCH + positions[lane], "waited": waited}
            for lane, own in limits.items()
        ]
        payload = {
            "sender": self.sender,
            "revision": self.revision,
            "catch_up": self.catch_up,
            "ahead": self.ahead,
            "lease": 10 * SECOND,
            "permits": 0,
            "queue": queue,
            "lanes": lanes,
            "lines": [[[number + 1], 0] for number in range(len(lanes))],
            **fields,
        }
        if self.concurrency is not None:
            payload["concurrency"] = self.concurrency
        arguments = len(keys), *keys, verb, str(EPOCH + now), json.dumps(payload)
        script, sha = introspect.redis_script()
        try:
            reply = self.server.sync().evalsha(sha, *arguments)
        except NoScriptError:
            reply = self.server.sync().eval(script, *arguments)
        if reply[0] == b"differing":  # another process has decided something
            self.revision = reply[2]
            return self.send(verb, now, waited=waited, **fields)
        if reply[0] != b"ok":
            return reply
        assert reply[1] == EPOCH + now
        return reply[4:]  # after timestamp, epoch and statuses

    def decide(self, now, kind="", value="", *, hold=None):
        """Decide something of the queue; a hold, until an instant, is of a call's lane."""
        self.decided_at = max(EPOCH + now, self.decided_at + 1)
        decision = [kind, "null" if kind == "set" else "", str(self.decided_at), self.sender, value]
        holds = [] if hold is None else [[len(self.lanes), EPOCH + hold]]
        fields = {"decisions": [decision] if kind else [], "holds": holds}
        self.revision, outdated = self.send("decide", now, token=self.decided_at, **fields)
        return outdated

    def ask(self, now, cost=1, count=1, **fields):
        """Ask for slots once; return their instants, and note until when they may be used."""
        requests = [[len(self.lanes), [cost], count]]
        fields = {"lateness": 0, "slots": 1000} | fields
        reply = self.send("ask", now, requests=requests, most=1000, jitter=0, **fields)
        _, position, short_of_permits, grants, postponements = reply
        self.position = max(0, position - EPOCH)
        self.short_of_permits = bool(short_of_permits)
        self.lane_position = postponements[2] - EPOCH if postponements else 0
        self.ask_at = postponements[3] - EPOCH if postponements else self.position
        self.until = [timestamp - EPOCH for timestamp in grants[2::3]]
        return [timestamp - EPOCH for timestamp in grants[1::3]]

    def slot(self, now, cost=1, **fields):
        """Ask until there is one, or a later time to ask is named; return its instant, or None."""
        for _ in range(5):
            slots = self.ask(now, cost, **fields)
            if slots or self.short_of_permits or self.ask_at > now:
                return slots[0] if slots else None
        raise AssertionError(f"to ask at {self.ask_at} again and again, at {now}")

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

    def adjust(self, now, at, cost, *, charged, started, verb="adjust"):
        """Charge more for a call, or give back; "return" what never started."""
        self.send(verb, now, changes=[[self.lanes, EPOCH + at, [cost], [charged], [started], 0]])
