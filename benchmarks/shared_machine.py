"""How fast `umedpt fit` is beside a process that keeps one core busy, and at rest against two threads that spin."""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

#: What a run did before it chose threads and how they wait: libgomp's own long spinning, a thread a core.
_BEFORE = {"GOMP_SPINCOUNT": "300000", "OMP_NUM_THREADS": str(os.cpu_count())}


def measure(quick: bool = False) -> dict[str, float]:
    """Samples a second of the demo's training, two runs of each in turn: the means' ratios."""
    rest, busy, before = [], [], []
    for _ in range(1 if quick else 2):
        rest.append(_samples_a_second({}))
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
            busy.append(_samples_a_second({}))
            other.kill()
        before.append(_samples_a_second(_BEFORE))
    print(f"samples/s at rest {rest}, beside a busy process {busy}, as before at rest {before}")
    return {
        "speed.beside_a_busy_process": statistics.mean(busy) / statistics.mean(rest),
        "speed.at_rest_over_spinning": statistics.mean(rest) / statistics.mean(before),
    }


def _samples_a_second(environment: dict[str, str]) -> float:
    """Of one epoch of 50 rounds without validation; the first ten rounds warm up."""
    chosen = {name: value for name, value in os.environ.items() if name not in _BEFORE} | environment
    with tempfile.TemporaryDirectory() as run:
        fit = [sys.executable, "-m", "umedpt_lightning", "fit", "--config", "configs/demo.yaml", "--run", run]
        options = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "0"]
        subprocess.run([*fit, *options], env=chosen, check=True, capture_output=True)
        with (Path(run) / "metrics.csv").open() as file:
            rows = [row["train/samples_per_second"] for row in csv.DictReader(file)]
    return statistics.harmonic_mean([float(row) for row in rows if row][1:])
