"""Before a simulated load: what it should make, and whether the machine carries it. After: late tokens are marked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labkit.errors import LoadError, SpecError
from labkit.lab import simulation
from labkit.lab.engines import ENGINES
from labkit.lab.launch import plan_launch
from labkit.lab.simulation import KEY, TOKENS_PER_CORE_S, Simulation
from labkit.measure.records import Window
from labkit.measure.simulated import simulated_marks
from labkit.serve.engines.base import EngineOptions
from labkit.serve.timing import load_timing, save_timing
from labkit.spec import Topology, Workload
from labkit.whatif.observed import observations_of
from tests.support.fake_engine import SHORT, FakeEngine, fake_node
from tests.support.open_lab import OpenLab
from tests.support.profiles import handmade_profile

TWO_CORES = Simulation({1: handmade_profile()}, 2.0)
WINDOW = Window(
    measurement=0, side="1P1D", topology="1P1D", repeat=0, epoch=0, start_ns=0, measure_ns=0, stop_ns=10 * 10**9,
    end_ns=10 * 10**9, accelerators=2.0, accelerator="simulated h100_sxm GPU", workload={"isl": "1000", "osl": "100"},
)  # fmt: skip


def test_a_closed_loop_makes_what_its_requests_in_flight_take() -> None:
    found = TWO_CORES.expected(Workload(isl=1000, osl=100, concurrency=1, requests=1), Topology("1A"))
    assert found is not None
    assert found.tok_s == pytest.approx(100 / (0.110 + 100 * 0.0102), rel=0.01)
    split = TWO_CORES.expected(Workload(isl=1000, osl=100, concurrency=1000, requests=1), Topology("1P1D"))
    assert split is not None
    assert split.tok_s == pytest.approx(100 / 0.110, rel=0.01), "the prefill worker sets the pace"


def test_an_open_loop_makes_its_rate_and_holds_what_littles_law_says() -> None:
    found = TWO_CORES.expected(Workload(isl=1000, osl=100, rate=4.0, duration_s=1), Topology("1P1D"))
    assert found is not None
    assert found.tok_s == pytest.approx(400)
    held = 4.0 * 100 * found.itl_s  # requests that decode
    assert found.kv_tokens == pytest.approx(held * 1050, rel=0.02)


def test_a_load_that_the_machine_cannot_carry_is_refused_with_what_it_could() -> None:
    topology = Topology("40P40D")
    fits = Workload(isl=100, osl=100, rate=TWO_CORES.carries_tok_s / 100 * 0.4, duration_s=1)
    assert TWO_CORES.check(fits, topology) == []
    (said,) = TWO_CORES.check(replace(fits, rate=(fits.rate or 0) * 2), topology)
    assert "the longest times (p99) may be this machine's" in said
    with pytest.raises(LoadError, match="this machine would distort the simulated times") as refused:
        TWO_CORES.check(replace(fits, rate=(fits.rate or 0) * 5), topology)
    assert "ask for 50% of the load" in refused.value.remedy
    assert TWO_CORES.carries_tok_s == 2 * TOKENS_PER_CORE_S


def test_load_beyond_the_profiles_range_is_refused_unless_asked_for() -> None:
    long = Workload(isl=9000, osl=10, concurrency=1, requests=1)
    with pytest.raises(LoadError, match="a prefill of 9,000 tokens"):
        TWO_CORES.check(long, Topology("1A"))
    asked = Simulation({1: handmade_profile(extrapolate=True)}, 2.0)
    assert "its error is unknown" in asked.check(long, Topology("1A"))[0]


def test_real_workers_take_no_profile_and_simulated_ones_need_one(tmp_path: Path) -> None:
    folder = save_timing([handmade_profile()], tmp_path / "timing")
    with pytest.raises(SpecError, match="'vllm' follows no timing profile"):
        Simulation.of("vllm", EngineOptions(timing=folder), fake_node())
    with pytest.raises(SpecError, match="'mocker' needs timing profiles"):
        Simulation.of("mocker", EngineOptions(), fake_node())
    assert Simulation.of("vllm", EngineOptions(), fake_node()) is None
    made = Simulation.of("mocker", EngineOptions(timing=folder), fake_node(8))
    assert made is not None
    assert made.cores == 8
    assert made.node(fake_node()).accelerator_noun == "simulated h100_sxm GPU"
    kept = made.kept(tmp_path / "run")
    assert set(load_timing(tmp_path / "run" / "timing")) == {1}, "the run holds what its workers followed"
    assert kept[KEY]["profiles"][0]["source"] == "made by hand"


def judged(monkeypatch: pytest.MonkeyPatch, itl_s: float, p99_s: float = 0.02) -> dict[str, Any]:
    seen = {"itl_mean_s": itl_s, "itl_p99_s": p99_s, "completed": 40.0, "output_tokens": 4000.0, "e2e_mean_s": 1.2}
    monkeypatch.setattr(simulation, "summarise", lambda records, window: seen)
    run = SimpleNamespace(manifest=TWO_CORES.kept(Path("/dev/null/none")), digest=lambda: None)
    return TWO_CORES.judged(run, WINDOW)  # type: ignore[arg-type]


def test_late_tokens_are_marked_and_those_in_time_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "save_timing", lambda profiles, folder: str(folder))
    in_time = judged(monkeypatch, 0.0108)
    assert [mark.kind for mark in simulated_marks(in_time, WINDOW)] == ["simulated"]
    late = judged(monkeypatch, 0.014)
    assert [mark.kind for mark in simulated_marks(late, WINDOW)] == ["simulated", "distorted"]
    (_, tail) = simulated_marks(judged(monkeypatch, 0.0108, 0.05), WINDOW)
    assert "the longest gaps are this machine's" in tail.text
    assert late[KEY]["windows"]["0"]["itl_by_profile_s"] == pytest.approx(0.0112, rel=0.05)


def test_a_simulated_lab_is_named_so_wherever_its_numbers_go(
    open_lab: OpenLab, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(ENGINES, "mocker", lambda _: engine)
    timing = save_timing([handmade_profile()], tmp_path / "timing")
    with open_lab("20A", engine="mocker", options=EngineOptions(timing=timing), node=fake_node(2)) as lab:
        measured = lab.measure()
        assert (lab.deployment.accelerators, lab.deployment.accelerator) == (20.0, "simulated h100_sxm GPU")
        with pytest.raises(LoadError, match="would distort the simulated times"):
            lab.measure(Workload(isl=16, osl=400, concurrency=5000, requests=1))
        assert "w20 simulated, without weights" in lab.plan("21A").text
        with pytest.raises(SpecError, match="'vllm' follows no timing profile"):
            plan_launch(lab, "demo", engine="vllm", workload=SHORT)
        with pytest.raises(SpecError, match=r"take the times of llama-3\.1-8b, and qwen3-0\.6b has others"):
            plan_launch(lab, "qwen3-0.6b", engine="mocker", workload=SHORT)
    manifest = lab.run.manifest
    assert manifest["hardware"]["gpus"] == [], "none of them is this node's"
    assert manifest["hardware"]["summary"].startswith("simulated h100_sxm GPUs on 2 cores")
    assert measured.window.accelerator == "simulated h100_sxm GPU"
    assert "simulated" in {mark.kind for mark in measured.marks}
    assert str(measured).startswith("Simulated, not measured: 20A")
    assert "! simulated, not measured" in str(measured)
    assert set(manifest[KEY]["windows"]) == {"0"}
    assert (lab.run.path / "timing" / "tp1.npz").is_file()
    left_out: list[str] = []
    assert observations_of([lab.run], left_out) == [], "it calibrates nothing"
    assert "simulated, not measured" in left_out[0]


def test_every_window_of_a_simulation_says_so() -> None:
    assert simulated_marks({"engine": "vllm"}, WINDOW) == []
    held = {KEY: {"profiles": [handmade_profile(error="ITL 3% mean").stretched(2).about()]}}
    (mark,) = simulated_marks(held, WINDOW)
    assert mark.severity == "warning"
    assert mark.text.startswith("simulated, not measured")
    assert "ITL 3% mean" in mark.text
    assert "divide times by 2" in mark.text
