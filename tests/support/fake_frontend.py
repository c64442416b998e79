"""A frontend with the manners of Dynamo's, in a tenth of a second: workers register in a folder, in roles that they keep.

``fake_frontend.py --port P --meeting DIR``, for any model: a file for each, its id
behind the name, its role within; one that is killed leaves its own. It answers
/health, /metrics, /v1/models/NAME/ready and /v1/completions; headers aim a request. While both sets serve it draws one.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any


def load() -> ModuleType:
    path = Path(__file__).with_name("fake_worker.py")
    spec = importlib.util.spec_from_file_location("fake_worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def port_of(instance: int) -> str:
    return str(instance & 0xFFFF)


def main() -> None:
    fake = load()
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--meeting", required=True)
    parser.add_argument("--deaf", action="store_true", help="knows nobody")
    args = parser.parse_args()
    turns, lock = count(), threading.Lock()
    told = {"inflight_requests": 0.0, "request_duration_seconds_sum": 0.0, "request_duration_seconds_count": 0.0}

    def known() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for entry in sorted(Path(args.meeting).glob("v1/mdc/*")) if not args.deaf else ():
            try:
                found.setdefault(entry.read_text(), []).append(port_of(int(entry.name.rpartition("%2F")[2], 16)))
            except OSError:
                continue  # it has just gone
        return found

    class Frontend(fake.Handler):
        def do_GET(self) -> None:  # noqa: N802
            if self.path.startswith("/v1/models/") and self.path.endswith("/ready"):
                workers = {role: {"workers": len(ports), "needs": []} for role, ports in known().items()}
                ready = "aggregated" in workers or {"prefill", "decode"} <= set(workers)
                answer: dict[str, Any] = {"ready": ready, "namespaces": {"n": {"ready": ready, "worker_types": workers}}}
                self.answer(json.dumps(answer).encode(), status=200 if ready else 503)
            elif self.path == "/metrics":
                with lock:
                    page = "".join(f"dynamo_frontend_{name} {value}\n" for name, value in told.items())
                self.answer(page.encode(), kind="text/plain; version=0.0.4")
            else:
                self.answer(b"{}")

        def do_POST(self) -> None:  # noqa: N802
            body = self.read_body()
            given = (self.headers.get(f"x-dynamo-{who}-instance-id") for who in ("worker", "prefill"))
            aimed, prefill = (port_of(int(one)) if one else None for one in given)
            asked = json.loads(body)
            if "return_token_ids" in asked:
                self.answer(b'{"message": "Unsupported parameter(s): `return_token_ids`"}', status=400)
                return
            chosen = None
            for _ in range(500):  # one that has just left is not asked again
                chosen = self.choose(known(), aimed, prefill)
                if chosen is None:
                    break
                try:
                    with self.counted():
                        self.pass_on(asked, *chosen)
                    return
                except (ConnectionError, http.client.HTTPException):
                    time.sleep(0.01)
            self.answer(b'{"message": "Invalid request"}', status=400 if aimed else 503)

        @contextmanager
        def counted(self) -> Iterator[None]:
            begin_s = time.perf_counter()
            with lock:
                told["inflight_requests"] += 1
            try:
                yield
            finally:
                with lock:
                    told["inflight_requests"] -= 1
                    told["request_duration_seconds_sum"] += time.perf_counter() - begin_s
                    told["request_duration_seconds_count"] += 1

        def choose(self, workers: dict[str, list[str]], aimed: str | None, prefill: str | None) -> tuple[str, str | None] | None:
            with lock:
                turn = next(turns)
            sets = [
                role for role in ("aggregated", "decode") if workers.get(role) and (role != "decode" or workers.get("prefill"))
            ]
            if not sets:
                return None
            role = sets[turn % len(sets)]
            if aimed is not None and aimed not in workers[role]:
                return None
            first = prefill or (workers["prefill"][turn % len(workers["prefill"])] if role == "decode" else None)
            return aimed or workers[role][turn // len(sets) % len(workers[role])], first

        def pass_on(self, asked: dict[str, Any], worker: str, prefill: str | None) -> None:
            headers = {"Content-Type": "application/json", "X-Request-Id": self.headers.get("X-Request-Id") or "r"}
            if prefill is not None:
                params = {"do_remote_decode": True, "do_remote_prefill": False}
                short = {**asked, "max_tokens": 1, "stream": False, "kv_transfer_params": params}
                short.pop("stream_options", None)
                with self.forward(prefill, short, headers) as answered:
                    asked = {**asked, "kv_transfer_params": json.loads(answered.read())["kv_transfer_params"]}
            with self.forward(worker, asked, headers) as answered:
                if answered.getheader("Transfer-Encoding") != "chunked":
                    self.answer(answered.read(), status=answered.status)
                    return
                self.begin_chunks()
                while data := answered.read1(65536):
                    self.chunk(data)
                self.wfile.write(b"0\r\n\r\n")

        def forward(self, port: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
            return fake.forward(f"http://127.0.0.1:{port}", "POST", self.path, json.dumps(body).encode(), headers)

    fake.run(Frontend, args.port)


if __name__ == "__main__":
    main()
