"""Where requests go, and in which dialect of the OpenAI API: pure, no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

import msgspec

from labkit.errors import LoadError
from labkit.load.conversations import content_key
from labkit.load.draws import Draw, LoadPhase, Piece
from labkit.load.events import Choice, text_of
from labkit.load.prompts import Prompts, Tokenizer, load_tokenizer
from labkit.load.remembered import remembered
from labkit.load.schedule import Schedule
from labkit.spec import Workload

Role = Literal["user", "assistant"]

_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")
_FRAMES_KEPT: Final = 1024
_BASE_URL: Final = "write http://HOST:PORT or https://HOST, with or without /v1"


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which fields a server takes beyond the plain OpenAI ones.

    Attributes:
        ignore_eos: vLLM's, so that exactly ``osl`` tokens come; without it a shorter answer is no failure.
        continuous_usage: ``stream_options.continuous_usage_stats``: the tokens of every chunk are known.
        token_ids: ``return_token_ids``: the same knowledge by another way, for servers without the former.
        include_usage: ``stream_options.include_usage``: the tokens of the whole answer are known.
        new_chat: ``max_completion_tokens`` and no ``temperature``, as OpenAI's newer chat models demand.
    """

    ignore_eos: bool = True
    continuous_usage: bool = True
    token_ids: bool = False
    include_usage: bool = True
    new_chat: bool = False


#: What vLLM and Dynamo's frontend take. vLLM's router (0.1.17) drops ``continuous_usage_stats``; ``token_ids`` says the same.
VLLM: Final = Dialect()
#: What OpenAI itself takes.
OPENAI: Final = Dialect(ignore_eos=False, continuous_usage=False)


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint and a model behind it.

    Attributes:
        url: base URL, with or without ``/v1``; ``https`` too.
        model: the name that the server knows.
        vocab: size of its vocabulary.
        api_key: sent as a bearer token; never in ``repr``, records or messages.
        dialect: the fields that it takes.
        tokenizer: a folder with ``tokenizer.json``: for chat prompts of exact length, and to count the tokens of servers
            that send no usage.
        writes_at_once: the server is known to wait for no acknowledgement (``Transport.writes_at_once``).

    Raises:
        LoadError: a URL, key or model name that cannot be meant.
    """

    url: str
    model: str
    vocab: int
    api_key: str | None = field(default=None, repr=False)
    dialect: Dialect = VLLM
    tokenizer: str | None = None
    writes_at_once: bool = False

    def __post_init__(self) -> None:
        split = urlsplit(self.url)
        if split.username or split.password or split.query or split.fragment:
            raise LoadError(
                f"the base URL for {split.hostname!r} carries a login, query or fragment",
                remedy=f"{_BASE_URL}; a key goes into OPENAI_API_KEY",
            )
        try:
            port_ok = split.port is None or split.port > 0
        except ValueError:
            port_ok = False
        if split.scheme not in ("http", "https") or not split.hostname or not port_ok or not _PRINTABLE.fullmatch(self.url):
            raise LoadError(f"unusable base URL {self.url!r}", remedy=_BASE_URL)
        if self.api_key is not None and not _PRINTABLE.fullmatch(self.api_key):
            raise LoadError("the API key has characters that no HTTP header can carry", remedy="set OPENAI_API_KEY again")
        if not self.model:
            raise LoadError("the model's name is empty", remedy="give the name under which the server serves it")

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.url).scheme == "https"

    @property
    def host(self) -> str:
        """Host name or address, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port, 80 or 443 where the URL names none."""
        return urlsplit(self.url).port or (443 if self.tls else 80)

    @property
    def base_path(self) -> str:
        """``/v1``, behind whatever path the URL has."""
        path = urlsplit(self.url).path.rstrip("/")
        return path if path.endswith("/v1") else path + "/v1"

    def to_dict(self) -> dict[str, Any]:
        """For the pipe to a shard, and nothing else: it holds the key."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The target that ``to_dict`` wrote."""
        return cls(**{**data, "dialect": Dialect(**data["dialect"])})


