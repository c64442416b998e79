"""The files: right kind, whole, offline, the same twice."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.colors import to_rgb

from labkit.errors import SpecError, StoreError
from labkit.figures import draw_all, export, figures_of, style
from labkit.figures import mpl as face
from labkit.figures.layout import log_ticks, number
from tests.unit.figures.conftest import Case
from tests.unit.figures.test_structure import ROW, degenerate, every

MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-", "html": b"<!DOCTYPE html>"}
EXTERNAL = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)\s*=\s*["']?(?:https?:)?//""", re.IGNORECASE)


@pytest.fixture(scope="module")
def files(demo: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("with a space") / "figures"
    paths = draw_all(demo[0], demo[1], out, ("svg",), [ROW])
    by_name = {figure.name: figure for figure in every(demo)}
    for name in ("comparison.png", "comparison.pdf", "distributions.html", "timeline.html"):
        paths.append(export(by_name[name.split(".")[0]], out / name))
    return {path.name: path for path in paths}


def test_files_are_what_their_names_say(files: dict[str, Path]) -> None:
    names = ("comparison", "distributions", "stages", "timeline", "workers", "transfer", "gantt")
    assert {f"{name}.svg" for name in names} < set(files)
    assert {path.suffix for path in files.values()} == {f".{kind}" for kind in MAGIC}
    for name, path in files.items():
        head = path.read_bytes()[:64].lstrip()
        assert head.startswith(MAGIC[name.rsplit(".", 1)[1]]), name


def test_a_figure_of_simulated_workers_says_so_above_what_it_shows(demo: Case, tmp_path: Path) -> None:
    simulated = {**demo[1], "simulated": {"profiles": [{"source": "made by hand"}]}}
    (figure,) = figures_of(demo[0], simulated, only=("timeline",))
    path = export(figure, tmp_path / "timeline.svg")
    text = " ".join(re.findall(r">([^<]+)</text>", path.read_text()))
    assert "Simulated, not measured:" in text
    assert "all: simulated, not measured" in text
    assert "simulated, not measured  ·  model" in text


def test_svg_text_stays_text(files: dict[str, Path]) -> None:
    for name, words in {
        "distributions.svg": ("Latency distributions", "Time to first token", "TTFT (ms)", "50 ms", "run 20260101-compare-demo"),
        "workers.svg": ("w0 · CPU", "aggregated", "prefill", "decode", "CPU (cores)"),
        "gantt.svg": ("stall at the client", "1P1D"),
        "comparison.svg": ("332 → 43.0 ms", "1P1D better"),
    }.items():
        text = files[name].read_text()
        assert "<text" in text
        for word in words:
            assert word in text, (name, word)
        assert "<dc:date>" not in text


def test_html_is_whole_and_fetches_nothing(files: dict[str, Path]) -> None:
    for name in ("distributions.html", "timeline.html"):
        page = files[name].read_text()
        assert "Bokeh.safely" in page
        assert len(page) > 800_000, "BokehJS is inside"
        assert not EXTERNAL.search(page)
        assert "Time to first token" in page


def test_interactive_figures_hover_and_hide(demo: Case) -> None:
    from bokeh.models import HoverTool, Legend

    from labkit.figures import bokeh as page

    figure = next(one for one in every(demo) if one.name == "timeline")
    root = page.layout(figure)
    hovers = list(root.select({"type": HoverTool}))
    legends = list(root.select({"type": Legend}))
    assert len(hovers) >= 6
    assert {legend.click_policy for legend in legends} == {"hide"}
    plots = [child for child, *_ in root.children[1].children]
    assert len({plot.x_range.id for plot in plots}) == 1


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_data_give_the_same_bytes(demo: Case, tmp_path: Path, kind: str) -> None:
    figure = next(one for one in every(demo) if one.name == "comparison")
    first, second = (export(figure, tmp_path / f"{i}.{kind}").read_bytes() for i in range(2))
    assert first == second


def test_drawing_leaves_the_settings_of_others_alone(demo: Case, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    export(figures_of(demo[0], demo[1])[0], tmp_path / "a.svg")
    assert dict(mpl.rcParams) == before


def test_no_text_leaves_the_page_or_meets_another(demo: Case, gpu: Case) -> None:
    """Every text of the static figures, as drawn: inside the page, and panel titles clear of one another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for figure in [*every(demo), *every(gpu)]:
        canvas = face.draw(figure)
        renderer = FigureCanvasAgg(canvas).get_renderer()
        width, height = canvas.bbox.width, canvas.bbox.height
        boxes = []
        for axes in canvas.axes:
            tight = axes.get_tightbbox(renderer)
            assert tight.x0 >= -1, (figure.name, tight)
            assert tight.x1 <= width + 1, (figure.name, tight)
            assert tight.y0 >= -1, (figure.name, tight)
            assert tight.y1 <= height + 1, (figure.name, tight)
            boxes += [text.get_window_extent(renderer) for text in axes.texts if text.get_weight() == "bold" and text.get_text()]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :]), (figure.name, box)


def test_poor_records_reach_the_disk(make: Callable[..., Case], tmp_path: Path) -> None:
    cases = degenerate(make)
    for name in ("nothing", "one request", "never sent", "attached"):
        records, manifest, *_ = cases[name]
        for path in draw_all(records, manifest, tmp_path / name, ("svg", "html") if name == "nothing" else ("svg",), []):
            assert path.read_bytes()[:64].lstrip().startswith(MAGIC[path.suffix[1:]])
            assert "Latency distributions" in path.read_text() or path.stem != "distributions"


def test_an_unknown_format_is_refused_before_anything_is_written(demo: Case, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="gif"):
        draw_all(demo[0], demo[1], tmp_path / "out", ("png", "gif"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_a_store_error(demo: Case, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        export(figures_of(demo[0], demo[1])[0], tmp_path / "file" / "a.png")


def test_pyplot_is_never_imported() -> None:
    code = "import sys, labkit.figures, labkit.figures.mpl, labkit.figures.bokeh; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_role_colours_stay_apart_for_colour_blind_eyes() -> None:
    """Viénot's reduction for protanopia and deuteranopia, in linear light; distance well above a just-noticeable step."""
    lms = ((17.8824, 43.5161, 4.11935), (3.45565, 27.1554, 3.86714), (0.0299566, 0.184309, 1.46709))
    pairs = [
        (style.AGGREGATED, style.PREFILL),
        (style.PREFILL, style.DECODE),
        (style.AGGREGATED, style.DECODE),
        (style.AGGREGATED, style.DISAGGREGATED),
        (style.BETTER, style.WORSE),
        (style.STALL, style.DECODE_LIGHT),
    ]

    def seen(color: str, kind: str) -> tuple[float, ...]:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        long, medium, short = (sum(a * b for a, b in zip(line, linear, strict=True)) for line in lms)
        if kind == "protan":
            long = 2.02344 * medium - 2.52581 * short
        else:
            medium = 0.494207 * long + 1.24827 * short
        return long, medium, short

    for kind in ("protan", "deutan"):
        for one, other in pairs:
            a, b = seen(one, kind), seen(other, kind)
            apart = max(abs(x - y) / max(abs(x), abs(y)) for x, y in zip(a, b, strict=True))
            assert apart > 0.25, (kind, one, other, apart)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (9.0, 1100.0, 6, [10, 30, 100, 300, 1000]),
        (250.0, 1100.0, 5, [300, 500, 700, 1000]),
        (14.0, 24.0, 5, [14, 16, 18, 20, 22, 24]),
    ],
)
def test_log_axes_carry_round_numbers(low: float, high: float, most: int, expected: list[float]) -> None:
    assert log_ticks(low, high, most) == expected


def test_numbers_as_people_write_them() -> None:
    assert [number(x) for x in (0.1, 2.5, 3.0, 1500.0, 12_000.0)] == ["0.1", "2.5", "3", "1,500", "12,000"]
