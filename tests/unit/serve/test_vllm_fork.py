"""The entry script as a fork server, with a stand-in for vLLM: what is imported once, forked, spawned instead, and why."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.serve.engines import vllm_entry
from labkit.serve.engines.base import Command, EngineOptions, WorkerSpec
from labkit.serve.engines.vllm import Vllm
from labkit.serve.fork_server import ForkServer
from labkit.serve.hardware import Devices
from labkit.serve.models import ServedModel
from labkit.serve.processes import ProcessTree
from tests.support.waiting import MARK, marked

UTILS = """
import multiprocessing
def get_mp_context():
    return multiprocessing.get_context("spawn")
"""
CORE = """
import os, threading
def run(pipe, nested):
    import vllm
    found = {
        "variables": {name: os.environ.get(name) for name in ("SET_LATE", "LABKIT_PIN_CORES")},
        "threads": len(os.listdir("/proc/self/task")), "imported_by": vllm.IMPORTED_BY, "pid": os.getpid(),
        "sid": os.getsid(0), "cores": sorted(os.sched_getaffinity(0)),
    }
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    found["cores_after"] = sorted(os.sched_getaffinity(0))
    if nested:
        from vllm.utils.system_utils import get_mp_context
        here, there = get_mp_context().Pipe()
        rank = get_mp_context().Process(target=run, args=(there, False))
        rank.start()
        found["rank"] = here.recv()
        rank.join()
    pipe.send(found)
"""
SERVER = """
import vllm.utils.system_utils
from vllm.v1.engine import core
if __name__ == "__main__":
    import json, os, sys, threading, time
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    os.environ["SET_LATE"] = "by the server"
    context = vllm.utils.system_utils.get_mp_context()
    here, there = context.Pipe()
    process = context.Process(target=core.run, args=(there, True))
    process.start()
    found = here.recv()
    process.join()
    print(json.dumps({"argv": sys.argv[1:], "pid": os.getpid(), "imported_by": vllm.IMPORTED_BY, "core": found,
                      "exit": process.exitcode}))
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    files = {
        "vllm/__init__.py": "import os\nIMPORTED_BY = os.getpid()\n",
        "vllm/utils/__init__.py": "",
        "vllm/utils/system_utils.py": UTILS,
        "vllm/entrypoints/__init__.py": "",
        "vllm/entrypoints/openai/__init__.py": "",
        "vllm/entrypoints/openai/api_server.py": SERVER,
        "vllm/v1/__init__.py": "",
        "vllm/v1/engine/__init__.py": "",
        "vllm/v1/engine/core.py": "from vllm.utils.system_utils import get_mp_context\n" + CORE,
    }
    for name, text in files.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(text)
    return tmp_path / "site"


@pytest.fixture
def serve(packages: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[dict[str, Any], str, ForkServer]]]:
    mark, servers = uuid.uuid4().hex, []

    def begin(**env: str) -> tuple[dict[str, Any], str, ForkServer]:
        common = {MARK: mark, "PYTHONPATH": str(packages), "CUDA_VISIBLE_DEVICES": "", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        command = Command((sys.executable, vllm_entry.__file__, "--fork-server"), {**common, **env})
        server = ForkServer(command, tmp_path / "fork-server.log")
        servers.append(server)
        own = {**command.env, "LABKIT_PIN_CORES": str(min(os.sched_getaffinity(0)))}
        argv = (sys.executable, vllm_entry.__file__, "--port", "1")
        tree = ProcessTree("w0", argv, env=own, log=tmp_path / "w0.log", start=server.start)
        assert tree.wait(30)
        lines = tree.log.read_text().splitlines()
        assert tree.exit == 0, lines
        return json.loads(lines[-1]), "\n".join(lines[:-1]), server

    yield begin
    for server in servers:
        server.close()
    left = marked(mark)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_worker_engine_core_and_rank_are_forked_from_one_import(serve: Callable[..., tuple[dict[str, Any], str, ForkServer]]):
    found, log, server = serve()
    first = min(os.sched_getaffinity(0))
    assert log == ""
    assert found["argv"] == ["--port", "1"]
    core, rank = found["core"], found["core"].pop("rank")
    assert {found["imported_by"], core["imported_by"], rank["imported_by"]} == {server.tree.pid}
    assert len({found["pid"], core["pid"], rank["pid"], server.tree.pid}) == 4
    for process in (core, rank):
        assert process["threads"] == 1, "the server's thread is not in the way"
        assert process["variables"] == {"SET_LATE": "by the server", "LABKIT_PIN_CORES": str(first)}
        assert process["sid"] == found["pid"]
        assert process["cores"] == process["cores_after"] == [first]
    assert found["exit"] == 0


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}, "VLLM_WORKER_MULTIPROC_METHOD=spawn is set"),
        ({"VLLM_CPU_OMP_THREADS_BIND": "0-1"}, "VLLM_CPU_OMP_THREADS_BIND takes effect only where OpenMP is loaded anew"),
    ],
)
def test_what_cannot_be_forked_is_spawned_and_the_log_says_why(
    serve: Callable[..., tuple[dict[str, Any], str, ForkServer]], env: dict[str, str], why: str
):
    found, log, server = serve(**env)
    assert f"labkit: vLLM spawns a process, which imports vLLM again: {why}" in log
    core = found["core"]
    assert found["imported_by"] == server.tree.pid
    assert core["imported_by"] == core["pid"]
    assert core["cores"] == core["cores_after"] == [min(os.sched_getaffinity(0))]


