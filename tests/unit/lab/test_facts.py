from __future__ import annotations

import json
from types import SimpleNamespace

from labkit.lab import facts
from labkit.load.target import VLLM, Target
from labkit.measure.transport import Transport
from labkit.serve.engines.base import EngineOptions
from labkit.serve.hosts import LocalHost
from labkit.spec import Model, Role, Slo, Topology, Workload
from labkit.store import create_run
from tests.support.fake_engine import fake_node
from tests.support.oracle_server import OracleServer

WORK = Workload(isl=16, osl=4, rate=1, duration_s=1, seed=7)


def test_a_launched_run_says_what_was_asked_for_and_where():
    said = facts.launched(
        "compare", "vllm", {"vllm": "1"}, LocalHost(fake_node(2)), Model("demo"), Topology("2A"),
        workload=WORK, slo=Slo(tpot_s=0.05), options=EngineOptions(max_num_seqs=8),
    )  # fmt: skip
    assert json.loads(json.dumps(said)) == said | {"options": {**said["options"], "extra_args": []}}
    assert (said["model"]["name"], said["model"]["dummy_weights"], said["engines"]) == ("demo", True, {"vllm": "1"})
    assert (said["seed"], said["topologies"], said["slo"]["tpot_s"]) == (7, ["2A"], 0.05)
    assert (said["hardware"]["cores"], said["hardware"]["no_gpu"]) == ([0, 1], "a test's node")
    assert Workload.from_dict(said["workload"]) == WORK
    assert said["options"]["max_num_seqs"] == 8


def test_an_attached_run_claims_nothing_that_was_not_declared():
    said = facts.attached("name", "attached", workload=None, slo=Slo())
    assert (said["workload"], said["seed"], said["topologies"]) == (None, None, ["attached"])
    assert said["hardware"] == {"summary": "attached, not verified"}
    assert said["engines"] == {}


def test_an_epoch_names_roles_and_who_shares():
    held = {"w0": {"gpus": [0], "shared": True}, "w1": {"gpus": [0], "shared": True}}
    deployment = SimpleNamespace(
        engine=SimpleNamespace(name="vllm"),
        epoch=3, topology=Topology("1P1D"), url="http://127.0.0.1:1", verified=True, devices_by_worker=held,
        roles={"w0": Role.PREFILL, "w1": Role.DECODE}, options=EngineOptions(max_num_batched_tokens=256),
    )  # fmt: skip
    said = facts.epoch(deployment, start_ns=5)  # type: ignore[arg-type]
    assert (said["epoch"], said["topology"], said["start_ns"], said["verified"]) == (3, "1P1D", 5, True)
    assert said["engine"] == "vllm"
    assert said["roles"] == {"w0": "P", "w1": "D"}
    assert EngineOptions.from_dict(json.loads(json.dumps(said["options"]))) == deployment.options
    assert (said["gpus"], said["shared"]) == ({"w0": [0], "w1": [0]}, True)


def test_a_server_that_waits_for_nothing_is_found_out(tmp_path):
    run = create_run(tmp_path, "attached", {})
    with OracleServer() as server:
        found = facts.probed(run, Target(server.url, "plain?ttft=2&itl=1", 4096), None, print, "dynamo")
    assert found.writes_at_once
    kept = Transport.of_manifest(run.manifest)
    assert kept is not None
    assert kept.writes_at_once
    run.close()


def test_what_a_transport_does_is_kept_with_the_run_and_told(tmp_path):
    run, told = create_run(tmp_path, "attached", {}), []
    with OracleServer() as server:
        target = Target(server.url, "plain?ttft=2&itl=1&nagle=1", 4096)
        probe = facts.probed(run, target, None, told.append, "dynamo")
    assert (probe.dialect, probe.writes_at_once) == (VLLM, False)
    found = Transport.of_manifest(run.manifest)
    assert found is not None
    assert found.mark is not None
    assert told == [f"  {found.mark.text}"]
    assert run.records().events["text"].to_pylist() == [found.mark.text]
    run.update(epochs=[{"epoch": 0, "engine": "vllm"}, {"epoch": 1, "engine": "dynamo"}])
    assert Transport.of_manifest(run.manifest, 1) == found
    assert Transport.of_manifest(run.manifest, 0) is None, "nobody looked at that engine's"
    run.close()
