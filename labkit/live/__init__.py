"""What is known at each instant of a live exploration. Pure: no clock but that of the events, and no I/O but reading a run."""

from labkit.live.history import History
from labkit.live.pin import Estimate, Pin
from labkit.live.replay import samples_of
from labkit.live.request import RequestStory, read_story, request_story, worst_of
from labkit.live.sample import DeviceSample, Dot, LiveEvent, LiveStats, RouterFault, Sample, WorkerSample
from labkit.live.window import LiveWindow, Slow

__all__ = [
    "DeviceSample",
    "Dot",
    "Estimate",
    "History",
    "LiveEvent",
    "LiveStats",
    "LiveWindow",
    "Pin",
    "RequestStory",
    "RouterFault",
    "Sample",
    "Slow",
    "WorkerSample",
    "read_story",
    "request_story",
    "samples_of",
    "worst_of",
]
