"""Two sides that served the same requests, held against each other request by request: what the requests differ in drops out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from labkit.experiments.quantities import QUANTITIES, Measured, Quantity, measure
from labkit.experiments.sides import Side, aligned_sides, pairs
from labkit.measure.columns import Floats, Ints
from labkit.measure.statistics import Bootstrapped, Repeat, bootstrap
from labkit.spec.slo import Slo


def paired(
    labels: tuple[str, str],
    sides: tuple[Side, Side],
    key: str,
    *,
    between_s: tuple[float, float] = (-np.inf, np.inf),
    slo: Slo | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Bootstrapped:
    """A quantity of both sides and B over A, of the requests that both have a value of; ``None`` each where there are too few.

    Repeats are drawn, then requests, the same on both sides. The interval of ``compare`` draws each side's requests on their
    own: it also holds what another choice of requests would do to either side, and is wider.

    Args:
        labels, sides: windows of the same schedule, repeat by repeat.
        key: of a quantity with values per request: a latency, ``goodput_request_s`` or ``slo_attainment``.
        between_s: of the requests scheduled in this part of the measure phase alone.
        slo: for the last two.
        seed, resamples: of the bootstrap.
    """
    (quantity,) = (quantity for quantity in QUANTITIES if quantity.key == key)
    repeats: tuple[list[Repeat], list[Repeat]] = ([], [])
    for of_a, of_b in zip(*aligned_sides(*pairs(labels, sides, [])), strict=True):
        found = [_by_index(quantity, measure(records, window, slo), between_s) for records, window in (of_a, of_b)]
        _, *rows = np.intersect1d(found[0][0], found[1][0], return_indices=True)
        for kept, (_, values), row in zip(repeats, found, rows, strict=True):
            kept.append(only(values, row))
    if any(sum(map(len, side)) < quantity.least for side in repeats):
        return Bootstrapped(None, None, None)
    drawn = bootstrap(*repeats, quantity.statistic, seed=seed, resamples=resamples, paired=True, same_requests=True)
    ratio = None if drawn.ratio is None else replace(drawn.ratio, lowest=None, highest=None)
    return replace(drawn, ratio=ratio)


def since_measure_s(one: Measured) -> Floats:
    """When each request of a window, of any phase, was scheduled: seconds from the beginning of its measure phase."""
    return np.asarray((one.requests.scheduled_ns - one.window.measure_ns) / 1e9, dtype=np.float64)


def _by_index(quantity: Quantity, one: Measured, between_s: tuple[float, float]) -> tuple[Ints, Repeat]:
    """Indices of requests and their values: of those answered, or of all measured where failed ones have a value too."""
    values = quantity.values(one, 1)
    values = values if isinstance(values, Repeat) else values.repeat()
    row = one.done if len(values.counts) == len(one.done) else np.flatnonzero(one.requests.measured)
    if len(values.counts) != len(row):
        return row[:0], Repeat.of([])
    at_s = since_measure_s(one)[row]
    inside = np.flatnonzero((at_s >= between_s[0]) & (at_s < between_s[1]))
    return one.requests.index[row[inside]], only(values, inside)


def only(values: Repeat, row: Ints) -> Repeat:
    """The values of these requests, in this order."""
    counts, first = values.counts[row], (np.cumsum(values.counts) - values.counts)[row]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return Repeat(values.values[np.repeat(first, counts) + within], counts)
