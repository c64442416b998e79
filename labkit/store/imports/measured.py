"""What an importer makes of a file: one measurement in arrays, and the rows and the window that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from labkit.measure.records import UNRECORDED, Outcome, Window
from labkit.spec import Workload
from labkit.store.imports.document import Ints, SourceFile

UNKNOWN: Final = -1
_MOST_OF_A_CHUNK: Final = 32767  # int16
#: How a request ended, by the exception that its client met; any other is a stream that could not be read.
_EXCEPTIONS: Final[Mapping[Outcome, frozenset[str]]] = {
    "timeout": frozenset({"TimeoutError", "ServerTimeoutError", "SocketTimeoutError", "RequestSendTimeout"}),
    "refused": frozenset(
        {"ClientConnectorError", "ClientConnectorDNSError", "ConnectionRefusedError", "ConnectionTimeoutError", "gaierror"}
    ),
    "cut": frozenset({"ClientPayloadError", "ServerDisconnectedError", "ClientOSError", "ConnectionResetError"}),
    "cancelled": frozenset({"CancelledError", "RequestCancellationError"}),
    "short": frozenset({"InvalidInferenceResultError"}),
}


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One measurement: an entry a request, in the order of its schedule; ``UNKNOWN`` (-1) where the file does not say.

    Attributes:
        sent_ns: real sends, on the clock of the file.
        scheduled_ns, end_ns, first_ns: of each request; ``first_ns`` is its first chunk.
        gap_ns, gap_counts: gaps between chunks, request after request, and how many belong to each.
        outcome, reason: as in the records.
        http_status, isl, osl, prompt_tokens, output_tokens: as in the records.
        tokens_from: where ``output_tokens`` are from, of each request.
        warmup: requests of the warm-up.
        ids: ``X-Request-Id``s, where known.
        conversation, turn: as in the records, where the requests belong to conversations.
        workload: known fields of ``Workload``.
        reported: the tool's own figures, by the tool's own names.
        label: what the tool's user called it.
    """

    sent_ns: Ints
    end_ns: Ints
    first_ns: Ints
    gap_ns: Ints
    gap_counts: Ints
    outcome: list[Outcome]
    reason: list[str | None]
    prompt_tokens: Ints
    output_tokens: Ints
    scheduled_ns: Ints
    isl: Ints
    osl: Ints
    http_status: Ints
    tokens_from: list[str | None]
    warmup: npt.NDArray[np.bool_]
    ids: list[str | None]
    workload: Mapping[str, Any]
    reported: Mapping[str, float] = field(default_factory=dict)
    label: str | None = None
    conversation: list[int | None] | None = None
    turn: list[int | None] | None = None

    def __len__(self) -> int:
        return len(self.sent_ns)


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A file as its importer understood it.

    Attributes:
        tool, version: what wrote it; the version where it says.
        files: what was read.
        model, tokenizer, date: as the file has them.
        clock: what the instants count from, for the manifest.
        not_recorded: what a run of the lab has and this one has not.
        measurements: one a window.
    """

    tool: str
    version: str | None
    files: tuple[SourceFile, ...]
    model: str | None
    tokenizer: str | None
    date: str | None
    clock: Mapping[str, Any]
    not_recorded: tuple[str, ...]
    measurements: tuple[Measured, ...]


def workload(**known: Any) -> dict[str, Any]:
    """A window's workload in which everything else is ``UNRECORDED``."""
    return {**{one.name: UNRECORDED for one in fields(Workload)}, **known}


def request_rows(made: Measured, measurement: int, first_request: int) -> dict[str, Any]:
    """Columns of ``records.REQUESTS``."""
    count = len(made)
    index = np.zeros(count, np.int64)
    for phase in (made.warmup, ~made.warmup):
        index[phase] = np.arange(int(phase.sum()))
    return {
        "request": np.arange(first_request, first_request + count),
        "measurement": np.full(count, measurement),
        "index": index,
        "epoch": np.zeros(count, np.int64),
        "shard": np.zeros(count, np.int64),
        "phase": np.where(made.warmup, "warmup", "measure").tolist(),
        "straddled": np.zeros(count, bool),
        "outcome": made.outcome,
        "reason": made.reason,
        "tokens_from": made.tokens_from,
        "sent_id": made.ids,
        "conversation": made.conversation or [None] * count,
        "turn": made.turn or [None] * count,
        **{
            name: _known(getattr(made, name))
            for name in ("sent_ns", "end_ns", "scheduled_ns", "isl", "osl", "http_status", "prompt_tokens", "output_tokens")
        },
    }


