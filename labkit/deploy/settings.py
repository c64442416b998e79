"""What a user says of the place where a split is deployed, and what a target makes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from labkit.deploy.found import FoundSplit
from labkit.deploy.placing import LOOPBACK
from labkit.errors import SpecError

_PORT: Final = 8000
#: One word that means the same in YAML, in a shell and in a URL.
_WORD: Final = re.compile(r"[\w.:/@%~+=,-]+")
_DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,43}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of the place.

    Attributes:
        model: hub id, or the whole path of a folder that is there on every node; the run's hub id by default.
        dummy_weights: random weights there too.
        image: of Dynamo's runtime with vLLM; that of the run's Dynamo version by default.
        name: of the Kubernetes object; made from the model by default.
        hf_secret: name of a Kubernetes secret with ``HF_TOKEN``; the secret itself is never written.
        hosts: addresses of the nodes; the first has the frontend or router.
        etcd: its URL; on the first host by default.
        gpus_per_host: of each host.
        port: of the frontend or router; the workers' ports follow it.

    Raises:
        SpecError: a text that is not one word, a name that Kubernetes does not take, a number that cannot be meant.
    """

    model: str | None = None
    dummy_weights: bool = False
    image: str | None = None
    name: str | None = None
    hf_secret: str | None = None
    hosts: tuple[str, ...] = (LOOPBACK,)
    etcd: str | None = None
    gpus_per_host: int = 8
    port: int = _PORT

    def __post_init__(self) -> None:
        for name in ("model", "image", "etcd"):
            value = getattr(self, name)
            if value is not None and not _WORD.fullmatch(value):
                raise SpecError(f"{name} {value!r} is not one word", remedy="leave out spaces and quotes")
        if self.model is not None and self.model.startswith(("~", ".")):
            raise SpecError(
                f"model {self.model!r} is not the same on every node",
                remedy="give a hub id, or the whole path of a folder: /models/x",
            )
        for name in ("name", "hf_secret"):
            value = getattr(self, name)
            if value is not None and not _DNS_LABEL.fullmatch(value):
                raise SpecError(
                    f"{name} {value!r} cannot name a Kubernetes object", remedy="use small letters, digits and '-', at most 45"
                )
        if self.gpus_per_host < 1:
            raise SpecError(
                f"{self.gpus_per_host} GPUs per host is not above 0", remedy="give --gpus-per-host the number that each has"
            )

    def model_of(self, found: FoundSplit) -> str | None:
        """What workers load: what was given, or the run's hub id; ``None`` where the run had a folder or a bundled shape."""
        return self.model or found.hub

    def served_name_of(self, found: FoundSplit) -> str:
        """The name that requests ask for: the run's, or that of the model that takes the place of a folder or a shape."""
        if self.model is None or found.hub is not None:
            return found.model
        return self.model.rstrip("/").rpartition("/")[2] if self.folder is not None else self.model

    @property
    def folder(self) -> str | None:
        """The folder that has the model on every node, where it is no hub id."""
        return self.model if self.model is not None and self.model.startswith("/") else None

    @property
    def one_node(self) -> bool:
        """Whether everything runs on the machine itself."""
        return self.hosts == (LOOPBACK,)

    def name_of(self, found: FoundSplit) -> str:
        """A name that Kubernetes takes."""
        kind = "disagg" if found.topology.is_disaggregated else "agg"
        return self.name or re.sub(r"[^a-z0-9]+", "-", f"{self.served_name_of(found).lower()}-{kind}").strip("-")[-45:].strip("-")


@dataclass(frozen=True, slots=True)
class Written:
    """The files that a target makes of a split, before they are on disk.

    Attributes:
        files: name → text; those that end in ``.sh`` are made executable.
        warnings: what the user must know, those that stand in the files included.
    """

    files: Mapping[str, str]
    warnings: tuple[str, ...] = field(default=())
