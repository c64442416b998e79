"""What a window measured: the "Over a window" table of the metric definitions, as one flat summary.

Throughput counts token *events* inside [measure_ns, stop_ns). Latency is of the requests *scheduled* inside, followed to their
end: percentiles are of those that ended as asked, and every other one is a failure and an SLO miss.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from labkit.errors import UnknownMetric
from labkit.measure.counters import energy_j, means, total_growth
from labkit.measure.records import Records, Window
from labkit.measure.statistics import least_values, percentile, too_few
from labkit.measure.timing import (
    UNKNOWN,
    Bools,
    ChunkGaps,
    Floats,
    RequestMetrics,
    TokenChunks,
    chunk_gaps,
    itl_s,
    request_metrics,
    token_chunks,
)
from labkit.spec.slo import Slo

__all__ = [
    "STALL_S",
    "ChunkGaps",
    "RequestMetrics",
    "Summary",
    "chunk_gaps",
    "good_requests",
    "is_open_loop",
    "itl_s",
    "of_measurement",
    "request_metrics",
    "slo_lacks",
    "summarise",
]

#: A gap longer than this is a stall that a reader notices.
STALL_S: Final = 0.100
_PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0)
_NIXL: Final = "vllm:nixl_"
_UNSCHEDULED: Final = "the schedule was not recorded"


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
        self.put(f"{name}_n", len(known))
        self.put(f"{name}_mean_s", known.mean() if len(known) else None, reason)
        self.put(f"{name}_max_s", known.max() if len(known) else None, reason)
        allowed = [q for q in _PERCENTILES if len(known) >= least_values(q)]
        found = dict(zip(allowed, np.percentile(known, allowed), strict=True)) if allowed else {}
        for q in _PERCENTILES:
            self.put(f"{name}_p{q:g}_s", found.get(q), too_few(len(known), q) if len(known) else reason)


def summarise(records: Records, window: Window, *, slo: Slo | None = None) -> Summary:
    """Every metric of one window.

    Args:
        records: of the run; only the window's measurement is used.
        window: the measurement.
        slo: for ``goodput_request_s`` and ``slo_attainment``; they are ``None`` without one.
    """
    mine = of_measurement(records, window)
    chunks = token_chunks(mine)
    requests, gaps = request_metrics(mine, chunks), chunk_gaps(mine, chunks)
    sheet = _Sheet()
    _counts(sheet, requests, window)
    _latencies(sheet, requests, gaps)
    _throughput(sheet, requests, chunks, window)
    _goodput(sheet, requests, window, slo)
    _kv_transfer(sheet, mine, window)
    _resources(sheet, mine, window)
    return Summary(sheet.values, sheet.reasons)


def of_measurement(records: Records, window: Window) -> Records:
    """The requests and chunks of one measurement; samples, spans and events as they are."""
    requests = records.requests.filter(pc.equal(records.requests.column("measurement"), window.measurement))
    chunks = records.chunks
    if requests.num_rows < records.requests.num_rows:
        chunks = chunks.filter(pc.is_in(chunks.column("request"), value_set=requests.column("request").combine_chunks()))
    return Records(requests, chunks, records.samples, records.spans, records.events, (window,))


def is_open_loop(window: Window) -> bool:
    """Whether sends followed a clock; then SLOs count from the scheduled send."""
    return window.workload.get("concurrency") is None


def good_requests(requests: RequestMetrics, slo: Slo, *, open_loop: bool) -> tuple[Bools, Bools]:
    """Which requests meet every limit, and of which this cannot be known (an ok request whose tokens were not counted).

    A failed request misses. TTFT is from the scheduled send in open loop, from the real send in closed loop. A request without
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


def _counts(sheet: _Sheet, requests: RequestMetrics, window: Window) -> None:
    measured = requests.measured
    sheet.put("window_s", window.length_s)
    sheet.put("requests", int(measured.sum()))
    sheet.put("completed", int((measured & requests.ok).sum()))
    sheet.put("failed", int((measured & ~requests.ok).sum()))
    sheet.put("straddled", int((measured & requests.straddled).sum()))


