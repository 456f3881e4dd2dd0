"""`python -m benchmarks [name ...]`: measures, and writes the figures into results.json."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import check, distributed, encoder_bound, loader, resume
from benchmarks.jpegs import make_jpegs

RESULTS = Path(__file__).with_name("results.json")


def check_rate() -> dict[str, float]:
    """How fast the data check reads."""
    with tempfile.TemporaryDirectory() as folder:
        make_jpegs(Path(folder), 300, classes=1)
        return check.measure(Path(folder) / "class0")


BENCHMARKS: dict[str, Callable[[], dict[str, float]]] = {
    "check": check_rate,
    "distributed": distributed.measure,
    "encoder_bound_small": encoder_bound.small,
    "encoder_bound_swin": encoder_bound.swin,
    "many_tasks": loader.many_tasks,
    "loader_a_task": loader.loader_a_task,
    "resume": resume.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"one of {', '.join(BENCHMARKS)}; all if none is given"
    )
    names = parser.parse_args().names
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}, only {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        figures = BENCHMARKS[name]()
        print(json.dumps(figures, indent=2), flush=True)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(dict(sorted((results | figures).items())), indent=2) + "\n")


if __name__ == "__main__":
    main()
