"""Who says when, if many queues share one quota: an authority, asked for those who wait here.

A `Member` takes the place of its queue's own schedules. It asks the authority (over a `Link`) for
slots, each of which has its instant on the authority's clock. That is only a permission: who gets
it is decided when the instant has come, so that order, priority and cancellation stay matters of
this queue. What nobody waits for any more is given back.

What to ask for, and when, is in `planner.py`; how it is said, and what goes wrong, in
`session.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from aioapiqueue._fleet.leases import Lease
from aioapiqueue._fleet.planner import Demand
from aioapiqueue._fleet.session import AGAIN, EARLY, Answer, Link, State, Talk

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from aioapiqueue._dispatcher import Dispatcher
    from aioapiqueue._rate import Limit
    from aioapiqueue._slot import Slot

__all__ = ["Member"]

_TICK = 1e-6  # the authority counts whole microseconds


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
        self._recalled: set[Hashable] = set()
        """Lanes of which nothing is to be used that was asked for before."""
        self.demand = Demand(self.queue, self.link, self._clock, catch_up=self.catch_up)

    @property
    def permits(self) -> int:
        """How many bodies this member has running, or may start without asking."""
        return self.queue.running + self.demand.leased

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
        self.demand.heed_costs()
        if wake is None:
            if self.demand.leased:
                self._give_back(self.demand.lines)
            if self.demand.settle_places():
                self.say_places()
            return None
        if surplus := self.demand.drop_surplus():
            self._say_back(surplus)
        if self._task is not None:  # it asks, and has all looked at again when it ends
            return wake
        # Who lives by the fallback looks now and then whether the authority is back.
        ask_at = self._ask_at(now) if self._fallback is None else self._retry_at
        if ask_at > now + EARLY:
            return min(wake, ask_at)
        self._start()
        return wake

    def _due(self, slot: Slot, now: float) -> float:
        demand, lane = self.demand, self.demand.lane(slot.key)
        line = demand.line(lane)
        # Keys that take turns and have no lanes share these leases: whose the next one is, is known
        # when it is due and all of them are looked at, in their turns.
        in_turns = lane is None and self.queue._waiters.fair
        while line.leases:
            lease = line.leases[0]
            if lease.until < now - _TICK:  # used so late, it would crowd what comes after it
                demand.missed(demand.drop(lane), now)
                if demand.has_window((None, lane)):  # of a rate, what was not used in time is gone
                    self._say_back([(lane, lease)])
            elif lease.cost == slot.cost or (in_turns and lease.at - now > EARLY):
                return lease.at
            else:
                in_turns = False  # it is due, and this slot is the first
                self._say_back([(lane, demand.drop(lane))])
        demand.lacks(lane)
        if self._fallback is None or self.queue.running >= self.queue._concurrency:
            return math.inf
        held = max(self.queue._schedule.held, line.held)  # by a pause, or by the other side
        return max(self._fallback.next_at(now, slot.cost), held)

    def _take(self, slot: Slot, now: float) -> None:
        lane = self.demand.lane(slot.key)
        if self.demand.line(lane).leases:
            lease = self.demand.drop(lane)
            self.demand.used(lease, now)
            slot.sequence = lease.instant
            slot.line = lease  # type: ignore[assignment]  # no longer in line: for `hand_back`
        elif self._fallback is not None:
            self._fallback.consume(now, slot.cost)
            slot.sequence = 0

    def hand_back(self, slot: Slot) -> None:
        """Take back the slot of one who was cancelled before its body began: the next has it."""
        waiters, lane = self.queue._waiters, self.demand.lane(slot.key)
        waiters.wake_all()
        lease: object = slot.line  # `_take` has put it there
        if isinstance(lease, Lease):
            heir, late = waiters.first(), lease.until < self.queue._clock() - EARLY
            if heir and not late and (self.demand.lane(heir.key), heir.cost) == (lane, slot.cost):
                self.demand.put_first(lane, lease)
            else:  # whether the next in line, of another lane or cost, may have it is known there
                self._say_back([(lane, lease)])

    # What happens here, to be said to the authority.

    def adjust(self, slot: Slot, cost: float) -> None:
        """Charge `cost` more for a call that has started; give back if negative."""
        if slot.sequence:
            lane = self.demand.lane(slot.key)
            self._adjust("adjust", [(lane, slot.sequence, cost)])
            if cost < 0:
                self.demand.ask_anew(lane)

    def ended(self) -> None:
        """Heed that a body has ended: its place is free."""
        if self._fallback is not None:
            self.queue._waiters.wake_all()
        if self.demand.short_of_places and self.queue.waiting:
            self.demand.heed_ends()  # the next request says it
        else:
            self.say_places()

    def push_back(self, slot: Slot, retry_after: float | None, since: int) -> None:
        """Heed that the other side refused a call that was released at `since`."""
        lane = self._lane_to_tell(slot.key)
        if retry_after is not None:
            self._hold_here(lane, retry_after)
        until = {} if retry_after is None else {"until": self.queue._clock() + retry_after}
        self.say("push", lane=lane, since=since, slot=slot, **until)

    def hold(self, key: Hashable, seconds: float) -> None:
        """Let nothing of a lane start for so long, or nothing at all."""
        lane = self._lane_to_tell(key)
        self._hold_here(lane, seconds)
        self.say("hold", lane=lane, until=self.queue._clock() + seconds)

    def pause(self, seconds: float | None) -> None:
        """Hold everybody, everywhere."""
        self._give_back_all()
        self.say("pause", until=math.inf if seconds is None else self.queue._clock() + seconds)

    def resume(self) -> None:
        """End a pause, everywhere."""
        self.demand.ask_all_anew()
        self.queue._waiters.wake_all()
        self.say("resume")

    def set_limits(self, key: Hashable, limits: tuple[Limit, ...]) -> None:
        """Give the queue (None) or a lane other limits, everywhere."""
        self.link.check(key)
        self.demand.ask_all_anew()
        self._give_back_all()
        self.say("set", key=key, limits=limits)

    def _lane_to_tell(self, key: Hashable) -> Hashable:
        """Return the lane of a key that nobody need have called with; None: it has none.

        Raises:
            TypeError: the lane's key has no text.
        """
        lane = self.demand.lane(key)
        if lane is not None:
            self.link.check(key)
        return lane

    def _hold_here(self, lane: Hashable, seconds: float) -> None:
        """Use nothing that was leased before a hold; the authority may not know of it yet."""
        if lane is None:
            self._give_back_all()
            schedule = self.queue._schedule
            schedule.hold(max(schedule.held, self.queue._clock() + seconds))
        else:
            self._recall([lane])
            self.demand.hold(lane, seconds)

    def joined(self, slot: Slot) -> None:
        """Note that a caller waits now: there may be more to ask for."""
        self.demand.joined(slot)
        self.queue._nudge()

    def left(self, slot: Slot) -> None:
        """Note that a caller waits no more: what was leased for it is surplus."""
        self.demand.left(slot)

    def lanes_changed(self) -> None:
        """Note that other lanes than before have limits of their own."""
        self.demand.lanes_changed()

    def _forget_leases(self) -> None:
        self.demand.forget_leases()

    def _give_back_all(self) -> None:
        self._recall(self.demand.lines)

    def _recall(self, lanes: Iterable[Hashable]) -> None:
        """Use nothing of these lanes that is leased, or is in an answer that is under way."""
        self._recalled.update(lanes)
        self._give_back(lanes)

    def _give_back(self, lanes: Iterable[Hashable]) -> None:
        items = []
        for lane in list(lanes):
            line = self.demand.line(lane)
            while line.leases:
                items.append((lane, self.demand.drop(lane)))
        if items:
            self._say_back(items)

    def _say_back(self, items: Sequence[tuple[Hashable, Lease]]) -> None:
        for lane, _ in items:
            self.demand.ask_anew(lane)
        self._adjust("return", [(lane, lease.instant, -lease.cost) for lane, lease in items])

    def _adjust(self, verb: str, items: list[tuple[Hashable, int, float]]) -> None:
        last = self._outbox[-1] if len(self._outbox) > 1 else ("", {})  # the first may be under way
        if last[0] == verb:
            last[1]["items"] += items
        else:
            self.say(verb, items=items)

    # Talking.

    async def _say(self, verb: str, fields: dict[str, Any]) -> None:
        lanes: list[Hashable] = []
        slot, sent = fields.pop("slot", None), fields.pop("sent")
        if verb in ("adjust", "return"):
            items = fields["items"]
            if self.queue._clock() - sent > AGAIN:  # whether it was heard, nobody knows by now
                items = [item for item in items if item[-1] > 0]
            lanes = list(dict.fromkeys(lane for lane, _, _ in items if lane is not None))
            numbers = _numbers(lanes)
            fields["items"] = [(numbers[lane], *rest) for lane, *rest in items]
        elif verb == "set":
            self.told[fields.pop("key")] = fields.pop("limits")
        elif (lane := fields.pop("lane", None)) is not None:
            lanes = [lane]
        if verb in ("hold", "push", "pause"):
            until = fields.pop("until", math.inf)  # of a pause: without end; else: for no time
            fields["seconds"] = -1 if until == math.inf else max(0.0, until - self.queue._clock())
        slowed = (await self._exchange(verb, lanes, **fields))[0]
        if verb == "push" and slowed:
            self._give_back_all()
            self.queue._slowed(slot)

    def _ask_at(self, now: float) -> float:
        return max(self.demand.ask_at(now), self._retry_at)

    async def _ask(self) -> bool:
        demand, now = self.demand, self.queue._clock()
        wants = demand.wants(now) if self._ask_at(now) <= now + EARLY else []
        if not wants:
            return False
        lanes = list(dict.fromkeys(want.lane for want in wants if want.lane is not None))
        if not self._epoch:
            await self._exchange("renew")  # what its clock says is to be known before
        ended = self.queue._ended
        numbers = _numbers(lanes)
        self._recalled.clear()
        late = self._clock.doubt + demand.slack((None, *lanes))
        demand.places_in_doubt = True  # until there is an answer
        found = await self._exchange(
            "ask",
            lanes,
            wants=[(numbers[lane], *rest) for lane, *rest in wants],
            most=demand.most(),
            lead=min(self._clock.lead, self.link.ahead / 2),
            late=late,
            waited=demand.waited(lanes, now),
            turns=demand.turns(lanes),
        )
        demand.places_in_doubt = False
        # It has been told how late a slot may be used. By now, the clock may be known better.
        demand.heed(Answer(*found), wants, lanes, late - self._clock.doubt)
        self._give_back(self._recalled)
        if demand.short_of_places and self.queue._ended > ended:  # the answer knows nothing of them
            demand.heed_ends()
        demand.wake(numbers)
        self.queue._nudge()
        return True

    def _note(self, state: State, lanes: Sequence[Hashable]) -> None:
        queue, here = self.queue, self._clock.here
        queue._paused = math.inf if state.held < 0 else -math.inf
        held = here(state.held) if state.held > 0 else -math.inf
        queue._schedule.hold(math.inf if state.held < 0 else held)
        self.rate = state.rate
        for lane, one in zip((None, *lanes), (state, *state.lanes), strict=True):
            self.demand.note(lane, one)


def _numbers(lanes: Sequence[Hashable]) -> dict[Hashable, int]:
    """Return each lane's number, from 1; 0: it is none."""
    return {None: 0} | {lane: number for number, lane in enumerate(lanes, 1)}
