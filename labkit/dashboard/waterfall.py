"""One request from its scheduled send to its last token, with what its worker did meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from bokeh import models
from bokeh.plotting import figure as bokeh_figure

from labkit.dashboard import look
from labkit.dashboard.panels import ALARM
from labkit.figures import style
from labkit.harmless import escaped

_m: Any = models
_figure: Any = bokeh_figure
Phase = Literal["queue", "prefill", "transfer", "decode", "stall", "other"]
#: The lanes, top down: what is drawn in each, and its colour.
LANES: Final[dict[str, tuple[str, str]]] = {
    "queue": ("queue", style.QUEUE),
    "prefill": ("prefill", style.PREFILL),
    "transfer": ("KV transfer", "#7A6FD0"),
    "decode": ("decode", style.DECODE),
    "stall": ("stalls", ALARM),
    "other": ("other prefills here", style.PREFILL),
}
_TOKENS: Final = "tokens"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A phase of the request, or a prefill of another one on the same worker (``other``); seconds after the send."""

    phase: Phase
    start_s: float
    end_s: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class Waterfall:
    """What is drawn of one request. Times are seconds since its scheduled send; what is not known is left out.

    Attributes:
        title: who it was, in words.
        token_s: when each token came.
        limit_s: the SLO on a gap; gaps beyond it are named.
    """

    request: int
    title: str
    stretches: tuple[Stretch, ...]
    token_s: tuple[float, ...] = ()
    limit_s: float | None = None


def waterfall(story: Waterfall, height: int = 230) -> Any:
    """The chart as one Bokeh figure: a lane for each phase that is known, tokens as ticks; hover tells start and length."""
    lanes = [phase for phase in LANES if phase != "other" and any(s.phase == phase for s in story.stretches)]
    lanes.insert(lanes.index("stall") if "stall" in lanes else len(lanes), _TOKENS)
    lanes += ["other"] if any(s.phase == "other" for s in story.stretches) else []
    names = {phase: _TOKENS if phase == _TOKENS else LANES[phase][0] for phase in lanes}
    ends = [s.end_s for s in story.stretches if s.phase != "other"] + list(story.token_s)
    last = max(ends, default=0.001) * 1000
    plot = _figure(
        name="waterfall",
        title=story.title,
        height=height,
        sizing_mode="stretch_width",
        x_range=_m.Range1d(-last * 0.01, last * 1.03),
        y_range=_m.FactorRange(*reversed(names.values()), range_padding=0.05),
        tools=[_m.PanTool(dimensions="width"), _m.WheelZoomTool(dimensions="width"), _m.ResetTool()],
        toolbar_location="right",
        active_scroll=None,
        min_border_left=120,
    )
    look.dress(plot)
    plot.toolbar.autohide = True
    plot.title.text_font, plot.title.text_font_size, plot.title.text_color = look.FONT, "12.5px", look.SOFT
    plot.xaxis.axis_label = "ms since the send"
    plot.yaxis.major_label_text_font_size = "11px"
    plot.ygrid.grid_line_color = None
    plot.xgrid.grid_line_color, plot.xgrid.grid_line_alpha = look.SOFT, 0.18
    _bars(plot, story.stretches, names)
    _ticks(plot, story, names[_TOKENS])
    return plot


def _bars(plot: Any, stretches: Sequence[Stretch], names: dict[str, str]) -> None:
    source = _m.ColumnDataSource(
        {
            "left": [s.start_s * 1000 for s in stretches],
            "right": [s.end_s * 1000 for s in stretches],
            "lane": [names[s.phase] for s in stretches],
            "color": [LANES[s.phase][1] for s in stretches],
            "alpha": [0.45 if s.phase == "other" else 0.9 for s in stretches],
            "tip": [
                f"<b>{escaped(s.text or LANES[s.phase][0])}</b><br>{(s.end_s - s.start_s) * 1000:,.1f} ms"
                f" <span style='opacity:.7'>from {s.start_s * 1000:,.1f} to {s.end_s * 1000:,.1f} ms</span>"
                for s in stretches
            ],
        },
        name="stretches",
    )
    bars = plot.hbar(
        y="lane", left="left", right="right", height=0.62, source=source, color="color", alpha="alpha", line_color=None
    )
    plot.add_tools(_m.HoverTool(renderers=[bars], tooltips="@tip{safe}", point_policy="follow_mouse", visible=False))


def _ticks(plot: Any, story: Waterfall, lane: str) -> None:
    """A tick a token; one that came late after the one before it is drawn in the colour of what broke the SLO."""
    gaps = [None, *((b - a) * 1000 for a, b in zip(story.token_s, story.token_s[1:], strict=False))]
    limit = None if story.limit_s is None else story.limit_s * 1000
    late = [gap is not None and limit is not None and gap > limit for gap in gaps]
    source = _m.ColumnDataSource(
        {
            "x": [t * 1000 for t in story.token_s],
            "lane": [lane] * len(story.token_s),
            "color": [ALARM if slow else style.DECODE for slow in late[: len(story.token_s)]],
            "tip": [
                f"<b>token {i + 1}</b><br>at {t * 1000:,.1f} ms"
                + ("" if gap is None else f", {gap:,.1f} ms after the one before")
                for i, (t, gap) in enumerate(zip(story.token_s, gaps, strict=False))
            ],
        },
        name=_TOKENS,
    )
    ticks = plot.scatter("x", "lane", source=source, marker="dash", angle=1.5708, size=20, line_color="color", line_width=1.6)
    plot.add_tools(_m.HoverTool(renderers=[ticks], tooltips="@tip{safe}", mode="mouse", visible=False))
