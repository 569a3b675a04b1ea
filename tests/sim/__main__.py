"""Run seeds: ``python -m tests.sim --seeds 1000``. Prints each red seed and how to replay it; exit 1 if any."""

from __future__ import annotations

import argparse
import logging
import sys
import time

import structlog
from tests.sim import hardships, planted
from tests.sim.fleet import run_seeds
from tests.sim.loop import order_cancellations
from tests.sim.show import show
from tests.sim.simulate import simulate


def main() -> int:
    """Parse the command line and run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seeds", type=parse_seeds, default="1000", help="a number or a list: 1000, 1001-2000, 3,7-9")
    which.add_argument("--seed", type=int, help="a single seed")
    parser.add_argument("--processes", type=int, default=2, help="seeds run at once")
    parser.add_argument("--show", action="store_true", help="run the first seed here and print its log and story")
    parser.add_argument("--digest", action="store_true", help="print the digest of each seed's log")
    parser.add_argument("--plant", default="", choices=["", *planted.PLANTED], help="run with this bug planted")
    parser.add_argument("--hardship", default="", choices=["", *hardships.KINDS], help="the hardship of each seed")
    parser.add_argument("--until-red", action="store_true", help="end at the first red seed")
    options = parser.parse_args()
    level = logging.WARNING if options.show else logging.CRITICAL
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    logging.disable(logging.CRITICAL)
    order_cancellations()
    if options.plant:
        planted.PLANTED[options.plant].plant()
    if options.hardship:
        hardships.ONLY.append(options.hardship)
    seeds = [options.seed] if options.seed is not None else options.seeds
    if options.show:
        verdict, evidence, simulation = simulate(seeds[0])
        show(verdict, evidence, simulation)
        return 1 if verdict.problems else 0
    return _run(seeds, options)


def _run(seeds: list[int], options: argparse.Namespace) -> int:
    began = time.monotonic()
    red: list[int] = []
    done = events = 0
    for verdict in run_seeds(seeds, options.processes):
        done += 1
        events += verdict.events
        if options.digest:
            print(verdict.seed, verdict.digest, verdict.events)
        if verdict.problems:
            red.append(verdict.seed)
            print(f"seed {verdict.seed} is red:", *verdict.problems[:8], sep="\n  ")
            plant = f" --plant '{options.plant}'" if options.plant else ""
            plant += f" --hardship '{options.hardship}'" if options.hardship else ""
            print(f"  replay: {sys.executable} -m tests.sim --seed {verdict.seed}{plant} --show", flush=True)
            if options.until_red:
                break
    took_s = time.monotonic() - began
    print(f"{done} seeds, {events} events, {len(red)} red {sorted(red)[:40]} in {took_s:.1f} s")
    return 1 if red else 0


def parse_seeds(text: str) -> list[int]:
    """``3`` → the first three: 1, 2, 3; ``7-9`` → 7, 8, 9; ``3,7-9`` → 3, 7, 8, 9."""
    found: list[int] = []
    for part in [f"1-{text}"] if text.isdecimal() else text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            message = f"'{text}' names no seeds: give how many (1000), a range (1001-2000) or several (3,7-9)"
            raise argparse.ArgumentTypeError(message)
        found.extend(range(int(first), int(last) + 1))
    return found


if __name__ == "__main__":
    sys.stdout.flush()
    raise SystemExit(main())
