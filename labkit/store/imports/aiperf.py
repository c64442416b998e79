"""AIPerf's ``profile_export.jsonl``, a record a request, with its summary ``profile_export_aiperf.json`` where it lies beside.

As AIPerf 0.13 writes them (``docs/tutorials/working-with-profile-exports.md``, ``common/models/record_models.py``): instants
are wall-clock nanoseconds; ``request_latency`` and ``time_to_first_token`` count from the instant at which a request is handed
to the HTTP client, so that a new connection is part of them; ``inter_chunk_latency`` are the gaps between chunks with text.
``output_sequence_length`` is AIPerf's own count of the text (re-tokenised); ``usage_completion_tokens``, where there is one, is
the server's. A credit is what the scheduler issues for each request: its instant is the schedule. A conversation is what shares
an ``x_correlation_id``: the same of the data set (``conversation_id``) may be held several times.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from labkit.measure.records import Outcome
from labkit.store.imports.aiperf_summary import Summary, summary_beside
from labkit.store.imports.document import MOST_COUNT, MOST_S, Document, Ints, SourceFile, damaged, decoded, lines, plain
from labkit.store.imports.measured import UNKNOWN, Imported, Measured, outcome_of, workload

TOOL: Final = "aiperf"
_NS: Final = {"ns": 1, "us": 1e3, "ms": 1e6, "sec": 1e9, "s": 1e9}
_LATEST_NS: Final = 2**62
_MOST_TURNS: Final = 2**15 - 1
_NOT_RECORDED: Final = ("the lengths asked for, request by request", "[DONE]", "engine, versions and hardware", "telemetry")


class _Number(msgspec.Struct):
    unit: str
    value: float | None = None


class _Numbers(msgspec.Struct):
    unit: str
    value: list[float] = []


class _Metrics(msgspec.Struct):
    time_to_first_token: _Number | None = None
    inter_chunk_latency: _Numbers | None = None
    output_sequence_length: _Number | None = None
    input_sequence_length: _Number | None = None
    usage_prompt_tokens: _Number | None = None
    usage_completion_tokens: _Number | None = None


class _Metadata(msgspec.Struct):
    session_num: int
    request_start_ns: int
    request_end_ns: int
    benchmark_phase: str
    credit_issued_ns: int | None = None
    turn_index: int | None = None
    x_correlation_id: str | None = None
    conversation_id: str | None = None
    x_request_id: str | None = None
    was_cancelled: bool = False


class _Error(msgspec.Struct):
    message: str = ""
    type: str | None = None
    code: int | None = None


class _Record(msgspec.Struct):
    metadata: _Metadata
    metrics: _Metrics
    error: _Error | None = None


class _Row(NamedTuple):
    """A record with its units and ranges checked; instants as in the file, -1 where it says nothing."""

    phase: str
    scheduled_ns: int
    sent_ns: int
    end_ns: int
    first_ns: int
    gaps_ns: tuple[int, ...]
    prompt_tokens: int
    output_tokens: int
    tokens_from: str | None
    outcome: Outcome
    reason: str | None
    http_status: int
    sent_id: str | None
    conversation: str | None
    turn: int


def is_records(first: Document) -> bool:
    """Whether a file's first object is one of AIPerf's records."""
    return "metadata" in first and "metrics" in first


def import_aiperf(source: SourceFile) -> Imported:
    """Take records over, and what the summary beside them says of the load.

    Raises:
        StoreError: a file lacks what a run is made of, or holds what cannot be.
    """
    found = [(where, decoded(line, _Record, where)) for where, line in lines(source)]
    found.sort(key=lambda one: (one[1].metadata.session_num, one[1].metadata.turn_index or 0))
    rows = [_row(record, where) for where, record in found]
    if all(row.phase == "warmup" for row in rows):
        raise damaged(source.path.name, "it holds no request of the profiling phase")
    summary = summary_beside(source.path)
    origin_ns = min(row.sent_ns if row.scheduled_ns < 0 else row.scheduled_ns for row in rows)
    if max(row.end_ns for row in rows) - origin_ns > MOST_S * 1e9:
        raise damaged(source.path.name, f"its requests lie more than {MOST_S:g} s apart")
    scheduled = all(row.scheduled_ns >= 0 for row in rows)
    return Imported(
        tool=TOOL,
        version=summary.version if summary else None,
        files=(source, summary.source) if summary else (source,),
        model=summary.model if summary else None,
        tokenizer=summary.tokenizer if summary else None,
        date=summary.date if summary else None,
        clock={"wall_ns": origin_ns, "monotonic_ns": 0, "boot_id": None},
        not_recorded=(
            *(() if scheduled else ("the schedule (send lag)",)),
            *(("the turns that each conversation was to have",) if any(row.turn for row in rows) else ()),
            *_NOT_RECORDED,
        ),
        measurements=(_measured(rows, origin_ns, summary),),
    )


def _measured(rows: list[_Row], origin_ns: int, summary: Summary | None) -> Measured:
    def instants(name: str) -> Ints:
        return np.array([at - origin_ns if (at := getattr(row, name)) >= 0 else UNKNOWN for row in rows], np.int64)

    def column(name: str) -> Any:
        return [getattr(row, name) for row in rows]

    nothing = np.full(len(rows), UNKNOWN, np.int64)
    conversation = _conversations(rows)
    return Measured(
        sent_ns=instants("sent_ns"),
        end_ns=instants("end_ns"),
        first_ns=instants("first_ns"),
        scheduled_ns=instants("scheduled_ns"),
        gap_ns=np.array([gap for row in rows for gap in row.gaps_ns], np.int64),
        gap_counts=np.array([len(row.gaps_ns) for row in rows], np.int64),
        outcome=column("outcome"),
        reason=column("reason"),
        prompt_tokens=np.array(column("prompt_tokens"), np.int64),
        output_tokens=np.array(column("output_tokens"), np.int64),
        isl=nothing,
        osl=nothing,
        http_status=np.array(column("http_status"), np.int64),
        tokens_from=column("tokens_from"),
        warmup=np.array([row.phase == "warmup" for row in rows], bool),
        ids=column("sent_id"),
        conversation=conversation,
        turn=[None if number is None else row.turn for row, number in zip(rows, conversation, strict=True)],
        workload=summary.workload() if summary else workload(),
        reported=summary.reported() if summary else {},
    )


def _conversations(rows: list[_Row]) -> list[int | None]:
    """The number of each request's conversation, in the order in which they begin, below 0 in the warm-up; none in a file that
    holds no second turn."""
    if not any(row.turn for row in rows):
        return [None] * len(rows)
    numbers: dict[tuple[bool, str], int] = {}
    begun = {True: 0, False: 0}
    for row in rows:
        warm = row.phase == "warmup"
        if row.conversation is not None and (warm, row.conversation) not in numbers:
            numbers[warm, row.conversation] = -1 - begun[warm] if warm else begun[warm]
            begun[warm] += 1
    return [None if row.conversation is None else numbers[row.phase == "warmup", row.conversation] for row in rows]


def _row(record: _Record, where: str) -> _Row:
    about, metrics = record.metadata, record.metrics
    for name in ("request_start_ns", "request_end_ns", "credit_issued_ns"):
        at = getattr(about, name)
        if at is not None and not 0 <= at <= _LATEST_NS:
            raise damaged(where, f"{name} is {str(at)[:30]}")
    if not 0 <= (about.turn_index or 0) <= _MOST_TURNS:
        raise damaged(where, f"turn_index is {str(about.turn_index)[:30]}")
    if about.request_end_ns < about.request_start_ns:
        raise damaged(where, "the request ended before it began")
    first, later = metrics.time_to_first_token, metrics.inter_chunk_latency
    to_first_ns = None if first is None or first.value is None else _ns(first.value, first.unit, "time_to_first_token", where)
    answered = to_first_ns is not None
    usage = _count(metrics.usage_completion_tokens, "usage_completion_tokens", where)
    own = _count(metrics.output_sequence_length, "output_sequence_length", where)
    prompt = _count(metrics.usage_prompt_tokens, "usage_prompt_tokens", where)
    outcome, reason, status = _ended(record)
    return _Row(
        phase=about.benchmark_phase,
        scheduled_ns=UNKNOWN if about.credit_issued_ns is None else about.credit_issued_ns,
        sent_ns=about.request_start_ns,
        end_ns=about.request_end_ns,
        first_ns=UNKNOWN if to_first_ns is None else about.request_start_ns + to_first_ns,
        gaps_ns=tuple(_ns(gap, later.unit, "inter_chunk_latency", where) for gap in later.value) if later and answered else (),
        prompt_tokens=_count(metrics.input_sequence_length, "input_sequence_length", where) if prompt == UNKNOWN else prompt,
        output_tokens=own if usage == UNKNOWN else usage,
        tokens_from="usage" if usage != UNKNOWN else "retokenised" if own != UNKNOWN else None,
        outcome=outcome,
        reason=reason,
        http_status=status,
        sent_id=None if about.x_request_id is None else plain(about.x_request_id),
        conversation=about.x_correlation_id or about.conversation_id,
        turn=about.turn_index or 0,
    )


def _ended(record: _Record) -> tuple[Outcome, str | None, int]:
    error = record.error
    if record.metadata.was_cancelled:
        return "cancelled", plain(error.message) if error else None, UNKNOWN
    if error is None:
        return "ok", None, UNKNOWN
    reason, kind = plain(error.message), outcome_of(error.type or "")
    if error.code is not None and 400 <= error.code < 600 and kind == "bad_stream":
        return "http_error", f"HTTP {error.code}: {reason}", error.code
    return kind, reason, UNKNOWN


def _ns(value: float, unit: str, name: str, where: str) -> int:
    if unit not in _NS:
        raise damaged(where, f"{name} is in {unit!r}, which is no unit of time")
    found = value * _NS[unit]
    if not 0 <= found <= MOST_S * 1e9:
        raise damaged(where, f"{name} is {value} {unit}, no time from 0 to {MOST_S:g} s")
    return round(found)


def _count(metric: _Number | None, name: str, where: str) -> int:
    if metric is None or metric.value is None:
        return UNKNOWN
    if not (0 <= metric.value <= MOST_COUNT and metric.value.is_integer()):
        raise damaged(where, f"{name} is {metric.value}, no count from 0 to {MOST_COUNT}")
    return int(metric.value)
