"""``labkit runs`` and ``labkit show``: what was measured, and what it showed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from labkit.cli.table import (
    Footnotes,
    add_results,
    console,
    grid,
    local_time,
    number,
    print_json,
    short,
    short_time,
    size,
)

if TYPE_CHECKING:
    from rich.console import Console

    from labkit.measure.metrics import Summary
    from labkit.measure.records import Window
    from labkit.store.run import Run

_STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "unreadable": "red"}
_LATENCIES = ("ttft", "tpot", "itl")
#: Of the figures that other tools report.
_REPORTED = (
    "median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms", "median_itl_ms", "p99_itl_ms", "output_throughput",
    "time_to_first_token_p50_ms", "time_to_first_token_p99_ms", "inter_token_latency_p50_ms", "inter_chunk_latency_p99_ms",
    "output_token_throughput_avg_tokens_per_sec",
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Add both commands to ``labkit``."""
    runs = subparsers.add_parser("runs", help="list the runs, newest first")
    show = subparsers.add_parser("show", help="what a run was, what it measured, and its verdict")
    show.add_argument("run", metavar="RUN", help="an id, the beginning of one, a path, or latest")
    for parser in (runs, show):
        add_results(parser)
        parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print; always 0.

    Raises:
        LabError: a run that is not there or cannot be read.
    """
    return _list(args) if args.command == "runs" else _show(args)


def _list(args: argparse.Namespace) -> int:
    from rich.markup import escape

    from labkit.store.run import list_runs

    infos = list_runs(args.results)
    if args.json:
        print_json([asdict(info) for info in infos])
        return 0
    out = console()
    if not infos:
        out.print(f"no runs in {escape(str(args.results))}: `labkit run notebooks/01_compare.ipynb` makes one", soft_wrap=True)
        return 0
    table = grid("run", "kind", "status", "started", "splits", "n", "size", left=("run", "kind", "status", "splits"))
    table.columns[0].no_wrap = True
    for info in infos:
        style = _STYLES.get(info.status, "")
        table.add_row(
            escape(info.id),
            escape(info.kind),
            f"[{style}]{info.status}[/]" if style else info.status,
            short_time(info.started),
            escape(" ".join([*info.topologies, *(["(simulated)"] if info.simulated else [])])),
            str(info.measurements),
            size(info.size_bytes),
        )
    out.print(table)
    return 0


def _show(args: argparse.Namespace) -> int:
    from labkit.cli.view import as_json, comparison_of, digested, faults_of, interference_of, windows_of
    from labkit.experiments import verdict
    from labkit.experiments.conclude import said_by
    from labkit.store.run import open_run

    run = open_run(args.run, args.results)
    if args.json:
        print_json(as_json(run))
        return 0
    out = console()
    _print_essentials(out, run)
    records, partial = digested(run)
    comparison, why = comparison_of(run, records)
    said, own = None if comparison is None else verdict(comparison), said_by(run)
    if records.windows:
        out.print()
        _print_windows(out, windows_of(run, records, partial), () if said is None else said.marks)
    elif not own:
        out.print(f"\nno measurement yet: {records.requests.num_rows} requests, {records.samples.num_rows} samples recorded")
    if faults := faults_of(run, records):
        out.print("\n" + "\n".join(map(str, faults)), markup=False, soft_wrap=True)
    if said is not None:
        out.print(f"\n{said}", markup=False)
    elif own:
        out.print(f"\n{own}", markup=False, soft_wrap=True)
    elif records.windows:
        lines = [*interference_of(records), *([f"no verdict: {why}"] if why else [])]
        out.print("\n" + "\n".join(lines), markup=False)
    elif why:
        out.print(f"\nno verdict: {why}", markup=False)
    _print_files(out, run)
    return 0


def _print_essentials(out: Console, run: Run) -> None:
    from rich.markup import escape

    style = _STYLES.get(run.status, "default")
    out.print(f"[bold]{escape(run.id)}[/]  [{style}]{run.status}[/]  {local_time(str(run.manifest.get('started')))}")
    if run.manifest.get("reason") not in (None, "", run.status):
        out.print(f"[yellow]{escape(str(run.manifest['reason']))}[/]")
    table = grid("", "", left=("",))
    table.show_header = False
    for name, text in _essentials(run.manifest):
        table.add_row(f"[dim]{name}[/]", escape(text))
    out.print(table)


def _essentials(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the manifest says; what it does not is left out."""
    model = manifest.get("model")
    if isinstance(model, Mapping) and model.get("name"):
        served = manifest.get("served") or {}
        details = [f"{served['dtype']}" if served.get("dtype") else "", "dummy weights" if model.get("dummy_weights") else ""]
        yield "model", ", ".join([str(model["name"]), *(text for text in details if text)])
    hardware = manifest.get("hardware")
    if isinstance(hardware, Mapping) and hardware.get("summary"):
        yield "hardware", str(hardware["summary"])
    engines = {**(manifest.get("engines") or {})}
    name = engines.pop("name", "")
    versions = [f"{key} {value}" for key, value in engines.items() if isinstance(value, str)]
    own = (manifest.get("versions") or {}).get("labkit")
    if name or versions:
        yield "engine", ", ".join([*(versions or [str(name)]), *([f"labkit {own}"] if own else [])])
    if isinstance(manifest.get("workload"), Mapping):
        yield "workload", _workload(manifest["workload"])
    splits = list(dict.fromkeys(map(str, manifest.get("topologies") or ())))
    if splits:
        checked = [epoch for epoch in manifest.get("epochs") or () if epoch.get("verified") is not None]
        proven = checked and all(epoch["verified"] is True for epoch in checked)
        yield "splits", ", ".join(splits) + (" (verified by counters)" if proven else "")
    if manifest.get("seed") is not None:
        yield "seed", str(manifest["seed"])
    yield from _source(manifest.get("source"))
    git = manifest.get("git")
    if isinstance(git, Mapping):
        yield "git", f"{str(git.get('commit'))[:12]}{' with changes' if git.get('dirty') else ''}"


