"""One measurement: the load while it runs, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from labkit.errors import LoadError
from labkit.lab.load_fleet import FleetRun
from labkit.lab.overload import Lookout
from labkit.lab.residence import Residence
from labkit.load.progress import LoadResult, Progress
from labkit.measure.interference import Interference, Scope, interference
from labkit.measure.metrics import Summary, of_measurement, summarise
from labkit.measure.outcomes import CANCELLED, failures_in
from labkit.measure.records import Records, Window
from labkit.measure.saturation import BacklogWatch, Saturation
from labkit.measure.simulated import simulated_head
from labkit.measure.validity import Mark, marks_of
from labkit.measure.warmup import aligned
from labkit.spec import Slo
from labkit.store.run import Run

_TICK_S = 0.5
_FINISHED = "by hand; what was under way was followed to its end"


@dataclass(frozen=True, slots=True)
class Measurement:
    """A finished measurement; its numbers are computed from the run's records whenever they are asked for.

    Attributes:
        window: bounds, split and workload.
        counts: requests by outcome, all phases.
        stopped: it was stopped before its time; ``window.stopped`` says why.
        unsent: turns that were not sent because an earlier one of their conversation failed.
    """

    run: Run
    window: Window
    slo: Slo | None
    counts: Mapping[str, int]
    stopped: bool
    unsent: int = 0

    @property
    def records(self) -> Records:
        """The records of this measurement alone."""
        return of_measurement(self.run.records(), self.window)

    @property
    def summary(self) -> Summary:
        """Every metric of the window by name; ``None`` with a reason where it is undefined."""
        return summarise(self.run.digest(), self.window, slo=self.slo)

    @property
    def interference(self) -> dict[Scope, Interference]:
        """How much prefills on the same ``worker``, or anywhere in the ``deployment``, lengthen the gaps between tokens.

        The workers' spans, which say when each prefill ran, come up to a second after the last request has ended.
        """
        return interference([(self.run.digest(), self.window)])

    @property
    def failed(self) -> int:
        """Requests that did not end well, in any phase; those that a stop cancelled are none of them."""
        return failures_in(self.counts)

    @property
    def cancelled(self) -> int:
        """Requests that were under way when the load was stopped, in any phase."""
        return self.counts.get(CANCELLED, 0)

    @property
    def marks(self) -> list[Mark]:
        """What a reader must know before believing it, warnings first."""
        return marks_of(self.run.digest(), self.window, self.run.manifest)

    def __repr__(self) -> str:
        records, window = self.run.digest(), self.window
        summary = summarise(records, window, slo=self.slo)
        marks = marks_of(records, window, self.run.manifest, summary)
        unit = window.accelerator
        asked = f"{sum(self.counts.values())}, {self.failed} failed"
        asked += f", {self.cancelled} cancelled" if self.cancelled else ""
        asked += f", {self.unsent} later turns not sent" if self.unsent else ""
        early = f", stopped early: {window.stopped}" if window.stopped else ", stopped early" if self.stopped else ""
        rows = [
            ("TTFT", _ms(summary, "ttft_p50_s", "ttft_p99_s")),
            ("TPOT", _ms(summary, "tpot_p50_s", "tpot_p99_s")),
            ("ITL", _ms(summary, "itl_p50_s", "itl_p99_s")),
            ("output", f"{_number(summary['output_tok_s'])} tok/s, {_number(summary['output_tok_s_per_gpu'])} per {unit}"),
            ("requests", f"{asked}{early}"),
            ("window", window_text(window)),
        ]
        head = f"{simulated_head(unit)}{window.side} (measurement {window.measurement}, {window.length_s:.0f} s)"
        warnings = [f"  ! {mark.text}" for mark in marks if mark.severity == "warning"]
        return "\n".join([head, *(f"  {name:<9}{text}" for name, text in rows), *warnings])


def window_text(window: Window) -> str:
    """Which seconds of the load count, and how the beginning was found: ``8.1 to 40.0 s of the load; warm-up found: …``."""
    begin, end = ((t - window.start_ns) / 1e9 for t in (window.measure_ns, window.stop_ns))
    return f"{begin:.1f} to {end:.1f} s of the load" + (f"; {window.cut}" if window.cut else "")


def align(measurements: Sequence[Measurement]) -> list[Measurement]:
    """The measurements of one repeat from the same request on, kept so in their run: the warm-up that was found on one side is
    left out on all, so that they stay equal work."""
    if len({measurement.window.first_index for measurement in measurements}) < 2:
        return list(measurements)
    windows = aligned([(measurement.run.digest(), measurement.window) for measurement in measurements])
    for measurement, window in zip(measurements, windows, strict=True):
        measurement.run.add_window(window)
    return [replace(measurement, window=window) for measurement, window in zip(measurements, windows, strict=True)]


class Followed(Protocol):
    """What a running load reports to."""

    def keep(self, load: RunningLoad, result: LoadResult) -> Measurement:
        """Keep the window of a load that has ended."""
        ...

    def saturated(self, load: RunningLoad, found: Saturation) -> None:
        """Note that a load outruns its server."""
        ...

    def finished(self, load: RunningLoad, next_request: int) -> None:
        """Note that a load sends nothing more, and which request id is free."""
        ...


class RunningLoad:
    """A load that runs in its shard. Leave its ``with`` block, or call ``wait``, to get the measurement.

    Attributes:
        side, repeat, epoch, accelerators, accelerator: label and number of the window; split, GPUs (or cores) and what they are
            called when it began.
        result: the measurement; ``None`` while it runs.
        saturation: that the load outruns the server, once it is certain. It is looked for whether or not somebody waits; it is
            told where somebody does, or else where the load is read.
        stopped: why it was stopped before its time; empty where it was not.
    """

    def __init__(
        self,
        lab: Followed,
        load: FleetRun,
        side: str,
        repeat: int,
        epoch: int,
        *,
        accelerators: float,
        accelerator: str,
        watch: BacklogWatch | None = None,
        stop_when_saturated: bool = False,
    ) -> None:
        self.side, self.repeat, self.epoch = side, repeat, epoch
        self.accelerators, self.accelerator = accelerators, accelerator
        self.measurement = load.measurement
        self.result: Measurement | None = None
        self.stopped = ""
        self._lab, self._load = lab, load
        self._lookout, self._stop_when_saturated = Lookout(watch), stop_when_saturated
        self._residence = Residence()
        self._telling, self._keeping = threading.Lock(), threading.Lock()
        self._waited_for = self._told = False
        load.on_progress = self._look

    @property
    def progress(self) -> Progress | None:
        """Where the load stands; comes four times a second."""
        return self._load.progress

    @property
    def over(self) -> bool:
        """Whether every request of it has ended, as the shards say that sent them."""
        return self.result is not None or self._load.over

    @property
    def mean_s(self) -> float | None:
        """How long its requests are under way, on average over the last half minute; ``None`` where none ended."""
        return self._residence.mean_s

    @property
    def saturation(self) -> Saturation | None:
        """See above."""
        return self._lookout.found

    def wait(self, each: Callable[[Progress], None] | None = None) -> Measurement:
        """Block until the last request has ended. An interrupt stops the load and keeps what was recorded.

        Args:
            each: called about twice a second with the progress.

        Raises:
            LoadError: the load could not be run, or its process died.
        """
        if self.result is None:
            self._waited_for = True
            try:
                result = self._follow(each)
            except KeyboardInterrupt:
                self.stopped = self.stopped or "interrupted"
                self._load.stop()
                self._keep(self._load.wait(60.0))
                raise
            self._tell()
            return self._keep(result)
        return self.result

    def stop(self) -> Measurement:
        """Send nothing more, cancel what is under way, and keep what was recorded."""
        if self.result is None:
            self.stopped = "by hand" if self.stopped in ("", _FINISHED) else self.stopped
            self._load.stop()
        return self.wait()

    def finish(self) -> None:
        """Send nothing more, and let what is under way come to its end: another load may begin at once.

        ``wait`` gives the measurement when the last request has ended.
        """
        if self.result is None and not self.stopped:
            self.stopped = _FINISHED
            self._lab.finished(self, self._load.finish())

    def __enter__(self) -> RunningLoad:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.wait()
        elif self.result is None:
            self.stop()

    def __repr__(self) -> str:
        if self.result is not None:
            return repr(self.result)
        now, found = self.progress, self.saturation
        stands = f"{now.sent} sent, {now.done} done" if now else "starting"
        return f"<load on {self.side}: {stands}{f'; {found}' if found else ''}>"

    def _keep(self, result: LoadResult) -> Measurement:
        with self._keeping:  # one thread may wait while another stops
            if self.result is None:
                self.result = self._lab.keep(self, result)
            return self.result

    def _follow(self, each: Callable[[Progress], None] | None) -> LoadResult:
        while True:
            try:
                return self._load.wait(_TICK_S)
            except LoadError:
                if self._load.error is not None or not self._load.alive:
                    raise
            self._tell()
            if each is not None and (now := self.progress) is not None:
                each(now)

    def _look(self, now: Progress) -> None:
        """Called on the thread that reads the shards."""
        self._residence.add(now)
        if self.stopped or self.result is not None or not self._lookout.look(now):
            return
        if self._stop_when_saturated:
            self.stopped = str(self.saturation)
            self._load.stop()
        if not self._waited_for:
            self._tell()

    def _tell(self) -> None:
        """Tell the lab what was found, once."""
        with self._telling:
            if self.saturation is None or self._told:
                return
            self._told = True
        self._lab.saturated(self, self.saturation)


def _ms(summary: Mapping[str, float | None], p50: str, p99: str) -> str:
    return f"p50 {_number(summary[p50], 1e3)} ms, p99 {_number(summary[p99], 1e3)} ms"


def _number(value: float | None, scale: float = 1.0) -> str:
    return "–" if value is None else f"{value * scale:.1f}"
