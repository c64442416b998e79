"""What a run's manifest says of the lab: what was asked for, on what hardware, and each split that served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from labkit.load.probe import Probe, probe_apart
from labkit.load.target import Target
from labkit.serve.deployment import Deployment
from labkit.serve.engines.attach import Attached
from labkit.serve.engines.base import EngineOptions
from labkit.serve.hardware import Node
from labkit.serve.hosts import LocalHost
from labkit.serve.remote import RemoteHosts
from labkit.spec import Model, Slo, Topology, Workload
from labkit.store.run import Run


def launched(
    kind: str,
    engine: str,
    engines: Mapping[str, str],
    hosts: LocalHost | RemoteHosts,
    model: Model,
    topology: Topology,
    *,
    workload: Workload | None,
    slo: Slo,
    options: EngineOptions,
) -> dict[str, Any]:
    """The manifest of a run on workers that the lab launches.

    Args:
        kind: what the run is for.
        engine: the engine's name.
        engines: versions found in its interpreter.
        hosts, model, topology, workload, slo, options: what was asked for, and where.
    """
    return {
        "kind": kind,
        "engine": engine,
        "engines": dict(engines),
        "hardware": hardware(hosts.node) | nodes_of(hosts),
        "model": {**asdict(model), "name": model.name},
        **_asked_for(topology, workload, slo),
        "options": asdict(options),
    }


def attached(model: str, topology: Topology | str, *, workload: Workload | None, slo: Slo) -> dict[str, Any]:
    """The manifest of a run on an endpoint that somebody else runs: nothing of it is known but what was declared."""
    return {
        "kind": "attach",
        "engine": "attached",
        "engines": {},
        "hardware": {"summary": "attached, not verified"},
        "model": {"name": model},
        **_asked_for(topology, workload, slo),
    }


def hardware(node: Node) -> dict[str, Any]:
    """A node, JSON-ready. GPUs that are only simulated are none of its."""
    held = () if node.simulated is not None else node.gpus
    return {
        "summary": str(node),
        "gpus": [{"index": g.index, "name": g.name, "uuid": g.uuid, "memory_bytes": g.memory_bytes} for g in held],
        "driver": node.driver,
        "no_gpu": node.no_gpu,
        "cores": [core.index for core in node.cores],
        "memory_bytes": node.memory_bytes,
    }


def nodes_of(hosts: LocalHost | RemoteHosts) -> dict[str, Any]:
    """What each node of a cluster is and has, JSON-ready; nothing on one machine.

    ``first_device`` is the number of its first GPU or core in the cluster. ``clock_offset_ns`` was added to instants of its
    monotonic clock to have them on the lab's; the true offset differs by ``clock_bound_ns`` at most.
    """
    if isinstance(hosts, LocalHost):
        return {}
    return {
        "placement": hosts.node.placement,
        "nodes": [
            {
                **{name: value for name, value in asdict(host.facts).items() if name not in ("node", "net")},
                "name": host.name,
                "address": host.net.address,
                "first_device": host.member.first,
                "clock_offset_ns": host.clock.offset_ns,
                "clock_bound_ns": host.clock.bound_ns,
                **hardware(host.facts.node),
            }
            for host in hosts.hosts
        ],
    }


def probed(run: Run, target: Target, workload: Workload | None, tell: Callable[[str], None], engine: str) -> Probe:
    """Find out what an endpoint takes and what its transport does; ``tell`` gets what a reader must know.

    The run keeps what the transport does, of each engine that it is asked of.

    Raises:
        LoadError: it cannot be measured.
    """
    found = probe_apart(target, workload)
    if found.transport is not None:
        told = found.transport.to_dict()
        run.update(transport=told, transports={**run.manifest.get("transports", {}), engine: told})
    for note in found.notes:
        run.note(note)
        tell(f"  {note}")
    return found


def epoch(deployment: Deployment | Attached, *, start_ns: int) -> dict[str, Any]:
    """The split that serves now: roles, devices and options of the workers, from ``start_ns`` (monotonic) on."""
    held = deployment.devices_by_worker
    return {
        "epoch": deployment.epoch,
        "topology": str(deployment.topology),
        "engine": "attached" if isinstance(deployment, Attached) else deployment.engine.name,
        "start_ns": start_ns,
        "url": deployment.url,
        "verified": deployment.verified,
        "roles": {name: str(role) for name, role in deployment.roles.items()},
        "devices": held,
        "gpus": {name: devices["gpus"] for name, devices in held.items()},
        "shared": any(devices["shared"] for devices in held.values()),
        "options": None if isinstance(deployment, Attached) else asdict(deployment.options),
    }


def _asked_for(topology: Topology | str, workload: Workload | None, slo: Slo) -> dict[str, Any]:
    return {
        "topologies": [str(topology)],
        "workload": workload.to_dict() if workload else None,
        "slo": asdict(slo),
        "seed": workload.seed if workload else None,
        "epochs": [],
    }
