"""The telemetry sampler as a process of its own: ``python -m labkit.lab.telemetry_process``, started by ``TelemetryAgent``.

It writes its own segments, so a slow or dead parent costs pictures, never records. It speaks JSON lines: on stdin the
configuration, then ``{"watch": …}`` and ``{"close": seconds}``; on stdout ``hello``, ``latest`` (dropped when the parent does not
read) and ``progress``. End of file on stdin means that the parent is gone: flush, exit 0. It ignores SIGINT.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from labkit.lab.recorder import Recorder
from labkit.telemetry.sampler import Sampler, WatchedWorker

_LATEST_S: Final = 0.25
_QUIET_S: Final = 0.8  # longer than the workers' span export delay of 0.5 s


class _Outbox:
    """Lines for the parent on a pipe that never blocks: while one line is stuck, ``latest`` lines are dropped."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._waiting = b""

    def send(self, message: Mapping[str, object], *, droppable: bool = False) -> bool:
        """Whether the message was taken."""
        self.push()
        if droppable and self._waiting:
            return False
        if len(self._waiting) < 2**20:
            self._waiting += json.dumps(message).encode() + b"\n"
        self.push()
        return True

    def push(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._fd, self._waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self._waiting = b""  # nobody reads any more


async def _serve(run_dir: Path, config: dict[str, Any], commands: asyncio.StreamReader, outbox: _Outbox) -> None:
    recorder = Recorder(run_dir, "telemetry", outbox.send)
    sampler = Sampler(recorder, **config)
    await sampler.start()
    outbox.send({"hello": sampler.receiver.endpoint})
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    tasks = [asyncio.create_task(_publish(recorder, sampler)), asyncio.create_task(_obey(commands, sampler, ended))]
    await ended.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await sampler.stop()
    recorder.close()
    recorder.tell(sampler.missing)


async def _publish(recorder: Recorder, sampler: Sampler) -> None:
    while True:
        recorder.write()
        recorder.tell(sampler.missing)
        await asyncio.sleep(_LATEST_S)


async def _obey(commands: asyncio.StreamReader, sampler: Sampler, ended: asyncio.Event) -> None:
    """Follow the parent's lines until it closes, or is gone."""
    try:
        while line := await commands.readline():
            message = json.loads(line)
            if "watch" in message:
                workers = [WatchedWorker(**worker) for worker in message["watch"]]
                sampler.watch(workers, message["router"], message["clients"])
            if "close" in message:
                await sampler.settle(_QUIET_S, float(message["close"]))
                return
    finally:
        ended.set()


async def _main() -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=2**22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    config = json.loads(await commands.readline() or b"null")
    if config is not None:
        await _serve(Path(config.pop("run_dir")), config, commands, _Outbox(sys.stdout.fileno()))


def main() -> None:
    """The process: sample until the parent closes or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_main())
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
    # A thread that hangs inside the driver (a lost GPU) must not keep the process: everything is flushed.
    os._exit(0)


if __name__ == "__main__":
    main()
