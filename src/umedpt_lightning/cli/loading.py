"""The model and the device that a command names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from umedpt_lightning.export import load_checkpoint
from umedpt_lightning.model import MultiTaskModel


def load_model(path: str, classes: Sequence[type] = ()) -> MultiTaskModel:
    """The model of a checkpoint, of a run (its best one), of a folder, or of the Hub.

    Raises:
        FileNotFoundError: There is no such thing.
        ValueError: It cannot be read.
    """
    place = Path(path)
    if place.is_file():
        return load_checkpoint(place, classes)
    if (place / "checkpoints").is_dir():
        return load_checkpoint(_best(place), classes)
    return MultiTaskModel.from_pretrained(path, classes=classes)


def device_of(name: str) -> str:
    """The device that ``--device`` names; ``auto`` is a GPU where there is one.

    Raises:
        ValueError: It cannot be used here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        raise ValueError(
            f"--device {name} cannot be used here ({error!s:.200}). Give cpu, cuda, cuda:1 or auto."
        ) from error
    return name


def _best(run: Path) -> str:
    """The best checkpoint of a run; only here Lightning is imported."""
    from umedpt_lightning.cli.checkpoint import find_checkpoint
    from umedpt_lightning.training.checkpoints import CheckpointError

    try:
        return str(find_checkpoint("best", run))
    except CheckpointError as error:
        raise ValueError(str(error)) from error
