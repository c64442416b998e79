"""How many tokens a second mockers, frontend and load client carry here before simulated steps come late.

``python -m tests.bench.mocker [--in-flight 16 48 …]`` launches four workers whose step is 20 ms whatever they hold, and asks
for more and more requests in flight. The figure in ``labkit/lab/simulation.py`` is per core: the mean ITL holds up to it, the
p99 to half of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from labkit.lab import Lab
from labkit.serve.engines.base import EngineOptions
from labkit.serve.timing import save_timing
from labkit.spec import Workload
from tests.bench.report import Value, write
from tests.support.profiles import handmade_profile

STEP_S = 0.020
IN_FLIGHT = (16, 48, 96, 160, 240, 320)


def main() -> int:
    """More and more in flight; the table's figures are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, nargs="+", default=IN_FLIGHT)
    options, _ = parser.parse_known_args()  # `make bench` hands every benchmark the same arguments
    values: list[Value] = []
    profile = handmade_profile(prefill_s=np.array([0.001, 0.0011]), itl_s=np.full((2, 2), STEP_S), extrapolate=True)
    with tempfile.TemporaryDirectory() as folder:
        timing = save_timing([profile], Path(folder) / "timing")
        first = Workload(isl=64, osl=200, concurrency=8, requests=16)
        options = EngineOptions(timing=timing)
        with Lab("llama-3.1-8b", "4A", engine="mocker", workload=first, options=options, results=folder, progress=str) as lab:
            lab._simulation = lab._loads.simulation = None  # the guard is what is measured here
            for count in options.in_flight:
                found = lab.measure(Workload(isl=64, osl=200, concurrency=count, duration_s=6.0, warmup_s=3.0)).summary
                rate, itl_s, p99_s = (found[name] or 0.0 for name in ("output_tok_s", "itl_mean_s", "itl_p99_s"))
                cpu = sum(value or 0.0 for name, value in found.items() if name.startswith("cpu_cores_"))
                print(
                    f"{count:4d} in flight  {rate:8,.0f} tok/s  ITL {itl_s * 1e3:6.2f} ms ({itl_s / STEP_S - 1:+.1%}), "
                    f"p99 {p99_s * 1e3:6.1f} ms  {cpu:.2f} of {len(os.sched_getaffinity(0))} cores used",
                    flush=True,
                )
                values += [
                    Value(f"{count} in flight: output", round(rate), "tok/s"),
                    Value(f"{count} in flight: mean ITL over the step that is simulated", round(itl_s / STEP_S, 3), ""),
                    Value(f"{count} in flight: p99 ITL", round(p99_s * 1e3, 1), "ms"),
                    Value(f"{count} in flight: CPU", round(cpu, 2), "cores"),
                ]
    print(f"written to {write('mocker', values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
