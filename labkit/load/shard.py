"""Drives a workload against the current target and hands rows to sinks. One shard is one event loop, in a process of its own.

When requests are launched is the business of ``load.loops``. With several shards each takes every n-th request of the same
schedule, or every n-th conversation.

A new target (``epoch``) holds for requests that start after it; those under way stay where they are and are marked
``straddled``.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from labkit.errors import LabError, LoadError
from labkit.load.client import Client, Reply
from labkit.load.conversations import Turn
from labkit.load.draws import LoadPhase
from labkit.load.events import ChunkLog
from labkit.load.feed import Tap
from labkit.load.loops import Loops
from labkit.load.progress import LoadResult, Progress, Sink
from labkit.load.schedule import Schedule
from labkit.load.talk import Talk
from labkit.load.tally import Tally
from labkit.load.target import Requests, Target
from labkit.measure.outcomes import CANCELLED, failures_in
from labkit.measure.records import REQUESTS
from labkit.spec import Workload

PROGRESS_HZ: Final = 4.0
_FLUSH_TICKS: Final = 2  # write what has come at every second tick


@dataclass(slots=True, eq=False)
class _Live:
    """A request under way."""

    run: _Measurement
    request: int
    turn: Turn
    phase: LoadPhase
    epoch: int
    scheduled_ns: int
    sent_id: str
    conversation: tuple[int, int, int] | tuple[None, None, None]  # its number, the turn's, and how many turns it has
    task: asyncio.Task[Reply]
    ended: asyncio.Future[None]
    sent_ns: int | None = None
    straddled: bool = False
    reply: Reply | None = None


@dataclass(slots=True)
class _Measurement:
    number: int
    workload: Workload
    first_request: int
    shards: int
    start_ns: int
    measure_ns: int
    until_ns: int | None
    schedule: Schedule
    stopping: asyncio.Event
    last_send_ns: int = 0
    next_seq: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    output_tokens: int = 0
    begun: int = 0


class Shard:
    """Runs measurements one after the other; one that was finished may still follow its requests while the next sends.

    Args:
        shard: its number.
        requests, chunks: sinks for rows of ``records.REQUESTS`` and ``records.CHUNKS``.
        say: takes messages to the parent: ``progress``, ``first_sent`` and ``drained`` (by epoch), as dicts with ``said``.
        nonce: makes ``X-Request-Id`` unique beyond the run.
        tap: takes the live copy.
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
        tap: Tap | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._shard = shard
        self._tap = tap
        self._read_ns = 0  # what came until then is read and parsed
        self._request_sink, self._chunk_sink = requests, chunks
        self._say, self._nonce, self._clock = say, nonce, clock
        self._log, self._tally = ChunkLog(), Tally()
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
        self._runs: dict[int, _Measurement] = {}
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
        self._target = target
        self._client = Client(
            target,
            self._log,
            on_sent=lambda t_ns: self._sent(epoch, t_ns),
            count_text=builder.prompts.count if builder.tokenizer else None,
        )
        self._set_builder(builder)
        self._clients[epoch] = self._client
        if old >= 0 and old != epoch and not self._in_flight[old]:
            self._drained(old)

    async def run(
        self, measurement: int, workload: Workload, *, first_request: int, shards: int = 1, start_ns: int | None = None
    ) -> LoadResult:
        """Drive the workload and follow every request to its end, each for ``workload.timeout_s`` at most.

        Begins at ``start_ns``, so that shards can begin together, or at once. When it returns, every row has been flushed.

        Raises:
            LoadError: no target was set, or a measurement is running that was not finished.
            StoreError: the rows cannot be written; the load has been stopped then.
        """
        if self._target is None or (self._running is not None and not self._running.stopping.is_set()):
            what = "no target is set" if self._target is None else f"measurement {self._running.number} is running"  # type: ignore[union-attr]
            raise LoadError(f"cannot start measurement {measurement}: {what}", remedy="set a target, and measure one at a time")
        self._failure = None
        self._set_builder(Requests(self._target, workload))
        mine, stopping = self._shard % shards, asyncio.Event()
        loops = Loops(self, workload, mine=mine, shards=shards, stopping=stopping, clock=self._clock)
        loops.build_ahead()
        start_ns = self._clock() if start_ns is None else start_ns
        measure_ns = start_ns + int(workload.warmup_s * 1e9)
        until_ns = measure_ns + int(workload.duration_s * 1e9) if workload.duration_s is not None else None
        schedule = self._builder.schedule
        run = _Measurement(measurement, workload, first_request, shards, start_ns, measure_ns, until_ns, schedule, stopping)
        if not self._runs:
            self._read_ns = self._clock()
        self._running = self._runs[measurement] = run
        cpu_s = time.process_time()
        ticker = asyncio.ensure_future(self._tick(run))
        try:
            await loops.run(start_ns, measure_ns)
            while mine_live := [task for task, live in self._live.items() if live.run is run]:
                await asyncio.wait(mine_live)
            self._flush(over=len(self._runs) == 1)
            self._request_sink.flush()
            self._chunk_sink.flush()
            self._say({"said": "progress", "measurement": measurement, **asdict(self._progress(run))})
        finally:
            ticker.cancel()
            del self._runs[measurement]
            self._running = None if self._running is run else self._running
        if self._failure is not None:
            raise self._failure
        end_ns = self._clock()
        return LoadResult(
            start_ns=start_ns,
            measure_ns=measure_ns,
            stop_ns=self._stop_ns(run, end_ns),
            end_ns=end_ns,
            counts=dict(run.counts),
            next_request=self._following(run),
            cpu_s=time.process_time() - cpu_s,
            stopped=run.stopping.is_set(),
            unsent=loops.unsent,
        )

    def stop(self, measurement: int | None = None) -> None:
        """Send nothing more; what is under way becomes ``cancelled`` records with the chunks that had come. ``None``: of all."""
        self.finish(measurement)
        for task, live in list(self._live.items()):
            if measurement in (None, live.run.number):
                task.cancel()

    def finish(self, measurement: int | None = None) -> None:
        """Send nothing more, and follow what is under way to its end; another measurement may begin at once."""
        for run in self._runs.values():
            if measurement in (None, run.number) and not run.stopping.is_set():
                run.stopping.set()
                if run.until_ns is not None:
                    run.until_ns = min(run.until_ns, self._clock())
                self._say({"said": "finished", "measurement": run.number, "next_request": self._following(run)})

    def watch(self, number: int) -> None:
        """Send a live copy from now on to the watch of this number; 0: to none."""
        if self._tap is not None:
            under_way = [(live.request, live.sent_ns) for live in self._live.values() if live.sent_ns is not None]
            self._tap.watch(number, self._clock(), under_way)

    def close(self) -> None:
        """Drop the connections and flush the sinks."""
        for client in self._clients.values():
            client.close()
        self._flush()
        if self._tap is not None:
            self._tap.close()

    # --- one request ---

    @property
    def builder(self) -> Requests:
        """Builds requests for the target that holds now."""
        return self._builder

    @property
    def until_ns(self) -> int | None:
        """When the measure phase that is running ends, where time bounds it."""
        return self._running.until_ns if self._running is not None else None

    def launch(self, talk: Talk, due_ns: int, body: bytes) -> _Live:
        """Start the request that is the talk's turn; ``body`` is of the target that holds now."""
        run, client, turn = self._running, self._client, talk.now
        assert run is not None
        assert client is not None
        request = run.first_request + run.next_seq * run.shards + self._shard % run.shards
        run.next_seq += 1
        sent_id, timeout_s = f"labkit-{self._nonce}-{request}", run.workload.timeout_s
        head = self._builder.head(body, sent_id)
        task = asyncio.ensure_future(client.request(head, body, request=request, osl=turn.osl, timeout_s=timeout_s))
        of = (None, None, None) if talk.conversation is None else (talk.conversation, talk.turn, len(talk.turns))
        ended = asyncio.get_running_loop().create_future()
        live = self._live[task] = _Live(run, request, turn, talk.phase, self._epoch, due_ns, sent_id, of, task, ended)
        self._in_flight[live.epoch] += 1
        task.add_done_callback(partial(self._ended, run, live))
        return live

    def _set_builder(self, builder: Requests) -> None:
        assert self._client is not None
        self._builder, self._client.keep_answers = builder, builder.served

    def _ended(self, run: _Measurement, live: _Live, task: asyncio.Task[Reply]) -> None:
        if task.cancelled():  # before its first step
            reply = Reply(CANCELLED, "stopped by the lab", end_ns=self._clock())
        elif (error := task.exception()) is not None:
            reply = Reply("bad_stream", f"the load client failed: {type(error).__name__}: {error}"[:300], end_ns=self._clock())
        else:
            reply = task.result()
        live.reply = reply
        if not live.ended.done():
            live.ended.set_result(None)
        self._live.pop(task, None)
        self._record(run, live, reply)
        self._in_flight[live.epoch] -= 1
        if not self._in_flight[live.epoch] and live.epoch != self._epoch:
            self._drained(live.epoch)

    def _record(self, run: _Measurement, live: _Live, reply: Reply) -> None:
        warm, (conversation, turn, turns) = live.phase == "warmup", live.conversation
        run.counts[reply.outcome] += 1
        run.last_send_ns = max(run.last_send_ns, reply.sent_ns or live.scheduled_ns)
        self._rows.append(
            (
                live.request,
                run.number,
                -1 - live.turn.index if warm else live.turn.index,
                live.epoch,
                self._shard,
                live.phase,
                live.scheduled_ns,
                reply.sent_ns,
                reply.end_ns,
                live.turn.isl,
                live.turn.osl,
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
                -1 - conversation if warm and conversation is not None else conversation,
                turn,
                turns,
            )
        )

    def _sent(self, epoch: int, t_ns: int) -> None:
        if (live := self._live.get(asyncio.current_task())) is not None:  # type: ignore[arg-type]
            live.run.sent += 1
            live.sent_ns = t_ns
            if self._tap is not None:
                self._tap.sent(live.request, t_ns)
        if epoch not in self._first_sent:
            self._first_sent.add(epoch)
            self._say({"said": "first_sent", "epoch": epoch, "t_ns": t_ns})

    def _drained(self, epoch: int) -> None:
        self._say({"said": "drained", "epoch": epoch, "t_ns": self._clock()})
        client = self._clients.pop(epoch, None)
        if client is not None:
            client.close()

    # --- clockwork ---

    async def _tick(self, run: _Measurement) -> None:
        for tick in itertools.count():
            await asyncio.sleep(1 / PROGRESS_HZ)
            now_ns = self._clock()
            for client in self._clients.values():
                client.catch_up()
            self._read_ns = now_ns
            if tick % _FLUSH_TICKS == 0 or (self._tap is not None and self._tap.watched):
                self._try_flush()
            self._say({"said": "progress", "measurement": run.number, **asdict(self._progress(run))})

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
            failed=failures_in(run.counts),
            in_flight=len(self._live),
            in_flight_by_epoch={epoch: count for epoch, count in self._in_flight.items() if count},
            output_tokens=run.output_tokens,
            begun=run.begun,
        )

    def _flush(self, *, over: bool = False) -> None:
        """Hand the rows that have gathered to the sinks, and a copy to who watches; ``over``: no request is left."""
        (rows, self._rows), run = (self._rows, []), self._running
        columns, tokens, begun = self._tally.take(self._log, [row[0] for row in rows], run.first_request if run else 0)
        if run is not None:
            run.output_tokens, run.begun = run.output_tokens + tokens, run.begun + begun
        try:
            if len(columns["t_ns"]):
                self._chunk_sink.append(columns)
        finally:  # each sink tells of its own trouble, and keeps what it was given
            if rows:
                self._request_sink.append(dict(zip(REQUESTS.names, zip(*rows, strict=True), strict=True)))
        if self._tap is not None and self._tap.watched:
            self._tap.tell(columns, rows, **self._state(over))

    def _state(self, over: bool) -> dict[str, Any]:
        """What a ``feed.Batch`` says of the shard."""
        run = self._running
        return {
            "until_ns": self._clock() if over else self._read_ns,
            "running": run is not None and not over,
            "closed_loop": [one.number for one in self._runs.values() if not one.workload.is_open_loop],
            "in_flight": len(self._live),
            "oldest": next((live.request for live in self._live.values()), self._following(run) if run is not None else 0),
            "failed": failures_in(run.counts) if run is not None else 0,
        }

    def _following(self, run: _Measurement) -> int:
        """A number above those of all requests of the measurement so far."""
        return run.first_request + run.next_seq * run.shards

    def _stop_ns(self, run: _Measurement, end_ns: int) -> int:
        work = run.workload
        if run.until_ns is not None:
            return max(run.until_ns, run.measure_ns)
        if work.is_open_loop:
            last = run.last_send_ns + int(run.schedule.gap_s * 1e9)
        else:
            last = end_ns if (run.schedule.count("measure") or 0) <= (work.concurrency or 0) else run.last_send_ns
        return max(min(last, end_ns) if run.stopping.is_set() else last, run.measure_ns)
