"""What makes a side slower: each cause with what it costs, the evidence for it, and what to try.

A cause is blamed for its own stages of a request and no more, so that the costs add up to what was lost. What it is called, and
the remedy, follow from how hard the workers were pressed meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from labkit.experiments.sides import Side
from labkit.measure.columns import Floats
from labkit.measure.counters import means, total_growth
from labkit.measure.pressure import Pressure
from labkit.measure.stages import STAGES, Stage
from labkit.spec.topology import Role

CauseKind = Literal["client", "router", "prefill", "transfer", "room", "decode"]

#: Of a core, of a worker's time or device, of a KV cache: closer to the end of it, waiting begins.
_BUSY: Final = 0.85
_PRESSED: Final = 0.6
#: The worker that bears most of its role's work bears so many times the mean.
_UNEVEN: Final = 1.3
_EVEN_OUT: Final = (
    "a router that goes by load and not in turn; where the work came evenly, that worker is slower: look at what else ran on its "
    "device, and at its clock"
)
_MORE_ROOM: Final = "more KV cache (kv_cache_bytes, gpu_memory_utilization, a shorter max_model_len)"
_FLOOR: Final = 10  # percentile: what a request pays even where nothing waits
_TRANSFERS: Final = (
    "vllm:nixl_bytes_transferred_sum",
    "vllm:nixl_xfer_time_seconds_sum",
    "vllm:nixl_xfer_time_seconds_count",
)
_BLAMES: Final[Mapping[Stage, CauseKind]] = {
    "send_lag": "client", "routing": "router", "queue": "prefill", "prefill": "prefill", "handover": "transfer",
    "kv_wait": "transfer", "first_token": "transfer", "decode": "decode",
}  # fmt: skip
STAGE_NAMES: Final[Mapping[str, str]] = {
    "send_lag": "late sends", "routing": "routing", "queue": "waiting for prefill", "prefill": "prefill",
    "handover": "handover to the decode worker", "kv_wait": "KV transfer and waiting for room",
    "first_token": "the first token's step and way back", "decode": "decode",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StageRow:
    """Mean seconds a request of a stage on both sides, and the difference B − A with its 95 % interval."""

    stage: str
    a_s: float
    b_s: float
    low_s: float
    high_s: float

    @property
    def difference_s(self) -> float:
        """B − A."""
        return self.b_s - self.a_s

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return not self.low_s <= 0 <= self.high_s


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason for which side B is slower.

    Attributes:
        kind: which.
        cost_s: what it adds to a request on average, in seconds.
        what: in a few words.
        evidence: the numbers that it is concluded from.
        remedy: what to try.
    """

    kind: CauseKind
    cost_s: float
    what: str
    evidence: tuple[str, ...]
    remedy: str


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """All that causes are concluded from.

    Attributes:
        side: B's windows.
        rows: of every stage.
        seconds: of B's requests, a column for each of ``STAGES``.
        pressed: the workers of each role, of A and of B.
    """

    side: Side
    rows: Mapping[str, StageRow]
    seconds: Floats
    pressed: tuple[Mapping[Role, Pressure], Mapping[Role, Pressure]]


def causes_of(case: Case) -> tuple[Cause, ...]:
    """The causes that cost anything, the costliest first. A stage whose difference is not shown is nobody's cause."""
    costs: dict[CauseKind, float] = {}
    for stage, kind in _BLAMES.items():
        if case.rows[stage].is_shown:
            costs[kind] = costs.get(kind, 0.0) + case.rows[stage].difference_s
    found = [_SAY[kind](case, cost) for kind, cost in costs.items() if cost > 0]
    return tuple(sorted(found, key=lambda cause: -cause.cost_s))


def milliseconds(seconds: float, *, signed: bool = False) -> str:
    """For a sentence: three digits or so."""
    value = abs(seconds) * 1e3
    sign = "−" if seconds < 0 else "+" if signed else ""
    return f"{sign}{value:,.{0 if value >= 100 else 1}f} ms"


def _client(case: Case, cost_s: float) -> Cause:
    told = [_moved(case, "send_lag")]
    if (busy := _most_used(case.side, "load")) is not None:
        told.append(f"the load client used {busy:.0%} of its core")
    remedy = "more load shards, or cores of their own for them: until then this is not the server's time"
    return Cause("client", cost_s, "the load client sends late", tuple(told), remedy)


def _router(case: Case, cost_s: float) -> Cause:
    told, cores = [_moved(case, "routing")], _most_used(case.side, "router")
    if cores is not None:
        told.append(f"the router used {cores:.2f} cores")
    if cores is not None and cores > _BUSY:
        return Cause("router", cost_s, "the router is the bottleneck", tuple(told), "more routers, or a core of its own for it")
    remedy = "a router nearer to the workers; where it holds requests back, its policy and its limits"
    return Cause("router", cost_s, "the way through the router is longer", tuple(told), remedy)


