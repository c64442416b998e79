"""The roofline as a figure: what prefill and decode reach of this device, over FLOPs per byte, and MFU and MBU over the batch."""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.experiments.knee_text import ms
from labkit.experiments.roofline import HALF, PHASES, Phase, RooflineFound, RooflinePoint
from labkit.figures import style
from labkit.figures.marks import Dots, Figure, HLine, Line, Mark, Panel, Text, VLine
from labkit.serve.peaks import flops_text

_HUE: Final = {"prefill": style.PREFILL, "decode": style.DECODE}
_COUNTS: Final = {"prefill": "tokens of a step", "decode": "requests that decode"}


def roofline_figure(found: RooflineFound, *, caption: str = "") -> Figure:
    """Three panels: the roofline with a dot for each batch, then MFU and MBU of prefill and of decode."""
    return Figure(
        name="roofline",
        title="Prefill and decode on this device's roofline",
        subtitle=f"{found.model} on {found.peaks}. FLOPs and bytes from the model's shape. {found.clocks} "
        "Beside dots: tokens of a prefill step, requests of a decode step.",
        panels=(_roof(found), *(_shares(found, phase) for phase in PHASES)),
        caption=caption,
        warnings=found.notes,
        columns=3,
        width=12.5,
    )


def _roof(found: RooflineFound) -> Panel:
    peaks, tp = found.peaks, found.tp
    marks: list[Mark] = []
    at = [point.intensity for point in found.points] + [peaks.ridge]
    left, right = min(at) / 2, max(at) * 3
    x = np.array([left, peaks.ridge, right])
    marks.append(Line(x, np.minimum(x * peaks.copy_bytes_s, peaks.flop_s) * tp / 1e9, style.INK, "roof (measured)", width=1.8))
    marks.append(VLine(peaks.ridge, style.FAINT, f"ridge {peaks.ridge:.3g}"))
    for phase in PHASES:
        points = found.of(phase)
        if points:
            x, y = np.array([p.intensity for p in points]), np.array([p.flop_s / 1e9 for p in points])
            marks.append(Line(x, y, _HUE[phase], width=0.8, alpha=0.5))
            marks.append(Dots(x, y, _HUE[phase], phase, size=5.5, alpha=0.9, tips=[_tip(p) for p in points]))
            for point in (points[0], points[-1]):
                size = point.tokens if phase == "prefill" else point.batch
                marks.append(Text(point.intensity, point.flop_s / 1e9, f"{size:,}", _HUE[phase], dx=6, dy=-7))
    top = Text(right, peaks.flop_s * tp / 1e9, flops_text(peaks.flop_s * tp), style.INK, align="right", dy=8)
    return Panel(
        "Roofline", "FLOP per byte", "GFLOP/s", (*marks, top),
        "" if found.points else "no steps were measured", x_range=(left, right), x_log=True, y_log=True, height=3.0,
    )  # fmt: skip


def _shares(found: RooflineFound, phase: Phase) -> Panel:
    points = found.of(phase)
    marks: list[Mark] = [HLine(HALF * 100, style.FAINT, "half of a peak")]
    if points:
        x = np.array([p.tokens if phase == "prefill" else p.batch for p in points], np.float64)
        for name, color in (("mfu", style.PREFILL), ("mbu", style.DECODE)):
            y = np.array([getattr(p, name) for p in points]) * 100
            marks.append(Dots(x, y, color, f"{name.upper()} (%)", size=5.0, alpha=0.9, tips=[_tip(p) for p in points]))
            if phase == "decode":
                marks.append(Line(x, y, color, width=1.0, alpha=0.6))
    none = "" if points else f"no {phase} steps were measured"
    return Panel(phase.capitalize(), _COUNTS[phase], "% of the measured peak", tuple(marks), none, x_log=True, height=3.0)


def _tip(point: RooflinePoint) -> str:
    size = f"{point.batch} × {point.tokens // point.batch} tokens" if point.phase == "prefill" else f"{point.batch} requests"
    return f"{point.phase} {size}: {ms(point.step_s)} ms, MFU {point.mfu:.0%}, MBU {point.mbu:.0%}, {point.bound}"
