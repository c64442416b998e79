"""The smallest prefill batch that saturates a worker: steps of known size, swept over batch and prompt length.

**How k prompts meet in one step.** Sent at one instant to an idle worker they do not: the first is a step of its own, and the
others meet in the next. So the load is a closed loop of k + 1 requests with one output token each: while one prompt is computed,
the k others arrive and wait; then they are one step, during which the answered one comes again. Steps of k and of 1 alternate for
as long as it lasts. That they did is not assumed: the workers' spans tell the batch of every step (``measure.steps``), and only
steps of exactly k whole prompts count. How many others there were is told.

**What is measured.** Seconds of a step by the engine's own clock, hence prompt tokens per second of step; and the time to first
token of its requests as the client saw it, without the wait in front of the step. Prompts are random and prefix caching is off,
so that every token is computed. The step of one prompt in between takes the server's work on k new requests, which on a CPU
shares the worker's core, so that the step of k is not burdened with it.

Batches are measured in turn, all of them once a repeat, so that what drifts on the node hits all alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from labkit.errors import SpecError
from labkit.experiments.knee_text import knee_lines
from labkit.lab.lab import Lab
from labkit.lab.measurement import Measurement
from labkit.measure.digest import Digest
from labkit.measure.knee import LEAST_BATCHES, WITHIN, Batch, Knee, find_knee
from labkit.measure.records import Window
from labkit.measure.steps import PrefillStep, prefill_steps
from labkit.measure.validity import marks_of
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Topology, Workload
from labkit.store.run import Run

#: Prompts of a step.
BATCHES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
#: Of a step of several prompts.
MOST_TOKENS: Final = 2048
#: What the manifest keeps the finding under.
KEY: Final = "prefill_saturation"
_DISTURBED: Final = 0.25
_SPANS_S: Final = 10.0
_POLL_S: Final = 0.2
_MACHINE: Final = ("foreign_cpu", "steal", "foreign_gpu", "throttled", "clock_drop", "restart", "prefix_hits", "client_limited")


@dataclass(frozen=True, slots=True)
class PrefillSaturation:
    """Where a worker saturates, for each prompt length.

    Attributes:
        worker: what was swept: ``w0 of demo on core 0``.
        knees: by prompt length, ascending.
        lacking: prompt length → why it has no knee.
        other_steps: of all steps seen, those of another size than asked, which do not count.
        steps: all steps seen.
        repeats: of each batch.
        left_out: batches that never came about, and why.
        warnings: what a reader must know of the machine: disturbed steps, what else ran.
    """

    worker: str
    knees: Mapping[int, Knee]
    lacking: Mapping[int, str]
    other_steps: int
    steps: int
    repeats: int
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def knee(self, isl: int | None = None) -> Knee:
        """The knee of a prompt length; by default of the longest whose knee lies in the range.

        Raises:
            SpecError: that length was not measured, or no knee lies in the range.
        """
        if isl is None:
            isl = max((length for length, knee in self.knees.items() if knee.prompts is not None), default=None)
        if isl is None:
            raise SpecError("no prompt length saturates in the range that was swept", remedy="sweep larger batches (most_tokens)")
        if isl not in self.knees:
            why = self.lacking.get(isl, "it was not swept")
            raise SpecError(f"no knee for prompts of {isl} tokens: {why}", remedy=f"use one of {', '.join(map(str, self.knees))}")
        return self.knees[isl]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinite bounds are ``None``."""
        kept: dict[str, Any] = _finite(asdict(self))
        return kept

    def __str__(self) -> str:
        head = f"Prefill of {self.worker}: {self.steps - self.other_steps} steps of the wished size, {self.other_steps} others"
        lines = [f"{head}; {self.repeats} repeat{'s' * (self.repeats != 1)}"]
        lines += [line for isl, knee in self.knees.items() for line in ("", *knee_lines(isl, knee))]
        lines += [f"\nISL {isl}: no knee: {why}" for isl, why in self.lacking.items()]
        return "\n".join([*lines, *self.left_out, *(f"! {warning}" for warning in self.warnings)])

    __repr__ = __str__


