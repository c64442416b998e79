"""TTFT, TPOT and ITL of the sides side by side: where the values lie (above), and how heavy the tail is (below)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from labkit.figures import style
from labkit.figures.context import Context
from labkit.figures.marks import Array, Band, Dots, Figure, HLine, Line, Mark, Panel, Text, VLine
from labkit.figures.series import thinned
from labkit.figures.values import Latency, Values, milliseconds, percentile_text
from labkit.measure.statistics import percentile

LIMIT_MS: Final = 50.0
FLOOR_MS: Final = 0.1
#: levels of the two lines of labels under a ridge; its height; how far along the axis a label still fits to the right
_UPPER, _LOWER, _RISE, _ROOM = 0.15, 0.34, 0.5, 0.62
_Row = tuple[Latency, str, str, str]
#: Side → percentile → ms, where they are known better than from what is drawn.
Exact = Mapping[str, Mapping[float, float]]
_METRICS: Final[tuple[_Row, ...]] = (
    ("ttft", "Time to first token", "TTFT (ms)", "requests"),
    ("tpot", "Time per output token", "TPOT (ms)", "requests"),
)
_ITL: Final[_Row] = ("itl", "Inter-token latency", "ITL (ms)", "tokens")
_CHUNK_GAP: Final[_Row] = ("chunk_gap", "Gap between chunks", "chunk gap (ms)", "chunks")


def distributions(context: Context, values: Values) -> Figure:
    """Two rows of panels. Pooled over a side's repeats, each repeat as a faint line; log x; p50 and p99 in ms."""
    above, below = [], []
    metrics = (*_METRICS, _ITL if values.counted else _CHUNK_GAP)
    pooled = {key: _repeats(context, values, key) for key, *_ in metrics}
    exact = {side: values.percentiles_ms(windows, metrics[-1][0]) for side, windows in context.sides.items()}
    for key, title, x_label, unit in metrics:
        repeats = {side: found for side, found in pooled[key].items() if sum(map(len, found))}
        x_range = _x_range(list(repeats.values()))
        note = "" if repeats else values.why_none(key)
        of_gaps = unit != "requests"
        known = exact if of_gaps else {}
        above.append(_ridges(context, repeats, title, x_label, x_range, note, known, limit=of_gaps))
        below.append(_tails(context, repeats, x_label, unit, x_range, note, known, limit=of_gaps))
    counts = "  ·  ".join(
        f"{side}: {len(windows)} repeat{'s' if len(windows) > 1 else ''}, {sum(map(len, pooled['ttft'][side])):,} requests"
        for side, windows in context.sides.items()
    )
    zeros = _zeros([repeat for repeats in pooled.get("itl", {}).values() for repeat in repeats])
    return Figure(
        name="distributions",
        title="Latency distributions",
        subtitle=f"{counts or 'no measurement'}. Repeats pooled (faint: each repeat); ticks: p50 and p99.{zeros}"
        + values.sampled(f"{metrics[-1][1]}: curves", "; percentiles of all"),
        panels=(*above, *below),
        caption=context.caption,
        columns=3,
    )


def _repeats(context: Context, values: Values, latency: Latency) -> dict[str, list[Array]]:
    return {side: [values.window_ms(window, latency) for window in windows] for side, windows in context.sides.items()}


def _zeros(repeats: list[Array]) -> str:
    values = np.concatenate(repeats) if repeats else np.zeros(0)
    share = float(np.mean(values < FLOOR_MS)) if values.size else 0.0
    return (
        f" {share:.0%} of the ITL values are below {FLOOR_MS:g} ms (tokens that shared a chunk), left of the ITL axis."
        if share >= 0.005
        else ""
    )


def _x_range(sides: list[list[Array]]) -> tuple[float, float]:
    drawn = [values[values >= FLOOR_MS] for repeats in sides for values in repeats]
    both = np.concatenate(drawn) if drawn else np.zeros(0)
    if not both.size:
        return 1.0, 1000.0
    low, high = np.log10(np.percentile(both, 0.05)), np.log10(both.max())
    room = max(0.13 * (high - low), 0.1)
    return float(10 ** (low - room)), float(10 ** (high + room))


def _ridges(
    context: Context,
    repeats: dict[str, list[Array]],
    title: str,
    x_label: str,
    x_range: tuple[float, float],
    note: str,
    exact: Exact,
    *,
    limit: bool,
) -> Panel:
    marks: list[Mark] = [_limit()] if limit and repeats else []
    count = len(repeats)
    for row, (side, found) in enumerate(repeats.items()):
        base, color = float(count - 1 - row), context.colors[side]
        pooled = np.concatenate(found)
        grid, density = log_density(pooled, x_range)
        if density.size:
            for repeat in found if len(found) > 1 else ():
                faint_grid, faint = log_density(repeat, x_range)
                if faint.size:
                    marks.append(Line(faint_grid, base + _RISE * faint / density.max(), color, width=0.7, alpha=0.35))
            height = _RISE * density / density.max()
            marks.append(Band(grid, np.full_like(grid, base), base + height, color, alpha=0.3))
            marks.append(Line(grid, base + height, color, width=1.4))
        else:
            marks.append(Dots(pooled, np.full_like(pooled, base + 0.06), color, size=4))
        marks += _markers(pooled, base, color, x_range, exact.get(side, {}))
    ticks = tuple((float(count - 1 - row), side) for row, side in enumerate(repeats))
    return Panel(
        title,
        x_label,
        "density (relative)",
        tuple(marks),
        note,
        x_range,
        (-0.47, count - 1 + 0.66 if count else 1.0),
        True,
        y_ticks=ticks,
        height=0.95 * max(count, 1) + 0.1,
        grid=False,
    )


