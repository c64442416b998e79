"""Which model and engine: another choice closes the lab, keeps its run, and launches a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from labkit.dashboard.form import Line, W, button, field, fold, row
from labkit.errors import LabError
from labkit.lab.engines import ENGINES, SIMULATED
from labkit.spec import SHAPES

_SIMULATED_ONLY: Final = (
    "Simulated workers: they take the times of a profile, of this model alone. Engines with real workers begin a lab of their own"
)
_NO_MOCKER: Final = (
    "What turns a split into processes. Simulated workers (mocker) need times and a lab of their own: the notebook's timing"
)


class DeploymentForm:
    """``widget`` is to be displayed. What would happen is said below the fields, and what cannot be is explained there.

    Args:
        model, engine: what runs now. Simulated and real workers do not meet in one exploration: where the ones run, the engine of
            the others is left out, and why is said.
        plan: what a launch of this model and engine would do, in words; raises LabError where it is impossible.
        on_launch: called with the model and engine that are wished for.
    """

    def __init__(self, model: str, engine: str, plan: Callable[[str, str], str], on_launch: Callable[[str, str], None]) -> None:
        self._plan = plan
        self._model = W.Combobox(value=model, options=sorted(SHAPES), ensure_option=False, continuous_update=False)
        simulated = engine == SIMULATED
        own = [name for name in ENGINES if (name == SIMULATED) == simulated]
        engines = own if engine in own else [engine, *own]
        self._engine = W.Dropdown(options=engines, value=engine)
        self.line = Line()
        self.launch = button(
            "Launch instead", "power-off", "Close this lab, keep its run, and launch another in its place", "warning"
        )
        self.launch.on_click(lambda _: on_launch(*self._wish))
        body = W.VBox(
            [
                row(
                    field("model", self._model, "A bundled shape, a folder, or a hub id"),
                    field("engine", self._engine, _SIMULATED_ONLY if simulated else _NO_MOCKER),
                ),
                self.line.widget,
                row(self.launch),
            ]
        )
        self.widget = fold("Model and engine", "Serve another model, or with another engine", body)
        for chooser in (self._model, self._engine):
            chooser.observe(lambda _: self.refresh(), "value")
        self.refresh()

    @property
    def _wish(self) -> tuple[str, str]:
        return self._model.value.strip(), self._engine.value

    def refresh(self) -> None:
        """Say again what a launch would do, after the split that it begins with has changed."""
        try:
            self.line.say(self._plan(*self._wish))
        except LabError as error:
            self.line.say(str(error), "bad")
            self.launch.disabled = True
            return
        self.launch.disabled = False