def sweep_prefill(
    lab: Lab,
    isls: Sequence[int],
    *,
    batches: Sequence[int] = BATCHES,
    most_tokens: int = MOST_TOKENS,
    steps: int = 3,
    repeats: int = 4,
    within: float = WITHIN,
    seed: int = 0,
) -> PrefillSaturation:
    """Sweep the prefill batch of a lab's one worker, for each prompt length, and find the knees; the run keeps them.

    A worker whose flags would cut the largest step (or whose prefix cache is on) is restarted first with flags wide enough, and
    keeps them: ``set_prefill_limits`` sets the finding.

    Args:
        lab: with one worker, such as a lab of ``1A``; every worker of a pool is started equal, so that one tells for all.
        isls: prompt lengths.
        batches: prompts of a step.
        most_tokens: no step of several prompts is larger.
        steps: of each batch in each repeat.
        repeats: rounds over all lengths and batches.
        within: part of the plateau that the knee may lack.
        seed: of the prompts.

    Raises:
        SpecError: several workers, or values that cannot be meant.
        LabError: a load cannot be run, or a worker dies.
    """
    wanted = plan_sweep(isls, batches, most_tokens)
    topology = lab.deployment.topology
    if isinstance(topology, Topology) and len(topology.workers) != 1:
        raise SpecError(
            f"{topology} is no single worker to sweep", remedy='launch one: Lab(model, "1A"); workers are started equal'
        )
    if min(steps, repeats) < 1:
        raise SpecError(f"{steps} steps in {repeats} repeats measure nothing", remedy="use 1 or more of each")
    _widen(lab, wide_options(isls, batches=batches, most_tokens=most_tokens, options=getattr(lab.deployment, "options", None)))
    done: list[tuple[int, int, Measurement]] = []
    order = [(isl, prompts) for isl, sizes in wanted.items() for prompts in sizes]
    for repeat in range(repeats):
        lab.progress(f"repeat {repeat + 1} of {repeats}: {len(order)} batches")
        for number, (isl, prompts) in enumerate(order):
            load = Workload(
                isl=isl, osl=1, concurrency=prompts + 1, requests=steps * (prompts + 1), seed=seed + repeat * len(order) + number
            )
            done.append((isl, prompts, lab.measure(load, side=f"ISL {isl} × {prompts}", repeat=repeat)))
    found = _await_steps(lab.run, [one.window for *_, one in done])
    saturation = _found(lab, wanted, done, found, repeats, within, seed)
    lab.run.update(**{KEY: saturation.to_dict()})
    return saturation


def plan_sweep(isls: Sequence[int], batches: Sequence[int], most_tokens: int) -> dict[int, tuple[int, ...]]:
    """Prompt length → batches of it that fit into a step.

    Raises:
        SpecError: none, a number below 1, or lengths of which too few batches fit.
    """
    if not isls or not batches or min((*isls, *batches, most_tokens)) < 1:
        raise SpecError(f"prompts of {list(isls)} tokens in batches of {list(batches)} are no sweep", remedy="use numbers from 1")
    found = {isl: tuple(n for n in sorted(set(batches)) if n * isl <= most_tokens) for isl in sorted(set(isls))}
    for isl, sizes in found.items():
        if len(sizes) < LEAST_BATCHES:
            raise SpecError(
                f"{len(sizes)} batches of {isl} tokens fit into most_tokens = {most_tokens}: too few to tell a plateau",
                remedy=f"give shorter prompts, or most_tokens={isl * 8}",
            )
    return found


def batches_of(
    steps: Mapping[int, Sequence[PrefillStep]], measured: Sequence[tuple[int, int, int]], isl: int
) -> tuple[list[Batch], int, list[str]]:
    """The steps of one prompt length by batch, how many steps were of another size, and which batches never came about.

    Where the one prompt in between is done before all k have arrived (many short prompts), steps fall short of k.

    Args:
        steps: by measurement.
        measured: prompt length, prompts of a step, and measurement, in the order of the repeats.
        isl: which length.
    """
    found, others, missed = [], 0, []
    for prompts in dict.fromkeys(prompts for length, prompts, _ in measured if length == isl):
        repeats = [list(steps.get(number, ())) for length, size, number in measured if (length, size) == (isl, prompts)]
        kept = [[s for s in seen if s.whole and s.prompts == prompts and s.tokens == prompts * isl] for seen in repeats]
        others += sum(step.prompts not in (prompts, 1) or not step.whole for seen in repeats for step in seen)
        if not all(kept):
            sizes = sorted({step.prompts for seen in repeats for step in seen if step.whole})
            missed.append(f"{prompts} × {isl} left out: a repeat saw steps of {', '.join(map(str, sizes)) or 'no'} prompts only")
            continue
        times = tuple(np.array([step.step_s for step in seen]) for seen in kept)
        ttfts = tuple(np.array([ttft for step in seen for ttft in step.ttft_s]) for seen in kept)
        found.append(Batch(prompts * isl, prompts, times, ttfts))
    return found, others, missed


