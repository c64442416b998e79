"""The what-if of notebook 05: one question, its frontiers, maps and claims, with the error beside; kept as a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from labkit.errors import InfeasibleSlo, ProjectionError, SpecError, StoreError
from labkit.serve.models import shape_config
from labkit.spec import Model, Slo
from labkit.spec.architecture import kv_bytes_per_token
from labkit.store.run import Run, list_runs, new_run, open_run, results_folder
from labkit.whatif.aiconfigurator import AIConfigurator
from labkit.whatif.calibration import Calibration, NoCalibration, calibrate
from labkit.whatif.claimed import ClaimedPlace, claimed_places
from labkit.whatif.kept import KIND, SIMULATION, Remembering, kept_workers
from labkit.whatif.observed import observations_of
from labkit.whatif.projected import Projected, check_gpus, frontier, require
from labkit.whatif.winning import Ask, Duel, WinningMap, duel, map_of_lengths, map_of_limits, map_of_models
from labkit.whatif.words import whatif_text
from labkit.whatif.workers import DEGREES, Estimator, Setting, Workers

#: Of a run's manifest: what was projected.
KEY: Final = "projected"
#: Grids of the maps.
ISLS: Final = (256, 512, 1024, 2048, 4096, 8192, 16384)
OSLS: Final = (32, 128, 512, 2048)
TTFTS_S: Final = (0.2, 0.3, 0.5, 1.0, 2.0, 4.0)
TPOTS_S: Final = (0.005, 0.0075, 0.010, 0.015, 0.020, 0.030, 0.050, 0.100)
MODELS: Final = ("qwen3-0.6b", "llama-3.1-8b-fp8", "gpt-oss-20b", "llama-3.1-70b-fp8", "gpt-oss-120b")
_NO_RUNS: Final = frozenset({KIND, SIMULATION, "report", "explore"})


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        setting: model, GPU, engine, lengths.
        gpus: 1 to 1,000.
        slo: limits of TTFT and TPOT.
        tps: degrees that workers may have.
        isls, osls, ttfts_s, tpots_s, models: grids of the maps; an empty one leaves its map out.
        claims: whether the published claims are recomputed.

    Raises:
        SpecError: GPUs or degrees that cannot be projected.
    """

    setting: Setting
    gpus: int
    slo: Slo
    tps: tuple[int, ...] = DEGREES
    isls: tuple[int, ...] = ISLS
    osls: tuple[int, ...] = OSLS
    ttfts_s: tuple[float, ...] = TTFTS_S
    tpots_s: tuple[float, ...] = TPOTS_S
    models: tuple[str, ...] = MODELS
    claims: bool = True

    def __post_init__(self) -> None:
        check_gpus(self.gpus)
        if not self.tps or set(self.tps) - set(DEGREES):
            raise SpecError(f"TP degrees {self.tps!r} cannot be projected", remedy=f"use some of {', '.join(map(str, DEGREES))}")
        for name in ("isls", "osls", "ttfts_s", "tpots_s"):
            if any(not isinstance(value, int | float) or value <= 0 for value in getattr(self, name)):
                raise SpecError(f"{name} = {getattr(self, name)!r} is no grid", remedy="give positive numbers")
        for model in self.models:
            Model(model)

    @classmethod
    def of(
        cls,
        model: str,
        *,
        engine: str = "vllm",
        system: str = "h100_sxm",
        gpus: int = 8,
        isl: int,
        osl: int,
        ttft_s: float | None = None,
        tpot_s: float | None = None,
        **grids: Any,
    ) -> Question:
        """A question in plain values, as a notebook has them; ``grids`` are the other attributes, ``None`` for the default."""
        setting = Setting(model=Model(model).source, system=system, engine=engine, isl=isl, osl=osl)
        given: dict[str, Any] = {name: value for name, value in grids.items() if value is not None}
        given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return cls(setting, gpus, Slo(ttft_s=ttft_s, tpot_s=tpot_s), **given)

    def __str__(self) -> str:
        return f"{self.setting}; {self.gpus:,} GPUs; {self.slo}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Question:
        """What ``to_dict`` made."""
        rest: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
        return cls(Setting(**rest.pop("setting")), rest.pop("gpus"), Slo(**rest.pop("slo")), **rest)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What was projected. Every number in it is a projection.

    Attributes:
        question: what was asked.
        source: who said so.
        error: how far off it is known to be, or why that is not known.
        aggregated, disaggregated: the best split of each kind under the SLO; ``None`` where it has none, or none was projected.
        infeasible: where neither has one: what would be nearest.
        frontiers: aggregated and disaggregated, over all limits of TPOT, under the SLO's limit of TTFT.
        along: the best of each kind at each limit of TPOT, with the SLO's limit of TTFT.
        maps: where disaggregation wins.
        claims: the published ones, recomputed.
        kv_bytes: that one request moves from prefill to decode, which the projection does not count; ``None`` where unknown.
        notes: what is missing.
        unknown: kind → why none of its splits was projected.
    """

    question: Question
    source: str
    error: Calibration | NoCalibration
    aggregated: Projected | None
    disaggregated: Projected | None
    infeasible: str
    frontiers: tuple[tuple[Projected, ...], tuple[Projected, ...]]
    along: tuple[Duel, ...]
    maps: tuple[WinningMap, ...]
    claims: tuple[ClaimedPlace, ...]
    kv_bytes: int | None
    notes: tuple[str, ...]
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def met(self) -> Duel:
        """The two best splits, held against each other."""
        return Duel("", "", self.aggregated, self.disaggregated, unknown=self.unknown)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "projected": True, "question": self.question.to_dict(), "source": self.source, "error": self.error.to_dict(),
            "error_words": self.error.words_of(self.question.setting.model),
            "best": self.met.to_dict(), "infeasible": self.infeasible,
            "frontiers": {kind: [one.to_dict() for one in found]
                          for kind, found in zip(("aggregated", "disaggregated"), self.frontiers, strict=True)},
            "maps": [one.to_dict() for one in self.maps],
            "claims": [{**one.to_dict(), "error_words": self.error.words_of(*one.models)} for one in self.claims],
            "kv_bytes": self.kv_bytes, "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        return whatif_text(self)

    __repr__ = __str__


def project(question: Question, ask: Ask, error: Calibration | NoCalibration, *, tell: Callable[[str], None] = print) -> WhatIf:
    """Answer a question; pure but for what it asks.

    Args:
        question: what is asked.
        ask: what workers do, uncorrected.
        error: corrects it, and refuses what is beyond its range.
        tell: gets a line as each part begins.

    Raises:
        ProjectionError: the question's own setting cannot be projected, or is beyond the calibrated range.
    """

    def corrected(setting: Setting) -> Workers:
        return error.applied(ask(setting))

    gpus, slo, tps, setting = question.gpus, question.slo, question.tps, question.setting
    workers, infeasible = corrected(setting), ""
    met = duel(workers, gpus, slo, tps=tps)
    try:
        require(workers, gpus, slo, tps=tps)
    except InfeasibleSlo as missed:
        infeasible = "" if met.unknown else f"{missed.what}; {missed.remedy}"
    limits = [Slo(ttft_s=slo.ttft_s, tpot_s=tpot) for tpot in question.tpots_s]
    first = Slo(ttft_s=slo.ttft_s, tpot_s=None)
    maps: list[WinningMap] = []
    if question.tpots_s and question.ttfts_s:
        maps.append(map_of_limits(workers, gpus, question.ttfts_s, question.tpots_s, tps=tps))
    if question.isls and question.osls:
        tell(f"lengths: {len(question.isls) * len(question.osls)} of prompt and answer")
        maps.append(map_of_lengths(corrected, setting, gpus, slo, question.isls, question.osls, tps=tps))
    if question.models and question.tpots_s:
        tell(f"models: {', '.join(question.models)}")
        maps.append(map_of_models(corrected, setting, gpus, slo, question.models, question.tpots_s, tps=tps))
    if question.claims:
        tell("claims: Llama 70B on 8 and 16 GPUs, gpt-oss-120b on 8")
    return WhatIf(
        question=question,
        source=workers.source,
        error=error,
        aggregated=met.aggregated,
        disaggregated=met.disaggregated,
        infeasible=infeasible,
        frontiers=(
            frontier(workers, gpus, first, disaggregated=False, tps=tps),
            frontier(workers, gpus, first, disaggregated=True, tps=tps),
        ),
        along=tuple(duel(workers, gpus, one, x=f"{(one.tpot_s or 0) * 1e3:g}", tps=tps) for one in limits),
        maps=tuple(maps),
        claims=claimed_places(corrected, system=setting.system, engine=setting.engine) if question.claims else (),
        kv_bytes=_kv_bytes(setting),
        notes=workers.notes,
        unknown=met.unknown,
    )


def ask_whatif(
    question: Question,
    *,
    runs: Sequence[str] | None = None,
    held_out: Sequence[str] | None = None,
    extrapolate: bool = False,
    results: Path | str | None = None,
    estimator: Estimator | None = None,
    tell: Callable[[str], None] = print,
) -> tuple[Run, WhatIf]:
    """Project, calibrate by the user's own runs, and keep the answer as a run.

    Args:
        question: what is asked.
        runs: ids of measured runs to calibrate by; every one of the results folder by default.
        held_out: of these, which to judge by; each in turn by default.
        extrapolate: allow projections outside of what was measured.
        results: the folder that runs live in; ``LABKIT_RESULTS`` or ``results`` by default.
        estimator: the model of performance; AIConfigurator by default.
        tell: gets a line as each part begins.

    Raises:
        ProjectionError: AIConfigurator is not installed or has no data, or the question is beyond the calibrated range.
        StoreError: a run that was named is not there.
    """
    folder = results_folder(results)
    known = Remembering(estimator or AIConfigurator(), folder)
    measured = [open_run(name, folder) for name in runs] if runs is not None else _measured(folder)
    left_out: list[str] = []
    tell(f"calibration: {len(measured)} measured runs")
    error = calibrate(
        observations_of(measured, left_out), known.workers, held_out=held_out, extrapolate=extrapolate, left_out=left_out
    )  # fmt: skip
    found = project(question, known.workers, error, tell=tell)
    run = new_run(folder, None, _manifest(question))
    known.keep(run)
    run.update(**{KEY: found.to_dict(), "answer": str(found), "not_calibrated_by": left_out})
    run.write_summary({"verdict": str(found)})
    run.finish()
    return run, found


def reopened(run: Run) -> WhatIf:
    """What a run projected, composed again from the workers that it kept; nothing is asked.

    Raises:
        StoreError: the run holds no projection, or its files are damaged.
    """
    try:
        kept = run.manifest[KEY]
        workers = kept_workers(run)
        error: Calibration | NoCalibration
        error = NoCalibration(kept["error"]["none"]) if "none" in kept["error"] else Calibration.from_dict(kept["error"])
        question = Question.from_dict(kept["question"])
    except (KeyError, TypeError, ValueError) as problem:
        raise StoreError(
            f"run {run.id} holds no whole projection: {problem!r}", remedy="make one with notebook 05_scale_out"
        ) from problem
    return project(question, partial(_recall, workers), error, tell=lambda text: None)


def _recall(known: Mapping[Setting, Workers], setting: Setting) -> Workers:
    if setting not in known:
        raise ProjectionError(f"{setting} was not projected then", remedy="run notebook 05_scale_out again")
    return known[setting]


def _measured(folder: Path) -> list[Run]:
    infos = [info for info in list_runs(folder) if info.kind not in _NO_RUNS and info.status == "finished" and info.measurements]
    return [open_run(info.path) for info in reversed(infos)]


def _manifest(question: Question) -> dict[str, Any]:
    setting = question.setting
    return {
        "kind": KIND,
        "engine": f"projected ({setting.engine})",
        "hardware": {"summary": f"{question.gpus:,} × {setting.system}, projected, not measured"},
        "model": {"source": setting.model, "name": Model(setting.model).name},
        "slo": asdict(question.slo),
    }


def _kv_bytes(setting: Setting) -> int | None:
    """Of one prompt, over all layers and ranks, in 16 bits; a hub id's config is not at hand."""
    if Model(setting.model).kind != "shape":
        return None
    return setting.isl * kv_bytes_per_token(shape_config(setting.model))
