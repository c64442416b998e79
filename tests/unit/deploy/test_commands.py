"""Commands for other nodes are those of the lab's engine, without what belongs to the measuring machine."""

from __future__ import annotations

import json

import pytest

from labkit.deploy.commands import MODEL, dynamo_worker, to_fill_in, vllm_router, vllm_worker
from labkit.deploy.placing import place
from labkit.deploy.settings import Settings
from labkit.serve.engines.base import EngineOptions, RouterSpec, WorkerSpec
from labkit.serve.engines.vllm import Vllm
from labkit.serve.hardware import Devices
from labkit.serve.models import ServedModel
from labkit.spec import Role
from tests.support.found_splits import ON_CORES, ON_GPUS, on_gpus

HOSTS = Settings(hosts=("n1", "n2"))


def placed(found, settings: Settings = HOSTS):
    return place(found.topology, settings.hosts, per_host=8, first_port=8000)


def built(one, options: EngineOptions, dtype: str | None = None):
    """What the lab itself starts on these devices."""
    devices = Devices(0, one.devices, (), 0, 1.0, False, float(one.tp))
    spec = WorkerSpec(name=one.name, tp=one.tp, devices=devices, port=one.port, kv_port=one.kv_port)
    return Vllm("python3").worker(spec, ServedModel(MODEL, ON_GPUS.model, "auto", dtype, 4096), options)


def test_a_plain_worker_is_the_labs_worker_at_another_address():
    prefill, decode = placed(ON_GPUS)
    for one, role in ((prefill, Role.PREFILL), (decode, Role.DECODE)):
        own = built(one, ON_GPUS.options.of(role))
        command = vllm_worker(ON_GPUS, one, HOSTS, on_gpu=True)
        assert command.argv[:3] == ("python3", "-m", "vllm.entrypoints.openai.api_server")
        assert [word for word in command.argv[3:] if word != one.host] == [word for word in own.argv[2:] if word != "127.0.0.1"]
        assert command.argv[command.argv.index("--host") + 1] == one.host
        kept = {name for name in own.env if name in command.env}
        assert {"CUDA_VISIBLE_DEVICES", "VLLM_NIXL_SIDE_CHANNEL_PORT", "VLLM_NO_USAGE_STATS"} <= kept
        assert all(command.env[name] == own.env[name] for name in kept - {"VLLM_HOST_IP", "VLLM_NIXL_SIDE_CHANNEL_HOST"})
        assert command.env["VLLM_HOST_IP"] == command.env["VLLM_NIXL_SIDE_CHANNEL_HOST"] == one.host


def test_nothing_of_the_lab_or_of_the_machine_goes_along():
    for settings in (HOSTS, Settings()):
        command = vllm_worker(ON_GPUS, placed(ON_GPUS, settings)[0], settings, on_gpu=True)
        text = "\n".join((*command.argv, *command.env, *command.env.values()))
        for word in ("LABKIT", "OTEL", "PYTHONUNBUFFERED", "proxy", "PROXY", "HF_HUB_OFFLINE", "vllm_entry"):
            assert word not in text
        assert ("127.0.0.1" in text) == ("UCX_NET_DEVICES" in text) == settings.one_node


def test_prefill_workers_have_their_own_limits_in_every_target():
    for command in (lambda one: vllm_worker(ON_GPUS, one, HOSTS, on_gpu=True), lambda one: dynamo_worker(ON_GPUS, one, HOSTS)):
        limits = [words[words.index("--max-num-batched-tokens") + 1] for words in (command(one).argv for one in placed(ON_GPUS))]
        assert limits == ["8192", "2048"]


def test_a_dynamo_worker_has_the_engine_flags_and_a_role_but_no_server():
    prefill, decode = (dynamo_worker(ON_GPUS, one, HOSTS) for one in placed(ON_GPUS))
    for command, mode in ((prefill, "prefill"), (decode, "decode")):
        assert command.argv[:3] == ("python3", "-m", "dynamo.vllm")
        assert command.argv[-2:] == ("--disaggregation-mode", mode)
        transfer = json.loads(command.argv[command.argv.index("--kv-transfer-config") + 1])
        assert transfer["kv_connector"] == "NixlConnector"
        assert {"--tensor-parallel-size", "--served-model-name", "--no-enable-prefix-caching"} <= set(command.argv)
        assert not {"--host", "--port", "--disable-uvicorn-access-log"} & set(command.argv)
        assert not any(name.startswith(("CUDA", "UCX", "VLLM_NIXL")) for name in command.env)


def test_an_aggregated_dynamo_worker_has_neither_role_nor_transfer():
    found = on_gpus("2A")
    argv = dynamo_worker(found, placed(found)[0], HOSTS).argv
    assert not {"--disaggregation-mode", "--kv-transfer-config", "NixlConnector"} & set(argv)
    assert "8192" not in argv


