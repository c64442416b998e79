"""From workers to deployments: what so many GPUs give in a split, and the split that gives most under an SLO.

Aggregated: N // tp equal workers, each as projected. Disaggregated, as AIConfigurator composes it: prefill workers hand on
x · r_P · 0.9 requests a second and decode workers take y · r_D · 0.92; the lesser of the two is the rate. TTFT of a prefill
worker counts 1.8 times, for the wait at one that is busy. The transfer of the KV cache is not in it. Every GPU asked for is
counted, idle or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from labkit.errors import InfeasibleSlo, SpecError
from labkit.spec import Role, Slo, Topology
from labkit.spec.topology import Group
from labkit.whatif.workers import DEGREES, WorkerPoint, Workers

#: AIConfigurator's own factors (its ``sdk/sweep.py``, 0.12).
PREFILL_SHARE: Final = 0.9
DECODE_SHARE: Final = 0.92
TTFT_WAIT: Final = 1.8
MOST_GPUS: Final = 1000
NO_LIMITS: Final = Slo(ttft_s=None, tpot_s=None)
_FRONTIER_POINTS: Final = 40


@dataclass(frozen=True, slots=True)
class Projected:
    """One deployment in a steady state: projected, never measured.

    Attributes:
        topology: the split.
        gpus: that were asked for; a few may be idle.
        concurrency: requests in flight, at most: those that the workers which set TPOT hold.
        batch: of each of these.
        ttft_s, tpot_s: of a request.
        request_hz: of the whole deployment.
        osl: tokens of an answer.
        step_tokens: prompt tokens in a step of an aggregated worker; 0 of a disaggregated one.
    """

    topology: Topology
    gpus: int
    concurrency: int
    batch: int
    ttft_s: float
    tpot_s: float
    request_hz: float
    osl: int
    step_tokens: int = 0

    @property
    def tok_s_per_gpu(self) -> float:
        """Output tokens per second and GPU asked for."""
        return self.request_hz * self.osl / self.gpus

    @property
    def tok_s_per_user(self) -> float:
        """1 / TPOT."""
        return 1 / self.tpot_s

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``projected`` marks it for whoever reads it."""
        return {
            "projected": True, "topology": str(self.topology), "gpus": self.gpus, "concurrency": self.concurrency,
            "batch": self.batch, "step_tokens": self.step_tokens, "ttft_s": self.ttft_s, "tpot_s": self.tpot_s,
            "request_hz": self.request_hz, "tok_s_per_gpu": self.tok_s_per_gpu, "tok_s_per_user": self.tok_s_per_user,
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.topology}: projected {self.tok_s_per_gpu:.3g} tok/s/GPU, TPOT {self.tpot_s * 1e3:.3g} ms, "
            f"TTFT {self.ttft_s * 1e3:.3g} ms, {self.concurrency:,} in flight"
        )


def check_gpus(gpus: int) -> int:
    """The number itself; SpecError where it is none that can be projected."""
    if not isinstance(gpus, int) or isinstance(gpus, bool) or not 1 <= gpus <= MOST_GPUS:
        raise SpecError(f"{gpus!r} GPUs cannot be projected", remedy=f"give 1 to {MOST_GPUS:,}")
    return gpus


def best(
    workers: Workers,
    gpus: int,
    slo: Slo,
    *,
    disaggregated: bool,
    tps: Sequence[int] = DEGREES,
    chunked: bool = True,
) -> Projected | None:
    """The split with the most output per GPU within the SLO's TTFT and TPOT; ``None`` where there is none.

    Args:
        workers: as projected.
        gpus: 1 to 1,000.
        slo: without a limit everything is allowed.
        disaggregated: of which kind.
        tps: degrees that workers may have.
        chunked: whether aggregated workers may split prompts over steps.

    Raises:
        SpecError: a number of GPUs that cannot be projected.
    """
    check_gpus(gpus)
    if not disaggregated:
        return max(_aggregated(workers, gpus, slo, tps, chunked), key=_worth, default=None)
    found = max(_disaggregated(workers, gpus, slo, tps), key=_worth, default=None)
    return found and deployment(workers, found.topology, slo, gpus=gpus)


