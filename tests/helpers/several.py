"""What several limits allow, from the whole history of what was charged to each.

Written from the promises and from nothing else: slow, without any of the queue's shortcuts. A
`Ledger` is one limit with all that was ever charged to it, and `Crowd` says who starts when where
all costs are 0 or 1: all calls that have room go, by rank. `Watch` follows a queue whose calls cost
anything, and notes each promise that it breaks.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import math
from dataclasses import dataclass, field

from aioapiqueue import Calendar, Concurrency, QueueClosed, Rate, SlotTimeout, Window
from tests.helpers import introspect

__all__ = ["Call", "Crowd", "Ledger", "Player", "Watch"]

ROUNDING = 1e-6


@dataclass
class Call:
    """What a caller wants.

    Attributes:
        who: its number, by arrival.
        cost: by unit.
        length: seconds that its body takes.
        timeout: seconds that it waits at most; None: any time.
    """

    who: int
    keys: tuple
    cost: dict
    priority: float = 0
    length: float = 0.0
    timeout: float | None = None
    doomed: bool = False
    """Whether it is cancelled in the moment in which it is granted."""
    gives_up_at: float = math.inf
    process: int = 0
    """Which of those that share a quota makes it."""
    started_at: float | None = None

    @property
    def rank(self):
        return (self.priority, self.who)


@dataclass(eq=False)
class Ledger:
    """One limit, and what was charged to it: [instant, amount, whose, what it did then].

    Charges are in the order of their instants. A call "started", or "settled"; or its settlement
    was "heard" of, which was charged at some instant before; or what a limit counts that was there
    before is "carried over".
    """

    limit: object
    charges: list = field(default_factory=list)
    running: set = field(default_factory=set)
    held_until: float = -math.inf
    since: float = -math.inf
    """From when on it is in force for all."""

    def amount(self, call):
        return 1 if isinstance(self.limit, Concurrency) else call.cost.get(self.limit.unit, 0)

    def concerns(self, call):
        return self.amount(call) != 0

    def due(self, now, amount):
        """Return the first instant from now on that has room, if nobody else is charged."""
        now = max(now, self.held_until)
        if isinstance(self.limit, Concurrency):
            return now if len(self.running) < self.limit.number else math.inf
        if isinstance(self.limit, Rate):
            # Each window that begins with a charge and ends with the new one has to hold.
            latest, total = now, amount
            if amount > self.limit.burst:  # it waits for what the burst cannot hold
                latest += (amount - self.limit.burst) * self.limit.interval
            for at, spent, *_ in reversed(self.charges):
                total += spent
                latest = max(latest, at + (total - self.limit.burst) * self.limit.interval)
            return latest
        if isinstance(self.limit, Calendar):
            last = max([now, *(at for at, *_ in self.charges)]) // 3600
            spent = sum(spent for at, spent, *_ in self.charges if at // 3600 == last)
            return now if spent + amount <= self.limit.calls else (last + 1) * 3600
        for candidate in [now, *sorted(at + self.limit.per for at, *_ in self.charges)]:
            inside = sum(spent for at, spent, *_ in self.charges if at + self.limit.per > candidate)
            if candidate >= now and inside + amount <= self.limit.calls:
                return candidate
        raise AssertionError("a cost is larger than a window")

    def charge(self, call, now):
        if isinstance(self.limit, Concurrency):
            self.running.add(call.who)
        else:
            self.charges.append([now, self.amount(call), call.who, "started"])

    def forget(self, call):
        """Charge it nothing, as if it had never been."""
        self.running.discard(call.who)
        self.charges = [one for one in self.charges if one[2] != call.who]

    def change(self, call, now, more, what="settled"):
        """Charge more, which is learnt now; or less, as if it had been known from the start.

        A rate counts what is learnt now from now on. A window counts a call where it started.
        """
        mine = [one for one in self.charges if one[2] == call.who]
        if more > 0 and mine and not isinstance(self.limit, Rate):
            mine[0][1] += more
        elif more > 0:
            at = now if isinstance(self.limit, Rate) else call.started_at
            bisect.insort(self.charges, [at, more, call.who, what], key=lambda one: one[0])
        for one in reversed(mine):
            if more < 0:
                less = min(one[1], -more)
                one[1] -= less
                more += less

    def let_through(self, now, catch_up):
        """Return what still counts when another limit takes its place: (instant, amount).

        A bucket has recovered at most as much more as it makes up for.
        """
        limit = self.limit
        if isinstance(limit, Window):
            return [(at, spent) for at, spent, *_ in self.charges if at + limit.per > now]
        if isinstance(limit, Calendar):
            used = sum(spent for at, spent, *_ in self.charges if at // 3600 == now // 3600)
            return [(now, used)]
        paid_off, total = now, 0
        for at, spent, _, what in reversed(self.charges):
            total += spent
            # A call of more than the burst has waited for that.
            waited = max(0, spent - limit.burst) * limit.interval if what == "started" else 0
            paid_off = max(paid_off, at - waited + total * limit.interval)
        return [(now, max(0, paid_off - catch_up - now) / limit.interval)]

    def take_over(self, charges):
        """Start with what a limit of another kind has let through, if that is more."""
        if sum(amount for _, amount in charges) > sum(spent for _, spent, *_ in self.charges):
            self.charges = [[at, amount, None, "carried over"] for at, amount in charges]

    def broken(self, now, catch_up, rounding=1e-9, mixed=0.0):
        """Return how a window that ends now exceeds the limit; None: none does.

        Calls that start within `mixed` seconds may have been due in another order.
        """
        limit = self.limit
        if isinstance(limit, Concurrency):
            over = len(self.running) > limit.number
            return f"{limit}: {len(self.running)} run" if over else None
        if isinstance(limit, Rate):
            # A call of more than the burst has waited for it before it starts: it is the first of
            # a window, or the limit is exceeded by what the burst cannot hold.
            total = 0
            for at, spent, _, what in reversed(self.charges):
                total += spent
                if not spent or what == "heard":
                    continue
                late = catch_up + rounding
                firsts = [one for one in self.charges if at <= one[0] <= at + mixed]
                first = max((one[1] for one in firsts if one[3] == "started"), default=0)
                most = max(limit.burst, first) + (now - at + late) / limit.interval
                if total > most + ROUNDING:
                    return f"{limit}: {total} from {at} to {now}"
            return None
        if isinstance(limit, Window):
            since = now - limit.per + rounding
            total = sum(spent for at, spent, *_ in self.charges if at > since)
        else:
            total = sum(spent for at, spent, *_ in self.charges if at // 3600 == now // 3600)
        return f"{limit}: {total} at {now}" if total > limit.calls + ROUNDING else None


@dataclass
class Table:
    """The limits in force: the queue's own, and those of each key."""

    own: list
    named: dict
    lanes: dict = field(default_factory=dict)

    def __post_init__(self):
        self.own = [Ledger(limit) for limit in self.own]

    def name_of(self, key):
        if key in self.named:
            return key
        patterns = [name for name in self.named if name.endswith("*")]
        fitting = [name for name in patterns if key.startswith(name[:-1])]
        return max(fitting, key=len, default=None)

    def lane(self, key):
        if key not in self.lanes:
            limits = self.named.get(self.name_of(key), ())
            self.lanes[key] = [Ledger(limit) for limit in limits]
        return self.lanes[key]

    def all_of(self, call):
        """Return all limits that hold it up, those too of which it uses nothing."""
        lanes = [ledger for key in dict.fromkeys(call.keys) for ledger in self.lane(key)]
        return [*self.own, *lanes]

    def of(self, call):
        return [ledger for ledger in self.all_of(call) if ledger.concerns(call)]

    def replace(self, name, limits, now=None, catch_up=0.0):
        """Put other limits in force; permits that are in use stay in use.

        Args:
            name: of a key or pattern; None: the queue's own.
            limits: the new ones.
            now: the instant, if it is the same one for all; None: what was let through before is
                left out.
            catch_up: as the queue's.
        """
        if name is None:
            self.own = replaced(self.own, limits, now, catch_up)
            return
        self.named[name] = limits
        for key, ledgers in self.lanes.items():
            if self.name_of(key) == name:
                self.lanes[key] = replaced(ledgers, limits, now, catch_up)


