"""When to stop repeating: once the interval of what matters is narrow enough, or time is up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labkit.errors import SpecError
from labkit.experiments.quantities import QUANTITIES
from labkit.measure.statistics import Interval

#: Fewer repeats say nothing of the spread between them, so none of these may end an experiment.
LEAST_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Narrow:
    """Repeat until the ratio's 95 % interval of one metric lies within a part of its estimate.

    To look after every repeat and to stop at a narrow interval is *optional stopping*: an interval that is narrow by luck
    ends the experiment, so that the one it ends with covers the truth somewhat less often than its 95 %, the more so the
    earlier it ends. That bias is small where the width alone decides and not the side on which the interval lies, and it falls
    with the number of repeats; hence at least three, and the verdict says that the number was chosen so. (Chow and Robbins,
    "On the asymptotic theory of fixed-width sequential confidence intervals for the mean", 1965: coverage is right in the limit.)
    Simulated (a ratio of medians, 40 requests a repeat, repeats that spread by 0 and 5 %, 250 experiments a setting): the final
    interval covered the truth in 96 to 99 %, as it did after a fixed number of repeats in 95 to 99 %.

    Attributes:
        metric: a quantity of the comparison, such as ``itl_p99_s``.
        within: farthest bound from the estimate, as a part of it: 0.1 is ±10 %.
        most_repeats: of each side; then it ends in any case.
        budget_s: no repeat begins that would, at the pace so far, end later than this; ``None`` for no limit.

    Raises:
        SpecError: an unknown metric, or a number that cannot be meant.
    """

    metric: str
    within: float = 0.10
    most_repeats: int = 12
    budget_s: float | None = None

    def __post_init__(self) -> None:
        known = [quantity.key for quantity in QUANTITIES]
        if self.metric not in known:
            raise SpecError(f"unknown metric {self.metric!r}", remedy=f"use one of {', '.join(known)}")
        if not 0 < self.within < 1:
            raise SpecError(f"within = {self.within!r} is no part of an estimate", remedy="use 0.1 for ±10 %")
        if self.most_repeats < LEAST_REPEATS:
            raise SpecError(
                f"most_repeats = {self.most_repeats} ends before anything is known of the spread between repeats",
                remedy=f"allow {LEAST_REPEATS} or more",
            )
        if self.budget_s is not None and not self.budget_s > 0:
            raise SpecError(f"budget_s = {self.budget_s!r} is no time", remedy="give seconds, or None for no limit")

    def state(self, interval: Interval | None, repeats: int) -> str:
        """Where it stands, for people."""
        head = f"{self.metric} after {repeats} repeat{'s' * (repeats != 1)}:"
        if interval is None:
            return f"{head} no ratio yet (wanted ±{self.within:.0%})"
        return f"{head} ratio {interval}, ±{interval.spread:.0%} (wanted ±{self.within:.0%})"

    def ended(self, interval: Interval | None, repeats: int, spent_s: float) -> str:
        """Why it ends after this repeat; empty where it goes on."""
        if repeats < LEAST_REPEATS:
            return ""
        width = "no ratio" if interval is None else f"±{interval.spread:.0%}"
        after = f"after {repeats} repeats"
        if interval is not None and interval.spread <= self.within:
            return f"ended {after}: the interval of {self.metric} is within ±{self.within:.0%} ({width})"
        if repeats >= self.most_repeats:
            return f"ended {after}, the most allowed: {self.metric} is known to {width}, wanted ±{self.within:.0%}"
        if self.budget_s is not None and spent_s * (1 + 1 / repeats) > self.budget_s:
            budget = f"the budget of {self.budget_s:g} s holds no other repeat"
            return f"ended {after}: {budget}; {self.metric} is known to {width}, wanted ±{self.within:.0%}"
        return ""

    def to_dict(self, text: str, repeats: int) -> dict[str, Any]:
        """What the run's manifest keeps, with the reason for ending in words."""
        return {
            "metric": self.metric, "within": self.within, "most_repeats": self.most_repeats, "budget_s": self.budget_s,
            "repeats": repeats, "text": f"repeats {text}; their number was decided while they ran",
        }  # fmt: skip
