"""A lab over several machines: stand-in nodes with real agents that sample; nothing of Ray."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import labkit.lab.node_sampler as node_sampler
import labkit.lab.reach as reach_module
from labkit.errors import MissingEngine, ResplitError, SpecError
from labkit.lab.lab import Lab
from labkit.lab.launch import plan_launch
from labkit.lab.node_sampler import NodeTelemetry, SamplingAgent
from labkit.serve.cluster import join, member_at
from labkit.serve.link import Clock
from labkit.serve.remote import RemoteHosts
from labkit.store.run import open_run
from labkit.store.segments import read_segment
from tests.support.fake_engine import FakeDynamo, FakeEngine
from tests.support.stand_in_nodes import StandInLink, stand_in_nodes
from tests.support.waiting import until

OpenLab = Callable[..., Lab]


@pytest.fixture
def hosts() -> Iterator[RemoteHosts]:
    nodes = stand_in_nodes((1, 1), agent=SamplingAgent)
    yield nodes
    nodes.close()


def test_a_lab_over_two_nodes_measures_resplits_and_keeps_what_each_node_is(
    open_lab: OpenLab, monkeypatch: pytest.MonkeyPatch, said: list[str]
):
    asked: list[object] = []
    made: list[RemoteHosts] = []

    def connect(address: str, *, placement: str, agent: type[SamplingAgent], **tell: Callable[[object], None]) -> RemoteHosts:
        asked.extend((address, placement))
        made.append(stand_in_nodes((1, 1), "spread", agent=agent, **tell))
        return made[0]

    monkeypatch.setattr(reach_module, "connect", connect)
    with open_lab("1P1D", node=None, nodes="10.0.0.1:6379") as lab:
        assert asked == ["10.0.0.1:6379", "spread"]
        assert lab.measure().failed == 0
        lab.resplit("2A")
        until(lambda: {"host@127.0.0.2", "host@127.0.0.3"} <= {source for source, _ in lab._telemetry.latest()}, "both hosts")
        with pytest.raises(ResplitError, match="nodes of a cluster"):
            plan_launch(lab, "demo", workload=None)
        made[0].hosts[1].link.die()  # type: ignore[attr-defined]
        until(lambda: any(line.startswith("node 127.0.0.3 died, and took w1 along") for line in said), "the news")
        lab.resplit("1A")
        assert lab.measure().failed == 0
        until(lambda: "host@127.0.0.3" in lab.telemetry_missing, "why there is no telemetry")
    run = open_run(lab.run.path)
    hardware = run.manifest["hardware"]
    assert [(node["name"], node["first_device"], node["cores"]) for node in hardware["nodes"]] == [
        ("127.0.0.2", 0, [0]),
        ("127.0.0.3", 1000, [0]),
    ]
    assert all((node["clock_offset_ns"], node["clock_bound_ns"]) == (0, 0) for node in hardware["nodes"])
    assert hardware["placement"] == "spread"
    assert run.manifest["epochs"][0]["devices"]["w1"]["cores"] == [1000]
    faults = [event for event in run.records().events.to_pylist() if event["kind"] == "fault"]
    (lost,) = (event for event in faults if event["text"].startswith("node 127.0.0.3 died"))
    assert json.loads(lost["data"]) == {"remedy": "re-split without it, or launch again"}


def test_another_machines_samples_are_named_by_it_and_put_on_the_labs_clock(hosts: RemoteHosts, tmp_path: Path):
    host = hosts.hosts[1]
    host.here, host.clock = False, Clock(offset_ns=-(10**15), bound_ns=1000)
    telemetry = NodeTelemetry(tmp_path, host)
    assert host.otlp_endpoint is not None
    until(lambda: telemetry.readings(), "a reading")
    until(lambda: ("host@127.0.0.3", "core1000_busy_fraction") in telemetry.readings(), "a core's reading")
    now_ns = time.perf_counter_ns()
    telemetry.close(spans_s=0.0)
    rows = read_segment(tmp_path / "segments" / "samples-node1000.arrows")
    assert isinstance(rows, pa.Table)
    assert set(rows["source"].to_pylist()) == {"host@127.0.0.3", "host@127.0.0.3/lab", "host@127.0.0.3/telemetry"}
    assert all(abs(t_ns - (now_ns - 10**15)) < 60e9 for t_ns in rows["t_ns"].to_pylist())
    assert "foreign_cpu_cores" in set(rows["metric"].to_pylist())


@pytest.mark.parametrize("late", [True, False])
def test_that_another_machine_was_silent_is_kept_with_the_run(
    hosts: RemoteHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
):
    telemetry = NodeTelemetry(tmp_path, hosts.hosts[1])
    until(telemetry.readings, "a first answer")
    if late:
        monkeypatch.setattr(node_sampler, "SILENT_S", 0.0)
    telemetry.close(spans_s=0.0)
    told = read_segment(tmp_path / "segments" / "events-node1000.arrows")
    assert isinstance(told, pa.Table)
    back = [text for text in told["text"].to_pylist() if text.startswith("node 127.0.0.3 answers again: it was silent for ")]
    assert bool(back) is late


def test_on_the_labs_own_machine_its_own_sampler_says_who_is_a_stranger(hosts: RemoteHosts, tmp_path: Path):
    telemetry = NodeTelemetry(tmp_path, hosts.hosts[0])
    until(lambda: ("host@127.0.0.2", "cpu_busy_fraction") in telemetry.readings(), "a reading")
    assert ("host@127.0.0.2", "foreign_cpu_cores") not in telemetry.readings()
    assert telemetry.missing["host@127.0.0.2/foreign_cpu_cores"] == "this node is on the lab's own machine: see host"
    telemetry.close(spans_s=0.0)


def test_the_gpus_of_another_machine_have_the_numbers_that_plans_give_them(
    fake_nvml: Callable[[str], None], hosts: RemoteHosts, tmp_path: Path
):
    fake_nvml("error nvmlDeviceGetPowerUsage:0 3\n")
    host = hosts.hosts[1]
    assert isinstance(host.link, StandInLink)
    node = host.link.agent.facts().node
    planned = [f"gpu{gpu.index}" for gpu in join([member_at(1, host.name, node)], "spread").gpus]
    telemetry = NodeTelemetry(tmp_path, host)
    until(lambda: ("gpu1001", "power_w") in telemetry.readings(), "a GPU's reading")
    until(lambda: "gpu1000/power_w" in telemetry.missing, "why the other has none")
    found = telemetry.readings()
    telemetry.close(spans_s=0.0)
    assert planned == ["gpu1000", "gpu1001"]
    assert [source for source, metric in sorted(found) if metric == "temperature_c"] == planned
    assert {source: found[source, "temperature_c"].value for source in planned} == {"gpu1000": 55, "gpu1001": 56}
    assert found["gpu1001", "power_w"].value == 351.5
    assert ("gpu1000", "power_w") not in found
    rows = read_segment(tmp_path / "segments" / "samples-node1000.arrows")
    assert isinstance(rows, pa.Table)
    assert {source for source in rows["source"].to_pylist() if source.startswith("gpu")} == set(planned)


def test_an_agent_that_is_closed_has_given_its_gpus_back(fake_nvml: Callable[[str], None], capfd: pytest.CaptureFixture[str]):
    fake_nvml("hang nvmlGpmSampleFree 200\n")
    agent = SamplingAgent("127.0.0.2")
    agent.sample()
    until(lambda: any(source == "gpu0" for _, source, _ in agent.taken(0.1).samples), "a GPU's reading")
    agent.close()
    assert "labkit sampler" not in {thread.name for thread in threading.enumerate()}
    assert "leaked" not in capfd.readouterr().err


def test_without_ray_it_is_said_and_what_brings_it(open_lab: OpenLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingEngine, match="Ray is not installed here") as raised:
        open_lab("2A", node=None, nodes="ray")
    assert "make setup" in raised.value.remedy
    assert not list(tmp_path.iterdir()), "no run is left of it"


def test_what_cannot_be_meant_is_refused_before_anything_starts(open_lab: OpenLab, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SpecError, match="unknown placement 'heap'"):
        open_lab("2A", placement="heap")
    with pytest.raises(SpecError, match="both node and nodes are given"):
        open_lab("2A", nodes="ray")


def test_workers_that_meet_in_a_folder_are_not_placed_on_nodes(
    open_lab: OpenLab, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
):
    from labkit.lab.engines import ENGINES

    monkeypatch.setitem(ENGINES, "fake", lambda _: FakeDynamo(mark=engine.mark))
    with pytest.raises(SpecError, match="'fake dynamo' cannot be placed on nodes"):
        open_lab("2A", node=None, nodes="ray")