def replaced(old, limits, now, catch_up):
    """Return the ledgers of other limits.

    One of a kind that was not there before starts with what those that are gone have let through.
    (So does one that stays, or changes its numbers only: that is left to the naive model.)
    """
    new, gone = [Ledger(limit) for limit in limits], list(old)
    fresh = list(new)
    for is_equal in (True, False):  # an equal one first
        for ledger in list(fresh):
            alike = [one for one in gone if kind_of(one) == kind_of(ledger)]
            alike = [one for one in alike if one.limit == ledger.limit or not is_equal]
            if alike:
                gone.remove(alike[0])
                fresh.remove(ledger)
                ledger.running = alike[0].running
    for ledger in fresh if now is not None else ():
        for one in gone:
            if kind_of(one)[1] == kind_of(ledger)[1] != "permits":
                charges = one.let_through(now, catch_up)
                if isinstance(one.limit, Calendar) and isinstance(ledger.limit, Rate):
                    # It does not know when they have started: the rate is used up at worst.
                    charges = [(at, min(spent, ledger.limit.burst)) for at, spent in charges]
                ledger.take_over(charges)
    return new


def kind_of(ledger):
    """Return of which kind a limit is, and what it counts."""
    is_permits = isinstance(ledger.limit, Concurrency)
    return type(ledger.limit), "permits" if is_permits else ledger.limit.unit


