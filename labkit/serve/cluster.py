"""Several machines as one ``Node``: the devices of each have numbers of their own, and workers are placed over them.

The n-th machine's devices are numbered from n · 1000 on, in plans, epochs and telemetry alike. A TP group lies on one machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from labkit.errors import SpecError
from labkit.serve.hardware import MOST_SHARING, Core, Devices, Gpu, Node, assign

#: ``spread``: each worker goes to the machine that holds fewest devices for others. ``pack``: to the fullest that it fits on.
Placement = Literal["spread", "pack"]

_STEP: Final = 1000


@dataclass(frozen=True, slots=True)
class Member:
    """One machine of a cluster.

    Attributes:
        name: its own.
        first: number of its first device in the cluster.
        node: what it has, by its own numbers.
    """

    name: str
    first: int
    node: Node

    def has(self, devices: Devices) -> bool:
        """Whether these devices, by their numbers in the cluster, are its own."""
        return all(self.first <= number < self.first + _STEP for number in devices.gpus or devices.cores)

    def local(self, devices: Devices) -> Devices:
        """The same devices by its own numbers."""
        return self._moved(devices, -self.first)

    def numbered(self, devices: Devices) -> Devices:
        """Devices of its own by their numbers in the cluster."""
        return self._moved(devices, self.first)

    @staticmethod
    def _moved(devices: Devices, by: int) -> Devices:
        moved = {name: tuple(number + by for number in getattr(devices, name)) for name in ("gpus", "cores")}
        return replace(devices, gpus=moved["gpus"], cores=moved["cores"])


@dataclass(frozen=True, slots=True)
class Cluster(Node):
    """The machines that workers may run on, as one; ``gpus`` and ``cores`` are by their numbers in the cluster.

    Attributes:
        members: the machines.
        placement: how workers are dealt over them.
    """

    members: tuple[Member, ...] = ()
    placement: Placement = "spread"

    def parts(self) -> list[tuple[Member, Node]]:
        """Each machine with what of it is in this cluster's devices."""
        gpus, cores = {gpu.index for gpu in self.gpus}, {core.index for core in self.cores}
        found = []
        for member in self.members:
            mine = replace(
                member.node,
                gpus=tuple(gpu for gpu in member.node.gpus if gpu.index + member.first in gpus),
                cores=tuple(core for core in member.node.cores if core.index + member.first in cores),
            )
            if mine.gpus or (mine.cores and not gpus):
                found.append((member, mine))
        return found

    def __str__(self) -> str:
        return "; ".join(f"{member.name}: {member.node}" for member in self.members)


def checked_placement(text: str) -> Placement:
    """The placement of this name; raises SpecError for another."""
    for known in get_args(Placement):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise SpecError(f"unknown placement {text!r}", remedy=f"use one of {', '.join(get_args(Placement))}")


def member_at(position: int, name: str, node: Node) -> Member:
    """The machine at this position of a cluster."""
    return Member(name, position * _STEP, node)


def join(members: Iterable[Member], placement: Placement) -> Cluster:
    """Machines as one. Where some have GPUs, those without take no workers, and their cores do not count."""
    members = tuple(members)
    gpus: list[Gpu] = []
    cores: list[Core] = []
    for place, member in enumerate(members):
        for gpu in member.node.gpus:
            peers = frozenset(peer + member.first for peer in gpu.nvlink_peers)
            gpus.append(replace(gpu, index=gpu.index + member.first, nvlink_peers=peers))
        for core in member.node.cores:
            physical = (core.physical[0] + place * _STEP, core.physical[1])
            cores.append(replace(core, index=core.index + member.first, physical=physical))
    reasons = dict.fromkeys(member.node.no_gpu for member in members if member.node.no_gpu)
    drivers = dict.fromkeys(member.node.driver for member in members if member.node.driver)
    return Cluster(
        gpus=tuple(gpus),
        cores=tuple(cores),
        memory_bytes=sum(member.node.memory_bytes for member in members),
        shm_bytes=min((member.node.shm_bytes for member in members), default=0),
        no_gpu=None if gpus else "; ".join(reasons) or None,
        driver=", ".join(drivers) or None,
        members=members,
        placement=placement,
    )


def allot(pool: Sequence[int], node: Node, *, share: bool = True) -> tuple[Devices, ...]:
    """As ``hardware.assign``, also over the machines of a cluster.

    Raises:
        HardwareError: one machine does not have what was asked for.
        SpecError: the machines of a cluster do not; it says what each has.
    """
    return _over(pool, node, share) if isinstance(node, Cluster) else assign(pool, node, share=share)


def _over(pool: Sequence[int], cluster: Cluster, share: bool) -> tuple[Devices, ...]:
    parts = cluster.parts()
    taken = [member.node.accelerators - part.accelerators for member, part in parts]
    held: Counter[int] = Counter()
    home: dict[int, int] = {}
    for worker in sorted(range(len(pool)), key=lambda w: -pool[w]):
        free = {at: part.accelerators - held[at] for at, (_, part) in enumerate(parts)}
        room = [at for at in free if free[at] >= pool[worker]]
        if room:
            at = min(room, key=lambda at: (taken[at] + held[at], -free[at]) if cluster.placement == "spread" else (free[at],))
        elif share and (pool[worker] == 1 or not cluster.gpus) and (able := _least_shared(parts, held, pool[worker])):
            at = able[0]
        else:
            raise _too_few(pool, worker, cluster, parts)
        home[worker], held[at] = at, held[at] + pool[worker]
    devices: dict[int, Devices] = {}
    for at, (member, part) in enumerate(parts):
        mine = [worker for worker in range(len(pool)) if home[worker] == at]
        for worker, given in zip(mine, assign([pool[worker] for worker in mine], part, share=share), strict=True):
            devices[worker] = replace(member.numbered(given), worker=worker)
    return tuple(devices[worker] for worker in range(len(pool)))


def _least_shared(parts: Sequence[tuple[Member, Node]], held: Counter[int], tp: int) -> list[int]:
    """Machines that can share a worker of this TP, the least held first."""
    able = [
        at for at, (_, part) in enumerate(parts) if tp <= part.accelerators and held[at] + tp <= part.accelerators * MOST_SHARING
    ]
    return sorted(able, key=lambda at: held[at] / parts[at][1].accelerators)


def _too_few(pool: Sequence[int], worker: int, cluster: Cluster, parts: Sequence[tuple[Member, Node]]) -> SpecError:
    if not parts:
        return SpecError("no node of the cluster is left for a worker", remedy="launch again, on a cluster that has some")
    noun, tp = cluster.accelerator_noun, pool[worker]
    has = ", ".join(f"{member.name} has {part.accelerators}" for member, part in parts)
    asked = f"{sum(pool)} {noun}{'s' * (sum(pool) > 1)} for {len(pool)} worker{'s' * (len(pool) > 1)}"
    what = f"a TP group of {tp} {noun}s on one node" if tp > 1 else asked
    most = max(part.accelerators for _, part in parts)
    return SpecError(
        f"{what} cannot be placed: {has}",
        remedy=f"ask for at most {most} {noun}{'s' * (most > 1)} a worker, for fewer workers, or add nodes",
    )
