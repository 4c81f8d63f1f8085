"""Random histories against a server that counts: what it says remains is never exceeded.

Nobody else uses the quota. Requests and answers are on their way for some time, and overtake each
other; calls are cancelled at any instant, or have answers that say nothing. Promises 1, 3 and 5.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.spi import Reporter
from tests.helpers import introspect
from tests.helpers.instants import now
from tests.helpers.quota_server import Bucket, QuotaServer, Windows

PERIOD = 10.0


class Job(NamedTuple):
    """One call."""

    pause: float
    """Seconds after the call before."""
    cost: int
    used: float
    """Which part of that it turns out to need."""
    there: float
    """Seconds that the request is on its way, and below, the answer."""
    back: float
    body: float
    """Seconds for which it goes on when it has been answered, as a stream does."""
    end: str
    cancelled_after: float


def jobs_that_end(*ends, back=(0, 0.01, 0.5, 3)):
    """Return a strategy of lists of calls that end so, with answers that take so many seconds."""
    job = st.builds(
        Job,
        st.sampled_from([0, 0, 0, 0.1, 1, 4]),
        st.integers(1, 4),
        st.sampled_from([0, 0.5, 1, 1]),
        st.sampled_from([0, 0, 0.01, 0.3]),
        st.sampled_from(back),
        st.sampled_from([0, 0, 1, 4]),
        st.sampled_from(ends),
        st.sampled_from([0.005, 0.2, 1, 2.5]),
    )
    return st.lists(job, max_size=40)


JOBS = jobs_that_end("answered", "answered", "answered", "silent", "cancelled")
SOON_ANSWERED_JOBS = jobs_that_end("answered", back=(0, 0.01, 0.5))
KINDS = st.sampled_from([Bucket, Windows])
LIMITS = st.integers(8, 30)


class Client:
    """Makes the calls of one history, and notes which started, in what order.

    Args:
        server: which.
        learns: whether the limits are learnt; else what remains is all that bounds them.
        fault: what to do to the queue before.
    """

    def __init__(self, server, *, learns, fault=lambda _: None):
        self.server = server
        self.learns = learns
        self.queue = ApiQueue(lanes={"*": ()})
        if learns:
            Reporter(self.queue).learn(["calls"])
        fault(self.queue)
        self.releases = introspect.record_releases(self.queue)
        self.numbers = {}
        """The number of each call, by its slot."""
        self.wrongly_refused = []

    @property
    def bounded_until(self):
        """Return when what the server has said ends, as far as the queue goes by it."""
        until = (bound.until for bound in introspect.bounds_of(self.queue, "k"))
        return max(until, default=-1.0)

    def answered(self, slot, figure):
        """Report what the server says."""
        if not self.learns:
            slot.sync(figure.remaining, reset=figure.reset, limit=figure.limit)
            return
        quotas = Reporter(self.queue)
        quotas.sync(
            slot,
            figure.remaining,
            unit="calls",
            reset=figure.reset,
            limit=figure.limit,
            period=PERIOD,
            refills=self.server.kind.refills,
        )
        quotas.adopt(slot, [Rate(figure.limit, per=PERIOD, burst=figure.limit)])

    async def call(self, number, job):
        """Make one call, perhaps cancelled while it waits or runs."""
        try:
            async with asyncio.timeout(job.cancelled_after if job.end == "cancelled" else None):
                slot = self.queue.slot(key="k", cost=job.cost)
                self.numbers[slot] = number
                async with slot:
                    await self.send(slot, job)
        except TimeoutError:
            pass

    async def send(self, slot, job):
        """Send the request of a call that has started, and report what comes."""
        bounded = self.learns or now() < self.bounded_until
        until = float("inf") if self.learns else self.bounded_until
        await asyncio.sleep(job.there)
        came = now()
        taken = self.server.request(came, {"calls": job.cost})
        figure = self.server.figures(came)["calls"]
        if not taken:
            if bounded and came < until:
                self.wrongly_refused.append((came, job))
            slot.settle(0)
            return
        try:
            await asyncio.sleep(job.back)
            if not self.learns:  # what is late may lack calls that have been answered since
                figure = self.server.figures(now())["calls"]
            if job.end == "answered":
                self.answered(slot, figure)
            await asyncio.sleep(job.body)
        finally:
            self.server.give_back(now(), came, {"calls": job.cost * (1 - job.used)})
        slot.settle(job.cost * job.used)


async def history(client, jobs, *, may_be_refused):
    """Let all calls come, after one that shows what remains; check what must hold of them."""
    first = Job(0, 1, 1, 0.01, 0.01, 0, "answered", 0)
    tasks = [asyncio.create_task(client.call(-1, first))]
    await asyncio.sleep(0 if client.learns else 0.1)
    for number, job in enumerate(jobs):
        await asyncio.sleep(job.pause)
        tasks.append(asyncio.create_task(client.call(number, job)))
    await asyncio.wait(tasks, timeout=100 * PERIOD)
    assert all(task.done() for task in tasks), "stuck"
    for task in tasks:
        await task
    assert may_be_refused or client.wrongly_refused == []
    numbers = [client.numbers[slot] for _, slot in client.releases]
    assert numbers == sorted(numbers)  # one lane, one priority
    queue = client.queue
    stats = queue.stats
    assert stats.released + stats.cancelled == 1 + len(jobs) == len(client.numbers)
    assert (stats.waiting, stats.running, introspect.left_over(queue)) == (0, 0, [])
    await asyncio.sleep(3 * PERIOD)
    assert queue.estimate(key="k", cost=4) == 0


def run(run_virtual, kind, limit, used_before, jobs, *, may_be_refused=False, **options):
    """Run a history on a server of which some was used before."""
    server = QuotaServer(kind, {"calls": limit}, period=PERIOD)
    assert server.request(0, {"calls": used_before})

    async def main():
        await history(Client(server, **options), jobs, may_be_refused=may_be_refused)

    run_virtual(main)


@given(KINDS, LIMITS, st.integers(0, 7), JOBS)
def test_promise_1_what_remains_holds(run_virtual, kind, limit, used_before, jobs):
    """While a figure holds, the server refuses nothing that started; none is lost or stuck."""
    run(run_virtual, kind, limit, used_before, jobs, learns=False)


@given(LIMITS, st.integers(0, 7), JOBS)
@example(  # the answers to the first two come long after the bucket is full by what they say
    9,
    3,
    [
        *(Job(0, 4, 1, 0, back, 0, "answered", 0) for back in (0, 3)),
        *(Job(0, cost, 1, 0, 0, 0, "answered", 0) for cost in (2, 4, 1)),
    ],
)
def test_promise_1_a_learnt_bucket_holds(run_virtual, limit, used_before, jobs):
    """From the first call on, the server refuses nothing; FIFO, none lost, none stuck."""
    run(run_virtual, Bucket, limit, used_before, jobs, learns=True)


@given(LIMITS, st.integers(0, 7), SOON_ANSWERED_JOBS)
@example(  # two are out for longer than their lane's limit takes to let one more through
    8,
    0,
    [
        Job(0, 1, 0, 0, 0, 0, "answered", 0),
        *(Job(pause, 4, 1, 0, 3, 0, "answered", 0) for pause in (12, 0)),
        Job(0, 1, 0, 0, 0, 0, "answered", 0),
    ],
)
def test_promise_1_learnt_windows_hold(run_virtual, limit, used_before, jobs):
    """As of a bucket, if all calls are answered soon.

    A window begins with the first call that the server sees. If that has no answer, or one that
    comes late, nobody knows when, and so not when it ends: see below.
    """
    run(run_virtual, Windows, limit, used_before, jobs, learns=True)


@given(LIMITS, st.integers(0, 7), JOBS)
def test_learnt_windows_without_answers(run_virtual, limit, used_before, jobs):
    """FIFO, none lost, none stuck, whatever has no answer; some may be refused."""
    run(run_virtual, Windows, limit, used_before, jobs, learns=True, may_be_refused=True)


# Faults, which the histories above have to find.


def find(run_virtual, fault, *, learns):
    """Look for a history in which the fault shows."""

    @settings(
        max_examples=1000,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    @given(KINDS, LIMITS, st.integers(0, 7), JOBS)
    def holds(kind, limit, used_before, jobs):
        run(run_virtual, kind, limit, used_before, jobs, learns=learns, fault=fault)

    with pytest.raises((AssertionError, BaseExceptionGroup)):
        holds()


FAULTS = [
    (introspect.count_nothing_as_out, False),
    (introspect.forget_unanswered_ends, True),
    (introspect.charge_no_bound, False),
    (introspect.charge_no_bound, True),
]


@pytest.mark.parametrize(("fault", "learns"), FAULTS)
def test_planted_faults_are_found(run_virtual, fault, learns):
    """What is left without one of these is too much: some history shows it."""
    find(run_virtual, fault, learns=learns)
