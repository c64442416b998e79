"""Starts a ``dynamo.vllm`` worker; run with the engine's interpreter, which need not be the lab's.

As ``vllm_entry.py``, which it loads by path: the same mends of NIXL reach the worker and what it spawns, and with
``--fork-server`` it imports vLLM and Dynamo and forks workers on request.

Dynamo imports one function of transformers' image processor for Qwen2-VL, which needs torchvision. vLLM's CPU environment has
none (there is no CPU build of it), and text models never call the function: a stand-in takes its place there.
"""

import importlib.util
import os
import sys
import types
from typing import Any, NoReturn

_IMAGES = "transformers.models.qwen2_vl.image_processing_qwen2_vl"
_WORKER = "dynamo.vllm"


def _vllm_entry() -> Any:
    """``vllm_entry.py`` by its path; known by a name, under which what it defines is found in forked processes."""
    path = os.path.join(os.path.dirname(os.path.realpath(__file__)), "vllm_entry.py")  # noqa: PTH118, PTH120
    spec = importlib.util.spec_from_file_location("labkit_vllm_entry", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _stand_in_for_images() -> None:
    if importlib.util.find_spec("torchvision") is not None:
        return

    def smart_resize(*_: object, **__: object) -> NoReturn:
        raise ImportError("images need torchvision, which is not installed beside this worker")

    module: Any = types.ModuleType(_IMAGES)
    module.smart_resize = smart_resize
    sys.modules[_IMAGES] = module


if __name__ in ("__main__", "__mp_main__"):  # in a worker and what it spawns, and not where the lab imports it
    _entry = _vllm_entry()
    _stand_in_for_images()

if __name__ == "__main__":
    _entry.become(_WORKER, imports_of=f"{_WORKER}.main")
