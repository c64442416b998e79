from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.errors import ComparisonError
from labkit.experiments import conditions_text, side_by_side, side_by_side_text
from labkit.experiments.compare import compare_runs
from labkit.measure.metrics import summarise
from labkit.measure.records import SAMPLES
from labkit.measure.validity import Mark
from labkit.spec import Slo, Workload
from labkit.store import Run, SegmentWriter, create_run
from tests.support.handmade import SECOND, records, steady, window

SLO = Slo(tpot_s=0.05)


def kept(results: Path, name: str, *, first_ms: int = 100, rate: float = 1.0, foreign_cores: float = 0.0, count: int = 30) -> Run:
    """A run of one side with one request a second."""
    bounds = window(workload=Workload(rate=rate, requests=count, isl=8, osl=5), stop_ns=count * SECOND, end_ns=count * SECOND)
    made = records([steady(n, first_ms=first_ms + n % 7, osl=5) for n in range(count)])
    run = create_run(results, name, {"kind": "lab", "model": {"name": "m"}, "engines": {"vllm": f"0.{first_ms}"}})
    for table in ("requests", "chunks"):
        rows = getattr(made, table)
        with SegmentWriter(run.segment(table, "shard0"), rows.schema) as writer:
            writer.append({column: rows[column].to_pylist() for column in rows.column_names})
    with SegmentWriter(run.segment("samples", "telemetry"), SAMPLES) as writer:
        at = [second * SECOND for second in range(count)]
        values = [foreign_cores] * count
        writer.append({"t_ns": at, "source": ["host"] * count, "metric": ["foreign_cpu_cores"] * count, "value": values})
    run.add_window(bounds)
    run.finish()
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    results = tmp_path_factory.mktemp("results")
    return [kept(results, "a"), kept(results, "b", first_ms=200, foreign_cores=0.5), kept(results, "c", rate=2.0)]


def picked(runs: list[Run]) -> list[tuple[Run, str]]:
    return [(run, "2A") for run in runs]


def test_values_are_those_of_each_run_and_ratios_those_of_the_pair(runs: list[Run]):
    found = side_by_side(picked(runs), slo=SLO, resamples=100)
    for run, column in zip(runs, found.columns, strict=True):
        summary = summarise(run.records(), run.windows[0], slo=SLO)
        assert (column.requests, column.failed, column.repeats) == (summary["requests"], summary["failed"], 1)
        for key, cell in column.cells.items():
            assert cell.value == (summary[key] if summary[key] is None else pytest.approx(summary[key])), key
    pair = compare_runs(runs[0], runs[1], slo=SLO, resamples=100)
    assert {key: cell.ratio for key, cell in found.columns[1].cells.items()} == {row.key: row.ratio for row in pair.rows}
    assert found.columns[1].cells["ttft_p50_s"].ratio.estimate == pytest.approx(203 / 103, rel=1e-6)
    assert "not interleaved" in found.columns[1].notes[0]
    assert found.comparison is None, "a verdict is of two sides"


def test_unequal_work_has_values_and_no_ratio(runs: list[Run]):
    found = side_by_side(picked(runs), slo=SLO, resamples=20).columns[2]
    assert found.unequal == "unequal work: rate is 1.0 in one window and 2.0 in another"
    assert found.cells["ttft_p50_s"].value is not None
    assert {cell.ratio for cell in found.cells.values()} == {None}
    allowed = side_by_side(picked(runs), slo=SLO, resamples=20, allow_unequal=True).columns[2]
    assert allowed.cells["ttft_p50_s"].ratio is not None
    assert any(note.startswith("unequal work") for note in allowed.notes)


def test_two_comparable_sides_bring_the_comparison_along(runs: list[Run]):
    found = side_by_side(picked(runs[:2]), slo=SLO, resamples=50)
    assert found.comparison is not None
    assert found.comparison.rows == compare_runs(runs[0], runs[1], slo=SLO, resamples=50).rows
    assert side_by_side(picked([runs[0], runs[2]]), resamples=20).comparison is None


