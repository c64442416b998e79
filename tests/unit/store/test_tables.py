"""Tables read whole and part by part, from files of this labkit and of earlier ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labkit.errors import StoreError
from labkit.measure.metrics import summarise
from labkit.measure.records import CHUNKS, TABLES
from labkit.store import SegmentWriter, open_run, tables
from labkit.store import run as run_module
from labkit.store.tables import TableParts, count_rows, finalise_table, read_table
from tests.support.saved_runs import saved_run


def chunks(start: int, count: int) -> dict[str, np.ndarray]:
    number = np.arange(start, start + count)
    return {"request": number % 7, "t_ns": number * 1000, "tokens": np.ones(count, np.int16), "text": number % 2 == 0}


def write(folder: Path, producer: str, start: int, count: int) -> None:
    with SegmentWriter(folder / "segments" / f"chunks-{producer}.arrows", CHUNKS) as writer:
        for begin in range(start, start + count, 10):
            writer.append(chunks(begin, min(10, start + count - begin)))
            writer.flush()


def test_parts_are_the_table_whatever_it_is_kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "_PART_ROWS", 25)
    parts = TableParts(tmp_path, "chunks")
    assert list(parts) == []
    assert count_rows(tmp_path, "chunks") == 0
    write(tmp_path, "shard0", 0, 60)
    assert [part.num_rows for part in parts] == [30, 30]
    finalise_table(tmp_path, "chunks")
    write(tmp_path, "shard1", 60, 45)
    found = list(parts)
    assert [part.num_rows for part in found] == [25, 25, 10, 30, 15], "Parquet first, then what it does not hold yet"
    assert pa.concat_tables(found).equals(read_table(tmp_path, "chunks"))
    again = pa.concat_tables(parts)["t_ns"].to_pylist()
    assert sorted(again) == [number * 1000 for number in range(105)], "it may be read again"
    assert count_rows(tmp_path, "chunks") == 105


def test_chunks_are_kept_as_differences_and_earlier_files_are_read_all_the_same(tmp_path: Path):
    write(tmp_path, "shard0", 0, 60)
    finalise_table(tmp_path, "chunks")
    path = tmp_path / "chunks.parquet"
    encodings = {pq.read_metadata(path).row_group(0).column(i).path_in_schema: i for i in range(4)}
    for name in ("request", "t_ns"):
        assert "DELTA_BINARY_PACKED" in pq.read_metadata(path).row_group(0).column(encodings[name]).encodings
    rows = read_table(tmp_path, "chunks")
    assert rows.to_pylist() == sorted(rows.to_pylist(), key=lambda row: (row["request"], row["t_ns"])), "a request's are together"
    notes = pq.read_schema(path).metadata
    pq.write_table(rows.replace_schema_metadata(notes), path, compression="zstd")  # as labkit wrote them before
    assert "DELTA_BINARY_PACKED" not in pq.read_metadata(path).row_group(0).column(0).encodings
    assert read_table(tmp_path, "chunks").equals(rows)
    assert pa.concat_tables(TableParts(tmp_path, "chunks")).equals(rows)


@pytest.mark.parametrize("finish", [True, False])
def test_a_digest_says_what_the_records_say(tmp_path: Path, finish: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "_PART_ROWS", 500)
    run = saved_run(tmp_path, "mine", finish=finish)
    records, taken = run.records(), run.digest()
    assert taken.requests.equals(records.requests)
    for window in run.windows:
        assert dict(summarise(taken, window)) == dict(summarise(records, window))
    outline = run.records(chunks=False)
    assert (outline.chunks.num_rows, outline.samples.num_rows) == (0, records.samples.num_rows)
    assert outline.chunks.schema == CHUNKS
    assert run.count_rows() == {name: getattr(records, name).num_rows for name in TABLES}
    assert taken.chunks is not None
    assert taken.chunks.num_rows == records.chunks.num_rows
    monkeypatch.setattr(run_module, "_KEPT_CHUNKS", 100)
    streamed = run.digest(outline)
    assert streamed.chunks is None
    assert dict(summarise(streamed, run.windows[0])) == dict(summarise(taken, run.windows[0]))


def test_a_damaged_file_is_named(tmp_path: Path):
    run = saved_run(tmp_path, "mine", ("2A",), samples=False, spans=False)
    path = run.path / "chunks.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"chunks\.parquet is damaged"):
        open_run(run.path).digest()
