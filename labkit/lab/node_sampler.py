"""Telemetry of another machine: sampled by its agent there, put on the lab's clock and kept by the lab."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from labkit.lab.recorder import Recorder
from labkit.live.gauges import Reading
from labkit.serve.link import NodeLost
from labkit.serve.node_agent import NodeAgent
from labkit.serve.remote import SILENT_S, RemoteHost
from labkit.telemetry.host import HOST, LAB
from labkit.telemetry.sampler import OWN, Sampler, WatchedWorker
from labkit.telemetry.spans import Progress, RequestSpan

_PULL_S: Final = 0.5
_QUIET_S: Final = 0.8  # longer than the workers' span export delay of 0.5 s
_START_S: Final = 60.0
_STOP_S: Final = 10.0  # NVML may hang
_MOST_WAITING: Final = 200_000
_FOREIGN: Final = "foreign_cpu_cores"
_GPU, _CORE = re.compile(r"gpu(\d+)$"), re.compile(r"core(\d+)(_.*)$")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a node's sampler has taken since it was last asked; instants are of that machine's clock."""

    samples: tuple[tuple[int, str, Mapping[str, float]], ...]
    spans: tuple[RequestSpan, ...]
    notes: tuple[tuple[int, str], ...]
    progress: tuple[Progress, ...]
    missing: Mapping[str, str]


class SamplingAgent(NodeAgent):
    """An agent that samples its machine, too: GPUs, host and workers, and the request spans that those send."""

    _loop: asyncio.AbstractEventLoop | None = None
    _sampler: Sampler
    _thread: threading.Thread

    def sample(self) -> str:
        """Begin, and say where workers of this machine send their spans."""
        self._taken: list[tuple[str, Any]] = []
        ready: list[str] = []
        begun = threading.Event()

        def serve() -> None:
            asyncio.run(self._serve(ready, begun))

        self._thread = threading.Thread(target=serve, name="labkit sampler", daemon=True)
        self._thread.start()
        begun.wait(_START_S)
        return ready[0]

    def watch(self, workers: Mapping[str, int]) -> None:
        """Follow these workers' processes, by name."""
        watched = [WatchedWorker(name, pid) for name, pid in workers.items()]
        self._call(self._sampler.watch, watched)

    def taken(self, wait_s: float) -> Taken:
        """What has come since the last time, after ``wait_s``."""
        time.sleep(wait_s)
        rows, self._taken = self._taken, []
        of: dict[str, list[Any]] = {kind: [] for kind in ("samples", "spans", "note", "progress")}
        for kind, row in rows:
            of[kind].append(row)
        return Taken(tuple(of["samples"]), tuple(of["spans"]), tuple(of["note"]), tuple(of["progress"]), self._sampler.missing)

    def settle(self, most_s: float) -> None:
        """Wait for spans that are on their way."""
        if self._loop is not None:
            with suppress(RuntimeError, TimeoutError):
                asyncio.run_coroutine_threadsafe(self._sampler.settle(_QUIET_S, most_s), self._loop).result(most_s + 5.0)

    def close(self) -> None:
        """End the sampler, too, and wait until it has given NVML back."""
        if self._loop is not None:
            self._call(self._ended.set)
        super().close()
        if self._loop is not None:
            self._thread.join(_STOP_S)

    async def _serve(self, ready: list[str], begun: threading.Event) -> None:
        self._ended = asyncio.Event()
        self._sampler = Sampler(_Kept(self._taken_now), gpus=self.gpus, lab_pids=[os.getpid()])
        await self._sampler.start()
        self._loop = asyncio.get_running_loop()
        ready.append(self._sampler.receiver.endpoint)
        begun.set()
        await self._ended.wait()
        await self._sampler.stop()

    def _taken_now(self, kind: str, row: Any) -> None:
        if len(self._taken) < _MOST_WAITING:
            self._taken.append((kind, row))

    def _call(self, what: Any, *args: Any) -> None:
        with suppress(RuntimeError):  # it has ended
            assert self._loop is not None
            self._loop.call_soon_threadsafe(what, *args)


class _Kept:
    """A sink that keeps everything until it is asked for."""

    def __init__(self, keep: Any) -> None:
        self._keep = keep

    def samples(self, t_ns: int, source: str, values: Mapping[str, float]) -> None:
        self._keep("samples", (t_ns, source, dict(values)))

    def spans(self, spans: Sequence[RequestSpan]) -> None:
        for span in spans:
            self._keep("spans", span)

    def note(self, t_ns: int, text: str) -> None:
        self._keep("note", (t_ns, text))

    def progress(self, step: Progress) -> None:
        self._keep("progress", step)


