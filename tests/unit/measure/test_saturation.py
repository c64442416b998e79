"""Queues simulated by hand: what is called saturated, how soon, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labkit.measure.digest import digest
from labkit.measure.saturation import BacklogWatch, Course, first_saturation, saturation_of
from labkit.spec import Workload
from tests.support.handmade import SECOND, records, request, window

HZ = 4
Arrivals = np.ndarray


def poisson(rng: np.random.Generator, rate: float, length_s: float) -> Arrivals:
    times = np.cumsum(rng.exponential(1 / rate, int(rate * length_s * 1.5) + 50))
    return times[times < length_s]


def one_server(arrivals: Arrivals, service_s: float | np.ndarray) -> np.ndarray:
    """Ends of a queue with one server: M/D/1 where every service takes as long."""
    free, ends = 0.0, np.empty(len(arrivals))
    for at, (arrived, took) in enumerate(zip(arrivals, np.broadcast_to(service_s, len(arrivals)), strict=True)):
        free = ends[at] = max(free, arrived) + took
    return ends


def course(
    arrivals: Arrivals,
    ends: np.ndarray,
    end_s: float,
    tokens: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    *,
    firsts: np.ndarray | None = None,
) -> Course:
    """``firsts``: instants of first tokens; each answer comes whole, at its end, where they are left out."""
    t_s = np.arange(0, end_s, 1 / HZ)
    firsts = ends if firsts is None else firsts
    sent, begun, done = (np.searchsorted(np.sort(events), t_s, "right").astype(float) for events in (arrivals, firsts, ends))
    received = 32 * done if tokens is None else tokens(sent, done)
    return Course(t_s, sent, begun, done, received, float(len(arrivals)), end_s)


def streamed(sent: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Every request in flight gets 30 tokens a second."""
    return np.cumsum(30 * (sent - done) / HZ)


@pytest.mark.parametrize("rho", [0.5, 0.8, 0.9])
def test_a_server_that_keeps_up_is_not_saturated(rho: float):
    rng = np.random.default_rng(int(10 * rho))
    for _ in range(4):
        arrivals = poisson(rng, 2 * rho, 3600)
        ends = one_server(arrivals, 0.5)
        assert first_saturation(course(arrivals, ends, 3600)) is None
        assert first_saturation(course(arrivals, ends, 3600, firsts=ends - 0.5)) is None


def test_a_server_of_irregular_service_is_seldom_called_saturated():
    """M/M/1 at 80 % load: about once in 20 hours, so at most twice in these ten."""
    rng, called = np.random.default_rng(0), 0
    for _ in range(10):
        arrivals = poisson(rng, 1.6, 3600)
        ends = one_server(arrivals, rng.exponential(0.5, len(arrivals)))
        called += first_saturation(course(arrivals, ends, 3600)) is not None
    assert called <= 2


@pytest.mark.parametrize("load", [0.6, 0.8])
def test_a_batch_that_slows_down_with_every_request_is_not_saturated_while_it_fills(load: float):
    """A step takes 10 ms and 0.2 ms for each request in flight: tokens a second rise ever less than the requests in flight."""
    tokens_s = load * 256 / (0.010 + 0.0002 * 256)
    t_s = np.arange(0, 240, 1 / HZ)
    flying, done, tokens = np.zeros((3, len(t_s)))
    for at in range(1, len(t_s)):
        made = flying[at - 1] / (0.010 + 0.0002 * flying[at - 1]) / HZ
        tokens[at], done[at] = tokens[at - 1] + made, done[at - 1] + made / 1000
        flying[at] = flying[at - 1] + (tokens_s / HZ - made) / 1000
    assert flying[-1] > 30, "it has filled"
    assert first_saturation(Course(t_s, flying + done, flying + done, done, tokens, tokens_s / 1000 * 240, 240.0)) is None


