import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labkit.errors import StoreError
from labkit.measure.records import CHUNKS, REQUESTS, SAMPLES, TABLES, Window
from labkit.store import Run, SegmentWriter, create_run, list_runs, open_run, tables
from labkit.store import run as run_module
from labkit.store.manifest import FILE, write_json
from tests.support.handmade import steady


def window(measurement: int = 0, side: str = "2A") -> Window:
    return Window(
        measurement=measurement, side=side, topology=side, repeat=0, epoch=0, start_ns=0, measure_ns=1, stop_ns=2, end_ns=3,
        accelerators=2, accelerator="core", workload={"isl": "512", "seed": 3},
    )  # fmt: skip


def write_chunks(run: Run, producer: str, *ids: int) -> Path:
    with SegmentWriter(run.segment("chunks", producer), CHUNKS) as writer:
        writer.append({"request": ids, "t_ns": ids, "tokens": [1] * len(ids), "text": [True] * len(ids)})
    return writer.path


def chunk_ids(run: Run) -> list[int]:
    return sorted(run.records().chunks.column("request").to_pylist())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(tmp_path / "results", "mine", {"kind": "compare", "topologies": ["2A", "1P1D"], "seed": 3})


def test_manifest_says_what_only_this_process_knows(run: Run):
    manifest = json.loads((run.path / FILE).read_text())
    assert manifest["schema_version"] == 1
    assert manifest["versions"]["packages"]["pyarrow"] == pa.__version__
    assert manifest["clock"].keys() == {"wall_ns", "monotonic_ns", "boot_id"}
    assert manifest["status"] == run.status == "running"
    assert manifest["kind"] == "compare"
    assert manifest["command"]


def test_no_secret_reaches_the_manifest_or_the_events(tmp_path: Path):
    secret = "sk-verysecretvalue0"
    run = create_run(tmp_path, "x", {"kind": "compare", "engines": {"argv": ["vllm", "--api-key", secret], "HF_TOKEN": secret}})
    run.update(target={"url": f"https://user:{secret}@host/v1?key={secret}"})
    run.note(f"sent Authorization: Bearer {secret}", data={"password": secret})
    run.write_summary({"api_key": secret})
    run.finish()
    assert secret not in (run.path / FILE).read_text()
    assert secret not in (run.path / "summary.json").read_text()
    assert secret not in repr(run.records().events.to_pylist())


def test_generated_ids_name_the_kind_and_do_not_collide(tmp_path: Path):
    ids = {create_run(tmp_path, None, {"kind": "compare"}).id for _ in range(3)}
    assert len(ids) == 3
    assert all("-compare-" in run_id for run_id in ids)


def test_a_taken_name_gets_a_number(run: Run):
    again = create_run(run.path.parent, "mine", {})
    assert again.id == "mine-2"
    assert again.manifest["id"] == "mine-2"


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc", "..", ".", ".hidden", "a\\b", "a b", "é", "x" * 101, "a\n", "evidence", "bench", "latest"]
)
def test_names_that_leave_results_or_are_reserved(tmp_path: Path, name: str):
    with pytest.raises(StoreError, match="run name"):
        create_run(tmp_path / "results", name, {})
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot make a run's folder"):
        create_run(tmp_path / "file", "x", {})


def test_windows_come_back_and_replace_their_own_measurement(run: Run):
    run.add_window(window(1, "1P1D"))
    run.add_window(window(0))
    run.add_window(window(1, "1P1D"))
    assert open_run(run.path).records().windows == (window(0), window(1, "1P1D"))


