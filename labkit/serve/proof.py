"""Whether a split took effect: what each worker did, held against what its role says it should do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labkit.serve.counters import Counters
from labkit.spec import Role

_IN_FLIGHT = 2.0  # requests whose end and whose tokens fall on different sides of a reading


@dataclass(frozen=True, slots=True)
class RoleProof:
    """One worker's work since the split, and what contradicts its role.

    Attributes:
        did: its counters since the split took over.
        against: why this is not the work of its role; ``None`` where it is.
    """

    worker: str
    role: Role
    did: Counters
    against: str | None

    def __str__(self) -> str:
        parts = [
            f"{value:,.0f} {noun}"
            for value, noun in (
                (self.did.prompt_computed, "prompt tokens computed"),
                (self.did.prompt_received, "received"),
                (self.did.generated, "tokens generated"),
                (self.did.kv_bytes, "KV bytes received"),
            )
            if value is not None
        ]
        return f"{self.worker} {self.role.noun}: " + ", ".join(parts) + (f"  ✗ {self.against}" if self.against else "  ✓")


def prove(roles: Mapping[str, Role], before: Mapping[str, Counters], after: Mapping[str, Counters]) -> tuple[RoleProof, ...]:
    """Hold every worker's counters against its role.

    Aggregated: computes prompts, generates, receives nothing. Prefill: computes prompts, generates one token a request,
    receives nothing. Decode: receives KV cache, generates, computes fewer prompt tokens than it receives.
    """
    proofs = []
    for worker, role in roles.items():
        did = after[worker] - before[worker]
        proofs.append(RoleProof(worker, role, did, _contradiction(role, did)))
    return tuple(proofs)


def _contradiction(role: Role, did: Counters) -> str | None:
    generated, requests, received = did.generated or 0.0, did.requests or 0.0, did.kv_bytes or 0.0
    if generated == 0:
        return "it served no request"
    if role is Role.DECODE:
        if received == 0 and did.kv_bytes is not None:  # a simulated one moves none
            return "it received no KV cache"
        if did.prompt_computed is not None and did.prompt_computed > (did.prompt_received or 0.0):
            return "it computed prompts itself"
        return None
    if received > 0 or (did.prompt_received or 0.0) > 0:
        return "it received KV cache from another worker"
    if did.prompt_computed == 0:
        return "it computed no prompt"
    if role is Role.PREFILL and generated > requests + _IN_FLIGHT:
        return "it generated more than the first token of its requests"
    if role is Role.AGGREGATED and requests > 0 and generated <= requests:
        return "it generated only first tokens"
    return None
