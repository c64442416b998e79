"""What prefills do to other requests' tokens: aggregated and disaggregated, with prompts in chunks and whole.

Four sides of equal hardware get the same requests. Splits follow each other in turn by a re-split; the other chunk setting
restarts the workers once, so the settings follow one another, and what drifts on the node in between is part of their difference.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from labkit.errors import ComparisonError, SpecError
from labkit.experiments.chunking import Chunking
from labkit.experiments.compare import marks_of_side, ratio_of
from labkit.experiments.conditions import conditions
from labkit.experiments.interference_sides import TOLD, Ratio, SideFound
from labkit.experiments.interference_text import sentences, study_text
from labkit.experiments.quantities import QUANTITIES, measure
from labkit.experiments.sides import windows_of_side
from labkit.lab.lab import Lab
from labkit.measure.exposure import Scope
from labkit.measure.join import join_spans
from labkit.measure.overlap import Overlap, overlaps
from labkit.measure.records import Window
from labkit.measure.simulated import is_simulated, simulated_head
from labkit.measure.timing import equals
from labkit.serve.deployment import Deployment
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Topology, Workload
from labkit.store.run import Run

#: What the manifest keeps the finding under.
KEY: Final = "interference"
_RATIOS: Final = ("itl_p99_s", "ttft_p50_s")
_SPANS_S: Final = 10.0
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class InterferenceStudy:
    """What was found; as text two tables and what they say.

    Attributes:
        sides: in the order in which they were measured.
        ratios: disaggregated over aggregated in each chunk setting, and chunks over whole prompts in each split.
        repeats: of each side.
        conditions: under which all of it holds.
        warnings: what a reader must know before believing it.
        accelerator: what one is called.
    """

    sides: tuple[SideFound, ...]
    ratios: tuple[Ratio, ...]
    repeats: int
    conditions: str
    warnings: tuple[str, ...] = field(default=())
    accelerator: str = ""

    @property
    def overlaps(self) -> dict[str, Mapping[Scope, Overlap]]:
        """By side, as the figure takes it."""
        return {one.side: one.scopes for one in self.sides}

    @property
    def verdict(self) -> str:
        """What the data say, in sentences."""
        return "\n".join(self._sentences)

    def keep(self, run: Run) -> Self:
        """Keep the verdict in the summary of a run that is finished; its manifest holds the findings already."""
        run.write_summary({**(run.summary() or {}), "verdict": self.verdict})
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "verdict": self.verdict}

    def __str__(self) -> str:
        head = simulated_head(self.accelerator)
        said = study_text(self.sides, self._sentences)
        return f"{head}{len(self.sides)} sides\n{said}" if head else said

    @property
    def _sentences(self) -> list[str]:
        head, *rest = sentences(self.sides, self.ratios, self.repeats, self.conditions, self.warnings)
        return [simulated_head(self.accelerator) + head, *rest]

    __repr__ = __str__


def study_interference(
    lab: Lab,
    topologies: Sequence[Topology | str] = ("2A", "1P1D"),
    *,
    chunk: int | None = 128,
    whole: bool = True,
    workload: Workload | None = None,
    repeats: int = 2,
    seed: int = 0,
) -> InterferenceStudy:
    """Measure every split with prompts in chunks and whole, and say what prefills do to the tokens beside them.

    Within a chunk setting the splits are measured in turn (A B A B …); repeat i has the same requests on every side. A lab that
    was launched with ``Chunking(chunk).options(…)`` restarts its workers once. Ctrl-C ends it and keeps what was recorded.

    Args:
        lab: of a deployment of its own; it is left in the last split and setting.
        topologies: splits of equal accelerators.
        chunk: most tokens of a step with chunked prefill, below the longest prompt; ``None`` to leave chunks out.
        whole: whether whole prompts (chunked prefill off) are measured too.
        workload: the lab's own by default; prompts of various lengths make a curve of it.
        repeats: of each side.
        seed: of shifts and resampling.

    Raises:
        ComparisonError: the splits hold different numbers of accelerators.
        SpecError: no workload, no setting, a chunk that cuts no prompt, or an endpoint that somebody else runs.
        LabError: a split or setting cannot be had, or a worker died.
    """
    work, settings = workload or lab.workload, _settings(chunk, whole=whole)
    splits = [Topology(one) for one in topologies]
    there = _check(lab, splits, settings, work, repeats)
    assert work is not None
    base, longest = there.options, there.model.max_model_len
    for setting in settings:
        options = setting.options(base, longest)
        for repeat in range(repeats):
            for topology in splits:
                _bring(lab, there, topology, options)
                measured = lab.measure(work.with_seed(work.seed + repeat), side=_label(topology, setting), repeat=repeat)
                lab.progress(repr(measured))
        if not is_simulated(lab.run.manifest):  # simulated workers have none
            _await_spans(lab.run)  # a restart would lose those that are on their way
    study = _found(lab, splits, settings, repeats, seed)
    lab.run.update(**{KEY: study.to_dict()})
    return study


def _settings(chunk: int | None, *, whole: bool) -> list[Chunking]:
    return [*([] if chunk is None else [Chunking(chunk)]), *([Chunking(None)] if whole else [])]


def _label(topology: Topology, setting: Chunking) -> str:
    return f"{topology} ({setting})"


def _check(lab: Lab, splits: Sequence[Topology], settings: Sequence[Chunking], work: Workload | None, repeats: int) -> Deployment:
    if not isinstance(lab.deployment, Deployment):
        raise SpecError(
            "somebody else runs this endpoint: its chunks cannot be set", remedy="launch workers with Lab(model, topology)"
        )
    if work is None:
        raise SpecError("there is no workload to measure under", remedy="pass one, or give the lab one")
    if not splits or not settings or repeats < 1:
        raise SpecError(
            f"{len(splits)} splits in {len(settings)} chunk settings and {repeats} repeats are nothing to measure",
            remedy="name a split, a chunk or whole=True, and one repeat or more",
        )
    for setting in settings:
        setting.check(work)
    held = {str(one): one.accelerators for one in splits}
    if len(set(held.values())) > 1:
        unequal = ", ".join(f"{side} holds {count}" for side, count in held.items())
        raise ComparisonError(f"unequal hardware: {unequal} accelerators", remedy="name splits that hold the same number")
    return lab.deployment


def _bring(lab: Lab, there: Deployment, topology: Topology, options: EngineOptions) -> None:
    if there.topology != topology or there.options != options:
        lab.progress(str(lab.change(topology, options, in_place=True)))  # on the same devices, so that settings are comparable


def _await_spans(run: Run) -> None:
    """Until every worker's spans of the last measurement's requests have come: a second after the last answer."""
    until_s, window = time.monotonic() + _SPANS_S, run.windows[-1]
    last = "decode" if Topology(window.topology).is_disaggregated else "whole"  # a request's prefill worker alone tells little
    while time.monotonic() < until_s:
        mine = run.digest().of(window)
        answered = int(equals(mine.requests, "outcome", "ok").sum())
        if join_spans(mine).column("part").to_pylist().count(last) >= answered:
            return
        time.sleep(_POLL_S)


def _found(lab: Lab, splits: Sequence[Topology], settings: Sequence[Chunking], repeats: int, seed: int) -> InterferenceStudy:
    records, run = lab.run.digest(), lab.run
    plan = [(topology, setting) for setting in settings for topology in splits]
    windows = {_label(*one): windows_of_side(records, _label(*one)) for one in plan}
    found = overlaps({side: [(records, window) for window in held] for side, held in windows.items()}, seed=seed)
    sides = []
    for topology, setting in plan:
        side = _label(topology, setting)
        measured = [measure(records.of(window), window, lab.slo) for window in windows[side]]
        told = {one.key: one.pooled(measured)[0] for one in QUANTITIES if one.key in TOLD}
        rows = [one.requests.select(one.requests.measured) for one in measured]
        lengths = [tokens for one in rows for tokens in one.prompt_tokens.tolist() if tokens == tokens]
        middle = sorted(lengths)[len(lengths) // 2] if lengths else None
        sides.append(
            SideFound(
                side, str(topology), setting, found[side], told, middle,
                sum(map(len, rows)), sum(int((~one.ok).sum()) for one in rows),
            )
        )  # fmt: skip
    ratios = [
        Ratio(above, below, {key: ratio_of(records, below, above, key, slo=lab.slo, seed=seed) for key in _RATIOS})
        for above, below in _pairs(sides)
    ]
    every = [window for held in windows.values() for window in held]
    about = conditions((every, {**run.manifest, "options": None, "epochs": ()}))  # each side names its own
    loads = f"{about.workload}; equal hardware ({about.hardware}); {about}"
    unit = every[0].accelerator if every else ""
    return InterferenceStudy(tuple(sides), tuple(ratios), repeats, loads, _warnings(lab, windows), unit)


def _pairs(sides: Sequence[SideFound]) -> list[tuple[str, str]]:
    """Which side is held against which: kinds of split in one setting, then chunks against whole prompts in one split."""
    kinds = [
        (one.side, other.side)
        for one in sides
        for other in sides
        if one.chunking == other.chunking and one.is_disaggregated and not other.is_disaggregated
    ]
    chunks = [
        (one.side, other.side)
        for one in sides
        for other in sides
        if one.topology == other.topology and one.chunking.tokens is not None and other.chunking.tokens is None
    ]
    return kinds + chunks


def _warnings(lab: Lab, windows: Mapping[str, Sequence[Window]]) -> tuple[str, ...]:
    records = lab.run.digest()
    told: dict[str, list[str]] = {}
    for side, held in windows.items():
        for mark in marks_of_side([(records, window) for window in held], lab.run.manifest):
            if mark.severity == "warning":
                told.setdefault(mark.text, []).append(side)
    return tuple(f"{', '.join(sides)}: {text}" for text, sides in told.items())
