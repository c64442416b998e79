"""Pages of which one is in sight, chosen by its tab.

ipywidgets' own ``Tab`` is not used: it hears clicks through events of JupyterLab's panels, and in a cell that comes into sight
after a page reload these are sometimes not sent. Its tabs are then deaf until they are made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from labkit.dashboard.form import W


@dataclass(frozen=True, slots=True)
class Page:
    """What is behind a tab: its title, the tab's tooltip, and a widget."""

    title: str
    tooltip: str
    content: Any


class _Bar(anywidget.AnyWidget):
    _esm = (Path(__file__).parent / "tabs.js").read_text("utf-8")
    titles: Any = traitlets.List(traitlets.Unicode()).tag(sync=True)
    tooltips: Any = traitlets.List(traitlets.Unicode()).tag(sync=True)
    chosen: Any = traitlets.Int(0).tag(sync=True)


class Tabs:
    """``widget`` is to be displayed; every browser shows the same page. At most four pages: the style sheet knows no more."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._bar = _Bar(titles=[page.title for page in pages], tooltips=[page.tooltip for page in pages])
        framed = [W.VBox([page.content], layout=W.Layout(width="100%")) for page in pages]
        for number, frame in enumerate(framed):
            frame.add_class("lk-page")
            frame.add_class(f"lk-page-{number}")
        self._titles = tuple(page.title for page in pages)
        self.widget = W.VBox([self._bar, *framed], layout=W.Layout(width="100%"))
        self.widget.add_class("lk-pages")

    @property
    def chosen(self) -> str:
        """Title of the page in sight."""
        return self._titles[int(self._bar.chosen)]

    def choose(self, title: str) -> None:
        """Bring the page with this title into sight."""
        self._bar.chosen = self._titles.index(title)
