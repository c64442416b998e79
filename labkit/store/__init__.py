"""``results/<run id>/``: manifest, segments while a run grows, Parquet afterwards."""

from labkit.store.run import Run, RunInfo, create_run, list_runs, new_run, open_run, results_folder
from labkit.store.segments import SegmentWriter, read_segment

__all__ = ["Run", "RunInfo", "SegmentWriter", "create_run", "list_runs", "new_run", "open_run", "read_segment", "results_folder"]
