"""``python -m tests.faults --seed N --count K``: plays a campaign, ends with ``k injections, m failed``, writes the report."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.faults.campaign import Outcome, play
from tests.faults.injection import registered
from tests.faults.journal import note, read_journal
from tests.faults.plan import ALL, ENGINES, planned
from tests.faults.report import write_report

REPORT = Path(__file__).parents[2] / "docs" / "reliability.md"


def main() -> int:
    """The command; 1 where anything failed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whoever ends a campaign leaves no scene behind
        signal.signal(number, signal.default_int_handler)
    known = registered()
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--engine", choices=(ALL, *ENGINES), default=ALL, help="all: 200 on cheap and 20 on vllm")
    parser.add_argument(
        "--only", action="append", choices=sorted(known), metavar="NAME", help="these injections alone; may be repeated"
    )
    parser.add_argument("--case", type=int, help="this case of the plan alone, to repeat it")
    parser.add_argument("--quick", action="store_true", help="without those that take minutes")
    parser.add_argument("--keep", action="store_true", help="keep the folders of all scenes")
    parser.add_argument("--report", type=Path, default=None, help=f"where to write; {REPORT.name} where all injections take part")
    parser.add_argument(
        "--journal", type=Path, help="write each case there, and go on where a campaign that wrote it was cut off"
    )
    parser.add_argument("--list", action="store_true", help="list the injections")
    args = parser.parse_args()
    if args.list:
        for one in known.values():
            print(f"{one.name:<32} {one.what}")
        return 0
    chosen = {name: one for name, one in known.items() if not args.only or name in args.only}
    chosen = {name: one for name, one in chosen.items() if not (args.quick and one.rare)}
    plan = planned(chosen, args.engine, args.seed, args.case or args.count)
    plan = [case for case in plan if args.case in (None, case.number)]
    again = f"python -m tests.faults --seed {args.seed} --engine {args.engine}" + "".join(
        f" --only {name}" for name in args.only or ()
    )
    again += " --quick" if args.quick else ""
    print(f"seed {args.seed}, {len(plan)} injections on {args.engine}", flush=True)
    report = args.report or (REPORT if not args.only and args.case is None else None)
    done = read_journal(args.journal, plan) if args.journal else list[Outcome]()
    played = {outcome.case.number for outcome in done}
    if played:
        print(f"{len(played)} of them are in {args.journal}", flush=True)
    for case in plan:
        if case.number in played:
            continue
        outcome = play(case, keep=args.keep)
        done.append(outcome)
        print(_line(outcome, again), flush=True)
        if args.journal:
            note(args.journal, outcome)
        if report is not None:  # a campaign lasts for hours, and may be ended
            done.sort(key=lambda outcome: outcome.case.number)
            write_report(report, done, seed=args.seed, engine=args.engine, again=again)
    failed = sum(outcome.failed for outcome in done)
    print(f"{len(done)} injections, {failed} failed")
    return int(failed > 0)


def _line(outcome: Outcome, again: str) -> str:
    verdict, case = outcome.verdict, outcome.case
    counts = ", ".join(f"{count} {name}" for name, count in sorted(verdict.counts.items()))
    if outcome.impossible:
        return f"{case.number:>4} ----         {case}: not possible here: {outcome.impossible}"
    head = f"{case.number:>4} {'FAIL' if outcome.failed else 'ok  '} {outcome.seconds:5.1f} s  {case}  [{outcome.hit}]"
    lines = [f"{head}: {verdict.ending}, run {verdict.status or 'none'}{f', {counts}' if counts else ''}"]
    lines += [f"       {finding}" for finding in verdict.findings]
    if outcome.failed:
        lines.append(f"       again: {again} --case {case.number}; kept: {outcome.folder}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
