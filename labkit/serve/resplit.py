"""What a change of a deployment did, and when."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.serve.engines.base import Plan
from labkit.serve.proof import RoleProof
from labkit.spec import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Resplit:
    """What a re-split did. Durations are seconds from the call.

    Attributes:
        before, after: the splits.
        url: where clients other than the lab's own load send requests now.
        plan: what was said before it was done.
        called_ns: instant of the call.
        switched_s: the new router takes the requests.
        ready_s: workers that had to be started were ready and had met the others; ``None`` where none had.
        drained_s: the last client has left the old router, or the last request the workers that end where the router stays;
            ``None`` where some were left at the time limit. The proof may then show their requests too.
        proven_s: the counters show the new roles.
        proof: what each worker did on the new split.
    """

    before: Topology
    after: Topology
    url: str
    plan: Plan
    called_ns: int
    ready_s: float | None
    switched_s: float
    drained_s: float | None
    proven_s: float
    proof: tuple[RoleProof, ...]

    def __str__(self) -> str:
        old = " and ".join(self.plan.ends) if self.plan.router_stays else "old router"
        drained = f"{old} drained after {self.drained_s:.1f} s" if self.drained_s is not None else f"{old} not drained"
        ready = f"workers ready after {self.ready_s:.1f} s, " if self.ready_s is not None else ""
        head = f"{self.before} → {self.after}: {ready}new split took requests after {self.switched_s:.2f} s"
        head += f", {drained}" if old else ""
        return "\n".join([head, *(f"  {row}" for row in self.proof), f"  other clients: use {self.url} from now on"])

    __repr__ = __str__
