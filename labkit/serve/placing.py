"""Which workers stay when a deployment changes, and where new ones start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count

from labkit.errors import LabError
from labkit.serve.cluster import allot
from labkit.serve.engines.base import EngineOptions, Kind, Place
from labkit.serve.hardware import Devices, Node
from labkit.serve.memory import check_memory
from labkit.serve.models import ServedModel
from labkit.serve.situation import Situation, fits, in_order, kinds_of, names_of, roles_of
from labkit.spec import Topology


def first_places(kinds: Sequence[Kind], model: ServedModel, node: Node, *, share: bool) -> list[Place]:
    """Where the first workers of a pool start, one of each kind. Raises the LabError that makes it impossible."""
    tps = [tp for _, tp in kinds]
    for tp in set(tps):
        model.check_tp(tp)
    devices = allot(tps, node, share=share)
    check_memory(model, devices)
    return [Place(f"w{n}", tp, held, role) for n, ((role, tp), held) in enumerate(zip(kinds, devices, strict=True))]


def places(
    now: Situation, wanted: Topology, options: EngineOptions, again: frozenset[str], *, keep_unused: bool = False
) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """Workers that are kept, and those that are to be started. Raises the LabError that makes the wish impossible.

    With ``keep_unused`` the workers there are serve the split where they suffice, and all of them go on; but those that keep a
    role have it whether the split needs them or not, and end where it does not.
    """
    kinds = kinds_of(wanted, kept=now.roles_kept)
    tps = [tp for _, tp in kinds]
    for tp in set(tps):
        now.model.check_tp(tp)
    ideal = list(allot(tps, now.node, share=now.share))
    check_memory(now.model, ideal)
    as_wished = [options.of(role) for role in {role for role, _ in wanted.workers}]
    able = [w.place for w in now.workers if w.alive and w.options in as_wished and w.place.name not in again]
    if keep_unused and not now.roles_kept and fits(wanted, stay := _as_they_are(now, able, again)):
        return tuple(place for place in stay if place.name not in again), tuple(place for place in stay if place.name in again)
    if any(devices.shared for devices in ideal) or any(place.devices.shared for place in now.living):
        keeps, rest = _kept_as(able, list(zip(kinds, ideal, strict=True)))
        return in_order(keeps), _named(now, keeps, rest, again)
    keeps = _kept(able, kinds)
    need = Counter(kinds) - Counter(place.kind for place in keeps)
    returns = []
    back = [w.place for w in now.workers if (not w.alive or w.place.name in again) and _there(w.place, now.node)]
    for place in sorted(back, key=lambda place: place.name not in again):
        if need[place.kind]:  # it comes back where it was
            need[place.kind] -= 1
            returns.append(place)
    fresh = list(need.elements())
    fresh_tps = [tp for _, tp in fresh]
    given: tuple[Devices, ...] = ()
    for held in ([*now.living, *returns], [*keeps, *returns]):
        free = _without(now.node, held)
        if fresh and sum(fresh_tps) > len(free.gpus if now.node.gpus else free.cores):
            continue
        try:
            given = allot(fresh_tps, free, share=False) if fresh else ()
        except LabError:  # they do not lie together
            continue
        return in_order(keeps), _named(
            now, keeps, [*((p.kind, p.devices) for p in returns), *zip(fresh, given, strict=True)], again
        )
    return (), _named(now, (), list(zip(kinds, ideal, strict=True)), again)  # the free devices lie apart: all move


def misfits(
    now: Situation, wanted: Topology, options: EngineOptions, keeps: Sequence[Place], starts: Sequence[Place]
) -> frozenset[str]:
    """Workers that would be kept in a role that they were not started for."""
    roles, kept = roles_of(wanted, in_order((*keeps, *starts))), names_of(keeps)
    return frozenset(
        worker.place.name
        for worker in now.workers
        if worker.place.name in kept & roles.keys() and worker.options != options.of(roles[worker.place.name])
    )


def _as_they_are(now: Situation, able: Sequence[Place], again: frozenset[str]) -> tuple[Place, ...]:
    """The workers that live and can stay as they are, and those to be started again; none where others would have to go."""
    if not names_of(now.living) <= names_of(able) | again:
        return ()
    return tuple(worker.place for worker in now.workers if worker.alive or worker.place.name in again)


def _kept(able: Sequence[Place], kinds: Iterable[Kind]) -> tuple[Place, ...]:
    need = Counter(kinds)
    keeps = []
    for place in able:
        if need[place.kind]:
            need[place.kind] -= 1
            keeps.append(place)
    return tuple(keeps)


def _kept_as(able: Sequence[Place], ideal: list[tuple[Kind, Devices]]) -> tuple[tuple[Place, ...], list[tuple[Kind, Devices]]]:
    """Among workers that share, those are kept whose share stays as it is."""
    keeps = []
    for place in able:
        same = next((pair for pair in ideal if pair[0] == place.kind and _share(pair[1]) == _share(place.devices)), None)
        if same is not None:
            ideal.remove(same)
            keeps.append(replace(place, devices=same[1]))
    return tuple(keeps), ideal


def _share(devices: Devices) -> tuple[object, ...]:
    return (devices.gpus, devices.memory_fraction) if devices.gpus else (devices.cores,)


def _named(
    now: Situation, keeps: Sequence[Place], wanted: Sequence[tuple[Kind, Devices]], again: frozenset[str]
) -> tuple[Place, ...]:
    """Names for new workers: those of workers of this place that are not kept, then unused numbers.

    Where workers come and go beside each other, a new one has a name that none had before, but for those that start ``again``
    and the dead that are replaced: nobody takes it for another in the records of a run.
    """
    known = [worker.place.name for worker in now.workers]
    taken = names_of(keeps) | {worker.place.name for worker in now.workers if now.crowds and worker.alive} - again
    old = [worker.place for worker in now.workers if worker.place.name not in taken]
    named = []
    unused = (f"w{n}" for n in count() if f"w{n}" not in known and not (now.roles_kept and f"w{n}" in now.names))
    for (role, tp), devices in wanted:
        before = next((place for place in old if place.tp == tp and _share(place.devices) == _share(devices)), None)
        before = before or next((place for place in old if place.tp == tp and place not in now.living), None)
        if before is not None:
            old.remove(before)
        named.append(Place(before.name if before else next(unused), tp, devices, role))
    return in_order(named)


def _there(place: Place, node: Node) -> bool:
    """Whether its devices are still there: the machine that had them may be lost."""
    held, there = (place.devices.gpus, node.gpus) if place.devices.gpus else (place.devices.cores, node.cores)
    return set(held) <= {device.index for device in there}


def _without(node: Node, held: Iterable[Place]) -> Node:
    gpus = {gpu for place in held for gpu in place.devices.gpus}
    cores = {core for place in held for core in place.devices.cores}
    if node.gpus:
        return replace(node, gpus=tuple(gpu for gpu in node.gpus if gpu.index not in gpus))
    return replace(node, cores=tuple(core for core in node.cores if core.index not in cores))
