"""Sides of runs as points: every figure of a side with its interval, ready for a Pareto chart."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from labkit.errors import ComparisonError, StoreError
from labkit.experiments.compare import marks_of_side
from labkit.experiments.conclude import slo_of
from labkit.experiments.conditions import conditions, workload_text
from labkit.experiments.quantities import QUANTITIES, Measured, measure
from labkit.experiments.sides import Side, windows_of_side
from labkit.experiments.trials import Trial, side_of_trial
from labkit.live.pin import Estimate, Pin
from labkit.live.tails import Tail, counted, tail_of
from labkit.measure.columns import Floats
from labkit.measure.digest import Digest
from labkit.measure.groups import grouped_bootstrap
from labkit.measure.mark import warnings_in
from labkit.measure.metrics import is_open_loop
from labkit.measure.records import Window
from labkit.measure.statistics import NORMAL_95, Repeat, share_interval, weighted_total
from labkit.spec.slo import Slo
from labkit.store.run import Run, open_run

RESAMPLES: Final = 1000
#: A quantity of a comparison → what the live charts call it.
_NAMES: Final = {
    "output_tok_s": "output_tok_s",
    "output_tok_s_per_gpu": "output_tok_s_per_accelerator",
    "goodput_request_s": "goodput_hz",
    "slo_attainment": "slo_attainment",
    **{f"{name}_p{q}_s": f"{name}_p{q}_s" for name in ("ttft", "tpot", "itl") for q in (50, 99)},
}
_SHARES: Final = frozenset({"slo_attainment", "goodput_request_s"})


def point_of(run: Run, side: str, *, slo: Slo | None = None, seed: int = 0, resamples: int = RESAMPLES) -> Pin:
    """A side of a run as a point, pooled over its repeats.

    Args:
        run: open or finished.
        side: one of its sides.
        slo: for goodput; that of the run by default.
        seed, resamples: of the bootstrap.

    Raises:
        ComparisonError: the side was not measured.
    """
    records = run.digest()
    windows = windows_of_side(records, side)
    mine: Side = [(records, window) for window in windows]
    last = max(windows, key=lambda window: window.stop_ns)
    slo = slo_of(run) if slo is None else slo
    return Pin(
        label=side,
        topology=last.topology,
        workload=workload_text(last.workload),
        run=run.id,
        measurement=", ".join(str(window.measurement) for window in windows),
        t_s=(last.stop_ns - int(run.manifest["clock"]["monotonic_ns"])) / 1e9,
        window_s=sum(window.length_s for window in windows),
        metrics=estimates(mine, slo, seed=seed, resamples=resamples),
        requests=sum(int(measure(*pair, None).requests.measured.sum()) for pair in mine),
        settings=conditions((windows, run.manifest)).settings,
        slo="" if slo is None else str(slo),
        settled=_settled(windows),
        warnings=warnings_in(marks_of_side(mine, run.manifest)),
    )


def points_of_trials(trials: Sequence[Trial], results: Path, *, resamples: int = 300) -> list[Pin]:
    """The loads that splits served in a search, a point each: a split that was tried twice at one rate is one.

    Args:
        trials: of the search; those that were not served are left out.
        results: the folder that their runs live in. What is no longer there, of an earlier search, is left out.
        resamples: of the bootstrap.
    """
    served = {(trial.run, side_of_trial(trial.candidate, trial.rate)): trial for trial in trials if trial.served}
    found = []
    for name, side in served:
        with suppress(StoreError, ComparisonError):
            found.append(point_of(open_run(name, results), side, resamples=resamples))
    return found


def estimates(side: Side, slo: Slo | None, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """Every figure of a side, pooled over its repeats, with its 95 % interval, by the names of ``LiveStats``.

    Intervals are by bootstrap over repeats, then requests, with two exceptions. What counts good requests has Wilson's score
    interval: no resample of twenty good requests has a bad one, and twenty do not show that there is none. And what arrives by
    chance is another number in another stretch: totals of an open loop have the spread of a compound Poisson sum, √Σx².
    What is undefined, as a p99 of too few values, is absent. ``tok_s_per_user`` is 1 / median TPOT.
    """
    measured = [measure(records, window, slo) for records, window in side]
    found: dict[str, Estimate] = {}
    for quantity in (quantity for quantity in QUANTITIES if quantity.key in _NAMES):
        value, _ = quantity.pooled(measured)
        if value is None:
            continue
        values = [quantity.values(one, len(measured)) for one in measured]
        interval = grouped_bootstrap(
            values, values, quantity.statistic, quantity.q, seed=seed, resamples=resamples, least=quantity.least
        ).a
        known = any(map(len, values))  # of nothing at all no resample has anything either
        low, high = (None, None) if interval is None or not known else (interval.low, interval.high)
        if quantity.key in _SHARES and known:
            low, high = _attained(measured) if quantity.key == "slo_attainment" else _goodput(measured)
        if quantity.statistic is weighted_total and known and all(_arrives_by_chance(one.window) for one in measured):
            squares = sum(float((each.values**2).sum()) for each in values if isinstance(each, Repeat))
            half = NORMAL_95 * float(np.sqrt(squares))
            low, high = min(value - half, value if low is None else low), max(value + half, value if high is None else high)
        if low is not None and high is not None:
            low, high = min(max(low, 0.0), value), max(high, value)  # rounding apart
        found[_NAMES[quantity.key]] = Estimate(value, low, high)
    tpot = found.get("tpot_p50_s")
    if tpot is not None and tpot.value > 0:
        ends = (None if bound is None or bound <= 0 else 1 / bound for bound in (tpot.high, tpot.low))
        found["tok_s_per_user"] = Estimate(1 / tpot.value, *ends)
    return found


def tails(records: Digest, window: Window) -> dict[str, Tail]:
    """How the TTFT and ITL of a window are spread, of the requests that its percentiles are of; what is not known is absent."""
    one = measure(records, window, None)
    found = {"ttft": tail_of(counted(one.requests.ttft_s[one.done]))}
    if not one.answers.uncounted.any():
        parts = [counted(gap_ns / 1e9) for gap_ns, _, _ in one.gaps.parts()]
        found["itl"] = tail_of(np.sum([*parts, counted(np.zeros(0), int(one.answers.surplus.sum()))], axis=0))
    return {name: tail for name, tail in found.items() if tail.n}


def _settled(windows: Sequence[Window]) -> bool | None:
    """Whether every repeat was found stationary; one that was not is enough for no."""
    found = {window.settled for window in windows}
    return False if False in found else None if None in found else True


def _attained(measured: list[Measured]) -> tuple[float, float]:
    """Wilson's interval of the share of good requests."""
    return _share([one.good for one in measured if one.good is not None])


def _goodput(measured: list[Measured]) -> tuple[float, float]:
    """Wilson's interval of the share of good requests, times the requests per second that it is of."""
    served = [one.served[np.isfinite(one.served)] for one in measured if one.served is not None]
    hertz = float(np.mean([len(each) / one.window.length_s for each, one in zip(served, measured, strict=True)]))
    low, high = _share(served)
    return low * hertz, high * hertz


def _share(goods: list[Floats]) -> tuple[float, float]:
    return share_interval(sum(int(each.sum()) for each in goods), sum(map(len, goods)))


def _arrives_by_chance(window: Window) -> bool:
    return is_open_loop(window) and window.workload.get("arrivals") != "constant"
