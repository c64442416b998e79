"""Damage to any file of a run that holds numbers is found, whatever it is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import StoreError
from labkit.measure.records import TABLES
from labkit.store import open_run
from labkit.store.manifest import FILE, write_json
from labkit.store.sums import FIELD, check_file, file_sum, json_sum
from tests.support.saved_runs import saved_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = saved_run(tmp_path_factory.mktemp("results"), "mine", ("2A", "1P1D"), duration_s=4.0)
    run.write_summary({"ttft_s": 0.5, "sides": {"2A": [1, 2.5, None]}})
    return run.path


def read(folder: Path) -> tuple[Any, ...]:
    run = open_run(folder)
    return (run.manifest, run.records(), run.summary(), run.count_rows(), len(run.digest().requests))


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    tables = all(getattr(one[1], name).equals(getattr(other[1], name)) for name in TABLES)
    return tables and one[1].windows == other[1].windows and (one[0], *one[2:]) == (other[0], *other[2:])


def test_a_flipped_bit_is_found_or_harmless_in_every_file(whole: Path):
    before, rng = read(whole), random.Random(3)
    files = [path for path in sorted(whole.iterdir()) if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".parquet"}
    for path in files:
        data = path.read_bytes()
        found = 0
        for _ in range(40):
            damaged = bytearray(data)
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            try:
                now = read(whole)
            except StoreError as error:
                found += str(path) in str(error) and bool(error.remedy)
            else:
                assert same(now, before)
        path.write_bytes(data)
        assert found > (20 if path.suffix == ".json" else 39)
    assert same(read(whole), before)


@pytest.mark.parametrize("name", [*(f"{table}.parquet" for table in TABLES), FILE, "summary.json"])
def test_a_truncated_file_is_named(whole: Path, name: str):
    data = (whole / name).read_bytes()
    for kept in (0, 1, len(data) // 2, len(data) - 3):
        (whole / name).write_bytes(data[:kept])
        with pytest.raises(StoreError, match=rf"{name} is damaged"):
            read(whole)
    (whole / name).write_bytes(data)


def test_a_file_that_is_gone_is_not_an_empty_table(whole: Path):
    path = whole / "chunks.parquet"
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(StoreError, match=r"chunks\.parquet is missing") as caught:
        open_run(whole).records()
    assert "restore" in caught.value.remedy
    path.write_bytes(data)


def test_pages_have_checksums_of_their_own(whole: Path):
    """For whoever reads the tables with other tools, and for a run that was cut off before its manifest had theirs."""
    path = whole / "chunks.parquet"
    data, run = path.read_bytes(), open_run(whole)
    del run.manifest["sums"]
    damaged = bytearray(data)
    damaged[200] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"chunks\.parquet is damaged"):
        run.records()
    path.write_bytes(data)
    assert run.records().chunks.num_rows


def test_a_checksum_is_of_what_is_said_and_not_of_the_layout(tmp_path: Path):
    path = tmp_path / "x.json"
    write_json(path, {"b": 1.5, "a": {"é": [None, float("inf")]}})
    said = json.loads(path.read_text())
    assert said.pop(FIELD) == json_sum({"a": {"é": [None, None]}, "b": 1.5}) == json_sum(said)


def test_a_file_is_held_to_its_length_and_its_content(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"123456789")
    assert file_sum(path) == {"bytes": 9, "crc32": "cbf43926"}, "the check value of CRC-32"
    check_file(path, {"bytes": 9, "crc32": "cbf43926"})
    with pytest.raises(StoreError, match="9 bytes of 10"):
        check_file(path, {"bytes": 10, "crc32": "cbf43926"})
    with pytest.raises(StoreError, match="CRC-32 is cbf43926, and was 00000000"):
        check_file(path, {"bytes": 9, "crc32": "00000000"})
    with pytest.raises(StoreError, match="cannot read"):
        file_sum(tmp_path)


def test_late_segments_change_the_sums(tmp_path: Path):
    run = saved_run(tmp_path, "mine", ("2A",), duration_s=4.0)
    before = run.manifest["sums"]
    run.note("late")
    run.finish()
    assert run.manifest["sums"]["chunks.parquet"] == before["chunks.parquet"]
    assert run.manifest["sums"]["events.parquet"] != before["events.parquet"]
    assert open_run(run.path).records().events["text"].to_pylist()[-1] == "late"
