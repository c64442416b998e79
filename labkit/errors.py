"""What can go wrong, as a tree. Every message names the bad value, and the remedy says what to do next.

LabError
├── SpecError         a topology, workload, SLO, model or parameter that cannot be meant
│   └── UnknownMetric a metric that does not exist
├── HardwareError     more accelerators, cores, ports or disk than this node has
├── MissingEngine     an engine, or its interpreter, is not installed
├── LaunchError       a process of the lab died or never became ready
├── ResplitError      a split that cannot be reached, or that did not take effect
├── LoadError         the load client cannot run what was asked
│   └── NotSimulated  a load that simulated workers would show wrongly: beyond their times, or too much for this machine
├── TelemetryError    a telemetry source is there but unusable (an absent one is ``None`` with a reason)
├── StoreError        a run folder that cannot be written, found or read
├── ComparisonError   runs that must not be compared: unequal hardware, unequal work
└── ProjectionError   a projection that cannot be made: no model of performance, no data, outside of what was calibrated
    └── InfeasibleSlo no split meets the SLO
"""

from __future__ import annotations

from labkit.harmless import harmless

#: What to do where the system gives no more file descriptors (EMFILE, ENFILE).
OPEN_FILES_REMEDY = "close what holds files open, or raise the limit with `ulimit -n` where the notebook server is started"


class LabError(Exception):
    """The base of every error that labkit raises on purpose.

    Args:
        what: one sentence with the value that is bad, which may be a stranger's: no terminal obeys it.
        remedy: one sentence with what to do about it.
    """

    def __init__(self, what: str, *, remedy: str) -> None:
        self.what = harmless(what)
        self.remedy = harmless(remedy)
        super().__init__(self.what, self.remedy)

    def __str__(self) -> str:
        return f"{self.what}\n  → {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.remedy)


def _rebuild(kind: type[LabError], what: str, remedy: str) -> LabError:
    return kind(what, remedy=remedy)


class SpecError(LabError):
    """What was asked for cannot be meant."""


class UnknownMetric(SpecError, KeyError):
    """A metric that does not exist; a KeyError too, since metrics are read like a dict."""

    __str__ = SpecError.__str__


class HardwareError(LabError):
    """The node does not have what was asked for."""


class MissingEngine(LabError):
    """An engine is not installed in the interpreter that should run it."""


class LaunchError(LabError):
    """A process died while starting, or never became ready."""


class ResplitError(LabError):
    """A split cannot be reached from here, or the counters do not show it."""


class LoadError(LabError):
    """The load client cannot run what was asked."""


class NotSimulated(LoadError):
    """Simulated workers would show a load wrongly: their times do not reach so far, or this machine does not keep up."""


class TelemetryError(LabError):
    """A telemetry source answered, but not in a way that can be used."""


class StoreError(LabError):
    """A run folder cannot be written, found or read."""


class ComparisonError(LabError):
    """These runs must not be put side by side."""


class ProjectionError(LabError):
    """What was asked cannot be projected: the model of performance is not installed, has no data, or is out of its range."""


class InfeasibleSlo(ProjectionError):
    """No split of so many GPUs meets the SLO; the message names the nearest that can be reached."""
