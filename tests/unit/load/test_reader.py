"""The instants are the kernel's: whatever this process does meanwhile, and whatever happens to the wall clock."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
import threading
from collections.abc import Callable
from time import perf_counter_ns, time_ns

import pytest

from labkit.load import reader
from labkit.load.reader import Reader
from tests.support.waiting import open_files

BUSY_NS = 60_000_000


class Kept:
    """Keeps what it receives; ``until`` waits for a condition on it."""

    def __init__(self) -> None:
        self.reads: list[tuple[bytes, int]] = []
        self.losses: list[tuple[Exception | None, int]] = []
        self._changed = asyncio.Event()

    def take(self, data: bytes, t_ns: int) -> None:
        self.reads.append((data, t_ns))
        self._changed.set()

    def lost(self, error: Exception | None, t_ns: int) -> None:
        self.losses.append((error, t_ns))
        self._changed.set()

    @property
    def data(self) -> bytes:
        return b"".join(data for data, _ in self.reads)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def take(owners: list[Kept], reads: list[bytes], t_ns: list[int]) -> None:
    for owner, data, at in zip(owners, reads, t_ns, strict=True):
        owner.take(data, at)


@contextlib.asynccontextmanager
async def pair(stamped: bool = True, late_acks: bool = False):
    """``(reader, receiver, connection, the server's end)``."""
    receiver, listener = Kept(), socket.create_server(("127.0.0.1", 0))
    readers = Reader(take, stamped=stamped, late_acks=late_acks)
    try:
        connection = await readers.connect("127.0.0.1", listener.getsockname()[1], receiver)
        with listener, listener.accept()[0] as far:
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield readers, receiver, connection, far
    finally:
        readers.close()


def work(for_ns: int) -> int:
    """Keep this thread, and so the event loop, busy; the instant of the end."""
    end = perf_counter_ns() + for_ns
    while (now := perf_counter_ns()) < end:
        pass
    return now


@pytest.mark.parametrize("stamped", [True, False])
def test_a_busy_process_does_not_move_the_instants(stamped):
    async def read():
        async with pair(stamped) as (_, receiver, _, far):
            before = perf_counter_ns()
            far.send(b"token")
            after = perf_counter_ns()
            free = work(BUSY_NS)
            await receiver.until(lambda: receiver.reads)
            return before, after, free, receiver.reads

    before, after, free, [(data, t_ns)] = asyncio.run(read())
    assert data == b"token"
    if stamped:
        assert before - 50_000 <= t_ns < after + BUSY_NS // 2
    else:
        assert t_ns >= free


def test_the_first_read_of_each_reader_has_the_kernels_instant():
    """Without a socket that asks for stamps the kernel makes none, and it begins a moment after one asks."""

    async def read():
        async with pair() as (_, receiver, _, far):
            before = perf_counter_ns()
            far.send(b"token")
            free = work(3_000_000)
            await receiver.until(lambda: receiver.reads)
        work(10_000_000)  # the kernel is done with switching it off
        return before, receiver.reads[0][1], free

    for before, t_ns, free in [asyncio.run(read()) for _ in range(40)]:
        assert before - 50_000 <= t_ns < free


def test_a_kernel_that_does_not_stamp_is_found_out_at_the_start(monkeypatch):
    monkeypatch.setattr(reader, "_SO_TIMESTAMPNS", socket.SO_KEEPALIVE)
    monkeypatch.setattr(reader, "_SWITCHED_ON_S", 0.01)

    async def read():
        held = open_files()
        async with pair() as (readers, receiver, _, far):
            far.send(b"token")
            free = work(3_000_000)
            await receiver.until(lambda: receiver.reads)
        return readers._stamped, receiver.reads[0][1] >= free, open_files() - held

    assert asyncio.run(read()) == (False, True, 0)


def test_a_wall_clock_that_is_set_does_not_move_the_instants(monkeypatch):
    async def read():
        async with pair() as (_, receiver, _, far):
            far.send(b"one")
            await receiver.until(lambda: len(receiver.reads) == 1)
            shift = 3_600_000_000_000
            monkeypatch.setattr(reader, "time_ns", lambda: time_ns() + shift)
            start = perf_counter_ns()
            far.send(b"two")
            await receiver.until(lambda: len(receiver.reads) == 2)
            return start, perf_counter_ns(), receiver.reads[1][1]

    start, end, t_ns = asyncio.run(read())
    assert start <= t_ns <= end


def test_a_busy_reader_pauses_and_delivers_everything_in_order(monkeypatch):
    monkeypatch.setattr(reader, "_BUSY_HZ", 1)
    monkeypatch.setattr(reader, "_JUDGE_NS", 1)
    monkeypatch.setattr(reader, "_PAUSE_OF_GAP", 1e6)

    async def read():
        async with pair() as (readers, receiver, _, far):
            pauses = set()
            for number in range(50):
                far.send(struct.pack("!I", number))
                await receiver.until(lambda wanted=number: len(receiver.data) == 4 * (wanted + 1))
                pauses.add(readers._pause is not None)
            monkeypatch.setattr(reader, "_BUSY_HZ", 10**12)
            async with asyncio.timeout(20):
                while readers._pause is not None:
                    await asyncio.sleep(0)
            far.send(b"at ease")
            await receiver.until(lambda: receiver.data.endswith(b"at ease"))
            return pauses, receiver

    pauses, receiver = asyncio.run(read())
    assert True in pauses
    assert receiver.data == b"".join(struct.pack("!I", number) for number in range(50)) + b"at ease"
    instants = [t_ns for _, t_ns in receiver.reads]
    assert instants == sorted(instants)


@pytest.mark.parametrize(
    ("streams", "reads", "pause_s"),
    [(250, 250, 0.002), (2000, 1000, 0.004), (2000, 400, 0.005), (20, 200, 0.0), (1000, 30, 0.0)],
)
def test_a_pause_is_a_tenth_of_the_time_between_two_chunks_of_a_stream(monkeypatch, streams, reads, pause_s):
    async def judge():
        readers = Reader(take)
        start = readers._since_ns
        monkeypatch.setattr(reader, "perf_counter_ns", lambda: start + 20_000_000)
        monkeypatch.setattr(readers, "_open", dict.fromkeys(range(streams)))
        readers._reads = reads
        found = readers._judge(), readers._judge()
        readers._open = {}
        readers.close()
        return found

    assert asyncio.run(judge()) == (pytest.approx(pause_s), pytest.approx(pause_s))


def test_all_that_is_ready_is_read_before_any_of_it_is_taken():
    async def read():
        rounds: list[list[bytes]] = []
        owners = [Kept(), Kept(), Kept()]

        def keep(whose: list[Kept], reads: list[bytes], t_ns: list[int]) -> None:
            rounds.append(reads)
            take(whose, reads, t_ns)

        readers = Reader(keep)
        with contextlib.ExitStack() as ends, socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            far = []
            for owner in owners:
                await readers.connect("127.0.0.1", port, owner)
                far.append(ends.enter_context(listener.accept()[0]))
            far[0].send(b"a")
            far[2].send(b"c")
            far[1].close()
            await owners[1].until(lambda: owners[1].losses)
            readers.close()
        return rounds, [owner.data for owner in owners]

    rounds, data = asyncio.run(read())
    assert ([sorted(reads) for reads in rounds], data) == ([[b"a", b"c"]], [b"a", b"", b"c"])


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_acknowledgements_are_sent_with_every_read_unless_nobody_waits_for_them(late):
    """What the other end knows to have arrived after two small chunks that were read one after the other."""
    unacked = 24  # of struct tcp_info: eight bytes of states and four fields of four

    async def read():
        async with pair(late_acks=late) as (_, receiver, connection, far):
            connection.write(b"a request")
            far.recv(100)
            left = []
            for number in range(1, 3):
                far.send(b"a token")
                await receiver.until(lambda n=number: len(receiver.reads) == n)
                left.append(int.from_bytes(far.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[unacked:][:4], sys.byteorder))
            return left

    assert asyncio.run(read()) == ([1, 0] if late else [0, 0])


def test_a_long_request_arrives_whole():
    sent = bytes(range(256)) * 40_000

    async def write():
        async with pair() as (_, receiver, connection, far):
            got: list[bytes] = []

            def drain() -> None:
                far.settimeout(20)
                while sum(map(len, got)) < len(sent):
                    got.append(far.recv(1 << 16))
                far.send(b"thanks")

            thread = threading.Thread(target=drain)
            connection.write(sent)
            thread.start()
            await receiver.until(lambda: receiver.reads)
            thread.join()
            return b"".join(got)

    assert asyncio.run(write()) == sent


def test_an_end_is_told_once_and_a_reset_with_its_error():
    async def read(reset: bool):
        async with pair() as (_, receiver, _, far):
            if reset:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            far.close()
            await receiver.until(lambda: receiver.losses)
            return receiver.losses

    [(error, _)] = asyncio.run(read(reset=False))
    assert error is None
    [(error, _)] = asyncio.run(read(reset=True))
    assert isinstance(error, ConnectionResetError)


def test_writing_to_a_connection_that_broke_is_told():
    async def write():
        async with pair() as (_, receiver, connection, far):
            connection.sock.shutdown(socket.SHUT_RDWR)
            connection.write(b"x")
            await receiver.until(lambda: receiver.losses)
            return receiver.losses, far.recv(10)

    [(error, _)], rest = asyncio.run(write())
    assert (error.errno, rest) == (errno.EPIPE, b"")


def test_what_is_dropped_says_nothing_and_leaves_no_descriptor():
    async def drop():
        held = open_files()
        async with pair() as (_, receiver, connection, _):
            connection.abort()
            connection.abort()
        return receiver.losses, open_files() - held

    assert asyncio.run(drop()) == ([], 0)


def test_nobody_listening_raises_and_leaves_no_descriptor():
    async def connect():
        readers, held = Reader(take), open_files()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            await readers.connect("127.0.0.1", port, Kept())
        left = open_files() - held
        readers.close()
        return left

    assert asyncio.run(connect()) == 0
