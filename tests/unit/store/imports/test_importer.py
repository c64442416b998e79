"""Hostile files and full disks: one clear error, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import SpecError, StoreError
from labkit.store import list_runs, open_run
from labkit.store.imports import import_files, importer

FIXTURES = Path(__file__).parent / "fixtures"
VLLM, AIPERF = FIXTURES / "vllm_0.31_bench_serve.json", FIXTURES / "aiperf_0.13" / "profile_export.jsonl"
TOLD: dict[str, Any] = json.loads(VLLM.read_text())


def file(tmp_path: Path, content: str | bytes | dict[str, Any]) -> Path:
    path = tmp_path / "hostile.json"
    data = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def deep(levels: int) -> str:
    return f'{{"model_id": "m", "request_throughput": 1, "generated_texts": {"[" * levels}{"]" * levels}}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be imported"),
        (b"\x00\xff\x00", "cannot be imported"),
        (VLLM.read_bytes()[:3000], "truncated"),
        (AIPERF.read_bytes()[:-200], "line 18 cannot be imported.*truncated"),
        ("[1, 2]", "cannot be imported"),
        ("{}", r"no result file that labkit knows \(its keys: none\)"),
        ('{"benchmarks": []}', "GuideLLM, which keeps no instants"),
        (deep(200_000), "nests too deep"),
        ('{"model_id": NaN, "x": ' + "[" * 200_000, "cannot be imported"),
        ({**TOLD, "ttfts": "none"}, "field 'ttfts'.*Expected `array"),
        ({**TOLD, "ttfts": [*TOLD["ttfts"][1:], "x"]}, r"Expected `float`, got `str`"),
        ({**TOLD, "ttfts": TOLD["ttfts"][1:]}, "differ in length: .*ttfts 15"),
        ({**TOLD, "ttfts": [float("nan"), *TOLD["ttfts"][1:]]}, r"ttfts\[0\] is nan"),
        ({**TOLD, "start_times": [float("inf"), *TOLD["start_times"][1:]]}, r"start_times\[0\] is inf"),
        ({**TOLD, "start_times": [1e300, *TOLD["start_times"][1:]]}, r"start_times\[0\] is 1e\+300"),
        ({**TOLD, "itls": [[-1.0], *TOLD["itls"][1:]]}, "is -1.0"),
        ({**TOLD, "itls": [*TOLD["itls"][:4], [0.1], *TOLD["itls"][5:]]}, "gaps between chunks and no first one"),
        ({**TOLD, "output_lens": [10**40, *TOLD["output_lens"][1:]]}, r"output_lens\[0\] is 1000"),
        ({**TOLD, "input_lens": [-1, *TOLD["input_lens"][1:]]}, r"input_lens\[0\] is -1"),
        ({**TOLD, "request_rate": -3}, "request_rate is -3"),
        ({**TOLD, "max_concurrency": 0}, "max_concurrency is 0"),
        ({**TOLD, "burstiness": "much"}, "burstiness 'much'"),
        ({name: [] if isinstance(value, list) else value for name, value in TOLD.items()}, "holds no request"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_is_one_error_and_leaves_nothing(tmp_path: Path, content: Any, message: str):
    with pytest.raises(StoreError, match=message) as caught:
        import_files([file(tmp_path, content)], tmp_path / "results")
    assert caught.value.remedy
    assert len(str(caught.value)) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.json"]


@pytest.mark.parametrize("path", ["none.json", ".", "/dev/null"])
def test_what_is_no_file_is_refused(tmp_path: Path, path: str):
    with pytest.raises(StoreError, match=r"does not exist|is no file"):
        import_files([tmp_path / path], tmp_path / "results")


def test_one_bad_file_among_good_ones_imports_none(tmp_path: Path):
    with pytest.raises(StoreError):
        import_files([VLLM, AIPERF, file(tmp_path, "{")], tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_names_and_texts_of_a_file_stay_text(tmp_path: Path):
    told = {
        **TOLD,
        "label": "../../etc/\x1b[2J\u202e\ud800x",
        "model_id": "a/b\x00c",
        "tokenizer_id": "--api-key sk-0123456789abcdef",
    }
    (run,) = import_files([file(tmp_path, told)], tmp_path / "results")
    assert run.path.parent == tmp_path / "results"
    assert run.windows[0].side == "../../etc/ [2J x"
    assert run.manifest["model"] == {"name": "a/b c"}
    assert "sk-0123456789abcdef" not in (run.path / "manifest.json").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"hostile.json", "results"}


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
def test_a_run_stays_in_its_results_folder(tmp_path: Path, name: str):
    if name:
        with pytest.raises(StoreError, match="run name"):
            import_files([VLLM], tmp_path / "results", name=name)
        assert not (tmp_path / "results").exists()
    else:
        assert import_files([VLLM], tmp_path / "results", name=name)[0].path.parent == tmp_path / "results"


def test_several_files_become_several_runs(tmp_path: Path):
    made = import_files([VLLM, AIPERF], tmp_path / "results", name="peers", side="1P1D", accelerators=2, accelerator="core")
    assert [run.id for run in made] == ["peers", "peers-2"]
    assert {info.status for info in list_runs(tmp_path / "results")} == {"finished"}
    for run in made:
        window = open_run(run.path).windows[0]
        assert (window.side, window.topology, window.accelerators, window.accelerator) == ("1P1D", "attached", 2.0, "core")
        assert run.manifest["hardware"]["summary"] == "2 cores (declared)"


@pytest.mark.parametrize("accelerators", [0, -1, float("nan"), float("inf")])
def test_accelerators_are_a_number_above_zero(tmp_path: Path, accelerators: float):
    with pytest.raises(SpecError, match="accelerators cannot have served"):
        import_files([VLLM], tmp_path / "results", accelerators=accelerators)


def test_a_disk_that_fills_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, calls = importer._write, []

    def full(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise StoreError("cannot write", remedy="free space")
        real(*given)

    monkeypatch.setattr(importer, "_write", full)
    with pytest.raises(StoreError, match="cannot write"):
        import_files([VLLM, AIPERF], tmp_path / "results")
    assert list((tmp_path / "results").iterdir()) == []
