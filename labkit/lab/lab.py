"""The lab: a deployment, a load, telemetry and a run that keeps it all, on one clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from labkit.lab import facts, held
from labkit.lab.changes import Changes
from labkit.lab.cluster_telemetry import begin_telemetry
from labkit.lab.ending import close_all, closed, finish, give_up
from labkit.lab.endpoint import UNKNOWN_VOCAB, Endpoint
from labkit.lab.engines import engine_named
from labkit.lab.fitting import fitted
from labkit.lab.following import watch_pool
from labkit.lab.launcher import Launcher
from labkit.lab.load_fleet import FOLLOW_S, LoadFleet
from labkit.lab.loads import Loads
from labkit.lab.measurement import Measurement, RunningLoad
from labkit.lab.opening import Opening
from labkit.lab.reach import reach
from labkit.lab.simulation import Simulation, simulated
from labkit.lab.telemetry_agent import TelemetryAgent
from labkit.lab.telling import Lines
from labkit.lab.watch import OnSample, Watch
from labkit.live.window import WINDOW_S
from labkit.load.schedule import Schedule
from labkit.serve.deployment import Deployment, Patience, Resplit
from labkit.serve.engines.attach import Attached
from labkit.serve.engines.base import EngineOptions, Plan
from labkit.serve.hardware import Node
from labkit.spec import Model, Slo, Topology, Workload
from labkit.store.run import new_run


class Lab:
    """Launch, measure, re-split, stop. A context manager: leaving it ends every process and closes the run.

        with Lab("demo", "2A", workload=Workload(isl=512, osl=32, rate=1.5, duration_s=40)) as lab:
            print(lab.measure(), lab.resplit("1P1D"), lab.measure())

    Attributes:
        deployment: the workers and the router in front of them.
        run: the folder that keeps everything.
        workload: what ``measure`` sends where it is not told otherwise.
        changes: of split and pool: where a drain stands, and its end.
    """

    _closed: bool = False
    _watch: Watch | None = None
    _simulation: Simulation | None = None

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
        nodes: str | None = None,
        placement: str = "spread",
        patience: Patience | None = None,
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
            port, share: of the first router, a free one by default; whether workers may share a GPU or core.
            shards: processes that send the load; the lab says when one is not enough.
            ready_timeout_s, patience: longest wait for a worker; is told where the start stands, and may call it off.
            progress: takes a line for the user; they are printed by default.
            node: the hardware, inspected by default.
            nodes: ``ray``, or the address of a Ray cluster, to have the workers on its nodes; here by default.
            placement: of workers over these nodes: ``spread``, or ``pack`` on few.

        Raises:
            LabError: what was asked for cannot be had. No process is left; where one had been started, the run says why.
        """
        self._begin(workload, slo, progress)
        model = model if isinstance(model, Model) else Model(model)
        wanted, options = Topology(topology), options or EngineOptions()
        made, found = engine_named(engine)
        hosts = self._hosts = reach(nodes, placement, node, made, self.progress, lambda error: self.run.fault(error))
        with self._opening.under_way(self._fail, patience) as patience:
            self._simulation, hosts = simulated(engine, options, hosts)
            self._hosts = hosts
            manifest = facts.launched(kind, engine, found, hosts, model, wanted, workload=workload, slo=self.slo, options=options)
            self.run = new_run(results, name, manifest)
            held.take(self, hosts.node)
            served = fitted(model, self.run.path / "model", hosts.node, workload)
            if self._simulation is not None:
                self.run.update(**self._simulation.kept(self.run.path))
            self._launcher = Launcher(
                model=served, hosts=hosts, logs=self.run.path / "logs", share=share,
                ready_timeout_s=ready_timeout_s, progress=self.progress,
            )  # fmt: skip
            self._launcher.check(made, wanted, options)
            self._telemetry = begin_telemetry(self.run.path, hosts)
            self._launcher.otlp_endpoint = self._telemetry.otlp_endpoint
            self.deployment: Deployment | Attached = self._launcher.launch(made, wanted, options, port=port, patience=patience)
            self._reach(served.vocab_size or UNKNOWN_VOCAB, ask=not made.dialect_known)
            self._max_model_len = served.max_model_len
            self.run.update(served={"max_model_len": served.max_model_len, "dtype": served.dtype, "path": Path(served.path).name})
            self._begin_loads(shards)

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
        vocab: int = UNKNOWN_VOCAB,
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
            metrics: worker name → URL of its Prometheus page, where they can be reached. A name such as ``prefill-0`` or
                ``decode-0`` says the worker's role; ``router`` or ``frontend`` is the page of what stands before them.
            topology: what is known of it; shown as declared, not verified. Gives roles to workers whose names say none.
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
        lab.run = new_run(results, name, manifest)
        with lab._opening.under_way(lab._fail):
            lab.deployment = attached
            lab._reach(vocab, ask=True)
            lab._max_model_len = lab._endpoint.longest(attached)
            lab._telemetry = TelemetryAgent.start(lab.run.path, gpus=())
            lab._begin_loads(shards)
            for doubt in attached.doubts:
                lab.run.note(doubt)
                lab.progress(f"  {doubt}")
        return lab

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
            workload, side, repeat: the lab's own; label that groups repeats: the split; number within it: the next one.
            stop_when_saturated: end an open loop early once it surely outruns the server (``measure.saturation``); it is told,
                noted and marked either way.

        Raises:
            LabError: a worker is dead, or the load cannot be run.
        """
        load = self.load(workload, side=side, repeat=repeat, stop_when_saturated=stop_when_saturated)
        self.progress(f"{load.side} #{load.repeat + 1}: {workload or self.workload}")
        try:
            return load.wait(self.progress.load)
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
        self._must_be_open()
        return self._loads.begin(workload or self.workload, side=side, repeat=repeat, stop_when_saturated=stop_when_saturated)

    def resplit(self, topology: Topology | str, *, keep_unused: bool = False) -> Resplit:
        """Change the split while load runs. The lab's load follows by itself; ``repr`` of the result holds the proof.

        Workers that the split does not need end; with ``keep_unused`` they go on without a role until a split needs them.

        Raises:
            ResplitError: the split did not take effect, or cannot be changed here.
        """
        return self.change(topology, keep_unused=keep_unused)

    def change(
        self,
        topology: Topology | str | None = None,
        options: EngineOptions | None = None,
        *,
        in_place: bool = False,
        keep_unused: bool = False,
        drain_timeout_s: float | None = None,
    ) -> Resplit:
        """As ``resplit``, with other options for the workers too, which restarts them (see ``plan``).

        Args:
            topology, options, keep_unused: what there shall be, by default what there is; as for ``resplit``.
            in_place: start workers again on the devices that they have, even where free ones would let others serve until then.
            drain_timeout_s: longest wait for requests on the old router, by default three times what they take; they go on even
                then, but those on workers that end. Ctrl-C meanwhile, or ``changes.call_off()``, lets the old split serve on.
        """
        self._must_be_open()
        how = {"in_place": in_place, "keep_unused": keep_unused}
        return self.changes.change(topology, options, drain_timeout_s=drain_timeout_s, **how)

    def restart(self, worker: str) -> Resplit:
        """Start a worker again, dead or not, while the others and the load go on."""
        self._must_be_open()
        return self.changes.restart(worker)

    def plan(self, topology: Topology | str | None = None, options: EngineOptions | None = None, **how: bool) -> Plan:
        """What ``change`` of the same arguments would do, take and cost, or why it is impossible; nothing is done."""
        return self.changes.plan(topology, options, **how)

    def switch(self, engine: str, topology: Topology | str | None = None) -> None:
        """Let another engine (or the same, anew) serve with the same model and options on the same accelerators, in this run.

        What serves ends first: each engine has the accelerators alone. The split is the present one by default.

        Raises:
            LabError: it is impossible, or a load runs, and nothing has changed; or it does not come up, and the lab is closed.
        """
        self._must_be_open()
        before, made, wanted = self.changes.own, engine_named(engine)[0], Topology(topology or self.deployment.topology)
        Simulation.of(engine, before.options, before.node)  # real and simulated workers do not meet in one run
        self._launcher.check(made, wanted, before.options)
        self._loads.must_be_over(f"{engine} takes the place of {self.engine}")
        self.progress(f"{wanted} on {engine}: ends {self.engine}, and launches {engine} on the same accelerators")
        with self._opening.under_way(self._fail_switch) as patience, self.changes.renewed(self._telemetry, self._load.pids):
            there = self._launcher.launch(made, wanted, before.options, first_epoch=before.epoch + 1, patience=patience)
            self.deployment = self._loads.deployment = self.changes.deployment = there
            if self._watch is not None:
                self._watch.look_at(there)
            self.probe()
            self._follow()
        self.run.note(f"{wanted} serves on {engine}", kind="launch")

    def probe(self) -> None:
        """Ask what serves which fields it takes, and whether its transport delays first tokens; the run keeps the latter."""
        self._endpoint.learn(self.deployment, self.engine)

    @property
    def engine(self) -> str:
        """The name of the engine that serves; ``attached`` where that is somebody else's."""
        there = self.deployment
        return "attached" if isinstance(there, Attached) else there.engine.name

    def watch(self, on_sample: OnSample | None = None, *, hz: float = 4.0, window_s: float = WINDOW_S) -> Watch:
        """Look at everything several times a second, in the background, until the watch is stopped or the lab closed.

        A lab has one watch: one that still runs is stopped, and its history goes on in the new one.

        Args:
            on_sample: called with every ``live.Sample``, on a thread of the watch.
            hz: how often.
            window_s: seconds that the latencies and rates are of.

        Raises:
            LabError: the lab is closed, or a load shard is gone.
        """
        self._must_be_open()
        with self._beginning:
            if (before := self._watch) is not None:
                before.stop()
            self._watch = Watch(
                self.run, self._load, self._telemetry, self.deployment, on_sample, hz=hz, slo=self.slo, window_s=window_s,
                changing=lambda: self.changes.under_way, before=before,
            )  # fmt: skip
            return self._watch

    def watched(self) -> Watch:
        """The watch that there is, or where none runs another; raises as ``watch``. One that somebody begins meanwhile stays."""
        with self._beginning:
            there = self._watch
            return there if there is not None and there.alive else self.watch()

    @property
    def loading(self) -> bool:
        """Whether requests are sent, or under way."""
        return self._loads.loading

    @property
    def watching(self) -> Watch | None:
        """The watch, if there was one."""
        return self._watch

    @property
    def url(self) -> str:
        """Where clients send requests now; a re-split changes it."""
        return self.deployment.url

    @property
    def telemetry_missing(self) -> dict[str, str]:
        """Telemetry that this node does not give, each with the reason."""
        return self._telemetry.missing

    def first_sent_ns(self, epoch: int, timeout_s: float = FOLLOW_S) -> int:
        """The instant of the lab's first request to an epoch's router."""
        return self._load.first_sent_ns(epoch, timeout_s)

    def close(self, error: BaseException | None = None) -> None:
        """End load, telemetry and every worker; close the run. Harmless when done twice, and while it is launched or changes:
        that is called off."""
        if self._closed:
            return
        self._closed = True
        if not self._opening.close():
            return
        ends = [*self._ends, self.changes.close, *([self._watch.stop] if self._watch is not None else []), self._loads.end]
        close_all(ends)
        finish(self.run, self.slo, error, self.progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(error)

    def __repr__(self) -> str:
        return f"Lab  {self.deployment!r}\n  run {self.run.path}, {len(self.run.windows)} measurements, SLO {self.slo}"

    def _begin(self, workload: Workload | None, slo: Slo | None, progress: Callable[[str], None] | None) -> None:
        if workload is not None:
            Schedule(workload)  # a trace that cannot be read is told before anything is launched
        self.workload, self.slo, self.progress = workload, slo or Slo(), Lines(progress)
        self._opening = Opening()
        self._beginning = threading.RLock()

    def _begin_loads(self, shards: int) -> None:
        self._load = LoadFleet.start(self.run.path, shards=shards)
        self._loads = Loads(
            run=self.run, fleet=self._load, deployment=self.deployment, slo=lambda: self.slo, progress=self.progress,
            missing=lambda: self._telemetry.missing, longest=self._max_model_len, simulation=self._simulation,
        )  # fmt: skip
        self.changes = Changes(
            run=self.run,
            deployment=self.deployment,
            follow=self._follow,
            watch_pool=lambda: watch_pool(self.deployment, self._load, self._telemetry),
            mean_s=lambda: self._loads.mean_s,
            state=self.progress.state,
        )
        self._follow()

    def _fail(self, error: BaseException) -> None:
        """End what was started before a launch failed."""
        self._closed = True
        close_all(self._ends)
        if hasattr(self, "run"):
            give_up(self.run, error)

    def _fail_switch(self, error: BaseException) -> None:
        """Close a lab in which another engine does not come up; of one that was closed meanwhile, what came up too late."""
        if self._closed:
            close_all(self._ends)
        self.close(error)

    @property
    def _ends(self) -> list[Callable[[], None]]:
        parts = (getattr(self, name, None) for name in ("_hosts", "_launcher", "deployment", "_telemetry", "_load"))
        return [lambda: held.give_back(self), *(part.close for part in parts if part is not None)]

    def _must_be_open(self) -> None:
        if self._closed:
            raise closed(self.run)

    def _reach(self, vocab: int, *, ask: bool) -> None:
        self._endpoint = Endpoint(run=self.run, workload=self.workload, vocab=vocab, tell=self.progress)
        if ask:
            self.probe()

    def _follow(self) -> None:
        self._endpoint.follow(self.deployment, self._load, self._telemetry)
