"""Who prefilled and who decoded when: the workers' own request spans, over a few seconds, with the stalls that clients saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.figures import style
from labkit.figures.context import Context, role_color, role_noun
from labkit.figures.marks import Array, Figure, HLine, Mark, Panel, Rects
from labkit.figures.series import EXCERPT_S, excerpt, natural
from labkit.figures.values import STALL_S, Values, milliseconds
from labkit.measure.join import join_spans
from labkit.measure.records import Window

_LANE_GAP: Final = 0.9
_MOST_ROWS: Final = 24
_SHORTEST_NS: Final = 100_000
_X: Final = "time since the measure phase began (s)"


@dataclass(frozen=True, slots=True)
class Bar:
    """One request on one worker, in nanoseconds: arrived, prefilled from ``prefill``, decoded from ``decode`` to ``end``."""

    worker: str
    request: int
    start: int
    prefill: int
    decode: int
    end: int


def gantt(context: Context, values: Values, *, excerpt_s: float = EXCERPT_S) -> Figure:
    """One panel a side: the same seconds of its first window's measure phase, hence (in equal work) the same requests."""
    bars = bars_of(context)
    panels = tuple(
        _panel(context, values, bars, side, windows[0], excerpt(windows[0], excerpt_s)) for side, windows in context.sides.items()
    ) or (Panel("Prefill and decode", _X, "worker (lane)", (), "no measurement in this run yet", height=1.2),)
    return Figure(
        name="gantt",
        title="Prefill and decode on each worker",
        subtitle="One row a request, packed, from the workers' spans: waits, prefills, decodes. "
        f"Stalls: gaps of more than {STALL_S * 1e3:.0f} ms between two chunks at the client.",
        panels=panels,
        caption=context.caption,
        share_x=False,
    )


def bars_of(context: Context) -> list[Bar]:
    """Every span that belongs to a request and tells its prefill, by start; one without a decode time has no decode."""
    columns = ("worker", "request", "start_ns", "prefill_start_ns", "prefill_end_ns", "decode_end_ns")
    spans = join_spans(context.records).select(columns).to_pylist()
    bars = [
        Bar(worker, request, start, prefill, decode, decode if end is None else end)
        for worker, request, start, prefill, decode, end in (span.values() for span in spans)
        if prefill is not None
    ]
    return sorted(bars, key=lambda bar: (bar.start, bar.worker))


def packed(bars: list[Bar]) -> list[int]:
    """For each bar (by start) the lowest row that is free by then."""
    ends: list[int] = []
    rows = []
    for bar in bars:
        row = next((i for i, end in enumerate(ends) if end <= bar.start), len(ends))
        ends[row : row + 1] = [bar.end]
        rows.append(row)
    return rows


def _panel(context: Context, values: Values, bars: list[Bar], side: str, window: Window, span: tuple[int, int]) -> Panel:
    zero = window.measure_ns
    x_range = ((span[0] - zero) / 1e9, (span[1] - zero) / 1e9)
    length = x_range[1] - x_range[0]
    title = f"{side} · {length:.3g} s of its first window"
    seen = [bar for bar in bars if bar.end >= span[0] and bar.start <= span[1]]
    if not seen:
        reason = (
            "the workers sent no request spans, so their prefill and decode intervals are not known"
            if not bars
            else "no request span falls into this excerpt"
        )
        return Panel(title, _X, "worker (lane)", (), reason, x_range, height=1.2)
    epoch = context.epoch_of(window)
    roles = epoch.roles if epoch else {}
    names = sorted({bar.worker for bar in seen} | set(roles), key=natural)
    marks: list[Mark] = []
    ticks: list[tuple[float, str]] = []
    top = 0.0
    for name in names:
        mine = [bar for bar in seen if bar.worker == name]
        rows = [row % _MOST_ROWS for row in packed(mine)]
        count = max([row + 1 for row in rows], default=1)
        marks += _lane(mine, rows, top, zero, x_range)
        marks += _stalls(values, mine, rows, top, zero, span)
        if name in roles:
            edge, wide = x_range[0] - 0.008 * length, 0.005 * length
            y = np.array([-(top + count), -top])
            marks.insert(0, Rects(np.array([edge]), np.array([edge + wide]), y[:1], y[1:], role_color(roles[name])))
        ticks.append((-(top + count / 2), f"{name}\n{role_noun(roles.get(name))}" if roles else name))
        top += count + _LANE_GAP
        marks.append(HLine(-(top - _LANE_GAP / 2), style.GRID, "", "solid"))
    merged = _merged([mark for mark in marks if isinstance(mark, Rects)])
    rest = [mark for mark in marks[:-1] if not isinstance(mark, Rects)]
    return Panel(
        title,
        _X,
        "worker (lane)",
        (*rest, *merged),
        "",
        (x_range[0] - 0.008 * length, x_range[1]),
        (-(top - _LANE_GAP / 2), 0.5),
        y_ticks=tuple(ticks),
        height=min(max(0.16 * top + 0.2, 1.2), 5.0),
        grid=False,
    )