def _prefill(case: Case, cost_s: float) -> Cause:
    a, b = case.pressed
    told = [_moved(case, "queue"), _moved(case, "prefill")]
    role = Role.PREFILL if Role.PREFILL in b else Role.AGGREGATED
    held = b.get(role)
    before = sum(one.workers for role, one in a.items() if role is not Role.DECODE)
    if held is not None and held.workers != before:
        told.append(f"{_workers(held.workers, 'prefill')} what {before} did")
    busy = None
    if held is not None and held.prefilling is not None:
        busy = held.prefilling
        told.append(f"a prompt was in work there {busy:.0%} of the time")
    told += [*_uses(b), *_kv_used(held, role)]
    if held is not None and (uneven := _uneven(held.prefilling_of, _PRESSED)):
        told.append("a prompt was in work " + ", ".join(f"{share:.0%} of the time on {name}" for name, share in uneven))
        return Cause("prefill", cost_s, f"{uneven[0][0]} bears more of the prefill than the others", tuple(told), _EVEN_OUT)
    if held is not None and _waits_for_room(case, held):
        return Cause("room", cost_s, f"requests wait for room at the {role.noun} workers", tuple(told), _room(b, role))
    light = busy is not None and busy < _PRESSED
    what = "prompts wait for one another at fewer workers" if light else "too little prefill for this load"
    remedy = _rebalance(b, Role.PREFILL)
    if case.rows["prefill"].is_shown and case.rows["prefill"].difference_s > 0:
        remedy += "; prefill itself grew, as prompts share steps: a smaller max_num_batched_tokens ends the first of them sooner"
    return Cause("prefill", cost_s, what, tuple(told), remedy)


def _transfer(case: Case, cost_s: float) -> Cause:
    stages: tuple[Stage, ...] = ("handover", "kv_wait", "first_token")
    floors = {stage: float(np.percentile(case.seconds[:, STAGES.index(stage)], _FLOOR)) for stage in stages}
    waited_s = case.rows["kv_wait"].b_s - floors["kv_wait"]
    told = [_moved(case, stage) for stage in stages]
    told.append(f"{milliseconds(sum(floors.values()))} of it also where nothing waits (10th percentiles)")
    told += _transfers(case)
    decode = case.pressed[1].get(Role.DECODE)
    told += _kv_used(decode, Role.DECODE)
    if _is_full(decode) and waited_s > sum(floors.values()):
        remedy = f"{_rebalance(case.pressed[1], Role.DECODE)}; or {_MORE_ROOM}"
        return Cause("room", cost_s, "requests wait for room at the decode workers", tuple(told), remedy)
    remedy = (
        "a faster way for KV blocks (UCX over NVLink or RDMA). It is paid once a request: least on long answers, and only the "
        "stalls that a split saves can win it back"
    )
    return Cause("transfer", cost_s, "the way from prefill to decode costs time", tuple(told), remedy)


def _decode(case: Case, cost_s: float) -> Cause:
    told = [_moved(case, "decode")]
    for side, pressed in zip(("A", "B"), case.pressed, strict=True):
        held = pressed.get(Role.DECODE) or pressed.get(Role.AGGREGATED)
        if held is not None and held.running is not None:
            told.append(f"{side}: {_workers(held.workers, 'decode')}, {held.running:.1f} requests running on each")
        if held is not None and held.preemptions:
            told.append(f"{side}: {held.preemptions:.0f} preemptions")
    b = case.pressed[1]
    role = Role.DECODE if Role.DECODE in b else Role.AGGREGATED
    held = b.get(role)
    told += [*_uses(b), *_kv_used(held, role)]
    if held is not None and (uneven := _uneven(held.running_of, 1.0)):
        told.append("requests running " + ", ".join(f"{count:.1f} on {name}" for name, count in uneven))
        return Cause("decode", cost_s, f"{uneven[0][0]} decodes more than the others", tuple(told), _EVEN_OUT)
    if held is not None and held.preemptions and _is_full(held):
        remedy = f"{_MORE_ROOM}, or a smaller max_num_seqs; or {_rebalance(b, Role.DECODE)}"
        return Cause("room", cost_s, f"requests lose their KV cache to others at the {role.noun} workers", tuple(told), remedy)
    return Cause("decode", cost_s, "decode is slower", tuple(told), _rebalance(b, Role.DECODE))


_SAY: Final = {"client": _client, "router": _router, "prefill": _prefill, "transfer": _transfer, "decode": _decode}


