"""What runs when a change is planned: the split that serves, its workers and their places, and how long things took so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from labkit.serve.engines.base import Engine, EngineOptions, Kind, Place
from labkit.serve.hardware import Node
from labkit.serve.models import ServedModel
from labkit.spec import Role, Topology
from labkit.spec.topology import Group


@dataclass(slots=True)
class Pace:
    """How long things took on this deployment so far, in seconds.

    Attributes:
        swaps: from the call until a new router took requests.
        starts: from the start of workers until the last of them had met the others.
        rooms: where others had to end first, from the call until the new workers began; with the requests that were waited for.
    """

    swaps: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    rooms: list[float] = field(default_factory=list)

    @property
    def swap_s(self) -> float | None:
        """What a swap of the router takes; ``None`` before the first."""
        return median(self.swaps[-5:]) if self.swaps else None

    @property
    def start_s(self) -> float | None:
        """What a start of workers takes; the last one counts: a fork server may have come or gone since the others."""
        return self.starts[-1] if self.starts else None

    @property
    def room_s(self) -> float | None:
        """What it takes to make room for new workers; ``None`` before the first."""
        return median(self.rooms[-5:]) if self.rooms else None


@dataclass(frozen=True, slots=True)
class Running:
    """A worker as the plan sees it."""

    place: Place
    options: EngineOptions
    alive: bool


@dataclass(frozen=True, slots=True)
class Situation:
    """What there is when a plan is made.

    Attributes:
        topology: the split that serves.
        options: what workers are started with.
        roles: worker name → role on that split.
        routed: whether the router in front of them runs.
        workers: those of the pool, the dead among them, in the order of their names.
        share: whether workers may share a GPU or core.
        names: those that workers of this deployment have had.
        free_bytes: of the node's memory; ``None`` where nobody looked.
    """

    topology: Topology
    roles: Mapping[str, Role]
    routed: bool
    options: EngineOptions
    workers: tuple[Running, ...]
    engine: Engine
    model: ServedModel
    node: Node
    share: bool
    pace: Pace
    names: frozenset[str] = frozenset()
    free_bytes: int | None = None

    @property
    def roles_kept(self) -> bool:
        """Whether workers keep the roles that they start with."""
        return self.engine.registry is not None

    @property
    def crowds(self) -> bool:
        """Whether workers start beside those that they replace, on the same cores: slower for as long as that takes, and nobody
        is cut off. GPUs are not shared so: memory that one worker holds is not there for another."""
        return self.roles_kept and self.share and not self.node.gpus

    @property
    def living(self) -> tuple[Place, ...]:
        """Places of the workers that run."""
        return tuple(worker.place for worker in self.workers if worker.alive)

    @property
    def unused(self) -> tuple[Place, ...]:
        """Places of the workers that run and have no role."""
        return tuple(place for place in self.living if place.name not in self.roles)

    @property
    def dead(self) -> tuple[Place, ...]:
        """Places of the workers that have died."""
        return tuple(worker.place for worker in self.workers if not worker.alive)

    def serves(self) -> bool:
        """Whether every worker of the split runs."""
        return bool(self.roles) and set(self.roles) <= names_of(self.living)


def kinds_of(topology: Topology, *, kept: bool) -> list[Kind]:
    """What each worker of a split must be, in its order; ``kept``: whether workers keep the roles that they start with."""
    return [(role if kept else None, tp) for role, tp in topology.workers]


def fits(topology: Topology, places: Sequence[Place]) -> bool:
    """Whether these workers can serve it, some perhaps left out."""
    kept = any(place.role is not None for place in places)
    return not Counter(kinds_of(topology, kept=kept)) - Counter(place.kind for place in places)


def roles_of(topology: Topology, places: Sequence[Place]) -> dict[str, Role]:
    """Worker name → role: roles go to workers of their TP in the order given, decode roles from the last one on.

    A worker that keeps a role gets no other. Workers left over have none: they are in the middle, so that one that comes into
    use takes no other's role away.
    """
    free = list(places)
    chosen: dict[str, Role] = {}
    for role, tp in topology.workers:
        order = reversed(free) if role is Role.DECODE else free
        worker = next(place for place in order if place.kind in ((role, tp), (None, tp)))
        free.remove(worker)
        chosen[worker.name] = role
    return {place.name: chosen[place.name] for place in places if place.name in chosen}


def survivors(roles: Mapping[str, Role], living: Sequence[Place], *, merge: bool = True) -> Topology | None:
    """The split that those of ``roles`` can serve that are left; ``None`` where there is none.

    Workers keep their roles. Where all of a role are gone, one of the others takes it, and a worker that is alone does both,
    unless the engine's workers have no other role than the one that they started with.

    Args:
        roles: worker name → role before.
        living: workers that are left.
        merge: whether a disaggregated split may become an aggregated one.
    """
    left = [(place, roles[place.name]) for place in living if place.name in roles]
    if not left:
        return None
    kinds = {role for _, role in left}
    if Role.AGGREGATED not in kinds and len(kinds) < 2:
        if any(place.role is not None for place, _ in left):
            return None
        if len(left) > 1:
            left[0] = (left[0][0], Role.PREFILL if Role.DECODE in kinds else Role.DECODE)
        elif merge:
            left = [(left[0][0], Role.AGGREGATED)]
        else:
            return None
    return Topology([Group(1, role, place.tp) for place, role in left])


def names_of(places: Iterable[Place]) -> set[str]:
    """Their names."""
    return {place.name for place in places}


def in_order(places: Iterable[Place]) -> tuple[Place, ...]:
    """In the order of their names."""
    return tuple(sorted(places, key=lambda place: int(place.name.removeprefix("w"))))
