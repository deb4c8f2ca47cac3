"""The screen of ``kvstream top``: caches, figures of the one that is chosen, and incidents."""

from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Protocol

import anyio
from rich.console import Group
from rich.text import Text

from kvstream.alerts.types import CacheAlert
from kvstream.cli.render import summary_table
from kvstream.cli.top_view import COLUMNS, clock, fitting, gone, graph, in_order, incidents, status
from kvstream.errors import KVStreamError, MissingExtraError
from kvstream.metrics.history import History
from kvstream.reports.overview import CacheNow, Selection, State
from kvstream.text.escape import for_terminal

try:
    from textual.app import App, ComposeResult
    from textual.binding import BindingType
    from textual.containers import Horizontal, Vertical, VerticalScroll
    from textual.css.query import NoMatches
    from textual.events import Key, Resize
    from textual.widgets import DataTable, Footer, Input, Static
except ImportError:
    raise MissingExtraError("kvstream top", "top") from None

_EVERYTHING = Selection(None, None)
_WINDOWS_KEPT = 600
_ROWS_SHOWN = 200
_NARROW = 100
_HELP = """\
Enter      figures of the cache of this row        a   figures of all caches
s  r       sort by the next column; the other way  /   filter: words, or hit<0.5, premature>30%, age>10s
u          local times or UTC                      p   pause or resume
?          this list                               Esc close, clear the filter
q          leave"""


class Watched(Protocol):
    """What the screen looks at: a stream in this process, or a server."""

    async def state(self, selection: Selection) -> State:
        """Return the state of the selected caches now.

        Raises:
            KVStreamError: If it cannot be had now.
        """

    async def history(self, selection: Selection, windows: int) -> History:
        """Return the last windows of the selected caches.

        Raises:
            KVStreamError: If they cannot be had now.
        """

    async def alerts(self) -> Sequence[CacheAlert]:
        """Return the last alerts, oldest first.

        Raises:
            KVStreamError: If they cannot be had now.
        """