class Crowd:
    """Who starts when, where each cost is 0 or 1 and nothing is reserved.

    Args:
        own: the queue's own limits.
        named: the limits of keys and patterns.
        script: (instant, what, argument), in the order in which it happens.
        grain: all instants are multiples of it.
    """

    def __init__(self, own, named, script, grain):
        self.table = Table(own, named)
        self.script = list(script)
        self.grain = grain
        self.waiting = []
        self.ends = []
        self.starts = []
        self.replay = []
        self.paused_until = -math.inf

    def play(self):
        """Return what has started [(instant, who)]; `replay` is the script with all ends in it."""
        now = 0.0
        while self.script or self.ends or self.waiting:
            if self.script and not self.ends and not self.waiting:
                now = max(now, self.script[0][0])
            assert now < 10_000, "somebody waits for ever"
            self.start_all(now)
            for _, call in sorted(
                [end for end in self.ends if end[0] <= now], key=lambda end: (end[0], end[1].who)
            ):
                self.ends = [end for end in self.ends if end[1] is not call]
                self.happen(now, "end", call)
            while self.script and self.script[0][0] <= now:
                _, what, argument = self.script.pop(0)
                self.happen(now, what, argument)
            now += self.grain
        return self.starts

    def happen(self, now, what, argument):
        if what == "doom" and argument not in self.waiting:
            return
        self.replay.append((now, what, argument))
        getattr(self, what)(now, argument)
        self.start_all(now)
        if what == "join":
            self.fail_at_once(now, argument)

    def join(self, now, call):
        call.gives_up_at = now + (math.inf if call.timeout is None else call.timeout)
        self.waiting.append(call)

    def fail_at_once(self, now, call):
        """Let a newcomer go whose time-out cannot be met, whatever happens."""
        if call in self.waiting:
            dues = [ledger.due(now, 1) for ledger in self.table.of(call)]
            if max([self.paused_until, *(x for x in dues if x < math.inf)]) > call.gives_up_at:
                self.waiting.remove(call)

    def end(self, _, call):
        for ledger in self.table.of(call):
            ledger.running.discard(call.who)

    def cancel(self, _, call):
        self.waiting = [other for other in self.waiting if other is not call]

    def doom(self, _, call):
        call.doomed = True

    def pause(self, now, seconds):
        self.paused_until = max(self.paused_until, now + seconds)

    def resume(self, now, _):
        self.paused_until = min(self.paused_until, now)

    def start_all(self, now):
        self.waiting = [call for call in self.waiting if call.gives_up_at > now]
        if now < self.paused_until:
            return
        doomed = True
        while doomed:
            doomed = []
            for call in sorted(self.waiting, key=lambda call: call.rank):
                ledgers = self.table.of(call)
                if all(ledger.due(now, 1) <= now for ledger in ledgers):
                    self.waiting.remove(call)
                    for ledger in ledgers:
                        ledger.charge(call, now)
                    if call.doomed:
                        doomed.append(call)
                    else:
                        self.starts.append((now, call.who))
                        self.ends.append((now + call.length, call))
            for call in doomed:
                for ledger in self.table.of(call):
                    ledger.forget(call)


