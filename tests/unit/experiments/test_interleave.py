from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from labkit.errors import ComparisonError, SpecError
from labkit.experiments import Narrow, compare, interleave
from labkit.lab.measurement import Measurement
from labkit.measure.digest import digest
from labkit.measure.records import Records, Window
from labkit.measure.warmup import begin_at
from labkit.spec import Topology, Workload
from tests.support import synthetic

WORKLOAD = Workload(rate=1.0, duration_s=1.0, seed=10)


class NotedLab:
    """Keeps what it was asked, in order."""

    def __init__(self, workload: Workload | None = WORKLOAD) -> None:
        self.workload = workload
        self.deployment = SimpleNamespace(topology=Topology("2A"))
        self.asked: list[tuple[str, Any]] = []

    def progress(self, line: str) -> None:
        self.asked.append(("told", line))

    def resplit(self, topology: Topology, *, keep_unused: bool = False) -> str:
        self.deployment.topology = topology
        self.asked.append(("resplit", f"{topology}{', others unused' * keep_unused}"))
        return f"now {topology}"

    def measure(self, workload: Workload, *, side: str, repeat: int) -> str:
        self.asked.append(("measure", (str(self.deployment.topology), workload.seed, repeat)))
        return f"measured {self.deployment.topology} #{repeat}"


def test_sides_take_turns_with_the_same_seed_within_a_repeat_and_another_in_the_next() -> None:
    lab = NotedLab()
    done = interleave(lab, ["2A", "1P1D"], repeats=2)  # type: ignore[arg-type]
    assert done == ["measured 2A #0", "measured 1P1D #0", "measured 2A #1", "measured 1P1D #1"]
    assert [what for kind, what in lab.asked if kind == "measure"] == [
        ("2A", 10, 0),
        ("1P1D", 10, 0),
        ("2A", 11, 1),
        ("1P1D", 11, 1),
    ]
    assert [what for kind, what in lab.asked if kind == "resplit"] == ["1P1D", "2A", "1P1D"], (
        "no re-split to the split that serves"
    )


def test_splits_of_fewer_workers_leave_the_others_unused_and_need_not_be_equal() -> None:
    lab = NotedLab()
    interleave(lab, ["1P1D", "2P1D"], repeats=1, keep_unused=True)  # type: ignore[arg-type]
    assert [what for kind, what in lab.asked if kind == "resplit"] == ["1P1D, others unused", "2P1D, others unused"]
    with pytest.raises(ComparisonError, match="unequal hardware"):
        interleave(lab, ["1P1D", "2P1D"], repeats=1)  # type: ignore[arg-type]


class RecordedLab(NotedLab):
    """Plays back the windows of a recorded run, one a measurement, and keeps what is noted of it."""

    def __init__(self, records: Records, workload: Workload = WORKLOAD) -> None:
        super().__init__(workload)
        self.slo = None
        self.manifest: dict[str, Any] = {}
        self.notes: list[str] = []
        self.played: list[Window] = []
        self._records = records
        self.run = SimpleNamespace(
            digest=lambda: digest(replace(self._records, windows=tuple(self.played))), note=self._note,
            update=self.manifest.update, manifest=self.manifest, add_window=self._add,
        )  # fmt: skip

    def _note(self, text: str, **_: Any) -> None:
        self.notes.append(text)

    def _add(self, window: Window) -> None:
        self.played = [window if known.measurement == window.measurement else known for known in self.played]

    def measure(self, workload: Workload, *, side: str, repeat: int) -> Any:
        self.played.append(self._records.windows[len(self.played)])
        run: Any = self.run
        return Measurement(run, self.played[-1], None, {}, False)


def lines(lab: NotedLab) -> list[str]:
    return [line for kind, line in lab.asked if kind == "told"]


def test_it_repeats_until_the_interval_is_narrow_and_says_so() -> None:
    lab = RecordedLab(synthetic.run(("2A", "1P1D") * 6, duration_s=30.0)[0])
    done = interleave(lab, ["2A", "1P1D"], until=Narrow("itl_p50_s", within=0.2, most_repeats=6))  # type: ignore[arg-type]
    repeats = len(done) // 2
    assert 3 <= repeats < 6
    states = [line for line in lines(lab) if line.startswith("itl_p50_s after")]
    assert len(states) == repeats
    assert all("(wanted ±20%)" in line for line in states)
    (note,) = lab.notes
    assert note.startswith(f"repeats ended after {repeats} repeats: the interval of itl_p50_s is within ±20%")
    assert lab.manifest["repeats"]["text"].startswith(note)
    assert note in str(compare(lab.run.digest(), "2A", "1P1D", manifest=lab.manifest, resamples=20).conditions)


@pytest.mark.parametrize(
    ("rule", "repeats", "why"),
    [
        (Narrow("itl_p99_s", within=0.001, most_repeats=4), 4, "the most allowed"),
        (Narrow("itl_p99_s", within=0.001, most_repeats=6, budget_s=45), 4, "the budget of 45 s holds no other repeat"),
    ],
)
def test_it_ends_at_the_most_repeats_or_with_the_budget(rule: Narrow, repeats: int, why: str) -> None:
    lab = RecordedLab(synthetic.run(("2A", "1P1D") * 6, duration_s=10.0)[0])
    done = interleave(lab, ["2A", "1P1D"], until=rule, clock=lambda: 5.0 * len(lab.played))  # type: ignore[arg-type]
    assert len(done) == 2 * repeats
    assert why in lab.notes[0]


def test_two_repeats_know_nothing_of_the_spread_between_them() -> None:
    lab = NotedLab()
    for repeats in (2, 13):
        with pytest.raises(SpecError, match=f"repeats = {repeats}"):
            interleave(lab, ["2A", "1P1D"], repeats=repeats, until=Narrow("itl_p99_s"))  # type: ignore[arg-type]
    assert lab.asked == []


def test_a_warm_up_that_one_side_has_is_left_out_on_both() -> None:
    records = synthetic.run(("2A", "1P1D"), warmup_s=0.0, duration_s=30.0)[0]
    a, b = records.windows
    lab = RecordedLab(replace(records, windows=(a, begin_at(records, b, 8, "found"))), replace(WORKLOAD, warmup="auto"))
    done = interleave(lab, ["2A", "1P1D"], repeats=1)  # type: ignore[arg-type]
    assert [measurement.window.first_index for measurement in done] == [8, 8]
    assert [window.first_index for window in lab.played] == [8, 8]
    assert any(line.startswith("2A #1 counts ") and "as on the other side" in line for line in lines(lab))


@pytest.mark.parametrize(("sides", "repeats"), [(["2A"], 1), (["2A", "2A"], 1), (["2A", "1P1D"], 0)])
def test_what_makes_no_comparison_is_refused_before_anything_is_measured(sides: list[str], repeats: int) -> None:
    lab = NotedLab()
    with pytest.raises(SpecError):
        interleave(lab, sides, repeats=repeats)  # type: ignore[arg-type]
    assert lab.asked == []


def test_unequal_hardware_is_refused_with_the_counts() -> None:
    lab = NotedLab()
    with pytest.raises(ComparisonError, match="2A holds 2, 1P2D holds 3"):
        interleave(lab, ["2A", "1P2D"])  # type: ignore[arg-type]
    assert lab.asked == []


def test_a_lab_without_a_workload_needs_one() -> None:
    with pytest.raises(SpecError, match="no workload"):
        interleave(NotedLab(None), ["2A", "1P1D"])  # type: ignore[arg-type]
