"""Which gaps between tokens saw a prefill: gaps and prefills of a window on one time axis, worker by worker.

From request spans the worker of every request and the interval of its prefill are known (``measure.join``). Without them a
prefill is *inferred* to last from the send to the first token, from the first token before it where one worker prefills one
request after the other; where more than one worker serves nothing then tells whose prefill it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import numpy as np
import pyarrow.compute as pc

from labkit.errors import SpecError
from labkit.measure.digest import Digest
from labkit.measure.join import join_spans
from labkit.measure.metrics import of_measurement
from labkit.measure.records import Records, Window
from labkit.measure.timing import (
    Bools,
    ChunkGaps,
    Floats,
    Ints,
    RequestMetrics,
    TokenChunks,
    chunk_gaps,
    floats,
    ints,
    request_metrics,
    token_chunks,
)
from labkit.spec.topology import Role, Topology

Source = Literal["spans", "inferred"]
#: Prefills on the gap's own worker, or anywhere in the deployment.
Scope = Literal["worker", "deployment"]

_UNKNOWN: Final = -1
_TOO_MANY: Final = "left out: the run has too many gaps to look at each"
#: Fewer spans than this share of the requests leave too many prefills out.
_MOST_OF_THEM: Final = 0.9
#: Batches are equal when they are the same, above 16 when they are the same to an eighth.
_BATCHES_PER_OCTAVE: Final = 8
#: Chunks of one step reach the client within this share of a gap of each other.
_JITTER: Final = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """Gaps and the prefills that may have lengthened them: those of one worker, or of a whole deployment.

    Times are seconds since the measure phase began, by the client's clock: prefills end when the client sees their first token.

    Attributes:
        window: the measurement's number among those that are pooled.
        length_s: of the measure phase.
        middle_s: of every gap inside it, ascending.
        gap_s: its length.
        stratum: equal for gaps on the same worker at equal decode-batch size.
        prefills: ``(n, 2)``, start and end of what counts as prefill.
        tokens: of each prefill's prompt; NaN where unknown. Neither spans nor streams tell how many of them came from a prefix
            cache: with one, these are what was asked for, not what was computed.
        waiting: ``(n, 2)``, where a prefill was scheduled and perhaps not yet computed: counts on neither side.
    """

    window: int
    length_s: float
    middle_s: Floats
    gap_s: Floats
    stratum: Ints
    prefills: Floats
    tokens: Floats
    waiting: Floats


class Exposures(NamedTuple):
    """What one window says: per scope its exposures, or none and why."""

    worker: tuple[Exposure, ...]
    worker_reason: str
    deployment: tuple[Exposure, ...]
    deployment_reason: str
    source: Source


class Scoped(NamedTuple):
    """Exposures of a side's windows at one scope; ``reason`` says why there are none."""

    found: tuple[Exposure, ...]
    reason: str
    source: Source


class _Placed(NamedTuple):
    """Who served, and when prefills ran: ``worker`` per request row, the others per prefill; -1 is unknown."""

    source: Source
    worker: Ints
    prefiller: Ints
    start_s: Floats
    end_s: Floats
    tokens: Floats


class _Gaps(NamedTuple):
    """Gaps inside the measure phase of requests that ended as asked, by their middle, with worker and decode-batch size."""

    worker: Ints
    start_s: Floats
    end_s: Floats
    batch: Ints


def exposures(records: Records | Digest, window: Window, number: int = 0) -> Exposures:
    """Gaps and prefills of a window, per worker and for the whole deployment.

    Args:
        records: of the run.
        window: the measurement.
        number: for ``Exposure.window``.
    """
    if isinstance(records, Digest) and records.chunks is None:
        return Exposures((), _TOO_MANY, (), _TOO_MANY, "inferred")
    mine = of_measurement(records, window)
    chunks = token_chunks(mine)
    requests, gaps = request_metrics(mine, chunks), chunk_gaps(mine, chunks)
    found, missing = _from_spans(mine, requests, window)
    placed = found if found is not None else _inferred(requests, chunks, window)
    inside = _gaps(gaps, requests, placed, window)
    if not len(inside.worker):
        nothing = "no gap between tokens lies inside the window"
        return Exposures((), nothing, (), nothing, placed.source)
    trimmed = _trim(inside, placed)
    everywhere = _exposure(inside, np.ones(len(inside.worker), np.bool_), trimmed, window, number)
    prefilling = np.intersect1d(inside.worker, placed.prefiller)
    reason = _why_no_worker(window, prefilling, missing)
    workers = () if reason else tuple(
        _exposure(inside, inside.worker == worker, [part for part in trimmed if part.worker == worker], window, number)
        for worker in prefilling
    )  # fmt: skip
    return Exposures(workers, reason, (everywhere,), "", placed.source)


