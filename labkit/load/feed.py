"""The live copy of what a shard records: it may be lost, and nobody waits for it.

A shard that is watched packs its new rows into a ``Batch`` a few times a second and writes it, length first, to a pipe that
never blocks. While the reader lags a whole pipe behind, batches are dropped and counted. The segments on disk know
nothing of all this.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

#: Four seconds of 12,000 chunks a second; what an ordinary user may ask for.
_PIPE_BYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct("<I")
_UNKNOWN: Final = -1


class Batch(msgspec.Struct, array_like=True, gc=False, frozen=True, kw_only=True):
    """What one shard recorded since its batch before.

    Attributes:
        watch: number of the watch that it is for.
        shard: the shard's number.
        since_ns: when the watch began.
        until_ns: what happened before is in this batch or in an earlier one.
        running: whether a measurement runs on the shard.
        closed_loop: numbers of measurements of which a request is sent when another has ended, not by a clock.
        in_flight: requests under way.
        oldest: the lowest number of a request under way; where there is none, above those of all that have ended.
        failed: requests of the measurement that did not end well; those that the lab stopped are none of them.
        lost: batches that were dropped since the watch began.
        sent: number of a request, and the instant at which it was sent.
        ended: rows of ``records.REQUESTS``.
        request, t_ns, tokens, text: columns of ``records.CHUNKS`` as bytes: int64, int64, int16 (-1 where the server did not
            say), bool.
    """

    watch: int
    shard: int
    since_ns: int
    until_ns: int
    running: bool
    closed_loop: list[int]
    in_flight: int
    oldest: int
    failed: int
    lost: int = 0
    sent: list[tuple[int, int]] = []
    ended: list[tuple[Any, ...]] = []
    request: bytes = b""
    t_ns: bytes = b""
    tokens: bytes = b""
    text: bytes = b""

    @property
    def chunks(self) -> tuple[npt.NDArray[Any], ...]:
        """Request, instant, tokens and text of every chunk."""
        columns = ((self.request, np.int64), (self.t_ns, np.int64), (self.tokens, np.int16), (self.text, np.bool_))
        return tuple(np.frombuffer(data, kind) for data, kind in columns)


def packed(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of ``records.CHUNKS``, as ``ChunkLog.take`` gives them, as fields of a ``Batch``."""
    tokens = columns["tokens"]
    if not isinstance(tokens, np.ndarray):
        tokens = np.fromiter((_UNKNOWN if n is None else n for n in tokens), np.int16, len(tokens))
    return {
        "request": np.ascontiguousarray(columns["request"], np.int64).tobytes(),
        "t_ns": np.ascontiguousarray(columns["t_ns"], np.int64).tobytes(),
        "tokens": np.ascontiguousarray(tokens, np.int16).tobytes(),
        "text": np.ascontiguousarray(columns["text"], np.bool_).tobytes(),
    }


class Tap:
    """The shard's end. Without a watch it does nothing.

    Args:
        fd: of the pipe; made non-blocking here.
        shard: the shard's number.
    """

    def __init__(self, fd: int, shard: int) -> None:
        self._fd, self._shard = fd, shard
        self._watch, self._since_ns, self._lost = 0, 0, 0
        self._sent: list[tuple[int, int]] = []
        self._rest = memoryview(b"")
        self._encode = msgspec.msgpack.Encoder().encode
        os.set_blocking(fd, False)
        with contextlib.suppress(OSError):  # more than this user may have: a smaller pipe drops sooner
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return self._watch > 0

    def watch(self, number: int, now_ns: int, under_way: Iterable[tuple[int, int]] = ()) -> None:
        """Begin for the watch of this number, 0 for none; ``under_way`` has number and send of the requests that are."""
        self._watch, self._since_ns, self._lost = number, now_ns, 0
        self._sent = list(under_way) if number else []

    def sent(self, request: int, t_ns: int) -> None:
        """A request was sent."""
        if self._watch:
            self._sent.append((request, t_ns))

    def tell(self, columns: Mapping[str, Any], ended: Sequence[tuple[Any, ...]], **state: Any) -> None:
        """Send what is new.

        Args:
            columns: of ``records.CHUNKS``.
            ended: rows of ``records.REQUESTS``.
            state: ``until_ns`` to ``failed`` of ``Batch``.
        """
        if not self._watch:
            return
        sent, self._sent = self._sent, []
        if not self._push():
            self._lost += 1
            return
        batch = Batch(
            watch=self._watch, shard=self._shard, since_ns=self._since_ns, lost=self._lost,
            sent=sent, ended=list(ended), **packed(columns), **state,
        )  # fmt: skip
        data = self._encode(batch)
        self._rest = memoryview(_LENGTH.pack(len(data)) + data)
        self._push()

    def close(self) -> None:
        """Close the pipe."""
        self._watch = 0
        with contextlib.suppress(OSError):
            os.close(self._fd)

    def _push(self) -> bool:
        """Write what waits; whether nothing is left."""
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
        except BlockingIOError:
            return False
        except OSError:
            self._watch, self._rest = 0, memoryview(b"")  # nobody is there any more
        return True


class Feed:
    """The reader's end.

    Args:
        fd: of the pipe; made non-blocking here, closed by ``close``.

    Attributes:
        ended: the shard has closed its end.
    """

    def __init__(self, fd: int) -> None:
        self.ended = False
        self._fd = fd
        self._waiting = bytearray()
        self._decode = msgspec.msgpack.Decoder(Batch).decode
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        """The descriptor, for ``select``."""
        return self._fd

    def read(self, watch: int) -> list[Batch]:
        """What has come for the watch of this number; what is left of an earlier one is thrown away."""
        try:
            while data := os.read(self._fd, _PIPE_BYTES):
                self._waiting += data
            self.ended = True
        except BlockingIOError:
            pass
        found, at = [], 0
        while len(self._waiting) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._waiting, at)
            begin = at + _LENGTH.size
            if len(self._waiting) < begin + length:
                break
            found.append(self._decode(bytes(self._waiting[begin : begin + length])))
            at = begin + length
        del self._waiting[:at]
        return [batch for batch in found if batch.watch == watch]

    def close(self) -> None:
        """Close the pipe; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
