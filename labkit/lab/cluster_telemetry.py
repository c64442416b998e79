"""The telemetry of a lab whose workers are on several machines: its own sampler, and one on each node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from labkit.lab.node_sampler import NodeTelemetry
from labkit.lab.telemetry_agent import TelemetryAgent, WatchedWorker
from labkit.live.gauges import Reading
from labkit.serve.hosts import LocalHost
from labkit.serve.remote import RemoteHosts


class ClusterTelemetry:
    """As ``TelemetryAgent``, whose face it has. GPUs are read on the nodes alone: the lab's machine may be one of them."""

    def __init__(self, run_dir: Path, hosts: RemoteHosts) -> None:
        """Begin on every machine.

        Raises:
            LaunchError: a sampler cannot be started.
        """
        self._own = TelemetryAgent.start(run_dir, gpus=())
        self._nodes: dict[str, NodeTelemetry] = {}
        self.otlp_endpoint, self.pid = self._own.otlp_endpoint, self._own.pid
        try:
            for host in hosts.hosts:
                self._nodes[host.name] = NodeTelemetry(run_dir, host)
        except BaseException:
            self.close(spans_s=0.0)
            raise

    def watch(
        self, workers: Sequence[WatchedWorker], router: str | None = None, clients: Mapping[str, int] | None = None
    ) -> None:
        """Replace what is watched: metrics pages from here, processes where they are."""
        self._own.watch(workers, router, clients)
        for node in self._nodes.values():
            node.watch()

    @property
    def missing(self) -> dict[str, str]:
        """``source`` or ``source/metric`` → why there is no value now, of all machines."""
        away = {name for node in self._nodes.values() for name in node.away}
        found = {key: why for key, why in self._own.missing.items() if key != "gpu" and key not in away}
        for node in self._nodes.values():
            found |= node.missing
        return found

    def latest(self) -> dict[tuple[str, str], float]:
        """(source, metric) → the last value heard."""
        return {key: reading.value for key, reading in self.readings().items()}

    def readings(self) -> dict[tuple[str, str], Reading]:
        """The same with the instant of each, on the lab's clock."""
        found = self._own.readings()
        for node in self._nodes.values():
            found |= node.readings()
        return found

    def wait_for(self, condition: Callable[[Self], bool], timeout_s: float) -> bool:
        """Wait until ``condition(self)`` holds, looked at whenever the lab's own sampler tells something."""
        return self._own.wait_for(lambda _: condition(self), timeout_s)

    def close(self, *, spans_s: float = 2.0) -> None:
        """Wait for spans, flush and end; a second call does nothing."""
        for node in self._nodes.values():
            node.close(spans_s=spans_s)
        self._own.close(spans_s=spans_s)


def begin_telemetry(run_dir: Path, hosts: LocalHost | RemoteHosts) -> TelemetryAgent | ClusterTelemetry:
    """The samplers for a lab on these machines; raises LaunchError where one cannot be started."""
    if isinstance(hosts, RemoteHosts):
        return ClusterTelemetry(run_dir, hosts)
    return TelemetryAgent.start(run_dir, gpus=None if hosts.node.gpus and not hosts.node.simulated else ())
