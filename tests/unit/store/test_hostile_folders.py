"""A run's folder from elsewhere: reading it executes nothing and takes bounded memory, writing into it stays within it."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from labkit.cli.main import main
from labkit.errors import SpecError, StoreError
from labkit.serve.timing import TimingProfile
from labkit.store import Run, list_runs, open_run
from labkit.store.manifest import FILE, write_json
from tests.support.bounded import bounded
from tests.support.saved_runs import said_elsewhere, saved_run

PICKLE = b"cposix\nsystem\n(S'touch PWNED'\ntR."
READ = """
from labkit.store import open_run
run = open_run("mine", __import__("pathlib").Path("."))
run.records()
run.digest()
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return saved_run(tmp_path, "mine", ("2A", "1P1D"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a":' * 200_000, "nests too deep"), ("[" * 200_000, "nests too deep"), ("[]", "no JSON object"),
        ("9" * 10_000, "is damaged"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", [FILE, "summary.json"])
def test_json_that_is_a_bomb_is_damage(run: Run, name: str, text: str, message: str):
    (run.path / name).write_text(text)
    with pytest.raises(StoreError, match=message) as caught:
        open_run(run.path).summary()
    assert len(str(caught.value)) < 1000
    if name == FILE:
        assert [info.status for info in list_runs(run.path.parent)] == ["unreadable"], "and the others can still be listed"


@pytest.mark.parametrize("name", [FILE, "summary.json"])
def test_a_pipe_a_device_and_a_file_without_end_are_not_read(run: Run, name: str):
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: os.truncate(path.touch() or path, 1 << 34)):
        (run.path / name).unlink(missing_ok=True)
        make(run.path / name)
        with pytest.raises(StoreError, match=r"is no file|bytes, which no run"):
            open_run(run.path).summary()


def test_halves_of_characters_are_replaced(run: Run):
    said_elsewhere(run, model={"name": "a\ud800b", "\udc00": ["\ud83d"]}, reason="\ud83d\ude00")
    found = open_run(run.path).manifest
    assert found["model"] == {"name": "a\ufffdb", "\ufffd": ["\ufffd"]}
    assert found["reason"] == "\U0001f600"


@pytest.mark.parametrize(
    "change", [{"windows": 3}, {"windows": [3]}, {"topologies": 3}, {"clock": "x"}, {"process": [1]}, {"started": 3}]
)
def test_a_manifest_of_other_types_is_listed_all_the_same(
    run: Run, change: dict[str, object], capsys: pytest.CaptureFixture[str]
):
    said_elsewhere(run, **{"status": "running", **change})
    assert main(["runs", "--results", str(run.path.parent)]) == 0
    assert "mine" in capsys.readouterr().out


def samples(rows: int, *, extension: bool = False) -> pa.Table:
    columns = {
        "t_ns": pa.array(np.zeros(rows, np.int64)),
        "source": pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["gpu0"])),
        "metric": pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["power_w"])),
        "value": pa.array(np.zeros(rows)),
    }
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": PICKLE} if extension else None
    fields = [pa.field(name, column.type, metadata=metadata) for name, column in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def test_a_small_table_of_a_billion_rows_is_refused(run: Run):
    said_elsewhere(run)
    part = samples(1 << 20)
    with pq.ParquetWriter(run.path / "samples.parquet", part.schema, compression="zstd") as writer:
        for _ in range(40):
            writer.write_table(part)
    assert (run.path / "samples.parquet").stat().st_size < 1 << 20
    ended = bounded(READ, run.path.parent, gib=1.0)
    assert ended.kind == "LabError", ended
    assert "samples.parquet has 41,943,040 rows, which take" in ended.error
    assert ended.peak_bytes < 1 << 29


def test_a_value_of_a_gigabyte_is_refused(run: Run):
    said_elsewhere(run)
    one = pa.table({"t_ns": [1], "kind": ["note"], "text": ["x" * (600 << 20)], "data": [""]})
    pq.write_table(one, run.path / "events.parquet", compression="zstd", use_dictionary=False, write_statistics=False)
    ended = bounded(READ, run.path.parent, gib=1.0)
    assert ended.kind == "LabError"
    assert "events.parquet has 1 rows, which take 0.6 GB" in ended.error


def test_types_that_bring_a_pickle_are_not_unpickled(run: Run):
    said_elsewhere(run)
    pq.write_table(samples(3, extension=True), run.path / "samples.parquet")
    (run.path / "segments").mkdir()
    with pa.ipc.new_stream(run.path / "segments" / "samples-x.arrows", samples(3, extension=True).schema) as writer:
        writer.write_table(samples(3, extension=True))
    ended = bounded(READ, run.path.parent)
    assert ended.kind in ("", "LabError"), ended
    assert not list(run.path.parent.rglob("PWNED"))


def test_a_segment_that_unpacks_to_gigabytes_ends_where_memory_does(run: Run):
    (run.path / "segments").mkdir()
    table = samples(40 << 20)
    plain = table.set_column(1, "source", table["source"].cast(pa.string())).set_column(
        2, "metric", table["metric"].cast(pa.string())
    )
    with pa.ipc.new_stream(
        run.path / "segments" / "samples-x.arrows", plain.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")
    ) as writer:
        writer.write_table(plain)
    ended = bounded(READ, run.path.parent, gib=1.0)
    assert ended.kind in ("", "LabError"), ended


@pytest.mark.parametrize("notes", [b"[" * 100_000, b"{", b"3", b"\xff"])
def test_notes_of_a_table_that_are_no_list_are_damage(run: Run, notes: bytes):
    pq.write_table(samples(1).replace_schema_metadata({b"labkit.segments": notes}), run.path / "samples.parquet")
    with pytest.raises(StoreError, match="is damaged"):
        open_run(run.path).records()


def test_what_is_drawn_or_exported_stays_in_the_run(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    precious = elsewhere / "precious"
    precious.write_text("mine")
    (run.path / "figures").symlink_to(elsewhere)
    (run.path / "deployment").symlink_to(elsewhere)
    for command in (["export", "mine", "--format", "svg"], ["export-deployment", "mine", "--to", "vllm-shell", "--side", "2A"]):
        assert main([*command, "--results", str(tmp_path)]) == 2
        assert "is a link, which the lab puts into no run" in capsys.readouterr().err
    (run.path / "figures").unlink()
    (run.path / "figures").mkdir()
    (run.path / "figures" / "timeline.svg").symlink_to(precious)
    assert main(["export", "mine", "--format", "svg", "--results", str(tmp_path)]) == 2
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert precious.read_text() == "mine"


def test_no_link_is_written_through(run: Run, tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (run.path / f".{FILE}.tmp").symlink_to(precious)
    with pytest.raises(StoreError, match="cannot write"):
        write_json(run.path / FILE, {"a": 1})
    write_json(run.path / FILE, {"a": 1})  # it was removed
    assert precious.read_text() == "mine"


def test_a_report_shows_no_file_that_a_link_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = saved_run(tmp_path / "results", "mine", manifest={"kind": "prefill-saturation"})
    secret = tmp_path / "key.svg"
    secret.write_text("<svg>c4n4ry</svg>")
    (run.path / "figures").mkdir()
    (run.path / "figures" / "knee.svg").symlink_to(secret)
    assert main(["report", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "page.html")]) == 0
    assert base64.b64encode(secret.read_bytes()).decode()[:12] not in (tmp_path / "page.html").read_text()


def test_timing_profiles_bring_no_objects_and_no_bombs(tmp_path: Path):
    path = tmp_path / "tp1.npz"
    np.savez(path, prefill_isl=np.array([print], dtype=object), labkit_about=np.zeros(1, np.uint8))
    with pytest.raises(SpecError, match="is no timing profile"):
        TimingProfile.load(path)
    np.savez_compressed(path, prefill_isl=np.zeros(16 << 20), labkit_about=np.frombuffer(b"{}", np.uint8))
    with pytest.raises(SpecError, match="it unpacks to more than"):
        TimingProfile.load(path)
    np.save(tmp_path / "plain.npy", np.zeros(3))
    (tmp_path / "plain.npy").rename(path)
    with pytest.raises(SpecError, match="is no timing profile"):
        TimingProfile.load(path)
    path.write_bytes(PICKLE)
    with pytest.raises(SpecError, match="is no timing profile"):
        TimingProfile.load(path)
