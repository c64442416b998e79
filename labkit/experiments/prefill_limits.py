"""Set a knee as the prefill workers' engine flags, and show what it does to the time to first token.

A worker that takes up whatever waits, up to the engine's own limit, makes every prompt of a step wait for the whole step. Beyond
the knee a larger step is no faster per token, so that the same prompts in steps of the knee's size are done no later in the end,
and the first of them sooner: of B prompts that come together, the mean wait falls from B to (B + k) / 2 prompts' worth of time
with steps of k. It shows under an open load whose requests meet, not in a closed loop, where the mean TTFT is the number in
flight over the throughput, whatever the batch (Little's law). So both sides get bursts, the same ones.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from labkit.errors import SpecError
from labkit.experiments.compare import Comparison, compare
from labkit.experiments.knee_text import ms
from labkit.experiments.prefill_saturation import PrefillSaturation
from labkit.lab.lab import Lab
from labkit.measure.statistics import Interval
from labkit.serve.deployment import Deployment, Resplit
from labkit.serve.engines.base import EngineOptions, StepLimits
from labkit.spec import Workload

#: What the manifest keeps the finding under.
KEY: Final = "prefill_limits"
#: Requests that one step may hold where the engine's own limit is not known to be as low.
_FEW_SEQS: Final = 1024
_BURST: Final = 8
_BURST_S: Final = 0.1
_BUSY: Final = 0.6  # share of the time that the bursts keep a prefill worker busy
_WIDTH: Final = 96
BEFORE, AFTER = "as it was", "at the knee"


@dataclass(frozen=True, slots=True)
class LimitsTried:
    """Time to first token before and after.

    Attributes:
        isl: the prompt length whose knee was set.
        before, after: options of the workers.
        comparison: the side after over the side before, under the same bursts.
        restarts_s: seconds that each change took that restarted workers.
        done: what the last change did, with its proof.
    """

    isl: int
    before: EngineOptions
    after: EngineOptions
    comparison: Comparison
    restarts_s: tuple[float, ...]
    done: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        kept = {"isl": self.isl, "before": asdict(self.before), "after": asdict(self.after), "restarts_s": self.restarts_s}
        return {**kept, "comparison": self.comparison.to_dict(), "verdict": self.verdict}

    @property
    def measured_with(self) -> str:
        """The flags of the side after, and which workers had them."""
        if self.after.prefill is not None:
            return f"{flags(self.after.prefill)} on the prefill workers"
        return f"{flags(self.after)} on every worker"

    @property
    def verdict(self) -> str:
        """What the limits did, in a sentence."""
        p50, p95 = self.comparison.row("ttft_p50_s"), self.comparison.row("ttft_p95_s")
        if p50.ratio is None or p50.a is None or p50.b is None:
            return f"No TTFT to compare: {p50.reason}."
        change = _change(p50.ratio)
        worse = f" p95 {ms(p95.a)} → {ms(p95.b)} ms ({_change(p95.ratio)})." if p95.ratio and p95.a and p95.b else ""
        keep = {True: "Keep it.", False: "Do not keep it.", None: "It makes no difference that these repeats show."}
        better = None if not p50.ratio.shows_difference else p50.ratio.estimate < 1
        under = f"under bursts of ISL {self.isl}, with {self.measured_with}"
        return f"TTFT p50 {ms(p50.a)} → {ms(p50.b)} ms {under} ({change}).{worse} {keep[better]}"

    def __str__(self) -> str:
        c = self.comparison
        lines = [
            f"before: {self.before}",
            f"after:  {self.after}",
            f"{c.repeats} repeats in turn, {c.requests} requests, {c.failed[0]} and {c.failed[1]} failed"
            f"{f', {c.cancelled[0]} and {c.cancelled[1]} cancelled' if any(c.cancelled) else ''}; "
            f"{len(self.restarts_s)} changes restarted what they must, the slowest in {max(self.restarts_s, default=0.0):.1f} s",
            self.verdict,
            *(f"! {side}: {mark.text}" for side, marks in c.marks.items() for mark in marks if mark.severity == "warning"),
        ]
        return "\n".join(textwrap.fill(line, _WIDTH, break_on_hyphens=False) for line in lines)

    __repr__ = __str__


def prefill_limits(saturation: PrefillSaturation, isl: int | None = None) -> StepLimits:
    """The limits that make a worker's steps as large as the knee, and no larger.

    Args:
        saturation: what was found.
        isl: the prompt length to set for, by default the longest with a knee; longer prompts are then prefilled in chunks.

    Raises:
        SpecError: that length was not swept, or its knee is not in the range.
    """
    knee = saturation.knee(isl)
    if knee.prompts is None:
        raise SpecError(
            f"prompts of {knee.isl} tokens saturate nothing in the range that was swept",
            remedy="sweep larger batches (most_tokens)",
        )
    return StepLimits(max_num_batched_tokens=max(knee.prompts * knee.isl, knee.prompts), max_num_seqs=knee.prompts)


def flags(limits: StepLimits | EngineOptions) -> str:
    """The engine's flags for limits of a step; what is left to the engine is said."""
    tokens, seqs = limits.max_num_batched_tokens, limits.max_num_seqs
    said = f"--max-num-batched-tokens {tokens}" if tokens else "the engine's own limit on tokens"
    return f"{said} --max-num-seqs {seqs}" if seqs else f"{said} and the engine's own limit on requests"


