"""A fork server of stand-ins: its workers are as those that are executed, and whoever dies, nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from labkit.errors import LaunchError
from labkit.serve import fork_server
from labkit.serve.engines.base import Command, EngineOptions, Place
from labkit.serve.fork_server import ForkServer, ForkServers, NoFork
from labkit.serve.hardware import assign
from labkit.serve.hosts import LocalHost
from labkit.serve.pool import Pool
from labkit.serve.processes import ProcessTree
from tests.support import fake_worker
from tests.support.fake_engine import MODEL, FakeEngine, fake_command, fake_node
from tests.support.trees import Start, parent_of, scratch_of
from tests.support.waiting import MARK, children_in_state, marked, open_files, until

ROOT = Path(__file__).parents[3]


def command(mark: str, *options: str) -> Command:
    return Command((sys.executable, fake_worker.__file__, "--fork-server", *options), {MARK: mark})


@pytest.fixture
def server(mark: str, tmp_path: Path) -> Iterator[ForkServer]:
    server = ForkServer(command(mark), tmp_path / "fork-server.log")
    yield server
    server.close()


@pytest.fixture
def fork(server: ForkServer, start: Start) -> Start:
    return partial(start, by=server.start)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_forked_tree_has_all_that_an_executed_one_has(fork: Start, server: ForkServer, mark: str):
    tree, other = fork(), fork()
    assert tree.pid != other.pid
    assert os.getsid(tree.pid) == tree.pid
    assert len({os.getsid(pid) for pid in (tree.pid, other.pid, server.tree.pid, os.getpid())}) == 4
    scratch = scratch_of(tree.pid)
    assert scratch == tree.scratch
    assert scratch.is_dir()
    assert len({tree.scratch, other.scratch, server.tree.scratch}) == 3
    streams = [str(Path(f"/proc/{tree.pid}/fd/{n}").readlink()) for n in range(3)]
    assert streams == ["/dev/null", str(tree.log), str(tree.log)]
    guard = Path(f"/proc/{parent_of(tree.pid)}/cmdline").read_bytes().split(b"\0")
    assert [word for word in guard if b"supervisor.py" in word]
    assert not Path(f"/proc/{parent_of(tree.pid)}/environ").read_bytes().count(str(scratch).encode())
    tree.stop()
    assert (tree.alive, tree.exit, scratch.exists()) == (False, -signal.SIGTERM, False)
    assert other.alive
    assert server.alive


def test_variables_and_arguments_are_each_workers_own(server: ForkServer, mark: str, tmp_path: Path):
    (tmp_path / "say.txt").write_text("said by this one")
    argv = fake_command("idle", "--say", str(tmp_path / "say.txt"), "--exit", "3")
    tree = ProcessTree("t", argv, env={MARK: mark, "A": "1"}, log=tmp_path / "t.log", start=server.start)
    assert tree.wait(10)
    assert tree.exit == 3
    assert "said by this one" in tree.log_tail()
    assert "--say" in tree.argv


@pytest.mark.parametrize("code", [0, 3, -signal.SIGILL])
def test_its_exit_is_told(fork: Start, code: int):
    tree = fork("--exit", str(code))
    assert tree.wait(10)
    assert tree.exit == code


def test_what_ignores_term_in_a_session_of_its_own_is_gone_too(fork: Start, mark: str):
    tree = fork("--grandchild", "--ignore-term")
    until(lambda: "grandchild" in tree.log_tail(), "the grandchild")
    before = marked(mark)
    tree.stop()
    assert len(before - marked(mark)) == 3, "supervisor, root and grandchild"
    assert tree.exit == -signal.SIGKILL


def test_a_killed_root_is_known_with_its_signal_and_its_segment_and_orphans_go(fork: Start, mark: str):
    segment = Path("/dev/shm") / f"labkit-test-{mark}"
    tree = fork("--grandchild", "--shm", segment.name)
    until(lambda: "grandchild" in tree.log_tail() and segment.exists(), "the grandchild and the segment")
    tree.stop()
    assert not segment.exists()
    tree = fork("--grandchild")
    until(lambda: "grandchild" in tree.log_tail(), "the grandchild")
    os.kill(tree.pid, signal.SIGKILL)
    until(lambda: not tree.alive, "the end of the root")
    assert tree.exit == -signal.SIGKILL
    assert tree.wait(10)


def test_a_killed_supervisor_takes_its_tree_along_and_no_other(fork: Start, server: ForkServer):
    tree, other = fork("--grandchild", "--ignore-term"), fork()
    until(lambda: "grandchild" in tree.log_tail(), "the grandchild")
    (grandchild,) = {
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and alive(int(entry.name)) and parent_of(int(entry.name)) == tree.pid
    }
    os.kill(parent_of(tree.pid), signal.SIGKILL)
    assert tree.wait(10)
    assert not alive(grandchild), "a session of its own does not hide it: it carries the tree's TMPDIR"
    assert not tree.scratch.exists()
    assert other.alive
    assert server.alive


def test_workers_outlive_a_fork_server_that_is_killed(fork: Start, server: ForkServer, mark: str):
    tree = fork()
    os.kill(server.tree.pid, signal.SIGKILL)
    until(lambda: not server.alive, "the death of the fork server")
    assert tree.alive
    with pytest.raises(NoFork, match="does not take requests"):
        ProcessTree("t", fake_command("idle"), env={}, log=tree.log.with_name("again.log"), start=server.start)
    tree.stop()
    assert tree.exit == -signal.SIGTERM
    until(lambda: not marked(mark), "the end of the fork server's guardian, which waited for the worker")


def test_workers_outlive_the_fork_servers_supervisor(fork: Start, server: ForkServer):
    tree = fork()
    os.kill(parent_of(server.tree.pid), signal.SIGKILL)
    until(lambda: not server.alive, "the death of the fork server")
    assert server.tree.wait(10)
    assert tree.alive
    tree.stop()
    assert tree.exit == -signal.SIGTERM


def test_closing_the_fork_server_does_not_end_a_worker(mark: str, tmp_path: Path):
    server = ForkServer(command(mark), tmp_path / "fork-server.log")
    tree = ProcessTree("t", fake_command("idle"), env={MARK: mark}, log=tmp_path / "t.log", start=server.start)
    server.close()
    assert not server.tree.scratch.exists()
    assert tree.alive
    tree.stop()
    assert tree.exit == -signal.SIGTERM
    until(lambda: not marked(mark), "the end of the fork server's guardian")


def test_a_killed_lab_leaves_nothing(mark: str, tmp_path: Path):
    code = f"""
