from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from labkit.measure import ordered
from labkit.measure.digest import digest
from labkit.measure.ordered import request_by_request
from labkit.measure.records import Records
from tests.support.handmade import MS, records, request, window


def interleaved(requests: int, chunks: int) -> Records:
    """Requests that are under way together, their chunks written in the order of time; one lasts from beginning to end."""
    rows = [request(n, [((10 * n + 7 * k) * MS, 1 + k % 2, True) for k in range(chunks)]) for n in range(requests)]
    rows[1]["chunks"][-1] = (10_000 * MS, 1, True)
    rows.append(request(requests, []))
    made = records(rows, windows=[window()])
    return Records(made.requests, made.chunks.sort_by("t_ns"), windows=made.windows)


@pytest.mark.parametrize("least", [1, 50, 10_000])
def test_every_request_comes_whole_once_and_in_order(monkeypatch: pytest.MonkeyPatch, least: int) -> None:
    monkeypatch.setattr(ordered, "_AT_ONCE", least)
    made = interleaved(40, 20)
    parts = [made.chunks.slice(start, 30) for start in range(0, len(made.chunks), 30)]
    order = np.random.default_rng(1).permutation(41)[:30]
    batches = list(request_by_request(digest(made, parts), order))
    assert [len(batch) > 0 for batch in batches] == [True] * len(batches)
    found = pa.table({name: np.concatenate([getattr(batch, name) for batch in batches]) for name in ("row", "t_ns", "tokens")})
    wanted = []
    for place, row in enumerate(order.tolist()):
        mine = made.chunks.filter(pa.compute.equal(made.chunks["request"], made.requests["request"][row])).sort_by("t_ns")
        wanted += [{"row": place, "t_ns": chunk["t_ns"], "tokens": chunk["tokens"]} for chunk in mine.to_pylist()]
    assert found.to_pylist() == wanted
    owners = [set(batch.row.tolist()) for batch in batches]
    assert sum(map(len, owners)) == len(set.union(*owners)), "no request is cut in two"


def test_requests_that_end_in_order_wait_for_those_before_them_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "_AT_ONCE", 1)
    made = records([request(n, [((100 * n + k) * MS, 1, True) for k in range(10)]) for n in range(30)], windows=[window()])
    parts = [made.chunks.slice(start, 10) for start in range(0, 300, 10)]
    sizes = [len(batch) for batch in request_by_request(digest(made, parts), np.arange(30))]
    assert sizes == [10] * 30
