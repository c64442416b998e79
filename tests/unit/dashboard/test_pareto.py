import re
from dataclasses import replace

import pytest

from labkit.dashboard.pareto import CORNERS, free_corners, frontier, pareto, placed, remarks, tip
from labkit.dashboard.pins_view import charts_of
from labkit.experiments.points import _NAMES
from labkit.figures import style
from labkit.live import Estimate, Pin


def pin(label: str, y: float | None, x: float | None, topology: str = "4A", ttft: float | None = None) -> Pin:
    values = {"output_tok_s_per_accelerator": y, "tok_s_per_user": x, "ttft_p99_s": ttft}
    metrics = {name: Estimate(value, value - 1, value + 2) for name, value in values.items() if value is not None}
    return Pin(label, topology, "8 req/s", "run-1", f"m-{label}", 10.0, 30.0, metrics)


def labels(points):
    return [point.pin.label for point in points]


def test_the_frontier_leaves_out_what_another_beats_in_both():
    pins = [pin("best", 100, 20), pin("fast", 50, 40), pin("beaten", 90, 15), pin("tied", 100, 18), pin("twin", 50, 40)]
    assert labels(frontier(placed(pins))) == ["best", "fast", "twin"]


def test_less_ttft_is_better():
    pins = [pin("a", 100, None, ttft=0.5), pin("b", 80, None, ttft=0.2), pin("c", 70, None, ttft=0.4)]
    assert labels(frontier(placed(pins, "ttft_p99_s"), "ttft_p99_s")) == ["b", "a"]
    assert [point.x for point in placed(pins, "ttft_p99_s")] == [500, 200, 400]


def test_a_pin_without_a_coordinate_is_not_drawn_at_zero():
    assert labels(placed([pin("whole", 5, 6), pin("no y", None, 6), pin("no x", 5, None)])) == ["whole"]


def test_labels_of_near_points_stand_at_different_corners():
    points = placed([pin("a", 100, 20), pin("b", 100.5, 20.1), pin("c", 100, 40), pin("d", 99.5, 19.9)])
    corners = free_corners(points, width=30, height=40)
    assert corners[0] == corners[2] == CORNERS[0], "one that stands alone has the usual corner"
    assert len({corners[i] for i in (0, 1, 3)}) == 3
    crowd = placed([pin(str(i), 100, 20) for i in range(6)])
    assert free_corners(crowd, width=30, height=40)[4:] == [CORNERS[0], CORNERS[0]], "more than four have no free one"


def test_whiskers_are_the_intervals_and_colours_the_topologies():
    plot = pareto([pin("a", 100, 20), pin("b", 80, 30, "1P3D"), pin("c", 70, 31, "1P3D")])
    names = {source.name: source.data for source in (r.data_source for r in plot.renderers)}
    whiskers = names["whiskers"]
    assert list(zip(whiskers["x0"], whiskers["y0"], whiskers["x1"], whiskers["y1"], strict=True))[:2] == [
        (19, 100, 22, 100),
        (20, 99, 20, 102),
    ]
    assert whiskers["color"] == [style.AGGREGATED] * 2 + [style.DISAGGREGATED] * 4
    assert names["pins"]["label"] == ["a", "b", "c"]
    assert names["pins"]["color"] == [style.AGGREGATED, style.DISAGGREGATED, style.DISAGGREGATED]
    (legend,) = plot.legend
    assert [(item.label.value, item.index) for item in legend.items] == [("4A", 0), ("1P3D", 1)]
    assert names["frontier"]["x"] == [20, 30, 31]


def test_the_tip_says_all_and_escapes_it():
    words = tip(pin("<b>a", 100.04, 20), "GPU")
    assert "&lt;b&gt;a" in words
    assert "100.0 [99.0, 102.0]" in words
    assert "run-1 m-&lt;b&gt;a" in words
    assert "TTFT" not in words
    assert "none</td>" in words
    assert "TPOT ≤ 50 ms" in tip(replace(pin("a", 100.04, 20), slo="TPOT ≤ 50 ms"), "GPU")


