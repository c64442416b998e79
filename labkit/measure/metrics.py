"""What a window measured: the "Over a window" table of the metric definitions, as one flat summary.

Throughput counts token *events* inside [measure_ns, stop_ns), and in a closed loop goodput counts *ends* inside. Latency is of
the requests *scheduled* inside, followed to their end: percentiles are of those that ended as asked. Every other one is a
failure and an SLO miss, but those that the client cancelled by order: they are counted apart, and an SLO judges them only
where they had missed it by then.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, overload

import numpy as np
import pyarrow.compute as pc

from labkit.errors import UnknownMetric
from labkit.measure.answers import Answers
from labkit.measure.columns import Bools, Floats
from labkit.measure.counters import energy_j, means, total_growth
from labkit.measure.digest import Digest, digest, without_warmup
from labkit.measure.gaps import Gaps
from labkit.measure.records import Records, Window
from labkit.measure.statistics import least_values, percentile, too_few
from labkit.measure.timing import ChunkGaps, RequestMetrics, chunk_gaps, itl_s, request_metrics
from labkit.spec.slo import Slo

__all__ = [
    "STALL_S",
    "ChunkGaps",
    "RequestMetrics",
    "Summary",
    "chunk_gaps",
    "counts_for_goodput",
    "good_requests",
    "is_open_loop",
    "itl_s",
    "judged",
    "of_measurement",
    "request_metrics",
    "slo_lacks",
    "summarise",
    "taken_in",
]

#: A gap longer than this is a stall that a reader notices.
STALL_S: Final = 0.100
_PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0)
_NIXL: Final = "vllm:nixl_"
_UNCOUNTED: Final = "the server does not say how many tokens a chunk holds"
_UNSCHEDULED: Final = "the schedule was not recorded"
_NONE_SENT: Final = "no request was scheduled in the window"
_NONE_JUDGED: Final = "every request of the window was cancelled"


@dataclass(frozen=True, slots=True, eq=False)
class Summary(Mapping[str, float | None]):
    """Metrics of a window by name (``ttft_p50_s``); it reads like a dict. What is ``None`` has a reason.

    Attributes:
        figures: name with unit → value.
        reasons: name → why there is no value.
    """

    figures: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float | None:
        if name not in self.figures:
            near = difflib.get_close_matches(str(name), self.figures, n=5, cutoff=0.4)
            raise UnknownMetric(f"unknown metric {name!r}", remedy=f"use one of {', '.join(near or sorted(self.figures))}")
        return self.figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.figures)

    def __len__(self) -> int:
        return len(self.figures)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: ``{"values": …, "reasons": …}``."""
        return {"values": dict(self.figures), "reasons": dict(self.reasons)}


class _Sheet:
    """Collects values; a value that cannot be is entered with its reason."""

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {}
        self.reasons: dict[str, str] = {}

    def put(self, name: str, value: float | None, reason: str = "") -> None:
        known = value is not None and bool(np.isfinite(value))
        self.values[name] = float(value) if known and value is not None else None
        if not known:
            self.reasons[name] = reason or "undefined"

    def distribution(self, name: str, values: Floats, reason: str) -> None:
        """``<name>_{mean,p50,p90,p95,p99,max}_s`` and ``<name>_n`` of the defined values."""
        known = values[np.isfinite(values)]
        allowed = _allowed(len(known))
        self.spread(name, len(known), known.mean() if len(known) else None, known.max() if len(known) else None, reason)
        self.percentiles(name, len(known), np.percentile(known, allowed) if allowed else [], reason)

    def spread(self, name: str, count: int, mean: float | None, most: float | None, reason: str) -> None:
        """How many values there are, their mean and the largest."""
        self.put(f"{name}_n", count)
        self.put(f"{name}_mean_s", mean, reason)
        self.put(f"{name}_max_s", most, reason)

    def percentiles(self, name: str, count: int, found: Iterable[float], reason: str) -> None:
        """Those percentiles that so many values allow, and why the others are missing."""
        known = dict(zip(_allowed(count), found, strict=True))
        for q in _PERCENTILES:
            self.put(f"{name}_p{q:g}_s", known.get(q), too_few(count, q) if count else reason)


def _allowed(count: int) -> list[float]:
    return [q for q in _PERCENTILES if count >= least_values(q)]


