"""When a benchmark's target counts as met, as equal to its bound, or as missed."""

import json

import pytest
from _common import Report, judge

INF = float("inf")
EVEN = [0.97, 0.98, 1.0, 1.02, 1.03]  # the middle half spreads by 4 %
WIDE = [0.8, 0.94, 1.0, 1.05, 1.2]  # by 11 %


def around(middle, rounds=EVEN):
    """Return rounds that spread alike around another median."""
    return [middle * one for one in rounds]


@pytest.mark.parametrize("value", [1.2, 1.3, INF])
def test_what_is_within_is_met(value):
    """The bound itself is."""
    assert judge(value, least=1.2) == "met"
    assert judge(-value, most=-1.2, rounds=around(5)) == "met"


@pytest.mark.parametrize(
    ("value", "rounds", "verdict"),
    [
        (1.16, EVEN, "equal within the spread of its 5 rounds (4.0%): missed by 3.3%"),
        (1.14, EVEN, "MISSED by 5.0%; more than the spread of its 5 rounds (4.0%)"),
        (1.19, WIDE, "MISSED by 0.8%; the spread of its 5 rounds (11.0%) is too wide to excuse it"),
        (1.19, EVEN[:4], "MISSED by 0.8%"),
        (1.19, [1.0] * 11, "MISSED by 0.8%; more than the spread of its 11 rounds (0.0%)"),
    ],
)
def test_only_a_narrow_spread_excuses(value, rounds, verdict):
    """It has to be that of five rounds, of a tenth at most, and not smaller than the miss."""
    assert judge(value, least=1.2, rounds=around(value, rounds)) == verdict


def test_an_upper_bound_is_judged_alike():
    """By how much it is exceeded."""
    excused = judge(1.03, most=1, rounds=around(1.03))
    assert excused == "equal within the spread of its 5 rounds (4.0%): missed by 3.0%"
    assert judge(1.05, most=1, rounds=around(1.05)).startswith("MISSED by 5.0%")


def test_noise_said_in_advance_counts_first():
    """Beyond it, the rounds decide."""
    assert judge(1.04, most=1, noise=0.05) == "equal within noise (5.0%)"
    assert judge(1.06, most=1, noise=0.05) == "MISSED by 6.0%"


@pytest.mark.parametrize("value", [float("nan"), INF, 1])
def test_a_bound_of_nothing_is_kept_exactly(value):
    """Nothing is a share of 0, and no spread excuses what is no figure."""
    assert judge(value, most=0, rounds=EVEN) == "MISSED"
    assert judge(float("nan"), most=1, rounds=EVEN) == "MISSED"


@pytest.mark.parametrize(
    ("value", "code", "end"),
    [(1.3, 0, "Every target is met."), (1.17, 0, "Every other target is met."), (1.1, 1, "  fast")],
)
def test_the_exit_code_says_missed(value, code, end, capsys, tmp_path):
    """And the output names the spread, within 80 columns; so does the file."""
    report = Report()
    report.target("fast", value, least=1.2, rounds=around(value))
    report.target("slots per second, a rather long name for a target", 1, most=1)
    assert report.finish(tmp_path / "figures.json") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == end
    assert max(map(len, lines)) < 80
    verdict = json.loads((tmp_path / "figures.json").read_text())["targets"][0]["verdict"]
    assert any(line.endswith(verdict) for line in lines)
    if value == 1.17:
        assert "spread of its 5 rounds (4.0%): missed by 2.5%" in verdict
        assert lines[-4:-2] == ["Not met, but equal to the target as far as it goes:", "  fast"]