def _latencies(sheet: _Sheet, requests: RequestMetrics, gaps: ChunkGaps) -> None:
    sheet.distribution("send_lag", requests.send_lag_s[requests.measured], "no request was sent on a recorded schedule")
    done = requests.select(requests.measured & requests.ok)
    none = "no request of the window completed" if not len(done) else "no chunk with a token was seen"
    uncounted = "the server does not say how many tokens a chunk holds"
    sheet.distribution("ttft", done.ttft_s, none)
    sheet.distribution("ttft_from_schedule", done.ttft_from_schedule_s, none if np.isnan(done.ttft_s).all() else _UNSCHEDULED)
    sheet.distribution("e2e", done.e2e_s, none)
    tpot_known = bool(np.all(np.isfinite(done.tpot_s) | done.single))
    sheet.distribution("tpot", done.tpot_s if tpot_known else done.tpot_s[:0], none if tpot_known else uncounted)
    inside = gaps.select(gaps.measured & gaps.ok)
    sheet.distribution("chunk_gap", inside.gap_s, none if not len(done) else "every answer came in one chunk")
    counted = not np.any(inside.tokens == UNKNOWN)
    itl = itl_s(inside) if counted else np.zeros(0)
    sheet.distribution("itl", itl, (none if not len(done) else "every answer came in one chunk") if counted else uncounted)
    bundled = float((inside.tokens > 1).mean()) if counted and len(inside) else None
    sheet.put("bundled_chunk_fraction", bundled, uncounted if not counted else "no gaps")
    stalled = len(np.unique(inside.row[inside.gap_s > STALL_S])) / len(done) if len(done) else None
    sheet.put("stalled_fraction", stalled, none)
    tpot = sheet.values["tpot_p50_s"]
    sheet.put("tok_s_per_user", 1 / tpot if tpot else None, sheet.reasons.get("tpot_p50_s", "TPOT is 0"))
    with np.errstate(divide="ignore", invalid="ignore"):
        sheet.put("e2e_tok_s_per_user", percentile(done.output_tokens / done.e2e_s, 50), none)


def _throughput(sheet: _Sheet, requests: RequestMetrics, chunks: TokenChunks, window: Window) -> None:
    start, stop, length = window.measure_ns, window.stop_ns, window.length_s
    empty = "the window has no length"
    tokens = chunks.tokens[(chunks.t_ns >= start) & (chunks.t_ns < stop)]
    counted = not np.any(tokens == UNKNOWN)
    uncounted = "the server does not say how many tokens a chunk holds"
    output = float(tokens.sum()) if counted else None
    first_inside = (requests.first_token_ns >= start) & (requests.first_token_ns < stop)
    prompts = requests.prompt_tokens[first_inside]
    total = output + float(prompts.sum()) if output is not None and not np.any(np.isnan(prompts)) else None
    ended = requests.ok & (requests.end_ns >= start) & (requests.end_ns < stop)
    sheet.put("output_tokens", output, uncounted)
    sheet.put("output_tok_s", _rate(output, length), empty if counted else uncounted)
    no_prompts = "the server does not say how long the prompts are" if counted else uncounted
    sheet.put("total_tok_s", _rate(total, length), empty if total is not None else no_prompts)
    sheet.put("request_s", _rate(int(ended.sum()), length), empty)
    per_gpu = _rate(_rate(output, length), window.accelerators)
    unknown = "the accelerators of the topology are unknown" if not window.accelerators else sheet.reasons.get("output_tok_s", "")
    sheet.put("output_tok_s_per_gpu", per_gpu, unknown)


def _goodput(sheet: _Sheet, requests: RequestMetrics, window: Window, slo: Slo | None) -> None:
    measured = requests.select(requests.measured)
    names = ("goodput_request_s", "slo_attainment")
    if slo is None or not len(measured):
        for name in names:
            sheet.put(name, None, "no SLO was given" if slo is None else "no request was scheduled in the window")
        return
    good, unknown = good_requests(measured, slo, open_loop=is_open_loop(window))
    if unknown.any():
        for name in names:
            sheet.put(name, None, f"{int(unknown.sum())} requests lack what the SLO needs: {slo_lacks(measured, window, slo)}")
        return
    sheet.put(names[0], _rate(int(good.sum()), window.length_s), "the window has no length")
    sheet.put(names[1], float(good.mean()))


def slo_lacks(measured: RequestMetrics, window: Window, slo: Slo) -> str:
    """What was not recorded that an SLO is about, where ``good_requests`` cannot tell."""
    unscheduled = np.isfinite(measured.ttft_s) & np.isnan(measured.ttft_from_schedule_s)
    if slo.ttft_s is not None and is_open_loop(window) and unscheduled.any():
        return _UNSCHEDULED
    return "the server does not say how many tokens a chunk holds"


def _kv_transfer(sheet: _Sheet, records: Records, window: Window) -> None:
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


def _resources(sheet: _Sheet, records: Records, window: Window) -> None:
    for source, cores in means(records.samples, "cpu_cores", window).items():
        sheet.put(f"cpu_cores_{source}", cores)
    joules, reason = energy_j(records.samples, window)
    tokens = sheet.values["output_tokens"]
    sheet.put("energy_j_per_token", _rate(joules, tokens), reason or sheet.reasons.get("output_tokens", "no token was made"))


def _rate(amount: float | None, per: float | None) -> float | None:
    return amount / per if amount is not None and per else None
