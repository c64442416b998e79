"""One process's worth of telemetry: GPUs, host and engines' metrics at fixed rates, spans as they come, into one sink.

Every source has its own schedule. A tick that comes late is taken late once and the missed ones are skipped, never made up in a
burst; how many were skipped is itself a metric (source ``telemetry``), as is what the sampler costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from labkit.errors import TelemetryError
from labkit.telemetry.gpm import NEEDS_TWO
from labkit.telemetry.gpu_processes import ForeignProcesses
from labkit.telemetry.gpu_session import GpuSession, in_short
from labkit.telemetry.host import LAB, HostSampler
from labkit.telemetry.nvml_errors import GPU_SOURCE, HANGS, NvmlUnavailable, remedy_of
from labkit.telemetry.prometheus import Scraper
from labkit.telemetry.spans import Progress, RequestSpan, SpanReceiver

ROUTER: Final = "router"
OWN: Final = "telemetry"
_PROCESSES_HZ: Final = 1.0


@dataclass(frozen=True, slots=True)
class WatchedWorker:
    """A worker to watch: its name, the root of its process tree (``None``: not a process of this node that is known), and
    where its metrics are (``None``: it has none)."""

    name: str
    pid: int | None
    metrics_url: str | None = None


class Sink(Protocol):
    """Where telemetry goes; called on the sampler's event loop only."""

    def samples(self, t_ns: int, source: str, values: Mapping[str, float]) -> None:
        """Values of one source at one instant."""

    def spans(self, spans: Sequence[RequestSpan]) -> None:
        """Request spans, in the order of arrival."""

    def note(self, t_ns: int, text: str) -> None:
        """Something to know about the telemetry itself: a source fell silent, or came back."""

    def progress(self, step: Progress) -> None:
        """A finished step of a worker's start."""


