"""A request's story as what the waterfall draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ipywidgets.widgets.widget import _instances

from labkit.dashboard.form import clock
from labkit.dashboard.request_view import EVERY_S, RequestView, drawn
from labkit.dashboard.waterfall import waterfall
from labkit.live.request import Prefill, RequestStory, Stage, Stall
from labkit.live.window import Slow

MS = 1_000_000
OTHER = Prefill(8, "w1", 60 * MS, 190 * MS, 512)
STORY = RequestStory(
    request=7, outcome="ok", reason="", measurement=0, index=7, epoch=1, scheduled_ns=0, sent_ns=1 * MS, end_ns=220 * MS,
    prompt_tokens=512, output_tokens=4, ttft_s=0.05, tpot_s=0.05, e2e_s=0.22,
    stages=(Stage("prefill", "w0", 5 * MS, 40 * MS), Stage("decode", "w1", 50 * MS, 220 * MS)),
    token_ns=np.array([50, 60, 200, 220]) * MS, tokens=np.ones(4, np.int64),
    stalls=(Stall(60 * MS, 200 * MS, (OTHER,)),), prefills=(OTHER,), missing="",
)  # fmt: skip


def test_a_token_beyond_the_slo_is_marked_and_its_stall_and_the_prefill_that_made_it_have_lanes():
    made = drawn(STORY, 0.05)
    assert made.limit_s == 0.05
    assert [stretch.phase for stretch in made.stretches] == ["prefill", "decode", "stall", "other"]
    assert [(stretch.start_s, stretch.end_s) for stretch in made.stretches[2:]] == [(0.06, 0.2), (0.06, 0.19)]
    assert "1 prefill ran on its worker meanwhile" in made.stretches[2].text
    colors = next(r.data_source.data["color"] for r in waterfall(made).renderers if r.data_source.name == "tokens")
    assert [color == colors[2] for color in colors] == [False, False, True, False]


def test_a_story_that_is_read_too_late_is_not_shown(monkeypatch: pytest.MonkeyPatch):
    before = len(_instances)
    run: Any = None
    view = RequestView(run, worst=lambda: (), aside=lambda work: work())

    def read(_run: object, _request: int) -> RequestStory:
        view.close()
        return STORY

    monkeypatch.setattr("labkit.dashboard.request_view.read_story", read)
    view.show(7)
    assert len(_instances) == before


class Listed:
    """A view of these worst requests, and which of them were drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worst: list[int] = []
        self.drawn: list[int] = []
        run: Any = None
        self.view = RequestView(run, worst=lambda: [slow(number) for number in self.worst], aside=lambda work: work())
        monkeypatch.setattr(self.view, "show", self.drawn.append)

    @property
    def list(self) -> list[int]:
        return [request for _, request in self.view._pick.options[1:]]


def slow(request: int) -> Slow:
    return Slow(request, float(request), request, "ttft", 0.3)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listed]:
    made = Listed(monkeypatch)
    yield made
    made.view.close()


def test_the_worst_are_listed_by_themselves_at_a_modest_pace_while_they_are_seen(listed: Listed):
    listed.view.follow(0.0, seen=False)
    assert listed.list == []
    listed.worst = [7, 8]
    listed.view.follow(0.25, seen=False)
    assert listed.list == [7, 8], "as soon as there are any, for whoever comes"
    listed.worst = [9]
    listed.view.follow(0.25 + EVERY_S - 0.1, seen=True)
    listed.view.follow(0.25 + EVERY_S, seen=False)
    assert listed.list == [7, 8]
    listed.view.follow(0.25 + EVERY_S, seen=True)
    assert listed.list == [9]
    assert listed.view._pick.options[0][0] == "1 worst of the last minute"


def test_a_list_that_is_in_hand_stands_still(listed: Listed):
    listed.worst = [7, 8]
    listed.view.follow(0.0, seen=True)
    listed.view._held.held = True
    listed.worst = [9]
    listed.view.follow(2 * EVERY_S, seen=True)
    assert listed.list == [7, 8]
    listed.view._look.click()
    assert listed.list == [9], "who asks for it gets it"
    listed.view._held.held = False
    listed.worst = [10]
    listed.view.follow(4 * EVERY_S, seen=True)
    assert listed.list == [10]


def test_a_request_that_was_chosen_stays_chosen_and_is_not_drawn_again(listed: Listed):
    listed.worst = [7, 8]
    listed.view.follow(0.0, seen=True)
    listed.view._pick.index = 2
    assert listed.drawn == [8]
    label = listed.view._pick.label
    for worst, shown in (([9, 8, 7], [9, 8, 7]), ([9], [9, 8]), ([], [8])):
        listed.worst = worst
        listed.view.list_worst()
        assert (listed.list, listed.view._pick.value, listed.view._pick.label) == (shown, 8, label)
    assert listed.drawn == [8]
    listed.view._pick.index = 0
    listed.worst = [11]
    listed.view.list_worst()
    assert (listed.list, listed.view._pick.index) == ([11], 0)
    listed.view._pick.index = 1
    assert listed.drawn == [8, 11]


def test_instants_are_written_as_on_the_axes_of_the_charts():
    assert [clock(t_s) for t_s in (0.04, 9.96, 189.6, 3599.97, 4005.0)] == [
        "0:00.0",
        "0:10.0",
        "3:09.6",
        "1:00:00.0",
        "1:06:45.0",
    ]
