"""When a measurement's requests are launched: on a clock, or whenever an earlier one has ended.

Open loop: requests go out when the schedule says so, whatever became of the earlier ones; the lag of each send is on record.
Closed loop: ``concurrency`` slots, each of which sends its next request when its last one ended.

In a workload with ``turns`` what is launched so is a conversation. Each later turn is due its think time after the end of the
answer before, and is late if it is sent later than that. A turn that fails ends its conversation. Conversations of the warm-up
go on beside the measured ones in an open loop, as warm-up; a slot of a closed loop begins a measured one instead of the turn
that is due after the warm-up.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Protocol

from labkit.load.client import Reply
from labkit.load.draws import LoadPhase
from labkit.load.talk import Talk
from labkit.load.target import Requests
from labkit.load.turns import Turns
from labkit.spec import Workload

_AHEAD: Final = 256  # requests built before they are to be sent
_IDLE_NS: Final = 5_000_000  # an open loop builds ahead while its next send is further away than this
_FAILURE_NS: Final = 100_000_000  # a slot sends nothing for so long from a request on that failed
_EARLY_S: Final = 0.001  # the event loop's timers have a resolution of 1 ms


class Launched(Protocol):
    """A request under way."""

    scheduled_ns: int
    reply: Reply | None
    ended: asyncio.Future[None]


class Host(Protocol):
    """What launches the requests."""

    @property
    def builder(self) -> Requests:
        """Builds them for the target that holds now."""

    @property
    def until_ns(self) -> int | None:
        """When the measure phase ends, where time bounds it."""

    def launch(self, talk: Talk, due_ns: int, body: bytes) -> Launched:
        """Start the request that is the talk's turn."""


