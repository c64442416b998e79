"""The quantities that two sides are compared on: each knows its values per request, its statistic and its pooled value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.measure.answers import Answers
from labkit.measure.columns import Floats, Ints
from labkit.measure.digest import Digest
from labkit.measure.gaps import Gaps
from labkit.measure.groups import GapRepeat, Values, pooled_percentiles
from labkit.measure.metrics import STALL_S, counts_for_goodput, good_requests, is_open_loop, judged, slo_lacks
from labkit.measure.records import Window
from labkit.measure.statistics import (
    Repeat,
    Statistic,
    least_values,
    too_few,
    weighted_mean,
    weighted_percentile,
    weighted_total,
)
from labkit.measure.timing import RequestMetrics, request_metrics
from labkit.spec.slo import Slo

_UNCOUNTED: Final = "the server does not say how many tokens a chunk holds"


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One window, prepared once for all quantities.

    Attributes:
        requests: of its measurement, every phase.
        done: rows of the requests that were measured and ended as asked.
        answers, gaps: of those; their rows are positions in ``done``.
        tokens_inside: token events inside the window, per row of ``requests``; ``None`` where they are not counted.
        good: per measured request that an SLO judges, whether it meets it; ``None`` with ``good_reason``.
        served: the same of the requests that goodput counts; NaN of those of the window that ended after it (closed loop).
    """

    window: Window
    requests: RequestMetrics
    answers: Answers
    done: Ints
    gaps: Gaps
    tokens_inside: Floats | None
    good: Floats | None
    good_reason: str
    served: Floats | None
    served_reason: str


def measure(records: Digest, window: Window, slo: Slo | None) -> Measured:
    """Prepare a window."""
    mine = records.of(window)
    requests, answers = request_metrics(mine), mine.answers
    done = np.flatnonzero(requests.measured & requests.ok)
    position = np.full(len(requests), -1)
    position[done] = np.arange(len(done))
    good, reason = _good(requests.select(requests.measured), window, slo)
    served, served_reason = (good, reason) if is_open_loop(window) else _served(requests, window, slo)
    return Measured(
        window,
        requests,
        answers.select(done),
        done,
        mine.gaps.get(window.measurement, Gaps()).renumbered(position),
        None if answers.uncounted_inside.any() else answers.tokens_inside.astype(np.float64),
        good,
        reason,
        served,
        served_reason,
    )


def _good(measured: RequestMetrics, window: Window, slo: Slo | None) -> tuple[Floats | None, str]:
    if slo is None:
        return None, "no SLO was given"
    measured = measured.select(judged(measured, slo, open_loop=is_open_loop(window)))
    good, unknown = good_requests(measured, slo, open_loop=is_open_loop(window))
    return (None, slo_lacks(measured, window, slo)) if unknown.any() else (good.astype(np.float64), "")


def _served(requests: RequestMetrics, window: Window, slo: Slo | None) -> tuple[Floats | None, str]:
    """Of a closed loop: whether those that ended inside the window were good. Those that it did not see the end of are drawn with
    them in a bootstrap, since another stretch ends at others."""
    counted = counts_for_goodput(requests, window)
    if slo is not None:
        counted = counted & judged(requests, slo, open_loop=False)
    good, reason = _good(requests.select(counted), window, slo)
    if good is None:
        return None, reason
    values = np.full(len(requests), np.nan)
    values[counted] = good
    return values[requests.measured | counted], ""