def test_the_tip_has_every_figure_of_a_pin_with_its_interval_and_what_speaks_against_it():
    values = {
        "output_tok_s_per_accelerator": (50.0, "50.0 [47.5, 52.5]"), "tok_s_per_user": (52.0, "52.0 [49.4, 54.6]"),
        "ttft_p50_s": (0.1, "100 [95, 105]"), "ttft_p99_s": (0.2, "200 [190, 210]"),
        "tpot_p50_s": (0.02, "20.0 [19.0, 21.0] ms"), "tpot_p99_s": (0.03, "30.0 [28.5, 31.5] ms"),
        "itl_p50_s": (0.04, "40.0 [38.0, 42.0] ms"), "itl_p99_s": (0.06, "60.0 [57.0, 63.0] ms"),
        "goodput_hz": (1.2, "1.20 [1.14, 1.26] req/s"), "output_tok_s": (110.0, "110 [104, 116] tok/s"),
        "slo_attainment": (0.8, "80 [76, 84] %"),
    }  # fmt: skip
    metrics = {name: Estimate(value, value * 0.95, value * 1.05) for name, (value, _) in values.items()}
    assert set(_NAMES.values()) | {"tok_s_per_user"} == set(metrics), "whatever a pin measures"
    doubted = replace(
        pin("a", None, None), metrics=metrics, requests=1234, settings="chunks 256", slo="TPOT ≤ 50 ms",
        settled=False, cut="no stationary part was found", warnings=("TTFT <rose>", "others used the machine"),
    )  # fmt: skip
    words = tip(doubted, "core")
    told = [text for _, text in values.values()]
    told += ["4A", "8 req/s", "chunks 256", "TPOT ≤ 50 ms", "run-1 m-a", "30 s, 1,234 requests", "no stationary part was found"]
    assert [text for text in told if text not in words] == []
    assert re.search("stationary</td><td[^>]*>no</td>", words)
    assert "⚠ TTFT &lt;rose&gt;" in words
    assert "⚠ others used the machine" in words
    assert re.search("stationary</td><td[^>]*>too short to tell</td>", tip(pin("b", 1, 2), "core"))


def test_a_point_shows_what_its_pin_is_to_be_doubted_for():
    pins = [replace(pin("a", 100, 20), settled=True), replace(pin("b", 90, 30), settled=False, warnings=("x",)), pin("c", 80, 40)]
    data = next(r.data_source.data for r in pareto(pins).renderers if r.data_source.name == "pins")
    assert data["label"] == ["a", "b", "c"], "a click tells the label as it is"
    assert data["shown"] == ["a", "⚠ b", "c"]
    assert data["alpha"][0] > 0.5 > data["alpha"][1] == data["alpha"][2]
    (item,) = pareto(pins[::-1]).legend[0].items
    assert item.index == 2, "the legend has a filled one where there is one"
    said = " ".join(remarks(pins, ("tok_s_per_user",)))
    assert "⚠ has warnings" in said
    assert "hollow" in said
    assert remarks(pins[:1], ("tok_s_per_user",)) == []


def test_no_pin_is_missing_from_a_chart_without_a_word():
    pins = [pin("long", 100, 20, ttft=0.5), pin("short", 90, 30), pin("mute", None, None)]
    for one in pins[:2]:
        one.metrics["ttft_p50_s"] = Estimate(0.1)
    charts = charts_of(pins)
    assert charts == ("tok_s_per_user", "ttft_p50_s")
    assert [labels(placed(pins, against)) for against in charts] == [["long", "short"]] * 2, "none is lost for its p99"
    user, ttft, p99, _ = remarks(pins, charts)
    assert "mute (its output tokens were not counted and the TPOT of its requests is not known)" in user
    assert "short" not in user
    assert "mute (its output tokens were not counted and no first token is known)" in ttft
    assert "not every pin has a p99: short, mute" in p99
    assert charts_of(pins[:1]) == ("tok_s_per_user", "ttft_p99_s")


@pytest.mark.parametrize(
    ("pins", "text"), [((), "no pins yet"), ((pin("no y", None, 3), pin("no x", 5, None)), "no pin has both figures")]
)
def test_why_there_is_no_point_is_said(pins, text):
    assert [label.text for label in pareto(pins).center if hasattr(label, "text")] == [text]
