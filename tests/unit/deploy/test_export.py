"""From a run to files on disk, or one clear refusal with nothing written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from labkit.deploy import export_deployment
from labkit.errors import LabError, SpecError, StoreError
from tests.support.saved_runs import saved_run


def test_files_lie_in_the_runs_folder_or_where_they_are_asked_for(tmp_path: Path):
    run = saved_run(tmp_path / "results", "mine", ("1P1D",), gpus=True)
    done = export_deployment(run, "dynamo-k8s", replicas=2, model="org/name")
    assert done.paths == (run.path / "deployment" / "dynamo-k8s" / "deployment.yaml",)
    assert [one["replicas"] for one in yaml.safe_load(done.paths[0].read_text())["spec"]["components"]] == [1, 2, 2]
    assert str(done).startswith("2P2D for dynamo-k8s: 2 copies of 1P1D")
    assert str(done.paths[0]) in str(done)
    done = export_deployment(
        "mine", "vllm-shell", output=tmp_path / "a new" / "place", results=tmp_path / "results", hosts="n1, n2"
    )
    assert {path.name for path in done.paths} == {"deployment.env", "router.sh", "prefill-0.sh", "decode-0.sh"}
    assert {path.name: os.access(path, os.X_OK) for path in done.paths}["router.sh"]
    assert "http://n1:8100" in (tmp_path / "a new" / "place" / "router.sh").read_text()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path):
    run = saved_run(tmp_path, "mine", ("1P1D",), gpus=True)
    export_deployment(run, "dynamo-k8s")
    with pytest.raises(StoreError, match="not an empty folder") as raised:
        export_deployment(run, "dynamo-k8s")
    assert "--output" in raised.value.remedy
    file = tmp_path / "file"
    file.write_text("mine")
    for output in (file, file / "below"):
        with pytest.raises(StoreError):
            export_deployment(run, "dynamo-k8s", output=output)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"to": "helm"}, "unknown target 'helm'"),
        ({"hosts": "a b"}, "among the hosts"),
        ({"hosts": ""}, "among the hosts"),
        ({"model": "two words"}, "model 'two words' is not one word"),
        ({"model": "x\n--trust-remote-code"}, "is not one word"),
        ({"image": "a b"}, "image 'a b' is not one word"),
        ({"etcd": "'; reboot"}, "is not one word"),
        ({"name": "Not A Name"}, "cannot name a Kubernetes object"),
        ({"hf_secret": "UPPER"}, "cannot name a Kubernetes object"),
        ({"gpus_per_host": 0}, "0 GPUs per host"),
        ({"gpus_per_host": 1}, "holds 2 GPUs"),
        ({"port": 70000}, "do not all exist"),
        ({"request_rate": 0.0}, "request rate 0"),
        ({"nodes": 3}, "unknown setting 'nodes'"),
        ({"model": "~/llama"}, "is not the same on every node"),
        ({"image": "mine/vllm:1"}, "dynamo-shell has no place for --image"),
        ({"to": "dynamo-k8s", "hosts": "n1", "port": 9000}, "dynamo-k8s has no place for --hosts and --port"),
        ({"to": "vllm-shell", "etcd": "http://n1:2379"}, "vllm-shell has no place for --etcd"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(tmp_path: Path, asked: dict[str, Any], message: str):
    run = saved_run(tmp_path, "mine", ("1P1D",), gpus=True)
    with pytest.raises(SpecError, match=message) as raised:
        export_deployment(run, **{"to": "dynamo-shell", **asked})
    assert raised.value.remedy
    assert not (run.path / "deployment").exists()


def test_a_rate_for_gpus_from_cores_is_refused_and_for_cores_it_is_not(tmp_path: Path):
    run = saved_run(tmp_path, "cores", ("1P1D",))
    with pytest.raises(LabError, match="measured on CPU cores"):
        export_deployment(run, "dynamo-k8s", request_rate=3.0)
    assert export_deployment(run, "vllm-shell", request_rate=3.0).topology.is_disaggregated
