"""The screen of `watch`: a textual application."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import pluralize
from aioapiqueue_run.cli.hub import ask_hub, budget_lines
from aioapiqueue_run.cli.watch.rows import SORTS, History, arranged, rate_text, short, sparkline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.events import Resize

    from aioapiqueue_run.cli.watch.rows import QuotaKey, QuotaRow

__all__ = ["Watch"]

_COLUMNS = {
    "rate": ("per s", 10),
    "waiting": ("wait", 7),
    "running": ("run", 6),
    "p50": ("p50", 6),
    "p99": ("p99", 6),
    "throttled": ("throt", 6),
    "processes": ("procs", 6),
}
"""The heading of each figure, and the width of its column with the space before it."""
_NARROW, _WIDE = 9, 40
"""Widths of sparklines."""
_ROOMY = 110
"""Width of a terminal from which on sparklines are wide."""
_LONGEST_NAME = 200
"""Characters of a name in a question: the whole question must fit the screen."""
_MOST_BUDGETS = 3
"""Number of budgets in the lines below the table."""
_MOST_CLIENTS = 4
"""Number of clients in the lines below the table."""
_NO_HUB = "no hub is running; this screen updates when a process starts one"


class Watch(App[None]):
    """A live view of the quotas of a hub.

    Args:
        every: seconds between updates.
        words: the words of the filter at the start.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head, #details { height: auto; color: $text-muted; }
    #table { height: 1fr; background: $background; }
    #details { max-height: 11; border-top: solid $panel; }
    #filter { display: none; height: 1; border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("s", "sort", "Sort"),
        ("slash", "filter", "Filter"),
        ("p", "pause", "Pause/resume"),
        ("q", "quit", "Quit"),
        ("escape", "unfilter", "Show all"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, *, every: float, words: str) -> None:
        super().__init__()
        self._every = every
        self._words = words
        self._by = SORTS[0]
        self._history = History()
        self._rows: list[QuotaRow] = []
        self._shown: list[QuotaRow] = []
        self._chosen: QuotaKey | None = None
        """The quota that has the cursor, even while it is not shown."""
        self._width = 80
        self._sorted = False
        """Whether the user has just changed the order: the view then follows the cursor."""
        self._wake = threading.Event()
        """Set for an update before the interval is over."""

    def compose(self) -> ComposeResult:
        """Yield the parts of the screen, from top to bottom."""
        yield Static("connecting to the host hub", id="head", markup=False)
        yield DataTable(id="table", cursor_type="row", cell_padding=0)
        yield Static(id="details", markup=False)
        yield Input(value=self._words, placeholder="words in names or programs", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to update the screen."""
        # By default, these signals would end the program and leave the terminal in raw mode.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, partial(self.exit, return_code=128 + number))
        self._table.focus()
        self.query_one("#filter", Input).display = bool(self._words)
        self._make_columns()
        self._in_thread(self._poll)

    def on_resize(self, event: Resize) -> None:
        """Fit the columns to the new width."""
        self._width = event.size.width
        self._make_columns()
        self._show()

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#table", DataTable)

    @property
    def _bars(self) -> int:
        return _WIDE if self._width >= _ROOMY else _NARROW

    def _make_columns(self) -> None:
        table = self._table
        table.clear(columns=True)
        others = self._bars + 1 + sum(width for _, width in _COLUMNS.values())
        # Two less: for the scroll bar, which may appear at any time.
        width = max(8, self._width - others - 2)
        table.add_column(self._heading("name", "quota"), width=width, key="name")
        table.add_column(Text(" recent"), width=self._bars + 1, key="bars")
        for name, (heading, width) in _COLUMNS.items():
            text = self._heading(name, heading)
            text.align("right", width)
            table.add_column(text, width=width, key=name)

    def _heading(self, name: str, heading: str) -> Text:
        return Text(f"{heading}▼" if name == self._by else heading, no_wrap=True)

    def _in_thread(self, function: Callable[[], None]) -> None:
        """Call a function that waits for the hub, so that keys work meanwhile.

        Python waits for textual's own threads before it exits, which would delay `q` while a hub
        does not respond; it does not wait for a daemon thread.
        """

        def run() -> None:
            with contextlib.suppress(RuntimeError):  # the app has ended
                function()

        threading.Thread(target=run, daemon=True).start()

    def _poll(self) -> None:
        """Update the screen at each interval: a slow hub gets one request at a time."""
        while True:
            answer = ask_hub({"command": "status", "lanes": False}, none=_NO_HUB)
            self.call_later(self._take, answer)
            self._wake.wait(self._every)
            self._wake.clear()

    def _take(self, answer: dict[str, Any] | str) -> None:
        if not self.is_running:  # the user has quit meanwhile: the widgets are gone
            return
        head = self.query_one("#head", Static)
        if isinstance(answer, str):
            self._rows = []
            head.update(answer)
        else:
            self._rows = self._history.rows(answer, time.monotonic())
            head.update(_head(answer, self._rows))
        self._show()

    def _show(self) -> None:
        """Show the rows. The cursor stays on its quota, and the view where it is."""
        table = self._table
        self._shown = arranged(self._rows, by=self._by, words=self._words)
        places = [row.key for row in self._shown]
        if self._chosen is None and places:
            self._chosen = places[0]
        # `clear` scrolls to the top and moves the cursor: both are restored, without events that
        # would change `_chosen`.
        top = table.scroll_y
        with self.batch_update(), self.prevent(DataTable.RowHighlighted):
            table.clear()
            for row in self._shown:
                table.add_row(*_cells(row, self._bars), key="\n".join(row.key))
            if self._chosen in places:
                place = places.index(self._chosen)
                table.move_cursor(row=place, animate=False, scroll=self._sorted)
            if not self._sorted:
                table.scroll_to(y=top, animate=False)
        self._sorted = False
        self._show_details()

    @property
    def _current(self) -> QuotaRow | None:
        place = self._table.cursor_row
        return self._shown[place] if 0 <= place < len(self._shown) else None

    def on_data_table_row_highlighted(self) -> None:
        """Show the clients of the quota that has the cursor."""
        row = self._current
        if row is not None:
            self._chosen = row.key
        self._show_details()

    def _show_details(self) -> None:
        row = self._current
        text = "no quota matches these words; Esc shows all" if self._rows else ""
        if row is not None:
            text = "\n".join(_details(row, self._width))
        self.query_one("#details", Static).update(text)

    def action_sort(self) -> None:
        """Sort rows by the next column."""
        self._sort(SORTS[(SORTS.index(self._by) + 1) % len(SORTS)])

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort rows by a column."""
        if event.column_key.value in SORTS:
            self._sort(str(event.column_key.value))

    def _sort(self, by: str) -> None:
        self._by = by
        self._sorted = True
        self._make_columns()
        self._show()

    def action_filter(self) -> None:
        """Show the field for the words of the filter."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show only the rows that have these words."""
        self._words = event.value
        self._show()

    def on_input_submitted(self) -> None:
        """Go back to the table."""
        self._leave_filter()

    def action_unfilter(self) -> None:
        """Show all rows again."""
        self._words = ""
        self.query_one("#filter", Input).value = ""
        self._leave_filter()
        self._show()

    def _leave_filter(self) -> None:
        self.query_one("#filter", Input).display = bool(self._words)
        self._table.focus()

    def action_pause(self) -> None:
        """Pause or resume the quota that has the cursor, once the user has confirmed it."""
        row = self._current
        if row is None:
            return
        name = row.name if len(row.name) <= _LONGEST_NAME else f"{row.name[:_LONGEST_NAME]}..."
        if row.paused:
            question = f"Resume {name}?\n\nIts calls start again in all processes."
        else:
            question = (
                f"Pause {name}?\n\nNo calls start in "
                f"{pluralize(row.processes, 'process', 'processes')} until you resume it. Running "
                "calls continue."
            )

        def answered(yes: bool | None) -> None:  # noqa: FBT001 - as textual calls it
            if yes:
                self._in_thread(partial(self._set_paused, row))

        self.push_screen(_Question(question), answered)

    def _set_paused(self, row: QuotaRow) -> None:
        what = "resume" if row.paused else "pause"
        kind, quota = row.key
        answer = ask_hub({"command": what, "kind": kind, "quota": quota}, none=_NO_HUB)
        problem = ""
        if isinstance(answer, str):
            problem = answer
        elif not answer["known"]:
            problem = f"no program is using {row.name} any more"
        if problem:
            self.call_later(self.notify, problem, severity="error", markup=False)
        self._wake.set()


class _Question(ModalScreen[bool]):
    """Asks a question, to be answered with yes or no.

    Args:
        text: the question.
    """

    CSS = """
    _Question { align: center middle; }
    #question { width: 60; max-width: 90%; height: auto; padding: 1 2; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "answer(True)", "Yes"),
        ("n,escape,q", "answer(False)", "No"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Yield the question."""
        yield Vertical(Static(f"{self._text}\n\ny: yes   n: no", markup=False), id="question")

    def action_answer(self, yes: bool) -> None:  # noqa: FBT001 - as textual calls it
        """Close the question and return the answer."""
        self.dismiss(yes)


def _head(status: Mapping[str, Any], rows: Iterable[QuotaRow]) -> str:
    pids = {one["pid"] for row in rows for one in row.clients}
    text = (
        f"hub {status['version']}, process {status['pid']}: "
        f"{pluralize(len(status['quotas']), 'quota')}, "
        f"{pluralize(len(pids), 'process', 'processes')}"
    )
    return f"{text}\n{status['problem']}" if status["problem"] else text


def _cells(row: QuotaRow, bars: int) -> Iterable[Text]:
    name = Text(row.short_name, no_wrap=True, overflow="ellipsis")
    if row.paused:
        name = Text.assemble(("PAUSED ", "bold reverse"), name, no_wrap=True, overflow="ellipsis")
    over = row.most is not None and row.rate > row.most
    yield name
    yield Text(f" {sparkline(row, bars)}", style="yellow" if over else "green")
    for text, is_bad in (
        (rate_text(row), False),
        (f"{row.waiting:,}", False),
        (f"{row.running:,}", False),
        (short(row.p50), False),
        (short(row.p99), False),
        (f"{row.throttled:,}", row.throttled > 0),
        (f"{row.processes:,}", False),
    ):
        yield Text(text, style="bold red" if is_bad else "", justify="right", no_wrap=True)


def _details(row: QuotaRow, width: int) -> Iterable[str]:
    """Yield the quota's name and limits, what is left of budgets, and the busiest clients."""
    state = "paused" if row.paused else f"on hold for {row.held:.0f} s" if row.held else ""
    if row.lowered is not None:
        state += f"{', ' * bool(state)}lowered to {short(row.lowered)}/s after throttling"
    kind = " (run)" if row.key[0] == "run" else ""
    limits = row.limits or "no overall limit"
    yield f"{row.name}{kind}: {limits}{f' - {state}' if state else ''}"
    yield from budget_lines(row.budgets, most=_MOST_BUDGETS, width=width)
    busiest = sorted(row.clients, key=lambda one: (-one["waiting"], -one["started"], one["pid"]))
    for one in busiest[:_MOST_CLIENTS]:
        yield (
            f"  {printable(one['program'])}, process {one['pid']}: {one['waiting']:,} waiting, "
            f"{one['running']:,} running, {one['started']:,} started"
        )
    if len(busiest) > _MOST_CLIENTS:
        yield f"  and {len(busiest) - _MOST_CLIENTS:,} more"
    if not busiest:
        yield "  no program is using it"
