"""From a run to its answer: the comparison of its two sides and the verdict in words, kept in the run."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, fields
from typing import Final

from labkit.errors import ComparisonError
from labkit.experiments.compare import Comparison, compare
from labkit.experiments.table import table
from labkit.experiments.verdict import Verdict, verdict
from labkit.spec import Slo
from labkit.store.run import Run

#: A notebook breaks longer lines in the middle of a word.
_WIDTH: Final = 96


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a run says about its two sides; as text, a table and the verdict in lines that fit a notebook."""

    comparison: Comparison
    verdict: Verdict

    @property
    def sides(self) -> tuple[str, str]:
        """Their labels."""
        return self.comparison.side_a, self.comparison.side_b

    def __str__(self) -> str:
        words = (textwrap.fill(line, _WIDTH, break_on_hyphens=False) for line in str(self.verdict).splitlines())
        return "\n".join([table(self.comparison), "", *words])

    __repr__ = __str__


def conclude(run: Run, *, resamples: int = 2000) -> Conclusion:
    """Compare the first side that a run measured with the second, and keep the answer in its summary.

    Args:
        run: a finished run with two sides.
        resamples: of the bootstrap.

    Raises:
        ComparisonError: the run has no two sides, or they must not be compared.
    """
    comparison = compare_sides(run, resamples=resamples)
    words = verdict(comparison)
    run.write_summary({**(run.summary() or {}), "comparison": comparison.to_dict(), "verdict": str(words)})
    return Conclusion(comparison, words)


def compare_sides(run: Run, *, resamples: int = 2000, allow_unequal: bool = False) -> Comparison:
    """The first side that a run measured against the second, under the SLO of the run."""
    sides = list(dict.fromkeys(window.side for window in run.windows))
    if len(sides) < 2:
        measured = sides[0] if sides else "nothing"
        raise ComparisonError(
            f"run {run.id} measured {measured} alone", remedy="a comparison needs two sides of one run, or two runs"
        )
    return compare(
        run.digest(),
        sides[0],
        sides[1],
        slo=slo_of(run),
        manifest=run.manifest,
        resamples=resamples,
        allow_unequal=allow_unequal,
    )


def slo_of(run: Run) -> Slo | None:
    """The SLO that a run was made under; ``None`` where its manifest has none."""
    kept = run.manifest.get("slo") or {}
    return Slo(**{field.name: kept.get(field.name) for field in fields(Slo)}) if kept else None


def said_by(run: Run) -> str:
    """What a run's own experiment concluded; empty where it did not, or where it was only measured."""
    manifest = run.manifest
    said = [manifest.get(name) for name in ("answer", "verdict", "load_step_verdict")] + [(run.summary() or {}).get("verdict")]
    return "\n\n".join(dict.fromkeys(str(text) for text in said if text))
