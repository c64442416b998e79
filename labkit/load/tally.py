"""What came of the measurement that sends: its tokens, and of how many of its requests a first token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from labkit.load.events import ChunkLog


class Tally:
    """Takes the rows of a shard's log and counts them; it remembers the requests under way that have a token."""

    def __init__(self) -> None:
        self._answering: set[int] = set()

    def take(
        self, log: ChunkLog, ended: Iterable[int], since: int
    ) -> tuple[dict[str, npt.NDArray[Any] | list[int | None]], int, int]:
        """What has come since the last call.

        Args:
            log: is empty afterwards.
            ended: requests that have ended since the last call, each told once and with all its rows in the log.
            since: the first request that counts.

        Returns:
            The rows (see ``ChunkLog.take``), their known tokens, and how many requests have begun: their first token came, or
            they ended without one.
        """
        answering, over = set(log.holders().tolist()), set(ended)
        begun = sum(request >= since for request in (answering | over) - self._answering)
        self._answering = (self._answering | answering) - over
        columns, tokens = log.take()
        counts = np.asarray(columns["request"]) >= since
        if not counts.all():
            tokens = sum(n or 0 for n, mine in zip(columns["tokens"], counts, strict=True) if mine)
        return columns, int(tokens), begun
