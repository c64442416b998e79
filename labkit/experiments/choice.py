"""The best of some splits that were measured one after the other under one load, said with what speaks for it and against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from labkit.errors import SpecError
from labkit.live.pin import Estimate, Pin
from labkit.measure.simulated import simulated_head
from labkit.spec.slo import Slo

#: DistServe (Zhong et al., OSDI 2024) calls a load served where this share of its requests meets the SLO.
SERVED: Final = 0.9
_ATTAINED: Final = "slo_attainment"
_GOODPUT: Final = "goodput_hz"
_OUTPUT: Final = "output_tok_s_per_accelerator"
_ITL: Final = ("itl_p99_s", "itl_p50_s")


@dataclass(frozen=True, slots=True)
class Choice:
    """What an autopilot found. As text it is sentences, with the evidence.

    Attributes:
        best: the pin of the split that the pool was left in.
        equal: pins whose interval of the decisive figure overlaps that of the highest: not told apart.
        metric: the decisive figure, by the names of ``LiveStats``.
        pins: of every split that was tried, in the order of trying.
        slo: what requests were held against.
        warnings: what a reader must know of the pins before believing them.
        accelerator: what one is called where the pins were measured.
    """

    best: Pin
    equal: tuple[Pin, ...]
    metric: str
    pins: tuple[Pin, ...]
    slo: Slo
    warnings: tuple[str, ...] = ()
    accelerator: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the best split serves the load under the SLO (``SERVED``); ``None`` where its interval leaves that open."""
        share = self.best.metrics.get(_ATTAINED)
        if share is None or share.low is None or share.high is None or share.low < SERVED <= share.high:
            return None
        return share.low >= SERVED

    def __str__(self) -> str:
        verdict = f"{simulated_head(self.accelerator)}{self._verdict()} {self._against_slo()}"
        lines = [verdict, *(f"  {self._row(pin)}" for pin in self.pins), self._conditions()]
        return "\n".join([*lines, *(f"! {warning}" for warning in self.warnings)])

    def _verdict(self) -> str:
        tried = f"{len(self.pins)} splits"
        if len(self.pins) == 1:
            return f"{self.best.topology} is the only split that was tried."
        if not self.equal:
            return (
                f"{self.best.topology} is the best of {tried} by {_WORDS[self.metric][0]}: no other's interval reaches its own."
            )
        together = [pin for pin in self.pins if pin is self.best or pin in self.equal]
        rest = f" of {tried}" if len(together) < len(self.pins) else ""
        said = f"{_and([pin.topology for pin in together])}{rest} are not told apart by {_WORDS[self.metric][0]}"
        return f"{said}: their intervals overlap. {self._tie()}"

    def _tie(self) -> str:
        metric = _tie_breaker([self.best, *self.equal])
        if metric is None:
            return f"{self.best.topology} is taken since it was tried first; nothing speaks for it."
        name, mine = _WORDS[metric][0], self.best.metrics[metric]
        others = [pin.metrics[metric] for pin in self.equal]
        shown = not any(overlap(mine, other) for other in others)
        against = _and([f"{_figure(other, metric)} on {pin.topology}" for pin, other in zip(self.equal, others, strict=True)])
        said = f"{self.best.topology} is taken for its {name}: {_figure(mine, metric)} against {against}"
        return f"{said}." if shown else f"{said}, which does not tell them apart either: take it as a guess."

    def _against_slo(self) -> str:
        if self.best.value(_ATTAINED) is None:
            return f"No request could be held against the SLO ({self.slo})."
        limit, name = f"{SERVED:.0%}", self.best.topology
        share = _figure(self.best.metrics[_ATTAINED], _ATTAINED)
        if self.met:
            return f"{name} meets the SLO ({self.slo}) for {limit} of the requests or more: {share}."
        if self.met is None:
            return f"Whether {name} meets the SLO ({self.slo}) for {limit} of the requests is open: {share}."
        known = [pin.metrics[_ATTAINED] for pin in self.pins if _ATTAINED in pin.metrics]
        if all(one.high is not None and one.high < SERVED for one in known):
            remedy = "send less, relax it, or give it more accelerators"
            return f"NO SPLIT meets the SLO ({self.slo}) for {limit} of the requests: {name} has {share}; {remedy}."
        return f"{name} does not meet the SLO ({self.slo}) for {limit} of the requests: {share}."

    def _row(self, pin: Pin) -> str:
        figures = [metric for metric in (_ATTAINED, _GOODPUT, _OUTPUT, "ttft_p50_s", *_ITL) if pin.value(metric) is not None]
        said = ", ".join(f"{_WORDS[metric][0]} {_figure(pin.metrics[metric], metric)}" for metric in figures)
        return f"{pin.topology} ({pin.requests} requests in {pin.window_s:.0f} s): {said or 'no figure is known'}"

    def _conditions(self) -> str:
        loads = _and(list(dict.fromkeys(pin.workload for pin in self.pins)))
        return (
            f"At {loads}; each split measured once, from the first request of the load on, with 95 % intervals over requests, "
            "which know nothing of the spread between repeats: compare two splits in turn (notebook 01) before you rely on a "
            "small difference."
        )


