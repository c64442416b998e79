"""A pool: the workers that run. Started in parallel with a progress line each, ended alone or together."""

from __future__ import annotations

import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from labkit.errors import LaunchError, TelemetryError
from labkit.serve.counters import requests_on
from labkit.serve.engines.base import Engine, EngineOptions, Place, WorkerSpec
from labkit.serve.engines.failures import explain
from labkit.serve.hosts import Hosts, Lease
from labkit.serve.interrupts import Held, held_back
from labkit.serve.models import ServedModel
from labkit.serve.patience import CalledOff, Patience, Starting, closed_meanwhile
from labkit.serve.ports import HIGHEST
from labkit.serve.processes import Tree, new_lines, stop_all
from labkit.serve.requests import is_up
from labkit.spec import Role

#: Takes a line for the user. Workers start on several threads, but tell one at a time.
Progress = Callable[[str], None]

_POLL_S, _TELL_S = 0.1, 1.0
#: A first start after an installation reads and compiles for a minute or two before the engine says a word.
_SILENCE_S = 15.0
_LOG_TAIL_LINES = 400
#: What torch and CUDA say in a process that should not have been forked.
_FORK_TROUBLE = re.compile(r"in forked subprocess|CUDA error: initialization error|cuda.* before.* fork", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker that runs (or ran).

    Attributes:
        spec: what was asked for.
        options: what it was started with.
        tree: its processes.
        ready_s: seconds from its start until it answered.
        forked: whether a fork server brought it up, so that it did not import the engine itself.
    """

    spec: WorkerSpec
    options: EngineOptions
    tree: Tree
    ready_s: float = 0.0
    forked: bool = False

    @property
    def name(self) -> str:
        """``w0``, ``w1`` …: it stays while roles change."""
        return self.spec.name

    @property
    def url(self) -> str:
        """Base URL of its HTTP server."""
        return self.spec.url

    @property
    def computes_on(self) -> tuple[int, ...]:
        """Its GPUs; without any, its cores."""
        return self.spec.devices.gpus or self.spec.devices.cores

    @property
    def place(self) -> Place:
        """Its name, TP degree and devices."""
        return Place(self.name, self.spec.tp, self.spec.devices, self.spec.role)

    @property
    def requests_left(self) -> int:
        """Requests that run or wait on it; 0 where it has died."""
        try:
            return int(requests_on(self.url))
        except TelemetryError:
            return int(self.tree.alive)  # too busy to say

    def drain(self) -> None:
        """Ask a worker that registers to take no more requests, end what is on it, and exit: TERM to its root alone."""
        self.tree.terminate()

    @property
    def where(self) -> str:
        """Devices, URL and process id, for people."""
        devices = self.spec.devices
        noun, which = ("GPU", devices.gpus) if devices.gpus else ("core", devices.cores)
        shared = " (shared)" if devices.shared else ""
        return f"{noun} {','.join(map(str, which))}{shared}  {self.url}  pid {self.tree.pid}"

    def failure(self, doing: str) -> LaunchError:
        """Why this worker ended, as one error with the cause from its log, its command and the remedy."""
        if (lost := self.tree.lost) is not None:
            return LaunchError(f"{self.name} died while {doing}: {lost.what}", remedy=lost.remedy)
        why = explain(self.tree.log_tail(_LOG_TAIL_LINES), self.tree.exit)
        return LaunchError(
            f"{self.name} died while {doing}: {why.cause}\n  command: {shlex.join(self.tree.argv)}\n  log: {self.tree.log}",
            remedy=why.remedy,
        )


class Pool:
    """Workers of one model, started and ended one by one or together, until ``close``.

    Attributes:
        workers: in the order of their names, also those that have died.
        names: those that workers of it have had.
    """

    def __init__(
        self,
        engine: Engine,
        model: ServedModel,
        *,
        logs: Path,
        otlp_endpoint: str | None,
        progress: Progress,
        ready_timeout_s: float,
        hosts: Hosts,
        meeting: Path | None = None,
        closing: threading.Event | None = None,
    ) -> None:
        """An empty pool.

        Args:
            engine: builds the commands.
            model: what every worker serves.
            logs: folder for one log a start.
            otlp_endpoint: receives the workers' request spans.
            progress: takes a line for the user.
            ready_timeout_s: longest wait for a worker to load.
            hosts: where they run.
            meeting: folder through which workers register, with engines whose workers do.
            closing: once it is set no worker starts, and nothing that is on one is waited for.
        """
        self.workers: tuple[Worker, ...] = ()
        self.names: set[str] = set()
        self._engine, self._model, self._logs, self._otlp_endpoint = engine, model, logs, otlp_endpoint
        self._progress, self._ready_timeout_s, self._hosts = progress, ready_timeout_s, hosts
        self._meeting, self._draining, self._closing = meeting, set[str](), closing or threading.Event()
        self._leases: dict[str, tuple[tuple[int, str], ExitStack, tuple[int, int, int]]] = {}  # name → (TP, host), leases, ports

    def start(
        self,
        places: Sequence[Place],
        options: EngineOptions,
        roles: Mapping[str, Role] | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Start workers in parallel and wait until all are ready. One that had a place before gets its ports again.

        Args:
            places: where.
            options: of every worker.
            roles: worker name → role that it is started for, where options depend on it.
            patience: is told where it stands, and may call it off.

        Raises:
            LaunchError: one died or was not ready in time; all of these are ended first, and stay among the dead. The others of
                the pool go on.
            CalledOff: it was; all of these are ended and forgotten, but for those that were dead before. So after an interrupt.
        """
        names, patience = {place.name for place in places}, patience or Patience()
        fallen = [worker for worker in self.dead if worker.name in names]
        self.names |= names
        stop_all([worker.tree for worker in self.workers if worker.name in names])
        begun: list[Worker] = []
        of_worker = {name: options.of((roles or {}).get(name)) for name in names}
        try:
            self._begin_all(begun, places, of_worker, patience)
            try:
                begun = _await_ready(begun, self._engine, self._progress, self._ready_timeout_s, patience)
            except LaunchError as error:
                plain = self._again_without_fork(begun, error)
                begun = []
                self._begin_all(begun, plain, of_worker, patience)
                begun = _await_ready(begun, self._engine, self._progress, self._ready_timeout_s, patience)
        except (CalledOff, KeyboardInterrupt):
            stop_all([worker.tree for worker in begun])
            begun = fallen
            self.stop(names - {worker.name for worker in fallen})
            raise
        except BaseException:
            stop_all([worker.tree for worker in begun])
            raise
        finally:
            fresh = {worker.name: worker for worker in (*self.workers, *begun)}
            self.workers = tuple(sorted(fresh.values(), key=lambda worker: _number(worker.name)))

    def stop(self, names: Collection[str]) -> None:
        """End these workers, and give their ports back."""
        stop_all([worker.tree for worker in self.workers if worker.name in names])
        self.workers = tuple(worker for worker in self.workers if worker.name not in names)
        self._draining -= set(names)
        self._forget(names)

    def end(self, names: Collection[str], *, grace_s: float = 0.0) -> None:
        """Stop workers that served, after ``grace_s`` at most for what is on them. What is left then is cut, and that is said."""
        ending, deadline = self.drain(names), time.monotonic() + grace_s
        while (left := sum(worker.requests_left for worker in ending)) and time.monotonic() < deadline:
            if self._closing.wait(_POLL_S):
                break
        if left:
            said = f"{left} request{'s' * (left != 1)} on {', '.join(worker.name for worker in ending)}"
            self._progress(f"{said} {'are' if left > 1 else 'is'} cut")
        self.stop(names)

    def drain(self, names: Collection[str]) -> list[Worker]:
        """Those of these workers that live; where workers register, they are asked to take no more requests."""
        ending = [worker for worker in self.living if worker.name in names]
        if self._engine.registry is not None:
            self._draining |= {worker.name for worker in ending}
            for worker in ending:
                worker.drain()
        return ending

    def keep(self, places: Sequence[Place]) -> None:
        """Note what workers hold now that go on beside others: a core that they had alone may be shared."""
        held = {place.name: place.devices for place in places}
        self.workers = tuple(
            replace(worker, spec=replace(worker.spec, devices=held.get(worker.name, worker.spec.devices)))
            for worker in self.workers
        )

    @property
    def dead(self) -> tuple[Worker, ...]:
        """Workers whose process has ended, but those that were asked to."""
        return tuple(worker for worker in self.workers if not worker.tree.alive and worker.name not in self._draining)

    @property
    def living(self) -> tuple[Worker, ...]:
        """Workers whose process runs."""
        return tuple(worker for worker in self.workers if worker.tree.alive)

    def close(self) -> None:
        """End every worker, and give all ports back."""
        self.stop([worker.name for worker in self.workers])
        self._forget(list(self._leases))

    def _begin_all(
        self, begun: list[Worker], places: Sequence[Place], options: Mapping[str, EngineOptions], patience: Patience
    ) -> None:
        """Begin these, hosts side by side: each may import the engine first. Those that were begun are in ``begun`` then."""
        on: dict[str, list[Place]] = {}
        for place in places:
            on.setdefault(self._hosts.of(place.devices).name, []).append(place)

        def begin(some: Sequence[Place], interrupt: Held) -> None:
            for place in some:
                interrupt.check()
                begun.append(self._begin(place, options[place.name], patience, interrupt))

        with held_back() as interrupt:
            if len(on) == 1:
                begin(places, interrupt)
                return
            with ThreadPoolExecutor(max_workers=len(on)) as threads:
                for beginning in [threads.submit(begin, some, interrupt) for some in on.values()]:
                    beginning.result()

    def _begin(self, place: Place, options: EngineOptions, patience: Patience, interrupt: Held) -> Worker:
        if self._closing.is_set():
            raise closed_meanwhile()
        host, spec = self._hosts.of(place.devices), self._spec(place)
        command = self._engine.worker(replace(spec, devices=host.local(spec.devices)), self._model, options)
        self._draining.discard(spec.name)
        fork, log = self._engine.fork_server(command), _fresh(self._logs, spec.name)

        def keep_waiting() -> None:
            interrupt.check()
            patience.keep_waiting([spec.name])

        devices = host.local(spec.devices)
        begun = host.start(spec.name, command, devices=devices, log=log, fork=fork, keep_waiting=keep_waiting)
        return Worker(spec=spec, options=options, tree=begun.tree, forked=begun.forked)

    def _again_without_fork(self, begun: Sequence[Worker], error: LaunchError) -> list[Place]:
        """End workers whose start failed, and name them again if the fork may be the cause; else raise the error."""
        suspects = [worker for worker in begun if worker.forked and _blames_fork(worker)]
        stop_all([worker.tree for worker in begun])
        if not suspects:
            raise error
        for worker in suspects:
            self._hosts.of(worker.spec.devices).distrust(worker.name, error.what.splitlines()[0])
        return [worker.place for worker in begun]

    def _spec(self, place: Place) -> WorkerSpec:
        host = self._hosts.of(place.devices)
        there = (place.tp, host.name)
        if self._leases.get(place.name, (there,))[0] != there:
            self._forget([place.name])
        if place.name not in self._leases:
            leases = ExitStack()
            http: Lease = host.free_ports(2, consecutive=False, highest=self._engine.highest_port)
            leases.callback(http.close)
            side: Lease = host.free_ports(place.tp, consecutive=True, highest=HIGHEST)
            leases.callback(side.close)
            self._leases[place.name] = (there, leases, (http.ports[0], side.ports[0], http.ports[1]))
        port, kv_port, event_port = self._leases[place.name][2]
        return WorkerSpec(
            name=place.name,
            tp=place.tp,
            devices=place.devices,
            port=port,
            kv_port=kv_port,
            net=host.net,
            otlp_endpoint=host.otlp_endpoint or self._otlp_endpoint,
            role=place.role,
            meeting=self._meeting,
            event_port=event_port,
        )

    def _forget(self, names: Collection[str]) -> None:
        for name in names:
            if (lease := self._leases.pop(name, None)) is not None:
                lease[1].close()


def _number(name: str) -> int:
    return int(name.removeprefix("w"))


def _blames_fork(worker: Worker) -> bool:
    """Whether a start that failed may have failed because the process was forked: it crashed, or CUDA says so."""
    if worker.tree.alive:
        return False
    crashed = (worker.tree.exit or 0) < 0 and worker.tree.exit not in (-signal.SIGKILL, -signal.SIGTERM)
    return crashed or _FORK_TROUBLE.search(worker.tree.log_tail(_LOG_TAIL_LINES)) is not None


def _fresh(logs: Path, name: str) -> Path:
    """A log of its own for each start of a worker."""
    starts = len(list(logs.glob(f"{name}*.log")))
    return logs / (f"{name}-{starts + 1}.log" if starts else f"{name}.log")


def _await_ready(
    workers: Sequence[Worker], engine: Engine, progress: Progress, timeout_s: float, patience: Patience
) -> list[Worker]:
    give_up, telling = threading.Event(), threading.Lock()

    def tell(line: str) -> None:
        with telling:  # print writes a line and its end apart
            progress(line)

    with ThreadPoolExecutor(max_workers=len(workers)) as threads:
        try:
            waiting: list[Future[Worker]] = [
                threads.submit(_await_one, worker, engine, tell, timeout_s, give_up) for worker in workers
            ]
            _wait(waiting, [worker.name for worker in workers], patience)
            return [future.result() for future in waiting]
        finally:
            give_up.set()


def _wait(waiting: Sequence[Future[Worker]], names: Sequence[str], patience: Patience) -> None:
    """Until all are done or one has failed, whose error is raised; raises CalledOff where that is sooner."""
    began_s = told_s = time.monotonic()
    while True:
        done, left = wait(waiting, _POLL_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if not left:
            return
        missing = [name for name, future in zip(names, waiting, strict=True) if future in left]
        patience.keep_waiting(missing)
        if (now_s := time.monotonic()) >= told_s:
            told_s += _TELL_S
            patience.tell(Starting(tuple(missing), now_s - began_s))


def _await_one(worker: Worker, engine: Engine, progress: Progress, timeout_s: float, give_up: threading.Event) -> Worker:
    started, stage, read, told_s = time.monotonic(), "starting", 0, 0.0
    order = {name: number for number, name in enumerate(engine.stages)}
    progress(f"{worker.name}: starting")
    while not give_up.wait(_POLL_S):
        elapsed_s = time.monotonic() - started
        lines, read = new_lines(worker.tree.log, read)
        for line in lines:
            reached = engine.stage(line)
            if reached and order.get(reached, 0) > order.get(stage, -1):
                stage, told_s = reached, elapsed_s
                progress(f"{worker.name}: {stage} ({elapsed_s:.0f} s)")
        if elapsed_s - told_s > _SILENCE_S:
            told_s = elapsed_s
            progress(f"{worker.name}: still {stage} ({elapsed_s:.0f} s)")
        if not worker.tree.alive:
            raise worker.failure(stage)
        if is_up(worker.url):
            ready_s = time.monotonic() - started
            progress(f"{worker.name}: ready after {ready_s:.1f} s")
            return replace(worker, ready_s=ready_s)
        if elapsed_s > timeout_s:
            raise LaunchError(
                f"{worker.name} was not ready after {timeout_s:g} s (last stage: {stage})\n  log: {worker.tree.log}",
                remedy="read its log; raise ready_timeout_s if it only needs longer to load",
            )
    raise LaunchError(f"{worker.name} was given up: another worker failed", remedy="look at that one's error")