def nearest(
    workers: Workers, gpus: int, slo: Slo, *, disaggregated: bool, tps: Sequence[int] = DEGREES, chunked: bool = True
) -> Projected | None:
    """The deployment that misses the SLO by the smallest factor: of its worse limit, then the one with most output.

    ``None`` where the model fits on none of the workers that so many GPUs could make.
    """
    found: Iterator[Projected]
    if disaggregated:
        found = _disaggregated_all(workers, check_gpus(gpus), tps)
    else:
        found = _aggregated(workers, check_gpus(gpus), NO_LIMITS, tps, chunked)
    return min(found, key=lambda one: (missed_by(one, slo), -one.request_hz), default=None)


def missed_by(one: Projected, slo: Slo) -> float:
    """By which factor a deployment misses the worse of its limits; at most 1 where it meets them."""
    return max(
        [1.0, *(value / limit for value, limit in ((one.ttft_s, slo.ttft_s), (one.tpot_s, slo.tpot_s)) if limit is not None)]
    )


def require(
    workers: Workers, gpus: int, slo: Slo, *, tps: Sequence[int] = DEGREES, chunked: bool = True
) -> tuple[Projected | None, Projected | None]:
    """The best aggregated and the best disaggregated split.

    Raises:
        InfeasibleSlo: neither kind meets the SLO; it names the nearest deployment of each.
    """
    options = {"tps": tps, "chunked": chunked}
    both = tuple(best(workers, gpus, slo, disaggregated=kind, **options) for kind in (False, True))  # type: ignore[arg-type]
    if any(both):
        return both[0], both[1]
    near = [nearest(workers, gpus, slo, disaggregated=kind, **options) for kind in (False, True)]  # type: ignore[arg-type]
    reachable = "; ".join(str(one) for one in sorted(filter(None, near), key=lambda one: missed_by(one, slo)))
    raise InfeasibleSlo(
        f"no split of {gpus:,} GPUs meets {slo} for {workers.setting}",
        remedy=f"nearest: {reachable}"
        if reachable
        else f"take more GPUs: {'; '.join(workers.notes) or 'the model fits on none of these'}",
    )


def frontier(
    workers: Workers, gpus: int, slo: Slo, *, disaggregated: bool, tps: Sequence[int] = DEGREES, chunked: bool = True
) -> tuple[Projected, ...]:
    """Output per GPU against tokens per user: the best split at each of many TPOT targets under one limit of TTFT.

    Args:
        workers, gpus, disaggregated, tps, chunked: as for ``best``.
        slo: its TTFT holds; its TPOT is the loosest target, where it has one.

    Returns:
        Ascending in tokens per user; each gives more output per GPU than any that is faster.
    """
    role = Role.DECODE if disaggregated else Role.AGGREGATED
    known = sorted(point.tpot_s for point in workers.of(role, tps, chunked=chunked))
    if not known:
        return ()
    low, high = known[0], max(known[0], min(known[-1], slo.tpot_s or math.inf))
    targets = [low * (high / low) ** (at / (_FRONTIER_POINTS - 1)) for at in range(_FRONTIER_POINTS)]
    found: dict[tuple[str, float], Projected] = {}
    for target in targets:
        limits = Slo(ttft_s=slo.ttft_s, tpot_s=target * (1 + 1e-9))
        one = best(workers, gpus, limits, disaggregated=disaggregated, tps=tps, chunked=chunked)
        if one is not None:
            found.setdefault((str(one.topology), one.tpot_s), one)
    ordered = sorted(found.values(), key=lambda one: one.tok_s_per_user)
    return tuple(
        one for at, one in enumerate(ordered) if all(other.tok_s_per_gpu < one.tok_s_per_gpu for other in ordered[at + 1 :])
    )


def deployment(
    workers: Workers, topology: Topology, slo: Slo, *, gpus: int | None = None, chunked: bool = True
) -> Projected | None:
    """The most that a given split gives within an SLO; ``None`` where it meets it at no batch.

    Where prefill workers set the rate, decode workers hold no more requests than it needs.

    Args:
        workers, slo, chunked: as for ``best``.
        topology: the split.
        gpus: that are counted; its own by default.

    Raises:
        SpecError: workers of one role that differ in TP.
    """
    groups = {group.role: group for group in topology.groups}
    if len(groups) < len(topology.groups):
        raise SpecError(f"{topology} has workers of one role with different TP", remedy="project each by itself")
    gpus = gpus or topology.accelerators
    if not topology.is_disaggregated:
        a = groups[Role.AGGREGATED]
        options = [
            _of_aggregated(point, a.count, gpus, workers) for point in workers.of(Role.AGGREGATED, (a.tp,), chunked=chunked)
        ]
    else:
        p, d = groups[Role.PREFILL], groups[Role.DECODE]
        options = [
            _of_pair(before, after, p.count, d.count, gpus, workers)
            for before in workers.of(Role.PREFILL, (p.tp,))
            for after in workers.of(Role.DECODE, (d.tp,))
        ]
    return max((one for one in options if _meets(one.ttft_s, one.tpot_s, slo)), key=_worth, default=None)


