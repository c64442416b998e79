"""An afternoon at one lab: a load without an end, re-splits, pins, all while it runs, and all kept in the lab's run.

Whatever is asked for is done on one thread of its own, one thing after the other, so whoever asks (a button, a slider) never
waits and two wishes never cross. Each order returns a future; what it did or why it failed is also said in words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from typing import Final, Literal, TypeVar

from labkit.errors import LabError, LoadError
from labkit.experiments.backlog import Backlog
from labkit.experiments.orders import Cancelled, Orders
from labkit.experiments.pins import keep_pin, options_of, stretch
from labkit.experiments.recovery import another_router, leave_out, restart
from labkit.experiments.relaunch import relaunch
from labkit.experiments.said import Said
from labkit.lab.lab import Lab
from labkit.lab.launch import Launch, plan_launch
from labkit.lab.loads import endless, in_words
from labkit.lab.measurement import RunningLoad
from labkit.lab.watch import Watch
from labkit.live.pin import Pin
from labkit.measure.digest import digest
from labkit.measure.memory import live_long
from labkit.measure.records import Window
from labkit.measure.warmup import find_warmup
from labkit.serve.deployment import CalledOff, Draining, Patience, Starting
from labkit.serve.engines.base import EngineOptions, Plan
from labkit.serve.resplit import Resplit
from labkit.spec import Model, Slo, Topology, Workload
from labkit.store.cut_out import part_of
from labkit.store.run import open_run

__all__ = ["Cancelled", "Exploration", "Said"]
#: A pin looks back so far at most.
PIN_S: Final = 60.0
_SIDE: Final = "exploration"

_T = TypeVar("_T")


class Exploration:
    """Orders to one lab.

    Args:
        lab: it stays open; whoever made it closes it.
        workload: what is sent first; the lab's own by default.
        on_change: called, on this object's thread, whenever ``said``, ``busy``, ``running`` or ``pins`` has changed.
        pin_s: how far a pin looks back at most, in seconds.

    Attributes:
        lab, workload: see above; a relaunch and a start change them.
        said: all lines so far.
        applied: how often the split or the pool was changed.
        pins: all pins so far.
    """

    def __init__(
        self, lab: Lab, workload: Workload | None = None, *, on_change: Callable[[], None] | None = None, pin_s: float = PIN_S
    ) -> None:
        live_long()
        self.lab = lab
        self.workload = workload or lab.workload
        self.said: list[Said] = []
        self.pins: list[Pin] = []
        self.pin_s = pin_s
        self.applied = 0
        self._on_change = on_change
        self._origin_ns = int(lab.run.manifest["clock"]["monotonic_ns"])
        self._orders = Orders(self._not_done, self._changed)
        self._backlog = Backlog(lambda: self._watch(), lambda: self.lab.loading, self.wait)
        self._load: RunningLoad | None = None
        self._sending: Workload | None = None
        self._launching: Patience | None = None
        self._launch_stands: Starting | Draining | None = None
        self._since_ns = time.perf_counter_ns()

    @property
    def busy(self) -> bool:
        """Whether an order is being carried out, or waits for that."""
        return self._orders.busy

    @property
    def running(self) -> bool:
        """Whether requests are sent."""
        return self._load is not None and self._load.result is None and not self._load.stopped

    @property
    def since_ns(self) -> int:
        """When split or load changed last, by the records' clock: no pin looks back further."""
        return self._since_ns

    @property
    def stoppable(self) -> bool:
        """Whether there is a load to stop: one that sends, or one that was paused, whose requests may still be under way."""
        return self._load is not None and self._load.result is None

    def plan(self, topology: Topology | str | None = None, options: EngineOptions | None = None) -> Plan:
        """What ``apply`` would do, and cost; raises SpecError where the split cannot be meant."""
        return self.lab.plan(topology, options)

    def plan_launch(self, model: Model | str, topology: Topology | str | None = None, *, engine: str | None = None) -> Launch:
        """What ``relaunch`` would do; raises the LabError that makes it impossible."""
        return plan_launch(self.lab, model, topology, engine=engine, workload=self.workload)

    def listen(self, on_change: Callable[[], None] | None) -> None:
        """Call this at every change from now on, in place of whom was called before."""
        self._on_change = on_change

    @property
    def sending(self) -> Workload | None:
        """What is sent now; ``None`` where nothing is."""
        return self._sending if self.running else None

    def start(self, workload: Workload | None = None) -> Future[None]:
        """Send ``workload`` from now on, without an end. What ran before sends nothing more, and is followed to its end."""
        return self._orders.take(lambda: self._start(workload))

    def pause(self) -> Future[None]:
        """Send nothing more; requests under way are followed to their end."""
        return self._orders.take(self._pause)

    def stop(self) -> Future[None]:
        """Send nothing more, and cancel what is under way."""
        return self._orders.take(self._stop)

    def apply(self, topology: Topology | str | None = None, options: EngineOptions | None = None) -> Future[None]:
        """Bring the lab to this split and these options while the load goes on."""
        return self._orders.take(lambda: self.apply_now(topology, options))

    def judge_by(self, slo: Slo) -> Future[None]:
        """Hold what is measured from now on, and pins from now on, against another SLO."""
        return self._orders.take(lambda: self._judge_by(slo))

    def relaunch(self, model: Model | str, topology: Topology | str | None = None, *, engine: str | None = None) -> Future[None]:
        """Close the lab, with its run kept, and launch another in its place; its load begins at once.

        What is known to be impossible changes nothing. Where the launch fails all the same, the model before is launched again.
        Topology and engine are the present ones by default.
        """
        return self._orders.take(lambda: relaunch(self, model, topology, engine))

    def restart(self, worker: str) -> Future[None]:
        """Start a worker again while the others and the load go on."""
        return self._orders.take(lambda: restart(self, worker))

    def leave_out(self, worker: str) -> Future[None]:
        """Let the others serve alone while a worker is dead: a router goes on to send it its share, and that fails.

        It goes before other orders, and is carried out while one that has begun only waits (a pin, an autopilot); a change that
        is under way comes to its end first. Nothing is done where it lives again by then, or has no part in the split.
        """
        return self._orders.take(lambda: leave_out(self, worker), urgent=True)

    def new_router(self) -> Future[None]:
        """Bring up a router in the place of one that has died, as urgently as ``leave_out``; no worker starts, the load goes on.

        Dead workers are left out. Nothing is done where a router takes requests by then.
        """
        return self._orders.take(lambda: another_router(self), urgent=True)

    def pin(self, label: str | None = None) -> Future[Pin]:
        """Keep what was measured since the last change as a pin."""
        return self._orders.take(lambda: self.pin_now(label))

    def rerun(self, pin: Pin, seconds: float | None = None) -> Future[Pin]:
        """Measure a pin again: its split, its workers' options, its load, for as long as it lasted, as a new pin.

        Args:
            seconds: how long instead.
        """
        return self._orders.take(lambda: self._rerun(pin, seconds))

    def order(self, work: Callable[[], _T]) -> Future[_T]:
        """Carry out something longer, such as an autopilot, as an order among the others."""
        return self._orders.take(work)

    def aside(self, work: Callable[[], None]) -> None:
        """Do something beside the orders, on a thread of its own; what goes wrong is said."""

        def carry_out() -> None:
            try:
                work()
            except Exception as error:
                self.say("failed", str(error))

        threading.Thread(target=carry_out, name="labkit aside", daemon=True).start()

    def cancel(self) -> None:
        """Call off what is being waited for, now or in an order that is still to come: a pin, an autopilot, workers, a drain.

        What serves then serves on; a re-split that waits for nothing is carried to its end.
        """
        self._orders.cancel()
        self._call_off()

    @property
    def closed(self) -> bool:
        """Whether it carries out nothing any more."""
        return self._orders.closed

    @property
    def waiting(self) -> Starting | Draining | None:
        """Where the start of workers, or the drain of an old router, stands; ``None`` where neither is waited for."""
        return self._launch_stands or self.lab.changes.waiting

    def close(self) -> None:
        """Stop the load, call off a change or a launch that is under way, and carry out nothing more; the lab stays open."""
        self._orders.close(self._call_off)
        load, self._load = self._load, None
        if load is not None:
            with suppress(LabError):
                load.stop()

    def say(self, kind: Literal["doing", "done", "failed"], text: str) -> None:
        """Tell the person."""
        self.said.append(Said((time.perf_counter_ns() - self._origin_ns) / 1e9, kind, text))
        self._changed()

    def apply_now(self, topology: Topology | str | None = None, options: EngineOptions | None = None) -> None:
        """``apply``, on the orders' thread."""
        plan = self.lab.plan(topology, options)
        self.say("doing", plan.text)
        if plan.why is not None:
            raise plan.why
        if plan.kind == "nothing":
            self.say("done", f"{self.lab.deployment.topology} serves already")
            return
        self.change_now(lambda: self.lab.change(topology, options))

    def pin_now(self, label: str | None = None, *, whole: bool = False) -> Pin:
        """``pin``, on the orders' thread.

        Args:
            whole: keep all since the last change, and not the last ``pin_s`` of it.

        Raises:
            LoadError: no load runs, nothing was measured since the last change, or requests do not end.
        """
        load = self._load
        if load is None or not self.running:
            raise LoadError("nothing to pin: no load runs", remedy="start a load, and pin it when the charts are level")
        stop_ns = time.perf_counter_ns()
        earliest_ns = 0 if whole else stop_ns - int(self.pin_s * 1e9)
        window = self._window(load, max(self._since_ns, earliest_ns), stop_ns)
        self.say("doing", f"pinning the last {window.length_s:.0f} s: its requests are followed to their end")
        self._backlog.follow(stop_ns)
        number = len(self.pins) + 1
        label = label or f"{number}: {window.topology}"
        label += f" ({number})" if label in {pin.label for pin in self.pins} else ""
        if not part_of(self.lab.run, window, chunks=False).requests.num_rows:
            raise LoadError(
                f"nothing to pin: no request in the {window.length_s:.1f} s since the last change", remedy="wait a little"
            )
        pin = keep_pin(self.lab.run, window, label, name=f"{self.lab.run.id}-pin{number}")
        self.pins.append(pin)
        self.lab.run.note(f"pin {label}", kind="pin", data={"run": pin.run}, t_ns=stop_ns)
        doubts = {True: "", False: ", which was not stationary", None: ", too short to tell whether it is stationary"}[
            pin.settled
        ]
        found = f"; {len(pin.warnings)} warning{'s' * (len(pin.warnings) > 1)} below the pins' table" if pin.warnings else ""
        self.say("done", f"pinned {label} as run {pin.run}{doubts}{found}")
        return pin

    def since_now(self) -> None:
        """Let the next pin look back no further than to this instant."""
        self._since_ns = time.perf_counter_ns()

    def wind_down(self) -> None:
        """Send nothing more, and wait until what is under way has ended."""
        self._pause()
        stop_ns = time.perf_counter_ns()
        if (load := self._load) is not None:
            self._backlog.until(lambda: load.over, stop_ns)
        self._backlog.follow(stop_ns, on_disk=False)

    def begin_again(self) -> None:
        """Wind down, then send the same load from its first request on: what is measured next has the same requests."""
        try:
            self.wind_down()
        finally:
            self._start(None)

    def wait(self, seconds: float) -> None:
        """Wait, so that ``cancel`` ends it; raises Cancelled then."""
        self._orders.wait(seconds)

    def settled(self) -> bool | None:
        """Whether the load since the last change is stationary; ``None`` where there is too little of it to tell."""
        load = self._load
        if load is None:
            return None
        window = self._window(load, self._since_ns, time.perf_counter_ns())
        part = part_of(self.lab.run, window)
        return find_warmup(digest(part), part.windows[0]).settled

    def _not_done(self, error: Exception) -> None:
        """What the person called off is as wished; the rest has failed."""
        text = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
        self.say("done" if isinstance(error, Cancelled | CalledOff) else "failed", text)

    def _start(self, workload: Workload | None) -> None:
        workload = workload or self.workload
        if workload is None:
            raise LoadError("there is no workload to start", remedy="give one: Workload(isl=512, osl=32, rate=1.5)")
        self.workload = workload
        for failure in self.lab.deployment.failures:
            raise failure  # while what runs goes on
        before = self._load
        if before is not None and self.running:
            before.finish()
        self._watch()
        self.since_now()  # its first request is part of what is measured
        self._load, self._sending = self.lab.load(endless(workload), side=_SIDE), workload
        self.say("done", f"sending {in_words(endless(workload))}")

    def _pause(self) -> None:
        if self._load is not None and self.running:
            self._load.finish()
            self.say("done", "nothing more is sent; requests under way go on")

    def _stop(self) -> None:
        load, self._load = self._load, None
        if load is not None:
            cancelled = load.stop().cancelled
            under_way = f": {cancelled} request{'s' * (cancelled != 1)} under way cancelled" if cancelled else ""
            self.say("done", f"stopped{under_way}")

    def measure_for(self, seconds: float, topology: Topology | str) -> None:
        """Wait while a split is measured; raises Cancelled where it is called off, and LoadError where another came instead."""
        before = self.applied
        self.wait(seconds)
        if self.applied != before or str(self.lab.deployment.topology) != str(topology):
            raise LoadError(
                f"the split changed while it was measured: {self.lab.deployment.topology} serves now",
                remedy="see the log for what died; restart it, and measure again",
            )

    def _rerun(self, pin: Pin, seconds: float | None) -> Pin:
        kept = open_run(pin.run, self.lab.run.path.parent)
        (window,) = kept.windows
        self.apply_now(pin.topology, options_of(kept, self.lab.changes.own.options))
        self._start(Workload.from_dict(window.workload))
        self.measure_for(seconds if seconds is not None else pin.window_s, pin.topology)
        return self.pin_now(f"{pin.label}, again", whole=True)

    def _judge_by(self, slo: Slo) -> None:
        self.lab.slo = slo
        self.lab.run.update(slo=asdict(slo))
        self.since_now()
        self.say("done", f"SLO: {slo}")

    def launch_now(self, launch: Launch) -> None:
        """Put another lab in the place of the present one, whose run is kept, and send its load; on the orders' thread.

        Raises:
            LabError: it cannot be launched, or was called off. The present one is closed all the same.
        """
        before, self._load, patience = self.lab, None, Patience(tell=self._waits)
        before.close()
        self._launching = patience
        if self.closed:  # before there was anything to call off
            patience.call_off.set()
        try:
            self.lab = launch.begin(before, self.workload, lambda line: self.say("doing", line.strip()), patience)
        finally:
            self._launching = self._launch_stands = None
            self.applied += 1
        self._origin_ns = int(self.lab.run.manifest["clock"]["monotonic_ns"])
        self.pins = []
        self.say("done", f"{launch.topology} of {launch.model.name} serves; {before.run.id} and its pins are kept")
        if self.workload is not None and not self.closed:
            self._start(None)

    def _call_off(self) -> None:
        self.lab.changes.call_off()
        if (launching := self._launching) is not None:
            launching.call_off.set()

    def _waits(self, now: Starting | Draining) -> None:
        self._launch_stands = now
        self._changed()

    def change_now(self, work: Callable[[], Resplit]) -> None:
        """Change split or pool, on the orders' thread; what is measured from then on is another point."""
        self.lab.changes.on_wait = self._change_waits
        try:
            done = work()
        finally:
            self._since_ns = time.perf_counter_ns()
            self.applied += 1
        self.say("done", str(done))

    def _change_waits(self) -> None:
        if self._orders.closed:  # it began to wait only when ``close`` had called it off
            self.lab.changes.call_off()
        self._changed()

    def _watch(self) -> Watch:
        """The lab's watch, which knows the requests under way."""
        return self.lab.watched()

    def _window(self, load: RunningLoad, start_ns: int, stop_ns: int) -> Window:
        assert self._sending is not None
        return stretch(self.lab.deployment, self._sending, load.measurement, start_ns, stop_ns)

    def _changed(self) -> None:
        if self._on_change is not None:
            with suppress(Exception):  # a picture that fails must not end an order
                self._on_change()
