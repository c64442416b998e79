"""The error on held-out runs, where the truth is a known law with known noise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labkit.errors import ProjectionError
from labkit.spec import Role, Topology
from labkit.whatif.at_load import at_load
from labkit.whatif.calibration import Calibration, NoCalibration, calibrate
from labkit.whatif.observed import Observation, observations_of, system_of
from tests.support.projected import Law, setting
from tests.support.saved_runs import saved_run

TTFT, TPOT, RATE = 1.5, 1.25, 0.8  # measured over projected, the truth
H100 = {"hardware": {"summary": "one node", "gpus": [{"index": 0, "name": "NVIDIA H100 80GB HBM3"}]}}


def measured(run: str, topology: str = "2A@tp2", *, concurrency: float | None = 16, rate: float | None = None,
             noise: float = 0.0, seed: int = 0, isl: int = 2000) -> Observation:  # fmt: skip
    """A run of the law with the three factors, each with lognormal noise."""
    asked, split = setting(isl=isl), Topology(topology)
    found = at_load(Law().workers(asked), split, concurrency=concurrency, rate_hz=rate)
    assert found is not None
    ttft, tpot, hz = np.exp(np.random.default_rng(seed).normal(0, noise, 3)) * (TTFT, TPOT, RATE)
    return Observation(
        run=run, side=topology, setting=asked, topology=split, concurrency=concurrency, rate_hz=rate, step_tokens=8192,
        ttft_s=found.ttft_s * ttft, tpot_s=found.tpot_s * tpot, request_hz=found.request_hz * hz if concurrency else None,
    )  # fmt: skip


def test_without_noise_the_law_is_found_and_the_error_is_none():
    observed = [measured(f"r{at}", split, concurrency=c) for at, (split, c) in enumerate([("2A@tp2", 4), ("2A@tp2", 30), ("1P3D", 8), ("1P3D", 20)])]  # fmt: skip  # noqa: E501
    found = calibrate(observed, Law().workers)
    assert isinstance(found, Calibration)
    for kind in ("aggregated", "disaggregated"):
        assert found.factors[kind] == pytest.approx({"ttft": TTFT, "tpot": TPOT, "throughput": RATE})
        assert {name: error.count for name, error in found.errors[kind].items()} == {"ttft": 2, "tpot": 2, "throughput": 2}
        assert all(error.worst < 1e-9 for error in found.errors[kind].values())


def test_the_error_is_that_of_the_noise_and_the_worst_is_the_largest():
    noise, count = 0.1, 60
    observed = [measured(f"r{at}", concurrency=2 + at % 40, noise=noise, seed=at) for at in range(count)]
    found = calibrate(observed, Law().workers)
    assert isinstance(found, Calibration)
    # E|exp(N(0, σ²)) − 1| ≈ σ·√(2/π); the factor itself is known to σ/√n.
    for error in found.errors["aggregated"].values():
        assert error.mean == pytest.approx(noise * math.sqrt(2 / math.pi), rel=0.35)
        assert error.mean < error.worst < 6 * noise
    assert found.factors["aggregated"]["tpot"] == pytest.approx(TPOT, rel=4 * noise / math.sqrt(count))


def test_errors_are_of_the_runs_that_were_held_out_alone():
    good = [measured(f"good{at}", concurrency=4 + at) for at in range(3)]
    odd = measured("odd", concurrency=8)
    odd = Observation(**{**{name: getattr(odd, name) for name in Observation.__slots__}, "tpot_s": odd.tpot_s * 2})
    found = calibrate([*good, odd], Law().workers, held_out=["odd"])
    assert isinstance(found, Calibration)
    assert found.held_out == ("odd",)
    assert found.runs == ("good0", "good1", "good2")
    assert found.factors["aggregated"]["tpot"] == pytest.approx(TPOT), "what is held out is not fitted to"
    assert found.errors["aggregated"]["tpot"].mean == pytest.approx(0.5), "twice as long as projected: half of it is missing"
    assert found.errors["aggregated"]["tpot"].count == 1


def test_sides_of_one_run_are_held_out_together():
    both = [measured("a", concurrency=4), measured("a", "1P3D", concurrency=4), measured("b", concurrency=8)]
    found = calibrate(both, Law().workers)
    assert isinstance(found, Calibration)
    assert found.errors["aggregated"]["tpot"].count == 2
    assert set(found.errors) == {"aggregated"}, "no other run measured a disaggregated split: nothing to judge it by"


def test_the_error_of_one_kind_is_none_of_the_other():
    measured_odd = measured("p/d", "1P3D", concurrency=8)
    odd = replace(measured_odd, tpot_s=measured_odd.tpot_s * 2)
    both = [measured("a", concurrency=4), measured("b", concurrency=8), measured("c", "1P3D", concurrency=4), odd]
    apart = calibrate(both, Law().workers)
    assert isinstance(apart, Calibration)
    assert apart.errors["aggregated"]["tpot"].worst < 1e-9
    assert apart.errors["disaggregated"]["tpot"].worst == pytest.approx(1.0)
    held = calibrate(both[:3], Law().workers, held_out=["b"])
    assert isinstance(held, Calibration)
    assert held.error_of("disaggregated", "tpot") is None, "a disaggregated split was fitted to, and none held out"
    assert "Disaggregated: unknown, no run of it could be held out." in held.words
    alone = calibrate(both[:2], Law().workers)
    assert isinstance(alone, Calibration)
    assert "Disaggregated: unknown, none was measured." in alone.words


def test_errors_that_an_earlier_labkit_kept_for_both_kinds_are_known_of_neither():
    found = calibrate([measured("a", concurrency=4), measured("b", concurrency=8)], Law().workers)
    assert isinstance(found, Calibration)
    kept = {**found.to_dict(), "errors": {"tpot": {"mean": 0.1, "worst": 0.2, "count": 2}}}
    assert Calibration.from_dict(kept).errors == {}


def test_the_correction_is_applied_to_workers_and_to_each_kind_its_own():
    observed = [measured("a", concurrency=4), measured("b", concurrency=30)]
    found = calibrate(observed, Law().workers)
    assert isinstance(found, Calibration)
    workers = Law().workers(setting())
    corrected = found.applied(workers)
    before = {(p.tp, p.batch): p for p in workers.of(Role.AGGREGATED)}
    assert {p.role for p in corrected.points} == {Role.AGGREGATED}, "disaggregated splits were not measured"
    for point in corrected.points:
        was = before[point.tp, point.batch]
        assert point.tp == 2
        assert point.ttft_s == pytest.approx(was.ttft_s * TTFT)
        assert point.tpot_s == pytest.approx(was.tpot_s * TPOT)
        assert point.request_hz == pytest.approx(was.request_hz * RATE)
    assert "corrected by 2 runs" in corrected.source
    assert any("beyond the calibrated range" in note for note in corrected.notes)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (setting(isl=500), "ISL 500"),
        (setting(osl=101), "OSL 101"),
        (setting(system="h200_sxm"), "h200_sxm"),
        (setting(engine="trtllm"), r"trtllm \(calibrated: vllm\)"),
    ],
)
def test_beyond_the_calibrated_range_is_refused_unless_asked_for(asked: object, names: str):
    observed = [measured("a", concurrency=4), measured("b", concurrency=30, isl=3000)]
    workers = Law().workers(setting())
    beyond = type(workers)(asked, workers.source, workers.points)  # type: ignore[arg-type]
    refused = calibrate(observed, Law().workers)
    assert isinstance(refused, Calibration)
    with pytest.raises(ProjectionError, match=names) as raised:
        refused.applied(beyond)
    assert "extrapolate=True" in raised.value.remedy
    allowed = calibrate(observed, Law().workers, extrapolate=True)
    assert isinstance(allowed, Calibration)
    assert len(allowed.applied(beyond).points) == len(workers.points)
    assert "beyond the calibrated range" in allowed.words


def test_the_engine_of_the_runs_is_told_and_was_vllm_where_an_earlier_labkit_kept_none():
    found = calibrate([measured("a", concurrency=4), measured("b", concurrency=30)], Law().workers)
    assert isinstance(found, Calibration)
    assert "Calibrated by runs of llama-3.1-8b on h100_sxm with vllm; " in found.words
    kept = found.to_dict()
    del kept["range"]["engines"]
    assert Calibration.from_dict(kept) == found


def test_another_model_is_corrected_and_named_as_one_whose_error_is_unknown():
    found = calibrate([measured("a", concurrency=4), measured("b", concurrency=30)], Law().workers)
    assert isinstance(found, Calibration)
    assert found.words_of("llama-3.1-8b") == found.words
    said = "Calibrated by runs of llama-3.1-8b alone: of llama-3.1-70b-fp8, gpt-oss-120b the error is unknown."
    assert found.words_of("llama-3.1-8b", "llama-3.1-70b-fp8", "gpt-oss-120b") == f"{found.words} {said}"
    assert not any("corrected by" in note for note in found.applied(Law().workers(setting())).notes)
    (note,) = [note for note in found.applied(Law().workers(setting("llama-3.1-70b-fp8"))).notes if "corrected by" in note]
    assert note == "runs of llama-3.1-70b-fp8; it is corrected by those of llama-3.1-8b, and its error is unknown"
    assert NoCalibration("a test").words_of("gpt-oss-120b") == NoCalibration("a test").words


def test_what_one_kind_was_measured_with_does_not_stand_for_the_other():
    disaggregated = [measured(run, "1P@tp2+1D@tp2", concurrency=2, isl=3000) for run in "cd"]
    found = calibrate([measured("a", concurrency=4), measured("b", concurrency=60, isl=3000), *disaggregated], Law().workers)
    assert isinstance(found, Calibration)
    assert Calibration.from_dict(found.to_dict()) == found
    there = found.applied(Law().workers(setting(isl=3000)))
    assert {point.batch for point in there.of(Role.DECODE)} <= {1, 2}
    assert max(point.batch for point in there.of(Role.AGGREGATED)) > 2
    elsewhere = found.applied(Law().workers(setting(isl=2000)))
    assert {point.role for point in elsewhere.points} == {Role.AGGREGATED}
    assert "measured only with prefill TP 2 and decode TP 2, ISL 3000, OSL 100, " in elsewhere.beyond["disaggregated"].reason
    assert "aggregated ISL 2000 to 3000" in found.words
    assert "disaggregated ISL 3000" in found.words


def test_a_kind_whose_runs_are_all_held_out_was_measured_all_the_same():
    observed = [measured("a", concurrency=4), measured("b", concurrency=30), measured("c", "1P@tp2+1D@tp2", concurrency=8)]
    found = calibrate(observed, Law().workers, held_out=["b", "c"])
    assert isinstance(found, Calibration)
    assert "Disaggregated: unknown, all runs of it are held out." in found.words
    beyond = found.applied(Law().workers(setting())).beyond
    assert beyond["disaggregated"].reason == "all runs of disaggregated splits are held out"


def test_an_open_loop_has_no_error_of_throughput():
    observed = [measured(f"r{at}", concurrency=None, rate=2.0 + at) for at in range(3)]
    found = calibrate(observed, Law().workers)
    assert isinstance(found, Calibration)
    assert set(found.errors["aggregated"]) == {"ttft", "tpot"}
    assert "throughput unknown" in found.words
    workers = Law().workers(setting())
    (before, after) = (one.of(Role.AGGREGATED, (2,))[0] for one in (workers, found.applied(workers)))
    assert after.request_hz == pytest.approx(before.request_hz / TPOT)


@pytest.mark.parametrize(
    ("observed", "held_out", "says"),
    [
        ([], None, "no measured run"),
        ([measured("a")], None, "it takes two"),
        ([measured("a"), measured("b")], ["c"], "none of the runs to hold out"),
        ([measured("a"), measured("b")], ["a", "b"], "none is left to fit"),
    ],
)
def test_too_few_runs_are_no_calibration_and_say_so(observed: list[Observation], held_out: list[str] | None, says: str):
    found = calibrate(observed, Law().workers, held_out=held_out)
    assert isinstance(found, NoCalibration)
    assert says in found.words
    assert found.words.startswith("No error can be given")


def test_a_calibration_survives_the_disk():
    found = calibrate([measured("a", concurrency=4), measured("b", "1P3D", concurrency=8), measured("c")], Law().workers)
    assert isinstance(found, Calibration)
    assert Calibration.from_dict(found.to_dict()) == found


def test_runs_of_the_store_are_observed_on_gpus_and_told_apart_on_cpus(tmp_path: Path):
    on_gpu = saved_run(tmp_path, "gpu", ("2A", "1P1D"), gpus=True, manifest=H100 | {"model": {"source": "llama-3.1-8b"}})
    on_cpu = saved_run(tmp_path, "cpu", ("2A",))
    left_out: list[str] = []
    found = observations_of([on_gpu, on_cpu], left_out)
    assert [(one.run, one.side) for one in found] == [("gpu", "2A"), ("gpu", "1P1D")]
    first = found[0]
    assert (first.setting.isl, first.setting.osl, first.setting.system) == (512, 32, "h100_sxm")
    assert first.rate_hz == 1.5
    assert first.request_hz is None
    assert 0.01 < first.tpot_s < 0.1
    assert left_out == ["2A of cpu: measured on a CPU, which AIConfigurator has no timings of"]
    none = calibrate(observations_of([on_cpu], []), Law().workers, left_out=left_out)
    assert "measured on a CPU" in none.words


@pytest.mark.parametrize(
    ("gpu", "system"),
    [
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA H200", "h200_sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100_sxm"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_gpus_have_the_names_that_the_model_of_performance_has_for_them(gpu: str, system: str | None):
    assert system_of(gpu) == system
