"""The cause and the remedy from real ends of real logs (vLLM 0.31, vllm-router 0.1.17), shortened."""

from __future__ import annotations

import signal

import pytest

from labkit.serve.engines.failures import explain

KV_TOO_SMALL = """\
(EngineCore pid=30163) ERROR 11-23 18:11:30 [core.py:1433]     raise ValueError(
(EngineCore pid=30163) ERROR 11-23 18:11:30 [core.py:1433] ValueError: To serve at least one request with the model's max seq \
len (999999), (7.63 GiB KV cache is needed, which is larger than the available KV cache memory (1.0 GiB). Try increasing \
`gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.
(EngineCore pid=30163) Process EngineCore:
(EngineCore pid=30163) Traceback (most recent call last):
  File "/opt/engines/lib/python3.11/site-packages/vllm/v1/engine/utils.py", line 1348, in wait_for_engine_startup
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
/opt/python/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked \
shared_memory objects to clean up at shutdown
  warnings.warn('resource_tracker: There appear to be %d '
"""
VALIDATION = """\
  File "/opt/engines/lib/python3.11/site-packages/pydantic/_internal/_dataclasses.py", line 121, in __init__
    s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (999999) is greater than the derived max_model_len (max_position_embeddings=8192.0 \
or model_max_length=None in model's config.json). To allow overriding this maximum, set the env var \
VLLM_ALLOW_LONG_MAX_MODEL_LEN=1.
    For further information visit https://errors.pydantic.dev/2.13/v/value_error
"""
ARGPARSE = """\
                     [--enable-log-requests | --no-enable-log-requests]
                     [model_tag]
api_server.py: error: unrecognized arguments: --no-such-flag
"""
BUSY = """\
(APIServer pid=1) INFO 11-23 18:03:52 [api_utils.py:286] non-default args: {'host': '127.0.0.1'}
    sock = create_server_socket(sock_addr, reuse_port=reuse_port)
    sock.bind(addr)
OSError: [Errno 98] Address already in use
"""
OUT_OF_MEMORY = """\
(EngineCore pid=7) ERROR 11-23 18:11:30 [core.py:1433] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 14.00 GiB. \
GPU 0 has a total capacity of 79.19 GiB of which 2.11 GiB is free.
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. \
Failed core proc(s): {'EngineCore_DP0': 1}
"""
GPU_TAKEN = (
    "(EngineCore pid=9) ValueError: Free memory on device cuda:0 (10.2/79.2 GiB) on startup is less than desired GPU memory "
    "utilization (0.92, 72.9 GiB).\n"
)
COLOURS = (
    "\x1b[0;36m(EngineCore pid=4)\x1b[0;0m \x1b[31mERROR\x1b[0m 11-23 18:11:30 [core.py:1] "
    "ModuleNotFoundError: No module named 'nixl'\n"
)
KERNELS = """\
(APIServer pid=36) WARNING 11-25 18:11:08 [cpu.py:625] Failed to import from vllm._C: ImportError('libnuma.so.1: cannot open \
shared object file: No such file or directory')
(EngineCore pid=67) ERROR 11-25 18:11:33 [core.py:1433]     raise AttributeError(
(EngineCore pid=67) ERROR 11-25 18:11:33 [core.py:1433] AttributeError: '_OpNamespace' '_C' object has no attribute \
'init_cpu_memory_env'
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
AT_THE_END = """\
ValueError: the cause
Exception ignored in: <function Socket.__del__ at 0x7f>
Exception in thread Thread-4:
(APIServer pid=3) vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace \
above for the root cause.
"""


@pytest.mark.parametrize(
    ("log", "code", "cause", "remedy"),
    [
        (KV_TOO_SMALL, 1, "ValueError: To serve at least one request", "does not fit"),
        (OUT_OF_MEMORY, 1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 14.00 GiB", "does not fit"),
        (GPU_TAKEN, 1, "ValueError: Free memory on device cuda:0", "does not fit"),
        (VALIDATION, 1, "max_model_len (999999) is greater than the derived max_model_len", "lower max_model_len"),
        (ARGPARSE, 2, "error: unrecognized arguments: --no-such-flag", "extra_args"),
        ("api_server.py: error: argument --port: invalid int value: 'x'\n", 2, "error: argument --port: invalid", "extra_args"),
        (BUSY, 1, "OSError: [Errno 98] Address already in use", "holds the port"),
        (COLOURS, 1, "ModuleNotFoundError: No module named 'nixl'", "make setup"),
        (AT_THE_END, 1, "ValueError: the cause", "read the whole log"),
        ("RuntimeError: CUDA error: no kernel image is available for execution\n", 1, "RuntimeError: CUDA", "labkit doctor"),
        ("OSError: [Errno 28] No space left on device: '/dev/shm/x'\n", 1, "OSError", "is full"),
        (KERNELS, 1, "has no attribute 'init_cpu_memory_env'", "labkit doctor"),
        ("(Worker_TP0 pid=8) AssertionError: 14 is not divisible by 4\n", 1, "AssertionError: 14", "TP degree"),
        ("", -signal.SIGKILL, "it was killed by SIGKILL", "out-of-memory killer"),
        ("INFO all well\n", -signal.SIGILL, "it was killed by SIGILL", "float32"),
        ("INFO all well\n", 0, "it exited with code 0 and no error in its log", "read the whole log"),
        ("", 101, "it exited with code 101 and no error in its log", "read the whole log"),
        ("", None, "it ended without a word", "read the whole log"),
        ("", -99, "it was killed by signal 99", "read the whole log"),
    ],
)
def test_cause_and_remedy(log: str, code: int | None, cause: str, remedy: str):
    found = explain(log, code)
    assert cause in found.cause
    assert remedy in found.remedy
    assert "\x1b" not in found.cause
    assert "pid=" not in found.cause
    assert "\n" not in found.cause


def test_words_about_errors_are_no_cause():
    log = "WARNING 11-23 18:03:52 [x.py:1] Found ulimit of 20000; can cause fd limit errors like `OSError: [Errno 24]`\n"
    assert explain(log, 1).cause == "it exited with code 1 and no error in its log"
