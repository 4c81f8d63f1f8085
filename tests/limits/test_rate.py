from __future__ import annotations

import asyncio
import copy
import dataclasses
import math
import pickle
import re
import subprocess
import sys
import time
import zoneinfo
from datetime import datetime

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aioapiqueue import ApiQueue, Calendar, Concurrency, Rate, Window
from aioapiqueue.spi import checks, grammar, limit_types
from tests.helpers import introspect
from tests.helpers.yardstick import slowness

UNITS = st.from_regex(r"[a-z_][a-z0-9_]{0,20}", fullmatch=True)
NUMBERS = st.integers(1, int(checks.LARGEST)) | st.floats(0, checks.LARGEST, exclude_min=True)
TIMES = (
    st.floats(0, checks.LONGEST, exclude_min=True)
    | st.floats(1e-3, 1)
    | st.integers(1, int(checks.LONGEST))
    | st.integers(1, 2000).map(lambda count: count / 1000)
    | st.builds(lambda size, count: size * count, st.sampled_from([60, 3600, 86400]),
                st.integers(1, 99))
)  # fmt: skip
ZONES = sorted(zoneinfo.available_timezones() - {"localtime"})


def if_valid(kind, *arguments):
    """Return a limit; numbers whose interval is out of range, and words, are not examples."""
    try:
        return kind(*arguments)
    except ValueError:
        assume(False)  # noqa: FBT003 - hypothesis takes it so


RATES = st.builds(if_valid, st.just(Rate), NUMBERS, TIMES,
                  st.just(1) | st.floats(1, checks.LARGEST) | st.integers(1, int(checks.LARGEST)),
                  st.just("calls") | UNITS)  # fmt: skip
LIMITS = (
    RATES
    | st.builds(if_valid, st.just(Window), st.integers(1, int(checks.LARGEST)), TIMES, UNITS)
    | st.builds(if_valid, st.just(Calendar), st.integers(1, int(checks.LARGEST)),
                st.sampled_from(["hour", "day", "month"]), st.sampled_from(ZONES), UNITS)
    | st.builds(Concurrency, st.integers(1, int(checks.LARGEST)))
)  # fmt: skip


POINTER = " (all forms: aioapiqueue docs limits)"


def refusal(read, text):
    """Return why a text is refused, which quotes it; without where all forms are shown."""
    with pytest.raises(ValueError, match=r"^['\"].* is not a (limit|rate): .") as caught:
        read(text)
    return str(caught.value).removesuffix(POINTER)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10)),
        ("10 / s", Rate(10)),
        ("10 per second", Rate(10)),
        ("500/min", Rate(500, 60)),
        ("5000/h", Rate(5000, 3600)),
        ("1/d", Rate(1, 86400)),
        ("7 per 2s", Rate(7, 2)),
        ("7/2s", Rate(7, 2)),
        ("3 per 10 minutes", Rate(3, 600)),
        ("0.2/s", Rate(0.2)),
        (".5/s", Rate(0.5)),
        ("100ms", Rate(1, 0.1)),
        ("0.5s", Rate(1, 0.5)),
        ("  2 MIN ", Rate(1, 120)),
        ("1 per 2 days", Rate(1, 172800)),
        ("1e3/s", Rate(1000)),
        ("1e-05/s", Rate(1e-5)),
        ("5/1.5E-1s", Rate(5, 0.15)),
        ("20/s burst 100", Rate(20, burst=100)),
        ("20/s BURST 2.5", Rate(20, burst=2.5)),
        ("20/s (burst 100)", Rate(20, burst=100)),
        ("100ms burst 3", Rate(1, 0.1, 3)),
        ("10 calls/s", Rate(10)),
        ("30000 tokens/min burst 30000", Rate(30000, 60, 30000, "tokens")),
        ("7 per_token per 2s", Rate(7, 2, unit="per_token")),
        ("1 tokens per 100ms", Rate(1, 0.1, unit="tokens")),
    ],
)
def test_strings_say_how_fast(text, rate):
    """A string is read as calls per time, or as the time from one call to the next."""
    assert Rate.parse(text) == rate
    assert ApiQueue(text).limits == (rate,)


@pytest.mark.parametrize(
    ("rate", "interval"),
    [
        (Rate.parse("10/s"), 0.1),
        (Rate.parse("500/min"), 0.12),
        (Rate.parse("7 per 2s"), 2 / 7),
        (Rate.parse("100ms"), 0.1),
        (Rate.parse("0.2/s"), 5.0),
        (Rate(7, 3), 3 / 7),
    ],
)
def test_interval_is_between_two_calls(rate, interval):
    """The interval is the time from one call to the next.

    `interval` is exact: no more than one division away from what was written.
    """
    assert rate.interval == interval


UNKNOWN = {"", "ten per s", "nan/s", "inf/s", "５/s", "5 per ２s", "٥ms", "5/ſ"}  # noqa: RUF001
"""Texts of which nothing is known but that they have no form."""


