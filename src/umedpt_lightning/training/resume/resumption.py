"""What happens between reading a checkpoint and the first round that follows."""

from __future__ import annotations

import copy
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training.resume.optimizer import (
    match_schedule,
    name_parameters,
    parameter_shapes,
    resumable,
    settle_learning_rate,
)
from umedpt_lightning.training.resume.weights import fit_checkpoint

#: Of a checkpoint: the state that the schedule began with.
_SCHEDULE = "lr_scheduler_initial"


class Resumption:
    """Lets a run go on from a checkpoint by the config of now: by names of tasks and parameters, not by their order.

    Lightning restores in this order: the weights (`compare` comes before), then it asks for optimizer and schedule
    (`prepare`), restores their states, and begins to train (`settle`).

    Args:
        module: What is trained.
        model: The model in it.
    """

    def __init__(self, module: nn.Module, model: MultiTaskModel) -> None:
        self._module, self._model = module, model
        self._checkpoint: dict[str, Any] = {}
        self._schedule: dict[str, Any] = {}

    def compare(self, checkpoint: dict[str, Any], training: bool) -> None:
        """Makes a checkpoint fit the model, in place, and tells what is new or gone; see `fit_checkpoint`.

        Raises:
            CheckpointError: It does not fit; the message names the key of the config and the mend.
        """
        for state in checkpoint.get("optimizer_states", []):
            weights = checkpoint.get("current_model_state", checkpoint["state_dict"])
            name_parameters(state, parameter_shapes(weights, self._module))
        for sentence in fit_checkpoint(checkpoint, self._module, self._model, training):
            rank_zero_info(sentence)
        self._checkpoint = checkpoint

    def prepare(self, optimizer: Optimizer, schedule: LRScheduler) -> None:
        """Lets optimizer and schedule take up their state where they are told to."""
        self._schedule = copy.deepcopy(schedule.state_dict())
        resumable(optimizer)
        for state in self._checkpoint.get("lr_schedulers", []):
            match_schedule(schedule, state, self._checkpoint.get(_SCHEDULE))

    def settle(self, optimizer: Optimizer, schedule: LRScheduler) -> None:
        """Sets the learning rate of the first round."""
        if self._checkpoint:
            settle_learning_rate(optimizer, schedule)
        self._checkpoint = {}

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Adds to a checkpoint what a later resumption compares."""
        checkpoint[_SCHEDULE] = self._schedule
