"""Everything about one request, for a waterfall: where it waited, who prefilled and decoded it, each token, each stall, and whose
prefills ran on the same worker meanwhile.

Tokens are the client's raw events; what happened inside the engine is from the workers' spans, laid on the client's clock as
``measure.join`` says. Both are in the run while it is still open: chunks within a second, the request's row when it has
ended, spans about a second later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labkit.errors import SpecError
from labkit.live.window import LiveWindow, Slow
from labkit.measure.chunks import RequestRows, sort_out
from labkit.measure.columns import Floats, Ints
from labkit.measure.join import join_spans
from labkit.measure.metrics import STALL_S
from labkit.measure.records import CHUNKS, Records
from labkit.measure.timing import request_metrics
from labkit.store.run import Run

#: ``handover``: from the end of the prefill to the decode worker's first step: router, KV transfer and waiting there, which no
#: engine tells apart for a single request. ``answer``: from the send to the first token where the engine tells nothing.
StageKind = Literal["send_lag", "queue", "prefill", "handover", "decode", "answer"]

#: A prefill that still ran when the request came had arrived so much earlier at most.
_BEFORE_NS: Final = 120_000_000_000
_LATE_NS: Final = 5_000_000_000
_UNDER_WAY: Final = "the engine tells of a request when it has ended"
_NO_SPANS: Final = "the workers sent no span of this request; they come a second after its end, if the engine sends any"


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a request's life; ``worker`` is empty where it is the client's or nobody's."""

    kind: StageKind
    worker: str
    start_ns: int
    end_ns: int

    @property
    def duration_s(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Prefill:
    """A prefill of another request."""

    request: int
    worker: str
    start_ns: int
    end_ns: int
    prompt_tokens: int | None


@dataclass(frozen=True, slots=True)
class Stall:
    """A gap between two tokens that a reader notices (``measure.metrics.STALL_S``), with the prefills that it overlaps."""

    start_ns: int
    end_ns: int
    prefills: tuple[Prefill, ...] = ()

    @property
    def duration_s(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True, eq=False)
class RequestStory:
    """One request. Instants are in the records' clock; ``None`` is not known.

    Attributes:
        request: its number in the run.
        outcome: how it ended; ``None`` while it is under way.
        reason: why it failed.
        measurement, index, epoch: where it belongs; ``None`` while it is under way.
        scheduled_ns, sent_ns, end_ns: as recorded.
        prompt_tokens, output_tokens: as the server counted.
        ttft_s, tpot_s, e2e_s: as ``measure.timing`` defines them.
        stages: in order of time. Those of one worker do not overlap; the workers' may lie a little off the client's, by what a
            span's clock is off.
        token_ns, tokens: arrival of each chunk with tokens, and how many it holds; -1 where the server did not say.
        stalls: in order of time.
        prefills: of other requests on this one's workers, between its arrival and its last token, in order of time.
        missing: why there are no stages of the engine; empty where there are.
    """

    request: int
    outcome: str | None
    reason: str
    measurement: int | None
    index: int | None
    epoch: int | None
    scheduled_ns: int | None
    sent_ns: int | None
    end_ns: int | None
    prompt_tokens: int | None
    output_tokens: int | None
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    stages: tuple[Stage, ...]
    token_ns: Ints
    tokens: Ints
    stalls: tuple[Stall, ...]
    prefills: tuple[Prefill, ...]
    missing: str

    @property
    def workers(self) -> tuple[str, ...]:
        """Those that it passed, in order."""
        return tuple(dict.fromkeys(stage.worker for stage in self.stages if stage.worker))

    @property
    def start_ns(self) -> int:
        """Where its waterfall begins."""
        known = [self.scheduled_ns, self.sent_ns, *(stage.start_ns for stage in self.stages)]
        begun = [at for at in known if at is not None]
        return min(begun) if begun else int(self.token_ns[0])

    @property
    def gap_s(self) -> Floats:
        """Gaps between its chunks with tokens."""
        return np.diff(self.token_ns) / 1e9


def request_story(records: Records, request: int, *, sent_ns: int | None = None) -> RequestStory:
    """What the records know of a request.

    Args:
        records: of a run, finished or still open.
        request: its number.
        sent_ns: when it was sent, of a request under way, if the caller knows.

    Raises:
        SpecError: there is neither a row nor a chunk of it.
    """
    rows = records.requests.filter(pc.equal(records.requests.column("request"), request))
    mine = records.chunks.filter(pc.equal(records.chunks.column("request"), request))
    if not rows.num_rows and not mine.num_rows:
        raise SpecError(
            f"request {request} is not in the records", remedy="take one that the run has; an event is on disk a second later"
        )
    chunks = sort_out(mine, RequestRows(np.array([request], np.int64)))
    row: dict[str, Any] = rows.to_pylist()[0] if rows.num_rows else {}
    sent_ns = row.get("sent_ns", sent_ns)
    seen = [at for at in (row.get("scheduled_ns"), sent_ns, row.get("end_ns")) if at is not None] + chunks.t_ns.tolist()
    spans = _spans(records, min(seen), max(seen)) if row and seen else []
    of_it = [span for span in spans if span["request"] == request]
    stages = _stages(row, sent_ns, of_it, chunks.t_ns)
    prefills = _meanwhile(spans, request, {span["worker"] for span in of_it}, min(seen, default=0), max(seen, default=0))
    known = request_metrics(replace(records, requests=rows, chunks=mine)) if row else None
    return RequestStory(
        request=request,
        outcome=row.get("outcome"),
        reason=row.get("reason") or "",
        measurement=row.get("measurement"),
        index=row.get("index"),
        epoch=row.get("epoch"),
        scheduled_ns=row.get("scheduled_ns"),
        sent_ns=sent_ns,
        end_ns=row.get("end_ns"),
        prompt_tokens=row.get("prompt_tokens"),
        output_tokens=row.get("output_tokens"),
        ttft_s=_one(known.ttft_s) if known is not None else None,
        tpot_s=_one(known.tpot_s) if known is not None else None,
        e2e_s=_one(known.e2e_s) if known is not None else None,
        stages=stages,
        token_ns=chunks.t_ns,
        tokens=chunks.tokens,
        stalls=_stalls(chunks.t_ns, prefills),
        prefills=prefills,
        missing="" if of_it else _NO_SPANS if row else _UNDER_WAY,
    )


def read_story(run: Run, request: int, *, sent_ns: int | None = None) -> RequestStory:
    """``request_story`` of a run on disk, which may be open: no more of its chunks is in memory than a part.

    Raises:
        SpecError: as there.
        StoreError: a file is damaged.
    """
    parts = (part.filter(pc.equal(part.column("request"), request)) for part in run.parts("chunks"))
    chunks = pa.concat_tables([CHUNKS.empty_table(), *parts])
    return request_story(replace(run.records(chunks=False), chunks=chunks), request, sent_ns=sent_ns)


def worst_of(window: LiveWindow, *, most: int = 10, since_ns: int = 0) -> tuple[Slow, ...]:
    """The worst requests of the last minute, each with what was worst about it, the worst first.

    Failures come first, then what lies furthest beyond its limit, as a ratio: the SLO's, or the window's p99 where it has none.

    Args:
        window: of a watch.
        most: how many.
        since_ns: what was seen earlier is left out.
    """
    worst: dict[int, tuple[float, Slow]] = {}
    for badness, slow in window.slow(since_ns):
        if slow.request not in worst or badness > worst[slow.request][0]:
            worst[slow.request] = badness, slow
    return tuple(slow for _, slow in sorted(worst.values(), key=lambda one: (-one[0], -one[1].t_ns))[:most])


def _spans(records: Records, start_ns: int, end_ns: int) -> list[dict[str, Any]]:
    """The spans, joined to requests, that can have to do with those instants."""
    arrived = records.spans.column("start_ns")
    near = pc.and_(pc.greater_equal(arrived, start_ns - _BEFORE_NS), pc.less_equal(arrived, end_ns))
    sent, ended = (records.requests.column(name) for name in ("sent_ns", "end_ns"))
    alive = pc.and_(
        pc.less_equal(sent, end_ns + _LATE_NS),
        pc.or_kleene(pc.is_null(ended), pc.greater_equal(ended, start_ns - _BEFORE_NS)),
    )
    few = replace(records, spans=records.spans.filter(near), requests=records.requests.filter(alive))
    found: list[dict[str, Any]] = join_spans(few).to_pylist()
    return found


def _stages(row: dict[str, Any], sent_ns: int | None, spans: list[dict[str, Any]], token_ns: Ints) -> tuple[Stage, ...]:
    stages: list[Stage] = []

    def stage(kind: StageKind, worker: str, start_ns: int | None, end_ns: int | None) -> None:
        if start_ns is not None and end_ns is not None and end_ns > start_ns:
            stages.append(Stage(kind, worker, start_ns, end_ns))

    first = int(token_ns[0]) if len(token_ns) else None
    last = int(token_ns[-1]) if len(token_ns) else None
    stage("send_lag", "", row.get("scheduled_ns"), sent_ns)
    prefill = next((span for span in spans if span["part"] in ("whole", "prefill")), None)
    decode = next((span for span in spans if span["part"] == "decode"), None)
    if prefill is not None:
        worker, begun, ended = prefill["worker"], prefill["prefill_start_ns"], prefill["prefill_end_ns"]
        stage("queue", worker, prefill["start_ns"], begun if begun is not None else first)
        stage("prefill", worker, begun, ended)
        if prefill["part"] == "whole":
            stage("decode", worker, ended, prefill["decode_end_ns"] or last)
    if decode is not None:
        begun, ended = decode["prefill_start_ns"], decode["decode_end_ns"] or last
        handed = prefill["prefill_end_ns"] if prefill is not None else None
        stage("handover", decode["worker"], handed if handed is not None else decode["start_ns"], begun)
        stage("decode", decode["worker"], begun, ended)
    if not spans:
        stage("answer", "", sent_ns, first)
        stage("decode", "", first, last)
    return tuple(sorted(stages, key=lambda one: (one.start_ns, one.end_ns)))


def _meanwhile(spans: list[dict[str, Any]], request: int, workers: set[str], start_ns: int, end_ns: int) -> tuple[Prefill, ...]:
    found = [
        Prefill(span["request"], span["worker"], span["prefill_start_ns"], span["prefill_end_ns"], span["prompt_tokens"])
        for span in spans
        if span["request"] != request and span["worker"] in workers and span["part"] != "decode"
        if span["prefill_start_ns"] is not None and _overlap(span["prefill_start_ns"], span["prefill_end_ns"], start_ns, end_ns)
    ]
    return tuple(sorted(found, key=lambda prefill: prefill.start_ns))


def _stalls(token_ns: Ints, prefills: Iterable[Prefill]) -> tuple[Stall, ...]:
    long = np.flatnonzero(np.diff(token_ns) / 1e9 > STALL_S)
    bounds = [(int(token_ns[i]), int(token_ns[i + 1])) for i in long]
    return tuple(Stall(a, b, tuple(p for p in prefills if _overlap(p.start_ns, p.end_ns, a, b))) for a, b in bounds)


def _overlap(start_a: int, end_a: int, start_b: int, end_b: int) -> bool:
    return start_a < end_b and end_a > start_b


def _one(values: Floats) -> float | None:
    return None if np.isnan(values[0]) else float(values[0])
