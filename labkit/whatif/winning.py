"""Where disaggregation wins: the best disaggregated split over the best aggregated one, over two things that vary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from labkit.errors import ProjectionError
from labkit.spec import Slo
from labkit.whatif.projected import NO_LIMITS, Projected, best
from labkit.whatif.workers import DEGREES, KINDS, Setting, Workers

#: Gains between 1 / this and this are called equal: a model of performance does not tell them apart.
EVEN: Final = 1.05

Ask = Callable[[Setting], Workers]
#: The best of some splits under an SLO.
Best = Callable[[Workers, Slo], Projected | None]
#: What ``Duel.winner`` may be.
WINNERS: Final = ("disaggregated", "aggregated", "even", "neither", "unknown")


@dataclass(frozen=True, slots=True)
class Duel:
    """The best split of each kind in one place; ``None`` where no split of the kind meets the SLO, or none was projected.

    Attributes:
        x, y: the place, in the words of the map's axes.
        aggregated, disaggregated: the best of each kind.
        reason: why nothing was projected here.
        unknown: kind → why it was not projected: beyond what was measured, it may well meet the SLO.
    """

    x: str
    y: str
    aggregated: Projected | None
    disaggregated: Projected | None
    reason: str = ""
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def gain(self) -> float | None:
        """Output per GPU, disaggregated over aggregated; ``None`` unless both are there."""
        if self.aggregated is None or self.disaggregated is None:
            return None
        return self.disaggregated.tok_s_per_gpu / self.aggregated.tok_s_per_gpu

    @property
    def winner(self) -> str:
        """One of ``WINNERS``. ``neither``: no split meets the SLO here; ``unknown``: a kind was not projected."""
        if self.reason or self.unknown:
            return "unknown"
        gain = self.gain
        if gain is not None:
            return "disaggregated" if gain >= EVEN else "aggregated" if gain < 1 / EVEN else "even"
        return "disaggregated" if self.disaggregated else "aggregated" if self.aggregated else "neither"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        both = {
            kind: one and one.to_dict() for kind, one in (("aggregated", self.aggregated), ("disaggregated", self.disaggregated))
        }
        place = {"x": self.x, "y": self.y, "winner": self.winner, "gain": self.gain}
        return {**place, "reason": self.reason, "unknown": dict(self.unknown), **both}

    @property
    def why_unknown(self) -> str:
        """What was not projected, and why, in a sentence; empty where all was."""
        told = [f"{kind} not projected: {why}" for kind, why in self.unknown.items()]
        return "; ".join([f"not projected: {self.reason}"] if self.reason else told)


@dataclass(frozen=True, slots=True)
class WinningMap:
    """A grid of duels, row by row.

    Attributes:
        name: file stem: ``lengths``, ``limits``, ``models``.
        x_label, y_label: what varies, with its unit.
        xs, ys: places in their order.
        duels: ``len(xs) · len(ys)``, x fastest.
        fixed: what does not vary, in words.
    """

    name: str
    x_label: str
    y_label: str
    xs: tuple[str, ...]
    ys: tuple[str, ...]
    duels: tuple[Duel, ...]
    fixed: str

    def count(self, winner: str) -> int:
        """Places with this winner."""
        return sum(duel.winner == winner for duel in self.duels)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "projected": True, "name": self.name, "x_label": self.x_label, "y_label": self.y_label, "xs": list(self.xs),
            "ys": list(self.ys), "fixed": self.fixed, "duels": [duel.to_dict() for duel in self.duels],
        }  # fmt: skip


def duel(workers: Workers, gpus: int, slo: Slo, *, x: str = "", y: str = "", tps: Sequence[int] = DEGREES) -> Duel:
    """The best split of each kind under an SLO."""

    def best_of(kind: str) -> Best:
        return lambda among, limits: best(among, gpus, limits, disaggregated=kind == KINDS[1], tps=tps)

    return met(workers, slo, *map(best_of, KINDS), x=x, y=y)


def met(workers: Workers, slo: Slo, aggregated: Best, disaggregated: Best, *, x: str = "", y: str = "") -> Duel:
    """The best of some aggregated and of some disaggregated splits; a kind that has none here may be unknown."""
    a, d = aggregated(workers, slo), disaggregated(workers, slo)
    unknown = {
        kind: why
        for kind, one, find in zip(KINDS, (a, d), (aggregated, disaggregated), strict=True)
        if one is None and (why := _not_projected(workers, kind, slo, find))
    }
    return Duel(x, y, a, d, unknown=unknown)


def _not_projected(workers: Workers, kind: str, slo: Slo, find: Best) -> str:
    """Why nobody can say that no split of a kind meets the SLO: what a calibration left out may. Empty where it can be said."""
    gone = workers.beyond.get(kind)
    if gone is None:
        return ""
    whole = replace(workers, points=(*workers.points, *gone.points))
    if not gone.measured or find(workers, NO_LIMITS) is None:  # none of these splits was projected
        return gone.reason if find(whole, NO_LIMITS) is not None else ""
    return gone.reason if find(whole, slo) is not None else ""


def map_of_lengths(
    ask: Ask, setting: Setting, gpus: int, slo: Slo, isls: Sequence[int], osls: Sequence[int], *, tps: Sequence[int] = DEGREES
) -> WinningMap:
    """Over prompt and answer lengths, under one SLO. A length that cannot be projected is a place with a reason."""
    duels = []
    for osl in osls:
        for isl in isls:
            x, y = str(isl), str(osl)
            try:
                duels.append(duel(ask(replace(setting, isl=isl, osl=osl)), gpus, slo, x=x, y=y, tps=tps))
            except ProjectionError as error:
                duels.append(Duel(x, y, None, None, error.what))
    fixed = f"{setting.model} on {gpus:,} × {setting.system}, {slo}"
    return WinningMap("lengths", "ISL (tokens)", "OSL (tokens)", _texts(isls), _texts(osls), tuple(duels), fixed)


def map_of_limits(
    workers: Workers, gpus: int, ttfts_s: Sequence[float], tpots_s: Sequence[float], *, tps: Sequence[int] = DEGREES
) -> WinningMap:
    """Over the limits of TPOT and TTFT, for one length of prompt and answer."""
    duels = [
        duel(workers, gpus, Slo(ttft_s=ttft, tpot_s=tpot), x=_ms(tpot), y=_ms(ttft), tps=tps)
        for ttft in ttfts_s
        for tpot in tpots_s
    ]
    asked = workers.setting
    fixed = f"{asked.model} on {gpus:,} × {asked.system}, ISL {asked.isl}, OSL {asked.osl}"
    return WinningMap(
        "limits", "TPOT limit (ms)", "TTFT limit (ms)", tuple(map(_ms, tpots_s)), tuple(map(_ms, ttfts_s)), tuple(duels), fixed
    )


def map_of_models(
    ask: Ask,
    setting: Setting,
    gpus: int,
    slo: Slo,
    models: Sequence[str],
    tpots_s: Sequence[float],
    *,
    tps: Sequence[int] = DEGREES,
) -> WinningMap:
    """Over models, from small to large as they are given, and the limit of TPOT."""
    duels = []
    for model in models:
        try:
            workers, reason = ask(replace(setting, model=model)), ""
        except ProjectionError as error:
            workers, reason = None, error.what
        for tpot in tpots_s:
            limits = replace(slo, tpot_s=tpot)
            duels.append(
                Duel(_ms(tpot), model, None, None, reason)
                if workers is None
                else duel(workers, gpus, limits, x=_ms(tpot), y=model, tps=tps)
            )
    limit = f"TTFT ≤ {_ms(slo.ttft_s)} ms" if slo.ttft_s else "no limit of TTFT"
    fixed = f"{gpus:,} × {setting.system}, ISL {setting.isl}, OSL {setting.osl}, {limit}"
    return WinningMap("models", "TPOT limit (ms)", "model", tuple(map(_ms, tpots_s)), tuple(models), tuple(duels), fixed)


def _texts(values: Sequence[int]) -> tuple[str, ...]:
    return tuple(map(str, values))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:g}"
