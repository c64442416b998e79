"""A load step in words: what the shift brought and cost, how long the switches took, and what to do."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from labkit.experiments.until import LEAST_REPEATS
from labkit.experiments.verdict import figure_text
from labkit.measure.simulated import simulated_head

if TYPE_CHECKING:
    from labkit.experiments.load_step import LoadStep

#: A notebook breaks longer lines in the middle of a word.
_WIDTH: Final = 96


def load_step_text(found: LoadStep) -> str:
    """What it brought, what else it did, the switches, what to do, and the conditions: a paragraph each."""
    brought = simulated_head(found.accelerator) + _brought(found)
    parts: tuple[str, ...] = (brought, _latencies(found), _switches(found), _advice(found), _conditions(found))
    parts += tuple(f"! {text}" for text in found.warnings)
    return "\n".join(textwrap.fill(part, _WIDTH, break_on_hyphens=False) for part in parts)


def _brought(found: LoadStep) -> str:
    shares, gain = found.effects["step"]["slo_attainment"], found.gain
    before, after = found.goodput_hz("step")
    if before is None or after is None or shares.stays is None or shares.shifts is None:
        return "Nothing can be said of goodput during the step: no request of it could be held against the SLO."
    met = f"{shares.stays.estimate:.0%} → {shares.shifts.estimate:.0%} of the requests within the SLO"
    verb = "no difference of goodput is shown"
    if gain is not None and gain.shows_difference:
        verb = "goodput rose" if gain.estimate > 1 else "goodput fell"
    return (
        f"Shifting a decode worker to prefill while the load steps up ({found.calm} → {found.surge} → {found.calm}, against "
        f"{found.calm} throughout): {verb} during the step, {figure_text(before, '')} → {figure_text(after, 'req/s')} "
        f"({met}{'' if gain is None else f', ratio {gain}'})."
    )


def _latencies(found: LoadStep) -> str:
    said = []
    for key, name in (("ttft_p50_s", "p50 TTFT"), ("itl_p50_s", "p50 ITL")):
        effect = found.effects["step"][key]
        if effect.stays is None or effect.shifts is None:
            said.append(f"{name} is not known")
            continue
        ratio = "" if effect.ratio is None else f" (ratio {effect.ratio})"
        values = f"{figure_text(effect.stays.estimate, 'ms', bare=True)} → {figure_text(effect.shifts.estimate, 'ms')}"
        said.append(f"{name} {values}{ratio}")
    stays, shifts = found.goodput_hz("after")
    ratio = "" if (after := found.effects["after"]["slo_attainment"].ratio) is None else f" (ratio {after})"
    rest = "" if stays is None or shifts is None else f"; after it goodput {stays:.2f} → {shifts:.2f} req/s{ratio}"
    return f"During the step {' and '.join(said)}{rest}."


def _switches(found: LoadStep) -> str:
    took = [shift.switched_s for shift in found.shifts]
    if not took:
        return "No shift was made."
    drained = [shift.drained_s for shift in found.shifts if shift.drained_s is not None]
    started = sum(shift.started for shift in found.shifts)
    cost = f"{started} workers were started for them and others drained" if started else "no worker was restarted"
    empty = (
        f", and {'what left' if started else 'the old router'} was empty after {max(drained):.1f} s at most" if drained else ""
    )
    sent = 2 * sum(found.requests.values())
    failed = f"{sum(found.failed)} of {sent} requests failed"
    where = f" ({found.failed[0]} without the shift, {found.failed[1]} with it)" if sum(found.failed) else ""
    return (
        f"{len(took)} switches: new requests went to the new split after {min(took):.1f} to {max(took):.1f} s{empty}; "
        f"{cost}; {failed}{where}."
    )


def _advice(found: LoadStep) -> str:
    guess = f" (a guess with fewer than {LEAST_REPEATS} repeats)" if found.repeats < LEAST_REPEATS else ""
    return f"What to do{guess}: {_order(found)}"


def _order(found: LoadStep) -> str:
    gain = found.gain
    if gain is None or not gain.shows_difference:
        return (
            f"leave {found.calm} as it is: a shift at this step is not shown to pay. A larger step, or more repeats, "
            "would tell more."
        )
    if gain.estimate < 1:
        return f"leave {found.calm} as it is: decode missed the worker more than prefill could use it."
    if not found.shifts:
        return f"shift to {found.surge} as soon as such a step begins, and back when it ends."
    slowest = max(shift.switched_s for shift in found.shifts)
    return (
        f"shift to {found.surge} as soon as such a step begins, and back when it ends. The step has to last well "
        f"beyond the {slowest:.1f} s that a switch takes; what waits on the old prefill worker is not helped by it."
    )


def _conditions(found: LoadStep) -> str:
    shared = " Workers share devices here: a shift moves work between workers, and no hardware." if found.shared else ""
    return (
        f"Conditions: {found.workload}; SLO {found.slo}; {found.repeats} repeat{'s' * (found.repeats != 1)} of each in turn, "
        f"the same requests; shifts ordered at the instants of the step, which a controller would have to notice first.{shared}"
    )
