"""The answer of a search held against the other kind of split: both in turn, under the same requests, with a verdict."""

from __future__ import annotations

from typing import Final

from labkit.errors import SpecError
from labkit.experiments.compare import compare
from labkit.experiments.conclude import Conclusion
from labkit.experiments.split_search import SplitSearch, bring
from labkit.experiments.trials import at_rate
from labkit.experiments.verdict import verdict
from labkit.lab.lab import Lab
from labkit.spec import Workload

#: Seeds that no round of a search has used: these requests are new.
_APART: Final = 100


def confirm(
    lab: Lab, found: SplitSearch, *, workload: Workload | None = None, repeats: int = 3, seconds: float = 20.0
) -> Conclusion | None:
    """Measure the best split and the best of the other kind in turn, at the highest rate that the best one served.

    Each with its own options; a repeat has its own seed, the same for both. The lab is left in the best split.

    Args:
        lab: the search's, still open.
        found: what it found.
        workload: prompts and arrivals of the search; the lab's own by default.
        repeats: of each side; 0 confirms nothing.
        seconds: of the measure phase of each.

    Returns:
        ``None`` where one kind alone was tried, nothing was served, or no repeats were asked for.

    Raises:
        SpecError: no workload.
        LabError: a split cannot be had, or a worker died.
    """
    work = workload or lab.workload
    if work is None:
        raise SpecError("there is no workload to confirm under", remedy="pass that of the search")
    best, peak = found.ranked.best
    other = found.best_of(disaggregated=not best.topology.is_disaggregated)
    if other is None or peak.served is None or repeats < 1:
        return None
    sides = (other[0], best) if best.topology.is_disaggregated else (best, other[0])
    load = at_rate(work, peak.served, seconds, 0)
    lab.progress(f"confirm: {sides[0]} against {sides[1]}, in turn, at {peak.served:.3g} req/s")
    for repeat in range(repeats):
        for side in sides:
            bring(lab, side, side.options(found.options))
            lab.measure(load.with_seed(work.seed + _APART + repeat), side=str(side), repeat=repeat)
    bring(lab, best, best.options(found.options))
    comparison = compare(lab.run.digest(), str(sides[0]), str(sides[1]), slo=lab.slo, manifest=lab.run.manifest)
    words = verdict(comparison)
    lab.run.update(verdict=str(words))
    return Conclusion(comparison, words)
