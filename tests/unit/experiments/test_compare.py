import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from labkit.errors import ComparisonError, UnknownMetric
from labkit.experiments.compare import compare, compare_runs, ratio_of
from labkit.measure.metrics import summarise
from labkit.measure.records import REQUESTS, SAMPLES, UNRECORDED, Records
from labkit.measure.warmup import begin_at
from labkit.spec import Slo, Workload
from labkit.store import SegmentWriter, create_run
from labkit.store.manifest import write_json
from tests.support.handmade import MS, SECOND, records, request, window

WORKLOAD = Workload(rate=1.0, requests=60, isl=8, osl=6)
LENGTH = 70 * SECOND


def two_sides(
    *, repeats: int = 2, count: int = 60, stall: float = 0.1, ttft_factor: float = 1.5, tokens: int | None = 1, **fields
) -> Records:
    """2A stalls now and then; 1P1D does not, and takes longer to the first token. ``fields`` change windows of 1P1D."""
    rng = np.random.default_rng(0)
    rows, windows = [], []
    for repeat in range(repeats):
        for side in ("2A", "1P1D"):
            number = len(windows)
            begin = number * 2 * LENGTH
            for index in range(count):
                scheduled = begin + index * SECOND
                first = scheduled + MS + int(0.3e9 * rng.lognormal(0, 0.2) * (1 if side == "2A" else ttft_factor))
                gaps = rng.normal(0.03, 0.002, 5) + (0.3 * (rng.random(5) < stall) if side == "2A" else 0)
                times = first + np.concatenate([[0], np.cumsum(gaps * 1e9)]).astype(int)
                chunks = [(int(t), tokens, True) for t in times]
                rows.append(
                    request(len(rows), chunks, index=index, measurement=number, scheduled_ns=scheduled, osl=6, output_tokens=6)
                )
            change = fields if side == "1P1D" else {}
            windows.append(
                window(
                    measurement=number, side=side, topology=side, repeat=repeat, start_ns=begin, measure_ns=begin,
                    stop_ns=begin + LENGTH, end_ns=begin + LENGTH, **{"workload": WORKLOAD.with_seed(repeat), **change},
                )
            )  # fmt: skip
    return records(rows, windows=windows)


RECORDS = two_sides()


def changed(made: Records, which: int, **fields: object) -> Records:
    windows = [replace(one, **fields) if one.measurement == which else one for one in made.windows]
    return replace(made, windows=tuple(windows))


def test_rows_pool_repeats_and_carry_the_ratio():
    found = compare(RECORDS, "2A", "1P1D", slo=Slo(ttft_s=0.5), resamples=200)
    assert (found.repeats, found.requests, found.failed) == (2, 240, (0, 0))
    ttft = found.row("ttft_p50_s")
    assert ttft.ratio is not None
    assert ttft.ratio.estimate == pytest.approx(ttft.b / ttft.a)
    assert ttft.ratio.low < 1.5 < ttft.ratio.high
    assert ttft.ratio.shows_difference
    assert found.row("itl_p99_s").ratio.high < 0.5
    assert found.row("stalled_fraction").b == 0
    assert not found.row("output_tok_s").ratio.shows_difference
    assert found.row("output_tok_s_per_gpu").a == pytest.approx(found.row("output_tok_s").a / 2)
    json.dumps(found.to_dict())


def test_each_sides_value_has_an_interval_of_its_own():
    found = compare(RECORDS, "2A", "1P1D", slo=Slo(ttft_s=0.5), resamples=200)
    for row in found.rows:
        for value, interval in ((row.a, row.a_interval), (row.b, row.b_interval)):
            assert interval.estimate == pytest.approx(value)
            assert interval.low <= value <= interval.high
    one_sided = two_sides(repeats=1, count=120)
    few = pc.or_(pc.equal(one_sided.requests["measurement"], 0), pc.less(one_sided.requests["index"], 40))
    kept = one_sided.requests.filter(few)
    row = compare(replace(one_sided, requests=kept), "2A", "1P1D", allow_unequal=True, resamples=50).row("ttft_p99_s")
    assert (row.ratio, row.b_interval) == (None, None)
    assert row.a_interval.estimate == pytest.approx(row.a)


