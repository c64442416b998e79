from labkit.dashboard.panels import ALARM
from labkit.dashboard.waterfall import Stretch, Waterfall, waterfall
from labkit.figures import style
from tests.support.live_stories import story


def data(plot, name):
    return next(r.data_source.data for r in plot.renderers if r.data_source.name == name)


def test_lanes_are_those_that_are_known_top_down():
    assert list(reversed(waterfall(story()).y_range.factors)) == [
        "queue", "prefill", "KV transfer", "decode", "tokens", "stalls", "other prefills here",
    ]  # fmt: skip
    plain = Waterfall(1, "r", (Stretch("prefill", 0, 0.1),), (0.1, 0.12))
    assert list(reversed(waterfall(plain).y_range.factors)) == ["prefill", "tokens"]


def test_bars_are_in_milliseconds_and_their_words_escaped():
    bars = data(waterfall(story()), "stretches")
    assert (bars["left"][1], bars["right"][1], bars["lane"][1]) == (41, 139, "prefill")
    assert bars["color"][1] == style.PREFILL
    assert "98.0 ms" in bars["tip"][1]
    assert "&lt;b&gt;" in bars["tip"][5]


def test_only_the_token_after_a_gap_beyond_the_slo_is_marked():
    tokens = data(waterfall(story()), "tokens")
    assert [i for i, color in enumerate(tokens["color"]) if color == ALARM] == [5]
    assert "82.0 ms after the one before" in tokens["tip"][5]
    assert "after" not in tokens["tip"][0]
    without = Waterfall(1, "r", (), (0.1, 0.9))
    assert set(data(waterfall(without), "tokens")["color"]) == {style.DECODE}


def test_a_request_of_which_nothing_is_known_is_drawn_empty():
    plot = waterfall(Waterfall(1, "lost", ()))
    assert plot.x_range.end > 0
    assert data(plot, "tokens")["x"] == []
