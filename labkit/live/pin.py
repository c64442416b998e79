"""A pin: one stationary stretch of an exploration, measured and kept, so that it can be held against others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from labkit.live.tails import Tail

#: Kind of the runs that pins are.
KIND: Final = "pin"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval, in the unit of its metric; ``None`` where an end is not known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """One measured point.

    Attributes:
        label: what the person calls it, unique among the pins shown together.
        topology: the split that served.
        workload: the load, in words.
        run, measurement: where its records are in the store.
        t_s, window_s: when its window ended, on the exploration's clock, and how long it was.
        metrics: by the names of ``LiveStats``: ``output_tok_s_per_accelerator``, ``tok_s_per_user``, ``ttft_p50_s``,
            ``ttft_p99_s``, ``itl_p50_s``, ``itl_p99_s``, ``goodput_hz`` and what else was measured. What is absent is not known.
        tails: how its TTFT and ITL are spread: ``ttft`` and ``itl``, each where it is known.
        requests: how many were measured.
        settings: of the workers, in words.
        slo: that goodput is held against, in words; empty where there was none.
        settled: whether its window was found stationary; ``None`` where it has too few requests to tell (``measure.warmup``).
        cut: how the beginning of its window was found, in words.
        warnings: what a reader must know before believing it: the marks of its window that are warnings.
    """

    label: str
    topology: str
    workload: str
    run: str
    measurement: str
    t_s: float
    window_s: float
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    tails: Mapping[str, Tail] = field(default_factory=dict)
    requests: int = 0
    settings: str = ""
    slo: str = ""
    settled: bool | None = None
    cut: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def stationary(self) -> str:
        """``settled``, in words."""
        return {True: "yes", False: "no", None: "too short to tell"}[self.settled]

    def value(self, metric: str) -> float | None:
        """The metric's value, or ``None`` where it is not known."""
        estimate = self.metrics.get(metric)
        return None if estimate is None else estimate.value


def ttft_of(pins: Sequence[Pin]) -> Literal["ttft_p99_s", "ttft_p50_s"]:
    """The TTFT that pins are drawn against: p99 where all have one, else p50."""
    return "ttft_p99_s" if all(pin.value("ttft_p99_s") is not None for pin in pins) else "ttft_p50_s"


def frontier(pins: Sequence[Pin], x: str, y: str, *, more_x: bool) -> list[Pin]:
    """The pins that no other beats: one at least as good in both metrics, and better in one; ascending in ``x``.

    Args:
        pins: those that lack a metric are never part of it.
        x, y: metrics; of ``y`` more is better.
        more_x: whether more is better of ``x`` too.
    """
    sign = 1 if more_x else -1
    known = [(sign * a, b, pin) for pin in pins if (a := pin.value(x)) is not None and (b := pin.value(y)) is not None]
    best = [(a, pin) for a, b, pin in known if not any(c >= a and d >= b and (c, d) != (a, b) for c, d, _ in known)]
    return [pin for _, pin in sorted(best, key=lambda one: sign * one[0])]