def summarise(records: Records | Digest, window: Window, *, slo: Slo | None = None) -> Summary:
    """Every metric of one window.

    Args:
        records: of the run, or what was taken in of them, which saves doing it for each window; only the window's measurement
            is used.
        window: the measurement.
        slo: for ``goodput_request_s`` and ``slo_attainment``; they are ``None`` without one.
    """
    mine = taken_in(records, window)
    requests, answers = request_metrics(mine), mine.answers
    sheet = _Sheet()
    _counts(sheet, requests, window)
    _latencies(sheet, requests, answers, mine.gaps.get(window.measurement, Gaps()))
    _throughput(sheet, requests, answers, window)
    _goodput(sheet, requests, window, slo)
    _kv_transfer(sheet, mine, window)
    _resources(sheet, mine, window)
    return Summary(sheet.values, sheet.reasons)


@overload
def of_measurement(records: Records, window: Window) -> Records: ...
@overload
def of_measurement(records: Digest, window: Window) -> Digest: ...
@overload
def of_measurement(records: Records | Digest, window: Window) -> Records | Digest: ...
def of_measurement(records: Records | Digest, window: Window) -> Records | Digest:
    """The requests and chunks of one measurement; samples, spans and events as they are.

    Requests of the measure phase that the window leaves out as warm-up (``Window.first_index``) have the phase ``warmup`` here.
    """
    if isinstance(records, Digest):
        return records.of(window)
    requests = records.requests.filter(pc.equal(records.requests.column("measurement"), window.measurement))
    requests = without_warmup(requests, window)
    chunks = records.chunks
    if requests.num_rows < records.requests.num_rows:
        chunks = chunks.filter(pc.is_in(chunks.column("request"), value_set=requests.column("request").combine_chunks()))
    return Records(requests, chunks, records.samples, records.spans, records.events, (window,))


def taken_in(records: Records | Digest, window: Window) -> Digest:
    """``of_measurement`` with the chunks taken in."""
    return (records if isinstance(records, Digest) else digest(records, windows=(window,))).of(window)


def is_open_loop(window: Window) -> bool:
    """Whether sends followed a clock; then SLOs count from the scheduled send."""
    return window.workload.get("concurrency") is None


def good_requests(requests: RequestMetrics, slo: Slo, *, open_loop: bool) -> tuple[Bools, Bools]:
    """Which requests meet every limit, and of which this cannot be known (an ok request whose tokens were not counted).

    A failed request misses, and so does a cancelled one: ``judged`` says which of those count.
    TTFT is from the scheduled send in open loop, from the real send in closed loop. A request without
    a token after its first chunk has no TPOT to miss.
    """
    limits = (
        (slo.ttft_s, requests.ttft_from_schedule_s if open_loop else requests.ttft_s, False),
        (slo.tpot_s, requests.tpot_s, requests.single),
        (slo.e2e_s, requests.e2e_s, False),
    )
    good, unknown = requests.ok.copy(), np.zeros(len(requests), np.bool_)
    for limit, values, exempt in limits:
        if limit is not None:
            undefined = np.isnan(values) & ~np.asarray(exempt)
            unknown |= undefined
            good &= undefined | np.asarray(exempt) | (values <= limit)
    return good & ~unknown, good & unknown


def counts_for_goodput(requests: RequestMetrics, window: Window) -> Bools:
    """Which requests goodput is of: in open loop those scheduled in the window, in closed loop those that ended inside it.

    A closed loop sends all that it may have in flight at once when it begins, and the last of its requests end after the window:
    counted by their schedule, more requests could be good per second than are served.
    """
    return requests.measured if is_open_loop(window) else _ended_inside(requests, window)


def judged(requests: RequestMetrics, slo: Slo, *, open_loop: bool) -> Bools:
    """Which requests an SLO can be held against: all but those cancelled before a limit was certain to be missed.

    A cancelled request had missed the limit on TTFT where no token had come in that time, or one too late, and the limit on e2e
    where it was under way for longer. Else a backlog that a stop cancels would not count against the server that made it.
    """
    sent_ns = requests.scheduled_ns + np.nan_to_num(requests.send_lag_s, nan=0.0) * 1e9
    waited_s = (requests.end_ns - (requests.scheduled_ns if open_loop else sent_ns)) / 1e9
    ttft_s = requests.ttft_from_schedule_s if open_loop else requests.ttft_s
    missed = np.zeros(len(requests), np.bool_)
    if slo.ttft_s is not None:
        missed |= np.where(np.isnan(ttft_s), waited_s, ttft_s) > slo.ttft_s
    if slo.e2e_s is not None:
        missed |= (requests.end_ns - sent_ns) / 1e9 > slo.e2e_s
    return ~requests.cancelled | missed


