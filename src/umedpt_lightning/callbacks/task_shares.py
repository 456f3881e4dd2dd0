"""How much of the training each task gets: a table at the start, counts and a picture at the end of every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from umedpt_lightning.data.loading.loaders import RoundLoader
from umedpt_lightning.data.loading.sampling import RoundSampler
from umedpt_lightning.drawing.layout import INK, PALE, PAPER, below, fit, font_of, pad, text_block
from umedpt_lightning.drawing.pictures import colour, save
from umedpt_lightning.labels import Line

#: Most tasks in the table at the start; the picture has them all.
MOST_ROWS = 20
_NAME, _BAR, _NUMBERS, _ROW, _TEXT_SIZE = 220, 420, 260, 22, 13


class TaskShares(pl.Callback):
    """Shows how a schedule shares out the training, and whether it does as was asked.

    Logs ``train/<task>/samples``, the samples that have been read since the start of the run, and draws
    ``pictures/schedule.png`` in the run's folder, for W&B too.

    Args:
        folder: Where the picture goes, below the trainer's log folder.
    """

    def __init__(self, folder: str = "pictures") -> None:
        self.folder = folder
        self._path = Path(folder)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finds the folder; here, because the ranks must ask for it together."""
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / self.folder

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the table."""
        loader = trainer.train_dataloader
        if isinstance(loader, RoundLoader) and trainer.is_global_zero and len(loader.sampler.shares) <= MOST_ROWS:
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
        picture = draw_shares(requested_shares(sampler), shares(sampler.consumed), f"round {sampler.rounds}")
        try:
            save(picture, self._path / "schedule.png")
        except OSError as error:  # a picture is not worth a training
            rank_zero_warn(f"No picture of the schedule: {error}. Training goes on.")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("pictures/schedule", [picture], step=trainer.global_step)


def samples_a_round(sampler: RoundSampler) -> dict[str, float]:
    """Samples of each task in a round, on average and on all ranks together."""
    rates = sampler.schedule.rates
    return {task: rates[task].turns * rates[task].micro_batches * sampler.samples(task) for task in sampler.shares}


def requested_shares(sampler: RoundSampler) -> dict[str, float]:
    """Which part of all samples the schedule asks for of each task."""
    return shares(samples_a_round(sampler))


def shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Each count over their sum."""
    total = sum(counts.values())
    return {task: count / total for task, count in counts.items()}


def draw_shares(requested: Mapping[str, float], realised: Mapping[str, float], when: str) -> Image.Image:
    """A bar a task as long as its realised share, with a line across it where it should end.

    Args:
        requested: What the schedule asks for, by task.
        realised: What has been read.
        when: Written above it.
    """
    picture = Image.new("RGB", (_NAME + _BAR + _NUMBERS, _ROW * len(requested)), PAPER)
    pen, font = ImageDraw.Draw(picture), font_of(_TEXT_SIZE)
    longest = max(*requested.values(), *realised.values())
    for row, task in enumerate(requested):
        top, bottom = row * _ROW + 3, (row + 1) * _ROW - 4
        pen.text((0, top), fit(task, font, _NAME - 10), fill=INK, font=font)
        asked, found = (_NAME + round(share * _BAR / longest) for share in (requested[task], realised[task]))
        pen.rectangle((_NAME, top, found, bottom), fill=colour(0))
        pen.line((asked, top - 2, asked, bottom + 2), fill=INK, width=2)
        numbers = f"{realised[task]:.2%} of samples, {requested[task]:.2%} requested"
        pen.text((_NAME + _BAR + 10, top), numbers, fill=PALE, font=font)
    return pad(below([text_block([Line(f"share of each task, {when}")], picture.width, 17), picture], 8), 8)


def _table(loader: RoundLoader) -> Table:
    sampler = loader.sampler
    requested, in_a_round = requested_shares(sampler), samples_a_round(sampler)
    name = type(sampler.schedule).__name__
    table = Table("task", title=f"{name}, {len(loader)} rounds an epoch", title_justify="left")
    for heading in ("samples", "a round", "share", "passes an epoch"):
        table.add_column(heading, justify="right")
    for task, share in sampler.shares.items():
        micro_batches = f"{in_a_round[task] / sampler.samples(task):.3g} x {sampler.samples(task)}"
        passes = f"{in_a_round[task] * len(loader) / share.stream.size:.3g}"
        table.add_row(task, str(share.stream.size), micro_batches, f"{requested[task]:.1%}", passes)
    return table
