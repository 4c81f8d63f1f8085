"""A naive model of what may be released when, written from the promises and nothing else.

It keeps the whole history and recomputes everything from it: slow, and without any of the queue's
shortcuts. `catch_up` is 0, where the earliest instants are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


class NaiveRate:
    """A call may start when no earlier point, plus all that was spent since, forbids it."""

    def __init__(self, interval, burst, now):
        self.interval = interval
        self.burst = burst
        self.points = [[now, 0.0, None]]  # (instant, spent then, by whom)
        self.last = -math.inf
        self.set_at = None  # when it was set, if it took over from no other

    def figures(self):
        return (self.interval, self.burst)

    def paid_off(self):
        return self.paid_off_by(self.points, self.interval)

    @staticmethod
    def paid_off_by(points, interval):
        spent, latest = 0.0, -math.inf
        for instant, cost, _ in reversed(points):
            spent += cost
            latest = max(latest, instant + spent * interval)
        return latest

    def due(self, cost):
        return self.paid_off() + (cost - self.burst) * self.interval

    def touch(self, now):
        if self.last < now:
            self.points.append([now, 0.0, None])

    def take(self, now, cost, who):
        waited_for = max(0.0, cost - self.burst) * self.interval
        self.points.append([now - waited_for, cost, who])
        self.last = now

    def change(self, who, cost, now):
        point = next(point for point in self.points if point[2] == who)
        if cost > point[1]:  # learned now: as if it were a call of its own that starts now
            self.points.append([now, cost - point[1], None])
        else:
            # What it waited for beyond the burst, and does not use, is lost: several smaller calls
            # could start at once in its place.
            point[1] = min(point[1], cost + max(0.0, point[1] - self.burst))

    def replaced_by(self, new, now):
        new.set_at = self.set_at
        if self.figures() == new.figures():  # by itself
            new.points, new.last = self.points, self.last
            return
        new.points = [[now, sum(amount for _, amount in self.let_through(now)), None]]
        new.last = self.last

    def let_through(self, now):
        return [(now, max(0.0, (self.paid_off() - now) / self.interval))]

    def take_over(self, charges, now, beside):
        points = [[at, amount, None] for at, amount in charges]
        paid_off = NaiveRate.paid_off_by(points, self.interval)
        if beside:
            paid_off = min(paid_off, now + self.burst * self.interval)
        if paid_off > max(now, self.paid_off()):
            self.points = [[paid_off, 0.0, None]]


class NaiveWindow:
    """A call may start when what started within the window before it leaves room."""

    def __init__(self, calls, per):
        self.calls = calls
        self.per = per
        self.log = []
        self.set_at = None

    def figures(self):
        return (self.calls, self.per)

    def due(self, cost):
        for candidate in [-math.inf, *sorted(at + self.per for at, _, _ in self.log)]:
            inside = sum(spent for at, spent, _ in self.log if at + self.per > candidate)
            if inside + cost <= self.calls:
                return candidate
        raise AssertionError("no window is smaller than a cost here")

    def touch(self, now):
        pass

    def take(self, now, cost, who):
        self.log.append([now, cost, who])

    def change(self, who, cost, now):  # noqa: ARG002 - a rate needs now
        for entry in self.log:
            if entry[2] == who:
                entry[1] = cost

    def replaced_by(self, new, now):
        new.set_at = self.set_at
        # What has left this window is not known to a longer one.
        new.log = [entry for entry in self.log if entry[0] + self.per > now]

    def let_through(self, now):
        return [(at, spent) for at, spent, _ in self.log if at + self.per > now]

    def take_over(self, charges, now, beside):  # noqa: ARG002 - as of a rate
        log = [[at, spent, None] for at, spent in charges if at + self.per > now]
        mine = self.let_through(now)
        if sum(spent for _, spent, _ in log) > sum(spent for _, spent in mine):
            self.log = log


@dataclass
class NaiveCall:
    who: int
    key: object
    priority: int
    cost: float
    ends_at_once: bool
    gives_up_at: float = math.inf
    cancelled_when_granted: bool = False


@dataclass
class Model:
    """The whole queue: limits, lanes, who waits, who runs, until when all are held."""

    limits: list
    lanes: dict
    concurrency: float
    waiting: list[NaiveCall] = field(default_factory=list)
    running: dict[int, NaiveCall] = field(default_factory=dict)
    released: list[tuple[float, int]] = field(default_factory=list)
    costs: dict[int, float] = field(default_factory=dict)
    paused_until: float = -math.inf
    pushed_back_until: float = -math.inf

    def lane(self, call):
        return self.lanes.get(call.key, [])

    def due(self, call):
        return max(
            [self.paused_until, self.pushed_back_until, *(x.due(call.cost) for x in self.limits)]
        )

    def lane_due(self, call):
        return max([-math.inf, *(x.due(call.cost) for x in self.lane(call))])

    def due_by_itself(self, call):
        return max(self.due(call), self.lane_due(call))

    def submit(self, call, now):
        if not self.waiting:
            for limit in self.limits:
                limit.touch(now)
        if all(other.key != call.key for other in self.waiting):
            for limit in self.lane(call):
                limit.touch(now)
        self.waiting.append(call)
        self.run(now, now)
        due = self.due_by_itself(call)
        if call in self.waiting and now + (call.gives_up_at - now) < due < math.inf:
            self.waiting.remove(call)  # no use in waiting

    def run(self, now, until):
        """Release and give up, in order, all that happens from `now` to `until`."""
        while True:
            release = self.next_release(now)
            gives_up = min(self.waiting, key=lambda call: call.gives_up_at, default=None)
            late = math.inf if gives_up is None else gives_up.gives_up_at
            if late <= until and (late <= now or release is None or late < release[0]):
                self.waiting.remove(gives_up)
                now = max(now, gives_up.gives_up_at)
                continue
            if release is None or release[0] > until:
                return
            now, call = release
            self.waiting.remove(call)
            if call.cancelled_when_granted:
                for limit in [*self.limits, *self.lane(call)]:
                    if self.keeps(limit, call.key, now):
                        limit.take(now, call.cost, call.who)
                    elif isinstance(limit, NaiveRate):
                        waited_for = max(0.0, call.cost - limit.burst) * limit.interval
                        limit.points.append([now - waited_for, 0.0, None])
                        limit.last = now
                continue
            for limit in [*self.limits, *self.lane(call)]:
                limit.take(now, call.cost, call.who)
            self.released.append((now, call.who))
            self.costs[call.who] = call.cost
            if not call.ends_at_once:
                self.running[call.who] = call

    def keeps(self, limit, key, started_at):
        """Return whether a limit gives nothing back of a call of this key.

        It was set at the very instant at which the call started: which came first is not known.
        """
        return not self.lanes.get(key) and limit.set_at == started_at

    def stall(self, since, now):
        """See nothing from `since` to `now`; then the timers that have passed ring, in order."""
        alarm = self.alarm(since)
        self.waiting = [call for call in self.waiting if call.gives_up_at >= min(alarm, now)]
        if alarm <= now:
            patience = {call.who: call.gives_up_at for call in self.waiting}
            ends = [call for call in self.waiting if call.ends_at_once]
            for call in self.waiting:
                call.gives_up_at = math.inf
                call.ends_at_once = False  # in the loop's next pass, after all timers
            self.run(now, now)
            for call in ends:
                call.ends_at_once = True
                self.running.pop(call.who, None)
            for call in self.waiting:
                call.gives_up_at = patience[call.who]
        self.run(now, now)

    def alarm(self, now):
        """Return when somebody's lane or the first in line is due, as things stand."""
        if not self.waiting or len(self.running) >= self.concurrency:
            return math.inf
        heads = self.heads()
        alarms = [due for call in heads if (due := self.lane_due(call)) > now]
        eligible = [call for call in heads if self.lane_due(call) <= now]
        if eligible:
            alarms.append(self.due(min(eligible, key=lambda call: (call.priority, call.who))))
        return min(alarms)

    def heads(self):
        # Within a lane of its own limits nobody overtakes, however little it costs.
        return [
            call
            for call in self.waiting
            if call.key not in self.lanes
            or all(
                (call.priority, call.who) <= (other.priority, other.who)
                for other in self.waiting
                if other.key == call.key
            )
        ]

    def next_release(self, now):
        """Return (instant, call) of the next release, as things stand; None if there is none."""
        if not self.waiting or len(self.running) >= self.concurrency:
            return None
        heads = self.heads()
        instants = {now}
        for call in heads:
            instants |= {self.due(call), self.lane_due(call)}
        for instant in sorted(instants):
            if instant < now or instant == math.inf:
                continue
            eligible = [call for call in heads if self.lane_due(call) <= instant]
            if eligible:
                first = min(eligible, key=lambda call: (call.priority, call.who))
                if self.due(first) <= instant:
                    return instant, first
        return None
