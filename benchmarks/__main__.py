"""`python -m benchmarks [name ...]`: measures, writes results.json, prints the figures beside their targets."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import results
from benchmarks.gpu import GPU
from benchmarks.processes import in_fresh_process
from benchmarks.suite import BENCHMARKS, Benchmark

RESULTS = Path(__file__).with_name("results.json")
RESULTS_GPU = RESULTS.with_name("results_gpu.json")
ON_CPU = Path("runs/benchmarks-gpu-on-a-cpu.json")  # not measured, only run
QUICK = Path("runs/benchmarks-quick.json")  # git ignores it: a snapshot is of full runs only


def run(names: Sequence[str], quick: bool, file: Path, benchmarks: Mapping[str, Benchmark] = BENCHMARKS) -> list[str]:
    """Runs benchmarks one after the other, none in a process that another one has used, and writes after each.

    Returns:
        The names of those that failed.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other would count as CPU time
    console, failed = Console(), []
    planned = sum(benchmarks[name].seconds[quick] for name in names)
    console.print(f"{len(names)} benchmarks, about {planned / 60:.0f} minutes: {', '.join(names)}")
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


def run_gpu(file: Path | None) -> list[str]:
    """Runs what needs a GPU, there; without one in small, which leaves the results as they are.

    Returns:
        The names of those that failed.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else a process that has looked for GPUs could not be forked
    import torch

    gpu = torch.cuda.is_available()
    if not gpu:
        print(
            f"There is no GPU: all is run in small on the CPU, to see that it runs. {RESULTS_GPU.name} stays as it is, "
            f"and of the figures in {ON_CPU}, which follow, none says anything about a GPU.",
            flush=True,
        )
    return run(list(GPU), quick=not gpu, file=file or (RESULTS_GPU if gpu else ON_CPU), benchmarks=GPU)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"one of {', '.join(BENCHMARKS)}, or gpu alone; all but gpu if none is given",
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, for a first look")
    parser.add_argument("--results", type=Path, help=f"the file; {RESULTS.name}, or {QUICK} for quick runs")
    options = parser.parse_args(arguments)
    if options.names == ["gpu"]:
        if failed := run_gpu(options.results):
            raise SystemExit(f"failed: {', '.join(failed)}")
        return
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}, only {', '.join(BENCHMARKS)}")
    file = options.results or (QUICK if options.quick else RESULTS)
    chosen = options.names or [name for name, b in BENCHMARKS.items() if b.seconds[options.quick]]
    if failed := run(chosen, options.quick, file):
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
