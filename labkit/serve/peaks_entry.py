"""What a device can do at most, measured with torch: run by the engine's interpreter, on its own, and prints one JSON line.

Arguments: device (``cpu`` or ``cuda``), dtype as torch names it, threads, seconds for each of the two, and the cores to stay on,
separated by commas (or nothing).

* Matrix product: C = A · B of square matrices, 2 n³ FLOPs; the best of several sizes and runs is the peak. On a CPU by
  ``torch.mm`` and by oneDNN, whose tensors are laid out before as engines have their weights: in float32 ``torch.mm`` is MKL's,
  which makes half of what oneDNN does out of a processor of another maker.
* Copy: the bytes read and the bytes written of a copy between two buffers far larger than the caches; the best of its runs.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
_COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2 * 2**30}
_LEAST_RUNS = 3


def best_s(torch: Any, device: str, run: Callable[[], object], seconds: float) -> float:
    """The shortest of the runs that fit into the time; three at least, after one that does not count."""
    run()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < _LEAST_RUNS or time.perf_counter() < until:
        if device == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
    return min(times)


def products(torch: Any, device: str, dtype: Any, n: int) -> dict[str, Callable[[], object]]:
    """Name → a product of square matrices, by each library that does one in this dtype."""
    a, b = (torch.randn(n, n, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    c = torch.empty(n, n, device=device, dtype=dtype)
    ways: dict[str, Callable[[], object]] = {"torch.mm": partial(torch.mm, a, b, out=c)}
    if device == "cpu" and torch.backends.mkldnn.is_available():
        product = partial(torch.nn.functional.linear, a.to_mkldnn(), b.to_mkldnn())
        try:
            product()
        except RuntimeError:  # oneDNN has none in this dtype for this processor
            return ways
        ways["oneDNN"] = product
    return ways


def product_flop_s(torch: Any, device: str, dtype: Any, seconds: float) -> list[dict[str, Any]]:
    """FLOP/s of each product: ``by`` which library, of which ``matrix``. A library has the seconds for all its sizes."""
    found: list[dict[str, Any]] = []
    for n in _SIZES[device]:
        for by, run in products(torch, device, dtype, n).items():
            spent_s = best_s(torch, device, run, seconds / len(_SIZES[device]))
            found.append({"by": by, "matrix": n, "flop_s": 2 * n**3 / spent_s})
        if 8 * spent_s > seconds:  # in a dtype that this device is not made for: a larger one would take minutes
            break
    return found


def main(argv: list[str]) -> None:
    """Measure, and print."""
    device, dtype_name, threads, seconds, cores = argv[0], argv[1], int(argv[2]), float(argv[3]), argv[4]
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    import torch

    torch.set_num_threads(threads)
    dtype = getattr(torch, dtype_name)
    with torch.inference_mode():
        flop_s = product_flop_s(torch, device, dtype, seconds)
        source = torch.ones(_COPY_BYTES[device], device=device, dtype=torch.uint8)
        sink = torch.empty_like(source)
        copy_bytes_s = 2 * source.numel() / best_s(torch, device, partial(sink.copy_, source), seconds)
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    print(json.dumps({"flop_s": flop_s, "copy_bytes_s": copy_bytes_s, "torch": torch.__version__, "name": name}))


if __name__ == "__main__":
    main(sys.argv[1:])
