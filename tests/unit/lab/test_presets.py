from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from labkit.errors import SpecError
from labkit.lab.presets import suggest, suggest_interference, suggest_scaling, suggest_search, suggest_sweep
from labkit.serve.hardware import Core, Gpu, Node, assign
from labkit.spec import Topology

CPU = Node(gpus=(), cores=(Core(0, (0, 0)), Core(1, (0, 1))), memory_bytes=2**34, shm_bytes=2**30, no_gpu="none")


def with_gpus(count: int) -> Node:
    gpus = tuple(Gpu(i, f"GPU-{i}", "NVIDIA H100", 80 * 2**30, 80 * 2**30) for i in range(count))
    return replace(CPU, gpus=gpus, no_gpu=None)


@pytest.mark.parametrize(
    ("node", "side_a", "side_b"),
    [(CPU, "2A", "1P1D"), (with_gpus(1), "2A", "1P1D"), (with_gpus(3), "2A", "1P1D"), (with_gpus(8), "8A", "4P4D")],
)
def test_a_suggestion_fits_the_node_and_compares_equal_hardware(node: Node, side_a: str, side_b: str) -> None:
    preset = suggest(node)
    assert (str(preset.side_a), str(preset.side_b)) == (side_a, side_b)
    held = [sum(d.accelerators for d in assign(side.pool, node)) for side in (preset.side_a, preset.side_b)]
    assert held[0] == held[1] <= node.accelerators


def test_without_a_gpu_the_demo_is_loaded_below_saturation() -> None:
    preset = suggest(CPU)
    assert preset.model.source == "demo"
    assert preset.workload.rate == 1.5
    assert preset.workload.longest == 512 + 32


def test_what_is_given_replaces_what_is_suggested_and_none_keeps_it() -> None:
    preset = suggest(CPU).vary(model="qwen3-0.6b", side_b=Topology("1P1D"), side_a=None, isl="uniform:10-20", rate=None, seed=7)
    assert preset.model.source == "qwen3-0.6b"
    assert str(preset.side_a) == "2A"
    assert str(preset.workload.isl) == "uniform:10-20"
    assert (preset.workload.rate, preset.workload.seed) == (1.5, 7)
    assert "qwen3-0.6b" in str(preset)
    assert "2A against 1P1D" in str(preset)


@pytest.mark.parametrize(
    ("given", "bad"), [({"model": "no such"}, "no such"), ({"side_a": "2X"}, "2X"), ({"rate": -1}, "-1"), ({"ttl": 3}, "ttl")]
)
def test_what_cannot_be_meant_is_named(given: dict[str, object], bad: str) -> None:
    with pytest.raises(SpecError, match=bad):
        suggest(CPU).vary(**given)  # type: ignore[arg-type]


def test_scaling_fits_the_node_and_the_step_has_the_same_requests() -> None:
    preset = suggest_scaling(CPU)
    assert (str(preset.pool), preset.workload.rate) == ("1P3D", 3.0)
    assert preset.step.process == "step:0=1.5,6=4.5,16=1.5"
    assert (preset.step.isl, preset.step.osl, preset.step.duration_s) == (preset.workload.isl, preset.workload.osl, 22.0)
    assert str(suggest_scaling(with_gpus(8)).pool) == "1P7D"
    assert str(suggest_scaling(with_gpus(1)).pool) == "1P3D"
    other = preset.vary(workers=3, isl=32, ttft_slo_s=0.3, step_rates=[1, 2], step_at_s=None, warmup_s=1)
    assert (str(other.pool), other.step.process, other.slo.ttft_s) == ("1P2D", "step:0=1,6=2,16=1", 0.3)
    assert other.step.warmup_s == 1
    assert "pool 1P2D" in str(other)
    with pytest.raises(SpecError, match="ttl"):
        preset.vary(ttl=3)


@pytest.mark.parametrize("suggested", [suggest, suggest_search, suggest_interference, suggest_scaling, suggest_sweep])
def test_every_preset_takes_an_engine_and_says_so(suggested: Callable[[Node], Any]) -> None:
    preset = suggested(CPU)
    assert preset.engine == preset.vary(engine=None).engine == "vllm"
    other = preset.vary(engine="dynamo").vary(model="qwen3-0.6b")
    assert other.engine == "dynamo"
    assert " on dynamo: " in str(other)
    assert " on " not in str(preset).partition(":")[0]
    with pytest.raises(SpecError, match="unknown engine 'trt'") as raised:
        preset.vary(engine="trt")
    assert "vllm, dynamo" in raised.value.remedy


def test_another_engine_for_side_b_is_all_that_differs_unless_a_split_is_given() -> None:
    preset = suggest(CPU).vary(engine_b="dynamo", side_a="1P1D").vary(rate=2.0)
    assert (list(map(str, preset.sides)), preset.engines) == (["1P1D", "1P1D"], ["vllm", "dynamo"])
    assert str(preset).startswith("demo (dummy weights): 1P1D on vllm against 1P1D on dynamo; ")
    apart = suggest(CPU).vary(engine="dynamo", engine_b="vllm", side_b="1P1D")
    assert (list(map(str, apart.sides)), apart.engines) == (["2A", "1P1D"], ["dynamo", "vllm"])
    assert suggest(CPU).engines == ["vllm", "vllm"]
    with pytest.raises(SpecError, match="unknown engine 'x'"):
        suggest(CPU).vary(engine_b="x")