class Player:
    """Does to a queue what a `Crowd` has done: the same at the same instants.

    Args:
        queue: the queue.
        passes: of the loop, after which all has happened that happens now; and 2 for each waiter.
    """

    def __init__(self, queue, *, passes=8):
        self.queue = queue
        self.passes = passes
        self.loop = asyncio.get_running_loop()
        self.starts = []
        self.tasks = {}
        self.ends = {}
        self.calls = {}
        self.doomed = set()
        introspect.after_grants(queue, self.granted)

    async def play(self, replay):
        """Return who started when: [(instant, who)]."""
        for at, what, argument in replay:
            if at > self.loop.time():
                await asyncio.sleep(at - self.loop.time())
            await self.settled()
            getattr(self, what)(argument)
        await self.settled()
        starts = list(self.starts)
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=1000)
        return starts

    async def left_over(self, *, after=0.0):
        """Return what is left over so many seconds after all have ended."""
        await asyncio.sleep(after)
        left = introspect.left_over(self.queue)
        if self.loop.pending_timers or self.queue.waiting or self.queue.running:
            left.append(f"{self.loop.pending_timers} timers, {self.queue!r}")
        return left

    async def settled(self):
        """Let all happen that happens now."""
        for _ in range(self.passes + 2 * self.queue.waiting):
            await asyncio.sleep(0)

    def granted(self, slot, _):
        if self.calls[slot] in self.doomed:
            self.tasks[self.calls[slot]].cancel()

    async def run(self, who, slot):
        with contextlib.suppress(SlotTimeout):
            async with slot:
                self.starts.append((self.loop.time(), who))
                await self.ends[who].wait()

    def join(self, call):
        slot = self.queue.slot(
            keys=call.keys, cost=call.cost, priority=call.priority, timeout=call.timeout
        )
        self.calls[slot] = call.who
        self.ends[call.who] = asyncio.Event()
        self.tasks[call.who] = self.loop.create_task(self.run(call.who, slot))

    def end(self, call):
        self.ends[call.who].set()

    def cancel(self, call):
        if call.who in self.tasks and all(call.who != who for _, who in self.starts):
            self.tasks[call.who].cancel()

    def doom(self, call):
        self.doomed.add(call.who)

    def pause(self, seconds):
        self.queue.pause(seconds)

    def resume(self, _):
        self.queue.resume()


