"""The command line of the benchmarks: ``python -m bench --help``."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
from bench.aims import aims_table, turns_table
from bench.compare import compare, load_report
from bench.report import ROOT, Report, this_machine

DEFAULT: Final = (
    "turns",
    "long_runs",
    "waiting_runs",
    "archive_catching_up",
    "idle",
    "submitting",
    "commands",
    "starting",
)
"""Together at most ten minutes on two cores."""

ONLY_IF_NAMED: Final = ("backlog", "sizes", "stopping")
BENCHES: Final = (*DEFAULT, *ONLY_IF_NAMED)
"""Each is a module of this folder with ``measure(report, full=...)``, and its docstring says what it measures."""

EACH_WITHIN_S: Final = 300.0
EACH_WITHIN_FULL_S: Final = 3_600.0
FIGURES_FILE: Final = ROOT / "build" / "bench.json"


def main() -> int:
    """Parse the command line, and measure or compare."""
    args = _parser().parse_args()
    if args.compare:
        before, after = (load_report(path) for path in args.compare)
        print(compare(before, after))
        return 0
    if args.markdown:
        reports = [(path.stem, load_report(path)) for path in args.markdown]
        print("\n\n".join([aims_table(reports), *(f"{name}:\n\n{turns_table(report)}" for name, report in reports)]))
        return 0
    names = args.names or (BENCHES if args.full else DEFAULT)
    if unknown := [name for name in names if name not in BENCHES]:
        print(f"There is no bench {', '.join(unknown)}; there is {', '.join(BENCHES)}.", file=sys.stderr)
        return 2
    report = Report(machine=this_machine())
    print(" · ".join(f"{name} {value}" for name, value in msgspec.to_builtins(report.machine).items()), flush=True)
    for name in names:
        began = time.monotonic()
        try:
            anyio.run(_measure, name, report, args.full, backend_options={"use_uvloop": True})
        except Exception as error:  # noqa: BLE001 - the other benches can be measured
            report.fail(name, "", error)
        print(f"{name} took {time.monotonic() - began:.0f} s", flush=True)
        _write(report, args.json)
    print(f"The figures are in {args.json}.")
    return 1 if report.failed else 0


async def _measure(name: str, report: Report, full: bool) -> None:
    bench: Any = importlib.import_module(f"bench.{name}")
    limit_s = EACH_WITHIN_FULL_S if full else EACH_WITHIN_S
    with anyio.move_on_after(limit_s) as scope:
        await bench.measure(report, full=full)
    if scope.cancelled_caught:
        raise TimeoutError(f"it took longer than {limit_s:g} s")


def _write(report: Report, path: Path) -> None:
    """Write after each bench, so that an interrupted measurement leaves what it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def _parser() -> argparse.ArgumentParser:
    titles = {name: (importlib.import_module(f"bench.{name}").__doc__ or "").splitlines()[0] for name in BENCHES}
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure linestop. Without a name: " + ", ".join(DEFAULT) + ".",
        epilog="\n".join(f"  {name:20} {title}" for name, title in titles.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure, see below")
    parser.add_argument("--full", action="store_true", help="every configuration; without a name also every bench")
    parser.add_argument("--json", type=Path, default=FIGURES_FILE, metavar="FILE", help="where the figures are written")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="compare two such files")
    parser.add_argument(
        "--markdown",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="print the tables of docs/performance.md",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