@pytest.mark.parametrize(
    "text",
    [
        "10/fortnight",
        "-1/s",
        "0/s",
        "0ms",
        "5/0s",
        "",
        "ten per s",
        "10",
        "1e3",
        "nan/s",
        "inf/s",
        "５/s",  # noqa: RUF001 - the digits of another script look alike
        "5 per ２s",  # noqa: RUF001
        "٥ms",  # noqa: RUF001
        "5/ſ",  # noqa: RUF001 - a long s
    ],
)
def test_bad_rate_string_is_quoted(text):
    """A string that is no rate is quoted, with what to write.

    Where nothing better is known, that is four examples, and where all forms are shown.
    """
    with pytest.raises(ValueError, match=" is not a limit: ") as caught:
        ApiQueue(text)
    assert repr(text) in str(caught.value)
    assert len(str(caught.value)) < 200
    assert ("write one such as" in str(caught.value)) == (text in UNKNOWN)
    assert str(caught.value).endswith(POINTER) == (text in UNKNOWN)


@pytest.mark.parametrize(
    ("make", "quoted"),
    [
        (lambda: Rate(float("nan")), "Rate(calls=nan"),
        (lambda: Rate(float("inf")), "Rate(calls=inf"),
        (lambda: Rate(0), "Rate(calls=0"),
        (lambda: Rate(-1), "Rate(calls=-1"),
        (lambda: Rate(1, 0), "per=0"),
        (lambda: Rate(1, float("inf")), "per=inf"),
        (lambda: Rate(1, burst=0.5), "burst=0.5"),
        (lambda: Rate(1, burst=float("nan")), "burst=nan"),
    ],
)
def test_bad_rate_numbers_are_quoted(make, quoted):
    """Numbers that make no rate are quoted.

    Zero, negative, infinite and NaN values are refused in words.
    """
    with pytest.raises(ValueError, match="must be finite and") as caught:
        make()
    assert quoted in str(caught.value)


@pytest.mark.parametrize("calls", ["10", None, True, 1j])
def test_other_types_are_no_rate(calls):
    """A rate of something else is a type error."""
    with pytest.raises(TypeError, match=r"calls must be a number, not [^:]*$"):
        Rate(calls)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Rate("10/s"), 'write ApiQueue("10/s") or Rate(10)'),
        (lambda: Window("60/min", 1), 'write ApiQueue("60/min") or Rate(60, per=60.0)'),
        (
            lambda: Window("10 in any 1h"),
            'write ApiQueue("10 in any 1h") or Window(10, per=3600.0)',
        ),
        (
            lambda: Calendar("10 in each day"),
            "write ApiQueue(\"10 in each day\") or Calendar(10, each='day')",
        ),
        (lambda: Concurrency("5 at once"), 'write ApiQueue("5 at once") or Concurrency(5)'),
    ],
)
def test_texts_are_no_arguments_of_limits(make, remedy):
    """A type that is given a limit's text says where the text goes, and which numbers it is."""
    with pytest.raises(
        TypeError, match=r"^\w+\(.*(calls|number) (must be|takes) a number"
    ) as caught:
        make()
    assert remedy in str(caught.value)


@pytest.mark.parametrize("calls", [100, 100.0])
def test_a_bare_number_has_two_readings(calls):
    """`ApiQueue(100)` could be milliseconds, seconds or calls: the TypeError names each."""
    with pytest.raises(TypeError) as caught:
        ApiQueue(calls)
    for reading in ('"100ms"', '"100s"', '"100/s"'):
        assert reading in str(caught.value)


@pytest.mark.parametrize("calls", [0, -3, -0.5, float("nan")])
def test_bare_numbers_are_above_zero(calls):
    """Nobody is told to write what would be refused next."""
    with pytest.raises(TypeError, match=f"a limit must be above 0, not {calls}: write one"):
        ApiQueue(calls)


@pytest.mark.parametrize("limit", [None, True, ("10/s",), object(), b"10/s"])
def test_other_types_are_no_limit(limit):
    """What is no limit is a type error: anything but a string, a Rate or the like."""
    with pytest.raises(TypeError, match=r"a limit must be a string, .*: write "):
        ApiQueue(limit)


@pytest.mark.parametrize(
    ("calls", "per", "error"),
    [
        (0, 1, ValueError),
        (-1, 1, ValueError),
        (1, 0, ValueError),
        (1, float("nan"), ValueError),
        (1, float("inf"), ValueError),
        (1.5, 1, TypeError),
        ("1", 1, TypeError),
        (True, 1, TypeError),
        (1, "1", TypeError),
    ],
)
def test_window_needs_whole_finite_numbers(calls, per, error):
    """A window is a whole number of calls in a finite time.

    An invalid window is refused, and quoted.
    """
    with pytest.raises(error, match=r"Window\(calls="):
        Window(calls, per)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("5000 in any 1h", [Window(5000, 3600)]),
        ("5000 In Any hour", [Window(5000, 3600)]),
        ("5000.0 in any 1 h", [Window(5000, 3600)]),
        ("30000 tokens in any 1h", [Window(30000, 3600, "tokens")]),
        ("1500 in each day", [Calendar(1500, "day")]),
        ("1500 in each day of UTC", [Calendar(1500, "day")]),
        ("1500 IN EACH DAY OF America/Los_Angeles", [Calendar(1500, "day", "America/Los_Angeles")]),
        ("100000 tokens in each month", [Calendar(100000, "month", unit="tokens")]),
        ("9 in each hour of Asia/Kathmandu", [Calendar(9, "hour", "Asia/Kathmandu")]),
        ("5 at once", [Concurrency(5)]),
        ("5 calls at once", [Concurrency(5)]),
        ("10/s, 5 at once", [Rate(10), Concurrency(5)]),
        (" 10/s ,5000 in any 1h", [Rate(10), Window(5000, 3600)]),
        ("20/s burst 100, 100ms", [Rate(20, burst=100), Rate(1, 0.1)]),
        ("unlimited", []),
        (" Unlimited ", []),
    ],
)
def test_grammar_has_all_limits(text, limits):
    """Every kind of limit has a form, and several have commas between them."""
    assert limit_types.parse_limits(text) == tuple(limits)
    assert limit_types.as_limits(text) == limit_types.as_limits(limits) == limits


