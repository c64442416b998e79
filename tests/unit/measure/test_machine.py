"""Marks from telemetry: samples made by hand, one mark each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from labkit.measure.machine import held_gpus, machine_marks, workers_let_go
from labkit.measure.mark import Mark
from labkit.spec import Workload
from tests.support.handmade import SECOND, records, window

#: A window from 10 to 110 s, whose load began at 0.
BOUNDS = window(measure_ns=10 * SECOND, stop_ns=110 * SECOND, end_ns=115 * SECOND, accelerator="GPU")
Sample = tuple[int, str, str, float]


def sampled(source: str, metric: str, value: Callable[[int], float], seconds: Iterable[int] = range(116)) -> list[Sample]:
    return [(t * SECOND, source, metric, float(value(t))) for t in seconds]


def marked(samples: list[Sample], bounds=BOUNDS, *, faults=(), gpus=None) -> list[Mark]:
    return machine_marks(records([], samples=samples, faults=faults), bounds, gpus)


def test_nothing_sampled_marks_nothing():
    assert marked([]) == []


@pytest.mark.parametrize(("cores", "kinds"), [(0.97, ["client_limited"]), (0.6, [])])
def test_a_load_client_near_its_core_limits_the_load(cores: float, kinds: list[str]):
    samples = sampled("load0", "cpu_cores", lambda _: 0.1) + sampled("load1", "cpu_cores", lambda _: cores)
    samples += sampled("w0", "cpu_cores", lambda _: 0.99) + sampled("lab", "cpu_cores", lambda _: 1.0)
    found = marked(samples)
    assert [mark.kind for mark in found] == kinds
    assert not found or "load1 used 97%" in found[0].text


def test_another_process_on_a_gpu_of_the_split():
    samples = sampled("gpu0", "foreign_processes", lambda t: 40 < t < 60)
    samples += sampled("gpu0", "foreign_memory_bytes", lambda t: 12.5 * 2**30 * (40 < t < 60))
    samples += sampled("gpu1", "foreign_processes", lambda _: 0)
    (mark,) = marked(samples)
    assert (mark.kind, mark.severity) == ("foreign_gpu", "warning")
    assert mark.text == "1 other process computed on gpu0 meanwhile, with 12.5 GiB of its memory"
    assert marked(samples, gpus={"gpu1"}) == [], "a GPU that the split does not hold"
    assert marked(sampled("gpu0", "foreign_processes", lambda t: t < 9 or t > 110)) == [], "before and after the window"


def test_a_gpu_that_was_held_down_is_a_warning_and_its_power_cap_a_note():
    idle, cap, thermal = 0x1, 0x4, 0x40
    assert marked(sampled("gpu0", "clock_event_reasons", lambda _: idle | 0x2)) == []
    (note,) = marked(sampled("gpu0", "clock_event_reasons", lambda t: cap if t % 2 else idle))
    assert (note.kind, note.severity, note.text) == ("throttled", "note", "gpu0 ran at its power cap for up to 50% of the time")
    assert marked(sampled("gpu0", "clock_event_reasons", lambda t: cap * (t == 50))) == [], "a moment at the cap"
    (warning,) = marked(sampled("gpu1", "clock_event_reasons", lambda t: thermal | cap if 50 <= t < 60 else cap))
    assert (warning.severity, warning.text) == (
        "warning",
        "gpu1 was held down for up to 10% of the time: thermal slowdown (hardware)",
    )


def test_clocks_that_fall_under_work_and_clocks_that_rest():
    busy = sampled("gpu0", "gpu_busy_fraction", lambda _: 0.9)
    (mark,) = marked(busy + sampled("gpu0", "sm_clock_mhz", lambda t: 1980 if t < 60 else 1200))
    assert (mark.kind, mark.text) == ("clock_drop", "the SM clock of gpu0 fell from 1980 to 1200 MHz while it worked")
    assert marked(busy + sampled("gpu0", "sm_clock_mhz", lambda t: 1980 - t % 10)) == []
    resting = sampled("gpu0", "gpu_busy_fraction", lambda t: 0.9 if t < 60 else 0.0)
    assert marked(resting + sampled("gpu0", "sm_clock_mhz", lambda t: 1980 if t < 60 else 345)) == []
    assert marked(sampled("gpu0", "sm_clock_mhz", lambda t: 1980 if t < 60 else 345)) == [], "whether it worked is unknown"


def test_a_counter_that_begins_again_is_a_restart():
    growing = sampled("w0", "vllm:prompt_tokens_total", lambda t: 100 * t)
    assert marked(growing) == []
    (mark,) = marked([*growing, *sampled("w1", "vllm:prompt_tokens_total", lambda t: 100 * (t if t < 70 else t - 69))])
    assert (mark.kind, mark.text) == ("restart", "w1 restarted meanwhile: its counters began again")
    assert marked(sampled("w1", "vllm:prompt_tokens_total", lambda t: 9e9 if t < 2 else t, range(-60, -3))) == [], "before it"


def test_a_worker_that_dies_is_told_by_its_fault_or_by_its_processes():
    gone = sampled("w1", "processes", lambda t: 2 if t < 70 else 0)
    assert [mark.text for mark in marked(gone)] == ["w1 ended meanwhile"]
    (mark,) = marked(gone, faults=[(80 * SECOND, "w1 died while serving: killed\n  command: python"), (999 * SECOND, "later")])
    assert mark.text == "w1 died while serving: killed"


def test_a_worker_that_a_re_split_let_go_has_not_died():
    """A load step with shifts of workers ended with ``! w5 ended meanwhile``."""
    gone = sampled("w1", "processes", lambda t: 2 if t < 70 else 0)
    bounds = window(measure_ns=10 * SECOND, stop_ns=110 * SECOND, end_ns=115 * SECOND)
    epochs = [
        {"start_ns": 0, "roles": {"w0": "P", "w1": "D"}},
        {"start_ns": 69 * SECOND, "roles": {"w0": "P"}},
        {"start_ns": 75 * SECOND, "roles": {"w0": "P", "w2": "D"}},
        {"start_ns": 200 * SECOND, "roles": {"w2": "D"}},
    ]
    assert workers_let_go({"epochs": epochs}, bounds) == {"w1"}, "w0 serves to the end of the window"
    assert workers_let_go({"epochs": epochs[:1]}, bounds) == workers_let_go({}, bounds) == frozenset()
    assert machine_marks(records([], samples=gone), bounds, let_go={"w1"}) == []
    assert [mark.text for mark in machine_marks(records([], samples=gone), bounds)] == ["w1 ended meanwhile"]


@pytest.mark.parametrize(
    ("workload", "marks"),
    [
        (Workload(rate=1, duration_s=100), True),
        (Workload(rate=1, duration_s=100, prefix_groups=4, prefix_tokens=64), False),
        (Workload(trace="x.jsonl"), False),
        (Workload(trace="x.csv"), True),
        (Workload(rate=1, trace="x.jsonl", isl=512), True),
    ],
)
def test_prompts_from_a_cache_that_none_should_share(workload: Workload, marks: bool):
    bounds = window(measure_ns=10 * SECOND, stop_ns=110 * SECOND, end_ns=115 * SECOND, workload=workload)
    queries = sampled("w0", "vllm:prefix_cache_queries_total", lambda t: 1000 * t)
    hits = sampled("w0", "vllm:prefix_cache_hits_total", lambda t: 400 * t)
    found = marked(queries + hits, bounds)
    assert [mark.kind for mark in found] == ["prefix_hits"] * marks
    assert not marks or found[0].text.startswith("40% of the prompt tokens came from a prefix cache")
    few = sampled("w0", "vllm:prefix_cache_hits_total", lambda t: 2 * t)
    assert marked(queries + few, bounds) == []
    remote = sampled("w0", "vllm:external_prefix_cache_hits_total", lambda t: 900 * t)
    assert marked(queries + remote, bounds) == [], "KV that a prefill worker sent is meant"


def test_the_gpus_of_a_split_are_those_of_its_epoch():
    manifest = {"epochs": [{"epoch": 0, "gpus": {"w0": [0], "w1": [2, 3]}}, {"epoch": 1, "gpus": {"w0": [5]}}, {"epoch": 2}]}
    assert held_gpus(manifest, window(epoch=0)) == {"gpu0", "gpu2", "gpu3"}
    assert held_gpus(manifest, window(epoch=2)) is None
    assert held_gpus({}, window()) is None
