from __future__ import annotations

from dataclasses import replace
from typing import Any

from labkit.experiments.differences import Differences, complete_workload, differences, facts_of
from labkit.measure.records import UNRECORDED
from labkit.spec import Workload
from tests.support.handmade import window

WORK = Workload(isl=512, osl=32, rate=1.5, duration_s=40)
MANIFEST: dict[str, Any] = {
    "model": {"name": "llama-3.1-8b", "source": "llama-3.1-8b", "dtype": None, "dummy_weights": True},
    "engine": "vllm",
    "engines": {"vllm": "0.31", "python": "3.12"},
    "options": {"max_num_batched_tokens": 256, "extra_args": ["--enable-chunked-prefill"], "extra_env": {"A": "1"}},
    "hardware": {"summary": "2 × NVIDIA H100", "gpus": [{"uuid": "GPU-1"}], "driver": "580.1"},
    "versions": {"labkit": "0.1.0", "python": "3.11.7", "platform": "Linux", "packages": {"numpy": "2.3"}},
    "served": {"dtype": "bfloat16", "path": "somewhere"},
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "started": "2026-11-23T17:45:12", "id": "x",
}  # fmt: skip


def test_facts_are_conditions_as_texts():
    found = facts_of(MANIFEST, [window(workload=WORK), window(workload=WORK.with_seed(1), repeat=1)])
    expected = {
        "topology": "2A",
        "accelerators": "2 cores",
        "workload.rate": "1.5",
        "workload.isl": "512",
        "workload.seed": "0 / 1",
        "workload.concurrency": "none",
        "model": "llama-3.1-8b",
        "model.dummy_weights": "yes",
        "served.dtype": "bfloat16",
        "engine": "vllm",
        "engines.vllm": "0.31",
        "options.max_num_batched_tokens": "256",
        "options.extra_args": "--enable-chunked-prefill",
        "options.extra_env": "A=1",
        "hardware.summary": "2 × NVIDIA H100",
        "hardware.driver": "580.1",
        "versions.labkit": "0.1.0",
        "git": "0123456789ab with changes",
    }
    assert {name: found.get(name) for name in expected} == expected
    both = {**MANIFEST, "epochs": [{"epoch": 0, "engine": "vllm"}, {"epoch": 1, "engine": "dynamo"}]}
    assert [facts_of(both, [window(workload=WORK, epoch=epoch)])["engine"] for epoch in (0, 1)] == ["vllm", "dynamo"]
    assert not {"served.path", "started", "id", "model.source", "versions.packages"} & found.keys()


def test_only_what_differs_is_a_difference():
    other = {**MANIFEST, "engines": {"vllm": "0.32", "python": "3.12"}, "options": {**MANIFEST["options"], "extra_args": []}}
    columns = [facts_of(MANIFEST, [window(workload=WORK)]), facts_of(other, [window(workload=replace(WORK, rate=2.0))])]
    found = differences(columns)
    assert found.differs == {
        "workload.rate": ("1.5", "2"),
        "options.extra_args": ("--enable-chunked-prefill", "none"),
        "engines.vllm": ("0.31", "0.32"),
    }
    assert found.same["workload.osl"] == "32"
    assert found.partly == {}


def test_what_a_column_does_not_say_is_neither_equal_nor_different():
    found = differences([{"a": "1", "b": "1"}, {"a": "1"}, {"a": "1", "b": "1", "c": "x"}])
    assert found == Differences(differs={}, same={"a": "1"}, partly={"b": "1", "c": "x"})
    assert differences([{"a": "1"}, {}, {"a": "2"}]).differs == {"a": ("1", None, "2")}


def test_an_older_workload_says_what_its_fields_default_to():
    older = {name: value for name, value in WORK.to_dict().items() if name not in ("trace", "time_scale", "arrivals")}
    assert complete_workload(older) == WORK.to_dict()
    newer = {**WORK.to_dict(), "a_field_of_the_future": 1}
    assert complete_workload(newer) == newer


def test_an_imported_workload_keeps_what_it_does_not_know():
    known = {"rate": 2.0, "concurrency": None, "requests": 16}
    work = {name: known.get(name, UNRECORDED) for name in WORK.to_dict()}
    assert complete_workload(work) == work
    found = facts_of({"kind": "import", "source": {"tool": "aiperf", "version": "0.13.0"}}, [window(workload=work)])
    assert {name: text for name, text in found.items() if name.startswith(("workload", "source"))} == {
        "workload.rate": "2", "workload.concurrency": "none", "workload.requests": "16",
        "source.tool": "aiperf", "source.version": "0.13.0",
    }  # fmt: skip


def test_options_that_a_run_changed_are_told_as_both():
    epochs = [{"epoch": 0, "options": {"max_num_seqs": 4, "prefix_caching": False}}, {"epoch": 1, "options": {"max_num_seqs": 8}}]
    manifest = {"options": {"max_num_seqs": 99}, "epochs": epochs}
    facts = facts_of(manifest, [window(epoch=0), window(epoch=1)])
    assert (facts["options.max_num_seqs"], facts["options.prefix_caching"]) == ("4 / 8", "no")
    assert facts_of(manifest, [window(epoch=1)])["options.max_num_seqs"] == "8"
