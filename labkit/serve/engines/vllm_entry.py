"""Starts vLLM's API server; run with the engine's interpreter, which need not be the lab's.

On a machine without GPUs two habits of NIXL and its connector spoil a measurement. Both are mended here before vLLM is
imported, and only where the lab asks for it in the environment:

* ``LABKIT_NIXL_POLL_US``: NIXL's progress thread polls without pause (80-90 % of a core in an idle worker). It sleeps this
  long instead.
* ``LABKIT_PIN_CORES``: the connector re-pins every worker to the last core of the node. The worker stays on these cores instead.

A third is asked for with ``LABKIT_CPU_KV_BYTES``: vLLM's CPU backend sizes its KV cache by a variable in whole GiB; where this
version of it takes bytes, it gets them.

Processes that vLLM spawns import this file again as their main module, so the mends reach them too.

With ``--fork-server`` it imports vLLM and forks a worker for each request (``labkit/serve/forking.py``). The worker goes on as if
it had been started with its arguments, but finds everything imported, and so does vLLM's engine core: it is forked, too, from a
process that has one thread and has not touched CUDA.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing.context
import multiprocessing.util
import os
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import forkserver, resource_tracker
from typing import Any

_NIXL_APIS = ("nixl_cu13._api", "nixl_cu12._api")
_SERVER = "vllm.entrypoints.openai.api_server"
#: What a worker imports only while it starts. Versions differ: what is not there is left out.
_LATER = (
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.executor.multiproc_executor",
    "vllm.distributed.kv_transfer.kv_connector.v1.nixl_connector",
    "vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector",
    "vllm.distributed.kv_transfer.kv_connector.v1.nixl.worker",
)
_LATER_CPU = ("vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner", "vllm.v1.attention.backends.cpu_attn")
_LATER_CUDA = ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner")
_SKIP = "LABKIT_FORK_SKIP"
_WANTED_METHOD = os.environ.get("VLLM_WORKER_MULTIPROC_METHOD")  # before vLLM sets it for itself


class _SlowerProgressThread(importlib.abc.MetaPathFinder):
    """Wraps the import of NIXL's Python face: every agent configuration made there gets the asked poll delay."""

    def __init__(self, delay_us: int) -> None:
        self.delay_us = delay_us

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _NIXL_APIS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute: Callable[[types.ModuleType], None] = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            module.nixlBind = _with_delay(module.nixlBind, self.delay_us)  # type: ignore[attr-defined]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _with_delay(bindings: types.ModuleType, delay_us: int) -> types.SimpleNamespace:
    class AgentConfig(bindings.nixlAgentConfig):  # type: ignore[misc, name-defined]
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, delay_us if name == "pthrDelay" else value)

    return types.SimpleNamespace(**{**vars(bindings), "nixlAgentConfig": AgentConfig})


def _pin(cores: set[int]) -> None:
    set_affinity = os.sched_setaffinity
    set_affinity(0, cores)

    def pinned(pid: int, _wanted: Iterable[int]) -> None:
        set_affinity(pid, cores)

    os.sched_setaffinity = pinned