def test_one_ratio_alone_is_that_of_the_whole_comparison():
    whole = compare(RECORDS, "2A", "1P1D", slo=Slo(ttft_s=0.5), resamples=50)
    for key in ("itl_p99_s", "ttft_p50_s", "goodput_request_s"):
        assert ratio_of(RECORDS, "2A", "1P1D", key, slo=Slo(ttft_s=0.5), resamples=50) == whole.row(key).ratio
    assert ratio_of(RECORDS, "2A", "1P1D", "goodput_request_s") is None


def test_the_share_of_requests_that_meet_the_slo_is_compared():
    found = compare(RECORDS, "2A", "1P1D", slo=Slo(ttft_s=0.35, tpot_s=None), resamples=50).row("slo_attainment")
    shares = [summarise(RECORDS, one, slo=Slo(ttft_s=0.35, tpot_s=None))["slo_attainment"] for one in RECORDS.windows]
    assert found.a == pytest.approx((shares[0] + shares[2]) / 2)
    assert found.b == pytest.approx((shares[1] + shares[3]) / 2)
    assert found.ratio.high < 1, "1P1D takes longer to its first token"
    assert compare(RECORDS, "2A", "1P1D", resamples=20).row("slo_attainment").reason == "no SLO was given"


def test_a_pair_counts_from_the_same_request_on():
    made = RECORDS
    windows = [begin_at(made, one, {0: 4, 3: 10}.get(one.measurement, 0), "found") for one in made.windows]
    found = compare(replace(made, windows=tuple(windows)), "2A", "1P1D", resamples=20)
    assert found.requests == 240 - 2 * 4 - 2 * 10
    assert "the first 4 to 10 requests of a repeat left out on both sides" in str(found.conditions)
    assert "left out" not in str(compare(made, "2A", "1P1D", resamples=20).conditions)


def with_samples(made: Records, source: str, metric: str, value: float, measurements: set[int]) -> Records:
    rows = [
        {"t_ns": t_ns, "source": source, "metric": metric, "value": value}
        for one in made.windows
        if one.measurement in measurements
        for t_ns in range(one.measure_ns, one.stop_ns, SECOND)
    ]
    return replace(made, samples=pa.Table.from_pylist(rows, schema=SAMPLES))


def test_unequal_marks_are_said_and_so_are_the_repeats_that_have_them():
    found = compare(with_samples(RECORDS, "host", "cpu_steal_fraction", 0.2, {1}), "2A", "1P1D", resamples=20)
    assert found.notes == ("unequal conditions: 1P1D alone is marked steal, and differences may come of it",)
    (mark,) = (mark for mark in found.marks["1P1D"] if mark.kind == "steal")
    assert mark.text.endswith("(in #1 of 2 repeats)")
    both = compare(with_samples(RECORDS, "host", "cpu_steal_fraction", 0.2, {0, 1, 2, 3}), "2A", "1P1D", resamples=20)
    assert both.notes == ()
    assert not any("repeats" in mark.text for mark in both.marks["2A"] if mark.kind == "steal")


def test_a_mark_of_a_gpu_that_no_side_holds_is_none():
    foreign = with_samples(two_sides(accelerator="GPU"), "gpu7", "foreign_processes", 1.0, {1, 3})
    on_gpus = replace(foreign, windows=tuple(replace(one, accelerator="GPU") for one in foreign.windows))
    manifest = {"epochs": [{"epoch": 0, "gpus": {"w0": [0], "w1": [1]}}]}
    assert compare(on_gpus, "2A", "1P1D", resamples=20, manifest=manifest).notes == ()
    assert "foreign_gpu" in compare(on_gpus, "2A", "1P1D", resamples=20).notes[0]


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_single_repeat_reads_as_in_its_own_summary(side: str):
    found = compare(RECORDS, "2A", "1P1D", slo=Slo(ttft_s=0.5), resamples=20)
    for repeat in range(2):
        own = next(one for one in RECORDS.windows if one.repeat == repeat and one.side == ("2A" if side == "a" else "1P1D"))
        summary = summarise(RECORDS, own, slo=Slo(ttft_s=0.5))
        for row in found.rows:
            value = (row.a_repeats if side == "a" else row.b_repeats)[repeat]
            assert value == (summary[row.key] if summary[row.key] is None else pytest.approx(summary[row.key])), row.key


def test_values_are_pooled_over_repeats_never_means_of_percentiles():
    found = compare(RECORDS, "2A", "1P1D", resamples=20).row("ttft_p99_s")
    assert found.a_repeats == (None, None), "60 requests have no p99"
    assert found.a is not None, "120 have"
    assert found.ratio.lowest is None


