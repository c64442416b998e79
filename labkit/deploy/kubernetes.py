"""A split as a ``DynamoGraphDeployment`` for Dynamo's operator on Kubernetes (nvidia.com/v1beta1).

Field names and types are those of the custom resource definition that Dynamo publishes; the tests hold every field against it.
The operator adds the frontend's command, probes, ports and discovery to the container named ``main``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import yaml

from labkit.deploy.assumptions import DYNAMO, assumptions, doubts, fill_in, with_dynamo
from labkit.deploy.commands import MODEL, Portable, dynamo_worker, frontend_env, to_fill_in
from labkit.deploy.found import FoundSplit
from labkit.deploy.header import header
from labkit.deploy.placing import LOOPBACK, component_name, place
from labkit.deploy.scaling import Scaled
from labkit.deploy.settings import Settings, Written
from labkit.spec import Role

FILE: Final = "deployment.yaml"
_IMAGE: Final = "nvcr.io/nvidia/ai-dynamo/vllm-runtime"
_SEMANTIC: Final = re.compile(r":v?\d+\.\d+\.\d+(?:[-+][\w.+-]*)?$")
#: What a secret for the hub holds; a variable of the same name beside it would win.
_IN_THE_SECRET: Final = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
_TYPES: Final = {Role.AGGREGATED: "worker", Role.PREFILL: "prefill", Role.DECODE: "decode"}


def dynamo_k8s(found: FoundSplit, size: Scaled, settings: Settings) -> Written:
    """One file, for ``kubectl apply -f``."""
    version = found.packages.get("ai-dynamo", DYNAMO)
    image = settings.image or f"{_IMAGE}:{version}"
    runtime = None if _SEMANTIC.search(image) else version
    model, secret = settings.model_of(found) or MODEL, settings.hf_secret
    components = [_frontend(image, runtime, frontend_env(found))]
    commands = []
    several = {role for role in Role if sum(group.role is role for group in size.topology.groups) > 1}
    for group in size.topology.groups:
        one = next(
            one
            for one in place(size.topology, (LOOPBACK,), per_host=None, first_port=1)
            if (one.role, one.tp) == (group.role, group.tp)
        )
        command = dynamo_worker(found, one, settings, events="/tmp")  # of a container of its own
        name = component_name(group.role) + (f"-tp{group.tp}" if group.role in several else "")
        if secret is not None:
            command = replace(command, env={name: value for name, value in command.env.items() if name not in _IN_THE_SECRET})
        components.append(_worker(name, group.role, group.count, group.tp, image, runtime, command, model))
        commands.append(command)
    for component in components:
        _with_model(component["podTemplate"]["spec"], settings)
    graph = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": settings.name_of(found)},
        "spec": {"backendFramework": "vllm", "components": components},
    }
    warnings = doubts(found, size, settings, on_gpu=True, dynamo=True)
    warnings += fill_in(sorted({word for command in commands for word in to_fill_in(command)}))
    if runtime is not None:
        warnings.append(f"the tag of {image} is no version: its Dynamo is taken to be {runtime} (runtimeVersionOverride)")
    comment = header(
        "A DynamoGraphDeployment, written by labkit export-deployment --to dynamo-k8s.", found, size,
        assumed=[
            *assumptions(found, on_gpu=True),
            *with_dynamo(found),
            "pods reach each other over TCP at least; for RDMA add the resources and settings of your cluster's network",
        ],
        warnings=warnings,
        use=[f"Use: kubectl apply -f {FILE} (needs Dynamo's operator {version} or newer, with its v1beta1 resources)"],
    )  # fmt: skip
    text = yaml.safe_dump(graph, sort_keys=False, width=1000, allow_unicode=True)
    return Written({FILE: comment + text}, tuple(warnings))


def _frontend(image: str, runtime: str | None, env: Mapping[str, str]) -> dict[str, Any]:
    main = {"name": "main", "image": image, "env": [{"name": name, "value": value} for name, value in env.items()]}
    return _component("frontend", "frontend", 1, runtime, main)


def _worker(
    name: str,
    role: Role,
    replicas: int,
    tp: int,
    image: str,
    runtime: str | None,
    command: Portable,
    model: str,
) -> dict[str, Any]:
    main: dict[str, Any] = {
        "name": "main",
        "image": image,
        "command": list(command.argv[:3]),
        "args": [model if word == MODEL else _literal(word) for word in command.argv[3:]],
        "env": [{"name": variable, "value": _literal(value)} for variable, value in command.env.items()],
    }
    main["resources"] = {"limits": {"nvidia.com/gpu": str(tp)}}
    return _component(name, _TYPES[role], replicas, runtime, main)


def _with_model(pod: dict[str, Any], settings: Settings) -> None:
    """What every pod needs that reads the model, and the frontend reads its tokenizer: the token for it, or the folder."""
    (main,) = pod["containers"]
    if settings.hf_secret is not None:
        main["envFrom"] = [{"secretRef": {"name": settings.hf_secret}}]
    if settings.folder is not None:
        main["volumeMounts"] = [{"name": "model", "mountPath": settings.folder, "readOnly": True}]
        pod["volumes"] = [{"name": "model", "hostPath": {"path": settings.folder, "type": "Directory"}}]


def _literal(word: str) -> str:
    """Kubernetes puts variables in the place of ``$(NAME)`` unless the sign is doubled."""
    return word.replace("$(", "$$(")


def _component(name: str, kind: str, replicas: int, runtime: str | None, main: dict[str, Any]) -> dict[str, Any]:
    version = {} if runtime is None else {"runtimeVersionOverride": runtime}
    return {"name": name, "type": kind, "replicas": replicas, **version, "podTemplate": {"spec": {"containers": [main]}}}