def _markers(pooled: Array, base: float, color: str, x_range: tuple[float, float], exact: Mapping[float, float]) -> list[Mark]:
    """p50 and p99: a tick under the baseline, the value beside it, two lines, so that no tick crosses a label."""
    low, whole = np.log(x_range[0]), np.log(x_range[1] / x_range[0])
    (p50, text50), (p99, text99) = (percentile_text(pooled, q, exact.get(q)) for q in (50, 99))
    if p50 is None:
        return []
    at50 = (np.log(max(p50, x_range[0])) - low) / whole
    if p99 is None:
        return [*_marker(p50, text50, base - _UPPER, color, right=at50 < _ROOM), *_note(text99, base - _LOWER, x_range)]
    at99 = (np.log(p99) - low) / whole
    if at99 > _ROOM and at99 - at50 < 1 - _ROOM:
        return [
            *_marker(p50, text50, base - _UPPER, color, right=False),
            *_marker(p99, text99, base - _LOWER, color, right=False),
        ]
    return [
        *_marker(p99, text99, base - _UPPER, color, right=bool(at99 <= _ROOM)),
        *_marker(p50, text50, base - _LOWER, color, right=at50 < _ROOM),
    ]


def _marker(value: float, text: str, level: float, color: str, *, right: bool) -> list[Mark]:
    top = np.ceil(level) + 0.04
    tick = Line(np.array([value, value]), np.array([level - 0.08, top]), color, width=1.6)
    return [tick, Text(value, level, text, color, align="left" if right else "right", dx=4.0 if right else -4.0, bold=True)]


def _note(text: str, level: float, x_range: tuple[float, float]) -> list[Mark]:
    return [Text(float(np.sqrt(x_range[0] * x_range[1])), level, text, style.SOFT, align="center", size=7.5)]


def log_density(values: Array, x_range: tuple[float, float], points: int = 240) -> tuple[Array, Array]:
    """``(x, density)`` of log10(values): a histogram smoothed with a Gaussian (Silverman's width, at least one bin).

    Empty arrays for fewer than 10 values: a curve through them would be invented.
    """
    values = values[values >= FLOOR_MS]
    if values.size < 10:
        return np.zeros(0), np.zeros(0)
    logs, (low, high) = np.log10(values), np.log10(x_range)
    edges = np.linspace(low, high, points + 1)
    counts = np.histogram(logs, edges)[0] / values.size
    step = edges[1] - edges[0]
    quartiles = np.percentile(logs, [25, 75])
    spread = min(float(logs.std()), float(np.diff(quartiles)[0]) / 1.34 or np.inf)
    width = max(0.9 * spread * values.size**-0.2 / step, 1.2)
    reach = int(np.ceil(4 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    smooth = np.convolve(np.pad(counts, reach), kernel / kernel.sum(), mode="valid") / step
    return 10 ** ((edges[1:] + edges[:-1]) / 2), smooth


def tail(values: Array, most: int = 900) -> tuple[Array, Array]:
    """``(x, share)``: the share of values at or above x in percent, as steps; thinned evenly in rank and in log share."""
    if not len(values):
        return np.zeros(0), np.zeros(0)
    ordered, count = np.sort(values), len(values)
    share = 100.0 * np.arange(count, 0, -1) / count
    from_end = count - np.unique(np.geomspace(1, count, most).astype(np.int64))
    keep = np.union1d(thinned(count, most), from_end)
    return np.repeat(ordered[keep], 2)[:-1], np.repeat(share[keep], 2)[1:]


def _tails(
    context: Context,
    repeats: dict[str, list[Array]],
    x_label: str,
    unit: str,
    x_range: tuple[float, float],
    note: str,
    exact: Exact,
    *,
    limit: bool,
) -> Panel:
    marks: list[Mark] = [_limit("")] if limit and repeats else []
    if repeats:
        marks += [HLine(50, style.FAINT, "p50", "dotted"), HLine(1, style.FAINT, "p99", "dotted")]
    least = 1.0
    for side, found in repeats.items():
        color = context.colors[side]
        pooled = np.concatenate(found)
        least = min(least, 100 / max(len(pooled), 1))
        if len(found) > 1:
            marks += [Line(*tail(repeat), color, width=0.7, alpha=0.3) for repeat in found]
        marks.append(Line(*tail(pooled), color, side, width=1.8))
        known = exact.get(side, {})
        ticks_at = ((known.get(q, percentile(pooled, q)), share) for q, share in ((50, 50.0), (99, 1.0)))
        at = [(value, share) for value, share in ticks_at if value is not None]
        tips = [f"{side}: p{100 - share:g} {milliseconds(value)} ms" for value, share in at]
        marks.append(Dots(np.array([v for v, _ in at]), np.array([s for _, s in at]), color, size=5, alpha=1, tips=tips))
    ticks = tuple((10.0**power, f"{10.0**power:g}%") for power in range(2, -5, -1) if 10.0**power >= least * 0.7)
    return Panel(
        "",
        x_label,
        f"share of {unit} at or above (%)",
        tuple(marks),
        note,
        x_range,
        (least * 0.7, 140),
        True,
        True,
        y_ticks=ticks,
        height=1.9,
    )


def _limit(text: str = "50 ms") -> VLine:
    return VLine(LIMIT_MS, style.SOFT, text, "dotted")
