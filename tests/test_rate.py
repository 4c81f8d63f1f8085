from __future__ import annotations

import dataclasses

import pytest

from aioapiqueue import ApiQueue, Rate, Window
from aioapiqueue._rate import as_limits


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
        "1e3/s",
        "nan/s",
        "inf/s",
        "５/s",  # noqa: RUF001 - the digits of another script look alike
        "5 per ２s",  # noqa: RUF001
        "٥ms",  # noqa: RUF001
        "5/ſ",  # noqa: RUF001 - a long s
    ],
)
def test_bad_rate_string_is_quoted(text):
    """A string that is no rate is quoted beside those that are.

    The message of the ValueError quotes the input and shows the accepted forms.
    """
    with pytest.raises(ValueError, match="accepted forms") as caught:
        ApiQueue(text)
    assert repr(text) in str(caught.value)
    for form in ('"10/s"', '"500/min"', '"7 per 2s"', '"100ms"', '"0.2/s"'):
        assert form in str(caught.value)


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
    """Numbers that make no rate are quoted beside accepted forms.

    Zero, negative, infinite and NaN values are refused in words.
    """
    with pytest.raises(ValueError, match="accepted forms") as caught:
        make()
    assert quoted in str(caught.value)


@pytest.mark.parametrize("calls", ["10", None, True, 1j])
def test_other_types_are_no_rate(calls):
    """A rate of something else is a type error.

    What is no number is a TypeError, which shows the accepted forms too.
    """
    with pytest.raises(TypeError, match="accepted forms"):
        Rate(calls)


@pytest.mark.parametrize("calls", [100, 100.0])
def test_a_bare_number_has_two_readings(calls):
    """`ApiQueue(100)` could be milliseconds, seconds or calls: the TypeError names each."""
    with pytest.raises(TypeError) as caught:
        ApiQueue(calls)
    for reading in ('"100ms"', '"100s"', '"100/s"'):
        assert reading in str(caught.value)


@pytest.mark.parametrize("limit", [None, True, ("10/s",), object(), b"10/s"])
def test_other_types_are_no_limit(limit):
    """What is no limit is a type error.

    Anything but a string, a Rate or a Window is refused with the accepted forms.
    """
    with pytest.raises(TypeError, match="accepted forms"):
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
    ("limit", "text"),
    [
        (Rate(10), "10/s"),
        (Rate(500, 60), "500/60s"),
        (Rate(1, 0.1), "1/0.1s"),
        (Rate(20, burst=100), "20/s (burst 100)"),
        (Window(5000, 3600), "5000 in any 3600s"),
    ],
)
def test_limits_read_as_they_are_meant(limit, text):
    """`str` is for people, and in a queue's repr."""
    assert str(limit) == text
    assert text in repr(ApiQueue(limit))


@pytest.mark.parametrize("text", ["10/s", "7 per 2s", "100ms", "0.2/s"])
def test_plain_rate_text_parses_back(text):
    """The text of a plain rate parses back.

    What a rate prints is itself an accepted form.
    """
    rate = Rate.parse(text)
    assert Rate.parse(str(rate)).interval == pytest.approx(rate.interval, rel=1e-5)


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
    assert as_limits("10/s") == [Rate(10)]
    assert as_limits(("10/s", Window(3, 1))) == [Rate(10), Window(3, 1)]
    assert as_limits(["10/s"]) == [Rate(10)]


@pytest.mark.parametrize(
    ("options", "error", "quoted"),
    [
        ({"order": "lifo"}, ValueError, "'lifo'"),
        ({"overflow": "drop"}, ValueError, "'drop'"),
        ({"concurrency": 0}, ValueError, "concurrency"),
        ({"maxsize": -1}, ValueError, "maxsize"),
        ({"catch_up": -0.1}, ValueError, "catch_up"),
        ({"catch_up": float("nan")}, ValueError, "catch_up"),
        ({"concurrency": "5"}, TypeError, "concurrency"),
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
