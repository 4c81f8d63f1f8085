"""What the local LLM servers admit, at exact instants, without sockets."""

from __future__ import annotations

import asyncio
import math

import pytest

from tests.helpers.instants import now
from tests.helpers.llm_servers import Job, Ledger, Quotas, count_tokens, least_time, prompt

LIMITS = {"calls": 4, "tokens": 100}


def quotas(algorithm, **limits):
    """Make quotas of 10 s."""
    return Quotas(limits or LIMITS, period=10, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["bucket", "window", "sliding"])
class TestAll:
    """What the three ways of counting have in common."""

    def test_all_or_nothing(self, algorithm):
        """A request that does not fit by its tokens does not count as a call."""
        one = quotas(algorithm)
        assert one.take(0, {"calls": 1, "tokens": 90}) is None
        refusal = one.take(0, {"calls": 1, "tokens": 20})
        assert (refusal.unit, refusal.limit, refusal.remaining, refusal.cost) == (
            ("tokens", 100, 10, 20)
        )
        assert (one.remaining(0, "calls"), one.remaining(0, "tokens")) == (3, 10)

    def test_refusal_says_when(self, algorithm):
        """At the instant that a refusal names the request is admitted, and not before."""
        one = quotas(algorithm)
        one.take(0, {"tokens": 60})
        one.take(3, {"tokens": 40})
        after = one.take(5, {"tokens": 70}).after
        assert one.take(5 + after - 0.001, {"tokens": 70}) is not None
        assert one.take(5 + after, {"tokens": 70}) is None

    def test_longest_wait_is_told(self, algorithm):
        """Of two units that do not fit, the refusal is about the one that takes longer."""
        both, periods = {"calls": 1, "calls_per_day": 1}, {"calls": 10, "calls_per_day": 500}
        one = Quotas(both, period=periods, algorithm=algorithm)
        one.take(0, both)
        refusal = one.take(0, both)
        assert (refusal.unit, refusal.after) == ("calls_per_day", 500)

    def test_above_the_limit(self, algorithm):
        """What never fits is refused for ever."""
        assert quotas(algorithm).take(0, {"tokens": 101}).after == math.inf

    def test_reset_is_full(self, algorithm):
        """After the reset all of a unit is free; just before it, it is not."""
        one = quotas(algorithm)
        one.take(0, {"tokens": 30})
        reset = one.reset(0, "tokens")
        assert one.remaining(reset - 0.001, "tokens") < 100
        assert one.remaining(reset, "tokens") == 100

    def test_credit_comes_back(self, algorithm):
        """What was not used can be taken by the next."""
        one = quotas(algorithm)
        one.take(0, {"calls": 1, "tokens": 100})
        one.credit(0.0, 0, {"tokens": 40})
        assert (one.remaining(0, "calls"), one.remaining(0, "tokens")) == (3, 40)

    def test_unlimited_unit(self, algorithm):
        """A unit without a limit is not counted."""
        assert quotas(algorithm, calls=1).take(0, {"calls": 1, "tokens": 1e9}) is None

    def test_charge_goes_below_zero(self, algorithm):
        """What is charged afterwards counts although it does not fit."""
        one = quotas(algorithm)
        one.charge(0, {"tokens": 120})
        assert one.remaining(0, "tokens") == -20
        assert one.take(0, {"tokens": 0}).unit == "tokens"


def test_bucket_fills_evenly():
    """100 tokens in 10 s are 10 in each, and never more than 100."""
    one = quotas("bucket")
    one.take(0, {"tokens": 100})
    assert one.remaining(2.5, "tokens") == 25
    assert one.reset(2.5, "tokens") == 7.5
    assert one.take(2.5, {"tokens": 40}).after == 1.5
    assert one.remaining(100, "tokens") == 100


def test_windows_begin_with_the_first():
    """The first request, at 3 s, begins windows that end at 13 s, 23 s and so on."""
    one = quotas("window")
    assert one.reset(0, "tokens") == 0
    one.take(3, {"tokens": 60})
    one.take(12, {"tokens": 40})
    assert one.take(12.5, {"tokens": 1}).after == 0.5
    assert one.remaining(13, "tokens") == 100
    assert one.reset(25, "tokens") == 8


def test_window_forgets_old_credit():
    """What was taken in an earlier window gives nothing back in this one."""
    one = quotas("window")
    one.take(0, {"tokens": 100})
    one.take(10, {"tokens": 50})
    one.credit(11, 0, {"tokens": 40})
    assert one.remaining(11, "tokens") == 50