def test_a_growing_run_is_read_from_segments_and_a_finished_one_from_parquet(run: Run):
    write_chunks(run, "shard0", 1, 2)
    write_chunks(run, "shard1", 3)
    with SegmentWriter(run.segment("samples", "telemetry"), SAMPLES) as writer:
        writer.append({"t_ns": [1], "source": ["gpu0"], "metric": ["power_w"], "value": [1.0]})
    run.note("launched", kind="launch", data={"workers": 2}, t_ns=5)
    before = open_run(run.path).records()
    run.finish()
    after = open_run(run.path).records()
    assert chunk_ids(run) == [1, 2, 3]
    for name, schema in TABLES.items():
        assert getattr(before, name).equals(getattr(after, name)), name
        assert getattr(after, name).schema.equals(schema)
        assert pq.read_schema(run.path / f"{name}.parquet").metadata[b"labkit.schema_version"] == b"1"
    assert after.events.to_pylist() == [{"t_ns": 5, "kind": "launch", "text": "launched", "data": '{"workers": 2}'}]
    assert not (run.path / "segments").exists()
    assert pq.ParquetFile(run.path / "chunks.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    assert run.manifest["rows"]["chunks"] == 3
    assert open_run(run.path).status == "finished"


def test_a_run_from_before_a_column_is_read_and_added_to(run: Run):
    """Columns that may be null are added without another version: runs of an older labkit, whole or growing, still open."""
    new = ("conversation", "turn", "turns")
    older = pa.schema([field for field in REQUESTS if field.name not in new])
    rows = [steady(number) for number in range(3)]
    columns = {name: [row[name] for row in rows] for name in older.names}
    with SegmentWriter(run.segment("requests", "shard0"), older) as writer:
        writer.append(columns)
    growing = open_run(run.path).records().requests
    pq.write_table(pa.table(columns, schema=older), run.path / "requests.parquet")
    both = open_run(run.path).records().requests
    run.finish()
    whole = open_run(run.path).records().requests
    for table, count in ((growing, 3), (both, 6), (whole, 6)):
        assert table.schema.equals(REQUESTS)
        assert (table.num_rows, table.column("conversation").null_count) == (count, count)
        assert table.column("request").to_pylist() == [0, 1, 2] * (count // 3)


def test_a_run_with_columns_from_later_is_read_past_them(run: Run):
    later = TABLES["chunks"].append(pa.field("logprob", pa.float32()))
    columns = {"request": [7], "t_ns": [1], "tokens": [1], "text": [True], "logprob": [0.5]}
    pq.write_table(pa.table(columns, schema=later), run.path / "chunks.parquet")
    assert chunk_ids(run) == [7]


def test_finalise_may_be_called_again_and_takes_later_segments(run: Run):
    write_chunks(run, "shard0", 1)
    run.finalise()
    run.finalise()
    path = write_chunks(run, "shard0", 2)
    assert path.name == "chunks-shard0.arrows"
    assert chunk_ids(run) == [1, 2]
    run.finalise()
    assert chunk_ids(run) == [1, 2]
    assert not path.exists()


def test_a_crash_before_segments_are_deleted_counts_no_row_twice(run: Run, tmp_path: Path):
    path = write_chunks(run, "shard0", 1, 2)
    kept = shutil.copy(path, tmp_path / "kept")
    run.finalise()
    path.parent.mkdir()
    shutil.copy(kept, path)
    assert chunk_ids(run) == [1, 2]
    run.finalise()
    assert chunk_ids(run) == [1, 2]
    assert not path.exists()


def test_a_crash_while_parquet_is_written_leaves_the_segments(run: Run, monkeypatch: pytest.MonkeyPatch):
    path = write_chunks(run, "shard0", 1)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "_metadata", crash)
    with pytest.raises(KeyboardInterrupt):
        run.finalise()
    monkeypatch.undo()
    assert path.exists()
    assert chunk_ids(run) == [1]
    run.finalise()
    assert chunk_ids(run) == [1]


def test_segments_stay_where_the_row_count_differs(run: Run, monkeypatch: pytest.MonkeyPatch):
    path = write_chunks(run, "shard0", 1)
    monkeypatch.setattr(tables, "_write", lambda partial, name, *_: pq.write_table(TABLES[name].empty_table(), partial) or 7)
    with pytest.raises(StoreError, match="0 rows of 7"):
        run.finalise()
    assert path.exists()


def test_a_torn_segment_is_finalised_as_far_as_it_is_whole(run: Run):
    path = write_chunks(run, "shard0", 1, 2)
    path.write_bytes(path.read_bytes()[:-9])
    torn = write_chunks(run, "shard1", 3)
    torn.write_bytes(torn.read_bytes()[:10])
    expected = chunk_ids(run)
    run.finalise()
    assert chunk_ids(run) == expected == []


def test_damaged_parquet_is_a_store_error(run: Run):
    write_chunks(run, "shard0", 1)
    run.finalise()
    path = run.path / "chunks.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"chunks\.parquet is damaged"):
        open_run(run.path).records()


@pytest.mark.parametrize("version", [0, 2, 99, "x", None])
def test_another_schema_version_names_both_and_the_remedy(run: Run, version: object):
    write_json(run.path / FILE, {**run.manifest, "schema_version": version})
    with pytest.raises(StoreError, match=rf"schema version {version!r}.*reads version 1") as caught:
        open_run(run.path)
    assert ("update labkit" in caught.value.remedy) == (version in (2, 99))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema', "\x00\xff"])
def test_a_damaged_manifest_is_a_store_error_and_listed_as_unreadable(run: Run, text: str):
    (run.path / FILE).write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
        open_run(run.path)
    assert [info.status for info in list_runs(run.path.parent)] == ["unreadable"]


def test_open_by_id_prefix_path_and_latest(tmp_path: Path):
    first, second = create_run(tmp_path, "alpha-1", {}), create_run(tmp_path, "alpha-22", {})
    assert open_run("alpha-1", tmp_path).path == first.path
    assert open_run("alpha-2", tmp_path).path == second.path
    assert open_run(first.path).id == open_run(str(first.path)).id == "alpha-1"
    assert open_run("latest", tmp_path).id == "alpha-22"
    with pytest.raises(StoreError, match="begins several runs: alpha-1, alpha-22"):
        open_run("alpha", tmp_path)
    with pytest.raises(StoreError, match="there is no run 'beta'"):
        open_run("beta", tmp_path)
    with pytest.raises(StoreError, match="run name"):
        open_run("..", tmp_path)
    with pytest.raises(StoreError, match="there are no runs"):
        open_run("latest", tmp_path / "empty")


def test_list_runs_newest_first_without_reserved_folders(tmp_path: Path):
    create_run(tmp_path, "a", {"kind": "compare", "topologies": ["2A"]})
    newer = create_run(tmp_path, "b", {"kind": "explore"})
    newer.add_window(window(0, "1P1D"))
    newer.finish("failed", reason="worker died")
    shutil.copytree(newer.path, tmp_path / "evidence")
    (tmp_path / "not-a-run").mkdir()
    infos = list_runs(tmp_path)
    assert [(info.id, info.kind, info.status, info.topologies) for info in infos] == [
        ("b", "explore", "failed", ("1P1D",)),
        ("a", "compare", "running", ("2A",)),
    ]
    assert all(info.size_bytes > 100 for info in infos)
    assert list_runs(tmp_path / "nothing") == []


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path: Path):
    program = "import sys, pathlib; from labkit.store import create_run; create_run(pathlib.Path(sys.argv[1]), 'gone', {})"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert open_run("gone", tmp_path).status == "interrupted"
    assert list_runs(tmp_path)[0].status == "interrupted"


def test_summary_is_kept_with_nan_as_null(run: Run):
    assert run.summary() is None
    run.write_summary({"ttft_p50_s": float("nan"), "n": 3})
    assert run.summary() == {"ttft_p50_s": None, "n": 3}


def test_a_manifest_is_replaced_whole(run: Run, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("labkit.store.manifest.os.fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*manifest\.json: No space left"):
        run.update(seed=9)
    assert json.loads((run.path / FILE).read_text())["seed"] == 3
    assert not list(run.path.glob(".*.tmp"))


def test_a_run_that_cannot_write_its_manifest_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise StoreError("cannot write", remedy="free space")

    monkeypatch.setattr(run_module, "write_json", full)
    with pytest.raises(StoreError):
        create_run(tmp_path, "x", {})
    assert list(tmp_path.iterdir()) == []
