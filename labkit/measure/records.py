"""The vocabulary that every room shares: what is recorded of a run, with its Arrow schemas.

All instants are nanoseconds of ``CLOCK_MONOTONIC`` (``time.perf_counter_ns``), which every process of one boot shares.
The wall clock appears once, in the manifest, as an anchor. Raw events are kept, never summaries alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Self

import pyarrow as pa

#: Of runs on disk. A column that may be null can be added without another version: of older runs it reads as null, and older
#: labkits read past it.
SCHEMA_VERSION: Final = 1
#: In ``Window.workload`` of an imported run: what the file does not say. (``None`` says something: no rate, no duration.)
UNRECORDED: Final = "unknown"

Phase = Literal["warmup", "measure", "drain"]
#: How a request ended. Everything but ``ok`` and ``cancelled`` is a failure and an SLO miss.
#: ok: all tokens asked for, and ``[DONE]``. short: fewer tokens than asked with ``ignore_eos``. cut: the stream ended without
#: ``[DONE]``. bad_stream: bytes that are no valid HTTP or SSE. cancelled: the client ended it by order (a stop, an interrupt):
#: neither done nor failed, and counted apart.
Outcome = Literal["ok", "short", "cut", "bad_stream", "http_error", "refused", "timeout", "cancelled"]

_TEXT: Final = pa.dictionary(pa.int32(), pa.string())

REQUESTS: Final = pa.schema(
    [
        pa.field("request", pa.int64(), nullable=False),  # unique in the run
        pa.field("measurement", pa.int16(), nullable=False),  # Window.measurement
        pa.field("index", pa.int32(), nullable=False),  # position in the measurement's schedule: equal index, equal request
        pa.field("epoch", pa.int16(), nullable=False),  # the router that it was sent to
        pa.field("shard", pa.int16(), nullable=False),
        pa.field("phase", pa.string(), nullable=False),  # by its scheduled time; a later turn's is that of its first turn
        # of a later turn: end of the answer before + think time; None: imported, and the file does not say
        pa.field("scheduled_ns", pa.int64()),
        pa.field("sent_ns", pa.int64()),  # None: never sent
        pa.field("end_ns", pa.int64()),  # end of the HTTP stream
        pa.field("isl", pa.int32()),  # asked: of the whole prompt; None: imported, and the file does not say
        pa.field("osl", pa.int32()),  # asked; None as above
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("http_status", pa.int16()),
        pa.field("reason", pa.string()),
        pa.field("done", pa.bool_()),  # [DONE] seen; None: imported, and the file does not say
        pa.field("prompt_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        pa.field("tokens_from", pa.string()),  # usage | chunks | retokenised; None: unknown
        pa.field("sent_id", pa.string()),  # X-Request-Id that was sent
        pa.field("server_id", pa.string()),  # ``id`` of the response
        pa.field("straddled", pa.bool_(), nullable=False),  # alive across a re-split
        pa.field("conversation", pa.int32()),  # its number in the schedule, below 0 in the warm-up; None: on its own
        pa.field("turn", pa.int16()),  # 0, 1, … in the conversation
        pa.field("turns", pa.int16()),  # that the conversation has if all goes well
    ]
)

CHUNKS: Final = pa.schema(
    [
        pa.field("request", pa.int64(), nullable=False),
        pa.field("t_ns", pa.int64(), nullable=False),
        pa.field("tokens", pa.int16()),  # None: the server did not say
        pa.field("text", pa.bool_(), nullable=False),  # whether content or reasoning text came with it
    ]
)

SAMPLES: Final = pa.schema(
    [
        pa.field("t_ns", pa.int64(), nullable=False),
        pa.field("source", _TEXT, nullable=False),  # gpu0, w0 (a worker), router, host
        pa.field("metric", _TEXT, nullable=False),  # name with unit: power_w, cpu_fraction, vllm:num_requests_running
        pa.field("value", pa.float64()),
    ]
)

SPANS: Final = pa.schema(
    [
        pa.field("worker", pa.string(), nullable=False),
        pa.field("server_id", pa.string(), nullable=False),  # gen_ai.request.id
        pa.field("start_ns", pa.int64(), nullable=False),  # arrival at the worker
        pa.field("queue_s", pa.float64()),
        pa.field("prefill_s", pa.float64()),
        pa.field("decode_s", pa.float64()),
        pa.field("ttft_s", pa.float64()),
        pa.field("e2e_s", pa.float64()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
    ]
)

EVENTS: Final = pa.schema(
    [
        pa.field("t_ns", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # launch, resplit, load, fault, note
        pa.field("text", pa.string(), nullable=False),
        pa.field("data", pa.string()),  # JSON
    ]
)

TABLES: Final[Mapping[str, pa.Schema]] = {
    "requests": REQUESTS,
    "chunks": CHUNKS,
    "samples": SAMPLES,
    "spans": SPANS,
    "events": EVENTS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One measurement: one workload driven against one split, with the bounds of its phases.

    Attributes:
        measurement: its number in the run, from 0.
        side: the label that groups repeats, normally the topology's text.
        topology: canonical topology text; ``"attached"`` where the lab does not know it.
        repeat: 0, 1, … within its side.
        epoch: the epoch it started in.
        start_ns, measure_ns, stop_ns, end_ns: warm-up begins; measure phase begins; measure phase ends (last send);
            the last request has ended. Throughput counts [measure_ns, stop_ns); latency follows its requests to their end.
        accelerators: accelerators held by the whole topology, in fractions where a GPU is shared; 0 where unknown.
        accelerator: what one is: ``"GPU"`` or ``"core"``; ``"simulated h100_sxm GPU"`` where workers only pretend to have it.
        workload: ``Workload.to_dict()``; of an imported run with ``UNRECORDED`` values.
        first_index: requests of the measure phase from this index on count; earlier ones are warm-up that was found
            afterwards (``measure.warmup``), and ``measure_ns`` lies where they end. Their rows keep the phase they were sent in.
        cut: how that was found, in words; empty where it was not looked for.
        settled: whether a stationary part was found; ``None`` where that is not known.
        stopped: why it was stopped before its time; empty where it was not.
    """

    measurement: int
    side: str
    topology: str
    repeat: int
    epoch: int
    start_ns: int
    measure_ns: int
    stop_ns: int
    end_ns: int
    accelerators: float
    accelerator: str
    workload: dict[str, Any]
    first_index: int = 0
    cut: str = ""
    settled: bool | None = None
    stopped: str = ""

    @property
    def length_s(self) -> float:
        """Length of the measure phase in seconds."""
        return (self.stop_ns - self.measure_ns) / 1e9

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``from_dict`` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The window that ``to_dict`` wrote."""
        return cls(**data)


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Everything recorded of a run: one Arrow table per schema of ``TABLES``, and the windows."""

    requests: pa.Table
    chunks: pa.Table
    samples: pa.Table = field(default_factory=SAMPLES.empty_table)
    spans: pa.Table = field(default_factory=SPANS.empty_table)
    events: pa.Table = field(default_factory=EVENTS.empty_table)
    windows: tuple[Window, ...] = ()
