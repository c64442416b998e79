"""Prefill and decode on this device's roofline: what a step computes and moves, against what the device does at most.

FLOPs and bytes of a step come from the model's shape (``measure.roofline`` has the formulas), its time from measured steps, the
peaks from a benchmark of this device (``serve.peaks``). Prefill steps are those of a sweep, by the engine's own clock. A decode
step is the gap between two tokens while a batch of equal requests decodes and nothing is prefilled, as the client saw it.

A step that reaches half of a peak is bound by it, by the higher one where it reaches both halves. A step that reaches neither is
bound by something that is in no formula: launches, scheduling, the server's own work, a kernel that does badly at this size.
(Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final, Literal

import numpy as np

from labkit.errors import HardwareError, SpecError
from labkit.experiments.knee_text import ms
from labkit.experiments.prefill_saturation import PrefillSaturation, machine_warnings
from labkit.lab.lab import Lab
from labkit.measure.knee import UNDISTURBED
from labkit.measure.roofline import Step, mbu, mfu, step_bytes, step_flops
from labkit.measure.steps import DecodeSteps, decode_steps
from labkit.serve.cluster import Cluster
from labkit.serve.deployment import Deployment
from labkit.serve.interpreter import engine_python
from labkit.serve.peaks import Peaks, best_of, flops_text, measure_peaks
from labkit.spec import Workload
from labkit.spec.architecture import Architecture

Phase = Literal["prefill", "decode"]
PHASES: Final[tuple[Phase, ...]] = ("prefill", "decode")
Bound = Literal["compute-bound", "memory-bound", "neither"]

#: Requests that decode together.
BATCHES: Final = (1, 2, 4, 8, 16)
#: What the time of a step is read from.
CLOCKS: Final[Mapping[Phase, str]] = {
    "prefill": "the engine's own clock (request spans of the sweep)",
    "decode": "the client's gaps between tokens (with what passes between steps)",
}
#: Part of a peak that makes it the limit.
HALF: Final = 0.5
#: Part of a peak that no step can have reached, though peak and step are measured.
_SCATTER: Final = 1.1
#: What the manifest keeps the finding under.
KEY: Final = "roofline"
_USUAL_DTYPE: Final = "bfloat16"


@dataclass(frozen=True, slots=True)
class RooflinePoint:
    """Steps of one phase and batch.

    Attributes:
        phase: ``prefill`` or ``decode``.
        batch: prompts, or requests that decode.
        tokens: new tokens of the step.
        context: tokens held of each before it; 0 for a prefill.
        steps: measured.
        step_s: of undisturbed steps (``measure.knee``).
        flops, bytes_moved: of the step, over all ranks.
        mfu, mbu: parts of the measured peaks.
    """

    phase: Phase
    batch: int
    tokens: int
    context: int
    steps: int
    step_s: float
    flops: int
    bytes_moved: float
    mfu: float
    mbu: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes_moved

    @property
    def flop_s(self) -> float:
        """What it reached, over all ranks."""
        return self.flops / self.step_s

    @property
    def bound(self) -> Bound:
        """What limits it."""
        if max(self.mfu, self.mbu) < HALF:
            return "neither"
        return "compute-bound" if self.mfu >= self.mbu else "memory-bound"


@dataclass(frozen=True, slots=True)
class RooflineFound:
    """Both phases on one device.

    Attributes:
        model: its name.
        peaks: of one accelerator.
        tp: accelerators of the worker.
        points: prefill, then decode, by batch.
        expected: whether bytes are an expectation over experts.
        notes: what a reader must know.
    """

    model: str
    peaks: Peaks
    tp: int
    points: tuple[RooflinePoint, ...]
    expected: bool
    notes: tuple[str, ...] = ()

    def of(self, phase: Phase) -> list[RooflinePoint]:
        """The points of a phase."""
        return [point for point in self.points if point.phase == phase]

    @property
    def clocks(self) -> str:
        """What the step times of each phase with points are read from, in a sentence."""
        told = [f"of {phase} by {CLOCKS[phase]}" for phase in PHASES if self.of(phase)]
        return f"Step times {', '.join(told)}." if told else ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        points = [{**asdict(p), "bound": p.bound, "intensity": p.intensity} for p in self.points]
        return {**asdict(self), "peaks": self.peaks.to_dict(), "clocks": dict(CLOCKS), "points": points}

    def __str__(self) -> str:
        rows = [("phase", "batch", "tokens", "context", "step ms", "GFLOP", "MB", "FLOP/byte", "MFU", "MBU", "bound")]
        rows += [
            (
                p.phase, f"{p.batch}", f"{p.tokens:,}", f"{p.context:,}", ms(p.step_s), f"{p.flops / 1e9:,.3g}",
                f"{p.bytes_moved / 1e6:,.4g}", f"{p.intensity:,.3g}", f"{p.mfu:.0%}", f"{p.mbu:.0%}", p.bound,
            )
            for p in self.points
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        verdicts = [phase_verdict(self, phase) for phase in PHASES if self.of(phase)]
        told = [self.clocks] if self.clocks else []
        return "\n".join([f"{self.model} on {self.peaks}", *lines, "", *told, *verdicts, *(f"! {note}" for note in self.notes)])

    __repr__ = __str__


def measure_roofline(
    lab: Lab,
    saturation: PrefillSaturation,
    *,
    batches: Sequence[int] = BATCHES,
    isl: int = 128,
    osl: int = 32,
    peaks: Peaks | None = None,
    seed: int = 0,
) -> RooflineFound:
    """Put the steps of a prefill sweep, and of decodes measured here, on the roofline of the worker's device; the run keeps it.

    Args:
        lab: with the worker that was swept.
        saturation: its prefill steps.
        batches: requests that decode together.
        isl, osl: of them: the context at which decode is measured.
        peaks: of the device; measured by default, while nothing else runs: before and after the decodes, the better of both.
        seed: of the prompts.

    Raises:
        SpecError: an endpoint whose model and device are not known, a model without formulas, or an answer too short.
        LabError: a load cannot be run, or the benchmark.
    """
    there = lab.deployment
    if not isinstance(there, Deployment) or there.model.architecture is None:
        raise SpecError(
            f"the shape of {there.model.name} is not known", remedy="launch a model whose config.json labkit can read"
        )
    if osl < 8 or min(batches, default=0) < 1:
        raise SpecError(f"{osl} tokens of {list(batches)} requests show no decode steps", remedy="use osl=32 and batches from 1")
    first = _peaks(lab, there) if peaks is None else peaks
    tp, most = there.workers[0].spec.tp, there.options.max_num_seqs
    fitting = [batch for batch in sorted(set(batches)) if most is None or batch <= most]
    lacking = [] if len(fitting) == len(set(batches)) else [f"decodes of more than max_num_seqs = {most} requests left out"]
    found, windows = [], []
    for number, batch in enumerate(fitting):
        load = Workload(isl=isl, osl=osl, concurrency=batch, requests=batch, seed=seed + number)
        one = lab.measure(load, side=f"decode × {batch}")
        windows.append(one.window)
        steps = decode_steps(lab.run.digest(), one.window.measurement)
        if steps is None or steps.batch != batch:
            lacking.append(f"no steps of {batch} decoding requests were seen")
        else:
            found.append(steps)
    a = there.model.architecture
    if peaks is None:  # again, some time later: what disturbed the one may have left the other alone
        peaks = best_of(first, _peaks(lab, there))
    points = (*prefill_points(saturation, a, peaks, tp), *decode_points(found, a, peaks, tp))
    notes = (*lacking, *_notes(a, peaks), *faster_than_peak(a, points), *machine_warnings(lab.run, windows))
    roofline = RooflineFound(there.model.name, peaks, tp, points, a.is_moe, notes)
    lab.run.update(**{KEY: roofline.to_dict()})
    return roofline


def _peaks(lab: Lab, there: Deployment) -> Peaks:
    if isinstance(there.node, Cluster):
        raise HardwareError(
            "a device's peaks are measured on the lab's own machine, and these workers are on the nodes of a cluster",
            remedy="run the lab on such a node, without nodes",
        )
    lab.progress("measuring what the device does at most: matrix product and copy")
    peaks = measure_peaks(engine_python(), there.workers[0].spec.devices, there.model.dtype or _USUAL_DTYPE)
    lab.progress(f"  {peaks}")
    return peaks


def prefill_points(saturation: PrefillSaturation, a: Architecture, peaks: Peaks, tp: int) -> list[RooflinePoint]:
    """Every batch of a sweep, by tokens."""
    found = [
        _point("prefill", Step.prefill([isl] * p.prompts), p.prompts, 0, p.steps, p.step_s.estimate, a, peaks, tp)
        for isl, knee in saturation.knees.items()
        for p in knee.points
    ]
    return sorted(found, key=lambda point: point.tokens)


def decode_points(steps: Sequence[DecodeSteps], a: Architecture, peaks: Peaks, tp: int) -> list[RooflinePoint]:
    """Every batch of decodes."""
    return [
        _point(
            "decode", Step.decode([round(one.context)] * one.batch), one.batch, round(one.context),
            len(one.step_s) // one.batch, float(np.percentile(one.step_s, UNDISTURBED)), a, peaks, tp,
        )
        for one in steps
    ]  # fmt: skip


def phase_verdict(found: RooflineFound, phase: Phase) -> str:
    """What limits a phase at which batches, and why."""
    said = []
    for bound, group in groupby(found.of(phase), key=lambda point: point.bound):
        points = list(group)
        sizes = sorted({point.tokens if phase == "prefill" else point.batch for point in points})
        what = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        said.append(
            f"{bound} at {what} {'tokens' if phase == 'prefill' else 'requests'} a step, because {_because(found, points)}"
        )
    return f"{phase.capitalize()} is " + "; ".join(said) + "."


def _because(found: RooflineFound, points: Sequence[RooflinePoint]) -> str:
    mfus, mbus = _range([p.mfu for p in points]), _range([p.mbu for p in points])
    match points[0].bound:
        case "compute-bound":
            return f"it reaches {mfus} of the device's {flops_text(found.peaks.flop_s)} and moves {mbus} of what a copy does"
        case "memory-bound":
            return f"it moves {mbus} of the device's {found.peaks.copy_bytes_s / 1e9:,.1f} GB/s and reaches {mfus} of its FLOP/s"
        case "neither":
            last = points[-1]
            needs_s = max(last.mfu, last.mbu) * last.step_s
            first = points[0]
            times, longer = last.tokens / first.tokens, last.step_s / first.step_s
            grown = f", and {times:.3g} times the tokens take {longer:.2g} times as long" if len(points) > 1 else ""
            return (
                f"it reaches {mfus} of the FLOP/s and {mbus} of the bandwidth: of {ms(last.step_s)} ms arithmetic or memory "
                f"explain {ms(needs_s)} ms, the rest is overhead or kernels that do badly at this size{grown}"
            )


def _range(parts: Sequence[float]) -> str:
    low, high = f"{min(parts):.0%}", f"{max(parts):.0%}"
    return low if low == high else f"{low} to {high}"


def _point(
    phase: Phase, step: Step, batch: int, context: int, steps: int, step_s: float, a: Architecture, peaks: Peaks, tp: int
) -> RooflinePoint:
    size = peaks.dtype_bytes
    return RooflinePoint(
        phase=phase, batch=batch, tokens=step.tokens, context=context, steps=steps, step_s=step_s,
        flops=step_flops(a, step).total,
        bytes_moved=step_bytes(a, step, size, size).total,
        mfu=mfu(a, step, step_s, peak_flop_s=peaks.flop_s, tp=tp),
        mbu=mbu(a, step, step_s, copy_bytes_s=peaks.copy_bytes_s, tp=tp, dtype_bytes=size, kv_dtype_bytes=size),
    )  # fmt: skip


def faster_than_peak(a: Architecture, points: Sequence[RooflinePoint]) -> list[str]:
    """Steps that beat the peak by more than a benchmark and a percentile scatter."""
    most = max((point.mfu if a.quantisation == "none" else 0.0 for point in points), default=0.0)
    moved = max((point.mbu for point in points), default=0.0)
    said = [f"{part:.0%} of its {what}" for part, what in ((most, "FLOP/s"), (moved, "bandwidth")) if part > _SCATTER]
    if not said:
        return []
    return [
        f"steps reached {' and '.join(said)}: no step beats a peak, so every MFU and MBU here is too high. The benchmark of the "
        "device was disturbed, or the engine's kernels are better than those that it tries. Repeat it on a quiet machine"
    ]


def _notes(a: Architecture, peaks: Peaks) -> list[str]:
    notes = []
    if a.is_moe:
        notes.append("bytes are an expectation: experts that a batch touches, were they picked evenly")
    if a.quantisation != "none":
        notes.append(f"weights are {a.quantisation}, the peak is of products in {peaks.dtype}: MFU may pass 100 %")
    return notes
