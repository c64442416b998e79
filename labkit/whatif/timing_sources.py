"""Where simulated workers' times may come from: estimates for a GPU, the user's own measured runs, a folder of saved profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from labkit.errors import ProjectionError, SpecError, StoreError
from labkit.serve.timing import TimingProfile, load_timing
from labkit.spec import Model, Workload
from labkit.spec.lengths import Lengths
from labkit.store.run import Run, open_run
from labkit.whatif.observed import SYSTEMS
from labkit.whatif.timing_estimates import StepEstimator, timing_from_estimates
from labkit.whatif.timing_runs import measured_on, timing_from_runs

#: What a notebook's ``timing`` may be, for whoever gives nothing or something else.
WAYS: Final = (
    "give timing a GPU's name for AIConfigurator's estimates (h100_sxm), the name of a measured run or a list of them, "
    "or a folder of saved profiles (labkit.serve.timing.save_timing)"
)
_USUAL_LONGEST: Final = 8192


class TimingSource(Protocol):
    """One of the three."""

    @property
    def gpu(self) -> str:
        """What is pretended: ``h100_sxm``; ``CPU core``."""
        ...

    @property
    def model(self) -> str | None:
        """Whose times these are; ``None`` where they can be had for any model."""
        ...

    def lengths(self, suggested: Workload) -> Mapping[str, Any]:
        """``isl`` and ``osl`` to ask for, where those that are suggested lie outside of what is known."""
        ...

    def profiles(self, model: Model, tps: Sequence[int], workload: Workload) -> tuple[list[TimingProfile], list[str]]:
        """A profile of each TP degree, and what a reader must know beside; LabError where one cannot be had."""
        ...


@dataclass(frozen=True, slots=True)
class Estimated:
    """AIConfigurator's steps of a GPU.

    Attributes:
        gpu: as AIConfigurator calls it.
        estimator: another one, for tests.
    """

    gpu: str
    estimator: StepEstimator | None = None

    @property
    def model(self) -> str | None:
        """Any that AIConfigurator knows."""
        return None

    def lengths(self, suggested: Workload) -> Mapping[str, Any]:
        """Projected as far as it takes."""
        return {}

    def profiles(self, model: Model, tps: Sequence[int], workload: Workload) -> tuple[list[TimingProfile], list[str]]:
        """See ``timing_from_estimates``."""
        longest = max(_USUAL_LONGEST, workload.longest or 0)
        try:
            made = [timing_from_estimates(model.source, self.gpu, tp, longest=longest, estimator=self.estimator) for tp in tps]
        except ProjectionError as error:
            if self.gpu in {system for _, system in SYSTEMS}:
                raise
            raise ProjectionError(
                f"timing = {self.gpu!r} is no run and no folder of profiles, and as a GPU: {error.what}",
                remedy=f"{error.remedy}; {WAYS}",
            ) from error
        return made, []


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Measured runs of one model on one kind of GPU.

    Attributes:
        runs: at least one.
    """

    runs: tuple[Run, ...]

    @property
    def gpu(self) -> str:
        """What they were measured on."""
        return measured_on(self.runs[0].manifest)[0]

    @property
    def model(self) -> str | None:
        """What they served."""
        kept = self.runs[0].manifest.get("model") or {}
        return kept.get("source") or kept.get("name")

    def lengths(self, suggested: Workload) -> Mapping[str, Any]:
        """Those that were measured last."""
        windows = [window for run in self.runs for window in run.windows]
        last = windows[-1].workload if windows else {}
        return {name: last[name] for name in ("isl", "osl") if last.get(name)}

    def profiles(self, model: Model, tps: Sequence[int], workload: Workload) -> tuple[list[TimingProfile], list[str]]:
        """See ``timing_from_runs``."""
        fits = [timing_from_runs(self.runs, tp) for tp in tps]
        _must_be_of(model, fits[0].profile)
        left_out = dict.fromkeys(why for fit in fits for why in fit.left_out)
        return [fit.profile for fit in fits], [f"left out of the calibration: {why}" for why in left_out]


@dataclass(frozen=True, slots=True)
class Saved:
    """A folder that ``save_timing`` wrote.

    Attributes:
        folder: where it is.
        known: TP degree → profile.
    """

    folder: Path
    known: Mapping[int, TimingProfile]

    @property
    def gpu(self) -> str:
        """What they pretend."""
        return next(iter(self.known.values())).gpu

    @property
    def model(self) -> str | None:
        """Whose they are."""
        return next(iter(self.known.values())).model

    def lengths(self, suggested: Workload) -> Mapping[str, Any]:
        """No longer prompts than the profiles reach."""
        most = int(min(min(each.prefill_tokens[-1], each.context_tokens[-1] / 2) for each in self.known.values()))
        longest = Lengths.parse(suggested.isl or 0).longest or 0
        return {"isl": most} if longest > most else {}

    def profiles(self, model: Model, tps: Sequence[int], workload: Workload) -> tuple[list[TimingProfile], list[str]]:
        """Those of these degrees."""
        if lacking := [tp for tp in tps if tp not in self.known]:
            has = ", ".join(f"TP {tp}" for tp in self.known)
            raise SpecError(
                f"{self.folder} has no timing profile of TP {', '.join(map(str, lacking))} (it has {has})",
                remedy="ask for splits of these degrees, or save profiles of the others too",
            )
        found = [self.known[tp] for tp in tps]
        _must_be_of(model, found[0])
        return found, []


def timing_source(timing: str | Sequence[str], results: Path, estimator: StepEstimator | None = None) -> TimingSource:
    """Which of the three a notebook's ``timing`` names. Of a name that could be two, a known GPU goes first.

    Args:
        timing: a GPU, a run, several of them as a list or with commas, or a folder.
        results: folder that runs live in.
        estimator: of single steps; AIConfigurator by default.

    Raises:
        SpecError, StoreError: it names nothing.
    """
    names = [name.strip() for name in timing.split(",")] if isinstance(timing, str) else [str(name) for name in timing]
    if not names or not all(names):
        raise SpecError(f"timing = {timing!r} names nothing", remedy=WAYS)
    if len(names) > 1:
        return Calibrated(tuple(open_run(name, results) for name in names))
    (name,) = names
    if name in {system for _, system in SYSTEMS}:
        return Estimated(name, estimator)
    if (folder := Path(name).expanduser()).is_dir() and any(folder.glob("tp*.npz")):
        return Saved(folder, load_timing(folder))
    try:
        return Calibrated((open_run(name, results),))
    except (StoreError, SpecError):
        if "/" in name or folder.is_dir():
            raise SpecError(f"{name} is neither a run nor a folder of saved timing profiles", remedy=WAYS) from None
        return Estimated(name, estimator)


def _must_be_of(model: Model, profile: TimingProfile) -> None:
    if model.name != profile.model:
        raise SpecError(
            f"the times are those of {profile.model}, and {model.name} is to be served",
            remedy=f"leave the model out, or give timing of {model.name}",
        )
