"""Watching a load for saturation: how much its schedule still has to send decides whether a backlog will drain."""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.load.draws import LoadPhase
from labkit.load.schedule import Schedule
from labkit.measure.saturation import BacklogWatch
from labkit.spec import Workload
from labkit.spec.lengths import Lengths

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
        turns = 1.0 if workload.turns is None else Lengths.parse(workload.turns).typical or 1.0
        rate = workload.rate * turns
        measured_s = workload.duration_s if workload.duration_s is not None else (requests or 0) / rate
        total = rate * workload.warmup_s + (rate * measured_s if requests is None else min(requests, rate * measured_s))
        return BacklogWatch(total, workload.warmup_s + measured_s)
    before, measured = (np.fromiter(schedule.arrivals(phase), np.float64) for phase in _PHASES)
    measured_s = workload.duration_s if workload.duration_s is not None else float(measured.max(initial=0.0))
    return BacklogWatch(len(before) + len(measured), workload.warmup_s + measured_s)
