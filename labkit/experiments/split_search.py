"""The best split of so many accelerators for a workload and an SLO: who serves most, by how much, and how to launch it.

Every split is tried under rising load (``halving``, ``peak``) on one pool that stays warm: splits of the same workers follow each
other by a re-split, and only another TP degree or chunk size starts workers again. The aggregated side has its best too: with
several chunk sizes, and one aggregated and one disaggregated split in the last round whatever their rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from labkit.errors import NotSimulated, SpecError
from labkit.experiments.candidates import Candidate
from labkit.experiments.halving import Ask, Ranked, Rung, halve
from labkit.experiments.peak import Peak
from labkit.experiments.trials import Trial, at_rate, content_key, known_trials, side_of_trial
from labkit.lab.engines import ENGINES, USUAL
from labkit.lab.lab import Lab
from labkit.lab.simulation import FOLDER
from labkit.measure.simulated import is_simulated, simulated_head
from labkit.serve.engines.attach import Attached
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Slo, Workload

#: DistServe (Zhong et al., OSDI 2024) calls a load served where this share of its requests meets the SLO.
SERVED: Final = 0.9
#: How narrow the bracket of a peak is in each round; later rounds have the last.
_WITHIN: Final = (0.5, 0.2, 0.1)


@dataclass(frozen=True, slots=True)
class SplitSearch:
    """What a search found. As text it is the answer, with the table that it rests on.

    Attributes:
        ranked: the candidates with the brackets of their peaks.
        trials: every trial, in the order of the search, those of earlier runs included.
        slo, share: what it was searched under.
        accelerators, accelerator: what every split holds.
        model: name for the launch command.
        options: of the search.
        engine: on which it was searched; empty for the usual one.
        timing: folder of the profiles that simulated workers followed; empty where workers were real.
        refused: what could not be simulated, and counts as not served.
    """

    ranked: Ranked[Candidate]
    trials: tuple[Trial, ...]
    slo: Slo
    share: float
    accelerators: int
    accelerator: str
    model: str
    options: EngineOptions
    engine: str = ""
    timing: str = ""
    refused: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        """The candidate that serves most."""
        return self.ranked.best[0]

    def best_of(self, *, disaggregated: bool) -> tuple[Candidate, Peak] | None:
        """The best of a kind, if one was tried; also one that was dropped, where it served more than those that were not."""
        every = [pair for pair in (*self.ranked.last, *self.ranked.dropped) if pair[0].topology.is_disaggregated == disaggregated]
        return max(every, key=lambda pair: pair[1].served or 0.0, default=None)

    @property
    def launch(self) -> str:
        """The line that launches the best split."""
        asked = replace(self.best.options(self.options), timing=self.timing or None)
        default = asdict(EngineOptions())
        own = ", ".join(f"{name}={value!r}" for name, value in asdict(asked).items() if value != default[name])
        engine = f", engine={self.engine!r}" if self.engine else ""
        return f"Lab({self.model!r}, {str(self.best.topology)!r}{engine}{f', options=EngineOptions({own})' if own else ''})"

    def __str__(self) -> str:
        refused = [f"! not simulated, and counts as not served: {one}" for one in self.refused]
        head = simulated_head(self.accelerator)
        return "\n".join([head + self._answer(), *self._against(), *self._rows(), *refused, f"Launch it: {self.launch}"])

    def _answer(self) -> str:
        best, peak = self.ranked.best
        count = len(self.ranked.last) + len(self.ranked.dropped)
        each = f"{self.accelerators} {self.accelerator}{'s' * (self.accelerators != 1)}"
        under = f"with {self.share:.0%} of the requests within {self.slo}"
        if peak.served is None:
            return f"None of {count} splits of {each} serves {peak.failed:.3g} req/s {under}: relax the SLO, or add accelerators."
        per = f"{peak.served / self.accelerators:.3g} req/s a {self.accelerator}"
        equal = [str(one) for one, _ in self.ranked.equal]
        if not equal:
            return f"Of {count} splits of {each}, {best} serves most {under}: {peak}, {per}."
        together = f"{best}{''.join(f', {name}' for name in equal[:-1])} and {equal[-1]}"
        return f"Of {count} splits of {each}, {together} serve most {under}, not told apart: {best} {peak}, {per}."

    def _against(self) -> list[str]:
        sides = self.best_of(disaggregated=True), self.best_of(disaggregated=False)
        if sides[0] is None or sides[1] is None or None in (sides[0][1].served, sides[1][1].served):
            return []
        if set(self.ranked.equal) & {side for side in sides if side is not None}:
            return []  # the best of both kinds are not told apart, which is said already
        (winner, top), (loser, other) = sides if self.best.topology.is_disaggregated else sides[::-1]  # type: ignore[misc]
        kind = "aggregated" if self.best.topology.is_disaggregated else "disaggregated"
        low, high = _ratio(top, other)
        times = f"{low:.2f} to {high:.2f} times as much" if math.isfinite(high) else f"at least {low:.2f} times as much"
        return [f"The best {kind} split, {loser}, serves {other}: {winner} serves {times}."]

    def _rows(self) -> list[str]:
        rounds = max((trial.rung for trial in self.trials), default=0) + 1
        rows = []
        for candidate, peak in (*self.ranked.last, *self.ranked.dropped):
            mine = [trial for trial in self.trials if trial.candidate == str(candidate)]
            last = max((trial.rung for trial in mine), default=0) + 1
            rows.append(f"  {candidate}: {peak} ({len(mine)} trials, round {last} of {rounds})")
        return rows


def search_splits(
    lab: Lab,
    tried: Sequence[Candidate],
    *,
    workload: Workload | None = None,
    seconds: Sequence[float] = (8.0, 16.0),
    share: float = SERVED,
    most_rate: float = math.inf,
    resume: bool = True,
) -> SplitSearch:
    """Search the split that serves most, and leave the lab in it.

    Ctrl-C, or an error, ends it with what was measured kept in the run: another search goes on from there.

    Args:
        lab: on a deployment of its own. Its SLO is what requests are held against.
        tried: what to choose from (``candidates``), all of as many accelerators.
        workload: prompts, arrivals and the first rate; the lab's own by default.
        seconds: of a trial in each round of the halving; more where a low rate sends too few requests in that time.
        share: of the requests that must meet the SLO for a load to be served.
        most_rate: never more requests per second than this.
        resume: take over trials of the same content from earlier runs of the results folder.

    Raises:
        SpecError: no SLO, a workload without a rate, unequal hardware, an attached endpoint.
        LabError: a split cannot be had, or a worker died.
    """
    work = workload or lab.workload
    _check(lab, tried, work)
    assert work is not None
    assert work.rate is not None
    base = lab.deployment.options if not isinstance(lab.deployment, Attached) else EngineOptions()
    rounds = [Rung(each, _WITHIN[min(number, len(_WITHIN) - 1)]) for number, each in enumerate(seconds)]
    slo, kept = lab.slo, known_trials(lab.run.path.parent) if resume else {}
    trials: list[Trial] = []
    refused: list[str] = []

    def served(ask: Ask[Candidate]) -> bool:
        try:
            return trial(ask).served
        except NotSimulated as error:
            refused.append(f"{ask.candidate} at {ask.rate:.3g} req/s ({error.what})")
            lab.progress(f"search: not simulated, and counts as not served: {refused[-1]}")
            return False

    def trial(ask: Ask[Candidate]) -> Trial:
        load = at_rate(work, ask.rate, ask.seconds, ask.rung)
        options = ask.candidate.options(base)
        key = content_key({**lab.run.manifest, "engine": lab.engine}, ask.candidate, options, load, slo, share)
        found = kept.get(key)
        if found is None:
            bring(lab, ask.candidate, options)
            measured = lab.measure(load, side=side_of_trial(ask.candidate, ask.rate), stop_when_saturated=True)
            found = Trial.of(
                measured, key=key, candidate=ask.candidate, rate=ask.rate, seconds=ask.seconds, rung=ask.rung, share=share
            )
        trials.append(found)
        lab.run.update(trials=[asdict(one) for one in trials])
        known = f" (measured by run {found.run})" if found.run != lab.run.id else ""
        lab.progress(f"search {len(trials)}, round {ask.rung + 1} of {len(rounds)}: {found}{known}")
        return found

    kinds = [[one for one in tried if one.topology.is_disaggregated == kind] for kind in (False, True)]
    search = halve(tried, rounds, first_rate=work.rate, most_rate=most_rate, protected=[kind for kind in kinds if kind])
    try:
        ask = next(search)
        while True:
            ask = search.send(served(ask))
    except StopIteration as stop:
        ranked: Ranked[Candidate] = stop.value
    held, engine = tried[0].topology.accelerators, lab.engine if lab.engine in ENGINES and lab.engine != USUAL else ""
    unit = lab.deployment.accelerator  # also where every trial is of an earlier run, and none measured here
    found = SplitSearch(
        ranked, tuple(trials), slo, share, held, unit, lab.deployment.model.name, base, engine,
        str(lab.run.path / FOLDER) if is_simulated(lab.run.manifest) else "", tuple(refused),
    )  # fmt: skip
    if ranked.best[1].served is not None:
        bring(lab, found.best, found.best.options(base))
    lab.run.note(str(found), kind="search", data={"best": str(found.best), "trials": len(trials)})
    lab.run.update(answer=str(found))
    return found


def bring(lab: Lab, candidate: Candidate, options: EngineOptions) -> None:
    """Have a split serve with these options; nothing is done where it does already."""
    there = lab.deployment
    assert not isinstance(there, Attached)
    if there.topology != candidate.topology or there.options != options:
        lab.progress(str(lab.change(candidate.topology, options)))


def _check(lab: Lab, tried: Sequence[Candidate], work: Workload | None) -> None:
    if isinstance(lab.deployment, Attached):
        raise lab.deployment.refusal()
    if not any(asdict(lab.slo).values()):
        raise SpecError(
            "a search for the best split needs an SLO", remedy="give the lab one: Lab(…, slo=Slo(ttft_s=1.0, tpot_s=0.05))"
        )
    if work is None:
        raise SpecError("there is no workload to search under", remedy="pass one, or give the lab one")
    at_rate(work, work.rate or 1.0, 1.0, 0)
    held = {one.topology.accelerators for one in tried}
    if len(held) != 1:
        raise SpecError(
            f"splits of {', '.join(map(str, sorted(held))) or 'no'} accelerators are not equal hardware",
            remedy="search among splits that hold the same number (candidates(n))",
        )


def _ratio(top: Peak, other: Peak) -> tuple[float, float]:
    """How many times as much the first serves, by the ends of both brackets."""
    low = (top.served or 0.0) / other.failed if other.failed else 0.0
    return low, top.failed / other.served if top.failed and other.served else math.inf
