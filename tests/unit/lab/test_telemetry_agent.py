from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from labkit.errors import LaunchError
from labkit.lab.telemetry_agent import TelemetryAgent, WatchedWorker
from labkit.store.segments import read_segment
from labkit.telemetry.spans import Progress

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "unit" / "telemetry" / "fixtures"
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def samples(run_dir: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = read_segment(run_dir / "segments" / "samples-telemetry.arrows").to_pylist()
    return rows


def heard(agent: TelemetryAgent, source: str, metric: str) -> bool:
    return agent.wait_for(lambda a: (source, metric) in a.latest(), 30)


def test_it_watches_keeps_and_tells(tmp_path: Path) -> None:
    steps: list[Progress] = []
    with TelemetryAgent.start(tmp_path, gpus=(), host_hz=20.0, on_progress=steps.append) as agent:
        assert agent.otlp_endpoint.startswith("http://127.0.0.1:")
        assert os.getsid(agent.pid) == agent.pid
        agent.watch([WatchedWorker("w0", os.getppid() or 1, "http://127.0.0.1:9/metrics")])
        assert heard(agent, "w0", "cpu_cores")
        assert heard(agent, "host", "cpu_busy_fraction")
        assert agent.wait_for(lambda a: "w0/metrics" in a.missing, 30)
        assert agent.missing["gpu"]
        told = agent.readings()
        assert {key: reading.value for key, reading in told.items()}.keys() <= agent.latest().keys()
        for name in ("startup", "prefill_worker"):
            body = (FIXTURES / f"otlp_vllm_0.31_{name}.bin").read_bytes()
            assert httpx.post(agent.otlp_endpoint, content=body, headers=PROTOBUF, trust_env=False).status_code == 200
        assert agent.wait_for(lambda _: len(steps) == 5, 30)
        agent.close()
        assert agent._process.returncode == 0
    spans = read_segment(tmp_path / "segments" / "spans-telemetry.arrows").to_pylist()
    assert [span["worker"] for span in spans] == ["w0"] * 3
    events = read_segment(tmp_path / "segments" / "events-telemetry.arrows").to_pylist()
    assert {event["kind"] for event in events} == {"launch", "note"}
    assert any(event["text"].startswith("w1: Load model took 0.18 s") for event in events)
    rows = samples(tmp_path)
    assert {row["source"] for row in rows} >= {"w0", "host", "telemetry"}
    kept = {(row["source"], row["metric"], row["t_ns"], row["value"]) for row in rows}
    assert {(*key, reading.t_ns, reading.value) for key, reading in told.items()} <= kept
    assert all(isinstance(row["value"], float) and row["t_ns"] for row in rows)
    assert (tmp_path / "logs" / "telemetry.log").read_text() == ""


def test_without_a_driver_it_says_so(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this node has an NVIDIA driver")
    with TelemetryAgent.start(tmp_path) as agent:
        assert agent.wait_for(lambda a: "gpu" in a.missing, 30)
        assert agent.missing["gpu"] == "NVML library not found: no NVIDIA driver on this node"


PARENT = """
import sys, time
from pathlib import Path
from labkit.lab.telemetry_agent import TelemetryAgent
agent = TelemetryAgent.start(Path(sys.argv[1]), gpus=(), host_hz=20.0)
agent.wait_for(lambda a: ("host", "cpu_busy_fraction") in a.latest(), 30)
print(agent.pid, flush=True)
sys.stdin.read()
"""


def test_it_survives_ctrl_c_and_outlives_a_killed_parent_only_to_flush(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], env=env, **pipes) as parent:  # type: ignore[call-overload]
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGINT)
        gone = os.pidfd_open(pid)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert _ended(gone)
    os.close(gone)
    assert any(row["metric"] == "cpu_busy_fraction" for row in samples(tmp_path))


def _ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 30)[0])


def test_a_parent_that_does_not_read_loses_pictures_and_no_records(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "labkit.lab.telemetry_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"run_dir": str(tmp_path), "gpus": [], "host_hz": 200.0}).encode() + b"\n")
    process.stdin.flush()
    assert b"hello" in process.stdout.readline()
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()
    assert samples(tmp_path)


def test_a_sampler_that_dies_says_so(tmp_path: Path) -> None:
    agent = TelemetryAgent.start(tmp_path, gpus=())
    os.kill(agent.pid, signal.SIGKILL)
    assert agent.wait_for(lambda a: "telemetry" in a.missing, 30)
    assert "exited with code -9" in agent.missing["telemetry"]
    agent.watch([])
    agent.close()
    agent.close()


def test_a_sampler_that_cannot_start_is_a_launch_error_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LaunchError, match="exited with code 1") as error:
        TelemetryAgent.start(tmp_path, gpus=(), nvml_hz=1.0, env={"PYTHONHOME": "/nonexistent"})
    assert "No module named 'encodings'" in error.value.what
    assert str(tmp_path / "logs" / "telemetry.log") in error.value.remedy


def test_segments_that_cannot_be_written_are_missing_and_sampling_goes_on(tmp_path: Path) -> None:
    (tmp_path / "segments").write_text("in the way")
    with TelemetryAgent.start(tmp_path, gpus=(), host_hz=20.0) as agent:
        assert agent.wait_for(lambda a: "segments/samples" in a.missing, 30)
        assert heard(agent, "host", "memory_used_bytes")
        agent.close()
        assert agent._process.returncode == 0
