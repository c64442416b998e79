"""Conversations whose history is what the server answered, against real workers: each prompt is all that was said."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from labkit.lab import Lab
from labkit.load.client import Client, Reply
from labkit.load.events import ChunkLog, text_of
from labkit.load.talk import Talk
from labkit.load.target import Dialect, Requests, Target
from labkit.spec import Workload

pytestmark = pytest.mark.engine

TALKS = Workload(isl=64, osl=12, turns=3, think_s=0.1, history="served", concurrency=2, requests=6)


@pytest.mark.parametrize("split", ["2A", "1P1D"])
def test_each_prompt_is_as_long_as_all_that_was_said(aggregated: Lab, split: str) -> None:
    aggregated.resplit(split)
    measured = aggregated.measure(TALKS)
    assert measured.failed == measured.unsent == 0, measured.counts
    rows = measured.records.requests.sort_by([("conversation", "ascending"), ("turn", "ascending")]).to_pylist()
    assert [(row["conversation"], row["turn"]) for row in rows] == [(talk, turn) for talk in range(2) for turn in range(3)]
    assert [row["prompt_tokens"] for row in rows] == [64, 64 + 76, 64 + 2 * 76] * 2
    assert all(row["prompt_tokens"] == row["isl"] and row["output_tokens"] == 12 for row in rows)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_the_history_is_what_the_server_said(aggregated: Lab, api: str) -> None:
    """Turn by turn, with what was sent and heard at hand; a worker's own tokenizer counts what a chat amounts to."""
    served = aggregated.deployment.model
    target = Target(
        aggregated.url, served.name, served.vocab_size or 4096,
        dialect=Dialect(continuous_usage=False, token_ids=True), tokenizer=str(served.path) if api == "chat" else None,
    )  # fmt: skip
    requests = Requests(target, replace(TALKS, api=api, concurrency=1, requests=3))
    heard = asyncio.run(talk(target, requests))
    assert [reply.outcome for _, reply in heard] == ["ok"] * 3, [reply.reason for _, reply in heard]
    worker = aggregated.deployment.workers[0].url
    for body, reply in heard:
        assert reply.prompt_tokens == (len(body["prompt"]) if api == "completions" else counted(worker, body))
    for (before, reply), (after, _) in itertools.pairwise(heard):
        assert reply.answer is not None
        if api == "completions":
            ids = [token for choice in reply.answer for token in choice.token_ids or ()]
            assert len(ids) == 12
            assert after["prompt"][: 12 + len(before["prompt"])] == before["prompt"] + ids
        else:
            said = {"role": "assistant", "content": "".join(map(text_of, reply.answer))}
            assert after["messages"][: len(before["messages"]) + 1] == [*before["messages"], said]


def counted(worker: str, body: dict[str, Any]) -> int:
    """The tokens of a chat, as the worker's template and tokenizer make them."""
    asked = httpx.post(f"{worker}/tokenize", json={name: body[name] for name in ("model", "messages")}, timeout=60.0)
    asked.raise_for_status()
    return int(asked.json()["count"])


async def talk(target: Target, requests: Requests) -> list[tuple[dict[str, Any], Reply]]:
    """One conversation: each body as it was sent, and what came."""
    client, one = Client(target, ChunkLog()), Talk(requests, "measure", 0)
    client.keep_answers = True
    heard = []
    while True:
        body = one.body(requests)
        reply = await client.request(requests.head(body, f"talk-{one.turn}"), body, request=0, osl=one.now.osl, timeout_s=120.0)
        heard.append((json.loads(body), reply))
        if not one.go_on(requests, reply):
            client.close()
            return heard