@pytest.mark.parametrize("text", ["3k:\r0", "60 rpm burst \r5x", "9 requests:\r/s", "0k/s"])
def test_advice_is_a_limit(text):
    """An error never tells you to write what would be refused next."""
    with pytest.raises(ValueError, match="is not a limit") as caught:
        limit_types.parse_limits(text)
    assert "\r" not in str(caught.value)
    for advice in re.findall(r'write "([^"]*)"', str(caught.value)):
        limit_types.parse_limits(advice)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("30,000 tokens/min", "commas separate limits: write 30000, not '30,000'"),
        ("30,000 tokens/min", "limits: write 30000,"),
        ("1,000/s", "write 1000, not '1,000'"),
        ("20/s burst 100,100ms", "a space after the comma"),
        ("1,000,000/h", "write 1000000"),
        ("2,5/s", "commas separate limits: write 2.5, not '2,5'"),
        ("10/s, 2,5/s", "write 2.5"),
        ("10/s,", "a limit is missing before or after a comma"),
        (",", "a limit is missing before or after a comma"),
        ("10/s, unlimited", '"unlimited" cannot be combined with others'),
        ("", "write one such as"),
        ("10", 'a bare number is ambiguous: write "10/s", "10s" or "10ms"'),
        ("30000 tokens", 'it has no time: write "30000 tokens/min"'),
        ("30000 Tokens/min", "lower-case letters, digits and _, not 'Tokens': write 'tokens'"),
        ("5 input-tokens/min", "not 'input-tokens': write 'input_tokens'"),
        ("5 at once/min", ""),
        ("30000tokens/min", 'write a space before the unit: "30000 tokens"'),
        ("3k/s", 'write "3000/s"'),
        ("2.5M tokens/min", 'write "2500000 tokens/min"'),
        ("3k", 'write "3000/s", "3000s"'),
        ("3k requests/h", 'calls are counted without a unit: write "3000/h"'),
        ("10 requests/s", 'calls are counted without a unit: write "10/s"'),
        ("10 Req/s burst 5", 'calls are counted without a unit: write "10/s burst 5"'),
        ("10rq per 2s", 'calls are counted without a unit: write "10 per 2s"'),
        ("10 request", 'calls are counted without a unit: write "10/s"'),
        ("9 calls/s, 5 reqs at once", 'calls are counted without a unit: write "5 at once"'),
        ("9 requests/week", "'week' is not a unit of time"),
        ("10rps", 'write "10/s"'),
        ("10 Hz", 'write "10/s"'),
        ("10 rpm/s", 'write "10/min"'),
        ("60 RPM burst 5", 'write "60/min burst 5"'),
        ("1000 rpd", 'write "1000/day"'),
        ("30000 tpm", 'write "30000 tokens/min"'),
        ("0 tpm", "its numbers must be above 0"),
        ("30k TPM", 'write "30000 tokens/min"'),
        ("30000 tpm burst 30000", 'write "30000 tokens/min burst 30000"'),
        ("50000 itpm", 'write "50000 input_tokens/min"'),
        ("8000 otpm", 'write "8000 output_tokens/min"'),
        ("5 concurrent", 'write "5 at once"'),
        ("5 parallel", 'write "5 at once"'),
        ("5 concurrent requests", 'write "5 at once"'),
        ("5 in parallel", 'write "5 at once"'),
        ("5 concurrency", 'write "5 at once"'),
        ("5 at a time", 'write "5 at once"'),
        ("max 5", 'write "5 at once"'),
        ("max 5 concurrent", 'write "5 at once"'),
        ("5 usd total", 'write "5 usd in all"'),
        ("5 usd in total", 'write "5 usd in all"'),
        ("$5 overall", 'write "5 usd in all"'),
        ("$5 or raise", 'write "5 usd in all"'),
        ("5$ in all", 'write "5 usd in all"'),
        ("$5/day", 'write "5 usd in each day"'),
        ("$5 per hour", 'write "5 usd in each hour"'),
        ("$0.5/min", 'a rate in usd needs a burst, the most that is spent at once: write "0.5 '),
        ("5 usd a day", 'write "5 usd in each day"'),
        ("5 usd in every month", 'write "5 usd in each month"'),
        ("5 usd daily", 'write "5 usd in each day"'),
        ("5 usd hourly", 'write "5 usd in each hour"'),
        ("100 requests a day", 'calls are counted without a unit: write "100 in each day"'),
        ("100 requests in all", 'calls are counted without a unit: write "100 in all"'),
        ("5 usd in al", 'write ms, s, min, h or day, or, for a budget, "in all"'),
        ("5 usd in all and 9/s", 'nothing may follow "in all", except for "or raise"; ", " separ'),
        ("10k calls in all", 'write "10000 calls in all"'),
        ("10/month", 'months differ in length: write "10 in each month" or "10 per 30 days"'),
        ("5 usd/month", 'write "5 usd in each month" or "5 usd in any 30 days"'),
        ("5 usd in all raise", 'write "5 usd in all or raise"'),
        ("5 usd in all or stop", 'write "or raise" at the very end'),
        ("9/s or raise burst 5", 'write "9/s burst 5 or raise"'),
        ("5 usd or raise", 'it has no time: write "5 usd in each day", '),
        ("5 or raise", "a bare number is ambiguous"),
        ("10 rps or raise", 'write "10/s or raise"'),
        ("9/s, or raise", "it belongs to the limit before it, without a comma"),
        ("5 in each day UTC", 'after "in each day", write a time zone, such as "of Europe/Berlin"'),
        ("0 calls daily", "its numbers must be above 0"),
        ("few", '"5 at once" or "5 usd in all"'),
        ("5000 in 1h", 'write "in any 1h"'),
        ("9 tokens in day", 'write "in any day"'),
        ("9 in 2 weeks", "'weeks' is not a unit of time"),
        ("5 min/s", "a unit cannot be called 'min'"),
        ("5 months in any 1h", "a unit cannot be called 'months'"),
        ("5 burst/s", ""),
        ("10/fortnight", "'fortnight' is not a unit of time: write ms, s, min, h or day"),
        ("5 tokens per 2 weeks", "'weeks' is not a unit of time"),
        ("5 in each week", 'write "in each hour", "in each day" or "in each month"'),
        ("5 in each 2 days", 'write "in each hour", "in each day" or "in each month"'),
        ("5 tokens at once", '"at once" counts calls, not tokens'),
        ("2.5 at once", "number must be a whole number, not 2.5"),
        ("0.5 in any 1s", "calls must be finite and at least 1, not 0.5"),
        ("1.5 in each day", "calls must be a whole number, not 1.5"),
        ("5 in any 1h burst 5", "only a rate can have a burst"),
        ("5 in any 0h", "its numbers must be above 0"),
        ("20/s burst 0", "its numbers must be above 0"),
        ("0/s", "its numbers must be above 0"),
        ("-5/s", "its numbers must be above 0"),
        ("- 0.5s", "its numbers must be above 0"),
        ("20/s burst 0.5", "burst must be finite and at least 1, not 0.5"),
        ("20/s burst", 'a number is missing after "burst": write "burst 20"'),
        ("100ms burst", 'a number is missing after "burst"'),
        ("1e999/s", "too large"),
        ("1e16/s", "calls must be at most 1e+15"),
        ("1e-400/s", "calls must be finite and above 0"),
        ("1 in each day of Los_Angeles", "did you mean 'America/Los_Angeles'?"),
        ("1/s" + " " * 450 + "burst 5", "more than 400 characters"),
    ],
)  # fmt: skip
def test_refusals_name_the_remedy(text, why):
    """What is no limit is quoted, with the reason where one is known, or the forms."""
    message = refusal(limit_types.parse_limits, text)
    assert " is not a limit" in message
    assert why in message


