"""From a ``Model`` to what a worker's ``--model`` gets: a made folder, a checked folder, or a hub id."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from labkit.errors import SpecError, StoreError
from labkit.spec import Model
from labkit.spec.architecture import Architecture, kv_bytes_per_token, max_positions, weight_bytes

LoadFormat = Literal["auto", "dummy"]

#: Bytes of a number. ``auto`` never serves float32: vLLM halves it.
DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}
#: Special tokens of the shipped tokenizer, by the names that ``config.json`` has for them.
SPECIAL_IDS: Mapping[str, int] = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3}
_LEAST_LENGTH = 2048
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("tekken.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What an engine needs to know to serve a model.

    Attributes:
        path: the folder or hub id that ``--model`` gets.
        name: the name under which requests ask for it.
        load_format: ``dummy`` for random weights, ``auto`` for those on disk.
        dtype: of weights, activations and KV cache; ``None`` leaves it to the engine.
        max_model_len: most tokens of prompt and answer together; ``None`` leaves it to the engine.
        vocab_size: token ids are below this; ``None`` where the config cannot be read before the engine has fetched it.
        weight_bytes: over all ranks; the files' sizes where there are weights, else from the architecture.
        kv_bytes_per_token: over all layers and ranks, in ``dtype``.
        architecture: heads, layers and the like; ``None`` where there is no config yet, or no formula for its type.
    """

    path: str
    name: str
    load_format: LoadFormat
    dtype: str | None = None
    max_model_len: int | None = None
    vocab_size: int | None = None
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    architecture: Architecture | None = None

    def check_tp(self, tp: int) -> None:
        """Refuses a tensor-parallel degree that vLLM cannot shard this model to; passes where ``architecture`` is ``None``.

        Query heads and the MLP's width must divide evenly; KV heads are divided, or copied when there are more ranks than heads.

        Raises:
            SpecError: the degree does not divide.
        """
        a = self.architecture
        if a is None or tp == 1:
            return
        few, many = sorted((a.kv_heads, tp))
        for count, what, fits in (
            (a.heads, "attention heads", a.heads % tp == 0),
            (a.kv_heads, "KV heads", many % few == 0),
            (a.intermediate, "columns of the MLP", a.intermediate % tp == 0),
        ):
            if not fits:
                usable = [n for n in (1, 2, 4, 8, 16, 32) if a.heads % n == 0 == a.intermediate % n]
                raise SpecError(
                    f"TP {tp} does not divide the {count} {what} of {self.name}",
                    remedy=f"use TP {', '.join(map(str, usable))} (written as 2A@tp2)",
                )


def prepare(
    model: Model,
    into: Path,
    *,
    isl_osl_max: int | None = None,
    dtype: str | None = None,
    env: Mapping[str, str] | None = None,
) -> ServedModel:
    """Makes or checks what the workers will load. Starts nothing and downloads nothing.

    Args:
        model: what was asked for.
        into: where the folder of a shape is made, under the shape's name; two labs may make the same one at once.
        isl_osl_max: most tokens of one prompt and its answer. Without ``model.max_model_len`` the length served is this,
            rounded up to a power of two (at least 2,048), or the model's maximum where this is not given.
        dtype: what the device needs where ``model.dtype`` is left open, such as float32 on a CPU.
        env: for the Hugging Face cache and ``HF_HUB_OFFLINE``; the process's own by default.

    Raises:
        SpecError: a folder that lacks config, tokenizer or weights; a context beyond the model's; offline with nothing cached.
        StoreError: the folder of a shape cannot be written.
    """
    dtype = model.dtype or dtype
    match model.kind:
        case "shape":
            folder: Path | None = _make_folder(model.source, into)
        case "folder":
            folder = Path(model.source).expanduser().absolute()
            _check_folder(folder, dummy=bool(model.dummy_weights))
        case "hub":
            folder = _cached(model.source, os.environ if env is None else env)
    config = _read_config(folder) if folder else {}
    text = config.get("text_config", config)
    number = DTYPE_BYTES[dtype or "auto"]
    architecture = _architecture(config)
    on_disk = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder and not model.dummy_weights else 0
    return ServedModel(
        path=str(model.source if model.kind == "hub" else folder),
        name=model.name,
        load_format="dummy" if model.dummy_weights else "auto",
        dtype=dtype,
        max_model_len=_length(model, max_positions(text), isl_osl_max),
        vocab_size=text.get("vocab_size"),
        weight_bytes=on_disk or (weight_bytes(architecture, number) if architecture else None),
        kv_bytes_per_token=kv_bytes_per_token(architecture, number) if architecture else None,
        architecture=architecture,
    )


def shape_config(name: str) -> dict[str, Any]:
    """The published ``config.json`` of a bundled shape."""
    config: dict[str, Any] = json.loads(_bundled(name, "config.json"))
    return config