class TopApp(App[None]):
    """Looks at a stream once a second until it is left.

    Args:
        watched: What to look at.
        name: How it is called.
        every: Seconds between looks.
    """

    CSS = """
    #status { height: auto; padding: 0 1; }
    #filter { display: none; height: 3; }
    #help { display: none; height: auto; padding: 0 1; border: solid $panel; }
    .filtering #filter, .helping #help { display: block; }
    #caches { height: auto; max-height: 40%; }
    #trends { height: 5; }
    #trends Static { width: 1fr; padding: 0 1; height: 4; }
    #below { height: 1fr; }
    #figures { width: 3fr; }
    #events { width: 2fr; border-left: solid $panel; padding: 0 1; }
    .narrow #below { layout: vertical; }
    .narrow #figures, .narrow #events { width: 100%; border-left: none; }
    .narrow #evictions { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q,ctrl+c", "quit", "Quit"),
        ("a", "everything", "All caches"),
        ("s", "sort", "Sort"),
        ("r", "reverse", "Reverse"),
        ("slash", "filter", "Filter"),
        ("u", "utc", "UTC"),
        ("p", "pause", "Pause"),
        ("question_mark", "help", "Help"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, watched: Watched, name: str, every: float = 1.0) -> None:
        super().__init__()
        self._watched, self._called, self._every = watched, name, every
        self._selection = _EVERYTHING
        self._paused = self._utc = self._reversed = False
        self._column = 0
        self._rows: dict[str, list[Text]] = {}  # by key, in order; cells of all columns
        self._columns: dict[int, int] = {}  # that are shown, with their widths
        self._state: State | None = None
        self._history: History | None = None
        self._alerts: Sequence[CacheAlert] = ()
        self._heard_at: float | None = None

    def compose(self) -> ComposeResult:
        """Return the parts of the screen."""
        yield Static("asking for the first figures", id="status")
        yield Input(placeholder="name, incident, hit<0.5 …", id="filter")
        yield Static(_HELP, id="help")
        yield DataTable(id="caches", cursor_type="row", zebra_stripes=True)
        with Horizontal(id="trends"):
            yield Static(id="hit-ratio")
            yield Static(id="evictions")
        with Horizontal(id="below"):
            with VerticalScroll(id="figures"):
                yield Static(id="summary")
            with VerticalScroll(id="events"), Vertical():
                yield Static(id="incidents")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self._table().focus()
        self.run_worker(self._look())

    def on_resize(self, event: Resize) -> None:
        """Stand incidents below the figures where there is little room."""
        self.screen.set_class(event.size.width < _NARROW, "narrow")
        self._show()

    def _table(self) -> DataTable[Text]:
        return self.query_one("#caches", DataTable)

    async def _look(self) -> None:
        while True:
            if not self._paused:
                await self.look_now()
            await anyio.sleep(self._every)

    async def look_now(self) -> None:
        """Look once."""
        with suppress(NoMatches):  # the screen is being left
            await self._look_at(self._selection)

    async def _look_at(self, selection: Selection) -> None:
        try:
            history = self._history
            if history is None:
                history = await self._watched.history(selection, _WINDOWS_KEPT)
            state, alerts = await self._watched.state(selection), await self._watched.alerts()
        except KVStreamError as error:
            if self._is_shown:
                self._say(gone(self._called, str(error), self._unheard(), self._last()))
            return
        if selection == self._selection and self._is_shown:
            self._heard_at = anyio.current_time()
            self._history = extended(history, state.history)
            self._state, self._alerts = state, alerts
            self._show()

    def _unheard(self) -> float | None:
        return None if self._heard_at is None else anyio.current_time() - self._heard_at

    def _last(self) -> str:
        return "" if self._state is None else f"Last figures of {clock(self._state.now, self._utc)}."

    @property
    def _is_shown(self) -> bool:
        """Return whether the screen is still there, which is taken down while a look may be under way."""
        return bool(self.query("#status"))

    # Keys

    def action_everything(self) -> None:
        """Show all caches together."""
        self._choose(_EVERYTHING)

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._column, self._reversed = (self._column + 1) % len(COLUMNS), False
        self._show()

    def action_reverse(self) -> None:
        """Turn the order round."""
        self._reversed = not self._reversed
        self._show()

    def action_filter(self) -> None:
        """Ask which caches to show."""
        self.screen.add_class("filtering")
        self.query_one("#filter", Input).focus()

    def action_help(self) -> None:
        """Show the keys, or put them away."""
        self.screen.toggle_class("helping")

    def action_utc(self) -> None:
        """Show times in UTC, or local ones."""
        self._utc = not self._utc
        self._show()

    def action_pause(self) -> None:
        """Pause or resume the view."""
        self._paused = not self._paused
        if self._paused:
            self._say(Text(f"PAUSED  p resumes\n{self._last()}", "bold yellow"))

    def on_key(self, event: Key) -> None:
        """Close what is open."""
        if event.key == "escape":
            self.query_one("#filter", Input).value = ""
            self.screen.remove_class("filtering", "helping")
            self._table().focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show the caches that fit."""
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go back to the rows."""
        self._table().focus()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked; again, the other way."""
        chosen = int(str(event.column_key.value))
        self._column, self._reversed = chosen, chosen == self._column and not self._reversed
        self._show()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show the cache of the chosen row."""
        source, _, tier = str(event.row_key.value).partition("\0")
        self._choose(Selection(source, tier))

    def _choose(self, selection: Selection) -> None:
        self._selection = selection
        self._history = None
        self.run_worker(self.look_now())

    # Drawing

    def _say(self, text: Text) -> None:
        self.query_one("#status", Static).update(text)

    def _show(self) -> None:
        state, history = self._state, self._history
        if state is None or not self._is_shown:
            return
        if not self._paused:
            self._say(status(self._called, state, self._unheard() or 0.0, self._utc))
        self._show_caches(state.caches)
        if history is not None:
            self._show_history(history, state.now)
        verdict = Text("\n".join(f"• {for_terminal(sentence)}" for sentence in state.verdict))
        self.query_one("#summary", Static).update(
            Group(verdict, summary_table(state.summary, with_alerts=False))
        )
        self.query_one("#incidents", Static).update(incidents(state, self._alerts, self._utc))

    def _show_caches(self, caches: Sequence[CacheNow]) -> None:
        table = self._table()
        words = self.query_one("#filter", Input).value
        listed = in_order(caches, self._column, self._reversed, words)
        rows = {
            f"{cache.source}\0{cache.tier}": [column.cell(cache) for column in COLUMNS]
            for cache in listed[:_ROWS_SHOWN]
        }
        more = f"  {len(listed):,} of {len(caches):,}" if len(rows) < len(caches) else ""
        table.border_title = f"by {COLUMNS[self._column].title}{', reversed' * self._reversed}{more}"
        columns = fitting(list(rows.values()), table.size.width)
        if list(rows) != list(self._rows) or columns != self._columns:
            chosen = list(self._rows)[table.cursor_row : table.cursor_row + 1]
            table.clear(columns=columns != self._columns)
            if columns != self._columns:
                for number, width in columns.items():
                    table.add_column(COLUMNS[number].title, key=str(number), width=width)
            self._columns = columns
            for key, cells in rows.items():
                table.add_row(*(cells[number] for number in columns), key=key)
            if chosen and chosen[0] in rows:
                table.move_cursor(row=list(rows).index(chosen[0]))
        else:
            for key, cells in rows.items():
                for number in columns:
                    if cells[number] != self._rows[key][number]:
                        table.update_cell(key, str(number), cells[number])
        self._rows = rows

    def _show_history(self, history: History, now: float) -> None:
        for name, title, values, most in (
            ("#hit-ratio", "hit ratio", history.hit_ratio, 1.0),
            ("#evictions", "evictions a second", history.eviction_rate, None),
        ):
            widget = self.query_one(name, Static)
            width = max(10, widget.size.width - 2)
            widget.update(graph(title, history, values, now, width, most))


def extended(history: History, newer: History) -> History:
    """Return windows with newer ones, which take the place of those of the same time."""
    first = newer.ts[0] if newer.ts else float("inf")
    kept = sum(ts < first for ts in history.ts)
    columns = {
        name: (getattr(history, name)[:kept] + getattr(newer, name))[-_WINDOWS_KEPT:]
        for name in History.__struct_fields__
        if name != "window_seconds"
    }
    return History(window_seconds=newer.window_seconds, **columns)
