"""AIConfigurator behind one adapter: NVIDIA's model of serving, made of kernels timed on the GPU it is asked about.

Everything that it says is a projection. What it leaves out (version 0.12): the time to move the KV cache from a prefill to a
decode worker, queues (requests arrive when a worker is free), prefix hits, and the variance of lengths. It is optional: this is
the only module that imports it, and only when it is asked.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Final

from labkit.errors import ProjectionError
from labkit.serve.models import shape_config
from labkit.spec import Model, Role
from labkit.whatif.workers import DEGREES, Setting, StepTimes, WorkerPoint, Workers

PACKAGE: Final = "aiconfigurator"
VERSION: Final = "0.12.0"
#: Requests that a worker holds.
_BATCHES: Final = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512)  # fmt: skip  # noqa: E501
_PREFILL_BATCHES: Final = (1, 2, 4, 8)
#: Prompt tokens in a step of an aggregated worker, beside whole prompts.
_CHUNKS: Final = (512, 1024, 2048, 4096, 8192)
_MOST_STEP_TOKENS: Final = 8192
#: What AIConfigurator itself multiplies the times of separate workers by.
_PREFILL_CORRECTION: Final = 1.1
_DECODE_CORRECTION: Final = 1.08
_LIMIT_MS: Final = 1e9
#: Of a GPU's memory that vLLM uses by default.
_MEMORY_SHARE: Final = 0.9


class AIConfigurator:
    """Asks AIConfigurator about workers with tensor parallelism alone: one GPU, or two, four or eight of a node."""

    def __init__(self) -> None:
        self._sdk: Any = None
        self._versions: dict[tuple[str, str], str] = {}

    def identity(self, setting: Setting) -> Mapping[str, Any]:
        """Version, which its timings belong to, setting, and the model's config, whose folder may change. Imports nothing.

        Raises:
            ProjectionError: a folder without a config.
        """
        asked = (_BATCHES, _PREFILL_BATCHES, _CHUNKS, DEGREES)
        return {**asdict(setting), "config": _config(setting.model), "by": PACKAGE, "version": VERSION, "asked": asked}

    def systems(self, engine: str) -> list[str]:
        """GPUs that it has timings of an engine for."""
        found = self._load().perf_database.get_supported_databases()
        return sorted(system for system, engines in found.items() if engines.get(engine))

    def workers(self, setting: Setting) -> Workers:
        """Aggregated, prefill and decode workers of every TP degree and batch that fit into memory.

        Raises:
            ProjectionError: it is not installed, or has no data for this GPU, engine or model, or the model fits nowhere.
        """
        sdk, version = self._load(), self._data_version(setting)
        points: list[WorkerPoint] = []
        notes: list[str] = []
        with _silent(), _folder(setting.model) as path:
            task = self._task(setting, path, version)
            for tp in DEGREES:
                try:
                    found = list(_Worker(sdk, task, setting, path, version, tp).points())
                except (
                    Exception
                ) as error:  # of its own many kinds: a degree that the model or the data lack is left out and named
                    notes.append(f"no workers of TP {tp}: {_first_line(error)}")
                    continue
                lacking = {role for role in Role if not any(point.role is role for point in found)}
                if lacking:
                    notes.append(
                        f"TP {tp} lacks memory for {' and '.join(role.noun for role in Role if role in lacking)} workers"
                    )
                points += found
        if not points:
            raise ProjectionError(
                f"AIConfigurator projects no worker of {setting}: {'; '.join(notes)}",
                remedy="take a model that it knows (Llama, Qwen3, gpt-oss, DeepSeek), a quantised one, or a GPU with more memory",
            )
        return Workers(
            setting, f"AIConfigurator {VERSION}, {setting.engine} {version} on {setting.system}", tuple(points), tuple(notes)
        )

    def steps(self, setting: Setting, tp: int, prompts: Sequence[int], contexts: Sequence[int]) -> StepTimes:
        """Single steps of one worker: prefills of ``prompts`` tokens, decode steps at ``contexts`` with every batch that fits.

        Args:
            setting: model, GPU and engine; its lengths do not matter.
            tp: GPUs of the worker.
            prompts, contexts: tokens.

        Raises:
            ProjectionError: as ``workers``.
        """
        sdk, version = self._load(), self._data_version(setting)
        prefill: list[tuple[int, float]] = []
        decode: list[tuple[int, int, float]] = []
        with _silent(), _folder(setting.model) as path:
            worker: _Worker | None = None
            for tokens in sorted({*prompts, *contexts}):
                asked = replace(setting, isl=tokens, osl=2)
                try:
                    worker = _Worker(sdk, self._task(asked, path, version), asked, path, version, tp)
                    if tokens in prompts and (found := worker.ask(Role.PREFILL, 1)) is not None:
                        prefill.append((tokens, found.ttft_s))
                    if tokens in contexts:
                        decode += [(batch, tokens, found.tpot_s) for batch, found in worker.batches()]
                except ProjectionError:
                    raise
                except Exception as error:  # of its own many kinds
                    raise ProjectionError(
                        f"AIConfigurator projects no worker of TP {tp} of {setting}: {_first_line(error)}",
                        remedy="take another TP, or a model that it knows (Llama, Qwen3, gpt-oss, DeepSeek)",
                    ) from error
            kv_tokens = worker.kv_tokens(max(contexts)) if worker is not None and decode else 0
            gpu_bytes = worker.gpu_bytes if worker is not None else 0
        if len(prefill) < 2 or not decode or kv_tokens < 1:
            raise ProjectionError(
                f"AIConfigurator projects no steps of {setting.model} on TP {tp} of {setting.system}",
                remedy="take a higher TP, a quantised model, or a GPU with more memory",
            )
        source = f"AIConfigurator {VERSION}, {setting.engine} {version} on {setting.system}"
        return StepTimes(source, tuple(prefill), tuple(decode), gpu_bytes, kv_tokens)

    def _task(self, setting: Setting, path: str, version: str) -> Any:
        try:
            return self._load().Task(
                serving_mode="agg", model_path=path, system_name=setting.system, backend_name=setting.engine,
                backend_version=version, isl=setting.isl, osl=setting.osl, ttft=_LIMIT_MS, tpot=_LIMIT_MS,
                total_gpus=max(DEGREES),
            )  # fmt: skip
        except Exception as error:
            raise ProjectionError(
                f"AIConfigurator has no data for {setting.model} on {setting.system}: {_first_line(error)}",
                remedy="name a bundled shape such as llama-3.1-70b-fp8 or gpt-oss-120b, or a folder with the model's config.json",
            ) from error

    def _data_version(self, setting: Setting) -> str:
        asked = (setting.system, setting.engine)
        if asked in self._versions:
            return self._versions[asked]
        sdk = self._load()
        with _silent():
            version = sdk.perf_database.get_latest_database_version(*asked)
        if version is None:
            known = ", ".join(self.systems(setting.engine)) or "none"
            raise ProjectionError(
                f"AIConfigurator has no timings of {setting.engine} on {setting.system!r}", remedy=f"GPUs that it has: {known}"
            )
        self._versions[asked] = str(version)
        return self._versions[asked]

    def _load(self) -> Any:
        if self._sdk is None:
            self._sdk = _Sdk()
        return self._sdk


class _Sdk:
    """The parts of AIConfigurator that are used, imported once."""

    def __init__(self) -> None:
        try:
            with _silent():
                from aiconfigurator.sdk import perf_database
                from aiconfigurator.sdk.backends.factory import get_backend
                from aiconfigurator.sdk.models import get_model
                from aiconfigurator.sdk.predict import predict_agg_worker, predict_disagg_worker
                from aiconfigurator.sdk.task_v2 import Task
        except ImportError as error:
            raise ProjectionError(
                f"AIConfigurator cannot be imported: {error}", remedy=f"make setup, or: pip install {PACKAGE}=={VERSION}"
            ) from error
        installed = metadata.version(PACKAGE)
        if installed != VERSION:
            raise ProjectionError(f"AIConfigurator is {installed}, not {VERSION}", remedy=f"pip install {PACKAGE}=={VERSION}")
        self.perf_database, self.get_backend, self.get_model, self.Task = perf_database, get_backend, get_model, Task
        self.predict_agg_worker, self.predict_disagg_worker = predict_agg_worker, predict_disagg_worker


class _Worker:
    """Workers of one TP degree; a mixture shards every expert over all of its GPUs, as vLLM does by default."""

    def __init__(self, sdk: _Sdk, task: Any, setting: Setting, path: str, version: str, tp: int) -> None:
        self.sdk, self.task, self.setting, self.tp = sdk, task, setting, tp
        config = task.build_model_config(role="agg", parallel=(tp, 1, 1, tp if task.is_moe else 1, 1, 1))
        self.model = sdk.get_model(model_path=path, model_config=config, backend_name=setting.engine)
        # It remembers by lengths and batch alone: one for each degree.
        self.backend = sdk.get_backend(setting.engine)
        self.database = sdk.perf_database.get_database_view(setting.system, setting.engine, version, database_mode="SILICON")

    def points(self) -> Iterator[WorkerPoint]:
        """Those that fit into memory; larger batches than the first that does not are not asked for."""
        for batch in _BATCHES:
            fits = False
            for step in _steps(self.setting.isl, batch):
                found = self._ask(Role.AGGREGATED, batch, step)
                if found is not None:
                    fits = True
                    yield found
            if not fits:
                break
        for role, batches in ((Role.PREFILL, _PREFILL_BATCHES), (Role.DECODE, _BATCHES)):
            for batch in batches:
                found = self._ask(role, batch, 0)
                if found is None:
                    break
                yield found

    def ask(self, role: Role, batch: int) -> WorkerPoint | None:
        """A worker of a disaggregated split; ``None`` where the batch does not fit."""
        return self._ask(role, batch, 0)

    def batches(self) -> Iterator[tuple[int, WorkerPoint]]:
        """Decode workers of every batch that fits."""
        for batch in _BATCHES:
            if (found := self.ask(Role.DECODE, batch)) is None:
                return
            yield batch, found

    @property
    def gpu_bytes(self) -> int:
        """Memory of a GPU."""
        return int(self.database.system_spec["gpu"]["mem_capacity"])

    def kv_tokens(self, context: int) -> int:
        """That fit beside weights and activations into the share of memory that vLLM takes: by the memory of two batches."""
        held = [
            float(
                self.sdk.predict_disagg_worker(
                    model=self.model, backend=self.backend, database=self.database,
                    runtime_config=self.task.build_runtime_config(batch), role=Role.DECODE.noun, latency_correction=1.0,
                ).get_result_dict()["memory"]
            ) * 2**30
            for batch in (1, 2)
        ]  # fmt: skip
        per_token = (held[1] - held[0]) / context
        room = _MEMORY_SHARE * self.gpu_bytes - (2 * held[0] - held[1])
        return int(room / per_token) if per_token > 0 and room > 0 else 0

    def _ask(self, role: Role, batch: int, step: int) -> WorkerPoint | None:
        given = {
            "model": self.model, "backend": self.backend, "database": self.database,
            "runtime_config": self.task.build_runtime_config(batch),
        }  # fmt: skip
        if role is Role.AGGREGATED:
            said = self.sdk.predict_agg_worker(**given, ctx_tokens=step)
        else:
            correction = _PREFILL_CORRECTION if role is Role.PREFILL else _DECODE_CORRECTION
            said = self.sdk.predict_disagg_worker(**given, role=role.noun, latency_correction=correction)
        if said.check_oom() or said.check_kv_cache_oom():
            return None
        row = said.get_result_dict()
        ttft_s, tpot_s, hz = float(row["ttft"]) / 1e3, float(row["tpot"]) / 1e3, float(row["seq/s"])
        return WorkerPoint(role, self.tp, batch, step, ttft_s, tpot_s, hz)


def _steps(isl: int, batch: int) -> list[int]:
    """Prompt tokens of a step: chunks, and whole prompts, as many as the batch holds beside one request that decodes."""
    most = max(_MOST_STEP_TOKENS, 2 * isl)
    whole = [isl * count for count in (1, 2, 3, 4, 6, 8, 12, 16) if isl * count <= most]
    return [step for step in sorted({*_CHUNKS, *whole}) if batch == 1 >= math.ceil(step / isl) or batch > math.ceil(step / isl)]


@contextlib.contextmanager
def _folder(model: str) -> Iterator[str]:
    """Where the model's ``config.json`` is; a hub id is AIConfigurator's own to look up."""
    named = Model(model)
    if named.kind == "shape":
        with resources.as_file(resources.files("labkit.serve.shapes").joinpath(model)) as folder:
            yield str(folder)
    else:
        yield str(Path(model).expanduser()) if named.kind == "folder" else model


def _config(model: str) -> Any:
    """What the model is, by content where there is a file."""
    named = Model(model)
    if named.kind == "shape":
        return shape_config(model)
    file = Path(model).expanduser() / "config.json"
    if named.kind == "folder":
        try:
            return file.read_text(encoding="utf-8")
        except OSError as error:
            raise ProjectionError(
                f"{file} cannot be read: {error.strerror or error}", remedy="name a folder that holds the model's config.json"
            ) from error
    return model


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Its warnings about other kernels than those asked for, on stderr, would bury the notebook's own words."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