def next_tick(start_ns: int, period_ns: int, tick: int, now_ns: int) -> tuple[int, int]:
    """The number of the tick after ``tick``, and how many ticks were skipped because ``now_ns`` is past them.

    Tick k is due at ``start_ns + k · period_ns``; the next one is the first that is still to come.
    """
    following = max(tick + 1, -(-(now_ns - start_ns) // period_ns))
    return following, following - tick - 1


class Sampler:
    """Samples until it is stopped.

    Args:
        sink: takes everything.
        gpus: NVML indices to read; ``None`` for all.
        nvml_hz, host_hz, prometheus_hz: readings per second and source.
        lab_pids: roots of the lab's own process trees; their CPU is not foreign.
        hang_s: NVML hangs where a reading takes longer.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        gpus: Sequence[int] | None = None,
        nvml_hz: float = 10.0,
        host_hz: float = 4.0,
        prometheus_hz: float = 2.0,
        lab_pids: Sequence[int] = (),
        hang_s: float = 3.0,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._sink = sink
        self._gpus = gpus
        self._hang_s = hang_s
        self._hz = (nvml_hz, host_hz, prometheus_hz)
        self._clock = clock
        self._missing: dict[str, dict[str, str]] = {}
        self._host = HostSampler(lab_pids, clock=clock)
        self._skipped = 0
        self._workers: tuple[str, ...] = ()
        self._trees: frozenset[str] = frozenset()
        self._left: frozenset[str] = frozenset()  # that were watched once: what is missing of them is missed by nobody
        self._scrapes: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._given_back: futures.Future[None] | None = None
        self._threads = [futures.ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("nvml", "host")]
        self.receiver = SpanReceiver(sink.spans, self._progress)

    @property
    def missing(self) -> dict[str, str]:
        """``source`` or ``source/metric`` → why there is no value now."""
        return {key: why for group in self._missing.values() for key, why in group.items()}

    async def start(self) -> None:
        """Open the span receiver and begin to sample."""
        nvml_hz, host_hz, _ = self._hz
        await self.receiver.start()
        self._tasks = [
            asyncio.create_task(self._sample_gpus(nvml_hz)),
            asyncio.create_task(self._every(host_hz, self._sample_host)),
            asyncio.create_task(self._every(1.0, self._sample_self())),
        ]

    def watch(
        self, workers: Sequence[WatchedWorker], router: str | None = None, clients: Mapping[str, int] | None = None
    ) -> None:
        """Replace what is watched: process trees of workers and of load clients (by name), and the metrics pages of workers and
        router."""
        trees = {worker.name: worker.pid for worker in workers if worker.pid is not None}
        followed = {**trees, **(clients or {})}
        self._host.watch(followed)
        self._workers = tuple(trees)
        self._left = (self._left | self._trees) - followed.keys()
        self._trees = frozenset(followed)
        self._missing["host"] = self._followed(self._missing.get("host", {}))
        wanted = {(w.name, w.metrics_url) for w in workers if w.metrics_url} | ({(ROUTER, router)} if router else set())
        for target in self._scrapes.keys() - wanted:
            self._scrapes.pop(target).cancel()
            if target[0] not in {name for name, _ in wanted}:
                self._missing.pop(f"{target[0]} metrics", None)
        for target in wanted - self._scrapes.keys():
            self._scrapes[target] = asyncio.create_task(self._scrape(*target))
        no_page = {f"{w.name}/metrics": "this worker has no metrics page" for w in workers if not w.metrics_url}
        self._missing["no page"] = no_page
        self._missing["no process"] = {w.name: "attached: its processes are not known here" for w in workers if w.pid is None}

    async def settle(self, quiet_s: float, most_s: float) -> None:
        """Wait until no span has come for ``quiet_s``, at most ``most_s``."""
        give_up_ns = self._clock() + int(most_s * 1e9)
        waiting_ns = self._clock()
        while (now_ns := self._clock()) < give_up_ns:
            quiet_ns = now_ns - max(self.receiver.last_ns, waiting_ns)
            if quiet_ns >= quiet_s * 1e9:
                return
            await asyncio.sleep(min(quiet_s - quiet_ns / 1e9, (give_up_ns - now_ns) / 1e9))

    async def stop(self) -> None:
        """Stop sampling; what was handed to the sink stays there. NVML is given back, unless it hangs."""
        tasks = [*self._tasks, *self._scrapes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.receiver.close()
        if self._given_back is not None:
            await asyncio.get_running_loop().run_in_executor(None, futures.wait, [self._given_back], self._hang_s)
        for threads in self._threads:
            threads.shutdown(wait=False)

    def _progress(self, steps: Sequence[Progress]) -> None:
        for step in steps:
            self._sink.progress(step)

    async def _every(self, hz: float, tick: Callable[[], Awaitable[None]]) -> None:
        period_ns, start_ns, number = int(1e9 / hz), self._clock(), 0
        while True:
            await tick()
            number, skipped = next_tick(start_ns, period_ns, number, self._clock())
            self._skipped += skipped
            await asyncio.sleep(max(0.0, (start_ns + number * period_ns - self._clock()) / 1e9))

    async def _sample_gpus(self, hz: float) -> None:
        loop, thread = asyncio.get_running_loop(), self._threads[0]
        session = GpuSession(self._gpus, clock=self._clock)
        try:
            self._report("gpu", await loop.run_in_executor(thread, session.open))
            if session.gpus:
                others = await loop.run_in_executor(thread, ForeignProcesses, session.gpus, self._clock)
                looking = asyncio.create_task(self._every(_PROCESSES_HZ, partial(self._sample_processes, others)))
                self._tasks.append(looking)
                await self._every(hz, partial(self._read_gpus, session))
        except NvmlUnavailable as error:
            self._report("gpu", {"gpu": error.what})
        finally:
            with contextlib.suppress(RuntimeError):  # the interpreter ends
                self._given_back = thread.submit(session.close)  # behind what that thread is doing

    async def _read_gpus(self, session: GpuSession) -> None:
        reading = asyncio.get_running_loop().run_in_executor(self._threads[0], session.read)
        _, hangs = await asyncio.wait([reading], timeout=self._hang_s)
        if hangs:
            self._report("hang", dict.fromkeys((f"gpu{gpu.index}" for gpu in session.gpus), HANGS))
        found = await reading
        self._report("hang", {})
        for source, values in found:
            self._sink.samples(values.t_ns, source, values.values)
            self._report(source, in_short(source, values))

    async def _sample_processes(self, others: ForeignProcesses) -> None:
        if not self._host.members(self._workers):  # before workers are known everybody is a stranger
            return
        own, lab = self._host.members(self._workers), self._host.members((LAB,))
        for found in await asyncio.get_running_loop().run_in_executor(self._threads[0], others.read, own, lab):
            if found.values:
                self._sink.samples(found.t_ns, found.source, found.values)
            group = f"{found.source} processes"
            self._report(group, {f"{found.source}/{metric}": why for metric, why in found.missing.items()})

    async def _sample_host(self) -> None:
        reading = await asyncio.get_running_loop().run_in_executor(self._threads[1], self._host.read)
        for source, values in reading.values.items():
            self._sink.samples(reading.t_ns, source, values)
        self._report("host", self._followed(reading.missing))

    def _followed(self, missing: Mapping[str, str]) -> dict[str, str]:
        """Without those that have left, in a reading that was begun before."""
        return {key: why for key, why in missing.items() if key.partition("/")[0] not in self._left}

    def _sample_self(self) -> Callable[[], Awaitable[None]]:
        before_s, before_ns = time.process_time(), self._clock()

        async def tick() -> None:
            nonlocal before_s, before_ns
            now_s, now_ns = time.process_time(), self._clock()
            if now_ns > before_ns:
                cores = (now_s - before_s) / (now_ns - before_ns) * 1e9
                self._sink.samples(now_ns, OWN, {"cpu_cores": cores, "skipped_ticks_total": self._skipped})
            before_s, before_ns = now_s, now_ns
            self.receiver.clock.measure()

        return tick

    async def _scrape(self, name: str, url: str) -> None:
        scraper = Scraper(url)

        async def tick() -> None:
            asked_ns = self._clock()
            try:
                values = await scraper.scrape()
            except TelemetryError as error:
                self._report(f"{name} metrics", {f"{name}/metrics": error.what})
                return
            self._sink.samples((asked_ns + self._clock()) // 2, name, values)
            self._report(f"{name} metrics", {} if values else {f"{name}/metrics": f"{url} exports none of the known metrics"})

        try:
            await self._every(self._hz[2], tick)
        finally:
            await scraper.close()

    def _report(self, group: str, missing: Mapping[str, str]) -> None:
        """Remember why values are missing, with a note for every reason that is new and every source that is back."""
        before = self._missing.get(group, {})
        if missing == before:
            return
        self._missing[group] = dict(missing)
        now_ns = self._clock()
        news: dict[str, list[str]] = {}
        for key, why in missing.items():
            if before.get(key) != why and why != NEEDS_TWO:
                news.setdefault(why, []).append(key)
        for why, keys in news.items():
            remedy = f" → {remedy_of(why)}" if any(GPU_SOURCE.fullmatch(key) for key in keys) else ""
            self._sink.note(now_ns, f"{', '.join(keys)}: {why}{remedy}")
        back = [key for key, why in before.items() if key not in missing and why != NEEDS_TWO]
        if back:
            self._sink.note(now_ns, f"{', '.join(back)}: answers again")
