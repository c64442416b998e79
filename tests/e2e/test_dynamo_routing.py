"""Real Dynamo workers whose prompts share prefixes: routing by KV cache, told by what each worker had to compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labkit.lab import Lab
from labkit.serve.counters import metrics_page
from labkit.serve.engines.base import EngineOptions
from labkit.serve.interpreter import engine_python, versions
from labkit.spec import Role, Workload
from labkit.telemetry.prometheus import MetricsParser

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif("ai-dynamo" not in versions(engine_python()), reason="ai-dynamo is not installed"),
]


def prefix_hits(lab: Lab, workload: Workload) -> dict[str, float]:
    """By worker that computes prompts, the tokens of a load's prompts that came from its prefix cache."""
    roles = lab.deployment.roles

    def totals() -> dict[str, float]:
        computing = [worker for worker in lab.deployment.workers if roles[worker.name] is not Role.DECODE]
        pages = {worker.name: MetricsParser().parse(metrics_page(worker.url)) for worker in computing}
        return {name: page["vllm:prefix_cache_hits_total"] for name, page in pages.items()}

    before = totals()
    assert lab.measure(workload).failed == 0
    return {name: total - before[name] for name, total in totals().items()}


@pytest.mark.parametrize("topology", ["2A", "2P1D"])
def test_kv_routing_sends_a_prompt_where_its_prefix_is_cached(tmp_path: Path, topology: str) -> None:
    groups, sends, prefix = 6, 24, 224
    shared = Workload(isl=256, osl=2, prefix_groups=groups, prefix_tokens=prefix, concurrency=1, requests=sends)
    options = EngineOptions(prefix_caching=True)
    with Lab("demo", topology, engine="dynamo", workload=shared, options=options, results=tmp_path) as lab:
        pids = [worker.tree.pid for worker in lab.deployment.workers]
        spread = prefix_hits(lab, shared)
        assert len(spread) == 2
        lab.change(options=replace(options, router_mode="kv"))
        assert [worker.tree.pid for worker in lab.deployment.workers] == pids, "another frontend, the same workers"
        kept = prefix_hits(lab, shared.with_seed(1))
    assert sum(kept.values()) >= (sends - groups) * prefix, f"each prefix is computed once, by one worker: {kept}"
    assert sum(spread.values()) < sum(kept.values()), f"round-robin computes it on both: {spread}, {kept}"