import signal, sys
from pathlib import Path
from labkit.errors import LaunchError
from labkit.serve import fork_server
from labkit.serve.engines.base import Command
from labkit.serve.fork_server import ForkServer
from labkit.serve.processes import ProcessTree
server = ForkServer(Command({command(mark).argv!r}, {{{MARK!r}: {mark!r}}}), Path({str(tmp_path / "server.log")!r}))
trees = [ProcessTree("t", {fake_command("idle", "--grandchild", "--ignore-term")!r}, env={{}},
                     log=Path({str(tmp_path)!r}) / f"t{{n}}.log", grace_s=0.3, start=server.start) for n in range(2)]
print(*[tree.scratch for tree in (server.tree, *trees)], flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, text=True) as lab:
        assert lab.stdout is not None
        folders = [Path(word) for word in lab.stdout.readline().split()]
        until(lambda: all("\nidle" in (tmp_path / f"t{n}.log").read_text() for n in range(2)), "the trees")
        assert all(folder.is_dir() for folder in folders)
        lab.kill()
    until(lambda: not marked(mark), "the end of everything", 20.0)
    assert not any(folder.exists() for folder in folders)


def test_no_descriptor_and_no_zombie_stays(fork: Start, server: ForkServer):
    fork("--exit", "0").wait(10)
    here, there = open_files(), len(list(Path(f"/proc/{server.tree.pid}/fd").iterdir()))
    for tree in [fork(), fork("--exit", "1"), fork()]:
        tree.stop()
    until(lambda: open_files() <= here, "the closing of the pipes")
    until(lambda: len(list(Path(f"/proc/{server.tree.pid}/fd").iterdir())) <= there, "the same in the fork server")
    assert not children_in_state("Z")
    children = Path(f"/proc/{server.tree.pid}/task/{server.tree.pid}/children")
    until(lambda: not children.read_text(), "the reaping of the supervisors")


