"""Records of any size in one pass over their chunks: what is kept grows with requests, and by four bytes a gap.

A hundred million chunks do not fit in memory as a table. Every metric of a window needs of them only a few numbers a request and
the gaps between them, and these can be taken in part by part, in the order in which the chunks were written: the requests of a
part are interleaved, the chunks of each in order of time. Where they are not, those requests are held back to the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from labkit.measure.answers import Answers, NewGaps
from labkit.measure.chunks import RequestRows, TokenChunks, sort_out
from labkit.measure.columns import UNKNOWN, Bools, equals, ints
from labkit.measure.gaps import Gaps
from labkit.measure.records import CHUNKS, Records, Window

#: Rows of a table in memory that are looked at together: few enough for the caches of a core.
_PART_ROWS = 1 << 17


@dataclass(frozen=True, slots=True, eq=False)
class Digest:
    """Records whose chunks have been taken in. What has these attributes in ``Records`` is the same here.

    Attributes:
        answers: what the chunks say, per row of ``requests``.
        gaps: per measurement, those of the requests that were measured and ended as asked; owners are rows of ``requests``.
        windows: with whose bounds the tokens inside were counted.
        parts: the chunks, to be read again.
        chunks: all of them as a table, for what needs their instants; ``None`` where it is too large.
    """

    requests: pa.Table
    answers: Answers
    gaps: Mapping[int, Gaps]
    samples: pa.Table
    spans: pa.Table
    events: pa.Table
    windows: tuple[Window, ...]
    parts: Iterable[pa.Table]
    chunks: pa.Table | None

    def of(self, window: Window) -> Digest:
        """The requests of one measurement with all that belongs to them; samples, spans and events as they are.

        A window that tokens were not counted in yet, perhaps one with other bounds, takes another pass over the parts.
        """
        number = window.measurement
        mine = ints(self.requests, "measurement") == number
        if self.windows == (window,) and mine.all():
            return self
        requests = self.requests.filter(pa.array(mine))
        if window not in self.windows:
            chunks = CHUNKS.empty_table() if self.chunks is None else self.chunks
            outline = Records(requests, chunks, self.samples, self.spans, self.events, (window,))
            return digest(outline, self.parts if self.chunks is None else None)
        row_of = np.cumsum(mine) - 1
        return replace(
            self,
            requests=requests,
            answers=self.answers.select(mine),
            gaps={number: self.gaps[number].renumbered(row_of)} if number in self.gaps else {},
            windows=(window,),
        )


def digest(records: Records, parts: Iterable[pa.Table] | None = None, *, windows: tuple[Window, ...] | None = None) -> Digest:
    """Take in the chunks of records.

    Args:
        records: of a run.
        parts: tables of chunks in the order in which they were written, read (once, or twice where chunks are out of order) in
            place of ``records.chunks``, and not kept.
        windows: whose bounds are counted in; those of the records by default.
    """
    windows = records.windows if windows is None else windows
    kept = records.chunks if parts is None else None
    parts = _cut(records.chunks) if parts is None else parts
    rows = RequestRows(ints(records.requests, "request"))
    held = np.zeros(len(rows), np.bool_)
    while True:
        taking = _Taking(records.requests, windows, held)
        for chunks in _sorted_out(parts, rows):
            taking.take(chunks)
        if not taking.late.any():
            break
        held = held | taking.late
    taking.take_held()
    return Digest(
        requests=records.requests,
        answers=taking.answers,
        gaps=taking.gaps,
        samples=records.samples,
        spans=records.spans,
        events=records.events,
        windows=windows,
        parts=parts,
        chunks=kept,
    )


def _cut(chunks: pa.Table) -> list[pa.Table]:
    return [chunks.slice(start, _PART_ROWS) for start in range(0, len(chunks), _PART_ROWS)]


def _sorted_out(parts: Iterable[pa.Table], rows: RequestRows) -> Iterator[TokenChunks]:
    """Sort out parts on a thread of its own, while this one reads the next and takes in the one before."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        under_way: deque[Future[TokenChunks]] = deque()
        for part in parts:
            under_way.append(thread.submit(sort_out, part, rows))
            if len(under_way) > 2:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


class _Taking:
    """One pass over the chunks. Those of requests in ``held`` wait until the end, for they are not in order of time."""

    def __init__(self, requests: pa.Table, windows: tuple[Window, ...], held: Bools) -> None:
        self.answers = Answers.none(len(requests))
        self.gaps: dict[int, Gaps] = {}
        self._waiting: list[TokenChunks] = []
        self._held, self.late = held, np.zeros(len(held), np.bool_)
        self._measurement = ints(requests, "measurement")
        self._done = equals(requests, "phase", "measure") & equals(requests, "outcome", "ok")
        self._start_ns, self._stop_ns = (np.zeros(len(requests), np.int64) for _ in range(2))
        for window in windows:
            mine = self._measurement == window.measurement
            self._start_ns[mine], self._stop_ns[mine] = window.measure_ns, window.stop_ns

    def take(self, chunks: TokenChunks) -> None:
        """Take in a part."""
        if self._held.any():
            waits = self._held[chunks.row]
            self._waiting.append(TokenChunks.of(chunks.row[waits], chunks.t_ns[waits], chunks.tokens[waits]))
            chunks = TokenChunks.of(chunks.row[~waits], chunks.t_ns[~waits], chunks.tokens[~waits])
        self._take(chunks)

    def take_held(self) -> None:
        """Take in what was held back, sorted."""
        if not self._waiting:
            return
        columns = zip(*((part.row, part.t_ns, part.tokens) for part in self._waiting), strict=True)
        self._take(TokenChunks.of(*(np.concatenate(column) for column in columns)))

    def _take(self, chunks: TokenChunks) -> None:
        found = self.answers.add(chunks, self._start_ns, self._stop_ns)
        self.late[found.late] = True
        if not len(found.late):
            self._keep(found)

    def _keep(self, found: NewGaps) -> None:
        row, counts, gap_ns = found.row, found.counts, found.gap_ns
        number = np.where(self._done[row], self._measurement[row], UNKNOWN)
        for one in np.unique(number):
            if one == UNKNOWN:
                continue
            mine, gaps = number == one, self.gaps.setdefault(int(one), Gaps())
            if mine.all():
                gaps.add(gap_ns, row, counts)
            else:
                gaps.add(gap_ns[np.repeat(mine, counts)], row[mine], counts[mine])
