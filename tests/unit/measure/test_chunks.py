from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from labkit.measure.chunks import RequestRows, TokenChunks, sort_out
from labkit.measure.records import CHUNKS

I64 = np.int64


@pytest.mark.parametrize("stride", [1, 3, 10**6, 2**40])
def test_rows_of_requests_whether_their_numbers_are_dense_or_not(stride: int):
    request = np.random.default_rng(0).permutation(50_000).astype(I64) * stride + 7
    rows = RequestRows(request)
    assert len(rows) == 50_000
    assert rows.of(request).tolist() == list(range(50_000))
    assert rows.of(np.array([6, 7, int(request.max()) + 1, -(2**62)])).tolist()[::2] == [-1, -1]
    assert request[rows.of(np.array([7]))] == 7


def test_a_number_that_occurs_twice_is_the_first_of_them():
    for spread in (1, 2**50):
        assert RequestRows(np.array([5, 4, 5]) * spread).of(np.array([5, 4]) * spread).tolist() == [0, 1]


def test_no_requests_have_no_rows():
    assert RequestRows(np.zeros(0, I64)).of(np.array([0, 1])).tolist() == [-1, -1]


@pytest.mark.parametrize("rows", [1, 300, 70_000, 10**6])
def test_chunks_are_sorted_by_row_then_time_and_ties_keep_their_order(rows: int):
    rng = np.random.default_rng(rows)
    row, t_ns = rng.integers(0, rows, 20_000), np.sort(rng.integers(0, 5000, 20_000))
    for when in (t_ns, rng.permutation(t_ns)):
        found = TokenChunks.of(row, when, np.arange(20_000))
        order = sorted(range(20_000), key=lambda i: (row[i], when[i], i))
        assert found.tokens.tolist() == order
        assert found.row.tolist() == row[order].tolist()
        assert found.t_ns.tolist() == when[order].tolist()
        assert found.row[found.heads].tolist() == sorted(set(row.tolist()))
        assert found.lengths.sum() == len(found) == 20_000


def test_text_decides_only_where_tokens_are_unknown():
    given = [(1, 0, True), (1, 1, False), (1, None, True), (1, None, False), (2, 3, True)]
    table = pa.Table.from_pylist(
        [{"request": r, "t_ns": t, "tokens": k, "text": text} for t, (r, k, text) in enumerate(given)], schema=CHUNKS
    )
    found = sort_out(table, RequestRows(np.array([1])))
    assert (found.t_ns.tolist(), found.tokens.tolist()) == ([1, 2], [1, -1])


def test_requests_that_come_together_may_stay_in_their_order():
    row, t_ns = np.array([5, 5, 5, 2, 2, 2, 9, 9]), np.array([1, 2, 3, 0, 7, 9, 4, 4])
    found = TokenChunks.of(row, t_ns, np.arange(8), by_row=False)
    assert (found.row.tolist(), found.heads.tolist()) == (row.tolist(), [0, 3, 6])
    assert TokenChunks.of(row, t_ns, np.arange(8)).row.tolist() == sorted(row.tolist())
    for apart in ([5, 5, 5, 2, 2, 2, 5, 5], [3, 2, 1, 0, 4, 5, 6, 7]):
        assert TokenChunks.of(np.array(apart), t_ns, np.arange(8), by_row=False).row.tolist() == sorted(apart)
    late = TokenChunks.of(row, t_ns[::-1].copy(), np.arange(8), by_row=False)
    assert [late.t_ns[begin : begin + n].tolist() for begin, n in zip(late.heads, late.lengths, strict=True)] == [
        sorted(late.t_ns[begin : begin + n].tolist()) for begin, n in zip(late.heads, late.lengths, strict=True)
    ]
