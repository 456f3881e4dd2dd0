"""The data check as a page of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from umedpt_lightning.data.check import Problem, Report
from umedpt_lightning.data.check.problems import Kind

_MOST_NAMES = 20  # classes in a table
_KINDS = {
    "class": "one class an image",
    "labels": "any number of labels an image",
    "numbers": "numbers an image",
    "mask": "one class a pixel",
    "boxes": "any number of boxes an image",
}


def show_tasks(console: Console, tasks: Mapping[str, Any]) -> None:
    """A table a task, its parts side by side."""
    for name, task in tasks.items():
        console.print()
        console.print(Text.assemble((name, "bold"), f": {_facts(task)}"))
        console.print(_table(task))


def show_problems(console: Console, problems: Iterable[Problem], most: int, where: Path | None) -> None:
    """All problems by task, part and kind.

    Args:
        console: Where to print.
        problems: All of them.
        most: How many of a kind are shown.
        where: The file that holds all of them.
    """

    def group(problem: Problem) -> tuple[str, bool, Kind, str]:
        return problem.task, problem.severity == "warning", problem.kind, problem.part

    def rank(problem: Problem) -> tuple[int, bool, int]:
        return order[problem.task], problem.severity == "warning", get_args(Kind).index(problem.kind)

    problems = list(problems)
    order = {task: i for i, task in enumerate(dict.fromkeys(problem.task for problem in problems))}
    ranked = sorted(problems, key=rank)  # stable: the parts keep their order
    for (task, warning, kind, part), found in groupby(ranked, key=group):
        of_kind = list(found)
        style, noun = ("yellow", "warning") if warning else ("red", "error")
        counted = f"{len(of_kind)} {noun}{'s' if len(of_kind) > 1 else ''}"
        console.print()
        console.print(Text(f"{task}{f' {part}' if part else ''} · {kind} · {counted}", f"bold {style}"))
        mends = {problem.mend for problem in of_kind}
        for problem in of_kind[:most]:
            _line(console, f"  {problem.name}: {problem.what}.")
            if len(mends) > 1:
                _line(console, f"    → {problem.mend}", "green")
        if len(of_kind) > most:
            place = f"all are in {where}" if where else "`--json FILE` writes all"
            _line(console, f"  … and {len(of_kind) - most} more; {place}", "dim")
        if len(mends) == 1:
            _line(console, f"  → {mends.pop()}", "green")


def closing_line(report: Report, seconds: float) -> str:
    """How it went, in one line."""
    counts = f"{_count(report.errors, 'problem')}, {_count(report.warnings, 'warning')}"
    return f"{counts} in {_count(report.samples, 'sample')} ({seconds:.1f} s)"


def _line(console: Console, text: str, style: str = "") -> None:
    # never cut or wrapped, so that a path can be copied and searched for
    console.print(Text(text, style), soft_wrap=True)


def _facts(task: Mapping[str, Any]) -> str:
    low, high = task["value_range"]
    size = task["size"] if isinstance(task["size"], list) else [task["size"]] * 2
    facts = [
        _KINDS.get(task["kind"], task["kind"]),
        _count(task["channels"], "channel"),
        f"values {low:g} to {high:g}",
        f"resized to {size[0]}x{size[1]}" if task["size"] else "not resized",
        f"batches of {task['batch_size']}",
    ]
    return ", ".join(facts)


def _table(task: Mapping[str, Any]) -> Table:
    table = Table("")
    parts = task["parts"]
    for part in parts:
        table.add_column(part, justify="right")
    for heading, cells in _rows(task["kind"], task["names"], parts.values()):
        table.add_row(heading, *cells)
    return table


def _rows(kind: str, names: list[str], parts: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    parts = list(parts)

    def row(function: Any) -> list[str]:
        return [function(part) for part in parts]

    yield "samples", row(lambda p: f"{p['samples']:,}")
    if any(p["readable"] < p["samples"] for p in parts):
        yield "readable", row(lambda p: f"{p['readable']:,}")
    shown = names if len(names) <= _MOST_NAMES else names[: _MOST_NAMES - 1]
    for name in shown:
        yield f"  {_heading(kind, name, parts)}", row(lambda p, name=name: _label(kind, name, p))
        if kind == "numbers":
            lows, highs = (
                row(lambda p, key=key, name=name: _number(p["labels"][key].get(name))) for key in ("min", "max")
            )
            yield "    range", [f"{low} to {high}" for low, high in zip(lows, highs, strict=True)]
    if len(shown) < len(names):
        yield f"  … {len(names) - len(shown)} more", ["" for _ in parts]
    if kind == "boxes":
        yield "boxes an image", row(lambda p: _spread(p["labels"]["per_image"]))
    if kind == "class" and any(p["labels"]["unlabelled"] for p in parts):
        yield "  (unlabelled)", row(lambda p: f"{p['labels']['unlabelled']:,}")
    for axis in ("height", "width"):
        yield axis, row(lambda p, axis=axis: _spread(p[axis]))
    yield "dtype", row(lambda p: ", ".join(p["dtypes"]) or "none")
    yield "intensity", row(lambda p: _spread(p["intensity"]))
    yield "ms to read", row(lambda p: _number(p["milliseconds"]))


def _heading(kind: str, name: str, parts: list[Mapping[str, Any]]) -> str:
    unit = parts[0]["labels"]["units"].get(name) if kind == "numbers" else None
    return f"{name} ({unit})" if unit else name


def _label(kind: str, name: str, part: Mapping[str, Any]) -> str:
    """What a part has of a class, label or quantity."""
    labels = part["labels"]
    match kind:
        case "class":
            count = labels["samples"].get(name, 0)
            return f"{count:,}{_percent(count, part['samples'])}"
        case "labels":
            known = labels["known"].get(name, 0)
            of_known = f" of {known:,}" if known < part["samples"] else ""
            return f"{labels['samples'].get(name, 0):,}{of_known}{_percent(labels['samples'].get(name, 0), known)}"
        case "numbers":
            unknown = part["samples"] - labels["known"].get(name, 0)
            mean, std = (_number(labels[key].get(name)) for key in ("mean", "std"))
            return f"{mean} ± {std}" + (f", {unknown:,} unknown" if unknown else "")
        case "mask":
            share = labels["share"].get(name)
            return "none" if share is None else f"{share:.1%} in {_count(labels['samples'].get(name, 0), 'image')}"
        case "boxes":
            return f"{labels['boxes'].get(name, 0):,} in {_count(labels['samples'].get(name, 0), 'image')}"
    return ""


def _percent(count: int, total: int) -> str:
    return f" ({count / total:.1%})" if total else ""


def _spread(values: Mapping[str, float | None]) -> str:
    low, median, high = (values[key] for key in ("min", "median", "max"))
    return _number(low) if low == high else f"{_number(low)} / {_number(median)} / {_number(high)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
