"""Do labkit and ``vllm bench serve`` say the same of one real deployment, under light load, on the same prompts?

A worker of the demo shape is launched behind its router. Then both clients take turns, each first in every other pair: a pair
sends the same token ids, one request after the other, from a new seed, after a warm-up request of each client's own. The ratio
labkit / vllm of the medians has a bootstrap interval over pairs, then requests. It should contain 1, within ±10 %.

What would make the worker itself faster for one client than for the other is held equal, or shown:

* both ask for the token ids of each chunk, as labkit does to count tokens: a worker on one core takes 3 % longer for a token;
* where there are several cores, clients and router are kept off the worker's (``--unpinned`` leaves them where they are);
* the worker's own figures of the same requests, from its spans, are in the table as a witness, and so is each client's over the
  worker's, request by request: what changes the worker between two turns cancels out there. So are the clients' CPU seconds.

    python tests/bench/agreement.py [--pairs 12] [--requests 20] [--unpinned]

``vllm bench serve`` runs in the engine's interpreter (LABKIT_ENGINE_PYTHON, by default this one).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import report  # noqa: E402

ISL, OSL, WIDEST = 128, 24, 0.10

#: ``vllm bench serve`` with the prompts of a file. Its front door refuses to open in builds packaged under another name.
_VLLM = """
import json, sys
from argparse import ArgumentParser
from vllm.benchmarks import serve
from vllm.benchmarks.datasets import SampleRequest
rows = json.load(open(sys.argv.pop(1)))
samples = [SampleRequest(prompt=ids, prompt_len=len(ids), expected_output_len=osl) for ids, osl in rows]
serve.get_samples = lambda args, tokenizer: samples
parser = ArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""

#: Row of the table → why the two may differ in it.
DEFINITIONS = {
    "TTFT": "vllm bench counts from before it builds the request, to when Python has parsed the first chunk with choices; labkit "
    "from the request's bytes to the kernel's stamp of the first chunk with a token, which is the same chunk here",
    "ITL": "gaps between chunks in both, each of one token; vllm's end when Python has parsed a chunk, labkit's when it came in",
    "TPOT": "the same quotient in both",
    "E2E": "to the last chunk with a token in both, from and to as above",
}
#: What the worker's spans say of the same requests.
WITNESS = ("TTFT", "TPOT", "E2E")
_SPANS_S = 20.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One client's turn.

    Attributes:
        values: what it said.
        witness: what the worker said of the same requests.
        over: the one over the other, request by request.
        cpu_s: what the client's processes took.
    """

    values: dict[str, Any]
    witness: dict[str, Any]
    over: dict[str, Any]
    cpu_s: float


def labkit_bench(url: str, model: str, vocab: int, seed: int, requests: int, path: Path) -> list[str]:
    argv = [sys.executable, "-m", "labkit.cli.bench", "--base-url", url, "--model", model, "--vocab", str(vocab)]
    argv += ["--isl", str(ISL), "--osl", str(OSL), "--concurrency", "1", "--requests", str(requests), "--seed", str(seed)]
    return [*argv, "--json", str(path)]


def vllm_bench(python: str, url: str, model: str, tokenizer: str, prompts: Path, requests: int, path: Path) -> list[str]:
    text = f"--backend openai --base-url {url} --endpoint /v1/completions --max-concurrency 1 --ignore-eos --temperature 0 "
    text += f"--num-prompts {requests} --percentile-metrics ttft,tpot,itl,e2el --save-result --save-detailed --disable-tqdm"
    argv = [python, "-c", _VLLM, str(prompts), "--model", model, "--tokenizer", tokenizer, *text.split()]
    argv += ["--extra-body", '{"return_token_ids": true}']
    return [*argv, "--result-dir", str(path.parent), "--result-filename", path.name]


def take_turn(argv: list[str], path: Path, run: Any, requests: int, cores: set[int]) -> Turn:
    """Run a client on some cores, and see what it and the worker say."""
    from labkit.measure.statistics import Repeat

    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none", "PYTHONPATH": str(HERE.parents[1])}
    since_ns = time.perf_counter_ns()
    with (path.parent / "output").open("w+") as output:
        client = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, sorted(cores))), *argv], stdout=output, stderr=subprocess.STDOUT, env=env
        )
        _, status, used = os.wait4(client.pid, 0)
        client.returncode = os.waitstatus_to_exitcode(status)
        if client.returncode:
            output.seek(0)
            raise SystemExit(f"{argv[:3]} failed: {output.read()[-1500:]}")
    said, known = values(json.loads(path.read_text())), witness(run, since_ns, requests)
    over = {name: Repeat.of(said[name].values / known[name].values) for name in WITNESS}
    return Turn(said, known, over, used.ru_utime + used.ru_stime)


def witness(run: Any, since_ns: int, requests: int) -> dict[str, Any]:
    """Of each request of the turn the worker's TTFT, and its decode time a token; its spans come up to a second late."""
    from labkit.measure.statistics import Repeat

    deadline = time.monotonic() + _SPANS_S
    while True:
        spans = [span for span in run.records(chunks=False).spans.to_pylist() if span["start_ns"] >= since_ns]
        mine = sorted((span for span in spans if span["output_tokens"] == OSL), key=lambda span: span["start_ns"])[-requests:]
        if len(mine) == requests:
            break
        if time.monotonic() > deadline:
            raise SystemExit(f"{len(mine)} of {requests} spans came from the worker")
        time.sleep(0.2)
    each = [(span["ttft_s"], span["decode_s"] / (OSL - 1), span["e2e_s"]) for span in mine]
    return {name: Repeat.of(found) for name, found in zip(WITNESS, zip(*each, strict=True), strict=True)}


