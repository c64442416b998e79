"""What ``export-deployment`` wrote, used as it was written: plain vLLM without the lab, and Dynamo's parser of arguments."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from labkit import Lab, Workload
from labkit.cli.main import main
from labkit.deploy import Settings, scaled
from labkit.deploy.kubernetes import dynamo_k8s
from labkit.errors import ResplitError
from labkit.measure.counters import series
from labkit.serve.counters import Counters, read_counters
from labkit.serve.engines.base import EngineOptions, StepLimits
from labkit.serve.interpreter import engine_python
from labkit.serve.models import prepare
from labkit.spec import Model, Role
from labkit.store.run import open_run
from tests.support.found_splits import on_gpus
from tests.support.saved_runs import saved_run
from tests.support.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path, dict[str, str]], subprocess.Popen[bytes]]]:
    """Starts a script in a session of its own, with its output in a file beside it; all sessions are ended afterwards."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(script: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{script.stem}.log").open("wb") as log:
            begun.append(
                subprocess.Popen(
                    [script], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **env}, start_new_session=True
                )
            )
        return begun[-1]

    yield begin
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in begun:
            if process.poll() is None:
                os.killpg(process.pid, number)
        for process in begun:
            try:
                process.wait(timeout=10.0)
            except subprocess.TimeoutExpired:
                continue


def test_scripts_serve_as_they_are_and_a_lab_attaches(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    port = _first_port()
    folder, env = _exported(tmp_path, "vllm-shell", EngineOptions(), "--port", str(port))
    workers = [start(folder / f"{name}.sh", env) for name in ("prefill-0", "decode-0")]
    for number, worker in enumerate(workers):
        until(lambda n=number, w=worker: _answers(port + 100 + n, w, tmp_path), f"worker {number}", 240.0)
    router = start(folder / "router.sh", env)
    until(lambda: _answers(port, router, tmp_path), "the router", 60.0)
    before = read_counters(f"http://127.0.0.1:{port + 101}")
    _serves_over_nixl(port, decoder=f"http://127.0.0.1:{port + 101}", before=before)
    pages = {name: f"http://127.0.0.1:{port + at}/metrics" for name, at in (("prefill-0", 100), ("decode-0", 101))}
    work = Workload(isl=64, osl=8, rate=4.0, duration_s=3.0)
    results = tmp_path / "attached"
    with Lab.attach(
        f"http://127.0.0.1:{port}", "demo", metrics=pages, topology="1P1D", accelerator="core", workload=work, results=results
    ) as lab:
        assert lab.deployment.roles == {"prefill-0": Role.PREFILL, "decode-0": Role.DECODE}, "the names of the pages say them"
        measured = lab.measure()
        with pytest.raises(ResplitError):
            lab.resplit("2A")
    assert set(measured.counts) == {"ok"}
    run = open_run(lab.run.path)
    assert len(run.windows) == 1
    samples = run.digest().samples
    prompts = series(samples, "vllm:prompt_tokens_total")["prefill-0"]
    sent, ended = (run.records().requests.column(name).to_numpy() for name in ("sent_ns", "end_ns"))
    seen = np.count_nonzero(
        (sent > prompts.t_ns[0]) & (ended < prompts.t_ns[-2])
    )  # the last page may be as old as the one before
    assert seen
    assert prompts.value[-1] - prompts.value[0] >= 64 * seen
    # Like the prompts, over the whole run: where the machine is slow, a window of 3 s ends before the first answers.
    moved_bytes = series(samples, "vllm:nixl_bytes_transferred_sum")["decode-0"].value
    assert moved_bytes[-1] > moved_bytes[0]
    for worker in workers:
        assert worker.poll() is None, "it is somebody else's, and goes on"


@pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed (Debian: etcd-server)")
def test_dynamos_scripts_meet_at_an_etcd_and_serve(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    port = _first_port()
    # the scripts are for GPUs: what a CPU needs is this test's, as the lab's own engine gives it to its workers
    buffers = json.dumps({"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"})
    on_cpu = ("--kv-transfer-config", buffers, "--distributed-executor-backend", "uni", "--enforce-eager")
    options = EngineOptions(extra_args=on_cpu)
    place = ("--hosts", "127.0.0.1", "--port", str(port), "--etcd", f"http://127.0.0.1:{port + 1}")
    folder, env = _exported(tmp_path, "dynamo-shell", options, *place, engine="dynamo")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_NO_IMAGES)
    env |= {"PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    env |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "UCX_TLS": "tcp,shm,self"}
    env["ETCD_LEASE_TTL"] = "120"  # two cores that load models may keep a worker waiting for longer than a lease is good
    etcd = start(_etcd(tmp_path, port + 1, port + 2), env)
    until(lambda: _answers(port + 1, etcd, tmp_path), "etcd", 30.0)
    frontend = start(folder / "frontend.sh", env)
    cores = sorted(os.sched_getaffinity(0))
    workers = [
        start(folder / f"{name}.sh", {**env, "VLLM_CPU_OMP_THREADS_BIND": str(core)})
        for name, core in (("prefill-0", cores[0]), ("decode-0", cores[-1]))
    ]
    for number, worker in enumerate(workers):
        until(lambda n=number, w=worker: _answers(port + 300 + n, w, tmp_path), f"worker {number}", 240.0)
    until(lambda: _answers(port, frontend, tmp_path, "/v1/models", "demo"), "the model", 60.0)
    decoder = f"http://127.0.0.1:{port + 301}"
    _serves_over_nixl(port, decoder=decoder, before=read_counters(decoder))
    workers[1].send_signal(signal.SIGTERM)
    workers[1].wait(timeout=60.0)
    until(lambda: not _answers(port, frontend, tmp_path, "/v1/models", "demo"), "the frontend to miss the decode worker", 60.0)


def _exported(
    tmp_path: Path, target: str, options: EngineOptions, *words: str, engine: str = "vllm"
) -> tuple[Path, dict[str, str]]:
    """The folder that a measured split was exported to, and what a script's environment has to have."""
    facts = {"model": {**asdict(Model("demo")), "name": "demo"}, "served": {"max_model_len": 2048, "dtype": "float32"}}
    saved_run(tmp_path / "results", "mine", ("1P1D",), manifest={**facts, "engine": engine, "options": asdict(options)})
    model = prepare(Model("demo"), tmp_path / "model", isl_osl_max=2048)
    folder = tmp_path / "deployed elsewhere"
    argv = ["export-deployment", "mine", "--to", target, "--output", str(folder), *words, "--dummy-weights"]
    assert main([*argv, "--results", str(tmp_path / "results")]) == 0
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.iterdir())
    return folder, {"PYTHON": str(engine_python()), "MODEL": model.path, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def _etcd(tmp_path: Path, port: int, peers: int) -> Path:
    """A script that starts etcd on the loopback address."""
    clients, members = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
    words = [
        *("exec", "etcd", "--data-dir", str(tmp_path / "kept-by-etcd"), "--initial-cluster", f"default={members}"),
        *("--listen-client-urls", clients, "--advertise-client-urls", clients),
        *("--listen-peer-urls", members, "--initial-advertise-peer-urls", members),
    ]
    script = tmp_path / "etcd.sh"
    script.write_text(f"#!/bin/sh\n{shlex.join(words)}\n")
    script.chmod(0o755)
    return script


def _serves_over_nixl(port: int, *, decoder: str, before: Counters) -> None:
    """A request is answered; its KV cache was moved and its prompt not computed again."""
    body = {"model": "demo", "prompt": list(range(300, 400)), "max_tokens": 8, "ignore_eos": True, "temperature": 0}
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=120.0, trust_env=False)
    answer.raise_for_status()
    assert answer.json()["usage"]["completion_tokens"] == 8
    moved = read_counters(decoder) - before
    assert moved.kv_transfers == 1
    assert moved.kv_bytes > 0
    assert moved.prompt_computed == 0


def _answers(port: int, process: subprocess.Popen[bytes], logs: Path, path: str = "/health", says: str = "") -> bool:
    assert process.poll() is None, "\n".join(path.read_text(errors="replace")[-3000:] for path in logs.glob("*.log"))
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5.0, trust_env=False)
        return answer.status_code == 200 and says in answer.text
    except httpx.HTTPError:
        return False


