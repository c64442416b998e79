"""Several load shards as one: each sends every n-th request of the same schedule, from a process and an event loop of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from labkit.errors import LoadError, SpecError
from labkit.lab.load_agent import LoadAgent, LoadRun
from labkit.load.feed import Feed
from labkit.load.progress import LoadResult, Progress
from labkit.spec import Workload

MOST_SHARDS: Final = 64
_LEAD_NS: Final = 100_000_000  # the shards agree on a start that lies so far ahead
_GRACE_S: Final = 60.0
_FINISH_S: Final = 10.0


class FleetRun:
    """One measurement's load over all shards; it reads like a ``LoadRun``.

    Attributes:
        on_progress: called with where all shards stand together whenever one of them has told, on the thread that reads them.
    """

    def __init__(self, fleet: LoadFleet, runs: Sequence[LoadRun]) -> None:
        self.on_progress: Callable[[Progress], None] | None = None
        self._fleet, self._runs = fleet, runs
        self.measurement = runs[0].measurement

    @property
    def progress(self) -> Progress | None:
        """Of all shards together; ``None`` before the first of them has told any."""
        return merged_progress([run.progress for run in self._runs if run.progress is not None])

    @property
    def error(self) -> LoadError | None:
        """Why a shard could not run its part."""
        return next((run.error for run in self._runs if run.error is not None), None)

    @property
    def alive(self) -> bool:
        """Whether every shard is there to end it."""
        return all(run.alive for run in self._runs)

    @property
    def over(self) -> bool:
        """Whether every request has ended, or cannot be followed any more: ``wait`` does not wait then."""
        return all(run.result is not None for run in self._runs) or any(_failed(run) for run in self._runs)

    def wait(self, timeout: float | None = None) -> LoadResult:
        """Block until every request has ended. One shard's failure stops the others.

        Raises:
            LoadError: a shard could not run its part, or died, or ``timeout`` seconds passed.
        """
        try:
            self._fleet.agents[0].wait_for(lambda: self.over, timeout, f"the end of measurement {self.measurement}")
            return merged_result([run.wait(0) for run in sorted(self._runs, key=_failed, reverse=True)])
        except LoadError:
            if any(_failed(run) for run in self._runs):
                _end([run for run in self._runs if run.result is None and not _failed(run)])
            raise

    def stop(self) -> None:
        """Send nothing more and cancel what is under way; ``wait`` then returns soon."""
        for run in self._runs:
            run.stop()

    def finish(self) -> int:
        """Send nothing more and follow what is under way to its end. Returns the first request id that is free then.

        Raises:
            LoadError: a shard is gone, or does not answer.
        """
        for run in self._runs:
            run.finish()
        ended = f"the last send of measurement {self.measurement}"
        try:
            self._fleet.agents[0].wait_for(lambda: not any(run.sends and run.alive for run in self._runs), _FINISH_S, ended)
        except LoadError:
            for run in self._runs:
                if run.sends:
                    run.must_be_heard()
            raise
        known = [run.next_request if run.result is None else run.result.next_request for run in self._runs]
        return max((number for number in known if number is not None), default=0)


def _end(going: Sequence[LoadRun]) -> None:
    """Let no shard go on when one cannot."""
    for run in going:
        with suppress(LoadError):  # the first failure is the one to tell
            run.stop()
    for run in going:
        with suppress(LoadError):
            run.wait(_GRACE_S)


def _failed(run: LoadRun) -> bool:
    return run.error is not None or (run.result is None and not run.alive)


#: Longest wait for the first request to a new split.
FOLLOW_S: Final = 30.0


class LoadFleet:
    """Handle of all load shards of a run. Make one with ``start``; a context manager."""

    def __init__(self, agents: Sequence[LoadAgent]) -> None:
        self.agents = agents
        self.on_progress: Callable[[Progress], None] | None = None
        self._run: FleetRun | None = None
        self._lock = threading.Lock()
        for agent in agents:
            agent.on_progress = self._told

    @classmethod
    def start(cls, run_dir: Path, *, shards: int = 1) -> Self:
        """Start the processes.

        Args:
            run_dir: the run's folder; segments and logs go there.
            shards: how many. One drives some thousands of streams; more than there are free cores only wait for each other.

        Raises:
            SpecError: a number of shards that cannot be meant.
            LoadError: a shard did not become ready; none is left then.
        """
        if not isinstance(shards, int) or isinstance(shards, bool) or not 1 <= shards <= MOST_SHARDS:
            raise SpecError(f"{shards!r} load shards", remedy=f"use a whole number from 1 to {MOST_SHARDS}")
        agents, changed = list[LoadAgent](), threading.Condition()
        try:
            for shard in range(shards):
                agents.append(LoadAgent.start(run_dir, shard=shard, changed=changed))
        except BaseException:
            for agent in agents:
                agent.close()
            raise
        return cls(agents)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the shards by name: ``load0`` …."""
        return {f"load{agent.shard}": agent.pid for agent in self.agents}

    def target(self, epoch: int, url: str, model: str, **settings: Any) -> None:
        """From now on new requests of every shard go there; arguments as for ``LoadAgent.target``."""
        for agent in self.agents:
            agent.target(epoch, url, model, **settings)

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """What the shards send while they are watched."""
        return tuple(agent.feed for agent in self.agents)

    def watch(self, number: int) -> None:
        """Let every shard send a live copy to its feed, for the watch of this number; 0: no more.

        Raises:
            LoadError: a shard is gone, and somebody wants to watch it.
        """
        for agent in self.agents:
            if number or agent.alive:
                agent.watch(number)

    def run(self, measurement: int, workload: Workload, *, first_request: int = 0) -> FleetRun:
        """Start the workload in the background, all shards at one instant; arguments as for ``LoadAgent.run``.

        Raises:
            LoadError: a shard cannot send its part; none sends then.
        """
        count = len(self.agents)
        start_ns = time.perf_counter_ns() + _LEAD_NS if count > 1 else None
        runs = list[LoadRun]()
        try:
            for agent in self.agents:
                runs.append(agent.run(measurement, workload, first_request=first_request, shards=count, start_ns=start_ns))
        except LoadError:
            _end(runs)
            raise
        self._run = FleetRun(self, runs)
        return self._run

    def first_sent_ns(self, epoch: int, timeout: float) -> int:
        """The instant at which the first request of an epoch was sent by any shard; waits for it.

        Raises:
            LoadError: none was sent within ``timeout`` seconds, or a shard died.
        """
        self.agents[0].wait_for(
            lambda: any(epoch in agent.first_sent or not agent.alive for agent in self.agents),
            timeout,
            f"the first request of epoch {epoch}",
        )
        sent = [agent.first_sent[epoch] for agent in self.agents if epoch in agent.first_sent]
        if not sent:
            next(agent for agent in self.agents if not agent.alive).mourn()
        return min(sent)

    def close(self) -> None:
        """Stop, flush and end every process; a second call does nothing."""
        for agent in self.agents:
            agent.hang_up()
        for agent in self.agents:
            agent.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _told(self, _: Progress) -> None:
        run = self._run
        if run is None or (progress := run.progress) is None:
            return
        with self._lock:
            for tell in (run.on_progress, self.on_progress):
                if tell is not None:
                    tell(progress)