@pytest.mark.parametrize(
    ("option", "why"),
    [("--thread", "2 threads run"), ("--fail", "No module named 'fake_engine_core'")],
)
def test_one_that_cannot_fork_says_why(mark: str, tmp_path: Path, option: str, why: str):
    files = open_files()
    with pytest.raises(NoFork) as raised:
        ForkServer(command(mark, option), tmp_path / "fork-server.log")
    assert why in raised.value.what
    assert str(tmp_path / "fork-server.log") in raised.value.remedy
    assert not marked(mark)
    until(lambda: open_files() <= files, "the closing of pipes and sockets")


def test_its_socket_is_gone_once_the_lab_is_connected(server: ForkServer):
    assert server.tree.scratch.stat().st_mode & 0o777 == 0o700
    assert list(server.tree.scratch.iterdir()) == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other, pytest.raises(FileNotFoundError):
        other.connect(str(server.tree.scratch / "fork.sock"))


def test_a_request_that_is_too_long_is_refused_and_the_next_is_served(fork: Start, server: ForkServer, mark: str, tmp_path: Path):
    with pytest.raises(NoFork, match="does not take requests"):
        ProcessTree("t", fake_command("idle"), env={"LONG": "x" * 2**21}, log=tmp_path / "t.log", start=server.start)
    assert fork().alive


# In a pool


@pytest.fixture
def pooled(engine: FakeEngine, tmp_path: Path) -> Iterator[Callable[..., tuple[Pool, list[str]]]]:
    made: list[tuple[Pool, ForkServers]] = []

    def begin(**environ: str) -> tuple[Pool, list[str]]:
        said: list[str] = []
        servers = ForkServers(tmp_path / "logs", said.append, environ)
        pool = Pool(
            engine, MODEL, logs=tmp_path / "logs", otlp_endpoint=None, progress=said.append,
            ready_timeout_s=20.0, hosts=LocalHost(fake_node(), servers, said.append),
        )  # fmt: skip
        made.append((pool, servers))
        pool.start([Place(f"w{n}", 1, held) for n, held in enumerate(assign([1, 1], fake_node()))], EngineOptions())
        return pool, said

    yield begin
    for pool, servers in made:
        pool.close()
        servers.close()
        assert not marked(engine.mark), "closed is ended, down to the supervisors of fork servers that were given up"


def test_a_pool_forks_its_workers_from_one_server_and_again_later(
    pooled: Callable[..., tuple[Pool, list[str]]], engine: FakeEngine
):
    engine.forks = ()
    pool, said = pooled()
    assert [worker.forked for worker in pool.workers] == [True, True]
    assert said[0] == "fork server: imports the engine, once for all workers"
    assert said[1].startswith("fork server: ready after ")
    first = pool.workers[1]
    os.kill(first.tree.pid, signal.SIGKILL)
    until(lambda: pool.dead, "the death")
    pool.start([Place("w1", 1, first.spec.devices)], EngineOptions())
    again = pool.workers[1]
    assert (again.forked, again.spec.port, again.tree.log.name, pool.dead) == (True, first.spec.port, "w1-2.log", ())
    assert sum("imports the engine" in line for line in said) == 1


