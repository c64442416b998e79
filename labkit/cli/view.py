"""What ``labkit show`` says of a run, as data: finished, running or cut off."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from labkit.errors import LabError
from labkit.measure.columns import floats
from labkit.measure.digest import Digest
from labkit.measure.interference import interference
from labkit.measure.metrics import Summary, summarise
from labkit.measure.records import Records, Window
from labkit.measure.validity import Mark, marks_of
from labkit.spec import Slo, Topology

if TYPE_CHECKING:
    from labkit.experiments import Comparison
    from labkit.store.run import Run

CUT_OFF = "cut off: its bounds are those of the requests recorded"
UNDER_WAY = "under way: its bounds are those of the requests recorded so far"


def slo_of(run: Run) -> Slo | None:
    """The SLO of a run's manifest; ``None`` where it says none, or none that this labkit knows: a run is shown all the same."""
    from labkit import experiments

    try:
        return experiments.slo_of(run)
    except (TypeError, AttributeError, LabError):
        return None


def digested(run: Run) -> tuple[Digest, frozenset[int]]:
    """A run's records, the chunks taken in, and the measurements among its windows that never ended: under way, or cut off.

    A measurement gets its window when it ends. One that did not gets the bounds of the requests recorded here.
    """
    outline = _with_open_windows(run, run.records(chunks=False))
    return run.digest(outline), _open(run, outline)


def sides_of(records: Records | Digest) -> list[str]:
    """Sides in the order in which they were first measured."""
    return list(dict.fromkeys(window.side for window in records.windows))


def comparison_of(run: Run, records: Records | Digest) -> tuple[Comparison | None, str]:
    """The comparison of a run's two sides, or why there is none; no reason where it has fewer. Ended measurements only."""
    from labkit.experiments import compare

    records = replace(records, windows=run.windows)
    sides = sides_of(records)
    if len(sides) != 2:
        return None, f"{len(sides)} sides: `labkit compare {run.id} --sides A B` compares two" if len(sides) > 2 else ""
    try:
        return compare(records, sides[0], sides[1], slo=slo_of(run), manifest=run.manifest), ""
    except LabError as error:
        return None, error.what


def interference_of(records: Digest) -> list[str]:
    """A line a side, over its repeats."""
    from labkit.experiments.verdict import interference_words

    sides = {side: [(records, window) for window in records.windows if window.side == side] for side in sides_of(records)}
    return [f"Interference in {side}: {interference_words(interference(measured))}." for side, measured in sides.items()]


def windows_of(run: Run, records: Digest, partial: frozenset[int]) -> list[dict[str, Any]]:
    """Per measurement: window, summary, interference, marks and outcomes."""
    slo = slo_of(run)
    open_end = Mark("failures", UNDER_WAY if run.status == "running" else CUT_OFF)
    rows = []
    for window in records.windows:
        summary = summarise(records, window, slo=slo)
        found = marks_of(records, window, run.manifest, summary)
        mine = records.requests["outcome"].filter(pc.equal(records.requests["measurement"], window.measurement))
        outcomes = {item["values"]: item["counts"] for item in pc.value_counts(mine).to_pylist()}
        rows.append(
            {
                "window": window,
                "summary": summary,
                "interference": interference([(records, window)]),
                "marks": [*([open_end] if window.measurement in partial else []), *found],
                "partial": window.measurement in partial,
                "outcomes": dict(Counter(outcomes).most_common()),
            }
        )
    return rows


