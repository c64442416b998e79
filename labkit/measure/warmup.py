"""Where the warm-up ends: the initial transient is found in the requests that were measured, not guessed beforehand.

MSER-5 (White, "An effective truncation heuristic for bias reduction in simulation output", Simulation 69, 1997; batches of 5
after White, Cobb and Spratt, 2000): over means of 5 requests in a row, leave out the first *d* that make the squared standard
error of what remains, Σ(Yᵢ − Ȳ)² / (n − d)², smallest; *d* is at most half. It is applied to TTFT, to TPOT and to the number of
requests in flight, each at its request's send, and the latest of the three ends counts.

On data without a transient the smallest value lies somewhere by chance, so a cut must be confirmed: the mean of what it leaves
out must differ from the rest by a tenth, and by 3 standard errors (Student's t; means of blocks, so that a queue's values do
not count as independent). What remains must pass Geweke's test (``statistics.drift``), or nothing is cut at all.

Measured on simulated requests (200 runs each, n = 40 to 1000): transients over the first 3 to 20 % are found in 80 to 100 % of
the runs with 60 requests or more, in 56 to 100 % with 40; of stationary M/D/1 queues at 80 % load 4 to 7 % of the requests are
left out on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from labkit.measure.digest import Digest
from labkit.measure.metrics import is_open_loop, of_measurement
from labkit.measure.records import Records, Window
from labkit.measure.statistics import drift, student
from labkit.measure.timing import Floats, RequestMetrics, request_metrics

BATCH: Final = 5
#: Requests below which nothing is looked for: 8 batches.
LEAST: Final = 40
_LIMIT_Z: Final = 3.0
_LEAST_CHANGE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Cut:
    """What was found.

    Attributes:
        first_index: the first request of the measure phase that counts.
        settled: whether the rest is stationary; ``None`` where there are too few requests to tell.
        text: the same in words.
    """

    first_index: int
    settled: bool | None
    text: str


def cut_warmup(records: Records | Digest, window: Window) -> Window:
    """The window without the warm-up that is found in it: never more than half of its requests."""
    found = find_warmup(records, window)
    return replace(begin_at(records, window, found.first_index, found.text), settled=found.settled)


def find_warmup(records: Records | Digest, window: Window) -> Cut:
    """The initial transient of a measurement; whatever the window leaves out already does not matter."""
    mine = _requests(records, window)
    measured = mine.select(mine.measured)
    measured = measured.select(np.argsort(measured.index, kind="stable"))
    ttft_s = np.where(measured.ok, measured.ttft_from_schedule_s if is_open_loop(window) else measured.ttft_s, np.nan)
    known = int(np.isfinite(ttft_s).sum())
    if known < LEAST:
        return Cut(0, None, f"too few requests to find a warm-up ({known}, needs {LEAST}): nothing left out")
    tpot_s = np.where(measured.ok, measured.tpot_s, np.nan)
    flying = _in_flight(mine, measured.scheduled_ns.astype(np.float64))
    series = {"TTFT": ttft_s, "TPOT": tpot_s, "requests in flight": flying}
    ends = {name: _truncation(values) for name, values in series.items()}
    end = min(max(ends.values()), len(measured) // 2)
    if _drifts(ttft_s[end:]) or any(_unsettled(values) for values in series.values()):
        return Cut(0, False, "no stationary part was found: nothing left out")
    if not end:
        return Cut(0, True, "no warm-up was found in it (MSER-5)")
    of = ", ".join(name for name, position in ends.items() if position >= end)
    return Cut(int(measured.index[end]), True, f"warm-up found: the first {end} requests left out (MSER-5 of {of})")


def begin_at(records: Records | Digest, window: Window, first_index: int, cut: str) -> Window:
    """The window from the schedule of the first request that counts on; ``cut`` says why there."""
    if first_index == window.first_index:
        return replace(window, cut=cut)
    mine = _requests(records, window)
    scheduled = mine.scheduled_ns[mine.measured & (mine.index >= first_index)]
    start = int(scheduled.min()) if len(scheduled) else window.stop_ns
    return replace(window, first_index=first_index, measure_ns=start, cut=cut)


def aligned(pair: Sequence[tuple[Records | Digest, Window]]) -> list[Window]:
    """The windows of one repeat from the same request on, the latest of their beginnings, so that they stay equal work.

    Where a side of a closed loop got fewer requests done, not beyond half of them.
    """
    windows = [window for _, window in pair]
    latest = max(window.first_index for window in windows)
    if all(window.first_index == latest for window in windows):
        return windows
    latest = min(latest, *(_measured_count(records, window) // 2 for records, window in pair))
    words = f"warm-up found: the first {latest} requests left out, as on the other side of the repeat"
    return [
        window if window.first_index == latest else begin_at(records, window, latest, words) for records, window in pair
    ]  # fmt: skip


def _requests(records: Records | Digest, window: Window) -> RequestMetrics:
    """Those of a measurement in the phases that they were sent in. Latencies do not depend on bounds: a digest has them."""
    if isinstance(records, Digest):
        every = request_metrics(records)
        return every.select(every.measurement == window.measurement)
    return request_metrics(of_measurement(records, replace(window, first_index=0)))


def _measured_count(records: Records | Digest, window: Window) -> int:
    return int(_requests(records, window).measured.sum())


def _in_flight(requests: RequestMetrics, at_ns: Floats) -> Floats:
    """Requests of any phase that were scheduled and had not ended, at each instant."""
    began = np.sort(requests.scheduled_ns)
    ended = np.sort(requests.end_ns[np.isfinite(requests.end_ns)])
    return (np.searchsorted(began, at_ns, "right") - np.searchsorted(ended, at_ns, "right")).astype(np.float64)


def _truncation(values: Floats) -> int:
    """Where the initial transient ends, as a position in ``values``; 0 where there is none that is confirmed."""
    known = np.flatnonzero(np.isfinite(values))
    means = _batch_means(values)
    end = _smallest(means, most=len(means) // 2)
    return int(known[end * BATCH]) if end and _differs(means[:end], means[end:]) else 0


def _drifts(values: Floats) -> bool:
    found = drift(np.arange(len(values)), values)
    return found is not None and not found.stationary


def _unsettled(values: Floats) -> bool:
    """Whether what should be left out is more than half, and begin and end do differ."""
    means = _batch_means(values)
    return _smallest(means) > len(means) // 2 and _drifts(values)


def _batch_means(values: Floats) -> Floats:
    known = values[np.isfinite(values)]
    count = len(known) // BATCH
    means: Floats = known[: count * BATCH].reshape(count, BATCH).mean(axis=1)
    return means


def _smallest(means: Floats, most: int | None = None) -> int:
    """The number of leading means whose omission minimises MSER; the last 5 are never left out."""
    n = len(means)
    most = max(n - 5, 0) if most is None else most
    if n < 2 or most < 1:
        return 0
    kept = np.arange(1, n + 1)
    centred = means[::-1] - means.mean()
    sums, squares = np.cumsum(centred), np.cumsum(centred**2)
    mser = (np.maximum(squares - sums**2 / kept, 0.0) / kept**2)[::-1]
    return int(np.argmin(mser[: most + 1]))


def _differs(head: Floats, tail: Floats) -> bool:
    """Whether the head's mean is another than the tail's, from the spread of the tail's means over blocks of the head's length.

    Where the tail is too short for six of them, of shorter blocks.
    """
    length = max(1, min(len(head), len(tail) // 6))
    count = len(tail) // length
    if count < 2:
        return False
    blocks = tail[len(tail) - count * length :].reshape(count, length).mean(axis=1)
    error = float(np.std(blocks, ddof=1)) * np.sqrt(length / len(head) + 1 / count)
    difference = abs(float(head.mean() - tail.mean()))
    return difference >= _LEAST_CHANGE * abs(float(tail.mean())) and difference > student(_LIMIT_Z, count - 1) * error
