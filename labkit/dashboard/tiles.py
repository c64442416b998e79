"""KPI tiles: one HTML grid, each number held against the SLO by a sign and a colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from labkit.harmless import escaped
from labkit.live.sample import LiveStats
from labkit.measure.simulated import simulated_head
from labkit.measure.statistics import least_values
from labkit.spec.slo import Slo

_LEAST: Final = least_values(99)


@dataclass(frozen=True, slots=True)
class Tile:
    """One number of ``LiveStats``.

    Attributes:
        scale: from the field's unit to the one shown.
        limit: the most that is good, in the unit shown; ``None`` where nothing is promised.
        note: the line below it.
        of: of what it is a p99, which needs a hundred values; while there are fewer, the line below says so.
    """

    metric: str
    label: str
    unit: str
    scale: float = 1.0
    decimals: int = 0
    limit: float | None = None
    note: str = ""
    of: Literal["requests", "gaps", ""] = ""

    def text(self, value: float | None) -> str:
        """The value as it is shown; a dash where it is not known."""
        return "–" if value is None else f"{value * self.scale:,.{self.decimals}f}"

    def below(self, stats: LiveStats | None) -> str:
        """The line below the value: what is promised, or why there is no value."""
        if stats is None or not self.of or getattr(stats, self.metric) is not None or not (known := getattr(stats, self.of)):
            return self.note
        return f"n = {known} of {_LEAST}"

    def verdict(self, value: float | None) -> Literal["good", "bad", ""]:
        """Whether the limit is kept; nothing where there is none, or no value."""
        if value is None or self.limit is None:
            return ""
        return "good" if value * self.scale <= self.limit else "bad"


def tiles(slo: Slo, accelerator: str = "accelerator") -> tuple[Tile, ...]:
    """The nine, in reading order.

    Args:
        accelerator: what ``per accelerator`` is called on this node: ``GPU`` or ``core``.
    """
    ttft, ttft_note = _limit_ms(slo.ttft_s)
    itl, itl_note = _limit_ms(slo.tpot_s)
    return (
        Tile("output_tok_s", "Output", "tok/s"),
        Tile("output_tok_s_per_accelerator", f"Per {accelerator}", "tok/s", decimals=1),
        Tile("ttft_p50_s", "TTFT p50", "ms", 1000, limit=ttft, note=ttft_note),
        Tile("ttft_p99_s", "TTFT p99", "ms", 1000, limit=ttft, note=ttft_note, of="requests"),
        Tile("itl_p50_s", "ITL p50", "ms", 1000, 1, limit=itl, note=itl_note),
        Tile("itl_p99_s", "ITL p99", "ms", 1000, 1, limit=itl, note=itl_note, of="gaps"),
        Tile("goodput_hz", "Goodput", "req/s", decimals=2, note="within the SLO"),
        Tile("in_flight", "In flight", "", note="requests"),
        Tile("failed", "Failed", "", limit=0, note="requests"),
    )


def _limit_ms(limit_s: float | None) -> tuple[float | None, str]:
    return (None, "no limit") if limit_s is None else (limit_s * 1000, f"SLO ≤ {limit_s * 1000:g} ms")


def tiles_html(chosen: tuple[Tile, ...], stats: LiveStats | None = None, *, accelerator: str = "") -> str:
    """The grid, escaped; its look is ``.lk-tiles`` in ``board.css``. The live board fills the same grid from its columns.

    Args:
        accelerator: what one is called: a simulated one is said so above all numbers.
        stats: what is shown; without it every value is a dash.
    """
    head = f"{simulated_head(accelerator)}the workers compute nothing, and take the times of a profile for {accelerator}s"
    told = f'<div class="lk-simulated" role="note">{escaped(head)}</div>' if simulated_head(accelerator) else ""
    return f'{told}<div class="lk-tiles">{"".join(_tile(tile, stats) for tile in chosen)}</div>'


def _tile(tile: Tile, stats: LiveStats | None) -> str:
    value = None if stats is None else getattr(stats, tile.metric)
    verdict = tile.verdict(value)
    needs = f' data-of="{tile.of}" data-least="{_LEAST}"' if tile.of else ""
    counted = f' title="a p99 needs {_LEAST} {tile.of} in the window"' if tile.of else ""
    limit = "" if tile.limit is None else f' data-limit="{tile.limit:g}" data-better="low"'
    words = {"good": "within the SLO", "bad": "beyond the SLO", "": ""}[verdict]
    return (
        f'<div class="lk-tile" data-metric="{escaped(tile.metric)}" data-scale="{tile.scale:g}"'
        f' data-decimals="{tile.decimals}"{limit}{needs} data-verdict="{verdict}">'
        f"<h5>{escaped(tile.label)}</h5>"
        f'<span class="lk-value">{tile.text(value)}</span><small>{escaped(tile.unit)}</small>'
        f'<span class="lk-verdict" title="{words}">{ {"good": "✓", "bad": "✗", "": ""}[verdict] }</span>'
        f'<footer{counted} data-note="{escaped(tile.note)}">{escaped(tile.below(stats))}</footer></div>'
    )
