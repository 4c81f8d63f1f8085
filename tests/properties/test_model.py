"""One queue and one naive model, put through the same random history."""

from __future__ import annotations

import asyncio
import math
from types import NoneType

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aioapiqueue import ApiQueue, QueueClosed, Rate, SlotTimeout, Window
from aioapiqueue.testing import VirtualLoop
from tests.helpers import introspect
from tests.helpers.naive_model import Model, NaiveCall, NaiveRate, NaiveWindow

# All figures are sums of powers of two, so that both sides reckon without rounding.
INTERVALS = st.sampled_from([0.125, 0.25, 0.5, 1.0])
RATES = st.builds(
    lambda interval, burst: Rate(1, interval, burst), INTERVALS, st.sampled_from([1, 2, 3])
)
WINDOWS = st.builds(Window, st.sampled_from([4, 6]), st.sampled_from([1.0, 2.0]))
LIMITS = st.one_of(
    st.lists(RATES, min_size=1, max_size=1),
    st.tuples(RATES, WINDOWS).map(list),
    st.lists(WINDOWS, min_size=1, max_size=1),
    st.lists(RATES, min_size=2, max_size=2),
)
STEPS = st.integers(1, 48).map(lambda n: n / 16)
KEYS = st.sampled_from([None, "a", "b", "c"])


def naive(limits, now):
    return [
        NaiveRate(limit.interval, limit.burst, now)
        if isinstance(limit, Rate)
        else NaiveWindow(limit.calls, limit.per)
        for limit in limits
    ]


def successors(old, limits, now):
    """Return other limits, with what the old ones have let through."""
    new = naive(limits, now)
    gone, kept, changed, fresh = [], [], {}, []
    for kind in (NaiveRate, NaiveWindow):
        before = [limit for limit in old if type(limit) is kind]
        after = [limit for limit in new if type(limit) is kind]
        for other in list(after):  # an equal one first: two may be given in another order
            one = next((limit for limit in before if limit.figures() == other.figures()), None)
            if one is not None:
                one.replaced_by(other, now)
                before.remove(one)
                after.remove(other)
                kept.append(other)
        for one, other in zip(before, after, strict=False):
            one.replaced_by(other, now)
            changed[one] = other
        for other in after[len(before) :]:
            other.set_at = now
            fresh.append(other)
        gone += before[len(after) :]
    take_over(fresh, gone, now)
    take_over(fresh, [*kept, *changed], now, beside=True)
    for one, limit in changed.items():
        take_over(
            [limit], [*gone, *(other for other in changed if other is not one)], now, beside=True
        )
    return new


def take_over(limits, others, now, *, beside=False):
    for limit in limits:
        for other in others:
            limit.take_over(other.let_through(now), now, beside)


