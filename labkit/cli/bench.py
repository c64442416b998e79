"""``labkit bench``: the load client alone, against any OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from labkit.lab.load_fleet import LoadFleet
    from labkit.load.probe import Probe
    from labkit.load.progress import LoadResult
    from labkit.load.target import Target
    from labkit.measure.mark import Mark
    from labkit.measure.records import Records, Window
    from labkit.spec import Workload

_VOCAB: Final = 4096
_GRACE_S: Final = 30.0
_INTERRUPTED: Final = "interrupted"
_ARRIVALS: Final = (
    "of the open loop: constant, poisson (default) or gamma, at --rate; or a rate that changes with time: ramp:1-8, "
    "burst:10@5/20 (10 req/s in 5 of every 20 s), step:0=1,30=4 (4 req/s from 30 s on)"
)
_TRACE: Final = (
    "lengths, times and shared prefixes of real requests: JSON lines in Mooncake's format, or CSV in Azure's. "
    "With --rate or --concurrency they are sent in order, but not at their times"
)

_SATURATED: Final = "end an open loop early once it surely outruns the server (that is told while it runs either way)"

_CONVERSATIONS: Final = (
    "requests are the turns of conversations: each prompt is all that was said and --isl new tokens; 4, uniform:2-6 or "
    "empirical:1,1,8. --rate and --concurrency are of conversations then, --requests of turns"
)
_HISTORY: Final = (
    "answers in the prompts of later turns: seeded (the same requests for every server; default), or served (what the server "
    "answered, so that its cache of generated tokens is hit)"
)


def add_parser(subparsers: Any) -> None:
    """Add the command to ``labkit``."""
    parser = subparsers.add_parser(
        "bench",
        help="measure any OpenAI-compatible endpoint",
        description="Drive load against an OpenAI-compatible endpoint and report its latencies. The key is taken from "
        "OPENAI_API_KEY. Exit code 1 if no request succeeded.",
    )
    add = parser.add_argument
    add("--base-url", required=True, metavar="URL", help="http://HOST:PORT or https://HOST, with or without /v1")
    add("--model", required=True, metavar="NAME", help="the name under which the server serves it")
    lengths = "512, uniform:100-900, normal:512,64, lognormal:512,0.5, empirical:128,900 or file:PATH"
    add("--isl", metavar="N", help=f"input tokens: {lengths} (default: the trace's)")
    add("--osl", metavar="N", help="output tokens, in the same words")
    add("--concurrency", type=int, metavar="C", help="closed loop: requests in flight at all times")
    add("--rate", type=float, metavar="R", help="open loop: requests per second")
    add("--arrivals", metavar="A", help=_ARRIVALS)
    add(
        "--burstiness",
        type=float,
        default=1.0,
        metavar="B",
        help="shape of gamma arrivals and of changing rates; below 1 is burstier (default: 1)",
    )
    add("--trace", type=Path, metavar="FILE", help=_TRACE)
    add("--time-scale", type=float, default=1.0, metavar="X", help="times of the trace by X: 0.5 is twice as fast (default: 1)")
    add("--sample", action="store_true", help="draw --requests rows of the trace at random, instead of the first ones")
    add(
        "--max-model-len",
        type=int,
        metavar="N",
        help="clip prompt and answer to N tokens (default for files: what the server says)",
    )
    add("--prefix-groups", type=int, default=0, metavar="G", help="each prompt begins with one of G shared prefixes")
    add("--prefix-tokens", type=int, default=0, metavar="N", help="length of a shared prefix, part of the input tokens")
    add("--turns", metavar="N", help=_CONVERSATIONS)
    add("--think", metavar="S", help="seconds from an answer to the next turn: 1.5, lognormal:2,0.5, exponential:2 (default: 0)")
    add("--history", choices=("seeded", "served"), help=_HISTORY)
    add("--requests", type=int, metavar="N", help="send so many")
    add("--duration", type=float, metavar="S", help="send for so many seconds")
    add(
        "--warmup", default="0", metavar="S", help="seconds of the same load before, not counted (default: 0); auto finds its end"
    )
    add("--stop-when-saturated", action="store_true", help=_SATURATED)
    add("--seed", type=int, default=0, metavar="S", help="same seed, same requests (default: 0)")
    add(
        "--shards",
        type=int,
        default=1,
        metavar="N",
        help="processes that send the load; one carries about a thousand streams (default: 1)",
    )
    add("--timeout", type=float, default=600.0, metavar="S", help="seconds until a request counts as timed out (default: 600)")
    add("--tokenizer", type=Path, metavar="DIR", help="folder with tokenizer.json: chat prompts of exact length, counts")
    add("--vocab", type=int, metavar="N", help=f"vocabulary of the model (default: the tokenizer's, else {_VOCAB})")
    add("--api", choices=("completions", "chat"), default="completions", help="default: completions")
    add("--json", type=Path, metavar="FILE", help="save the result in the format of vllm bench serve --save-detailed")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 if at least one request succeeded, 1 if none, 130 if interrupted.

    Raises:
        LabError: bad arguments, an endpoint that cannot be measured, or a file that cannot be written.
    """
    from rich.markup import escape

    from labkit.cli.table import console
    from labkit.load.probe import probe
    from labkit.load.progress import UNSENT
    from labkit.load.schedule import Schedule
    from labkit.load.served import fitted, served_length
    from labkit.load.transport import check_transport

    notes = console(error=True)
    workload = _workload(args)
    Schedule(workload)  # a trace that cannot be read is told before anything is asked
    target = _target(args)
    _check_writable(args.json)
    timeout_s = min(workload.timeout_s, 60.0)
    found = asyncio.run(probe(target, api=workload.api, timeout_s=timeout_s, token_ids=workload.needs_token_ids))
    found = found.with_transport(check_transport(replace(target, dialect=found.dialect), workload.api, timeout_s=timeout_s))
    told = list(found.notes)
    if workload.longest is None or workload.turns is not None:
        workload = fitted(workload, served_length(target))
        if workload.longest is None:
            told.append("the server does not say how long its model is: nothing is clipped (--max-model-len)")
    told += Schedule(workload).notes()
    for note in told:
        notes.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as folder:
        result, stopped = _drive(Path(folder), target, found, workload, args, notes)
        records, window = _read(Path(folder), workload, result, stopped)
    marks = _marks(records, window, result)
    unsent = f"{result.unsent} {UNSENT}" if result.unsent else ""
    told += [note for note in (window.cut, unsent, stopped, *(mark.text for mark in marks)) if note]
    data = _exported(args, records, window, told)
    _report(records, window, result, data, marks)
    if args.json is not None:
        _save(args.json, data)
    if unsent:
        notes.print(f"[yellow]note[/]: {unsent}", soft_wrap=True)
    if stopped == _INTERRUPTED:
        notes.print("[yellow]interrupted[/]: the figures are of what was recorded until then")
        return 130
    return 0 if result.counts.get("ok") else 1


