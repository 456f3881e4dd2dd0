"""`python -m benchmarks [name ...]`: measures, writes results.json, prints the figures beside their targets."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import results
from benchmarks.processes import in_fresh_process
from benchmarks.suite import BENCHMARKS, Benchmark

RESULTS = Path(__file__).with_name("results.json")
QUICK = Path("runs/benchmarks-quick.json")  # git ignores it: a snapshot is of full runs only


def run(names: Sequence[str], quick: bool, file: Path, benchmarks: Mapping[str, Benchmark] = BENCHMARKS) -> list[str]:
    """Runs benchmarks one after the other, none in a process that another one has used, and writes after each.

    Returns:
        The names of those that failed.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other would count as CPU time
    console, failed = Console(), []
    planned = sum(benchmarks[name].seconds[quick] for name in names)
    console.print(f"{len(names)} benchmarks, about {planned / 60:.0f} minutes on two cores: {', '.join(names)}")
    for number, name in enumerate(names, start=1):
        console.print(f"[{number}/{len(names)}] {name} …", end=" ", highlight=False)
        start = time.monotonic()
        try:
            benchmark = benchmarks[name]
            values = benchmark.measure(quick) if benchmark.own_processes else in_fresh_process(benchmark.measure, quick)
            results.write(results.merged(results.read(file), name, benchmark, values, quick), file)
        except Exception as error:  # the others are still worth measuring
            failed.append(name)
            console.print(f"failed: {type(error).__name__}: {error}", style="red", highlight=False)
        else:
            console.print(f"{time.monotonic() - start:.0f} s", highlight=False)
    console.print(results.table(results.read(file), {name: benchmarks[name] for name in names}))
    return failed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"one of {', '.join(BENCHMARKS)}; all if none is given"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, for a first look")
    parser.add_argument("--results", type=Path, help=f"the file; {RESULTS.name}, or {QUICK} for quick runs")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}, only {', '.join(BENCHMARKS)}")
    file = options.results or (QUICK if options.quick else RESULTS)
    chosen = options.names or [name for name, b in BENCHMARKS.items() if b.seconds[options.quick]]
    if failed := run(chosen, options.quick, file):
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
