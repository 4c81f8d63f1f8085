"""The HTML page of a report, made from its JSON."""

from __future__ import annotations

import base64
import datetime as dt
import functools
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations._extras import needs

with needs("jinja2", to="reports", extra="report"):
    import jinja2
    from markupsafe import Markup

from aioapiqueue.integrations.report._masks import Masks
from aioapiqueue.recording.spi import amount_text, as_clock, as_percent, least_left_first

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aioapiqueue.recording.spi import LaneUse

_MOST_QUEUES = 40
"""Most queues with charts: the busiest ones. The JSON has all."""
_MOST_LANES = 100
"""Most lanes of a queue on the page."""
_MOST_ROWS = 200
"""Most changes on the page."""
_HERE = resources.files(__package__)


def page(
    document: Mapping[str, Any],
    *,
    show_accounts: bool = False,
    access_keys: Iterable[str] = (),
) -> str:
    """Return a report as one self-contained HTML page.

    Args:
        document: the figures, as `ReportObserver.as_json` returns them, with optional `facts`,
            `notes` and `tables`.
        show_accounts: whether to show AWS account ids. Default: False, they are masked.
        access_keys: other access keys to mask. AWS access keys are always masked. Default: none.
    """
    masks = Masks(show_accounts=show_accounts, access_keys=access_keys)
    shown = masks.all(dict(document))
    charts = _Charts(shown["step_seconds"], shown["seconds"])
    scripts = [_asset("uplot", "uPlot.iife.min.js"), _asset("page.js")]
    template = _environment().get_template("page.html")
    return template.render(
        it=shown,
        queues=shown["queues"][:_MOST_QUEUES],
        more_queues=len(shown["queues"]) - _MOST_QUEUES,
        most_lanes=_MOST_LANES,
        changes=shown["changes"][:_MOST_ROWS],
        more_changes=len(shown["changes"]) + shown["changes_left_out"] - _MOST_ROWS,
        times=_times(shown["times"]),
        chart=charts.add,
        data=charts.as_text,
        styles=[Markup(_asset("uplot", "uPlot.min.css")), Markup(_asset("page.css"))],  # noqa: S704 - our own files
        scripts=[Markup(one) for one in scripts],  # noqa: S704 - as above
        # The content security policy of the page allows these scripts, and no other.
        hashes=[_hash(one) for one in scripts],
    )


class _Charts:
    """The data of the charts on a page.

    Args:
        step: seconds per time step.
        seconds: seconds of the whole report.
    """

    def __init__(self, step: float, seconds: float) -> None:
        self._step = step
        self._seconds = seconds
        self._charts: list[dict[str, Any]] = []

    def add(self, series: Mapping[str, Any]) -> int:
        """Add the chart of a time series, and return its number on the page."""
        kept = (
            *("unit", "steps", "used", "started", "waited"),
            *("throttled", "errors", "refused", "allowed"),
        )
        found = {name: series[name] for name in kept if name in series}
        if "waited" in found:
            # Milliseconds are enough for a chart.
            found["waited"] = [round(one, 3) for one in found["waited"]]
        self._charts.append(found)
        return len(self._charts) - 1

    def as_text(self) -> Markup:
        """Return the data as JSON for a script element."""
        data = {"step": self._step, "seconds": self._seconds, "charts": self._charts}
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        return Markup(text)  # noqa: S704 - without "<", it cannot end the element


def _times(times: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the time of the run and of its alternatives, each as a share of the longest."""
    names = {
        "seconds": "this run",
        "unpaced": "without waits (minimum)",
        "paced": "paced (estimate)",
        "blanket": "one delay for all calls (minimum)",
    }
    delay = times.get("blanket_delay")
    notes = {
        "unpaced": "The time without waits assumes that the server accepts every call immediately.",
        "blanket": delay is not None
        and "The time with one delay for all calls assumes that the program waits "
        f"{_wait(delay)} before each call, as the strictest limit requires.",
    }
    found = [(key, text, times[key]) for key, text in names.items() if times.get(key) is not None]
    # This minimum leaves out the program's own time, so it is useless below the actual time.
    found = [one for one in found if one[0] != "blanket" or one[2] > times["seconds"]]
    # 1 if nothing was recorded, because the times are divided by it.
    most = max((seconds for _, _, seconds in found), default=0) or 1
    return [
        {
            "key": key,
            "name": text,
            "seconds": seconds,
            "percent": round(100 * seconds / most, 1),
            "note": notes.get(key),
        }
        for key, text, seconds in found
    ]


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        # Names of queues and keys may contain any text.
        autoescape=True,
        # A misspelt name is an error, not a gap on the page.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clock=as_clock,
        number=_number,
        amount=amount_text,
        budgets=_budgets,
        wait=_wait,
        local=_moment,
        percent=lambda share: _unbroken(as_percent(share)),
        headline=_headline,
    )
    return environment


def _asset(*names: str) -> str:
    return _HERE.joinpath(*names).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """Return the hash by which a content security policy allows a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _number(value: float) -> str:
    """Return a number as text: exact if it is whole, else with two decimals."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _budgets(queue: Mapping[str, Any]) -> list[LaneUse]:
    """Return the use of the budgets of a queue and its lanes."""
    return least_left_first(
        (one.get("lane", ""), one.get("budgets", {})) for one in (queue, *queue["lanes"])
    )


def _wait(seconds: float) -> str:
    """Return a wait as text: in hundredths of a second, or from an hour on as h:mm:ss."""
    if seconds >= 3600:  # noqa: PLR2004 - an hour
        return as_clock(seconds)
    return _unbroken(f"{seconds:,.2f} s")


def _headline(text: str) -> str:
    """Return a verdict as a headline, in which no line breaks before a percent sign."""
    return text[:1].upper() + text[1:].replace(" %", _unbroken(" %"))


def _unbroken(text: str) -> str:
    """Return a text whose spaces do not break a line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _moment(text: str) -> str:
    """Return an instant as text, in UTC."""
    return dt.datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S UTC")
