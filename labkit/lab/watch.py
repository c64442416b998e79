"""A lab under watch: a few times a second a ``Sample`` of all that is known, from one thread of this process.

Everything comes to this process by itself: the load shards' live copies, the telemetry's newest readings, the deployment's
processes, the run's notes. Whoever looks too slowly loses pictures: the shards and the sampler drop what is not taken, and the
records on disk lack nothing.
"""

from __future__ import annotations

import itertools
import os
import selectors
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Final, Protocol, Self

from labkit.errors import LabError, SpecError
from labkit.live.gauges import Gauges, Reading
from labkit.live.history import History
from labkit.live.replay import Split, live_event, splits_of
from labkit.live.sample import LiveEvent, RouterFault, Sample
from labkit.live.window import WINDOW_S, LiveWindow
from labkit.load.feed import Feed
from labkit.serve.deployment import Deployment
from labkit.serve.engines.attach import Attached
from labkit.spec.slo import Slo
from labkit.spec.topology import Role, Topology
from labkit.store.run import Run

OnSample = Callable[[Sample], None]

_MOST_HZ: Final = 20.0
_JOIN_S: Final = 10.0
_NUMBERS: Final = itertools.count(1)


class Fleet(Protocol):
    """The load shards, as far as they are watched."""

    @property
    def feeds(self) -> Sequence[Feed]:
        """Their live copies."""
        ...

    def watch(self, number: int) -> None:
        """Let them send it, for the watch of this number; 0: no more."""
        ...


class Telemetry(Protocol):
    """The sampler, as far as it is watched."""

    def readings(self) -> Mapping[tuple[str, str], Reading]:
        """By source and metric, the newest."""
        ...


