"""What ``export-deployment`` wrote, used as it was written: plain vLLM without the lab, and Dynamo's parser of arguments."""

from __future__ import annotations

import json
import os
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
from labkit.serve.counters import read_counters
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
    facts = {"model": {**asdict(Model("demo")), "name": "demo"}, "served": {"max_model_len": 2048, "dtype": "float32"}}
    saved_run(tmp_path / "results", "mine", ("1P1D",), manifest={**facts, "engine": "vllm", "options": asdict(EngineOptions())})
    model = prepare(Model("demo"), tmp_path / "model", isl_osl_max=2048)
    port, folder = _first_port(), tmp_path / "deployed elsewhere"
    argv = ["export-deployment", "mine", "--to", "vllm-shell", "--output", str(folder), "--port", str(port), "--dummy-weights"]
    assert main([*argv, "--results", str(tmp_path / "results")]) == 0
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.iterdir())
    env = {"PYTHON": str(engine_python()), "MODEL": model.path, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    workers = [start(folder / f"{name}.sh", env) for name in ("prefill-0", "decode-0")]
    for number, worker in enumerate(workers):
        until(lambda n=number, w=worker: _answers(port + 100 + n, w, tmp_path), f"worker {number}", 240.0)
    router = start(folder / "router.sh", env)
    until(lambda: _answers(port, router, tmp_path), "the router", 60.0)
    before = read_counters(f"http://127.0.0.1:{port + 101}")
    body = {"model": "demo", "prompt": list(range(300, 400)), "max_tokens": 8, "ignore_eos": True, "temperature": 0}
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=120.0, trust_env=False)
    answer.raise_for_status()
    assert answer.json()["usage"]["completion_tokens"] == 8
    moved = read_counters(f"http://127.0.0.1:{port + 101}") - before
    assert moved.kv_transfers == 1
    assert moved.kv_bytes > 0
    assert moved.prompt_computed == 0
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


def _answers(port: int, process: subprocess.Popen[bytes], logs: Path) -> bool:
    assert process.poll() is None, "\n".join(path.read_text(errors="replace")[-3000:] for path in logs.glob("*.log"))
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _first_port() -> int:
    """A port with which all those that follow it are free now."""
    for first in range(21000 + os.getpid() % 500 * 20, 60000, 20):
        try:
            for port in (first, first + 1, first + 100, first + 101, first + 1000, first + 1001):
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