@pytest.mark.parametrize(
    ("forks", "environ", "says"),
    [
        (("--thread",), {}, "not used, workers import the engine themselves: 2 threads run"),
        (("--fail",), {}, "No module named 'fake_engine_core'"),
        (("--crash",), {}, "not used any more, workers import the engine themselves: w"),
        ((), {"LABKIT_FORK_SERVER": "0"}, None),
        (None, {}, None),
    ],
)
def test_the_plain_way_is_the_fall_back_and_is_told(
    pooled: Callable[..., tuple[Pool, list[str]]],
    engine: FakeEngine,
    forks: tuple[str, ...] | None,
    environ: dict[str, str],
    says: str | None,
):
    engine.forks = forks
    pool, said = pooled(**environ)
    assert [worker.forked for worker in pool.workers] == [False, False]
    assert all(worker.tree.alive for worker in pool.workers)
    told = [line for line in said if line.startswith("fork server: not used")]
    assert len(told) == (1 if says else 0), said
    if says:
        assert says in told[0]


def test_other_variables_get_another_server_and_the_workers_of_the_first_go_on(
    pooled: Callable[..., tuple[Pool, list[str]]], engine: FakeEngine
):
    engine.forks = ()
    pool, said = pooled()
    first = {worker.name: worker.tree.pid for worker in pool.workers}
    engine.forks = ("--other",)
    pool.start([Place("w2", 1, assign([1, 1, 1], fake_node())[2])], EngineOptions())
    assert [worker.forked for worker in pool.workers] == [True] * 3
    assert {worker.name: worker.tree.pid for worker in pool.living[:2]} == first
    assert sum("imports the engine" in line for line in said) == 2
    servers = {pid for pid in marked(engine.mark) if b"--spare" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")}
    assert len(servers) == 2, "the guardian of the first waits for its workers"
    pool.stop(["w0", "w1"])
    until(lambda: not alive(min(servers)), "the end of the first guardian")


def test_an_error_that_the_fork_did_not_cause_is_raised_and_not_tried_again(
    pooled: Callable[..., tuple[Pool, list[str]]], engine: FakeEngine, tmp_path: Path
):
    engine.forks = ()
    engine.faults = {"w1": ["--no-such-flag"]}
    with pytest.raises(LaunchError, match="unrecognized arguments: --no-such-flag"):
        pooled()
    assert len(list((tmp_path / "logs").glob("w1*.log"))) == 1


def root_of_server(pool: Pool, engine: FakeEngine) -> int:
    guard = {pid for pid in marked(engine.mark) if b"--fork-server" in Path(f"/proc/{pid}/cmdline").read_bytes()}
    roots = {worker.tree.pid for worker in pool.workers}
    (server,) = {pid for pid in guard - roots if b"supervisor.py" not in Path(f"/proc/{pid}/cmdline").read_bytes()}
    return server


def test_a_fork_server_that_died_is_replaced(pooled: Callable[..., tuple[Pool, list[str]]], engine: FakeEngine):
    engine.forks = ()
    pool, said = pooled()
    held = pool.workers[0].spec.devices
    server = root_of_server(pool, engine)
    os.kill(server, signal.SIGKILL)
    until(lambda: not alive(server), "the death of the fork server")
    pool.start([Place("w0", 1, held)], EngineOptions())
    assert all(worker.tree.alive and worker.forked for worker in pool.workers)
    assert any("killed by SIGKILL; another one is started" in line for line in said)


def test_a_fork_server_that_hangs_is_given_up(
    pooled: Callable[..., tuple[Pool, list[str]]], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
):
    """A launch waited for it without a word, for as long as it was stopped."""
    engine.forks = ()
    pool, said = pooled()
    monkeypatch.setattr(fork_server, "_ANSWER_S", 0.3)
    server, held = root_of_server(pool, engine), pool.workers[1].spec.devices
    os.kill(server, signal.SIGSTOP)
    pool.stop(["w1"])
    pool.start([Place("w1", 1, held), Place("w2", 1, assign([1, 1, 1], fake_node())[2])], EngineOptions())
    assert [(worker.name, worker.forked, worker.tree.alive) for worker in pool.workers] == [
        ("w0", True, True), ("w1", False, True), ("w2", False, True),
    ]  # fmt: skip
    assert not alive(server)
    assert [line for line in said if "within 0.3 s" in line] == [
        "fork server: not used any more, workers import the engine themselves: the fork server has not forked within 0.3 s"
    ]
