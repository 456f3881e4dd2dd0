"""``umedpt data``: what is in the data of a config, and what is wrong with them, before a GPU finds out."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from umedpt_lightning.cli.data_preview import add_options, preview
from umedpt_lightning.cli.data_report import closing_line, show_problems, show_tasks
from umedpt_lightning.cli.data_tasks import build, read_config, read_stride
from umedpt_lightning.cli.options import at_least, clear_errors
from umedpt_lightning.data.check import Report, check
from umedpt_lightning.io.atomic import write_json

_MOST_SHOWN = 20  # problems of a kind on the screen
_WIDTH_OF_FILES = 100
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_FRAMES = 0.1


def main(command: str, arguments: Sequence[str]) -> None:
    """Runs ``umedpt data check`` or ``umedpt data preview``, which exit with 1 where there are problems."""
    options = _parser(command).parse_args(arguments)
    options.run(options)


def _check(options: argparse.Namespace) -> None:
    started = time.perf_counter()
    with clear_errors():
        config = read_config(options.config, options.root)
    tasks, problems = build(config)
    with _progress(sum(len(reader) for task in tasks.values() for reader in task.readers.values())) as advance:
        report = check(tasks, options.workers, advance, read_stride(options.config))
    report.problems = problems + report.problems

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_WIDTH_OF_FILES)
    show_tasks(console, report)
    if options.json is not None:
        _write(report, options.json)
    show_problems(console, report.problems, _MOST_SHOWN, options.json)
    console.print()
    style = "bold red" if report.errors else "bold yellow" if report.warnings else "bold green"
    console.print(closing_line(report, time.perf_counter() - started), style=style, highlight=False)
    if report.errors:
        raise SystemExit(1)


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"umedpt {command}", description="Look at the data before training.")
    kinds = parser.add_subparsers(required=True, metavar="check|preview")
    checking = kinds.add_parser(
        "check",
        help="read every sample of every task, and list all that is wrong",
        description="Reads every sample of every task, and lists all that is wrong. Exits with 1 if anything is.",
    )
    checking.add_argument("--workers", type=at_least(1), default=_cores(), help="processes (%(default)s, one a core)")
    checking.add_argument("--json", type=Path, help="file for all statistics and problems")
    checking.set_defaults(run=_check)
    previewing = kinds.add_parser(
        "preview",
        help="draw some samples of every task, as stored and as training sees them",
        description="Draws some samples of every task as stored and as training sees them, with their labels: one "
        "picture a task. Exits with 1 if a sample cannot be drawn.",
    )
    add_options(previewing)
    previewing.set_defaults(run=preview)
    for kind in (checking, previewing):
        kind.add_argument("--config", type=Path, action="append", required=True, help="as for `umedpt fit`")
        kind.add_argument("--root", help="what ${root} stands for in the paths of a config; over that of the config")
    return parser


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line now and then; both on stderr, so that the report alone can be kept."""
    console = Console(stderr=True)
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
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
            print(f"checked {done:,} of {total:,} samples", file=sys.stderr, flush=True)

    with bar:
        yield advance


def _write(report: Report, file: Path) -> None:
    content = {
        "samples": report.samples,
        "errors": report.errors,
        "warnings": report.warnings,
        "tasks": report.tasks,
        "problems": [asdict(problem) for problem in report.problems],
    }
    write_json(file, content)
