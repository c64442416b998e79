"""Hostile names in a figure: text on every face, whatever they look like."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from labkit.figures.draw import export
from labkit.figures.inert import inert
from labkit.figures.marks import Dots, Figure, HLine, Line, Panel, Text
from tests.support.hostile import ALL, CONTROLS, LONG, NAMES, obeyed


def figure(name: str) -> Figure:
    at = np.array([0.0, 1.0])
    marks = (
        Line(at, at, "#123456", label=name),
        Dots(at, at, "#123456", tips=(name, name)),
        HLine(0.5, "#123456", text=name),
        Text(0.5, 0.5, name, "#123456"),
    )
    ticks = ((0.0, name), (1.0, "2A"))
    return Figure(
        "hostile", name, name, (Panel(name, name, name, marks, y_ticks=ticks, y_ticks_right=ticks), Panel("", "", "", note=name)),
        caption=name, warnings=(name,), columns=2, key=((name, "#123456"),),
    )  # fmt: skip


def test_what_is_no_text_stays_as_it_is():
    given = figure("2A, $5 a token")
    found = inert(given)
    assert found.title == given.title
    assert found.panels[0].marks[0].x is given.panels[0].marks[0].x
    assert found.panels[0].y_ticks == given.panels[0].y_ticks


def test_formulas_controls_and_endless_words_are_gone():
    assert inert(r"$$\href{x}{y}$$ \(z\) \[z\]") == r"$ $\href{x}{y}$ $ \ (z\) \ [z\]"
    assert not obeyed(inert(CONTROLS))
    assert inert(LONG) == "W" * 200 + "…"
    assert len(inert(figure(LONG)).panels[0].y_ticks[0][1]) == 40


@pytest.mark.parametrize("name", [*NAMES.values(), ALL], ids=[*NAMES, "all"])
def test_a_figure_is_drawn_whatever_its_names_are(tmp_path: Path, name: str):
    text = export(figure(name), tmp_path / "x.svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert not [
        element.tag for element in root.iter() if element.tag.rpartition("}")[2] in ("script", "a", "foreignObject", "image")
    ]
    assert not [name for element in root.iter() for name in element.attrib if name.lower().startswith("on")]


def test_the_page_of_a_figure_loads_no_formulas_and_ends_no_script(tmp_path: Path):
    page = export(figure(ALL), tmp_path / "x.html").read_text(encoding="utf-8")
    assert "mathjax" not in page.lower().split("</script>")[-1]
    assert "<img src=x" not in page
    assert "<svg onload" not in page