def _is_full(held: Pressure | None) -> bool:
    return held is not None and held.kv_used is not None and held.kv_used >= _BUSY


def _waits_for_room(case: Case, held: Pressure) -> bool:
    """Whether prompts wait for KV cache: it is full, and there were steps to compute them in, or requests lost theirs to others.

    Where a prompt is in work all the time without that, a larger cache would hold more prompts that wait all the same.
    """
    queue, prefill = case.rows["queue"], case.rows["prefill"]
    waits = queue.is_shown and queue.difference_s > max(prefill.difference_s, 0.0)
    idle = held.prefilling is not None and held.prefilling < _BUSY
    return _is_full(held) and waits and (idle or bool(held.preemptions))


def _room(pressed: Mapping[Role, Pressure], role: Role) -> str:
    """A prefill worker holds a prompt's KV cache until it is fetched: a full decode worker fills it, too."""
    if role is Role.PREFILL and _is_full(pressed.get(Role.DECODE)):
        return f"{_rebalance(pressed, Role.DECODE)}, as the decode workers are full and fetch late; or {_MORE_ROOM} on both"
    return f"{_MORE_ROOM}; or {_rebalance(pressed, role)}"


def _kv_used(held: Pressure | None, role: Role) -> list[str]:
    if held is None or held.kv_used is None:
        return []
    return [f"KV cache of the {role.noun} workers up to {held.kv_used:.0%} full"]


def _rebalance(pressed: Mapping[Role, Pressure], short: Role) -> str:
    """The split that evens out what the workers were used, or what is left where no other does."""
    prefill, decode = pressed.get(Role.PREFILL), pressed.get(Role.DECODE)
    if prefill is None or decode is None:
        return "more workers, or a lower rate"
    total = prefill.workers + decode.workers
    if total == 2:
        return f"a larger pool, as no split of two workers has more {short.noun}; until then aggregated, where both do both"
    if prefill.used is None or decode.used is None:
        return f"one more {short.noun} worker in place of the other kind"
    work = prefill.workers * prefill.used, decode.workers * decode.used
    uses = {count: (work[0] / count, work[1] / (total - count)) for count in range(1, total)}
    best = min(uses, key=lambda count: max(uses[count]))
    if best == prefill.workers:
        return f"more workers: no split of {total} evens out better how much they are used"
    at = "at least " if max(prefill.used, decode.used) > _BUSY else ""
    return (
        f"{best}P{total - best}D: by the work done here its prefill workers would be used {at}{uses[best][0]:.0%}, "
        f"its decode workers {at}{uses[best][1]:.0%}"
    )


def _uneven(of_worker: Mapping[str, float], least: float) -> list[tuple[str, float]]:
    """The workers of a role by what each bore, the most first; empty where that is below ``least``, or about the same on all."""
    ranked = sorted(of_worker.items(), key=lambda one: -one[1])
    even = sum(of_worker.values()) / len(ranked) if ranked else 0.0
    return ranked if len(ranked) > 1 and ranked[0][1] > max(_UNEVEN * even, least) else []


def _uses(pressed: Mapping[Role, Pressure]) -> list[str]:
    known = [f"{role.noun} {one.used:.0%}" for role, one in sorted(pressed.items(), reverse=True) if one.used is not None]
    return [f"workers were used: {', '.join(known)}"] if known else []


def _workers(count: int, does: str) -> str:
    return f"{count} worker {does}s" if count == 1 else f"{count} workers {does}"


def _moved(case: Case, stage: Stage) -> str:
    row = case.rows[stage]
    return f"{STAGE_NAMES[stage]} {milliseconds(row.a_s)} → {milliseconds(row.b_s)}"


def _transfers(case: Case) -> list[str]:
    """What the workers counted of transfers, and what that leaves of ``kv_wait``: no span parts the two."""
    moved, took_s, times = (
        sum(filter(None, (total_growth(records.samples, metric, window) for records, window in case.side)))
        for metric in _TRANSFERS
    )
    if not (moved and took_s and times):
        return []
    each_s = took_s / times
    told = [f"a transfer moved {moved / times / 1e6:.1f} MB in {milliseconds(each_s)} ({moved / took_s / 1e9:.2g} GB/s)"]
    if (rest_s := case.rows["kv_wait"].b_s - each_s) > 0:
        told.append(f"the other {milliseconds(rest_s)} of {STAGE_NAMES['kv_wait']} are waiting: for a step, or for room")
    return told


def _most_used(side: Side, source: str) -> float | None:
    """Cores that the busiest process of a kind used on average."""
    found = [
        cores
        for records, window in side
        for name, cores in means(records.samples, "cpu_cores", window).items()
        if name.startswith(source)
    ]
    return max(found, default=None)
