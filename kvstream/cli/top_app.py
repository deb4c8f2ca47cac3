"""The screen of ``kvstream top``: caches, figures of the one that is chosen, and alerts."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Protocol

import anyio
from rich.console import Group
from rich.text import Text

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.cli.render import LEVEL_STYLE, alert_line, summary_table
from kvstream.errors import MissingExtraError
from kvstream.metrics.summary import ALL
from kvstream.reports.overview import CacheNow, Place, State
from kvstream.text.escape import for_terminal
from kvstream.text.numbers import time_of_day

try:
    from textual.app import App, ComposeResult
    from textual.binding import BindingType
    from textual.containers import Horizontal, Vertical, VerticalScroll
    from textual.css.query import NoMatches
    from textual.events import Resize
    from textual.widgets import DataTable, Footer, RichLog, Sparkline, Static
except ImportError:
    raise MissingExtraError("kvstream top", "top") from None

_EVERYTHING = Place(None, None)
_WINDOWS_SHOWN = 120
_NARROW = 100


class Watched(Protocol):
    """What the screen looks at: a stream in this process, or a server."""

    async def state(self, place: Place) -> State:
        """Return the state of a place now.

        Raises:
            OSError: If it cannot be had now.
        """

    async def alerts(self) -> Sequence[CacheAlert]:
        """Return the last alerts, oldest first.

        Raises:
            OSError: If they cannot be had now.
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
    #caches { height: auto; max-height: 40%; }
    #trends { height: 4; }
    #trends Vertical { padding: 0 1; }
    Sparkline { height: 3; }
    #below { height: 1fr; }
    #figures { width: 3fr; }
    #alerts { width: 2fr; border-left: solid $panel; padding: 0 1; }
    .narrow #below { layout: vertical; }
    .narrow #figures, .narrow #alerts { width: 100%; border-left: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q,ctrl+c", "quit", "Quit"),
        ("a", "everything", "All caches"),
        ("p", "pause", "Pause"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, watched: Watched, name: str, every: float = 1.0) -> None:
        super().__init__()
        self._watched, self._called, self._every = watched, name, every
        self._place = _EVERYTHING
        self._paused = False
        self._rows: list[str] = []  # keys of the table's rows
        self._history: dict[float, tuple[float, float]] = {}  # by window: hit ratio, evictions a second
        self._told: list[CacheAlert] = []
        self._heard = ""

    def compose(self) -> ComposeResult:
        """Return the parts of the screen."""
        yield Static("waiting", id="status")
        yield DataTable(id="caches", cursor_type="row", zebra_stripes=True)
        with Horizontal(id="trends"):
            with Vertical():
                yield Static("hit ratio")
                yield Sparkline([], id="hit-ratio")
            with Vertical():
                yield Static("evictions a second")
                yield Sparkline([], id="evictions")
        with Horizontal(id="below"):
            with VerticalScroll(id="figures"):
                yield Static(id="summary")
            yield RichLog(id="alerts", wrap=True, min_width=0)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        table = self._table()
        for title in ("source", "tier", "state", "blocks", "hit ratio", "evictions/s"):
            table.add_column(title, key=title, width=8 if title == "state" else None)
        self.run_worker(self._look())

    def on_resize(self, event: Resize) -> None:
        """Stand alerts below the figures where there is little room."""
        self.screen.set_class(event.size.width < _NARROW, "narrow")

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
            await self._look_at(self._place)

    async def _look_at(self, place: Place) -> None:
        try:
            state, alerts = await self._watched.state(place), await self._watched.alerts()
        except OSError as error:
            if self._is_shown:
                failed = f"no connection to {self._called}: {error}; trying again. {self._heard}"
                self._say(Text(for_terminal(failed), "red"))
            return
        if place == self._place and self._is_shown:
            self._show(state, alerts)

    @property
    def _is_shown(self) -> bool:
        """Return whether the screen is still there, which is taken down while a look may be under way."""
        return bool(self.query("#status"))

    def action_everything(self) -> None:
        """Show all caches together."""
        self._choose(_EVERYTHING)

    def action_pause(self) -> None:
        """Stop looking, or go on."""
        self._paused = not self._paused
        if self._paused:
            self._say(Text(f"paused; p goes on. {self._heard}", "yellow"))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show the cache of the chosen row."""
        source, _, tier = str(event.row_key.value).partition("\0")
        self._choose(Place(source, tier))

    def _choose(self, place: Place) -> None:
        self._place = place
        self._history.clear()
        self.run_worker(self.look_now())

    def _say(self, text: Text) -> None:
        self.query_one("#status", Static).update(text)

    def _show(self, state: State, alerts: Sequence[CacheAlert]) -> None:
        self._heard = f"Figures of {time_of_day(time.time())} UTC."
        self._say(_status(self._called, state))
        self._show_caches(state.caches)
        self._show_history(state)
        verdict = Text("\n".join(f"• {for_terminal(sentence)}" for sentence in state.verdict))
        self.query_one("#summary", Static).update(Group(verdict, summary_table(state.summary)))
        if alerts != self._told:
            self._told = list(alerts)
            log = self.query_one("#alerts", RichLog)
            log.clear()
            for alert in alerts:
                log.write(alert_line(alert))

    def _show_caches(self, caches: Sequence[CacheNow]) -> None:
        table = self._table()
        keys = [f"{cache.source}\0{cache.tier}" for cache in caches]
        if keys != self._rows:
            table.clear()
            for key, cache in zip(keys, caches, strict=True):
                table.add_row(*_cells(cache), key=key)
            self._rows = keys
            return
        columns = list(table.columns)
        for key, cache in zip(keys, caches, strict=True):
            for column, cell in zip(columns, _cells(cache), strict=True):
                table.update_cell(key, column, cell)

    def _show_history(self, state: State) -> None:
        history = state.history
        for ts, hits, evictions in zip(history.ts, history.hit_ratio, history.eviction_rate, strict=True):
            self._history[ts] = (hits or 0.0, evictions)
        for ts in sorted(self._history)[:-_WINDOWS_SHOWN]:
            del self._history[ts]
        rows = [self._history[ts] for ts in sorted(self._history)]
        self.query_one("#hit-ratio", Sparkline).data = [hits for hits, _ in rows]
        self.query_one("#evictions", Sparkline).data = [evictions for _, evictions in rows]


def _cells(cache: CacheNow) -> list[Text]:
    ratio = "–" if cache.hit_ratio is None else f"{cache.hit_ratio:.2f}"
    level = cache.level
    return [
        Text(for_terminal(cache.source)),
        Text(for_terminal(cache.tier)),
        Text(level.value, LEVEL_STYLE[level]) if level else Text("ok", "green"),
        Text(f"{cache.blocks:,}", justify="right"),
        Text(ratio, justify="right"),
        Text(f"{cache.eviction_rate:,.0f}", justify="right"),
    ]


def _status(name: str, state: State) -> Text:
    """Return what matters most, in a line."""
    summary = state.summary
    place = "all caches" if summary.source == ALL else f"{summary.source} / {summary.tier}"
    head = for_terminal(f"kvstream {name}  {place}  ")
    if not summary.accounts.processed:
        return Text.assemble(head, ("waiting for the first events", "dim"))
    bad = [each for each in state.incidents if each.level is not AlertLevel.INFO and not each.is_silenced]
    if not bad:
        return Text.assemble(head, ("healthy", "bold green"))
    since = time_of_day(min(each.started_at for each in bad))
    message = for_terminal("; ".join(each.message for each in bad))
    worst = bad[0].level
    return Text.assemble(head, (f"{worst.value} since {since} UTC", LEVEL_STYLE[worst]), f"  {message}")