def _workload(args: argparse.Namespace) -> Workload:
    from labkit.errors import SpecError
    from labkit.spec import Workload

    if args.trace is None and (args.isl is None or args.osl is None):
        missing = "--isl" if args.isl is None else "--osl"
        raise SpecError(f"{missing} is missing", remedy="say how long prompts and answers are, or give --trace FILE")
    return Workload(
        isl=args.isl,
        osl=args.osl,
        rate=args.rate,
        concurrency=args.concurrency,
        arrivals=args.arrivals,
        burstiness=args.burstiness,
        trace=args.trace,
        time_scale=args.time_scale,
        sample=args.sample,
        clip_tokens=args.max_model_len,
        prefix_groups=args.prefix_groups,
        prefix_tokens=args.prefix_tokens,
        turns=args.turns,
        think_s=args.think,
        history=args.history,
        duration_s=args.duration,
        requests=args.requests,
        warmup_s=_warmup_s(args.warmup),
        warmup="auto" if args.warmup == "auto" else "given",
        seed=args.seed,
        api=args.api,
        timeout_s=args.timeout,
    )


def _warmup_s(text: str) -> float:
    from labkit.errors import SpecError

    try:
        return 0.0 if text == "auto" else float(text)
    except ValueError:
        raise SpecError(f"--warmup {text} is not a number of seconds", remedy="give seconds, or auto") from None


