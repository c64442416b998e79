"""Inside a load shard's process: orders from stdin, segments on disk, messages on stdout."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import secrets
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import uvloop

from labkit.errors import LabError
from labkit.load.feed import Tap
from labkit.load.shard import Shard
from labkit.load.target import Target
from labkit.measure.records import CHUNKS, REQUESTS
from labkit.spec import Workload
from labkit.store.segments import SegmentWriter

_STDIN, _STDOUT = 0, 1
_DROPPABLE: Final = "progress"
_MOST_WAITING: Final = 64
_LAST_WORDS_S: Final = 2.0
#: With the half second that rows wait in the shard: no record is lost that is a second old, however this process ends.
_FLUSH_S: Final = 0.4


class Voice:
    """Writes JSON lines to a pipe without ever waiting for its reader: what it does not take is kept, progress is dropped."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waiting: deque[bytes] = deque()
        self._mute = False
        os.set_blocking(fd, False)

    def say(self, message: dict[str, Any]) -> None:
        """Send a message as soon as there is room."""
        if message["said"] == _DROPPABLE and len(self._waiting) >= _MOST_WAITING:
            return
        self._waiting.append(json.dumps(message).encode() + b"\n")
        self.push()

    def push(self) -> bool:
        """Write what waits; whether nothing is left."""
        while self._waiting and not self._mute:
            try:
                written = os.write(self._fd, self._waiting[0])
            except BlockingIOError:
                return False
            except OSError:
                self._mute = True  # nobody listens any more
                break
            if written == len(self._waiting[0]):
                self._waiting.popleft()
            else:
                self._waiting[0] = self._waiting[0][written:]
        return True


def serve(run_dir: Path, shard: int, feed: int) -> int:
    """Obey orders until stdin ends; returns the exit code. ``feed`` is the descriptor that takes the live copy.

    Raises:
        StoreError: the segments cannot be made.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    segments = run_dir / "segments"
    with (
        SegmentWriter(segments / f"chunks-shard{shard}.arrows", CHUNKS, flush_s=_FLUSH_S) as chunks,
        SegmentWriter(segments / f"requests-shard{shard}.arrows", REQUESTS, flush_s=_FLUSH_S, after=chunks) as requests,
    ):
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # a full collection in the middle of a burst would stamp its reads late
        return uvloop.run(_obey(shard, requests, chunks, Tap(feed, shard)))


async def _obey(number: int, requests: SegmentWriter, chunks: SegmentWriter, tap: Tap) -> int:
    voice = Voice(_STDOUT)
    shard = Shard(shard=number, requests=requests, chunks=chunks, say=voice.say, nonce=secrets.token_hex(4), tap=tap)
    orders: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, orders.put_nowait, None)
    threading.Thread(target=_listen, args=(loop, orders.put_nowait), daemon=True).start()
    voice.say({"said": "ready", "pid": os.getpid()})
    running: set[asyncio.Task[None]] = set()
    while (order := await orders.get()) is not None:
        try:
            match order["do"]:
                case "target":
                    shard.target(order["epoch"], Target.from_dict(order["target"]))
                case "run":
                    running.add(task := asyncio.create_task(_run(shard, order, voice)))
                    task.add_done_callback(running.discard)
                    await asyncio.sleep(0)  # let it begin, so that a stop right behind it finds something to stop
                case "watch":
                    shard.watch(order["number"])
                case "finish":
                    shard.finish(order["measurement"])
                case "stop":
                    shard.stop(order["measurement"])
        except LabError as error:
            voice.say({"said": "error", "do": order["do"], "what": error.what, "remedy": error.remedy})
    shard.stop()
    if running:
        await asyncio.wait(running)
    shard.close()
    deadline = loop.time() + _LAST_WORDS_S
    while not voice.push() and loop.time() < deadline:
        await asyncio.sleep(0.05)
    return 0


async def _run(shard: Shard, order: dict[str, Any], voice: Voice) -> None:
    failed = {"said": "error", "do": "run", "measurement": order["measurement"]}
    try:
        result = await shard.run(
            order["measurement"],
            Workload.from_dict(order["workload"]),
            first_request=order["first_request"],
            shards=order["shards"],
            start_ns=order["start_ns"],
        )
    except LabError as error:
        voice.say({**failed, "what": error.what, "remedy": error.remedy})
    except Exception as error:  # the parent must not wait for an end that never comes
        traceback.print_exc()
        what = f"the load client failed: {type(error).__name__}: {error}"
        voice.say({**failed, "what": what, "remedy": "its traceback is in the shard's log, logs/load-shard*.log"})
    else:
        voice.say({"said": "result", "measurement": order["measurement"], **asdict(result)})


def _listen(loop: asyncio.AbstractEventLoop, put: Callable[[dict[str, Any] | None], None]) -> None:
    """Blocks on stdin in a thread of its own: any kind of stdin will do. (``sys.stdin`` would hold a lock at exit.)"""
    waiting = b""
    with contextlib.suppress(RuntimeError):  # the loop is closed: the process is going
        with contextlib.suppress(ValueError, OSError):
            while data := os.read(_STDIN, 65536):
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    loop.call_soon_threadsafe(put, json.loads(line))
        loop.call_soon_threadsafe(put, None)
