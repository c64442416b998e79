"""``labkit bench`` as people call it, against the oracle."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from labkit.cli.bench import _main, _marks, _watch
from labkit.load.progress import LoadResult, Progress
from labkit.spec import Workload
from tests.support.handmade import records, window
from tests.support.oracle_server import OracleServer
from tests.support.waiting import until

BENCH = [sys.executable, "-m", "labkit.cli.bench"]
SMALL = ["--isl", "8", "--osl", "6", "--concurrency", "2", "--requests", "6"]


@pytest.fixture(scope="module")
def server():
    with OracleServer() as running:
        yield running


def bench(server, model, *more, url=None, env=None):
    argv = [*BENCH, "--base-url", url or server.url + "/v1", "--model", model, *more]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})})


def loaded(server, before):
    """What the server was asked since, without the probe."""
    return [truth for truth in server.log[before:] if truth.request_id != "labkit-probe"]


def test_the_table_and_the_file(server, tmp_path):
    file = tmp_path / "out.json"
    before = len(server.log)
    done = bench(server, "plain?ttft=5&itl=2", *SMALL, "--json", str(file), env={"OPENAI_API_KEY": "s3cret"})
    assert done.returncode == 0, done.stderr
    assert re.search(r"6 requests measured in .* all: 6 ok", done.stdout)
    for row in ("TTFT", "TPOT", "ITL", "E2E"):
        assert re.search(rf"{row} +\d+\.\d\d +\d+\.\d\d +n too small", done.stdout)
    data = json.loads(file.read_text())
    assert (data["completed"], data["failed"], data["total_output_tokens"], data["max_concurrency"]) == (6, 0, 36, 2)
    assert [len(gaps) for gaps in data["itls"]] == [5] * 6
    measured = loaded(server, before)
    assert {truth.authorization for truth in measured} == {"Bearer s3cret"}
    assert "s3cret" not in done.stdout + done.stderr + file.read_text()


def test_a_server_that_waits_for_acknowledgements_is_told(server, tmp_path):
    file = tmp_path / "out.json"
    done = bench(server, "plain?ttft=2&itl=1&nagle=1", *SMALL, "--json", str(file))
    assert done.returncode == 0, done.stderr
    late = "clients that keep their connections get first tokens"
    assert late in done.stderr
    assert any(late in note for note in json.loads(file.read_text())["labkit_notes"]), "who reads the file alone knows it too"


def test_open_loop_with_warm_up_and_chat(server):
    options = ["--isl", "8", "--osl", "4", "--rate", "40", "--arrivals", "gamma", "--burstiness", "0.5", "--duration", "0.5"]
    done = bench(server, "reasoning?ttft=2&itl=1", *options, "--warmup", "0.3", "--api", "chat", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert "requests measured in 0.5 s" in done.stdout


class Overloaded:
    """A fleet and its load: 20 requests a second arrive, 10 are answered, for 100 s or until it is stopped."""

    stops = 0

    def run(self, measurement, workload):
        return self

    def stop(self):
        self.stops += 1

    def wait(self):
        for quarter in range(400):
            done = quarter * 5 // 2
            self.on_progress(Progress(quarter * 250_000_000, 5 * quarter, done, 0, 5 * quarter - done, {0: 1}, 9 * done, done))
            if self.stops:
                break
        return LoadResult(0, 0, 1, 1, {"ok": 1}, 1, 0.1, stopped=bool(self.stops))


@pytest.mark.parametrize(("cpu_s", "told"), [(9.0, True), (5.0, False)])
def test_a_shard_near_its_core_is_told(cpu_s, told):
    result = LoadResult(0, 0, 10**10, 10**10, {"ok": 1}, 1, cpu_s, stopped=False)
    found = [mark.text for mark in _marks(records([]), window(), result)]
    assert any("the load client of the busiest shard used 90% of the one core" in text for text in found) == told


@pytest.mark.parametrize("stop", [False, True])
def test_an_overload_is_told_while_it_runs_and_ends_it_where_asked(stop):
    fleet, notes = Overloaded(), Console(file=io.StringIO(), width=200)
    _, stopped = _watch(fleet, Workload(isl=8, osl=8, rate=20, duration_s=100), notes, stop_when_saturated=stop)
    said = notes.file.getvalue()
    assert said.count("saturated: arrivals 20/s, completions 10/s over the last") == 1
    assert fleet.stops == int(stop)
    assert stopped.startswith("saturated: arrivals 20/s") == stop


def test_a_warm_up_is_found_where_it_is_left_to_the_client(server):
    options = ["--isl", "8", "--osl", "4", "--rate", "80", "--arrivals", "constant", "--requests", "60", "--warmup", "auto"]
    done = bench(server, "plain?ttft=5&itl=1", *options)
    assert done.returncode == 0, done.stderr
    measured = int(re.search(r"(\d+) requests measured", done.stdout)[1])
    left_out = re.search(r"warm-up found: the first (\d+) requests left out", done.stdout)
    assert measured == 60 - (int(left_out[1]) if left_out else 0)
    assert left_out or "nothing left out" in done.stdout or "no warm-up was found" in done.stdout


def test_a_warm_up_that_is_no_number_is_refused(server):
    done = bench(server, "plain", *SMALL, "--warmup", "some")
    assert done.returncode == 2
    assert "--warmup some" in done.stderr


def test_a_plain_openai_server_is_measured_without_foreign_fields(server):
    before = len(server.log)
    done = bench(server, "strict?ttft=2&itl=1", *SMALL, url=server.url)
    assert done.returncode == 0, done.stderr
    assert "ignore_eos" in done.stderr
    assert "chunk gap" in done.stdout
    assert not any("ignore_eos" in truth.fields for truth in loaded(server, before))


def test_a_trace_is_sent_and_what_is_clipped_is_told(server, tmp_path):
    rows = [{"timestamp": 40 * i, "input_length": 600 * i + 5, "output_length": 4, "hash_ids": [0, i]} for i in range(6)]
    file = tmp_path / "hour.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    before = len(server.log)
    options = ["--trace", str(file), "--requests", "5", "--time-scale", "0.5"]
    done = bench(server, "plain?ttft=2&itl=1", *options, "--max-model-len", "1000")
    assert done.returncode == 0, done.stderr
    assert "5 of 6 requests over 0.1 s" in done.stderr
    assert "3 of 5 requests are longer than 1000 tokens and were clipped: 2427 tokens of prompts" in done.stderr
    assert "5 requests measured in" in done.stdout
    assert len(loaded(server, before)) == 5
    unclipped = bench(server, "plain?ttft=2&itl=1", *options)
    assert unclipped.returncode == 0, unclipped.stderr
    assert "nothing is clipped" in unclipped.stderr


def test_conversations_and_what_became_of_them(server, tmp_path):
    file = tmp_path / "out.json"
    talk = ["--turns", "4", "--think", "uniform:0.01-0.03"]
    options = ["--isl", "8", "--osl", "4", *talk, "--concurrency", "2", "--requests", "10"]
    done = bench(server, "plain?ttft=2&itl=1", *options, "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "4 turns, think uniform:0.01-0.03 s, each 8 → 4 tokens" in done.stdout
    assert "10 requests measured in" in done.stdout
    assert re.search(r"· first turns +\d+\.\d\d", done.stdout)
    assert re.search(r"· later turns +\d+\.\d\d", done.stdout)
    assert "the 10 requests are the turns of 3 conversations" in done.stderr
    assert json.loads(file.read_text())["input_lens"] == [8, 20, 32, 44] * 2 + [8, 20]
    clipped = bench(server, "plain?ttft=2&itl=1&most=15", *options, "--max-model-len", "40")
    assert clipped.returncode == 0
    assert "conversations would outgrow 40 tokens and end before: 4 turns left out" in clipped.stderr
    assert "later turns of conversations were not sent" in clipped.stderr
    assert "http_error" in clipped.stdout


def test_a_served_history_needs_an_answer_that_can_be_told(server):
    options = [*SMALL, "--turns", "2", "--history", "served"]
    told = bench(server, "tokenids?ttft=2&itl=1", *options)
    assert told.returncode == 0, told.stderr
    assert "not the same byte for byte" in told.stderr
    refused = bench(server, "plain?ttft=2&itl=1", *options)
    assert refused.returncode == 2
    assert "needs the tokens of the answers" in refused.stderr
    assert bench(server, "plain?ttft=2&itl=1", *options, "--api", "chat").returncode == 0


def test_failures_are_told_and_make_the_exit_code(server, tmp_path):
    file = tmp_path / "out.json"
    done = bench(server, "http500", *SMALL, "--json", str(file))
    assert done.returncode == 1
    assert "6 http_error" in done.stdout
    assert "told to answer 500" in done.stdout
    data = json.loads(file.read_text())
    assert data["failed"] == 6
    assert any(note.startswith("6 of 6 requests failed (6 http_error") for note in data["labkit_notes"])


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("nobody", SMALL, "knows no model 'nobody'"),
        ("plain", [*SMALL, "--rate", "3"], "both rate and concurrency"),
        ("plain", SMALL[:-2], "neither duration_s nor requests"),
        ("plain", [*SMALL, "--isl", "many"], "unknown token length 'many'"),
        ("plain", SMALL[2:], "--isl is missing"),
        ("plain", ["--trace", "/nowhere.csv"], "cannot read /nowhere.csv"),
        ("plain", [*SMALL[:4], "--arrivals", "ramp:3", "--duration", "1"], "arrivals 'ramp:3' describe no rate"),
        ("plain", [*SMALL, "--tokenizer", "/nowhere"], "tokenizer folder '/nowhere' does not exist"),
        ("plain", [*SMALL, "--json", "/nowhere/out.json"], "cannot write /nowhere/out.json"),
        ("plain", [*SMALL, "--vocab", "3"], "vocabulary of 3"),
        ("plain", [*SMALL, "--turns", "0"], "unknown number of turns '0'"),
        ("plain", [*SMALL, "--think", "2"], "think_s = '2' and no turns"),
        ("plain", [*SMALL, "--base-url", "http://127.0.0.1:1"], "nobody answers at http://127.0.0.1:1"),
        ("plain", [*SMALL, "--base-url", "localhost:8000"], "unusable base URL"),
    ],
)
def test_bad_input_is_one_clear_error(server, capsys, model, options, words):
    assert _main(["--base-url", server.url, "--model", model, *options]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 2


def test_a_terminated_bench_leaves_no_folder_behind(server, tmp_path):
    argv = [
        sys.executable,
        "-m",
        "labkit.cli.main",
        "bench",
        "--base-url",
        server.url,
        "--model",
        "plain?ttft=1&itl=1",
        "--isl",
        "8",
        "--osl",
        "4",
    ]
    before = len(server.log)
    process = subprocess.Popen(
        [*argv, "--concurrency", "2", "--duration", "600"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    until(lambda: len(loaded(server, before)) >= 20 or process.poll() is not None, "load", timeout_s=60)
    assert list(tmp_path.iterdir())
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert not list(tmp_path.iterdir())


def test_ctrl_c_prints_what_was_recorded(server, tmp_path):
    file = tmp_path / "out.json"
    argv = [*BENCH, "--base-url", server.url, "--model", "plain?ttft=1&itl=1", "--isl", "8", "--osl", "4"]
    before = len(server.log)
    process = subprocess.Popen(
        [*argv, "--concurrency", "2", "--duration", "600", "--json", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until(lambda: len(loaded(server, before)) >= 20 or process.poll() is not None, "load", timeout_s=60)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"all: \d+ ok", stdout)
    data = json.loads(file.read_text())
    assert data["completed"] >= 10
    assert "interrupted" in data["labkit_notes"]
