"""A worker and a router with the manners of vLLM's, in a tenth of a second, from the standard library alone.

``fake_worker.py worker --port P`` answers /health, /metrics, /v1/models and /v1/completions, and counts what it really did:
computed, received and generated tokens. ``fake_worker.py router --port P --worker URL… | --prefill URL… --decode URL…``
forwards round-robin. Both misbehave where asked.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KV_BYTES_PER_TOKEN = 1024
PREFILLED = {"do_remote_prefill": True, "do_remote_decode": False}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:  # without HTTPServer's look-up of the host's name
        self.socket.setsockopt(1, 2, 1)  # SO_REUSEADDR: the lab keeps the port bound meanwhile
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY

    def answer(self, body: bytes, *, status: int = 200, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


class Truth:
    """What was really received and written, a JSON line each, at once: ``kill -9`` keeps all but the line it falls on.

    Args:
        folder: gets a file of this process; ``None``: nothing is kept.
        name: the file's name begins with it.
    """

    def __init__(self, folder: str | None, name: str) -> None:
        self._fd = None
        if folder is not None:
            path = Path(folder) / f"{name}-{os.getpid()}.jsonl"
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def say(self, request: str, what: str, **facts: object) -> None:
        """``what``: ``received`` (``stream``, ``asked`` tokens), ``token`` (of a stream), ``done``, or ``cut`` (``why``)."""
        if self._fd is not None:
            line = {"request": request, "what": what, "t_ns": time.monotonic_ns(), **facts}
            os.write(self._fd, json.dumps(line).encode() + b"\n")


class Counts:
    """Totals in vLLM's names."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.values = dict.fromkeys(("computed", "received", "generated", "requests", "kv_bytes", "kv_transfers", "running"), 0)

    def add(self, **more: int) -> None:
        with self._lock:
            for name, value in more.items():
                self.values[name] += value

    def page(self, registered: int | None = None) -> str:
        v, known = self.values, f',worker_id="{registered:x}"' if registered else ""
        rows = [
            ("prompt_tokens_total", "", v["computed"] + v["received"]),
            ("prompt_tokens_by_source_total", ',source="local_compute"', v["computed"]),
            ("prompt_tokens_by_source_total", ',source="external_kv_transfer"', v["received"]),
            ("prompt_tokens_by_source_total", ',source="local_cache_hit"', 0),
            ("generation_tokens_total", "", v["generated"]),
            ("request_success_total", ',finished_reason="length"', v["requests"]),
            ("request_success_total", ',finished_reason="stop"', 0),
            ("nixl_bytes_transferred_sum", "", v["kv_bytes"]),
            ("nixl_bytes_transferred_count", "", v["kv_transfers"]),
            ("num_requests_running", "", v["running"]),
            ("num_requests_waiting", "", 0),
        ]
        return "".join(f'vllm:{name}{{engine="0",model_name="fake"{labels}{known}}} {value}\n' for name, labels, value in rows)


def serve_worker(args: argparse.Namespace) -> None:
    counts, truth = Counts(), Truth(args.truth, args.name)

    class Worker(Handler):
        def do_GET(self) -> None:
            if self.path == "/health":
                self.answer(b"", status=503 if args.never_ready else 200)
            elif self.path == "/metrics":
                self.answer(counts.page(args.register and instance(args.port)).encode(), kind="text/plain; version=0.0.4")
            elif self.path == "/v1/models":
                self.answer(json.dumps({"object": "list", "data": [{"id": args.model, "object": "model"}]}).encode())
            else:
                self.answer(b"{}", status=404)

        def do_POST(self) -> None:
            counts.add(running=1)
            request = self.headers.get("X-Request-Id") or ""
            try:
                self.complete(request)
            except OSError as error:
                truth.say(request, "cut", why=str(error))
                self.close_connection = True
            finally:
                counts.add(running=-1)

        def complete(self, request: str) -> None:
            asked = json.loads(self.read_body())
            truth.say(request, "received", stream=bool(asked.get("stream")), asked=int(asked.get("max_tokens", 16)))
            if args.refuse:
                self.answer(b'{"error": {"message": "the fake refuses"}}', status=500)
                return
            prompt, wanted = len(asked["prompt"]), int(asked.get("max_tokens", 16))
            transfer: dict[str, Any] = asked.get("kv_transfer_params") or {}
            if transfer.get("do_remote_prefill"):
                counts.add(received=prompt, kv_bytes=prompt * KV_BYTES_PER_TOKEN, kv_transfers=1)
            else:
                counts.add(computed=prompt)
            if asked.get("stream"):
                self.stream(request, asked, prompt, wanted)
                truth.say(request, "done")
                return
            counts.add(generated=wanted, requests=1)
            reply = {
                **self.head(),
                "choices": [{"index": 0, "text": "x " * wanted, "finish_reason": "length"}],
                "usage": usage(prompt, wanted),
            }
            if transfer.get("do_remote_decode"):
                reply["kv_transfer_params"] = {**PREFILLED, "remote_engine_id": str(args.port), "remote_block_ids": [1]}
            self.answer(json.dumps(reply).encode())
            truth.say(request, "done")

        def head(self) -> dict[str, Any]:
            given = self.headers.get("X-Request-Id") or f"{time.time_ns():x}"
            return {"id": f"cmpl-{given}", "object": "text_completion", "created": 1, "model": args.model}

        def stream(self, request: str, asked: dict[str, Any], prompt: int, wanted: int) -> None:
            options = asked.get("stream_options") or {}
            head = self.head()
            self.begin_chunks()
            for number in range(1, wanted + 1):
                choice: dict[str, Any] = {"index": 0, "text": "x ", "finish_reason": "length" if number == wanted else None}
                if asked.get("return_token_ids"):
                    choice["token_ids"] = [7]
                event = {**head, "choices": [choice]}
                if options.get("continuous_usage_stats"):
                    event["usage"] = usage(prompt, number)
                counts.add(generated=1)
                self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
                truth.say(request, "token")
                if args.token_s and number < wanted:
                    time.sleep(args.token_s)
            counts.add(requests=1)
            if options.get("include_usage"):
                last = {**head, "choices": [], "usage": usage(prompt, wanted)}
                self.chunk(b"data: " + json.dumps(last).encode() + b"\n\n")
            self.chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

    run(Worker, args.port, args.host, lambda: register(args, counts))


