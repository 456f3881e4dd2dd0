"""What was measured: a JSON file, and a table with the target beside each figure."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.suite import Benchmark

Results = dict[str, Any]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "lightning": version("lightning"),
    }


def merged(results: Results, name: str, benchmark: Benchmark, values: Mapping[str, float], quick: bool) -> Results:
    """The results with a benchmark's figures in them; those of another machine are left behind.

    Raises:
        ValueError: The benchmark measured other figures than are declared for it.
    """
    if values.keys() != benchmark.figures.keys():
        unlike = sorted(values.keys() ^ benchmark.figures.keys())
        raise ValueError(f"{name}: measured and declared figures differ by {', '.join(unlike)}. Correct suite.py.")
    here = machine()
    known = results if results.get("machine") == here else {}
    groups = {group: dict(figures) for group, figures in known.items() if group not in ("machine", "date")}
    for key, value in values.items():
        group, figure = key.split(".")
        groups.setdefault(group, {})[figure] = {
            "value": round(value, 4) if abs(value) > 0.01 else value,
            "target": benchmark.figures[key].target,
            "unit": benchmark.figures[key].unit or "ratio",
            "command": f"python -m benchmarks {name}" + (" --quick" if quick else ""),
        }
    ordered = {group: dict(sorted(groups[group].items())) for group in sorted(groups)}
    return {"machine": here, "date": date.today().isoformat(), **ordered}


def read(file: Path) -> Results:
    """The results in a file, none where it is not there."""
    results: Results = json.loads(file.read_text()) if file.is_file() else {}
    return results


def write(results: Results, file: Path) -> None:
    """Writes them, so that nobody sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    temporary.replace(file)


def table(results: Results, benchmarks: Mapping[str, Benchmark]) -> Table:
    """Every figure of these benchmarks beside its target; what is missed or was not measured is said so."""
    shown = Table("figure", title=f"benchmarks, {results.get('date', 'none measured')}", title_justify="left")
    shown.columns[0].overflow = "fold"
    for heading in ("value", "target", ""):
        shown.add_column(heading, justify="right")
    for benchmark in benchmarks.values():
        for key, figure in benchmark.figures.items():
            group, name = key.split(".")
            found = results.get(group, {}).get(name)
            if found is None:
                shown.add_row(key, "-", figure.target or "", "not measured", style="yellow")
                continue
            value = found["value"]
            verdict = "" if figure.target is None else "met" if figure.met(value) else "MISSED"
            unit = f" {figure.unit}" if figure.unit else ""
            shown.add_row(
                key, f"{value:.3g}{unit}", figure.target or "", verdict, style="red" if verdict == "MISSED" else None
            )
    return shown


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).is_file() else []


def _gpu() -> str | None:
    names = [_lines(str(file)) for file in Path("/proc/driver/nvidia/gpus").glob("*/information")]
    if names:
        return names[0][0].partition(":")[2].strip()
    import torch  # a container may hide that folder

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
