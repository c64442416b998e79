"""An engine of stand-ins: the lab's pool, front, deployment and facade drive real processes that only pretend to be vLLM."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labkit.serve.engines.base import Command, EngineOptions, Plan, Registry, RouterSpec, WorkerSpec
from labkit.serve.engines.dynamo import Dynamo
from labkit.serve.engines.dynamo_frontend import FrontendRegistry
from labkit.serve.engines.vllm import Vllm
from labkit.serve.hardware import Core, Gpu, Node
from labkit.serve.models import ServedModel
from labkit.spec import Role, Topology, Workload
from tests.support import fake_frontend, fake_worker

SHORT = Workload(isl=16, osl=4, rate=40, duration_s=0.6, arrivals="constant")
ENDLESS = Workload(isl=16, osl=4, rate=40, duration_s=600, arrivals="constant")
MODEL = ServedModel(path="/nowhere/fake", name="fake", load_format="dummy", vocab_size=1000)


def fake_command(what: str, *args: object) -> tuple[str, ...]:
    """The command line of a stand-in."""
    return (sys.executable, "-I", "-S", fake_worker.__file__, what, *map(str, args))


def fake_node(cores: int = 8) -> Node:
    """A node without GPU, of so many cores."""
    return Node(
        gpus=(), cores=tuple(Core(n, (0, n)) for n in range(cores)), memory_bytes=2**34, shm_bytes=2**30, no_gpu="a test's node"
    )


def fake_gpu(index: int, memory_gib: int = 80) -> Gpu:
    """A GPU that is not there."""
    return Gpu(index=index, uuid=f"GPU-{index}", name="Fake", memory_bytes=memory_gib * 2**30, free_bytes=memory_gib * 2**30)


@dataclass
class FakeEngine:
    """``Engine`` of stand-ins.

    Attributes:
        mark: goes to every process's environment, so that a test finds what is left.
        faults: worker name (or ``router0``, ``router1`` … by number) → options of ``fake_worker.py``.
        everywhere: options of every worker.
        python: another executable, to see a missing one.
        forks: options of the fork server; ``None`` for none.
    """

    mark: str
    faults: dict[str, Sequence[str]] = field(default_factory=dict)
    everywhere: Sequence[str] = ()
    python: str | None = None
    forks: Sequence[str] | None = None
    name: str = "fake"
    router_modes: tuple[str, ...] = ("round-robin", "kv")
    routers: int = 0
    registry: Registry | None = None
    dialect_known: bool = True
    highest_port: int = 65535

    def worker(self, spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> Command:
        argv = [
            *fake_command("worker", "--port", spec.port, "--host", spec.net.address, "--model", model.name),
            *self.everywhere,
            *options.extra_args,
        ]
        return self._command([*argv, *self.faults.get(spec.name, ())], dict(options.extra_env))

    def fork_server(self, worker: Command) -> Command | None:
        if self.forks is None:
            return None
        return Command((sys.executable, fake_worker.__file__, "--fork-server", *self.forks), {"LABKIT_TEST_MARK": self.mark})

    def router(self, spec: RouterSpec) -> Command:
        argv = [*fake_command("router", "--port", spec.port, "--metrics-port", spec.metrics_port)]
        flags = {Role.AGGREGATED: "--worker", Role.PREFILL: "--prefill", Role.DECODE: "--decode"}
        for url, role in spec.workers.items():
            argv += [flags[role], url]
        argv += self.faults.get(f"router{self.routers}", ())
        self.routers += 1
        return self._command(argv, {})

    def router_metrics(self, spec: RouterSpec) -> str:
        return f"http://127.0.0.1:{spec.metrics_port}/metrics"

    def _command(self, argv: Sequence[str], env: Mapping[str, str]) -> Command:
        argv = [self.python, *argv[1:]] if self.python else argv
        return Command(tuple(argv), {"LABKIT_TEST_MARK": self.mark, **env})

    def plan(self, now: Topology, wanted: Topology) -> Plan:
        return Vllm(sys.executable).plan(now, wanted)

    @property
    def stages(self) -> tuple[str, ...]:
        return ("reading arguments", "starting the server")

    def stage(self, line: str) -> str | None:
        for text, stage in (("non-default args", "reading arguments"), ("Starting fake server", "starting the server")):
            if text in line:
                return stage
        return None

    def missing(self, distributions: Sequence[str]) -> str | None:
        return None


@dataclass
class FakeDynamo(FakeEngine):
    """``Engine`` of stand-ins that register with a frontend that stays."""

    name: str = "fake dynamo"
    registry: Registry | None = field(default_factory=FrontendRegistry)
    dialect_known: bool = False

    def worker(self, spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> Command:
        command = super().worker(spec, model, options)
        role = (spec.role or Role.AGGREGATED).noun
        return Command((*command.argv, "--register", str(spec.meeting), "--role", role), command.env)

    def router(self, spec: RouterSpec) -> Command:
        argv = [sys.executable, "-I", "-S", fake_frontend.__file__, "--port", str(spec.port), "--meeting", str(spec.meeting)]
        argv += self.faults.get(f"router{self.routers}", ())
        self.routers += 1
        return self._command(argv, {})

    def router_metrics(self, spec: RouterSpec) -> str:
        return f"http://127.0.0.1:{spec.port}/metrics"

    def plan(self, now: Topology, wanted: Topology) -> Plan:
        return Dynamo(sys.executable).plan(now, wanted)


def log_file(folder: Path, text: str) -> str:
    """A file for ``--say``."""
    path = folder / "say.txt"
    path.write_text(text)
    return str(path)
