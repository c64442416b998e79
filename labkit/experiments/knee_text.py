"""A knee in words: a sentence, and a table of its batches."""

from __future__ import annotations

import numpy as np

from labkit.measure.knee import Knee


def knee_lines(isl: int, knee: Knee) -> list[str]:
    """A knee as a table of its batches and a sentence."""
    rows = [("batch", "tokens", "step ms", "tok/s", "of plateau", "TTFT ms", "steps")]
    plateau = knee.plateau_tok_s
    for p in knee.points:
        of = "–" if plateau is None else f"{p.tok_s.estimate / plateau.estimate:.0%}"
        here = " ◂" if knee.prompts == p.prompts else ""
        step, ttft = ms(p.step_s.estimate), ms(p.ttft_s.estimate)
        rows.append((f"{p.prompts}", f"{p.tokens:,}", step, f"{p.tok_s.estimate:,.0f}", of, ttft, f"{p.steps}{here}"))
    widths = [max(len(row[i].removesuffix(" ◂")) for row in rows) for i in range(len(rows[0]))]
    table = ["  ".join(cell.rjust(w + 2 * cell.endswith("◂")) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return [f"ISL {isl}: {sentence(knee)}", *(f"  {line}" for line in table)]


def sentence(knee: Knee) -> str:
    """What a knee says, in words."""
    first, last, share = knee.points[0], knee.points[-1], f"{knee.within:.0%}"
    falls = f"; beyond {knee.falls_from:,} tokens throughput falls off again" if knee.falls_from else ""
    if knee.tokens is None or knee.ttft_s is None or knee.plateau_tok_s is None:
        gains = "" if knee.still_gains is None else f": the last doubling still gained {knee.still_gains:.0%}"
        if knee.falls_from:
            return f"no plateau: throughput falls off after {knee.falls_from:,} tokens a step before one shows; repeat more often"
        return (
            f"not saturated by {last.prompts} prompt{'s' * (last.prompts > 1)} ({last.tokens:,} tokens) a step{gains}; "
            f"sweep larger batches"
        )
    plateau = f"a plateau of {knee.plateau_tok_s.estimate:,.0f} tok/s"
    if knee.kind == "first":
        return (
            f"saturated from the first batch on: one step of {first.tokens:,} tokens is within {share} of {plateau}, "
            f"TTFT {ms(knee.ttft_s.estimate)} ms [{ms(knee.ttft_s.low)}, {ms(knee.ttft_s.high)}]{falls}"
        )
    low = f"≤ {first.tokens:,}" if knee.tokens.low <= first.tokens else f"{knee.tokens.low:,.0f}"
    high = f"> {last.tokens:,}" if np.isinf(knee.tokens.high) else f"{knee.tokens.high:,.0f}"
    long = "not in the range" if np.isinf(knee.ttft_s.high) else ms(knee.ttft_s.high)
    return (
        f"saturated at {knee.tokens.estimate:,.0f} tokens a step [{low}, {high}], that is {knee.prompts} "
        f"prompt{'s' * ((knee.prompts or 0) > 1)}: within {share} of {plateau}, "
        f"TTFT {ms(knee.ttft_s.estimate)} ms [{ms(knee.ttft_s.low)}, {long}]{falls}"
    )


def ms(seconds: float) -> str:
    """Milliseconds as people say them."""
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.0995 else f"{seconds * 1e3:.1f}"
