"""What it takes to get a deployment from its split and pool to wished ones: decided on what runs, before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labkit.errors import LabError, ResplitError
from labkit.serve.engines.base import EngineOptions, Place, Plan, check_router_mode
from labkit.serve.memory import CPU_KV_BYTES, check_room
from labkit.serve.nearest import nearest
from labkit.serve.placing import misfits, places
from labkit.serve.situation import Pace, Situation, in_order, names_of, roles_of, survivors
from labkit.spec import Role, Topology

_USUAL_SWAP = "1-2 s"
_USUAL_SWAP_S = 1.5
_USUAL_END_S = 2.0
_PROOF = {
    Role.AGGREGATED: "prompt tokens computed, more than one token a request, no KV bytes received",
    Role.PREFILL: "prompt tokens computed, one token a request, no KV bytes received",
    Role.DECODE: "KV bytes received, tokens generated, fewer prompt tokens computed than received",
}


def make_plan(
    now: Situation,
    wanted: Topology,
    options: EngineOptions,
    *,
    again: frozenset[str] = frozenset(),
    in_place: bool = False,
    keep_unused: bool = False,
) -> Plan:
    """Plan a change to ``wanted`` with ``options``.

    Args:
        now: what there is.
        wanted, options: the wish.
        again: workers to start again in any case, where they are.
        in_place: so are all that other options replace, though others could serve on free devices until then.
        keep_unused: workers that the split does not need go on without a role, where they can; otherwise they end.
    """
    if in_place:
        again |= {w.place.name for w in now.workers if w.options not in [options.of(role) for role, _ in wanted.workers]}
    head = f"{now.topology} → {wanted}: " if wanted != now.topology else f"{wanted}: "
    try:
        check_router_mode(now.engine, options)
        keeps, starts = places(now, wanted, options, again, keep_unused=keep_unused)
    except LabError as error:
        closest = nearest(wanted, lambda t: _possible(now, t, options))
        hint = f"; the nearest that is possible is {closest}" if closest else ""
        return Plan("impossible", f"{head}impossible: {error.what}{hint}", wanted=wanted, why=error, nearest=closest)
    if misfit := misfits(now, wanted, options, keeps, starts):
        return make_plan(now, wanted, options, again=again | misfit, keep_unused=keep_unused)
    if not starts and len(keeps) == len(now.living):
        roles = roles_of(wanted, keeps)
        groups = ((" (dead)", now.dead), (" (unused)", [place for place in keeps if place.name not in roles]))
        left_out = ", ".join(f"{place.name}{why}" for why, which in groups for place in which)
        without = f", leaves out {left_out}" if left_out else ""
        asked = Plan("swap_router", f"{head}swaps the router, {_USUAL_SWAP}, no weights reloaded{without}")
        if wanted.same_pool(now.topology):
            asked = now.engine.plan(now.topology, wanted)
        if asked.kind != "restart":
            return _of_router(now, wanted, options, keeps, asked)
        keeps, starts = (), keeps  # this engine's workers have fixed roles
    beside = [place for place in starts if place.name not in names_of(now.living)]
    if now.crowds and now.free_bytes is not None and beside:
        try:
            check_room(now.model, len(beside), options.kv_cache_bytes or CPU_KV_BYTES, now.free_bytes)
        except LabError as error:
            return Plan("impossible", f"{head}impossible: {error.what}", wanted=wanted, why=error)
    return _of_pool(now, wanted, options, keeps, starts, head)


def _of_router(now: Situation, wanted: Topology, options: EngineOptions, keeps: tuple[Place, ...], asked: Plan) -> Plan:
    changed = options.router_mode != now.options.router_mode
    if asked.kind == "nothing" and (changed or not (now.routed and now.serves())):
        asked = Plan("swap_router", f"{wanted}: brings up another router, {_USUAL_SWAP}, no weights reloaded")
    if asked.kind == "nothing":
        return replace(asked, wanted=wanted, options=options, keeps=keeps)
    measured = now.pace.swap_s
    text = asked.text.replace(_USUAL_SWAP, f"{measured:.1f} s as measured here") if measured is not None else asked.text
    return replace(
        asked,
        text=text,
        wanted=wanted,
        options=options,
        keeps=keeps,
        meanwhile=now.topology,
        about_s=measured,
        requests="requests under way end on the old router; new ones go to the new one",
        proof=_proof(wanted, keeps),
    )


def _of_pool(
    now: Situation,
    wanted: Topology,
    options: EngineOptions,
    keeps: tuple[Place, ...],
    starts: tuple[Place, ...],
    head: str,
) -> Plan:
    kept = {place.name for place in keeps}
    ends = tuple(place.name for place in now.living if place.name not in kept)
    ended = [place for place in now.living if place.name in ends]
    apart = now.crowds or not any(_overlap(a, b) for a in starts for b in ended)
    beside = now.serves() and apart and not names_of(starts) & set(ends)
    meanwhile = now.topology if beside else survivors(now.roles, keeps, merge=False)
    swaps = 1 if meanwhile in (None, now.topology) or not starts else 2
    makes_room = bool(starts) and not beside and (meanwhile is not None or bool(ends))
    about_s = _about_s(now.pace, starts=bool(starts), makes_room=makes_room, swaps=swaps)
    loading = ", ".join(sorted(names_of(starts)))
    parts = [*_words(now, starts, ends)]
    if swaps == 2:
        parts.append(f"{meanwhile} serves meanwhile, with what goes on")
    elif starts and meanwhile is None:
        parts.append("no worker serves meanwhile, and requests fail")
    elif starts:
        parts.append("the present split serves until then")
    if now.roles_kept:
        parts.append("the frontend goes on")
    gone = names_of(starts) | set(ends if makes_room else ())
    crowded = meanwhile is not None and any(_overlap(a, b) for a in starts for b in now.living if b.name not in gone)
    about = "about" if not crowded else "at least"  # they start on devices that others serve on meanwhile
    parts.append(f"{about} {about_s:.0f} s" if about_s is not None else "as long as a launch")
    loads = f"weights loaded by {loading}" if now.node.simulated is None else f"{loading} simulated, without weights"
    parts.append(loads if starts else "no weights reloaded")
    cut = starts and meanwhile is None
    return Plan(
        "restart",
        head + ", ".join(parts) + _sharing(in_order((*keeps, *starts)), now.node.accelerator_noun),
        wanted=wanted,
        options=options,
        starts=starts,
        keeps=keeps,
        ends=ends,
        meanwhile=meanwhile if starts else now.topology,
        makes_room=makes_room,
        about_s=about_s,
        requests="requests under way are cut, and new ones fail until the new workers serve" if cut
        else "requests under way end where they are; those on dead workers have failed",
        proof=_proof(wanted, in_order((*keeps, *starts))),
        router_stays=now.roles_kept,
    )  # fmt: skip


def _about_s(pace: Pace, *, starts: bool, makes_room: bool, swaps: int) -> float | None:
    """How long a change takes, by what was measured and else by what is usual; ``None`` where no start was seen."""
    start_s, swap_s = pace.start_s if starts else 0.0, pace.swap_s if pace.swap_s is not None else _USUAL_SWAP_S
    if start_s is None:
        return None
    if not makes_room:
        return start_s + swaps * swap_s
    room_s = pace.room_s if pace.room_s is not None else _USUAL_END_S + (swaps - 1) * swap_s
    return room_s + start_s + swap_s


def _sharing(places: Sequence[Place], noun: str) -> str:
    """What a reader must know of workers that will share a GPU or core: they are no longer equal to workers that do not."""
    users: dict[int, list[str]] = {}
    for place in places:
        for device in place.devices.gpus or place.devices.cores:
            users.setdefault(device, []).append(place.name)
    crowds = [f"{' and '.join(names)} share {noun} {device}" for device, names in sorted(users.items()) if len(names) > 1]
    return f"; {', '.join(crowds)}, and slow each other down" if crowds and any(p.devices.shared for p in places) else ""


def _words(now: Situation, starts: Sequence[Place], ends: Sequence[str]) -> list[str]:
    dead = {place.name for place in now.dead}
    names = names_of(starts)
    groups = (
        ("restarts", sorted(name for name in names if name in dead), " (dead)"),
        ("restarts", sorted(name for name in names if name in ends), ""),
        ("starts", sorted(name for name in names if name not in dead and name not in ends), ""),
        ("ends", sorted(name for name in ends if name not in names), ""),
    )
    return [f"{verb} {', '.join(which)}{note}" for verb, which, note in groups if which] or ["swaps the router"]


def _overlap(a: Place, b: Place) -> bool:
    if a.devices.gpus or b.devices.gpus:
        return bool(set(a.devices.gpus) & set(b.devices.gpus))
    return bool(set(a.devices.cores) & set(b.devices.cores))


def _proof(wanted: Topology, places: Sequence[Place]) -> tuple[str, ...]:
    roles: Mapping[str, Role] = roles_of(wanted, places)
    return tuple(f"{name} {role.noun}: {_PROOF[role]}" for name, role in roles.items())


def _possible(now: Situation, wanted: Topology, options: EngineOptions) -> bool:
    try:
        places(now, wanted, options, frozenset())
    except LabError:
        return False
    return True


def make_restart_plan(now: Situation, name: str, whole: Mapping[str, Role]) -> Plan:
    """Plan to start one worker again. One that runs leaves the split as it is; a dead one comes back to the part that it had.

    Args:
        now: what there is.
        name: which.
        whole: roles on the last split that was wished for, and not for want of a worker that was dead.

    Raises:
        ResplitError: there is no such worker.
    """
    known = [worker.place.name for worker in now.workers]
    if name not in known:
        raise ResplitError(f"unknown worker {name!r}", remedy=f"use one of {', '.join(known)}")
    there = [worker.place for worker in now.workers if worker.alive or worker.place.name == name]
    alive = name in names_of(now.living)
    wanted = survivors(now.roles if alive and now.roles else whole, there) or now.topology
    unused = bool(now.unused) or name not in (now.roles if alive else whole)
    plan = make_plan(now, wanted, now.options, again=frozenset({name}), keep_unused=unused)
    if plan.why is None and name not in names_of(plan.starts):
        error = ResplitError(f"{name} has no part in {wanted}, which serves", remedy="ask for a split that needs it")
        return Plan("impossible", f"{wanted}: impossible: {error.what}", wanted=wanted, why=error)
    return plan