def _first_port() -> int:
    """A port with which all those that follow it are free now."""
    for first in range(21000 + os.getpid() % 500 * 20, 60000, 20):
        try:
            for port in (first, first + 1, first + 2, *(first + at + n for at in (100, 300, 1000) for n in (0, 1))):
                with socket.socket() as taken:
                    taken.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@pytest.mark.parametrize("topology", ["2A", "1P1D", "1P@tp2+1D@tp2"])
def test_dynamos_own_parser_takes_the_arguments(tmp_path: Path, topology: str) -> None:
    options = EngineOptions(max_num_batched_tokens=2048, max_num_seqs=64, prefill=StepLimits(max_num_batched_tokens=8192))
    model = prepare(Model("demo"), tmp_path / "model", isl_osl_max=2048)
    found = on_gpus(topology, options=options)
    (text,) = dynamo_k8s(found, scaled(found), Settings(model=model.path)).files.values()
    for component in yaml.safe_load(text)["spec"]["components"][1:]:
        (main_container,) = component["podTemplate"]["spec"]["containers"]
        told = subprocess.run(
            [engine_python(), "-c", _PARSE, *main_container["args"]], capture_output=True, text=True, timeout=120,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert told.returncode == 0, told.stderr[-3000:]
        parsed = json.loads(told.stdout.splitlines()[-1])
        prefill = component["type"] == "prefill"
        assert parsed == {
            "mode": {"worker": "agg", "prefill": "prefill", "decode": "decode"}[component["type"]],
            "name": found.model, "step": 8192 if prefill else 2048, "seqs": None if prefill else 64,
            "tp": found.topology.workers[0][1], "prefix": False, "kv": component["type"] != "worker",
        }  # fmt: skip


_NO_IMAGES = """
import importlib.util
import sys
import types

if importlib.util.find_spec("torchvision") is None:
    module = types.ModuleType("transformers.models.qwen2_vl.image_processing_qwen2_vl")
    module.smart_resize = None
    sys.modules[module.__name__] = module
"""
_PARSE = """
import json
import sys

from dynamo.vllm.args import parse_args

config = parse_args(sys.argv[1:])
engine = config.engine_args
print(json.dumps({
    "mode": config.disaggregation_mode.value, "name": config.served_model_name, "step": engine.max_num_batched_tokens,
    "seqs": engine.max_num_seqs, "tp": engine.tensor_parallel_size, "prefix": engine.enable_prefix_caching,
    "kv": engine.kv_transfer_config is not None,
}))
"""
