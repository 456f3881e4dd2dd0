"""The weights of a checkpoint in a model whose tasks may be others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from umedpt_lightning.io.values import to_json
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Task
from umedpt_lightning.training.checkpoints import CheckpointError

State = dict[str, Tensor]
_START_ANEW = "or start a new run from all that fits with --init_from in place of --ckpt_path"
#: What the data say of images; a change of it changes what an image looks like, but not what the outputs mean.
_OF_IMAGES = ("channels", "value_range")


def fit_checkpoint(checkpoint: dict[str, Any], module: nn.Module, model: MultiTaskModel, training: bool) -> list[str]:
    """Makes the weights in a checkpoint fit a model, in place.

    Training: the weights of a task that was removed are dropped; a task that was added, and a decoder that it needs,
    keep the weights that they have now. Evaluation: tasks of the checkpoint that are not evaluated are dropped.

    Args:
        checkpoint: As Lightning has loaded it.
        module: Holds the model, and is what the checkpoint's ``state_dict`` names the parameters of.
        model: Is compared with what the checkpoint says of its own.
        training: Whether training goes on, or the model is evaluated.

    Returns:
        A sentence for every task that was added or removed.

    Raises:
        CheckpointError: A task means something else now, or the shared blocks or a head have other parameters; the
            message names the key and the mend.
    """
    states = [checkpoint[key] for key in ("state_dict", "current_model_state") if key in checkpoint]
    for state in states:  # the second where weights are averaged
        for name in model.tasks:
            model.task(name).upgrade_state(state, f"model.tasks.{name}.")
    saved, current = checkpoint["state_dict"], module.state_dict()
    described = checkpoint.get("model_config", {})
    before, now = _tasks(saved, described), list(model.tasks)
    added, removed = [t for t in now if t not in before], [t for t in before if t not in now]
    if added and not training:
        raise CheckpointError(
            f"The checkpoint has no task {', '.join(map(repr, added))}, which the config has: its head was never "
            f"trained. Remove the task from data.tasks. The checkpoint has {', '.join(before)}."
        )
    for task in now:
        if task not in added:
            _check_meaning(task, model.task(task), described.get("tasks", {}).get(task, {}))
    blocks = {_block(name) for name in saved}
    kept = {name: value for name, value in current.items() if _task(name) in added or _block(name) not in blocks}
    gone = [
        n for n in saved if n not in current and (_task(n) in removed or _block(n) not in set(map(_block, current)))
    ]
    _check_parameters(saved, current, {*kept, *gone}, described, model)
    for state in states:
        for name in gone:
            state.pop(name, None)
        state |= {name: value.clone() for name, value in kept.items()}
    if not training:
        return []
    told = [f"Task {task!r} is new: it starts at its beginning." for task in added]
    return told + [f"Task {task!r} is no longer trained: its head is dropped." for task in removed]


def _tasks(saved: Iterable[str], described: Mapping[str, Any]) -> list[str]:
    """The tasks of a checkpoint, in its order."""
    return list(dict.fromkeys([*described.get("tasks", {}), *filter(None, map(_task, saved))]))


def _task(name: str) -> str | None:
    """The task that a parameter or buffer belongs to; None for those of shared blocks."""
    parts = name.split(".")
    if parts[:2] == ["model", "tasks"]:
        return parts[2]
    if parts[0] == "weighting" and len(parts) == 3:  # what a loss weighting learns, by task
        return parts[2]
    return parts[1] if parts[0] == "val_losses" else None


def _block(name: str) -> str:
    """The shared block of a parameter, ``model.encoder``, or the head."""
    parts = name.split(".")
    return ".".join(parts[:3] if _task(name) else parts[:2])


def _check_meaning(task: str, head: Task, described: Mapping[str, Any]) -> None:
    """Holds that the outputs of a head mean what they meant: the same classes in the same order, and the like."""
    before = described.get("head", {}).get("options", {})
    for option in head.options_that_mean:
        if before.get(option, head.hparams[option]) != head.hparams[option]:
            raise CheckpointError(
                f"model.tasks.{task}: {option} was {before[option]} when the checkpoint was written, and is "
                f"{head.hparams[option]} now. Give what was given then, rename the task so that it starts at its "
                f"beginning, {_START_ANEW}."
            )
    spec, options = head.spec, described.get("spec", {}).get("options", {})
    for field in dataclasses.fields(spec):
        if not field.compare or field.name in _OF_IMAGES or field.name not in options:
            continue
        value = to_json(getattr(spec, field.name), field.name)
        if value != options[field.name]:
            raise CheckpointError(
                f"data.tasks.{task}: {field.name} were {options[field.name]} when the checkpoint was written, and are "
                f"{value} now. Give the same in the same order, rename the task so that it starts at its beginning, "
                f"{_START_ANEW}."
            )


def _check_parameters(
    saved: State, current: State, but: set[str], described: Mapping[str, Any], model: MultiTaskModel
) -> None:
    """Holds that all parameters but some have the names and shapes that they had."""
    # shared blocks first: a head that follows the width of a decoder is not to be blamed for it
    for name in sorted(dict.fromkeys([*current, *saved]), key=lambda name: bool(_task(name))):
        if name in but or (name in saved and name in current and saved[name].shape == current[name].shape):
            continue
        before, now = (
            f"a tensor of shape {tuple(state[name].shape)}" if name in state else "no such tensor"
            for state in (saved, current)
        )
        task = _task(name)
        if task:
            key, mend = f"data.tasks.{task}", "Rename the task so that it starts at its beginning"
        else:
            key, mend = _block(name), "Give the model that the run was started with"
        options = _options(_block(name).removeprefix("model."), described, model)
        raise CheckpointError(
            f"{key}: the checkpoint does not fit the config. It has {before} {name}, the config's model has {now}"
            f"{options}. {mend}, {_START_ANEW}."
        )


def _options(block: str, described: Mapping[str, Any], model: MultiTaskModel) -> str:
    """What the checkpoint and the config say of a block, where both say something and not the same."""
    try:
        before, now = described.get(block), model.model_config().get(block)
    except ValueError:  # options of one's own that JSON cannot hold
        return ""
    if not before or not now or before == now:
        return ""
    then, since = (f"{a['class']}({', '.join(_changed(a, b))})" for a, b in ((before, now), (now, before)))
    return f" ({then} then, {since} now)"


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name, value in one["options"].items():
        if other["options"].get(name) != value:
            yield f"{name}={value!r}"