def _counts(sheet: _Sheet, requests: RequestMetrics, window: Window) -> None:
    measured = requests.measured
    sheet.put("window_s", window.length_s)
    sheet.put("requests", int(measured.sum()))
    sheet.put("completed", int((measured & requests.ok).sum()))
    sheet.put("failed", int((measured & requests.failed).sum()))
    sheet.put("cancelled", int((measured & requests.cancelled).sum()))
    sheet.put("straddled", int((measured & requests.straddled).sum()))


def _latencies(sheet: _Sheet, requests: RequestMetrics, answers: Answers, gaps: Gaps) -> None:
    sheet.distribution("send_lag", requests.send_lag_s[requests.measured], "no request was sent on a recorded schedule")
    finished = requests.measured & requests.ok
    done, of_done = requests.select(finished), answers.select(finished)
    none = "no request of the window completed" if not len(done) else "no chunk with a token was seen"
    sheet.distribution("ttft", done.ttft_s, none)
    sheet.distribution("ttft_from_schedule", done.ttft_from_schedule_s, none if np.isnan(done.ttft_s).all() else _UNSCHEDULED)
    sheet.distribution("e2e", done.e2e_s, none)
    tpot_known = bool(np.all(np.isfinite(done.tpot_s) | done.single))
    sheet.distribution("tpot", done.tpot_s if tpot_known else done.tpot_s[:0], none if tpot_known else _UNCOUNTED)
    counted = not of_done.uncounted.any()
    _gaps(
        sheet, gaps, int(of_done.surplus.sum()) if counted else None, none if not len(done) else "every answer came in one chunk"
    )
    bundled = float(of_done.bundled.sum() / len(gaps)) if counted and len(gaps) else None
    sheet.put("bundled_chunk_fraction", bundled, _UNCOUNTED if not counted else "no gaps")
    stalled = int((of_done.longest_gap_ns / 1e9 > STALL_S).sum()) / len(done) if len(done) else None
    sheet.put("stalled_fraction", stalled, none)
    tpot = sheet.values["tpot_p50_s"]
    sheet.put("tok_s_per_user", 1 / tpot if tpot else None, sheet.reasons.get("tpot_p50_s", "TPOT is 0"))
    with np.errstate(divide="ignore", invalid="ignore"):
        sheet.put("e2e_tok_s_per_user", percentile(done.output_tokens / done.e2e_s, 50), none)


def _gaps(sheet: _Sheet, gaps: Gaps, zeros: int | None, reason: str) -> None:
    """Chunk gaps; and with the ``zeros`` of bundled tokens besides, the ITL, which is undefined where they are not known."""
    count, longest = len(gaps), gaps.longest_ns / 1e9 if len(gaps) else None
    found = gaps.percentiles_s(_allowed(count))
    sheet.spread("chunk_gap", count, gaps.total_ns / count / 1e9 if count else None, longest, reason)
    sheet.percentiles("chunk_gap", count, found, reason)
    if zeros is None:
        sheet.spread("itl", 0, None, None, _UNCOUNTED)
        sheet.percentiles("itl", 0, [], _UNCOUNTED)
        return
    tokens = count + zeros
    sheet.spread("itl", tokens, gaps.total_ns / tokens / 1e9 if tokens else None, longest, reason)
    sheet.percentiles("itl", tokens, gaps.percentiles_s(_allowed(tokens), zeros) if zeros else found, reason)


