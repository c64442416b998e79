"""Files that are small and ask for everything: one clear error within bounded memory, nothing executed, nothing written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.bounded import bounded

FIXTURES = Path(__file__).parent / "fixtures"
VLLM = FIXTURES / "vllm_0.31_bench_serve.json"
GIB = 1 << 30


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def repeated(path: Path, head: str, part: str, count: int, tail: str) -> Path:
    with path.open("w") as file:
        file.write(head)
        for _ in range(count // 10_000):
            file.write(part * 10_000)
        file.write(tail)
    return path


def digits(path: Path) -> None:
    path.write_text(VLLM.read_text().replace('"ttfts": [', f'"ttfts": [{"9" * 1_000_000}, '))


IMPORT = """
from pathlib import Path
from labkit.store.imports import import_files
import_files([Path("bomb.json")], Path("results"))
"""
HEAD = '{"model_id": "m", "request_throughput": 1, "ttfts": '
CASES = {
    "larger than any": (lambda path: sparse(path, 3 * GIB), "has 3.2 GB, of 1.1 at most"),
    "empty lists": (lambda path: repeated(path, HEAD + "[[]", ",[]", 40_000_000, "]}"), "holds .* values, of 30,000,000 at most"),
    "empty lines": (lambda path: repeated(path, "{}", "\n", 40_000_000, "{}"), "holds .* values, of 30,000,000 at most"),
    "nested": (lambda path: repeated(path, HEAD, "[", 9_000_000, ""), "cannot be imported"),
    "nested where NaN is read": (lambda path: repeated(path, '{"x": NaN, "y": ', "[", 9_000_000, ""), "cannot be imported"),
    "a long text": (lambda path: repeated(path, '{"model_id": "', "x" * 40, 9_000_000, '"}'), "no result file that labkit knows"),
    "a number of a million digits": (digits, "cannot be imported"),
    "many keys": (
        lambda path: repeated(path, "{" + ",".join(f'"k{number}":1' for number in range(10**6)), "  ", 10_000, "}"),
        "no result file that labkit knows",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_would_fill_the_memory_is_one_clear_error(tmp_path: Path, name: str):
    make, message = CASES[name]
    make(tmp_path / "bomb.json")
    ended = bounded(IMPORT, tmp_path)
    assert ended.kind == "LabError", ended
    assert len(ended.error) < 1000
    assert re.search(message, ended.error), ended.error
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.json"]


def test_what_does_not_fit_is_said_where_memory_is_short(tmp_path: Path):
    repeated(tmp_path / "bomb.json", HEAD + "[1", ",[]", 20_000_000, "]}")
    ended = bounded(IMPORT, tmp_path, gib=0.6)
    assert ended.kind == "LabError"
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.json"]


PICKLE = b"\x80\x04\x95" + b"cposix\nsystem\n(S'touch PWNED'\ntR."


@pytest.mark.parametrize(
    "content", [PICKLE, b"!!python/object/apply:os.system ['touch PWNED']", b"PK\x03\x04", b"\x1f\x8b\x08\x00"]
)
def test_pickle_yaml_zip_and_gzip_are_no_result_files(tmp_path: Path, content: bytes):
    (tmp_path / "bomb.json").write_bytes(content + b"\0" * 100)
    ended = bounded(IMPORT, tmp_path)
    assert (ended.kind, "cannot be imported" in ended.error) == ("LabError", True)
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.json"]