def test_marks_that_not_all_have_are_told(runs: list[Run]):
    found = side_by_side(picked(runs), resamples=20)
    assert found.marks_differ == ("foreign CPU in b only",)
    both = replace(found, columns=tuple(replace(one, marks=(Mark("foreign_cpu", "x"),)) for one in found.columns))
    assert both.marks_differ == ()


def test_what_differs_heads_the_text(runs: list[Run]):
    text = side_by_side_text(side_by_side(picked(runs), resamples=20), width=200)
    lines = text.splitlines()
    assert lines[0].split() == ["a", "b", "c"]
    at = lines.index("what differs")
    assert [line.split() for line in lines[at + 1 : at + 3]] == [
        ["workload.rate", "1", "1", "2"], ["engines.vllm", "0.100", "0.200", "0.100"],
    ]  # fmt: skip
    assert "same in all: topology 2A, accelerators 2 cores, workload.isl 8, workload.osl 5" in text
    assert "workload.time_scale" not in text, "what was left as it is need not be told"
    assert "no ratios for c: unequal work: rate is 1.0 in one window and 2.0 in another" in text
    assert "marks differ: foreign CPU in b only" in text
    assert "! b: other processes of this node used 0.5 cores meanwhile" in text
    row = next(line for line in lines if line.startswith("TTFT p50"))
    assert row.split()[3:6] == ["103", "203", "×1.97"]
    assert row.count("×") == 1
    assert "*" in row
    footnote = next(line for line in lines if line.startswith("(1) "))
    assert footnote == "(1) n too small (n=30, p99 needs 100)"
    conditions = conditions_text(side_by_side(picked(runs), resamples=20), 200).splitlines()
    assert [line.split() for line in conditions[:2]] == [["a", "b", "c"], ["2A", "2A", "2A"]]
    assert "marks differ: foreign CPU in b only" in conditions
    assert not any("TTFT" in line for line in conditions)


@pytest.mark.parametrize("width", [40, 60])
def test_columns_that_do_not_fit_go_on_below(runs: list[Run], width: int):
    wide = side_by_side_text(side_by_side(picked(runs), resamples=20), width=500)
    narrow = side_by_side_text(side_by_side(picked(runs), resamples=20), width=width)
    heads = [line.split() for line in narrow.splitlines() if line.split()[:1] == ["a"]]
    assert heads[0][0] == heads[1][0] == "a", "the first column is in every part"
    assert sorted({name for head in heads for name in head}) == ["a", "b", "c"]
    assert narrow.count("TTFT p50") == len(heads) > wide.count("TTFT p50") == 1


def test_sides_of_one_run_are_called_by_their_names(runs: list[Run], tmp_path: Path):
    found = side_by_side(picked(runs), resamples=20)
    of_one = replace(
        found, columns=tuple(replace(one, run="r", side=side) for one, side in zip(found.columns, "xyz", strict=True))
    )
    assert of_one.names == ("x", "y", "z")
    mixed = replace(found, columns=tuple(replace(one, run=run) for one, run in zip(of_one.columns, "rrs", strict=True)))
    assert mixed.names == ("r:x", "r:y", "s:z")


def test_everything_is_in_the_json(runs: list[Run]):
    data = json.loads(json.dumps(side_by_side(picked(runs), slo=SLO, resamples=20).to_dict()))
    assert data["differs"]["workload.rate"] == ["1", "1", "2"]
    assert data["marks_differ"] == ["foreign CPU in b only"]
    assert data["slo"]["tpot_s"] == 0.05
    assert [one["key"] for one in data["quantities"]] == list(data["columns"][0]["cells"])
    assert data["columns"][1]["cells"]["ttft_p50_s"]["ratio"]["estimate"] > 1.9


def test_one_side_is_no_comparison_and_none_is_named_twice(runs: list[Run]):
    with pytest.raises(ComparisonError, match="one side alone"):
        side_by_side(picked(runs[:1]))
    with pytest.raises(ComparisonError, match="was named twice"):
        side_by_side(picked([runs[0], runs[0]]))