def _target(args: argparse.Namespace) -> Target:
    from labkit.load.prompts import load_tokenizer, token_range
    from labkit.load.target import Target

    folder = args.tokenizer.expanduser() if args.tokenizer else None
    vocab = args.vocab or (len(load_tokenizer(folder).get_vocab()) if folder else _VOCAB)
    token_range(vocab)
    key = os.environ.get("OPENAI_API_KEY") or None
    return Target(args.base_url, args.model, vocab, key, tokenizer=str(folder.resolve()) if folder else None)


def _check_writable(path: Path | None) -> None:
    """Find out before the run, not after it, that the result cannot be saved."""
    from labkit.errors import StoreError

    if path is None:
        return
    existed = path.exists()
    try:
        with path.open("a"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}", remedy="name a file in a folder that you may write to"
        ) from error


def _drive(
    folder: Path, target: Target, found: Probe, workload: Workload, args: argparse.Namespace, notes: Any
) -> tuple[LoadResult, str]:
    from labkit.lab.load_fleet import LoadFleet

    tokenizer = Path(target.tokenizer) if target.tokenizer else None
    with LoadFleet.start(folder, shards=args.shards) as fleet:
        fleet.target(
            0, target.url, target.model, vocab=target.vocab, api_key=target.api_key, dialect=found.dialect, tokenizer=tokenizer,
            writes_at_once=found.writes_at_once,
        )  # fmt: skip
        return _watch(fleet, workload, notes, stop_when_saturated=args.stop_when_saturated)


