"""What a notebook holds in its hand."""

from labkit.lab.held import close_labs
from labkit.lab.lab import Lab
from labkit.lab.loads import endless
from labkit.lab.measurement import Measurement, RunningLoad
from labkit.lab.watch import Watch

__all__ = ["Lab", "Measurement", "RunningLoad", "Watch", "close_labs", "endless"]
