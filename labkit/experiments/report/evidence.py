"""What comparisons and findings say of each claim: one function a claim, and none says more than its intervals do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from labkit.experiments.compare import Row
from labkit.experiments.differences import facts_of
from labkit.experiments.peak import Peak
from labkit.experiments.prefill_limits import KEY as LIMITS
from labkit.experiments.prefill_saturation import KEY as PREFILL
from labkit.experiments.report.claims import CLAIMS, Evidence, Judged, judge
from labkit.experiments.report.cohorts import Cohort, Entry, Pair
from labkit.experiments.roofline import KEY as ROOFLINE
from labkit.experiments.trials import Trial
from labkit.experiments.until import LEAST_REPEATS
from labkit.experiments.verdict import TOKEN_LIMIT_S
from labkit.live.pin import Estimate, Pin
from labkit.measure.metrics import is_open_loop
from labkit.measure.saturation import saturation_of
from labkit.measure.simulated import is_simulated
from labkit.measure.statistics import Interval
from labkit.spec.topology import Topology
from labkit.store.run import Run

#: From this share of failed requests on a load is not sustained, whatever the latency of the others.
_MANY_FAILED: Final = 0.01
#: Gaps longer by less than this disturb nobody.
_NO_EFFECT: Final = 0.05
_ONE_NODE, _TWO_NODES = 1.3, 2.0
_LLAMA_70B: Final = re.compile(r"llama.*70b", re.IGNORECASE)
_GPT_OSS_120B: Final = re.compile(r"gpt-oss-120b", re.IGNORECASE)
_ONE_AND_ONE: Final = "1P@tp4+1D@tp4"
_TOKENS: Final = (("tpot_p50_s", "TPOT p50"), ("tpot_p99_s", "TPOT p99"), ("itl_p99_s", "ITL p99"))

_SCALING: Final = "scaling"
_PROJECTED: Final = "projected"
_MOST_PLACES: Final = 4
_WORSE: Final = ("longer", "mixed")
_CHANGED: Final = ("shorter", *_WORSE)
_SAID: Final = {
    "shorter": "became shorter", "longer": "became longer", "mixed": "moved both ways", "same": "stayed within 10 %",
    "open": "is not known well enough",
}  # fmt: skip

#: Evidence under the claim's own conditions, and evidence aside.
Found = tuple[list[Evidence], list[Evidence]]


@dataclass(frozen=True, slots=True)
class Material:
    """All that a report may draw on: runs with their manifests, and their sides sorted out."""

    runs: tuple[Run, ...]
    cohorts: tuple[Cohort, ...]

    @property
    def pairs(self) -> Iterator[Pair]:
        """Aggregated against disaggregated, over all conditions."""
        return (pair for cohort in self.cohorts for pair in cohort.pairs)

    @property
    def sides(self) -> Iterator[tuple[Entry, Pin, int]]:
        """Every side with its figures, and how many of its requests failed."""
        return (each for cohort in self.cohorts for each in zip(cohort.entries, cohort.points, cohort.failed, strict=True))

    def findings(self, key: str) -> Iterator[tuple[Run, Mapping[str, Any]]]:
        """What runs have kept under a key of their manifest."""
        return ((run, run.manifest[key]) for run in self.runs if isinstance(run.manifest.get(key), Mapping))


def judge_all(material: Material) -> tuple[Judged, ...]:
    """Every claim with its verdict, in the order of ``CLAIMS``."""
    found = ((claim, _measured_first(material, _SOURCES[claim.key](material))) for claim in CLAIMS)
    return tuple(judge(claim, *_with_projections(claim.key, material, one)) for claim, one in found)


def _measured_first(material: Material, found: Found) -> Found:
    """What simulated workers showed stands beside what was measured, and is no part of a verdict."""
    simulated = {run.id for run in material.runs if is_simulated(run.manifest)}
    proper, aside = found
    of_them = [one for one in (*proper, *aside) if simulated.intersection(one.runs)]
    told = [replace(one, holds=None, where=f"simulated, not measured: {one.where}") for one in of_them]
    return [one for one in proper if one not in of_them], [*(one for one in aside if one not in of_them), *told]


def _bound(material: Material) -> Found:
    found = []
    for run, roofline in material.findings(ROOFLINE):
        bounds = {
            phase: [str(point["bound"]) for point in roofline["points"] if point["phase"] == phase]
            for phase in ("prefill", "decode")
        }
        if not all(bounds.values()):
            continue
        wanted = {"prefill": "compute-bound", "decode": "memory-bound"}
        counts = {phase: mine.count(wanted[phase]) for phase, mine in bounds.items()}
        words = "; ".join(
            f"{phase} {wanted[phase]} at {counts[phase]} of {len(mine)} batch sizes"
            + (f" (else {', '.join(sorted(set(mine) - {wanted[phase]}))})" if counts[phase] < len(mine) else "")
            for phase, mine in bounds.items()
        )
        # A small batch may be limited by neither: a phase must be what the claim says somewhere, and nowhere the other.
        whole = all(counts.values()) and "memory-bound" not in bounds["prefill"] and "compute-bound" not in bounds["decode"]
        found.append(Evidence(whole, str(roofline.get("model", "")), words, (run.id,), facts_of(run.manifest, ())))
    return found, []


def _interference(material: Material) -> Found:
    found = []
    for pair in material.pairs:
        effects = pair.comparison.interference
        own = effects[pair.comparison.side_a]["worker"]
        before, after = (effects[side]["deployment"] for side in (pair.comparison.side_a, pair.comparison.side_b))
        words = f"a prefill on the same worker: {own}; prefills anywhere: {before} aggregated, {after} disaggregated"
        holds: bool | None = None
        if own.value is not None and own.low is not None and own.high is not None:
            if own.high < _NO_EFFECT:
                holds = False
            elif own.low > 0 and None not in (before.low, after.low, after.high) and before.low is not None:
                removed = after.high is not None and after.high < before.low
                stays = after.low is not None and before.high is not None and after.low >= before.low and after.low > _NO_EFFECT
                holds = True if removed else False if stays else None
        found.append(Evidence(holds, pair.where, words, pair.runs, pair.facts))
    return found, []


def _sub_50_ms(material: Material) -> Found:
    found = []
    against = {(pair.disaggregated.run.id, pair.disaggregated.side): pair.aggregated for pair in material.pairs}
    points = {(entry.run.id, entry.side): (point, failed) for entry, point, failed in material.sides}
    for entry, point, failed in material.sides:
        if not entry.disaggregated:
            continue
        holds, words = _sustained(entry, point, failed)
        other = against.get((entry.run.id, entry.side))
        if other is not None:
            theirs, said = _sustained(other, *points[other.run.id, other.side])
            also = {True: "holds it too", False: "does not", None: "may or may not"}[theirs]
            words += f"; aggregated {other.side} {also}: {said}"
        found.append(Evidence(holds, f"{entry.side}, {entry.load}", words, (entry.run.id,), entry.facts))
    return found, []


def _sustained(entry: Entry, point: Pin, failed: int) -> tuple[bool | None, str]:
    """Whether all three figures stay below the limit for all that was asked.

    Figures are of answered requests alone. A split that drops what it cannot serve in time, or is stopped before its backlog is
    served, sustains nothing by them: with a failed request it is not known, and from 1 % on it does not.
    """
    holds, words = _below(point)
    doubts = []
    if failed:
        doubts.append(f"{failed} of {point.requests} requests failed")
        holds = False if failed >= _MANY_FAILED * point.requests else holds
    records = entry.run.digest()
    for window in entry.windows:
        if window.stopped:
            doubts.append(f"stopped early: {window.stopped}")
        elif (found := saturation_of(records, window)) is not None:
            doubts.append(str(found))
    doubts = list(dict.fromkeys(doubts))
    return None if holds and doubts else holds, "; ".join([words, *doubts])


def _below(point: Pin) -> tuple[bool | None, str]:
    """Whether all three figures stay below the limit, each with its interval."""
    verdicts: list[bool | None] = []
    said = []
    for name, label in _TOKENS:
        estimate = point.metrics.get(name)
        if estimate is None:
            verdicts.append(None)
            said.append(f"{label} unknown (too few values)")
            continue
        low, high = _ends(estimate)
        verdicts.append(True if high < TOKEN_LIMIT_S else False if low >= TOKEN_LIMIT_S else None)
        said.append(f"{label} {_ms(estimate)}")
    holds = False if False in verdicts else None if None in verdicts else True
    return holds, ", ".join(said)


def _one_node(material: Material) -> Found:
    return _throughput(material, _LLAMA_70B, _ONE_NODE, 1)


def _two_nodes(material: Material) -> Found:
    proper, aside = _throughput(material, _LLAMA_70B, _TWO_NODES, 2)
    one = {run.id for run in material.runs if _nodes(run) == 1}
    return proper, [found for found in aside if not one.issuperset(found.runs)]  # those stand beside the claim of one node


def _nodes(run: Run) -> int:
    """How many nodes a run was on; a manifest lists them where it was a cluster."""
    hardware = run.manifest.get("hardware")
    nodes = hardware.get("nodes") if isinstance(hardware, Mapping) else None
    return len(nodes) if isinstance(nodes, Sequence) and nodes else 1


def _with_projections(key: str, material: Material, found: Found) -> Found:
    """What runs of notebook 05 projected of a claim stands beside what was measured, and is no part of a verdict."""
    proper, aside = found
    for run, projected in material.findings(_PROJECTED):
        places = [place for place in projected["claims"] if place["claim"] == key]
        told = [place for place in places if place["holds"] is not None]
        if told:
            pro = [str(place["where"]) for place in told if place["holds"]]
            said = f"by {projected['source']}. {told[0].get('error_words', projected['error_words'])}"
            gpu = told[0]["facts"].get("GPU")
            where = f"projected{f' on {gpu}' if gpu else ''}, not measured: holds in {len(pro)} of {len(told)} places"
            aside = [*aside, Evidence(None, where, f"{_some(pro)}; {said}", (run.id,))]
    return proper, aside


def _some(places: Sequence[str]) -> str:
    more = f" and {len(places) - _MOST_PLACES} more" if len(places) > _MOST_PLACES else ""
    return f"where {'; '.join(places[:_MOST_PLACES])}{more}" if places else "nowhere"


def _throughput(material: Material, model: re.Pattern[str], wanted: float, nodes: int) -> Found:
    """Output per accelerator where the load was as much as a split could take; a given rate makes both sides equal."""
    proper: list[Evidence] = []
    aside: list[Evidence] = []
    for where, ratio, words, runs, facts in _gains(material):
        holds = None if ratio is None else True if ratio.low >= wanted else False if ratio.high < wanted else None
        there = _on_nodes(material, runs)
        asked = bool(model.search(facts.get("model", ""))) and "GPU" in facts.get("accelerators", "GPU") and there == {nodes}
        mine = proper if asked else aside
        mine.append(Evidence(holds, _placed(where, there), words, runs, facts))
    return proper, aside


def _on_nodes(material: Material, runs: Sequence[str]) -> set[int]:
    return {_nodes(run) for run in material.runs if run.id in runs}


def _placed(where: str, nodes: set[int]) -> str:
    return where if nodes == {1} else f"{where}, on {' and '.join(map(str, sorted(nodes)))} nodes"


def _gains(material: Material) -> Iterator[tuple[str, Interval | None, str, tuple[str, ...], Mapping[str, str]]]:
    """Throughput gained by disaggregation, wherever it was not the load that set it."""
    for pair in material.pairs:
        if any(is_open_loop(window) for window in (*pair.aggregated.windows, *pair.disaggregated.windows)):
            continue
        row = pair.comparison.row("output_tok_s_per_gpu")
        yield pair.where, row.ratio, _ratio_words(row), pair.runs, pair.facts
    for run in material.runs:
        if (found := _search_gain(run)) is not None:
            yield found


def _search_gain(run: Run) -> tuple[str, Interval | None, str, tuple[str, ...], Mapping[str, str]] | None:
    """The peaks of a split search: the best disaggregated split over the best aggregated one, by the ends of their brackets."""
    trials = [Trial.from_dict(data) for data in run.manifest.get("trials") or ()]
    last = {one.candidate: max(other.rung for other in trials if other.candidate == one.candidate) for one in trials}
    peaks: dict[str, Peak] = {}
    for one in trials:
        if one.rung == last[one.candidate]:  # a longer round begins anew: what a shorter one found is not trusted
            peaks[one.candidate] = peaks.get(one.candidate, Peak()).told(one.rate, one.served)
    best: dict[bool, tuple[str, Peak]] = {}
    for name, peak in peaks.items():
        kind = Topology(name.split()[0]).is_disaggregated
        if peak.served is not None and (kind not in best or peak.served > (best[kind][1].served or 0)):
            best[kind] = (name, peak)
    if len(best) < 2:
        return None
    (split, top), (other, rest) = best[True], best[False]
    assert top.served is not None
    assert rest.served is not None
    low = top.served / rest.failed if rest.failed else 0.0
    high = top.failed / rest.served if top.failed else math.inf
    words = f"served under the SLO: {top} against {rest}, {low:.2f} to {high:.2f} times as much"
    return f"{split} against {other}", Interval(low, top.served / rest.served, high), words, (run.id,), facts_of(run.manifest, ())


def _gpt_oss(material: Material) -> Found:
    proper: list[Evidence] = []
    aside: list[Evidence] = []
    for pair in material.pairs:
        if not _GPT_OSS_120B.search(pair.facts.get("model", "")) or pair.disaggregated.facts.get("topology") != _ONE_AND_ONE:
            continue
        open_loop = any(is_open_loop(window) for window in pair.disaggregated.windows)
        row = pair.comparison.row("goodput_request_s" if open_loop else "output_tok_s_per_gpu")
        nodes = _on_nodes(material, pair.runs)
        mine = proper if nodes == {1} else aside
        mine.append(Evidence(_better(row), _placed(pair.where, nodes), _ratio_words(row), pair.runs, pair.facts))
    return proper, aside


def _smallest_batch(material: Material) -> Found:
    found = []
    for run, tried in material.findings(LIMITS):
        saturation = run.manifest.get(PREFILL) or {}
        knee = (saturation.get("knees") or {}).get(str(tried["isl"])) or {}
        rows = {row["key"]: row for row in tried["comparison"]["rows"]}
        ratio = (rows.get("ttft_p50_s") or {}).get("ratio")
        shown = None if not ratio else True if ratio["high"] < 1 else False if ratio["low"] > 1 else None
        tokens = (knee.get("tokens") or {}).get("estimate")
        at = "" if tokens is None else f"saturates at {tokens:.0f} tokens a step; "
        words = f"{at}{tried['verdict']}"
        found.append(Evidence(shown, f"ISL {tried['isl']}", words, (run.id,), facts_of(run.manifest, ())))
    return found, []


def _large_models(material: Material) -> Found:
    """Whether a larger model gains more than a smaller one: every two sizes that were measured on one kind of hardware."""
    gains = [(size, gain) for gain in _gains(material) if gain[1] is not None and (size := _size_b(gain[4].get("model", "")))]
    found = []
    for small, (where, ratio, _, runs, facts) in gains:
        for large, (elsewhere, more, _, others, theirs) in gains:
            if large <= small or facts.get("hardware.device") != theirs.get("hardware.device"):
                continue
            assert ratio is not None
            assert more is not None
            holds = True if more.low > ratio.high else False if more.high < ratio.low else None
            words = f"{small:g}B gains {ratio} ({where}), {large:g}B {more} ({elsewhere})"
            found.append(Evidence(holds, f"{large:g}B against {small:g}B", words, tuple(dict.fromkeys((*runs, *others))), theirs))
    aside = [Evidence(None, where, words, runs, facts) for where, _, words, runs, facts in _gains(material)]
    return found, [] if found else aside


def _size_b(model: str) -> float | None:
    """Billions of parameters, as a model's name says them: 70 of ``llama-3.1-70b``."""
    said = re.search(r"(\d+(?:\.\d+)?)b\b", model.lower())
    return float(said[1]) if said else None