def scoped(measured: Sequence[tuple[Records | Digest, Window]]) -> dict[Scope, Scoped]:
    """Exposures of several windows by scope, each with the records of its run; the least that is known of one holds for all."""
    found = [exposures(records, window, number) for number, (records, window) in enumerate(measured)]
    source: Source = "spans" if all(one.source == "spans" for one in found) else "inferred"
    worker = tuple(exposure for one in found for exposure in one.worker)
    deployment = tuple(exposure for one in found for exposure in one.deployment)
    why, why_anywhere = next(((one.worker_reason, one.deployment_reason) for one in found), ("nothing was measured",) * 2)
    return {"worker": Scoped(worker, why, source), "deployment": Scoped(deployment, why_anywhere, source)}


def _why_no_worker(window: Window, prefilling: Ints, missing: str) -> str:
    topology = _topology(window)
    if topology is not None and topology.is_disaggregated:
        return "dedicated decode workers never prefill"
    if missing and (topology is None or len(topology.workers) > 1):
        return f"{missing}: which worker served a request is not known"
    return "" if len(prefilling) else "no worker that decodes prefills"


def _topology(window: Window) -> Topology | None:
    try:
        return Topology(window.topology)
    except SpecError:
        return None


def _from_spans(mine: Records | Digest, requests: RequestMetrics, window: Window) -> tuple[_Placed | None, str]:
    """Workers and prefills as the engine tells them, in the client's clock; or none and why."""
    answered = np.isfinite(requests.first_token_ns)
    arrived = mine.spans.column("start_ns")
    during = pc.and_(pc.greater_equal(arrived, window.start_ns - 1_000_000_000), pc.less_equal(arrived, window.end_ns))
    joined = join_spans(replace(mine, spans=mine.spans.filter(during)))
    if not joined.num_rows:
        return None, "no request spans"
    order = np.argsort(requests.request, kind="stable")
    row = order[np.searchsorted(requests.request, ints(joined, "request"), sorter=order)]
    part = np.asarray(joined.column("part").to_pylist())
    worker = np.unique(np.asarray(joined.column("worker").to_pylist()), return_inverse=True)[1].astype(np.int64)
    start, end = floats(joined, "prefill_start_ns"), floats(joined, "prefill_end_ns")
    topology = _topology(window)
    # Where two workers share a request, a span without its partner tells nothing.
    alone = "" if topology is not None and topology.is_disaggregated else "whole"
    decoded = (part == "decode") | (part == alone)
    prefilled = ((part == "prefill") | (part == alone)) & np.isfinite(start)
    serving = np.full(len(requests), _UNKNOWN, np.int64)
    serving[row[decoded]] = worker[decoded]
    known = serving != _UNKNOWN
    known[np.setdiff1d(np.arange(len(requests)), row[prefilled])] = False
    if (known & answered).sum() < _MOST_OF_THEM * answered.sum():
        return None, f"spans tell worker and prefill of {int((known & answered).sum())} of {int(answered.sum())} requests"
    late = (requests.first_token_ns[row] - end)[prefilled & (part == "whole")]
    lag = float(np.nanmedian(late)) if np.isfinite(late).any() else 0.0
    seconds = (np.stack([start, end])[:, prefilled] + lag - window.measure_ns) / 1e9
    told = floats(joined, "prompt_tokens")
    tokens = np.where(np.isfinite(told), told, requests.prompt_tokens[row])[prefilled]
    return _Placed("spans", serving, worker[prefilled], seconds[0], seconds[1], tokens), ""


def _inferred(requests: RequestMetrics, chunks: TokenChunks, window: Window) -> _Placed:
    """Prefills from what the client saw; those of one worker where the topology has one.

    A single worker that prefills begins after the first token before. If it decodes too it begins with a step: at the end of the
    one in which the request came, when others get a token.
    """
    topology = _topology(window)
    one = topology is not None and len(topology.workers) == 1
    sent = requests.first_token_ns - requests.ttft_s * 1e9
    rows = np.flatnonzero(np.isfinite(sent))
    rows = rows[np.argsort(requests.first_token_ns[rows], kind="stable")]
    start, end = sent[rows], requests.first_token_ns[rows]
    if one:
        instants = np.append(np.sort(chunks.t_ns), np.iinfo(np.int64).max).astype(np.float64)
        following = instants[np.searchsorted(instants, start, "right")]
        start = np.where(following < end, following, start)
    if topology is not None and topology.count(Role.AGGREGATED) + topology.count(Role.PREFILL) == 1:
        start[1:] = np.maximum(start[1:], end[:-1])
    prefiller = np.full(len(rows), 0 if one else _UNKNOWN, np.int64)
    seconds = (np.stack([start, end]) - window.measure_ns) / 1e9
    serving = np.zeros(len(requests), np.int64)
    return _Placed("inferred", serving, prefiller, seconds[0], seconds[1], requests.prompt_tokens[rows])