class QueueMachine(RuleBasedStateMachine):
    """Every rule is done to both; after each, they agree on who was released when."""

    queue_class = ApiQueue
    fault = staticmethod(lambda queue: None)
    model_class = Model
    cancels_at_grants = True

    @initialize(
        limits=LIMITS,
        # Only without lanes do costs vary: see `fitting`.
        lanes=st.one_of(st.just({}), st.dictionaries(st.sampled_from(["a", "b"]), LIMITS)),
        concurrency=st.sampled_from([None, 1, 2, 5]),
    )
    def start(self, limits, lanes, concurrency):
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.loop = self.runner.get_loop()
        self.queue = self.queue_class(*limits, lanes=lanes, concurrency=concurrency, catch_up=0)
        self.fault(self.queue)
        introspect.after_grants(self.queue, self.cancel_if_marked)
        self.model = self.model_class(
            naive(limits, -math.inf),
            {key: naive(own, -math.inf) for key, own in lanes.items()},
            math.inf if concurrency is None else concurrency,
        )
        self.count = 0
        self.released = []
        self.tasks = {}
        self.calls = {}
        self.slots = {}
        self.ends = {}
        self.marked = set()
        self.settled = set()
        self.released_under_old_limits = 0

    def cancel_if_marked(self, slot, _):
        who = self.calls[slot]
        if who in self.marked:
            self.tasks[who].cancel()

    async def run_call(self, call, slot):
        async with slot:
            self.released.append((self.loop.time(), call.who))
            self.slots[call.who] = slot
            if not call.ends_at_once:
                await self.ends[call.who].wait()

    def do(self, action=lambda: None, *, seconds=0.0):
        """Act on the queue; let it and the model run for so long."""

        async def act():
            action()
            await asyncio.sleep(seconds)
            for _ in range(20 + 6 * self.queue.waiting):
                await asyncio.sleep(0)

        self.runner.run(act())
        self.model.run(self.now - seconds, self.now)

    @property
    def now(self):
        return self.loop.time()

    @rule(
        key=KEYS,
        priority=st.sampled_from([0, 0, 0, -1, 1]),
        cost=st.sampled_from([1, 1, 1, 0.5, 2, 3]),
        ends_at_once=st.booleans(),
        patience=st.sampled_from([None, None, 0.25, 2.0]),
    )
    def submit(self, key, priority, cost, ends_at_once, patience):
        key, cost = self.fitting(key, cost)
        self.count += 1
        gives_up_at = math.inf if patience is None else self.now + patience + 1 / 1024
        call = NaiveCall(self.count, key, priority, cost, ends_at_once, gives_up_at)

        def act():
            slot = self.queue.slot(
                key=key,
                priority=priority,
                cost=cost,
                timeout=None if patience is None else patience + 1 / 1024,
            )
            self.calls[slot] = call.who
            self.ends[call.who] = asyncio.Event()
            self.tasks[call.who] = self.loop.create_task(self.run_call(call, slot))

        self.model.submit(call, self.now)
        self.do(act)

    def fitting(self, key, cost):
        # Who needs much of a limit closes it to those who need less, if that is the limit that it
        # waits for: with lanes, the model says who goes first for equal costs only.
        return key, 1 if self.model.lanes else cost

    def fitting_limits(self, limits, key):  # noqa: ARG002 - some machines need it
        return limits

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def cancel_a_waiter(self, data):
        call = data.draw(st.sampled_from(self.model.waiting))
        self.model.waiting.remove(call)
        self.do(self.tasks[call.who].cancel)

    @precondition(lambda self: self.cancels_at_grants and self.model.waiting)
    @rule(data=st.data())
    def cancel_a_waiter_when_it_is_granted(self, data):
        call = data.draw(st.sampled_from(self.model.waiting))
        call.cancelled_when_granted = True
        self.marked.add(call.who)

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), cancelled=st.booleans())
    def end_a_body(self, data, cancelled):
        who = data.draw(st.sampled_from(sorted(self.model.running)))
        del self.model.running[who]
        self.do(self.tasks[who].cancel if cancelled else self.ends[who].set)

    @precondition(lambda self: len(self.model.released) > self.released_under_old_limits)
    @rule(data=st.data(), cost=st.sampled_from([0.5, 2, 4]))
    def settle_once(self, data, cost):
        recent = self.model.released[self.released_under_old_limits :]
        at, who = data.draw(st.sampled_from(recent))
        if self.slots[who] in self.settled:
            return
        self.settled.add(self.slots[who])
        call_limits = [*self.model.limits, *self.model.lanes.get(self.slots[who].key, [])]
        if any(isinstance(limit, NaiveRate) and limit.burst == 1 for limit in call_limits):
            return  # what a pace without burst gives back is less than the model's: see adjust
        for limit in call_limits:
            if cost > self.model.costs[who] or not self.model.keeps(limit, self.slots[who].key, at):
                limit.change(who, cost, self.now)
        self.do(lambda: self.slots[who].settle(cost))

    @rule(seconds=STEPS)
    def pass_time(self, seconds):
        self.do(seconds=seconds)

    # A timeout may end between a grant and its refund; the model knows no such moment.
    @precondition(lambda self: not any(w.cancelled_when_granted for w in self.model.waiting))
    @rule(seconds=STEPS)
    def stall(self, seconds):
        # A newcomer that starts at once wakes nobody: the timer of those who wait may be early. In
        # a stall that decides which of two that have passed rings first.
        if not self.rounding:
            self.do(lambda: self.queue.hold(0))
        # A call that was due within its timeout can be decided after the stall, before one ahead of
        # it that was not: then all that are due by now start, and that one with them.
        ended = [w for w in self.model.waiting if w.gives_up_at <= self.now + seconds]
        late = [self.model.due_by_itself(w) > w.gives_up_at for w in ended]
        if any(late) and not all(late):
            return
        self.model.stall(self.now, self.now + seconds)
        self.do(lambda: self.loop.stall(seconds))

    @rule(seconds=st.one_of(st.none(), STEPS))
    def pause(self, seconds):
        until = math.inf if seconds is None else self.now + seconds
        self.model.paused_until = max(self.model.paused_until, until)
        self.do(lambda: self.queue.pause(seconds))

    @rule()
    def resume(self):
        self.model.paused_until = min(self.model.paused_until, self.now)
        self.do(self.queue.resume)

    @rule(seconds=STEPS)
    def push_back(self, seconds):
        until = self.now + seconds
        self.model.pushed_back_until = max(self.model.pushed_back_until, until)
        self.do(lambda: self.queue.throttled(seconds))

    @rule(limits=LIMITS)
    def set_rate(self, limits):
        limits = self.fitting_limits(limits, None)
        self.released_under_old_limits = len(self.model.released)
        self.model.limits = successors(self.model.limits, limits, self.now)
        self.do(lambda: self.queue.set_rate(*limits))

    @precondition(lambda self: all(call.cost == 1 for call in self.model.waiting))
    @rule(limits=LIMITS, key=st.sampled_from(["a", "b", "c"]))
    def set_lane(self, limits, key):
        limits = self.fitting_limits(limits, key)
        self.released_under_old_limits = len(self.model.released)
        self.model.lanes[key] = successors(self.model.lanes.get(key, []), limits, self.now)
        self.do(lambda: self.queue.set_rate(*limits, key=key))

    rounding = 0.0
    """Seconds by which an instant may be another."""

    @invariant()
    def both_agree(self):
        if not hasattr(self, "model"):
            return
        ours, theirs = self.released, self.model.released
        if self.marked and not self.rounding:
            # A slot that nobody takes up is given back when its task runs: others of that instant,
            # whose lane has room, may have started by then, before those of its own lane.
            ours, theirs = sorted(ours), sorted(theirs)
        assert [who for _, who in ours] == [who for _, who in theirs]
        for (at, _), (due, _) in zip(ours, theirs, strict=True):
            assert abs(at - due) <= self.rounding
        assert self.queue.running == len(self.model.running)
        assert self.queue.waiting == len(self.model.waiting)
        assert self.queue.running <= self.model.concurrency
        if not self.model.waiting:
            timers = self.timers()
            assert introspect.ticker_of(self.queue) is None
            assert timers == 0

    def timers(self):
        return self.loop.pending_timers

    def teardown(self):
        if hasattr(self, "runner"):
            for end in self.ends.values():
                end.set()

            async def close():
                await self.queue.aclose(drain=False)
                await asyncio.gather(*self.tasks.values(), return_exceptions=True)
                assert asyncio.all_tasks() == {asyncio.current_task()}

            self.runner.run(close())
            for task in self.tasks.values():
                if not task.cancelled():
                    assert isinstance(task.exception(), NoneType | SlotTimeout | QueueClosed), (
                        task.exception()
                    )
            assert self.queue.running == 0
            self.runner.close()


@pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_promises_1_to_7_as_the_model(examples):
    """The same callers start at the same instants as in the model, whatever happens."""
    run_state_machine_as_test(
        QueueMachine, settings=settings(max_examples=examples, stateful_step_count=40)
    )


def one_more(limit):
    return Rate(limit.calls, limit.per, limit.burst + 1) if isinstance(limit, Rate) else limit


def take_bursts_for_one_more(queue):
    set_rate = queue.set_rate
    queue.set_rate = lambda *limits, key=None: set_rate(*map(one_more, limits), key=key)
    queue.set_rate(*queue.limits)


CHANGES = ["set_rate", "set_lane", "settle_once", "pause", "resume", "push_back", "stall"]
ENDS = ["end_a_body", "cancel_a_waiter"]
HOLDS = ["pause", "resume", "push_back", "stall"]


@pytest.mark.parametrize(
    ("broken", "left_out"),
    [
        (take_bursts_for_one_more, []),
        (introspect.lose_refunds, [*CHANGES, *ENDS]),  # with all of them, it shows seldom:
        pytest.param(introspect.lose_refunds, [], marks=pytest.mark.slow),
        (introspect.ignore_priorities, []),
        (introspect.ignore_lane_limits, HOLDS),  # with holds, it may show late:
        pytest.param(introspect.ignore_lane_limits, [], marks=pytest.mark.slow),
        (introspect.shorten_holds, []),
    ],
)
def test_the_model_catches_a_broken_scheduler(broken, left_out):
    """Each of five broken queues is told from the model, with all rules or some left out."""

    class Broken(QueueMachine):
        fault = staticmethod(broken)

    for rule_left_out in left_out:
        assert callable(getattr(Broken, rule_left_out))
        setattr(Broken, rule_left_out, None)
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        run_state_machine_as_test(
            Broken,
            settings=settings(
                max_examples=3000,
                stateful_step_count=40,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                report_multiple_bugs=False,
            ),
        )