def _bundled(*parts: str) -> str:
    return resources.files("labkit.serve.shapes").joinpath(*parts).read_text(encoding="utf-8")


def _make_folder(shape: str, into: Path) -> Path:
    """Config with the special ids of our tokenizer, and the tokenizer with a text for every id the model can emit."""
    config = {**shape_config(shape), **SPECIAL_IDS}
    config.setdefault("torch_dtype", "bfloat16")
    config["transformers_version"] = "5.0.0"  # without it, transformers takes any large vocabulary for a faulty Mistral tokenizer
    tokenizer = json.loads(_bundled("tokenizer", "tokenizer.json"))
    vocab = tokenizer["model"]["vocab"]
    # Ids beyond the trained ones: text that no merge leads to, so that every generated token is visible in a stream.
    vocab.update({f"Ġ~{i:x}": i for i in range(len(vocab), config["vocab_size"])})
    folder = into / shape
    for name, text in (
        ("config.json", json.dumps(config, indent=2) + "\n"),
        ("tokenizer.json", json.dumps(tokenizer, ensure_ascii=False)),
        ("tokenizer_config.json", _bundled("tokenizer", "tokenizer_config.json")),
    ):
        _write(folder / name, text)
    return folder.absolute()


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and not again: a worker may be reading it."""
    try:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            half.write_text(text, encoding="utf-8")
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}",
            remedy="free some disk space, or choose a folder that can be written",
        ) from error


def _check_folder(folder: Path, *, dummy: bool) -> None:
    if not folder.is_dir():
        raise SpecError(
            f"model folder {folder} does not exist", remedy="give the folder that holds config.json, or a hub id owner/name"
        )
    _read_config(folder)
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        raise SpecError(
            f"model folder {folder} has no tokenizer (tokenizer.json)",
            remedy="copy tokenizer.json and tokenizer_config.json of the model into it",
        )
    if dummy:
        return
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise SpecError(
            f"model folder {folder} has no weights (*.safetensors)",
            remedy="fetch them, or pass dummy_weights=True to serve random ones",
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        for shard in sorted(set(_read_json(index).get("weight_map", {}).values())):
            if not (folder / shard).is_file():
                raise SpecError(f"model folder {folder} lacks the weights {shard}", remedy="fetch the rest of the model")


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise SpecError(
            f"model folder {folder} has no config.json",
            remedy="give the folder of a model in the Hugging Face layout, with its config.json",
        )
    return _read_json(folder / "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SpecError(f"{path} is no valid JSON: {error}", remedy="fetch the file again") from error
    if not isinstance(content, dict):
        raise SpecError(f"{path} holds no JSON object", remedy="fetch the file again")
    return content


def _cached(hub_id: str, env: Mapping[str, str]) -> Path | None:
    """The newest snapshot of a hub id in the local cache, or ``None`` where the engine will have to fetch it."""
    home = Path(env.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    repository = Path(env.get("HF_HUB_CACHE", home / "hub")).expanduser() / f"models--{hub_id.replace('/', '--')}"
    configs = sorted(repository.glob("snapshots/*/config.json"), key=lambda path: path.stat().st_mtime)
    main = repository / "refs" / "main"
    if main.is_file():
        named = repository / "snapshots" / main.read_text(encoding="utf-8").strip() / "config.json"
        configs += [named] if named.is_file() else []
    if configs:
        return configs[-1].parent
    if env.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise SpecError(
            f"model {hub_id!r} is not in the local cache {repository.parent}, and HF_HUB_OFFLINE is set",
            remedy="unset HF_HUB_OFFLINE, fetch the model first, or use a bundled shape such as demo",
        )
    return None


def _architecture(config: Mapping[str, Any]) -> Architecture | None:
    try:
        return Architecture.of(config) if config else None
    except SpecError:
        return None


def _length(model: Model, limit: int | None, needed: int | None) -> int | None:
    """The served context: as asked, or fitted to the workload, never beyond the model's."""
    asked = model.max_model_len
    for tokens, what in ((asked, "max_model_len ="), (needed, "the workload's ISL + OSL =")):
        if tokens is not None and limit is not None and tokens > limit:
            raise SpecError(f"{what} {tokens} is beyond the {limit} tokens of {model.name}", remedy=f"ask for at most {limit}")
    if asked is not None:
        if needed is not None and needed > asked:
            raise SpecError(
                f"the workload's ISL + OSL = {needed} does not fit max_model_len = {asked}",
                remedy=f"raise max_model_len to {needed}, or leave it out",
            )
        return asked
    if needed is None:
        return limit
    rounded = max(_LEAST_LENGTH, 1 << (needed - 1).bit_length())
    return rounded if limit is None else min(rounded, limit)
