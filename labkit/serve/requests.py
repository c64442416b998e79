"""The few requests that the lab itself sends to workers and routers: health, warm-up of pairs, canaries."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any

import httpx

from labkit.errors import LaunchError

_TIMEOUT_S = 300.0
# verify=False below: only plain HTTP on 127.0.0.1 is spoken, and a TLS context would cost 25 ms of CPU a request.
WARM_TOKENS = (96, 33)
_ANSWER_TOKENS = 8
_HAND_OVER = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def is_up(url: str) -> bool:
    """Whether ``{url}/health`` answers 200."""
    try:
        return httpx.get(f"{url}/health", timeout=2.0, verify=False, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def ask_json(url: str, *, timeout_s: float = 5.0) -> Any:
    """What ``url`` answers as JSON, whatever the status; ``None`` where it does not answer, or with something else."""
    try:
        return httpx.get(url, timeout=timeout_s, verify=False, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return None


def complete(
    url: str,
    model: str,
    tokens: int,
    *,
    vocab_size: int,
    max_tokens: int = _ANSWER_TOKENS,
    headers: Mapping[str, str] | None = None,
    tries: int = 1,
    **extra: Any,
) -> dict[str, Any]:
    """One greedy completion of a random prompt of ``tokens`` token ids; the parsed answer.

    Args:
        url, model: where, and of what.
        tokens, vocab_size: of the prompt.
        max_tokens: of the answer.
        headers: beside the usual ones.
        tries: how often a request that is refused (400) is sent.
        extra: further fields of the request.

    Raises:
        LaunchError: the server refused it, or failed.
    """
    low = min(256, vocab_size // 2)
    body = {
        "model": model,
        "prompt": [random.randrange(low, vocab_size) for _ in range(tokens)],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        **extra,
    }
    try:
        for _ in range(tries):
            answer = httpx.post(
                f"{url}/v1/completions", json=body, headers=headers, timeout=_TIMEOUT_S, verify=False, trust_env=False
            )
            if answer.status_code != 400:
                break
        answer.raise_for_status()
        parsed: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        said = error.response.text[:300] if isinstance(error, httpx.HTTPStatusError) else str(error)
        raise LaunchError(
            f"{url} does not complete a prompt of {tokens} tokens: {said}",
            remedy="look at the end of the worker's log in the run folder",
        ) from None
    return parsed


def hand_over(prefill_url: str, decode_url: str, model: str, tokens: int, *, vocab_size: int) -> None:
    """Let one worker prefill a prompt and another decode it: what a router does, done by hand.

    Raises:
        LaunchError: one of the two failed.
    """
    seed = random.getrandbits(48)
    prompt = [random.Random(seed).randrange(min(256, vocab_size // 2), vocab_size) for _ in range(tokens)]
    first = complete(
        prefill_url, model, tokens, vocab_size=vocab_size, max_tokens=1, prompt=prompt, kv_transfer_params=_HAND_OVER
    )
    complete(decode_url, model, tokens, vocab_size=vocab_size, prompt=prompt, kv_transfer_params=first.get("kv_transfer_params"))


def warm_pairs(urls: Iterable[str], model: str, *, vocab_size: int, fresh: Collection[str] | None = None) -> int:
    """Hand one request over between every ordered pair, so that no user request pays the connectors' handshake of seconds.

    Args:
        urls: of all workers.
        model: what they serve.
        vocab_size: token ids below it are sent.
        fresh: of those that never met the others; pairs without one of them are left out. All of them by default.

    Returns:
        The number of pairs.

    Raises:
        LaunchError: a pair cannot hand over.
    """
    urls = tuple(urls)
    fresh = urls if fresh is None else fresh
    pairs = [pair for pair in permutations(urls, 2) if pair[0] in fresh or pair[1] in fresh]
    with ThreadPoolExecutor(max_workers=max(1, len(urls))) as threads:
        list(threads.map(lambda url: [complete(url, model, n, vocab_size=vocab_size) for n in WARM_TOKENS], fresh))
        list(threads.map(lambda pair: hand_over(pair[0], pair[1], model, WARM_TOKENS[0], vocab_size=vocab_size), pairs))
    return len(pairs)
