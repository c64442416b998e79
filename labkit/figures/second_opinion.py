"""A second opinion as a figure: the static estimate beside the simulation with queueing. None of it was measured on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from labkit.figures import style
from labkit.figures.marks import Dots, Figure, HLine, Line, Mark, Panel, Text
from labkit.whatif.second_opinion import Opinion, SecondOpinion

_STATIC: Final = "static estimate (projected)"
_MEDIAN: Final = "simulated: p50, and up to p99"
_APART: Final = 0.14
_HEADROOM: Final = 1.2

_Value = Callable[[Opinion], float | None]


def second_opinion_figure(found: SecondOpinion, *, caption: str = "") -> Figure | None:
    """Two panels, TTFT and TPOT, a place for each split; ``None`` where nothing was simulated."""
    if not found.sides:
        return None
    ttft: tuple[_Value, _Value, _Value] = (lambda o: o.static_ttft_s, lambda o: o.ttft_p50_s, lambda o: o.ttft_p99_s)
    tpot: tuple[_Value, _Value, _Value] = (lambda o: o.static_tpot_s, lambda o: o.tpot_p50_s, lambda o: o.tpot_p99_s)
    smaller = [f"{o.topology} as {o.simulated}" for o in found.sides if o.share < 1]
    slower = [f"{o.topology} {o.stretch:g} times slower (taken out)" for o in found.sides if o.stretch > 1]
    how = f" Simulated smaller: {', '.join(smaller)}." if smaller else ""
    how += f" In slow motion: {', '.join(slower)}." if slower else ""
    return Figure(
        name="second_opinion",
        title="Second opinion: static estimate against simulated queueing",
        subtitle=f"Projected and simulated, not measured. Poisson arrivals at {found.load:.0%} of each projected rate.{how} "
        f"{found.said}".strip(),
        panels=(
            _panel("Time to first token", found, ttft, found.slo.ttft_s, attained=True),
            _panel("Time per output token", found, tpot, found.slo.tpot_s),
        ),
        caption=caption,
        warnings=tuple(f"{one.topology}: {note}" for one in found.sides for note in one.notes),
        columns=2,
        width=10.0,
    )


def _panel(
    title: str, found: SecondOpinion, values: tuple[_Value, _Value, _Value], limit_s: float | None, *, attained: bool = False
) -> Panel:
    static, middle, tail = values
    marks: list[Mark] = []
    highest = limit_s or 0.0
    for at, one in enumerate(found.sides):
        color = style.DISAGGREGATED if "D" in one.topology else style.AGGREGATED
        first, p50, p99 = static(one), middle(one), tail(one)
        if first is not None:
            label = _STATIC if not at else ""
            tip = (f"{one.topology}: projected {first * 1e3:.3g} ms",)
            marks.append(Dots(_x(at - _APART), _x(first * 1e3), style.INK, label, size=8.0, alpha=1.0, marker="cross", tips=tip))
        if p50 is not None:
            label = _MEDIAN if not at else ""
            tip = (f"{one.topology}: simulated p50 {p50 * 1e3:.3g} ms",)
            marks.append(Dots(_x(at + _APART), _x(p50 * 1e3), color, label, size=8.0, alpha=1.0, tips=tip))
        if p50 is not None and p99 is not None:
            marks.append(Line(np.full(2, at + _APART), np.array([p50, p99]) * 1e3, color, width=2.5))
            marks.append(Text(at + _APART, p99 * 1e3, f"p99 {p99 * 1e3:.3g}", color, dx=5, dy=-3))
        if one.attained is not None and attained:
            top = max(value for value in (first, p50, p99, 0.0) if value is not None)
            marks.append(Text(at, top * 1e3, f"{one.attained:.0%} met the SLO", style.INK, align="center", dy=12))
        highest = max(highest, *(value for value in (first, p50, p99) if value is not None), 0.0)
    if limit_s is not None:
        marks.append(HLine(limit_s * 1e3, style.FAINT, "SLO"))
    ticks = tuple((float(at), f"{one.topology}") for at, one in enumerate(found.sides))
    top = _HEADROOM * highest * 1e3
    return Panel(
        title, "", "ms", tuple(marks), "" if math.isfinite(top) and top else "too few requests ended",
        x_range=(-0.6, len(found.sides) - 0.4), y_range=(0.0, top or 1.0), x_ticks=ticks, height=2.6,
    )  # fmt: skip


def _x(value: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([value])
