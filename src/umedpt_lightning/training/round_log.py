"""What is logged of training, now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # the module has a log, and the log reads the module
    from umedpt_lightning.training.module import MultiTaskModule


class RoundLog:
    """Rows for all loggers, of what has happened since the last row.

    Args:
        module: Whose training.
    """

    def __init__(self, module: MultiTaskModule) -> None:
        self._module = module
        self._since = time.perf_counter()

    def write(self, learning_rate: float) -> None:
        """Logs mean losses, what was left out so far, weights that change, rate, gradient norm and speed.

        All ranks call it. It waits for the device.
        """
        module = self._module
        losses, samples = module.losses.read(module.device)
        now = time.perf_counter()
        speed = samples / (now - self._since)
        self._since = now
        tasks, weights = module.weighting.tasks, module.gradients.coefficients.weights.tolist()
        weight_of: dict[str, float] = dict(zip(tasks, weights, strict=True))
        total = sum(weight_of[task] for task in losses)
        metrics = {f"train/{task}/loss": loss for task, loss in losses.items()}
        metrics |= {f"train/{task}/skipped": count for task, count in module.bad_samples.read(module.device).items()}
        dropped = module.gradients.non_finite.dropped
        metrics |= {f"train/{task}/dropped": float(count) for task, count in dropped.items()}
        if module.weighting.changes:
            metrics |= {f"train/{task}/weight": weight for task, weight in weight_of.items()}
        if module.aggregator:
            metrics |= {f"train/{task}/shared_weight": factor for task, factor in module.aggregator.factors.items()}
        if total:  # else there was no loss that is finite
            metrics["train/loss"] = sum(weight_of[task] * loss for task, loss in losses.items()) / total
        metrics["train/learning_rate"] = learning_rate
        metrics["train/gradient_norm"] = module.gradients.norm
        metrics["train/samples_per_second"] = speed
        # not `module.log`: it takes 0.3 ms a metric, and there are several a task; and it would hand them to the
        # loggers only after the checkpoints of this round, so that a run that goes on from one of those lacks the row
        module.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        row = metrics | {"epoch": module.current_epoch}
        for logger in module.loggers:
            logger.log_metrics(row, step=module.trainer.fit_loop.total_batch_idx)
            logger.save()
