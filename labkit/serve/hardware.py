"""What this node has, and which part of it each worker gets.

GPUs are asked of NVML, never of torch: the lab does not import it, and a CUDA context would take GPU memory. GPU
indices are NVML's (PCI order), so a worker needs ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` beside ``CUDA_VISIBLE_DEVICES``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations, cycle
from math import ceil
from pathlib import Path
from typing import Final

import psutil
import pynvml

from labkit.errors import HardwareError
from labkit.serve.control_group import cpu_limit, memory_limit
from labkit.serve.ports import PortLease, claim_port, free_ports

__all__ = ["Core", "Devices", "Gpu", "Node", "PortLease", "assign", "claim_port", "free_ports", "inspect_node"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        index: NVML's, in PCI order.
        numa_node: of its PCI slot; ``None`` where the machine does not say.
        nvlink_peers: indices of the GPUs that it reaches over NVLink, directly or through a switch.
        mig: whether it is cut into MIG instances, which the lab does not use.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    free_bytes: int
    numa_node: int | None = None
    nvlink_peers: frozenset[int] = frozenset()
    mig: bool = False


@dataclass(frozen=True, slots=True)
class Core:
    """One logical CPU that this process may use; two with the same ``physical`` share an execution unit (SMT)."""

    index: int
    physical: tuple[int, int]
    numa_node: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """What this node has for the lab.

    Attributes:
        cores: the CPUs in this process's affinity mask, in order.
        cpu_limit: CPUs' worth of time that the control group grants; ``None`` for no limit.
        memory_bytes: physical memory, or the control group's limit if that is lower.
        shm_bytes: size of /dev/shm; 0 where there is none.
        no_gpu: why ``gpus`` is empty; ``None`` where it is not.
        driver: NVIDIA driver version; ``None`` without one.
        simulated: the GPU that workers only pretend to have, such as ``h100_sxm``; ``None`` where they compute.
    """

    gpus: tuple[Gpu, ...]
    cores: tuple[Core, ...]
    memory_bytes: int
    shm_bytes: int
    cpu_limit: float | None = None
    no_gpu: str | None = None
    driver: str | None = None
    simulated: str | None = None

    @property
    def accelerators(self) -> int:
        """GPUs, or cores where there is no GPU: what a topology is counted against."""
        return len(self.gpus) or len(self.cores)

    @property
    def accelerator_noun(self) -> str:
        """``GPU`` or ``core``; of GPUs that nobody has, that and which."""
        if self.simulated is not None:
            return f"simulated {self.simulated}{'' if self.simulated.endswith('core') else ' GPU'}"
        return "GPU" if self.gpus else "core"

    def __str__(self) -> str:
        cores = f"{len(self.cores)} core{'s' * (len(self.cores) != 1)}, {self.memory_bytes / 2**30:.0f} GiB"
        if self.simulated is not None:
            return f"{self.accelerator_noun}s on {cores}"
        kinds = Counter(gpu.name for gpu in self.gpus)
        return "; ".join([*(f"{count} × {name}" for name, count in kinds.items()), cores])


@dataclass(frozen=True, slots=True)
class Devices:
    """What one worker may use.

    Attributes:
        worker: its position in the pool that was asked for.
        gpus: NVML indices, one per TP rank; empty on a CPU node.
        cores: logical CPUs. On a CPU node one per TP rank; on a GPU node all those near its GPUs.
        memory_bytes: of each of its GPUs (the smallest), or of the node where there is none.
        memory_fraction: the share of ``memory_bytes`` that is this worker's.
        shared: whether another worker uses the same GPU or core.
        accelerators: GPUs or cores held, in fractions where shared; sums over workers to what the topology holds.
    """

    worker: int
    gpus: tuple[int, ...]
    cores: tuple[int, ...]
    memory_bytes: int
    memory_fraction: float
    shared: bool
    accelerators: float


def inspect_node() -> Node:
    """Look at this machine. Never fails for want of a GPU: ``no_gpu`` says why there is none."""
    gpus, driver, no_gpu = _gpus()
    limit_bytes = memory_limit()
    memory_bytes = psutil.virtual_memory().total
    return Node(
        gpus=gpus,
        cores=tuple(_core(index) for index in sorted(os.sched_getaffinity(0))),
        memory_bytes=min(memory_bytes, limit_bytes) if limit_bytes else memory_bytes,
        shm_bytes=psutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0,
        cpu_limit=cpu_limit(),
        no_gpu=no_gpu,
        driver=driver,
    )


#: Most workers on one GPU or core: with more, each is left too little memory and time to measure anything.
MOST_SHARING: Final = 4


#: GPUs that a simulated node pretends to have, and memory that a worker's process takes on this machine.
SIMULATED_GPUS: Final = 1024
SIMULATED_WORKER_BYTES: Final = 160 * 2**20


def simulate(node: Node, gpu: str, memory_bytes: int) -> Node:
    """A node with this machine's cores and GPUs that nobody has: as many as anyone asks for.

    Args:
        node: the machine on which the simulation runs.
        gpu: which GPU is pretended: ``h100_sxm``.
        memory_bytes: of each.
    """
    gpus = (Gpu(index, f"simulated-{index}", f"simulated {gpu}", memory_bytes, memory_bytes) for index in range(SIMULATED_GPUS))
    return replace(node, gpus=tuple(gpus), no_gpu=None, driver=None, simulated=gpu)


def assign(pool: Sequence[int], node: Node, *, share: bool = True) -> tuple[Devices, ...]:
    """Give every worker of a pool its devices.

    TP groups go first, to GPUs that are all joined by NVLink and in one NUMA node if there are such. Workers of one
    accelerator share GPUs or cores evenly when there are too few; a TP group never shares a GPU.

    Args:
        pool: TP degree of each worker, in the order of the workers.
        node: what there is.
        share: whether workers may share a GPU or core.

    Raises:
        HardwareError: more accelerators than the node has, where sharing cannot help or is not wanted.
    """
    if node.simulated is not None:
        return _assign_simulated(pool, node)
    most, noun = node.accelerators, node.accelerator_noun
    if max(pool, default=0) > most:
        raise HardwareError(
            f"a worker with TP {max(pool)} needs {max(pool)} {noun}s and this node has {most}",
            remedy=f"use @tp{most} or less" + (f" ({node.no_gpu})" if node.no_gpu else ""),
        )
    if sum(pool) > most and not share:
        raise HardwareError(
            f"{len(pool)} workers need {sum(pool)} {noun}s and this node has {most}",
            remedy=f"ask for at most {most} {noun}s in all, or allow sharing",
        )
    if sum(pool) > most * MOST_SHARING:
        raise HardwareError(
            f"{len(pool)} workers need {sum(pool)} {noun}s; this node has {most}, each shared by {MOST_SHARING} workers at most",
            remedy=f"ask for at most {most * MOST_SHARING} workers, and for {most} to measure without sharing",
        )
    return _assign_gpus(pool, node) if node.gpus else _assign_cores(pool, node)


def _assign_simulated(pool: Sequence[int], node: Node) -> tuple[Devices, ...]:
    """One after the other: any two of these GPUs are as near as others. What bounds them is this machine's memory."""
    most = node.memory_bytes // SIMULATED_WORKER_BYTES
    if len(pool) > most or sum(pool) > len(node.gpus):
        raise HardwareError(
            f"{len(pool)} simulated workers of {sum(pool)} GPUs are more than this machine can hold",
            remedy=f"ask for at most {most:,} workers and {len(node.gpus):,} GPUs",
        )
    free = iter(node.gpus)
    cores = tuple(core.index for core in node.cores)
    return tuple(
        Devices(
            worker=worker,
            gpus=tuple(gpu.index for gpu in held),
            cores=cores,
            memory_bytes=held[0].memory_bytes,
            memory_fraction=1.0,
            shared=False,
            accelerators=float(tp),
        )
        for worker, tp in enumerate(pool)
        for held in ([next(free) for _ in range(tp)],)
    )