def _source(source: Any) -> Iterator[tuple[str, str]]:
    """Of an imported run: which tool wrote which files, and what it says itself, by its own definitions."""
    if not isinstance(source, Mapping):
        return
    files = ", ".join(f"{file['name']} (sha256 {file['sha256'][:12]})" for file in source.get("files") or ())
    tool = " ".join(str(source[key]) for key in ("tool", "version") if source.get(key))
    yield "source", ", ".join(str(part) for part in (tool, source.get("date"), files) if part)
    reported = source.get("reported") or []
    shown = [(name, reported[0][name]) for name in _REPORTED if name in reported[0]] if len(reported) == 1 else []
    if shown:
        yield "reported", ", ".join(f"{name} {number(value)}" for name, value in shown)


def _workload(data: Mapping[str, Any]) -> str:
    from labkit.errors import LabError
    from labkit.spec import Workload

    try:
        return str(Workload.from_dict(dict(data)))
    except (LabError, TypeError):
        return ", ".join(f"{key} {value}" for key, value in data.items() if value is not None)


def _print_windows(out: Console, rows: list[dict[str, Any]], said: Sequence[str]) -> None:
    """The table with its footnotes, and the marks that the verdict will not have ``said``."""
    from rich.markup import escape

    notes = Footnotes()
    units = list(dict.fromkeys(row["window"].accelerator for row in rows))
    per = f"/{units[0]}" if len(units) == 1 else "/unit"
    counts = ("requests", "failed", *(("cancelled",) if any(row["summary"]["cancelled"] for row in rows) else ()))
    heads = ("side", "#", "window s", "n", *counts[1:], "TTFT ms", "TPOT ms", "ITL ms", "tok/s", per, "good/s", "stalled")
    table = grid(*heads, left=("side",))
    for row in rows:
        window, summary = row["window"], row["summary"]
        table.add_row(
            escape(window.side) + ("*" if row["partial"] else ""),
            f"{window.repeat + 1}{'!' if any(mark.severity == 'warning' for mark in row['marks']) else ''}",
            _bounds(window),
            *(f"{summary[key] or 0:,.0f}" for key in counts),
            *(_pair(summary, key, notes) for key in _LATENCIES),
            *(_cell(summary, key, notes) for key in ("output_tok_s", "output_tok_s_per_gpu", "goodput_request_s")),
            _percent(summary, notes),
        )
    out.print(table)
    explained = (
        "window: of the load, from warm-up to the last send; latencies: p50/p99; good/s: requests per second that meet the SLO; "
    )
    out.print(f"[dim]{explained}stalled: requests with a gap > 100 ms; !: marked below[/]")
    for text, sides in _cuts(rows).items():
        out.print(f"[dim]{escape(', '.join(sides))}: {escape(text)}[/]")
    for line in notes.lines():
        out.print(f"[dim]{escape(line)}[/]")
    for text, sides in _marks(rows).items():
        if not any(mark.endswith(text) for mark in said):
            out.print(f"! {', '.join(sides)}: {text}", markup=False)