def _watch(fleet: LoadFleet, workload: Workload, notes: Any, *, stop_when_saturated: bool) -> tuple[LoadResult, str]:
    """Show progress until the end, Ctrl-C, or saturation where that is to end it; the result, and why it was stopped."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from labkit.lab.overload import Lookout, watch_for
    from labkit.load.schedule import Schedule

    most = Schedule(workload).count("measure") if workload.duration_s is None else None
    total = most or (workload.duration_s or 0) + workload.warmup_s
    columns = (TextColumn("bench"), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
    began, lookout = time.monotonic(), Lookout(watch_for(workload))
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task("bench", total=total, text="starting")

        def show(progress: Any) -> None:
            if lookout.look(progress):
                notes.print(f"[yellow]{lookout.found}[/]", soft_wrap=True)
                if stop_when_saturated:
                    load.stop()
            text = (
                f"{progress.done} done, {progress.in_flight} running, {progress.failed} failed, {progress.output_tokens} tokens"
                + (", saturated" if lookout.found else "")
            )
            bar.update(task, completed=progress.done if most else time.monotonic() - began, text=text)

        load = fleet.run(0, workload)
        load.on_progress = show
        try:
            result = load.wait()
            return result, str(lookout.found) if result.stopped else ""
        except KeyboardInterrupt:
            load.stop()
            return load.wait(_GRACE_S), _INTERRUPTED


def _read(folder: Path, workload: Workload, result: LoadResult, stopped: str) -> tuple[Records, Window]:
    from labkit.measure.records import Records, Window
    from labkit.measure.warmup import cut_warmup
    from labkit.store.tables import read_table

    window = Window(
        measurement=0,
        side="attached",
        topology="attached",
        repeat=0,
        epoch=0,
        start_ns=result.start_ns,
        measure_ns=result.measure_ns,
        stop_ns=result.stop_ns,
        end_ns=result.end_ns,
        accelerators=0.0,
        accelerator="GPU",
        workload=workload.to_dict(),
        stopped=stopped,
    )
    tables = {table: read_table(folder, table) for table in ("requests", "chunks")}
    records = Records(**tables, windows=(window,))
    return records, cut_warmup(records, window) if workload.warmup == "auto" else window


def _report(records: Records, window: Window, result: LoadResult, data: dict[str, Any], marks: list[Mark]) -> None:
    """The table on stdout: measured requests, latencies defined as everywhere in the lab, rates as in the exported file."""
    import numpy as np
    from rich.markup import escape
    from rich.table import Table

    from labkit.cli.table import console
    from labkit.measure.metrics import of_measurement
    from labkit.measure.statistics import percentile
    from labkit.measure.timing import chunk_gaps, ints, itl_s, request_metrics
    from labkit.spec.workload import talk_text

    mine = of_measurement(records, window)
    requests, gaps = request_metrics(mine), chunk_gaps(mine)
    counted, counted_gaps = requests.measured & requests.ok, gaps.select(gaps.measured & gaps.ok)
    out = console()
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(result.counts.items(), key=lambda item: -item[1]))
    measured = int(requests.measured.sum())
    lengths = " → ".join("as in the trace" if (text := str(window.workload[key])) == "trace" else text for key in ("isl", "osl"))
    talk, turn = talk_text(window.workload), ints(records.requests, "turn", -1)
    out.print(f"[bold]{escape(data['model_id'])}[/]  {escape(f'{talk}, each {lengths}' if talk else lengths)} tokens")
    out.print(f"{measured} requests measured in {window.length_s:.1f} s; all: {outcomes or 'none'}")
    if window.cut:
        out.print(escape(window.cut))
    rates = (
        ("request_throughput", "requests/s"),
        ("output_throughput", "output tokens/s"),
        ("total_token_throughput", "tokens/s"),
    )
    shown = [f"{value:,.2f} {unit}" for name, unit in rates if (value := data.get(name))]
    said = f"{', '.join(shown)} in all, from the first send to the last end ({data['duration']:.1f} s)"
    out.print(said if shown else "no throughput: nothing completed")
    table = Table("ms", *(("mean", "median", "p99")), box=None, padding=(0, 2))
    for column in table.columns[1:]:
        column.justify = "right"
    rows = (
        ("TTFT", requests.ttft_s[counted]),
        *((("· first turns", requests.ttft_s[counted & (turn == 0)]),) if talk else ()),
        *((("· later turns", requests.ttft_s[counted & (turn > 0)]),) if talk else ()),
        ("TPOT", requests.tpot_s[counted]),
        ("ITL", itl_s(counted_gaps)),
        *((("chunk gap", counted_gaps.gap_s),) if (counted_gaps.tokens != 1).any() else ()),
        ("E2E", requests.e2e_s[counted]),
        ("send lag", requests.send_lag_s[requests.measured]),
    )
    for name, seconds in rows:
        values = seconds[np.isfinite(seconds)]
        cells = [float(values.mean()) if len(values) else None, percentile(values, 50), percentile(values, 99)]
        small = "n too small" if len(values) else "–"
        table.add_row(name, *(f"{value * 1e3:.2f}" if value is not None else small for value in cells))
    out.print(table)
    failures = records.requests.filter(requests.failed)["reason"].drop_null().to_pylist() if measured else []
    for reason in list(dict.fromkeys(failures))[:3]:
        out.print(f"[red]failed[/]: {escape(reason)}", soft_wrap=True)
    for mark in marks:  # what the table does not tell by itself
        if mark.severity == "warning" and mark.kind != "failures":
            out.print(f"[yellow]![/] {escape(mark.text)}", soft_wrap=True)


def _marks(records: Records, window: Window, result: LoadResult) -> list[Mark]:
    """Every mark of the window; the client's CPU is that of its busiest shard."""
    from labkit.measure.machine import busy_client
    from labkit.measure.validity import marks

    busy = busy_client("of the busiest shard", result.cpu_s * 1e9 / max(result.end_ns - result.start_ns, 1))
    return [*marks(records, window), *([busy] if busy is not None else [])]


def _exported(args: argparse.Namespace, records: Records, window: Window, told: list[str]) -> dict[str, Any]:
    from labkit.store.vllm_bench import to_vllm_bench

    tokenizer = str(args.tokenizer) if args.tokenizer else None
    date = datetime.now().strftime("%Y%m%d-%H%M%S")
    return to_vllm_bench(records, window, model=args.model, date=date, tokenizer=tokenizer, notes=told)


def _save(path: Path, data: dict[str, Any]) -> None:
    from labkit.errors import StoreError

    try:
        path.write_text(json.dumps(data))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}", remedy="free space, and run again") from error


def _main(argv: list[str]) -> int:
    from labkit.errors import LabError

    parser = argparse.ArgumentParser(prog="labkit")
    add_parser(parser.add_subparsers(required=True))
    try:
        return run(parser.parse_args(["bench", *argv]))
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(_main(sys.argv[1:]))
