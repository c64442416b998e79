from __future__ import annotations

from pathlib import Path

import pytest

from labkit.errors import ComparisonError
from labkit.experiments import compare_sides, conclude, slo_of, table, verdict
from labkit.spec import Slo
from labkit.store.run import open_run
from tests.support.saved_runs import saved_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(tmp_path_factory.mktemp("results"), "two-sides").path


def test_the_answer_is_kept_in_the_run_beside_what_was_there(finished: Path) -> None:
    run = open_run(finished)
    run.write_summary({"0": {"ttft_p50_s": 0.3}})
    conclusion = conclude(run, resamples=200)
    kept = open_run(finished).summary()
    assert kept is not None
    assert kept["0"] == {"ttft_p50_s": 0.3}
    assert kept["verdict"] == str(conclusion.verdict)
    assert kept["comparison"]["side_a"] == "2A"
    assert kept["comparison"]["side_b"] == "1P1D"
    shown = str(conclusion)
    assert shown.startswith(table(conclusion.comparison))
    assert " ".join(shown.split()).endswith(" ".join(str(verdict(conclusion.comparison)).split()))
    assert max(map(len, shown.splitlines())) <= 96, "a notebook breaks longer lines inside words"


def test_it_says_what_prefills_do_to_the_gaps_between_tokens(tmp_path: Path) -> None:
    run = saved_run(tmp_path, "interference", ("2A", "1P1D") * 3, rate=2.2, samples=False)
    conclusion = conclude(run, resamples=50)
    aggregated, separated = conclusion.comparison.interference.values()
    own, anywhere = aggregated["worker"].value, separated["deployment"].value
    assert own is not None
    assert own > 10, "a prefill takes 20 steps"
    assert anywhere is not None
    assert abs(anywhere) < 0.1
    words = " ".join(str(conclusion).split())
    assert f"Interference in 2A: prefills on the same worker lengthen a token's gap by {aggregated['worker']}; " in words
    assert "Interference in 1P1D: undefined: dedicated decode workers never prefill; prefills anywhere: " in words
    kept = open_run(run.path).summary()
    assert kept is not None
    assert kept["comparison"]["interference"]["2A"]["worker"]["value"] == pytest.approx(own)
    assert kept["comparison"]["interference"]["1P1D"]["worker"]["reason"] == "dedicated decode workers never prefill"


def test_a_run_of_one_side_answers_nothing(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="measured 2A alone"):
        conclude(saved_run(tmp_path, "one-side", ("2A", "2A")))


def test_the_slo_is_that_of_the_run(tmp_path: Path) -> None:
    run = saved_run(tmp_path, "own-slo", manifest={"slo": {"ttft_s": 0.4, "tpot_s": None, "e2e_s": None}})
    assert slo_of(run) == Slo(ttft_s=0.4, tpot_s=None)
    assert compare_sides(run, resamples=50).slo == Slo(ttft_s=0.4, tpot_s=None)
    run.update(slo=None)
    assert slo_of(run) is None


def test_the_table_has_a_line_a_quantity_and_says_why_a_value_is_missing(finished: Path) -> None:
    comparison = compare_sides(open_run(finished), resamples=200)
    lines = table(comparison).splitlines()
    assert lines[0].split() == ["2A", "1P1D", "ratio", "95", "%", "interval"]
    assert set(lines[1]) == {"─"}
    assert max(map(len, lines[: len(comparison.rows) + 2])) <= 90
    for row, line in zip(comparison.rows, lines[2:], strict=False):
        assert line.startswith(row.label)
    tail = comparison.row("itl_p99_s")
    (shown,) = [line for line in lines if line.startswith("ITL p99 (ms)")]
    assert tail.ratio is not None
    assert f"{tail.ratio.estimate:.2f}" in shown
    assert shown.endswith("*") is tail.ratio.shows_difference
    missing = [row for row in comparison.rows if row.ratio is None]
    assert missing, "39 requests a side have no p99 of TTFT"
    assert lines[-1] == f"(1) {missing[0].reason}"