def _gaps(gaps: ChunkGaps, requests: RequestMetrics, placed: _Placed, window: Window) -> _Gaps:
    inside = gaps.measured & gaps.ok & (gaps.start_ns >= window.measure_ns) & (gaps.end_ns < window.stop_ns)
    inside &= placed.worker[gaps.row] != _UNKNOWN
    start = (gaps.start_ns[inside] - window.measure_ns) / 1e9
    end = (gaps.end_ns[inside] - window.measure_ns) / 1e9
    order = np.argsort(start + end, kind="stable")
    start, end, worker = start[order], end[order], placed.worker[gaps.row[inside]][order]
    batch = np.zeros(len(start), np.int64)
    first, last = ((ns - window.measure_ns) / 1e9 for ns in (requests.first_token_ns, requests.last_token_ns))
    for number in np.unique(worker):
        here, served = worker == number, (placed.worker == number) & np.isfinite(first)
        middle = (start[here] + end[here]) / 2
        began, ended = (np.searchsorted(np.sort(at[served]), middle, "right") for at in (first, last))
        batch[here] = began - ended
    return _Gaps(worker, start, end, batch)


class _Trimmed(NamedTuple):
    worker: int
    prefills: Floats
    tokens: Floats
    waiting: Floats


def _trim(gaps: _Gaps, placed: _Placed) -> list[_Trimmed]:
    """Prefills per worker, less a beginning that may be no prefill yet.

    An engine that schedules a step ahead (vLLM on a GPU) says that a prefill begins while the step before it is computed. One
    that does not shows prefills of one step, without others' tokens in between. So where nearly every prefill has tokens in
    between, as much as a typical gap is cut off its beginning: a length that depends on no single gap prefers no long ones.
    """
    found = []
    for worker in np.unique(placed.prefiller):
        mine = placed.prefiller == worker
        start, end = placed.start_s[mine], placed.end_s[mine]
        here = gaps.worker == worker
        ahead = _ahead(start, end, gaps.start_s[here], gaps.end_s[here]) if here.any() else 0.0
        begin = np.minimum(end, start + ahead)
        computed, before = np.stack([begin, end], axis=1), np.stack([start, begin], axis=1)
        found.append(_Trimmed(int(worker), computed, placed.tokens[mine], before))
    return found


def _ahead(start: Floats, end: Floats, gap_start: Floats, gap_end: Floats) -> float:
    """A typical gap in seconds where prefills begin a step early, else 0; 0 too where no steps are seen."""
    typical = float(np.median(gap_end - gap_start))
    ends, slack = np.sort(gap_end), _JITTER * typical
    apart = np.diff(ends)
    steps = apart[apart >= typical / 2].sum() >= apart.sum() / 2
    middle = (gap_start + gap_end) / 2
    seen = np.searchsorted(middle, end) > np.searchsorted(middle, start)
    between = np.searchsorted(ends, end - slack) > np.searchsorted(ends, start + slack)
    return typical if steps and seen.any() and between[seen].mean() >= _MOST_OF_THEM else 0.0


def _exposure(gaps: _Gaps, which: Bools, trimmed: list[_Trimmed], window: Window, number: int) -> Exposure:
    above = np.maximum(np.floor(np.log2(np.maximum(gaps.batch, 1))) - np.log2(_BATCHES_PER_OCTAVE), 0)
    width = np.exp2(above).astype(np.int64)
    equal = gaps.batch // width * width
    _, stratum = np.unique(np.stack([gaps.worker, equal])[:, which], axis=1, return_inverse=True)
    return Exposure(
        window=number,
        length_s=window.length_s,
        middle_s=((gaps.start_s + gaps.end_s) / 2)[which],
        gap_s=(gaps.end_s - gaps.start_s)[which],
        stratum=stratum.reshape(-1).astype(np.int64),
        prefills=np.concatenate([part.prefills for part in trimmed]),
        tokens=np.concatenate([part.tokens for part in trimmed]),
        waiting=np.concatenate([part.waiting for part in trimmed]),
    )
