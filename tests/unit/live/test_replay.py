"""Samples rebuilt from a simulated run's records."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from labkit.live.replay import samples_of, splits_of
from labkit.measure.metrics import summarise
from labkit.measure.records import EVENTS
from labkit.spec import Slo
from labkit.spec.topology import Role
from tests.support import synthetic
from tests.support.handmade import SECOND

SLO = Slo(ttft_s=2.0, tpot_s=0.05)


@pytest.fixture(scope="module")
def run():
    records, manifest = synthetic.run(("2A", "1P1D"), duration_s=12, warmup_s=2, gpus=True, fail=0.1)
    begun = min(window.start_ns for window in records.windows)
    for epoch in manifest["epochs"]:
        held = {"gpus": [], "cores": [], "accelerators": 1.0}
        epoch["devices"] = {worker: {**held, "gpus": [n]} for n, worker in enumerate(epoch["roles"])}
    return records, {**manifest, "clock": {"monotonic_ns": begun - 2 * SECOND}}


def test_a_sample_is_what_the_records_say_of_its_seconds(run):
    records, manifest = run
    samples = list(samples_of(records, records.windows, manifest, hz=2, slo=SLO, window_s=3))
    assert [sample.t_s for sample in samples[:3]] == [0.5, 1.0, 1.5]
    for sample in samples[::7]:
        stats, end_ns = sample.stats, sample.t_ns
        start_ns = end_ns - 3 * SECOND
        window = replace(records.windows[0], start_ns=start_ns, measure_ns=start_ns, stop_ns=end_ns, end_ns=end_ns)
        both = replace(window, measurement=1)
        tokens = [summarise(records, one)["output_tokens"] or 0.0 for one in (window, both)]
        assert stats.output_tok_s == pytest.approx(sum(tokens) / 3)
        assert stats.output_tok_s_per_accelerator is None or stats.output_tok_s_per_accelerator == stats.output_tok_s / 2
        requests = records.requests.to_pydict()
        sent = [at for at in requests["sent_ns"] if start_ns <= at < end_ns]
        assert stats.sent_hz == pytest.approx(len(sent) / 3)
        live = [at for at, end in zip(requests["sent_ns"], requests["end_ns"], strict=True) if at <= end_ns < end]
        assert stats.in_flight == len(live)


def test_splits_devices_and_events_are_those_of_the_moment(run):
    records, manifest = run
    fault = {"t_ns": records.windows[1].stop_ns, "kind": "fault", "text": "w1 died: it was killed\n  log: x", "data": None}
    step = {"t_ns": records.windows[0].start_ns, "kind": "launch", "text": "w0: Load model took 1 s", "data": "{}"}
    more = pa.concat_tables([records.events, pa.Table.from_pylist([fault, step], schema=EVENTS)])
    samples = list(samples_of(replace(records, events=more), records.windows, manifest, hz=2, slo=SLO))
    first, last = samples[4], samples[-1]
    assert ([worker.role for worker in first.workers], first.topology) == ([Role.AGGREGATED] * 2, "2A")
    assert ([worker.role for worker in last.workers], last.topology) == ([Role.PREFILL, Role.DECODE], "1P1D")
    assert [(device.name, device.worker) for device in last.devices] == [("GPU 0", "w0"), ("GPU 1", "w1")]
    busy = [sample for sample in samples if sample.devices and sample.devices[0].power_w is not None]
    assert len(busy) > 20
    assert all(0 <= sample.devices[0].utilisation <= 1 for sample in busy)
    assert [(event.kind, event.text) for sample in samples for event in sample.events] == [
        ("resplit", "2A → 1P1D"),
        ("fault", "w1 died: it was killed"),
    ]
    assert [worker.alive for worker in last.workers] == [True, False]
    assert last.workers[1].cause == "w1 died: it was killed"
    assert any((sample.workers[1].kv_transfer_bytes_s or 0) > 0 for sample in samples[len(samples) // 2 :])


@pytest.mark.parametrize("before_s", [3.0, 0.01], ids=["some ticks before", "within the same tick"])
def test_a_worker_that_was_restarted_lives_from_the_next_split_on(run, before_s: float):
    records, manifest = run
    begins_ns = manifest["epochs"][1]["start_ns"]
    death = {"t_ns": begins_ns - int(before_s * SECOND), "kind": "fault", "text": "w1 died: it was killed", "data": None}
    more = pa.concat_tables([records.events, pa.Table.from_pylist([death], schema=EVENTS)])
    samples = list(samples_of(replace(records, events=more), records.windows, manifest, hz=2))
    dead = [sample.t_ns for sample in samples if not all(worker.alive for worker in sample.workers)]
    assert all(death["t_ns"] <= t_ns < begins_ns for t_ns in dead)
    assert len(dead) == int(before_s * 2)


def test_a_part_of_a_run(run):
    records, manifest = run
    window = records.windows[0]
    part = list(
        samples_of(records, records.windows, manifest, hz=4, start_ns=window.measure_ns, stop_ns=window.measure_ns + SECOND)
    )
    assert [sample.t_ns - window.measure_ns for sample in part] == [n * SECOND // 4 for n in range(1, 6)]
    assert part[0].stats.requests > 0  # the window reaches back before the part


def test_a_manifest_without_splits_still_gives_samples(run):
    records, _ = run
    samples = list(samples_of(records, records.windows, {}, hz=1))
    assert samples[3].workers == samples[3].devices == ()
    assert max(sample.stats.requests for sample in samples) > 0
    assert splits_of({}) == []