class Watch:
    """Runs calls on a queue, and notes in `faults` what its promises forbid.

    Args:
        queue: the queue.
        own: its own limits.
        named: the limits of its keys and patterns.
        catch_up: as the queue's.
        fifo: that is its order; else it takes turns.
        timely: check promise 11, too: nothing is held, settled upwards or changed, no stalls.

    Attributes:
        queues: all that share the limits: of a call's `process`.
        rounding: seconds by which an instant may be off.
        mixed: seconds within which calls may start in another order than they were due in.
        timing: seconds by which the first may start after the bound, as that is rounded.
    """

    rounding, mixed, timing = 1e-9, 0.0, ROUNDING

    def __init__(self, queue, own, named, *, catch_up, fifo=True, timely=False):
        self.queues = [queue]
        self.table = Table(own, dict(named))
        self.catch_up = catch_up
        self.fifo = fifo
        self.timely = timely
        self.loop = asyncio.get_running_loop()
        self.waiting = {}
        self.calls = {}
        self.tasks = {}
        self.ends = {}
        self.charged = {}
        self.slots = {}
        self.starts = []
        self.faults = []
        self.held = []
        self.first = {}
        self.by = {}
        introspect.after_starts(queue, self.started)

    def join(self, call, settle=()):
        """Let a call come; its body settles to each of `settle` (seconds after its start, cost)."""
        self.tasks[call.who] = self.loop.create_task(self.run(call, settle))

    async def run(self, call, settle):
        slot = self.queues[call.process].slot(
            keys=call.keys, cost=call.cost, priority=call.priority, timeout=call.timeout
        )
        self.calls[slot] = call
        self.slots[call.who] = slot
        self.waiting[call.who] = call
        if call.timeout is not None:
            call.gives_up_at = self.loop.time() + call.timeout
        self.look_for_first()
        ran = False
        try:
            async with slot:
                ran = True
                self.end(call, "ran")
                await asyncio.sleep(call.length)
                self.finish(call)
        except SlotTimeout:
            self.end(call, "timed out")
        except QueueClosed:
            self.end(call, "closed")
        except asyncio.CancelledError:
            if not ran:
                self.end(call, "cancelled")
                self.refund(call)
        finally:
            self.finish(call)
            self.waiting.pop(call.who, None)
            self.look_for_first()
        for seconds, cost in settle if ran else ():
            await asyncio.sleep(seconds)
            self.settle(call, cost)

    def end(self, call, how):
        if call.who in self.ends:
            self.fault(f"{call.who} ends twice: {self.ends[call.who]}, {how}")
        self.ends[call.who] = how

    def fault(self, what):
        self.faults.append(what)

    def cancel(self, call):
        """Cancel a call that waits."""
        self.waiting.pop(call.who, None)
        self.tasks[call.who].cancel()
        self.look_for_first()

    def finish(self, call):
        for ledger in self.charged.get(call.who, ()):
            ledger.running.discard(call.who)

    def refund(self, call):
        for ledger in self.charged.pop(call.who, ()):
            ledger.forget(call)

    def settle_now(self, who, cost):
        self.settle(self.calls[self.slots[who]], cost)

    def replace(self, name, limits):
        self.table.replace(name, limits, self.loop.time(), self.catch_up)
        self.queues[0].set_rate(*limits, key=name)

    def hold(self, key, seconds):
        """Hold a lane, or all; that nothing there starts meanwhile is checked, too."""
        in_lane = key is not None and self.table.name_of(key) is not None
        self.held.append((key if in_lane else None, self.loop.time() + seconds))
        self.queues[0].hold(seconds, key=key)

    def settle(self, call, cost):
        now = self.loop.time()
        charged = self.charged[call.who]
        for unit, amount in cost.items():
            more = amount - call.cost[unit]
            for ledger in dict.fromkeys([*charged, *self.table.all_of(call)]):
                if not isinstance(ledger.limit, Concurrency) and ledger.limit.unit == unit:
                    ledger.change(call, now, more)
        call.cost = {**call.cost, **cost}
        self.slots[call.who].settle(cost)

    def started(self, slot, now):
        call = self.calls[slot]
        self.waiting.pop(call.who, None)
        mine = self.table.of(call)
        self.check_order(call, mine, now)
        self.starts.append((now, call.who))
        call.started_at = now
        self.charged[call.who] = [ledger for ledger in mine if ledger.since <= now]
        for ledger in self.charged[call.who]:
            ledger.charge(call, now)
            broken = ledger.broken(now, self.catch_up, self.rounding, self.mixed)
            if broken is not None:
                self.fault(f"promise 1: {call} starts: {broken}")
        self.check_holds(call, now)
        is_first = call is self.first.get(call.process)
        if is_first and now > (by := self.by[call.process]) + self.timing:
            self.fault(f"promise 11: {call} starts at {now}, not by {by}")
        if call.doomed:
            self.tasks[call.who].cancel()
        self.look_for_first()

    def check_holds(self, call, now):
        for key, until in self.held:
            if now < until - ROUNDING and (key is None or key in call.keys):
                self.fault(f"{call} starts at {now}, in a hold of {key} until {until}")

    def check_order(self, call, mine, now):
        """No call overtakes one of an earlier rank whose limits are all among its own."""
        for other in self.waiting.values():
            nested = other.process == call.process and set(self.table.of(other)) <= set(mine)
            if self.held:  # what holds a lane holds those too that use nothing of its limits
                nested &= set(self.table.all_of(other)) <= set(self.table.all_of(call))
            if not self.fifo:  # in turns by key; in order are the calls of one line
                nested &= (other.keys, other.priority) == (call.keys, call.priority)
                nested &= set(self.table.of(other)) == set(mine)
            if nested and other.rank < call.rank and other.gives_up_at > now:
                self.overtakes(call, other, now)

    def overtakes(self, call, other, now):
        """Note that a call starts before another that still waits."""
        self.fault(f"promise 3: {call} overtakes {other} at {now}")

    def check_waiting(self):
        """Each waiter has a limit that lacks room for it, or for an earlier one under it."""
        now = self.loop.time()
        for call in self.waiting.values():
            ledgers = self.table.of(call)
            closed = any(
                ledger.due(0, ledger.amount(other)) > now - ROUNDING
                for other in self.waiting.values()
                for ledger in ledgers
                if other.rank <= call.rank and ledger.concerns(other)
            )
            if not closed:
                self.fault(f"{call} waits at {now} for nothing")

    def look_for_first(self):
        """Note until when the first of all who wait has to start."""
        for process in range(len(self.queues)) if self.timely else ():
            waiting = [call for call in self.waiting.values() if call.process == process]
            first = min(waiting, key=lambda call: call.rank, default=None)
            if first is not None and first is not self.first.get(process):
                self.by[process] = self.time_of_first(first)
            self.first[process] = first

    def time_of_first(self, first):
        now, times, own_times = self.loop.time(), [0.0], [0.0]
        free = now
        for ledger in self.table.of(first):
            amount = ledger.amount(first)
            free = max(free, ledger.due(now, amount))
            rate = isinstance(ledger.limit, Rate)
            time = amount * ledger.limit.interval if rate else ledger.limit.per
            (own_times if ledger in self.table.own else times).append(time)
        return free + max(times) + sum(own_times)

    async def all_ended(self):
        """Wait until all calls have ended, and check that each did so once, and nothing is left."""
        if not self.tasks:
            return
        done, pending = await asyncio.wait(self.tasks.values(), timeout=20_000)
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()
        if pending:
            self.fault(f"{len(pending)} never end")
            return
        for who in self.tasks:
            if who not in self.ends and not self.tasks[who].cancelled():
                self.fault(f"{who} has no end")
        await self.check_nothing_is_left()

    async def check_nothing_is_left(self):
        for queue in self.queues:
            if (queue.waiting, queue.running) != (0, 0):
                self.fault(f"{queue!r} is not empty")
        await asyncio.sleep(0)
        for queue in self.queues:
            self.faults += introspect.left_over(queue)
        if self.loop.pending_timers:
            self.fault(f"{self.loop.pending_timers} timers")
        await asyncio.sleep(20_000)
        nothing = dict.fromkeys(next(iter(self.calls.values())).cost, 0)
        for queue in self.queues:
            for _ in range(3):  # each of which forgets some lanes
                queue.estimate(keys=("none",), cost=nothing)
            if queue.stats.lanes_in_memory:
                self.fault(f"{queue.stats.lanes_in_memory} lanes are kept")
