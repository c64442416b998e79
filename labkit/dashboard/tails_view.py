"""How latencies are spread now, in front of how they were when each pin was made: two splits are compared by eye at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from bokeh.layouts import row as bokeh_row

from labkit.dashboard.form import Line, W, let_go
from labkit.dashboard.live_figure import LiveFigure, Message
from labkit.dashboard.tails import LATENCIES, Now, fresh, tail_chart
from labkit.live.pin import Pin
from labkit.spec.slo import Slo

_row: Any = bokeh_row
#: Drawn again after so many seconds, while it is looked at.
EVERY_S: Final = 1.0


class TailsView:
    """``widget`` is to be displayed.

    Args:
        now: how the latencies are spread since the last change, and the split that serves; asked on the thread of the ticks.
        slo: limits that are drawn.
    """

    def __init__(self, now: Callable[[], Now], *, slo: Slo) -> None:
        self._ask, self._slo = now, slo
        self._lock = threading.Lock()
        self._pins: tuple[Pin, ...] = ()
        self._now = Now("", {})
        self._drawn_s: float | None = None
        self._line = Line(_EMPTY)
        self._figure = LiveFigure([self._charts()], content=self)
        self.widget = W.VBox([self._figure, self._line.widget], layout=W.Layout(width="100%"))

    def show(self, pins: Sequence[Pin]) -> None:
        """Put these pins behind the lines of now."""
        with self._lock:
            if tuple(pins) == self._pins:
                return
            self._pins = tuple(pins)
            self._figure.replace([self._charts()])

    def follow(self, t_s: float, *, seen: bool) -> None:
        """A tick of the charts: what is looked at is drawn again every second."""
        if not seen or (self._drawn_s is not None and 0 <= t_s - self._drawn_s < EVERY_S):
            return
        self._drawn_s, now = t_s, self._ask()
        with self._lock:
            anew = now.topology != self._now.topology  # its colour is another
            self._now = now
            if anew:
                self._figure.replace([self._charts()])
            else:
                self._figure.tell({"type": "rows", **fresh(self._pins, now)})
        self._line.say(_told(now))

    def close(self) -> None:
        """Take it off the page."""
        self._figure.close()
        let_go(self.widget)

    def snapshot(self) -> Message:
        """The lines of now, for a browser that knows nothing."""
        return fresh(self._pins, self._now), []

    def since(self, _t_s: float) -> Message:
        """The same for one that was away."""
        return self.snapshot()

    def _charts(self) -> Any:
        charts = [tail_chart(self._pins, name, slo=self._slo, now=self._now) for name in LATENCIES]
        return _row(charts, sizing_mode="stretch_width", spacing=10)


_EMPTY: Final = "nothing was measured since the last change; pins stand behind as faint lines"


def _told(now: Now) -> str:
    ttft, itl = (now.tails[name].n if name in now.tails else 0 for name in ("ttft", "itl"))
    if not ttft and not itl:
        return _EMPTY
    tokens = f"{itl:,} tokens after them" if itl else "no token after them that could be counted"
    return f"now: {ttft:,} first tokens and {tokens}, since the last change, a minute at most"