def _assign_gpus(pool: Sequence[int], node: Node) -> tuple[Devices, ...]:
    by_index = {gpu.index: gpu for gpu in node.gpus}
    free = set(by_index)
    chosen: dict[int, tuple[int, ...]] = {}
    sharing = sum(pool) > len(free)
    for worker in sorted(range(len(pool)), key=lambda w: -pool[w]):
        if sharing and pool[worker] == 1:
            continue
        if pool[worker] > len(free):
            raise _too_few(pool, node)
        chosen[worker] = _best_group([by_index[index] for index in sorted(free)], pool[worker])
        free -= set(chosen[worker])
    singles = [worker for worker in range(len(pool)) if worker not in chosen]
    if singles and not free:
        raise _too_few(pool, node)
    chosen |= {worker: (gpu,) for worker, gpu in zip(singles, cycle(sorted(free)), strict=False)}
    # Equal workers stay equal: each gets the share of the fullest GPU, even on one that fewer share.
    fraction = 1 / ceil(len(singles) / len(free)) if singles else 1.0
    users = Counter(gpu for gpus in chosen.values() for gpu in gpus)
    return tuple(
        Devices(
            worker=worker,
            gpus=chosen[worker],
            cores=_near(node, [by_index[gpu] for gpu in chosen[worker]]),
            memory_bytes=min(by_index[gpu].memory_bytes for gpu in chosen[worker]),
            memory_fraction=fraction if worker in singles else 1.0,
            shared=any(users[gpu] > 1 for gpu in chosen[worker]),
            accelerators=sum(1 / users[gpu] for gpu in chosen[worker]),
        )
        for worker in range(len(pool))
    )