class NodeTelemetry:
    """The lab's side: pulls what a node's sampler has taken, and keeps it.

    Names are made unique: ``host`` and the agent's own sources get ``@`` and the node's name, GPUs and cores their numbers in the
    cluster. Instants are put on the lab's clock.

    Attributes:
        watched: workers whose processes were or are followed there, with the id of the root of each.
    """

    def __init__(self, run_dir: Path, host: RemoteHost) -> None:
        """Let the node's sampler begin, and workers that start on it send their spans there.

        Raises:
            NodeLost: it is gone.
        """
        self._host, self.watched = host, dict[str, int]()
        self._recorder = Recorder(run_dir, f"node{host.member.first}", self._told)
        self._latest: dict[tuple[str, str], Reading] = {}
        self._missing: dict[str, str] = {}
        self._heard, self._closing = threading.Lock(), threading.Event()
        host.otlp_endpoint = host.link.call("sample")
        self._thread = threading.Thread(target=self._pull, name=f"labkit telemetry of {host.name}", daemon=True)
        self._thread.start()

    @property
    def away(self) -> frozenset[str]:
        """Workers that nobody else follows."""
        return frozenset() if self._host.here else frozenset(self.watched)

    @property
    def missing(self) -> dict[str, str]:
        """As ``TelemetryAgent.missing``."""
        with self._heard:
            return dict(self._missing)

    def readings(self) -> dict[tuple[str, str], Reading]:
        """The newest by source and metric, on the lab's clock."""
        with self._heard:
            return dict(self._latest)

    def watch(self) -> None:
        """Follow the workers that run on that machine now."""
        running = self._host.running
        self.watched |= running
        with suppress(NodeLost):
            self._host.link.call("watch", running)

    def close(self, *, spans_s: float) -> None:
        """Wait up to ``spans_s`` for spans, keep what there is, and end."""
        if self._closing.is_set():
            return
        with suppress(NodeLost):
            self._host.link.call("settle", spans_s)
        self._closing.set()
        self._thread.join(timeout=_PULL_S + 10.0)
        self._recorder.close()

    def _pull(self) -> None:
        last = False
        while not last:
            last, asked_ns = self._closing.is_set(), time.perf_counter_ns()
            try:
                self._take(self._host.link.call("taken", 0.0 if last else _PULL_S))
            except NodeLost as error:
                with self._heard:
                    self._missing = {f"{HOST}@{self._host.name}": f"node {self._host.name} died: {error.what}"}
                return
            answered_ns = time.perf_counter_ns()
            if (silent_s := (answered_ns - asked_ns) / 1e9) > SILENT_S:
                self._recorder.note(answered_ns, f"node {self._host.name} answers again: it was silent for {silent_s:.0f} s")
            self._recorder.write()

    def _take(self, taken: Taken) -> None:
        offset_ns = self._host.clock.offset_ns
        for t_ns, source, values in taken.samples:
            if self._host.here and source in self.watched:
                continue  # the lab's own sampler follows it
            source, values = self._named(source, values)
            self._recorder.samples(t_ns + offset_ns, source, values)
            with self._heard:
                self._latest |= {(source, metric): Reading(t_ns + offset_ns, value) for metric, value in values.items()}
        self._recorder.spans([replace(span, start_ns=span.start_ns + offset_ns) for span in taken.spans])
        for t_ns, text in taken.notes:
            self._recorder.note(t_ns + offset_ns, f"node {self._host.name}: {text}")
        for step in taken.progress:
            self._recorder.progress(replace(step, start_ns=step.start_ns + offset_ns))
        missing = {self._key(key): why for key, why in taken.missing.items() if key not in self.watched or not self._host.here}
        if self._host.here:
            missing[f"{HOST}@{self._host.name}/{_FOREIGN}"] = "this node is on the lab's own machine: see host"
        with self._heard:
            self._missing = missing

    def _named(self, source: str, values: Mapping[str, float]) -> tuple[str, dict[str, float]]:
        """The source's name in the cluster, and its values."""
        if self._host.here:  # the lab's own sampler knows the processes of the other nodes on this machine
            values = {metric: value for metric, value in values.items() if metric != _FOREIGN}
        named = self._source(source)
        first = self._host.member.first
        return named, {_CORE.sub(lambda m: f"core{int(m[1]) + first}{m[2]}", metric): value for metric, value in values.items()}

    def _source(self, source: str) -> str:
        if match := _GPU.match(source):
            return f"gpu{int(match[1]) + self._host.member.first}"
        return f"{HOST}@{self._host.name}" + ("" if source == HOST else f"/{source}") if source in (HOST, LAB, OWN) else source

    def _key(self, key: str) -> str:
        source, slash, metric = key.partition("/")
        return f"{self._source(source)}{slash}{metric}"

    def _told(self, message: Mapping[str, object], *, droppable: bool = False) -> bool:
        return True
