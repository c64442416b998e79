import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from labkit.measure.validity import Mark, dummy_weights, grouped, imported, marks, marks_of
from labkit.spec import Workload
from tests.support.handmade import MS, SECOND, records, request, steady, unscheduled, window

LONG = window(stop_ns=200 * SECOND, end_ns=201 * SECOND)


def healthy(count: int = 120, **fields):
    return [steady(n, first_ms=100 + n % 7, **fields) for n in range(count)]


def kinds(rows, bounds=LONG, samples=(), **given) -> list[str]:
    return [mark.kind for mark in marks(records(rows, samples=samples), bounds, **given)]


def test_a_healthy_window_has_no_marks():
    assert kinds(healthy()) == []


def test_failures_are_counted_by_outcome_with_their_first_reason():
    rows = [
        *healthy(),
        steady(200, outcome="cut"),
        steady(201, outcome="timeout", reason="after 600 s"),
        steady(202, outcome="cut"),
    ]
    mark = marks(records(rows), LONG)[0]
    assert (mark.kind, mark.severity) == ("failures", "warning")
    assert "3 of 123 requests failed (2 cut, 1 timeout; first reason: after 600 s)" in mark.text


def test_what_a_stop_cancelled_is_no_failure_and_is_marked_apart():
    rows = [*healthy(), steady(200, outcome="cancelled", reason="stopped by the lab"), steady(201, outcome="cut")]
    found = {mark.kind: mark for mark in marks(records(rows), LONG)}
    assert "1 of 122 requests failed (1 cut)" in found["failures"].text
    assert found["cancelled"].severity == "warning"
    assert "1 of 122 requests were cancelled by a stop of the load" in found["cancelled"].text


def test_turns_that_a_failure_kept_from_being_sent_are_told():
    rows = [*healthy(), steady(200, outcome="cut", conversation=4, turn=1, turns=6)]
    rows.append(steady(201, outcome="cut", conversation=5, turn=2, turns=3))
    text = marks(records(rows), LONG)[0].text
    assert "2 of 122 requests failed (2 cut), and 4 later turns of their conversations were not sent; latencies" in text


def test_a_window_in_which_the_split_changed_does_not_pass_for_the_split_it_began_with():
    rows = [steady(n, first_ms=100 + n % 7, epoch=int(n >= 90)) for n in range(120)]
    (mark,) = marks(records(rows), LONG)
    assert (mark.kind, mark.severity) == ("mixed_splits", "warning")
    assert "30 of 120 requests went to another than 2A" in mark.text


def test_a_window_without_requests():
    assert "failures" in kinds([])


def test_late_sends_spoil_ttft_and_falling_behind_limits_the_client():
    late = [steady(n, sent_ns=n * SECOND + (30 + n % 5) * MS) for n in range(120)]
    assert "send_lag" in kinds(late)
    assert "client_limited" not in kinds(late)
    behind = [steady(n, sent_ns=n * SECOND + (1 + n) * MS) for n in range(120)]
    assert {"send_lag", "client_limited"} <= set(kinds(behind))
    closed = window(stop_ns=200 * SECOND, workload=Workload(concurrency=1, requests=120))
    assert "send_lag" not in kinds(late, closed), "a closed loop has no schedule to be late for"


def test_few_requests_is_a_note():
    found = marks(records(healthy(99)), LONG)
    assert [(mark.kind, mark.severity) for mark in found] == [("few_requests", "note")]


def test_a_growing_queue_is_not_stationary():
    rng = np.random.default_rng(0)
    growing = [steady(n, first_ms=int(100 + 5 * n + rng.integers(0, 20))) for n in range(120)]
    mark = next(mark for mark in marks(records(growing), LONG) if mark.kind == "not_stationary")
    assert re.match(
        r"mean TTFT rose from 20\d ms in the first third of the window to 60\d ms in the last \(Geweke z = \d", mark.text
    )


def test_a_window_without_a_stationary_part_says_so():
    found = {settled: kinds(healthy(), replace(LONG, settled=settled)) for settled in (None, True, False)}
    assert found == {None: [], True: [], False: ["not_stationary"]}


def test_a_cold_first_request_and_those_that_it_held_up():
    cold = [steady(0, first_ms=4000), steady(1, first_ms=3000), steady(2, first_ms=2000), *healthy()[3:]]
    (mark,) = marks(records(cold), LONG)
    assert (mark.kind, mark.severity) == ("cold_start", "warning")
    assert mark.text.startswith("the first request took 4 s to its first token, 39 times the median")
    assert kinds(cold, replace(LONG, first_index=3)) == [], "the window leaves them out"


def test_a_slow_first_request_among_slow_ones_is_no_cold_start():
    slow = [steady(n, first_ms=900 if n in (0, 40, 80) else 100 + n % 7) for n in range(120)]
    assert kinds(slow) == []
    assert "cold_start" not in kinds([steady(0, first_ms=4000)], LONG), "one request has no others to be slower than"


