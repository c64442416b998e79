import numpy as np
import pytest

from labkit.measure.validity import dummy_weights, imported, marks
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
    assert "TTFT rose by" in mark.text


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
