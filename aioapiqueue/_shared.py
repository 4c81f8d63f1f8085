"""Who says when, if many queues share one quota: an authority, asked for those who wait here.

A `Member` takes the place of its queue's own schedules. It asks the authority (over a `Link`) for
slots, each of which has its instant on the authority's clock. That is only a permission: who gets
it is decided when the instant has come, so that order, priority and cancellation stay matters of
this queue. What nobody waits for any more is given back.

One task talks to the authority while there is something to say. What has happened here (`say`)
goes first, in its order; then it asks. Whoever loses sight of the authority waits.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue._authority import EARLY, Answer, Link, State, Talk
from aioapiqueue._leases import NO_KEY, Lease, Line
from aioapiqueue._rate import Rate, Window

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from aioapiqueue._dispatch import Dispatcher
    from aioapiqueue._rate import Limit
    from aioapiqueue._slot import Slot

__all__ = ["Member", "Want"]

_POLL = 1.0
"""Seconds after which one who waits asks at the latest: others may have ended what holds it."""
_PLACES_POLL = 0.1
"""As `_POLL`, where places are all taken."""
_FIRST_ASK = 16
_LEAST = 0.01  # cost that a want counts as
_MOST = 1000  # slots asked for at once
_COARSE = 0.005  # how late a real loop's timer may well be
_FADES = 0.9
_MISSES = 20  # slots in a row that came too late: the loop is always late, and is to have some
_TICK = 1e-6  # the authority counts whole microseconds
_MANY = 64  # lanes, before those that nobody uses any more are forgotten
_SPIN = 0.02  # after an answer that gave nothing and named no time


class Want(NamedTuple):
    """Slots that are asked for: for callers of this lane (None: of none), of this cost each."""

    lane: Hashable
    cost: float
    number: int


class Member(Talk):
    """One queue's part in a quota that it shares.

    Args:
        queue: whose callers wait.
        link: to the authority.
        catch_up: seconds by which a slot may be used late; later it is lost.
    """

    def __init__(self, queue: Dispatcher, link: Link, *, catch_up: float) -> None:
        super().__init__(queue, link, catch_up=catch_up)
        self.rate = math.inf
        """Calls per second that push-back has left; inf: whatever the limits say."""
        self.reset()

    def reset(self) -> None:
        """Begin anew, on another loop: who waited or ran on the old one is gone with it."""
        self._talk_anew()
        self._lines: dict[Hashable, Line] = {}
        self._many = _MANY
        self._leased = 0
        self._last = self._not_before = self._ready = -math.inf
        self._since = math.inf
        self._turn = 0
        self._fair = _FIRST_ASK
        self._short = self._short_of_places = False
        self._late = 0.0
        self._missed = 0
        self._cheapest = math.inf

    @property
    def places(self) -> int:
        """How many bodies this member has running, or may start without asking."""
        return self.queue.running + self._leased

    def arrives(self, slot: Slot, now: float) -> None:
        """Heed a newcomer: since when somebody has been waiting counts for what is due when."""
        waiters, lane = self.queue._waiters, self._lane(slot.key)
        if not waiters.live:
            self._since = now
        if lane is not None:
            self.link.check(slot.key)
            if slot.key not in waiters.lines:
                self._line(lane).since = now

    # Releasing, for the dispatcher.

    def release_due(self, now: float) -> float | None:
        """Release all who are due; return when to look again (None: nobody waits)."""
        queue = self.queue
        waiters = queue._waiters
        wake = waiters.wake(now)
        while (slot := waiters.first()) is not None:
            due = self._due(slot, now)
            if due - now > EARLY:
                waiters.park(due)
                wake = due if wake is None or due < wake else wake
                continue
            waiters.pop(slot)
            self._take(slot, now)
            queue._grant(slot, now)
        if queue._concurrency < math.inf and queue.running:
            self._set_timer("heart", self.link.lease / 3, self._beat)
        if wake is None:
            self._cheapest = math.inf
            self._give_back_all()
            return None
        self._give_back_surplus()
        self._heed_costs()
        # Who lives by the fallback looks now and then whether the authority is back.
        ask_at = self._ask_at(now) if self._fallback is None else self._retry_at
        if ask_at > now + EARLY:
            return min(wake, ask_at)
        self._start()
        return wake

    def _due(self, slot: Slot, now: float) -> float:
        line = self._line(self._lane(slot.key))
        while line.leases:
            lease = line.leases[0]
            if lease.until < now - _TICK:  # used so late, it would crowd what comes after it
                self._late = max(self._late, now - lease.at)
                self._missed += 1
                self._give_back_late(slot.key, self._drop(line))
            elif lease.cost != slot.cost:
                self._say_back([(self._lane(slot.key), self._drop(line))])
            else:
                return lease.at
        if self._fallback is None or self.queue.running >= self.queue._concurrency:
            return math.inf
        return self._fallback.due(now, slot.cost)

    def _take(self, slot: Slot, now: float) -> None:
        line = self._line(self._lane(slot.key))
        if line.leases:
            lease = self._drop(line)
            slot.sequence = lease.instant
            self._late = max(now - lease.at - _TICK, _FADES * self._late)
            self._missed = 0
        elif self._fallback is not None:
            self._fallback.take(now, slot.cost)
            slot.sequence = 0

    def hand_back(self, slot: Slot) -> None:
        """Take back the slot of one who was cancelled before its body began: the next has it."""
        waiters, lane = self.queue._waiters, self._lane(slot.key)
        waiters.wake_all()
        if slot.sequence:
            until = slot._since + self.catch_up
            lease = Lease(slot._since, until, slot.cost, slot.sequence)
            heir, late = waiters.first(), until < self.queue._clock() - EARLY
            if heir and not late and (self._lane(heir.key), heir.cost) == (lane, slot.cost):
                self._line(lane).leases.appendleft(lease)
                self._leased += 1
            else:  # whether the next in line, of another lane or cost, may have it is known there
                self._say_back([(lane, lease)])

    def estimate(self, key: Hashable, cost: float, now: float) -> float:
        """Return when a newcomer may be due, by what the authority has said last."""
        queue = self.queue
        line = self._line(self._lane(key))
        when = max(now, self._ready, queue._schedule.held, line.held, line.ask_at)
        leased = sum(lease.cost for line in self._lines.values() for lease in line.leases)
        ahead = queue._waiters.cost - leased + cost - 1
        rates = [limit for limit in queue._limits if isinstance(limit, Rate)]
        return when + max((max(0, ahead) * rate.interval for rate in rates), default=0)

    def _lane(self, key: Hashable) -> Hashable:
        """Return the lane of a key; None: it has no limits of its own."""
        lanes = self.queue._lanes
        # Of a key that has not called for long, the queue keeps no schedule.
        if key not in lanes.schedules and lanes.limits_of(key) is None:
            return None
        return NO_KEY if key is None else key

    def _line(self, lane: Hashable) -> Line:
        line = self._lines.get(lane)
        if line is None:
            if len(self._lines) >= self._many:
                waiting = self._waiting()
                kept = {k: one for k, one in self._lines.items() if one.leases or k in waiting}
                self._lines, self._many = kept, 2 * len(kept) + _MANY
            line = self._lines[lane] = Line()
        return line

    def _drop(self, line: Line) -> Lease:
        self._leased -= 1
        return line.leases.popleft()

    # What happens here, to be said to the authority.

    def adjust(self, slot: Slot, cost: float) -> None:
        """Charge `cost` more for a call that has started; give back if negative."""
        if slot.sequence:
            self._adjust("adjust", [(self._lane(slot.key), slot.sequence, cost)])
            if cost < 0:
                self._ask_anew(self._lane(slot.key))

    def _ask_anew(self, lane: Hashable) -> None:
        """Ask before it is due: there is more than the authority knew when it said when."""
        self._line(lane).ask_at = self._not_before = -math.inf

    def _ask_all_anew(self) -> None:
        self._not_before = -math.inf
        for line in self._lines.values():
            line.ask_at = -math.inf

    def ended(self) -> None:
        """Heed that a body has ended: its place is free."""
        if self._fallback is not None:
            self.queue._waiters.wake_all()
        if self._short_of_places:
            self._not_before = -math.inf  # the next request says it
        elif not self._outbox:
            self.say("renew")

    def push_back(self, slot: Slot, retry_after: float | None, since: int) -> None:
        """Heed that the other side refused a call that was released at `since`."""
        lane = self._lane(slot.key)
        if retry_after is not None:
            self._hold_here(lane, retry_after)
        wait = -1 if retry_after is None else retry_after
        self.say("push", lane=lane, seconds=wait, since=since, slot=slot)

    def hold(self, key: Hashable, seconds: float) -> None:
        """Let nothing of a lane start for so long, or nothing at all."""
        lane = self._lane(key)
        self._hold_here(lane, seconds)
        self.say("hold", lane=lane, seconds=seconds)

    def pause(self, seconds: float | None) -> None:
        """Hold everybody, everywhere."""
        self._give_back_all()
        self.say("pause", seconds=-1 if seconds is None else seconds)

    def resume(self) -> None:
        """End a pause, everywhere."""
        self._ask_all_anew()
        self.say("resume")

    def set_limits(self, key: Hashable, limits: tuple[Limit, ...]) -> None:
        """Give the queue (None) or a lane other limits, everywhere."""
        self._ask_all_anew()
        self._give_back_all()
        self.say("set", key=key, limits=limits)

    def _hold_here(self, lane: Hashable, seconds: float) -> None:
        """Use nothing that was leased before a hold; the authority may not know of it yet."""
        self._give_back(self._lines if lane is None else {lane} & self._lines.keys())
        if lane is not None:
            line, now = self._line(lane), self.queue._clock()
            line.held, line.ask_at = max(line.held, now + seconds), now + min(seconds, _POLL)

    def _forget_leases(self) -> None:
        for line in self._lines.values():
            line.leases.clear()
            line.turn = 0
        self._leased = self._turn = 0

    def _give_back_all(self) -> None:
        self._give_back(self._lines)

    def _give_back_late(self, key: Hashable, lease: Lease) -> None:
        lane = self._lane(key)
        if self._windows((None, lane)):  # of a rate, what was not used in time is gone
            self._say_back([(lane, lease)])

    def _give_back(self, lanes: Iterable[Hashable]) -> None:
        items = []
        for lane in list(lanes):
            line = self._lines[lane]
            while line.leases:
                items.append((lane, self._drop(line)))
        if items:
            self._say_back(items)

    def _give_back_surplus(self) -> None:
        """Give back what was leased for those who have left; others may have it elsewhere."""
        if self._leased:
            waiting = self._waiting()
            items = []
            for lane, line in self._lines.items():
                while len(line.leases) > waiting.get(lane, 0):
                    items.append((lane, line.leases.pop()))
            if items:
                self._leased -= len(items)
                self._say_back(items)

    def _say_back(self, items: Sequence[tuple[Hashable, Lease]]) -> None:
        for lane, _ in items:
            self._ask_anew(lane)
        self._adjust("return", [(lane, lease.instant, -lease.cost) for lane, lease in items])

    def _adjust(self, verb: str, items: list[tuple[Hashable, int, float]]) -> None:
        last = self._outbox[-1] if len(self._outbox) > 1 else ("", {})  # the first may be under way
        if last[0] == verb:
            last[1]["items"] += items
        else:
            self.say(verb, items=items)

    # What to ask for, and when.

    def _soon(self) -> float:
        """Return how long before it is needed something is asked for."""
        return min(self.link.ahead / 2, self._clock.trip + 0.005)

    def _heed_costs(self) -> None:
        """Ask before it is due if somebody is now first who costs less than all who were."""
        firsts = (line.first() for line in self.queue._waiters.lines.values())
        cheapest = min((first.cost for first in firsts if first is not None), default=math.inf)
        if cheapest < self._cheapest:
            self._ask_all_anew()
        self._cheapest = cheapest

    def _waiting(self) -> dict[Hashable, int]:
        """Return how many wait in each lane; None: in none."""
        counts: dict[Hashable, int] = {}
        for one in self.queue._waiters.lines.values():
            lane = self._lane(one.key)
            counts[lane] = counts.get(lane, 0) + one.live
        return counts

    def _ask_at(self, now: float) -> float:
        """Return when to ask for more, for those who wait without a lease; now: at once."""
        at = math.inf
        for lane, count in self._waiting().items():
            line = self._line(lane)
            if count > len(line.leases):
                spent = -math.inf
                if line.leases and not self._short:
                    spent = line.leases[-1].at - self._soon()
                at = min(at, max(spent, line.ask_at))
        return max(now, at, self._not_before, self._retry_at)

    def _slack(self, lanes: Iterable[Hashable]) -> float:
        """Return how late a slot may be used: by `catch_up`, less what the clock is in doubt of.

        A window is told of it and lasts that much longer, so there it is no more than needed.
        """
        least = _COARSE if self.queue._clock is time.monotonic else 0.0
        needed, allowed = max(least, 2 * self._late), max(least, self.catch_up - self._clock.doubt)
        if self._windows(lanes) or self._missed > _MISSES:
            return needed
        return allowed

    def _windows(self, lanes: Iterable[Hashable]) -> bool:
        queue = self.queue
        return any(
            isinstance(limit, Window)
            for lane in lanes
            for limit in (
                queue._limits
                if lane is None
                else queue._lanes.limits_of(None if lane is NO_KEY else lane) or ()
            )
        )

    def _wants(self, now: float, most: float) -> list[Want]:
        """Return what those who wait without a lease need, in their order.

        So much of each lane, in cost, as it may be that no other is due; of all lanes together, no
        more than that is granted, lest one who is left out here be overtaken.
        """
        covered = {lane: len(line.leases) for lane, line in self._lines.items()}
        open_ = {
            one.key: lane
            for one in self.queue._waiters.lines.values()
            if self._line(lane := self._lane(one.key)).ask_at <= now + self.link.ahead + EARLY
        }
        left = dict.fromkeys(open_.values(), float(most))
        wants: list[Want] = []
        for key, slot in self.queue._waiters.upcoming(open_):
            lane = open_[key]
            if covered.get(lane, 0) > 0:
                covered[lane] -= 1
                continue
            left[lane] -= max(slot.cost, _LEAST)
            if left[lane] <= 0:
                for full in [one for one, its in open_.items() if its == lane]:
                    del open_[full]
            if wants and wants[-1][:2] == (lane, slot.cost):
                wants[-1] = wants[-1]._replace(number=wants[-1].number + 1)
            else:
                wants.append(Want(lane, slot.cost, 1))
        return wants

    # Talking.

    async def _say(self, verb: str, fields: dict[str, Any]) -> None:
        lanes: list[Hashable] = []
        slot = fields.pop("slot", None)
        if verb in ("adjust", "return"):
            items = fields["items"]
            lanes = list(dict.fromkeys(lane for lane, _, _ in items if lane is not None))
            fields["items"] = [(_number(lanes, lane), *rest) for lane, *rest in items]
        elif verb == "set":
            self.told[fields.pop("key")] = fields.pop("limits")
        elif (lane := fields.pop("lane", None)) is not None:
            lanes = [lane]
        slowed = (await self._exchange(verb, lanes, **fields))[0]
        if verb == "push" and slowed:
            self._give_back_all()
            self.queue._round = self.queue._started
            self.queue._count("slowed", slot)

    async def _ask(self) -> bool:
        now = self.queue._clock()
        most = max(1, min(self._fair, _MOST))
        wants = self._wants(now, most) if self._ask_at(now) <= now + EARLY else []
        if not wants:
            return False
        lanes = list(dict.fromkeys(want.lane for want in wants if want.lane is not None))
        lines = [self._line(lane) for lane in lanes]
        for line in lines:
            line.since = min(now, line.since)  # a limit that came while they waited
        if not self._epoch:
            await self._exchange("renew")  # what its clock says is to be known before
        ended = self.queue._ended
        late = self._clock.doubt + self._slack((None, *lanes))
        found = await self._exchange(
            "ask",
            lanes,
            wants=[(_number(lanes, lane), *rest) for lane, *rest in wants],
            most=most,
            lead=min(self._clock.lead, self.link.ahead / 2),
            late=late,
            waited=[now - since for since in (self._since, *(line.since for line in lines))],
            turns=[self._turn, *(line.turn for line in lines)],
        )
        # Windows have been told how late a slot may be used. By now, the clock may be known better.
        slack = self._slack((None, *lanes))
        if self._windows((None, *lanes)):
            slack = late - self._clock.doubt
        answer = Answer(*found)
        self._heed(answer, wants, lanes, slack)
        # Its share was greater than it knew; or a place has become free meanwhile.
        more = self._fair > most and answer.turn > 0 and self._clock.here(answer.turn) <= now
        if (more and answer.slots) or (self._short_of_places and self.queue._ended > ended):
            self._not_before = -math.inf
        return True

    def _heed(
        self, answer: Answer, wants: Sequence[Want], lanes: Sequence[Hashable], slack: float
    ) -> None:
        queue, now, here = self.queue, self.queue._clock(), self._clock.here
        soonest = now + 2 * _TICK  # as rounded instants go, it may be a microsecond earlier there
        for number, instant in answer.slots:
            want = wants[number - 1]
            lease = Lease(here(instant), here(instant) + slack, want.cost, instant)
            self._line(want.lane).leases.append(lease)
            self._leased += 1
            self._last = max(self._last, lease.at)
        for lane in lanes:
            self._line(lane).ask_at, self._line(lane).turn = -math.inf, 0
        for number, turn, ask_at in answer.turns:
            line = self._line(lanes[number - 1])
            line.ask_at, line.turn = max(soonest, min(here(ask_at), now + _POLL)), turn
        self._fair, self._turn = answer.fair, max(0, answer.turn)
        self._short = answer.turn > 0 and 0 < len(answer.slots) < answer.fair / 2
        self._short_of_places = answer.turn < 0
        if answer.turn > 0:
            self._not_before = max(soonest, min(here(answer.turn), now + _POLL))
        elif answer.turn < 0:
            self._not_before = now + _PLACES_POLL
        elif len(answer.slots) < sum(want.number for want in wants) and not answer.turns:
            # This was its share: the others are to have theirs first.
            self._not_before = self._last - self._soon() if answer.slots else now + _SPIN
        else:
            self._not_before = -math.inf
        queue._waiters.wake_all()
        queue._nudge()

    def _note(self, state: State) -> None:
        queue, here = self.queue, self._clock.here
        queue._paused = math.inf if state.held < 0 else -math.inf
        held = here(state.held) if state.held > 0 else -math.inf
        queue._schedule.hold(math.inf if state.held < 0 else held)
        self._ready = here(state.ready) if state.ready else -math.inf
        self.rate = state.rate


def _number(lanes: Sequence[Hashable], lane: Hashable) -> int:
    """Return a lane's number, from 1; 0: it is none."""
    return 0 if lane is None else lanes.index(lane) + 1
