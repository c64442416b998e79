"""A part of a run as a run of its own: what a pin of a live exploration keeps.

The part reads like any other run, so it is shown, compared and exported with the same commands. It is cut from the records on
disk, also while the run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labkit.measure.records import TABLES, Records, Window
from labkit.store.run import Run, create_run
from labkit.store.segments import SegmentWriter
from labkit.store.tables import read_since

#: Samples from so long before the window are kept: a counter's growth needs a value from before it.
_BEFORE_NS: Final = 5_000_000_000
_AFTER_NS: Final = 2_000_000_000
_OWN: Final = frozenset(
    {"id", "status", "reason", "started", "ended", "clock", "process", "command", "git", "windows", "rows", "schema_version"}
)


def cut_out(run: Run, window: Window, *, kind: str, name: str | None = None, results: Path | None = None, **facts: Any) -> Run:
    """Keep the requests of a window, and what happened meanwhile, as a finished run beside the one they are from.

    Requests scheduled in ``[window.measure_ns, window.stop_ns)`` keep their phase. Those under way then from before become
    warm-up: their tokens count as output of the window, their latencies do not. Later ones are left out.

    Args:
        run: where they are from; ``from`` in the new manifest names it.
        window: what to keep; its ``measurement`` is that of the run. In the new run it is measurement 0.
        kind: of the new run.
        name: its id; one made from date and kind by default.
        results: where it is made; beside ``run`` by default.
        facts: more fields of its manifest.

    Raises:
        StoreError: the run cannot be read, or the new one not be written.
    """
    parts = part_of(run, window)
    manifest = {key: value for key, value in run.manifest.items() if key not in _OWN}
    kept = create_run(
        results or run.path.parent,
        name,
        {**manifest, "kind": kind, "from": run.id, "topologies": [window.topology], "workload": window.workload, **facts},
    )
    for table in TABLES:
        _write(kept, table, getattr(parts, table))
    kept.add_window(parts.windows[0])
    kept.finish()
    return kept


def part_of(run: Run, window: Window, *, chunks: bool = True) -> Records:
    """The records that ``cut_out`` keeps, with the window as their only one.

    An afternoon may be a thousand times as long as the window: of what came before it only a part at a time is in memory.

    Args:
        run, window: as for ``cut_out``.
        chunks: ``False`` leaves the table of chunks empty.

    Raises:
        StoreError: the run cannot be read.
    """
    start = window.measure_ns
    requests = read_since(run.path, "requests", "end_ns", start)
    first = pc.min(requests.column("scheduled_ns")).as_py() if requests.num_rows else start
    since = {
        "chunks": ("t_ns", min(first, start)),
        "samples": ("t_ns", start - _BEFORE_NS),
        "spans": ("start_ns", start - _BEFORE_NS),
    }
    later = {
        name: read_since(run.path, name, *since.get(name, ("t_ns", start)))
        if chunks or name != "chunks"
        else schema.empty_table()
        for name, schema in TABLES.items()
        if name != "requests"
    }
    return _part(Records(requests=requests, **later), window)


def _part(records: Records, window: Window) -> Records:
    requests = records.requests.filter(pc.equal(records.requests.column("measurement"), window.measurement))
    start, stop = window.measure_ns, window.stop_ns
    scheduled, end = (requests.column(name).to_numpy(zero_copy_only=False) for name in ("scheduled_ns", "end_ns"))
    inside, before = (scheduled >= start) & (scheduled < stop), (scheduled < start) & (end >= start)
    requests = requests.append_column("inside", pa.array(inside)).filter(pa.array(inside | before))
    inside = requests.column("inside").to_numpy()
    phase = np.where(inside, requests.column("phase").to_pylist(), "warmup").tolist()
    index = requests.column("index").to_numpy()
    own = {
        "measurement": np.zeros(len(index), np.int16),
        "phase": phase,
        "index": np.where(inside | (index < 0), index, -1 - index),
    }
    ended = requests.column("end_ns").to_numpy(zero_copy_only=False)
    last_ns = int(ended.max()) if len(ended) else stop
    ids = requests.column("request").combine_chunks()
    requests = _with(requests.drop_columns(["inside"]), own)
    chunks = records.chunks.filter(pc.is_in(records.chunks.column("request"), value_set=ids))
    kept = replace(window, measurement=0, repeat=0, start_ns=start, end_ns=max(last_ns, stop))
    return Records(
        requests,
        chunks,
        _between(records.samples, "t_ns", start - _BEFORE_NS, kept.end_ns + _AFTER_NS),
        _between(records.spans, "start_ns", start - _BEFORE_NS, kept.end_ns),
        _between(records.events, "t_ns", start, kept.end_ns + 1),
        (kept,),
    )


def _with(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    return table


def _between(table: pa.Table, column: str, start_ns: int, stop_ns: int) -> pa.Table:
    t_ns = table.column(column)
    return table.filter(pc.and_(pc.greater_equal(t_ns, start_ns), pc.less(t_ns, stop_ns)))


def _write(run: Run, table: str, rows: pa.Table) -> None:
    if not rows.num_rows:
        return
    with SegmentWriter(run.segment(table, "cut"), TABLES[table]) as writer:
        writer.append({name: rows.column(name) for name in rows.schema.names})