def test_sliding_counts_each_alone():
    """What arrived at 0 s and at 4 s counts until 10 s and until 14 s."""
    one = quotas("sliding")
    one.take(0, {"tokens": 60})
    one.take(4, {"tokens": 40})
    assert one.take(5, {"tokens": 50}).after == 5
    assert one.take(5, {"tokens": 70}).after == 9
    assert one.reset(5, "tokens") == 9
    assert [one.remaining(at, "tokens") for at in (9.999, 10, 13.999, 14)] == [0, 60, 60, 100]


def test_sliding_credit_is_of_its_instant():
    """What comes back is that of the request at 0 s, so that at 10 s no more of it is freed."""
    one = quotas("sliding")
    one.take(0, {"tokens": 60})
    one.take(4, {"tokens": 40})
    one.credit(5, 0, {"tokens": 50})
    assert one.remaining(5, "tokens") == 50
    assert one.remaining(10, "tokens") == 60


@pytest.mark.parametrize(
    ("algorithm", "least"), [("bucket", 16.0), ("window", 20.0), ("sliding", 20.0)]
)
def test_least_time_in_order(algorithm, least):
    """Of jobs of 100, 100 and 60 tokens, by hand: 0, 10 and 16 s, or 0, 10 and 20 s."""
    jobs = [Job({"tokens": cost}) for cost in (100, 100, 60)]
    assert least_time(quotas(algorithm), jobs) == pytest.approx(least)


def test_least_time_uses_what_returns():
    """The second job of 60 fits when the first, which used 30 of its 100, ends at 2 s."""
    jobs = [Job({"tokens": 100}, 2.0, {"tokens": 70}), Job({"tokens": 60})]
    assert least_time(quotas("sliding"), jobs) == 2.0


def test_least_time_of_no_time():
    """A job above the limit is named."""
    with pytest.raises(ValueError, match="job 1 never fits"):
        least_time(quotas("bucket"), [Job({"tokens": 1}), Job({"tokens": 101})])


def test_models_count_apart():
    """Each model has quotas of its own, of its own limits if given, or those of its family."""
    ledger = Ledger(
        {"calls": 1},
        models={"large": {"calls": 2}},
        family=lambda model: model.partition("-")[0],
    )

    def arrive(model):
        return ledger.arrive(0, key="k", model=model, costs={"calls": 1}).refusal is None

    assert [arrive("small"), arrive("small")] == [True, False]
    assert [arrive("large-1"), arrive("large-2"), arrive("large-3")] == [True, True, False]
    assert [one.model for one in ledger.refusals] == ["small", "large-3"]


def test_days_are_long():
    """Units that end in "_per_day" have a day, the others the period."""
    ledger = Ledger({"calls": 9, "calls_per_day": 9}, period=10)
    assert ledger.quotas("m").periods == {"calls": 10, "calls_per_day": 86_400}


async def test_ledger_in_virtual_time():
    """A client that waits as long as each refusal says is admitted at the least time."""
    ledger = Ledger({"tokens": 100}, period=10)
    costs = [{"tokens": cost} for cost in (80, 50, 70)]

    def arrive(cost):
        return ledger.arrive(now(), key="k", model="m", costs=cost)

    for cost in costs:
        one = arrive(cost)
        if one.refusal is not None:
            await asyncio.sleep(one.refusal.after)
            one = arrive(cost)
        ledger.end(now(), one, {})
    assert len(ledger.refusals) == 2
    assert [round(one.at, 6) for one in ledger.log if one.refusal is None] == [0, 3, 10]
    assert least_time(ledger.new_quotas(), ledger.jobs()) == pytest.approx(now())


def test_least_time_of_a_share():
    """Beside a client that uses a half, it is that of half the limits, of one key's jobs."""
    ledger = Ledger({"tokens": 100}, period=10)
    for key in ("mine", "other"):
        ledger.end(1, ledger.arrive(0, key=key, model="m", costs={"tokens": 50}), {})
    jobs = ledger.jobs(key="mine")
    assert jobs == [Job({"tokens": 50}, 1)]
    assert least_time(ledger.new_quotas(share=0.5), jobs * 3) == 20


def test_prompt_has_its_tokens():
    """A prompt is filled up to the tokens that it shall have, and refuses fewer than its script."""
    assert count_tokens(prompt(50, out=120, seconds=0.4)) == 50
    assert count_tokens("abcd", "e") == 2
    with pytest.raises(ValueError, match="the script alone is 7 tokens, above 3"):
        prompt(3, out=120, seconds=0.4)
