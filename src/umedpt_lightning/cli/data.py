"""``umedpt data``: what is in the data of a config, and what is wrong with them, before a GPU finds out."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from umedpt_lightning.cli.data_pack import add_pack_options, pack
from umedpt_lightning.cli.data_preview import add_options, preview
from umedpt_lightning.cli.data_tasks import build, read_config, read_stride
from umedpt_lightning.cli.options import at_least, clear_errors, cores
from umedpt_lightning.cli.task_files import in_words
from umedpt_lightning.data.check import Problem, Report, check
from umedpt_lightning.io.atomic import write_json
from umedpt_lightning.labels import TaskSpec
from umedpt_lightning.labels.findings import Kind
from umedpt_lightning.labels.wording import count, readable, readable_spread

_MOST_SHOWN = 20  # problems of a kind on the screen
_MOST_LINES = 20  # about classes in a table
_WIDTH_OF_FILES = 100
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_FRAMES = 0.1


def main(command: str, arguments: Sequence[str]) -> None:
    """Runs ``umedpt data check``, ``preview`` or ``pack``; the first two exit with 1 where there are problems."""
    options = _parser(command).parse_args(arguments)
    options.run(options)


def _check(options: argparse.Namespace) -> None:
    started = time.perf_counter()
    with clear_errors():
        config = read_config(options.config, options.root, options.tasks)
    tasks, problems = build(config)
    with _progress(
        "checking", sum(len(reader) for task in tasks.values() for reader in task.readers.values())
    ) as advance:
        report = check(tasks, options.workers, advance, read_stride(options.config))
    report.problems = problems + report.problems

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_WIDTH_OF_FILES)
    _show_tasks(console, report)
    if options.json is not None:
        counts = {"samples": report.samples, "errors": report.errors, "warnings": report.warnings}
        write_json(options.json, {**counts, "tasks": report.tasks, "problems": [*map(asdict, report.problems)]})
    _show_problems(console, report.problems, options.json)
    console.print()
    style = "bold red" if report.errors else "bold yellow" if report.warnings else "bold green"
    found = f"{count(report.errors, 'problem')}, {count(report.warnings, 'warning')}"
    line = f"{found} in {count(report.samples, 'sample')} ({time.perf_counter() - started:.1f} s)"
    console.print(line, style=style, highlight=False)
    if report.errors:
        raise SystemExit(1)


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"umedpt {command}", description="Look at the data before training.")
    kinds = parser.add_subparsers(required=True, metavar="check|preview|pack")
    checking = kinds.add_parser(
        "check",
        help="read every sample of every task, and list all that is wrong",
        description="Reads every sample of every task, and lists all that is wrong. Exits with 1 if anything is.",
    )
    checking.add_argument("--workers", type=at_least(1), default=cores(), help="processes (%(default)s, one a core)")
    checking.add_argument("--json", type=Path, help="file for all statistics and problems")
    checking.add_argument("--tasks", type=in_words, default=[], metavar="A,B", help="check these tasks only")
    checking.set_defaults(run=_check)
    previewing = kinds.add_parser(
        "preview",
        help="draw some samples of every task, as stored and as training sees them",
        description="Draws some samples of every task as stored and as training sees them, with their labels: one "
        "picture a task. Exits with 1 if a sample cannot be drawn.",
    )
    add_options(previewing)
    previewing.set_defaults(run=preview)
    packing = kinds.add_parser(
        "pack",
        help="write the samples of every task into shards, to be read from a server or a bucket",
        description="Writes the samples of every task into shards, decoded and without loss, and tasks.yaml that "
        "describes them. What is there already is kept.",
    )
    add_pack_options(packing)
    packing.set_defaults(run=lambda options: pack(options, _progress))
    for kind in (checking, previewing, packing):
        kind.add_argument("--config", type=Path, action="append", required=True, help="as for `umedpt fit`")
        kind.add_argument("--root", help="what ${root} stands for in the paths of a config; over that of the config")
    return parser


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line now and then; both on stderr, so that the report alone can be kept."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # without a thread of its own, since processes are forked while it runs
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal)
    task = bar.add_task("", total=total)
    done, told = 0, time.perf_counter()

    def advance(samples: int) -> None:
        nonlocal done, told
        done += samples
        if time.perf_counter() - told < (_SECONDS_BETWEEN_FRAMES if console.is_terminal else _SECONDS_BETWEEN_LINES):
            return
        told = time.perf_counter()
        if console.is_terminal:
            bar.update(task, completed=done, refresh=True)
        else:
            print(f"{what}: {done:,} of {total:,} samples", file=sys.stderr, flush=True)

    with bar:
        yield advance


def _show_tasks(console: Console, report: Report) -> None:
    """A table a task, its parts side by side."""
    for name, task in report.tasks.items():
        console.print()
        console.print(Text.assemble((name, "bold"), f": {_facts(task, report.specs[name])}"))
        table = Table("")
        for part in task["parts"]:
            table.add_column(part, justify="right")
        for heading, cells in _rows(list(task["parts"].values()), report.specs[name]):
            table.add_row(heading, *cells)
        console.print(table)


def _show_problems(console: Console, problems: Sequence[Problem], where: Path | None) -> None:
    """All problems by task, part and kind, some of a kind; the file `where` holds all of them."""

    def group(problem: Problem) -> tuple[str, bool, Kind, str]:
        return problem.task, problem.severity == "warning", problem.kind, problem.part

    def rank(problem: Problem) -> tuple[int, bool, int]:
        return order[problem.task], problem.severity == "warning", get_args(Kind).index(problem.kind)

    order = {task: i for i, task in enumerate(dict.fromkeys(problem.task for problem in problems))}
    ranked = sorted(problems, key=rank)  # stable: the parts keep their order
    for (task, warning, kind, part), found in groupby(ranked, key=group):
        of_kind = list(found)
        style, noun = ("yellow", "warning") if warning else ("red", "error")
        counted = f"{len(of_kind)} {noun}{'s' if len(of_kind) > 1 else ''}"
        console.print()
        console.print(Text(f"{task}{f' {part}' if part else ''} · {kind} · {counted}", f"bold {style}"))
        mends = {problem.mend for problem in of_kind}
        for problem in of_kind[:_MOST_SHOWN]:
            _line(console, f"  {problem.name}: {problem.what}.")
            if len(mends) > 1:
                _line(console, f"    → {problem.mend}", "green")
        if len(of_kind) > _MOST_SHOWN:
            place = f"all are in {where}" if where else "`--json FILE` writes all"
            _line(console, f"  … and {len(of_kind) - _MOST_SHOWN} more; {place}", "dim")
        if len(mends) == 1:
            _line(console, f"  → {mends.pop()}", "green")


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
