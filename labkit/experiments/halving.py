"""Successive halving over candidates: all are looked at briefly, the better half again and longer, until few are left.

After Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (AISTATS 2016): each rung
costs about as much as the one before, since half as many candidates get twice the time. Here a candidate's value is the highest
load that it serves (``peak``), and what a rung found is where the next one begins.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from labkit.errors import SpecError
from labkit.experiments.peak import Peak, find_peak

C = TypeVar("C", bound=Hashable)

_STEP: Final = 2.0
_LEAST_STEP: Final = 1.05
_DEPTH: Final = 8  # of the first rate: nothing is looked for below this part of it


@dataclass(frozen=True, slots=True)
class Rung:
    """How the candidates of a round are measured: each trial so long, each bracket so narrow."""

    seconds: float
    within: float


@dataclass(frozen=True, slots=True)
class Ask(Generic[C]):
    """A trial to be made: drive ``candidate`` at ``rate`` for ``seconds``, in the round ``rung``."""

    candidate: C
    rate: float
    seconds: float
    rung: int


@dataclass(frozen=True, slots=True)
class Ranked(Generic[C]):
    """The candidates of the last round, the best first, and how far every other one came.

    Attributes:
        last: of the last round, with their brackets.
        dropped: the others, those that were dropped last first.
    """

    last: tuple[tuple[C, Peak], ...]
    dropped: tuple[tuple[C, Peak], ...] = ()

    @property
    def best(self) -> tuple[C, Peak]:
        """The first."""
        return self.last[0]

    @property
    def equal(self) -> tuple[tuple[C, Peak], ...]:
        """Candidates of the last round that are not told apart from the best: their brackets overlap."""
        bound = self.best[1].served or 0.0
        return tuple((one, peak) for one, peak in self.last[1:] if (peak.failed or math.inf) > bound and peak.served is not None)


def halve(
    candidates: Sequence[C],
    rungs: Sequence[Rung],
    *,
    first_rate: float,
    most_rate: float = math.inf,
    protected: Iterable[Iterable[C]] = (),
) -> Generator[Ask[C], bool, Ranked[C]]:
    """Yields trials, is sent whether the load was served, and returns the ranking.

    In the first round a candidate begins where the one before it ended. What a shorter round found is not trusted later but
    begun from, in the middle of its bracket, so that two trials confirm it.

    Args:
        candidates: in the order of trying; those that serve alike keep it.
        rungs: the rounds; the better half of the candidates goes on from one to the next, with whoever served as much.
        first_rate: requests per second to begin with.
        most_rate: never more than this.
        protected: groups of which the best goes on whatever its rank, so that each kind is in the last round.

    Raises:
        SpecError: no candidate, or no round.
    """
    if not candidates or not rungs:
        raise SpecError("there is nothing to search", remedy="name one split and one round or more")
    groups = [set(group) for group in protected]
    there, dropped, found = list(candidates), list[tuple[C, Peak]](), dict[C, Peak]()
    ranked: list[tuple[C, Peak]] = []
    for number, rung in enumerate(rungs):
        start = first_rate
        for candidate in there:
            first, step = _begin(found.get(candidate), start)
            search = find_peak(first, within=rung.within, step=step, least_rate=first_rate / _DEPTH, most_rate=most_rate)
            found[candidate] = yield from _asked(search, candidate, rung.seconds, number)
            start = found[candidate].served or start
        ranked = sorted(((one, found[one]) for one in there), key=_worth, reverse=True)
        if number < len(rungs) - 1:
            kept = _kept(ranked, groups)
            dropped = [pair for pair in ranked if pair[0] not in kept] + dropped
            there = kept
    return Ranked(tuple(ranked), tuple(dropped))


def _begin(before: Peak | None, start: float) -> tuple[float, float]:
    """The first rate of a round, and the factor between rates."""
    if before is None:
        return start, _STEP
    if before.served is None or before.failed is None:
        return before.served or before.failed or start, _STEP
    return math.sqrt(before.served * before.failed), max(math.sqrt(before.ratio), _LEAST_STEP)


def _kept(ranked: Sequence[tuple[C, Peak]], groups: Sequence[set[C]]) -> list[C]:
    """The better half, whoever serves as much as the last of it, and the best of each group."""
    last = ranked[math.ceil(len(ranked) / 2) - 1][1].served or 0.0
    kept = {one for one, peak in ranked if (peak.served or 0.0) >= last}
    kept |= {next(one for one, _ in ranked if one in group) for group in groups if any(one in group for one, _ in ranked)}
    return [one for one, _ in ranked if one in kept]


def _asked(search: Generator[float, bool, Peak], candidate: C, seconds: float, rung: int) -> Generator[Ask[C], bool, Peak]:
    try:
        rate = next(search)
        while True:
            rate = search.send((yield Ask(candidate, rate, seconds, rung)))
    except StopIteration as stop:
        peak: Peak = stop.value
        return peak


def _worth(pair: tuple[C, Peak]) -> tuple[float, float]:
    peak = pair[1]
    return peak.served or 0.0, peak.failed or (math.inf if peak.served else 0.0)
