"""A look at the transport before a measurement: do first tokens come later on a connection that is kept?

Asked with a blocking client of its own, so that it also tells what other clients see. Three ways take turns: fresh connections
that acknowledge at once (nothing can delay those), labkit's own way, and one connection that is kept and acknowledges when the
kernel likes. The least of a few is compared, and all must be late: a delayed acknowledgement is in each, a busy server is not.
"""

from __future__ import annotations

import http.client
import ssl
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import msgspec

from labkit.load.prompts import token_range
from labkit.load.target import Requests, Target, message
from labkit.load.tls import acknowledge
from labkit.measure.transport import LATE_S, Transport
from labkit.spec import Workload
from labkit.spec.workload import Api

PROMPT_TOKENS: Final = 8
OUTPUT_TOKENS: Final = 3
#: Tells the requests before a measurement from those of it, in a server's log.
PROBE_ID: Final = "labkit-probe"
_ROUNDS, _FEWEST_ROUNDS = 5, 3
_ENOUGH_S: Final = 4.0  # a slow server is asked no more often than it must


def check_transport(target: Target, api: Api, *, timeout_s: float = 30.0) -> Transport | None:
    """Ask for some twenty tiny answers, one after the other; ``None`` where the server does not give them.

    Args:
        target: the endpoint, with a dialect that it takes.
        api: what the requests will be.
        timeout_s: for each of them.
    """
    body = short_body(target, api)
    with ExitStack() as connections:

        def way(*, kept: bool, quick: bool) -> _Way:
            made = _Way(target, api, body, timeout_s, kept=kept, quick=quick)
            connections.callback(made.close)
            return made

        reference, own, others = way(kept=False, quick=True), way(kept=target.tls, quick=target.tls), way(kept=True, quick=False)
        ways = (reference, own, others)
        began = time.monotonic()
        try:
            reference.ask()  # the first one of all does not count: it may find the server cold
            reference.seen.clear()
            for done in range(_ROUNDS):
                if done >= _FEWEST_ROUNDS and time.monotonic() - began > _ENOUGH_S:
                    break
                for one in ways:
                    one.ask()
        except (OSError, http.client.HTTPException, _Unanswered):
            return None
        own_late_s = own.later_than(reference) if own.was_kept or not target.tls else None
        kept_late_s = others.later_than(reference) if others.was_kept else None
        return Transport(own_late_s, kept_late_s, target.tls, others.was_kept and others.waits_no_longer_than(reference))


def short_body(target: Target, api: Api) -> bytes:
    """The JSON of a request for a few tokens that shares no prefix with those of a load."""
    requests = Requests(target, Workload(isl=PROMPT_TOKENS, osl=OUTPUT_TOKENS, concurrency=1, requests=1, api=api))
    low, high = token_range(target.vocab)
    ids = [high - 1, *range(low, low + PROMPT_TOKENS - 1)]
    prompt = message("user", "Count to three.") if api == "chat" else msgspec.json.encode(ids)[1:-1]
    return requests.of_parts([prompt], OUTPUT_TOKENS)


class _Unanswered(Exception):
    """The server answers otherwise than with a stream."""


@dataclass(slots=True)
class _Way:
    """One way to ask.

    Attributes:
        kept: over one connection; otherwise over a new one each.
        quick: acknowledge at once.
        seen: of each request that counts the seconds from its send to each of the first events.
        was_kept: the server kept the connection.
    """

    target: Target
    api: Api
    body: bytes
    timeout_s: float
    kept: bool
    quick: bool
    seen: list[list[float]] = field(default_factory=list)
    was_kept: bool = False
    _connection: http.client.HTTPConnection | None = None

    def ask(self) -> None:
        """Send a request and read its answer to the end; over a kept connection right behind another one: a connection that has
        rested acknowledges at once."""
        if self.kept:
            self._ask()
        self.was_kept = self._connection is not None
        self.seen.append(self._ask())

    def later_than(self, other: _Way) -> float:
        """By how many seconds the first events come later, whichever it is that does: least against least, and nothing unless all
        come later than all of the other way but one."""
        late_s = 0.0
        for mine, theirs in zip(zip(*self.seen, strict=True), zip(*other.seen, strict=True), strict=True):
            if min(mine) > sorted(theirs)[-2]:
                late_s = max(late_s, min(mine) - min(theirs))
        return late_s

    def waits_no_longer_than(self, other: _Way) -> bool:
        """Whether no event comes late, least against least; not where those of the other way, but one, differ by as much."""
        return all(
            min(mine) - min(theirs) < LATE_S and sorted(theirs)[-2] - min(theirs) < LATE_S
            for mine, theirs in zip(zip(*self.seen, strict=True), zip(*other.seen, strict=True), strict=True)
        )

    def close(self) -> None:
        """Close what is open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self) -> list[float]:
        connection = self._connection or self._connect()
        self._connection = connection
        headers = {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "User-Agent": "labkit",
            "X-Request-Id": PROBE_ID,
            "Connection": "keep-alive" if self.kept else "close",
            **({"Authorization": f"Bearer {self.target.api_key}"} if self.target.api_key else {}),
        }
        path = f"{self.target.base_path}/{'chat/completions' if self.api == 'chat' else 'completions'}"
        began = time.perf_counter()
        connection.request("POST", path, self.body, headers)
        return self._events(connection, began)

    def _events(self, connection: http.client.HTTPConnection, began: float) -> list[float]:
        """The first two events: what the first one does not show, because it came with the head, the second one does."""
        self._acknowledge(connection)
        response = connection.getresponse()
        self._acknowledge(connection)
        if response.status != http.client.OK:
            raise _Unanswered
        found: list[float] = []
        while len(found) < 2 and (line := response.readline()):
            self._acknowledge(connection)
            if line.startswith(b"data:"):
                found.append(time.perf_counter() - began)
        if len(found) < 2:
            raise _Unanswered
        response.read()
        if response.will_close or not self.kept:
            self.close()
        return found

    def _acknowledge(self, connection: http.client.HTTPConnection) -> None:
        if self.quick and connection.sock is not None:
            acknowledge(connection.sock)

    def _connect(self) -> http.client.HTTPConnection:
        host, port, timeout = self.target.host, self.target.port, self.timeout_s
        connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
            if self.target.tls
            else http.client.HTTPConnection(host, port, timeout=timeout)
        )
        connection.connect()
        return connection