def choose(
    pins: Sequence[Pin], *, open_loop: bool, slo: Slo | None = None, warnings: Sequence[str] = (), accelerator: str = ""
) -> Choice:
    """The best of some pins under one load.

    In an open loop the share of requests that meet the SLO decides, in a closed loop goodput, and where no SLO can be judged the
    output per accelerator. Pins whose interval overlaps that of the highest are not told apart from it; among them the lowest
    p99 ITL is taken, or p50 where one has no p99.

    Args:
        pins: one a split, in the order of trying.
        open_loop: whether the load follows a clock.
        slo: that the pins were held against.
        warnings: for the reader.
        accelerator: what one is called.

    Raises:
        SpecError: none of them has a figure to go by.
    """
    judged = _ATTAINED if open_loop else _GOODPUT
    metric = judged if any(pin.value(judged) is not None for pin in pins) else _OUTPUT
    known = [pin for pin in pins if pin.value(metric) is not None]
    if not known:
        raise SpecError("no split has a figure to be judged by", remedy="let each be measured longer, or send more requests")
    top = max(known, key=lambda pin: pin.metrics[metric].value)
    equal = [pin for pin in known if overlap(pin.metrics[metric], top.metrics[metric])]
    breaker = _tie_breaker(equal)
    best = equal[0] if breaker is None else min(equal, key=lambda pin: pin.metrics[breaker].value)
    return Choice(
        best, tuple(pin for pin in equal if pin is not best), metric, tuple(pins), slo or Slo(), tuple(warnings), accelerator
    )


def overlap(one: Estimate, other: Estimate) -> bool:
    """Whether two intervals have a point in common; an end that is not known is the value itself."""
    (low, high), (bottom, top) = _ends(one), _ends(other)
    return low <= top and bottom <= high


def _ends(estimate: Estimate) -> tuple[float, float]:
    low = estimate.value if estimate.low is None else estimate.low
    return low, estimate.value if estimate.high is None else estimate.high


def _tie_breaker(pins: Sequence[Pin]) -> str | None:
    """The figure that decides between pins that are otherwise equal: the first that all of them have."""
    return next((metric for metric in _ITL if all(pin.value(metric) is not None for pin in pins)), None)


#: name, factor to the unit shown, unit
_WORDS: Final = {
    _ATTAINED: ("share of requests that meet the SLO", 100.0, " %"),
    _GOODPUT: ("goodput", 1.0, " req/s"),
    _OUTPUT: ("output per accelerator", 1.0, " tok/s"),
    "ttft_p50_s": ("TTFT p50", 1e3, " ms"),
    "itl_p99_s": ("ITL p99", 1e3, " ms"),
    "itl_p50_s": ("ITL p50", 1e3, " ms"),
}


def _figure(estimate: Estimate, metric: str) -> str:
    _, scale, unit = _WORDS[metric]
    low, high = estimate.low, estimate.high
    interval = f" [{_short(low * scale)}, {_short(high * scale)}]" if low is not None and high is not None else ""
    return f"{_short(estimate.value * scale)}{interval}{unit}"


def _short(value: float) -> str:
    """Three figures, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
