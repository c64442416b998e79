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
import pyarrow.compute as pc

from labkit.measure.answers import Answers, NewGaps
from labkit.measure.chunks import RequestRows, TokenChunks, sort_out
from labkit.measure.columns import UNKNOWN, Bools, equals, ints
from labkit.measure.gaps import Gaps
from labkit.measure.received import Received
from labkit.measure.records import CHUNKS, REQUESTS, Records, Window

#: Rows of a table in memory that are looked at together: few enough for the caches of a core.
_PART_ROWS = 1 << 17


@dataclass(frozen=True, slots=True, eq=False)
class Digest:
    """Records whose chunks have been taken in. What has these attributes in ``Records`` is the same here.

    Attributes:
        answers: what the chunks say, per row of ``requests``.
        gaps: per measurement, those of the requests that count in its window and ended as asked; owners are rows of ``requests``.
        received: per measurement that has a window, how its tokens came in.
        windows: with whose bounds the tokens inside were counted, and whose warm-up was left out.
        parts: the chunks, to be read again.
        chunks: all of them as a table, for what needs their instants; ``None`` where it is too large.
    """

    requests: pa.Table
    answers: Answers
    gaps: Mapping[int, Gaps]
    received: Mapping[int, Received]
    samples: pa.Table
    spans: pa.Table
    events: pa.Table
    windows: tuple[Window, ...]
    parts: Iterable[pa.Table]
    chunks: pa.Table | None

    def of(self, window: Window) -> Digest:
        """The requests of one measurement with all that belongs to them; samples, spans and events as they are.

        Those that the window leaves out as warm-up have the phase ``warmup`` here. A window that was not counted in yet,
        perhaps one with other bounds, takes another pass over the parts.
        """
        number = window.measurement
        mine = ints(self.requests, "measurement") == number
        requests = without_warmup(self.requests.filter(pa.array(mine)), window)
        if window not in self.windows:
            return replace(self, requests=requests).counted((window,))
        if self.windows == (window,) and mine.all():
            return replace(self, requests=requests) if window.first_index else self
        row_of = np.cumsum(mine) - 1
        return replace(
            self,
            requests=requests,
            answers=self.answers.select(mine),
            gaps={number: self.gaps[number].renumbered(row_of)} if number in self.gaps else {},
            received={number: self.received[number]} if number in self.received else {},
            windows=(window,),
        )

    def counted(self, windows: Iterable[Window]) -> Digest:
        """The same with these windows counted in, in one pass for all of them; none where they are already."""
        windows = tuple(windows)
        if all(window in self.windows for window in windows):
            return self
        chunks = CHUNKS.empty_table() if self.chunks is None else self.chunks
        outline = Records(self.requests, chunks, self.samples, self.spans, self.events, windows)
        return digest(outline, self.parts if self.chunks is None else None)


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
        received=taking.received,
        samples=records.samples,
        spans=records.spans,
        events=records.events,
        windows=windows,
        parts=parts,
        chunks=kept,
    )


def without_warmup(requests: pa.Table, window: Window) -> pa.Table:
    """Requests of which those that the window leaves out (``Window.first_index``) have the phase ``warmup``."""
    if not window.first_index:
        return requests
    early = pc.and_(
        pc.equal(requests.column("measurement"), window.measurement), pc.less(requests.column("index"), window.first_index)
    )
    left_out = pc.and_(pc.equal(requests.column("phase"), "measure"), early)
    phases = pc.if_else(left_out, "warmup", requests.column("phase"))
    return requests.set_column(requests.schema.get_field_index("phase"), REQUESTS.field("phase"), phases)


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
        self._start_ns, self._stop_ns = (np.zeros(len(requests), np.int64) for _ in range(2))
        self.received: dict[int, Received] = {}
        sent_ns = ints(requests, "sent_ns", UNKNOWN)
        for window in windows:
            mine = self._measurement == window.measurement
            self._start_ns[mine], self._stop_ns[mine] = window.measure_ns, window.stop_ns
            self.received[window.measurement] = Received(sent_ns[mine & (sent_ns != UNKNOWN) & (sent_ns <= window.stop_ns)])
            requests = without_warmup(requests, window)
        self._done = equals(requests, "phase", "measure") & equals(requests, "outcome", "ok")

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
            self._receive(chunks)

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

    def _receive(self, chunks: TokenChunks) -> None:
        number = self._measurement[chunks.row[chunks.heads]]
        for one in np.unique(number):
            received = self.received.get(int(one))
            if received is None:
                continue
            mine = number == one
            which = slice(None) if mine.all() else np.repeat(mine, chunks.lengths)
            received.add(chunks.t_ns[which], chunks.tokens[which])
