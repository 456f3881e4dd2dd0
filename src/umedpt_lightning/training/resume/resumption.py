"""What happens between reading a checkpoint and the first round that follows."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training.resume.callbacks import match_callbacks
from umedpt_lightning.training.resume.optimizer import (
    INITIAL,
    advance,
    match_schedule,
    name_parameters,
    options_of,
    parameter_shapes,
    resumable,
)
from umedpt_lightning.training.resume.weights import fit_checkpoint

#: Of a checkpoint: the state that the schedule began with, and in it its class.
_SCHEDULE, _CLASS = "lr_scheduler_initial", "class"
#: Of a checkpoint: what scores of the val parts are measured on.
_VALIDATION = "validation"


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
        self._moved: list[dict[str, Any]] = []

    def compare(
        self,
        checkpoint: dict[str, Any],
        training: bool,
        callbacks: Collection[Callback] = (),
        validation: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes a checkpoint fit model and callbacks, in place, and tells what is new or gone; see `fit_checkpoint`.

        `validation` is what `save` was given, as it is now.

        Raises:
            CheckpointError: It does not fit; the message names the key of the config and the mend.
        """
        for state in checkpoint.get("optimizer_states", []):
            weights = checkpoint.get("current_model_state", checkpoint["state_dict"])
            name_parameters(state, parameter_shapes(weights, self._module))
        told = fit_checkpoint(checkpoint, self._module, self._model, training)
        if training:
            told += match_callbacks(checkpoint, callbacks, bool(told), _differ(checkpoint.get(_VALIDATION), validation))
        for sentence in told:
            rank_zero_info(sentence)
        self._checkpoint = checkpoint

    def prepare(self, optimizer: Optimizer, schedule: LRScheduler) -> None:
        """Lets optimizer and schedule take up their state where they are told to."""
        options = [options_of(group) for group in optimizer.param_groups]
        self._schedule = {_CLASS: type(schedule).__name__, **copy.deepcopy(schedule.state_dict())}
        resumable(optimizer)
        before = self._checkpoint.get(_SCHEDULE)
        known = [state.get(INITIAL) for state in self._checkpoint.get("optimizer_states", [])]
        for state in self._checkpoint.get("lr_schedulers", []):
            if isinstance(schedule, ReduceLROnPlateau) and "num_bad_epochs" in state:
                match_schedule(schedule, state, before)
            # of a function the state does not tell whether it has changed
            elif isinstance(schedule, LambdaLR) or known != [options] or before is None or self._has_changed(before):
                self._moved = advance(optimizer, schedule, self._checkpoint["global_step"])
                state.clear()
                state |= copy.deepcopy(schedule.state_dict())

    def _has_changed(self, before: dict[str, Any]) -> bool:
        """Whether the schedule began otherwise; the first releases did not save its class."""
        return {_CLASS: self._schedule[_CLASS], **before} != self._schedule

    def settle(self, optimizer: Optimizer) -> None:
        """Sets the learning rate of the first round, where it is another than that of the checkpoint."""
        for group, moved in zip(optimizer.param_groups, self._moved, strict=False):
            group |= moved
        self._checkpoint, self._moved = {}, []

    def save(self, checkpoint: dict[str, Any], validation: Mapping[str, Any] | None = None) -> None:
        """Adds to a checkpoint what a later resumption compares, such as what each task's scores are measured on."""
        checkpoint[_SCHEDULE] = self._schedule
        checkpoint[_VALIDATION] = dict(validation or {})


def _differ(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    """Whether tasks that both have are measured otherwise; earlier releases did not save on what."""
    before, now = before or {}, now or {}
    return any(before[name] != now[name] for name in before.keys() & now.keys())
