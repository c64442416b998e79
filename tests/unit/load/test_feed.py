"""The pipe between a shard that is watched and whoever watches: whole batches or none, and no waiting."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from labkit.load.feed import Feed, Tap, packed
from tests.support.waiting import open_files

STATE: dict[str, Any] = {
    "until_ns": 9, "running": True, "closed_loop": [3], "in_flight": 2, "oldest": 1, "failed": 0,
}  # fmt: skip


def columns(count: int, *, known: bool = True) -> dict[str, Any]:
    tokens = np.arange(count, dtype=np.int16) if known else [None if n % 2 else n for n in range(count)]
    numbers = np.arange(count, dtype=np.int64)
    return {"request": numbers, "t_ns": numbers * 10, "tokens": tokens, "text": numbers % 2 == 0}


@pytest.fixture
def ends() -> Iterator[tuple[Tap, Feed]]:
    read, write = os.pipe()
    tap, feed = Tap(write, 4), Feed(read)
    yield tap, feed
    tap.close()
    feed.close()
    feed.close()


def test_what_is_told_is_what_is_read(ends: tuple[Tap, Feed]):
    tap, feed = ends
    tap.watch(7, 5, [(1, 2)])
    tap.sent(2, 6)
    row = (0, "ok", None, 1.5)
    tap.tell(columns(5, known=False), [row], **STATE)
    (batch,) = feed.read(7)
    assert (batch.watch, batch.shard, batch.since_ns, batch.until_ns, batch.lost) == (7, 4, 5, 9, 0)
    assert (batch.sent, [tuple(ended) for ended in batch.ended], batch.closed_loop) == ([(1, 2), (2, 6)], [row], [3])
    assert [column.tolist() for column in batch.chunks] == [
        [0, 1, 2, 3, 4],
        [0, 10, 20, 30, 40],
        [0, -1, 2, -1, 4],
        [True, False, True, False, True],
    ]
    tap.tell(columns(0), [], **STATE)
    (batch,) = feed.read(7)
    assert (batch.sent, batch.ended, len(batch.chunks[0])) == ([], [], 0)


def test_without_a_watch_nothing_is_written(ends: tuple[Tap, Feed]):
    tap, feed = ends
    tap.sent(1, 2)
    tap.tell(columns(3), [], **STATE)
    tap.watch(1, 0)
    tap.watch(0, 0, [(1, 2)])
    tap.tell(columns(3), [], **STATE)
    assert not tap.watched
    assert feed.read(0) == feed.read(1) == []


def test_a_reader_that_lags_loses_whole_batches_which_are_counted(ends: tuple[Tap, Feed]):
    tap, feed = ends
    tap.watch(1, 0)
    for number in range(1000):
        tap.sent(number, number)
        tap.tell(columns(2000), [], **STATE)
    got = [batch for _ in range(1000) for batch in feed.read(1)]
    kept = len(got)
    assert 0 < kept < 1000
    assert all(batch.lost == 0 for batch in got)
    tap.tell(columns(2000), [], **STATE)  # brings the rest of a batch that was cut, and itself
    got += feed.read(1)
    tap.tell(columns(2000), [], **STATE)
    got += feed.read(1)
    assert [len(batch.chunks[0]) for batch in got] == [2000] * len(got)
    assert got[-1].lost == 1000 - (len(got) - 2)
    assert [batch.sent for batch in got[: kept - 1]] == [[(number, number)] for number in range(kept - 1)]


def test_what_an_earlier_watch_left_is_thrown_away(ends: tuple[Tap, Feed]):
    tap, feed = ends
    tap.watch(1, 0)
    tap.tell(columns(2), [], **STATE)
    tap.watch(2, 0)
    tap.tell(columns(3), [], **STATE)
    assert [len(batch.chunks[0]) for batch in feed.read(2)] == [3]


def test_a_reader_that_is_gone_ends_the_watch_and_nothing_else():
    files = open_files()
    read, write = os.pipe()
    tap, feed = Tap(write, 0), Feed(read)
    tap.watch(1, 0)
    feed.close()
    tap.tell(columns(2), [], **STATE)
    assert not tap.watched
    tap.tell(columns(2), [], **STATE)
    tap.close()
    assert open_files() == files


def test_a_shard_that_is_gone_is_the_end_and_a_torn_batch_is_left_out():
    read, write = os.pipe()
    tap, feed = Tap(os.dup(write), 0), Feed(read)
    tap.watch(1, 0)
    tap.tell(columns(2), [], **STATE)
    os.write(write, b"\xff\x00\x00\x00torn")
    os.close(write)
    tap.close()
    assert len(feed.read(1)) == 1
    assert feed.ended
    feed.close()


def test_columns_are_packed_in_their_types():
    data = packed(columns(3, known=False))
    assert {name: len(value) for name, value in data.items()} == {"request": 24, "t_ns": 24, "tokens": 6, "text": 3}
