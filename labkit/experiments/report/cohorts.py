"""Runs sorted out: sides measured under equal conditions stand together, and each aggregated one meets each disaggregated one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from labkit.errors import ComparisonError, LabError
from labkit.experiments.compare import Comparison, compare_runs
from labkit.experiments.conclude import slo_of
from labkit.experiments.conditions import workload_text
from labkit.experiments.differences import Facts, facts_of
from labkit.experiments.points import point_of
from labkit.experiments.prefill_saturation import KEY as PREFILL
from labkit.experiments.trials import is_trial
from labkit.live.pin import Pin
from labkit.measure.metrics import summarise
from labkit.measure.records import Window
from labkit.measure.simulated import simulated_head
from labkit.spec.topology import Topology
from labkit.store.run import Run

#: Runs whose measurements stand for something else than a side: an exploration's pins are runs of their own, and a sweep's steps
#: are told as its finding.
_NO_SIDES: Final = frozenset({"explore", "report"})
#: Facts that may differ between sides that are compared: the split is the question, workers may be tuned for it, and prompts are
#: drawn anew. Whether requests and lengths agree is checked by the comparison itself.
_FREE: Final = (
    "topology",
    "options",
    "git",
    "versions.",
    "source.",
    "slo",
    "workload.seed",
    "workload.warmup",
    "workload.duration_s",
)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One side of one run.

    Attributes:
        run, side: whose.
        windows: its measurements.
        facts: its conditions by name.
        disaggregated: ``None`` where the split is not the lab's to know.
    """

    run: Run
    side: str
    windows: tuple[Window, ...]
    facts: Facts
    disaggregated: bool | None

    @property
    def load(self) -> str:
        """Its workload, in words."""
        return " and ".join(dict.fromkeys(workload_text(window.workload) for window in self.windows))

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """What an equal side has too."""
        return tuple(sorted((name, text) for name, text in self.facts.items() if not name.startswith(_FREE)))


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An aggregated side (A) and a disaggregated one (B) under the same requests on equal hardware."""

    aggregated: Entry
    disaggregated: Entry
    comparison: Comparison

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids."""
        return tuple(dict.fromkeys((self.aggregated.run.id, self.disaggregated.run.id)))

    @property
    def where(self) -> str:
        """Splits and load."""
        return f"{self.disaggregated.side} against {self.aggregated.side}, {self.disaggregated.load}"

    @property
    def facts(self) -> Facts:
        """Conditions of both."""
        return {**self.disaggregated.facts, "aggregated split": self.aggregated.facts.get("topology", "")}


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Sides under equal conditions.

    Attributes:
        entries: aggregated ones first.
        points: each with its intervals.
        failed: requests of each that failed.
        pairs: aggregated against disaggregated.
    """

    entries: tuple[Entry, ...]
    points: tuple[Pin, ...]
    failed: tuple[int, ...]
    pairs: tuple[Pair, ...]

    @property
    def title(self) -> str:
        """Model, hardware and load."""
        first = self.entries[0]
        unit = first.windows[0].accelerator if first.windows else ""
        return simulated_head(unit) + " · ".join(
            part for part in (first.facts.get("model", ""), first.facts.get("accelerators", ""), first.load) if part
        )


def entries_of(runs: Sequence[Run]) -> list[Entry]:
    """The sides of runs, in the order of the runs. Trials of a search and steps of a sweep are no sides."""
    return [entry for run in runs for entry in _entries(run)]


def cohorts_of(entries: Sequence[Entry], left_out: list[str], *, resamples: int = 1000) -> list[Cohort]:
    """Sides by their conditions, measured and compared.

    Args:
        entries: of any runs.
        left_out: gets a line for every pair that must not be compared, with the reason.
        resamples: of the bootstrap.
    """
    grouped: dict[tuple[tuple[str, str], ...], list[Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.key, []).append(entry)
    return [_cohort(members, left_out, resamples) for members in grouped.values()]


def _entries(run: Run) -> Iterator[Entry]:
    manifest = run.manifest
    if manifest.get("kind") in _NO_SIDES or manifest.get(PREFILL):
        return
    windows = [window for window in run.windows if not is_trial(window.side)]
    for side in dict.fromkeys(window.side for window in windows):
        mine = tuple(window for window in windows if window.side == side)
        yield Entry(run, side, mine, facts_of(manifest, mine), _disaggregated(mine))


def _disaggregated(windows: Sequence[Window]) -> bool | None:
    try:
        kinds = {Topology(window.topology).is_disaggregated for window in windows}
    except LabError:
        return None
    return kinds.pop() if len(kinds) == 1 else None


def _cohort(members: list[Entry], left_out: list[str], resamples: int) -> Cohort:
    members.sort(key=lambda entry: (entry.disaggregated is not False, entry.facts.get("topology", "")))
    points = tuple(_named(point_of(entry.run, entry.side, resamples=resamples), entry, members) for entry in members)
    failed = tuple(_failed(entry) for entry in members)
    return Cohort(tuple(members), points, failed, tuple(_pairs(members, left_out, resamples)))


def _failed(entry: Entry) -> int:
    records = entry.run.digest()
    return sum(int(summarise(records, window)["failed"] or 0) for window in entry.windows)


def _pairs(members: Sequence[Entry], left_out: list[str], resamples: int) -> Iterator[Pair]:
    """Sides of one run are compared there, where they were interleaved; those of a run of one kind with those of other runs."""
    kinds: dict[str, set[bool | None]] = {}
    for entry in members:
        kinds.setdefault(entry.run.id, set()).add(entry.disaggregated)
    both = {run for run, found in kinds.items() if {True, False} <= found}
    for a in (entry for entry in members if entry.disaggregated is False):
        for b in (entry for entry in members if entry.disaggregated is True):
            if a.run.id != b.run.id and (a.run.id in both or b.run.id in both):
                continue
            try:
                found = compare_runs(a.run, b.run, side_a=a.side, side_b=b.side, slo=slo_of(b.run), resamples=resamples)
            except ComparisonError as error:
                left_out.append(f"{b.side} of {b.run.id} is not compared with {a.side} of {a.run.id}: {error.what}")
                continue
            yield Pair(a, b, found)


def _named(point: Pin, entry: Entry, members: Sequence[Entry]) -> Pin:
    """A side that others are called like too gets the name of its run beside."""
    alike = sum(other.side == entry.side for other in members) > 1
    return replace(point, label=f"{entry.side} ({entry.run.id})" if alike else entry.side)