def outrun() -> list[dict[str, Any]]:
    """Four requests a second to a server that ends two a second, each after those before it."""
    sends = [n * SECOND // 4 for n in range(400)]
    return [
        request(n, [((n + 1) * SECOND // 2, 5, True)], scheduled_ns=at, sent_ns=at, end_ns=(n + 1) * SECOND // 2)
        for n, at in enumerate(sends)
    ]


def test_arrivals_that_outpace_completions_are_marked_whether_or_not_it_was_stopped_for_it():
    ran = window(stop_ns=100 * SECOND, end_ns=201 * SECOND)
    mark = next(mark for mark in marks(records(outrun()), ran) if mark.kind == "saturated")
    assert mark.text.startswith("saturated: arrivals 4/s, completions 2/s over the last")
    stopped = replace(ran, stopped="saturated: arrivals 4/s, completions 2/s over the last 11 s, 22 in flight")
    mark = next(mark for mark in marks(records(outrun()[:50]), stopped) if mark.kind == "saturated")
    assert mark.text == f"stopped early: {stopped.stopped}"


def test_each_kind_is_marked_once():
    behind = [steady(n, sent_ns=n * SECOND + (1 + n) * MS) for n in range(120)]
    samples = [(t * SECOND, "load0", "cpu_cores", 0.99) for t in range(100)]
    assert kinds(behind, samples=samples).count("client_limited") == 1


def test_marks_of_a_run_know_its_weights_and_its_gpus():
    bounds = replace(LONG, accelerator="GPU")
    samples = [(t * SECOND, f"gpu{n}", "foreign_processes", float(n)) for t in range(100) for n in (0, 1)]
    made = records(healthy(), samples=samples)
    manifest = {"model": {"dummy_weights": True}, "epochs": [{"epoch": 0, "gpus": {"w0": [0]}}]}
    assert [mark.kind for mark in marks_of(made, bounds, manifest)] == ["dummy_weights"]
    assert [mark.kind for mark in marks_of(made, bounds, {})] == ["foreign_gpu"]


def test_marks_of_several_windows_are_grouped_by_kind():
    late, steal = Mark("send_lag", "first"), Mark("steal", "second")
    found = grouped([("2A #1", [late]), ("2A #2", [steal, Mark("send_lag", "other words")])])
    assert found == {"send_lag": (late, ("2A #1", "2A #2")), "steal": (steal, ("2A #2",))}


@pytest.mark.parametrize(
    ("accelerator", "cores", "marked"), [("core", 0.3, True), ("core", 0.05, False), ("GPU", 0.3, False), ("GPU", 3.0, True)]
)
def test_foreign_cpu_use(accelerator, cores, marked):
    bounds = window(stop_ns=200 * SECOND, accelerator=accelerator)
    samples = [(t * SECOND, "host", "foreign_cpu_cores", cores) for t in range(100)]
    assert ("foreign_cpu" in kinds(healthy(), bounds, samples)) is marked


def test_steal():
    samples = [(t * SECOND, "host", "cpu_steal_fraction", 0.1) for t in range(100)]
    assert kinds(healthy(), samples=samples) == ["steal"]


def test_shared_gpu_and_dummy_weights_are_notes():
    bounds = window(stop_ns=200 * SECOND, accelerator="GPU", accelerators=1)
    found = marks(records(healthy()), bounds, dummy_weights=True)
    assert {(mark.kind, mark.severity) for mark in found} == {("shared_gpu", "note"), ("dummy_weights", "note")}


def test_workers_that_share_a_core_are_warned_of():
    shared = window(stop_ns=200 * SECOND, accelerator="core", accelerators=1)
    (mark,) = (mark for mark in marks(records(healthy()), shared) if mark.kind == "shared_core")
    assert mark.severity == "warning"
    assert "shared_core" not in kinds(healthy(), window(stop_ns=200 * SECOND, accelerator="core", accelerators=2))


def test_straddled_requests():
    assert kinds([*healthy(), steady(200, straddled=True)]) == ["straddled"]


def test_uncounted_tokens():
    uncounted = request(200, [(200 * SECOND, None, True), (201 * SECOND, None, True)], scheduled_ns=199 * SECOND)
    mark = marks(records([*healthy(), uncounted]), LONG)[0]
    assert mark.kind == "uncounted_tokens"
    assert "1 of 121 answers" in mark.text


def test_warnings_come_first():
    found = marks(records([*healthy(20), steady(200, outcome="cut")]), LONG, dummy_weights=True)
    assert [mark.severity for mark in found] == sorted((mark.severity for mark in found), reverse=True)
    assert len({mark.severity for mark in found}) == 2


@pytest.mark.parametrize(
    ("manifest", "dummy"),
    [({}, False), ({"model": {"dummy_weights": True}}, True), ({"model": {"dummy_weights": False}}, False),
     ({"model": "demo (dummy weights)"}, True), ({"model": None}, False)],
)  # fmt: skip
def test_dummy_weights_of_a_manifest(manifest, dummy):
    assert dummy_weights(manifest) is dummy


def test_a_drift_is_seen_without_a_recorded_schedule():
    rising = records([steady(n, first_ms=100 + 2 * n + n % 7) for n in range(120)])
    assert "not_stationary" in [mark.kind for mark in marks(unscheduled(rising), LONG)]


def test_an_imported_run_says_what_it_lacks():
    source = {"tool": "aiperf", "version": "0.13.0", "not_recorded": ["telemetry", "[DONE]"]}
    mark = imported({"kind": "import", "source": source})
    assert mark is not None
    assert (mark.kind, mark.severity) == ("imported", "note")
    assert mark.text == "measured by aiperf 0.13.0 and imported; not recorded: telemetry, [DONE]"
    assert imported({"kind": "compare"}) is None
    assert imported({"kind": "compare", "source": source}) is None
