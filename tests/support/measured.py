"""A load shard, measurement after measurement, with the rows that each left on disk."""

from __future__ import annotations

from pathlib import Path

from labkit.lab.load_agent import LoadAgent
from labkit.load.target import VLLM
from labkit.spec import Workload
from labkit.store.segments import read_segment


class Bench:
    """One shard in a process of its own. ``fields`` of ``measure`` are those of the workload."""

    def __init__(self, folder: Path, shard: int = 0) -> None:
        self.folder, self.shard, self.next_request, self.measurement = folder, shard, 0, -1
        self.agent = LoadAgent.start(folder, shard=shard)

    def measure(self, url: str, model: str, *, dialect=VLLM, tokenizer=None, shards: int = 1, **fields):
        self.measurement += 1
        workload = Workload(**{"isl": 21, "osl": 12, "concurrency": 3, "requests": 6, "timeout_s": 30.0, **fields})
        self.agent.target(self.measurement, url, model, vocab=4096, dialect=dialect, tokenizer=tokenizer)
        result = self.agent.run(self.measurement, workload, first_request=self.next_request, shards=shards).wait(60)
        self.next_request = result.next_request
        return result, self.rows(self.measurement)

    def rows(self, measurement: int):
        """``[(request row, its chunk rows in order)]``; a flush has happened when a run has ended, at most 1 s later."""
        requests = [row for row in self._table("requests") if row["measurement"] == measurement]
        chunks: dict[int, list[dict]] = {row["request"]: [] for row in requests}
        for chunk in self._table("chunks"):
            if chunk["request"] in chunks:
                chunks[chunk["request"]].append(chunk)
        return sorted(((row, chunks[row["request"]]) for row in requests), key=lambda pair: pair[0]["index"])

    def _table(self, name: str):
        return read_segment(self.folder / "segments" / f"{name}-shard{self.shard}.arrows").to_pylist()
