"""Profiles fitted to runs: a known law is found again, its error is that of runs left out, and what is missing is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from labkit.errors import ProjectionError
from labkit.store.run import Run
from labkit.whatif import timing_runs
from labkit.whatif.timing_observed import Decoded, Observed, Prefilled
from labkit.whatif.timing_runs import timing_from_runs

MANIFEST = {
    "model": {"name": "llama-3.1-8b"},
    "hardware": {"gpus": [{"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 * 2**30}]},
}


class Kept:
    """As much of a run as a fit looks at."""

    def __init__(self, run_id: str, manifest: dict[str, object] | None = None) -> None:
        self.id, self.manifest = run_id, MANIFEST if manifest is None else manifest


def law(run: str, factor: float = 1.0) -> Observed:
    rng = np.random.default_rng(sum(map(ord, run)))
    prefill = [Prefilled(n, factor * (0.01 + 5e-5 * n + 1e-9 * n * n)) for n in rng.uniform(32, 4096, 20)]
    decode = [
        Decoded(r * c, c, factor * (0.008 + 3e-8 * r * c + 1e-5 * r))
        for r, c in zip(rng.integers(1, 64, 40), rng.uniform(200, 3000, 40), strict=True)
    ]
    return Observed(run, tuple(prefill), tuple(decode), 4e9, 0.1)


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Observed]:
    known: dict[str, Observed] = {}
    monkeypatch.setattr(timing_runs, "observed_steps", lambda run, tp: known[run.id])
    return known


def runs(*ids: str) -> list[Run]:
    return [Kept(one) for one in ids]  # type: ignore[misc]


def test_a_known_law_is_found_again_with_its_transfer(observed: dict[str, Observed]) -> None:
    observed.update(a=law("a"), b=law("b"))
    fit = timing_from_runs(runs("a", "b"))
    assert fit.profile.prefill(2000) == pytest.approx(0.01 + 0.1 + 0.004, rel=0.01)
    assert fit.profile.itl(20 * 1000, 1000) == pytest.approx(0.008 + 0.0006 + 0.0002, rel=0.02)
    assert fit.profile.kv_transfer_bytes_s == pytest.approx(40e9)
    assert {name: error.worst < 1e-6 for name, error in fit.errors.items()} == {"prefill": True, "decode": True}
    assert "error on held-out runs: prefill 0% mean" in str(fit)
    assert fit.profile.gpu == "NVIDIA H100 80GB HBM3"


def test_the_error_is_that_of_a_run_the_fit_has_not_seen(observed: dict[str, Observed]) -> None:
    observed.update(a=law("a"), b=law("b"), slow=law("slow", 1.25))
    fit = timing_from_runs(runs("a", "b", "slow"))
    assert fit.errors["decode"].count == 3
    assert fit.errors["decode"].worst == pytest.approx(0.2, abs=0.01), "1 / 1.25 of what was measured"


def test_the_longest_prompt_of_a_distribution_is_in_range_though_none_was_drawn(observed: dict[str, Observed]) -> None:
    one = law("a")
    observed["a"] = replace(one, prefill=tuple(row for row in one.prefill if row.tokens < 4000))
    longest = max(row.tokens for row in observed["a"].prefill)
    profile = timing_from_runs(runs("a")).profile
    assert profile.beyond(prompt_tokens=longest * 1.05, active_kv_tokens=0, context_tokens=0) == []
    assert len(profile.beyond(prompt_tokens=longest * 1.15, active_kv_tokens=0, context_tokens=0)) == 1
    assert profile.prefill(longest * 1.05) == pytest.approx(0.01 + 5e-5 * longest * 1.05 + 1e-9 * (longest * 1.05) ** 2, rel=0.01)


def test_one_run_alone_has_no_error_to_state(observed: dict[str, Observed]) -> None:
    observed["a"] = law("a")
    fit = timing_from_runs(runs("a"))
    assert not fit.errors
    assert "its error is unknown" in str(fit)


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        (Observed("a", (), law("a").decode, 0, 0), "prefills of two lengths or more"),
        (Observed("a", law("a").prefill, (), 0, 0), "decoded by a worker that decodes alone"),
        (Observed("a", (), (), 0, 0), "neither prefills nor decodes of TP 1"),
    ],
)
def test_what_the_runs_lack_is_named(observed: dict[str, Observed], lacking: Observed, said: str) -> None:
    observed["a"] = lacking
    with pytest.raises(ProjectionError, match=said):
        timing_from_runs(runs("a"))


def test_simulated_runs_are_left_out_and_mixed_ones_refused(observed: dict[str, Observed]) -> None:
    observed["a"] = law("a")
    simulated = Kept("s", {**MANIFEST, "simulated": {"gpu": "h100_sxm"}})
    assert "s: simulated, not measured" in timing_from_runs([*runs("a"), simulated]).left_out  # type: ignore[list-item]
    other = Kept("o", {**MANIFEST, "model": {"name": "qwen3-8b"}})
    with pytest.raises(ProjectionError, match=r"several models: llama-3\.1-8b, qwen3-8b"):
        timing_from_runs([*runs("a"), other])  # type: ignore[list-item]
    with pytest.raises(ProjectionError, match="no measured run"):
        timing_from_runs([simulated])  # type: ignore[list-item]
