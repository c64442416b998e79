"""Diagnoses of sides whose every stage is known: the blame falls where the time was put."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from labkit.errors import ComparisonError
from labkit.experiments.diagnosis import Diagnosis, diagnose, diagnose_runs, explain
from tests.support.saved_runs import saved_run
from tests.support.staged import CALM, SPLIT, Sample, SideOf, staged, without_spans

BY_WORK = "by the work done here its prefill workers would be"
BUSY: list[Sample] = [("w0", "cpu_cores", 0.97), ("w1", "cpu_cores", 0.3)]
MOVED: list[Sample] = [
    ("w1", "vllm:nixl_bytes_transferred_sum", 40 * 4e6),
    ("w1", "vllm:nixl_xfer_time_seconds_sum", 40 * 0.004),
    ("w1", "vllm:nixl_xfer_time_seconds_count", 40.0),
]


def against(b: SideOf, a: SideOf | None = None) -> Diagnosis:
    a = a or SideOf("2A", CALM)
    made, manifest = staged(a, b)
    return diagnose(made, a.topology, b.topology, manifest=manifest)


def test_a_starved_prefill_worker_is_named_with_what_it_costs():
    found = against(SideOf("1P1D", {**SPLIT, "queue": 0.5, "decode": 0.4}, BUSY))
    cause, other = found.causes
    assert (cause.kind, other.kind) == ("prefill", "transfer")
    assert cause.cost_s == pytest.approx(0.5, rel=0.05)
    said = "; ".join(cause.evidence)
    assert "1 worker prefills what 2 did" in said
    assert "workers were used: prefill 97%, decode 30%" in said
    assert "no split of two workers has more prefill" in cause.remedy
    assert "max_num_batched_tokens" not in cause.remedy
    assert [row.stage for row in found.gains] == ["decode"]
    assert found.headline.startswith("1P1D is slower than 2A, ")
    assert "after it" in found.headline


def test_costs_add_up_to_the_difference():
    found = against(SideOf("1P1D", {**SPLIT, "queue": 0.2, "routing": 0.03, "send_lag": 0.01, "decode": 0.8}))
    assert {cause.kind for cause in found.causes} == {"prefill", "router", "client", "transfer", "decode"}
    assert sum(cause.cost_s for cause in found.causes) == pytest.approx(found.whole.difference_s, rel=1e-9)
    assert [cause.cost_s for cause in found.causes] == sorted((cause.cost_s for cause in found.causes), reverse=True)
    assert sum(row.difference_s for row in found.stages) == pytest.approx(found.whole.difference_s)
    assert sum(row.difference_s for row in found.stages[:-1]) == pytest.approx(found.first_token.difference_s)


@pytest.mark.parametrize(
    ("topology", "used", "says"),
    [
        ("1P3D", (0.9, 0.2, 0.2, 0.2), f"2P2D: {BY_WORK} used at least 45%, its decode workers at least 30%"),
        ("1P3D", (0.7, 0.2, 0.2, 0.2), f"2P2D: {BY_WORK} used 35%, its decode workers 30%"),
        ("1P3D", (0.5, 0.6, 0.6, 0.6), "more workers: no split of 4 evens out better"),
        ("1P3D", (), "one more prefill worker in place of the other kind"),
    ],
)  # fmt: skip
def test_the_split_that_the_measured_use_asks_for(topology: str, used: tuple[float, ...], says: str):
    gauges = [(f"w{number}", "cpu_cores", cores) for number, cores in enumerate(used)]
    cause = against(SideOf(topology, {**SPLIT, "queue": 0.6}, gauges), SideOf("4A", CALM)).causes[0]
    assert cause.kind == "prefill"
    assert cause.remedy.startswith(says)


def test_prefill_that_itself_grew_has_its_own_remedy():
    cause = against(SideOf("1P1D", {**SPLIT, "prefill": 0.8}, BUSY)).causes[0]
    assert "a smaller max_num_batched_tokens" in cause.remedy
    assert cause.what == "too little prefill for this load"
    light = against(SideOf("1P1D", {**SPLIT, "prefill": 0.2, "queue": 0.3}, BUSY), SideOf("2A", {**CALM, "prefill": 0.2})).causes[
        0
    ]
    assert light.what == "prompts wait for one another at fewer workers"


def to_one_worker(index: int, seconds: dict[str, float]) -> dict[str, float]:
    """Every other request has a long prompt: the workers of a role take turns, so that one gets all of those."""
    return {**seconds, "prefill": seconds["prefill"] * (5.0 if index % 2 else 0.3), "queue": 0.4 if index % 2 else 0.0}


def test_one_prefill_worker_that_bears_more_than_the_others_is_named():
    cause = against(SideOf("2P2D", SPLIT, alter=to_one_worker), SideOf("4A", CALM)).causes[0]
    said = "; ".join(cause.evidence)
    assert (cause.kind, cause.what) == ("prefill", "w1 bears more of the prefill than the others")
    assert re.search(r"a prompt was in work \d\d% of the time on w1, \d% of the time on w0", said), said
    assert "goes by load and not in turn" in cause.remedy
    even = against(SideOf("2P2D", {**SPLIT, "prefill": 0.8, "queue": 0.4}), SideOf("4A", CALM)).causes[0]
    assert "bears more" not in even.what


def test_one_decode_worker_that_holds_more_requests_is_named():
    gauges: list[Sample] = [("w1", "vllm:num_requests_running", 6.0), ("w2", "vllm:num_requests_running", 1.0)]
    side = SideOf("1P2D", {**SPLIT, "decode": 3.0}, gauges)
    cause = against(side, SideOf("3A", {**CALM, "decode": 0.6})).causes[0]
    assert (cause.kind, cause.what) == ("decode", "w1 decodes more than the others")
    assert "requests running 6.0 on w1, 1.0 on w2" in cause.evidence[-1]
    few = [(name, metric, value / 10) for name, metric, value in gauges]
    assert against(SideOf("1P2D", side.seconds, few), SideOf("3A", CALM)).causes[0].what == "decode is slower"


def test_the_floor_of_a_transfer_is_apart_from_waiting_for_room():
    floor = against(SideOf("1P1D", {**SPLIT, "kv_wait": 0.08}, counters=MOVED)).causes[0]
    said = "; ".join(floor.evidence)
    assert floor.kind == "transfer"
    assert "a transfer moved 4.0 MB in 4.0 ms (1 GB/s)" in said
    (rest,) = re.findall(r"the other (.*) ms of KV transfer and waiting for room are waiting: for a step, or for room", said)
    assert float(rest) == pytest.approx(80 - 4, abs=0.5)
    assert "also where nothing waits" in said
    full = [("w1", "vllm:kv_cache_usage_perc", 0.99)]
    waits = SideOf("1P1D", SPLIT, full, alter=lambda index, seconds: {**seconds, "kv_wait": 0.01 if index % 2 else 0.9})
    room = against(waits).causes[0]
    assert room.kind == "room"
    assert "up to 99% full" in "; ".join(room.evidence)
    assert "more KV cache" in room.remedy


@pytest.mark.parametrize(
    ("topology", "noun", "remedy"),
    [
        ("1P1D", "prefill", "; or a larger pool, as no split of two workers"),
        ("1A", "aggregated", "; or more workers, or a lower"),
    ],
)
def test_a_full_cache_in_front_of_prefill_is_no_lack_of_prefill(topology: str, noun: str, remedy: str):
    full: list[Sample] = [("w0", "vllm:kv_cache_usage_perc", 0.99)]
    waits = {**(SPLIT if noun == "prefill" else CALM), "queue": 0.9}
    room = against(SideOf(topology, waits, full)).causes[0]
    assert (room.kind, room.what) == ("room", f"requests wait for room at the {noun} workers")
    assert room.cost_s == pytest.approx(0.9, rel=0.05)
    said = "; ".join(room.evidence)
    assert re.search(r"a prompt was in work there [2-5]\d% of the time", said), said
    assert f"KV cache of the {noun} workers up to 99% full" in said
    assert room.remedy.startswith(f"more KV cache (kv_cache_bytes, gpu_memory_utilization, a shorter max_model_len){remedy}")
    half = against(SideOf(topology, waits, [("w0", "vllm:kv_cache_usage_perc", 0.5)])).causes[0]
    assert (half.kind, half.what) == ("prefill", "prompts wait for one another at fewer workers")
    assert f"KV cache of the {noun} workers up to 50% full" in half.evidence
    busy = {**waits, "prefill": 1.2}
    lacking = against(SideOf(topology, {**busy, "queue": 3.0}, full), SideOf("2A", {**CALM, "prefill": 1.2})).causes[0]
    assert (lacking.kind, lacking.what) == ("prefill", "too little prefill for this load"), "no room would help"


def test_prompts_that_full_decode_workers_do_not_fetch_are_told_as_such():
    full: list[Sample] = [(worker, "vllm:kv_cache_usage_perc", 0.97) for worker in ("w0", "w1", "w2")]
    room = against(SideOf("1P2D", {**SPLIT, "queue": 0.9}, full), SideOf("3A", CALM)).causes[0]
    assert (room.kind, room.what) == ("room", "requests wait for room at the prefill workers")
    assert "as the decode workers are full and fetch late; or more KV cache" in room.remedy


def test_requests_that_lose_their_cache_are_no_slow_decode():
    full: list[Sample] = [("w0", "vllm:kv_cache_usage_perc", 0.97)]
    lost: list[Sample] = [("w0", "vllm:num_preemptions_total", 9.0)]
    room = against(SideOf("1A", {**CALM, "decode": 3.0}, full, lost)).causes[0]
    assert (room.kind, room.what) == ("room", "requests lose their KV cache to others at the aggregated workers")
    assert {"B: 9 preemptions", "KV cache of the aggregated workers up to 97% full"} <= {*room.evidence}
    assert "a smaller max_num_seqs" in room.remedy
    assert against(SideOf("1A", {**CALM, "decode": 3.0}, full)).causes[0].what == "decode is slower"


def test_slower_decode_is_told_with_what_each_worker_held():
    gauges: list[Sample] = [("w0", "cpu_cores", 0.2), ("w1", "cpu_cores", 0.2), ("w2", "cpu_cores", 0.9)]
    b = SideOf("2P1D", {**SPLIT, "decode": 3.0}, [*gauges, ("w2", "vllm:num_requests_running", 17.0)],
               [("w2", "vllm:num_preemptions_total", 4.0)])  # fmt: skip
    a = SideOf("1P2D", SPLIT, [("w1", "vllm:num_requests_running", 3.0), ("w2", "vllm:num_requests_running", 5.0)])
    (cause,) = against(b, a).causes
    said = "; ".join(cause.evidence)
    assert cause.kind == "decode"
    assert "A: 2 workers decode, 4.0 requests running on each" in said
    assert "B: 1 worker decodes, 17.0 requests running on each; B: 4 preemptions" in said
    assert cause.remedy.startswith("1P2D: ")


@pytest.mark.parametrize(
    ("stage", "source", "cores", "kind", "what"),
    [
        ("routing", "router", 0.97, "router", "the router is the bottleneck"),
        ("routing", "router", 0.2, "router", "the way through the router is longer"),
        ("send_lag", "load0", 0.99, "client", "the load client sends late"),
    ],
)
def test_router_and_client_are_not_taken_for_the_engine(stage: str, source: str, cores: float, kind: str, what: str):
    cause = against(SideOf("1P1D", {**SPLIT, stage: 0.2}, [(source, "cpu_cores", cores)])).causes[0]
    assert (cause.kind, cause.what) == (kind, what)
    assert (f"{cores:.0%} of its core" if kind == "client" else f"{cores:.2f} cores") in cause.evidence[-1]


def test_where_nothing_is_slower_nothing_is_blamed():
    found = against(SideOf("1P1D", {**CALM, "decode": 0.3}))
    assert found.causes == ()
    assert found.headline.startswith("1P1D is faster than 2A, ")
    same = against(SideOf("1P1D", CALM))
    assert (same.causes, same.gains) == ((), ())
    assert same.headline.startswith("No difference of 1P1D against 2A is shown, ")


def test_as_text_every_line_fits_and_the_table_has_every_stage():
    found = against(SideOf("1P1D", {**SPLIT, "queue": 0.5, "decode": 0.4}, BUSY))
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 110
    assert sum(line.endswith("*") for line in lines) == sum(
        row.is_shown for row in (*found.stages, found.first_token, found.whole)
    )
    (queue,) = (line for line in lines if line.startswith("waiting for prefill "))
    assert float(queue.split()[4]) == pytest.approx(500, rel=0.05)
    assert json.loads(json.dumps(found.to_dict()))["causes"][0]["kind"] == "prefill"


def test_requests_that_no_worker_told_of_are_counted_and_a_side_without_any_is_refused():
    made, manifest = staged(SideOf("2A", CALM), SideOf("1P1D", SPLIT))
    (note,) = diagnose(without_spans(made, range(41, 45)), "2A", "1P1D", manifest=manifest).notes
    assert note == "1P1D: no worker told of 4 of 40 requests, which are left out"
    with pytest.raises(ComparisonError, match="no worker told of any request of 1P1D"):
        diagnose(without_spans(made, range(40, 80)), "2A", "1P1D", manifest=manifest)


def test_two_runs(tmp_path):
    one, two = (saved_run(tmp_path, name, (side, side), rate=2.0) for name, side in (("a", "2A"), ("b", "1P1D")))
    found = diagnose_runs(one, two)
    assert (found.side_a, found.side_b) == ("2A", "1P1D")
    assert found.causes[0].kind == "prefill"


def test_where_nobody_told_where_the_time_went_the_answer_is_words(tmp_path: Path) -> None:
    run = saved_run(tmp_path, "simulated", ("2A", "1P1D"), manifest={"simulated": {}}, samples=False, spans=False)
    said = explain(run, "2A", "1P1D")
    assert isinstance(said, str)
    assert " ".join(said.split()).startswith("Where the time went is not known. Simulated workers send no spans: no worker told")
