"""Latency and throughput over the whole run: every window, its phases, every re-split."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from labkit.figures import style
from labkit.figures.context import Context
from labkit.figures.marks import Array, Band, Dots, Figure, Line, Mark, Panel, VLine, VSpan
from labkit.figures.series import around, binned, seconds, stairs, thinned
from labkit.figures.values import Values, milliseconds
from labkit.measure.records import Window
from labkit.measure.statistics import percentile
from labkit.measure.timing import Bools, RequestMetrics, itl_s

MOST_DOTS: Final = 6000
BIN_S: Final = 1.0
_CROWD: Final = 1500
#: letters that fit across a chart over the whole run; a name that does not fit into its window is left out
_LETTERS: Final = 105.0
_FOUND: Final = " Dotted: where the warm-up was found to end."
_WIDTHS_S: Final = (2.0, 5.0, 10.0, 20.0)


def timeline(context: Context, values: Values) -> Figure:
    """TTFT of each request, rolling p50 and p99 of ITL, output tokens a second; x is seconds since the run began."""
    x_range = (0.0, context.end_s)
    panels = (_ttft(context, values, x_range), _itl(context, values, x_range), _throughput(context, values, x_range))
    return Figure(
        name="timeline",
        title="Latency and throughput over the run",
        subtitle="Coloured: measure phase of a side. Grey: warm-up (before) and drain (after). Dashed: re-split."
        + (_FOUND if any(window.first_index for window in context.records.windows) else "")
        + values.sampled("Gaps"),
        panels=panels,
        caption=context.caption,
        share_x=True,
    )


def phases(context: Context, *, named: bool) -> list[Mark]:
    """The shading that every chart over time shares: phases of each window, where a warm-up was found to end, re-splits.

    ``named``: with the sides' names.
    """
    marks: list[Mark] = []
    for windows in context.sides.values():
        for window in windows:
            at = [(t - context.zero_ns) / 1e9 for t in (window.start_ns, window.measure_ns, window.stop_ns, window.end_ns)]
            marks += [VSpan(a, b, style.UNKNOWN, alpha=0.13) for a, b in ((at[0], at[1]), (at[2], at[3])) if b > a]
            for start_s, end_s, color, names in _stretches(context, window, at[1], at[2], repeated=len(windows) > 1):
                room = (end_s - start_s) / context.end_s * _LETTERS
                name = next((name for name in names if named and len(name) <= room), "")
                marks.append(VSpan(start_s, end_s, color, name, alpha=0.07))
            if window.first_index:
                marks.append(VLine(at[1], context.colors[window.side], dash="dotted", width=1.2))
    return marks + [VLine(t, style.SOFT, width=0.8) for t in resplits(context)]


def _stretches(
    context: Context, window: Window, start_s: float, end_s: float, *, repeated: bool
) -> list[tuple[float, float, str, tuple[str, ...]]]:
    """The measure phase, cut where the split changed: beginning, end, colour, and what it may be called."""
    epochs = [(max((epoch.start_ns - context.zero_ns) / 1e9, start_s), epoch.topology) for epoch in context.epochs]
    cuts = [(at, topology) for at, topology in epochs if start_s < at < end_s]
    if not cuts:
        names = (f"{window.side} · {window.repeat + 1}", window.side) if repeated else (window.side,)
        return [(start_s, end_s, context.colors[window.side], names)]
    first = next(topology for at, topology in reversed(epochs) if at <= start_s)
    parts = [(start_s, first), *cuts]
    colors = style.topology_colors((topology, topology) for _, topology in epochs)
    ends = [at for at, _ in parts[1:]] + [end_s]
    return [(at, end, colors[topology], (topology,)) for (at, topology), end in zip(parts, ends, strict=True)]


def resplits(context: Context) -> list[float]:
    """Instants, in seconds, at which another split began to take requests; the event of a re-split comes when it is proven."""
    return [(epoch.start_ns - context.zero_ns) / 1e9 for epoch in context.epochs[1:]]


def _ttft(context: Context, values: Values, x_range: tuple[float, float]) -> Panel:
    metrics, marks = values.requests, phases(context, named=True)
    top = float(np.nanmax(metrics.ttft_s, initial=0.0)) * 1e3 if metrics.ttft_s.size else 0.0
    seen = False
    for side, windows in context.sides.items():
        numbers_of = [window.measurement for window in windows]
        mine = np.flatnonzero(np.isin(metrics.measurement, numbers_of) & np.isfinite(metrics.ttft_s))
        mine = mine[thinned(len(mine), MOST_DOTS)]
        if not mine.size:
            continue
        seen = True
        t, ttft = seconds(metrics.scheduled_ns[mine], context.zero_ns), metrics.ttft_s[mine] * 1e3
        tips = [
            f"request {metrics.request[i]}, TTFT {milliseconds(v)} ms, at {s:.1f} s"
            for i, v, s in zip(mine, ttft, t, strict=True)
        ]
        size, alpha = (3.4, 0.75) if len(t) < _CROWD else (2.2, 0.4)
        marks.append(Dots(t, ttft, context.colors[side], side, size=size, alpha=alpha, tips=tips))
    crosses = [
        _crosses(which, context, metrics, word, color, max(top, 1.0) * height)
        for which, word, color, height in (
            (metrics.failed, "failed", style.STALL, 1.25),
            (metrics.cancelled, "cancelled", style.FAINT, 1.6),
        )
        if which.any()
    ]
    marks += crosses
    note = "" if seen or crosses else "no request received a token"
    return Panel(
        "Time to first token, each request",
        "time since the run began (s)",
        "TTFT (ms)",
        tuple(marks),
        note,
        x_range,
        _room(_drawn_y(marks)),
        y_log=seen or bool(crosses),
        height=1.75,
    )


def _crosses(which: Bools, context: Context, metrics: RequestMetrics, word: str, color: str, level: float) -> Dots:
    """Requests that did not end as asked, above all that did, at the instants at which they were to be sent."""
    rows = np.flatnonzero(which)
    shown = rows[thinned(len(rows), MOST_DOTS)]
    t = seconds(metrics.scheduled_ns[shown], context.zero_ns)
    tips = [f"request {metrics.request[i]} {word}, sent at {s:.1f} s" for i, s in zip(shown, t, strict=True)]
    label = f"{word} ({len(rows):,})"
    return Dots(t, np.full(len(shown), level), color, label, size=4.5, alpha=1, tips=tips, marker="cross")


def _itl(context: Context, values: Values, x_range: tuple[float, float]) -> Panel:
    marks, drawn = phases(context, named=False), 0
    width = _width_s(context, values)
    missing_p99 = False
    for side, windows in context.sides.items():
        parts: list[tuple[Array, Array, Array]] = []
        for window in windows:
            gaps = values.gaps.select(values.gaps.measurement == window.measurement)
            if not len(gaps):
                continue
            gaps = gaps.select(np.argsort(gaps.end_ns, kind="stable"))
            at = _instants(window, context.zero_ns)
            slices = around(seconds(gaps.end_ns, context.zero_ns), at, width)
            latencies = [(itl_s(gaps.select(rows)) if values.counted else gaps.gap_s[rows]) * 1e3 for rows in slices]
            p50, p99 = (np.array([_or_nan(percentile(found, q)) for found in latencies]) for q in (50, 99))
            parts.append((np.append(at, np.nan), np.append(p50, np.nan), np.append(p99, np.nan)))
        if not parts:
            continue
        drawn += 1
        t, p50, p99 = (np.concatenate(part) for part in zip(*parts, strict=True))
        color = context.colors[side]
        marks.append(Band(t, p50, p99, color, alpha=0.15))
        marks.append(Line(t, p50, color, f"{side} p50", width=1.7))
        if np.isfinite(p99).any():
            marks.append(Line(t, p99, color, f"{side} p99", width=1.0, dash="dotted"))
        missing_p99 |= not np.isfinite(p99).any()
    what = "Inter-token latency" if values.counted else "Gaps between chunks"
    title = f"{what}, rolling {width:g} s" + (" (too few for p99)" if missing_p99 else "")
    note = "" if drawn else "no request received a second chunk"
    return Panel(
        title,
        "time since the run began (s)",
        "ITL (ms)" if values.counted else "gap (ms)",
        tuple(marks),
        note,
        x_range,
        _room(_drawn_y(marks)),
        y_log=bool(drawn),
        height=1.75,
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _instants(window: Window, zero_ns: int) -> Array:
    start, end = (window.start_ns - zero_ns) / 1e9, (window.end_ns - zero_ns) / 1e9
    return np.asarray(np.arange(start + 0.5, max(end, start + 1.0), max(0.5, (end - start) / 400)), dtype=np.float64)


def _width_s(context: Context, values: Values) -> float:
    """The shortest rolling window that holds 100 gaps typically, so that it has a p99."""
    span = sum((window.end_ns - window.measure_ns) / 1e9 for windows in context.sides.values() for window in windows)
    rate = values.gaps.gap_s.size / span if span > 0 else 0.0
    return next((width for width in _WIDTHS_S if rate * width >= 400), _WIDTHS_S[-1])


def _throughput(context: Context, values: Values, x_range: tuple[float, float]) -> Panel:
    marks, unknown = phases(context, named=False), 0
    width = max(BIN_S, math.ceil(context.end_s / 3000))
    for side, windows in context.sides.items():
        xs, ys = [], []
        for window in windows:
            unknown += window.measurement in values.uncounted
            per_s = values.tokens_s.get(window.measurement)
            if per_s is None or window.measurement in values.uncounted:
                continue
            bounds = (window.start_ns - context.zero_ns) / 1e9, (window.end_ns - context.zero_ns) / 1e9
            edges, sums = binned(bounds[0] + np.arange(len(per_s), dtype=np.float64), per_s, *bounds, width)
            x, y = stairs(edges, sums / np.diff(edges))
            xs.append(np.append(x, np.nan))
            ys.append(np.append(y, np.nan))
        if xs:
            marks.append(Line(np.concatenate(xs), np.concatenate(ys), context.colors[side], side, width=1.2, fill=0.22))
    drawn = any(isinstance(mark, Line) for mark in marks)
    note = "" if drawn else "the server did not say how many tokens a chunk holds" if unknown else "no token arrived"
    return Panel(
        f"Output throughput, {width:g} s bins",
        "time since the run began (s)",
        "output (tok/s)",
        tuple(marks),
        note,
        x_range,
        height=1.4,
    )


def _drawn_y(marks: list[Mark]) -> Array:
    found = [mark.y for mark in marks if isinstance(mark, Line | Dots)] + [mark.high for mark in marks if isinstance(mark, Band)]
    return np.concatenate(found) if found else np.zeros(0)


def _room(y: Array) -> tuple[float, float] | None:
    """A log range with room for the names of the sides above the data."""
    y = y[np.isfinite(y) & (y > 0)]
    if not y.size:
        return None
    low, high = math.log10(y.min()), math.log10(y.max())
    span = max(high - low, 0.3)
    return 10 ** (low - 0.07 * span), 10 ** (high + 0.2 * span)