def _lane(bars: list[Bar], rows: list[int], top: float, zero: int, x_range: tuple[float, float]) -> list[Mark]:
    waiting = [(bar, row, bar.start, bar.prefill) for bar, row in zip(bars, rows, strict=True)]
    decode = [(bar, row, bar.decode, bar.end) for bar, row in zip(bars, rows, strict=True)]
    prefill = [(bar, row, bar.prefill, bar.decode) for bar, row in zip(bars, rows, strict=True)]
    marks: list[Mark] = []
    for label, color, half, intervals in (
        ("waiting", style.QUEUE, 0.22, waiting),
        ("decode", style.DECODE_LIGHT, 0.36, decode),
        ("prefill", style.PREFILL, 0.44, prefill),
    ):
        found = [item for item in intervals if item[3] - item[2] > _SHORTEST_NS]
        x0, x1 = (np.clip((np.array([item[i] for item in found], float) - zero) / 1e9, *x_range) for i in (2, 3))
        y = np.array([-(top + item[1] + 0.5) for item in found], float)
        tips = [
            f"{bar.worker} {label} {milliseconds((end - start) / 1e6)} ms, request {bar.request}" for bar, _, start, end in found
        ]
        marks.append(Rects(x0, x1, y - half, y + half, color, label, tips=tips))
    return marks


def _stalls(values: Values, bars: list[Bar], rows: list[int], top: float, zero: int, span: tuple[int, int]) -> list[Mark]:
    """Long gaps of the requests that this worker decodes, on their rows."""
    owner = {bar.request: row for bar, row in zip(bars, rows, strict=True) if bar.end - bar.decode > _SHORTEST_NS}
    gaps = values.stalls
    long = np.flatnonzero((gaps.gap_s > STALL_S) & (gaps.end_ns >= span[0]) & (gaps.start_ns <= span[1]))
    placed = [(i, owner[int(gaps.request[i])]) for i in long if int(gaps.request[i]) in owner]
    x0, x1 = (_clipped(values_ns[[i for i, _ in placed]], zero, span) for values_ns in (gaps.start_ns, gaps.end_ns))
    y = np.array([-(top + row + 0.5) for _, row in placed], float)
    tips = [f"stall of {milliseconds(gaps.gap_s[i] * 1e3)} ms at the client, request {gaps.request[i]}" for i, _ in placed]
    return [Rects(x0, x1, y - 0.13, y + 0.13, style.STALL, "stall at the client", tips=tips)]


def _clipped(t_ns: Array | np.ndarray[tuple[int], np.dtype[np.int64]], zero: int, span: tuple[int, int]) -> Array:
    return np.asarray((np.clip(t_ns, *span) - zero) / 1e9, dtype=np.float64)


def _merged(rects: list[Rects]) -> list[Rects]:
    """One mark a label, drawn in the order waiting, decode, prefill, stall."""
    merged = []
    plain = [mark for mark in rects if not mark.label]
    for label in dict.fromkeys(mark.label for mark in rects if mark.label):
        same = [mark for mark in rects if mark.label == label]
        if any(mark.x0.size for mark in same):
            x0, x1, y0, y1 = (np.concatenate([getattr(mark, name) for mark in same]) for name in ("x0", "x1", "y0", "y1"))
            merged.append(Rects(x0, x1, y0, y1, same[0].color, label, tips=[tip for mark in same for tip in mark.tips]))
    return plain + merged
