"""A head for bags on embeddings of their images that were computed once: the block of bags and the task's layer."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from umedpt_lightning.blocks import BAG
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks.answers import metrics_of
from umedpt_lightning.transfer.embeddings import Embeddings
from umedpt_lightning.transfer.finetune import FineTuning


@dataclass(frozen=True)
class BagHead:
    """The block of bags and a task's head that have been trained on embeddings.

    Attributes:
        model: The whole model, of which these were trained.
        name: The task.
        options: What was chosen on the val part.
        val: The metrics there.
        notes: Sentences on what is not as one might expect.
    """

    model: MultiTaskModel
    name: str
    options: dict[str, float]
    val: dict[str, float]
    notes: tuple[str, ...] = ()

    def __call__(self, bags: Embeddings) -> Tensor:
        """Outputs of the task's head for bags."""
        return _outputs(self.model.eval(), self.name, bags)

    def set_in(self, model: MultiTaskModel) -> None:
        """Gives another model of these blocks what was trained."""
        model.block(BAG).load_state_dict(self.model.block(BAG).state_dict())
        model.task(self.name).load_state_dict(self.model.task(self.name).state_dict())


def bag_head(
    model: MultiTaskModel,
    name: str,
    train: Embeddings,
    val: Embeddings,
    options: FineTuning,
    batch_size: int,
    seed: int,
) -> BagHead:
    """Trains the block of bags and the head, with AdamW and a rate that rises and falls to 0.

    The best of the learning rates and of the evaluations is taken, by the main metric on the val part, as `FineTuner`
    does it; the encoder is not used.

    Args:
        model: Whose block and head are the start.
        name: The task.
        train: Bags that may be learned from.
        val: Bags that are chosen by.
        options: Steps, learning rates, evaluations, weight decay and clipping.
        batch_size: Bags at a time.
        seed: Of their order.

    Raises:
        ValueError: The main metric is undefined after all rates.
    """
    labelled = np.flatnonzero(model.task(name).spec.labelled(train.targets))
    if not len(labelled):
        raise ValueError("None of the labelled samples has a label. Take a larger fraction.")
    train = train[labelled]
    model = copy.deepcopy(model).cpu()
    found = [_trained(model, name, train, val, options, batch_size, seed, rate) for rate in options.learning_rates]
    main = model.task(name).main_metric
    best = max(found, key=lambda head: _defined(head.val[main]))
    if math.isnan(best.val[main]):
        raise ValueError(
            f"The val part has no defined {main} after training with any of the learning rates "
            f"{list(options.learning_rates)}: it has too few samples, or all rates are too high."
        )
    return best


def _trained(
    model: MultiTaskModel,
    name: str,
    train: Embeddings,
    val: Embeddings,
    options: FineTuning,
    batch_size: int,
    seed: int,
    rate: float,
) -> BagHead:
    model = copy.deepcopy(model)
    task, rng = model.task(name), np.random.default_rng(seed)
    parameters = [p for part in (model.block(BAG), task) for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=options.weight_decay)
    every, steps = options.steps_an_evaluation, options.steps_an_evaluation * options.evaluations
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps + 1, pct_start=0.1)
    best: BagHead | None = None
    order = np.empty(0, np.int64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step in range(1, steps + 1):
            model.train()
            if len(order) < min(batch_size, len(train.targets)):
                order = np.concatenate([order, rng.permutation(len(train.targets))])
            rows, order = order[:batch_size], order[batch_size:]
            bags = train[rows]
            loss = task.loss(_outputs(model, name, bags, gradients=True), torch.from_numpy(bags.targets))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            if options.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, options.clip)
            optimizer.step()
            schedule.step()
            if step % every == 0:
                metrics = metrics_of(task, _outputs(model.eval(), name, val), torch.from_numpy(val.targets))
                main = task.main_metric
                if best is None or _defined(metrics[main]) > _defined(best.val[main]):
                    chosen = {"learning_rate": rate, "steps": float(step)}
                    best = BagHead(copy.deepcopy(model), name, chosen, metrics, task.spec.lacking(train.targets))
    if best is None:  # steps and evaluations are positive
        raise RuntimeError("no evaluation")
    return best


def _outputs(model: MultiTaskModel, name: str, bags: Embeddings, gradients: bool = False) -> Tensor:
    positions = None if bags.positions is None else torch.from_numpy(bags.positions)
    if bags.sizes is None:
        raise ValueError("These embeddings are of single images, not of bags.")
    with torch.set_grad_enabled(gradients):
        features, _ = model.block(BAG)(torch.from_numpy(bags.features), bags.sizes.tolist(), positions)
        output: Tensor = model.task(name)(features)
    return output


def _defined(value: float) -> float:
    return -math.inf if math.isnan(value) else value
