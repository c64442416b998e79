"""The story of one request, from handmade records and from those of a simulated engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from labkit.errors import SpecError
from labkit.live.request import read_story, request_story, worst_of
from labkit.live.window import LiveWindow
from labkit.load.feed import Batch, packed
from labkit.measure.metrics import STALL_S
from labkit.measure.records import CHUNKS, REQUESTS, SPANS, Records
from labkit.measure.timing import request_metrics
from labkit.spec import Slo
from labkit.store.run import create_run
from labkit.store.segments import SegmentWriter
from tests.support import synthetic
from tests.support.handmade import MS, SECOND, records, request


def span(worker: str, server_id: str, start_ms: float, queue_ms: float, prefill_ms: float, decode_ms: float) -> dict[str, object]:
    return {
        "worker": worker, "server_id": server_id, "start_ns": int(start_ms * MS), "queue_s": queue_ms / 1e3,
        "prefill_s": prefill_ms / 1e3, "decode_s": decode_ms / 1e3, "prompt_tokens": 8, "output_tokens": 3,
    }  # fmt: skip


def told(*spans: dict[str, object]) -> Records:
    """Request 0 gets tokens at 100, 120 and 320 ms; 1 and 2 are prefilled meanwhile, on its worker and on another."""
    tokens = [(100 * MS, 1, True), (120 * MS, 1, True), (320 * MS, 1, True)]
    rows = [
        request(0, tokens, scheduled_ns=0, server_id="cmpl-a"),
        request(1, [(300 * MS, 1, True)], scheduled_ns=150 * MS, server_id="cmpl-b"),
        request(2, [(300 * MS, 1, True)], scheduled_ns=150 * MS, server_id="cmpl-c"),
    ]
    return replace(records(rows), spans=pa.Table.from_pylist(list(spans), schema=SPANS))


def stages(story) -> list[tuple[str, str, float, float]]:
    return [(stage.kind, stage.worker, stage.start_ns / MS, stage.end_ns / MS) for stage in story.stages]


def test_an_aggregated_worker_queues_prefills_decodes_and_stalls():
    found = told(
        span("w0", "cmpl-a-0", 2, 40, 55, 222), span("w0", "cmpl-b-0", 151, 9, 130, 5), span("w1", "cmpl-c-0", 151, 9, 130, 5)
    )
    story = request_story(found, 0)
    assert stages(story) == [
        ("send_lag", "", 0, 1),
        ("queue", "w0", 2, 42),
        ("prefill", "w0", 42, 97),
        ("decode", "w0", 97, 319),
    ]
    (stall,) = story.stalls
    assert (stall.start_ns, stall.end_ns, stall.duration_s) == (120 * MS, 320 * MS, 0.2)
    (other,) = story.prefills
    assert (other.request, other.worker, other.start_ns, other.end_ns) == (1, "w0", 160 * MS, 290 * MS)
    assert stall.prefills == story.prefills
    assert (story.workers, story.outcome, story.missing) == (("w0",), "ok", "")
    assert story.ttft_s == pytest.approx(0.099)
    assert story.gap_s.tolist() == pytest.approx([0.02, 0.2])
    assert story.start_ns == 0
    assert story.stages[2].duration_s == pytest.approx(0.055)


def test_prefill_and_decode_workers_hand_over():
    found = told(span("w0", "cmpl-a", 2, 10, 50, 0), span("w1", "cmpl-a", 64, 20, 10, 220), span("w0", "cmpl-b", 40, 22, 80, 0))
    story = request_story(found, 0)
    assert stages(story)[1:] == [
        ("queue", "w0", 2, 12),
        ("prefill", "w0", 12, 62),
        ("handover", "w1", 62, 84),
        ("decode", "w1", 84, 314),
    ]
    assert story.workers == ("w0", "w1")
    assert [prefill.request for prefill in story.prefills] == [1]


def test_without_spans_the_client_alone_tells():
    story = request_story(told(), 0)
    assert stages(story) == [("send_lag", "", 0, 1), ("answer", "", 1, 100), ("decode", "", 100, 320)]
    assert "no span" in story.missing
    assert story.stalls[0].prefills == ()


def test_a_request_under_way_has_its_tokens_only():
    found = told()
    open_one = replace(found, requests=found.requests.slice(1))
    story = request_story(open_one, 0, sent_ns=MS)
    assert (story.outcome, story.ttft_s, story.end_ns) == (None, None, None)
    assert stages(story) == [("answer", "", 1, 100), ("decode", "", 100, 320)]
    assert story.token_ns.tolist() == [100 * MS, 120 * MS, 320 * MS]
    assert len(story.stalls) == 1
    assert request_story(open_one, 0).start_ns == 100 * MS


def test_a_failed_request_without_tokens_says_why():
    found = records([request(5, [], outcome="refused", reason="cannot connect", sent_ns=None, output_tokens=None)])
    story = request_story(found, 5)
    assert (story.outcome, story.reason, story.stages, story.ttft_s) == ("refused", "cannot connect", (), None)
    with pytest.raises(SpecError, match="request 6 is not in the records"):
        request_story(found, 6)


@pytest.mark.parametrize("side", ["2A", "1P1D"])
def test_stories_of_a_simulated_run_agree_with_its_metrics(side: str):
    found, _ = synthetic.run((side,), duration_s=8, rate=3, warmup_s=0)
    metrics = request_metrics(found)
    for row in range(0, len(metrics), 3):
        story = request_story(found, int(metrics.request[row]))
        assert story.ttft_s == metrics.ttft_s[row]
        assert story.tpot_s == pytest.approx(metrics.tpot_s[row])
        assert {stage.kind for stage in story.stages} >= {"prefill", "decode"}
        assert len(story.workers) == (2 if side == "1P1D" else 1)
        assert all(stall.duration_s > STALL_S for stall in story.stalls)
        decode = next(stage for stage in story.stages if stage.kind == "decode")
        assert abs(decode.end_ns - story.token_ns[-1]) < 5 * MS
        assert all(prefill.worker in story.workers for prefill in story.prefills)
        if side == "2A":
            # the simulated worker does one thing at a time: a stall there is somebody's prefill, or a slow step
            held = [stall for stall in story.stalls if stall.duration_s > 0.25]
            assert all(stall.prefills for stall in held)


def test_a_run_that_is_open_tells_a_story(tmp_path: Path):
    run = create_run(tmp_path, "open", {"kind": "lab"})
    found = told()
    with (
        SegmentWriter(run.segment("requests", "shard0"), REQUESTS) as requests,
        SegmentWriter(run.segment("chunks", "shard0"), CHUNKS) as chunks,
    ):
        requests.append(found.requests.to_pydict())
        chunks.append(found.chunks.to_pydict())
        requests.flush()
        chunks.flush()
        story = read_story(run, 0)
        assert story.token_ns.tolist() == request_story(found, 0).token_ns.tolist()
        assert story.ttft_s == pytest.approx(0.099)
        assert run.status == "running"


def test_the_worst_of_the_last_minute_are_listed_once_each():
    window = LiveWindow(slo=Slo(ttft_s=0.1, tpot_s=0.05))
    at = np.array([200, 220, 900, 300, 310], np.int64) * MS
    rows = {"request": np.array([1, 1, 1, 2, 2]), "t_ns": at, "tokens": np.ones(5, np.int16), "text": np.ones(5, np.bool_)}
    failed = tuple(
        request(3, [], scheduled_ns=50 * MS, outcome="cut", reason="gone", end_ns=500 * MS)[name] for name in REQUESTS.names[:21]
    )
    failed = (*failed, None, None, None)
    sent = [(1, 10 * MS), (2, 150 * MS), (3, 51 * MS)]
    window.add(
        Batch(watch=1, shard=0, since_ns=0, until_ns=SECOND, running=True, closed_loop=[], in_flight=2, oldest=1, failed=1,
              sent=sent, ended=[failed], **packed(rows))
    )  # fmt: skip
    ticked = window.tick(SECOND)
    assert [(dot.request, dot.value_s) for dot in ticked.slow_itl] == [(1, 0.68)]
    assert [(dot.request, dot.value_s) for dot in ticked.slow_ttft] == [(1, 0.19), (2, 0.15)]
    worst = worst_of(window)
    assert [(slow.request, slow.why) for slow in worst] == [(3, "failed"), (1, "itl"), (2, "ttft")]
    assert worst[0].text == "cut: gone"
    assert worst[1].value_s == pytest.approx(0.68)
    assert [slow.request for slow in worst_of(window, most=1)] == [3]
    assert [slow.request for slow in worst_of(window, since_ns=600 * MS)] == [1]
    window.tick(62 * SECOND)
    assert worst_of(window) == ()