def wide_options(
    isls: Sequence[int], *, batches: Sequence[int] = BATCHES, most_tokens: int = MOST_TOKENS, options: EngineOptions | None = None
) -> EngineOptions:
    """Options under which no step of a sweep is cut: a lab launched with them need not restart its worker for it.

    Args:
        isls, batches, most_tokens: of the sweep.
        options: what else the worker gets.
    """
    wanted = plan_sweep(isls, batches, most_tokens)
    prompts = max(max(sizes) for sizes in wanted.values()) + 1
    tokens = max(prompts, *(isl * max(sizes) for isl, sizes in wanted.items()))
    return replace(options or EngineOptions(), max_num_batched_tokens=tokens, max_num_seqs=prompts, prefix_caching=False)


def _widen(lab: Lab, wide: EngineOptions) -> None:
    options = getattr(lab.deployment, "options", None)
    if options is None:
        return  # somebody else runs it: what its flags cut is seen in the steps
    names = ("max_num_batched_tokens", "max_num_seqs")
    if options.prefix_caching or any((getattr(options, name) or 0) < getattr(wide, name) for name in names):
        lab.progress(f"the sweep needs {wide}")
        lab.change(options=wide)


def _await_steps(run: Run, windows: Sequence[Window]) -> dict[int, list[PrefillStep]]:
    """The steps of every measurement, once the spans of all requests have come: a second after the last answer."""
    until_s = time.monotonic() + _SPANS_S
    wanted = {window.measurement for window in windows}
    while True:
        records = run.digest()
        steps = prefill_steps(records)
        seen = sum(step.prompts for number in wanted for step in steps.get(number, ()))
        if seen >= _answered(records, wanted) or time.monotonic() > until_s:
            return steps
        time.sleep(_POLL_S)


def _answered(records: Digest, wanted: set[int]) -> int:
    rows = records.requests.select(["measurement", "outcome"]).to_pydict()
    return sum(number in wanted and outcome == "ok" for number, outcome in zip(rows["measurement"], rows["outcome"], strict=True))


def _found(
    lab: Lab,
    wanted: Mapping[int, Sequence[int]],
    done: Sequence[tuple[int, int, Measurement]],
    steps: Mapping[int, Sequence[PrefillStep]],
    repeats: int,
    within: float,
    seed: int,
) -> PrefillSaturation:
    knees: dict[int, Knee] = {}
    lacking: dict[int, str] = {}
    notes: list[str] = []
    left_out: list[str] = []
    others = 0
    measured = [(isl, prompts, one.window.measurement) for isl, prompts, one in done]
    for isl in wanted:
        batches, strange, missed = batches_of(steps, measured, isl)
        others, left_out = others + strange, [*left_out, *missed]
        try:
            knees[isl] = find_knee(batches, within=within, seed=seed)
        except SpecError as error:
            lacking[isl] = f"{error.what}; {error.remedy}"
            continue
        if knees[isl].disturbed > _DISTURBED:
            notes.append(f"ISL {isl}: a usual step took {knees[isl].disturbed:.0%} longer than an undisturbed one")
    numbers = {number for *_, number in measured}
    return PrefillSaturation(
        worker=_worker(lab),
        knees=knees,
        lacking=lacking,
        other_steps=others,
        steps=sum(len(steps.get(number, ())) for number in numbers),
        repeats=repeats,
        left_out=tuple(left_out),
        warnings=(*notes, *machine_warnings(lab.run, [one.window for *_, one in done])),
    )


def machine_warnings(run: Run, windows: Sequence[Window]) -> tuple[str, ...]:
    """What the machine did meanwhile that spoils times: each kind once, with the share of the windows that have it."""
    records = run.digest()
    found: dict[str, list[str]] = {}
    for window in windows:
        for mark in marks_of(records, window, run.manifest):
            if mark.severity == "warning" and mark.kind in _MACHINE:
                found.setdefault(mark.kind, []).append(mark.text)
    return tuple(f"{texts[0]} (in {len(texts)} of {len(windows)} measurements)" for texts in found.values())


def _worker(lab: Lab) -> str:
    held = next(iter(lab.deployment.devices_by_worker.values()), {})
    where = held.get("gpus") or held.get("cores")
    return lab.deployment.model.name + (f" on {lab.deployment.accelerator} {','.join(map(str, where))}" if where else "")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
