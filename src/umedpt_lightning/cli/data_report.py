"""The data check as a page of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from umedpt_lightning.data.check import Problem, Report
from umedpt_lightning.labels import TaskSpec
from umedpt_lightning.labels.findings import Kind
from umedpt_lightning.labels.wording import count, readable, readable_spread

_MOST_LINES = 20  # about classes in a table


def show_tasks(console: Console, report: Report) -> None:
    """A table a task, its parts side by side."""
    for name, task in report.tasks.items():
        console.print()
        console.print(Text.assemble((name, "bold"), f": {_facts(task, report.specs[name])}"))
        console.print(_table(task, report.specs[name]))


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
    counts = f"{count(report.errors, 'problem')}, {count(report.warnings, 'warning')}"
    return f"{counts} in {count(report.samples, 'sample')} ({seconds:.1f} s)"


def _line(console: Console, text: str, style: str = "") -> None:
    # never cut or wrapped, so that a path can be copied and searched for
    console.print(Text(text, style), soft_wrap=True)


def _facts(task: Mapping[str, Any], spec: TaskSpec) -> str:
    low, high = task["value_range"]
    size = task["size"] if isinstance(task["size"], list) else [task["size"]] * 2
    facts = [
        *([f"bags ({spec.bag})"] if spec.bag else []),
        spec.title or type(spec).__name__,
        count(task["channels"], "channel"),
        f"values {low:g} to {high:g}",
        f"resized to {size[0]}x{size[1]}" if task["size"] else "not resized",
        f"batches of {task['batch_size']}",
    ]
    return ", ".join(facts)


def _table(task: Mapping[str, Any], spec: TaskSpec) -> Table:
    table = Table("")
    parts = task["parts"]
    for part in parts:
        table.add_column(part, justify="right")
    for heading, cells in _rows(list(parts.values()), spec):
        table.add_row(heading, *cells)
    return table


def _rows(parts: Sequence[Mapping[str, Any]], spec: TaskSpec) -> Iterator[tuple[str, list[str]]]:
    def row(function: Callable[[Mapping[str, Any]], str]) -> list[str]:
        return [function(part) for part in parts]

    yield "samples", row(lambda p: f"{p['samples']:,}")
    if any(p["readable"] < p["samples"] for p in parts):
        yield "readable", row(lambda p: f"{p['readable']:,}")
    if spec.bag:
        yield f"images a {spec.bag}", row(lambda p: readable_spread(p[f"images_a_{spec.bag}"]))
    about_labels = [spec.check_lines(part["labels"], part["samples"]) for part in parts]
    headings = list(dict.fromkeys(heading for lines in about_labels for heading in lines))
    shown = headings if len(headings) <= _MOST_LINES else headings[: _MOST_LINES - 1]
    for heading in shown:
        yield heading, [lines.get(heading, "") for lines in about_labels]
    if len(shown) < len(headings):
        yield f"  … {len(headings) - len(shown)} more", ["" for _ in parts]
    for axis in ("height", "width"):
        yield axis, row(lambda p, axis=axis: readable_spread(p[axis]))  # type: ignore[misc]
    yield "dtype", row(lambda p: ", ".join(p["dtypes"]) or "none")
    yield "intensity", row(lambda p: readable_spread(p["intensity"]))
    yield "ms to read", row(lambda p: readable(p["milliseconds"]))
