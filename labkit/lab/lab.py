"""The lab: a deployment, a load, telemetry and a run that keeps it all, on one clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from labkit.errors import HardwareError, LabError, LaunchError, MissingEngine, SpecError, StoreError
from labkit.lab import facts
from labkit.lab.load_fleet import LoadFleet
from labkit.lab.measurement import Measurement, RunningLoad
from labkit.lab.overload import watch_for
from labkit.lab.telemetry_agent import TelemetryAgent, WatchedWorker
from labkit.lab.telling import Lines
from labkit.load.probe import probe_apart
from labkit.load.progress import UNSENT, LoadResult, Progress
from labkit.load.schedule import Schedule
from labkit.load.served import fitted, served_length
from labkit.load.target import Dialect, Target
from labkit.measure.metrics import summarise
from labkit.measure.records import Window
from labkit.measure.saturation import Saturation
from labkit.measure.warmup import cut_warmup
from labkit.serve.deployment import Deployment, Resplit
from labkit.serve.engines.attach import Attached
from labkit.serve.engines.base import Engine, EngineOptions
from labkit.serve.engines.vllm import Vllm
from labkit.serve.hardware import Node, inspect_node
from labkit.serve.interpreter import engine_python, versions
from labkit.serve.models import prepare
from labkit.spec import Model, Slo, Topology, Workload
from labkit.store.run import Run, create_run

#: Engines by the name that ``Lab(engine=…)`` takes; each is made from the interpreter that holds it.
ENGINES: dict[str, Callable[[str], Engine]] = {"vllm": Vllm}

#: What vLLM's servers take. Its router (0.1.17) drops ``continuous_usage_stats`` but passes ``return_token_ids`` on.
_LAUNCHED = Dialect(continuous_usage=False, token_ids=True)
_FOLLOW_S = 30.0
_UNKNOWN_VOCAB = 1000


class Lab:
    """Launch, measure, re-split, stop. A context manager: leaving it ends every process and closes the run.

        with Lab("demo", "2A", workload=Workload(isl=512, osl=32, rate=1.5, duration_s=40)) as lab:
            print(lab.measure())
            print(lab.resplit("1P1D"))
            print(lab.measure())

    Attributes:
        deployment: the workers and the router in front of them.
        run: the folder that keeps everything.
        workload: what ``measure`` sends where it is not told otherwise.
    """

    _closed: bool = False

    def __init__(
        self,
        model: Model | str = "demo",
        topology: Topology | str = "2A",
        *,
        workload: Workload | None = None,
        slo: Slo | None = None,
        engine: str = "vllm",
        options: EngineOptions | None = None,
        name: str | None = None,
        kind: str = "lab",
        results: Path | str | None = None,
        port: int | None = None,
        share: bool = True,
        shards: int = 1,
        ready_timeout_s: float = 1800.0,
        progress: Callable[[str], None] | None = None,
        node: Node | None = None,
    ) -> None:
        """Launch a deployment and start to record.

        Args:
            model: hub id, folder or shape.
            topology: the split to begin with.
            workload: the default of ``measure``; the context length is fitted to it unless the model says otherwise.
            slo: for goodput and SLO attainment.
            engine: a name of ``ENGINES``.
            options: what every worker gets beyond the defaults.
            name: the run's name; ``LABKIT_RUN_NAME``, or one made from date and kind, by default.
            kind: what the run is for: ``lab``, ``compare`` ….
            results: the folder that runs live in; ``LABKIT_RESULTS``, or ``results`` here, by default.
            port: of the first router; a free one by default.
            share: whether workers may share a GPU or core.
            shards: processes that send the load; the lab says when one is not enough.
            ready_timeout_s: longest wait for a worker.
            progress: takes a line for the user; they are printed by default.
            node: the hardware, inspected by default.

        Raises:
            LabError: what was asked for cannot be had. No process is left; where one had been started, the run says why.
        """
        self._begin(workload, slo, progress)
        model = model if isinstance(model, Model) else Model(model)
        wanted = Topology(topology)
        if engine not in ENGINES:
            raise SpecError(f"unknown engine {engine!r}", remedy=f"use one of {', '.join(ENGINES)}")
        node = node or inspect_node()
        python = str(engine_python())
        found, made = versions(Path(python)), ENGINES[engine](python)
        if lacking := made.missing(tuple(found)):
            raise MissingEngine(
                f"{lacking} is not installed for {python}",
                remedy="run `make setup`, or let LABKIT_ENGINE_PYTHON name the interpreter that has it",
            )
        longest, grows = (workload.longest, workload.turns is not None) if workload else (None, False)
        dtype = None if node.gpus else "float32"
        manifest = facts.launched(
            kind, engine, found, node, model, wanted, workload=workload, slo=self.slo, options=options or EngineOptions()
        )
        self.run = _new_run(results, name, manifest)
        try:
            served = prepare(model, self.run.path / "model", isl_osl_max=longest, may_clip=grows, dtype=dtype)
            gpus = None if node.gpus else ()
            self._telemetry = TelemetryAgent.start(self.run.path, gpus=gpus)
            self.deployment: Deployment | Attached = Deployment(
                served, wanted, made, node,
                logs=self.run.path / "logs", options=options, otlp_endpoint=self._telemetry.otlp_endpoint,
                port=port, share=share, ready_timeout_s=ready_timeout_s, progress=self.progress,
            )  # fmt: skip
            self._vocab, self._dialect, self._max_model_len = served.vocab_size or _UNKNOWN_VOCAB, _LAUNCHED, served.max_model_len
            self.run.update(served={"max_model_len": served.max_model_len, "dtype": served.dtype, "path": Path(served.path).name})
            self._load = LoadFleet.start(self.run.path, shards=shards)
            self._follow()
        except BaseException as error:
            self._fail(error)
            raise

    @classmethod
    def attach(
        cls,
        url: str,
        model: str,
        *,
        metrics: dict[str, str] | None = None,
        topology: Topology | str | None = None,
        accelerators: float = 0.0,
        accelerator: str = "GPU",
        vocab: int = _UNKNOWN_VOCAB,
        workload: Workload | None = None,
        slo: Slo | None = None,
        name: str | None = None,
        results: Path | str | None = None,
        shards: int = 1,
        progress: Callable[[str], None] | None = None,
    ) -> Self:
        """A lab on an endpoint that somebody else runs: it measures, and starts, re-splits and stops nothing.

        Args:
            url: base URL of an OpenAI-compatible server.
            model: the name that the server knows.
            metrics: worker name → URL of its Prometheus page, where they can be reached.
            topology: what is known of it; shown as declared, not verified.
            accelerators: how many it holds, for figures per accelerator; 0 where unknown.
            accelerator: ``GPU`` or ``core``.
            vocab: token ids below this are sent.
            workload, slo, name, results, shards, progress: as for ``Lab``.

        Raises:
            LabError: the endpoint does not answer.
        """
        lab = cls.__new__(cls)
        lab._begin(workload, slo, progress)
        attached = Attached(url, model, metrics or {}, topology, accelerators, accelerator)
        manifest = facts.attached(model, attached.topology, workload=workload, slo=lab.slo)
        lab.run = _new_run(results, name, manifest)
        try:
            lab.deployment, lab._vocab = attached, vocab
            target = Target(attached.url, attached.model.name, vocab, os.environ.get("OPENAI_API_KEY"))
            lab._dialect = probe_apart(target, workload).dialect
            lab._max_model_len = served_length(target)
            lab._telemetry = TelemetryAgent.start(lab.run.path, gpus=())
            lab._load = LoadFleet.start(lab.run.path, shards=shards)
            lab._follow()
        except BaseException as error:
            lab._fail(error)
            raise
        return lab

    # Measure

    def measure(
        self,
        workload: Workload | None = None,
        *,
        side: str | None = None,
        repeat: int | None = None,
        stop_when_saturated: bool = False,
    ) -> Measurement:
        """Send a workload, wait for its end, keep it. Ctrl-C ends it early and keeps what was recorded.

        Args:
            workload: the lab's own by default.
            side: label that groups repeats; the split by default.
            repeat: number within the side; the next one by default.
            stop_when_saturated: end an open loop early once it surely outruns the server (``measure.saturation``); it is told,
                noted and marked either way.

        Raises:
            LabError: a worker is dead, or the load cannot be run.
        """
        load = self.load(workload, side=side, repeat=repeat, stop_when_saturated=stop_when_saturated)
        self.progress(f"{load.side} #{load.repeat + 1}: {workload or self.workload}")
        try:
            return load.wait(self._tell)
        finally:
            self.progress.settle()

    def load(
        self,
        workload: Workload | None = None,
        *,
        side: str | None = None,
        repeat: int | None = None,
        stop_when_saturated: bool = False,
    ) -> RunningLoad:
        """Start a workload in the background, so that the split can change under it; ``wait`` gives the measurement."""
        workload = workload or self.workload
        if workload is None:
            raise SpecError(
                "this lab has no workload", remedy="pass one: lab.measure(Workload(isl=512, osl=32, rate=1.5, duration_s=40))"
            )
        self._must_be_open()
        for failure in self.deployment.failures:
            raise failure
        side = side or str(self.deployment.topology)
        repeat = repeat if repeat is not None else sum(window.side == side for window in self.run.windows)
        workload = fitted(workload, self._max_model_len)
        notes = Schedule(workload).notes()
        self._workloads[self._measurement] = workload
        started = self._load.run(self._measurement, workload, first_request=self._next_request)
        self._measurement += 1
        self.run.note(f"load on {side}: {workload}", kind="load", data=workload.to_dict())
        for note in notes:
            self.run.note(note, data={"measurement": started.measurement})
            self.progress(f"  {note}")
        epoch, watch = self.deployment.epoch, watch_for(workload)
        return RunningLoad(self, started, side, repeat, epoch, watch=watch, stop_when_saturated=stop_when_saturated)

    def resplit(self, topology: Topology | str) -> Resplit:
        """Change the split while load runs. The lab's load follows by itself; ``repr`` of the result holds the proof.

        Raises:
            ResplitError: the split did not take effect, or cannot be changed here.
        """
        self._must_be_open()
        if isinstance(self.deployment, Attached):
            raise self.deployment.refusal()
        done = self.deployment.resplit(topology, on_switch=lambda _: self._follow())
        *earlier, now = self.run.manifest["epochs"]
        self.run.update(epochs=[*earlier, {**now, "verified": self.deployment.verified}])
        self.run.note(str(done), kind="resplit", data={"switched_s": done.switched_s, "drained_s": done.drained_s})
        return done

    # Read

    @property
    def url(self) -> str:
        """Where clients send requests now; a re-split changes it."""
        return self.deployment.url

    @property
    def telemetry_missing(self) -> dict[str, str]:
        """Telemetry that this node does not give, each with the reason."""
        return self._telemetry.missing

    def first_sent_ns(self, epoch: int, timeout_s: float = _FOLLOW_S) -> int:
        """The instant of the lab's first request to an epoch's router."""
        return self._load.first_sent_ns(epoch, timeout_s)

    def keep(self, load: RunningLoad, result: LoadResult) -> Measurement:
        """Keep the window of a load that has ended (``RunningLoad`` calls this)."""
        deployment = self.deployment
        workload = self._workloads[load.measurement]
        window = Window(
            measurement=load.measurement, side=load.side, topology=self._topology_of[load.epoch],
            repeat=load.repeat, epoch=load.epoch,
            start_ns=result.start_ns, measure_ns=result.measure_ns, stop_ns=result.stop_ns, end_ns=result.end_ns,
            accelerators=deployment.accelerators, accelerator="GPU" if deployment.accelerator == "GPU" else "core",
            workload=workload.to_dict(), stopped=load.stopped,
        )  # fmt: skip
        self._next_request = result.next_request
        if workload.warmup == "auto":
            window = cut_warmup(self.run.digest(), window)
        self.run.add_window(window)
        if result.unsent:
            self.run.note(f"{result.unsent} {UNSENT}", data={"measurement": load.measurement})
            self.progress(f"  {result.unsent} {UNSENT}")
        self.run.update(telemetry_missing=self._telemetry.missing)
        for failure in deployment.failures:
            self.run.note(failure.what, kind="fault", t_ns=result.end_ns)
            self.progress(str(failure))
        return Measurement(self.run, window, self.slo, result.counts, result.stopped, result.unsent)

    def saturated(self, load: RunningLoad, found: Saturation) -> None:
        """Note that a load outruns its server (``RunningLoad`` calls this)."""
        self.run.note(f"{load.side} #{load.repeat + 1} is {found}", data={"measurement": load.measurement, **asdict(found)})
        self.progress(f"  {found}")

    def close(self, error: BaseException | None = None) -> None:
        """End load, telemetry and every worker; close the run. Harmless when done twice."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as parts:  # an error or Ctrl-C in one does not keep the next from ending
            for part in (self.deployment, self._telemetry, self._load):
                parts.callback(part.close)
        if error is None:
            self.run.write_summary(self._summaries())
            self.run.finish()
            return
        interrupted = isinstance(error, KeyboardInterrupt)
        with suppress(StoreError):  # a full disk, say, has been told by the first error
            self.run.write_summary(self._summaries())
            self.run.finish("interrupted" if interrupted else "failed", reason="interrupted" if interrupted else str(error))
        if interrupted:
            self.progress(f"interrupted; what was recorded is in {self.run.path}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(error)

    def __repr__(self) -> str:
        return f"Lab  {self.deployment!r}\n  run {self.run.path}, {len(self.run.windows)} measurements, SLO {self.slo}"

    # Inside

    def _begin(self, workload: Workload | None, slo: Slo | None, progress: Callable[[str], None] | None) -> None:
        if workload is not None:
            Schedule(workload)  # a trace that cannot be read is told before anything is launched
        self.workload, self.slo, self.progress = workload, slo or Slo(), Lines(progress)
        self._measurement, self._next_request = 0, 0
        self._workloads: dict[int, Workload] = {}
        self._topology_of: dict[int, str] = {}

    def _fail(self, error: BaseException) -> None:
        """End what was started before a launch failed. The run says why, but where nothing could be started it goes too."""
        self._closed = True
        with ExitStack() as parts:
            for name in ("deployment", "_telemetry", "_load"):
                if (part := getattr(self, name, None)) is not None:
                    parts.callback(part.close)
        if isinstance(error, SpecError | HardwareError | StoreError):
            self.run.discard()
            return
        if isinstance(error, KeyboardInterrupt):
            self.run.finish("interrupted", reason="interrupted")
        else:
            self.run.finish("failed", reason=error.what if isinstance(error, LabError) else repr(error))

    def _must_be_open(self) -> None:
        if self._closed:
            raise LaunchError(
                f"this lab is closed; its run is {self.run.path}", remedy="launch a new one with Lab(model, topology)"
            )

    def _follow(self) -> None:
        """Point load and telemetry at the split that serves now, and keep it as an epoch."""
        deployment = self.deployment
        folder = Path(deployment.model.path)
        chat = self.workload is not None and self.workload.api == "chat"
        self._load.target(
            deployment.epoch, deployment.url, deployment.model.name, vocab=self._vocab, dialect=self._dialect,
            api_key=None if deployment.verified else os.environ.get("OPENAI_API_KEY"),
            tokenizer=folder if chat and (folder / "tokenizer.json").is_file() else None,
        )  # fmt: skip
        watched = [WatchedWorker(name, pid, metrics_url) for name, pid, metrics_url in deployment.watched]
        self._telemetry.watch(watched, deployment.router_metrics, self._load.pids)
        self._topology_of[deployment.epoch] = str(deployment.topology)
        epoch = facts.epoch(deployment, start_ns=time.perf_counter_ns())
        topologies = list(dict.fromkeys([*self.run.manifest["topologies"], str(deployment.topology)]))
        self.run.update(epochs=[*self.run.manifest["epochs"], epoch], topologies=topologies)
        self.run.note(f"epoch {deployment.epoch}: {deployment.topology}", kind="launch")

    def _summaries(self) -> dict[str, Any]:
        records = self.run.digest()
        return {str(w.measurement): summarise(records, w, slo=self.slo).to_dict() for w in self.run.windows}

    def _tell(self, now: Progress) -> None:
        self.progress.state(f"  {now.sent} sent, {now.done} done, {now.failed} failed, {now.in_flight} in flight", now.t_ns)


def _new_run(results: Path | str | None, name: str | None, manifest: dict[str, Any]) -> Run:
    folder = Path(results or os.environ.get("LABKIT_RESULTS") or "results")
    return create_run(folder, name or os.environ.get("LABKIT_RUN_NAME") or None, manifest)
