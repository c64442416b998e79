"""The loads of one lab: each is a measurement of its run, from its first request until its window is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from labkit.errors import LabError, LoadError, SpecError, TelemetryError
from labkit.lab.load_fleet import LoadFleet
from labkit.lab.measurement import Measurement, RunningLoad
from labkit.lab.overload import watch_for
from labkit.lab.simulation import Simulation
from labkit.lab.telemetry_agent import SAMPLER
from labkit.load.progress import UNSENT, LoadResult
from labkit.load.schedule import Schedule
from labkit.load.served import fitted
from labkit.measure.records import Window
from labkit.measure.saturation import Saturation
from labkit.measure.warmup import cut_warmup
from labkit.serve.deployment import Deployment
from labkit.serve.engines.attach import Attached
from labkit.spec import Slo, Topology, Workload
from labkit.spec.arrivals import Ramp
from labkit.store.run import Run
from labkit.telemetry.nvml_errors import silent_gpus

#: Seconds that a load without an end lasts: longer than any session.
ENDLESS_S: Final = 7 * 86_400.0
_WITHOUT_SAMPLER: Final = "requests are recorded all the same; close this lab and launch another for utilisation and spans"


def endless(workload: Workload) -> Workload:
    """The same load until it is finished or stopped by hand; it has no warm-up of its own.

    A ramp takes as long as it did, and its last rate holds from then on.
    """
    arrivals, ramp = workload.arrivals, workload.profile
    if isinstance(ramp, Ramp) and ramp.over_s is None and workload.duration_s is not None:
        arrivals = str(replace(ramp, over_s=round(workload.duration_s, 9)))
    return replace(workload, arrivals=arrivals, duration_s=ENDLESS_S, requests=None, sample=False, warmup_s=0.0, warmup="given")


def in_words(workload: Workload) -> str:
    """A load in words; one without an end has none there either."""
    return str(workload).replace(f", {ENDLESS_S:g} s", "")


@dataclass(slots=True, kw_only=True)
class Loads:
    """Begins loads, numbers them and their requests, and keeps their windows.

    Attributes:
        run: keeps them.
        fleet: sends them.
        deployment: what they are sent to.
        slo: of the measurements, when it is asked.
        progress: takes a line for the user.
        missing: telemetry that there is not, and why, when it is asked.
        longest: most tokens of a request and its answer.
        simulation: what the workers pretend, where they do.
    """

    run: Run
    fleet: LoadFleet
    deployment: Deployment | Attached
    slo: Callable[[], Slo | None]
    progress: Callable[[str], None]
    missing: Callable[[], Mapping[str, str]]
    longest: int | None
    simulation: Simulation | None = None
    _measurement: int = 0
    _next_request: int = 0
    _under_way: dict[int, tuple[RunningLoad, Workload]] = field(default_factory=dict)

    def begin(
        self, workload: Workload | None, *, side: str | None, repeat: int | None, stop_when_saturated: bool = False
    ) -> RunningLoad:
        """Start a workload in the background; arguments as for ``Lab.load``.

        Raises:
            LabError: there is none, a worker is dead, one is running that was not finished, or this one cannot be run.
        """
        if workload is None:
            raise SpecError(
                "this lab has no workload", remedy="pass one: lab.measure(Workload(isl=512, osl=32, rate=1.5, duration_s=40))"
            )
        for failure in self.deployment.failures:
            raise failure
        side = side or str(self.deployment.topology)
        if repeat is None:
            known = [window.side for window in self.run.windows] + [load.side for load, _ in self._under_way.values()]
            repeat = known.count(side)
        workload = fitted(workload, self.longest)
        notes = list(Schedule(workload).notes())
        if self.simulation is not None:
            notes += self.simulation.check(workload, Topology(str(self.deployment.topology)))
        started = self.fleet.run(self._measurement, workload, first_request=self._next_request)
        self._measurement += 1
        epoch, watch = self.deployment.epoch, watch_for(workload)
        load = RunningLoad(
            self, started, side, repeat, epoch, accelerators=self.deployment.accelerators,
            accelerator=self.deployment.accelerator, watch=watch, stop_when_saturated=stop_when_saturated,
        )  # fmt: skip
        self._under_way[load.measurement] = (load, workload)
        self.run.note(f"load on {side}: {in_words(workload)}", kind="load", data=workload.to_dict())
        for note in notes:
            self.run.note(note, data={"measurement": started.measurement})
            self.progress(f"  {note}")
        return load

    def must_be_over(self, wanted: str) -> None:
        """Refuse what cannot be done while a load runs: LoadError."""
        if running := [load.side for load, _ in self._under_way.values() if load.result is None]:
            raise LoadError(
                f"a load on {running[0]} runs: no request may be under way when {wanted}", remedy="wait for it, or stop it"
            )

    def finished(self, load: RunningLoad, next_request: int) -> None:
        """A load sends nothing more: the next may begin with this request."""
        self._next_request = max(self._next_request, next_request)
        self.run.note(f"load {load.measurement + 1} sends nothing more", kind="load", data={"measurement": load.measurement})

    def keep(self, load: RunningLoad, result: LoadResult) -> Measurement:
        """Keep the window of a load that has ended."""
        _, workload = self._under_way[load.measurement]
        topologies = {epoch["epoch"]: epoch["topology"] for epoch in self.run.manifest["epochs"]}
        window = Window(
            measurement=load.measurement, side=load.side, topology=topologies[load.epoch],
            repeat=load.repeat, epoch=load.epoch,
            start_ns=result.start_ns, measure_ns=result.measure_ns, stop_ns=result.stop_ns, end_ns=result.end_ns,
            accelerators=load.accelerators, accelerator=load.accelerator,
            workload=workload.to_dict(), stopped=load.stopped,
        )  # fmt: skip
        self._next_request = max(self._next_request, result.next_request)
        if workload.warmup == "auto":
            window = cut_warmup(self.run.digest(), window)
        self.run.add_window(window)
        if self.simulation is not None:
            self.run.update(**self.simulation.judged(self.run, window))
        self._under_way.pop(load.measurement, None)
        if result.unsent:
            self.run.note(f"{result.unsent} {UNSENT}", data={"measurement": load.measurement})
            self.progress(f"  {result.unsent} {UNSENT}")
        missing, failures = dict(self.missing()), list[LabError](self.deployment.failures)
        self.run.update(telemetry_missing=missing)
        if SAMPLER in missing:
            failures.append(TelemetryError(missing[SAMPLER], remedy=_WITHOUT_SAMPLER))
        failures += silent_gpus(missing)
        noted = {text for t_ns, kind, text in list(self.run.notes) if kind == "fault" and t_ns >= result.start_ns}
        for failure in failures:
            if failure.what not in noted:  # a watch may have seen it when it happened
                self.run.fault(failure, t_ns=result.end_ns)
            self.progress(str(failure))
        return Measurement(self.run, window, self.slo(), result.counts, result.stopped, result.unsent)

    @property
    def loading(self) -> bool:
        """Whether a load runs, or has requests under way."""
        return any(not load.over for load, _ in list(self._under_way.values()))

    @property
    def mean_s(self) -> float | None:
        """How long requests of the newest load are under way; ``None`` where none runs, or too little of it is known."""
        known = [load.mean_s for load, _ in self._under_way.values() if load.result is None]
        return next((mean_s for mean_s in reversed(known) if mean_s is not None), None)

    def saturated(self, load: RunningLoad, found: Saturation) -> None:
        """Note that a load outruns its server."""
        self.run.note(f"{load.side} #{load.repeat + 1} is {found}", data={"measurement": load.measurement, **asdict(found)})
        self.progress(f"  {found}")

    def end(self) -> None:
        """Stop those under way that nobody waits for, and keep their windows."""
        for load, _ in list(self._under_way.values()):
            with suppress(LabError):
                load.stop()
