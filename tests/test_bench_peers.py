"""What benchmarks/peers.py computes from instants, and what it makes of processes that fail."""

import asyncio
import os
import random
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    """Import what the benchmark is made of, as its scripts do, and forget it afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import _peer_figures
    import _peer_picture
    import _peer_rounds

    yield _peer_figures, _peer_rounds, _peer_picture
    for name in set(sys.modules) - before:
        if name.startswith("_"):
            del sys.modules[name]


@pytest.fixture
def figures(modules):
    """Return what computes."""
    return modules[0]


@pytest.fixture
def rounds(modules):
    """Return what starts processes."""
    return modules[1]


@pytest.fixture
def picture(modules):
    """Return what draws."""
    return modules[2]


def share(figures, starts, *, skip, after=0.0):
    """Return the share of 100 per second, of two seconds' calls."""
    settled = figures.settled(starts, 201, skip=skip, after=after)
    return figures.share(settled, 100, until=99)


@pytest.mark.parametrize("burst", [1, 10, 100])
def test_share_leaves_out_the_burst(figures, burst):
    """A limiter that starts with a burst and then keeps its rate achieves 1.00, not more."""
    starts = [0.0] * burst + [number / 100 for number in range(1, 301)]
    assert share(figures, starts, skip=burst - 1) == pytest.approx(1)
    slow = [2 * at for at in starts]
    assert share(figures, slow, skip=burst - 1) == pytest.approx(0.5)


def test_share_of_clumps_is_whole(figures):
    """A window that lets 100 through at the start of each second keeps 100 per second."""
    starts = [float(second) for second in range(5) for _ in range(100)]
    assert share(figures, starts, skip=99, after=1.0) == 1
    assert share(figures, starts, skip=99) == 1


def test_a_burst_taken_slowly_is_left_out(figures):
    """What came in while a full bucket was used up belongs to the beginning, too."""
    slowly = [number / 200 for number in range(201)]  # 100 that were there, 100 that came in
    starts = slowly + [1 + number / 100 for number in range(1, 301)]
    assert share(figures, starts, skip=99, after=1.0) == pytest.approx(1)
    assert share(figures, starts, skip=99) > 1.2


def test_share_within_the_burst_counts(figures):
    """What has not even used its burst up is taken by the clock; what never started, as 0."""
    assert figures.settled([1.0, 1.5], 9, skip=9, after=0) == []
    assert figures.settled([], 9, skip=0, after=0) == []
    assert figures.share([1.0, 1.0], 10, until=3.0) == pytest.approx(0.1)
    assert figures.share([1.0], 10, until=3.0) == pytest.approx(0.05)
    assert figures.share([], 10, until=3.0) == 0


def test_gaps_are_in_intervals(figures):
    """One gap in fifty is five intervals long."""
    starts = [0.0]
    for number in range(1000):
        starts.append(starts[-1] + (0.05 if number % 50 == 0 else 0.01))
    assert figures.gaps(starts, 100).median == pytest.approx(1)
    assert figures.gaps(starts, 100).last_percentile == pytest.approx(5)
    assert figures.gaps(starts[:2], 100).median is None


@pytest.mark.parametrize(
    ("order", "count"), [([0, 1, 2, 3], 0), ([1, 0, 3, 2], 2), ([3, 2, 1, 0], 3), ([], 0)]
)
def test_each_step_back_is_an_inversion(figures, order, count):
    """Also where the order is a generator's."""
    assert figures.inversions(iter(order)) == count


def test_excess_is_what_went_over(figures):
    """Three at once where one may be are two too many; a rest gives no more than the burst."""
    assert figures.excess([(0, 1), (1, 1), (2, 1)], 1, 1) == 0
    assert figures.excess([(0, 1), (0, 1), (0, 1)], 1, 1) == 2
    assert figures.excess([(0, 1), (9, 1), (9, 1)], 1, 1) == 1
    assert figures.excess([(0, 500), (0.5, 600)], 1000, 1000) == 0
    assert figures.excess([(0, 900), (0.5, 800)], 1000, 1000) == pytest.approx(200)


def test_early_calls_are_found_by_lane(figures):
    """Calls of different lanes have nothing to do with each other."""
    assert figures.early([[0.0, 1.0], [0.1, 1.2]], 0.9) == 0
    assert figures.early([[0.0, 0.5, 1.5], [0.1]], 0.9) == 1


def test_most_within_a_second(figures):
    """The second may begin anywhere, and what is a whole one apart is not within one."""
    assert figures.most_within([0.0, 0.6, 0.7, 1.0, 1.5, 1.6], 1.0) == 4
    assert figures.most_within([0.0, 1.0, 2.0], 1.0) == 1
    assert figures.most_within([], 1.0) == 0


