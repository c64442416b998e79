"""Run a few lines in a process that may have so much memory and so much time, and see how it ended."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: the text of the LabError that it raised, or of another error, and the most memory that it held."""

    error: str
    kind: str
    peak_bytes: int


def bounded(code: str, folder: Path, *, gib: float = 2.0, timeout_s: float = 60.0) -> Ended:
    """Execute ``code`` in ``folder``; its address space is ``gib`` beyond which nothing is given."""
    program = dedent(
        """
        import sys
        from labkit.errors import LabError
        import labkit.store, labkit.store.imports, labkit.load.traces, labkit.serve.timing
        kind = error = ""
        try:
            exec(compile(sys.argv[1], "case", "exec"), {"__name__": "case"})
        except BaseException as found:
            kind, error = "LabError" if isinstance(found, LabError) else type(found).__name__, str(found)
        status = open("/proc/self/status").read()  # ru_maxrss would begin at what the parent held
        print("\\0".join((kind, error, str(int(status.split("VmHWM:")[1].split()[0]) * 1024))))
        """
    )
    most = int(gib * 2**30)
    done = subprocess.run(
        [sys.executable, "-c", program, dedent(code)], cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    kind, error, peak = done.stdout.rstrip("\n").split("\0")
    return Ended(error, kind, int(peak))
