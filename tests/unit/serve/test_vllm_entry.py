"""What the entry script does to a worker's process, seen in real processes with a stand-in for vLLM and NIXL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labkit.serve.engines import vllm_entry

ENTRY = Path(vllm_entry.__file__)

SERVER = """
import json, multiprocessing, os, sys
import vllm

def look():
    before = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0)) if not OTHER else OTHER[-1]])
    return {"before": before, "after": sorted(os.sched_getaffinity(0)), "vllm": vllm.__file__, "path": sys.path}

OTHER = [int(core) for core in os.environ.get("TEST_CORES", "").split(",") if core]

def child(pipe):
    pipe.send(look())

if __name__ == "__main__":
    import probe
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=probe.child, args=(there,))
    process.start()
    found = {"self": look(), "spawned": here.recv(), "argv": sys.argv[1:]}
    found["kv_gib"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE")
    process.join()
    try:
        from nixl_cu12 import _api
        config = _api.nixlBind.nixlAgentConfig(True)
        config.pthrDelay = 0
        config.useProgThread = 5
        found["nixl"] = [config.pthrDelay, config.useProgThread, _api.nixlBind.OTHER]
        from nixl_cu12 import _bindings
        plain = _bindings.nixlAgentConfig(True)
        plain.pthrDelay = 0
        found["plain"] = plain.pthrDelay
    except ImportError as error:
        found["nixl"] = str(error)
    print(json.dumps(found))
"""
BINDINGS = """
OTHER = "kept"
class nixlAgentConfig:
    def __init__(self, useProgThread): self.useProgThread, self.pthrDelay = useProgThread, 1
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    server = tmp_path / "vllm" / "entrypoints" / "openai"
    server.mkdir(parents=True)
    for folder in (server, server.parent, server.parent.parent):
        (folder / "__init__.py").touch()
    (server / "api_server.py").write_text(SERVER)
    (tmp_path / "probe.py").write_text(SERVER.split("if __name__")[0])
    nixl = tmp_path / "nixl_cu12"
    nixl.mkdir()
    (nixl / "__init__.py").touch()
    (nixl / "_bindings.py").write_text(BINDINGS)
    (nixl / "_api.py").write_text("from . import _bindings as nixlBind\n")
    return tmp_path


def run(packages: Path, entry: Path = ENTRY, *, says: str = "", **env: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, entry, "--model", "m"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(packages), **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == says
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_its_neighbour_does_not_stand_for_vllm(packages: Path):
    found = run(packages)
    assert (ENTRY.parent / "vllm.py").is_file()
    for process in ("self", "spawned"):
        assert found[process]["vllm"] == str(packages / "vllm" / "__init__.py")
        assert str(ENTRY.parent) not in found[process]["path"]
    assert found["argv"] == ["--model", "m"]


def test_nor_does_it_where_the_script_was_installed_as_a_link(packages: Path, tmp_path: Path):
    link = tmp_path / "installed" / "vllm_entry.py"
    link.parent.mkdir()
    link.symlink_to(ENTRY)
    assert run(packages, link)["self"]["vllm"] == str(packages / "vllm" / "__init__.py")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores to tell one from the other")
def test_the_worker_and_what_it_spawns_stay_on_their_cores(packages: Path):
    first, *_, last = sorted(os.sched_getaffinity(0))
    found = run(packages, LABKIT_PIN_CORES=str(first), TEST_CORES=str(last))
    for process in ("self", "spawned"):
        assert found[process]["before"] == [first]
        assert found[process]["after"] == [first]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores to tell one from the other")
def test_nothing_is_pinned_unasked(packages: Path):
    cores = sorted(os.sched_getaffinity(0))
    found = run(packages, TEST_CORES=str(cores[-1]))
    assert found["self"] | {"path": []} == {
        "before": cores, "after": [cores[-1]], "vllm": str(packages / "vllm" / "__init__.py"), "path": [],
    }  # fmt: skip


def test_nixl_agents_get_the_asked_poll_delay(packages: Path):
    found = run(packages, LABKIT_NIXL_POLL_US="2000")
    assert found["nixl"] == [2000, 5, "kept"]
    assert found["plain"] == 0


def test_nixl_is_left_alone_unasked(packages: Path):
    assert run(packages)["nixl"] == [0, 5, "kept"]


def test_a_machine_without_nixl_is_no_obstacle(packages: Path):
    (packages / "nixl_cu12" / "_api.py").unlink()
    assert "nixl_cu12" in run(packages, LABKIT_NIXL_POLL_US="2000")["nixl"]


QUARTER = {"LABKIT_CPU_KV_BYTES": str(2**28), "VLLM_CPU_KVCACHE_SPACE": "1"}


@pytest.fixture
def cpu_worker(packages: Path) -> Path:
    file = packages / "vllm" / "v1" / "worker" / "cpu_worker.py"
    file.parent.mkdir(parents=True)
    file.write_text("explicit_kv_cache_size = self.cache_config.kv_cache_memory_bytes\n")
    return file


@pytest.mark.usefixtures("cpu_worker")
def test_a_kv_cache_on_the_cpu_is_sized_in_bytes(packages: Path):
    found = run(packages, **QUARTER)
    assert found["argv"] == ["--kv-cache-memory-bytes", str(2**28), "--model", "m"]
    assert found["kv_gib"] is None, "it would win"


def test_and_in_whole_gib_where_this_vllm_takes_no_bytes(packages: Path, cpu_worker: Path):
    cpu_worker.write_text("kv_cache_size = self.cache_config.cpu_kvcache_space_bytes\n")
    found = run(packages, says=f"labkit: this vLLM's KV cache is of whole GiB: 1 GiB for {2**28} bytes", **QUARTER)
    assert (found["argv"], found["kv_gib"]) == (["--model", "m"], "1")


@pytest.mark.usefixtures("cpu_worker")
def test_a_variable_of_the_users_own_overrules_it(packages: Path):
    found = run(packages, **QUARTER | {"VLLM_CPU_KVCACHE_SPACE": "7"})
    assert (found["argv"], found["kv_gib"]) == (["--model", "m"], "7")