class Loops:
    """The loops of one measurement in one shard.

    Args:
        host: launches the requests.
        workload: what is asked for.
        mine, shards: this shard takes the arrivals whose number is ``mine`` modulo ``shards``; of a closed loop the slots, and
            their arrivals: number i belongs to slot ``i mod concurrency``.
        stopping: set when nothing more is to be sent.
        clock: ``CLOCK_MONOTONIC`` in ns.

    Attributes:
        unsent: turns that were not sent, because an earlier one of their conversation failed or its answer cannot be told.
    """

    def __init__(
        self,
        host: Host,
        workload: Workload,
        *,
        mine: int,
        shards: int,
        stopping: asyncio.Event,
        clock: Callable[[], int],
    ) -> None:
        self._host, self._work = host, workload
        self._mine, self._shards = mine, shards
        self._slots = range(mine, workload.concurrency or 0, shards)
        self._stopping, self._clock = stopping, clock
        self._turns = Turns()
        self._taken: Counter[LoadPhase] = Counter()
        self._ready: deque[tuple[Talk, bytes]] = deque()
        self._talks: set[asyncio.Task[Launched]] = set()
        self.unsent = 0

    def build_ahead(self) -> None:
        """Build the first requests of a closed loop: all slots start at once, which must not delay the last of them."""
        if self._work.is_open_loop:
            return
        phase: LoadPhase = "warmup" if self._work.warmup_s > 0 else "measure"
        builder, slots = self._host.builder, self._work.concurrency or 0
        most = min(slots, builder.schedule.starts(phase) or slots, _AHEAD)
        talks = [Talk(builder, phase, number) for number in self._slots if number < most]
        self._ready.extend((talk, talk.body(builder)) for talk in talks)

    async def run(self, start_ns: int, measure_ns: int) -> None:
        """Launch everything; returns when nothing more is to be launched."""
        self._start_ns, self._measure_ns = start_ns, measure_ns
        await self._until(start_ns)
        await (self._open() if self._work.is_open_loop else self._closed())

    async def _open(self) -> None:
        host = self._host
        phases: tuple[tuple[LoadPhase, int], ...] = (("warmup", self._start_ns), ("measure", self._measure_ns))
        for phase, base_ns in phases:
            arrivals = enumerate(host.builder.schedule.arrivals(phase))
            mine = (pair for pair in arrivals if pair[0] % self._shards == self._mine)
            built: deque[tuple[int, Requests, Talk, bytes]] = deque()  # many of a trace are due at one instant
            while not self._stopping.is_set():
                while not built or (len(built) < _AHEAD and built[0][0] - self._clock() > _IDLE_NS):
                    if (coming := next(mine, None)) is None:
                        break
                    builder = host.builder
                    talk = Talk(builder, phase, coming[0])
                    built.append((base_ns + int(coming[1] * 1e9), builder, talk, talk.body(builder)))
                    await asyncio.sleep(0)  # what has come meanwhile is stamped
                if not built:
                    break
                due_ns, builder, talk, body = built.popleft()
                if builder is not host.builder:
                    body = talk.body(host.builder)
                await self._until(due_ns)
                if not self._stopping.is_set():
                    self._follow(talk, host.launch(talk, due_ns, body))
            await self._until(self._measure_ns)
        if host.until_ns is not None:
            await self._until(host.until_ns)
        while self._talks:
            done, _ = await asyncio.wait(self._talks)
            self._talks -= done
            for task in done:
                task.result()

    def _follow(self, talk: Talk, launched: Launched) -> None:
        """Take a conversation on beside the arrivals."""
        if talk.left:
            task = asyncio.ensure_future(self._go_on(talk, launched))
            self._talks.add(task)
            task.add_done_callback(self._talked)

    def _talked(self, task: asyncio.Task[Launched]) -> None:
        if not task.cancelled() and task.exception() is None:  # others raise at the end
            self._talks.discard(task)

    async def _closed(self) -> None:
        await asyncio.gather(*(self._slot() for _ in self._slots))

    async def _slot(self) -> None:
        scheduled_ns = self._start_ns
        while (taken := self._take(scheduled_ns)) is not None:
            await self._turns.next()
            if self._stopping.is_set():
                return
            if self._ready and (self._ready[0][0].phase, self._ready[0][0].number) == taken:
                talk, body = self._ready.popleft()
            else:
                talk = Talk(self._host.builder, *taken)
                body = talk.body(self._host.builder)
            last = await self._go_on(talk, self._host.launch(talk, scheduled_ns, body))
            if last.reply is not None and last.reply.outcome != "ok":
                await self._until(last.scheduled_ns + _FAILURE_NS)  # a server that refuses is not hammered
            scheduled_ns = self._clock()

    def _take(self, now_ns: int) -> tuple[LoadPhase, int] | None:
        """The next arrival of a closed loop by phase and number, or ``None`` at the end."""
        phase: LoadPhase = "warmup" if now_ns < self._measure_ns else "measure"
        lap, slot = divmod(self._taken[phase], len(self._slots))
        number = lap * (self._work.concurrency or 0) + self._slots[slot]
        most, until_ns = self._host.builder.schedule.starts(phase), self._host.until_ns
        over = until_ns is not None and now_ns >= until_ns
        if self._stopping.is_set() or over or (most is not None and number >= most):
            return None
        self._taken[phase] += 1
        return phase, number

    async def _go_on(self, talk: Talk, launched: Launched) -> Launched:
        """Wait for the answer, and take the conversation to its end; returns the last request."""
        while True:
            await launched.ended
            reply = launched.reply
            if not talk.left or reply is None or reply.end_ns is None or self._stopping.is_set():
                return launched
            left = talk.left
            if reply.outcome != "ok" or not talk.go_on(self._host.builder, reply):
                self.unsent += left
                return launched
            due_ns, until_ns = reply.end_ns + talk.now.think_ns, self._host.until_ns
            over_ns = due_ns if until_ns is None else min(due_ns, until_ns)
            await self._until(over_ns - _IDLE_NS)  # the body may be large: it is made when it is needed
            await self._turns.next()
            builder = self._host.builder
            body = talk.body(builder)
            await self._until(over_ns)
            if self._is_over(talk, due_ns):
                return launched
            launched = self._host.launch(talk, due_ns, body if builder is self._host.builder else talk.body(self._host.builder))

    def _is_over(self, talk: Talk, due_ns: int) -> bool:
        """Whether a turn falls behind the end of its phase."""
        until_ns = self._host.until_ns
        warmed = not self._work.is_open_loop and talk.phase == "warmup" and due_ns >= self._measure_ns
        return self._stopping.is_set() or warmed or (until_ns is not None and due_ns >= until_ns)

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