@pytest.mark.parametrize("kind", [Rate, Window])
@pytest.mark.parametrize("unit", ["requests", "req", "call", "rps"])
def test_words_for_calls_are_no_unit(kind, unit):
    """A limit of `requests` would refuse, at the first call, each that does not name its own."""
    with pytest.raises(ValueError, match=f"calls are counted without a unit: remove '{unit}'$"):
        kind(10, 60, unit=unit)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("unlimited", "one limit is expected here; leave it out for no limit"),
        ("10/s, 5 at once", "one limit is expected here, not 2"),
    ],
)
def test_one_limit_is_one(text, why):
    """Where one limit goes, several or none are refused."""
    for read in (limit_types.as_limit, limit_types.parse_limit):
        assert refusal(read, text) == f"{text!r} is not a limit: {why}"
    assert refusal(Rate.parse, text) == f"{text!r} is not a rate: {why}"


@pytest.mark.parametrize("text", ["5000 in any 1h", "1500 in each day", "5 at once"])
def test_rate_parse_reads_only_rates(text):
    """`Rate.parse` says what else a text is."""
    message = refusal(Rate.parse, text)
    assert message == f"{text!r} is not a rate: it is {limit_types.parse_limit(text)!r}"


@pytest.mark.parametrize(
    ("limits", "error", "why"),
    [
        (["10/s", "unlimited"], ValueError, "cannot be combined with others"),
        (("unlimited", Rate(1)), ValueError, "cannot be combined with others"),
        ([["10/s"]], TypeError, "a limit must be a string, Rate"),
        ((["10/s", "9/h"],), TypeError, r"\]: write '10/s', '9/h' without the brackets$"),
        ([100], TypeError, "a bare 100 is ambiguous"),
        ({"rate": "10/s"}, TypeError, "a limit must be a string, Rate"),
    ],
)
def test_lists_of_limits_are_checked(limits, error, why):
    """A list has limits only, and "unlimited" only alone."""
    with pytest.raises(error, match=why):
        limit_types.as_limits(limits)


