"""Pins of an exploration as still pictures: what an accelerator gives against what a user gets, and against the first token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labkit.figures import style
from labkit.figures.marks import Dots, Figure, Line, Mark, Panel
from labkit.live.pin import Pin, frontier, ttft_of

_Y = "output_tok_s_per_accelerator"


def pins_figure(
    pins: Sequence[Pin],
    *,
    accelerator: str,
    caption: str = "",
    warnings: tuple[str, ...] = (),
    name: str = "pins",
    title: str = "Pins",
    point: str = "a stretch of the exploration",
) -> Figure:
    """Two panels: tokens/s per accelerator against tokens/s per user, and against TTFT; whiskers are 95 % intervals.

    Args:
        pins: the points; a dashed line joins those that no other beats.
        accelerator: what the split holds: ``core`` or ``GPU``.
        caption, warnings: below the figure.
        name, title: of the figure.
        point: what each point is, in words.
    """
    ttft = ttft_of(pins)
    panels = (
        _panel(pins, "tok_s_per_user", 1.0, "tokens/s per user (1 / median TPOT)", "Further right and up is better", accelerator),
        _panel(pins, ttft, 1e3, f"TTFT {ttft[5:8]} (ms)", "Further left and up is better", accelerator),
    )
    return Figure(
        name=name,
        title=title,
        subtitle=f"Each point is {point}; whiskers are 95 % intervals. The dashed line joins those that no other beats.",
        panels=panels,
        caption=caption,
        warnings=warnings,
        columns=2,
    )


def _panel(pins: Sequence[Pin], metric: str, scale: float, label: str, title: str, accelerator: str) -> Panel:
    known = [pin for pin in pins if pin.value(metric) is not None and pin.value(_Y) is not None]
    colors = style.topology_colors((pin.topology, pin.topology) for pin in pins)
    best = frontier(known, metric, _Y, more_x=metric == "tok_s_per_user")
    edge = [np.array([pin.metrics[name].value * factor for pin in best]) for name, factor in ((metric, scale), (_Y, 1.0))]
    marks: list[Mark] = [Line(edge[0], edge[1], style.SOFT, width=1.0, alpha=0.7, dash="dashed")] if len(best) > 1 else []
    for topology in dict.fromkeys(pin.topology for pin in known):
        mine = [pin for pin in known if pin.topology == topology]
        for pin in mine:
            marks += _whiskers(pin, metric, scale, colors[topology])
        x = np.array([pin.metrics[metric].value * scale for pin in mine])
        y = np.array([pin.metrics[_Y].value for pin in mine])
        tips = [f"{pin.label}: {pin.workload}" for pin in mine]
        marks.append(Dots(x, y, colors[topology], topology, size=6.0, alpha=0.95, tips=tips))
    return Panel(
        title,
        label,
        f"output tok/s per {accelerator}",
        tuple(marks),
        "" if known else f"no point has {label}: too few requests",
        height=2.9,
    )


def _whiskers(pin: Pin, metric: str, scale: float, color: str) -> list[Mark]:
    x, y = pin.metrics[metric], pin.metrics[_Y]
    lines: list[Mark] = []
    if x.low is not None and x.high is not None:
        lines.append(Line(np.array([x.low, x.high]) * scale, np.array([y.value, y.value]), color, width=1.2, alpha=0.55))
    if y.low is not None and y.high is not None:
        lines.append(Line(np.array([x.value, x.value]) * scale, np.array([y.low, y.high]), color, width=1.2, alpha=0.55))
    return lines
