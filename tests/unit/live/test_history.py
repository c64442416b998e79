"""The ring of samples gives back what it was given, in little memory."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from labkit.live.history import History
from labkit.live.sample import DeviceSample, Dot, FrontendSample, LiveEvent, LiveStats, Sample, WorkerSample
from labkit.spec.topology import Role


def sample(number: int, *, workers: int = 2, events: tuple[LiveEvent, ...] = ()) -> Sample:
    return Sample(
        t_s=number / 4,
        t_ns=2**60 + number,
        topology="1P1D",
        stats=LiveStats(
            5.0, requests=number, gaps=3, failed=1, in_flight=2, sent_hz=1.5, ttft_p50_s=0.1 * number, end_ns=2**60 + 1, lost=4
        ),
        workers=tuple(
            WorkerSample(f"w{n}", Role.DECODE, alive=n != 1, cause="gone" if n == 1 else "", running=float(number))
            for n in range(workers)
        ),
        devices=tuple(DeviceSample(f"GPU {n}", f"w{n}", Role.DECODE, power_w=101.25) for n in range(workers)),
        events=events,
        slow_itl=(Dot(1.0, 7, 0.2),),
        frontend=FrontendSample(number, 0, 12.5, ttft_s=0.25),
    )


def test_samples_come_back_as_they_were():
    history = History()
    given = [sample(n, workers=1 + n // 5, events=(LiveEvent(n, "note", str(n)),)) for n in range(10)]
    given = [replace(one, frontend=None) if number % 3 else one for number, one in enumerate(given)]
    for one in given:
        history.add(one)
    assert history.samples() == given
    assert history.latest == given[-1]
    assert history.samples(1.0, 2.0) == given[4:9]
    assert history.samples(every=4) == given[::4]
    assert [event.text for event in history.events] == [str(n) for n in range(10)]
    assert History().latest is None


def test_the_oldest_samples_are_forgotten_and_their_events_are_not():
    history = History(most=3)
    for n in range(5):
        history.add(sample(n, events=(LiveEvent(n, "fault", str(n)),)))
    assert [one.stats.requests for one in history.samples()] == [2, 3, 4]
    assert (len(history), len(history.events)) == (3, 5)


def test_names_are_kept_once():
    history = History()
    for n in range(3):
        history.add(sample(n))
    assert len({id(packed.names) for packed in history._samples}) == 1


def test_one_writes_while_another_reads():
    history = History(most=50)
    ended = threading.Event()

    def write() -> None:
        for n in range(3000):
            history.add(sample(n, workers=1))
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not ended.is_set():
        times = [one.t_s for one in history.samples()]
        assert times == sorted(times)
    writer.join()
    assert len(history) == 50


@pytest.mark.parametrize("workers", [0, 16])
def test_pools_of_any_size(workers: int):
    history = History()
    history.add(sample(1, workers=workers))
    assert history.samples() == [sample(1, workers=workers)]
