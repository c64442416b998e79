"""Load clients on one mock server: streamed events per CPU-second, and how near they come to the truth.

Every client is a process tree of its own, pinned to one core, with a fresh server on another. CPU is that of the whole
tree, less that of the same command with four requests of two tokens (its start-up). The bare loop reads what labkit's client
reads, one wake-up after the other, and parses nothing: the limit of such a loop. Clients take turns for ``--repeats`` rounds; the
table shows medians. A client that comes late finds several events of a stream in one read, which is cheap, and its gaps are
wrong: so the error of the fastest peer's ITL stands below its speed. Two shards of labkit on the one core show whether shards add
up: where they do 0.75 of what one does there, two on cores of their own do one and a half times as much. A run of a million
chunks shows what they take of memory (the most that the shard's process ever held, less what it held after its start-up).
2,000 streams with a token every 20 ms are more than a core carries, whoever reads them: every client comes late there, and the
more often it finds several events in one read, the faster it looks. So they are played once more with a token every 160 ms, which
each client can follow.

    python tests/bench/load.py [--streams 250 500 2000 2000@160] [--repeats 1] [--peers FOLDER] [--vllm PYTHON] [--install]

Peers are looked for in ``FOLDER/<name>/bin/<name>``; ``--install`` makes them there with uv. One that is absent gets a row that
says so, and the ratio to the fastest peer is not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import report  # noqa: E402

ISL, OSL, MODEL, VOCAB = 64, 100, "mock", 4096
ITL_MS = 20.0
SERVER_CORE, CLIENT_CORE = 0, 1
PEERS = {"guidellm": "guidellm==0.8.1", "aiperf": "aiperf==0.13.0"}
LOOK = "labkit-probe"  # labkit's requests before its load
MILLION = 1_000_000
ENGLISH = HERE.parents[1] / "labkit/serve/shapes/tokenizer"


@dataclass(frozen=True, slots=True)
class Traffic:
    """So many streams at once, with so much time between the tokens of one."""

    streams: int
    itl_ms: float = ITL_MS

    @classmethod
    def parse(cls, text: str) -> Traffic:
        """``2000`` or ``2000@160``; ValueError where it is neither."""
        streams, _, itl_ms = text.partition("@")
        return cls(int(streams), float(itl_ms or ITL_MS))

    @property
    def requests(self) -> int:
        """So many that a client's start-up, which is subtracted, is small beside them: it takes some seconds and varies."""
        return max(6_000, self.streams * 6) if self.itl_ms <= ITL_MS else self.streams * 2

    def __str__(self) -> str:
        return f"{self.streams} streams" + (f", a token every {self.itl_ms:g} ms" if self.itl_ms != ITL_MS else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One client's run; times in ms, ``None`` where the client does not say."""

    events_per_cpu_s: float
    ttft_mean: float | None = None
    itl_p50: float | None = None
    itl_p99: float | None = None
    truth: tuple[float, float, float] = (0.0, 0.0, 0.0)
    peak_mb: float = 0.0


#: What ``vllm bench serve`` runs; its front door refuses to open in builds that are packaged under another name.
_VLLM_BENCH_SERVE = """
from argparse import ArgumentParser
from vllm.benchmarks import serve
parser = ArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""

# --- the clients ---


def run_labkit(url: str, folder: Path, streams: int, requests: int, osl: int, *, shards: int = 1) -> None:
    """Labkit's client, all of it: the look at the server, the handle, its shards, the records on disk."""
    from labkit.lab.load_fleet import LoadFleet
    from labkit.load.probe import probe_apart
    from labkit.load.target import Target
    from labkit.spec import Workload

    found = probe_apart(Target(url, MODEL, VOCAB), None)
    with LoadFleet.start(folder, shards=shards) as fleet:
        fleet.target(0, url, MODEL, vocab=VOCAB, dialect=found.dialect, writes_at_once=found.writes_at_once)
        result = fleet.run(0, Workload(isl=ISL, osl=osl, concurrency=streams, requests=requests)).wait(900)
        status = Path(f"/proc/{fleet.agents[0].pid}/status").read_text()
        (folder / "peak_kb").write_text(status.split("VmHWM:")[1].split()[0])
    assert result.counts == {"ok": requests}, result.counts


def run_two_shards(url: str, folder: Path, streams: int, requests: int, osl: int) -> None:
    """The same from two processes."""
    run_labkit(url, folder, streams, requests, osl, shards=2)


def read_labkit(folder: Path) -> tuple[float, float, float]:
    from labkit.store.tables import read_table

    requests, chunks = read_table(folder, "requests"), read_table(folder, "chunks")
    assert np.array_equal(np.unique(chunks["tokens"]), [1])
    sent = np.zeros(requests.num_rows, np.int64)
    sent[np.array(requests["request"])] = np.array(requests["sent_ns"])
    return moments(np.array(chunks["request"]), np.array(chunks["t_ns"]), sent)


def run_bare(url: str, _folder: Path, streams: int, requests: int, osl: int) -> None:
    """Epoll and recv on the answers to labkit's requests: nothing is parsed, nothing recorded."""
    from labkit.load.target import Requests, Target
    from labkit.spec import Workload

    build = Requests(Target(url, MODEL, VOCAB), Workload(isl=ISL, osl=osl, concurrency=streams, requests=requests))
    body = build.body("measure", 0)
    data = build.head(body, "bare") + body
    address = ("127.0.0.1", build.target.port)
    poll, sockets, begun, ended = select.epoll(), {}, 0, 0
    while ended < requests:
        while begun < requests and len(sockets) < streams:
            connection = socket.create_connection(address)
            connection.sendall(data)
            connection.setblocking(False)
            poll.register(connection.fileno(), select.EPOLLIN)
            sockets[connection.fileno()] = connection
            begun += 1
        for number, _ in poll.poll():
            if not sockets[number].recv(65536):
                poll.unregister(number)
                sockets.pop(number).close()
                ended += 1


OWN = {"labkit": run_labkit, "2 shards": run_two_shards, "bare": run_bare}


def argv_of(name: str, program: str, url: str, folder: Path, tokenizer: Path, streams: int, requests: int, osl: int) -> list[str]:
    """The command of a client."""
    if name in OWN:
        return [sys.executable, str(Path(__file__)), "--as", name, url, str(folder), str(streams), str(requests), str(osl)]
    if name == "vllm":
        text = f"--backend openai --base-url {url} --endpoint /v1/completions --model {MODEL} --tokenizer {tokenizer} "
        text += f"--dataset-name random --random-input-len {ISL} --random-output-len {osl} --num-prompts {requests} "
        text += f"--max-concurrency {streams} --ignore-eos --percentile-metrics ttft,itl --metric-percentiles 50,99 "
        text += f"--save-result --result-dir {folder} --result-filename result.json --disable-tqdm"
        return [program, "-c", _VLLM_BENCH_SERVE, *text.split()]
    if name == "guidellm":
        text = f"run --backend kind=openai_http,target={url},model={MODEL},request_format=/v1/completions "
        text += f"--profile kind=concurrent,streams={streams} --constraint kind=max_requests,count={requests} "
        text += f"--data kind=synthetic_text,prompt_tokens={ISL},output_tokens={osl} --tokenizer kind=hf_auto,model={ENGLISH} "
        text += f"--output kind=json,path={folder}/result.json --disable-console"
    else:
        text = f"profile --model {MODEL} --url {url} --endpoint-type completions --streaming --concurrency {streams} "
        text += f"--request-count {requests} --isl {ISL} --osl {osl} --tokenizer {tokenizer} --artifact-dir {folder} "
        text += "--ui none --extra-inputs ignore_eos:true"
    return [program, *text.split()]


def read_peer(name: str, folder: Path) -> tuple[float | None, ...]:
    """Mean TTFT, ITL p50 and p99 from a peer's own result file."""
    if name == "vllm":
        told = json.loads((folder / "result.json").read_text())
        return told["mean_ttft_ms"], told["median_itl_ms"], told["p99_itl_ms"]
    if name == "guidellm":
        metrics = json.loads((folder / "result.json").read_text())["benchmarks"][0]["metrics"]
        gaps = metrics["inter_token_latency_ms"]["successful"]
        return metrics["time_to_first_token_ms"]["successful"]["mean"], gaps["percentiles"]["p50"], gaps["percentiles"]["p99"]
    told = json.loads(next(folder.rglob("profile_export_aiperf.json")).read_text())
    return told["time_to_first_token"]["avg"], told["inter_token_latency"]["p50"], told["inter_token_latency"]["p99"]


# --- one run ---


def moments(request: Any, t_ns: Any, start_ns: Any) -> tuple[float, float, float]:
    """Mean TTFT, ITL p50 and p99 in ms, of tokens by request."""
    order = np.lexsort((t_ns, request))
    request, t_ns = request[order], t_ns[order]
    same = request[1:] == request[:-1]
    first = np.concatenate([[True], ~same])
    gaps = np.diff(t_ns)[same] / 1e6
    p50, p99 = np.percentile(gaps, [50, 99]) if len(gaps) else (0.0, 0.0)
    return float(np.mean(t_ns[first] - start_ns[request[first]]) / 1e6), float(p50), float(p99)


def measure(name: str, program: str, tokenizer: Path, traffic: Traffic, requests: int, osl: int) -> tuple[float, Outcome]:
    """One client on a fresh server: CPU seconds of its processes, and what it says beside the truth.

    Raises:
        RuntimeError: the client failed; the end of its output.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, log = Path(scratch) / "out", Path(scratch) / "truth.npz"
        folder.mkdir()
        serve = ["taskset", "-c", str(SERVER_CORE), sys.executable, str(HERE / "mock_server.py"), "--log", str(log)]
        server = subprocess.Popen([*serve, "--model", MODEL, "--itl-ms", str(traffic.itl_ms)], stdout=subprocess.PIPE)
        assert server.stdout is not None
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            argv = argv_of(name, program, url, folder, tokenizer, traffic.streams, requests, osl)
            env = {**os.environ, "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"}
            if name == "aiperf":
                del env["HF_HUB_OFFLINE"]
            with (Path(scratch) / "output").open("w+b") as output:
                client = subprocess.Popen(
                    ["taskset", "-c", str(CLIENT_CORE), *argv], stdout=output, stderr=subprocess.STDOUT, env=env, cwd=folder
                )
                _, status, used = os.wait4(client.pid, 0)
                client.returncode = os.waitstatus_to_exitcode(status)
                if client.returncode:
                    output.seek(0)
                    raise RuntimeError(output.read().decode(errors="replace")[-800:])
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
        with np.load(log) as known:
            counted = ~np.char.startswith(known["request_id"], LOOK)[known["request"]]
            truth = moments(known["request"][counted], known["written_ns"][counted], known["received_ns"])
            events = int(np.count_nonzero(counted))
        said: tuple[float | None, ...] = (None, None, None)
        if osl == OSL and name != "bare":
            said = read_labkit(folder) if name in OWN else read_peer(name, folder)
        peak = folder / "peak_kb"
        peak_mb = int(peak.read_text()) / 1e3 if peak.exists() else 0.0
        return used.ru_utime + used.ru_stime, Outcome(float(events), *said, truth=truth, peak_mb=peak_mb)


def contest(name: str, program: str, tokenizer: Path, traffic: Traffic, requests: int | None = None) -> Outcome:
    """One client's row, start-up subtracted."""
    startup_s, idle = measure(name, program, tokenizer, Traffic(1), 4, 2)
    cpu_s, run = measure(name, program, tokenizer, traffic, requests or traffic.requests, OSL)
    rate = run.events_per_cpu_s / (cpu_s - startup_s)
    return Outcome(rate, run.ttft_mean, run.itl_p50, run.itl_p99, run.truth, run.peak_mb - idle.peak_mb)


# --- the peers ---


def find_peers(folder: Path, vllm: str | None, install: bool) -> dict[str, str | None]:
    """``{name: program}``, ``None`` for those that are not installed."""
    engine = Path(vllm) if vllm else HERE.parents[1] / ".venv/bin/python"
    has_vllm = (
        engine.exists()
        and not subprocess.run(
            [engine, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"], check=False
        ).returncode
    )
    found: dict[str, str | None] = {"vllm": str(engine) if has_vllm else None}
    for name in PEERS:
        program = folder / name / "bin" / name
        if (
            install
            and not program.exists()
            and (uv := shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"))
        ):
            subprocess.run([uv, "venv", "-q", "-p", sys.executable, str(folder / name)], check=False)
            python = str(folder / name / "bin" / "python")
            subprocess.run([uv, "pip", "install", "-q", "--python", python, PEERS[name]], check=False)
        found[name] = str(program) if program.exists() else None
    return found


def make_tokenizer(folder: Path) -> Path:
    """A word-level tokenizer of 4,096 words, the mock server's, which a peer can load from a folder.

    GuideLLM makes its prompts of English text, of which such a tokenizer knows nothing; it gets the bundled shapes' own.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {f"w{number}": number for number in range(VOCAB - 2)} | {"<unk>": VOCAB - 2, "</s>": VOCAB - 1}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 32768}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": VOCAB}))
    return folder


# --- the table ---


def judged(traffic: Traffic, rows: dict[str, Outcome], peers: list[str]) -> list[report.Value]:
    """The values of one stream count, with the targets."""
    tag = str(traffic)
    ours, bare = rows["labkit"], rows["bare"]
    values = [report.Value(f"{name}, {tag}", round(row.events_per_cpu_s), "events per CPU-second") for name, row in rows.items()]
    share = ours.events_per_cpu_s / bare.events_per_cpu_s
    values.append(
        report.Value(f"share of the bare loop, {tag}", round(share, 3), "", "bare epoll + recv", "≥ 0.80", share >= 0.8)
    )
    together = rows["2 shards"].events_per_cpu_s / ours.events_per_cpu_s
    values.append(
        report.Value(f"two shards on a core against one, {tag}", round(together, 3), "", "labkit", "≥ 0.75", together >= 0.75)
    )
    timed = [name for name in peers if name in rows]
    best = max(timed, key=lambda name: rows[name].events_per_cpu_s, default=None)
    ratio = ours.events_per_cpu_s / rows[best].events_per_cpu_s if best else None
    complete = len(timed) == len(peers)
    holds = ratio is not None and ratio >= 3 if complete else None
    values.append(report.Value(f"times the fastest peer, {tag}", ratio and round(ratio, 2), "", best, "≥ 3", holds))
    if best and (itl_p50 := rows[best].itl_p50) is not None:
        late = round(itl_p50 - rows[best].truth[1], 3)
        values.append(report.Value(f"that peer's ITL p50 less the truth, {tag}", late, "ms", best))
    said = (ours.ttft_mean, ours.itl_p50, ours.itl_p99)
    for what, value, true, most in zip(("mean TTFT", "ITL p50", "ITL p99"), said, ours.truth, (3.0, 0.3, 0.3), strict=True):
        off = round((value or 0.0) - true, 3)
        judge = abs(off) <= most if traffic.streams == 250 else None
        values.append(report.Value(f"{what} less the truth, {tag}", off, "ms", "the server's log", f"≤ {most} at 250", judge))
    return values


def print_table(traffic: Traffic, rows: dict[str, Outcome], absent: dict[str, str]) -> None:
    print(f"\n{traffic} · {report.machine()} · load {os.getloadavg()[0]:.1f}")
    print(f"{'client':<10}{'events/CPU-s':>13}{'mean TTFT (truth)':>22}{'ITL p50 (truth)':>20}{'ITL p99 (truth)':>20}")
    for name, row in rows.items():
        cells = [f"{row.events_per_cpu_s:>13,.0f}"]
        for width, value, true in zip((22, 20, 20), (row.ttft_mean, row.itl_p50, row.itl_p99), row.truth, strict=True):
            cells.append(f"{'–' if value is None else f'{value:.2f}'} ({true:.2f})".rjust(width))
        print(f"{name:<10}{''.join(cells)}")
    for name, why in absent.items():
        print(f"{name:<10}{why}")


def median(outcomes: list[Outcome]) -> Outcome:
    """Of each value for itself."""

    def middle(pick: Any) -> Any:
        values = [pick(outcome) for outcome in outcomes]
        return None if None in values else statistics.median(values)

    truth = tuple(middle(lambda outcome, at=at: outcome.truth[at]) for at in range(3))
    names = ("events_per_cpu_s", "ttft_mean", "itl_p50", "itl_p99")
    return Outcome(*(middle(lambda outcome, name=name: getattr(outcome, name)) for name in names), truth=truth)  # type: ignore[arg-type]


def main() -> None:
    """Run everything, print the table, write the values."""
    if sys.argv[1:2] == ["--as"]:
        name, url, folder, *numbers = sys.argv[2:]
        OWN[name](url, Path(folder), *map(int, numbers))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [Traffic(250), Traffic(500), Traffic(2000), Traffic(2000, 160)]
    parser.add_argument("--streams", type=Traffic.parse, nargs="+", default=default, help="how many, or how many@ms")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "labkit-bench-peers")
    parser.add_argument("--vllm", help="the interpreter that has vLLM; by default that of .venv")
    parser.add_argument("--install", action="store_true", help="install the peers with uv where they are absent")
    options, _ = parser.parse_known_args()  # `make bench` hands every benchmark the same arguments
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("needs two cores: one for the server, one for the client")
    peers = find_peers(options.peers, options.vllm, options.install)
    values: list[report.Value] = []
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = make_tokenizer(Path(scratch) / "tokenizer")
        for traffic in options.streams:
            outcomes: dict[str, list[Outcome]] = {}
            absent = {name: "not installed" for name, program in peers.items() if program is None}
            for _ in range(options.repeats):
                for name, program in {**dict.fromkeys(OWN, ""), **peers}.items():
                    if program is None or name in absent:
                        continue
                    try:
                        outcomes.setdefault(name, []).append(contest(name, program, tokenizer, traffic))
                    except (RuntimeError, OSError, LookupError, StopIteration) as error:
                        outcomes.pop(name, None)
                        absent[name] = f"failed: {str(error).strip()[-300:]}"
            rows = {name: median(found) for name, found in outcomes.items()}
            print_table(traffic, rows, absent)
            values += judged(traffic, rows, list(peers))
        million = contest("labkit", "", tokenizer, Traffic(250), MILLION // OSL)
        values.append(
            report.Value("memory of a million chunks", round(million.peak_mb, 1), "MB", None, "≤ 40", million.peak_mb <= 40)
        )
    for value in values:
        if value.target:
            verdict = {True: "holds", False: "DOES NOT HOLD", None: "not judged"}[value.holds]
            print(f"{value.name}: {value.value} {value.unit} (target {value.target}): {verdict}")
    print(f"written to {report.write('load', values)}")


if __name__ == "__main__":
    main()
