from dataclasses import replace

import pytest

from labkit.dashboard.pareto import CORNERS, free_corners, frontier, pareto, placed, tip
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
    assert names["pins 1P3D"]["label"] == ["b", "c"]
    assert names["frontier"]["x"] == [20, 30, 31]


def test_the_tip_says_all_and_escapes_it():
    words = tip(pin("<b>a", 100.04, 20), "GPU")
    assert "&lt;b&gt;a" in words
    assert "100.0 [99.0, 102.0]" in words
    assert "run-1 m-&lt;b&gt;a" in words
    assert "TTFT" not in words
    assert "none</td>" in words
    assert "TPOT ≤ 50 ms" in tip(replace(pin("a", 100.04, 20), slo="TPOT ≤ 50 ms"), "GPU")


@pytest.mark.parametrize(
    ("pins", "text"), [((), "no pins yet"), ((pin("no y", None, 3), pin("no x", 5, None)), "no pin has both figures")]
)
def test_why_there_is_no_point_is_said(pins, text):
    assert [label.text for label in pareto(pins).center if hasattr(label, "text")] == [text]