def test_a_version_without_get_mp_context_spawns_and_says_so(
    serve: Callable[..., tuple[dict[str, Any], str, ForkServer]], packages: Path
):
    (packages / "vllm/utils/system_utils.py").write_text("import multiprocessing\n")
    (packages / "vllm/v1/engine/core.py").write_text(CORE)
    server = packages / "vllm/entrypoints/openai/api_server.py"
    server.write_text(
        SERVER.replace("vllm.utils.system_utils.get_mp_context()", "__import__('multiprocessing').get_context('spawn')").replace(
            "(there, True)", "(there, False)"
        )
    )
    found, log, _ = serve()
    assert "this vLLM has no get_mp_context" in log
    assert found["core"]["imported_by"] == found["core"]["pid"]


def test_a_module_that_starts_a_thread_is_left_out(
    serve: Callable[..., tuple[dict[str, Any], str, ForkServer]], packages: Path, tmp_path: Path
):
    worker = packages / "vllm/v1/worker"
    worker.mkdir()
    (worker / "__init__.py").write_text("")
    (worker / "cpu_worker.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    found, _, server = serve()
    assert found["core"]["imported_by"] == server.tree.pid
    assert "vllm.v1.worker.cpu_worker is not preloaded: after its import 2 threads run" in server.tree.log.read_text()


def test_a_module_that_fails_is_told_and_does_no_harm(
    serve: Callable[..., tuple[dict[str, Any], str, ForkServer]], packages: Path
):
    (packages / "vllm/v1/engine/async_llm.py").write_text("raise RuntimeError('not on this machine')\n")
    found, _, server = serve()
    assert found["exit"] == 0
    assert "vllm.v1.engine.async_llm is not preloaded: RuntimeError('not on this machine')" in server.tree.log.read_text()


def command_of(name: str, gpus: tuple[int, ...] = (), options: EngineOptions | None = None) -> Command:
    number = int(name[1:])
    devices = Devices(number, gpus, (number,), 2**34, 1.0, False, 1.0)
    spec = WorkerSpec(name=name, tp=1, devices=devices, port=7000 + number, kv_port=8000 + number)
    return Vllm("/x/python").worker(spec, ServedModel(path="/m", name="m", load_format="dummy"), options or EngineOptions())


@pytest.mark.parametrize("gpus", [((), ()), ((0,), (1,))])
def test_workers_that_differ_only_in_what_is_read_late_share_a_fork_server(gpus: tuple[tuple[int, ...], tuple[int, ...]]):
    engine = Vllm("/x/python")
    one, two = (engine.fork_server(command_of(f"w{n}", gpus[n])) for n in range(2))
    assert one == two
    assert one is not None
    assert one.argv == ("/x/python", vllm_entry.__file__, "--fork-server")
    assert one.env.get("CUDA_VISIBLE_DEVICES") == (None if gpus[0] else "")
    assert "LABKIT_PIN_CORES" not in one.env
    wider = EngineOptions(kv_cache_bytes=4 * 2**30, max_num_seqs=4)
    assert engine.fork_server(command_of("w0", gpus[0], wider)) == one
    other = EngineOptions(extra_env={"VLLM_LOGGING_LEVEL": "DEBUG"})
    assert engine.fork_server(command_of("w0", gpus[0], other)) != one
