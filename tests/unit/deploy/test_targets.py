"""The files of each target: golden copies, the published schema, what bash makes of them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from labkit.deploy.dynamo_shell import dynamo_shell
from labkit.deploy.export import TARGETS
from labkit.deploy.kubernetes import dynamo_k8s
from labkit.deploy.scaling import Scaled, scaled
from labkit.deploy.settings import Settings, Written
from labkit.deploy.vllm_shell import vllm_shell
from labkit.serve.engines.base import EngineOptions
from tests.support.found_splits import ON_CORES, ON_GPUS, on_gpus

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
SCHEMA = json.loads((HERE / "dynamographdeployment_v1beta1.json").read_text())
HOSTILE = 'a "$(touch /tmp/owned)" \n; `id` \'#'


def write(target: str, settings: Settings | None = None, found=ON_GPUS, size: Scaled | None = None) -> Written:
    return TARGETS[target](found, size or scaled(found), settings or Settings())


def graph(written: Written) -> dict[str, Any]:
    (text,) = written.files.values()
    made = yaml.safe_load(text)
    jsonschema.validate(made, SCHEMA)
    return made


def components(written: Written) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in graph(written)["spec"]["components"]}


def main(component: dict[str, Any]) -> dict[str, Any]:
    (container,) = component["podTemplate"]["spec"]["containers"]
    assert container["name"] == "main"
    return container


def exec_of(text: str, env: dict[str, str] | None = None) -> list[str]:
    """What a script would become, told by bash itself: its exec only prints the words."""
    told = text.replace("\nexec ", "\nprintf '%s\\0' ").replace('source "$here', ': "$here')
    run = subprocess.run(
        ["bash", "-c", told], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"], **(env or {})}
    )
    return run.stdout.split("\0")[:-1]


@pytest.mark.parametrize("target", TARGETS)
def test_files_are_what_they_were_read_to_be(target: str):
    """After a wished change: delete the folder of the target, run this once, and read the difference."""
    settings = Settings(hosts=("10.0.0.1", "10.0.0.2"), gpus_per_host=4)
    written = write(target, settings, size=scaled(ON_GPUS, request_rate=12.0))
    files = {name: text for name, text in written.files.items() if name not in ("prefill-1.sh", "decode-0.sh")}  # like the others
    folder = GOLDEN / target
    if not folder.exists():
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        pytest.fail(f"{folder} was written anew: read it, and run again")
    assert {path.name: path.read_text() for path in folder.iterdir()} == files


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        ("2A", {"frontend": ("frontend", 1), "worker": ("worker", 2)}),
        ("1P3D", {"frontend": ("frontend", 1), "prefill": ("prefill", 1), "decode": ("decode", 3)}),
        ("2A@tp4+1A@tp2", {"frontend": ("frontend", 1), "worker-tp4": ("worker", 2), "worker-tp2": ("worker", 1)}),
        (
            "1P@tp4+2D@tp2+1D",
            {"frontend": ("frontend", 1), "prefill": ("prefill", 1), "decode-tp2": ("decode", 2), "decode-tp1": ("decode", 1)},
        ),
    ],
)
def test_a_graph_has_a_component_for_each_kind_of_worker_in_the_published_fields(topology: str, expected: dict[str, Any]):
    found = on_gpus(topology)
    made = components(write("dynamo-k8s", found=found))
    assert {name: (one["type"], one["replicas"]) for name, one in made.items()} == expected
    for name, one in made.items():
        if name == "frontend":
            assert "command" not in main(one)
            continue
        assert main(one)["command"] == ["python3", "-m", "dynamo.vllm"]
        tp = next(
            (
                words[1]
                for words in zip(main(one)["args"], main(one)["args"][1:], strict=False)
                if words[0] == "--tensor-parallel-size"
            ),
            "1",
        )
        assert main(one)["resources"]["limits"] == {"nvidia.com/gpu": tp}
        assert ("--disaggregation-mode" in main(one)["args"]) == found.topology.is_disaggregated


def test_the_schema_refuses_what_the_resource_does_not_have():
    made = graph(write("dynamo-k8s"))
    made["spec"]["components"][1]["subComponentType"] = "prefill"
    with pytest.raises(jsonschema.ValidationError, match="subComponentType"):
        jsonschema.validate(made, SCHEMA)


def test_the_image_is_of_the_release_measured_with_and_one_without_a_version_says_which_it_is():
    def images(settings: Settings) -> set[tuple[str, str | None]]:
        made = components(write("dynamo-k8s", settings))
        return {(main(one)["image"], one.get("runtimeVersionOverride")) for one in made.values()}

    assert images(Settings()) == {("nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.6.1", None)}
    assert images(Settings(image="mine/vllm:1.6.2-rc1")) == {("mine/vllm:1.6.2-rc1", None)}
    for image in ("mine/vllm:nightly", "mine/vllm", "host:5000/vllm", "mine/vllm@sha256:00ff"):
        assert images(Settings(image=image)) == {(image, "1.6.1")}
        assert any("runtimeVersionOverride" in text for text in write("dynamo-k8s", Settings(image=image)).warnings)


def test_dynamos_frontend_routes_as_it_did_while_measuring():
    found = on_gpus(engine="dynamo", options=EngineOptions(router_mode="kv"))
    env = main(components(write("dynamo-k8s", found=found))["frontend"])["env"]
    assert {"name": "DYN_ROUTER_MODE", "value": "kv"} in env
    assert "export DYN_ROUTER_MODE=kv\n" in write("dynamo-shell", found=found).files["frontend.sh"]


def test_dynamos_frontend_sends_a_request_again_as_often_as_while_measuring_or_says_that_it_does_not():
    found = on_gpus(engine="dynamo")
    assert {"name": "DYN_MIGRATION_LIMIT", "value": "1000"} in main(components(write("dynamo-k8s", found=found))["frontend"])[
        "env"
    ]
    assert "export DYN_MIGRATION_LIMIT=1000\n" in write("dynamo-shell", found=found).files["frontend.sh"]
    other = write("dynamo-k8s").files["deployment.yaml"]
    assert "a request whose worker dies fails" in " ".join(other.replace("#", "").split())


def test_what_a_worker_caches_is_told_on_a_socket_that_nobody_else_can_bind(tmp_path: Path):
    cached = on_gpus("1P1D", engine="dynamo", options=EngineOptions(router_mode="kv", prefix_caching=True))
    for name, text in write("dynamo-shell", found=cached).files.items():
        (tmp_path / name).write_text(text)
    python, scratch = tmp_path / "python", tmp_path / "scratch"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o700)
    scratch.mkdir()
    script = next(path for path in sorted(tmp_path.glob("decode*.sh")))
    env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "MODEL": "a/model", "TMPDIR": str(scratch)}
    folders = []
    for _ in range(2):
        said = subprocess.run(["bash", str(script)], env=env, capture_output=True, text=True, check=True).stdout.splitlines()
        endpoint = json.loads(said[said.index("--kv-events-config") + 1])["endpoint"]
        folders.append(Path(endpoint.removeprefix("ipc://")).parent)
    assert folders[0] != folders[1]
    assert all(folder.parent == scratch and folder.stat().st_mode & 0o777 == 0o700 for folder in folders)


def test_routing_by_cache_hears_of_the_caches_as_while_measuring():
    cached = on_gpus("1P1D", engine="dynamo", options=EngineOptions(router_mode="kv", prefix_caching=True))
    graph, shell = components(write("dynamo-k8s", found=cached)), write("dynamo-shell", found=cached).files
    assert {"name": "DYN_ROUTER_USE_KV_EVENTS", "value": "true"} in main(graph["frontend"])["env"]
    assert "export DYN_ROUTER_USE_KV_EVENTS=true\n" in shell["frontend.sh"]
    args = main(graph["decode"])["args"]
    events = json.loads(args[args.index("--kv-events-config") + 1])
    assert (events["enable_kv_cache_events"], events["endpoint"].split(":")[0]) == (True, "ipc")
    sockets = {text.partition("/kv-events-")[2].partition('"')[0] for name, text in shell.items() if name[0] in "pd"}
    assert len(sockets - {""}) == 2, "one for each worker of a host"
    guessed = on_gpus(engine="dynamo", options=EngineOptions(router_mode="kv"))
    assert "export DYN_ROUTER_USE_KV_EVENTS=false\n" in write("dynamo-shell", found=guessed).files["frontend.sh"]
    assert "--kv-events-config" not in main(components(write("dynamo-k8s", found=guessed))["decode"])["args"]
    assert "kv-events" not in str(write("dynamo-shell").files), "round-robin needs none"


def test_a_secret_is_named_and_never_written():
    found = on_gpus(options=EngineOptions(extra_env={"HF_TOKEN": "[redacted]", "OTHER_TOKEN": "[redacted]"}))
    written = write("dynamo-k8s", Settings(hf_secret="hf-token"), found)
    for one in components(written).values():
        assert main(one)["envFrom"] == [{"secretRef": {"name": "hf-token"}}], "the frontend reads the tokenizer"
        assert "HF_TOKEN" not in {variable["name"] for variable in main(one)["env"]}, "it would win against the secret's"
    assert {"name": "OTHER_TOKEN", "value": "SET-THIS-SECRET"} in main(components(written)["decode"])["env"]
    assert any("SET-THIS-SECRET" in text for text in written.warnings)
    without = main(components(write("dynamo-k8s", found=found))["decode"])
    assert {"name": "HF_TOKEN", "value": "SET-THIS-SECRET"} in without["env"]


def test_a_folder_of_every_node_is_mounted_wherever_the_model_is_read():
    for one in components(write("dynamo-k8s", Settings(model="/models/llama"))).values():
        assert main(one)["volumeMounts"] == [{"name": "model", "mountPath": "/models/llama", "readOnly": True}]
        (volume,) = one["podTemplate"]["spec"]["volumes"]
        assert volume == {"name": "model", "hostPath": {"path": "/models/llama", "type": "Directory"}}
    assert "volumes" not in components(write("dynamo-k8s"))["decode"]["podTemplate"]["spec"]


def test_measured_on_cores_it_is_deployed_on_gpus_with_a_warning_in_the_file_and_to_the_caller():
    written = write("dynamo-k8s", Settings(model="Qwen/Qwen3-8B"), ON_CORES)
    assert any("measured on CPU cores, deployed on GPUs" in text for text in written.warnings)
    assert "# WARNING: measured on CPU cores, deployed on GPUs" in written.files["deployment.yaml"]
    assert "# Measured on: CPU cores: 2 cores, 8 GiB" in written.files["deployment.yaml"]
    assert main(components(written)["prefill"])["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def test_a_model_that_was_a_folder_or_a_shape_is_to_be_filled_in():
    written = write("dynamo-k8s", found=ON_CORES)
    assert main(components(written)["decode"])["args"][:2] == ["--model", "SET-THE-MODEL"]
    assert any("give --model" in text for text in written.warnings)
    for target in ("dynamo-shell", "vllm-shell"):
        written = write(target, found=ON_CORES)
        run = subprocess.run(
            ["bash", "-euc", written.files["deployment.env"]], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
        )
        assert run.returncode != 0
        assert "MODEL: a hub id, or the folder" in run.stderr


@pytest.mark.parametrize("target", ["dynamo-shell", "vllm-shell"])
def test_scripts_are_bash_and_become_the_process(target: str, tmp_path: Path):
    written = write(target, Settings(model="/models/llama 3".replace(" ", "-")))
    for name, text in written.files.items():
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        if not name.endswith(".sh"):
            continue
        assert text.startswith("#!/usr/bin/env bash\n# ")
        assert "\nset -euo pipefail\n" in text
        (tmp_path / name).write_text(text)
        words = exec_of(text, {"PYTHON": "python3", "MODEL": "/models/llama-3"})
        assert words[:2] == ["python3", "-m"]
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", *map(str, tmp_path.iterdir())], check=True)


def test_a_script_says_what_the_builder_built_word_by_word():
    written = write("vllm-shell", Settings(hosts=("n1",)))
    words = exec_of(written.files["decode-0.sh"], {"PYTHON": "py", "MODEL": "m odel"})
    assert words[:3] == ["py", "-m", "vllm.entrypoints.openai.api_server"]
    assert words[words.index("--model") + 1] == "m odel"
    assert '{"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cuda"}' in words
    assert words[words.index("--host") + 1] == "n1"


def test_the_frontend_and_its_workers_meet_at_one_etcd():
    written = write("dynamo-shell", Settings(hosts=("n1", "n2"), gpus_per_host=2, etcd="http://etcd:2379"))
    assert set(written.files) == {"deployment.env", "frontend.sh", "prefill-0.sh", "decode-0.sh"}
    shown = subprocess.run(
        ["bash", "-euc", f"{written.files['deployment.env']}\nenv"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    ).stdout
    for line in ("ETCD_ENDPOINTS=http://etcd:2379", "DYN_DISCOVERY_BACKEND=etcd", "DYN_REQUEST_PLANE=tcp", "DYN_EVENT_PLANE=zmq"):
        assert line in shown.splitlines()
    for name, host in (("frontend.sh", "n1"), ("prefill-0.sh", "n1"), ("decode-0.sh", "n2")):
        for variable in ("DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST"):
            assert f"export {variable}={host}\n" in written.files[name]
    assert "http://n1:2379" in write("dynamo-shell", Settings(hosts=("n1",))).files["deployment.env"]


def test_the_router_knows_every_worker_by_the_address_that_its_script_listens_on():
    written = write("vllm-shell", Settings(hosts=("n1", "n2"), gpus_per_host=2))
    words = exec_of(written.files["router.sh"], {"PYTHON": "python3"})
    for name, flag in (("prefill-0.sh", "--prefill"), ("decode-0.sh", "--decode")):
        worker = exec_of(written.files[name], {"PYTHON": "python3", "MODEL": "m"})
        host, port = (worker[worker.index(word) + 1] for word in ("--host", "--port"))
        assert words[words.index(flag) + 1] == f"http://{host}:{port}"


@pytest.mark.parametrize("target", TARGETS)
def test_no_text_of_a_run_gets_out_of_its_comment_or_its_quotes(target: str):
    options = EngineOptions(extra_args=("--hf-overrides", HOSTILE), extra_env={"EVIL": HOSTILE})
    found = on_gpus("1P1D", origin=HOSTILE, workload=HOSTILE, device=HOSTILE, model=HOSTILE, options=options, warnings=(HOSTILE,))
    written = write(target, found=found)
    if target == "dynamo-k8s":
        container = main(components(written)["decode"])
        literal = HOSTILE.replace("$(", "$$(")  # else Kubernetes puts a variable there
        assert literal in container["args"]
        assert {"name": "EVIL", "value": literal} in container["env"]
        return
    for name, text in written.files.items():
        code = [line for line in text.splitlines() if not line.startswith("#")]
        assert not any(line.startswith("; `id`") for line in code if not name.endswith(".sh"))
        if name.startswith("decode"):
            assert exec_of(text, {"PYTHON": "p", "MODEL": "m"}).count(HOSTILE) == 2
            assert f"export EVIL={shlex.quote(HOSTILE)}\n" in text
    assert not Path("/tmp/owned").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_one_file_says_what_was_measured_where_and_how_certain_and_the_others_name_it(target: str):
    size = scaled(ON_GPUS, request_rate=20.0)
    written = write(target, Settings(gpus_per_host=16), size=size)
    for name, text in written.files.items():
        if name.endswith(".sh"):
            assert "how to use it: see deployment.env" in text.splitlines()[1]
            continue
        flat = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
        for part in (
            ON_GPUS.run, str(size.topology), ON_GPUS.workload, str(ON_GPUS.slo), ON_GPUS.device, ON_GPUS.versions,
            "8 [8, 8.7] req/s", "TTFT p50 214 [209, 220] ms", "ITL p99 28.1 ms", "320 requests",
            "ASSUMED: what is served grows linearly",
            f"WARNING: {size.topology} itself was not measured",
        ):  # fmt: skip
            assert part in flat


def test_what_speaks_against_a_split_is_told():
    assert any("random weights" in text for text in write("vllm-shell", found=ON_CORES).warnings)
    assert not any("random weights" in text for text in write("vllm-shell", Settings(dummy_weights=True), ON_CORES).warnings)
    assert any("says nothing of other/model" in text for text in write("dynamo-k8s", Settings(model="other/model")).warnings)
    older = on_gpus(packages={"vllm": "0.26.0"})
    assert any("measured with vLLM 0.26.0" in text for text in write("dynamo-k8s", found=older).warnings)
    assert not any("measured with vLLM" in text for text in write("vllm-shell", found=older).warnings)
    assert "Dynamo's frontend and its request plane were not measured" in " ".join(
        write("dynamo-k8s").files["deployment.yaml"].replace("\n#", "").split()
    )
    assert "request plane were not measured" not in write("dynamo-k8s", found=on_gpus(engine="dynamo")).files["deployment.yaml"]


def test_the_three_targets_are_those_that_there_are():
    assert dict(TARGETS) == {"dynamo-k8s": dynamo_k8s, "dynamo-shell": dynamo_shell, "vllm-shell": vllm_shell}
