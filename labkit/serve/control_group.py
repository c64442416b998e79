"""What the control group of this process grants it: in a container, less than the machine has."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

_ROOT: Final = Path("/sys/fs/cgroup")


def memory_limit(root: Path = _ROOT) -> int | None:
    """Bytes of memory; ``None`` without a limit. ``root`` is where control groups (version 2) are mounted."""
    return _number(root / "memory.max")  # "max" is no number: no limit


def free_memory(root: Path = _ROOT) -> int:
    """Bytes that new processes can have now: what the machine can give, within the limit.

    The group's use counts files that were read and are kept in memory; they go when the memory is needed, as they do from what
    the machine has available.
    """
    free, limit, used = psutil.virtual_memory().available, memory_limit(root), _number(root / "memory.current")
    if limit is None or used is None:
        return free
    return min(free, max(limit - used + _cached(root), 0))


def cpu_limit(root: Path = _ROOT) -> float | None:
    """CPUs' worth of time; ``None`` without a limit."""
    with suppress(OSError, ValueError):
        quota_us, period_us = (root / "cpu.max").read_text().split()
        return int(quota_us) / int(period_us)
    return None


def _cached(root: Path) -> int:
    with suppress(OSError, ValueError):
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    return 0


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None