#: Values of one window, given the number of the side's repeats; a text says why there are none.
Source = Callable[[Measured, int], "Values | str"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One row of a comparison.

    Attributes:
        key, label, unit, lower_is_better: see ``Row``.
        source: values of a window, grouped by request.
        statistic: of the pooled values.
        q: the percentile, where it is one.
    """

    key: str
    label: str
    unit: str
    lower_is_better: bool | None
    source: Source
    statistic: Statistic
    q: float | None = None

    @property
    def least(self) -> int:
        """How many values it needs."""
        return 1 if self.q is None else least_values(self.q)

    def values(self, one: Measured, repeats: int) -> Values:
        """Values of a window; empty where undefined."""
        found = self.source(one, repeats)
        return Repeat.of([]) if isinstance(found, str) else found

    def pooled(self, side: Sequence[Measured]) -> tuple[float | None, str]:
        """The statistic over a side's repeats, or ``None`` and why."""
        found = [self.source(one, len(side)) for one in side]
        parts = [part for part in found if not isinstance(part, str)]
        if len(parts) < len(found):
            return None, next(part for part in found if isinstance(part, str))
        count = sum(map(len, parts))
        if not count and self.statistic is weighted_total:
            return 0.0, ""  # nothing of it fell inside the window
        if not count:
            return None, "no request of the window completed"
        if self.q is not None:
            return (float(pooled_percentiles(parts, [self.q])[0]), "") if count >= self.least else (None, too_few(count, self.q))
        values = np.concatenate([part.values for part in parts if isinstance(part, Repeat)])
        return self.statistic(values, np.ones(count)), ""


def _ttft(one: Measured, _: int) -> Repeat:
    return Repeat.of(one.requests.ttft_s[one.done])


def _tpot(one: Measured, _: int) -> Repeat | str:
    values, single = one.requests.tpot_s[one.done], one.requests.single[one.done]
    return _UNCOUNTED if np.any(np.isnan(values) & ~single) else Repeat.of(values)


def _itl(one: Measured, _: int) -> GapRepeat | str:
    return _UNCOUNTED if one.answers.uncounted.any() else GapRepeat(one.gaps, one.answers.surplus)


def _stalled(one: Measured, _: int) -> Repeat:
    return Repeat.of((one.answers.longest_gap_ns / 1e9 > STALL_S).astype(np.float64))


def _output(one: Measured, repeats: int) -> Repeat | str:
    if one.tokens_inside is None:
        return _UNCOUNTED
    return Repeat.of(one.tokens_inside / (one.window.length_s * repeats))


def _output_per_gpu(one: Measured, repeats: int) -> Repeat | str:
    if one.tokens_inside is None or not one.window.accelerators:
        return _UNCOUNTED if one.window.accelerators else "the accelerators of the topology are unknown"
    return Repeat.of(one.tokens_inside / (one.window.length_s * repeats * one.window.accelerators))


def _goodput(one: Measured, repeats: int) -> Repeat | str:
    return one.served_reason if one.served is None else Repeat.of(one.served / (one.window.length_s * repeats))


def _attainment(one: Measured, _: int) -> Repeat | str:
    return one.good_reason if one.good is None else Repeat.of(one.good)


def _percentile(key: str, label: str, source: Source, q: float) -> Quantity:
    return Quantity(f"{key}_p{q:g}_s", f"{label} p{q:g}", "ms", True, source, weighted_percentile(q), q)


QUANTITIES: Final = (
    _percentile("ttft", "TTFT", _ttft, 50),
    _percentile("ttft", "TTFT", _ttft, 95),
    _percentile("ttft", "TTFT", _ttft, 99),
    Quantity("tpot_mean_s", "TPOT mean", "ms", True, _tpot, weighted_mean),
    _percentile("tpot", "TPOT", _tpot, 50),
    _percentile("tpot", "TPOT", _tpot, 95),
    _percentile("tpot", "TPOT", _tpot, 99),
    _percentile("itl", "ITL", _itl, 50),
    _percentile("itl", "ITL", _itl, 95),
    _percentile("itl", "ITL", _itl, 99),
    Quantity("stalled_fraction", "requests with a gap > 100 ms", "", True, _stalled, weighted_mean),
    Quantity("output_tok_s", "output throughput", "tok/s", False, _output, weighted_total),
    Quantity("output_tok_s_per_gpu", "output per accelerator", "tok/s", False, _output_per_gpu, weighted_total),
    Quantity("goodput_request_s", "goodput", "req/s", False, _goodput, weighted_total),
    Quantity("slo_attainment", "requests that meet the SLO", "", False, _attainment, weighted_mean),
)
