"""Run folders made of synthetic records, as a measurement leaves them: finished, or cut off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from labkit.measure.records import TABLES
from labkit.spec import Workload
from labkit.store import Run, SegmentWriter, create_run
from labkit.store.manifest import FILE
from tests.support import synthetic

WORKLOAD = Workload(isl=512, osl=32, rate=1.5, duration_s=12.0, warmup_s=2.0, seed=7)
SLO = {"ttft_s": None, "tpot_s": 0.05, "e2e_s": None}


def said_elsewhere(run: Run, **changes: Any) -> dict[str, Any]:
    """A run's manifest with other values, written as by somebody who means harm: no checksum stands in the way of anything."""
    said = {**json.loads((run.path / FILE).read_text()), **changes}
    said = {key: value for key, value in said.items() if key not in ("crc32", "sums")}
    (run.path / FILE).write_text(json.dumps(said))
    return said


def saved_run(
    results: Path,
    name: str,
    sides: tuple[str, ...] = ("2A", "1P1D", "2A", "1P1D"),
    *,
    finish: bool = True,
    windows: int | None = None,
    manifest: dict[str, Any] | None = None,
    duration_s: float = 12.0,
    **options: Any,
) -> Run:
    """A run of ``sides``; ``windows`` of its measurements have ended (all by default), and ``finish`` turned it into Parquet."""
    records, said = synthetic.run(sides, duration_s=duration_s, warmup_s=2.0, **options)
    said |= {"kind": "compare", "topologies": list(dict.fromkeys(sides)), "slo": SLO, "seed": 7, **(manifest or {})}
    run = create_run(results, name, said)
    for table in TABLES:
        rows = getattr(records, table)
        with SegmentWriter(run.segment(table, "shard0"), TABLES[table]) as writer:
            writer.append({column: rows[column].to_pylist() for column in rows.column_names})
    for window in records.windows[:windows]:
        asked = replace(WORKLOAD, duration_s=duration_s, seed=window.repeat, rate=options.get("rate", WORKLOAD.rate))
        run.add_window(replace(window, workload=asked.to_dict()))
    if finish:
        run.finish()
    return run