def test_the_ideal_is_after_the_burst(figures):
    """What is there at the beginning takes no time."""
    assert figures.ideal([1] * 30, 10, 10) == 2
    assert figures.ideal([1] * 5, 10, 10) == 0


def test_rounds_begin_with_another(rounds):
    """And those that decide a target go on alone."""
    assert rounds.order(["a", "b", "c"], {"a": 3, "b": 1, "c": 2}) == [
        ["a", "b", "c"],
        ["c", "a"],
        ["a"],
    ]


WORKER = """
import json, os, sys, threading, time
case, name, options = sys.argv[1:]
with open(json.loads(options)["place"] + "/" + name, "w") as file:
    file.write(str(os.getpid()))
if name == "never ready":
    time.sleep(60)
print("ready", flush=True)
sys.stdin.readline()
if name == "hangs":
    threading.Thread(target=time.sleep, args=[60]).start()
    time.sleep(60)
elif name == "dies":
    os._exit(7)
elif name == "raises":
    print(json.dumps({"error": "ValueError: no spaces"}))
elif name == "talks":
    print("a word of its own")
    print(json.dumps({"figure": json.loads(options)["figure"]}))
    print("and one too many", file=sys.stderr)
else:
    print(json.dumps({"figure": 1.5}))
"""


@pytest.mark.real
@pytest.mark.posix
@pytest.mark.flaky(reruns=2)  # it bounds real time: the workers that succeed have one second
@pytest.mark.parametrize(
    "at_once",
    [4, pytest.param(1, marks=pytest.mark.slow)],  # slow: one after the other, they take three
)
def test_failures_become_cells(rounds, tmp_path, at_once, monkeypatch):
    """Of a process that hangs, dies, raises or never starts; the others are measured as ever."""
    monkeypatch.setattr(rounds, "START_SECONDS", 0.5)
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    options = {"figure": 2.5, "place": str(tmp_path)}
    case = rounds.Case("any", options, 2, seconds=1, often={"well": 3}, at_once=at_once)
    names = ["hangs", "never ready", "well", "dies", "raises", "talks"]
    outcomes = asyncio.run(rounds.measure(case, names, worker))
    assert {name: own.failed for name, own in outcomes.items()} == {
        "hangs": "DNF 1 s",
        "well": None,
        "dies": "exit code 7",
        "raises": "ValueError",
        "never ready": "DNF 1 s",
        "talks": None,
    }
    assert outcomes["well"].values("figure") == [1.5] * 3
    assert outcomes["talks"].values("figure") == [2.5] * 2
    assert outcomes["raises"].detail == "ValueError: no spaces"
    for name in names:
        with pytest.raises(ProcessLookupError):  # none is left behind
            os.kill(int((tmp_path / name).read_text()), 0)


def test_the_picture_has_every_bar(picture):
    """It is XML, and names are escaped; a value beyond all others is cut off, and written."""
    rng = random.Random(1)
    bars = [(f"<peer {number}>", rng.random(), "") for number in range(5)]
    bars += [("ours", 0.5, ""), ("huge", 1e6, ""), ("hung", None, "DNF 30 s")]
    panels = [picture.Panel("Time & more", bars, ".2f", more_is_better=False)] * 4
    drawn = picture.picture(panels, ours=["ours"], title="Side by side", subtitle="Medians")
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    texts = [one.text for one in root.iter(f"{space}text")]
    assert texts.count("DNF 30 s") == 4
    assert texts.count("<peer 3>") == 4
    assert texts.count("1000000.00") == 4
    assert len([*root.iter(f"{space}path")]) == 4
    assert len([*root.iter(f"{space}rect")]) == 4 * 7
    description = root.find(f"{space}desc").text
    assert "Time & more: ours 0.50; best other" in description
    right = max(float(one.get("x")) + float(one.get("width")) for one in root.iter(f"{space}rect"))
    assert right <= picture.WIDTH


def test_bars_beside_zeros_are_drawn(picture):
    """Most may be at 0, which is no measure for the others."""
    bars = [("a", 0.0, ""), ("b", 0.0, ""), ("c", 0.0, ""), ("d", 45_200.0, "")]
    panel = picture.Panel("Out of order", bars, ",.0f", more_is_better=False)
    drawn = picture.picture([panel], ours=["a"], title="Side by side", subtitle="")
    widths = [
        float(one.get("width"))
        for one in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}rect")  # noqa: S314
    ]
    assert widths == [1, 1, 1, picture.BAR]
