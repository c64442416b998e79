"""What a scene is made of, as JSON between the campaign and the process under fault."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

EngineName = Literal["stand-ins", "mocker", "vllm"]
#: How the experiment is run: as a script, by ``labkit run``, in a Jupyter kernel, or as a script on a terminal.
Face = Literal["script", "batch", "kernel", "terminal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One experiment under fault.

    Attributes:
        folder: of the scene: ``tmp`` (its TMPDIR), ``results``, ``truth``, ``states.jsonl``, ``out.txt``.
        mark: in the environment of every process of the scene.
        engine, face: see above.
        split, then: the first split, and the one that it changes to in the middle; empty: none.
        rate, isl, osl, token_s: of the load, and seconds between the tokens of a stand-in.
        answers: ended requests before the re-split, and again after it.
        most_s: longest wait for these.
        timeout_s: of a request.
        shards: processes that send.
        forks, core: stand-ins come from a fork server; have a child as vLLM's engine core.
        faults: options of single stand-ins, as ``FakeEngine.faults``.
        proxy: base URL of the proxy between client and router; empty: none.
        gpus: that the node of stand-ins has; 0: none, its workers hold cores.
        nodes: address of a Ray cluster that the workers run on; empty: on this machine.
        hooks: a module that the scene, load shards and sampler import at their start, to hurt them from within; empty: none.
        cells: names of the cells that a kernel runs in the place of the experiment; empty: the experiment.
        env: variables beside.
    """

    folder: Path
    mark: str
    engine: EngineName = "stand-ins"
    face: Face = "script"
    split: str = "2A"
    then: str = "1P1D"
    rate: float = 20.0
    isl: int = 16
    osl: int = 10
    token_s: float = 0.03
    answers: int = 30
    most_s: float = 45.0
    timeout_s: float = 30.0
    shards: int = 1
    forks: bool = False
    core: bool = False
    faults: Mapping[str, Sequence[str]] = field(default_factory=dict)
    proxy: str = ""
    gpus: int = 0
    nodes: str = ""
    hooks: str = ""
    cells: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def tmp(self) -> Path:
        """Temporary files of the scene, and of nothing else."""
        return self.folder / "tmp"

    @property
    def results(self) -> Path:
        """The folder that its run lives in."""
        return self.folder / "results"

    @property
    def truth(self) -> Path:
        """Logs of what servers received and wrote."""
        return self.folder / "truth"

    @property
    def states(self) -> Path:
        """What the scene says of itself, a JSON line each."""
        return self.folder / "states.jsonl"

    @property
    def out(self) -> Path:
        """What a person would have seen."""
        return self.folder / "out.txt"

    def save(self) -> Path:
        """The file that the scene is started with."""
        path = self.folder / "setting.json"
        data: dict[str, Any] = {**asdict(self), "folder": str(self.folder)}
        path.write_text(json.dumps(data))
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """What ``save`` wrote."""
        data = json.loads(path.read_text())
        return cls(**{**data, "folder": Path(data["folder"])})
