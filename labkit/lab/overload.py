"""Watching a load for saturation: how much its schedule still has to send decides whether a backlog will drain."""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.load.draws import LoadPhase
from labkit.load.progress import Progress
from labkit.load.schedule import Schedule
from labkit.measure.saturation import BacklogWatch, Saturation
from labkit.spec import Workload
from labkit.spec.arrivals import expected
from labkit.spec.lengths import Lengths

#: Shards report four times a second each; a look takes a millisecond, and half a second apart is what the rule was tried with.
_APART_NS: Final = 450_000_000
_PHASES: Final[tuple[LoadPhase, LoadPhase]] = ("warmup", "measure")


def watch_for(workload: Workload) -> BacklogWatch | None:
    """What looks at a load of this workload; ``None`` for a closed loop, which cannot outrun its server.

    Raises:
        LoadError: a trace that cannot be read.
    """
    if not workload.is_open_loop:
        return None
    schedule = Schedule(workload)
    turns = 1.0 if workload.turns is None else Lengths.parse(workload.turns).typical or 1.0
    if workload.rate is not None:
        requests = schedule.count("measure")
        rate = workload.rate * turns
        measured_s = workload.duration_s if workload.duration_s is not None else (requests or 0) / rate
        total = rate * workload.warmup_s + (rate * measured_s if requests is None else min(requests, rate * measured_s))
        return BacklogWatch(total, workload.warmup_s + measured_s)
    profile, until_s = workload.profile, workload.duration_s
    if profile is not None and until_s is not None:  # of a load without an end, millions
        total = turns * expected(profile, until_s)
        if (requests := schedule.count("measure")) is not None:
            total = min(total, requests)
        return BacklogWatch(total + turns * expected(profile.warmup(), workload.warmup_s), workload.warmup_s + until_s)
    before, measured = (np.fromiter(schedule.arrivals(phase), np.float64) for phase in _PHASES)
    measured_s = workload.duration_s if workload.duration_s is not None else float(measured.max(initial=0.0))
    return BacklogWatch(len(before) + len(measured), workload.warmup_s + measured_s)


class Lookout:
    """Looks at what one load tells of itself, until it is saturated.

    Args:
        watch: judges it; ``None``: nobody looks, and nothing is found.

    Attributes:
        found: that it is saturated, once that is certain.
    """

    def __init__(self, watch: BacklogWatch | None) -> None:
        self.found: Saturation | None = None
        self._watch = watch
        self._begun_ns: int | None = None
        self._looked_ns = 0

    def look(self, now: Progress) -> bool:
        """Take in where the load stands; whether it turned out to be saturated just now."""
        if self._watch is None or self.found is not None:
            return False
        if self._begun_ns is None:
            self._begun_ns = now.t_ns
        elif now.t_ns - self._looked_ns < _APART_NS:
            return False
        self._looked_ns = now.t_ns
        self.found = self._watch.add((now.t_ns - self._begun_ns) / 1e9, now.sent, now.begun, now.done, now.output_tokens)
        return self.found is not None