def keep_off(cores: set[int], trees: set[int]) -> set[int]:
    """Pin this process and what it started, but for these workers, to the other cores; returns where clients may run."""
    import psutil

    others = os.sched_getaffinity(0) - cores
    if not others:
        return os.sched_getaffinity(0)
    kept = {one.pid for pid in trees for one in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        if process.pid not in kept:
            for thread in process.threads():
                os.sched_setaffinity(thread.id, others)
    return others


def prompts_of(url: str, model: str, vocab: int, seed: int, requests: int) -> list[tuple[list[int], int]]:
    """The token ids that ``labkit bench`` sends from this seed."""
    from labkit.load.target import Requests, Target
    from labkit.spec import Workload

    build = Requests(Target(url, model, vocab), Workload(isl=ISL, osl=OSL, concurrency=1, requests=requests, seed=seed))
    bodies = [json.loads(build.body("measure", index)) for index in range(requests)]
    return [(body["prompt"], body["max_tokens"]) for body in bodies]


def values(saved: dict[str, Any]) -> dict[str, Any]:
    """Per quantity the values of each request, of either tool's file: their format is the same."""
    from labkit.measure.statistics import Repeat

    assert saved["failed"] == 0, saved["errors"]
    itls = [(gap, owner) for owner, gaps in enumerate(saved["itls"]) for gap in gaps]
    e2e = [ttft + sum(gaps) for ttft, gaps in zip(saved["ttfts"], saved["itls"], strict=True)]
    tpot = [sum(gaps) / len(gaps) for gaps in saved["itls"]]
    gaps, owners = zip(*itls, strict=True)
    return {
        "TTFT": Repeat.of(saved["ttfts"]),
        "ITL": Repeat.grouped(gaps, owners, len(e2e)),
        "TPOT": Repeat.of(tpot),
        "E2E": Repeat.of(e2e),
    }


def main() -> None:
    """Launch, take turns, print the table, write the values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--unpinned", action="store_true", help="leave clients and router on any core, the worker's too")
    options, _ = parser.parse_known_args()
    from labkit import Lab, Workload
    from labkit.serve.interpreter import engine_python

    sides: tuple[list[Turn], list[Turn]] = ([], [])  # vllm's, labkit's
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with Lab("demo", "1A", workload=Workload(isl=ISL, osl=OSL, concurrency=1, requests=1), results=folder) as lab:
            served, (worker,) = lab.deployment.model, lab.deployment.workers
            cores = os.sched_getaffinity(0)
            if not options.unpinned:
                cores = keep_off(set(worker.spec.devices.cores), {worker.tree.pid})
            print(f"worker on core {worker.spec.devices.cores}, clients on {sorted(cores)}")
            ours, theirs = folder / "labkit.json", folder / "vllm.json"
            prompts = folder / "prompts.json"
            for pair in range(options.pairs):
                seed, count = 1000 + pair, options.requests
                prompts.write_text(json.dumps(prompts_of(lab.url, served.name, served.vocab_size, seed, count)))
                both = (
                    (vllm_bench(str(engine_python()), lab.url, served.name, str(served.path), prompts, count, theirs), theirs),
                    (labkit_bench(lab.url, served.name, served.vocab_size, seed, count, ours), ours),
                )
                for side in (0, 1) if pair % 2 else (1, 0):
                    sides[side].append(take_turn(*both[side], lab.run, count, cores))
                print(f"pair {pair + 1} of {options.pairs} done", flush=True)
    print(f"\n{report.machine()} · load before {load:.1f} · {options.pairs} pairs of {options.requests} requests")
    found = table(*sides)
    for value in found:
        if value.target:
            print(f"{value.name}: {value.value} ({value.target}): {'holds' if value.holds else 'DOES NOT HOLD'}")
    print(f"written to {report.write('agreement', found)}")


def table(theirs: list[Turn], ours: list[Turn]) -> list[report.Value]:
    """Print the ratios with their intervals, the witness below the client that it is of; returns what is written."""
    from labkit.measure.statistics import bootstrap_ratio, weighted_percentile

    found: list[report.Value] = []
    print(f"{'median':<20}{'labkit':>10}{'vllm bench':>12}{'ratio':>8}  {'95 % interval':<18}")
    kinds = (
        *((name, "values", name, 1e3) for name in DEFINITIONS),
        *((name, "witness", f"worker's {name}", 1e3) for name in WITNESS),
        *((name, "over", f"{name} / worker's", 1.0) for name in WITNESS),
    )
    for name, kind, label, scale in kinds:
        sides = [[getattr(turn, kind)[name] for turn in side] for side in (theirs, ours)]
        ratio = bootstrap_ratio(*sides, weighted_percentile(50), paired=True)
        assert ratio is not None
        holds = 1 - WIDEST <= ratio.low <= 1 <= ratio.high <= 1 + WIDEST
        vllm, labkit = (float(np.median(np.concatenate([one.values for one in side])) * scale) for side in sides)
        unit = " ms" if scale > 1 else "   "
        print(f"{label:<20}{labkit:>7.3f}{unit}{vllm:>9.3f}{unit}{ratio.estimate:>8.3f}  {ratio.low:.3f} – {ratio.high:.3f}")
        for bound, value in (("", ratio.estimate), (", low", ratio.low), (", high", ratio.high)):
            judged = kind == "values" and not bound
            target = "interval holds 1, within ±10 %" if judged else None
            title = f"{label} median, labkit / vllm bench{bound}"
            found.append(report.Value(title, round(value, 4), "", "vllm bench serve", target, holds if judged else None))
    for name, why in DEFINITIONS.items():
        print(f"{name}: {why}")
    for client, side in (("labkit bench", ours), ("vllm bench serve", theirs)):
        cpu_s = sum(turn.cpu_s for turn in side) / len(side)
        print(f"{client}: {cpu_s:.1f} CPU-seconds a turn, start-up included")
        found.append(report.Value(f"CPU of {client}, a turn", round(cpu_s, 2), "s"))
    return found


if __name__ == "__main__":
    main()