@pytest.mark.parametrize(
    "limits",
    [
        ["500 token/min", "100 tokens/min"],
        ["10/s, 500 tokens/min, 5000 token in any 1h"],
        [Rate(1, unit="tokens"), Window(9, 60, unit="token")],
    ],
)
def test_singular_and_plural_are_one_unit(limits):
    """Limits of `token` and of `tokens` are refused: a call would have to name both."""
    with pytest.raises(ValueError, match="units 'token' and 'tokens' differ: use one name"):
        limit_types.as_limits(limits)
    with pytest.raises(ValueError, match="units 'token' and 'tokens' differ: use one name"):
        ApiQueue(*limits)
    assert len(limit_types.as_limits(["5 token/min", "9 token in any 1h", "5 at once"])) == 3


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Rate(10), "10/s"),
        (Rate(10.0, 1), "10/s"),
        (Rate(500, 60), "500/min"),
        (Rate(5000, 3600), "5000/h"),
        (Rate(1, 86400), "1/day"),
        (Rate(0.2), "0.2/s"),
        (Rate(1 / 3), "0.3333333333333333/s"),
        (Rate(1e-5), "1e-05/s"),
        (Rate(1234567), "1234567/s"),
        (Rate(7, 2), "7 per 2s"),
        (Rate(3, 600), "3 per 10min"),
        (Rate(5, 0.001), "5/ms"),
        (Rate(1, 0.1), "100ms"),
        (Rate(1, 0.07), "70ms"),
        (Rate(1, 1 / 7), "0.14285714285714285s"),
        (Rate(1, 0.1, 5), "1 per 100ms burst 5"),
        (Rate(20, burst=100), "20/s burst 100"),
        (Rate(20, burst=2.5), "20/s burst 2.5"),
        (Rate(30000, 60, 30000, "tokens"), "30000 tokens/min burst 30000"),
        (Rate(1, 0.1, unit="tokens"), "1 tokens per 100ms"),
        (Window(5000, 3600), "5000 in any 1h"),
        (Window(50, 60), "50 in any 1min"),
        (Window(5, 90), "5 in any 90s"),
        (Window(5, 604800, "tokens"), "5 tokens in any 7d"),
        (Calendar(1500, "day"), "1500 in each day"),
        (Calendar(9, "month", "Asia/Kathmandu"), "9 in each month of Asia/Kathmandu"),
        (Calendar(9, "hour", "Asia/Tokyo", "tokens"), "9 tokens in each hour of Asia/Tokyo"),
        (Concurrency(5), "5 at once"),
    ],
)  # fmt: skip
def test_limits_read_as_they_are_meant(limit, text):
    """`str` is for people, and is read as an equal limit."""
    assert str(limit) == text
    assert limit_types.parse_limit(text) == limit


@given(LIMITS)
@example(Rate(5e-324, 5e-324))
@example(Rate(checks.LARGEST, 1e-300, checks.LARGEST, "a" * 64))
def test_text_reads_back_as_equal(limit):
    """For every valid limit, `str` is text that is read as an equal one."""
    assert limit_types.parse_limits(str(limit)) == (limit,)
    assert limit_types.parse_limits(f"{limit}, {limit}") == (limit, limit)


@pytest.mark.parametrize("limit", [Rate(10), Rate(20, burst=100), Window(5000, 3600)])
def test_queue_shows_its_limits(limit):
    """A queue's repr has its limits as text."""
    assert str(limit) in repr(ApiQueue(limit))


@given(LIMITS)
def test_repr_makes_an_equal_limit(limit):
    """`repr` is that of a dataclass; it has no unit where that is calls."""
    assert eval(repr(limit)) == limit  # noqa: S307 - our own text
    assert ("unit=" in repr(limit)) == (getattr(limit, "unit", "calls") != "calls")
    assert pickle.loads(pickle.dumps(limit)) == copy.deepcopy(limit) == limit  # noqa: S301


@given(st.text() | st.text("0123456789.,e-+ /sminpertokanychufdlb()_", max_size=40))
def test_any_text_is_read_or_refused(text):
    """No text is an error other than a refusal, which says where all forms are, or more."""
    try:
        limit_types.parse_limits(text)
    except grammar.LimitTextError as error:
        assert " is not a limit: " in str(error)  # noqa: PT017 - not all texts are refused
        assert bool(error.reason) != str(error).endswith(POINTER)  # noqa: PT017


def test_long_texts_are_cut_short():
    """A refusal quotes sixty characters in full, and no more of a longer text."""
    assert refusal(limit_types.parse_limits, "x" * 60).startswith(f"'{'x' * 60}' is not a limit")
    assert refusal(limit_types.parse_limits, "x" * 61).startswith(f"'{'x' * 60}...' is not a limit")