def as_json(run: Run) -> dict[str, Any]:
    """Everything that ``labkit show`` says."""
    from labkit.experiments import verdict

    records, partial = digested(run)
    comparison, why = comparison_of(run, records)
    return {
        "id": run.id,
        "path": str(run.path),
        "status": run.status,
        "manifest": run.manifest,
        "windows": [_plain(row) for row in windows_of(run, records, partial)],
        "rows": run.count_rows(),
        "faults": [asdict(fault) for fault in faults_of(run, records)],
        "verdict": asdict(verdict(comparison)) if comparison is not None else None,
        "no_verdict": why or None,
        "files": files_of(run),
    }


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that went wrong while a run was recorded.

    Attributes:
        t_s: seconds after the lab began; ``None`` where the run does not say when that was.
        text: what it was, its first line.
        remedy: what to do about it; empty where that is not recorded.
    """

    t_s: float | None
    text: str
    remedy: str

    def __str__(self) -> str:
        at = "" if self.t_s is None else f" at {self.t_s:.1f} s"
        return f"fault{at}: {self.text}" + (f"\n  → {self.remedy}" if self.remedy else "")


def faults_of(run: Run, records: Digest) -> list[Fault]:
    """What went wrong, in the order of time."""
    clock = run.manifest.get("clock")
    origin_ns = clock.get("monotonic_ns") if isinstance(clock, Mapping) else None
    found = []
    for row in records.events.filter(pc.equal(records.events["kind"], "fault")).sort_by("t_ns").to_pylist():
        t_s = (row["t_ns"] - origin_ns) / 1e9 if isinstance(origin_ns, int) else None
        found.append(Fault(t_s, row["text"].partition("\n")[0], _remedy(row["data"])))
    return found


def _remedy(data: str | None) -> str:
    try:
        said = json.loads(data or "{}")
    except ValueError:
        return ""
    return str(said.get("remedy", "")) if isinstance(said, dict) else ""


def files_of(run: Run) -> dict[str, int]:
    """Path in the run's folder → bytes."""
    found = {}
    for path in sorted(run.path.rglob("*")):
        try:
            if path.is_file():
                found[str(path.relative_to(run.path))] = path.lstat().st_size
        except OSError:  # a run under way turns segments into tables
            continue
    return found


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    window, summary = row["window"], row["summary"]
    assert isinstance(window, Window)
    assert isinstance(summary, Summary)
    return {
        **row,
        "window": window.to_dict(),
        "summary": summary.to_dict(),
        "interference": {scope: asdict(found) for scope, found in row["interference"].items()},
        "marks": [asdict(mark) for mark in row["marks"]],
    }


def _with_open_windows(run: Run, records: Records) -> Records:
    known = {window.measurement for window in records.windows}
    for number in sorted(set(pc.unique(records.requests["measurement"]).to_pylist()) - known):
        if (window := _partial(run, records, number)) is not None:
            records = replace(records, windows=(*records.windows, window))
    return records


def _open(run: Run, records: Records) -> frozenset[int]:
    return frozenset(window.measurement for window in records.windows) - {window.measurement for window in run.windows}


def _partial(run: Run, records: Records, number: int) -> Window | None:
    requests = records.requests.filter(pc.equal(records.requests["measurement"], number))
    measured = requests.filter(pc.equal(requests["phase"], "measure"))
    if not measured.num_rows:
        return None
    epoch = int(measured["epoch"][0].as_py())
    epochs: list[dict[str, Any]] = run.manifest.get("epochs") or []
    topology = next((str(known["topology"]) for known in epochs if known.get("epoch") == epoch), "unknown")
    # A re-split changes roles, never what the pool holds.
    before = [window for window in records.windows if _same_pool(window.topology, topology)]
    ends = floats(requests, "end_ns")
    end = int(np.nanmax(ends)) if np.isfinite(ends).any() else int(pc.max(requests["scheduled_ns"]).as_py())
    return Window(
        measurement=number,
        side=topology,
        topology=topology,
        repeat=sum(window.side == topology for window in records.windows),
        epoch=epoch,
        start_ns=int(pc.min(requests["scheduled_ns"]).as_py()),
        measure_ns=int(pc.min(measured["scheduled_ns"]).as_py()),
        stop_ns=end,
        end_ns=end,
        accelerators=before[0].accelerators if before else 0.0,
        accelerator=before[0].accelerator if before else ("GPU" if (run.manifest.get("hardware") or {}).get("gpus") else "core"),
        workload=_workload(run, records, number),
    )


def _same_pool(one: str, other: str) -> bool:
    try:
        return Topology(one).same_pool(Topology(other))
    except LabError:
        return one == other


def _workload(run: Run, records: Records, number: int) -> dict[str, Any]:
    """What the lab noted when it started the load; the run's own workload where it did not."""
    loads = records.events.filter(pc.equal(records.events["kind"], "load"))["data"].to_pylist()
    if number < len(loads) and loads[number]:
        return dict(json.loads(loads[number]))
    return dict(run.manifest.get("workload") or {})
