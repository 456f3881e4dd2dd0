"""How long `umedpt --help` takes."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys


def measure(quick: bool = False) -> dict[str, float]:
    """CPU time of `umedpt --help` over that of importing Lightning, each in a new process, interleaved."""
    ratios = []
    for run in range(3 if quick else 4):
        mine, lightning = _cpu("-m", "umedpt_lightning", "--help"), _cpu("-c", "import lightning")
        if run:  # the first fills the file cache
            ratios.append(mine / lightning)
    return {"start.help_over_import_lightning": statistics.median(ratios)}


def _cpu(*arguments: str) -> float:
    before = _of_children()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return _of_children() - before


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
