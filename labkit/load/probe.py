"""Finding out, with a request or two, which dialect a server speaks, before it is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from labkit.errors import LoadError
from labkit.load.client import Client, Reply
from labkit.load.events import ChunkLog
from labkit.load.target import OPENAI, VLLM, Dialect, Requests, Target
from labkit.load.transport import OUTPUT_TOKENS, PROBE_ID, check_transport, short_body
from labkit.measure.transport import Transport
from labkit.spec import Workload
from labkit.spec.workload import Api

_REFUSALS: Final = (400, 422)  # what a server answers to a field that it does not know


@dataclass(frozen=True, slots=True)
class Probe:
    """What a server takes.

    Attributes:
        dialect: the richest one that it took.
        notes: what follows for the measurement, a sentence each; empty for a server that takes everything.
        transport: whether the transport delays first tokens; ``None`` where that was not looked for, or cannot be told.
    """

    dialect: Dialect
    notes: tuple[str, ...]
    transport: Transport | None = None

    @property
    def writes_at_once(self) -> bool:
        """Whether the server is known to wait for no acknowledgement."""
        return self.transport is not None and self.transport.writes_at_once

    def with_transport(self, transport: Transport | None) -> Probe:
        """The same with what the transport does, among the notes where it delays anybody."""
        mark = transport.mark if transport is not None else None
        return replace(self, transport=transport, notes=self.notes if mark is None else (*self.notes, mark.text))


def probe_apart(target: Target, workload: Workload | None) -> Probe:
    """``probe`` for a workload, and a look at the transport, in a thread: one with a running event loop may call it, as a
    notebook's does; it blocks."""
    api: Api = workload.api if workload is not None else "completions"
    token_ids = workload is not None and workload.needs_token_ids

    def look() -> Probe:
        found = asyncio.run(probe(target, api=api, token_ids=token_ids))
        return found.with_transport(check_transport(replace(target, dialect=found.dialect), api))

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(look).result()


async def probe(target: Target, *, api: Api, timeout_s: float = 60.0, token_ids: bool = False) -> Probe:
    """Send a short request in one dialect after the other until one is taken.

    Args:
        target: the endpoint.
        api: what the requests will be.
        timeout_s: for each of them.
        token_ids: those of the answers are wanted, even where their number is known without them.

    Raises:
        LoadError: nobody answers at the URL, the key is refused, there is no such path or model, or every dialect is refused.
    """
    first: Reply | None = None
    for dialect in _ladder(api):
        reply, counted = await _try(replace(target, dialect=dialect), api, timeout_s)
        if reply.outcome == "refused":
            raise LoadError(f"nobody answers at {target.url}: {reply.reason}", remedy="start the server, or correct --base-url")
        if reply.http_status in (401, 403):
            raise LoadError(f"{target.url} refuses the key: {reply.reason}", remedy="set OPENAI_API_KEY to a key that it takes")
        if reply.http_status == 404:
            raise LoadError(
                f"{target.url} knows no model {target.model!r} (or no such path): {reply.reason}",
                remedy="see its /v1/models for the names, and check --base-url and --api",
            )
        if reply.http_status not in _REFUSALS:
            return await _richer(target, api, timeout_s, dialect, reply, counted, token_ids)
        first = first or reply
    assert first is not None
    raise LoadError(
        f"{target.url} refuses the probe: {first.reason}", remedy="check --model, --vocab and --api against the server"
    )


async def _richer(
    target: Target, api: Api, timeout_s: float, dialect: Dialect, reply: Reply, counted: bool, token_ids: bool
) -> Probe:
    """Whether the counts of chunks are known, or can be had by asking for token ids."""
    notes = []
    if reply.outcome not in ("ok", "short"):
        notes.append(f"the probe ended as {reply.outcome}: {reply.reason}")
    if not dialect.ignore_eos:
        notes.append("the server does not know ignore_eos: answers may be shorter than asked")
    elif token_ids or not counted:
        listed = replace(dialect, token_ids=True)
        again, counted_so = await _try(replace(target, dialect=listed), api, timeout_s)
        told = sum(len(choice.token_ids or ()) for choice in again.answer or ()) >= OUTPUT_TOKENS
        if again.outcome == "ok" and again.chunks and counted_so and (told or not token_ids):
            return Probe(listed, tuple(notes))
    if not counted:
        notes.append(
            "the server does not say how many tokens a chunk holds: TPOT and ITL are unknown, gaps between chunks are not"
        )
    if reply.outcome == "ok" and reply.output_tokens is None:
        notes.append("the server sends no usage: output tokens are unknown without --tokenizer")
    return Probe(dialect, tuple(notes))


def _ladder(api: Api) -> Iterator[Dialect]:
    yield VLLM
    yield OPENAI
    if api == "chat":
        yield replace(OPENAI, new_chat=True)
    yield replace(OPENAI, include_usage=False)


async def _try(target: Target, api: Api, timeout_s: float) -> tuple[Reply, bool]:
    """What came back, and whether the tokens of its chunks are known: chunks without text count too, they may hold tokens."""
    body = short_body(target, api)
    requests = Requests(target, Workload(isl=1, osl=1, concurrency=1, requests=1, api=api))
    log = ChunkLog()
    client = Client(target, log)
    client.keep_answers = True
    head = requests.head(body, PROBE_ID)
    try:
        reply = await client.request(head, body, request=0, osl=OUTPUT_TOKENS, timeout_s=timeout_s)
    finally:
        client.close()
    if reply.outcome == "cancelled":
        raise asyncio.CancelledError  # a client makes a record of it; here it is Ctrl-C
    _, known = log.take()
    return reply, not reply.unknown_chunks and known >= (reply.output_tokens or 0)
