"""Independent scaling as a figure: latency of both roles and goodput over the number of workers of each role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from labkit.experiments.scaling import Point, Scaling
from labkit.experiments.scaling_text import sharing_words
from labkit.figures import style
from labkit.figures.marks import Array, Dots, Figure, HLine, Line, Mark, Panel
from labkit.spec import Role

#: name, label of y, scale, ((key, label, dash), …)
_ROWS: Final = (
    ("Time to first token: what prefill workers are for", "TTFT (ms)", 1e3, (("ttft_p50_s", "p50"), ("ttft_p99_s", "p99"))),
    ("Inter-token latency: what decode workers are for", "ITL (ms)", 1e3, (("itl_p50_s", "p50"), ("itl_p99_s", "p99"))),
    ("Goodput", "requests in SLO (req/s)", 1.0, (("goodput_request_s", "goodput"),)),
    ("Output", "output (tok/s)", 1.0, (("output_tok_s", "output"),)),
)
_OUTCOMES: Final = {"only when": "reproduced in part"}
_SPREAD: Final = 0.05  # p50 and p99 of a point beside each other


def scaling_figure(found: Scaling, *, caption: str = "") -> Figure:
    """On the left prefill workers vary, on the right decode workers; whiskers are 95 % intervals, dashed is the first split.

    Both columns of a row have the same scale.
    """
    panels = []
    for title, label, scale, keys in _ROWS:
        y_range = _range(found, scale, [key for key, _ in keys])
        for role in (Role.PREFILL, Role.DECODE):
            points = found.along(role)
            marks = [mark for at, (key, name) in enumerate(keys) for mark in _curve(points, key, name, scale, role, at)]
            known = any(point.figures[key].value is not None for point in points for key, _ in keys)
            nothing = "" if known else _reason(points, keys[-1][0])
            ticks = tuple((at + 1.0, f"{point.count(role)} ({point.topology})") for at, point in enumerate(points))
            over, x_range = f"{role.noun} workers", (0.6, len(points) + 0.4)
            panels.append(Panel(title, over, label, tuple(marks), nothing, x_range, y_range, x_ticks=ticks, height=1.5))
    shared, repeats = sharing_words(found), f"{found.repeats} repeat{'s' * (found.repeats != 1)}"
    return Figure(
        name="scaling",
        title=f"Independent scaling: {_OUTCOMES.get(found.outcome, found.outcome)}",
        subtitle=f"Left: prefill workers vary, right: decode workers; {repeats} in turn, the same requests. Whiskers: 95 % "
        f"intervals. Goodput under {found.slo}.",
        panels=tuple(panels),
        caption=caption,
        warnings=(*([f"not independent hardware: {shared}"] if shared else []), *found.warnings),
        columns=2,
    )


def _curve(points: Sequence[Point], key: str, name: str, scale: float, role: Role, at: int) -> list[Mark]:
    color = style.ROLE[role] if at == 0 else style.shades(style.ROLE[role], 3)[1]
    known = [(x + 1.0 + at * _SPREAD, point, point.figures[key]) for x, point in enumerate(points)]
    held = [(x, point, one) for x, point, one in known if one.value is not None]
    if not held:
        return []
    x = np.array([x for x, _, _ in held])
    y = np.array([(one.value or 0.0) * scale for _, _, one in held])
    tips = [f"{point.topology}: {name} {value:,.3g}" for (_, point, _), value in zip(held, y, strict=True)]
    marks: list[Mark] = [
        Line(x, y, color, name, dash="solid" if at == 0 else "dotted"),
        Dots(x, y, color, size=5.5, alpha=1, tips=tips),
    ]
    for place, _, one in held:
        if one.interval is not None:
            ends = np.array([one.interval.low, one.interval.high]) * scale
            marks.append(Line(np.full(2, place), ends, color, width=1.4, alpha=0.7))
    if at == 0:
        marks.append(HLine(float(y[0]), style.FAINT))
    return marks


def _range(found: Scaling, scale: float, keys: Sequence[str]) -> tuple[float, float]:
    tops = [0.0]
    for point in found.points:
        for one in (point.figures[key] for key in keys):
            tops += [one.value or 0.0, one.interval.high if one.interval is not None else 0.0]
    top: Array = np.array(tops)
    return 0.0, float(top.max()) * scale * 1.15 or 1.0


def _reason(points: Sequence[Point], key: str) -> str:
    return next((point.figures[key].reason for point in points if point.figures[key].reason), "not measured")
