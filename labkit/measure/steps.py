"""The steps that an engine ran, known from its request spans: which prompts were prefilled together, and how long that took.

vLLM's span of a request says when the scheduler took it up and when its first token was there, both by the engine's own clock:
``time_in_model_prefill``. Prompts that were taken up together and got their first token together were one step, and that time is
the step's. So the batch of a step is *known*; how many requests a client had in flight says little of it: of k prompts that
are sent at one instant to an idle engine, the first becomes a step of its own, and the others meet in the next.

An engine that schedules a step while the one before still runs (vLLM's asynchronous scheduling) counts the wait into the time
in prefill. A step therefore begins no earlier than the one before has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from labkit.measure.digest import Digest
from labkit.measure.join import join_spans
from labkit.measure.timing import Floats, chunk_gaps, request_metrics

#: First tokens less than this part of a step apart are of one step.
_TOGETHER: Final = 0.25
#: Of the members' times in prefill: more spread than this, and a prompt was cut into chunks or taken up in another step.
_ALIKE: Final = 0.10
#: An overlap with the step before that is more than the scatter of the clocks.
_OVERLAP: Final = 0.05
_LEAST_OVERLAP_NS: Final = 3_000_000


@dataclass(frozen=True, slots=True)
class PrefillStep:
    """Whole prompts that one worker prefilled in one step.

    Attributes:
        worker: which.
        prompts, tokens: that it computed.
        start_ns, step_s: when it began, and how long it took.
        ttft_s: of each prompt, as its client saw it, but without the wait in front of the step.
        whole: whether its prompts began and ended together: no chunk of a longer prompt among them.
    """

    worker: str
    prompts: int
    tokens: int
    start_ns: int
    step_s: float
    ttft_s: tuple[float, ...]
    whole: bool


def prefill_steps(records: Digest) -> dict[int, list[PrefillStep]]:
    """The steps of each measurement in order of time; requests that failed, or without a span, are left out.

    It holds for answers of one token: where requests decode, steps are shared with decodes that no span tells of.
    """
    metrics = request_metrics(records)
    ttft_s = dict(zip(metrics.request.tolist(), metrics.ttft_s.tolist(), strict=True))
    known = set(metrics.request[metrics.ok & np.isfinite(metrics.ttft_s)].tolist())
    lanes: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in join_spans(records).to_pylist():
        if row["request"] in known and row["prefill_end_ns"] is not None and row["prompt_tokens"] and row["part"] != "decode":
            lanes.setdefault((row["measurement"], row["worker"]), []).append(row)
    found: dict[int, list[PrefillStep]] = {}
    for (measurement, _), rows in lanes.items():
        found.setdefault(measurement, []).extend(_steps(rows, ttft_s))
    return {measurement: sorted(steps, key=lambda step: step.start_ns) for measurement, steps in found.items()}


def _steps(rows: Iterable[dict[str, Any]], ttft_s: Mapping[int, float]) -> Iterable[PrefillStep]:
    before_ns = 0
    for members in _grouped(sorted(rows, key=lambda row: int(row["prefill_end_ns"]))):
        times = [row["prefill_s"] for row in members]
        end_ns = max(row["prefill_end_ns"] for row in members)
        start_ns = end_ns - round(float(np.median(times)) * 1e9)
        overlap = before_ns - start_ns
        if overlap > max(_OVERLAP * (end_ns - start_ns), _LEAST_OVERLAP_NS):
            start_ns = before_ns
        yield PrefillStep(
            worker=members[0]["worker"],
            prompts=len(members),
            tokens=sum(row["prompt_tokens"] for row in members),
            start_ns=start_ns,
            step_s=(end_ns - start_ns) / 1e9,
            ttft_s=tuple(ttft_s[row["request"]] - max(start_ns - row["start_ns"], 0) / 1e9 for row in members),
            whole=max(times) - min(times) <= _ALIKE * max(times),
        )
        before_ns = end_ns


def _grouped(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows whose first tokens came together."""
    groups: list[list[dict[str, Any]]] = []
    for row in rows:
        apart_s = (row["prefill_end_ns"] - groups[-1][-1]["prefill_end_ns"]) / 1e9 if groups else np.inf
        if apart_s <= _TOGETHER * row["prefill_s"]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


@dataclass(frozen=True, slots=True, eq=False)
class DecodeSteps:
    """Steps in which one worker decoded a batch and prefilled nothing.

    Attributes:
        batch: requests that decoded.
        context: tokens that the KV cache held of each, on average.
        step_s: from one step to the next, as the gaps between the tokens of a stream show: what the engine and its server
            take between two tokens is in it.
    """

    batch: int
    context: float
    step_s: Floats


def decode_steps(records: Digest, measurement: int) -> DecodeSteps | None:
    """The steps of a measurement that sent its requests at one time, one wave of them, between the last one's first token and the
    first one's last; ``None`` where there are fewer than two, or chunks that do not hold one token each.
    """
    metrics = request_metrics(records)
    mine = metrics.select(metrics.ok & (metrics.measurement == measurement) & np.isfinite(metrics.last_token_ns))
    gaps = chunk_gaps(records)
    gaps = gaps.select(np.isin(gaps.request, mine.request))
    if not len(mine) or not len(gaps):
        return None
    begin, end = mine.first_token_ns.max(), mine.last_token_ns.min()
    within = (gaps.start_ns >= begin) & (gaps.end_ns <= end)
    if (gaps.tokens != 1).any() or int(within.sum()) < 2 * len(mine):
        return None
    before = [float(np.sum(gaps.start_ns[gaps.request == one] < begin)) for one in mine.request.tolist()]
    held = mine.prompt_tokens + 1 + np.array(before) + within.sum() / len(mine) / 2
    return DecodeSteps(len(mine), float(np.mean(held)), np.asarray(gaps.gap_s[within], dtype=np.float64))