def test_sixty_requests_have_no_p99_and_the_row_says_so():
    row = compare(two_sides(repeats=1), "2A", "1P1D", resamples=20).row("ttft_p99_s")
    assert (row.a, row.ratio) == (None, None)
    assert row.reason == "n too small (n=60, p99 needs 100)"


def test_goodput_needs_an_slo():
    row = compare(RECORDS, "2A", "1P1D", resamples=20).row("goodput_request_s")
    assert (row.a, row.ratio, row.reason) == (None, None, "no SLO was given")


def test_uncounted_tokens_leave_what_needs_them_without_a_value():
    found = compare(two_sides(tokens=None), "2A", "1P1D", slo=Slo(), resamples=20)
    assert found.row("ttft_p50_s").ratio is not None
    for key in ("tpot_p50_s", "itl_p99_s", "output_tok_s", "goodput_request_s"):
        assert found.row(key).a is None
        assert "does not say" in found.row(key).reason


def test_the_same_seed_gives_the_same_intervals():
    first, again, other = (compare(RECORDS, "2A", "1P1D", seed=seed, resamples=50).rows for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_unequal_hardware_is_refused_unless_told_and_then_labelled():
    unequal = two_sides(accelerators=3)
    with pytest.raises(ComparisonError, match="unequal hardware: 2A held 2 cores, 1P1D 3 cores"):
        compare(unequal, "2A", "1P1D")
    found = compare(unequal, "2A", "1P1D", allow_unequal=True, resamples=20)
    assert not found.equal_hardware
    assert any("unequal hardware" in note for note in found.notes)


@pytest.mark.parametrize("fields", [{"accelerator": "GPU"}, {"accelerators": 0}])
def test_other_or_unknown_hardware_is_unequal(fields):
    with pytest.raises(ComparisonError, match="unequal hardware"):
        compare(two_sides(**fields), "2A", "1P1D")


def test_unknown_hardware_on_both_sides_is_not_equal():
    both = replace(RECORDS, windows=tuple(replace(one, accelerators=0) for one in RECORDS.windows))
    with pytest.raises(ComparisonError, match="2A held unknown"):
        compare(both, "2A", "1P1D")


def test_another_workload_is_unequal_work():
    with pytest.raises(ComparisonError, match=r"unequal work: rate is 1\.0 in one window and 2\.0 in another"):
        compare(changed(RECORDS, 1, workload=replace(WORKLOAD, rate=2.0).to_dict()), "2A", "1P1D")


def test_a_run_from_before_a_field_existed_did_equal_work():
    older = {
        name: value
        for name, value in WORKLOAD.with_seed(0).to_dict().items()
        if name not in ("sample", "clip_tokens", "arrivals")
    }
    assert compare(changed(RECORDS, 1, workload=older), "2A", "1P1D", resamples=20).notes == ()
    with pytest.raises(ComparisonError, match="clip_tokens is None in one window and 99 in another"):
        compare(changed(RECORDS, 1, workload={**older, "clip_tokens": 99}), "2A", "1P1D")


def test_an_imported_side_is_held_against_what_it_recorded():
    known = {"rate": 1.0, "concurrency": None, "arrivals": "poisson", "requests": 60}
    work = {name: known.get(name, UNRECORDED) for name in WORKLOAD.to_dict()}
    rows = RECORDS.requests.to_pylist()
    for row in rows[60:120]:
        row["isl"] = row["osl"] = None
    rows[60]["output_tokens"] = None
    import_like = replace(changed(RECORDS, 1, workload=work), requests=pa.Table.from_pylist(rows, schema=REQUESTS))
    found = compare(import_like, "2A", "1P1D", resamples=20)
    assert found.notes == ("an imported side does not say all of its work: it is held to be equal by what it does say",)
    rows[61]["output_tokens"] = 5
    unequal = replace(import_like, requests=pa.Table.from_pylist(rows, schema=REQUESTS))
    with pytest.raises(ComparisonError, match="request 1 of repeat 0 has ISL 8, OSL 6 and ISL 8, OSL 5"):
        compare(unequal, "2A", "1P1D")
    rows[61]["outcome"] = "cut"
    failed = replace(import_like, requests=pa.Table.from_pylist(rows, schema=REQUESTS))
    assert compare(failed, "2A", "1P1D", resamples=20).failed == (0, 1), "what a failed request got is not what was asked of it"
    with pytest.raises(ComparisonError, match=r"rate is 1\.0 in one window and 2\.0 in another"):
        compare(changed(import_like, 1, workload={**work, "rate": 2.0}), "2A", "1P1D")


def test_another_seed_within_a_pair_is_unequal_work():
    with pytest.raises(ComparisonError, match="repeat 0 has seed 0 on one side and 9 on the other"):
        compare(changed(RECORDS, 1, workload=WORKLOAD.with_seed(9).to_dict()), "2A", "1P1D")


def test_other_lengths_are_unequal_work():
    rows = RECORDS.requests.to_pylist()
    rows[60]["osl"] = 7
    unequal = replace(RECORDS, requests=pa.Table.from_pylist(rows, schema=REQUESTS))
    with pytest.raises(ComparisonError, match="request 0 of repeat 0 has ISL 8, OSL 6 and ISL 8, OSL 7"):
        compare(unequal, "2A", "1P1D")


def test_missing_requests_are_unequal_work_but_not_in_a_timed_closed_loop():
    fewer = replace(RECORDS, requests=RECORDS.requests.slice(0, 230))
    with pytest.raises(ComparisonError, match="repeat 1 has 60 requests on one side, 50 on the other"):
        compare(fewer, "2A", "1P1D")
    timed = Workload(concurrency=2, duration_s=70, isl=8, osl=6)
    closed = replace(fewer, windows=tuple(replace(one, workload=timed.to_dict()) for one in fewer.windows))
    assert compare(closed, "2A", "1P1D", resamples=20).requests == 230


def test_a_window_without_a_partner_is_left_out_with_a_note():
    interrupted = replace(RECORDS, windows=RECORDS.windows[:3])
    found = compare(interrupted, "2A", "1P1D", resamples=20)
    assert found.repeats == 1
    assert found.notes == ("1 window without a partner left out",)


def test_an_unknown_side_names_the_known_ones():
    with pytest.raises(ComparisonError, match="side '3A' was not measured") as caught:
        compare(RECORDS, "2A", "3A")
    assert "2A, 1P1D" in caught.value.remedy


def test_an_unknown_quantity_names_the_known_ones():
    with pytest.raises(UnknownMetric, match="no quantity 'speed'"):
        compare(RECORDS, "2A", "1P1D", resamples=20).row("speed")


def test_marks_are_told_once_a_side():
    found = compare(RECORDS, "2A", "1P1D", resamples=20, manifest={"model": {"name": "demo", "dummy_weights": True}})
    assert [mark.kind for mark in found.marks["2A"]] == ["dummy_weights"]


def keep(results: Path, name: str, made: Records) -> object:
    run = create_run(results, name, {"kind": "compare", "model": {"name": "demo"}})
    for table in ("requests", "chunks"):
        with SegmentWriter(run.segment(table, "shard0"), getattr(made, table).schema) as writer:
            writer.append({name: getattr(made, table).column(name).to_pylist() for name in getattr(made, table).column_names})
    for one in made.windows:
        run.add_window(one)
    run.finish()
    return run


def test_sides_of_two_runs_are_compared_with_a_note(tmp_path: Path):
    run_a, run_b = keep(tmp_path, "a", RECORDS), keep(tmp_path, "b", RECORDS)
    apart = compare_runs(run_a, run_b, side_a="2A", side_b="1P1D", resamples=50)
    within = compare(RECORDS, "2A", "1P1D", resamples=50)
    assert apart.rows == within.rows
    assert apart.notes == ("the sides were measured in separate runs, not interleaved",)
    same = compare_runs(run_a, run_b, side_a="2A", side_b="2A", resamples=20)
    assert (same.side_a, same.side_b) == ("2A (a)", "2A (b)")
    assert not any(row.ratio.shows_difference for row in same.rows if row.ratio)
    with pytest.raises(ComparisonError, match="run a has the sides 2A, 1P1D"):
        compare_runs(run_a, run_b)
    write_json(run_a.path / "manifest.json", {**run_a.manifest, "windows": []})
    run_a.manifest["windows"] = []
    with pytest.raises(ComparisonError, match="run a has no finished measurement"):
        compare_runs(run_a, run_b)
