"""Drives a workload against the current target and hands rows to sinks. One shard is one event loop, in a process of its own.

Open loop: requests go out when the schedule says so, whatever became of the earlier ones; the lag of each send is on record.
Closed loop: ``concurrency`` slots, each of which sends its next request when its last one ended. With several shards each
takes every n-th request of the same schedule.

A new target (``epoch``) holds for requests that start after it; those under way stay where they are and are marked
``straddled``.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from labkit.errors import LabError, LoadError
from labkit.load.client import Client, Reply
from labkit.load.events import ChunkLog
from labkit.load.progress import LoadResult, Progress, Sink
from labkit.load.schedule import LoadPhase
from labkit.load.target import Requests, Target
from labkit.load.turns import Turns
from labkit.measure.records import REQUESTS
from labkit.spec import Workload

PROGRESS_HZ: Final = 4.0
_SETTLE_TICKS: Final = 2  # parse at every second tick, write what was parsed at the others
_AHEAD: Final = 256  # requests built before they are to be sent
_IDLE_NS: Final = 5_000_000  # an open loop builds ahead while its next send is further away than this
_FAST_FAILURE_S: Final = 0.010
_FAILURE_PAUSE_S: Final = 0.100
_EARLY_S: Final = 0.001  # the event loop's timers have a resolution of 1 ms


@dataclass(slots=True, eq=False)
class _Live:
    """A request under way."""

    request: int
    index: int
    phase: LoadPhase
    epoch: int
    scheduled_ns: int
    isl: int
    osl: int
    sent_id: str
    straddled: bool = False


@dataclass(slots=True)
class _Measurement:
    number: int
    workload: Workload
    first_request: int
    shards: int
    start_ns: int
    measure_ns: int
    until_ns: int | None
    last_send_ns: int = 0
    next_seq: int = 0
    taken: Counter[str] = field(default_factory=Counter)  # requests taken from the schedule, by phase
    counts: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    output_tokens: int = 0


class Shard:
    """Runs measurements one after the other.

    Args:
        shard: its number.
        requests, chunks: sinks for rows of ``records.REQUESTS`` and ``records.CHUNKS``.
        say: takes messages to the parent: ``progress``, ``first_sent`` and ``drained`` (by epoch), as dicts with ``said``.
        nonce: makes ``X-Request-Id`` unique beyond the run.
        clock: ``CLOCK_MONOTONIC`` in ns.
    """

    def __init__(
        self,
        *,
        shard: int,
        requests: Sink,
        chunks: Sink,
        say: Callable[[dict[str, Any]], None],
        nonce: str,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._shard = shard
        self._request_sink, self._chunk_sink = requests, chunks
        self._say, self._nonce, self._clock = say, nonce, clock
        self._log = ChunkLog()
        self._rows: list[tuple[Any, ...]] = []
        self._epoch = -1
        self._target: Target | None = None
        self._client: Client | None = None
        self._builder: Requests  # from the first target on
        self._clients: dict[int, Client] = {}
        self._in_flight: Counter[int] = Counter()
        self._first_sent: set[int] = set()
        self._live: dict[asyncio.Task[Reply], _Live] = {}
        self._running: _Measurement | None = None
        self._turns = Turns()
        self._stopping = asyncio.Event()
        self._failure: LabError | None = None

    def target(self, epoch: int, target: Target) -> None:
        """From now on new requests go there.

        Raises:
            LoadError: a tokenizer that cannot be read.
        """
        workload = self._running.workload if self._running else Workload(concurrency=1, requests=1)
        builder = Requests(target, workload)
        for live in self._live.values():
            live.straddled |= live.epoch != epoch
        old, self._epoch = self._epoch, epoch
        self._target, self._builder = target, builder
        self._client = Client(
            target,
            self._log,
            on_sent=lambda t_ns: self._sent(epoch, t_ns),
            count_text=builder.prompts.count if builder.tokenizer else None,
        )
        self._clients[epoch] = self._client
        if old >= 0 and old != epoch and not self._in_flight[old]:
            self._drained(old)

    async def run(
        self, measurement: int, workload: Workload, *, first_request: int, shards: int = 1, start_ns: int | None = None
    ) -> LoadResult:
        """Drive the workload and follow every request to its end, each for ``workload.timeout_s`` at most.

        Begins at ``start_ns``, so that shards can begin together, or at once. When it returns, every row has been flushed.

        Raises:
            LoadError: no target was set, or a measurement is running.
            StoreError: the rows cannot be written; the load has been stopped then.
        """
        if self._target is None or self._running is not None:
            what = "no target is set" if self._target is None else f"measurement {self._running.number} is running"  # type: ignore[union-attr]
            raise LoadError(f"cannot start measurement {measurement}: {what}", remedy="set a target, and measure one at a time")
        self._stopping.clear()
        self._failure = None
        self._builder = Requests(self._target, workload)
        ready = self._build_ahead(workload, shards) if not workload.is_open_loop else deque()
        start_ns = self._clock() if start_ns is None else start_ns
        measure_ns = start_ns + int(workload.warmup_s * 1e9)
        until_ns = measure_ns + int(workload.duration_s * 1e9) if workload.duration_s is not None else None
        run = _Measurement(measurement, workload, first_request, shards, start_ns, measure_ns, until_ns)
        self._running = run
        cpu_s = time.process_time()
        ticker = asyncio.ensure_future(self._tick())
        try:
            await self._until(start_ns)
            await (self._open_loop(run) if workload.is_open_loop else self._closed_loop(run, ready))
            while self._live:
                await asyncio.wait(list(self._live))
            self._flush()
            self._request_sink.flush()
            self._chunk_sink.flush()
            self._say({"said": "progress", **asdict(self._progress(run))})
        finally:
            ticker.cancel()
            self._running = None
        if self._failure is not None:
            raise self._failure
        end_ns = self._clock()
        return LoadResult(
            start_ns=start_ns,
            measure_ns=measure_ns,
            stop_ns=self._stop_ns(run, end_ns),
            end_ns=end_ns,
            counts=dict(run.counts),
            next_request=first_request + run.next_seq * shards,
            cpu_s=time.process_time() - cpu_s,
            stopped=self._stopping.is_set(),
        )

    def stop(self) -> None:
        """Send nothing more; what is under way becomes ``cancelled`` records with the chunks that had come."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._running is not None and self._running.until_ns is not None:
            self._running.until_ns = min(self._running.until_ns, self._clock())
        for task in list(self._live):
            task.cancel()

    def close(self) -> None:
        """Drop the connections and flush the sinks."""
        for client in self._clients.values():
            client.close()
        self._flush()

    # --- the two loops ---

    async def _open_loop(self, run: _Measurement) -> None:
        schedule = self._builder.schedule
        phases: tuple[tuple[LoadPhase, int], ...] = (("warmup", run.start_ns), ("measure", run.measure_ns))
        for phase, base_ns in phases:
            mine = (pair for pair in enumerate(schedule.arrivals(phase)) if pair[0] % run.shards == self._shard_of(run))
            built: deque[tuple[int, int, Requests, bytes]] = deque()  # many of a trace are due at one instant
            while True:
                while not built or (len(built) < _AHEAD and built[0][1] - self._clock() > _IDLE_NS):
                    if (coming := next(mine, None)) is None:
                        break
                    builder = self._builder
                    built.append((coming[0], base_ns + int(coming[1] * 1e9), builder, builder.body(phase, coming[0])))
                    await asyncio.sleep(0)  # what has come meanwhile is stamped
                if not built:
                    break
                index, due_ns, builder, body = built.popleft()
                if builder is not self._builder:
                    body = self._builder.body(phase, index)
                await self._until(due_ns)
                if self._stopping.is_set():
                    return
                self._launch(run, phase, index, due_ns, body)
            await self._until(run.measure_ns)
        if run.until_ns is not None:
            await self._until(run.until_ns)

    async def _closed_loop(self, run: _Measurement, ready: deque[tuple[LoadPhase, int, bytes]]) -> None:
        await asyncio.gather(*(self._slot(run, ready) for _ in self._slots(run)))

    async def _slot(self, run: _Measurement, ready: deque[tuple[LoadPhase, int, bytes]]) -> None:
        scheduled_ns = run.start_ns
        while (taken := self._take(run, scheduled_ns)) is not None:
            await self._turns.next()
            phase, index = taken
            body = ready.popleft()[2] if ready and ready[0][:2] == taken else self._builder.body(phase, index)
            failures = run.counts["ok"]
            task = self._launch(run, phase, index, scheduled_ns, body)
            await asyncio.wait([task])
            ended_ns = self._clock()
            if run.counts["ok"] == failures and ended_ns - scheduled_ns < _FAST_FAILURE_S * 1e9:
                await self._until(ended_ns + int(_FAILURE_PAUSE_S * 1e9))  # a server that refuses is not hammered
            scheduled_ns = self._clock()

    def _take(self, run: _Measurement, now_ns: int) -> tuple[LoadPhase, int] | None:
        """The next request of a closed loop by phase and index, or ``None`` at the end.

        A shard's part of the requests is that of its slots: request i belongs to slot ``i mod concurrency``.
        """
        phase: LoadPhase = "warmup" if now_ns < run.measure_ns else "measure"
        slots = self._slots(run)
        index = run.taken[phase] // len(slots) * (run.workload.concurrency or 0) + slots[run.taken[phase] % len(slots)]
        most = self._builder.schedule.count(phase)
        over = run.until_ns is not None and now_ns >= run.until_ns
        if self._stopping.is_set() or over or (most is not None and index >= most):
            return None
        run.taken[phase] += 1
        return phase, index

    def _build_ahead(self, workload: Workload, shards: int) -> deque[tuple[LoadPhase, int, bytes]]:
        """The first requests of a closed loop: all slots start at once, and building must not delay the last of them."""
        phase: LoadPhase = "warmup" if workload.warmup_s > 0 else "measure"
        slots = workload.concurrency or 0
        most = min(slots, self._builder.schedule.count(phase) or slots, _AHEAD)
        mine = self._shard % shards
        return deque((phase, index, self._builder.body(phase, index)) for index in range(mine, most, shards))

    # --- one request ---

    def _launch(self, run: _Measurement, phase: LoadPhase, index: int, due_ns: int, body: bytes) -> asyncio.Task[Reply]:
        builder, client = self._builder, self._client
        assert client is not None
        request = run.first_request + run.next_seq * run.shards + self._shard_of(run)
        run.next_seq += 1
        isl, osl = builder.lengths(phase, index)
        live = _Live(request, index, phase, self._epoch, due_ns, isl, osl, f"labkit-{self._nonce}-{request}")
        timeout_s = run.workload.timeout_s
        exchange = client.request(builder.head(body, live.sent_id), body, request=request, osl=osl, timeout_s=timeout_s)
        task = asyncio.ensure_future(exchange)
        self._live[task] = live
        self._in_flight[live.epoch] += 1
        task.add_done_callback(partial(self._ended, run, live))
        return task

    def _ended(self, run: _Measurement, live: _Live, task: asyncio.Task[Reply]) -> None:
        if task.cancelled():  # before its first step
            reply = Reply("cancelled", "stopped by the lab", end_ns=self._clock())
        elif (error := task.exception()) is not None:
            reply = Reply("bad_stream", f"the load client failed: {type(error).__name__}: {error}"[:300], end_ns=self._clock())
        else:
            reply = task.result()
        self._live.pop(task, None)
        self._record(run, live, reply)
        self._in_flight[live.epoch] -= 1
        if not self._in_flight[live.epoch] and live.epoch != self._epoch:
            self._drained(live.epoch)

    def _record(self, run: _Measurement, live: _Live, reply: Reply) -> None:
        run.counts[reply.outcome] += 1
        run.last_send_ns = max(run.last_send_ns, reply.sent_ns or live.scheduled_ns)
        self._rows.append(
            (
                live.request,
                run.number,
                live.index if live.phase == "measure" else -1 - live.index,
                live.epoch,
                self._shard,
                live.phase,
                live.scheduled_ns,
                reply.sent_ns,
                reply.end_ns,
                live.isl,
                live.osl,
                reply.outcome,
                reply.http_status,
                reply.reason,
                reply.done,
                reply.prompt_tokens,
                reply.output_tokens,
                reply.tokens_from,
                live.sent_id,
                reply.server_id,
                live.straddled,
            )
        )

    def _sent(self, epoch: int, t_ns: int) -> None:
        if self._running is not None:
            self._running.sent += 1
        if epoch not in self._first_sent:
            self._first_sent.add(epoch)
            self._say({"said": "first_sent", "epoch": epoch, "t_ns": t_ns})

    def _drained(self, epoch: int) -> None:
        self._say({"said": "drained", "epoch": epoch, "t_ns": self._clock()})
        client = self._clients.pop(epoch, None)
        if client is not None:
            client.close()

    # --- clockwork ---

    async def _until(self, due_ns: int) -> None:
        """Sleep until an instant, or until the load is stopped; at most a millisecond of it is spent awake."""
        while (left_s := (due_ns - self._clock()) / 1e9) > 0 and not self._stopping.is_set():
            if left_s > _EARLY_S:
                try:
                    await asyncio.wait_for(self._stopping.wait(), left_s - _EARLY_S)
                except TimeoutError:
                    continue
            else:
                await asyncio.sleep(0)

    async def _tick(self) -> None:
        for tick in itertools.count():
            await asyncio.sleep(1 / PROGRESS_HZ)
            if tick % _SETTLE_TICKS == 0:
                for client in self._clients.values():
                    client.settle()
            else:
                self._try_flush()
            if (run := self._running) is not None:
                self._say({"said": "progress", **asdict(self._progress(run))})

    def _try_flush(self) -> None:
        try:
            self._flush()
        except LabError as error:
            self._failure = self._failure or error
            self.stop()

    def _progress(self, run: _Measurement) -> Progress:
        ended = sum(run.counts.values())
        return Progress(
            t_ns=self._clock(),
            sent=run.sent,
            done=ended,
            failed=ended - run.counts["ok"],
            in_flight=len(self._live),
            in_flight_by_epoch={epoch: count for epoch, count in self._in_flight.items() if count},
            output_tokens=run.output_tokens,
        )

    def _flush(self) -> None:
        """Hand the rows that have gathered to the sinks."""
        columns, tokens = self._log.take()
        if self._running is not None:
            self._running.output_tokens += tokens
        rows, self._rows = self._rows, []
        if len(columns["t_ns"]):
            self._chunk_sink.append(columns)
        if rows:
            self._request_sink.append(dict(zip(REQUESTS.names, zip(*rows, strict=True), strict=True)))

    def _stop_ns(self, run: _Measurement, end_ns: int) -> int:
        work = run.workload
        if run.until_ns is not None:
            return max(run.until_ns, run.measure_ns)
        schedule = self._builder.schedule
        if work.is_open_loop:
            last = run.last_send_ns + int(schedule.gap_s * 1e9)
        else:
            last = end_ns if (schedule.count("measure") or 0) <= (work.concurrency or 0) else run.last_send_ns
        return max(min(last, end_ns) if self._stopping.is_set() else last, run.measure_ns)

    def _slots(self, run: _Measurement) -> range:
        """The slots of a closed loop that are this shard's."""
        return range(self._shard_of(run), run.workload.concurrency or 0, run.shards)

    def _shard_of(self, run: _Measurement) -> int:
        return self._shard % run.shards
