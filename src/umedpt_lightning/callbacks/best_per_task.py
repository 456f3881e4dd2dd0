"""The best checkpoint of every task, besides that of the mean over them."""

from __future__ import annotations

from lightning.pytorch.callbacks import ModelCheckpoint

from umedpt_lightning.model import MultiTaskModel


def best_per_task(model: MultiTaskModel, tasks: list[str]) -> list[ModelCheckpoint]:
    """Callbacks that keep ``best_<task>.ckpt``, by the task's main metric in validation.

    They hold all that a run goes on from, as others do: Lightning puts averaged weights into no other checkpoint.

    Args:
        model: Knows the tasks' main metrics.
        tasks: Those with a val part.
    """
    return [
        ModelCheckpoint(
            monitor=f"val/{task}/{model.task(task).main_metric}",
            mode="max",
            filename=f"best_{task}",
            enable_version_counter=False,
        )
        for task in tasks
    ]
