"""A new run that starts from the blocks and heads of another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.pretrained.loading import CONFIG, WEIGHTS
from umedpt_lightning.training.checkpoints import AtomicCheckpointIO, CheckpointError

State = Mapping[str, Tensor]


def init_from(model: MultiTaskModel, path: Path) -> str:
    """Gives a model the weights of all blocks and heads of another one that fit: all names and shapes are the same.

    Args:
        model: What is trained anew; changed in place.
        path: A checkpoint, a run's folder (its best checkpoint, else its last), or a model's folder.

    Returns:
        What was taken, what is new, and what was not used, in a line.

    Raises:
        CheckpointError: The path holds no weights, or none of them fits.
    """
    state, own = read_state(path), model.state_dict()
    blocks = {_block(name) for name in own}
    fitting = {block for block in blocks if _of(own, block) and _shapes(own, block) == _shapes(state, block)}
    if not fitting:
        raise CheckpointError(
            f"--init_from {path}: nothing in it fits the model of the config. It has {_listed(map(_block, state))}; "
            "give the encoder and the decoders that it was trained with."
        )
    model.load_state_dict({name: value for name, value in state.items() if _block(name) in fitting}, strict=False)
    said = f"init_from {path}: taken are {_listed(fitting)}"
    if new := blocks - fitting:
        said += f"; new are {_listed(new)}"
    if unused := {_block(name) for name in state} - blocks:
        said += f"; not used are {_listed(unused)}"
    return said + "."


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights of a `MultiTaskModel` in a checkpoint, a run's folder or a model's folder.

    Raises:
        CheckpointError: There are none.
    """
    if (path / WEIGHTS).is_file():
        return load_file(path / WEIGHTS)
    files = [path, *(path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise CheckpointError(
            f"--init_from {path}: there are no weights. Give a checkpoint (.ckpt), a run's folder, which has "
            f"checkpoints/best.ckpt, or a model's folder, which has {CONFIG} and {WEIGHTS}."
        )
    content = AtomicCheckpointIO().load_checkpoint(file, lambda storage, _: storage)
    state: dict[str, Tensor] = content.get("state_dict", {}) if isinstance(content, dict) else {}
    found = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    if not found:
        raise CheckpointError(f"--init_from {file}: this is no checkpoint of `umedpt fit`. Give one.")
    return {name: value for name, value in found.items() if torch.is_tensor(value)}


def _block(name: str) -> str:
    """The shared block or the head that a tensor belongs to."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "tasks" else parts[0]


def _of(state: State, block: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if _block(name) == block}


def _shapes(state: State, block: str) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in _of(state, block).items()}


def _listed(blocks: Iterable[str]) -> str:
    return ", ".join(sorted({f"the head of {b.removeprefix('tasks.')}" if "." in b else b for b in blocks}))
