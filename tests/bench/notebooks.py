"""How long each notebook takes in batch, at its defaults and at its smallest settings (``tests.support.notebooks``).

    python -m tests.bench.notebooks [--only 01_compare …] [--smallest]

They run one after the other in one folder of results, so that the report (06) has runs to tell of; ``--smallest`` leaves the
defaults out. The time is that of ``labkit run``, from its start to its exit: engines are launched and figures are drawn in it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.report import Value, machine, write
from tests.support.notebooks import SMALLEST

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
MOST_S, MOST_SMALLEST_S = 600.0, 90.0


def seconds(name: str, values: tuple[str, ...], results: Path) -> float:
    """Run it; CalledProcessError where it fails, with what it said."""
    command = [sys.executable, "-m", "labkit.cli.main", "run", str(NOTEBOOKS / f"{name}.ipynb"), "--results", str(results)]
    began = time.perf_counter()
    done = subprocess.run([*command, *(word for value in values for word in ("-p", value))], capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-3000:] + done.stderr[-3000:], file=sys.stderr)
        done.check_returncode()
    return time.perf_counter() - began


def main() -> int:
    """All of them; 1 where one takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SMALLEST, default=list(SMALLEST))
    parser.add_argument("--smallest", action="store_true", help="not at the defaults, which take three quarters of an hour")
    options, _ = parser.parse_known_args()  # `make bench` hands every benchmark the same arguments
    values: list[Value] = []
    kinds = [("smallest", MOST_SMALLEST_S)] if options.smallest else [("smallest", MOST_SMALLEST_S), ("defaults", MOST_S)]
    print(f"notebooks in batch, {machine()}")
    with tempfile.TemporaryDirectory() as folder:
        for kind, most_s in kinds:
            for name in options.only:
                took_s = seconds(name, tuple(SMALLEST[name]) if kind == "smallest" else (), Path(folder))
                values.append(Value(f"{name}, {kind}", round(took_s), "s", None, f"≤ {most_s:g}", took_s <= most_s))
                print(f"{name:<24} {kind:<10} {took_s:6.0f} s  {'✓' if values[-1].holds else '✗'}", flush=True)
    print(f"written to {write('notebooks', values)}")
    return 0 if all(value.holds for value in values) else 1


if __name__ == "__main__":
    sys.exit(main())
