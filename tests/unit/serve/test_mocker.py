"""Commands of the mocker engine, simulated hardware, and what its workers' metrics pages tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labkit.errors import HardwareError, SpecError
from labkit.serve.counters import Counters, parse_counters
from labkit.serve.engines.base import Command, EngineOptions, WorkerSpec
from labkit.serve.engines.mocker import Mocker
from labkit.serve.hardware import Devices, assign, simulate
from labkit.serve.models import ServedModel
from labkit.serve.proof import prove
from labkit.serve.timing import save_timing
from labkit.spec import Role, Topology
from tests.support.fake_engine import fake_node
from tests.support.profiles import handmade_profile

ENGINE = Mocker("/opt/engines/bin/python")
MODEL = ServedModel(path="/models/m", name="m", load_format="dummy", max_model_len=4096, kv_bytes_per_token=131_072)
DEVICES = Devices(worker=0, gpus=(0,), cores=(0,), memory_bytes=2**36, memory_fraction=1.0, shared=False, accelerators=1.0)
#: Of ai-dynamo 1.6.1, after three requests of five tokens.
PREFILL_PAGE = """dynamo_component_inflight_requests{dynamo_component="prefill",dynamo_endpoint="generate",worker_id="9a"} 0
dynamo_component_requests_total{dynamo_component="prefill",dynamo_endpoint="generate",worker_id="9a"} 3
"""
DECODE_PAGE = """dynamo_component_requests_total{dynamo_component="backend",dynamo_endpoint="generate",worker_id="89"} 3
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_bucket{engine="0",le="+Inf"} 12
vllm:inter_token_latency_seconds_sum{engine="0"} 0.12
vllm:inter_token_latency_seconds_count{engine="0"} 12
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"} 3
vllm:time_to_first_token_seconds_sum{engine="0"} 0.03
vllm:time_to_first_token_seconds_count{engine="0"} 3
"""


@pytest.fixture
def timing(tmp_path: Path) -> str:
    return save_timing([handmade_profile(kv_transfer_bytes_s=50e9)], tmp_path / "timing")


def worker(timing: str | None, role: Role | None = None, tp: int = 1, **options: object) -> Command:
    spec = WorkerSpec(name="w0", tp=tp, devices=DEVICES, port=8001, kv_port=9001, role=role, meeting=Path("/tmp/meeting"))
    return ENGINE.worker(spec, MODEL, EngineOptions(timing=timing, **options))  # type: ignore[arg-type]


def value(command: Command, flag: str) -> str:
    assert command.argv.count(flag) == 1
    return command.argv[command.argv.index(flag) + 1]


def test_a_worker_follows_its_profile_and_holds_what_it_says(timing: str) -> None:
    command = worker(timing, Role.AGGREGATED)
    assert command.argv[:3] == ("/opt/engines/bin/python", "-m", "dynamo.mocker")
    assert value(command, "--planner-profile-data") == f"{timing}/tp1.npz"
    assert int(value(command, "--num-gpu-blocks-override")) * int(value(command, "--block-size")) == 400_000
    assert (value(command, "--kv-transfer-bandwidth"), value(command, "--kv-bytes-per-token")) == ("50", "131072")
    assert (value(command, "--model-path"), value(command, "--model-name"), value(command, "--max-model-len")) == (
        "/models/m", "m", "4096",
    )  # fmt: skip
    assert "--no-enable-prefix-caching" in command.argv
    assert "--disaggregation-mode" not in command.argv
    assert command.env["DYN_SYSTEM_PORT"] == "8001"
    assert {text for name, text in command.env.items() if name.startswith("DYN_") and name.endswith("_HOST")} == {"127.0.0.1"}


def test_roles_and_limits_are_passed_on(timing: str) -> None:
    command = worker(timing, Role.PREFILL, max_num_batched_tokens=512, kv_cache_bytes=131_072 * 1600, prefix_caching=True)
    assert value(command, "--disaggregation-mode") == "prefill"
    assert value(command, "--max-num-batched-tokens") == "512"
    assert value(command, "--num-gpu-blocks-override") == "100"
    assert "--enable-prefix-caching" in command.argv


@pytest.mark.parametrize(
    ("known", "extrapolate", "step"), [(2048.0, False, "2048"), (2048.0, True, "8192"), (1e5, False, "8192")]
)
def test_no_step_is_larger_than_its_profile_knows(tmp_path: Path, known: float, extrapolate: bool, step: str) -> None:
    profile = handmade_profile(prefill_tokens=np.array([16.0, known]), extrapolate=extrapolate)
    assert value(worker(save_timing([profile], tmp_path)), "--max-num-batched-tokens") == step


def test_without_a_profile_of_its_degree_there_is_no_worker(timing: str) -> None:
    with pytest.raises(SpecError, match="needs a timing profile"):
        worker(None)
    with pytest.raises(SpecError, match="no timing profile of TP 4"):
        worker(timing, tp=4)


def test_it_needs_dynamo_alone_and_another_split_other_workers() -> None:
    assert ENGINE.missing(["ai-dynamo"]) is None
    assert ENGINE.missing(["vllm", "nixl"]) == "ai-dynamo"
    assert ENGINE.plan(Topology("2A"), Topology("1P1D")).kind == "restart"
    assert ENGINE.fork_server(Command(("python",))) is None
    assert not ENGINE.registry.handshakes


def test_simulated_gpus_are_as_many_as_asked_for_and_named_so() -> None:
    node = simulate(fake_node(2), "h100_sxm", 80 * 2**30)
    assert node.accelerator_noun == "simulated h100_sxm GPU"
    assert "simulated h100_sxm GPUs on 2 cores" in str(node)
    held = assign([8] * 8 + [1] * 24, node)
    gpus = [gpu for devices in held for gpu in devices.gpus]
    assert len(gpus) == len(set(gpus)) == 88
    assert sum(devices.accelerators for devices in held) == 88
    assert not any(devices.shared for devices in held)
    with pytest.raises(HardwareError, match="more than this machine can hold"):
        assign([1] * 200, node)


def test_counters_of_simulated_workers_prove_their_roles() -> None:
    nothing = Counters(None, None, 0.0, 0.0, None, None)
    pages = {"p": parse_counters(PREFILL_PAGE), "d": parse_counters(DECODE_PAGE)}
    assert (pages["p"].requests, pages["p"].generated) == (3, 3), "one token a request"
    assert (pages["d"].requests, pages["d"].generated, pages["d"].kv_bytes) == (3, 15, None)
    rows = prove({"p": Role.PREFILL, "d": Role.DECODE}, dict.fromkeys(pages, nothing), pages)
    assert [row.against for row in rows] == [None, None]
    (wrong,) = prove({"d": Role.PREFILL}, {"d": nothing}, {"d": pages["d"]})
    assert wrong.against == "it generated more than the first token of its requests"
    (idle,) = prove({"d": Role.DECODE}, {"d": pages["d"]}, {"d": pages["d"]})
    assert idle.against == "it served no request"
