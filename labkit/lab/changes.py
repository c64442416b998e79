"""Changes of a lab's split and pool: said before, carried out while the load follows, kept with their proof."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from labkit.errors import LabError
from labkit.lab.cluster_telemetry import ClusterTelemetry
from labkit.lab.exposed import check_words
from labkit.lab.telemetry_agent import TelemetryAgent
from labkit.serve.deployment import CalledOff, Deployment, Draining, Patience, Resplit, Starting
from labkit.serve.drain import sensible_limit_s
from labkit.serve.engines.attach import Attached
from labkit.serve.engines.base import EngineOptions, Plan
from labkit.spec import Topology
from labkit.store.run import Run

#: Longest wait for a change to come to its end, once it is called off.
_LATE_S: Final = 30.0


@dataclass(slots=True, kw_only=True)
class Changes:
    """Plans changes and carries them out.

    Attributes:
        run: keeps them.
        deployment: what is changed; an attached one refuses.
        follow: points load and telemetry at the split that serves now.
        watch_pool: points telemetry at the workers that are left when others have ended.
        mean_s: how long requests of the present load are under way, which an old router is given time by; ``None`` if unknown.
        state: takes where a wait stands, in words, and the instant.
        under_way: whether one is being carried out.
        waiting: where the start of workers, or the drain of the old router, stands; ``None`` while neither is waited for.
        on_wait: called when that has changed, on the thread of whoever asked for the change.
    """

    run: Run
    deployment: Deployment | Attached
    follow: Callable[[], None]
    watch_pool: Callable[[], None] = lambda: None
    mean_s: Callable[[], float | None] = lambda: None
    state: Callable[[str, int], None] = lambda _line, _t_ns: None
    under_way: bool = False
    waiting: Starting | Draining | None = None
    on_wait: Callable[[], None] = lambda: None
    _patience: Patience = field(default_factory=Patience)
    _changed_ns: int = 0
    _turn: Any = field(default_factory=threading.RLock)

    @contextmanager
    def renewed(self, telemetry: TelemetryAgent | ClusterTelemetry, clients: Mapping[str, int]) -> Iterator[None]:
        """End the deployment, and let another take its place within; nobody looks for what ends on purpose.

        A change that is under way is called off, and none begins until then.
        """
        self.deployment.refuse()
        with self._turn:
            self.under_way = True
            try:
                telemetry.watch([], None, clients)
                self.deployment.close()
                yield
            finally:
                self.under_way = False

    def plan(self, topology: Topology | str | None, options: EngineOptions | None, **how: bool) -> Plan:
        """What ``change`` would do."""
        return self.own.plan(topology, options, **how)

    def change(
        self,
        topology: Topology | str | None,
        options: EngineOptions | None,
        *,
        in_place: bool = False,
        keep_unused: bool = False,
        drain_timeout_s: float | None = None,
    ) -> Resplit:
        """Bring the deployment to a split and options."""
        how = {"in_place": in_place, "keep_unused": keep_unused}
        if options is not None:
            check_words(options)
        with self._turn:
            there = self.own
            with self._marked(there.plan(topology, options, **how), drain_timeout_s) as patience:
                done = there.change(topology, options, on_switch=lambda _: self.follow(), patience=patience, **how)
            return self._kept(there, done)

    def restart(self, worker: str) -> Resplit:
        """Start a worker again."""
        with self._turn:
            there = self.own
            with self._marked(there.plan_restart(worker), None) as patience:
                done = there.restart(worker, on_switch=lambda _: self.follow(), patience=patience)
            return self._kept(there, done)

    def call_off(self) -> None:
        """End what is waited for, from any thread: ``change`` raises CalledOff, and what serves then serves on.

        Workers that start are ended, and the old router goes on where it still can. Where workers of the present split have been
        ended already, the wait for its drain alone ends. Nothing happens while nothing is waited for.
        """
        if self.waiting is not None:
            self._patience.call_off.set()

    def close(self) -> None:
        """Let no change begin any more, call off the one that is under way, and wait until the run keeps what came of it."""
        self.deployment.refuse()
        if self._turn.acquire(timeout=_LATE_S):
            self._turn.release()

    @property
    def own(self) -> Deployment:
        """The deployment, where it is the lab's own; raises ResplitError where it is not."""
        if isinstance(self.deployment, Attached):
            raise self.deployment.refusal()
        return self.deployment

    @contextmanager
    def _marked(self, plan: Plan, limit_s: float | None) -> Iterator[Patience]:
        self._note_failures()
        limit_s = sensible_limit_s(self.mean_s(), ends=bool(plan.ends)) if limit_s is None else limit_s
        self.under_way, self._patience = True, Patience(limit_s, self._waits)
        try:
            yield self._patience
        except (CalledOff, KeyboardInterrupt):
            if self.waiting is not None:
                self.run.note(f"called off while {self.waiting.past}: {self._serves}", kind="resplit")
            raise
        except LabError as error:
            self.run.fault(error, text=f"a change failed: {error.what}")
            raise
        finally:
            self.under_way, self.waiting = False, None
            self._changed_ns = time.perf_counter_ns()
            self.on_wait()

    def _note_failures(self) -> None:
        """What has died before a change, which may bring it back: afterwards nothing tells of it any more."""
        noted = {text for t_ns, kind, text in list(self.run.notes) if kind == "fault" and t_ns >= self._changed_ns}
        for failure in self.deployment.failures:
            if failure.what not in noted:  # a watch may have seen it when it happened
                self.run.fault(failure)

    @property
    def _serves(self) -> str:
        there = self.own
        return f"{there.topology} serves on" if there.roles else "nothing serves now"

    def _waits(self, now: Starting | Draining) -> None:
        self.waiting = now
        if isinstance(now, Draining):  # workers that start tell their stages themselves
            self.state(f"  {now}", time.perf_counter_ns())
        self.on_wait()

    def _kept(self, there: Deployment, done: Resplit) -> Resplit:
        self.watch_pool()
        *earlier, now = self.run.manifest["epochs"]
        self.run.update(epochs=[*earlier, {**now, "verified": there.verified}])
        switched_ns = done.called_ns + int(done.switched_s * 1e9)
        data = {"switched_s": done.switched_s, "drained_s": done.drained_s}
        self.run.note(str(done), kind="resplit", data=data, t_ns=switched_ns)
        return done
