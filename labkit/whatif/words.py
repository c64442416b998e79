"""A what-if in words that an engineer can act on; no number without ``projected``, its source and its error."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from labkit.whatif.calibration import Calibration, NoCalibration
from labkit.whatif.claimed import CLAIMED_ON, ClaimedPlace
from labkit.whatif.projected import TTFT_WAIT
from labkit.whatif.winning import EVEN, WINNERS, Duel
from labkit.whatif.workers import KINDS

if TYPE_CHECKING:
    from labkit.whatif.study import WhatIf

_WIDTH: Final = 96
_MOST_REASONS: Final = 2
_HOLDS: Final = "✓ where it does"
_CELLS: Final = "\0"  # a line of a table: never folded
_LINK_BYTES_S: Final = 50e9  # 400 Gb/s, one adapter of an H100 node a GPU
CLAIMS: Final = {
    "one_node": "Claim 4, Llama 70B on one node, at least 1.3 times",
    "two_nodes": "Claim 5, Llama 70B on two nodes, more than 2 times",
    "gpt_oss": "Claim 6, gpt-oss-120b gains as 1P@tp4+1D@tp4",
    "large_models": "Claim 8, large models gain more",
}


def whatif_text(found: WhatIf) -> str:
    """The answer, its error, the map in words, and each claim."""
    return "\n".join(_laid_out(line) for line in (*_answer(found), "", *_maps(found), *_claims(found), *_small_print(found)))


def beside(found: WhatIf, *models: str) -> str:
    """What stands beside every number that is shown elsewhere: that it is projected, by whom, and its error.

    Args:
        found: what was projected.
        models: whose numbers these are; by default the question's.
    """
    return projected_by(found.source, found.error.words_of(*(models or (found.question.setting.model,))))


def projected_by(source: str, error: str) -> str:
    """The same of a source and an error in words."""
    return f"Projected by {source}, not measured. {error}"


def folded(line: str) -> str:
    """A line of text in lines as wide as an answer."""
    indent = "  " if line.startswith("  ") else ""
    return (
        textwrap.fill(line, _WIDTH, subsequent_indent=indent + ("  " if indent else ""), break_on_hyphens=False) if line else ""
    )


def recomputed_on(claims: Sequence[ClaimedPlace]) -> str:
    """The GPU and engine that claims were recomputed on, and whose they are where that is another."""
    there = (claims[0].system, claims[0].engine)
    return f"on {there[0]} with {there[1]}" + ("" if there == CLAIMED_ON else f" (claimed of {' with '.join(CLAIMED_ON)})")


def _answer(found: WhatIf) -> Iterator[str]:
    asked = found.question
    yield f"Projected, not measured: {asked}."
    yield found.error.words_of(asked.setting.model)
    if found.infeasible:
        yield f"Infeasible: {found.infeasible}."
        return
    met = found.met
    for kind, one in zip(KINDS, (found.aggregated, found.disaggregated), strict=True):
        lacks = f"not projected, {found.unknown[kind]}" if kind in found.unknown else "no split meets the SLO"
        yield f"{kind.capitalize()}: {one or lacks}."
    yield _advice(met, found)


def _advice(met: Duel, found: WhatIf) -> str:
    gain = met.gain
    doubt = _doubt(gain, found.error, found.question.setting.model) if gain is not None else ""
    if met.unknown:
        return _measure(met)
    if gain is None:
        only = met.disaggregated or met.aggregated
        return f"Do: launch {only.topology if only else ''}; the other kind does not meet the SLO."
    if met.winner == "even" and met.aggregated is not None:
        near = f"disaggregation is projected at {gain:.2f} times as much, which is within {EVEN - 1:.0%} of equal"
        return f"Do: stay aggregated ({met.aggregated.topology}); {near}.{doubt}"
    better = met.disaggregated if met.winner == "disaggregated" else met.aggregated
    times = gain if met.winner == "disaggregated" else 1 / gain
    return f"Do: try {better and better.topology}, projected at {times:.2f} times the output per GPU of the other kind.{doubt}"


def _measure(met: Duel) -> str:
    """What to do where a kind was not projected: it may be the better one."""
    kinds, only = " and ".join(met.unknown), met.disaggregated or met.aggregated
    known = f"whether {only.topology} is the better kind" if only else "whether any split meets the SLO"
    return f"Do: measure {kinds} splits there; {known} is not known until then (or give extrapolate=True: its error is unknown)."


def _doubt(gain: float, error: Calibration | NoCalibration, model: str) -> str:
    """Whether the errors of throughput of both kinds together could be the whole of a gain."""
    if isinstance(error, NoCalibration):
        return ""
    if model not in error.range.models:
        return f" The error of {model} is unknown: measure both before you decide."
    a, d = (error.error_of(kind, "throughput") for kind in KINDS)
    if a is None or d is None:
        lacking = " and ".join(kind for kind, one in zip(KINDS, (a, d), strict=True) if one is None)
        return f" The error of {lacking} throughput is unknown: measure both before you decide."
    # An error is of projected over measured: the least and the most that the gain may be in truth.
    least = gain * (1 - a.worst) / (1 + d.worst)
    most = gain * (1 + a.worst) / (1 - d.worst) if d.worst < 1 else math.inf
    if not least <= 1 <= most:
        return ""
    worst = f"aggregated {a.worst:.0%}, disaggregated {d.worst:.0%}"
    return f" The gain is smaller than the worst errors of throughput ({worst}): measure both before you decide."


def _maps(found: WhatIf) -> Iterator[str]:
    for one in found.maps:
        counted = {kind: one.count(kind) for kind in WINNERS}
        counts = ", ".join(f"{kind} in {count}" for kind, count in counted.items() if count)
        places = f"{len(one.duels)} place{'s' * (len(one.duels) != 1)}"
        yield f"Over {one.x_label} and {one.y_label} ({one.fixed}), {places}: {counts}."
        if one.name == "models" and (unlike := found.error.unlike(*one.ys)):
            yield f"  {unlike}"
        if reasons := list(dict.fromkeys(duel.why_unknown for duel in one.duels if duel.why_unknown)):
            yield f"  unknown: {'; '.join(reasons[:_MOST_REASONS])}{'; …' if len(reasons) > _MOST_REASONS else ''}."
        gains = [duel for duel in one.duels if duel.gain is not None]
        if gains:
            most, least = (pick(gains, key=lambda duel: duel.gain or 0.0) for pick in (max, min))
            yield f"  most {most.gain:.2f} times at {most.x}, {most.y}; least {least.gain:.2f} times at {least.x}, {least.y}."


def _claims(found: WhatIf) -> Iterator[str]:
    for key, claim in CLAIMS.items():
        mine = [one for one in found.claims if one.claim == key]
        if not mine:
            continue
        title = f"{claim}, {recomputed_on(mine)}"
        told = [one for one in mine if one.holds is not None]
        pro = [one for one in told if one.holds]
        yield ""
        if told:
            yield f"{title}: projected to hold in {len(pro)} of {len(told)} places ({_HOLDS})."
        else:
            why = next((one.unknown for one in mine if one.unknown), "both kinds meet the limits nowhere")
            yield f"{title}: cannot be told; {why}."
        if unlike := found.error.unlike(*mine[0].models):
            yield f"  {unlike}"
        yield from _grid(mine)


def _grid(mine: Sequence[ClaimedPlace]) -> Iterator[str]:
    """A row for splits and a limit of TTFT, a column for each limit of TPOT."""
    tpots = list(dict.fromkeys(one.slo.tpot_s or 0.0 for one in mine))
    table: dict[str, dict[float, str]] = {}
    for one in mine:
        row = f"{one.named}, TTFT ≤ {(one.slo.ttft_s or 0.0) * 1e3:g} ms"
        table.setdefault(row, {})[one.slo.tpot_s or 0.0] = one.short + (_HOLDS[0] if one.holds else "")
    rows = [["gain at TPOT ≤", *(f"{tpot * 1e3:g} ms" for tpot in tpots)]]
    rows += [[row, *(cells.get(tpot, "") for tpot in tpots)] for row, cells in table.items()]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for first, *rest in rows:
        cells = "  ".join(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        yield f"{_CELLS}{first.ljust(widths[0])}  {cells}".rstrip()


def _small_print(found: WhatIf) -> Iterator[str]:
    yield ""
    queue = f"TTFT of a prefill worker × {TTFT_WAIT:g} for its queue"
    yield f"Source: {found.source}. Equal limits of TTFT and TPOT for both kinds; {queue}."
    if found.kv_bytes:
        ms = found.kv_bytes / _LINK_BYTES_S * 1e3
        yield (
            f"Not counted: moving the KV cache, {found.kv_bytes / 1e6:,.0f} MB a request, {ms:,.1f} ms at 50 GB/s; queues beyond "
            "that factor; prefix hits."
        )
    else:
        yield "Not counted: moving the KV cache from prefill to decode workers; queues beyond that factor; prefix hits."
    yield from (f"Missing: {note}." for note in found.notes)


def _laid_out(line: str) -> str:
    return line.removeprefix(_CELLS) if line.startswith(_CELLS) else folded(line)
