"""Watching a load for saturation: how much its schedule still has to send decides whether a backlog will drain."""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.load.schedule import LoadPhase, Schedule
from labkit.measure.saturation import BacklogWatch
from labkit.spec import Workload

_PHASES: Final[tuple[LoadPhase, LoadPhase]] = ("warmup", "measure")


def watch_for(workload: Workload) -> BacklogWatch | None:
    """What looks at a load of this workload; ``None`` for a closed loop, which cannot outrun its server.

    Raises:
        LoadError: a trace that cannot be read.
    """
    if not workload.is_open_loop:
        return None
    schedule = Schedule(workload)
    if workload.rate is not None:
        requests = schedule.count("measure")
        measured_s = workload.duration_s if workload.duration_s is not None else (requests or 0) / workload.rate
        most = workload.rate * measured_s
        total = workload.rate * workload.warmup_s + (most if requests is None else min(requests, most))
        return BacklogWatch(total, workload.warmup_s + measured_s)
    before, measured = (np.fromiter(schedule.arrivals(phase), np.float64) for phase in _PHASES)
    measured_s = workload.duration_s if workload.duration_s is not None else float(measured.max(initial=0.0))
    return BacklogWatch(len(before) + len(measured), workload.warmup_s + measured_s)