def chunk_rows(made: Measured, first_request: int) -> dict[str, Any]:
    """Columns of ``records.CHUNKS``: the first chunk, and each gap after it.

    No file says how many tokens a chunk holds. As many chunks as tokens hold one each, and a single chunk holds them all;
    where a request has other numbers, its chunks' tokens are unknown.
    """
    answered = made.first_ns != UNKNOWN
    of_request = np.where(answered, made.gap_counts + 1, 0)
    begins = np.cumsum(of_request) - of_request
    steps = np.zeros(int(of_request.sum()), np.int64)
    later = np.ones(len(steps), bool)
    later[begins[answered]] = False
    steps[later] = made.gap_ns
    owner = np.repeat(np.arange(len(made)), of_request)
    since = np.cumsum(steps)
    t_ns = made.first_ns[owner] + since - since[begins[owner]]
    each = np.full(len(made), UNKNOWN, np.int64)
    each[(made.output_tokens == of_request) & answered] = 1
    whole = (of_request == 1) & (made.output_tokens > 0)
    each[whole] = np.where(made.output_tokens[whole] <= _MOST_OF_A_CHUNK, made.output_tokens[whole], UNKNOWN)
    return {"request": owner + first_request, "t_ns": t_ns, "tokens": _known(each[owner]), "text": np.ones(len(owner), bool)}


def window_of(
    made: Measured, measurement: int, side: str, repeat: int, accelerators: float, accelerator: Literal["GPU", "core"]
) -> Window:
    """The window of a measurement, cut as the lab cuts one of its own (``load.shard``).

    An open loop ends one mean gap after its last send, a closed loop with its last send (from then on it drains), and one in
    which everything is under way at once with its last answer.
    """
    measured = ~made.warmup
    sent, starts = made.sent_ns[measured], np.where(made.scheduled_ns >= 0, made.scheduled_ns, made.sent_ns)
    begin, last = int(starts[measured].min()), int(sent.max())
    end = max(int(last_instants(made).max()), last)
    rate, concurrency, length_s = (made.workload.get(name) for name in ("rate", "concurrency", "duration_s"))
    if isinstance(length_s, int | float):
        stop = begin + round(length_s * 1e9)
    elif isinstance(rate, int | float) and not isinstance(concurrency, int):
        stop = last + round(1e9 / rate)
    else:
        stop = end if isinstance(concurrency, int) and len(sent) <= concurrency else last
    return Window(
        measurement=measurement,
        side=side,
        topology="attached",
        repeat=repeat,
        epoch=0,
        start_ns=int(starts.min()),
        measure_ns=begin,
        stop_ns=stop if stop > begin else end,
        end_ns=end,
        accelerators=accelerators,
        accelerator=accelerator,
        workload=dict(made.workload),
    )


def last_instants(made: Measured) -> Ints:
    """The last thing known of each request: its end, its last chunk or its send."""
    gaps = np.concatenate([[0], np.cumsum(made.gap_ns)])
    ends = np.cumsum(made.gap_counts)
    last_chunk = np.where(made.first_ns == UNKNOWN, UNKNOWN, made.first_ns + gaps[ends] - gaps[ends - made.gap_counts])
    last: Ints = np.maximum(np.maximum(made.end_ns, last_chunk), made.sent_ns)
    return last


def outcome_of(exception: str) -> Outcome:
    """How a request ended whose client met an exception of this name."""
    return next((outcome for outcome, names in _EXCEPTIONS.items() if exception in names), "bad_stream")


def _known(values: Ints) -> Any:
    return np.ma.masked_equal(values, UNKNOWN)  # type: ignore[no-untyped-call]
