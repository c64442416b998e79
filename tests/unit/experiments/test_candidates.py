from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import SpecError
from labkit.experiments.candidates import Candidate, candidates
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Topology


def names(*args: int, **options: object) -> list[str]:
    return [str(one) for one in candidates(*args, **options)]  # type: ignore[arg-type]


def test_every_split_of_a_pool_of_four():
    assert names(4) == ["4A", "1P3D", "2P2D", "3P1D"]
    assert names(1) == ["1A"]


def test_chunk_sizes_are_for_aggregated_splits():
    assert names(2, chunks=[256, 1024, 256]) == ["2A", "1P1D", "2A (chunks of 256)", "2A (chunks of 1024)"]


def test_degrees_are_mixed_and_pools_stay_together():
    found = names(8, tps=[4, 8])
    assert found == ["1A@tp8", "2A@tp4", "1P@tp4+1D@tp4"]
    assert "2P@tp2+1D@tp4" in names(8, tps=[2, 4])
    pools = [one.topology.pool for one in candidates(8, tps=[1, 2, 4, 8])]
    assert sum(before != after for before, after in itertools.pairwise(pools)) == len(set(pools)) - 1


@given(st.integers(1, 12), st.sets(st.sampled_from([1, 2, 4, 8]), min_size=1))
def test_all_hold_as_many_accelerators_and_none_comes_twice(accelerators: int, tps: set[int]):
    try:
        found = candidates(accelerators, tps=sorted(tps))
    except SpecError:
        assert 1 not in tps
        return
    assert {one.topology.accelerators for one in found} == {accelerators}
    assert len(set(found)) == len(found)
    assert {tp for one in found for _, tp in one.topology.workers} <= tps


@pytest.mark.parametrize(
    ("count", "options"), [(0, {}), (4, {"tps": []}), (4, {"tps": [0]}), (4, {"chunks": [0]}), (3, {"tps": [2]})]
)
def test_what_cannot_be_is_refused(count: int, options: dict[str, list[int]]):
    with pytest.raises(SpecError):
        candidates(count, **options)


def test_a_chunk_size_goes_into_the_options_of_the_search():
    base = EngineOptions(max_num_seqs=8, max_num_batched_tokens=4096)
    assert Candidate(Topology("2A"), 512).options(base) == EngineOptions(max_num_seqs=8, max_num_batched_tokens=512)
    assert Candidate(Topology("2A")).options(base) == base
