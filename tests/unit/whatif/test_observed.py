"""Sides of the store as observations: with their own options, and none that is no steady load of single requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.store.manifest import FILE
from labkit.store.run import Run, open_run
from labkit.whatif.at_load import STEP_TOKENS
from labkit.whatif.observed import Observation, observations_of
from tests.support.saved_runs import said_elsewhere, saved_run

ON_H100 = {
    "hardware": {"summary": "one node", "gpus": [{"index": 0, "name": "NVIDIA H100 80GB HBM3"}]},
    "model": {"source": "llama-3.1-8b"},
}


def measured(folder: Path, sides: tuple[str, ...] = ("2A",), load: dict[str, Any] | None = None, **manifest: Any) -> Run:
    """A run on a GPU whose windows had another load than a rate."""
    run = saved_run(folder, "one", sides, gpus=True, manifest=ON_H100 | manifest)
    windows = json.loads((run.path / FILE).read_text())["windows"]
    said_elsewhere(run, windows=[{**window, "workload": {**window["workload"], **(load or {})}} for window in windows])
    return open_run(run.path)


def observed(run: Run) -> tuple[list[Observation], list[str]]:
    left_out: list[str] = []
    return observations_of([run], left_out), left_out


def test_the_chunk_size_is_that_of_the_sides_own_workers(tmp_path: Path):
    run = measured(tmp_path, ("2A", "1P1D", "3A"), options={"max_num_batched_tokens": 2048})
    epochs = [dict(epoch) for epoch in run.manifest["epochs"]]
    epochs[1]["options"] = {"max_num_batched_tokens": 512}  # as a change writes it
    epochs[2]["options"] = {"max_num_batched_tokens": None}
    said_elsewhere(run, epochs=epochs)
    found, _ = observed(open_run(run.path))
    assert {one.side: one.step_tokens for one in found} == {"2A": 2048, "1P1D": 512, "3A": STEP_TOKENS}


def test_repeats_with_different_chunk_sizes_are_no_one_side(tmp_path: Path):
    run = measured(tmp_path, ("2A", "2A"))
    epochs = [dict(epoch) for epoch in run.manifest["epochs"]]
    epochs[1]["options"] = {"max_num_batched_tokens": 512}
    said_elsewhere(run, epochs=epochs)
    assert observed(open_run(run.path)) == ([], ["2A of one: its repeats had different chunk sizes"])


@pytest.mark.parametrize(
    ("load", "why"),
    [
        ({"turns": "4", "think_s": "1.5"}, "turns of conversations"),
        ({"prefix_groups": 3, "prefix_tokens": 100}, "share prefixes"),
        ({"rate": None, "concurrency": 16}, "16 in flight: fewer than 4 rounds are a wave and no steady load"),
        ({"osl": "1"}, "answers of one token have no TPOT"),
    ],
)
def test_what_is_no_steady_load_of_single_requests_is_left_out_and_named(tmp_path: Path, load: dict[str, Any], why: str):
    found, left_out = observed(measured(tmp_path, load=load))
    assert found == []
    assert len(left_out) == 1
    assert left_out[0].startswith("2A of one: ")
    assert why in left_out[0]


def test_a_closed_loop_of_several_rounds_is_observed(tmp_path: Path):
    (one,), left_out = observed(measured(tmp_path, load={"rate": None, "concurrency": 2, "prefix_groups": 0, "turns": None}))
    assert (one.concurrency, one.rate_hz) == (2, None)
    assert one.request_hz is not None
    assert left_out == []


def test_a_side_of_no_use_leaves_the_others_of_its_run(tmp_path: Path):
    run = measured(tmp_path, ("2A", "1P1D"))
    windows = json.loads((run.path / FILE).read_text())["windows"]
    windows[0]["workload"]["osl"] = "1"  # a sweep of prefills, with decodes after it
    said_elsewhere(run, windows=windows)
    found, left_out = observed(open_run(run.path))
    assert [one.side for one in found] == ["1P1D"]
    assert len(left_out) == 1