@pytest.mark.parametrize("part", ["9", "9,", "1,1", "1/s, ", " ", "1/s,", "1,000,", "é"])
def test_long_texts_take_little_time(part):
    """What takes time by the square of a length, a hundred thousand characters show.

    It may take two seconds of CPU time on an ordinary machine.
    """
    began = time.process_time()
    refusal(limit_types.parse_limits, part * (100_000 // len(part)) + "x")
    took = time.process_time() - began
    assert took < 2 or took < 2 * slowness()


@pytest.mark.parametrize(
    ("unit", "error", "why"),
    [
        ("s", ValueError, "cannot be called 's': the word has another meaning"),
        ("minutes", ValueError, "cannot be called 'minutes'"),
        ("burst", ValueError, "cannot be called 'burst'"),
        ("unlimited", ValueError, "cannot be called 'unlimited'"),
        ("Tokens", ValueError, "write 'tokens'"),
        ("to kens", ValueError, "write 'to_kens'"),
        ("5", ValueError, "lower-case letters, digits and _, not '5'"),
        ("", ValueError, "not ''"),
        ("é", ValueError, "not 'é'"),
        ("a\n", ValueError, "write 'a'"),
        ("a" * 65, ValueError, "lower-case letters"),
        (None, TypeError, 'unit must be a name such as "tokens", not None'),
    ],
)
def test_bad_units_are_refused(unit, error, why):
    """A unit is a name that the grammar can read."""
    for make in (lambda: Rate(1, unit=unit), lambda: Window(1, 1, unit),
                 lambda: Calendar(1, "day", unit=unit)):  # fmt: skip
        with pytest.raises(error, match=re.escape(why)):
            make()


def test_limits_are_immutable_values():
    """Equal limits are equal and hash alike; none can be changed."""
    assert {Rate(10), Rate(10, 1.0, 1)} == {Rate(10)}
    assert Window(3, 1) == Window(3, 1) != Window(4, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Rate(10).calls = 11


def test_lane_takes_one_or_several_limits():
    """A lane takes one limit or several.

    A lone limit, a tuple and a list all become a list of limits.
    """
    assert limit_types.as_limits("10/s") == [Rate(10)]
    assert limit_types.as_limits(("10/s", Window(3, 1))) == [Rate(10), Window(3, 1)]
    assert limit_types.as_limits(["10/s"]) == [Rate(10)]
    assert limit_types.as_limits(["10/s, 5 at once", "1/min"]) == [
        Rate(10),
        Concurrency(5),
        Rate(1, 60),
    ]
    assert limit_types.as_limits(()) == limit_types.as_limits(["unlimited"]) == []


@pytest.mark.parametrize(
    ("options", "error", "quoted"),
    [
        ({"order": "last"}, ValueError, "'last'"),
        ({"overflow": "drop"}, ValueError, "'drop'"),
        ({"overflow": "raise"}, ValueError, "write maxsize=1000, overflow='raise'"),
        ({"overflow": "drop_oldest"}, ValueError, "write maxsize=1000, overflow='drop_oldest'"),
        ({"overflow": "raise", "maxsize": 0}, ValueError, "needs maxsize"),
        ({"concurrency": 0}, ValueError, "concurrency"),
        ({"maxsize": -1}, ValueError, "maxsize"),
        ({"catch_up": -0.1}, ValueError, "catch_up"),
        ({"catch_up": float("nan")}, ValueError, "catch_up"),
        ({"concurrency": "5"}, TypeError, "concurrency"),
        ({"strict_lanes": "yes"}, TypeError, "strict_lanes must be True or False, not 'yes'"),
        ({"strict_lanes": 1}, TypeError, "strict_lanes must be True or False, not 1"),
        ({"lanes": {"a": 5}}, TypeError, '"5ms"'),
        ({"lanes": {"a": "5/x"}}, ValueError, "'5/x'"),
    ],
)
def test_senseless_options_are_refused(options, error, quoted):
    """Options that are invalid are refused when the queue is made.

    Each message names or quotes what was wrong.
    """
    with pytest.raises(error) as caught:
        ApiQueue("1/s", **options)
    assert quoted in str(caught.value)


def test_values_lost_to_rounding_are_refused():
    """An interval that is zero or infinite as a float is no pace."""
    with pytest.raises(ValueError, match="Rate"):
        Rate(1e308, 1e-308)
    with pytest.raises(ValueError, match="Rate"):
        Rate(1e-308, 1e308)
    for text in ("9" * 400 + "/s", "9" * 400 + "s"):
        with pytest.raises(ValueError, match=text[:50]):
            ApiQueue(text)


# The calendar


async def test_remaining_comes_back_without_calls():
    """What remains of a window counts without the calls that have left it, as no call looks."""
    queue, remaining = ApiQueue("5 in any 10s"), []
    for calls in (2, 3):
        for _ in range(calls):
            queue.try_slot()
        await asyncio.sleep(4)
    for _ in range(3):
        remaining.append(queue.stats.remaining["calls"])
        await asyncio.sleep(3)
    assert remaining == [0, 2, 5]


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ((0, "day"), ValueError, "calls must be finite and at least 1, not 0"),
        ((1.5, "day"), TypeError, "calls must be a whole number, not 1.5"),
        ((True, "day"), TypeError, "calls must be a number, not True"),
        ((1e16, "day"), ValueError, "calls must be at most 1e+15"),
        ((1, "week"), ValueError, 'each must be "hour", "day" or "month", not \'week\''),
        ((1, 5), TypeError, 'each must be "hour", "day" or "month", not 5'),
        ((1, "day", None), TypeError, 'zone must be a name such as "Europe/Paris", not None'),
        ((1, "day", "America/Los Angeles"), ValueError, "did you mean 'America/Los_Angeles'?"),
        ((1, "day", "asia/kathmandu"), ValueError, "did you mean 'Asia/Kathmandu'?"),
        ((1, "day", "paris"), ValueError, "did you mean 'Europe/Paris'?"),
        ((1, "day", "utc"), ValueError, "did you mean 'UTC'?"),
        ((1, "day", "xyzzyplugh"), ValueError, 'write one such as "Europe/Paris"'),
        ((1, "day", "../../etc/passwd"), ValueError, "no time zone is called"),
        ((1, "day", "Etc"), ValueError, "no time zone is called"),
        ((1, "day", ""), ValueError, "no time zone is called ''"),
    ],
)
def test_bad_calendars_are_refused(arguments, error, why):
    """An invalid calendar is quoted, with the reason and the remedy."""
    with pytest.raises(error, match=r"^Calendar\(calls=") as caught:
        Calendar(*arguments)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("number", "error"), [(0, ValueError), (2.5, TypeError), (True, TypeError)]
)
def test_concurrency_is_a_whole_number(number, error):
    """So many calls at once: at least one, and no part of one."""
    with pytest.raises(error, match=r"^Concurrency\(number="):
        Concurrency(number)


