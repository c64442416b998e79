"""What one streamed event says about tokens: typed decoding and the accounting of counts. No I/O, no clock."""

from __future__ import annotations

from array import array
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

UNKNOWN: Final = -1
_MOST: Final = 32767  # the column is int16

Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Usage(msgspec.Struct, gc=False):
    """Token counts so far, or at the end."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


class Delta(msgspec.Struct, gc=False):
    """A piece of a chat message; reasoning has two names in the field."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(msgspec.Struct, gc=False):
    """A piece of an answer: ``text`` in completions, ``delta`` in chat."""

    text: str | None = None
    delta: Delta | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None


class Event(msgspec.Struct, gc=False):
    """One ``data:`` of a stream. Fields of no interest here are skipped by the decoder."""

    id: str | int | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


decode: Final = msgspec.json.Decoder(Event).decode


def text_of(choice: Choice) -> str:
    """Content and reasoning together; empty where the event carries none."""
    if choice.text:
        return choice.text
    delta = choice.delta
    return (delta.content or delta.reasoning_content or delta.reasoning or "") if delta is not None else ""


class TokenCount:
    """Turns the usage of consecutive events into tokens per chunk.

    A count is known when the usage grew since the last event that had one and no text came in between without one, or when
    the event lists its token ids. A server that sends usage only with its last chunk must not make that chunk look as
    if it held the whole answer.

    Attributes:
        prompt_tokens, completion_tokens: the latest usage seen.
        listed: tokens counted from ``token_ids``.
        unknown: chunks with text whose tokens are unknown.
        chunks: events with a choice.
        token_chunks: chunks that carry at least one token, as far as can be told.
    """

    __slots__ = ("_gap", "_uncounted", "chunks", "completion_tokens", "listed", "prompt_tokens", "token_chunks", "unknown")

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.listed = 0
        self.unknown = 0
        self.chunks = 0
        self.token_chunks = 0
        self._gap = False  # text without a count since the last usage
        self._uncounted = 0  # chunks before the first usage

    def usage(self, usage: Usage) -> None:
        """Take the usage of an event without choices: the final one."""
        if usage.prompt_tokens is not None:
            self.prompt_tokens = usage.prompt_tokens
        if usage.completion_tokens is not None:
            self.completion_tokens = usage.completion_tokens

    def usual(self, usage: Usage | None, token_ids: list[int] | None) -> int:
        """The tokens of a chunk like those before it: the same as ``chunk`` would say of it.

        That is one whose usage grows, or of a server that lists token ids and sends no usage.

        Returns:
            At least 1; 0, with nothing counted, where it is not like that.
        """
        before = self.completion_tokens
        if self._gap:
            return 0
        if usage is not None:
            now = usage.completion_tokens
            if now is None or before is None or now <= before:
                return 0
            tokens, self.completion_tokens = now - before, now
            if usage.prompt_tokens is not None:
                self.prompt_tokens = usage.prompt_tokens
            if token_ids is not None:
                self.listed += len(token_ids)
        else:
            if not token_ids:
                return 0
            tokens = len(token_ids)
            self.listed += tokens
            self._uncounted += 1
        self.chunks += 1
        self.token_chunks += 1
        return tokens

    def chunk(self, choice: Choice, usage: Usage | None, has_text: object) -> int:
        """The tokens of an event with a choice; ``UNKNOWN`` where the server does not say. ``has_text`` is read for its truth."""
        self.chunks += 1
        tokens = UNKNOWN
        before = self.completion_tokens
        if usage is not None and usage.completion_tokens is not None:
            late = before is None and self._uncounted and choice.finish_reason is not None
            grown = usage.completion_tokens - (before or 0)
            if not self._gap and not late and grown >= 0:
                tokens = grown
            self._gap = False
            self.usage(usage)
        else:
            self._uncounted += 1
        if choice.token_ids is not None:
            self.listed += len(choice.token_ids)
            tokens = len(choice.token_ids) if tokens == UNKNOWN else tokens
        elif tokens == UNKNOWN and has_text:
            self._gap = usage is None
            self.unknown += 1
        if tokens > 0 or (tokens == UNKNOWN and has_text):
            self.token_chunks += 1
        return tokens

    def total(self) -> tuple[int | None, str | None]:
        """``(output tokens, where the number is from)``: the server's usage, else the token ids of all chunks, else nothing."""
        if self.completion_tokens is not None:
            return self.completion_tokens, "usage"
        if self.listed and not self.unknown:
            return self.listed, "chunks"
        return None, None


class ChunkLog:
    """Chunk rows of all streams of a shard, 25 bytes each until the next ``take``."""

    __slots__ = ("_request", "_t_ns", "_text", "_tokens")

    def __init__(self) -> None:
        self._request, self._t_ns, self._tokens, self._text = array("q"), array("q"), array("q"), array("b")

    def add(self, request: int, t_ns: int, tokens: int, text: bool) -> None:
        """Take a chunk; ``tokens`` may be ``UNKNOWN``, ``text`` says whether any came with it."""
        self._request.append(request)
        self._t_ns.append(t_ns)
        self._tokens.append(tokens)
        self._text.append(text)

    def holders(self) -> npt.NDArray[np.int64]:
        """Requests of which a chunk with tokens is here: text decides where their number is unknown."""
        tokens, text = np.array(self._tokens, np.int64), np.array(self._text, np.int8) != 0
        return np.unique(np.array(self._request, np.int64)[(tokens > 0) | ((tokens == UNKNOWN) & text)])

    def take(self) -> tuple[dict[str, npt.NDArray[Any] | list[int | None]], int]:
        """The rows as columns of ``records.CHUNKS``, and their known tokens; the log is empty afterwards."""
        tokens = np.minimum(np.array(self._tokens, np.int64), _MOST).astype(np.int16)
        known = tokens >= 0
        columns: dict[str, npt.NDArray[Any] | list[int | None]] = {
            "request": np.array(self._request, np.int64),
            "t_ns": np.array(self._t_ns, np.int64),
            "tokens": tokens if known.all() else [int(n) if n >= 0 else None for n in tokens],
            "text": np.array(self._text, np.int8) != 0,
        }
        for column in (self._request, self._t_ns, self._tokens, self._text):
            del column[:]
        return columns, int(tokens[known].sum())