def coarse_worker(arrivals: Arrivals, rng: np.random.Generator, osl: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First tokens, ends and the instants of all tokens: steps of up to four waiting prompts, 312 ms each, and a token of all."""
    now, nxt, running = 0.0, 0, list[int]()
    firsts, ends, left, tokens = np.full(len(arrivals), np.inf), np.full(len(arrivals), np.inf), {}, list[float]()
    while nxt < len(arrivals) or running:
        now = now if running else max(now, arrivals[nxt])
        fresh = [at for at in range(nxt, min(nxt + 4, len(arrivals))) if arrivals[at] <= now]
        nxt += len(fresh)
        now += 0.312 * len(fresh) * rng.lognormal(0, 0.06) + (0.0156 + 0.0011 * len(running)) * bool(running)
        tokens += [now] * (len(running) + len(fresh))
        for at in running:
            left[at] -= 1
            ends[at] = now if left[at] == 0 else np.inf
        firsts[fresh] = now
        left |= dict.fromkeys(fresh, osl - 1)
        running = [at for at in (*running, *fresh) if left[at]]
    return firsts, ends, np.array(tokens)


@pytest.mark.parametrize(("rate", "fewest", "most"), [(1.5, 0, 0), (2.1, 0, 1), (4.0, 12, 12)])
def test_prefills_that_hold_up_decodes_for_seconds_are_no_lack_of_pace(rate: float, fewest: int, most: int):
    """At 55, 78 and 148 % load; completions come in clots then, and a window between two of them says little."""
    rng, called = np.random.default_rng(11), 0
    for _ in range(12):
        arrivals = poisson(rng, rate, 120)
        firsts, ends, tokens = coarse_worker(arrivals, rng, 32)
        received = np.searchsorted(tokens, np.arange(0, 120, 1 / HZ), "right").astype(float)
        seen = course(arrivals, ends, 120, lambda *_, received=received: received, firsts=firsts)
        called += first_saturation(seen) is not None
    assert fewest <= called <= most


@pytest.mark.parametrize(("rho", "most_s"), [(1.3, 200), (2.0, 40), (4.0, 30)])
def test_overload_is_told_soon(rho: float, most_s: float):
    """Two completions a second; the times are upper limits of what the docstring states for the median and 95 %."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        arrivals = poisson(rng, 2 * rho, 600)
        found = first_saturation(course(arrivals, one_server(arrivals, 0.5), 600))
        assert found is not None
        assert found.t_s <= most_s
        assert found.completions_s == pytest.approx(2.0, rel=0.1)
        assert found.arrivals_s > 1.1 * found.completions_s
        assert found.in_flight > 10


def test_it_says_the_rates_and_over_how_long():
    rng = np.random.default_rng(0)
    arrivals = poisson(rng, 4, 120)
    text = str(first_saturation(course(arrivals, one_server(arrivals, 0.5), 120)))
    assert text.startswith("saturated: arrivals ")
    assert ", completions 2/s over the last " in text
    assert text.endswith(" in flight")


@pytest.mark.parametrize("answer_s", [8, 30])
@pytest.mark.parametrize("shape", ["equal", "lognormal"])
def test_a_server_that_fills_with_long_answers_is_not_saturated(answer_s: float, shape: str):
    """The number in flight grows for as long as an answer takes, and tokens a second with it."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        arrivals = poisson(rng, 5, 6 * answer_s)
        factor = np.ones(len(arrivals)) if shape == "equal" else rng.lognormal(-0.5, 1, len(arrivals))
        ends = arrivals + answer_s * factor
        assert first_saturation(course(arrivals, ends, 6 * answer_s, streamed, firsts=arrivals + 0.3)) is None


@pytest.mark.parametrize("ttft_s", [2, 20])
def test_a_server_that_begins_late_but_all_at_once_is_not_saturated(ttft_s: float):
    """The number that waits for a first token grows for as long as a TTFT, and the pace of first tokens with it."""
    rng = np.random.default_rng(1)
    for shape in ("equal", "lognormal"):
        arrivals = poisson(rng, 5, 120)
        firsts = arrivals + ttft_s * (rng.lognormal(-0.5, 1, len(arrivals)) if shape == "lognormal" else 1)
        assert first_saturation(course(arrivals, firsts + 10, 120, streamed, firsts=firsts)) is None


def test_prefills_that_fall_behind_are_saturated_though_tokens_a_second_rise():
    """Seen of a vLLM worker on a CPU at 12 requests a second of 512 tokens: 2.7 first tokens a second, and none of the running
    answers ended in 40 s, so that tokens a second rose with the requests in flight."""
    counts = np.loadtxt(Path(__file__).with_name("prefill_overload.csv"), delimiter=",", skiprows=1).T
    seen = Course(*counts, total=720.0, end_s=60.0)
    found = first_saturation(seen)
    assert found is not None
    assert found.t_s < 24
    assert found.completions_s == 0
    answers_only = Course(seen.t_s, seen.sent, seen.sent, seen.done, seen.tokens, seen.total, seen.end_s)
    assert first_saturation(answers_only) is None, "nothing but the first tokens tells it"


def test_a_queue_for_prefill_is_told_however_the_answers_go():
    """Three first tokens a second of six requests; each answer then takes longer than the load lasts."""
    rng = np.random.default_rng(8)
    for _ in range(10):
        arrivals = poisson(rng, 6, 60)
        firsts = one_server(arrivals, 1 / 3)
        running = np.cumsum(np.searchsorted(firsts, np.arange(0, 60, 1 / HZ), "right") / HZ)
        found = first_saturation(course(arrivals, firsts + 100, 60, lambda *_, running=running: running, firsts=firsts))
        assert found is not None
        assert found.t_s <= 40


def test_a_server_that_completes_nothing_is_saturated():
    """Prefills starve the decodes: a first token for each prefill, and no answer ends."""
    arrivals = poisson(np.random.default_rng(2), 8, 120)
    tokens = np.minimum(np.arange(120 * HZ) / HZ * 6, np.searchsorted(arrivals, np.arange(0, 120, 1 / HZ), "right"))
    starved = course(arrivals, np.zeros(0), 120, lambda *_: tokens, firsts=arrivals)
    found = first_saturation(starved)
    assert found is not None
    assert found.completions_s == 0
    assert found.t_s < 60


def burst(rng: np.random.Generator, on_s: float, period_s: float, periods: int) -> Arrivals:
    """10 requests a second in the first ``on_s`` of every period."""
    return np.concatenate([at * period_s + poisson(rng, 10, on_s) for at in range(periods)])


@pytest.mark.parametrize(("on_s", "period_s"), [(5, 20), (30, 120), (60, 240)])
def test_a_burst_that_drains_is_none_and_bursts_that_pile_up_are_one(on_s: float, period_s: float):
    rng = np.random.default_rng(3)
    arrivals, end_s = burst(rng, on_s, period_s, 6), 6 * period_s
    assert first_saturation(course(arrivals, one_server(arrivals, 1 / 3.5), end_s)) is None
    assert first_saturation(course(arrivals, one_server(arrivals, 1 / 1.5), end_s)) is not None


def test_a_step_to_more_than_it_can_do_is_told_after_the_step():
    rng = np.random.default_rng(4)
    arrivals = np.concatenate([poisson(rng, 1, 60), 60 + poisson(rng, 6, 120)])
    found = first_saturation(course(arrivals, one_server(arrivals, 1 / 3), 180))
    assert found is not None
    assert 62 < found.t_s < 150
    assert first_saturation(course(arrivals, one_server(arrivals, 1 / 8), 180)) is None


def test_watching_live_tells_the_same_as_looking_back():
    rng = np.random.default_rng(5)
    arrivals = poisson(rng, 3, 300)
    whole = course(arrivals, one_server(arrivals, 0.5), 300)
    watch = BacklogWatch(whole.total, whole.end_s)
    told = (watch.add(*map(float, row)) for row in zip(whole.t_s, whole.sent, whole.begun, whole.done, whole.tokens, strict=True))
    found = next(told_now for told_now in told if told_now is not None)
    assert found == first_saturation(whole)


def test_an_instant_that_does_not_rise_is_left_out():
    watch = BacklogWatch(100, 100.0)
    assert watch.add(1.0, 5, 1, 1, 0) is None
    assert watch.add(1.0, 500, 1, 1, 0) is None
    assert first_saturation(Course(*(np.zeros(0),) * 5, 0.0, 0.0)) is None


def measured(rate: float, *, counted: bool = True, **fields):
    arrivals = poisson(np.random.default_rng(6), rate, 120)
    rows = []
    for number, (at, end) in enumerate(zip(arrivals, one_server(arrivals, 0.5), strict=True)):
        sent, ended = int(at * SECOND), int(end * SECOND)
        chunks = [(ended, 5 if counted else None, True)]
        rows.append(request(number, chunks, scheduled_ns=sent, sent_ns=sent, end_ns=ended))
    return records(rows), window(stop_ns=120 * SECOND, end_ns=500 * SECOND, **fields)


@pytest.mark.parametrize("counted", [True, False])
def test_a_measurement_that_ended_is_looked_at_in_its_records(counted: bool):
    found = saturation_of(*measured(4, counted=counted))
    assert found is not None
    assert found.completions_s == pytest.approx(2, rel=0.1)
    assert saturation_of(*measured(1, counted=counted)) is None


def recorded(arrivals: Arrivals, firsts: np.ndarray, refused: np.ndarray):
    """Answers of 50 tokens, one a second from the first on; those refused end at once, without any."""
    rows = []
    for number, (at, first) in enumerate(zip(arrivals, firsts, strict=True)):
        sent, chunks = int(at * SECOND), [(int((first + token) * SECOND), 1, True) for token in range(50)]
        outcome = {"chunks": [], "outcome": "http_error", "http_status": 429, "end_ns": sent} if refused[number] else {}
        rows.append(request(number, chunks, scheduled_ns=sent, sent_ns=sent) | outcome)
    return saturation_of(records(rows), window(stop_ns=60 * SECOND, end_ns=900 * SECOND))


def test_records_tell_of_requests_that_wait_for_a_first_token_and_those_refused_do_not():
    arrivals = poisson(np.random.default_rng(9), 6, 60)
    number = np.arange(len(arrivals))
    found = recorded(arrivals, one_server(arrivals, 0.5), number % 5 == 0)
    assert found is not None
    assert found.t_s < 40
    assert recorded(arrivals, arrivals + 0.1, number % 3 > 0) is None


@pytest.mark.parametrize("counted", [True, False])
def test_chunks_taken_in_part_by_part_tell_the_same(counted: bool):
    made, bounds = measured(4, counted=counted)
    parts = [made.chunks.slice(at, 50) for at in range(0, len(made.chunks), 50)]
    assert saturation_of(digest(made, parts, windows=(bounds,)), bounds) == saturation_of(made, bounds)


def test_a_closed_loop_cannot_outrun_its_server():
    closed = Workload(concurrency=64, duration_s=120, isl=8, osl=5)
    assert saturation_of(*measured(4, workload=closed)) is None