def test_zones_need_a_database(monkeypatch):
    """Without a database of time zones only UTC is known, and the remedy is named."""
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    monkeypatch.setitem(sys.modules, "tzdata.zoneinfo.Europe", None)  # tzdata may be installed
    zoneinfo.reset_tzpath(())
    zoneinfo.ZoneInfo.clear_cache()
    introspect.forget_zones()
    try:
        with pytest.raises(ValueError, match=r"no time zone database .* tzdata"):
            Calendar(1, "day", "Europe/Paris")
        assert Calendar(1, "day").period(86400.5) == (86400, 172800)
    finally:
        zoneinfo.reset_tzpath()


def at(text, zone, fold=0):
    """Return an instant that the clocks of a zone show."""
    local = datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone), fold=fold)
    return local.timestamp()


LA, HOUR = "America/Los_Angeles", 3600


@pytest.mark.parametrize(
    ("each", "zone", "wall", "begins", "hours"),
    [
        ("day", "UTC", "2026-11-26 00:00", "2026-11-26", 24),
        ("day", "UTC", "2026-11-26 23:59:59.999999", "2026-11-26", 24),
        ("day", "UTC", "1960-02-29 12:00", "1960-02-29", 24),
        ("day", LA, "2026-11-26 01:00", "2026-11-26", 24),
        ("day", LA, "2026-03-08 23:30", "2026-03-08", 23),  # clocks are set forward
        ("day", LA, "2026-11-01 00:00", "2026-11-01", 25),  # and back
        ("day", LA, "2024-02-29 12:00", "2024-02-29", 24),
        ("month", LA, "2024-02-29 23:59:59", "2024-02-01", 29 * 24),
        ("month", LA, "2026-02-28 23:59:59", "2026-02-01", 28 * 24),
        ("month", LA, "2026-03-31 23:59:59", "2026-03-01", 31 * 24 - 1),
        ("month", LA, "2026-11-01 00:00", "2026-11-01", 30 * 24 + 1),
        ("month", "UTC", "2026-12-31 23:59:59", "2026-12-01", 31 * 24),
        ("month", "UTC", "2100-02-28 12:00", "2100-02-01", 28 * 24),  # no leap year
        ("hour", "UTC", "2026-11-26 13:59:59.5", "2026-11-26 13:00", 1),
        ("hour", LA, "2026-03-08 01:59:59", "2026-03-08 01:00", 1),
        ("hour", LA, "2026-03-08 03:00", "2026-03-08 03:00", 1),  # the next one
        ("hour", LA, "2026-11-01 01:30", "2026-11-01 01:00", 1),  # there are two of this name
        ("hour", LA, "2026-11-01 02:30", "2026-11-01 02:00", 1),
        ("day", "Asia/Kathmandu", "2026-11-26 05:44", "2026-11-26", 24),  # 5:45 before UTC
        ("hour", "Asia/Kathmandu", "2026-11-26 05:44", "2026-11-26 05:00", 1),
        ("hour", "Asia/Kathmandu", "1986-01-01 00:20", "1986-01-01 00:15", 0.75),  # from 5:30
        ("month", "Asia/Kathmandu", "2024-02-29 23:59", "2024-02-01", 29 * 24),
        ("hour", "Australia/Lord_Howe", "2026-10-04 01:30", "2026-10-04 01:00", 1),
        ("hour", "Australia/Lord_Howe", "2026-10-04 02:45", "2026-10-04 02:30", 0.5),  # by 0:30
        ("hour", "America/Caracas", "2016-05-01 02:15", "2016-05-01 02:00", 0.5),  # from 02:30
        ("hour", "America/Caracas", "2016-05-01 03:15", "2016-05-01 03:00", 1),
        ("day", "Australia/Lord_Howe", "2026-10-04 12:00", "2026-10-04", 23.5),
        ("day", "America/Sao_Paulo", "2018-11-04 12:00", "2018-11-04 01:00", 23),  # no midnight
        ("day", "America/Toronto", "1919-03-31 12:00", "1919-03-31 00:30", 23.5),  # from 23:30
        ("day", "America/Sao_Paulo", "2018-02-17 12:00", "2018-02-17", 25),  # 23:00 comes twice
        ("day", "America/St_Johns", "2009-11-01 12:00", "2009-11-01", 25),  # so does 00:00:30
        ("month", "America/St_Johns", "2009-11-15 12:00", "2009-11-01", 30 * 24 + 1),
        ("day", "Pacific/Apia", "2011-12-29 12:00", "2011-12-29", 24),  # the 30th is left out
        ("day", "Pacific/Apia", "2011-12-31 12:00", "2011-12-31", 24),
    ],
)  # fmt: skip
def test_periods_are_of_local_time(each, zone, wall, begins, hours):
    """Hours, days and months begin and end where the clocks of the zone show it."""
    limit, start = Calendar(1, each, zone), at(begins, zone)
    assert limit.period(at(wall, zone)) == (start, start + hours * HOUR)
    assert limit.period(start) == (start, start + hours * HOUR)


