"""How a lab brings up what serves: the same model, node and devices whatever the engine and the split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from labkit.lab.exposed import check_words
from labkit.lab.reach import check_reach
from labkit.serve.deployment import Deployment, Patience
from labkit.serve.engines.base import Engine, EngineOptions, WorkerSpec
from labkit.serve.fork_server import ForkServers
from labkit.serve.hosts import LocalHost
from labkit.serve.models import ServedModel
from labkit.serve.placing import first_places
from labkit.serve.remote import RemoteHosts
from labkit.serve.situation import kinds_of
from labkit.spec import Topology


@dataclass(slots=True, kw_only=True)
class Launcher:
    """Launches deployments one after the other. Each engine keeps its fork server until ``close``: a later launch is short.

    Attributes:
        model, share, ready_timeout_s, progress, otlp_endpoint: as for ``Deployment``.
        hosts: where workers run; whoever made them closes them.
        logs: one folder for all of them.
    """

    model: ServedModel
    hosts: LocalHost | RemoteHosts
    logs: Path
    share: bool
    ready_timeout_s: float
    progress: Callable[[str], None]
    otlp_endpoint: str | None = None
    _own: dict[str, LocalHost] = field(default_factory=dict, init=False)

    def check(self, engine: Engine, topology: Topology, options: EngineOptions) -> None:
        """What can be known without starting a process.

        Raises:
            LabError: it is impossible.
        """
        check_words(options)
        if isinstance(self.hosts, RemoteHosts):
            check_reach(engine)
        places = first_places(kinds_of(topology, kept=engine.registry is not None), self.model, self.hosts.node, share=self.share)
        for place in places:
            spec = WorkerSpec(name=place.name, tp=place.tp, devices=place.devices, port=1, kv_port=1, role=place.role)
            engine.worker(spec, self.model, options)

    def launch(
        self,
        engine: Engine,
        topology: Topology,
        options: EngineOptions,
        *,
        port: int | None = None,
        patience: Patience | None = None,
        first_epoch: int = 0,
    ) -> Deployment:
        """Arguments and errors are those of ``Deployment``."""
        return Deployment(
            self.model, topology, engine, self.hosts.node,
            logs=self.logs, options=options, otlp_endpoint=self.otlp_endpoint, port=port, share=self.share,
            ready_timeout_s=self.ready_timeout_s, progress=self.progress, hosts=self._hosts_of(engine),
            first_epoch=first_epoch, patience=patience,
        )  # fmt: skip

    def close(self) -> None:
        """End the fork servers. Harmless when done twice."""
        for own in self._own.values():
            own.close()
        self._own = {}

    def _hosts_of(self, engine: Engine) -> LocalHost | RemoteHosts:
        """On this machine with the fork servers of the engine; those of other machines are their agents'."""
        if isinstance(self.hosts, RemoteHosts):
            return self.hosts
        if engine.name not in self._own:
            self._own[engine.name] = LocalHost(self.hosts.node, ForkServers(self.logs, self.progress), self.progress)
        return self._own[engine.name]
