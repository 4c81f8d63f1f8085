"""As `several.Watch`, of queues that share their limits: what docs/fleet.md promises of them.

What one process says, the others hear later, and meanwhile they use the slots that they have. So
what is said here is checked from the instant on at which the server has heard it, and a while (the
`grace`) later, by which all those slots are used.
"""

from __future__ import annotations

import asyncio
import math

from tests.helpers import introspect
from tests.helpers.several import ROUNDING, Watch

__all__ = ["SharedWatch"]

TICK = (
    3e-6  # seconds: the server counts whole microseconds, and an instant is rounded up to 3 times
)


PAUSE = ("a pause",)


class SharedWatch(Watch):
    """Runs calls on several queues of one quota, and notes in `faults` what is not promised.

    Args:
        queues: of the processes.
        own: their own limits.
        named: the limits of their keys and patterns.
        late: seconds by which a call may start after its slot.
        grace: seconds after which slots that are at hand are used, or lost.
        patience: seconds for which a call may wait although all its limits have room.
        undisturbed: nothing but calls that come and go: promise 3 holds within all limits.
        at_once: messages take no time, so that settlements are charged when they are made.
        options: of `Watch`.
    """

    rounding = timing = TICK

    def __init__(
        self,
        queues,
        own,
        named,
        *,
        late,
        grace,
        patience=math.inf,
        undisturbed=False,
        at_once=False,
        **options,
    ):
        super().__init__(queues[0], own, named, catch_up=late, **options)
        self.queues = list(queues)
        for queue in self.queues[1:]:
            introspect.after_starts(queue, self.started)
        self.mixed = late  # whose lane is late starts late, and others meanwhile
        self.grace = grace
        self.patience = patience
        self.undisturbed = undisturbed
        self.heard = "settled" if at_once else "heard"
        self.unheard = set()
        self.said = []
        self.room_since = {}
        self.resumed = 0
        self.resumes = set()
        self.closed = {}
        self.away = {}
        self.overtaken = {}

    def say(self, process, then, about=None):
        """Call `then` once the server has heard what a process has just said, and all act on it.

        It never hears what is left when the process is closed, if it cannot be reached then.
        """

        async def wait():
            while introspect.messages_of(self.queues[process]):
                if self.closed.get(process, math.inf) < self.loop.time():
                    return
                await asyncio.sleep(0.001)
            await asyncio.sleep(self.grace)
            self.unheard.discard(about)
            then()

        self.unheard.add(about)
        self.said.append(self.loop.create_task(wait()))

    # What is said.

    def set_rate(self, process, name, limits):
        """Set limits, unless others of that name are not in force yet: which come last is open."""
        if ("limits", name) in self.unheard:
            return
        self.table.replace(name, limits)
        new = self.table.own if name is None else []
        for key in self.table.lanes if name is not None else ():
            new += self.table.lane(key) if self.table.name_of(key) == name else []
        for ledger in new:
            ledger.since = math.inf

        def in_force():
            for ledger in new:
                ledger.since = self.loop.time()

        self.say(process, in_force, ("limits", name))
        self.queues[process].set_rate(*limits, key=name)

    def hold(self, process, key, seconds):
        """Hold a lane, or all: at once here, and elsewhere when it is heard."""
        in_lane = key is not None and self.table.name_of(key) is not None
        self.queues[process].hold(seconds, key=key)
        self._held(process, key if in_lane else None, self.loop.time() + seconds)

    def throttled(self, who, seconds):
        """Hold what a call came under first, as the other side has said."""
        call, slot = self.calls[self.slots[who]], self.slots[who]
        slot.throttled(seconds)
        key = next((key for key in call.keys if self.table.name_of(key) is not None), None)
        self._held(call.process, key, self.loop.time() + seconds)

    def _held(self, process, key, until):
        self.held.append((key, until, process))
        self.say(process, lambda: self.held.append((key, until, None)))

    def pause(self, process, seconds):
        """Pause all, unless a resume may be heard later."""
        self.queues[process].pause(seconds)
        until, resumed = self.loop.time() + seconds, self.resumed
        if self.resumes:  # which may be heard later than this
            return

        def paused():
            if resumed == self.resumed and not self.resumes:
                self.held.append((PAUSE, until, None))

        self.say(process, paused)

    def resume(self, process):
        """Resume all: a pause that is not heard yet may be heard earlier."""
        self.queues[process].resume()
        self.held = [one for one in self.held if one[0] != PAUSE]
        self.resumed += 1
        self.resumes.add(number := self.resumed)
        self.say(process, lambda: self.resumes.discard(number))

    def check_holds(self, call, now):
        for key, until, process in self.held:
            concerned = key is None or key == PAUSE or key in call.keys
            if concerned and process in {None, call.process} and now < until - TICK:
                self.fault(f"{call} starts at {now}, in a hold of {key} until {until}")
        if now > self.closed.get(call.process, math.inf):
            self.fault(f"promise 9: {call} starts at {now} on a queue that is closed")
        if now > self.away.get(call.process, math.inf) + self.grace:
            self.fault(f"promise 9: {call} starts at {now} without a server")

    def settle(self, call, cost):
        """Settle; what is more is owed once the server has heard of it."""
        if call.process in self.closed or ("cost", call.who) in self.unheard:
            return
        now = self.loop.time()
        less = {unit: min(amount, call.cost[unit]) for unit, amount in cost.items()}
        ledgers = dict.fromkeys([*self.charged[call.who], *self.table.all_of(call)])
        ledgers = [ledger for ledger in ledgers if hasattr(ledger.limit, "unit")]
        for ledger in ledgers:
            more = less.get(ledger.limit.unit, 0) - call.cost.get(ledger.limit.unit, 0)
            ledger.change(call, now, more)
        before, call.cost = call.cost, {**call.cost, **cost}
        self.slots[call.who].settle(cost)

        def owe():
            for ledger in ledgers:
                more = call.cost.get(ledger.limit.unit, 0) - before.get(ledger.limit.unit, 0)
                if more > 0:
                    ledger.change(call, now, more, self.heard)

        self.say(call.process, owe, ("cost", call.who))

    # What may happen to a process.

    def leave(self, process, *, drain):
        """Close a queue."""

        async def close():
            await self.queues[process].aclose(drain=drain)
            self.closed[process] = self.loop.time()

        self.closed[process] = math.inf
        self.said.append(self.loop.create_task(close()))

    def lose(self, process, client, seconds):
        """Let a process be without the server for a while."""

        def back():
            client.down = False
            self.away.pop(process, None)

        if process not in self.away:
            client.down = True
            self.away[process] = self.loop.time()
            self.loop.call_later(seconds, back)

    # What is checked.

    def started(self, slot, now):
        super().started(slot, now)
        at, fault = self.overtaken.pop(self.calls[slot].who, (now, ""))
        if now > at + TICK:
            self.fault(fault)
        self.room_since.pop(self.calls[slot].who, None)
        self.note_turn(self.calls[slot])
        self.check_waiting()

    def note_turn(self, call):
        """Let those behind a call, of its process and of one of its limits, wait for another turn.

        A process gets its share at its turn, and then the others have theirs: what is left of it
        may be too little for the next call. One that is alone takes no turns.
        """
        ledgers = self.table.of(call)
        for other in self.waiting.values() if len(self.queues) > 1 else ():
            behind = other.process == call.process and other.rank > call.rank
            if behind and not set(ledgers).isdisjoint(self.table.of(other)):
                self.room_since.pop(other.who, None)

    def check_order(self, call, mine, now):
        if self.undisturbed:
            super().check_order(call, mine, now)
        for other in self.waiting.values():
            same = other.process == call.process and self.line_of(other) == self.line_of(call)
            if same and other.rank < call.rank and other.gives_up_at > now:
                self.fault(f"promise 3: {call} overtakes {other} of the same line at {now}")

    def overtakes(self, call, other, now):
        """Note it until that one starts: in the same microsecond it is not overtaken.

        Its slot was read by the clock as it was then, and may so be some nanoseconds later.
        """
        self.overtaken.setdefault(other.who, (now, f"promise 3: {call} overtakes {other} at {now}"))

    def line_of(self, call):
        """Return what calls have in common that wait in one line."""
        unused = [unit for unit, amount in call.cost.items() if amount == 0]
        return unused, set(self.table.all_of(call)), call.keys if not self.fifo else None

    def check_waiting(self):
        """No call waits for long while each of its limits has room for it, and for those before."""
        now = self.loop.time()
        if self.patience == math.inf:
            return
        for call in self.waiting.values():
            ledgers = self.table.of(call)
            closed = any(
                ledger.due(0, ledger.amount(other)) > now - ROUNDING
                for other in self.waiting.values()
                for ledger in ledgers
                if (other.process != call.process or other.rank <= call.rank)
                and ledger.concerns(other)
            )
            if closed:
                self.room_since.pop(call.who, None)
            elif now - self.room_since.setdefault(call.who, now) > self.patience:
                since = self.room_since[call.who]
                self.fault(f"promise 5: {call} waits at {now} for nothing since {since}")

    async def all_ended(self):
        if self.said:
            await asyncio.wait(self.said)
        await super().all_ended()
        for _, fault in self.overtaken.values():
            self.fault(fault)

    async def check_nothing_is_left(self):
        if self.said:
            await asyncio.wait(self.said)
        await asyncio.sleep(5)  # within which permits are renewed for the last time
        await super().check_nothing_is_left()
