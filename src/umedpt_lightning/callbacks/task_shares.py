"""How much of the training each task gets: a table at the start, counts and a picture at the end of every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.table import Table

from umedpt_lightning.data.loading.loaders import RoundLoader
from umedpt_lightning.data.loading.sampling import RoundSampler
from umedpt_lightning.drawing.figures import COLOURS, PALE, add_legend, as_picture, house_style, new_axes, shorten
from umedpt_lightning.drawing.pictures import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Most tasks in the table at the start; the picture has them all.
MOST_ROWS = 20


class TaskShares(pl.Callback):
    """Shows how a schedule shares out the training, and whether it does as was asked.

    Logs ``train/<task>/samples``, the samples that have been read since the start of the run, and draws
    ``pictures/schedule.png`` in the run's folder, for W&B too.
    """

    _folder = Path()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finds the folder; here, because the ranks must ask for it together."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the table."""
        loader = trainer.train_dataloader
        if isinstance(loader, RoundLoader) and trainer.is_global_zero and len(loader.sampler.tasks) <= MOST_ROWS:
            Console().print(_table(loader))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs and draws."""
        loader = trainer.train_dataloader
        if not isinstance(loader, RoundLoader):
            return
        sampler = loader.sampler
        samples = {f"train/{task}/samples": float(count) for task, count in sampler.consumed.items()}
        pl_module.log_dict(samples, logger=False)
        # Lightning would hand them over after the epoch's checkpoint: a run that goes on from it would lack the row
        for logger in trainer.loggers:
            logger.log_metrics(samples | {"epoch": trainer.current_epoch}, step=trainer.fit_loop.total_batch_idx)
        if not trainer.is_global_zero:
            return
        figure = draw_shares(requested_shares(sampler), shares(sampler.consumed), f"round {sampler.rounds}")
        picture = as_picture(figure)
        try:
            save(picture, self._folder / "schedule.png")
        except OSError as error:  # a picture is not worth a training
            rank_zero_warn(f"No picture of the schedule: {error}. Training goes on.")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("pictures/schedule", [picture], step=trainer.global_step)


def samples_a_round(sampler: RoundSampler) -> dict[str, float]:
    """Samples of each task in a round, on average and on all ranks together."""
    rates = sampler.schedule.rates
    return {task: rates[task].turns * rates[task].micro_batches * sampler.samples(task) for task in sampler.tasks}


def requested_shares(sampler: RoundSampler) -> dict[str, float]:
    """Which part of all samples the schedule asks for of each task."""
    return shares(samples_a_round(sampler))


def shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Each count over their sum."""
    total = sum(counts.values())
    return {task: count / total for task, count in counts.items()}


@house_style()
def draw_shares(requested: Mapping[str, float], realised: Mapping[str, float], when: str) -> Figure:
    """A bar a task as long as its realised share, with a line across it where the schedule asks it to end."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, axes = new_axes(8, 1 + 0.24 * len(requested))
    rows, names = range(len(requested)), [shorten(task, 40) for task in requested]
    bars = axes.barh(rows, [*realised.values()], height=0.6, color=COLOURS[0])
    asked = axes.vlines([*requested.values()], [row - 0.4 for row in rows], [row + 0.4 for row in rows], "black", lw=2)
    axes.set(ylim=(len(requested) - 0.4, -0.6), yticks=rows, title=f"share of each task, {when}")
    axes.set_yticklabels(names)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlim(0, 1.05 * max(*requested.values(), *realised.values()))
    for row, task in enumerate(requested):
        numbers = f"{realised[task]:.2%} / {requested[task]:.2%}"
        axes.text(1.01, row, numbers, transform=axes.get_yaxis_transform(), va="center", color=PALE)
    axes.text(1.01, 1, "read / requested", transform=axes.transAxes, va="bottom", color=PALE)
    add_legend(figure, [(bars, "share of the samples that were read"), (asked, "requested")])
    return figure


def _table(loader: RoundLoader) -> Table:
    sampler = loader.sampler
    requested, in_a_round = requested_shares(sampler), samples_a_round(sampler)
    name = type(sampler.schedule).__name__
    table = Table("task", title=f"{name}, {len(loader)} rounds an epoch", title_justify="left")
    for heading in ("samples", "a round", "share", "passes an epoch"):
        table.add_column(heading, justify="right")
    for task, samples in sampler.tasks.items():
        micro_batches = f"{in_a_round[task] / sampler.samples(task):.3g} x {sampler.samples(task)}"
        passes = f"{in_a_round[task] * len(loader) / samples.stream.size:.3g}"
        table.add_row(task, str(samples.stream.size), micro_batches, f"{requested[task]:.1%}", passes)
    return table