def _assign_cores(pool: Sequence[int], node: Node) -> tuple[Devices, ...]:
    """A physical core per rank; the first cores stay free for load client, router and kernel where there are plenty."""
    seen: Counter[tuple[int, int]] = Counter()
    ranked = []
    for core in node.cores:
        ranked.append((seen[core.physical], core.numa_node, core.index))
        seen[core.physical] += 1
    order = [index for _, _, index in sorted(ranked)]  # first threads of every physical core, NUMA node by NUMA node
    physical = len(seen)
    wanted = sum(pool)
    spare = max(0, (physical if wanted <= physical else len(order)) - wanted)
    ranks = cycle(order[spare : spare + wanted])
    chosen = [tuple(next(ranks) for _ in range(tp)) for tp in pool]
    users = Counter(core for cores in chosen for core in cores)
    return tuple(
        Devices(
            worker=worker,
            gpus=(),
            cores=tuple(sorted(cores)),
            memory_bytes=node.memory_bytes,
            memory_fraction=1 / len(pool),
            shared=any(users[core] > 1 for core in cores),
            accelerators=sum(1 / users[core] for core in cores),
        )
        for worker, cores in enumerate(chosen)
    )


def _too_few(pool: Sequence[int], node: Node) -> HardwareError:
    groups = sum(tp for tp in pool if tp > 1)
    return HardwareError(
        f"{len(pool)} workers need {sum(pool)} GPUs, {groups} of them for TP groups, and this node has {len(node.gpus)}",
        remedy="ask for fewer workers or a smaller TP: only workers of one GPU can share it",
    )


def _best_group(free: Sequence[Gpu], tp: int) -> tuple[int, ...]:
    """The ``tp`` GPUs with fewest pairs that lack NVLink, then fewest NUMA nodes, then leaving most whole NUMA nodes."""

    def cost(group: tuple[Gpu, ...]) -> tuple[int, int, int, tuple[int, ...]]:
        slow = sum(b.index not in a.nvlink_peers for a, b in combinations(group, 2))
        nodes = {gpu.numa_node for gpu in group}
        left = sum(gpu.numa_node in nodes for gpu in free) - tp
        return slow, len(nodes), left, tuple(gpu.index for gpu in group)

    return tuple(gpu.index for gpu in min(combinations(free, tp), key=cost))


def _near(node: Node, gpus: Iterable[Gpu]) -> tuple[int, ...]:
    """The cores in the NUMA nodes of these GPUs; all cores where that is unknown or leaves none."""
    nodes = {gpu.numa_node for gpu in gpus}
    near = tuple(core.index for core in node.cores if core.numa_node in nodes)
    return near or tuple(core.index for core in node.cores)


def _gpus() -> tuple[tuple[Gpu, ...], str | None, str | None]:
    """GPUs that this process may use, driver version, and why there are none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), None, f"no NVIDIA driver: NVML says {error}"
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        gpus = tuple(_gpu(index, handles) for index in range(len(handles)))
    except pynvml.NVMLError as error:
        return (), None, f"NVML stopped answering: {error}"
    finally:
        pynvml.nvmlShutdown()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    allowed = tuple(gpu for gpu in gpus if _is_visible(gpu, visible) and not gpu.mig)
    if not gpus:
        return (), driver, "NVML lists no GPU"
    if not allowed:
        return (), driver, f"none of {len(gpus)} GPUs is whole and in CUDA_VISIBLE_DEVICES={visible or ''!r}"
    return allowed, driver, None


def _gpu(index: int, handles: Sequence[object]) -> Gpu:
    handle = handles[index]
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    numa_node: int | None = None
    peers = set()
    mig = False
    with suppress(pynvml.NVMLError, OSError, ValueError):
        slot = _text(pynvml.nvmlDeviceGetPciInfo(handle).busId).lower()[-12:]
        number = int(Path(f"/sys/bus/pci/devices/{slot}/numa_node").read_text())
        numa_node = number if number >= 0 else None
    with suppress(pynvml.NVMLError):
        mig = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    for other, peer in enumerate(handles):
        with suppress(pynvml.NVMLError):
            if other != index and (
                pynvml.nvmlDeviceGetP2PStatus(handle, peer, pynvml.NVML_P2P_CAPS_INDEX_NVLINK) == pynvml.NVML_P2P_STATUS_OK
            ):
                peers.add(other)
    return Gpu(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(memory.total),
        free_bytes=int(memory.free),
        numa_node=numa_node,
        nvlink_peers=frozenset(peers),
        mig=mig,
    )


def _is_visible(gpu: Gpu, visible: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES, as a scheduler may have set it, leaves this GPU to us."""
    if visible is None:
        return True
    names = [name.strip() for name in visible.split(",")]
    return any(name == str(gpu.index) or (name.startswith("GPU-") and gpu.uuid.startswith(name)) for name in names)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _core(index: int) -> Core:
    folder = Path(f"/sys/devices/system/cpu/cpu{index}")
    package, core, numa_node = 0, index, 0
    with suppress(OSError, ValueError):
        package = int((folder / "topology/physical_package_id").read_text())
        core = int((folder / "topology/core_id").read_text())
    with suppress(OSError, StopIteration):
        numa_node = next(int(match[1]) for entry in folder.iterdir() if (match := re.fullmatch(r"node(\d+)", entry.name)))
    return Core(index, (package, core), numa_node)