class Requests:
    """Builds the bytes of requests for one target and workload; equal arguments give equal bodies.

    A prompt is made of parts: the messages of a chat, or runs of token ids. The head differs from run to run in
    ``X-Request-Id`` only.

    Attributes:
        served: the history of conversations holds what the server answers.

    Raises:
        LoadError: a tokenizer that cannot be read; or a history of answers whose tokens nobody can tell.
    """

    def __init__(self, target: Target, workload: Workload) -> None:
        self.target = target
        self.chat = workload.api == "chat"
        self.served = workload.history == "served"
        self.tokenizer: Tokenizer | None = load_tokenizer(Path(target.tokenizer)) if target.tokenizer else None
        if self.served and not (self.chat or self.tokenizer or target.dialect.token_ids):
            raise LoadError(
                f"history='served' needs the tokens of the answers, which {target.url} does not send",
                remedy="take api='chat', name a tokenizer, or take history='seeded'",
            )
        self.prompts = Prompts(workload.seed, target.vocab, self.tokenizer)
        self.schedule = Schedule(workload)
        self._frame = remembered(self._framed, _FRAMES_KEPT)
        host = f"[{target.host}]" if ":" in target.host else target.host
        port = "" if target.port == (443 if target.tls else 80) else f":{target.port}"
        self._head = (
            f"POST {target.base_path}/{'chat/completions' if self.chat else 'completions'} HTTP/1.1\r\n"
            f"Host: {host}{port}\r\nAccept: text/event-stream\r\nAccept-Encoding: identity\r\n"
            f"Content-Type: application/json\r\nUser-Agent: labkit\r\nConnection: {'keep-alive' if target.tls else 'close'}\r\n"
            + (f"Authorization: Bearer {target.api_key}\r\n" if target.api_key else "")
        ).encode()

    def question(self, phase: LoadPhase, number: int, turn: int = 0) -> bytes:
        """The new part of the prompt of a turn, of the schedule's arrival ``number``."""
        return self._part(self.schedule.pieces(phase, number, turn), "user")

    def answer(self, phase: LoadPhase, number: int, turn: int, tokens: int) -> bytes:
        """The part that stands for the answer to a turn in a history from the seed."""
        return self._part([Piece(Draw.ANSWER, phase, content_key(number, turn), tokens)], "assistant")

    def heard(self, choices: Sequence[Choice], tokens: int | None) -> bytes | None:
        """The part that is what a server answered, in so many tokens; ``None`` where nobody can tell which."""
        if self.chat:
            return message("assistant", "".join(choice.delta.content or "" for choice in choices if choice.delta is not None))
        ids = [token for choice in choices for token in choice.token_ids or ()]
        if self.tokenizer is not None and len(ids) != tokens:
            ids = self.tokenizer.encode("".join(map(text_of, choices)), add_special_tokens=False).ids
        elif tokens is not None and len(ids) != tokens:
            return None
        return msgspec.json.encode(ids)[1:-1] if ids else None

    def body(self, phase: LoadPhase, number: int, turn: int = 0) -> bytes:
        """The JSON of a turn of the schedule's arrival ``number``, with a history from the seed."""
        turns, parts = self.schedule.turns(phase, number), list[bytes]()
        for at in range(turn):
            parts += self.question(phase, number, at), self.answer(phase, number, at, turns[at].osl)
        return self.of_parts([*parts, self.question(phase, number, turn)], turns[turn].osl)

    def of_parts(self, parts: Sequence[bytes], osl: int) -> bytes:
        """The JSON of the request whose prompt is made of these."""
        before, behind = self._frame(osl)
        return before + b",".join(parts) + behind

    def head(self, body: bytes, sent_id: str) -> bytes:
        """The HTTP head that goes before a body."""
        return self._head + f"X-Request-Id: {sent_id}\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    def _framed(self, osl: int) -> tuple[bytes, bytes]:
        """What comes before the parts of a prompt and behind them."""
        empty = b'"messages":[' if self.chat else b'"prompt":['
        before, name, behind = request_body(self.target, [], osl, chat=self.chat).partition(empty)
        return before + name, behind

    def _part(self, pieces: Sequence[Piece], role: Role) -> bytes:
        return message(role, self.prompts.text(pieces)) if self.chat else self.prompts.encoded_ids(pieces)


def message(role: Role, content: str) -> bytes:
    """A message of a chat as JSON."""
    return msgspec.json.encode({"role": role, "content": content})


def request_body(target: Target, prompt: list[int], osl: int, *, chat: bool) -> bytes:
    """The JSON body that asks for ``osl`` streamed tokens, greedily, in the target's dialect; ``prompt`` may be messages."""
    dialect = target.dialect
    body: dict[str, Any] = {"model": target.model, "messages" if chat else "prompt": prompt}
    new_chat = chat and dialect.new_chat
    body["max_completion_tokens" if new_chat else "max_tokens"] = osl
    if not new_chat:
        body["temperature"] = 0
    body["stream"] = True
    options = {
        name: True
        for name, wanted in (
            ("include_usage", dialect.include_usage),
            ("continuous_usage_stats", dialect.continuous_usage),
        )
        if wanted
    }
    if options:
        body["stream_options"] = options
    if dialect.ignore_eos:
        body["ignore_eos"] = True
    if dialect.token_ids:
        body["return_token_ids"] = True
    return msgspec.json.encode(body)
