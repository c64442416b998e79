"""An afternoon as one HTML page: the same charts, the pins, what happened, and a clock that replays it. It fetches nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bokeh.resources import Resources

from labkit.dashboard.chart_data import ChartData
from labkit.dashboard.charts import EVENT_COLORS, board, ghosts
from labkit.dashboard.live_figure import BOARD, STYLE, document_json
from labkit.dashboard.panels import panels, plots
from labkit.dashboard.pareto import pareto
from labkit.dashboard.pins_view import charts_of, pins_remarks, pins_table
from labkit.dashboard.tails import LATENCIES, Name, tail_chart
from labkit.errors import StoreError
from labkit.harmless import escaped, harmless
from labkit.live.pin import Pin
from labkit.live.sample import LiveEvent
from labkit.spec.slo import Slo

_REPLAY: Final = (Path(__file__).parent / "page.js").read_text("utf-8")
_THEME: Final = (Path(__file__).parent / "page.css").read_text("utf-8")
#: factors of the replay's speed
_SPEEDS: Final = (1, 4, 10, 60)


def replay_page(
    history: ChartData,
    *,
    title: str,
    subtitle: str = "",
    about: Mapping[str, str] | None = None,
    slo: Slo | None = None,
    accelerator: str = "accelerator",
    pins: Sequence[Pin] = (),
    most_rows: int = 6_000,
) -> str:
    """The page's HTML.

    Args:
        title, subtitle: what was explored; escaped here.
        about: the conditions, each under its name; escaped here.
        most_rows: a longer history is evenly thinned to as many rows, so that the page stays a few MB.
    """
    slo = slo or Slo()
    content, (values,) = history.rows(most=most_rows).message()
    data: dict[str, Any] = {
        **content,
        "values": base64.b64encode(values).decode("ascii"),
        "board": {**board(slo, accelerator, frontend=history.frontend), "replay": True},
        "ghosts": ghosts(pins),
        "document": document_json(plots(panels(slo, accelerator, frontend=history.frontend))),
        "pins": document_json(_pin_charts(pins, slo, accelerator)) if pins else None,
    }
    shown = "" if pins else " hidden"
    told = f"{pins_remarks(pins)}{pins_table(pins, accelerator, slo)}" if pins else ""
    speeds = "".join(f'<option value="{speed}"{" selected" if speed == 10 else ""}>{speed}×</option>' for speed in _SPEEDS)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escaped(title)}</title><style>{_THEME}{STYLE}</style>{Resources("inline", components=["bokeh"]).render()}</head>
<body><main><h1>{escaped(title)}</h1><div class="sub">{escaped(subtitle)}</div>
{_about(about or {})}
<div class="clock"><button id="play" type="button" title="replay from here">▶ Play</button>
<input id="time" type="range" aria-label="time" title="drag, or use the arrow keys">
<select id="speed" aria-label="speed" title="speed of the replay">
{speeds}</select>
<span id="picked" role="status"></span></div>
<div id="board"></div>
<div class="card"{shown}><h2>Pins</h2><div id="pins"></div>{told}</div>
{_happened(history)}</main>
<script type="application/json" id="data">{_inside_script(data)}</script>
<script>{BOARD}{_REPLAY}
const ready = replay(Bokeh, JSON.parse(document.getElementById("data").textContent)).then((board) => (window.board = board))
</script></body></html>
"""


def save_page(history: ChartData, path: Path, **options: Any) -> Path:
    """Write ``replay_page`` to a file.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(replay_page(history, **options), encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}", remedy="free space there, or choose another folder"
        ) from error
    return path


def _pin_charts(pins: Sequence[Pin], slo: Slo, accelerator: str) -> list[Any]:
    charts = [pareto(pins, one, accelerator=accelerator) for one in charts_of(pins)]
    known: list[Name] = [name for name in LATENCIES if any(name in pin.tails for pin in pins)]
    return charts + [tail_chart(pins, name, slo=slo) for name in known]


def _about(about: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in about.items())
    return f'<dl class="about">{rows}</dl>' if rows else ""


def _happened(history: ChartData) -> str:
    """Every mark of the charts in words; a click on its time turns the clock to it. Notes come apart: telemetry makes many."""
    events = sorted(history.events, key=lambda event: event.t_s)
    notes = [event for event in events if event.kind == "note"]
    others = [event for event in events if event.kind != "note"]
    shown = f'<div class="card"><h2>What happened</h2>{_rows(others)}</div>' if others else ""
    more = f'<details class="card"><summary>Notes of the lab and its telemetry: {len(notes)}</summary>{_rows(notes)}</details>'
    return shown + (more if notes else "")


def _rows(events: Sequence[LiveEvent]) -> str:
    rows = "".join(
        f'<tr><td><button type="button" class="when" data-t="{event.t_s:.2f}" title="look at this instant">{event.t_s:,.1f} s'
        f'</button></td><td><i style="--c:{EVENT_COLORS[event.kind]}"></i>{escaped(event.kind)}</td>'
        f"<td>{escaped(event.text)}</td></tr>"
        for event in events
    )
    return f'<table class="happened">{rows}</table>'


def _inside_script(data: dict[str, Any]) -> str:
    """JSON that no text in it can end the script element with, and no text of which turns the direction of what is shown."""
    text = json.dumps(
        {key: value if key == "values" else _shown(value) for key, value in data.items()}, separators=(",", ":"), allow_nan=False
    )
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _shown(value: Any) -> Any:
    """The same with every text made harmless, keys too: labels are found by themselves."""
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, Mapping):
        return {_shown(key): _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value
