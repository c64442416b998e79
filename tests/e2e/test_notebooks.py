"""Every notebook, executed as a user would in batch, on real workers and the smallest settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from labkit.lab import Lab
from labkit.measure.metrics import summarise
from labkit.serve.interpreter import engine_python, versions
from labkit.serve.timing import save_timing
from labkit.spec import Workload
from labkit.store.run import list_runs, open_run
from tests.support.notebooks import SMALLEST
from tests.support.profiles import handmade_profile

pytestmark = pytest.mark.engine

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def execute(folder: Path, notebook: str, values: Sequence[str], *, results: str = ".") -> str:
    """Run a notebook in batch from a folder, with ``name=value`` parameters; what it printed."""
    command = [sys.executable, "-m", "labkit.cli.main", "run", str(NOTEBOOKS / notebook)]
    given = [word for value in values for word in ("-p", value)]
    done = subprocess.run(
        [*command, *given, "--results", str(folder / results)], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return done.stdout


def test_compare_gives_a_verdict_figures_and_an_executed_copy(tmp_path: Path) -> None:
    said = execute(tmp_path, "01_compare.ipynb", ["repeats=2", "duration_s=6", "rate=2.0"], results="a b")
    (info,) = list_runs(tmp_path / "a b")
    run = open_run(info.path)
    assert run.status == "finished"
    assert [window.side for window in run.windows] == ["2A", "1P1D"] * 2
    assert [window.repeat for window in run.windows] == [0, 0, 1, 1]
    seeds = [window.workload["seed"] for window in run.windows]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    requests = run.records().requests
    assert set(requests["outcome"].to_pylist()) == {"ok"}
    summary = run.summary()
    assert summary is not None
    assert "1P1D" in summary["verdict"]
    assert "dummy weights" in summary["verdict"]
    assert "equal hardware (2 cores each)" in summary["verdict"]
    assert " ".join(summary["verdict"].split()) in " ".join(said.split())
    executed = nbformat.read(run.path / "01_compare.ipynb", as_version=4)
    pictures = [output for cell in executed.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 8
    drawn = {path.name for path in (run.path / "figures").iterdir()}
    assert {
        f"{name}.{kind}"
        for name in ("distributions", "interference", "stages", "timeline", "comparison")
        for kind in ("png", "svg", "html")
    } <= drawn
    assert f"a b/{run.id}/01_compare.ipynb" in said
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert [epoch["topology"] for epoch in manifest["epochs"]] == ["2A", "1P1D"] * 2
    assert all(epoch["verified"] for epoch in manifest["epochs"][:1])


@pytest.mark.skipif("ai-dynamo" not in versions(engine_python()), reason="ai-dynamo is not installed")
def test_compare_on_dynamo_changes_workers_behind_one_frontend(tmp_path: Path) -> None:
    execute(tmp_path, "01_compare.ipynb", ["engine=dynamo", "repeats=1", "duration_s=5", "rate=2.0"])
    (info,) = list_runs(tmp_path)
    run = open_run(info.path)
    assert (run.status, run.manifest["engine"]) == ("finished", "dynamo")
    assert [window.side for window in run.windows] == ["2A", "1P1D"]
    assert set(run.records().requests["outcome"].to_pylist()) == {"ok"}
    epochs = run.manifest["epochs"]
    assert [(epoch["engine"], epoch["verified"]) for epoch in epochs] == [("dynamo", True)] * 2
    assert epochs[0]["url"] == epochs[1]["url"]
    assert not set(epochs[0]["roles"]) & set(epochs[1]["roles"]), "workers keep their roles"
    summary = run.summary()
    assert summary is not None
    assert "ai-dynamo " in summary["verdict"]
    assert "vllm-router" not in summary["verdict"]


@pytest.mark.skipif("ai-dynamo" not in versions(engine_python()), reason="ai-dynamo is not installed")
def test_compare_of_two_engines_lets_them_take_turns_on_the_same_cores(tmp_path: Path) -> None:
    execute(tmp_path, "01_compare.ipynb", ["engine_b=dynamo", "repeats=1", "duration_s=5", "rate=2.0"])
    (info,) = list_runs(tmp_path)
    run = open_run(info.path)
    assert [window.side for window in run.windows] == ["2A (vllm)", "2A (dynamo)"]
    assert set(run.records().requests["outcome"].to_pylist()) == {"ok"}
    epochs = run.manifest["epochs"]
    assert [(epoch["engine"], epoch["verified"]) for epoch in epochs] == [("vllm", True), ("dynamo", True)]
    assert epochs[0]["devices"] == epochs[1]["devices"]
    assert set(run.manifest["transports"]) == {"vllm", "dynamo"}
    summary = run.summary()
    assert summary is not None
    assert "2A (dynamo), against 2A (vllm)" in summary["verdict"]
    assert "each request on a connection of its own" in summary["verdict"]
    assert {"vllm-router", "ai-dynamo"} <= set(re.findall(r"[a-z-]+(?= \d)", summary["verdict"]))
    itl = next(row for row in summary["comparison"]["rows"] if row["key"] == "itl_p50_s")
    assert min(itl["a"], itl["b"]) > 0, "the tokens of every chunk are known on both"
    logs = [log.read_text(errors="replace") for log in (run.path / "logs").glob("w0*.log")]
    configs = [re.search(r"Initializing a V1 LLM engine .*? with config: (.*)", log) for log in logs]
    assert len(configs) == 2
    assert all(configs)
    assert len({config[1] for config in configs if config}) == 1, "the engine is set up alike behind both"


@pytest.mark.skipif("ai-dynamo" not in versions(engine_python()), reason="ai-dynamo is not installed")
def test_compare_of_simulated_workers_calls_nothing_a_measurement(tmp_path: Path) -> None:
    profile = handmade_profile(gpu="CPU core", error="error on held-out runs: ITL 3% mean, 5% worst")
    timing = save_timing([profile], tmp_path / "saved")
    values = ["engine=mocker", f"timing={timing}", "isl=400", "osl=20", "rate=6.0", "repeats=1", "duration_s=4"]
    said = " ".join(execute(tmp_path, "01_compare.ipynb", values).split())
    (info,) = list_runs(tmp_path)
    run = open_run(info.path)
    assert (run.status, run.manifest["engine"], info.simulated) == ("finished", "mocker", True)
    assert [window.accelerator for window in run.windows] == ["simulated CPU core"] * 2
    assert set(run.records().requests["outcome"].to_pylist()) == {"ok"}
    assert [epoch["verified"] for epoch in run.manifest["epochs"]] == [True, True]
    summary = run.summary()
    assert summary is not None
    assert summary["verdict"].startswith("Simulated, not measured: Disaggregated (1P1D), against Aggregated (2A)")
    assert "ai-dynamo " in summary["verdict"]
    assert "vllm" not in summary["verdict"]
    assert "Simulated, not measured: llama-3.1-8b (dummy weights) on mocker: 2A against 1P1D" in said
    assert "error on held-out runs: ITL 3% mean, 5% worst" in said
    assert "simulated, not measured 2A 1P1D ratio" in said
    texts = (run.path / "figures" / "timeline.svg").read_text(encoding="utf-8")
    assert "Simulated, not measured" in texts


@pytest.mark.skipif("ai-dynamo" not in versions(engine_python()), reason="ai-dynamo is not installed")
def test_compare_on_times_fitted_to_measured_runs_says_how_well_they_foretell_each_other(tmp_path: Path) -> None:
    work = Workload(isl="uniform:64-512", osl=24, rate=2.0, duration_s=12.0)
    medians = []
    for name in ("first", "second"):
        with Lab("demo", "1P1D", workload=work, results=tmp_path, name=name) as lab:
            medians.append(lab.measure().summary)
        work = replace(work, seed=work.seed + 1)
    values = ['timing=["first", "second"]', "side_a=1P1D", "side_b=2A", "rate=2.0", "repeats=1", "duration_s=12"]
    said = " ".join(execute(tmp_path, "01_compare.ipynb", values).split())
    assert "fitted to 2 measured runs" in said
    assert re.search(r"error on held-out runs: prefill \d+% mean, \d+% worst.*; ITL \d+% mean", said), said
    (run,) = (open_run(info.path) for info in list_runs(tmp_path) if info.simulated)
    assert [window.accelerator for window in run.windows] == ["simulated CPU core"] * 2
    assert {window.workload["isl"] for window in run.windows} == {"uniform:64-512"}, "the lengths that were measured"
    simulated = summarise(run.digest(), run.windows[0])
    for key in ("ttft_p50_s", "itl_p50_s"):
        measured = sorted(one[key] or 0.0 for one in medians)
        assert measured[0] / 2 < (simulated[key] or 0.0) < measured[-1] * 2, (key, measured, simulated[key])


@pytest.mark.skipif("ai-dynamo" not in versions(engine_python()), reason="ai-dynamo is not installed")
@pytest.mark.parametrize(
    ("notebook", "kind", "words"),
    [
        ("03_prefill_saturation", "prefill", "workers that pretend send no spans and compute on no device"),
        ("04_split_search", "search", "Simulated workers send no spans: no worker told of any request"),
        ("07_interference", "interference", "no advice, as it is not known what prefills do there (no request spans"),
        ("08_independent_scaling", "scaling", "simulated, not measured: the workers compute nothing"),
    ],
)
def test_the_experiments_take_simulated_workers_and_say_what_these_cannot_tell(
    tmp_path: Path, notebook: str, kind: str, words: str
) -> None:
    timing = save_timing([handmade_profile(gpu="CPU core")], tmp_path / "saved")
    said = execute(tmp_path, f"{notebook}.ipynb", [*SMALLEST[notebook], "engine=mocker", f"timing={timing}"])
    (info,) = list_runs(tmp_path)
    run = open_run(info.path)
    assert (run.status, run.manifest["engine"], info.kind, info.simulated) == ("finished", "mocker", kind, True)
    outcomes = set(run.records().requests["outcome"].to_pylist())
    assert outcomes == (set() if kind == "prefill" else {"ok"}), "for a saturation a profile is only read"
    assert words in " ".join(said.split())
    assert "ended meanwhile" not in said, "workers were let go by re-splits"
    assert "Simulated, not measured" in next((run.path / "figures").glob("*.svg")).read_text(encoding="utf-8")


def test_prefill_saturation_finds_a_knee_or_says_why_not_and_leaves_figures(tmp_path: Path) -> None:
    said = execute(tmp_path, "03_prefill_saturation.ipynb", SMALLEST["03_prefill_saturation"])
    (info,) = list_runs(tmp_path)
    run = open_run(info.path)
    assert run.status == "finished"
    assert set(run.records().requests["outcome"].to_pylist()) == {"ok"}
    summary, manifest = run.summary(), run.manifest
    assert summary is not None
    assert "demo on core" in summary["verdict"]
    assert " ".join(summary["verdict"].split()) in " ".join(said.split())
    knee = manifest["prefill_saturation"]["knees"]["32"]
    assert [point["prompts"] for point in knee["points"]] == [1, 2, 3, 4, 6, 8, 12, 16]
    assert all(point["steps"] >= 2 for point in knee["points"])  # the prompts did meet in steps of the asked size
    assert knee["points"][-1]["tok_s"]["estimate"] > knee["points"][0]["tok_s"]["estimate"]
    roofline = manifest["roofline"]
    assert roofline["peaks"]["flop_s"] > 1e9
    assert {point["phase"] for point in roofline["points"]} == {"prefill", "decode"}
    assert all(min(point["mfu"], point["mbu"]) > 0 for point in roofline["points"])
    most = max(max(point["mfu"], point["mbu"]) for point in roofline["points"])
    assert (most > 1.1) == any("no step beats a peak" in note for note in roofline["notes"]), (
        "a disturbed benchmark is owned up to"
    )
    names = {"prefill_saturation", "roofline"} | ({"prefill_limits"} if knee["prompts"] else set())
    assert (knee["prompts"] is None) == ("Set nothing yet" in summary["verdict"])
    if knee["prompts"]:
        assert manifest["prefill_limits"]["after"]["max_num_batched_tokens"] == 32 * knee["prompts"]
        assert [window.side for window in run.windows[-2:]] == ["as it was", "at the knee"]
    drawn = {path.name for path in (run.path / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in names for kind in ("png", "svg", "html")}
    executed = nbformat.read(run.path / "03_prefill_saturation.ipynb", as_version=4)
    pictures = [output for cell in executed.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == len(names)


def test_explore_flies_over_all_splits_and_leaves_pins_that_are_runs(tmp_path: Path) -> None:
    said = execute(tmp_path, "02_explore.ipynb", SMALLEST["02_explore"])
    runs = {info.kind: open_run(info.path) for info in list_runs(tmp_path)}
    pins = sorted((open_run(info.path) for info in list_runs(tmp_path) if info.kind == "pin"), key=lambda run: run.id)
    afternoon = runs["explore"]
    assert afternoon.status == "finished"
    assert [pin.windows[0].topology for pin in pins] == ["2A", "1P1D"]
    assert {pin.manifest["from"] for pin in pins} == {afternoon.id}
    for pin in pins:
        requests = pin.records().requests.to_pylist()
        assert {row["outcome"] for row in requests} == {"ok"}
        assert sum(row["phase"] == "measure" for row in requests) >= 3
    chosen = re.search(r"(\S+) is (?:the best of 2 splits|taken)", " ".join(said.split()))
    assert chosen is not None, said
    splits = [epoch["topology"] for epoch in afternoon.manifest["epochs"]]
    assert splits == ["2A", "1P1D", *(["2A"] if chosen[1] == "2A" else [])], "the pool is left in the split that was chosen"
    assert set(afternoon.records().requests["outcome"].to_pylist()) == {"ok"}, "the load was wound down"
    assert "What happened" in (afternoon.path / "exploration.html").read_text(encoding="utf-8")
    drawn = {path.name for path in (afternoon.path / "figures").iterdir()}
    assert {f"{name}.{kind}" for name in ("pins", "timeline", "workers") for kind in ("png", "svg", "html")} <= drawn
    executed = nbformat.read(afternoon.path / "02_explore.ipynb", as_version=4)
    pictures = [output for cell in executed.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 3


def test_explore_makes_a_tour_of_its_steps_and_pins_each(tmp_path: Path) -> None:
    steps = [["2A", {"rate": 3.0}], ["1P1D"], [None, {"concurrency": 2}]]
    said = execute(tmp_path, "02_explore.ipynb", ["isl=64", "osl=8", "rate=2.0", "window_s=4", f"steps={json.dumps(steps)}"])
    said = " ".join(said.split())
    (afternoon,) = (open_run(info.path) for info in list_runs(tmp_path) if info.kind == "explore")
    pins = sorted((open_run(info.path) for info in list_runs(tmp_path) if info.kind == "pin"), key=lambda run: run.id)
    assert afternoon.status == "finished"
    epochs = afternoon.manifest["epochs"]
    assert [(epoch["topology"], epoch["verified"]) for epoch in epochs] == [("2A", True), ("1P1D", True)], (
        "a step may keep the split"
    )
    asked = [(pin.windows[0].topology, pin.windows[0].workload["rate"], pin.windows[0].workload["concurrency"]) for pin in pins]
    assert asked == [("2A", 3.0, None), ("1P1D", 2.0, None), ("1P1D", None, 2)], "each changes the load of the notebook"
    assert {pin.manifest["from"] for pin in pins} == {afternoon.id}
    for number, pin in enumerate(pins, 1):
        (window,) = pin.windows
        inside = [row for row in pin.records().requests.to_pylist() if row["phase"] == "measure"]
        assert len(inside) >= 3
        assert {row["outcome"] for row in inside} == {"ok"}
        assert {epochs[row["epoch"]]["topology"] for row in inside} == {window.topology}, "the split of the step served them"
        assert f"step {number} of 3: {window.topology}, " in said
        assert f"pinned {number}: {window.topology}: TTFT p50" in said
        assert pin.id in said
    assert "autopilot" not in said
    assert set(afternoon.records().requests["outcome"].to_pylist()) == {"ok"}, "the load was wound down"
    assert "What happened" in (afternoon.path / "exploration.html").read_text(encoding="utf-8")
    drawn = {path.name for path in (afternoon.path / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in ("pins", "timeline", "workers") for kind in ("png", "svg", "html")}
    executed = nbformat.read(afternoon.path / "02_explore.ipynb", as_version=4)
    pictures = [output for cell in executed.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 3


def test_split_search_names_the_best_split_and_confirms_it(tmp_path: Path) -> None:
    asked = [value for value in SMALLEST["04_split_search"] if not value.startswith("chunks=")]
    said = execute(tmp_path, "04_split_search.ipynb", [*asked, "chunks=[16]"])
    (info,) = list_runs(tmp_path)
    run = open_run(info.path)
    assert run.status == "finished"
    assert info.kind == "search"
    trials, answer = run.manifest["trials"], run.manifest["answer"]
    assert {trial["candidate"] for trial in trials} == {"2A", "1P1D", "2A (chunks of 16)"}
    assert all(trial["run"] == run.id and trial["requests"] for trial in trials)
    assert len({trial["key"] for trial in trials}) == len(trials)
    assert answer.startswith("Of 3 splits of 2 cores, ")
    assert "Launch it: Lab('demo', " in answer
    chunks = {epoch["epoch"]: epoch["options"]["max_num_batched_tokens"] for epoch in run.manifest["epochs"]}
    assert all(chunks[window.epoch] == (16 if "chunks of 16" in window.side else None) for window in run.windows)
    aggregated, disaggregated = (window.side for window in run.windows[-2:])  # in turn, after the trials
    assert (aggregated.split()[0], disaggregated) == ("2A", "1P1D")
    assert (
        f"1P1D), against Aggregated ({aggregated})" in run.manifest["verdict"]
        or f"against {aggregated}" in run.manifest["verdict"]
    )
    assert "whole request" in said  # where the time went
    drawn = {path.name for path in (run.path / "figures").iterdir()}
    served = {(trial["candidate"], trial["rate"]) for trial in trials if trial["served"]}
    names = ["search", *(["search_pareto"] if len(served) > 1 else []), "comparison", "stages"]
    assert drawn == {f"{name}.{kind}" for name in names for kind in ("png", "svg", "html")}


def test_scale_out_projects_and_keeps_its_answer_with_its_error(tmp_path: Path) -> None:
    said = execute(tmp_path, "05_scale_out.ipynb", SMALLEST["05_scale_out"])
    infos = list_runs(tmp_path)
    (info,) = (one for one in infos if one.kind == "whatif")
    simulated = [open_run(one.path) for one in infos if one.kind == "simulation"]
    assert len(simulated) == len(infos) - 1 >= 1
    assert all(one.windows[0].accelerator == "simulated h100_sxm GPU" for one in simulated)
    run = open_run(info.path)
    assert run.status == "finished"
    assert info.kind == "whatif"
    projected, answer = run.manifest["projected"], run.manifest["answer"]
    assert answer.startswith("Projected, not measured: llama-3.1-70b-fp8 on h100_sxm with vllm, ISL 3000, OSL 150; 8 GPUs")
    assert "No error can be given: no measured run" in answer
    assert "AIConfigurator 0.12.0" in projected["source"]
    assert {place["claim"] for place in projected["claims"]} == {"one_node", "two_nodes", "gpt_oss", "large_models"}
    assert [len(one["duels"]) for one in projected["maps"]] == [1, 1, 1]
    assert " ".join(answer.split("\n\nSecond opinion")[0].split()) in " ".join(said.split())
    assert "Second opinion, simulated and not measured" in answer
    assert {side["run"] for side in run.manifest["second_opinion"]["sides"]} == {one.id for one in simulated}
    names = [*(f"projected_{name}" for name in ("frontiers", "limits", "lengths", "models", "claims")), "second_opinion"]
    drawn = {path.name for path in (run.path / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in names for kind in ("png", "svg", "html")}
    executed = nbformat.read(run.path / "05_scale_out.ipynb", as_version=4)
    pictures = [output for cell in executed.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == len(names)


def test_interference_is_measured_in_chunks_and_whole_and_leaves_its_figure(tmp_path: Path) -> None:
    said = execute(tmp_path, "07_interference.ipynb", SMALLEST["07_interference"])
    (info,) = list_runs(tmp_path)
    run = open_run(info.path)
    assert run.status == "finished"
    assert info.kind == "interference"
    labels = ["2A (chunks of 64)", "1P1D (chunks of 64)", "2A (whole prompts)", "1P1D (whole prompts)"]
    assert [window.side for window in run.windows] == labels
    assert {window.workload["seed"] for window in run.windows} == {0}, "the same requests on all four"
    assert set(run.records().requests["outcome"].to_pylist()) == {"ok"}
    flags = [epoch["options"]["extra_args"][-1] for epoch in run.manifest["epochs"]]
    assert list(dict.fromkeys(flags)) == ["--enable-chunked-prefill", "--no-enable-chunked-prefill"]
    assert all(epoch["verified"] for epoch in run.manifest["epochs"])
    sides = {side["side"]: side["scopes"] for side in run.manifest["interference"]["sides"]}
    for label, scopes in sides.items():
        assert {scope["interference"]["source"] for scope in scopes.values()} == {"spans"}, "workers told, nothing is inferred"
        worker = scopes["worker"]
        if label.startswith("1P1D"):
            assert worker["interference"]["reason"] == "dedicated decode workers never prefill"
            assert worker["bins"] == []
        else:
            assert sum(each["n"] for each in worker["bins"] if each["most"]) > 0
            slope = worker["slope"]
            assert slope["reason"].startswith("n too small (") if slope["value"] is None else slope["value"] > 0
    summary = run.summary()
    assert summary is not None
    assert " ".join(summary["verdict"].split()) in " ".join(said.split())
    assert "undefined on the same worker: dedicated decode workers never prefill" in summary["verdict"]
    drawn = {path.name for path in (run.path / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in ("interference", "distributions") for kind in ("png", "svg", "html")}
    executed = nbformat.read(run.path / "07_interference.ipynb", as_version=4)
    pictures = [output for cell in executed.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 2


def test_independent_scaling_varies_x_and_y_in_one_pool_and_shifts_under_a_load_step(tmp_path: Path) -> None:
    said = execute(tmp_path, "08_independent_scaling.ipynb", SMALLEST["08_independent_scaling"])
    (info,) = list_runs(tmp_path)
    run = open_run(info.path)
    assert (run.status, info.kind) == ("finished", "scaling")
    assert [window.side for window in run.windows] == ["1P1D", "2P1D", "1P2D", "stays", "shifts"]
    manifest = run.manifest
    epochs = manifest["epochs"]
    assert [epoch["topology"] for epoch in epochs] == ["1P2D", "1P1D", "2P1D", "1P2D", "1P1D", "1P2D", "2P1D", "1P2D"]
    assert all(epoch["verified"] for epoch in epochs)
    assert [sorted(epoch["roles"].items()) for epoch in epochs[1:4]] == [
        [("w0", "P"), ("w2", "D")],
        [("w0", "P"), ("w1", "P"), ("w2", "D")],
        [("w0", "P"), ("w1", "D"), ("w2", "D")],
    ], "a worker keeps its role while others come into use"
    assert len({tuple(sorted(epoch["devices"])) for epoch in epochs}) == 1, "no worker was started or ended"
    assert not list((run.path / "logs").glob("w*-2.log")), "nor started again"
    assert set(run.records().requests["outcome"].to_pylist()) == {"ok"}
    assert [shift["after"] for shift in manifest["load_step"]["shifts"]] == ["2P1D", "1P2D"]
    assert manifest["load_step"]["failed"] == [0, 0]
    said = " ".join(said.split())
    assert "Verdict on “prefill and decode workers scale independently”:" in said
    assert ("! Not independent hardware: " in said) == any(epoch["shared"] for epoch in epochs)
    assert "Shifting a decode worker to prefill while the load steps up (1P2D → 2P1D → 1P2D" in said
    assert "open: 1 repeat says nothing of the spread between repeats" in said
    assert said.count("What to do (a guess with fewer than 3 repeats): ") == 2
    drawn = {path.name for path in (run.path / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in ("scaling", "load_step") for kind in ("png", "svg", "html")}
    executed = nbformat.read(run.path / "08_independent_scaling.ipynb", as_version=4)
    pictures = [output for cell in executed.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
