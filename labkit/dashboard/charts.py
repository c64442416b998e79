"""The live charts: samples in, pictures in the browser, clicks out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from labkit.dashboard.chart_data import ChartData
from labkit.dashboard.live_figure import LiveFigure, Message
from labkit.dashboard.panels import ALARM, panels, plots
from labkit.dashboard.tiles import tiles, tiles_html
from labkit.figures import style
from labkit.live.pin import Pin
from labkit.live.sample import Dot, LiveEvent, Sample
from labkit.spec.slo import Slo
from labkit.spec.topology import Role

#: A mark across all charts, by the kind of event.
EVENT_COLORS: Final = {
    "launch": "#7D8694",
    "resplit": "#8B5FD6",
    "load": "#0E93A8",
    "fault": "#DC4B3E",
    "pin": "#C77700",
    "note": "#7D8694",
}


class Charts:
    """Tiles and eight linked charts, ten with a frontend, fed one ``Sample`` a tick from any thread. ``figure`` is what to show.

    Args:
        slo: what tiles and charts are held against; the ITL's limit is ``tpot_s``.
        accelerator: what one is called here: ``GPU`` or ``core``.
        history: samples kept so far, if there are any.
        absent: panel → why this node can fill it with nothing; shown in its place.
        frontend: draw what a frontend tells of requests too; by default where the history has any of it.
        key: at most one set of charts of a key is alive, so that a cell that is run again leaves one stream.
    """

    def __init__(
        self,
        slo: Slo | None = None,
        *,
        accelerator: str = "accelerator",
        history: ChartData | None = None,
        absent: Mapping[str, str] | None = None,
        frontend: bool | None = None,
        key: str = "charts",
    ) -> None:
        self.history = ChartData() if history is None else history
        self._slo, self._accelerator = slo or Slo(), accelerator
        self._pins: tuple[Pin, ...] = ()
        self._known = 0
        self.frontend = self.history.frontend if frontend is None else frontend
        self._board = board(self._slo, accelerator, absent, frontend=self.frontend)
        self.figure = LiveFigure(plots(panels(self._slo, accelerator, frontend=self.frontend)), content=self, key=key)

    @property
    def closed(self) -> bool:
        """Whether the charts are gone, closed or replaced by others of their key: stop feeding them."""
        return self.figure.closed

    def push(self, sample: Sample) -> bool:
        """Keep a sample and draw it; False once the charts are closed."""
        with self.figure.lock:
            if self.closed:
                return False
            rows = self.history.append(sample)
            self._tell(rows.message(known=self._known))
            return True

    def note(self, event: LiveEvent) -> None:
        """Mark something that comes with no sample."""
        with self.figure.lock:
            if not self.closed:
                self._tell(self.history.note(event).message(known=self._known))

    def show_pins(self, pins: Sequence[Pin]) -> None:
        """Leave these pins' p50 and p99 of TTFT and ITL as ghosts behind the charts, each with a switch above them."""
        with self.figure.lock:
            self._pins = tuple(pins)
            self.figure.tell({"type": "ghosts", "ghosts": ghosts(self._pins)})

    def pause(self) -> None:
        """Stop drawing in every browser; recording goes on."""
        self.figure.tell({"type": "view", "view": "pause"})

    def live(self) -> None:
        """Follow the newest again in every browser."""
        self.figure.tell({"type": "view", "view": "live"})

    def on_dot(self, callback: Callable[[Dot, str], None]) -> None:
        """Call back with the slow request or token that was clicked, and ``ttft`` or ``itl``."""

        def tapped(what: dict[str, Any]) -> None:
            dot = Dot(float(what["t_s"]), int(what["request"]), float(what["value_s"]))
            callback(dot, str(what["kind"]))

        self.figure.on_tap(tapped)

    def close(self) -> None:
        """Take the charts off the page; the history stays."""
        self.figure.close()

    def kept(self) -> ChartData:
        """A copy of the history, which may grow meanwhile."""
        with self.figure.lock:
            return self.history.copy()

    def snapshot(self) -> Message:
        """Everything, for a browser that knows nothing."""
        content, buffers = self.history.rows().message()
        self._known = len(self.history.columns)
        return {"board": self._board, "ghosts": ghosts(self._pins), **content}, buffers

    def since(self, t_s: float) -> Message:
        """What happened after an instant."""
        self._known = len(self.history.columns)
        content, buffers = self.history.rows(t_s).message()
        return {"ghosts": ghosts(self._pins), **content}, buffers

    def _tell(self, message: Message) -> None:
        content, buffers = message
        if self.figure.tell({"type": "rows", **content}, buffers):
            self._known = len(self.history.columns)


def board(slo: Slo, accelerator: str, absent: Mapping[str, str] | None = None, *, frontend: bool = False) -> dict[str, Any]:
    """What the board's script must know beside the Bokeh models: panels, tiles, colours."""
    return {
        "panels": [asdict(panel) for panel in panels(slo, accelerator, frontend=frontend)],
        "tiles": tiles_html(tiles(slo, accelerator), accelerator=accelerator),
        "roles": [{"noun": role.noun, "color": style.ROLE[role]} for role in (Role.AGGREGATED, Role.PREFILL, Role.DECODE)],
        "events": EVENT_COLORS,
        "absent": dict(absent or {}),
        "alarm": ALARM,
        "unknown": style.UNKNOWN,
    }


def ghosts(pins: Sequence[Pin]) -> list[dict[str, Any]]:
    """What a pin leaves behind the charts: its quantiles, in the colour of its topology."""
    colors = style.topology_colors((pin.topology, pin.topology) for pin in pins)
    return [
        {
            "label": pin.label,
            "color": colors[pin.topology],
            "metrics": {name: pin.value(name) for name in ("ttft_p50_s", "ttft_p99_s", "itl_p50_s", "itl_p99_s")},
        }
        for pin in pins
    ]
