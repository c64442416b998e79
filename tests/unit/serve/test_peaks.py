"""What a device does at most: the benchmark's own arithmetic on a stand-in for torch, and what becomes of its answer."""

from __future__ import annotations

import json
import shlex
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from labkit.errors import MissingEngine, SpecError
from labkit.serve import peaks_entry
from labkit.serve.hardware import Devices, assign, inspect_node
from labkit.serve.interpreter import engine_python
from labkit.serve.peaks import best_of, flops_text, measure_peaks
from labkit.serve.peaks_entry import best_s, product_flop_s, products

CORE = Devices(worker=0, gpus=(), cores=(3, 4), memory_bytes=2**34, memory_fraction=1.0, shared=False, accelerators=1.0)


def pretend(folder: Path, answer: str, code: int = 0) -> Path:
    """An interpreter that notes how it was called and answers with a line."""
    python, script = folder / "python", folder / "pretended.py"
    script.write_text(
        "import json, os, sys\n"
        "seen = [sys.argv[2:], os.environ['OMP_NUM_THREADS'], os.environ.get('CUDA_VISIBLE_DEVICES')]\n"
        f"with open({str(folder / 'called')!r}, 'w') as file: json.dump(seen, file)\n"
        f"print({answer!r}, file=sys.stderr if {code} else sys.stdout)\nsys.exit({code})\n"
    )
    # a path with a space cannot stand behind #!
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


def answered(products: list[tuple[str, int, float]], copy_bytes_s: float, name: str = "") -> str:
    """The line that the benchmark prints."""
    flop_s = [{"by": by, "matrix": n, "flop_s": reached} for by, n, reached in products]
    return json.dumps({"flop_s": flop_s, "copy_bytes_s": copy_bytes_s, "torch": "2.13.0", "name": name})


ANSWER = answered(
    [("torch.mm", 512, 9e10), ("oneDNN", 512, 8e10), ("torch.mm", 1024, 5e10), ("oneDNN", 1024, 1e11), ("torch.mm", 2048, 8e10)],
    2e10,
)


def test_the_best_product_is_the_peak_and_one_core_is_measured(tmp_path: Path):
    peaks = measure_peaks(pretend(tmp_path, ANSWER), CORE, "float32", seconds=0.5)
    assert (peaks.flop_s, peaks.copy_bytes_s, peaks.matrix, peaks.threads, peaks.dtype_bytes) == (1e11, 2e10, 1024, 1, 4)
    assert peaks.ridge == pytest.approx(5.0)
    assert str(peaks).startswith("core 3: 100.0 GFLOP/s in float32 (1 thread, matrices of 1024, oneDNN), copy 20.0 GB/s")
    assert json.loads((tmp_path / "called").read_text())[:2] == [["cpu", "float32", "1", "0.5", "3"], "1"]


def test_of_two_measurements_the_higher_of_each_counts(tmp_path: Path):
    one = measure_peaks(pretend(tmp_path, ANSWER), CORE, "float32", seconds=0.5)
    other = replace(one, flop_s=2e11, matrix=2048, copy_bytes_s=1e10)
    for best in (best_of(one, other), best_of(other, one)):
        assert (best.flop_s, best.matrix, best.copy_bytes_s) == (2e11, 2048, 2e10)


def test_a_gpu_is_the_workers_first(tmp_path: Path):
    held = Devices(worker=0, gpus=(5, 6), cores=(1,), memory_bytes=2**36, memory_fraction=1.0, shared=False, accelerators=2.0)
    answer = answered([("torch.mm", 8192, 7e14)], 3e12, "NVIDIA H100")
    peaks = measure_peaks(pretend(tmp_path, answer), held, "auto")
    assert (peaks.device, peaks.dtype, peaks.threads) == ("NVIDIA H100 5", "bfloat16", 0)
    assert "700.0 TFLOP/s" in str(peaks)
    assert json.loads((tmp_path / "called").read_text()) == [["cuda", "bfloat16", "1", "1.0", ""], "1", "5"]


def test_what_cannot_be_measured_says_why(tmp_path: Path):
    with pytest.raises(MissingEngine, match="No module named 'torch'"):
        measure_peaks(pretend(tmp_path, "ModuleNotFoundError: No module named 'torch'", code=1), CORE, "float32")
    with pytest.raises(MissingEngine, match="cannot be measured"):
        measure_peaks(pretend(tmp_path, "no json"), CORE, "float32")
    with pytest.raises(SpecError, match="'int4'"):
        measure_peaks(sys.executable, CORE, "int4")
    assert flops_text(2.5e12) == "2.5 TFLOP/s"


def test_the_shortest_of_several_runs_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, *(t for begin, took in ((1, 5.0), (20, 2.0), (30, 3.0)) for t in (begin, begin + took)), 99.0])
    monkeypatch.setattr("labkit.serve.peaks_entry.time.perf_counter", lambda: next(clock))
    runs: list[int] = []
    assert best_s(None, "cpu", lambda: runs.append(1), 1.0) == 2.0
    assert len(runs) == 4


class StandIn:
    """As much of torch as a product needs; ``onednn`` is what its linear layer does."""

    float32 = "float32"
    mm = staticmethod(lambda a, b, out: "mm")

    def __init__(self, onednn: Callable[..., str] | None) -> None:
        self.backends = SimpleNamespace(mkldnn=SimpleNamespace(is_available=lambda: onednn is not None))
        self.nn = SimpleNamespace(functional=SimpleNamespace(linear=onednn))

    def randn(self, *shape: int, **_: object) -> Mock:
        return Mock()

    empty = randn


def test_each_library_that_has_a_product_in_the_dtype_is_tried():
    def none_here(*_: object) -> str:
        raise RuntimeError("fp16 path needs the cpu support avx512_fp16")

    tried = {
        name: {by: run() for by, run in products(StandIn(onednn), device, "float16", 8).items()}
        for name, onednn, device in (
            ("both", lambda *_: "linear", "cpu"), ("not in this dtype", none_here, "cpu"), ("not built in", None, "cpu"),
            ("a GPU", lambda *_: "linear", "cuda"),
        )
    }  # fmt: skip
    alone = {"torch.mm": "mm"}
    assert tried == {"both": {**alone, "oneDNN": "linear"}, "not in this dtype": alone, "not built in": alone, "a GPU": alone}


@pytest.mark.parametrize(("spent_s", "matrices"), [(0.01, {512, 1024, 2048}), (1.0, {512})])
def test_larger_products_are_left_out_where_one_would_take_minutes(
    spent_s: float, matrices: set[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(peaks_entry, "best_s", lambda torch, device, run, seconds: spent_s)
    found = product_flop_s(StandIn(None), "cpu", "float32", 0.5)
    assert {one["matrix"]: one["flop_s"] for one in found} == {n: 2 * n**3 / spent_s for n in matrices}


@pytest.mark.engine
def test_a_core_is_measured_with_the_engines_torch():
    (held,) = assign([1], inspect_node())
    peaks = measure_peaks(engine_python(), held, "float32", seconds=0.2)
    assert peaks.flop_s > 1e9
    assert peaks.copy_bytes_s > 1e9
    assert peaks.product in {"torch.mm", "oneDNN"}


@pytest.mark.gpu
def test_a_gpu_is_measured_with_cuda_events():
    node = inspect_node()
    if not node.gpus:
        pytest.skip(node.no_gpu or "no GPU")
    (held,) = assign([1], node)
    peaks = measure_peaks(engine_python(), held, "bfloat16", seconds=0.2)
    assert peaks.flop_s > 10e12
    assert peaks.copy_bytes_s > 100e9
