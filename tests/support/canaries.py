"""Secrets planted where people have them, and where they must not be seen afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from tests.support.waiting import marked

#: Whatever holds one of these holds a secret.
CANARY = "c4n4ry"
VARIABLES = {
    name: f'{CANARY}-{number}-"quoted"-w0rd'
    for number, name in enumerate(
        ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "SOME_COMPANYS_TOKEN", "DB_PASSWORD")
    )
} | {"OPENAI_API_KEY": f"{CANARY}-0-printable-as-headers-are"}
EXTRA_ENV = {
    "ANOTHER_TOKEN": f"{CANARY}-extra",
    "STORE_URL": f"s3://me:{CANARY}-login@host/?sig={CANARY}-query",
    "HARMLESS": "yes",
}


def found_in(folder: Path) -> list[str]:
    """Files that hold a canary: in their bytes, or in the values of a table that is compressed there."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        held = [path.read_bytes(), path.name.encode()]
        if path.suffix == ".parquet":
            held.append(repr((pq.read_table(path).to_pylist(), pq.read_schema(path).metadata)).encode())
        if path.suffix == ".arrows":
            with path.open("rb") as file, pa.ipc.open_stream(file) as stream:
                held.append(repr(stream.read_all().to_pylist()).encode())
        if any(CANARY.encode() in data for data in held):
            found.append(str(path.relative_to(folder)))
    return found


@contextmanager
def command_lines(mark: str) -> Iterator[dict[int, bytes]]:
    """Command lines of all processes with a mark in their environment, looked at all the while."""
    seen: dict[int, bytes] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            for pid in marked(mark):
                try:
                    seen[pid] = seen.get(pid, b"") + Path(f"/proc/{pid}/cmdline").read_bytes()
                except OSError:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
