"""Ramps of rates as text and as values: what is read, written and refused."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aioapiqueue import ApiQueue, Ramp, Rate

WRITTEN = [
    ("1000/min ramp 2x per 2min", Rate(1000, 60, ramp=Ramp(2, per=120))),
    ("1000/min burst 50 ramp 1.5x/min", Rate(1000, 60, 50, ramp=Ramp(1.5, 60))),
    ("10/s ramp 3x per 10s or raise", Rate(10, ramp=Ramp(3, 10), on_empty="raise")),
    ("100ms ramp 2x/min", Rate(1, 0.1, ramp=Ramp(2, 60))),
    ("10/s ramp 2x/min from 1 per 100ms", Rate(10, ramp=Ramp(2, 60, Rate(1, 0.1)))),
    (
        "30000 tokens/min ramp 2x per 2min from 3000 tokens/min",
        Rate(30000, 60, unit="tokens", ramp=Ramp(2, 120, Rate(3000, 60, unit="tokens"))),
    ),
]
READ = [
    ("1000/min Ramp 2X per 2 mins", "1000/min ramp 2x per 2min"),
    ("10/s (burst 5) ramp 2 x / min", "10/s burst 5 ramp 2x/min"),
    ("500 tokens/min ramp 2x/min from 50/min", "500 tokens/min ramp 2x/min from 50 tokens/min"),
]
REFUSED = [
    ("10/s ramp 2 per min", 'write "ramp 2x per min"'),
    ("10/s ramp 2/min", 'write "ramp 2x/min"'),
    ("10/s ramp 2x", 'such as "ramp 2x per 2min"'),
    ("10/s ramp", 'such as "ramp 2x per 2min"'),
    ("10/s ramp 2x/min burst 5", 'write "burst 5" before "ramp"'),
    ("10/s ramp 1x/min", "factor must be above 1, not 1"),
    ("10/s ramp 0.5x/min", "factor must be above 1, not 0.5"),
    ("10/s ramp 2x per 0s", "its numbers must be above 0"),
    ("5 in any 1h ramp 2x/min", "only a rate can have a ramp"),
    ("5 in each day ramp 2x/min", "only a rate can have a ramp"),
    ("5 in each day of UTC ramp 2x/min", "only a rate can have a ramp"),
    ("5 at once ramp 2x/min", "only a rate can have a ramp"),
    ("5 usd in all ramp 2x/min", "only a rate can have a ramp"),
    ("10/min ramp 2x/min from 20/min", "20/min, is above the rate, 10/min"),
    ("10/min ramp 2x/min from 5 tokens/min", 'write "from 5/min"'),
    ("10/min ramp 2x per 2s", 'write "ramp 2x per 10min", or a higher floor'),
]


@pytest.mark.parametrize(("text", "rate"), WRITTEN)
def test_text_and_value_are_equal(text, rate):
    """What is written is read as an equal rate."""
    assert str(rate) == text
    assert Rate.parse(text) == rate
    assert hash(Rate.parse(text)) == hash(rate)


@pytest.mark.parametrize(("text", "written"), READ)
def test_spellings_of_one_ramp(text, written):
    """Case, spaces and a floor without its unit are accepted."""
    assert str(Rate.parse(text)) == written


@pytest.mark.parametrize(("text", "remedy"), REFUSED)
def test_texts_refused_with_remedy(text, remedy):
    """Each error quotes the limit, and says what to write."""
    with pytest.raises(ValueError, match="is not a limit") as refused:
        ApiQueue(text)
    assert remedy in str(refused.value)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Ramp(1, per=60), ValueError, "factor must be above 1"),
        (lambda: Ramp(float("inf"), per=60), ValueError, "factor must be finite"),
        (lambda: Ramp(2, per=0), ValueError, "per must be finite and above 0"),
        (lambda: Ramp("2", per=60), TypeError, "factor must be a number"),
        (lambda: Ramp(2, per=60, floor=5), TypeError, r"such as Rate\(50, 60\)"),
        (lambda: Ramp(2, 60, Rate(5, burst=5)), ValueError, 'write "5/s", without a burst'),
        (lambda: Ramp(2, 60, Rate(5, ramp=Ramp(2, 60))), ValueError, 'write "5/s"'),
        (lambda: Ramp(2, 60, Rate(5, on_empty="raise")), ValueError, 'write "5/s"'),
        (lambda: Rate(5, ramp=2), TypeError, r"such as Ramp\(2, per=120\)"),
        (lambda: Rate(5, ramp=Ramp(2, 60, Rate(6))), ValueError, "is above the rate, 5/s"),
        (lambda: Rate(5, ramp=Ramp(2, 1)), ValueError, "or a higher floor"),
    ],
)
def test_values_refused_at_construction(make, error, text):
    """Whatever could never work is refused before any queue has it."""
    with pytest.raises(error, match=text):
        make()


def test_repr_leaves_out_no_ramp():
    """A rate without a ramp looks as before; one with a ramp shows it."""
    assert repr(Rate(10)) == "Rate(calls=10, per=1.0, burst=1)"
    assert "ramp=Ramp(factor=2, per=60" in repr(Rate(10, ramp=Ramp(2, 60)))


@given(
    st.floats(1e-3, 1e9),
    st.floats(1.0001, 1e6),
    st.floats(0.001, 1e6),
    st.sampled_from([None, 0.5, 0.123456789]),
    st.sampled_from([1, 20, 2.5]),
)
def test_any_ramp_reads_back(calls, factor, per, share, burst):
    """`str` loses nothing."""
    floor = None if share is None else Rate(calls * share, 60, unit="tokens")
    assume(per >= (600 / calls if floor is None else floor.interval))  # else it is refused
    rate = Rate(calls, 60, burst, "tokens", ramp=Ramp(factor, per, floor))
    assert Rate.parse(str(rate)) == rate
