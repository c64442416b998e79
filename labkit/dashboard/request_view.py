"""One request under the glass: its waterfall, and the worst of the last minute to choose from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from labkit.dashboard.form import Line, W, button, clock, field, let_go, row
from labkit.dashboard.held import Held
from labkit.dashboard.live_figure import LiveFigure
from labkit.dashboard.soon import Soon
from labkit.dashboard.waterfall import Phase, Stretch, Waterfall, waterfall
from labkit.errors import LabError
from labkit.live.request import RequestStory, StageKind, Stall, read_story
from labkit.live.window import Slow
from labkit.store.run import Run

#: The list fills itself again after so many seconds.
EVERY_S: Final = 5.0
_NOBODY: Final = -1
_PHASES: Final[dict[StageKind, Phase]] = {
    "send_lag": "queue",
    "queue": "queue",
    "prefill": "prefill",
    "handover": "transfer",
    "decode": "decode",
    "answer": "queue",
}
_NAMES: Final[dict[StageKind, str]] = {
    "send_lag": "late send of the client",
    "queue": "waiting in the engine's queue",
    "prefill": "prefill",
    "handover": "router, KV transfer and waiting at the decode worker",
    "decode": "decode",
    "answer": "until the first token; the engine tells nothing of it",
}


class RequestView:
    """``widget`` is to be displayed.

    Args:
        run: whose requests.
        worst: the worst of the last minute, when it is asked for.
        aside: carries out what takes a while, off the page's threads.
        limit_s: the SLO on a gap; tokens that came later are marked.
    """

    def __init__(
        self,
        run: Run,
        *,
        worst: Callable[[], Sequence[Slow]],
        aside: Callable[[Callable[[], None]], None],
        limit_s: float | None = None,
    ) -> None:
        self._run, self._worst, self._aside, self._limit_s = run, worst, aside, limit_s
        self._figure: LiveFigure | None = None
        self._drawing, self._closed = threading.Lock(), False
        self._line = Line("click a dot on the TTFT or ITL chart, or choose one of the worst of the last minute")
        self._listing, self._filling = threading.Lock(), False
        self._listed_s: float | None = None  # when the list was filled last, on the charts' clock
        self._fill = Soon(self._refill)
        self._held = Held()
        self._pick = W.Dropdown(options=[("the worst of the last minute", _NOBODY)])
        self._pick.observe(lambda change: self._picked(change["new"]), "value")
        self._look = button("Look", "refresh", "List the worst of the last minute again: now, and not in a few seconds")
        self._look.layout.flex = "0 0 120px"
        self._look.on_click(lambda _: self.list_worst())
        self._place = W.VBox(layout=W.Layout(width="100%"))
        chooser = field("", self._pick, "Requests by how far they are beyond what is usual")
        chooser.layout.flex = "3 1 0"
        chooser.children = (*chooser.children, self._held)
        self.widget = W.VBox([row(chooser, self._look), self._line.widget, self._place], layout=W.Layout(width="100%"))

    def list_worst(self) -> None:
        """Fill the list of the worst requests of the last minute; a request that is chosen stays in it, and chosen."""
        with self._listing:
            found = [(_slow_text(slow), slow.request) for slow in self._worst()]
            chosen = self._pick.value
            head = f"{len(found)} worst of the last minute" if found else "none in the last minute"
            options = [(head, _NOBODY), *found]
            if chosen not in (request for _, request in options):
                options.append((self._pick.label, chosen))
            if self._closed or tuple(options) == tuple(self._pick.options):
                return
            self._filling = True
            try:
                with self._pick.hold_sync():
                    self._pick.options = options
                    self._pick.value = chosen
            finally:
                self._filling = False

    def follow(self, t_s: float, *, seen: bool) -> None:
        """A tick of the charts, on any thread: the list is filled once there is a load, and again every few seconds while it is
        seen and nobody has it in hand."""
        if self._listed_s is not None and (not seen or t_s - self._listed_s < EVERY_S):
            return
        self._fill()
        if self._listed_s is not None or len(self._pick.options) > 1:
            self._listed_s = t_s

    def _refill(self) -> None:
        if not self._held.held:
            self.list_worst()

    def show(self, request: int) -> None:
        """Read a request's story and draw it. Takes a moment: not for a thread that somebody waits for."""
        try:
            story = read_story(self._run, request)
        except LabError as error:
            self._line.say(str(error), "bad")
            return
        chart = waterfall(drawn(story, self._limit_s))
        with self._drawing:
            if self._closed:
                return
            if self._figure is None:
                self._figure = LiveFigure([chart])
                self._place.children = (self._figure,)
            else:
                self._figure.replace([chart])
        self._line.say(story.missing)

    def close(self) -> None:
        """Take it off the page; a story that is being read is not shown any more."""
        with self._drawing:
            self._closed = True
            let_go(self.widget)

    def _picked(self, request: int) -> None:
        if request != _NOBODY and not self._filling:
            self._aside(lambda: self.show(request))


def drawn(story: RequestStory, limit_s: float | None = None) -> Waterfall:
    """A story as what the chart takes: seconds after its scheduled send."""
    zero_ns = story.start_ns

    def s(t_ns: int) -> float:
        return (t_ns - zero_ns) / 1e9

    stretches = [
        Stretch(_PHASES[stage.kind], s(stage.start_ns), s(stage.end_ns), f"{_NAMES[stage.kind]} {stage.worker}".strip())
        for stage in story.stages
    ]
    stretches += [Stretch("stall", s(stall.start_ns), s(stall.end_ns), _stalled(stall)) for stall in story.stalls]
    stretches += [
        Stretch("other", s(one.start_ns), s(one.end_ns), f"request {one.request} on {one.worker}") for one in story.prefills
    ]
    return Waterfall(story.request, title(story), tuple(stretches), tuple(s(int(at)) for at in story.token_ns), limit_s)


def title(story: RequestStory) -> str:
    """Who it was, in a line."""
    tokens = f"{_known(story.prompt_tokens)} tokens in, {_known(story.output_tokens)} out"
    times = [
        f"{name} {value * 1e3:,.0f} ms"
        for name, value in (("TTFT", story.ttft_s), ("TPOT", story.tpot_s), ("end to end", story.e2e_s))
        if value is not None
    ]
    how = {None: "under way", "ok": ""}.get(story.outcome, f"{story.outcome}: {story.reason}")
    on = f"on {' → '.join(story.workers)}" if story.workers else ""
    return ", ".join(part for part in (f"Request {story.request}", tokens, *times, on, how) if part)


def _known(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _slow_text(slow: Slow) -> str:
    what = {"ttft": f"TTFT {slow.value_s * 1e3:,.0f} ms", "itl": f"a gap of {slow.value_s * 1e3:,.0f} ms"}
    return f"{clock(slow.t_s)} request {slow.request}, {what.get(slow.why, slow.text or slow.why)}"


def _stalled(stall: Stall) -> str:
    met = len(stall.prefills)
    return f"{met} prefill{'s' * (met > 1)} ran on its worker meanwhile" if met else "no prefill ran on its worker meanwhile"
