"""The published claims that need other GPUs than most have, recomputed: each place a projection, with its limits stated.

The claims' own conditions: R1-Distill-Llama-70B in FP8 (a Llama 70B), ISL 3000, OSL 150, no prefix cache, compared at equal token
latency on one and on two nodes of eight H100; gpt-oss-120b as 1P@tp4+1D@tp4. The claims name no limit of TTFT, and everything
hangs on it: so there are several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from labkit.errors import ProjectionError
from labkit.spec import Slo, Topology
from labkit.whatif.projected import Projected, deployment
from labkit.whatif.winning import Ask, Best, Duel, duel, met
from labkit.whatif.workers import Setting

ISL, OSL = 3000, 150
LLAMA: Final = "llama-3.1-70b-fp8"
GPT_OSS: Final = "gpt-oss-120b"
ONE_AND_ONE: Final = Topology("1P@tp4+1D@tp4")
OTHERS: Final = (Topology("1A@tp8"), Topology("2A@tp4"), Topology("8A"))
#: From small to large: dense models of one family, in one precision.
SIZES: Final = (("llama-3.1-8b-fp8", 8.0), ("llama-3.1-70b-fp8", 70.6))
#: The GPU and the engine that the claims are of.
CLAIMED_ON: Final = ("h100_sxm", "vllm")
TPOTS_S: Final = (0.010, 0.015, 0.020, 0.030, 0.050)
TTFTS_S: Final = (0.2, 0.5, 1.0)
#: What the claims promise, as a ratio of output per GPU: at least that much on one node, and more than that elsewhere.
WANTED: Final[Mapping[str, float]] = {"one_node": 1.3, "two_nodes": 2.0, "gpt_oss": 1.0}
_GPUS: Final = {"one_node": 8, "two_nodes": 16}


@dataclass(frozen=True, slots=True)
class ClaimedPlace:
    """What a projection says of a claim in one place.

    Attributes:
        claim: its key in the report.
        model, system, engine: that were projected; the claims are of ``CLAIMED_ON``.
        slo: the limits that both kinds met.
        aggregated, disaggregated: the deployments; ``None`` where none meets the limits, or none was projected.
        named: which splits were asked for by name; empty where each kind's best was.
        holds: whether the claim does here; ``None`` where it cannot be told.
        short: the gain, for a cell of a table.
        words: the numbers, projected.
        smaller: the gain of the smaller model, where sizes are held against each other.
        unknown: which kind was not projected, and why; empty where both were.
    """

    claim: str
    model: str
    system: str
    engine: str
    slo: Slo
    aggregated: Projected | None
    disaggregated: Projected | None
    named: str
    holds: bool | None
    short: str
    words: str
    smaller: float | None = None
    unknown: str = ""

    @property
    def where(self) -> str:
        """Model, GPU, splits and limits, short."""
        return f"{self.model} on {self.system}, {self.named + ', ' if self.named else ''}{self.slo}"

    @property
    def models(self) -> tuple[str, ...]:
        """All that its numbers are of."""
        return (self.model,) if self.claim != "large_models" else tuple(model for model, _ in SIZES)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with what tells this place from others as ``facts``."""
        both = {
            kind: one and one.to_dict() for kind, one in (("aggregated", self.aggregated), ("disaggregated", self.disaggregated))
        }
        limits = {"TPOT limit": self.slo.tpot_s, "TTFT limit": self.slo.ttft_s}
        facts = {"model": self.model, "GPU": self.system, "engine": self.engine}
        facts |= {name: f"{limit * 1e3:g} ms" for name, limit in limits.items() if limit is not None}
        if self.named and self.aggregated is not None:
            facts["against"] = str(self.aggregated.topology)
        place = {"projected": True, "claim": self.claim, "where": self.where, "holds": self.holds, "words": self.words}
        return {**place, "facts": facts, **both}


