"""vLLM workers that hand KV cache to each other through NIXL, behind vLLM's router.

Every worker is started equal (``kv_both``): NIXL's connector lets the router decide, request by request, who prefills and who
decodes. So a pool becomes aggregated or any xPyD by changing the router alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from labkit.errors import SpecError
from labkit.serve.engines import vllm_entry
from labkit.serve.engines.base import Command, EngineOptions, Plan, RouterSpec, WorkerSpec, check_router_mode
from labkit.serve.memory import CPU_KV_BYTES
from labkit.serve.models import ServedModel
from labkit.spec import Role, Topology

_GIB = 2**30
_CPU_BLOCK_TOKENS = 32  # CPU attention needs a multiple of 32
_NIXL_POLL_US = 2000  # an idle worker takes 2 % of a core with it, and 80-90 % without a pause
_CUDA_OVERHEAD_BYTES = 3 * _GIB  # CUDA context, graphs and activations of one worker, when memory is divided by hand

#: Variables read when a worker starts and not when vLLM is imported: workers that differ in them alone share a fork server.
_READ_LATE = frozenset(
    {
        "VLLM_NIXL_SIDE_CHANNEL_PORT",
        "OTEL_SERVICE_NAME",
        "LABKIT_PIN_CORES",
        "VLLM_CPU_KVCACHE_SPACE",
        "LABKIT_CPU_KV_BYTES",
        "VLLM_ENABLE_V1_MULTIPROCESSING",
    }
)

#: Lines of vLLM's log that announce a start-up stage, in the order of the stages.
STAGES: Final = (
    ("reading arguments", re.compile(r"non-default args")),
    ("starting the engine", re.compile(r"Initializing a V1 LLM engine")),
    ("loading weights", re.compile(r"Starting to load model|Loading weights took")),
    ("compiling", re.compile(r"Dynamo bytecode transform|torch\.compile takes")),
    ("allocating KV cache", re.compile(r"KV cache size|Registering KV_Caches")),
    ("capturing CUDA graphs", re.compile(r"Capturing CUDA graphs|Graph capturing finished")),
    ("starting the server", re.compile(r"Starting vLLM server|Started server process")),
)


class Vllm:
    """vLLM's OpenAI server as worker and ``vllm-router`` as router.

    Args:
        python: interpreter in which vLLM, NIXL and the router are installed.
    """

    name = "vllm"
    router_modes: tuple[str, ...] = ("round-robin",)
    registry = None
    dialect_known = True
    highest_port = 65535

    def __init__(self, python: str) -> None:
        self.python = python

    def worker(self, spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> Command:
        """Command and environment of one worker: with GPUs on CUDA, else on vLLM's CPU backend.

        Raises:
            SpecError: a router mode that is not vLLM's; a model that its CPU backend cannot serve.
        """
        check_router_mode(self, options)
        engine, env = engine_command(spec, model, options)
        argv = [
            *(self.python, vllm_entry.__file__, "--host", spec.net.address, "--port", str(spec.port)),
            "--disable-uvicorn-access-log",
            *engine,
        ]
        return Command((*argv, *options.extra_args), {**env, **options.extra_env})

    def fork_server(self, worker: Command) -> Command | None:
        """The entry script, which imports vLLM in the worker's environment and forks."""
        return Command((self.python, vllm_entry.__file__, "--fork-server"), read_early(worker.env))

    def router(self, spec: RouterSpec) -> Command:
        """Command of the router: aggregated where every worker is, else prefill/decode over NIXL; round-robin in both."""
        argv = [
            *(self.python, "-m", "vllm_router.launch_router", "--host", "127.0.0.1", "--port", str(spec.port)),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(spec.metrics_port), "--policy", "round_robin"),
            *("--worker-startup-check-interval", "1", "--disable-retries", "--disable-circuit-breaker"),
        ]
        env = _direct(spec.workers)
        if Role.AGGREGATED in spec.workers.values():
            return Command((*argv, "--worker-urls", *spec.workers), env)
        argv += ["--vllm-pd-disaggregation", "--kv-connector", "nixl"]
        for url, role in spec.workers.items():
            argv += ["--prefill" if role is Role.PREFILL else "--decode", url]
        return Command(tuple(argv), env)

    def router_metrics(self, spec: RouterSpec) -> str:
        """The router's metrics have a port of their own."""
        return f"http://127.0.0.1:{spec.metrics_port}/metrics"

    def plan(self, now: Topology, wanted: Topology) -> Plan:
        """The same pool in other roles needs another router; another pool needs other workers."""
        if now == wanted:
            return Plan("nothing", f"{now} serves already")
        if now.same_pool(wanted):
            return Plan("swap_router", f"{now} → {wanted}: swaps the router, 1-2 s, no weights reloaded")
        return Plan(
            "restart", f"{now} → {wanted}: another pool (TP or number of workers), restarts every worker and loads weights again"
        )

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of a start-up in their order."""
        return tuple(name for name, _ in STAGES)

    def stage(self, line: str) -> str | None:
        """The start-up stage that a log line announces."""
        return next((name for name, pattern in STAGES if pattern.search(line)), None)

    def missing(self, distributions: Sequence[str]) -> str | None:
        """The first absent package of vLLM (or its CPU build), NIXL and the router."""
        have = set(distributions)
        for alternatives in (("vllm", "vllm-cpu"), ("nixl",), ("vllm-router",)):
            if not have.intersection(alternatives):
                return alternatives[0]
        return None


def engine_command(spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> tuple[list[str], dict[str, str]]:
    """Flags and variables of vLLM's engine with NIXL, whatever serves it; ``extra_args`` and ``extra_env`` are left out.

    Raises:
        SpecError: a model that vLLM's CPU backend cannot serve.
    """
    on_gpu = bool(spec.devices.gpus)
    transfer = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cuda" if on_gpu else "cpu"}
    argv = [
        *("--model", str(model.path), "--served-model-name", model.name, "--load-format", model.load_format),
        *("--seed", "0"),
        *("--kv-transfer-config", json.dumps(transfer)),
        "--enable-prefix-caching" if options.prefix_caching else "--no-enable-prefix-caching",
    ]
    if model.max_model_len:
        argv += ["--max-model-len", str(model.max_model_len)]
    if spec.otlp_endpoint:
        argv += ["--otlp-traces-endpoint", spec.otlp_endpoint]
    if options.max_num_batched_tokens:
        argv += ["--max-num-batched-tokens", str(options.max_num_batched_tokens)]
    if options.max_num_seqs:
        argv += ["--max-num-seqs", str(options.max_num_seqs)]
    if spec.tp > 1:
        argv += ["--tensor-parallel-size", str(spec.tp)]
    if options.enforce_eager if options.enforce_eager is not None else not on_gpu:
        argv.append("--enforce-eager")
    device_argv, device_env = (_cuda if on_gpu else _cpu)(spec, model, options)
    return [*argv, *device_argv], {**_common_env(spec, model), **device_env}


def _direct(urls: Iterable[str]) -> dict[str, str]:
    """What keeps workers from being asked through a proxy, those of this machine among them."""
    addresses = sorted({urlsplit(url).hostname or "" for url in urls} - {"127.0.0.1"})
    spared = ",".join(("127.0.0.1", "localhost", *addresses))
    return {"NO_PROXY": spared, "no_proxy": spared}


def read_early(env: Mapping[str, str]) -> dict[str, str]:
    """Those of a worker's variables that matter when vLLM is imported; CUDA sees its devices only afterwards."""
    late = _READ_LATE | ({"CUDA_VISIBLE_DEVICES"} if env.get("CUDA_VISIBLE_DEVICES") else set())
    return {name: value for name, value in env.items() if name not in late}


