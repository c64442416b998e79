"""What if there were other GPUs, or a thousand of them: projections of a model of performance, never measurements.

One module asks AIConfigurator (``aiconfigurator``); everything else composes, compares and calibrates what it said.
"""

from labkit.whatif.calibration import Calibration, NoCalibration, calibrate
from labkit.whatif.second_opinion import SecondOpinion, kept_opinion, second_opinion
from labkit.whatif.study import Question, WhatIf, ask_whatif, project, reopened
from labkit.whatif.timing_estimates import timing_from_estimates
from labkit.whatif.timing_runs import TimingFit, timing_from_runs
from labkit.whatif.worker_times import WorkerTimes, worker_times

__all__ = [
    "Calibration",
    "NoCalibration",
    "Question",
    "SecondOpinion",
    "TimingFit",
    "WhatIf",
    "WorkerTimes",
    "ask_whatif",
    "calibrate",
    "kept_opinion",
    "project",
    "reopened",
    "second_opinion",
    "timing_from_estimates",
    "timing_from_runs",
    "worker_times",
]