def with_prefill_limits(options: EngineOptions, limits: StepLimits, *, disaggregated: bool) -> EngineOptions:
    """The options with these limits where they belong: on prefill workers alone. Where every worker decodes too, on all of them,
    but without the limit on requests, which would cap the decode batch (but no engine takes more requests than tokens a step).
    """
    if disaggregated:
        return replace(options, prefill=limits)
    tokens = limits.max_num_batched_tokens or 0
    seqs = options.max_num_seqs or (tokens if tokens < _FEW_SEQS else None)
    return replace(options, max_num_batched_tokens=tokens, max_num_seqs=min(seqs, tokens) if seqs else None)


def set_prefill_limits(
    lab: Lab, saturation: PrefillSaturation, *, isl: int | None = None, options: EngineOptions | None = None
) -> Resplit:
    """Restart the lab's prefill workers with the knee as their limits; of an aggregated split, every worker.

    Args:
        lab: of the same model and devices as was swept; what runs on goes on, and the result tells what was done.
        saturation: what was found.
        isl: the prompt length to set for; by default the longest with a knee.
        options: that the limits are put on; those of the lab's workers by default.

    Raises:
        SpecError: no knee for that length, or an endpoint that somebody else runs.
        LabError: the change cannot be carried out.
    """
    there = _own(lab)
    limits = prefill_limits(saturation, isl)
    wanted = with_prefill_limits(options or there.options, limits, disaggregated=there.topology.is_disaggregated)
    return lab.change(options=wanted)


def try_prefill_limits(
    lab: Lab,
    saturation: PrefillSaturation,
    *,
    isl: int | None = None,
    before: EngineOptions | None = None,
    workload: Workload | None = None,
    bursts: int = 12,
    repeats: int = 3,
    seed: int = 0,
) -> LimitsTried:
    """Measure TTFT before and after the limits are set, in turn (A B A B …), and leave them set; the run keeps the answer.

    Args:
        lab: as for ``set_prefill_limits``.
        saturation: what was found.
        isl: the prompt length to set for, and that the bursts have; by default the longest with a knee.
        before: options to compare with; by default those of the workers, but with the engine's own limits of a step.
        workload: an open load, with its own seed; bursts of eight prompts or more by default.
        bursts: how many of them a measurement has.
        repeats: measurements of each side.
        seed: of the bursts.

    Raises:
        SpecError: a closed loop, which cannot show it, or as for ``set_prefill_limits``.
        LabError: a change or a load cannot be carried out.
    """
    there = _own(lab)
    isl = saturation.knee(isl).isl
    work = workload or _bursts(saturation, isl, bursts, seed, len(there.topology.workers))
    if not work.is_open_loop:
        raise SpecError(
            "a closed loop cannot show what smaller steps do to TTFT: its mean is the number in flight over the throughput",
            remedy="give an open load: rate=…, or arrivals='burst:80@0.1/1'",
        )
    before = before or replace(there.options, max_num_batched_tokens=None, max_num_seqs=None, prefill=None)
    after = with_prefill_limits(before, prefill_limits(saturation, isl), disaggregated=there.topology.is_disaggregated)
    took: list[float] = []
    done = ""
    for repeat in range(repeats):
        for side, options in ((BEFORE, before), (AFTER, after)):
            change = lab.change(options=options, in_place=True)  # else the sides would run on different devices
            took += [change.proven_s] if change.plan.starts else []
            done = str(change)
            lab.measure(work.with_seed(work.seed + repeat), side=side, repeat=repeat)
    comparison = compare(lab.run.digest(), BEFORE, AFTER, slo=lab.slo, manifest=lab.run.manifest, seed=seed)
    tried = LimitsTried(isl, before, after, comparison, tuple(took), done)
    lab.run.update(**{KEY: tried.to_dict()})
    return tried


def _bursts(saturation: PrefillSaturation, isl: int, bursts: int, seed: int, workers: int) -> Workload:
    """Prompts that come together, and time enough to answer them before the next come."""
    knee = saturation.knee(isl)
    together = max(_BURST, 4 * (knee.prompts or 1))
    plateau = knee.plateau_tok_s.estimate if knee.plateau_tok_s else max(p.tok_s.estimate for p in knee.points)
    period_s = max(round(together * isl / plateau / _BUSY, 2), 3 * _BURST_S)
    arrivals = f"burst:{together / _BURST_S:g}@{_BURST_S:g}/{period_s:g}"
    return Workload(isl=isl, osl=1 if workers == 1 else 4, arrivals=arrivals, duration_s=round(bursts * period_s, 2), seed=seed)


def _own(lab: Lab) -> Deployment:
    if not isinstance(lab.deployment, Deployment):
        raise SpecError(
            "somebody else runs this endpoint: its flags cannot be set", remedy="launch workers with Lab(model, topology)"
        )
    return lab.deployment


def _change(ratio: Interval) -> str:
    low, high = sorted((ratio.low - 1, ratio.high - 1))
    return f"{ratio.estimate - 1:+.0%} [{low:+.0%}, {high:+.0%}]"