def _common_env(spec: WorkerSpec, model: ServedModel) -> dict[str, str]:
    env = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": spec.net.address,
        "VLLM_NIXL_SIDE_CHANNEL_HOST": spec.net.address,
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(spec.kv_port),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "",  # byte code halves the start-up time
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": spec.name,
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "NO_PROXY": spec.net.no_proxy,
        "no_proxy": spec.net.no_proxy,
    }
    if spec.net.interface:
        env |= {"UCX_NET_DEVICES": spec.net.interface, "GLOO_SOCKET_IFNAME": spec.net.interface}
    if Path(str(model.path)).is_dir():
        env["HF_HUB_OFFLINE"] = "1"
    return env


def _cpu(spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> tuple[list[str], dict[str, str]]:
    """CPU backend: one process a worker, pinned hard, no spinning executor, a slower NIXL progress thread."""
    cores = spec.devices.cores
    if model.architecture is not None and model.architecture.quantisation == "mxfp4":
        raise SpecError(
            f"{model.name} has MXFP4 weights, which vLLM's CPU backend cannot serve",
            remedy="serve it on a GPU, or take another model",
        )
    kv_bytes = max(1, (options.kv_cache_bytes or CPU_KV_BYTES) // spec.tp)  # of each rank
    argv = ["--dtype", model.dtype or "float32", "--block-size", str(_CPU_BLOCK_TOKENS)]
    env = {
        "VLLM_CPU_KVCACHE_SPACE": str(ceil(kv_bytes / _GIB)),
        "UCX_TLS": "tcp,shm,self",
        "LABKIT_NIXL_POLL_US": str(_NIXL_POLL_US),
        "LABKIT_PIN_CORES": ",".join(map(str, cores)),
        "OMP_NUM_THREADS": str(max(1, len(cores) // spec.tp)),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",  # else the first sampled (not greedy) token compiles C++ for 10 s, or kills the worker
        "CUDA_VISIBLE_DEVICES": "",
    }
    if kv_bytes % _GIB:
        env["LABKIT_CPU_KV_BYTES"] = str(kv_bytes)
    if spec.tp == 1:
        argv += ["--distributed-executor-backend", "uni"]
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return argv, env


def _cuda(spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> tuple[list[str], dict[str, str]]:
    """CUDA: CUDA graphs stay on. A shared GPU's memory is divided by hand: profiling it at the same time misleads.

    Where others share a GPU, so is that of a worker that has one to itself: equal workers stay equal.
    """
    argv = ["--dtype", model.dtype] if model.dtype else []
    kv_bytes = options.kv_cache_bytes and max(1, options.kv_cache_bytes // spec.tp)  # vLLM's flag is of each GPU
    if spec.devices.memory_fraction < 1:
        share = spec.devices.memory_bytes * spec.devices.memory_fraction * 0.9
        argv += ["--gpu-memory-utilization", f"{0.9 * spec.devices.memory_fraction:.3f}"]
        kv_bytes = kv_bytes or max(256 * 2**20, int(share - (model.weight_bytes or 0) / spec.tp - _CUDA_OVERHEAD_BYTES))
    if kv_bytes:
        argv += ["--kv-cache-memory-bytes", str(kv_bytes)]
    env = {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.devices.gpus)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "UCX_TLS": "cuda_ipc,cuda_copy,tcp,shm,self",
    }
    return argv, env
