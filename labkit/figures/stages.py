"""Where the time of a request went: its stages stacked, one bar a side."""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.figures import style
from labkit.figures.context import Context
from labkit.figures.marks import Figure, Mark, Panel, Rects, Text
from labkit.measure.columns import Floats
from labkit.measure.stages import STAGES, Stage, stages_of

#: Client and router grey, prefill amber, the way to another worker violet, decode blue; waiting is the pale one of each.
_LOOK: Final[dict[Stage, tuple[str, str]]] = {
    "send_lag": ("late send", style.STALL),
    "routing": ("router", style.SOFT),
    "queue": ("waiting for prefill", "#F5D6A1"),
    "prefill": ("prefill", style.PREFILL),
    "handover": ("handover", "#4C2A85"),
    "kv_wait": ("KV transfer, waiting for room", style.DISAGGREGATED),
    "first_token": ("first token's step, way back", "#C3A9E6"),
    "decode": ("decode", style.DECODE),
}
_BAR: Final = 0.32
_NAMED: Final = 0.06  # of the longest bar: a narrower part has no room for its number
_SEEN: Final = 0.002  # of it: a narrower part is not there to see


def stages(context: Context) -> Figure:
    """A bar a side: mean milliseconds a request of each stage, from the scheduled send to the last token."""
    seconds = {
        side: np.concatenate([stages_of(context.records, window).seconds for window in held])
        for side, held in context.sides.items()
    }
    known = {side: found for side, found in seconds.items() if len(found)}
    longest = max((found.sum(axis=1).mean() * 1e3 for found in known.values()), default=1.0)
    marks: list[Mark] = []
    for at, (side, found) in enumerate(known.items()):
        marks += _bar(side, found, -float(at), longest)
    why = (
        "the workers sent no request spans, so where the time went is not known"
        if context.sides
        else "no measurement in this run yet"
    )
    silent = [side for side in seconds if side not in known] if known else []
    return Figure(
        name="stages",
        title="Where the time of a request went",
        subtitle="Means of the requests that ended as asked and of which the workers told; the stages follow one another."
        + (f" Nobody told of {', '.join(silent)}." if silent else ""),
        panels=(
            Panel(
                "Stages of a request",
                "mean time since the scheduled send (ms)",
                "",
                tuple(_by_stage(marks)),
                "" if known else why,
                (0.0, longest * 1.1),
                (-len(known) + 0.5 if known else 0.0, 0.5),
                y_ticks=tuple((-float(at), side) for at, side in enumerate(known)),
                height=max(0.5 * len(known), 0.8),
                grid=False,
            ),
        ),
        caption=context.caption,
    )


def _bar(side: str, seconds: Floats, y: float, longest: float) -> list[Mark]:
    means = seconds.mean(axis=0) * 1e3
    ends = np.cumsum(means)
    marks: list[Mark] = []
    for stage, mean, end in zip(STAGES, means, ends, strict=True):
        if mean < _SEEN * longest:
            continue
        label, color = _LOOK[stage]
        share = mean / ends[-1] if ends[-1] else 0.0
        median = np.median(seconds[:, STAGES.index(stage)]) * 1e3
        tip = f"{side} · {label}: {mean:,.1f} ms, {share:.0%} of {ends[-1]:,.0f} ms; p50 {median:,.1f} ms"
        marks.append(
            Rects(np.array([end - mean]), np.array([end]), np.array([y - _BAR]), np.array([y + _BAR]), color, label, tips=(tip,))
        )
        if mean > _NAMED * longest:
            marks.append(Text(float(end - mean / 2), y, f"{mean:,.0f}", style.INK, "center"))
    marks.append(Text(float(ends[-1]), y, f"{ends[-1]:,.0f} ms", style.INK, "left", dx=5.0, bold=True))
    return marks


def _by_stage(marks: list[Mark]) -> list[Mark]:
    """The bars of all sides stage by stage, so that the legend is in the order of a request's life; words last."""
    rects = [mark for mark in marks if isinstance(mark, Rects)]
    merged: list[Mark] = []
    for label, color in _LOOK.values():
        mine = [mark for mark in rects if mark.label == label]
        if mine:
            x0, x1, y0, y1 = (np.concatenate([getattr(mark, name) for mark in mine]) for name in ("x0", "x1", "y0", "y1"))
            merged.append(Rects(x0, x1, y0, y1, color, label, tips=[tip for mark in mine for tip in mark.tips]))
    return [*merged, *(mark for mark in marks if not isinstance(mark, Rects))]
