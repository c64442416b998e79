"""What the figures read out of records: columns, telemetry series, time from the start of the run, bins.

Nothing here defines a metric: latencies come from ``labkit.measure``. These are selections and differences of counters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labkit.figures.marks import Array
from labkit.measure import counters
from labkit.measure.counters import Series
from labkit.measure.digest import Digest
from labkit.measure.records import Records, Window

Nanos = npt.NDArray[np.int64]
#: Seconds of each side that show single requests.
EXCERPT_S: Final = 10.0


def numbers(column: pa.ChunkedArray) -> Array:
    """A numeric column as float64, NaN for nulls."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def instants(column: pa.ChunkedArray) -> Nanos:
    """A column of instants as int64 nanoseconds (float64 would round them); the column has no nulls."""
    return np.asarray(column.to_numpy(), dtype=np.int64)


def by_source(samples: pa.Table, metric: str) -> dict[str, Series]:
    """Every source's samples of ``metric``, sources in natural order (w2 before w10); empty where nobody reported it."""
    found = counters.series(samples, metric)
    return {name: found[name] for name in sorted(found, key=natural)}


def natural(name: str) -> tuple[str, int]:
    """Sort key: letters, then the trailing number."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0)


def origin_ns(records: Records | Digest) -> int:
    """The instant that charts call 0: the start of the first window, else the first thing recorded."""
    if records.windows:
        return min(window.start_ns for window in records.windows)
    firsts = [
        int(pc.min(table[name]).as_py())
        for table, name in ((records.requests, "scheduled_ns"), (records.samples, "t_ns"))
        if table.num_rows
    ]
    return min(firsts, default=0)


def excerpt(window: Window, length_s: float) -> tuple[int, int]:
    """The middle ``length_s`` seconds of the measure phase (all of it where it is shorter), in nanoseconds."""
    start, stop = window.measure_ns, window.stop_ns
    if stop <= start:
        start, stop = window.start_ns, max(window.end_ns, window.start_ns + 1)
    spare = max(stop - start - int(length_s * 1e9), 0) // 2
    return start + spare, stop - spare


def seconds(t_ns: Nanos | Array, zero_ns: int) -> Array:
    """Seconds since ``zero_ns``."""
    return np.asarray((t_ns - zero_ns) / 1e9, dtype=np.float64)


def inside(series: Series, start_ns: int, end_ns: int) -> Series:
    """The part of a series within [start, end)."""
    keep = (series.t_ns >= start_ns) & (series.t_ns < end_ns)
    return Series(series.t_ns[keep], series.value[keep])


def increments(series: Series) -> Series:
    """What a counter gained between samples, at the later sample; after a restart of its process it begins again from 0."""
    t_ns, value = series
    if len(value) < 2:
        return Series(t_ns[:0], value[:0])
    gained = np.diff(value)
    return Series(t_ns[1:], np.where(gained < 0, value[1:], gained))


def binned(t: Array, weight: Array, start: float, end: float, width: float) -> tuple[Array, Array]:
    """``(edges, sums)`` of ``weight`` in bins of ``width`` seconds over [start, end].

    The last bin takes what is left over (up to two widths; less than one only where that is all there is): a rate in a bin
    shorter than the sampling interval would be a spike that nobody measured.
    """
    count = max(int((end - start) / width + 1e-9), 1)
    edges = start + width * np.arange(count + 1, dtype=np.float64)
    edges[-1] = max(end, start + 1e-9)
    return edges, np.histogram(t, bins=edges, weights=weight)[0].astype(np.float64)


def with_breaks(x: Array, y: Array) -> tuple[Array, Array]:
    """The points with a NaN in every hole of over five sampling intervals, and at the end: a line must not bridge silence."""
    steps = np.diff(x)
    holes = np.flatnonzero(steps > 5 * max(float(np.median(steps)), 0.2)) + 1 if len(steps) else np.zeros(0, np.int64)
    return np.append(np.insert(x, holes, np.nan), np.nan), np.append(np.insert(y, holes, np.nan), np.nan)


def stairs(edges: Array, values: Array) -> tuple[Array, Array]:
    """The outline of a histogram as a polyline."""
    return np.repeat(edges, 2)[1:-1], np.repeat(values, 2)


def around(t: Array, at: Array, width: float) -> list[npt.NDArray[np.int64]]:
    """For each instant of ``at`` the positions in the rising ``t`` within ``width`` seconds around it."""
    low, high = np.searchsorted(t, at - width / 2), np.searchsorted(t, at + width / 2)
    return [np.arange(a, b) for a, b in zip(low, high, strict=True)]


def thinned(count: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of at most ``most`` of ``count`` points, evenly taken, both ends kept."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.zeros(0, np.int64)


def sides(windows: tuple[Window, ...]) -> dict[str, tuple[Window, ...]]:
    """The windows of each side, sides in order of appearance, repeats in order."""
    found: dict[str, list[Window]] = {}
    for window in windows:
        found.setdefault(window.side, []).append(window)
    return {side: tuple(sorted(group, key=lambda window: window.repeat)) for side, group in found.items()}


def text_of(value: object, *keys: str) -> str:
    """A manifest entry as text: itself, or the first of ``keys`` that a mapping holds; empty where there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return next((str(value[key]) for key in keys if value.get(key)), "")
    return ""
