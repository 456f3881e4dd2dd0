"""``umedpt transfer``: how many labels a new task needs, with which encoder."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from umedpt_lightning.callbacks.wandb_runs import log_sweep
from umedpt_lightning.cli.launching import Job, add_launcher_options, launch
from umedpt_lightning.cli.options import add_sweep_options, clear_errors, device_of, fill_root
from umedpt_lightning.cli.parser_errors import parse
from umedpt_lightning.data import readers  # noqa: F401  # so that configs can name them
from umedpt_lightning.data.loading.dataset import prepared
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.drawing.figures import as_picture, as_svg
from umedpt_lightning.drawing.pictures import Example, draw, save, to_rgb
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.io.atomic import write_text
from umedpt_lightning.tasks import Task
from umedpt_lightning.transfer.cells import Cell, CellFolder, Result, in_words, largest
from umedpt_lightning.transfer.centres import leave_one_out, left_out_table, write_centres
from umedpt_lightning.transfer.error_analysis import error_analysis
from umedpt_lightning.transfer.protocol import Protocol
from umedpt_lightning.transfer.report import difference_table, draw_curves, write_page
from umedpt_lightning.transfer.summary import Row, by_kind, conclusions, differences, summarise, write_tables
from umedpt_lightning.transfer.sweep import Sweep, baseline_score

_PARTS = ("train", "val", "test")
_SHOWN = 4  # samples on a sheet


def main(command: str, arguments: Sequence[str]) -> None:
    """Runs what is not finished, and writes the report."""
    parser = _parser(command)
    config = parse(parser, arguments)
    with clear_errors():
        _run(parser, fill_root(config, config.root), arguments)


def _parser(command: str) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog=f"umedpt {command}",
        description="Measures encoders on a new task at fractions of its labels, frozen and fine-tuned. What is "
        "finished in the run's folder is not run again.",
    )
    add_sweep_options(parser)
    parser.add_argument(
        "--centres",
        metavar="REGEX",
        default=None,
        help="Leave every centre out in turn. What finds it in the group of a sample, as ^([A-Z]+)-; (.+) takes all.",
    )
    parser.add_argument("--wandb", metavar="[ENTITY/]PROJECT", default=None, help="Log the results there, too.")
    few = "Measure with so many labelled samples, too, as transfer.shots says."
    parser.add_argument("--shots", type=str | list[int], default=[], metavar="N,N", help=few)
    add_launcher_options(parser)
    parser.add_class_arguments(Protocol, "transfer")
    return parser


def work(arguments: Sequence[str], part: tuple[int, int]) -> None:
    """What a job does: the cells of a command line that nobody else does, without a report."""
    parser = _parser("transfer")
    parsed = parse(parser, arguments)
    config = fill_root(parsed, parsed.root)
    described, protocol = _described(parser, config)
    for others, folder in _protocols(protocol, config):
        _sweep(config, described, others, folder)[0].run(part)


def _numbers(shots: str | list[int]) -> list[int]:
    numbers = shots.split(",") if isinstance(shots, str) else shots
    if not all(str(number).strip().isdecimal() for number in numbers):
        raise ValueError(f"--shots {shots}: it should be whole numbers with commas, as 16,48.")
    return [int(number) for number in numbers]


def _run(parser: jsonargparse.ArgumentParser, config: jsonargparse.Namespace, arguments: Sequence[str]) -> None:
    config.run = config.run or Path(time.strftime("runs/%Y%m%d-%H%M%S"))
    described, protocol = _described(parser, config)
    if config.launcher:
        job = Job([*arguments, "--run", str(config.run.absolute()), "--wandb", "null"], config.jobs)
        launch(job, config.launcher, config.job_options, config.run / "jobs")
    rows = {
        folder.name: _measure(parser, config, described, others, folder)
        for others, folder in _protocols(protocol, config)
    }
    if config.centres is None:
        return
    main_metric = _head(protocol).main_metric
    write_centres(rows, main_metric, config.run)
    table = Table("left out", "method", "labels", f"{main_metric}, others", "there", "gap", title=protocol.name)
    for centre, row, there, gap in left_out_table(rows):
        values = (interval.mean for interval in (row.metrics[main_metric], there))
        table.add_row(centre, row.line, in_words(row.share), *(f"{v:.3f}" for v in values), f"{gap.mean:+.3f}")
    Console().print(table)
    print(f"centres: {config.run / 'centres.csv'}")


def _described(
    parser: jsonargparse.ArgumentParser, config: jsonargparse.Namespace
) -> tuple[jsonargparse.Namespace, Protocol]:
    """The protocol as the config describes it, and itself."""
    if config.shots:
        config.transfer.shots = _numbers(config.shots)
    described = config.transfer.clone()
    protocol: Protocol = parser.instantiate(config).transfer
    return described, protocol


def _protocols(protocol: Protocol, config: jsonargparse.Namespace) -> Iterator[tuple[Protocol, Path]]:
    """What is measured, each with its folder: the protocol, or one for each centre that is left out."""
    if config.centres is None:
        yield protocol, config.run
        return
    for centre, others in leave_one_out(protocol, config.centres):
        yield others, config.run / centre


def _sweep(
    config: jsonargparse.Namespace, described: jsonargparse.Namespace, protocol: Protocol, folder: Path
) -> tuple[Sweep, CellFolder]:
    data: dict[str, Any] = {key: value for key, value in vars(described.data).items() if key not in _PARTS}
    cells, training = CellFolder(folder / "cells"), repr((data, described.finetuning))
    compute = ComputeOptions(device_of(config.device), num_workers=config.num_workers)
    return Sweep(protocol, cells, compute, repr(described.task), training), cells


def _measure(
    parser: jsonargparse.ArgumentParser,
    config: jsonargparse.Namespace,
    described: jsonargparse.Namespace,
    protocol: Protocol,
    folder: Path,
) -> list[Row]:
    """Runs one sweep and writes its report."""
    sweep, cells = _sweep(config, described, protocol, folder)
    results = sweep.run()

    main_metric = _head(protocol).main_metric
    rows, baseline = summarise(results, main_metric), baseline_score(protocol)
    sheets = draw_samples(results, cells, protocol.data, _head(protocol))
    for title, sheet in sheets.items():
        save(sheet, folder / f"{title}.png")
    gaps = differences(results, main_metric)
    errors = error_analysis(results, cells, protocol.part("test").spec)
    details = difference_table(gaps, main_metric) + errors + page_of(sheets)
    write_tables(rows, main_metric, baseline, folder, gaps)
    page = write_page(protocol.name, rows, main_metric, baseline, details)
    write_text(folder / "report.html", page)
    curves = dict[str, Image.Image]()
    for kind in by_kind(rows):
        figure = draw_curves(kind, main_metric, baseline.get(main_metric, float("nan")))
        title = "shots" if curves else "curve"  # beside a curve over fractions
        curves[title] = as_picture(figure)
        write_text(folder / f"{title}.svg", as_svg(figure, f"{main_metric} over the labels"))
        save(curves[title], folder / f"{title}.png")
    if config.wandb:
        asked = yaml.safe_load(parser.dump(config, skip_validation=True))
        log_sweep(folder, config.wandb, asked, {**curves, **sheets})
    _show(rows, main_metric, protocol.name)
    print(f"report: {folder / 'report.html'}")
    return rows


def _head(protocol: Protocol) -> Task:
    return protocol.head(protocol.part("train").spec)


def _show(rows: Sequence[Row], main_metric: str, name: str) -> None:
    shares = sorted({row.share for row in rows})
    table = Table("method", title=f"{name}: {main_metric} on the test part", title_justify="left")
    for share in shares:
        table.add_column(in_words(share), justify="right")
    for line in dict.fromkeys(row.line for row in rows):
        table.add_row(line, *(f"{row.metrics[main_metric].mean:.3f}" for row in rows if row.line == line))
    console = Console()
    console.print(table)
    for sentence in conclusions(rows, main_metric):
        console.print(sentence, highlight=False)


def draw_samples(
    results: Mapping[Cell, Result], cells: CellFolder, data: TaskData, task: Task
) -> dict[str, Image.Image]:
    """Sheets ``best`` and ``worst``; none where the answers are gone, or no predictions are kept.

    The answers are of the cell with all labels that is best on the val part by the main metric of the head `task`.
    """
    main = task.main_metric
    best = max(largest(results), key=lambda cell: np.nan_to_num(results[cell].val.get(main, -np.inf), nan=-np.inf))
    answers = cells.answers(best)
    if answers is None or task.answers().prediction(answers, 0) is None:
        return {}
    scores = answers["score"]
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    sheets = {}
    for title, rows in (("best", order[:_SHOWN]), ("worst", order[::-1][:_SHOWN])):
        if len(rows):
            predictions = {row: task.answers().prediction(answers, row) for row in rows.tolist()}
            examples = [_example(data, row, one, float(scores[row])) for row, one in predictions.items()]
            sheets[title] = draw(examples, f"{title} test samples of {best}")
    return sheets


def _example(data: TaskData, row: int, prediction: Any, score: float) -> Example:
    """A sample at the size that the model saw, to which its answer belongs."""
    if data.test is None:
        raise ValueError("data.test: there is nothing to draw from. Give a test part.")
    spec = data.test.spec
    sample = Transform(data.size)(prepared(data.test, row), 0)
    view = spec.comparison_view(sample.target, prediction)
    pixels = to_rgb(np.moveaxis(sample.image, -1, 0), spec.value_range)
    return Example(pixels, f"{sample.name}: {score:.3f}", view)


def page_of(sheets: Mapping[str, Image.Image]) -> str:
    """The sheets for the page, in itself."""
    parts = []
    for title, picture in sheets.items():
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        data = base64.b64encode(stream.getvalue()).decode()
        parts.append(
            f"<h2>{escape(title.capitalize())} test samples</h2>"
            f'<img style="max-width:100%" src="data:image/png;base64,{data}" alt="{escape(title)} test samples">'
        )
    return "".join(parts)
