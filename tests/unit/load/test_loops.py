"""The loops with a host that answers at once and a clock that runs: who launches what, and no request twice or never."""

from __future__ import annotations

import asyncio
from itertools import count
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.load.client import Reply
from labkit.load.loops import Loops
from labkit.load.target import Requests, Target
from labkit.spec import Workload

TARGET = Target("http://127.0.0.1:9", "m", 4096)


class Host:
    """Answers everything in the next round of the event loop; ``fails`` tells of which request, by index, it does not."""

    def __init__(self, work: Workload, clock, fails=lambda index: False) -> None:
        self.builder, self.until_ns = Requests(TARGET, work), None
        self.launched: list[tuple[str, int, int, int]] = []
        self.alive = self.most = 0
        self._clock, self._fails = clock, fails

    def launch(self, talk, due_ns: int, body: bytes) -> Any:
        index = talk.now.index
        self.launched.append((talk.phase, talk.number, talk.turn, index))
        assert body == self.builder.body(talk.phase, talk.number, talk.turn)
        live = SimpleNamespace(scheduled_ns=due_ns, reply=None, ended=None)
        self.alive += 1
        self.most = max(self.most, self.alive)

        async def answer() -> Reply:
            await asyncio.sleep(0)
            self.alive -= 1
            outcome = "http_error" if self._fails(index) else "ok"
            live.reply = Reply(outcome, end_ns=self._clock())
            return live.reply

        live.ended = asyncio.ensure_future(answer())
        return live


def drive(work: Workload, mine: int, shards: int, fails=lambda index: False):
    """What one of so many shards launches. Each look at the clock costs a second, so that nobody waits."""
    ticks = count(0, 10**9)

    def clock() -> int:
        return next(ticks)

    async def run():
        host = Host(work, clock, fails)
        loops = Loops(host, work, mine=mine, shards=shards, stopping=asyncio.Event(), clock=clock)
        loops.build_ahead()
        await loops.run(0, 0)
        while host.alive:
            await asyncio.sleep(0)
        return host, loops

    return asyncio.run(run())


LOADS = st.one_of(
    st.integers(1, 9).map(lambda n: {"concurrency": n}),
    st.sampled_from([{"rate": 50.0}, {"rate": 50.0, "arrivals": "constant"}, {"arrivals": "burst:50@1/2"}]),
)
TURNS = st.sampled_from([{}, {"turns": 3}, {"turns": "uniform:1-5"}, {"turns": "uniform:1-5", "think_s": "uniform:0-0.1"}])


@settings(max_examples=40)
@given(load=LOADS, turns=TURNS, shards=st.integers(1, 5), requests=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_shards_share_out_all_requests_and_none_twice(load, turns, shards, requests, seed):
    work = Workload(isl=3, osl=2, requests=requests, seed=seed, **load, **turns)
    launched, most = [], []
    for mine in range(shards):
        host, loops = drive(work, mine, shards)
        launched += host.launched
        assert all(number % (work.concurrency or shards) % shards == mine for _, number, _, _ in host.launched)
        assert loops.unsent == 0
        if work.concurrency is not None:
            most.append(host.most)
        elif turns:
            by_talk = {}
            for _, number, turn, _ in host.launched:
                assert turn == by_talk.get(number, -1) + 1, "turns in their order"
                by_talk[number] = turn
    assert sorted(index for _, _, _, index in launched) == list(range(requests))
    assert sum(most) <= (work.concurrency or 0)


@settings(max_examples=30)
@given(bad=st.sets(st.integers(0, 29), max_size=6), load=LOADS, seed=st.integers(0, 2**40))
def test_what_a_failure_leaves_out_is_counted(bad, load, seed):
    work = Workload(isl=3, osl=2, turns="uniform:1-5", requests=30, seed=seed, **load)
    host, loops = drive(work, 0, 1, fails=bad.__contains__)
    schedule, sent, left_out = host.builder.schedule, set(), 0
    for number in range(schedule.starts("measure")):
        turns = [turn.index for turn in schedule.turns("measure", number)]
        first_bad = next((at for at, index in enumerate(turns) if index in bad), len(turns) - 1)
        sent |= set(turns[: first_bad + 1])
        left_out += len(turns) - first_bad - 1
    assert {index for _, _, _, index in host.launched} == sent
    assert loops.unsent == left_out == 30 - len(sent)


def test_who_waits_for_a_turn_when_the_load_is_stopped_sends_nothing():
    """What is launched after the stop would be nobody's to cancel."""

    async def run():
        work, ticks = Workload(isl=3, osl=2, concurrency=4, requests=40), count(0, 10**9)
        host, stopping = Host(work, lambda: next(ticks)), asyncio.Event()
        launch = host.launch

        def launch_and_stop(*args):
            stopping.set()
            return launch(*args)

        host.launch = launch_and_stop
        loops = Loops(host, work, mine=0, shards=1, stopping=stopping, clock=lambda: next(ticks))
        await loops.run(0, 0)
        return host.launched

    assert len(asyncio.run(run())) == 1
