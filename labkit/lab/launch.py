"""Another lab in the place of one that serves: what it would be, and why it cannot be, told before the first is closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from labkit.errors import ResplitError, SpecError
from labkit.lab.engines import engine_named
from labkit.lab.fitting import fitted
from labkit.lab.lab import Lab
from labkit.lab.simulation import Simulation
from labkit.serve.cluster import Cluster, allot
from labkit.serve.deployment import Patience
from labkit.serve.engines.attach import Attached
from labkit.serve.engines.base import EngineOptions, WorkerSpec
from labkit.serve.hardware import Node
from labkit.serve.memory import check_memory
from labkit.serve.models import ServedModel
from labkit.spec import Model, Topology, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a lab is launched with, and in words what becomes of the one before.

    Attributes:
        engine: its name.
        options, node, share: as for ``Lab``.
        text: what will happen, as the lab tells the user.
    """

    model: Model
    topology: Topology
    engine: str
    options: EngineOptions
    node: Node
    share: bool
    text: str = ""

    @classmethod
    def of(cls, lab: Lab) -> Self:
        """What a lab runs with now.

        Raises:
            ResplitError: its endpoint is somebody else's, or its workers are on the nodes of a cluster.
        """
        there = lab.deployment
        if isinstance(there, Attached):
            raise there.refusal()
        if isinstance(there.node, Cluster):
            raise ResplitError(
                "a lab on the nodes of a cluster is not launched anew from here", remedy="close it, and launch another"
            )
        kept = lab.run.manifest["model"]
        return cls(
            model=Model(**{field.name: kept[field.name] for field in fields(Model)}),
            topology=there.topology,
            engine=lab.engine,
            options=there.options,
            node=there.node,
            share=there.share,
        )

    def begin(self, after: Lab, workload: Workload | None, progress: Callable[[str], None], patience: Patience) -> Lab:
        """The lab, beside the run of one that is closed, under the same SLO; arguments and errors are those of ``Lab``."""
        return Lab(
            self.model, self.topology, workload=workload, slo=after.slo, engine=self.engine, options=self.options, kind="explore",
            results=after.run.path.parent, progress=progress, node=self.node, share=self.share,
            patience=patience,
        )  # fmt: skip


def plan_launch(
    lab: Lab, model: Model | str, topology: Topology | str | None = None, *, engine: str | None = None, workload: Workload | None
) -> Launch:
    """Another model or engine in the place of what a lab serves, with its options; nothing is done.

    Args:
        lab: what serves now.
        model: what is to be served.
        topology, engine: the present ones by default.
        workload: what will be sent: the context length is fitted to it.

    Raises:
        LabError: it is impossible, as far as can be known without starting a process.
    """
    now = Launch.of(lab)
    model = model if isinstance(model, Model) else Model(model)
    wanted, engine = now.topology if topology is None else Topology(topology), engine or now.engine
    made, _ = engine_named(engine)
    pretended = Simulation.of(engine, now.options, now.node)  # whether the options suit it
    if pretended is not None and model.name not in pretended.models:
        raise SpecError(
            f"the simulated workers take the times of {', '.join(pretended.models)}, and {model.name} has others",
            remedy=f"launch a lab with timing of {model.name}",
        )
    served = _served(model, now.node, workload)
    tps = [tp for _, tp in wanted.workers]
    for tp in set(tps):
        served.check_tp(tp)
    devices = allot(tps, now.node, share=now.share)
    check_memory(served, devices)
    for tp, held in zip(tps, devices, strict=True):
        made.worker(WorkerSpec(name="w0", tp=tp, devices=held, port=1, kv_port=1), served, now.options)
    size = f", {served.weight_bytes / 2**30:.2g} GiB of weights each" if served.weight_bytes and pretended is None else ""
    count = f"{len(tps)} worker{'s' * (len(tps) > 1)}"
    text = (
        f"closes {lab.run.id} and keeps it, then launches {wanted} of {model} on {engine}: loads {count}{size}; "
        "nothing serves meanwhile"
    )
    return Launch(
        model=model, topology=wanted, engine=engine, options=now.options, node=now.node, share=now.share, text=text
    )  # fmt: skip


def _served(model: Model, node: Node, workload: Workload | None) -> ServedModel:
    with TemporaryDirectory(prefix="labkit-") as folder:
        return fitted(model, Path(folder), node, workload)
