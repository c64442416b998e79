"""Rates that change with time: ramps, bursts and steps, as text and as segments of a line.

All rates are requests per second, expected and not exact: requests are drawn from a process whose rate at instant *t* (seconds
from the beginning of the phase) is ``rate(t)``. That is an inhomogeneous Poisson process, or one with gamma gaps of the
workload's ``burstiness``, by the change of time *Λ(t) = ∫ rate* (Cinlar, Introduction to Stochastic Processes, 1975, ch. 4.7).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise, takewhile
from typing import ClassVar, Final, NamedTuple

from labkit.errors import SpecError
from labkit.spec.lengths import plain

ARRIVALS: Final = (
    "use constant, poisson, gamma, ramp:1-8 (rate from 1 to 8 req/s over the duration; ramp:1-8/60: over 60 s, then 8), "
    "burst:10@5/20 or burst:1-10@5/20 (10 req/s in the first 5 of every 20 s, none or 1 in the others) or step:0=1,30=4 "
    "(1 req/s from 0 s on, 4 from 30 s on)"
)
_NUMBER: Final = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_RAMP: Final = re.compile(rf"ramp:({_NUMBER})-({_NUMBER})(?:/({_NUMBER}))?")
_BURST: Final = re.compile(rf"burst:(?:({_NUMBER})-)?({_NUMBER})@({_NUMBER})/({_NUMBER})")
_STEP: Final = re.compile(rf"step:({_NUMBER}={_NUMBER}(?:,{_NUMBER}={_NUMBER})*)")


class Segment(NamedTuple):
    """A stretch of time in which the rate goes linearly from ``low`` to ``high``; ``end_s`` may be infinite."""

    start_s: float
    end_s: float
    low: float
    high: float

    @property
    def expected(self) -> float:
        """Requests expected within it."""
        mean = (self.low + self.high) / 2
        return mean * (self.end_s - self.start_s) if mean else 0.0

    def until(self, end_s: float) -> Segment:
        """What lies before an instant after its beginning."""
        if end_s >= self.end_s:
            return self
        rise = 0.0 if math.isinf(self.end_s) else (self.high - self.low) / (self.end_s - self.start_s)
        return Segment(self.start_s, end_s, self.low, self.low + rise * (end_s - self.start_s))

    def reach_s(self, requests: float) -> float:
        """The instant at which so many are expected since its beginning; ``requests`` is below ``expected``."""
        slope = 0.0 if math.isinf(self.end_s) else (self.high - self.low) / (self.end_s - self.start_s)
        root = math.sqrt(max(self.low * self.low + 2 * slope * requests, 0.0))
        return min(self.start_s + (2 * requests / (self.low + root) if requests else 0.0), self.end_s)


@dataclass(frozen=True, slots=True)
class Ramp:
    """From one rate to another, over the measure phase or over ``over_s`` of it; then the last rate holds, as before it, in the
    warm-up, the first does."""

    first: float
    last: float
    over_s: float | None = None

    @property
    def needs_duration(self) -> bool:
        """Whether a number of requests says nothing of its length, or might never be reached."""
        return self.over_s is None or self.last == 0

    def segments(self, until_s: float | None) -> Iterator[Segment]:
        """Of a phase that ends at ``until_s``, which cuts the last one where ``over_s`` is given."""
        if self.over_s is None:
            assert until_s is not None
            yield Segment(0.0, until_s, self.first, self.last)
        else:
            yield Segment(0.0, self.over_s, self.first, self.last)
            yield Segment(self.over_s, math.inf, self.last, self.last)

    def warmup(self) -> Profile:
        """What the warm-up sends."""
        return Step(((0.0, self.first),))

    def __str__(self) -> str:
        over = "" if self.over_s is None else f"/{plain(self.over_s)}"
        return f"ramp:{plain(self.first)}-{plain(self.last)}{over}"


@dataclass(frozen=True, slots=True)
class Burst:
    """``high`` in the first ``on_s`` of every ``period_s``, ``low`` in the others."""

    needs_duration: ClassVar[bool] = False
    low: float
    high: float
    on_s: float
    period_s: float

    def segments(self, until_s: float | None) -> Iterator[Segment]:
        """Endless; the phase's end cuts it."""
        for period in count():
            start_s, end_s = period * self.period_s, (period + 1) * self.period_s
            yield Segment(start_s, start_s + self.on_s, self.high, self.high)
            yield Segment(start_s + self.on_s, end_s, self.low, self.low)

    def warmup(self) -> Profile:
        """What the warm-up sends: the same pattern, from its beginning."""
        return self

    def __str__(self) -> str:
        low = f"{plain(self.low)}-" if self.low else ""
        return f"burst:{low}{plain(self.high)}@{plain(self.on_s)}/{plain(self.period_s)}"


@dataclass(frozen=True, slots=True)
class Step:
    """``(from_s, rate)`` in order, the first from 0; the last rate holds to the end. The warm-up has the first rate."""

    steps: tuple[tuple[float, float], ...]

    @property
    def needs_duration(self) -> bool:
        """Whether a number of requests might never be reached."""
        return self.steps[-1][1] == 0

    def segments(self, until_s: float | None) -> Iterator[Segment]:
        """The last one is endless; the phase's end cuts it."""
        for (start_s, rate), (end_s, _) in pairwise((*self.steps, (math.inf, 0.0))):
            yield Segment(start_s, end_s, rate, rate)

    def warmup(self) -> Profile:
        """What the warm-up sends."""
        return Step(((0.0, self.steps[0][1]),))

    def __str__(self) -> str:
        return "step:" + ",".join(f"{plain(start_s)}={plain(rate)}" for start_s, rate in self.steps)


Profile = Ramp | Burst | Step


def expected(profile: Profile, until_s: float) -> float:
    """Requests expected before an instant of a phase."""
    segments = takewhile(lambda segment: segment.start_s < until_s, profile.segments(until_s))
    return sum(segment.until(until_s).expected for segment in segments)


def parse_profile(text: str) -> Profile | None:
    """The profile that a text describes; ``None`` where it is none of ``ramp:``, ``burst:``, ``step:``.

    Raises:
        SpecError: one of these, but not one that can be meant.
    """
    if not text.startswith(("ramp:", "burst:", "step:")):
        return None
    squeezed = text.replace(" ", "")
    if found := _RAMP.fullmatch(squeezed):
        first, last = float(found[1]), float(found[2])
        over_s = float(found[3]) if found[3] else None
        profile: Profile = Ramp(first, last, over_s)
        good = first + last > 0 and over_s != 0
    elif found := _BURST.fullmatch(squeezed):
        low, high, on_s, period_s = (float(part or 0) for part in found.groups())
        profile = Burst(low, high, on_s, period_s)
        good = high * on_s >= 0.001 and on_s < period_s  # fewer than one in a thousand periods is a slip of the pen
    elif found := _STEP.fullmatch(squeezed):
        steps = tuple((float(start), float(rate)) for start, rate in (pair.split("=") for pair in found[1].split(",")))
        profile = Step(steps)
        rising = all(earlier < later for (earlier, _), (later, _) in pairwise(steps))
        good = steps[0][0] == 0 and rising and any(rate > 0 for _, rate in steps)
    else:
        good = False
    if not good:
        raise SpecError(f"arrivals {text!r} describe no rate over time", remedy=ARRIVALS)
    return profile
