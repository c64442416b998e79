"""A running load and what comes of it, with a load and a lab that do as they are told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from labkit.errors import LoadError
from labkit.lab.measurement import Measurement, RunningLoad, align
from labkit.load.progress import LoadResult, Progress
from labkit.measure.digest import digest
from labkit.measure.records import Window
from labkit.measure.saturation import BacklogWatch, Saturation
from labkit.measure.warmup import begin_at
from labkit.spec import Slo
from tests.support import synthetic
from tests.support.handmade import SECOND, records, request, steady, window

RESULT = LoadResult(start_ns=0, measure_ns=0, stop_ns=SECOND, end_ns=SECOND, counts={"ok": 3}, next_request=3, cpu_s=0.1)
PROGRESS = Progress(t_ns=9, sent=4, done=3, failed=0, in_flight=1, in_flight_by_epoch={0: 1}, output_tokens=12, begun=4)


class Load:
    """Plays back what each ``wait`` brings: a result, or an exception."""

    measurement = 7

    def __init__(self, *answers: LoadResult | BaseException, alive: bool = True) -> None:
        self.answers, self.alive = list(answers), alive
        self.error: LoadError | None = None
        self.progress: Progress | None = PROGRESS
        self.stops = self.finishes = 0
        self.on_progress: Callable[[Progress], None] | None = None

    def finish(self) -> int:
        self.finishes += 1
        return 42

    def tell(self, progress: Progress) -> None:
        """As the thread that reads the shards does."""
        assert self.on_progress is not None
        self.progress = progress
        self.on_progress(progress)

    def wait(self, timeout: float | None = None) -> LoadResult:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def stop(self) -> None:
        self.stops += 1


class Keeper:
    def __init__(self) -> None:
        self.kept: list[LoadResult] = []
        self.told: list[Saturation] = []
        self.free: list[int] = []

    def finished(self, load: RunningLoad, next_request: int) -> None:
        self.free.append(next_request)

    def saturated(self, load: RunningLoad, found: Saturation) -> None:
        self.told.append(found)

    def keep(self, load: RunningLoad, result: LoadResult) -> Measurement:
        self.kept.append(result)
        kept = window(measurement=load.measurement, stopped=load.stopped)
        run: Any = SimpleNamespace(digest=lambda: digest(records([steady(0)], windows=[kept])), manifest={})
        return Measurement(run, kept, None, result.counts, result.stopped)


def running(load: Load, **options: Any) -> tuple[RunningLoad, Keeper]:
    keeper = Keeper()
    made: Any = load
    return RunningLoad(keeper, made, "2A", 0, 0, accelerators=2.0, accelerator="core", **options), keeper


def not_yet() -> LoadError:
    return LoadError("not yet", remedy="wait")


def test_it_waits_tells_and_keeps_once():
    load = Load(not_yet(), not_yet(), RESULT)
    started, keeper = running(load)
    told: list[Progress] = []
    first = started.wait(told.append)
    assert started.wait() is first is started.result
    assert keeper.kept == [RESULT]
    assert told == [PROGRESS, PROGRESS]
    assert load.stops == 0


class Overloaded(Load):
    """Sends four requests a second to a server that ends two, and tells so twice a second; once stopped it has a result."""

    ticks = 0

    def wait(self, timeout: float | None = None) -> LoadResult:
        self.ticks += 1
        if self.stops or self.ticks > 200:
            return replace(RESULT, stopped=bool(self.stops))
        self.tell(backlog(self.ticks))
        raise not_yet()


def backlog(ticks: int) -> Progress:
    """Four requests a second arrived and two were answered for so many halves of a second."""
    return replace(PROGRESS, t_ns=ticks * SECOND // 2, sent=2 * ticks, done=ticks, output_tokens=9 * ticks, begun=ticks)


def test_a_load_that_outruns_its_server_is_told_once_and_goes_on():
    load = Overloaded()
    started, keeper = running(load, watch=BacklogWatch(400, 100.0))
    measurement = started.wait()
    assert keeper.told == [started.saturation]
    assert (load.stops, measurement.stopped, measurement.window.stopped) == (0, False, "")


def test_nobody_needs_to_wait_for_it_to_be_found_and_told():
    load = Load(RESULT)
    started, keeper = running(load, watch=BacklogWatch(400, 100.0))
    for tick in range(100):
        load.tell(backlog(tick))
    assert started.saturation is not None
    assert keeper.told == [started.saturation]
    assert repr(started) == f"<load on 2A: 198 sent, 99 done; {started.saturation}>"
    assert started.wait().stopped is False
    assert len(keeper.told) == 1


def test_nobody_needs_to_wait_for_it_to_be_stopped():
    load = Load(replace(RESULT, stopped=True))
    started, _ = running(load, watch=BacklogWatch(400, 100.0), stop_when_saturated=True)
    for tick in range(100):
        load.tell(backlog(tick))
    assert load.stops == 1
    assert started.wait().window.stopped == str(started.saturation)


def test_it_is_stopped_for_that_where_asked_and_says_why():
    load = Overloaded()
    started, keeper = running(load, watch=BacklogWatch(400, 100.0), stop_when_saturated=True)
    measurement = started.wait()
    assert (load.stops, len(keeper.told)) == (1, 1)
    assert 8 <= load.ticks / 2 <= 40, "seconds of the load"
    assert "stopped early: saturated: arrivals 4/s, completions 2/s over the last " in repr(measurement)


def test_an_interrupted_load_says_so():
    load = Load(KeyboardInterrupt(), RESULT)
    started, _ = running(load)
    with pytest.raises(KeyboardInterrupt):
        started.wait()
    assert "stopped early: interrupted" in repr(started)


@pytest.mark.parametrize("dead", [True, False])
def test_a_load_that_cannot_go_on_is_told(dead: bool):
    load = Load(LoadError("it died", remedy="start again"), alive=not dead)
    load.error = None if dead else LoadError("it died", remedy="start again")
    started, keeper = running(load)
    with pytest.raises(LoadError, match="it died"):
        started.wait()
    assert keeper.kept == []


def test_an_interrupt_stops_it_and_keeps_what_there_is():
    load = Load(KeyboardInterrupt(), RESULT)
    started, keeper = running(load)
    with pytest.raises(KeyboardInterrupt):
        started.wait()
    assert (load.stops, keeper.kept) == (1, [RESULT])
    assert started.wait() is started.result


def test_stop_stops_once_and_gives_the_measurement():
    load = Load(RESULT)
    started, _ = running(load)
    measurement = started.stop()
    assert started.stop() is measurement
    assert load.stops == 1


def test_what_a_stop_cancelled_is_told_apart_from_what_failed():
    started, _ = running(Load(replace(RESULT, counts={"ok": 3, "cut": 2, "cancelled": 4}, stopped=True)))
    measurement = started.stop()
    assert (measurement.failed, measurement.cancelled) == (2, 4)
    assert "9, 2 failed, 4 cancelled, stopped early" in repr(measurement)


def test_leaving_the_block_waits():
    load = Load(RESULT)
    with running(load)[0] as started:
        assert started.result is None
        assert repr(started) == "<load on 2A: 4 sent, 3 done>"
    assert started.result is not None
    assert load.stops == 0


def test_a_finished_load_is_waited_for_and_says_how_it_ended():
    load = Load(RESULT)
    started, keeper = running(load)
    started.finish()
    started.finish()
    assert (keeper.free, load.finishes, load.stops) == ([42], 1, 0)
    assert started.wait().window.stopped == "by hand; what was under way was followed to its end"
    started.finish()
    assert load.finishes == 1


def test_what_was_finished_can_still_be_stopped():
    load = Load(RESULT)
    started, _ = running(load)
    started.finish()
    assert started.stop().window.stopped == "by hand"
    assert load.stops == 1


def test_two_threads_that_wait_keep_one_measurement():
    load = Load(RESULT, RESULT)
    started, keeper = running(load)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda wait: wait(), (started.wait, started.wait))
    assert one is other
    assert len(keeper.kept) == 1


def test_an_error_in_the_block_stops_the_load():
    load = Load(RESULT)
    started, keeper = running(load)
    with pytest.raises(ValueError, match="mine"), started:
        raise ValueError("mine")
    assert (load.stops, keeper.kept) == (1, [RESULT])


def test_before_the_first_progress_it_is_starting():
    load = Load(RESULT)
    load.progress = None
    started, _ = running(load)
    assert repr(started) == "<load on 2A: starting>"
    assert started.progress is None


def measured(rows: list[dict[str, Any]], *, stopped: bool = False, slo: Slo | None = None) -> Measurement:
    made = records(rows, windows=[window()])
    run: Any = SimpleNamespace(records=lambda: made, digest=lambda: digest(made), manifest={})
    outcomes = [row["outcome"] for row in rows]
    counts = {outcome: outcomes.count(outcome) for outcome in outcomes}
    return Measurement(run, window(), slo, counts, stopped)


def test_a_measurement_reads_as_a_table():
    rows = [steady(n) for n in range(3)] + [request(3, outcome="http_error", http_status=500)]
    text = repr(measured(rows, stopped=True)).splitlines()
    assert text[0] == "2A (measurement 0, 10 s)"
    assert text[1] == "  TTFT     p50 100.0 ms, p99 – ms"
    assert text[2] == "  TPOT     p50 20.0 ms, p99 – ms"
    assert text[5:7] == ["  requests 4, 1 failed, stopped early", "  window   0.0 to 10.0 s of the load"]
    assert text[7].startswith("  ! 1 of 4 requests failed")


def test_numbers_and_records_are_those_of_the_window():
    rows = [steady(0), steady(1, measurement=1)]
    measurement = measured(rows, slo=Slo(tpot_s=0.001))
    assert measurement.records.requests.num_rows == 1
    assert measurement.summary["completed"] == 1
    assert measurement.summary["slo_attainment"] == 0.0
    assert measurement.failed == 0


def test_interference_is_that_of_its_window():
    made, _ = synthetic.run(("2A", "1P1D"), duration_s=60)
    run: Any = SimpleNamespace(digest=lambda: digest(made))
    aggregated, separated = (Measurement(run, window, None, {"ok": 1}, False) for window in made.windows)
    assert aggregated.interference["worker"].is_shown
    assert separated.interference["worker"].value is None


def test_warnings_are_read_with_the_numbers_and_notes_are_not():
    text = repr(measured([steady(n, straddled=n == 1) for n in range(3)]))
    assert text.splitlines()[-1] == "  ! 1 requests were alive across a re-split: two topologies served them"
    assert "p99 of a request's values needs 100" not in text


def test_the_window_is_read_with_how_its_beginning_was_found():
    rows = [steady(n) for n in range(10)]
    found = begin_at(records(rows), window(), 4, "warm-up found: the first 4 requests left out (MSER-5 of TTFT)")
    shown = Measurement(measured(rows).run, found, None, {"ok": 10}, False)
    assert "  window   4.0 to 10.0 s of the load; warm-up found: the first 4 requests left out (MSER-5 of TTFT)" in repr(shown)


def test_measurements_of_a_repeat_are_kept_from_the_same_request_on():
    made = records([steady(n, measurement=m) for m in (0, 1) for n in range(10)])
    kept: list[Window] = []
    run: Any = SimpleNamespace(digest=lambda: digest(made), add_window=kept.append, manifest={})
    windows = [begin_at(made, window(measurement=m), first, "found") for m, first in ((0, 2), (1, 5))]
    both = [Measurement(run, one, None, {"ok": 10}, False) for one in windows]
    assert [measurement.window.first_index for measurement in align(both)] == [5, 5]
    assert [one.first_index for one in kept] == [5, 5]
    assert [measurement.summary["requests"] for measurement in align(both)] == [5, 5]
    kept.clear()
    assert align(both[:1]) == both[:1]
    assert kept == [], "what is equal is not written again"


@pytest.mark.parametrize("rows", [[], [request(0, outcome="refused", http_status=None)]])
def test_nothing_measured_is_shown_as_nothing(rows: list[dict[str, Any]]):
    text = repr(measured(rows))
    assert "p50 – ms, p99 – ms" in text
    assert f"{len(rows)} failed" in text


def test_turns_that_were_not_sent_are_shown():
    run: Any = SimpleNamespace(digest=lambda: digest(records([steady(0)], windows=[window()])), manifest={})
    assert "3, 0 failed, 7 later turns not sent" in repr(Measurement(run, window(), None, {"ok": 3}, False, 7))
    assert "not sent" not in repr(Measurement(run, window(), None, {"ok": 3}, False))