def test_on_cores_it_runs_as_measured_and_on_gpus_nothing_sized_for_a_core_goes_along():
    one = place(ON_CORES.topology, ("127.0.0.1",), per_host=None, first_port=8000)[0]
    on_core = vllm_worker(ON_CORES, one, Settings(), on_gpu=False)
    assert on_core.argv[on_core.argv.index("--dtype") + 1] == "float32"
    assert on_core.env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert on_core.env["CUDA_VISIBLE_DEVICES"] == ""
    on_gpu = dynamo_worker(ON_CORES, one, Settings())
    assert not {"--dtype", "--kv-cache-memory-bytes", "--enforce-eager", "--block-size"} & set(on_gpu.argv)
    assert '"cuda"' in on_gpu.argv[on_gpu.argv.index("--kv-transfer-config") + 1]


def test_random_weights_are_kept_only_where_they_are_asked_for():
    one = placed(ON_GPUS)[0]
    for dummy, wanted in ((False, "auto"), (True, "dummy")):
        argv = dynamo_worker(ON_GPUS, one, Settings(dummy_weights=dummy)).argv
        assert argv[argv.index("--load-format") + 1] == wanted


@pytest.mark.parametrize(
    ("model", "name"),
    [(None, "demo"), ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"), ("/models/qwen-8b/", "qwen-8b")],
)
def test_a_model_in_place_of_a_shape_is_served_under_its_own_name(model: str | None, name: str):
    one = place(ON_CORES.topology, ("127.0.0.1",), per_host=None, first_port=8000)[0]
    argv = dynamo_worker(ON_CORES, one, Settings(model=model)).argv
    assert argv[argv.index("--served-model-name") + 1] == name
    argv = dynamo_worker(ON_GPUS, one, Settings(model="/mnt/llama")).argv
    assert argv[argv.index("--served-model-name") + 1] == ON_GPUS.model


def test_the_router_is_the_labs_before_the_workers_where_they_are():
    workers = placed(ON_GPUS)
    own = Vllm("python3").router(
        RouterSpec(port=8000, metrics_port=8001, workers={f"http://n1:{one.port}": one.role for one in workers})
    )
    router = vllm_router(workers, "n1", 8000)
    assert router.argv == tuple(
        "n1" if before == "--host" else word for before, word in zip(("", *own.argv), own.argv, strict=False)
    )
    assert router.argv[router.argv.index("--prometheus-host") + 1] == "127.0.0.1"


def test_paths_and_redacted_values_are_to_be_filled_in_and_nothing_else_changes():
    options = EngineOptions(
        extra_args=("--chat-template", "/home/me/t.jinja", "--download-dir=~/models", "--swap-space", "4"),
        extra_env={"HF_TOKEN": "[redacted]", "VLLM_LOGGING_LEVEL": "DEBUG", "HF_HOME": "/data/hf"},
    )
    found = on_gpus("2A", options=options)
    for command in (
        dynamo_worker(found, placed(found)[0], HOSTS), vllm_worker(found, placed(found)[0], HOSTS, on_gpu=True),
    ):  # fmt: skip
        assert command.argv[command.argv.index("--chat-template") + 1] == "SET-THE-FOLDER-OF/t.jinja"
        assert "--download-dir=SET-THE-FOLDER-OF/models" in command.argv
        assert command.argv[command.argv.index("--swap-space") + 1] == "4"
        assert command.env["HF_TOKEN"] == "SET-THIS-SECRET"
        assert command.env["VLLM_LOGGING_LEVEL"] == "DEBUG"
        assert to_fill_in(command) == [
            "--download-dir=SET-THE-FOLDER-OF/models", "SET-THE-FOLDER-OF/hf", "SET-THE-FOLDER-OF/t.jinja", "SET-THIS-SECRET"
        ]  # fmt: skip
        assert "/home/me" not in " ".join((*command.argv, *command.env.values()))


def test_a_path_is_found_wherever_it_stands_in_a_word():
    words = {
        '{"model": "/home/me/eagle", "tokens": 3}': '{"model": "SET-THE-FOLDER-OF/eagle", "tokens": 3}',
        '{"method":  "ngram"}': '{"method":  "ngram"}',
        "sql=/home/me/lora": "sql=SET-THE-FOLDER-OF/lora",
        "--lora-modules=sql=/home/me/lora": "--lora-modules=sql=SET-THE-FOLDER-OF/lora",
        "./t.jinja": "SET-THE-FOLDER-OF/t.jinja",
        "file:///home/me/cache": "SET-THE-FOLDER-OF/cache",
        "org/name": "org/name",
        "http://n1:2379/v1": "http://n1:2379/v1",
        "a=b": "a=b",
    }
    found = on_gpus("2A", options=EngineOptions(extra_args=tuple(words)))
    argv = dynamo_worker(found, placed(found)[0], HOSTS).argv
    assert argv[-len(words) :] == tuple(words.values())
