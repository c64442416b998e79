"""A deployment: a pool of workers with a split, serving under a URL, re-split and changed while it serves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from labkit.errors import LaunchError
from labkit.serve.changer import Changer
from labkit.serve.control_group import free_memory
from labkit.serve.counters import Counters
from labkit.serve.engines.base import Engine, EngineOptions, Plan
from labkit.serve.fork_server import ForkServers
from labkit.serve.front import Front
from labkit.serve.hardware import Node
from labkit.serve.hosts import Hosts, LocalHost
from labkit.serve.live_split import LiveSplit
from labkit.serve.meeting import Meeting
from labkit.serve.models import ServedModel
from labkit.serve.patience import DRAIN_S, CalledOff, Draining, Patience, Starting
from labkit.serve.planning import make_plan, make_restart_plan
from labkit.serve.pool import Pool, Progress, Worker
from labkit.serve.ports import PortLease, claim_port
from labkit.serve.proof import RoleProof
from labkit.serve.resplit import Resplit
from labkit.serve.situation import Pace, Running, Situation, fits, roles_of, survivors
from labkit.serve.standing_split import StandingSplit
from labkit.spec import Role, Topology

__all__ = ["DRAIN_S", "CalledOff", "Deployment", "Draining", "Patience", "Resplit", "Starting"]

_UNKNOWN_VOCAB: Final = 1000  # ids below this exist in every tokenizer in use
#: Longest wait for a change to come to its end, once it is called off because the deployment closes.
_LATE_S: Final = 30.0


class Deployment:
    """Workers and a router that serve ``model``. A context manager: leaving it ends every process.

    Attributes:
        share: whether workers may share a GPU or core.
        progress: takes a line for the user.
    """

    def __init__(
        self,
        model: ServedModel,
        topology: Topology,
        engine: Engine,
        node: Node,
        *,
        logs: Path,
        options: EngineOptions | None = None,
        otlp_endpoint: str | None = None,
        port: int | None = None,
        share: bool = True,
        ready_timeout_s: float = 1800.0,
        progress: Progress = print,
        hosts: Hosts | None = None,
        first_epoch: int = 0,
        patience: Patience | None = None,
    ) -> None:
        """Start the pool, warm every pair of workers, put a router in front and prove the roles.

        Args:
            model: as ``serve.models.prepare`` made it.
            topology: the split to begin with.
            engine: builds the commands.
            node: whose devices the workers get.
            logs: folder for one log a process.
            options: for every worker.
            otlp_endpoint: receives the workers' request spans.
            port: of the first router, on 127.0.0.1; free ones by default.
            share: whether workers may share a GPU or core.
            ready_timeout_s: longest wait for a worker to load.
            progress: takes a line for the user.
            hosts: those of somebody who closes them: where the workers run, and what they may use in the place of ``node``;
                this machine by default.
            first_epoch: number of its first router.
            patience: may call the start off.

        Raises:
            LaunchError, HardwareError, SpecError, ResplitError (CalledOff is one): nothing is left running then.
            TelemetryError: a worker gives no counters to prove its role with; nothing is left running either.
        """
        self.model, self.engine, self.share = model, engine, share
        self.progress = progress
        self._closing, self._changing = threading.Event(), threading.RLock()
        self._pace, self._patience = Pace(), patience or Patience()
        self._own_host = LocalHost(node, ForkServers(logs, progress), progress) if hosts is None else None
        self._hosts: Hosts = hosts or self._own_host  # type: ignore[assignment]  # one of them there is
        self._meeting = Meeting() if engine.registry is not None else None
        meeting = self._meeting.folder if self._meeting else None
        self._pool = Pool(
            engine, model, logs=logs, otlp_endpoint=otlp_endpoint, progress=progress,
            ready_timeout_s=ready_timeout_s, hosts=self._hosts, meeting=meeting, closing=self._closing,
        )  # fmt: skip
        kind = LiveSplit if engine.registry is None else StandingSplit
        self._split = kind(
            topology, engine, self._pool, model, vocab_size=model.vocab_size or _UNKNOWN_VOCAB, logs=logs, pace=self._pace,
            options=options or EngineOptions(), meeting=meeting, progress=progress, first_epoch=first_epoch,
            closing=self._closing,
        )  # fmt: skip
        self._changer = Changer(self._pool, self._split, self._pace, options or EngineOptions(), progress)
        lease: PortLease | None = None
        try:
            lease = claim_port(port) if port is not None else None  # a busy one is told before minutes of loading
            self._changer.launch(
                topology,
                model,
                self.node,
                share=share,
                kept=engine.registry is not None,
                lease=lease,
                patience=self._patience,
            )
            self._patience = Patience()
        except BaseException:
            if lease is not None:
                lease.close()
            self._patience = Patience()  # the one that was lent may be lent again
            self.close()
            raise

    @property
    def node(self) -> Node:
        """What the workers may use now: less than at the start where a machine was lost."""
        return self._hosts.node

    @property
    def options(self) -> EngineOptions:
        """What workers and router are started with."""
        return self._changer.options

    @property
    def topology(self) -> Topology:
        """The split that serves now."""
        return self._split.topology

    @property
    def epoch(self) -> int:
        """Number of the router that serves now, from 0."""
        return self._split.epoch

    @property
    def proof(self) -> tuple[RoleProof, ...]:
        """What each worker did on the split that serves now; empty before it was looked at."""
        return self._split.proof

    @property
    def url(self) -> str:
        """Where clients send requests now. A re-split changes it."""
        return self.front.url

    @property
    def front(self) -> Front:
        """The router that serves now."""
        if self._split.front is None:
            if self._changer.lost is not None and not self._closing.is_set():
                raise self._changer.lost
            raise _closed()
        return self._split.front

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The workers of the pool, also those that have died."""
        return self._pool.workers

    @property
    def serving(self) -> tuple[Worker, ...]:
        """The workers that have a role on the split that serves now."""
        return self._split.serving

    @property
    def dead(self) -> dict[str, LaunchError]:
        """Name of each worker that has died → why; empty once this is closed."""
        return {} if self._closing.is_set() else {worker.name: worker.failure("serving") for worker in self._pool.dead}

    @property
    def fallen_router(self) -> Front | None:
        """The router of the split that serves, where it has died; ``change()`` brings up another, and no worker starts."""
        front = self._split.front
        return front if front is not None and not front.tree.alive and not self._closing.is_set() else None

    @property
    def survivors(self) -> Topology | None:
        """The split that the living workers can serve on with, closest to the present one; ``None`` where none is left.

        The router goes on to send dead workers their share of the requests, which fail at once. ``resplit(survivors)`` ends that.
        """
        return survivors(self._split.roles or self._changer.whole, self._situation.living)

    @property
    def accelerators(self) -> float:
        """GPUs (or cores) that the workers which serve compute on: one that several of them share counts once."""
        return float(len({device for worker in self.serving for device in worker.computes_on}))

    @property
    def accelerator(self) -> str:
        """``GPU`` or ``core``: what ``accelerators`` counts."""
        return self.node.accelerator_noun

    @property
    def verified(self) -> bool:
        """Whether the counters showed the roles of the split that serves now."""
        return bool(self.proof) and all(row.against is None for row in self.proof)

    @property
    def watched(self) -> tuple[tuple[str, int | None, str | None], ...]:
        """Name, process id (``None``: of another machine) and Prometheus page of every worker."""
        return tuple(
            (worker.name, worker.tree.pid if worker.tree.here else None, f"{worker.url}/metrics") for worker in self.workers
        )

    @property
    def router_metrics(self) -> str | None:
        """Prometheus page of the router that serves now."""
        return self.front.metrics_url

    @property
    def devices_by_worker(self) -> dict[str, dict[str, Any]]:
        """Worker name → its devices, JSON-ready."""
        return {worker.name: asdict(worker.spec.devices) for worker in self.workers}

    @property
    def roles(self) -> dict[str, Role]:
        """Worker name → role on the split that serves now; a worker that is left out has none."""
        return dict(self._split.roles)

    def roles_in(self, topology: Topology) -> dict[str, Role]:
        """Worker name → role if ``topology`` were the split: roles go to workers of their TP in the order of names.

        The dead get none while the living suffice.
        """
        now = self._situation
        return roles_of(topology, now.living if fits(topology, now.living) else [worker.place for worker in now.workers])

    @property
    def failures(self) -> tuple[LaunchError, ...]:
        """Why workers of the split or the router have ended; empty while all is well, and once it is closed."""
        if self._closing.is_set():
            return ()
        return (self._changer.lost,) if self._changer.lost is not None else self._split.failures

    def counters(self) -> dict[str, Counters]:
        """Totals now of every worker that has a role, by name."""
        return self._split.counters()

    def plan(
        self, topology: Topology | str | None = None, options: EngineOptions | None = None, *, in_place: bool = False,
        keep_unused: bool = False,
    ) -> Plan:  # fmt: skip
        """What ``change`` with the same arguments (the present ones by default) would do; or why it is impossible."""
        wanted = self.topology if topology is None else Topology(topology)
        return make_plan(self._situation, wanted, options or self.options, in_place=in_place, keep_unused=keep_unused)

    def plan_restart(self, name: str) -> Plan:
        """What ``restart`` of this worker would do.

        Raises:
            ResplitError: there is no such worker.
        """
        return make_restart_plan(self._situation, name, self._changer.whole)

    def resplit(
        self, topology: Topology | str, *, on_switch: Callable[[Deployment], None] | None = None, patience: Patience | None = None
    ) -> Resplit:
        """Change the split while requests are served: new router up, traffic moved, old router drained, roles proven.

        A change of the pool (TP, number of workers) or a dead worker starts what it must, and says so through ``progress``.

        Args:
            on_switch: called when a new router takes requests, so that a client can follow; twice where others serve meanwhile.
            patience: how workers that start, and clients of the old router, are waited for. Clients keep it for as long as they
                need, but a worker that is to end does so at its limit.

        Raises:
            ResplitError: the counters contradict the new roles; the new router serves all the same, not ``verified``.
            LaunchError: the new router or a new worker cannot be started; what served then goes on where the plan kept it.
            HardwareError, SpecError: the split is impossible here; nothing has changed.
            CalledOff: it was, while workers started or the old router drained; what serves then serves on. So after an interrupt.
        """
        return self.change(topology, on_switch=on_switch, patience=patience)

    def change(
        self,
        topology: Topology | str | None = None,
        options: EngineOptions | None = None,
        *,
        in_place: bool = False,
        keep_unused: bool = False,
        on_switch: Callable[[Deployment], None] | None = None,
        patience: Patience | None = None,
    ) -> Resplit:
        """As ``resplit``, with other options for the workers too: carries out ``plan`` of the same arguments."""
        how = {"in_place": in_place, "keep_unused": keep_unused}
        with self._turn(patience) as patience:
            return self._changer.carry_out(self.plan(topology, options, **how), self._told(on_switch), patience)

    def restart(
        self, name: str, *, on_switch: Callable[[Deployment], None] | None = None, patience: Patience | None = None
    ) -> Resplit:
        """Start one worker again, dead or not, while the others go on: same name, devices and ports; its role is proven.

        Where the split has the same roles without it, the others serve alone meanwhile. Raises as ``resplit`` does.
        """
        with self._turn(patience) as patience:
            return self._changer.carry_out(self.plan_restart(name), self._told(on_switch), patience)

    def refuse(self) -> None:
        """Change nothing any more: one that is under way is called off, and the next is refused. ``close`` does it first."""
        self._closing.set()
        self._patience.call_off.set()

    def close(self) -> None:
        """End every process of this deployment, those included that a change is starting. Harmless when done twice."""
        self.refuse()
        ended = False
        try:
            ended = self._changing.acquire(timeout=_LATE_S)
        finally:
            self._end()
            if ended:
                self._changing.release()

    @contextmanager
    def _turn(self, patience: Patience | None) -> Iterator[Patience]:
        """One change at a time, which ``close`` calls off. What one that it did not wait for has still started is ended here."""
        with self._changing:
            self._patience = patience or Patience()
            if self._closing.is_set():  # looked at behind the line above: whoever closes calls it off, or it is seen here
                raise _closed()
            try:
                yield self._patience
            finally:
                self._patience = Patience()  # the one that was lent may be lent again
                if self._closing.is_set():
                    self._end()

    def _end(self) -> None:
        self._split.close()
        self._pool.close()
        if self._own_host is not None:
            self._own_host.close()
        if self._meeting is not None:
            self._meeting.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._split.front is None:
            return f"<Deployment {self.topology} of {self.model.name}: {'closed' if self._closing.is_set() else 'lost'}>"
        nouns = {name: role.noun for name, role in self._split.roles.items()}
        nouns = {worker.name: nouns.get(worker.name, "unused") if worker.tree.alive else "dead" for worker in self.workers}
        rows = [f"  {worker.name} {nouns[worker.name]:<10} {worker.where}" for worker in self.workers]
        return "\n".join([f"{self.topology} of {self.model.name} at {self.url} (epoch {self.epoch})", *rows])

    @property
    def _situation(self) -> Situation:
        return Situation(
            topology=self.topology,
            roles=self._split.roles,
            routed=self._split.front is not None and self._split.front.tree.alive,
            options=self.options,
            workers=tuple(Running(w.place, w.options, w.tree.alive) for w in self._pool.workers),
            engine=self.engine,
            model=self.model,
            node=self.node,
            share=self.share,
            pace=self._pace,
            names=frozenset(self._pool.names),
            free_bytes=free_memory() if isinstance(self._hosts, LocalHost) else None,
        )

    def _told(self, on_switch: Callable[[Deployment], None] | None) -> Callable[[], None]:
        return (lambda: on_switch(self)) if on_switch is not None else lambda: None


def _closed() -> LaunchError:
    return LaunchError("this deployment is closed", remedy="launch a new one")
