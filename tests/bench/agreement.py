"""Do labkit and ``vllm bench serve`` say the same of one real deployment, under light load, on the same prompts?

A worker of the demo shape is launched behind its router. Then both clients take turns, each first in every other pair: a pair
sends the same token ids, one request after the other, from a new seed. The ratio labkit / vllm of the medians has a bootstrap
interval over pairs, then requests. It should contain 1, within ±10 %. Both ask for the token ids of each chunk, as labkit does
to count tokens: a worker on one core takes some 3 % longer for a token then.

    python tests/bench/agreement.py [--pairs 6] [--requests 20]

``vllm bench serve`` runs in the engine's interpreter (LABKIT_ENGINE_PYTHON, by default this one).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

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
    "TTFT": "vllm bench takes the first chunk with choices, labkit the first with a token: the same chunk of this server; labkit "
    "counts from the request's bytes, vllm from before its connection is taken from the pool",
    "ITL": "gaps between chunks in both; every chunk holds one token here",
    "TPOT": "the same quotient in both",
    "E2E": "to the last chunk with a token in both",
}


def labkit_bench(url: str, model: str, vocab: int, seed: int, requests: int, path: Path) -> None:
    argv = [sys.executable, "-m", "labkit.cli.bench", "--base-url", url, "--model", model, "--vocab", str(vocab)]
    argv += ["--isl", str(ISL), "--osl", str(OSL), "--concurrency", "1", "--requests", str(requests), "--seed", str(seed)]
    _run([*argv, "--json", str(path)], path.parent)


def vllm_bench(python: str, url: str, model: str, tokenizer: str, prompts: Path, requests: int, path: Path) -> None:
    text = f"--backend openai --base-url {url} --endpoint /v1/completions --max-concurrency 1 --ignore-eos --temperature 0 "
    text += f"--num-prompts {requests} --percentile-metrics ttft,tpot,itl,e2el --save-result --save-detailed --disable-tqdm"
    argv = [python, "-c", _VLLM, str(prompts), "--model", model, "--tokenizer", tokenizer, *text.split()]
    argv += ["--extra-body", '{"return_token_ids": true}']
    _run([*argv, "--result-dir", str(path.parent), "--result-filename", path.name], path.parent)


def _run(argv: list[str], folder: Path) -> None:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none", "PYTHONPATH": str(HERE.parents[1])}
    with (folder / "output").open("w+") as output:
        if subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, env=env, check=False).returncode:
            output.seek(0)
            raise SystemExit(f"{argv[:3]} failed: {output.read()[-1500:]}")


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
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--requests", type=int, default=20)
    options, _ = parser.parse_known_args()
    from labkit import Lab, Workload
    from labkit.measure.statistics import bootstrap_ratio, weighted_percentile
    from labkit.serve.interpreter import engine_python

    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with Lab("demo", "1A", workload=Workload(isl=ISL, osl=OSL, concurrency=1, requests=1), results=folder) as lab:
            served = lab.deployment.model
            vocab = served.vocab_size
            for pair in range(options.pairs):
                seed = 1000 + pair
                prompts = folder / "prompts.json"
                prompts.write_text(json.dumps(prompts_of(lab.url, served.name, vocab, seed, options.requests)))
                both = [
                    lambda seed=seed: labkit_bench(lab.url, served.name, vocab, seed, options.requests, folder / "labkit.json"),
                    lambda prompts=prompts: vllm_bench(
                        str(engine_python()),
                        lab.url,
                        served.name,
                        str(served.path),
                        prompts,
                        options.requests,
                        folder / "vllm.json",
                    ),
                ]
                for one in both if pair % 2 else reversed(both):
                    one()
                ours.append(values(json.loads((folder / "labkit.json").read_text())))
                theirs.append(values(json.loads((folder / "vllm.json").read_text())))
                print(f"pair {pair + 1} of {options.pairs} done")
    found: list[report.Value] = []
    print(f"\n{report.machine()} · load {os.getloadavg()[0]:.1f} · {options.pairs} pairs of {options.requests} requests")
    print(f"{'median':<7}{'labkit':>10}{'vllm bench':>12}{'ratio':>8}  {'95 % interval':<18}")
    median = weighted_percentile(50)
    for name, why in DEFINITIONS.items():
        sides = [[one[name] for one in side] for side in (theirs, ours)]
        ratio = bootstrap_ratio(*sides, median, paired=True)
        assert ratio is not None
        holds = 1 - WIDEST <= ratio.low <= 1 <= ratio.high <= 1 + WIDEST
        vllm_ms, labkit_ms = (_median_ms(side) for side in sides)
        print(f"{name:<7}{labkit_ms:>7.2f} ms{vllm_ms:>9.2f} ms{ratio.estimate:>8.3f}  {ratio.low:.3f} – {ratio.high:.3f}")
        print(f"       {why}")
        for bound, value in (("", ratio.estimate), (", low", ratio.low), (", high", ratio.high)):
            judged = holds if not bound else None
            target = "interval holds 1, within ±10 %" if not bound else None
            found.append(
                report.Value(
                    f"{name} median, labkit / vllm bench{bound}", round(value, 4), "", "vllm bench serve", target, judged
                )
            )
    for value in found:
        if value.target:
            print(f"{value.name}: {value.value} ({value.target}): {'holds' if value.holds else 'DOES NOT HOLD'}")
    print(f"written to {report.write('agreement', found)}")


def _median_ms(repeats: list[Any]) -> float:
    import numpy as np

    return float(np.median(np.concatenate([repeat.values for repeat in repeats])) * 1e3)


if __name__ == "__main__":
    main()
