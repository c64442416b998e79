"""The measured peaks of one accelerator: matrix product and copy, by a short torch benchmark in the engine's interpreter.

A data sheet's figures are no use here: a core's depend on its clock, its vector units and on what torch makes of them, a GPU's
on power and clocks. What a worker reaches is held against what this device does on this day with the same library, in the
worker's dtype, on the worker's own core or GPU. The benchmark takes turns with the worker there: run it while no load runs.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from labkit.errors import MissingEngine, SpecError
from labkit.serve import peaks_entry
from labkit.serve.hardware import Devices

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_TIMEOUT_S = 120.0
_NAMES = {"auto": "bfloat16", "half": "float16", "float": "float32"}


@dataclass(frozen=True, slots=True)
class Peaks:
    """What one accelerator (GPU, or core) does at most.

    Attributes:
        flop_s: FLOP/s of the best matrix product.
        copy_bytes_s: of a copy, bytes read and bytes written both counted.
        dtype: of the product.
        dtype_bytes: of one number.
        matrix: edge of the matrices with the best product.
        product: what made it: ``torch.mm``, or ``oneDNN``.
        device: name, and which.
        threads: that computed.
        torch: version.
    """

    flop_s: float
    copy_bytes_s: float
    dtype: str
    dtype_bytes: int
    matrix: int
    product: str
    device: str
    threads: int
    torch: str

    @property
    def ridge(self) -> float:
        """FLOPs per byte from which on arithmetic, and no longer memory, is the limit."""
        return self.flop_s / self.copy_bytes_s

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}, " if self.threads else ""
        return (
            f"{self.device}: {flops_text(self.flop_s)} in {self.dtype} ({threads}matrices of {self.matrix}, {self.product}), "
            f"copy {self.copy_bytes_s / 1e9:,.1f} GB/s, ridge at {self.ridge:.3g} FLOP per byte; measured with torch {self.torch}"
        )


def measure_peaks(python: Path | str, devices: Devices, dtype: str, *, seconds: float = 1.0) -> Peaks:
    """Measure the peaks of the first accelerator of a worker; takes torch's import and up to three times ``seconds``.

    Args:
        python: the engine's interpreter, which has torch.
        devices: of the worker: its first GPU, or its first core, of which it has one for each TP rank.
        dtype: that the worker computes in.
        seconds: for each library's product, and for the copy.

    Raises:
        SpecError: a dtype that there is no product for.
        MissingEngine: the benchmark does not run there.
    """
    name = _NAMES.get(dtype, dtype)
    if name not in _DTYPE_BYTES:
        raise SpecError(f"no matrix product is measured in {dtype!r}", remedy=f"use one of {', '.join(_DTYPE_BYTES)}")
    on_gpu = bool(devices.gpus)
    cores = () if on_gpu else devices.cores[:1]
    argv = [
        python,
        peaks_entry.__file__,
        "cuda" if on_gpu else "cpu",
        name,
        max(1, len(cores)),
        seconds,
        ",".join(map(str, cores)),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": str(max(1, len(cores)))}
    if on_gpu:
        env |= {"CUDA_VISIBLE_DEVICES": str(devices.gpus[0]), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    try:
        done = subprocess.run([*map(str, argv)], env=env, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1:]
        raise MissingEngine(
            f"the peaks of the device cannot be measured with {python}: {said[0] if said else error}",
            remedy="see that torch runs there, and that the GPU has 5 GiB left",
        ) from None
    best = max(found["flop_s"], key=lambda one: float(one["flop_s"]))
    return Peaks(
        flop_s=best["flop_s"],
        copy_bytes_s=found["copy_bytes_s"],
        dtype=name,
        dtype_bytes=_DTYPE_BYTES[name],
        matrix=best["matrix"],
        product=best["by"],
        device=f"{found['name']} {devices.gpus[0]}" if on_gpu else f"core {','.join(map(str, cores))}",
        threads=0 if on_gpu else len(cores),
        torch=found["torch"],
    )


def best_of(one: Peaks, other: Peaks) -> Peaks:
    """The higher of each: whatever disturbs a benchmark makes it slower. Both are of the same device and dtype."""
    product = max(one, other, key=lambda peaks: peaks.flop_s)
    return replace(product, copy_bytes_s=max(one.copy_bytes_s, other.copy_bytes_s))


def flops_text(flop_s: float) -> str:
    """FLOP/s in GFLOP/s or TFLOP/s."""
    return f"{flop_s / 1e12:,.1f} TFLOP/s" if flop_s >= 1e12 else f"{flop_s / 1e9:,.1f} GFLOP/s"
