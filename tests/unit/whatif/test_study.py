"""One question from asking to the run that keeps its answer, under a known law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.cli.main import main
from labkit.errors import ProjectionError, SpecError, StoreError
from labkit.experiments.report import pick_runs, report
from labkit.figures.whatif import whatif_figures
from labkit.store.run import create_run, open_run
from labkit.whatif import Question, WhatIf, ask_whatif, reopened
from labkit.whatif.kept import KIND
from labkit.whatif.study import KEY
from tests.support.projected import Law
from tests.support.saved_runs import saved_run

SMALL: dict[str, Any] = {
    "isls": [512, 2048], "osls": [64, 128], "ttfts_s": [0.2, 1.0], "tpots_s": [0.004, 0.010], "models": ["llama-3.1-8b"],
}  # fmt: skip
H100 = {"hardware": {"summary": "a node", "gpus": [{"index": 0, "name": "NVIDIA H100 80GB HBM3"}]}}


def question(**given: Any) -> Question:
    return Question.of("llama-3.1-8b", **{**SMALL, "isl": 2000, "osl": 100, "ttft_s": 1.0, "tpot_s": 0.010, **given})


def silent(text: str) -> None:
    """Tells nobody."""


def ask(results: Path, asked: Question, **options: Any) -> tuple[Any, WhatIf]:
    return ask_whatif(asked, results=results, estimator=Law(), tell=silent, **options)


def test_the_run_keeps_all_that_was_projected_and_opens_again_without_asking(tmp_path: Path):
    run, found = ask(tmp_path, question())
    kept = open_run("latest", tmp_path)
    assert kept.status == "finished"
    assert kept.manifest["kind"] == KIND
    assert kept.manifest[KEY]["projected"] is True
    assert kept.manifest["answer"] == str(found)
    assert reopened(kept) == found
    assert run.id == kept.id
    law = Law()
    ask_whatif(question(), results=tmp_path, estimator=law, tell=silent)
    assert law.asked == []


def test_no_number_is_told_without_its_source_and_its_error(tmp_path: Path):
    _, found = ask(tmp_path, question())
    text = " ".join(str(found).split())
    assert text.startswith("Projected, not measured: llama-3.1-8b on h100_sxm")
    assert "No error can be given: no measured run" in text
    assert "Not counted: moving the KV cache, 262 MB a request" in text  # 2 · 32 layers · 8 heads · 128 · 2 bytes · 2,000
    assert "Claim 4, Llama 70B on one node" in text
    for figure in whatif_figures(found):
        assert "Projected by a law, not measured. No error can be given" in figure.subtitle
        assert "projected" in figure.name


def test_runs_on_a_cpu_give_no_error_and_the_answer_says_so(tmp_path: Path):
    saved_run(tmp_path, "cpu", ("2A", "1P1D"))
    _, found = ask(tmp_path, question(claims=False))
    assert "measured on a CPU, which AIConfigurator has no timings of" in found.error.words


def test_own_runs_calibrate_it_and_what_is_beyond_them_is_refused(tmp_path: Path):
    for at, rate in enumerate((1.0, 1.5)):
        given = H100 | {"model": {"source": "llama-3.1-8b"}}
        saved_run(tmp_path, f"gpu{at}", ("2A", "1P1D"), gpus=True, rate=rate, manifest=given)
    inside = question(isl=512, osl=32, ttft_s=None, tpot_s=None, claims=False)
    _, found = ask(tmp_path, inside)
    assert "Error on held-out runs. Aggregated: TTFT" in str(found)
    assert found.aggregated is not None
    assert {duel.reason[:32] for duel in found.maps[1].duels if duel.winner == "unknown"} == {"outside of the calibrated range:"}
    assert "corrected by 2 runs" in found.source
    with pytest.raises(ProjectionError, match=r"ISL 2000, OSL \d+ \(calibrated: ISL 512, OSL 32\)"):
        ask(tmp_path, question())
    _, asked_for = ask(tmp_path, question(), extrapolate=True)
    assert "there the error is unknown" in " ".join(str(asked_for).split())


def test_the_report_names_the_models_of_claims_that_no_run_was_of(tmp_path: Path):
    for at, rate in enumerate((1.0, 1.5)):
        given = H100 | {"model": {"source": "llama-3.1-8b"}}
        saved_run(tmp_path, f"gpu{at}", ("2A", "1P1D"), gpus=True, rate=rate, manifest=given)
    ask(tmp_path, question(), extrapolate=True)
    told = {one.claim.key: one for one in report(pick_runs(tmp_path)).claims}
    for key, models in (("one_node", "llama-3.1-70b-fp8"), ("gpt_oss", "gpt-oss-120b"),
                        ("large_models", "llama-3.1-8b-fp8, llama-3.1-70b-fp8")):  # fmt: skip
        aside = next(one for one in told[key].aside if "projected" in one.where)
        assert f"Calibrated by runs of llama-3.1-8b alone: of {models} the error is unknown." in aside.words


def test_an_slo_that_nothing_meets_still_gives_maps_and_the_nearest(tmp_path: Path):
    run, found = ask(tmp_path, question(ttft_s=0.001, tpot_s=0.0001, claims=False))
    assert found.aggregated is None
    assert found.disaggregated is None
    assert "Infeasible: no split of 8 GPUs meets TTFT ≤ 1 ms" in " ".join(str(found).split())
    assert "nearest: 1A@tp8" in " ".join(str(found).split())
    assert len(found.maps) == 3
    assert reopened(run) == found


def test_a_question_that_cannot_be_projected_leaves_no_run(tmp_path: Path):
    with pytest.raises(ProjectionError, match="no timings"):
        ask(tmp_path, question(system="abacus"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"gpus": 1001}, "1001 GPUs"),
        ({"tps": [3]}, "TP degrees"),
        ({"ttfts_s": [0.0]}, "no grid"),
        ({"models": ["llama-9"]}, "unknown model"),
        ({"isl": 0}, "isl = 0"),
        ({"engine": "dynamo"}, "engine = 'dynamo' is no backend whose kernels were timed"),
    ],
)
def test_a_question_that_cannot_be_meant_is_refused(given: dict[str, Any], says: str):
    with pytest.raises(SpecError, match=says):
        question(**given)


def test_an_engine_that_is_none_of_its_backends_is_told_those_there_are_and_what_projects_dynamo():
    with pytest.raises(SpecError) as raised:
        question(engine="dynamo")
    assert "vllm, trtllm, sglang" in raised.value.remedy
    assert "Dynamo's workers here are vLLM's: engine=vllm" in raised.value.remedy


def test_another_run_holds_no_projection(tmp_path: Path):
    with pytest.raises(StoreError, match="holds no whole projection"):
        reopened(create_run(tmp_path, "other", {"kind": KIND}))


def test_export_draws_it_again_and_the_report_sets_it_beside_the_claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, _ = ask(tmp_path, question())
    assert main(["export", run.id, "--results", str(tmp_path), "--format", "svg", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("projected_") == 5
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"projected_{name}.svg" for name in ("frontiers", "limits", "lengths", "models", "claims")
    }
    told = {one.claim.key: one for one in report(pick_runs(tmp_path)).claims}
    for key in ("one_node", "two_nodes", "gpt_oss", "large_models"):
        (aside,) = told[key].aside
        assert aside.where.startswith("projected on h100_sxm, not measured: holds in ")
        assert "No error can be given" in aside.words
        assert told[key].outcome == "not tested", "a projection is no measurement"
    assert told["interference"].aside == ()