def _bounds(window: Window) -> str:
    begin, end = ((t - window.start_ns) / 1e9 for t in (window.measure_ns, window.stop_ns))
    return f"{begin:.1f}–{end:.1f}"


def _cuts(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """How the beginnings of the windows were found, and why one ended early."""
    texts = [
        (row["window"], [row["window"].cut, row["window"].stopped and f"stopped early: {row['window'].stopped}"]) for row in rows
    ]
    return _once([(window, text) for window, said in texts for text in said if text], len(rows))


def _marks(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Text → windows."""
    kept = [(row["window"], mark) for row in rows for mark in row["marks"]]
    return _once([(window, mark.text) for window, mark in kept if mark.kind != "few_requests"], len(rows))  # footnotes say that


def _once(said: Sequence[tuple[Window, str]], count: int) -> dict[str, list[str]]:
    """What is said of several windows is said once."""
    found: dict[str, list[str]] = {}
    for window, text in said:
        found.setdefault(text, []).append(f"{window.side} #{window.repeat + 1}")
    return {text: ["all"] if len(sides) == count > 1 else sides for text, sides in found.items()}


def _pair(summary: Summary, key: str, notes: Footnotes) -> str:
    names = (f"{key}_p50_s", f"{key}_p99_s")
    if summary[names[0]] is None and summary.reasons.get(names[0]) == summary.reasons.get(names[1]):
        return notes.mark("–", summary.reasons.get(names[0], ""))
    return "/".join(_cell(summary, name, notes, 1e3) for name in names)


def _cell(summary: Summary, key: str, notes: Footnotes, scale: float = 1.0) -> str:
    value = summary[key]
    return notes.mark(number(value, scale), "" if value is not None else summary.reasons.get(key, "unknown"))


def _percent(summary: Summary, notes: Footnotes) -> str:
    value = summary["stalled_fraction"]
    return f"{value:.0%}" if value is not None else _cell(summary, "stalled_fraction", notes)


def _print_files(out: Console, run: Run) -> None:
    from rich.markup import escape

    from labkit.cli.view import files_of

    groups: dict[str, list[int]] = {}
    for name, count in files_of(run).items():
        head, slash, _ = name.partition("/")
        groups.setdefault(head + slash, []).append(count)
    listed = [
        f"{name} ({f'{len(sizes)} files, ' if name.endswith('/') else ''}{size(sum(sizes))})" for name, sizes in groups.items()
    ]
    out.print(f"\n[dim]files in {escape(short(run.path))}/:[/] {escape(', '.join(listed))}")
