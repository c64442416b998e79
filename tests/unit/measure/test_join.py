from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from labkit.measure.join import JOINED, join_spans, span_keys
from labkit.measure.records import CHUNKS, REQUESTS, SPANS, Records

ROUTED = "___prefill_addr_127.0.0.1:18501___decode_addr_127.0.0.1:18502_e5c8c5ca6f3a423f9c531b45e9daac9e"


def request(number: int, **ids: str | None) -> dict[str, Any]:
    fixed = {"measurement": 0, "index": number, "epoch": 0, "shard": 0, "phase": "measure", "scheduled_ns": 0, "isl": 1, "osl": 1}
    return fixed | {"request": number, "outcome": "ok", "done": True, "straddled": False, **ids}


def span(server_id: str, worker: str = "w0", start_ns: int = 0, **times: float | None) -> dict[str, Any]:
    return {"worker": worker, "server_id": server_id, "start_ns": start_ns, **times}


def joined(requests: list[dict[str, Any]], spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = join_spans(
        Records(
            requests=pa.Table.from_pylist(requests, schema=REQUESTS),
            chunks=CHUNKS.empty_table(),
            spans=pa.Table.from_pylist(spans, schema=SPANS),
        )
    )
    assert table.schema == JOINED
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@pytest.mark.parametrize(
    ("span_id", "server_id", "sent_id"),
    [
        ("cmpl-agg-1-0", "cmpl-agg-1", "agg-1"),
        ("chatcmpl-agg-chat", "chatcmpl-agg-chat", "agg-chat"),
        ("chatcmpl-r-7", "chatcmpl-r-7", "r-7"),
        (f"cmpl-{ROUTED}-0", f"cmpl-{ROUTED}", "pd-1"),
        (f"chatcmpl-{ROUTED}", f"chatcmpl-{ROUTED}", "pd-chat"),
        (f"cmpl-{ROUTED}-0", f"cmpl-{ROUTED}-0", None),
        ("559bcd4b-18dd-4bbe-9ef2-f681992dd49e", "cmpl-559bcd4b-18dd-4bbe-9ef2-f681992dd49e", "R-1"),  # Dynamo's frontend
    ],
)
def test_ids_as_vllm_and_its_router_send_them(span_id: str, server_id: str, sent_id: str | None) -> None:
    (row,) = joined([request(3, server_id=server_id, sent_id=sent_id), request(4, server_id="cmpl-other")], [span(span_id)])
    assert (row["request"], row["part"], row["worker"]) == (3, "whole", "w0")


def test_the_id_that_was_sent_serves_where_no_response_came() -> None:
    (row,) = joined([request(3, server_id=None, sent_id="agg-1")], [span("cmpl-agg-1-0")])
    assert row["request"] == 3


def test_an_id_that_ends_in_a_number_is_not_another_request() -> None:
    requests = [request(0, server_id="cmpl-r", sent_id="r"), request(1, server_id="cmpl-r-1", sent_id="r-1")]
    rows = joined(requests, [span("cmpl-r-1-0", start_ns=1), span("cmpl-r-0", start_ns=2)])
    assert [row["request"] for row in rows] == [1, 0]


def test_strangers_are_left_out() -> None:
    assert joined([request(0, server_id="cmpl-a")], [span("cmpl-warmup-0"), span("")]) == []


def test_a_request_on_two_workers_has_a_prefill_and_a_decode_part() -> None:
    rows = joined(
        [request(0, server_id=f"cmpl-{ROUTED}")],
        [span(f"cmpl-{ROUTED}-0", "w1", 900), span(f"cmpl-{ROUTED}-0", "w0", 100)],
    )
    assert [(row["worker"], row["part"]) for row in rows] == [("w0", "prefill"), ("w1", "decode")]


def test_intervals_are_laid_backwards_from_the_first_token() -> None:
    # Captured from vLLM 0.31: 24 ms of the TTFT passed before the engine core looked, and its queue time knows nothing of them.
    times = {"queue_s": 2e-5, "prefill_s": 0.0107, "decode_s": 0.0161, "ttft_s": 0.0344, "e2e_s": 0.0600}
    (row,) = joined([request(0, server_id="cmpl-a")], [span("cmpl-a-0", start_ns=10**9, **times)])
    assert row["prefill_end_ns"] == 10**9 + 34_400_000
    assert row["prefill_start_ns"] == 10**9 + 34_400_000 - 10_700_000
    assert row["decode_end_ns"] == 10**9 + 34_400_000 + 16_100_000


def test_a_first_token_seen_late_does_not_push_decode_past_the_end() -> None:
    times = {"queue_s": 2e-5, "prefill_s": 0.0107, "decode_s": 0.0161, "ttft_s": 0.0344, "e2e_s": 0.0347}
    (row,) = joined([request(0, server_id="cmpl-a")], [span("cmpl-a-0", **times)])
    assert row["decode_end_ns"] == 34_700_000


def test_without_times_there_are_no_intervals() -> None:
    (row,) = joined([request(0, server_id="cmpl-a")], [span("cmpl-a-0", queue_s=0.1)])
    assert (row["prefill_start_ns"], row["prefill_end_ns"], row["decode_end_ns"]) == (None, None, None)
    (row,) = joined([request(0, server_id="cmpl-a")], [span("cmpl-a-0", queue_s=0.1, prefill_s=0.2)])
    assert (row["prefill_start_ns"], row["prefill_end_ns"], row["decode_end_ns"]) == (100_000_000, 300_000_000, None)


def test_keys_are_tried_from_the_likeliest() -> None:
    assert span_keys("cmpl-a-1-0") == ("cmpl-a-1", "cmpl-a-1-0", "a-1", "a-1-0")
    assert span_keys("chatcmpl-a-1") == ("chatcmpl-a-1", "chatcmpl-a", "a-1", "a")
