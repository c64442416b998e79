"""The lab's own few requests, against stand-in workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.errors import LaunchError
from labkit.serve.counters import read_counters
from labkit.serve.engines.base import EngineOptions, Place
from labkit.serve.hardware import assign
from labkit.serve.hosts import LocalHost
from labkit.serve.pool import Pool
from labkit.serve.requests import complete, hand_over, is_up, warm_pairs
from tests.support.fake_engine import MODEL, FakeEngine, fake_node
from tests.support.fake_worker import KV_BYTES_PER_TOKEN


def launch(engine: FakeEngine, logs: Path, workers: int) -> Pool:
    pool = Pool(
        engine, MODEL, logs=logs, otlp_endpoint=None, progress=lambda _: None, ready_timeout_s=20.0, hosts=LocalHost(fake_node())
    )
    held = assign([1] * workers, fake_node())
    pool.start([Place(f"w{index}", 1, devices) for index, devices in enumerate(held)], EngineOptions())
    return pool


@pytest.fixture
def urls(engine: FakeEngine, tmp_path: Path) -> Iterator[list[str]]:
    pool = launch(engine, tmp_path, 2)
    yield [worker.url for worker in pool.workers]
    pool.close()


def test_a_completion_has_the_asked_length(urls: list[str]):
    answer = complete(urls[0], "fake", 33, vocab_size=1000, max_tokens=5)
    assert answer["usage"] == {"prompt_tokens": 33, "completion_tokens": 5, "total_tokens": 38}


@pytest.mark.parametrize("vocab_size", [2, 300, 200_000])
def test_prompts_stay_below_any_vocabulary(urls: list[str], vocab_size: int):
    assert complete(urls[0], "fake", 10, vocab_size=vocab_size)["usage"]["prompt_tokens"] == 10


def test_a_prompt_is_handed_over_from_one_to_the_other(urls: list[str]):
    before = [read_counters(url) for url in urls]
    hand_over(*urls, "fake", 96, vocab_size=1000)
    first, second = (read_counters(url) - earlier for url, earlier in zip(urls, before, strict=True))
    assert (first.prompt_computed, first.prompt_received, first.generated) == (96, 0, 1)
    assert (second.prompt_computed, second.prompt_received, second.generated) == (0, 96, 8)
    assert (first.kv_bytes, second.kv_bytes) == (0, 96 * KV_BYTES_PER_TOKEN)


def test_every_ordered_pair_is_warmed(urls: list[str]):
    assert warm_pairs(urls, "fake", vocab_size=1000) == 2
    assert [read_counters(url).kv_transfers for url in urls] == [1, 1]
    assert warm_pairs(urls[:1], "fake", vocab_size=1000) == 0


def test_nobody_is_not_up():
    assert not is_up("http://127.0.0.1:1")


def test_a_refusal_is_told_in_the_servers_words(engine: FakeEngine, tmp_path: Path):
    engine.faults = {"w1": ["--refuse"]}
    pool = launch(engine, tmp_path, 2)
    try:
        with pytest.raises(LaunchError, match=r"does not complete a prompt of 96 tokens: .*the fake refuses"):
            warm_pairs([worker.url for worker in pool.workers], "fake", vocab_size=1000)
        with pytest.raises(LaunchError, match=r"http://127\.0\.0\.1:1 does not complete a prompt of 4 tokens"):
            complete("http://127.0.0.1:1", "fake", 4, vocab_size=1000)
    finally:
        pool.close()
