"""The tidy tables, read back by other means than the lab's, hold exactly what the lab computed."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labkit.errors import StoreError
from labkit.measure.metrics import of_measurement, summarise
from labkit.measure.records import Records
from labkit.measure.timing import chunk_gaps, request_metrics
from labkit.store.tidy import CHUNKS, REQUESTS, Kind, write_tidy
from tests.support import synthetic
from tests.support.handmade import MS, SECOND, records, request, steady, unscheduled, window

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Rows with ``None`` for what is missing; CSV by the standard library, with the types that the columns promise."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    columns = {column.name: column for column in (*REQUESTS, *CHUNKS)}

    def value(name: str, text: str) -> Any:
        if text == "":
            return None
        kind = columns[name].type
        if pa.types.is_boolean(kind):
            return {"true": True, "false": False}[text]
        return float(text) if pa.types.is_floating(kind) else int(text) if pa.types.is_integer(kind) else text

    with path.open(encoding="utf-8", newline="") as file:
        return [{name: value(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


def exported(made: Records, tmp_path: Path, kind: Kind) -> tuple[list[Row], list[Row]]:
    paths = write_tidy(made, "my-run", tmp_path / "out", kind)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    requests, chunks = map(read, paths)
    return requests, chunks


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_read_back_is_exactly_what_was_measured(tmp_path: Path, kind: Kind):
    made, _ = synthetic.run(("2A", "1P1D"), duration_s=8.0, warmup_s=1.0, fail=0.2, samples=False, spans=False)
    requests, chunks = exported(made, tmp_path, kind)
    assert [list(rows[0]) for rows in (requests, chunks)] == [[column.name for column in of] for of in (REQUESTS, CHUNKS)]
    assert len(requests) == made.requests.num_rows
    assert len(chunks) == made.chunks.num_rows
    for one in made.windows:
        mine = of_measurement(made, one)
        found = request_metrics(mine)
        by_number = {row["request"]: row for row in requests if row["measurement"] == one.measurement}
        for at, number in enumerate(found.request.tolist()):
            row = by_number[number]
            for name in ("send_lag_s", "ttft_s", "ttft_from_schedule_s", "tpot_s", "e2e_s"):
                value = float(getattr(found, name)[at])
                assert row[name] == (None if math.isnan(value) else value), name
        of_window = [row for row in chunks if row["measurement"] == one.measurement]
        gaps = [row["gap_s"] for row in of_window if row["gap_s"] is not None]
        assert gaps == chunk_gaps(mine).gap_s.tolist()
        assert {(row["run"], row["side"], row["topology"], row["repeat"]) for row in of_window} == {
            ("my-run", one.side, one.topology, one.repeat)
        }
    recorded = made.requests.sort_by("request").to_pylist()
    for kept in ("request", "index", "epoch", "phase", "outcome", "reason", "prompt_tokens", "output_tokens", "tokens_from"):
        assert [row[kept] for row in requests] == [row[kept] for row in recorded], kept


def test_figures_follow_from_the_tables_without_the_lab(tmp_path: Path):
    made, _ = synthetic.run(("2A",), duration_s=20.0, samples=False, spans=False)
    requests, chunks = exported(made, tmp_path, "csv")
    summary = summarise(made, made.windows[0])
    good = {row["request"]: row for row in requests if row["phase"] == "measure" and row["outcome"] == "ok"}
    assert np.median([row["ttft_s"] for row in good.values()]) == summary["ttft_p50_s"]
    assert np.median([row["tpot_s"] for row in good.values()]) == summary["tpot_p50_s"]
    gaps = [row["gap_s"] for row in chunks if row["request"] in good and row["gap_s"] is not None]
    assert np.percentile(gaps, 99) == pytest.approx(summary["itl_p99_s"], rel=1e-12)
    inside = sum(row["tokens"] for row in chunks if 0 <= row["t_s"] < made.windows[0].length_s)
    assert inside == summary["output_tokens"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_unknown_is_empty_and_text_stays_whole(tmp_path: Path, kind: Kind):
    bounds = window(side='a "side", with\nlines', start_ns=0, measure_ns=2 * SECOND)
    rows = [
        request(0, [(3 * SECOND, None, True), (4 * SECOND, 2, True)], scheduled_ns=2 * SECOND, output_tokens=None)
        | {"tokens_from": None},
        request(1, outcome="refused", sent_ns=None, end_ns=None, reason='no "host", é', http_status=None, scheduled_ns=SECOND),
    ]  # fmt: skip
    made = records(rows, windows=[bounds])
    requests, chunks = exported(made, tmp_path, kind)
    answered, refused = requests
    assert answered["side"] == refused["side"] == bounds.side
    assert (answered["tpot_s"], answered["output_tokens"], answered["tokens_from"]) == (None, None, None)
    assert (answered["scheduled_s"], answered["first_token_s"], answered["last_token_s"]) == (0.0, 1.0, 2.0)
    assert (refused["scheduled_s"], refused["sent_s"], refused["ttft_s"], refused["end_s"]) == (-1.0, None, None, None)
    assert (refused["reason"], refused["chunks"]) == ('no "host", é', 0)
    assert [(row["chunk"], row["tokens"], row["gap_s"]) for row in chunks] == [(0, None, None), (1, 2, 1.0)]
    assert chunks[0]["since_sent_s"] == pytest.approx(1 - MS / SECOND)
    requests, _ = exported(unscheduled(made), tmp_path, kind)
    assert [(row["scheduled_s"], row["send_lag_s"]) for row in requests] == [(None, None)] * 2


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_measurement_without_requests_gives_empty_tables(tmp_path: Path, kind: Kind):
    assert exported(records([], windows=[window()]), tmp_path, kind) == ([], [])


def test_parquet_says_what_its_columns_mean_and_so_does_the_manual(tmp_path: Path):
    paths = write_tidy(records([steady(1)], windows=[window()]), "r", tmp_path, "parquet")
    manual = (Path(__file__).parents[3] / "docs" / "using.md").read_text()
    for path, columns in zip(paths, (REQUESTS, CHUNKS), strict=True):
        schema = pq.read_schema(path)
        for column in columns:
            assert schema.field(column.name).metadata[b"about"].decode() == column.about
            assert f"`{column.name}`" in manual, column.name


def test_a_disk_that_fills_leaves_no_half_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> Iterator[Any]:
        yield from ()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("labkit.store.tidy.tidy_chunks", full)
    with pytest.raises(StoreError, match=r"cannot write .*tidy-chunks\.csv: No space left"):
        write_tidy(replace(records([steady(1)]), windows=(window(),)), "r", tmp_path, "csv")
    assert [path.name for path in tmp_path.iterdir()] == ["tidy-requests.csv"]