def instance(port: int) -> int:
    """What a process is known by that registers: another one in its place has another; the port is its last 16 bits."""
    return os.getpid() << 16 | port


def register(args: argparse.Namespace, counts: Counts) -> None:
    """Address and card, where a fake frontend looks; TERM takes them back, and ends the worker when nothing runs on it."""
    if not args.register:
        return
    own = [Path(args.register) / "v1" / kind / f"generate%2F{instance(args.port):x}" for kind in ("instances", "mdc")]
    for entry in own:
        entry.parent.mkdir(parents=True, exist_ok=True)
        new = Path(args.register) / f"{args.port}.new"
        new.write_text(args.role)
        new.rename(entry)

    def end() -> None:
        idle = 0
        while idle < 5:  # a request on its way counts a moment later
            idle = 0 if counts.values["running"] else idle + 1
            time.sleep(0.01)
        os._exit(0)

    def drain(*_: object) -> None:
        for entry in own:
            entry.unlink(missing_ok=True)
        threading.Thread(target=end).start()

    signal.signal(signal.SIGTERM, drain)


def usage(prompt: int, generated: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def serve_router(args: argparse.Namespace) -> None:
    serving = cycle(args.decode or args.worker)
    prefill = cycle(args.prefill) if args.prefill else None
    turn = threading.Lock()
    if args.lie:  # says that it splits, and gives everything to one worker
        serving, prefill = cycle([(args.prefill or args.worker)[0]]), None

    class Router(Handler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                with forward(args.worker[0] if args.worker else args.decode[0], "GET", self.path, b"", {}) as answered:
                    self.answer(answered.read(), status=answered.status)
            else:
                self.answer(b"", status=503 if args.never_ready else 200)

        def do_POST(self) -> None:
            body = self.read_body()
            headers = {"Content-Type": "application/json", "X-Request-Id": self.headers.get("X-Request-Id") or "r"}
            with turn:
                first, second = next(prefill) if prefill else None, next(serving)
            try:
                if first is not None:
                    asked = json.loads(body)
                    params = {"do_remote_decode": True, "do_remote_prefill": False}
                    short = {**asked, "max_tokens": 1, "stream": False, "kv_transfer_params": params}
                    short.pop("stream_options", None)
                    with forward(first, "POST", self.path, json.dumps(short).encode(), headers) as answered:
                        passed = json.loads(answered.read())["kv_transfer_params"]
                    body = json.dumps({**asked, "kv_transfer_params": passed}).encode()
                with forward(second, "POST", self.path, body, headers) as answered:
                    self.relay(answered)
            except OSError as error:
                self.answer(json.dumps({"error": str(error)}).encode(), status=500)

        def relay(self, answered: http.client.HTTPResponse) -> None:
            if answered.getheader("Transfer-Encoding") != "chunked":
                self.answer(answered.read(), status=answered.status)
                return
            self.begin_chunks()
            while data := answered.read1(65536):
                self.chunk(data)
            self.wfile.write(b"0\r\n\r\n")

    if args.metrics_port:
        threading.Thread(target=run, args=(RouterMetrics, args.metrics_port), daemon=True).start()
    run(Router, args.port)


class RouterMetrics(Handler):
    def do_GET(self) -> None:
        self.answer(b"vllm_router_active_workers 2\n", kind="text/plain; version=0.0.4")


class forward:  # noqa: N801
    """A request to a worker; closes its connection at the end of the block."""

    def __init__(self, url: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._request = (method, path, body, headers)

    def __enter__(self) -> http.client.HTTPResponse:
        self._connection.request(*self._request)
        return self._connection.getresponse()

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def run(handler: type[Handler], port: int, host: str = "127.0.0.1", when_up: Callable[[], None] = lambda: None) -> None:
    server = Server((host, port), handler)
    when_up()
    print(f"(APIServer pid={os.getpid()}) INFO Starting fake server on {port}", flush=True)
    server.serve_forever(poll_interval=0.05)


def misbehave(args: argparse.Namespace) -> None:
    """What goes wrong before there is a server."""
    if args.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if args.grandchild:
        code = "import signal,time; signal.signal(15, signal.SIG_IGN); print('grandchild', flush=True); time.sleep(600)"
        subprocess.Popen([sys.executable, "-I", "-S", "-c", code, "grandchild"], start_new_session=True)
    if args.core:
        end_with_core()
    if args.shm:
        path = Path("/dev/shm") / args.shm
        path.write_bytes(bytes(4096))
        with path.open("r+b") as file:
            args.mapped = mmap.mmap(file.fileno(), 4096)
    if args.wait_for:  # dies only when the test says so
        while not Path(args.wait_for).exists():
            time.sleep(0.01)
    if args.say:
        print(Path(args.say).read_text(), flush=True)
    if args.exit is not None:
        if args.exit < 0:
            os.kill(os.getpid(), -args.exit)
        sys.exit(args.exit)


def end_with_core() -> None:
    """A child that computes, as vLLM's engine core does; this process ends when the child does, and says so."""
    code = "import signal; print('core', flush=True); signal.pause()"
    core = subprocess.Popen([sys.executable, "-I", "-S", "-c", code, "VLLM::EngineCore"])

    def watch() -> None:
        ended = core.wait()
        print(f"(APIServer pid={os.getpid()}) ERROR Engine core proc EngineCore died unexpectedly ({ended})", flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def become_forked(options: list[str]) -> None:
    """A fork server of stand-ins: returns in a worker, with its arguments in place."""
    path = Path(__file__).parents[2] / "labkit" / "serve" / "forking.py"
    spec = importlib.util.spec_from_file_location("forking", path)
    forking = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(forking)

    def load() -> None:
        if "--thread" in options:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        if "--fail" in options:
            raise ModuleNotFoundError("No module named 'fake_engine_core'")

    sys.argv[1:] = forking.serve(load)
    if "--crash" in options:
        os.kill(os.getpid(), signal.SIGSEGV)


def main() -> None:
    if sys.argv[1:2] == ["--fork-server"]:
        become_forked(sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("worker", "router", "idle"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--metrics-port", type=int, default=0)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--token-s", type=float, default=0.0, help="seconds between the tokens of a stream")
    parser.add_argument("--enable-chunked-prefill", action=argparse.BooleanOptionalAction, help="taken, and without effect")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--refuse", action="store_true", help="every completion is a 500")
    parser.add_argument("--say", help="a file whose text goes to the log before anything else")
    parser.add_argument("--exit", type=int, help="end with this code; negative: by this signal")
    parser.add_argument("--wait-for", help="go on only when this file exists")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--grandchild", action="store_true", help="in a session of its own, ignores TERM")
    parser.add_argument("--core", action="store_true", help="a child whose end is the worker's end")
    parser.add_argument("--truth", help="a folder for a log of every request, written as it happens")
    parser.add_argument("--name", default="worker", help="what the file in it is called by")
    parser.add_argument("--shm", help="map a segment of this name")
    parser.add_argument("--register", help="a folder in which a fake frontend finds the worker")
    parser.add_argument("--role", default="aggregated")
    parser.add_argument("--lie", action="store_true", help="router: everything to one worker")
    for name in ("--worker", "--prefill", "--decode"):
        parser.add_argument(name, action="append", default=[])
    args = parser.parse_args()
    print(f"(APIServer pid={os.getpid()}) INFO non-default args: {args.what}", flush=True)
    misbehave(args)
    if args.what == "idle":
        print("idle", flush=True)
        signal.pause()
        while True:  # a handler that returns ends the pause
            signal.pause()
    (serve_worker if args.what == "worker" else serve_router)(args)


if __name__ == "__main__":
    main()
