"""The state of callbacks in a run whose options or tasks may have changed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lightning.pytorch.callbacks import Callback, EarlyStopping, WeightAveraging


def match_callbacks(
    checkpoint: dict[str, Any], callbacks: Collection[Callback], other_tasks: bool = False, other_parts: bool = False
) -> list[str]:
    """Makes what a checkpoint keeps for callbacks fit the config, in place.

    Args:
        checkpoint: As Lightning has loaded it.
        callbacks: Those of the trainer.
        other_tasks: Whether ``val/score`` is the mean of other tasks than before, and no longer to be compared with
            what it was: a better one of fewer tasks would keep ``best.ckpt`` without those that were added.
        other_parts: Whether the tasks are validated on other samples or pixels than before, so that no score of theirs
            is to be compared with what it was.

    Returns:
        A sentence for all that goes on otherwise.
    """
    told, states = [], checkpoint.get("callbacks", {})
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.state_key in states:
            states[callback.state_key]["patience"] = callback.patience  # Lightning takes that of before
    averages = any(isinstance(callback, WeightAveraging) for callback in callbacks)
    if "current_model_state" in checkpoint and not averages:
        checkpoint["state_dict"] = checkpoint["current_model_state"]  # those that the optimizer has moments of
        told.append("Weights are no longer averaged: training goes on with those that were not.")
    if not (other_tasks or other_parts):
        return told
    scores = "'monitor': 'val/" if other_parts else "'monitor': 'val/score'"
    anew = [key for key in states if scores in key or key == "Report"]
    for key in anew:
        del states[key]
    what = "val/score is of other tasks" if other_tasks else "Validation is of other samples or pixels"
    return [*told, f"{what} than before: the best is looked for anew."] if anew else told
