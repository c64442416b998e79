"""Two real workers: what they say does not depend on the split, and the split can change while they serve."""

from __future__ import annotations

import json
import random
import threading

import httpx
import pytest

from labkit.experiments.prefill_limits import set_prefill_limits
from labkit.lab import Lab
from labkit.measure.join import join_spans
from labkit.measure.steps import prefill_steps
from labkit.serve.counters import read_counters
from labkit.serve.deployment import Deployment
from labkit.spec import Role, Workload
from tests.support.prefill import swept
from tests.support.waiting import until

pytestmark = pytest.mark.engine


def prompts(count: int, tokens: int = 200) -> list[list[int]]:
    rng = random.Random(7)
    return [[rng.randrange(256, 4096) for _ in range(tokens)] for _ in range(count)]


def greedy(lab: Lab, prompt: list[int], tokens: int = 24) -> list[int]:
    body = {"model": lab.deployment.model.name, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    answer = httpx.post(f"{lab.url}/v1/completions", json={**body, "return_token_ids": True}, timeout=120.0)
    answer.raise_for_status()
    return answer.json()["choices"][0]["token_ids"]


def test_disaggregated_says_what_aggregated_says_and_moves_the_kv_cache(aggregated: Lab) -> None:
    asked = prompts(3)
    apart = [greedy(aggregated, prompt) for prompt in asked]
    changed = [*asked[0][:100], asked[0][100] ^ 1, *asked[0][101:]]
    assert greedy(aggregated, changed) != apart[0], "the weights must make every prompt token matter, or this shows nothing"
    aggregated.resplit("1P1D")
    decode = next(w for w in aggregated.deployment.workers if aggregated.deployment.roles[w.name] is Role.DECODE)
    before = read_counters(decode.url)
    assert [greedy(aggregated, prompt) for prompt in asked] == apart
    moved = read_counters(decode.url) - before
    kv_bytes_per_token = 2 * 8 * 2 * 64 * 4  # K and V, layers, KV heads, head dimension, float32
    whole_blocks = -(-200 // 32) * 32
    assert moved.kv_transfers == len(asked)
    assert moved.kv_bytes == len(asked) * whole_blocks * kv_bytes_per_token
    assert moved.prompt_computed == 0


def test_resplit_under_load_loses_no_request_and_proves_every_role(aggregated: Lab) -> None:
    epochs = []
    with aggregated.load(Workload(isl=256, osl=16, rate=1.2, duration_s=25.0)) as load:
        until(lambda: load.progress and load.progress.done >= 2, "the first answers", 60.0)
        for split in ("1P1D", "2A"):
            done = aggregated.resplit(split)
            assert all(row.against is None for row in done.proof), str(done)
            assert aggregated.first_sent_ns(aggregated.deployment.epoch) > done.called_ns
            epochs.append(aggregated.deployment.epoch)
    measured = load.wait()
    assert measured.failed == 0, measured.counts
    requests = aggregated.run.records().requests
    mine = requests.filter([m == measured.window.measurement for m in requests["measurement"].to_pylist()])
    assert set(mine["epoch"].to_pylist()) == {epochs[0] - 1, *epochs}
    assert set(mine["outcome"].to_pylist()) == {"ok"}
    assert set(mine["output_tokens"].to_pylist()) == {16}


def test_a_long_stream_outlives_the_router_that_was_replaced(aggregated: Lab) -> None:
    tokens, events = 1300, []  # some 20 s of decoding
    body = {"model": aggregated.deployment.model.name, "prompt": prompts(1)[0], "max_tokens": tokens, "ignore_eos": True}
    url, first = aggregated.url, threading.Event()

    def read() -> None:
        with httpx.stream(
            "POST", f"{url}/v1/completions", json={**body, "stream": True, "return_token_ids": True}, timeout=300.0
        ) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    events.append(line[6:])
                    first.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(60.0)
    done = aggregated.resplit("1P1D")
    reader.join()
    assert done.drained_s is not None
    assert done.switched_s < done.drained_s, "the new split takes requests before the old one has drained"
    assert events[-1] == "[DONE]"
    got = sum(len(choice["token_ids"]) for event in events[:-1] for choice in json.loads(event)["choices"])
    assert got == tokens


def test_every_request_is_joined_to_its_worker_and_prefill(aggregated: Lab) -> None:
    aggregated.resplit("1P1D")
    decode = next(w for w in aggregated.deployment.workers if aggregated.deployment.roles[w.name] is Role.DECODE)
    before = read_counters(decode.url)
    measured = aggregated.measure()
    ids = set(measured.records.requests["request"].to_pylist())

    def parts() -> dict[int, set[str]]:
        rows = join_spans(aggregated.run.records()).to_pylist()
        found: dict[int, set[str]] = {}
        for row in rows:
            if row["request"] in ids:
                found.setdefault(row["request"], set()).add(f"{row['worker']} {row['part']}")
        return found

    roles = {role: name for name, role in aggregated.deployment.roles.items()}
    wanted = {f"{roles[Role.PREFILL]} prefill", f"{roles[Role.DECODE]} decode"}
    until(lambda: len(parts()) == len(ids) and all(p == wanted for p in parts().values()), "the spans of every request", 20.0)
    summary = measured.summary
    assert (read_counters(decode.url) - before).kv_transfers == len(ids)
    assert 0 < summary["kv_transfers"] <= len(ids) + 2, "those within the window: a slow machine ends some after it"
    assert summary["ttft_p50_s"] is not None
    assert summary["itl_p50_s"] is not None


def test_a_knee_becomes_the_limit_of_the_prefill_workers_steps(aggregated: Lab) -> None:
    aggregated.resplit("1P1D")
    there = aggregated.deployment
    assert isinstance(there, Deployment)
    options = there.options
    (prefill,) = (name for name, role in there.roles.items() if role is Role.PREFILL)
    try:
        done = set_prefill_limits(aggregated, swept((128,)))  # its knee is one prompt of 128 tokens
        assert [place.name for place in done.plan.starts] == [prefill], "the decode worker goes on"
        measured = aggregated.measure(Workload(isl=128, osl=4, arrivals="burst:80@0.1/2", duration_s=2.0))  # eight come together
        (limited,) = (worker for worker in there.workers if worker.name == prefill)
        assert "Chunked prefill is enabled with max_num_batched_tokens=128" in limited.tree.log.read_text()
    finally:
        aggregated.change(options=options)
    assert set(measured.counts) == {"ok"}
    steps = prefill_steps(aggregated.run.digest())[measured.window.measurement]
    assert {(step.worker, step.prompts) for step in steps} == {(prefill, 1)}
