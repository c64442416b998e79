"""A running load and what comes of it, with a load and a lab that do as they are told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from labkit.errors import LoadError
from labkit.lab.measurement import Measurement, RunningLoad
from labkit.load.progress import LoadResult, Progress
from labkit.measure.digest import digest
from labkit.spec import Slo
from tests.support import synthetic
from tests.support.handmade import SECOND, records, request, steady, window

RESULT = LoadResult(start_ns=0, measure_ns=0, stop_ns=SECOND, end_ns=SECOND, counts={"ok": 3}, next_request=3, cpu_s=0.1)
PROGRESS = Progress(t_ns=9, sent=4, done=3, failed=0, in_flight=1, in_flight_by_epoch={0: 1}, output_tokens=12)


class Load:
    """Plays back what each ``wait`` brings: a result, or an exception."""

    measurement = 7

    def __init__(self, *answers: LoadResult | BaseException, alive: bool = True) -> None:
        self.answers, self.alive = list(answers), alive
        self.error: LoadError | None = None
        self.progress: Progress | None = PROGRESS
        self.stops = 0

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

    def keep(self, load: RunningLoad, result: LoadResult) -> Measurement:
        self.kept.append(result)
        bounds = window(measurement=load.measurement)
        run: Any = SimpleNamespace(digest=lambda: digest(records([steady(0)], windows=[bounds])))
        return Measurement(run, bounds, None, result.counts, result.stopped)


def running(load: Load) -> tuple[RunningLoad, Keeper]:
    keeper = Keeper()
    made: Any = load
    return RunningLoad(keeper, made, "2A", 0, 0), keeper


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


def test_leaving_the_block_waits():
    load = Load(RESULT)
    with running(load)[0] as started:
        assert started.result is None
        assert repr(started) == "<load on 2A: 4 sent, 3 done>"
    assert started.result is not None
    assert load.stops == 0


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
    run: Any = SimpleNamespace(records=lambda: made, digest=lambda: digest(made))
    outcomes = [row["outcome"] for row in rows]
    counts = {outcome: outcomes.count(outcome) for outcome in outcomes}
    return Measurement(run, window(), slo, counts, stopped)


def test_a_measurement_reads_as_a_table():
    rows = [steady(n) for n in range(3)] + [request(3, outcome="http_error", http_status=500)]
    text = repr(measured(rows, stopped=True)).splitlines()
    assert text[0] == "2A (measurement 0, 10 s)"
    assert text[1] == "  TTFT     p50 100.0 ms, p99 – ms"
    assert text[2] == "  TPOT     p50 20.0 ms, p99 – ms"
    assert text[-1] == "  requests 4, 1 failed, stopped early"


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


@pytest.mark.parametrize("rows", [[], [request(0, outcome="refused", http_status=None)]])
def test_nothing_measured_is_shown_as_nothing(rows: list[dict[str, Any]]):
    text = repr(measured(rows))
    assert "p50 – ms, p99 – ms" in text
    assert f"{len(rows)} failed" in text
