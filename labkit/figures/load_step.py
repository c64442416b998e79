"""A load step as a figure: requests sent, the share within the SLO and goodput over time, with the shift and without it."""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.experiments.load_step import SHIFTS, STAYS, LoadStep
from labkit.figures import style
from labkit.figures.marks import Array, Band, Figure, Line, Mark, Panel, VLine, VSpan
from labkit.measure.statistics import share_interval

_SHARED: Final = "workers share devices: a shift moves work between workers, and no hardware"
_COLORS: Final = {STAYS: style.UNKNOWN, SHIFTS: style.DISAGGREGATED}


def load_step_figure(found: LoadStep, *, caption: str = "") -> Figure:
    """Stairs over the measure phase, a stair a bucket, of all repeats together; the step is shaded, switches are dashed lines."""
    x_range, over = (0.0, found.length_s), "time of the measure phase (s)"
    names = {STAYS: f"{found.calm} stays", SHIFTS: f"{found.calm} → {found.surge} → {found.calm}"}
    share, goodput, sent = _frame(found, switches=True), _frame(found), _frame(found, step=True)
    most = max(
        (bucket.requests / found.repeats / (bucket.end_s - bucket.start_s) for bucket in found.courses[STAYS]), default=1.0
    )
    for side, buckets in found.courses.items():
        color = _COLORS[side]
        edges = np.array([*(bucket.start_s for bucket in buckets), found.length_s])
        low, high = (np.array([share_interval(b.good, b.requests)[at] * 100 for b in buckets]) for at in (0, 1))
        part = np.array([np.nan if bucket.share is None else bucket.share * 100 for bucket in buckets])
        x = np.repeat(edges, 2)[1:-1]
        share += [
            Band(x, np.repeat(low, 2), np.repeat(high, 2), color, alpha=0.1),
            Line(x, np.repeat(part, 2), color, names[side], width=2),
        ]
        goodput.append(Line(x, np.repeat([b.goodput_hz for b in buckets], 2), color, names[side], width=2))
        if side == STAYS:
            rate = np.array([bucket.requests / found.repeats / (bucket.end_s - bucket.start_s) for bucket in buckets])
            line: Array = np.repeat(rate, 2)
            sent.append(Line(x, line, style.SOFT, "sent, the same to both", fill=0.15))
    met = "Share of the requests sent then that met the SLO"
    panels = (
        Panel("Requests sent", over, "req/s", tuple(sent), "", x_range, (0.0, 1.4 * most), height=1.1),
        Panel(met, over, "in SLO (%)", tuple(share), "", x_range, (0.0, 118.0), height=1.9),
        Panel("Goodput", over, "req/s", tuple(goodput), "", x_range, height=1.7),
    )
    repeats = f"{found.repeats} repeat{'s' * (found.repeats != 1)}"
    return Figure(
        name="load_step",
        title="A load step, with and without a shift to prefill",
        subtitle=f"{repeats} of each, together; requests by when they were sent. Shaded: the step. Dashed: new requests go "
        f"to another split. Bands: 95 % of a share. SLO: {found.slo}.",
        panels=panels,
        caption=caption,
        warnings=(*([_SHARED] if found.shared else []), *found.warnings),
        share_x=True,
    )


def _frame(found: LoadStep, *, step: bool = False, switches: bool = False) -> list[Mark]:
    """The step and the switches, which every panel shows; each is named in one."""
    marks: list[Mark] = [VSpan(found.step_s, found.back_s, style.PREFILL, "load step" if step else "", alpha=0.1)]
    seen: set[str] = set()
    for shift in found.shifts:
        text = f"→ {shift.after}" if switches and shift.after not in seen else ""
        seen.add(shift.after)
        marks.append(VLine(shift.at_s + shift.switched_s, _COLORS[SHIFTS], text))
    return marks
