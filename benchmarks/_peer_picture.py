"""A picture of small multiples: a panel for each figure, with a bar for each limiter."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["Panel", "picture"]

COLUMNS = 3
WIDTH, NAME, BAR, ROW, HEAD, GAP, TOP = 338, 150, 112, 17, 44, 18, 62
CUT = 6.0
"""A bar longer than so many times the median one is cut off."""
STYLE = """
svg { background: #ffffff; }
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
.title { font-size: 20px; font-weight: 600; }
.head { font-weight: 600; font-size: 13px; }
.note, .none { fill: #59636e; }
.value { font-variant-numeric: tabular-nums; }
.name-bar { fill: #afb8c1; }
.our-bar { fill: #0969da; }
.our { font-weight: 600; fill: #0550ae; }
.cut { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; }
  text { fill: #e6edf3; }
  .note, .none { fill: #9198a1; }
  .name-bar { fill: #57606a; }
  .our-bar { fill: #4493f8; }
  .our { fill: #79c0ff; }
  .cut { fill: #0d1117; }
}
"""


@dataclass(frozen=True)
class Panel:
    """A figure of all limiters.

    Attributes:
        title: what it is.
        bars: each limiter's name and value, or None and how it failed.
        form: how values are written.
        more_is_better: whether a longer bar is better.
    """

    title: str
    bars: Sequence[tuple[str, float | None, str]]
    form: str
    more_is_better: bool


def picture(panels: Sequence[Panel], *, ours: Collection[str], title: str, subtitle: str) -> str:
    """Return an SVG: light or dark as its viewer is, with a description for who cannot see it."""
    rows: list[Sequence[Panel]] = [
        panels[first : first + COLUMNS] for first in range(0, len(panels), COLUMNS)
    ]
    parts: list[str] = []
    top = TOP
    for row in rows:
        for place, panel in enumerate(row):
            left = GAP + place * (WIDTH + GAP)
            parts.append(f'<g transform="translate({left} {top})">{_panel(panel, ours)}</g>')
        top += HEAD + ROW * max(len(panel.bars) for panel in row) + GAP
    width = GAP + COLUMNS * (WIDTH + GAP)
    described = " ".join(_described(panel, ours) for panel in panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" '
        f'height="{top}" role="img" aria-labelledby="title desc">\n'
        f'<title id="title">{escape(title)}</title>\n<desc id="desc">{escape(described)}</desc>\n'
        f"<style>{STYLE}</style>\n"
        f'<text class="title" x="{GAP}" y="30">{escape(title)}</text>\n'
        f'<text class="note" x="{GAP}" y="50">{escape(subtitle)}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(panel: Panel, ours: Collection[str]) -> str:
    values = sorted(value for _, value, _ in panel.bars if value is not None)
    median = values[len(values) // 2] if values else 0.0
    longest = min(values[-1], CUT * median) if median > 0 else max(values, default=0.0)
    better = "longer is better" if panel.more_is_better else "shorter is better"
    parts = [
        f'<text class="head" y="14">{escape(panel.title)}</text>',
        f'<text class="note" y="30">{better}</text>',
    ]
    for number, (name, value, failed) in enumerate(panel.bars):
        y = HEAD + number * ROW
        own = name in ours
        style = "our" if own else "name"
        parts.append(
            f'<text x="{NAME - 6}" y="{y + 9}" text-anchor="end"'
            f' class="{style}">{escape(name)}</text>'
        )
        if value is None:
            parts.append(f'<text class="none" x="{NAME}" y="{y + 9}">{escape(failed)}</text>')
            continue
        length = BAR * min(1.0, value / longest) if longest > 0 else 0.0
        parts.append(
            f'<rect class="{style}-bar" x="{NAME}" y="{y}" '
            f'width="{max(1.0, length):.1f}" height="11" rx="1.5"/>'
        )
        if value > longest:  # a bar that goes on further than there is room
            parts.append(f'<path class="cut" d="M{NAME + BAR - 18} {y + 12}l6 -13h4l-6 13z"/>')
        parts.append(
            f'<text class="value {style}" x="{NAME + max(1.0, length) + 5:.1f}" '
            f'y="{y + 9}">{value:{panel.form}}</text>'
        )
    return "".join(parts)


def _described(panel: Panel, ours: Collection[str]) -> str:
    """Return a panel as a sentence: ours, and the best of the others."""
    values = {name: value for name, value, _ in panel.bars if value is not None}
    mine = [f"{name} {values.pop(name):{panel.form}}" for name in ours if name in values]
    words = ", ".join(mine) or "no figure of ours"
    if not values:
        return f"{panel.title}: {words}."
    best = (max if panel.more_is_better else min)(values, key=lambda name: values[name])
    return f"{panel.title}: {words}; best other {best}, {values[best]:{panel.form}}."