def _worth(one: Projected) -> tuple[float, float, float]:
    """More output first, then shorter gaps, then an earlier first token."""
    return one.request_hz, -one.tpot_s, -one.ttft_s


def _aggregated(workers: Workers, gpus: int, slo: Slo, tps: Sequence[int], chunked: bool) -> Iterator[Projected]:
    for point in workers.of(Role.AGGREGATED, tps, chunked=chunked):
        if gpus // point.tp and _meets(point.ttft_s, point.tpot_s, slo):
            yield _of_aggregated(point, gpus // point.tp, gpus, workers)


def _disaggregated(workers: Workers, gpus: int, slo: Slo, tps: Sequence[int]) -> Iterator[Projected]:
    """Of each degree only the fastest worker that meets its limit counts: the other limit is the other worker's."""
    prefill = [point for point in workers.of(Role.PREFILL, tps) if _meets(point.ttft_s * TTFT_WAIT, 0.0, slo)]
    decode = [point for point in workers.of(Role.DECODE, tps) if _meets(0.0, point.tpot_s, slo)]
    for before in _fastest(prefill):
        for after in _fastest(decode):
            found = _matched(before, after, gpus, workers)
            if found is not None:
                yield found


def _disaggregated_all(workers: Workers, gpus: int, tps: Sequence[int]) -> Iterator[Projected]:
    for before in workers.of(Role.PREFILL, tps):
        for after in workers.of(Role.DECODE, tps):
            found = _matched(before, after, gpus, workers)
            if found is not None:
                yield found


def _fastest(points: Sequence[WorkerPoint]) -> list[WorkerPoint]:
    return [max((p for p in points if p.tp == tp), key=lambda p: p.request_hz) for tp in sorted({p.tp for p in points})]


def _matched(before: WorkerPoint, after: WorkerPoint, gpus: int, workers: Workers) -> Projected | None:
    """The numbers of workers that hand on and take most: one of the two that enclose the balance, with the pool filled."""
    most = (gpus - after.tp) // before.tp
    if most < 1:
        return None
    per_prefill, per_decode = before.request_hz * PREFILL_SHARE, after.request_hz * DECODE_SHARE
    # x · r_P = y · r_D with x · tp_P + y · tp_D = N
    balance = gpus * per_decode / (per_decode * before.tp + per_prefill * after.tp)
    tried = {min(max(x, 1), most) for x in range(math.floor(balance) - after.tp, math.ceil(balance) + after.tp + 1)}
    counts = [(x, (gpus - x * before.tp) // after.tp) for x in tried]
    x, y = max(counts, key=lambda pair: (min(pair[0] * per_prefill, pair[1] * per_decode), -pair[0]))
    return _of_pair(before, after, x, y, gpus, workers)


def _of_aggregated(point: WorkerPoint, count: int, gpus: int, workers: Workers) -> Projected:
    return Projected(
        Topology([Group(count, Role.AGGREGATED, point.tp)]), gpus, point.batch * count, point.batch, point.ttft_s, point.tpot_s,
        point.request_hz * count, workers.setting.osl, point.step_tokens,
    )  # fmt: skip


def _of_pair(before: WorkerPoint, after: WorkerPoint, x: int, y: int, gpus: int, workers: Workers) -> Projected:
    rate = min(x * before.request_hz * PREFILL_SHARE, y * after.request_hz * DECODE_SHARE)
    split = Topology([Group(x, Role.PREFILL, before.tp), Group(y, Role.DECODE, after.tp)])
    return Projected(
        split, gpus, after.batch * y, after.batch, before.ttft_s * TTFT_WAIT, after.tpot_s, rate, workers.setting.osl
    )


def _meets(ttft_s: float, tpot_s: float, slo: Slo) -> bool:
    return (slo.ttft_s is None or ttft_s <= slo.ttft_s) and (slo.tpot_s is None or tpot_s <= slo.tpot_s)