def _forking() -> types.ModuleType:
    """``labkit/serve/forking.py`` by its path: the engine's interpreter need not know labkit."""
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "forking.py")  # noqa: PTH118, PTH120
    spec = importlib.util.spec_from_file_location("labkit_forking", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _imports_of(name: str) -> list[str]:
    """The modules that a module imports at its top, read from its source: it is run afterwards, not imported before."""
    import ast

    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return []
    with open(spec.origin, encoding="utf-8") as source:  # noqa: PTH123
        body = ast.parse(source.read()).body
    found: list[str] = []
    for statement in body:
        if isinstance(statement, ast.Import):
            found += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            found.append(importlib.util.resolve_name("." * statement.level + (statement.module or ""), spec.parent))
    return found


def _import_engine(forking: types.ModuleType, server: str) -> None:
    """Import all that a worker needs. A module that starts a thread or touches CUDA spoils forking: begin again without it."""
    on_cpu = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    skip = os.environ.get(_SKIP, "").split(",")
    for name in (*_imports_of(server), *_LATER, *(_LATER_CPU if on_cpu else _LATER_CUDA)):
        if name in skip:
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(f"{error.name}"):
                print(f"labkit: {name} is not preloaded: {error}", file=sys.stderr)
        except Exception as error:  # vLLM itself decides whether it can do without
            print(f"labkit: {name} is not preloaded: {error!r}", file=sys.stderr)
        if name in (*_LATER, *_LATER_CUDA, *_LATER_CPU) and (why := forking.why_no_fork()):
            print(f"labkit: {name} is not preloaded: after its import {why}", file=sys.stderr)
            os.environ[_SKIP] = ",".join([*filter(None, skip), name])
            os.execv(sys.executable, [sys.executable, *sys.argv])


def _preload_allocator() -> None:
    """Begin again with the allocator that vLLM's CPU build brings: vLLM preloads it into what it spawns, a fork cannot."""
    import glob

    spec = importlib.util.find_spec("vllm")
    preloaded = os.environ.get("LD_PRELOAD", "")
    if spec is None or spec.origin is None or os.environ.get("CUDA_VISIBLE_DEVICES") != "" or "libtcmalloc" in preloaded:
        return
    found = sorted(glob.glob(os.path.join(os.path.dirname(spec.origin), "libs", "libtcmalloc*.so*")))  # noqa: PTH118, PTH120, PTH207
    if found:
        os.environ["LD_PRELOAD"] = ":".join(filter(None, (found[0], preloaded)))
        os.execv(sys.executable, [sys.executable, *sys.argv])


class _Inheriting(multiprocessing.context.ForkServerProcess):
    """A process that is forked with everything imported, and gets its parent's variables as one that is spawned does."""

    def start(self) -> None:
        self._environ = dict(os.environ)
        super().start()

    def run(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threads = os.environ.get("OMP_NUM_THREADS")
        os.environ.clear()
        os.environ.update(self._environ)
        if (wanted := os.environ.get("OMP_NUM_THREADS")) and wanted != threads:
            import torch  # its threads were counted when it was imported, before vLLM set the variable

            torch.set_num_threads(int(wanted))
        super().run()


class _Forking(multiprocessing.context.ForkServerContext):
    Process = _Inheriting


def _fork_what_vllm_spawns() -> None:
    """Let vLLM fork its engine core, too: from a process that is forked here, while there is one thread, and only waits.

    Python's own fork server does it, but forked where it would be executed. Where vLLM needs a new program, it spawns as ever,
    and the log says why.
    """
    holders = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("vllm.") and callable(vars(module).get("get_mp_context"))
    ]
    if not holders:
        print("labkit: this vLLM has no get_mp_context: its engine core is spawned, and imports vLLM again", file=sys.stderr)
        return

    def context(ask: Callable[[], object]) -> object:
        chosen = ask()
        if why := _must_spawn():
            print(f"labkit: vLLM spawns a process, which imports vLLM again: {why}", file=sys.stderr)
            return chosen
        return _Forking()

    for module in holders:
        module.get_mp_context = functools.partial(context, module.get_mp_context)  # type: ignore[attr-defined]
    resource_tracker.ensure_running()
    util: Any = multiprocessing.util
    execute = util.spawnv_passfds
    before = _open_descriptors()

    def fork(_path: str, argv: Sequence[str], descriptors: Sequence[int]) -> int:
        if pid := os.fork():
            return pid
        try:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it goes with the worker, not before
            for opened in _open_descriptors() - before - set(descriptors):
                os.close(opened)  # the worker's end of the pipe that tells of its death, above all
            util.spawnv_passfds = execute
            _share_fork_server(descriptors[0])
            exec(argv[-1], {})  # the program that Python would have executed with -c
        finally:
            os._exit(0)

    util.spawnv_passfds = fork
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = execute


def _share_fork_server(listener: int) -> None:
    """Let the engine core, too, have its processes forked from this one: Python would start another fork server there.

    The lock is held by the thread that forks here, and would never be given up in this process.
    """
    server: Any = forkserver._forkserver
    with socket.socket(fileno=os.dup(listener)) as listening:
        server._forkserver_address = listening.getsockname()
    server._lock = threading.Lock()
    server.ensure_running = lambda: None


def _open_descriptors() -> set[int]:
    listed = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return {number for number in listed if os.path.exists(f"/proc/self/fd/{number}")}  # noqa: PTH110  (less that of the listing)


def _must_spawn() -> str | None:
    """Why vLLM's process cannot be one that was forked before; ``None`` where it can."""
    if method := _WANTED_METHOD:
        return f"VLLM_WORKER_MULTIPROC_METHOD={method} is set"
    if any(word.startswith("--numa-bind") for word in sys.argv):
        return "--numa-bind starts it through another program"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" and os.environ.get("VLLM_CPU_OMP_THREADS_BIND") != "nobind":
        return "VLLM_CPU_OMP_THREADS_BIND takes effect only where OpenMP is loaded anew"
    return _not_preloaded()


def _not_preloaded() -> str | None:
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123
        mapped = maps.read()
    for library in filter(None, os.environ.get("LD_PRELOAD", "").split(":")):
        if os.path.realpath(library) not in mapped:
            return f"{library} is to be preloaded"
    return None


def _size_cpu_cache() -> None:
    """Give vLLM's CPU backend the asked bytes of KV cache; a version that knows whole GiB alone has them rounded up."""
    wanted, gib = os.environ.pop("LABKIT_CPU_KV_BYTES", ""), os.environ.get("VLLM_CPU_KVCACHE_SPACE")
    if not wanted or gib != str(-(-int(wanted) // 2**30)):  # not asked for, or overruled
        return
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    with open(os.path.join(os.path.dirname(spec.origin), "v1", "worker", "cpu_worker.py"), encoding="utf-8") as source:  # noqa: PTH118, PTH120, PTH123
        takes_bytes = "kv_cache_memory_bytes" in source.read()
    if takes_bytes:
        del os.environ["VLLM_CPU_KVCACHE_SPACE"]  # it would win
        sys.argv[1:1] = ["--kv-cache-memory-bytes", wanted]
    else:
        print(f"labkit: this vLLM's KV cache is of whole GiB: {gib} GiB for {wanted} bytes", file=sys.stderr)


def become(program: str, *, imports_of: str) -> None:
    """Go on as ``python -m program``; with ``--fork-server``, in a fork that finds imported what ``imports_of`` imports."""
    import runpy
    import warnings

    warnings.simplefilter("ignore", DeprecationWarning)
    if sys.argv[1:] == ["--fork-server"]:
        _preload_allocator()
        forking = _forking()
        sys.argv[1:] = forking.serve(lambda: _import_engine(forking, imports_of))
        # From here on this is a worker.
        if pin := os.environ.get("LABKIT_PIN_CORES"):
            _pin({int(core) for core in pin.split(",")})
        _fork_what_vllm_spawns()
    _size_cpu_cache()
    # Without alter_sys the script that was started stays the main module, which is what spawned processes import again.
    runpy.run_module(program, run_name="__main__")


_here = [os.path.dirname(path(__file__)) for path in (os.path.abspath, os.path.realpath)]  # noqa: PTH120
sys.path[:] = [entry for entry in sys.path if entry not in _here]  # its neighbours are named after the engines
if delay := os.environ.get("LABKIT_NIXL_POLL_US"):
    sys.meta_path.insert(0, _SlowerProgressThread(int(delay)))
if pin := os.environ.get("LABKIT_PIN_CORES"):
    _pin({int(core) for core in pin.split(",")})

if __name__ == "__main__":
    become(_SERVER, imports_of=_SERVER)
