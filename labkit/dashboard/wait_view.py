"""What a change waits for: workers that start, clients of the old router; and a button that calls it off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labkit.dashboard.form import Line, W, button, row
from labkit.serve.deployment import Draining, Starting


class WaitView:
    """``widget`` is to be displayed; it takes no room while nothing is waited for.

    Args:
        on_call_off: called where the change is to be called off.
    """

    def __init__(self, on_call_off: Callable[[], object]) -> None:
        self._line, self._called_off = Line(), False
        self.call_off = button("Call off the change", "undo", "Wait no longer: what serves now serves on", "warning")
        self.call_off.disabled = True
        self.call_off.on_click(lambda _: self._call_off(on_call_off))
        self.widget: Any = W.VBox([self._line.widget, row(self.call_off)], layout=W.Layout(width="100%", display="none"))

    def show(self, waiting: Starting | Draining | None) -> None:
        """Show where it stands."""
        self._line.say("" if waiting is None else str(waiting), "busy")
        self._called_off = self._called_off and waiting is not None
        self.call_off.disabled = self._called_off or waiting is None
        self.widget.layout.display = None if waiting is not None else "none"

    def _call_off(self, on_call_off: Callable[[], object]) -> None:
        self._called_off = self.call_off.disabled = True
        on_call_off()