def _scaling(material: Material) -> Found:
    """Every step to a larger split: the added workers must do no harm to their own latency, and leave the other role's alone."""
    found = []
    for run, scaling in material.findings(_SCALING):
        for step in scaling["steps"]:
            own, other = step["own"], step["other"]
            holds = False if own in _WORSE or other in _CHANGED else True if other == "same" else None
            if scaling["repeats"] < LEAST_REPEATS:
                holds = None
            words = f"its own latency {_SAID[own]}, the other role's {_SAID[other]}"
            facts = {**facts_of(run.manifest, ()), "added": f"{step['role']} workers"}
            found.append(Evidence(holds, f"{step['before']} → {step['after']}", words, (run.id,), facts))
    return found, []


_SOURCES: Final[Mapping[str, Callable[[Material], Found]]] = {
    "bound": _bound,
    "interference": _interference,
    "sub_50_ms": _sub_50_ms,
    "scaling": _scaling,
    "one_node": _one_node,
    "two_nodes": _two_nodes,
    "gpt_oss": _gpt_oss,
    "smallest_batch": _smallest_batch,
    "large_models": _large_models,
}


def _better(row: Row) -> bool | None:
    if row.ratio is None or not row.ratio.shows_difference:
        return None
    return (row.ratio.estimate < 1) == bool(row.lower_is_better)


def _ratio_words(row: Row) -> str:
    if row.ratio is None or row.a is None or row.b is None:
        return f"{row.label}: {row.reason or 'unknown'}"
    shown = "" if row.ratio.shows_difference else ": no difference shown"
    return f"{row.label} {row.a:.3g} → {row.b:.3g} {row.unit}, ratio {row.ratio}{shown}"


def _ends(estimate: Estimate) -> tuple[float, float]:
    low = estimate.value if estimate.low is None else estimate.low
    return low, estimate.value if estimate.high is None else estimate.high


def _ms(estimate: Estimate) -> str:
    low, high = (f"{end * 1e3:.3g}" for end in _ends(estimate))
    return f"{estimate.value * 1e3:.3g} ms [{low}, {high}]"