def merged_progress(each: Sequence[Progress]) -> Progress | None:
    """Where the shards stand together; ``None`` of none."""
    if not each:
        return None
    by_epoch: Counter[int] = Counter()
    for one in each:
        by_epoch.update(one.in_flight_by_epoch)
    return Progress(
        t_ns=max(one.t_ns for one in each),
        sent=sum(one.sent for one in each),
        done=sum(one.done for one in each),
        failed=sum(one.failed for one in each),
        in_flight=sum(one.in_flight for one in each),
        in_flight_by_epoch=dict(by_epoch),
        output_tokens=sum(one.output_tokens for one in each),
        begun=sum(one.begun for one in each),
    )


def merged_result(each: Sequence[LoadResult]) -> LoadResult:
    """The end of the load of all shards: its bounds hold every shard's, and CPU seconds are those of the busiest."""
    counts: Counter[str] = Counter()
    for one in each:
        counts.update(one.counts)
    return LoadResult(
        start_ns=min(one.start_ns for one in each),
        measure_ns=min(one.measure_ns for one in each),
        stop_ns=max(one.stop_ns for one in each),
        end_ns=max(one.end_ns for one in each),
        counts=dict(counts),
        next_request=max(one.next_request for one in each),
        cpu_s=max(one.cpu_s for one in each),
        stopped=any(one.stopped for one in each),
        unsent=sum(one.unsent for one in each),
    )
