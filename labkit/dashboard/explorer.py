"""The live lab: controls on the left, tiles and linked charts beside them, pins and single requests below.

The explorer holds no truth of its own: the lab, its run and the exploration do. It can be closed, made again by running the cell
again, or looked at from another browser, which follows, and shows what there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from labkit.dashboard.captions import Captions
from labkit.dashboard.chart_data import ChartData
from labkit.dashboard.charts import Charts
from labkit.dashboard.deployment_form import DeploymentForm
from labkit.dashboard.exploration_page import save_exploration
from labkit.dashboard.form import Line, Tone, W, button, clock, field, heading, let_go, row
from labkit.dashboard.health_view import HealthView
from labkit.dashboard.load_form import LoadForm
from labkit.dashboard.pins_view import PinsView
from labkit.dashboard.request_view import RequestView
from labkit.dashboard.slo_form import SloForm
from labkit.dashboard.soon import Soon
from labkit.dashboard.split_form import SplitForm
from labkit.dashboard.tabs import Page, Tabs
from labkit.dashboard.tails import Now
from labkit.dashboard.tails_view import TailsView
from labkit.dashboard.wait_view import WaitView
from labkit.errors import LabError
from labkit.experiments.autopilot import autopilot
from labkit.experiments.exploration import Exploration
from labkit.harmless import escaped
from labkit.live.request import worst_of
from labkit.live.sample import Dot, RouterFault, Sample
from labkit.live.window import Slow
from labkit.serve.engines.attach import Attached
from labkit.serve.engines.base import EngineOptions

_CSS: Final = (Path(__file__).parent / "explorer.css").read_text("utf-8")
_LINES: Final = 40
_ENDED: Final = "This view has ended. Run the cell again: the charts and controls come back here."
_AWAITED: Final = "the autopilot, the pin, workers that start, the drain"
_ONE_REQUEST: Final = "One request"
_DISTRIBUTIONS: Final = "Distributions"
_TONES: Final[dict[str, Tone]] = {"doing": "busy", "done": "good", "failed": "bad"}


class Explorer:
    """The application. Display it, or let a cell end with it; ``close`` takes it off the page and leaves the lab as it is.

    Args:
        exploration: orders to the lab; its load may run already.
        hz: samples a second.
    """

    _shown: ClassVar[Explorer | None] = None
    _frame: ClassVar[Any] = None

    def __init__(self, exploration: Exploration, *, hz: float = 4.0) -> None:
        if (before := Explorer._shown) is not None:  # a cell that is run again leaves one explorer
            before.close()
        Explorer._shown = self
        self.exploration, self._hz = exploration, hz
        self._closed = False
        self.widget = _frame()
        self._refresh = Soon(self._show)
        self._build()
        exploration.listen(self._refresh)
        self._show()

    def close(self) -> None:
        """Take it off the page, which says so; load, workers and run go on."""
        if self._closed:
            return
        self._closed = True
        if Explorer._shown is self:
            Explorer._shown = None
        self.exploration.listen(None)
        self._take_down()
        self._display(Line(_ENDED).widget)

    def export(self) -> Path:
        """The exploration so far as one HTML file in the run's folder: it replays the charts, and needs nothing else."""
        return save_exploration(self.exploration.lab.run, history=self.charts.kept(), pins=list(self.exploration.pins))

    def _repr_mimebundle_(self, **_: Any) -> Any:
        return self.widget._repr_mimebundle_()

    # Building

    def _build(self, history: ChartData | None = None) -> None:
        """Everything, for the lab and the SLO that there are now; ``history`` goes on where it is of the same lab."""
        lab = self._lab = self.exploration.lab
        self._slo, self._seen_applied = lab.slo, self.exploration.applied
        self._dead: tuple[tuple[str, str], ...] = ()
        self._router: RouterFault | None = None
        self._outgrown = False
        absent = absent_panels(lab.telemetry_missing)
        self.charts = Charts(lab.slo, accelerator=lab.deployment.accelerator, history=history, absent=absent)
        self.pins = PinsView(
            lab.deployment.accelerator,
            slo=lambda: self.exploration.lab.slo,
            on_rerun=self.exploration.rerun,
            on_ghosts=self.charts.show_pins,
        )
        self.request = RequestView(lab.run, worst=self._worst, aside=self.exploration.aside, limit_s=lab.slo.tpot_s)
        self.tails = TailsView(self._spread, slo=lab.slo)
        self.charts.on_dot(self._look_into)
        self._log = W.HTML(layout=W.Layout(max_height="320px", overflow="auto"))
        self._below = Tabs(
            [
                Page("Pins", "What was pinned, on Pareto charts and in a table", self.pins.widget),
                Page(_DISTRIBUTIONS, "How TTFT and ITL are spread now, in front of every pin", self.tails.widget),
                Page(_ONE_REQUEST, "Where the time of a single request went", self.request.widget),
                Page("Log", "What was asked for, what was done, and what failed", self._log),
            ]
        )
        right = W.VBox([self.charts.figure, self._below.widget], layout=W.Layout(flex="1 1 auto", min_width="0", width="auto"))
        body = W.HBox([self._build_controls(), right], layout=W.Layout(width="100%", align_items="flex-start", grid_gap="12px"))
        dress = W.HTML(f"<style>{_CSS}</style>", layout=W.Layout(height="0", margin="0"))
        self._display(dress, body, Captions())
        if history is None and (before := lab.watching) is not None:
            before.stop()  # what it has seen comes first, what the next one sees after it
            for sample in before.history.samples():
                self.charts.push(sample)
        self.watch = lab.watch(self._tick, hz=self._hz)

    def _display(self, *parts: Any) -> None:
        """Show these in place of what there was, which is let go."""
        before, self.widget.children = self.widget.children, parts
        let_go(*before)

    def _take_down(self) -> None:
        self.watch.stop()
        self.charts.close()
        self.pins.close()
        self.tails.close()
        self.request.close()
        if self.load is not None:
            self.load.close()
        let_go(*self._apart)

    def _build_controls(self) -> Any:
        lab, exploration = self.exploration.lab, self.exploration
        fixed = isinstance(lab.deployment, Attached)
        self._plan, self._state = Line(), Line()
        self.wait = WaitView(exploration.cancel)
        parts: list[Any] = [self._state.widget]
        self.split: SplitForm | None = None
        self.deployment: DeploymentForm | None = None
        if not isinstance(lab.deployment, Attached):
            there = lab.deployment
            most = there.node.accelerators
            self.split = SplitForm(there.topology, there.roles, there.options, self._wished, most=most, share=there.share)
            self._apply = button("Apply split", "random", "Bring the lab to this split while the load goes on", "primary")
            self._apply.on_click(lambda _: self._apply_split())
            parts += [self.split.widget, self._plan.widget, row(self._apply), self.wait.widget]
        self.health = HealthView(exploration.restart, exploration.new_router)
        parts.append(self.health.widget)
        self._seen_load = self._asked_load = exploration.workload
        self.load = LoadForm(exploration.workload, self._show_load) if exploration.workload is not None else None
        self._start = button("Start", "play", "Send this load from now on; one that runs is replaced by it", "primary")
        self._pause = button("Pause", "pause", "Send nothing more; requests under way are followed to their end")
        self._stop = button("Stop", "stop", "Send nothing more, and cancel what is under way")
        self._start.on_click(lambda _: self._start_load())
        self._pause.on_click(lambda _: exploration.pause())
        self._stop.on_click(lambda _: exploration.stop())
        if self.load is not None:
            parts += [self.load.widget, row(self._start, self._pause, self._stop)]
        self.slo = SloForm(lab.slo, exploration.judge_by)
        parts.append(self.slo.widget)
        self._label = W.Text(placeholder="name of the pin", continuous_update=False)
        self._pin = button("Pin", "thumb-tack", "Keep what was measured since the last change, a minute at most, as a point")
        self._pin.on_click(lambda _: self._keep_pin())
        parts += [
            heading("Pin"),
            row(field("name", self._label, "What the pin is called; its number and split by default")),
            row(self._pin),
        ]
        self._window = W.BoundedFloatText(value=20.0, min=2.0, max=3600.0, step=5.0)
        self._auto = button("Try all splits", "magic", "Every split of the pool in turn, a level stretch each; then the best one")
        self._cancel = button("Call off", "times", f"End what is being waited for: {'the pin' if fixed else _AWAITED}")
        self._auto.on_click(lambda _: autopilot(exploration, window_s=self._window.value))
        self._cancel.on_click(lambda _: exploration.cancel())
        if fixed:
            parts.append(row(self._cancel))
        else:
            parts += [
                heading("Autopilot"),
                row(
                    field(
                        "seconds a split",
                        self._window,
                        "Length of a stretch; one that is not level lasts up to three times as long",
                    )
                ),
                row(self._auto, self._cancel),
            ]
        self._export = button("Export page", "download", "The exploration so far as one HTML file that replays the charts")
        self._export.on_click(lambda _: exploration.order(self._save))
        parts.append(row(self._export))
        if not fixed:
            manifest = lab.run.manifest
            self.deployment = DeploymentForm(
                str(manifest["model"]["source"]), str(manifest["engine"]), self._plan_launch, self._launch
            )
            parts.append(self.deployment.widget)
        self._apart = [self._plan.widget, self.wait.widget, self._start, self._pause, self._stop, self._window, self._auto]
        box = W.VBox(parts, layout=W.Layout(width="300px", min_width="300px", flex="0 0 300px"))
        box.add_class("lk-controls")
        return box

    # Controls

    def _wish(self) -> tuple[Any, EngineOptions] | None:
        """The split and options wished for; ``None`` where they cannot be meant, and the plan's line says why."""
        assert self.split is not None
        try:
            return self.split.topology, self.split.options
        except LabError as error:
            self._plan.say(str(error), "bad")
            return None

    def _wished(self) -> None:
        self._show_plan()
        if self.deployment is not None:
            self.deployment.refresh()

    def _show_plan(self) -> None:
        if self.split is None or not hasattr(self, "_apply"):
            return
        self._apply.disabled = True
        if (wish := self._wish()) is None:
            return
        try:
            plan = self.exploration.plan(*wish)
        except LabError as error:
            self._plan.say(str(error), "bad")
            return
        possible = plan.why is None
        self._plan.say(plan.text, "" if possible else "bad")
        self._apply.disabled = not possible or plan.kind == "nothing"

    def _apply_split(self) -> None:
        if (wish := self._wish()) is not None:
            self.exploration.apply(*wish)

    def _show_load(self) -> None:
        if getattr(self, "load", None) is not None:
            assert self.load is not None
            self._start.disabled = self.load.workload is None

    def _start_load(self) -> None:
        assert self.load is not None
        if (workload := self.load.workload) is not None:
            self._asked_load = workload
            self.exploration.start(workload)

    def _follow_load(self) -> None:
        """Show a load that somebody else began: a pin that is measured again, another cell."""
        now = self.exploration.workload
        if now is self._seen_load:
            return
        self._seen_load, asked = now, self._asked_load
        if self.load is not None and now is not None and now != asked:
            self._asked_load = now
            self.load.show(now)

    def _keep_pin(self) -> None:
        label, self._label.value = self._label.value.strip(), ""
        self.exploration.pin(label or None)

    def _save(self) -> None:
        self.exploration.say("done", f"saved {self.export()}")

    def _plan_launch(self, model: str, engine: str) -> str:
        assert self.split is not None
        return self.exploration.plan_launch(model, self.split.topology, engine=engine).text

    def _launch(self, model: str, engine: str) -> None:
        assert self.split is not None
        self.exploration.relaunch(model, self.split.topology, engine=engine)

    def _worst(self) -> Sequence[Slow]:
        watch = self._lab.watching
        return () if watch is None else worst_of(watch.window)

    def _spread(self) -> Now:
        watch = self._lab.watching
        return Now(str(self._lab.deployment.topology), {} if watch is None else watch.window.tails(self.exploration.since_ns))

    def _look_into(self, dot: Dot, _kind: str) -> None:
        self._below.choose(_ONE_REQUEST)
        self.exploration.aside(lambda: self.request.show(dot.request))

    # Showing; on the main loop

    def _tick(self, sample: Sample) -> None:
        if not self.charts.push(sample):
            return
        seen = self.charts.figure.seen
        self.request.follow(sample.t_s, seen=seen)
        self.tails.follow(sample.t_s, seen=seen and self._below.chosen == _DISTRIBUTIONS)
        dead = tuple((worker.name, worker.cause) for worker in sample.workers if not worker.alive)
        if dead != self._dead:
            for name, _ in set(dead) - set(self._dead):
                self.exploration.leave_out(name)
            self._dead = dead
            self._refresh()
        if sample.frontend is not None and not self.charts.frontend and not self._outgrown:
            self._outgrown = True
            self.exploration.aside(self._refresh)  # the charts are built anew, and this thread ends with the old ones
        if sample.router != self._router:
            self._router = sample.router
            self._refresh()

    def _show(self) -> None:
        if self._closed:
            return
        exploration = self.exploration
        if exploration.lab is not self._lab:
            self._take_down()
            self._build()
        elif exploration.lab.slo != self._slo or self.charts.history.frontend != self.charts.frontend:
            self._take_down()
            self._build(self.charts.history)
        said = exploration.said
        last = said[-1] if said else None
        if last is not None:
            self._state.say(last.text, _TONES[last.kind])
        self._log.value = _log_html(said[-_LINES:])
        busy, running = exploration.busy, exploration.running
        self._start.description = "Replace" if running else "Start"
        self._pause.disabled, self._stop.disabled = not running, not exploration.stoppable
        self._pin.disabled = not running
        self._auto.disabled = busy or not running
        self._cancel.disabled = not busy
        self._follow_load()
        self.wait.show(exploration.waiting)
        self.health.show(self._dead, self._router, busy=busy)
        self.pins.show(exploration.pins)
        self.tails.show(exploration.pins)
        there = exploration.lab.deployment
        if self.split is not None and not isinstance(there, Attached):
            if not busy and exploration.applied != self._seen_applied:
                self.split.show(there.topology, there.roles, there.options)
                self._seen_applied = exploration.applied
            self._show_plan()


def _frame() -> Any:
    """What every browser that looks at the notebook displays. It outlives an explorer: the next one moves in, so that a browser
    in which the cell was not run follows, too."""
    if Explorer._frame is None or Explorer._frame.comm is None:
        Explorer._frame = W.VBox(layout=W.Layout(width="100%"))
        Explorer._frame.add_class("lk-explorer")
    return Explorer._frame


def absent_panels(missing: Mapping[str, str]) -> dict[str, str]:
    """Panel → why it stays empty, where that is known: power comes from a GPU alone."""
    reason = missing.get("gpu")
    return {} if reason is None else {"power_w": f"no power is measured here: {reason}"}


def _log_html(said: Any) -> str:
    rows = [f'<tr class="{line.kind}"><td>{clock(line.t_s)}</td><td>{escaped(line.text)}</td></tr>' for line in reversed(said)]
    return f'<table class="lk-log">{"".join(rows)}</table>' if rows else '<div class="lk-line">nothing was asked for yet</div>'
