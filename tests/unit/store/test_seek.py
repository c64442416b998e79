"""Rows since an instant are found without what was written before, and nothing is ever missed for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from labkit.errors import StoreError
from labkit.measure.records import CHUNKS, EVENTS
from labkit.store import seek, segments
from labkit.store.seek import Skip, skipped, told
from labkit.store.segments import SegmentWriter, read_segment, segment_batches
from labkit.store.tables import read_since

SECOND = 1_000_000_000
Written = Callable[..., Path]


def times(path: Path, since_ns: int | None = None) -> list[int]:
    return [t_ns for batch in segment_batches(path, since_ns) for t_ns in batch.column("t_ns").to_pylist()]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """A segment of chunks, a write a second; each has rows of the two seconds before it, so that writes overlap."""
    clock = [0]
    monkeypatch.setattr(segments, "time", SimpleNamespace(perf_counter_ns=lambda: clock[0]))
    monkeypatch.setattr(seek, "_STEP", 4096)
    monkeypatch.setattr(seek, "_WINDOW", 1000)  # seals lie across the ends of windows

    def write(seconds: int, *, begin_s: int = 1000, close: bool = False, rows: int = 20) -> Path:
        rng, clock[0] = np.random.default_rng(0), begin_s * SECOND
        writer = SegmentWriter(tmp_path / "segments" / "chunks-shard0.arrows", CHUNKS, flush_s=3600)
        for second in range(begin_s + 1, begin_s + 1 + seconds):
            clock[0] = second * SECOND
            t_ns = np.sort(rng.integers((second - 2) * SECOND, second * SECOND, rows))
            writer.append({"request": np.arange(rows), "t_ns": t_ns, "tokens": [1] * rows, "text": [True] * rows})
            writer.flush()
        if close:
            writer.close()
        return writer.path

    return write


@pytest.mark.parametrize("close", [True, False])
def test_the_rows_since_any_instant_are_all_there_and_little_else_is_read(written: Written, close: bool):
    path = written(600, close=close)
    everything = times(path)
    assert everything == read_segment(path, CHUNKS).column("t_ns").to_pylist()
    for since_s in (0, 999, 1001, 1100, 1333.3, 1590, 1599):
        since_ns = int(since_s * SECOND)
        found = times(path, since_ns)
        wanted = [t_ns for t_ns in everything if t_ns >= since_ns]
        assert [t_ns for t_ns in found if t_ns >= since_ns] == wanted
        assert len(found) <= len(wanted) + 10 * 20, "ten writes more, for clocks that differ"
        kept = read_since(path.parents[1], "chunks", "t_ns", since_ns)
        assert kept.column("t_ns").to_pylist() == wanted
    skip = skipped(path, 1500 * SECOND)
    assert skip is not None
    assert skip.start > path.stat().st_size * 0.75


def test_instants_of_another_clock_are_looked_for_everywhere(written: Written):
    path = written(100)
    assert skipped(path, 10**18) is None, "nothing was written since then, by the clock of the writes"
    assert times(path, 10**18) == times(path)
    assert skipped(path, 5) is None


def test_a_segment_of_a_labkit_that_told_no_instants_is_read_as_a_whole(written: Written, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segments, "told", lambda *_: b"")
    path = written(100)
    assert skipped(path, 1090 * SECOND) is None
    assert len(times(path, 1090 * SECOND)) == 2000


def test_a_torn_end_is_left_out_and_damage_in_what_is_read_is_told(written: Written):
    path = written(300)
    data, skip = path.read_bytes(), skipped(path, 1290 * SECOND)
    assert skip is not None
    path.write_bytes(data[:-7])
    assert len(times(path, 1290 * SECOND)) == len(times(path)) - len(times(path)[: -len(times(path, 1290 * SECOND))])
    assert times(path)[-20:] == times(path, 1290 * SECOND)[-20:]
    broken = bytearray(data)
    broken[skip.start + 300] ^= 1
    path.write_bytes(broken)
    with pytest.raises(StoreError, match=f"damaged after byte {skip.start}"):
        times(path, 1290 * SECOND)


def test_a_text_that_looks_like_a_seal_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = [1000 * SECOND]
    monkeypatch.setattr(segments, "time", SimpleNamespace(perf_counter_ns=lambda: clock[0]))
    monkeypatch.setattr(segments, "_OPTIONS", pa.ipc.IpcWriteOptions())  # compression hides most of them
    monkeypatch.setattr(seek, "_STEP", 512)
    with SegmentWriter(tmp_path / "events-lab.arrows", EVENTS, flush_s=3600) as writer:
        for second in range(1001, 1101):
            clock[0] = second * SECOND
            size = writer.path.stat().st_size
            lie = told(size - 100, size, 9182736450918273).decode()
            writer.append({"t_ns": [clock[0] - 5], "kind": ["note"], "text": [f"{lie} {second}"], "data": [""]})
            writer.flush()
    assert len(re.findall(rb"at \d+ \d+ 9182736450918273;", writer.path.read_bytes())) > 50, "told in the clear"
    since_ns = 1095 * SECOND
    found = times(writer.path, since_ns)
    assert [t_ns for t_ns in found if t_ns >= since_ns] == [second * SECOND - 5 for second in range(1096, 1101)]
    assert len(found) < 20


def test_what_is_skipped_begins_and_ends_where_writes_do(written: Written):
    path = written(50)
    skip = skipped(path, 1040 * SECOND)
    assert isinstance(skip, Skip)
    data = path.read_bytes()
    assert data[skip.head : skip.head + 4] == data[skip.start : skip.start + 4] == b"\xff\xff\xff\xff"
