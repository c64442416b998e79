"""A report as a page: all of it in one file, safe against what the runs are called, and kept as a run."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import IPython.display
import pytest

from labkit.errors import StoreError
from labkit.experiments.report import CLAIMS, report
from labkit.figures.report import PAGE, draw_report, keep_report, save_page, show_report
from labkit.figures.report_page import _said, report_page
from labkit.store.run import Run, list_runs
from tests.support.saved_runs import saved_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return saved_run(tmp_path_factory.mktemp("results"), "two-sides", duration_s=30.0)


def test_a_report_is_kept_as_a_run_with_its_page_and_figures(run: Run, tmp_path: Path):
    kept = keep_report(report([run], resamples=50), tmp_path, name="said")
    assert (kept.id, kept.status, kept.manifest["kind"], kept.manifest["of"]) == ("said", "finished", "report", ["two-sides"])
    drawn = {path.name for path in (kept.path / "figures").iterdir()}
    names = ("0-sides", "0-0-comparison", "0-0-distributions", "0-0-stages")
    assert drawn == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    summary = kept.summary()
    assert summary is not None
    assert len(summary["claims"]) == len(CLAIMS)
    assert "Disaggregated (1P1D), against Aggregated (2A)" in " ".join(summary["verdict"].split())
    page = (kept.path / PAGE).read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") == 4
    assert list_runs(tmp_path)[0].kind == "report"


def test_the_page_needs_nothing_from_outside_and_runs_no_script(run: Run, tmp_path: Path):
    found = report([run], resamples=50)
    page = report_page(found, draw_report(found, tmp_path, formats=("svg",)))
    assert "<script" not in page
    outside = re.sub(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.findall(r"(?:src|href)=\"(?!#)[^\"]+", outside)
    for one in CLAIMS:
        assert f'id="claim-{one.key}"' in page
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'id="([^"]+)"', page))


def section(page: str, head: str) -> str:
    """A section of a page as text, without tags."""
    (found,) = re.findall(rf"<h2>{head}</h2>(.*?)(?=<h2>|</main>)", page, re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found)).split())


def versions(run: Run) -> str:
    told = run.manifest["versions"]
    return f"labkit {told['labkit']}, python {told['python']}, platform {told['platform']}"


def test_the_page_has_conditions_method_and_versions(run: Run):
    page = report_page(report([run], resamples=50), ())
    conditions, method = section(page, "Conditions"), section(page, "Method")
    assert "The same in all runs" in conditions
    for fact in ("model labkit-demo", "accelerators 2 cores", "workload.rate 1.5", "workload.isl 512", "workload.warmup_s 2"):
        assert f" {fact} " in conditions, fact
    assert "What differs" not in conditions, "one run differs from none"
    assert "TTFT is from the real send" in method
    assert "Warm-up: a given warm-up of 2 s before each measurement is left out; no stationarity test looked for more." in method
    assert method.endswith(f"Versions in all runs: {versions(run)}.")


def test_what_some_runs_do_not_record_is_in_page_and_text_as_such(run: Run, tmp_path: Path):
    more = {"hardware": {"summary": "a node", "driver": "580.1"}, "engines": {"vllm": "0.31", "nixl": "1.0"}}
    other = saved_run(tmp_path, "other", ("2A", "1P1D"), duration_s=30.0, manifest=more)
    found = report([run, other], resamples=50)
    page = report_page(found, ())
    (card,) = re.findall(r"<details[^>]*><summary>Not recorded in all runs[^<]*</summary>(.*?)</details>", page, re.DOTALL)
    assert "<tr><th>hardware.driver</th><td>580.1</td></tr>" in card
    assert "<tr><th>engines.nixl</th><td>1.0</td></tr>" in card
    assert "Versions not recorded in all runs: " in section(page, "Method")
    said = " ".join(str(found).split()).split(" Not recorded in all runs: ")[1].split(". Versions in all runs: ")[0]
    assert {"hardware.driver 580.1", "engines.nixl 1.0"} <= {*said.split("; ")}


def test_the_figures_of_a_kept_report_stand_under_its_conditions(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(IPython.display, "display", lambda shown: None)
    kept = keep_report(report([run], resamples=50), tmp_path)
    capsys.readouterr()
    show_report(kept)
    shown = " ".join(capsys.readouterr().out.split())
    assert "model labkit-demo" in shown
    assert f"Versions in all runs: {versions(run)}." in shown
    assert shown.endswith(f"the page, with the method: {kept.path / PAGE}")


def test_what_runs_say_of_themselves_cannot_become_markup(run: Run, tmp_path: Path):
    evil = "<img src=x onerror=alert(1)>"
    run = saved_run(tmp_path, "evil", ("2A",), manifest={"answer": evil, "model": {"name": evil}, "engine": evil})
    page = report_page(report([run], resamples=50), ())
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_figures_that_a_run_has_kept_of_its_finding_are_in_the_page(tmp_path: Path):
    run = saved_run(tmp_path, "found", ("2A",), manifest={"answer": "so it is"})
    (run.path / "figures").mkdir()
    (run.path / "figures" / "search.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    pictures = draw_report(report([run], resamples=50), tmp_path / "drawn")
    assert [(one.of, one.title) for one in pictures] == [("found", "search")]


def test_a_page_that_cannot_be_written_says_so(run: Run, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        save_page(report([run], resamples=50), (), tmp_path / "file" / PAGE)


def test_a_report_in_numbers_is_json(run: Run):
    found = json.loads(json.dumps(report([run], resamples=50).to_dict()))
    assert [one["key"] for one in found["claims"]] == [claim.key for claim in CLAIMS]


def test_the_rows_of_a_wide_table_stay_whole_and_sentences_are_folded() -> None:
    row = "gain at TPOT ≤   " + "  ".join(f"{tpot} ms <wins>" for tpot in range(40))
    page = _said(f"Projected: a long sentence.\n{row}\n  8 GPUs    1.2\n\nSource: a model.")
    whole, *rest = re.findall(r'<pre class="rows">(.*?)</pre>', page, re.DOTALL)
    assert whole.splitlines() == [html.escape(row), "  8 GPUs    1.2"]
    assert not rest
    assert re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL) == ["Projected: a long sentence.", "\nSource: a model."]