def _throughput(sheet: _Sheet, requests: RequestMetrics, answers: Answers, window: Window) -> None:
    start, stop, length = window.measure_ns, window.stop_ns, window.length_s
    empty = "the window has no length"
    counted = not answers.uncounted_inside.any()
    output = float(answers.tokens_inside.sum()) if counted else None
    first_inside = (requests.first_token_ns >= start) & (requests.first_token_ns < stop)
    prompts = requests.prompt_tokens[first_inside]
    total = output + float(prompts.sum()) if output is not None and not np.any(np.isnan(prompts)) else None
    ended = requests.ok & _ended_inside(requests, window)
    sheet.put("output_tokens", output, _UNCOUNTED)
    sheet.put("output_tok_s", _rate(output, length), empty if counted else _UNCOUNTED)
    no_prompts = "the server does not say how long the prompts are" if counted else _UNCOUNTED
    sheet.put("total_tok_s", _rate(total, length), empty if total is not None else no_prompts)
    sheet.put("request_s", _rate(int(ended.sum()), length), empty)
    per_gpu = _rate(_rate(output, length), window.accelerators)
    unknown = "the accelerators of the topology are unknown" if not window.accelerators else sheet.reasons.get("output_tok_s", "")
    sheet.put("output_tok_s_per_gpu", per_gpu, unknown)


def _ended_inside(requests: RequestMetrics, window: Window) -> Bools:
    return np.asarray((requests.end_ns >= window.measure_ns) & (requests.end_ns < window.stop_ns))


def _goodput(sheet: _Sheet, requests: RequestMetrics, window: Window, slo: Slo | None) -> None:
    counted = counts_for_goodput(requests, window)
    for name, which in (("goodput_request_s", counted), ("slo_attainment", requests.measured)):
        if slo is None or not (requests.measured | counted).any():
            sheet.put(name, None, "no SLO was given" if slo is None else _NONE_SENT)
            continue
        mine = requests.select(which)
        mine = mine.select(judged(mine, slo, open_loop=is_open_loop(window)))
        good, unknown = good_requests(mine, slo, open_loop=is_open_loop(window))
        if unknown.any():
            sheet.put(name, None, f"{int(unknown.sum())} requests lack what the SLO needs: {slo_lacks(mine, window, slo)}")
        elif name == "goodput_request_s":
            sheet.put(name, _rate(int(good.sum()), window.length_s), "the window has no length")
        else:
            sheet.put(name, float(good.mean()) if len(good) else None, _NONE_JUDGED if requests.measured.any() else _NONE_SENT)


def slo_lacks(measured: RequestMetrics, window: Window, slo: Slo) -> str:
    """What was not recorded that an SLO is about, where ``good_requests`` cannot tell."""
    unscheduled = np.isfinite(measured.ttft_s) & np.isnan(measured.ttft_from_schedule_s)
    if slo.ttft_s is not None and is_open_loop(window) and unscheduled.any():
        return _UNSCHEDULED
    return _UNCOUNTED


def _kv_transfer(sheet: _Sheet, records: Digest, window: Window) -> None:
    def grown(metric: str) -> float | None:
        return total_growth(records.samples, f"{_NIXL}{metric}", window)

    absent = "no worker counts KV transfers"
    moved, seconds, timed = (
        grown(name) for name in ("bytes_transferred_sum", "xfer_time_seconds_sum", "xfer_time_seconds_count")
    )
    counted = grown("bytes_transferred_count")
    transfers = timed if counted is None else counted
    none = absent if transfers is None else "no KV was transferred in the window"
    sheet.put("kv_transfer_bytes", moved, absent)
    sheet.put("kv_transfers", transfers, absent)
    sheet.put("kv_transfer_s", seconds, absent)
    sheet.put("kv_transfer_failures", grown("num_failed_transfers_total"), absent)
    sheet.put("kv_bytes_per_transfer", _rate(moved, transfers), none)
    sheet.put("kv_s_per_transfer", _rate(seconds, timed), none)
    speed = _rate(moved, seconds)
    sheet.put("kv_transfer_gb_s", None if speed is None else speed / 1e9, none)


def _resources(sheet: _Sheet, records: Digest, window: Window) -> None:
    for source, cores in means(records.samples, "cpu_cores", window).items():
        sheet.put(f"cpu_cores_{source}", cores)
    joules, reason = energy_j(records.samples, window)
    tokens = sheet.values["output_tokens"]
    sheet.put("energy_j_per_token", _rate(joules, tokens), reason or sheet.reasons.get("output_tokens", "no token was made"))


def _rate(amount: float | None, per: float | None) -> float | None:
    return amount / per if amount is not None and per else None
