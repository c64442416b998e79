"""Load and telemetry pointed at the split that serves now."""

from __future__ import annotations

import time
from pathlib import Path

from labkit.lab import facts
from labkit.lab.cluster_telemetry import ClusterTelemetry
from labkit.lab.load_fleet import LoadFleet
from labkit.lab.telemetry_agent import TelemetryAgent, WatchedWorker
from labkit.load.target import Target
from labkit.serve.deployment import Deployment
from labkit.serve.engines.attach import Attached
from labkit.spec import Workload
from labkit.store.run import Run


def watch_pool(there: Deployment | Attached, load: LoadFleet, telemetry: TelemetryAgent | ClusterTelemetry) -> None:
    """Point telemetry at the workers that there are now."""
    watched = [WatchedWorker(name, pid, metrics_url) for name, pid, metrics_url in there.watched]
    telemetry.watch(watched, there.router_metrics, load.pids)


def follow(
    run: Run,
    there: Deployment | Attached,
    target: Target,
    load: LoadFleet,
    telemetry: TelemetryAgent | ClusterTelemetry,
    workload: Workload | None,
) -> None:
    """Point load and telemetry at what serves now, and keep it as an epoch of the run.

    Args:
        run: keeps it.
        there: what serves.
        target: where its requests go, in what dialect.
        load, telemetry: what follows.
        workload: the lab's own; a chat's prompts need the tokenizer of the model's folder.
    """
    folder = Path(there.model.path)
    chat = workload is not None and workload.api == "chat"
    load.target(
        there.epoch, target.url, target.model, vocab=target.vocab, dialect=target.dialect, api_key=target.api_key,
        tokenizer=folder if chat and (folder / "tokenizer.json").is_file() else None, writes_at_once=target.writes_at_once,
    )  # fmt: skip
    watch_pool(there, load, telemetry)
    epoch = facts.epoch(there, start_ns=time.perf_counter_ns())
    topologies = list(dict.fromkeys([*run.manifest["topologies"], str(there.topology)]))
    run.update(epochs=[*run.manifest["epochs"], epoch], topologies=topologies)
    if not there.epoch:  # later ones are noted as what they came of
        run.note(f"{there.topology} serves", kind="launch")
