"""A part of a run says of its window what the run itself says, and reads like any other run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labkit.measure.metrics import summarise
from labkit.measure.records import TABLES
from labkit.store import open_run, tables
from labkit.store.cut_out import _part, cut_out, part_of
from labkit.store.run import Run
from tests.support.saved_runs import saved_run


@pytest.mark.parametrize("finish", [True, False])
def test_the_window_of_a_whole_measurement_has_its_numbers(tmp_path: Path, finish: bool):
    run = saved_run(tmp_path, "afternoon", finish=finish)
    window = run.windows[1]
    kept = cut_out(run, window, kind="pin", name="pin-1", pin="1P1D, fast")
    again = open_run(kept.path)
    (own,) = again.windows
    expected, found = summarise(run.records(), window), summarise(again.records(), own)
    same = [name for name in expected if not name.startswith(("kv_", "cpu_cores", "energy"))]
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}
    assert (again.status, again.manifest["from"], again.manifest["pin"]) == ("finished", "afternoon", "1P1D, fast")
    assert run.windows == open_run(run.path).windows, "the run that it is from is as it was"


def test_a_part_counts_the_tokens_of_all_and_the_latencies_of_its_own(tmp_path: Path):
    run = saved_run(tmp_path, "afternoon")
    whole = run.windows[0]
    middle = whole.measure_ns + 4_000_000_000
    part = replace(whole, measure_ns=middle, stop_ns=middle + 5_000_000_000)
    kept = cut_out(run, part, kind="pin", name="part")
    (own,) = kept.windows
    rows = kept.records().requests.to_pylist()
    scheduled = [row for row in run.records().requests.to_pylist() if row["measurement"] == 0]
    inside = {row["request"] for row in scheduled if part.measure_ns <= row["scheduled_ns"] < part.stop_ns}
    assert {row["request"] for row in rows if row["phase"] == "measure"} == inside
    assert {row["phase"] for row in rows if row["request"] not in inside} <= {"warmup"}
    chunks = run.records().chunks.to_pylist()
    mine = {row["request"] for row in scheduled}
    delivered = sum(c["tokens"] for c in chunks if c["request"] in mine and part.measure_ns <= c["t_ns"] < part.stop_ns)
    summary = summarise(kept.records(), own)
    assert summary["output_tokens"] == delivered
    assert summary["requests"] == len(inside) > 0


@pytest.mark.parametrize("finish", [True, False])
def test_what_came_before_the_window_is_never_in_memory_as_a_whole(tmp_path: Path, finish: bool, monkeypatch: pytest.MonkeyPatch):
    """Found by the soak: each pin took as much memory as the afternoon had records by then."""
    run = saved_run(tmp_path, "afternoon", finish=finish)
    middle = run.windows[0].measure_ns + 4_000_000_000
    part = replace(run.windows[0], measure_ns=middle, stop_ns=middle + 5_000_000_000)
    whole = _part(run.records(), part)
    monkeypatch.setattr(Run, "records", None)
    monkeypatch.setattr(tables, "read_table", None)
    monkeypatch.setattr(tables, "_PART_ROWS", 100)
    found = part_of(run, part)
    for table in TABLES:
        assert getattr(found, table).to_pylist() == getattr(whole, table).to_pylist(), table
    assert found.windows == whole.windows
    assert found.requests.num_rows
    assert found.chunks.num_rows
    without = part_of(run, part, chunks=False)
    assert without.requests.equals(found.requests)
    assert not without.chunks.num_rows
