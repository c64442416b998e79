from __future__ import annotations

from pathlib import Path

import pytest

from labkit.lab.loads import ENDLESS_S, endless
from labkit.lab.overload import Lookout, watch_for
from labkit.load.progress import Progress
from labkit.load.schedule import Schedule
from labkit.measure.saturation import BacklogWatch
from labkit.spec import Workload


def test_a_closed_loop_is_not_watched():
    assert watch_for(Workload(concurrency=4, requests=10)) is None


@pytest.mark.parametrize(
    ("workload", "total", "end_s"),
    [
        (Workload(rate=2, duration_s=50, warmup_s=10), 120, 60),
        (Workload(rate=2, requests=50, warmup_s=10), 70, 35),
        (Workload(arrivals="burst:10@5/20", duration_s=400), 1000, 400),
        (Workload(arrivals="step:0=1,30=4", duration_s=130, warmup_s=20), 450, 150),
        (Workload(arrivals="ramp:1-9", duration_s=200), 1000, 200),
        (Workload(arrivals="ramp:1-9/100", duration_s=200), 1400, 200),
        (Workload(arrivals="ramp:1-9/400", duration_s=200), 600, 200),
    ],
)
def test_it_knows_how_many_will_come_and_until_when(workload: Workload, total: float, end_s: float):
    watch = watch_for(workload)
    assert watch is not None
    assert watch._total == pytest.approx(total, rel=0.1)
    assert watch._end_s == pytest.approx(end_s)


def test_a_changing_rate_ends_with_its_trace_and_sends_every_turn(tmp_path: Path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 9, "output_length": 2}\n' * 100)
    step = "step:0=4,60=8"
    for workload, total in (
        (Workload(trace=path, arrivals=step, duration_s=600), 100),
        (Workload(arrivals=step, duration_s=160), 240 + 800),
        (Workload(arrivals=step, duration_s=160, turns=3), 3 * (240 + 800)),
    ):
        watch = watch_for(workload)
        assert watch is not None
        assert watch._total == pytest.approx(total)


def test_a_ramp_takes_as_long_as_its_load_did_to_the_nanosecond():
    assert endless(Workload(arrivals="ramp:1-8", duration_s=100 / 3)).arrivals == "ramp:1-8/33.333333333"


def test_a_load_without_an_end_is_not_counted_one_by_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Schedule, "arrivals", None)
    workload = endless(Workload(arrivals="ramp:1-9", duration_s=200))
    assert (workload.arrivals, workload.duration_s) == ("ramp:1-9/200", ENDLESS_S), "it rises as it did, and holds then"
    watch = watch_for(workload)
    assert watch is not None
    assert watch._total == pytest.approx(1000 + 9 * (ENDLESS_S - 200))


def test_a_trace_is_counted_at_its_own_times(tmp_path: Path):
    path = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{second:02d},100,10" for second in (0, 1, 1, 40)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    workload = Workload(trace=path, time_scale=0.5)
    watch = watch_for(workload)
    assert watch is not None
    assert (watch._total, watch._end_s) == (4, 20.0) == (4, max(Schedule(workload).arrivals("measure")))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_lookout_finds_it_once_however_many_shards_tell(shards: int):
    lookout, found = Lookout(BacklogWatch(400, 100.0)), []
    for quarter in range(160):
        for shard in range(shards):
            t_ns = 7_000_000_000 + quarter * 250_000_000 + shard * 1_000_000
            if lookout.look(Progress(t_ns, quarter, quarter // 2, 0, quarter - quarter // 2, {0: 1}, 4 * quarter, quarter // 2)):
                found.append(quarter)
    assert len(found) == 1
    assert 8 <= found[0] / 4 <= 40, "seconds of the load"
    assert lookout.found is not None
    assert lookout.found.arrivals_s == pytest.approx(4, rel=0.1)


def test_a_lookout_without_a_rule_finds_nothing():
    lookout = Lookout(None)
    assert not lookout.look(Progress(0, 1, 0, 0, 1, {0: 1}, 0, 0))
    assert lookout.found is None