def test_repeated_hours_are_two():
    """The hour that clocks show twice is two hours, and the minutes of a day shown twice are its.

    St. John's set its clocks back at 00:01, to 23:01 of the day before.
    """
    start = at("2026-11-01 01:00", LA)
    hour = Calendar(1, "hour", LA)
    assert hour.period(at("2026-11-01 01:30", LA, fold=1)) == (start + HOUR, start + 2 * HOUR)
    zone = "America/St_Johns"
    shown_again = at("2009-10-31 23:30", zone, fold=1)
    for each in ("day", "month"):
        limit = Calendar(1, each, zone)
        assert limit.period(shown_again)[0] == at("2009-11-01", zone)
        assert limit.period(at("2009-10-31 23:30", zone))[1] == at("2009-11-01", zone)


@given(
    st.sampled_from(["hour", "day", "month"]),
    st.sampled_from(ZONES),
    st.floats(-4e9, 4e9),
)
def test_periods_follow_each_other(each, zone, wall):
    """Each instant is in one period, which ends where the next begins."""
    limit = Calendar(1, each, zone)
    start, end = limit.period(wall)
    assert start <= wall < end
    assert limit.period(start) == limit.period(end - 0.5) == (start, end)
    assert limit.period(end)[0] == end
    assert limit.period(start - 0.5)[1] == start


@pytest.mark.parametrize("wall", [float("nan"), float("inf"), 1e18, -1e18])
def test_instants_out_of_range(wall):
    """What is no instant of a calendar is refused."""
    with pytest.raises((ValueError, OverflowError)):
        Calendar(1, "day").period(wall)


@pytest.mark.real
def test_zones_are_loaded_when_used():
    """Importing the types loads no zoneinfo; making a Calendar does."""
    code = (
        "import sys, aioapiqueue\n"
        "before = 'zoneinfo' in sys.modules\n"
        "aioapiqueue.Calendar(1, 'day')\n"
        "print(before, 'zoneinfo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False True\n"


def test_digits_with_underscores():
    """The remedy for `1_000/s` was a limit of one `_000` a second."""
    with pytest.raises(ValueError, match="1000"):
        Rate.parse("1_000/s")


@pytest.mark.parametrize("text", ["٣", "10 x\ny"])
def test_no_reading_of_other_text_is_shown(text):
    """Of digits that are not ours, or a text of two lines, nothing is shown that is not so."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it does not say is looked at
        Rate.parse(text)
    assert "ambiguous" not in str(caught.value)
    assert "it has no time" not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        (Rate(2, 10), 10),
        (Rate(2, 10, burst=6), 30),
        (Window(5, 60), 60),
        (Calendar(5, "day"), 86_400),
        (Calendar(5, "month"), 31 * 86_400),
        (Concurrency(3), 0),
    ],
)
def test_all_is_back_after_a_period(limit, seconds):
    """All that a limit lets through at once is back then; permits, once their bodies have ended."""
    assert limit_types.period_of(limit) == seconds


@pytest.mark.parametrize(
    ("limit", "per_second"),
    [
        (Rate(30, 60, burst=6), 0.5),
        (Window(30, 60), 0.5),
        (Calendar(86_400, "day"), 1),
        (Calendar(31 * 86_400, "month"), 1),
        (Concurrency(3), math.inf),
    ],
)
def test_rates_are_of_the_longest_period(limit, per_second):
    """A month counts as 31 days, so that no estimate is above what the limit admits."""
    assert limit_types.rate_of(limit) == per_second


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("5 usd/day", ["5 usd in each day", "5 usd in any 24h", "5 usd/day burst 1 usd"]),
        ("5 usd per hour", ["5 usd in each hour", "5 usd in any 1h", "5 usd/h burst 1 usd"]),
        ("5 usd per 90s", ["5 usd in any 90s", "5 usd per 90s burst 1 usd"]),
        ("5 usd/h or raise", ["5 usd in any 1h or raise", "5 usd/h burst 1 usd or raise"]),
    ],
)
def test_rate_in_usd_names_its_burst(text, readings):
    """Without one it is no cap: the message names what may have been meant, all of them limits."""
    message = refusal(limit_types.parse_limits, text)
    assert "a rate in usd needs a burst" in message
    for reading in readings:
        assert f'"{reading}"' in message
        limit_types.parse_limits(reading)
    with pytest.raises(ValueError, match="a rate in usd needs a burst"):
        Rate(5, 60, unit="usd")
    assert str(Rate(5, 60, 1, "usd")) == "5 usd/min burst 1"


def test_burst_has_the_unit_of_its_rate():
    """It may be repeated, and no other is taken."""
    assert limit_types.parse_limits("9 tokens/s burst 5 tokens") == (Rate(9, 1, 5, "tokens"),)
    message = refusal(limit_types.parse_limits, "9 tokens/s burst 5 calls")
    assert 'write "burst 5"' in message