def claimed_places(
    ask: Ask,
    *,
    system: str = CLAIMED_ON[0],
    engine: str = CLAIMED_ON[1],
    ttfts_s: Sequence[float] = TTFTS_S,
    tpots_s: Sequence[float] = TPOTS_S,
) -> tuple[ClaimedPlace, ...]:
    """Every place of every claim that can be projected; a model without data has none.

    Args:
        ask: what says what workers do.
        system, engine: to recompute them on.
        ttfts_s, tpots_s: limits.
    """
    limits = [Slo(ttft_s=ttft, tpot_s=tpot) for ttft in ttfts_s for tpot in tpots_s]
    setting = Setting(model=LLAMA, system=system, engine=engine, isl=ISL, osl=OSL)
    found: list[ClaimedPlace] = []
    for places in (
        _llama(ask, setting, limits),
        _gpt_oss(ask, replace(setting, model=GPT_OSS), limits),
        _sizes(ask, setting, limits),
    ):
        try:
            found += list(places)
        except ProjectionError:  # of this model alone
            continue
    return tuple(found)


def _llama(ask: Ask, setting: Setting, limits: Sequence[Slo]) -> Iterator[ClaimedPlace]:
    workers = ask(setting)
    for claim, gpus in _GPUS.items():
        for slo in limits:
            yield _place(claim, setting, slo, duel(workers, gpus, slo), f"best splits of {gpus} GPUs")


def _gpt_oss(ask: Ask, setting: Setting, limits: Sequence[Slo]) -> Iterator[ClaimedPlace]:
    workers = ask(setting)
    for slo in limits:
        for other in OTHERS:
            found = met(workers, slo, _of(other), _of(ONE_AND_ONE))
            yield _place("gpt_oss", setting, slo, found, f"{ONE_AND_ONE} against {other}")


def _of(split: Topology) -> Best:
    return lambda workers, slo: deployment(workers, split, slo)


def _sizes(ask: Ask, setting: Setting, limits: Sequence[Slo]) -> Iterator[ClaimedPlace]:
    """A larger model gains more than a smaller one; where either has no gain there is nothing to say."""
    (small, small_b), (large, large_b) = SIZES[0], SIZES[-1]
    fewer, more = (ask(replace(setting, model=model)) for model in (small, large))
    for slo in limits:
        lesser, greater = duel(fewer, 8, slo), duel(more, 8, slo)
        holds = None if lesser.gain is None or greater.gain is None else greater.gain > lesser.gain
        words = f"projected: {large_b:g}B gains {_times(greater)}, {small_b:g}B {_times(lesser)}"
        named, short = f"{large_b:g}B / {small_b:g}B on 8 GPUs", f"{_short(greater)} / {_short(lesser)}"
        both = greater.aggregated, greater.disaggregated
        unknown = greater.why_unknown or lesser.why_unknown
        where = large, setting.system, setting.engine
        yield ClaimedPlace("large_models", *where, slo, *both, named, holds, short, words, lesser.gain, unknown)


def _place(claim: str, setting: Setting, slo: Slo, found: Duel, named: str) -> ClaimedPlace:
    wanted, a, d = WANTED[claim], found.aggregated, found.disaggregated
    holds = None if found.gain is None else found.gain >= wanted if claim == "one_node" else found.gain > wanted
    if a is not None and d is None and not found.unknown:
        holds = False  # what the claim promises cannot be had, and the other can
    sides = " against ".join(
        str(one) if one else f"no {kind} split"
        for kind, one in (("disaggregated", d), ("aggregated", a))
        if kind not in found.unknown
    )
    words = ": ".join(text for text in (_times(found), sides) if text)
    return ClaimedPlace(
        claim, setting.model, setting.system, setting.engine, slo, a, d, named, holds, _short(found), words,
        unknown=found.why_unknown,
    )  # fmt: skip


def _short(found: Duel) -> str:
    if found.gain is not None:
        return f"{found.gain:.2f}"
    return {"disaggregated": "D only", "aggregated": "A only", "unknown": "?"}.get(found.winner, "–")


def _times(found: Duel) -> str:
    if found.gain is not None:
        return f"{found.gain:.2f} times"
    if found.why_unknown:
        return f"gain unknown ({found.why_unknown})"
    only = "disaggregated" if found.disaggregated else "aggregated" if found.aggregated else ""
    return f"only {only} meets the limits" if only else "neither kind meets the limits"
