"""The SLO as a form: what a good request meets."""

from __future__ import annotations

from collections.abc import Callable

from labkit.dashboard.form import Line, W, button, field, heading, row
from labkit.errors import LabError, SpecError
from labkit.spec import Slo


class SloForm:
    """Limits in milliseconds; an empty field is no limit. ``widget`` is to be displayed.

    Args:
        slo: what the fields show first.
        on_apply: called with what they ask for.
    """

    def __init__(self, slo: Slo, on_apply: Callable[[Slo], object]) -> None:
        self._e2e_s = slo.e2e_s
        self._ttft, self._tpot = (W.Text(value=_text(limit), placeholder="no limit") for limit in (slo.ttft_s, slo.tpot_s))
        self._line = Line()
        self.apply = button(
            "Judge by this", "check", "Hold tiles, charts and later pins against this SLO; earlier pins keep theirs"
        )
        self.apply.on_click(lambda _: self._apply(on_apply))
        fields = row(
            field("TTFT ms", self._ttft, "Most milliseconds to the first token of a good request; empty: no limit"),
            field("TPOT ms", self._tpot, "Most milliseconds per output token of a good request; empty: no limit"),
        )
        self.widget = W.VBox([heading("SLO"), fields, self._line.widget, row(self.apply)])

    @property
    def slo(self) -> Slo:
        """What the fields ask for; SpecError names what cannot be meant."""
        return Slo(ttft_s=_limit("TTFT", self._ttft.value), tpot_s=_limit("TPOT", self._tpot.value), e2e_s=self._e2e_s)

    def _apply(self, on_apply: Callable[[Slo], object]) -> None:
        try:
            slo = self.slo
        except LabError as error:
            self._line.say(str(error), "bad")
            return
        self._line.say("")
        on_apply(slo)


def _text(limit_s: float | None) -> str:
    return "" if limit_s is None else f"{limit_s * 1e3:g}"


def _limit(name: str, text: str) -> float | None:
    text = text.strip()
    if not text:
        return None
    try:
        limit_ms = float(text)
    except ValueError:
        raise SpecError(f"{name} = {text!r} is no number of milliseconds", remedy="write one, such as 50, or nothing") from None
    return limit_ms / 1e3
