"""The model in a checkpoint of a run, without its config and its data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.pretrained import model_arguments


def load_checkpoint(file: Path | str, classes: Iterable[type] = ()) -> MultiTaskModel:
    """The model of a run's checkpoint, in evaluation mode, on the CPU.

    Where weights were averaged in training, Lightning keeps the averages as the checkpoint's state: they are taken.

    Args:
        file: The checkpoint; no code in it is run.
        classes: Tasks, specs or blocks of one's own that it may name beside those of the package.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint, does not say how its model is built, or names what is not known.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"There is no checkpoint {file}.")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        state = {key.removeprefix("model."): value for key, value in checkpoint["state_dict"].items()}
    except Exception as error:  # torch, zipfile and pickle raise many kinds
        raise ValueError(f"{file} cannot be read as a checkpoint ({error!s:.300}). Give one of a run.") from error
    if "model_config" not in checkpoint:
        raise ValueError(
            f"{file} does not say how its model is built: it is of an older release, or a task of your own has options "
            "that are not numbers, strings, lists or mappings. Train again, or save the model by save_pretrained."
        )
    try:
        model = MultiTaskModel(**model_arguments(checkpoint["model_config"], classes))
        model.load_state_dict({key: value for key, value in state.items() if not key.startswith("val_losses")})
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{file}: {error}") from error
    return model.eval()