class Watch:
    """Begins at once, and ends with ``stop``, at the end of its ``with`` block, or with the lab.

    Args:
        run: whose notes and splits are shown.
        fleet, telemetry, deployment: where it looks.
        on_sample: called with every sample on the watch's own thread. What it raises is kept in ``error`` and ends nothing; the
            ticks that it is too slow for are left out.
        hz: ticks a second.
        slo: for goodput, and for what is slow.
        window_s: length of the sliding window.
        changing: whether workers are being restarted on purpose.
        before: the watch that this one follows: its history goes on.

    Attributes:
        history: all samples so far.
        window: the load's last seconds, and what was slow in the last minute.
        error: the last exception of a tick or of ``on_sample``.

    Raises:
        SpecError: a rate that cannot be meant.
        LoadError: a load shard is gone.
    """

    def __init__(
        self,
        run: Run,
        fleet: Fleet,
        telemetry: Telemetry,
        deployment: Deployment | Attached,
        on_sample: OnSample | None = None,
        *,
        hz: float = 4.0,
        slo: Slo | None = None,
        window_s: float = WINDOW_S,
        changing: Callable[[], bool] = lambda: False,
        before: Watch | None = None,
    ) -> None:
        if isinstance(hz, bool) or not isinstance(hz, int | float) or not 0 < hz <= _MOST_HZ:
            raise SpecError(f"a watch at {hz!r} Hz", remedy=f"use a number above 0, at most {_MOST_HZ:g}")
        self._run, self._fleet, self._telemetry, self._deployment = run, fleet, telemetry, deployment
        self._on_sample, self._changing = on_sample, changing
        self._period_ns = int(1e9 / hz)
        self._number = next(_NUMBERS)
        self._origin_ns = int(run.manifest["clock"]["monotonic_ns"])
        self.history: History = before.history if before is not None else History()
        self.window = LiveWindow(window_s, slo=slo, origin_ns=self._origin_ns, since_ns=time.perf_counter_ns())
        self.error: Exception | None = None
        self._gauges = Gauges()
        self._notes: int = before._notes if before is not None else 0
        self._deaths: dict[tuple[str, int], str] = before._deaths if before is not None else {}
        self._had: dict[str, Role] = before._had if before is not None else {}  # worker → the last role that it had
        self._epochs, self._split = 0, Split(0, "", {}, {})
        self._latest: Sample | None = before._latest if before is not None else None
        self._stopping, self._ending = threading.Event(), threading.Lock()
        self._woken, self._wake = os.pipe()
        try:
            fleet.watch(self._number)
        except BaseException:
            self._close_wake()
            raise
        self._thread = threading.Thread(target=self._follow, name="labkit watch", daemon=True)
        self._thread.start()

    def look_at(self, deployment: Deployment) -> None:
        """Watch the processes of this one from now on, in the place of one that has ended."""
        self._deployment = deployment

    @property
    def latest(self) -> Sample | None:
        """The last sample; ``None`` before the first."""
        return self._latest

    @property
    def alive(self) -> bool:
        """Whether it still watches."""
        return self._thread.is_alive() and not self._stopping.is_set()

    @property
    def heard(self) -> bool:
        """Whether every load shard has told of itself, as they do while a load runs: what is under way is known then."""
        return self.window.heard >= sum(not feed.ended for feed in self._fleet.feeds)

    def stop(self) -> None:
        """End the watch and its thread; a second call does nothing. ``on_sample`` may call it too."""
        with self._ending:
            if not self._stopping.is_set():
                os.write(self._wake, b"x")  # before the thread may see that it is over, and close the pipe
                self._stopping.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<watch: {'running' if self.alive else 'stopped'}, {len(self.history)} samples>"

    # On its thread

    def _follow(self) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(self._woken, selectors.EVENT_READ)
            for feed in self._fleet.feeds:
                ready.register(feed, selectors.EVENT_READ, feed)
            due_ns = time.perf_counter_ns() + self._period_ns
            while not self._stopping.is_set():
                for key, _ in ready.select(max(due_ns - time.perf_counter_ns(), 0) / 1e9):
                    if key.data is not None and not self._read(key.data):
                        ready.unregister(key.fileobj)
                if (now_ns := time.perf_counter_ns()) >= due_ns and not self._stopping.is_set():
                    self._tick(now_ns)
                    due_ns += self._period_ns * (1 + max(time.perf_counter_ns() - due_ns, 0) // self._period_ns)
        with suppress(LabError):
            self._fleet.watch(0)
        self._close_wake()

    def _read(self, feed: Feed) -> bool:
        """Take in what a shard sent; whether more may come."""
        try:
            for batch in feed.read(self._number):
                self.window.add(batch)
        except Exception as error:  # a picture that fails must not end the watch
            self.error = error
        return not feed.ended

    def _tick(self, now_ns: int) -> None:
        try:
            sample = self._sample(now_ns)
            self.history.add(sample)
            self._latest = sample
            if self._on_sample is not None:
                self._on_sample(sample)
        except Exception as error:
            self.error = error

    def _sample(self, now_ns: int) -> Sample:
        self._gauges.take(self._telemetry.readings())
        epochs = self._run.manifest["epochs"]
        if len(epochs) != self._epochs:
            self._epochs, self._split = len(epochs), self._declared(splits_of(self._run.manifest)[-1])
        split, causes = self._split, self._causes()
        self._had |= split.roles
        left_out = {name: self._had[name] for name in causes if name not in split.roles and name in self._had}
        ticked = self.window.tick(self.window.horizon_ns(now_ns), accelerators=self._deployment.accelerators)
        return Sample(
            t_s=(now_ns - self._origin_ns) / 1e9,
            t_ns=now_ns,
            topology=split.topology,
            stats=ticked.stats,
            workers=self._gauges.workers(now_ns, {**split.roles, **left_out}, causes),
            devices=self._gauges.devices(now_ns, split.roles, split.devices),
            router=self._router_fault(),
            frontend=self._gauges.frontend(now_ns),
            events=self._events(),
            slow_ttft=ticked.slow_ttft,
            slow_itl=ticked.slow_itl,
        )

    def _declared(self, split: Split) -> Split:
        """The workers of an attached endpoint have the roles that its declared topology gives them, in the order of both."""
        there = self._deployment
        if not isinstance(there, Attached) or not isinstance(there.topology, Topology):
            return split
        names, roles = [name for name, _, _ in there.watched], [role for role, _ in there.topology.workers]
        return replace(split, roles=dict(zip(names, roles, strict=True))) if len(names) == len(roles) else split

    def _events(self) -> tuple[LiveEvent, ...]:
        new = self._run.notes[self._notes :]
        self._notes += len(new)
        return tuple(live_event(*note, self._origin_ns) for note in new)

    def _causes(self) -> dict[str, str]:
        """Worker → why it is dead. A death that nobody wanted is a fault of the run, noted when it is first seen."""
        if isinstance(self._deployment, Attached):
            return {}
        dead = {(worker.name, worker.tree.pid): worker for worker in self._deployment.workers if not worker.tree.alive}
        if not self._changing():
            for key, worker in dead.items():
                if key not in self._deaths:
                    failure = worker.failure("serving")
                    self._deaths[key] = failure.what.partition("\n")[0]
                    self._run.fault(failure)
        return {key[0]: self._deaths.get(key, "restarting") for key in dead}

    def _router_fault(self) -> RouterFault | None:
        """Why the router is dead, if so; noted like a worker's death."""
        there = self._deployment
        if isinstance(there, Attached) or (front := there.fallen_router) is None:
            return None
        key = (front.tree.name, front.tree.pid)
        if key not in self._deaths:
            if self._changing():
                return None  # it may be ended on purpose
            failure = front.failure()
            self._deaths[key] = failure.what.partition("\n")[0]
            self._run.fault(failure)
        return RouterFault(front.tree.name, self._deaths[key], front.last_lines)

    def _close_wake(self) -> None:
        os.close(self._woken)
        os.close(self._wake)
