"""Which tasks pull together and which against each other in the shared blocks: logged, drawn, and in words."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from umedpt_lightning.drawing.figures import as_picture, house_style, new_axes, shorten
from umedpt_lightning.drawing.pictures import save
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.aggregation.gram import Gram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A cosine that is nearer to zero is told from it neither by a sketch nor by one round.
TELLING = 0.05
_NAMED = 3  # pairs that are told in words


class TaskMap(pl.Callback):
    """Measures in some rounds each task's share of the gradient of the shared blocks, and cosines between tasks.

    Logs ``gradients/<task>/share``, a task's length over the sum of all lengths, and
    ``gradients/<task>/<other>/cosine``; draws ``pictures/tasks.png`` in the run's folder, for W&B too; and says in a
    line who pulls against whom. Of one task alone there is nothing to tell.

    Args:
        every: In every so many rounds; None for the last one before each validation, 0 for never.
        folder: Where the picture goes, below the trainer's log folder.

    Raises:
        ValueError: `every` is negative.
    """

    def __init__(self, every: int | None = None, folder: str = "pictures") -> None:
        if every is not None and every < 0:
            raise ValueError(f"TaskMap: every must be positive, 0 for never or null, but it is {every}.")
        self.every, self.folder = every, folder
        self._path = Path(folder)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finds the folder; here, because the ranks must ask for it together."""
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / self.folder

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Has the round measured if its turn has come."""
        if isinstance(pl_module, MultiTaskModule):
            pl_module.gradients.watch = len(pl_module.weighting.tasks) > 1 and self._is_due(trainer, batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells what was measured."""
        if not isinstance(pl_module, MultiTaskModule) or not pl_module.gradients.watch:
            return
        pl_module.gradients.watch = False
        gram, number = pl_module.gradients.gram, trainer.fit_loop.total_batch_idx
        if gram is None or len(gram.tasks) < 2:  # a round of one task, or an aggregator that does not tell
            return
        metrics = {f"gradients/{task}/share": share for task, share in gram.shares.items()}
        cosines = gram.cosines.tolist()
        for i, one in enumerate(gram.tasks):
            for j, other in enumerate(gram.tasks[:i]):
                metrics[f"gradients/{other}/{one}/cosine"] = cosines[i][j]
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": trainer.current_epoch}, step=number)
            logger.save()
        text = in_words(gram)
        rank_zero_info(f"Round {number + 1}: {text}.")
        if trainer.is_global_zero:
            self._draw(trainer, gram, f"round {number + 1}: {text}")

    def _is_due(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        number = trainer.fit_loop.total_batch_idx + 1  # of this round, counted from 1
        if self.every is not None:
            return self.every > 0 and number % self.every == 0
        last = int(min(trainer.val_check_batch or trainer.num_training_batches, trainer.num_training_batches))
        epochs = trainer.check_val_every_n_epoch
        if epochs is None:  # validation goes by rounds over the ends of epochs
            return number % int(trainer.val_check_batch or 1) == 0
        return (trainer.current_epoch + 1) % epochs == 0 and (batch_idx + 1) % last == 0

    def _draw(self, trainer: pl.Trainer, gram: Gram, title: str) -> None:
        picture = as_picture(draw_map(gram, title))
        try:
            save(picture, self._path / "tasks.png")
        except OSError as error:  # a picture is not worth a training
            rank_zero_warn(f"No picture of the tasks: {error}. Training goes on.")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("pictures/tasks", [picture], step=trainer.global_step)


def in_words(gram: Gram) -> str:
    """Who pulls against whom most, and who has the most of the gradient."""
    cosines, tasks = gram.cosines, gram.tasks
    pairs = [(float(cosines[i, j]), tasks[j], tasks[i]) for i in range(len(tasks)) for j in range(i)]
    against = sorted(pair for pair in pairs if pair[0] < -TELLING)
    told = [f"{one} and {other} pull against each other, cosine {_signed(cosine)}" for cosine, one, other in against]
    if len(told) > _NAMED:
        more = len(told) - _NAMED
        told[_NAMED:] = [f"so do {more} more pairs" if more > 1 else "so does one more pair"]
    if not told:
        cosine, one, other = max(pairs)
        told = ["no two tasks pull against each other"]
        if cosine > TELLING:
            told.append(f"{one} and {other} pull together most, cosine {_signed(cosine)}")
    task, share = max(gram.shares.items(), key=lambda item: item[1])
    return "; ".join([*told, f"{task} has {share:.0%} of the gradient"])


@house_style()
def draw_map(gram: Gram, title: str) -> Figure:
    """Cosines as a heat map, with each task's share of the gradient beside its name.

    Args:
        gram: Of at least two tasks.
        title: Written above it.
    """
    names = [shorten(task, 30) for task in gram.tasks]
    labels = [f"{name}  {share:.0%}" for name, share in zip(names, gram.shares.values(), strict=True)]
    return draw_matrix(gram.cosines.numpy(), names, labels, title, "cosine of the gradients; beside a task its share")


@house_style()
def draw_matrix(values: np.ndarray[Any, Any], columns: list[str], rows: list[str], title: str, below: str) -> Figure:
    """A number from -1 to 1 for each two tasks, red below zero and blue above.

    Args:
        values: ``(T, T)``.
        columns: Names below it.
        rows: Names beside it.
        title: Written above it.
        below: Says what the numbers are.
    """
    count, numbers = len(values), len(values) <= 16
    cell = 0.55 if numbers else 0.3
    width = max(6.0, 3 + cell * count)
    figure, axes = new_axes(width, 2.2 + cell * count)
    axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1)
    axes.set_xticks(range(count), columns, rotation=90)
    axes.set_yticks(range(count), rows)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    lines = textwrap.fill(title, int(11 * width))  # matplotlib's own wrapping reaches the edge of the picture
    figure.suptitle(lines, x=0.02, ha="left", fontsize=9)
    axes.set_xlabel(below)
    for i, j in np.ndindex(*values.shape) if numbers else ():
        colour = "white" if abs(values[i, j]) > 0.6 else "black"
        axes.text(j, i, _signed(float(values[i, j])), ha="center", va="center", fontsize=8, color=colour)
    return figure


def _signed(number: float) -> str:
    return f"{number:.2f}".replace("-", "−")  # noqa: RUF001  # a minus, as in print
