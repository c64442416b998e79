"""Where disaggregation wins: the best disaggregated split over the best aggregated one, over two things that vary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from labkit.errors import ProjectionError
from labkit.spec import Slo
from labkit.whatif.projected import Projected, best
from labkit.whatif.workers import DEGREES, Setting, Workers

#: Gains between 1 / this and this are called equal: a model of performance does not tell them apart.
EVEN: Final = 1.05

Ask = Callable[[Setting], Workers]


@dataclass(frozen=True, slots=True)
class Duel:
    """The best split of each kind in one place; ``None`` where no split of the kind meets the SLO.

    Attributes:
        x, y: the place, in the words of the map's axes.
        aggregated, disaggregated: the best of each kind.
        reason: why neither is there, where it is not the SLO.
    """

    x: str
    y: str
    aggregated: Projected | None
    disaggregated: Projected | None
    reason: str = ""

    @property
    def gain(self) -> float | None:
        """Output per GPU, disaggregated over aggregated; ``None`` unless both are there."""
        if self.aggregated is None or self.disaggregated is None:
            return None
        return self.disaggregated.tok_s_per_gpu / self.aggregated.tok_s_per_gpu

    @property
    def winner(self) -> str:
        """``disaggregated``, ``aggregated``, ``even``, or ``neither``: no split meets the SLO here."""
        gain = self.gain
        if gain is not None:
            return "disaggregated" if gain >= EVEN else "aggregated" if gain < 1 / EVEN else "even"
        return "disaggregated" if self.disaggregated else "aggregated" if self.aggregated else "neither"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        both = {
            kind: one and one.to_dict() for kind, one in (("aggregated", self.aggregated), ("disaggregated", self.disaggregated))
        }
        return {"x": self.x, "y": self.y, "winner": self.winner, "gain": self.gain, "reason": self.reason, **both}


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
    a, d = (best(workers, gpus, slo, disaggregated=kind, tps=tps) for kind in (False, True))
    return Duel(x, y, a, d)


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
