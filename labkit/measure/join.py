"""Spans joined to requests: for every request the worker, and when it waited, was prefilled and was decoded there.

vLLM names a span after its own request id, which is the client's id in disguise (``span_keys``). Behind a router with prefill and
decode workers one request has two spans. Behind Dynamo's frontend the span has the response's id without its ``cmpl-``.

A span's own queue time begins when the engine core first looks at the request. One that arrives in the middle of a step waits for
the step's end unseen, so ``start + queue`` is too early for the prefill, by as much as another request's prefill. The first token
is seen from the outside, so intervals are laid backwards from it:

    prefill_end   = start + max(queue + prefill, min(ttft, e2e − decode))
    prefill_start = prefill_end − prefill
    decode_end    = prefill_end + decode
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, Final

import numpy as np
import pyarrow as pa

from labkit.measure.digest import Digest
from labkit.measure.records import SPANS, Records

_PREFIX: Final = re.compile(r"(?:chat)?cmpl-")
_INDEX: Final = re.compile(r"-\d+$")

JOINED: Final = pa.schema(
    [
        pa.field("request", pa.int64(), nullable=False),
        pa.field("measurement", pa.int16(), nullable=False),
        pa.field("part", pa.string(), nullable=False),  # whole, or prefill and decode where two workers shared the request
        *SPANS,
        pa.field("prefill_start_ns", pa.int64()),  # None where the span does not tell how long its prefill took
        pa.field("prefill_end_ns", pa.int64()),
        pa.field("decode_end_ns", pa.int64()),
    ]
)


def span_keys(span_id: str) -> tuple[str, ...]:
    """What a span's id may be called in the client's record, the likeliest first.

    Completions: ``cmpl-R-0`` (the prompt's index behind it), response id ``cmpl-R``; chat: ``chatcmpl-R`` in both; ``R`` is what
    was sent as X-Request-Id, or the router's own id. So: as is, without the index, and both without the prefix.
    """
    bare = _INDEX.sub("", span_id)
    whole = (bare, span_id) if span_id.startswith("cmpl-") else (span_id, bare)
    return tuple(dict.fromkeys((*whole, *(_PREFIX.sub("", key, count=1) for key in whole))))


def join_spans(records: Records | Digest) -> pa.Table:
    """Every span whose request is known, as ``JOINED``, in the order of their start.

    Spans of requests that are not in the records (a warm-up call of the lab, another client) are left out. The response's id is
    tried before the id that was sent, because a router may replace the latter.
    """
    requests = records.requests.select(["request", "measurement", "server_id", "sent_id"]).to_pydict()
    known: list[dict[str, int]] = [{}, {}]
    for position, ids in enumerate(zip(requests["server_id"], requests["sent_id"], strict=True)):
        for by_id, key in zip(known, ids, strict=True):
            if key is not None:
                by_id.setdefault(key, position)
                by_id.setdefault(_PREFIX.sub("", key, count=1), position)
    joined: list[dict[str, Any]] = []
    of_request: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for span in sorted(records.spans.to_pylist(), key=lambda span: span["start_ns"]):
        keys = span_keys(span["server_id"])
        row = next((by_id[key] for by_id in known for key in keys if key in by_id), None)
        if row is not None:
            span |= {"request": requests["request"][row], "measurement": requests["measurement"][row], "part": "whole"}
            joined.append(span | _intervals(span))
            of_request[span["request"]].append(joined[-1])
    for spans in of_request.values():
        if len({span["worker"] for span in spans}) > 1:
            for span in spans:
                span["part"] = "prefill" if span is spans[0] else "decode"
    return pa.Table.from_pylist(joined, schema=JOINED)


def _intervals(span: dict[str, Any]) -> dict[str, int | None]:
    prefill_s, decode_s = span["prefill_s"], span["decode_s"]
    if prefill_s is None:
        return {"prefill_start_ns": None, "prefill_end_ns": None, "decode_end_ns": None}
    seen_s = [span["ttft_s"], None if span["e2e_s"] is None else span["e2e_s"] - (decode_s or 0.0)]
    latest_s = min((seconds for seconds in seen_s if seconds is not None), default=0.0)
    end_s = max((span["queue_s"] or 0.0) + prefill_s, latest_s)
    instants = np.array([end_s - prefill_s, end_s, end_s + (decode_s or 0.0)])
    start, end, decoded = (int(ns) for ns in span["start_ns"] + np.rint(instants * 1e9).astype(np.int64))
    return {"prefill_start_ns": start, "prefill_end_ns": end, "decode_end_ns": None if decode_s is None else decoded}
