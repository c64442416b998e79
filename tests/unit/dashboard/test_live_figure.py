import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from labkit.dashboard import live_figure
from labkit.dashboard.charts import Charts
from labkit.dashboard.live_figure import LiveFigure
from labkit.live import Dot, LiveEvent
from tests.support.live_feed import feed, pins


class Wire:
    """What a figure sends, in place of a browser; ``say`` is the browser speaking."""

    def __init__(self, shown: LiveFigure, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[dict[str, Any], list[bytes]]] = []
        self.shown = shown
        monkeypatch.setattr(shown, "send", lambda content, buffers=None: self.sent.append((content, buffers or [])))

    def say(self, **message: Any) -> None:
        self.shown._handle_custom_msg(message, [])

    def kinds(self) -> list[str]:
        return [content["type"] for content, _ in self.sent]


@pytest.fixture
def charts(request: pytest.FixtureRequest) -> Iterator[Charts]:
    made = Charts(key=request.node.name)
    yield made
    made.close()


def test_bokehjs_comes_from_the_installed_package_and_only_when_asked(monkeypatch: pytest.MonkeyPatch):
    shown = LiveFigure([figure()])
    wire = Wire(shown, monkeypatch)
    assert wire.sent == []
    wire.say(type="bokehjs?")
    ((content, (script,)),) = wire.sent
    assert content == {"type": "bokehjs"}
    assert script == live_figure._BOKEHJS.read_bytes()
    shown.close()


def test_a_figure_is_seen_from_a_browsers_first_word_until_a_minute_after_its_last(
    charts: Charts, monkeypatch: pytest.MonkeyPatch
):
    wire = Wire(charts.figure, monkeypatch)
    assert not charts.figure.seen
    wire.say(type="sync?")
    samples = feed(2)
    for _ in range(240):
        assert charts.figure.seen
        charts.push(next(samples))
    assert not charts.figure.seen
    wire.say(type="here", last=0.0)
    assert charts.figure.seen


def test_nothing_is_sent_before_a_browser_asks_and_then_everything_once(charts: Charts, monkeypatch: pytest.MonkeyPatch):
    wire = Wire(charts.figure, monkeypatch)
    source = feed(2)
    for sample in itertools.islice(source, 30):
        assert charts.push(sample)
    assert wire.sent == []
    wire.say(type="sync?")
    ((content, (buffer,)),) = wire.sent
    assert content["type"] == "figure"
    assert content["n"] == 30
    assert np.frombuffer(buffer, np.float32).reshape(30, -1)[:, 0].tolist() == [0.25 * i for i in range(30)]
    charts.push(next(source))
    tick, (row,) = wire.sent[1]
    assert tick == {"type": "rows", "n": 1, "width": content["width"]}
    assert np.frombuffer(row, np.float32)[0] == 7.5
    wire.say(type="sync?")  # the page was reloaded: history intact
    assert wire.sent[2][0]["n"] == 31


def test_a_browser_that_went_away_gets_nothing_and_what_it_missed_when_it_is_back(
    charts: Charts, monkeypatch: pytest.MonkeyPatch
):
    wire = Wire(charts.figure, monkeypatch)
    wire.say(type="sync?")
    source = feed(2)
    for sample in itertools.islice(source, 400):
        charts.push(sample)
    assert wire.kinds() == ["figure"] + ["rows"] * 240
    last = np.frombuffer(wire.sent[-1][1][0], np.float32)[0]
    wire.say(type="here", last=float(last))
    content, (buffer,) = wire.sent[-1]
    assert content["n"] == 160
    assert np.frombuffer(buffer, np.float32).reshape(160, -1)[[0, -1], 0].tolist() == [60.0, 99.75]
    charts.push(next(source))
    assert wire.kinds()[-1] == "rows"
    wire.say(type="here", last=100.0)  # a browser that was never away is told nothing twice
    assert wire.sent[-1][0]["n"] == 1


def test_a_second_figure_of_a_key_closes_the_first(monkeypatch: pytest.MonkeyPatch):
    first = Charts(key="twice")
    wire = Wire(first.figure, monkeypatch)
    wire.say(type="sync?")
    second = Charts(key="twice")
    assert first.closed
    assert not second.closed
    assert first.push(next(feed(2))) is False
    first.note(LiveEvent(0, "note", "late"))
    first.show_pins(pins())
    wire.say(type="sync?")
    assert wire.kinds() == ["figure"]
    assert len(first.history) == 0
    assert first.figure._content is None
    second.close()
    second.close()
    assert second.closed


def test_threads_that_push_at_once_lose_nothing_and_send_in_order(charts: Charts, monkeypatch: pytest.MonkeyPatch):
    wire = Wire(charts.figure, monkeypatch)
    source, lock, start = feed(2), threading.Lock(), threading.Barrier(5)

    def push() -> None:
        start.wait()
        for _ in range(40):
            with lock:
                charts.push(next(source))

    def look() -> None:
        start.wait()
        for _ in range(10):
            wire.say(type="sync?")

    threads = [threading.Thread(target=push) for _ in range(4)] + [threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = 0
    for content, buffers in wire.sent:
        seen = content["n"] if content["type"] == "figure" else seen + content["n"]
        rows = np.frombuffer(buffers[0], np.float32).reshape(content["n"], content["width"])
        if len(rows):
            assert rows[-1, 0] == 0.25 * (seen - 1)
    assert len(charts.history) == 160


def test_a_dot_that_is_clicked_is_called_back_and_a_callback_that_fails_stops_no_other(
    charts: Charts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    wire = Wire(charts.figure, monkeypatch)
    picked: list[tuple[Dot, str]] = []
    charts.figure.on_tap(lambda what: 1 / 0)
    charts.on_dot(lambda dot, kind: picked.append((dot, kind)))
    wire.say(type="tap", what={"kind": "itl", "request": 77, "t_s": 3.5, "value_s": 0.2})
    assert picked == [(Dot(3.5, 77, 0.2), "itl")]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_pins_go_out_as_ghosts_and_again_with_every_snapshot(charts: Charts, monkeypatch: pytest.MonkeyPatch):
    wire = Wire(charts.figure, monkeypatch)
    wire.say(type="sync?")
    charts.show_pins(pins())
    ghosts = wire.sent[-1][0]["ghosts"]
    assert [ghost["label"] for ghost in ghosts] == ["A", "B", "C <b>"]
    assert len({ghost["color"] for ghost in ghosts}) == 3
    assert ghosts[0]["metrics"]["ttft_p99_s"] == 0.31
    assert ghosts[2]["metrics"]["itl_p50_s"] is None
    wire.say(type="sync?")
    assert wire.sent[-1][0]["ghosts"] == ghosts


def test_replace_draws_other_models(monkeypatch: pytest.MonkeyPatch):
    shown = LiveFigure([figure(name="before")])
    wire = Wire(shown, monkeypatch)
    shown.replace([figure(name="between")])
    assert wire.sent == []
    wire.say(type="sync?")
    after = figure(name="after")
    after.scatter("x", "y", source=ColumnDataSource({"x": [1], "y": [2]}))
    shown.replace([after])
    names = [root["attributes"]["name"] for content, _ in wire.sent for root in content["document"]["roots"]]
    assert names == ["between", "after"]
    assert after.document is None
    shown.close()


def test_the_saved_notebook_would_hold_the_script_only():
    shown = LiveFigure([figure()])
    state = shown.get_state()
    assert len(str(state)) < 60_000
    assert "Bokeh" not in state["_css"]
    shown.close()
