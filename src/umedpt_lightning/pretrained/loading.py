"""A model as it lies in files: a checkpoint, a run's folder, a model's folder, or one on the Hugging Face Hub."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: Of ``config.json``; one more whenever what is written cannot be read by an older release.
FORMAT, VERSION = "umedpt-lightning", 1
_CHOICES = (
    "Give the folder of a run (`checkpoints/best.ckpt` in it is taken), one of its .ckpt files, a folder that `umedpt "
    f"export` or save_pretrained has written ({CONFIG} and {WEIGHTS}), or the name of such a model on the Hugging Face "
    "Hub."
)


@dataclass(frozen=True)
class SavedModel:
    """The content of the files of a model; no code in them is run.

    Attributes:
        weights: The file with the weights, for messages.
        config: What `construction.model_config` gave; None in a checkpoint that does not say how its model is built.
        state: The tensors of the model, by name.
    """

    weights: Path
    config: dict[str, Any] | None
    state: dict[str, Tensor]


def read_saved_model(place: str | Path, **download: Any) -> SavedModel:
    """Reads a model's config and weights.

    Of a run the best checkpoint is taken. Where weights were averaged in training, Lightning keeps the averages as the
    checkpoint's state, and so it is those that are read.

    Args:
        place: A checkpoint, the folder of a run, the folder of a model, or the name of a model on the Hub.
        download: For ``huggingface_hub.snapshot_download``, such as ``revision`` and ``token``.

    Raises:
        FileNotFoundError: A file is not there.
        ConnectionError: There is nothing of that name here, and it cannot be downloaded.
        ValueError: A file is broken, or of another kind or version.
    """
    path = Path(place)
    if path.is_file():
        return _checkpoint(path)
    if (path / "checkpoints").is_dir():
        return _checkpoint(_best(path))
    folder = path if path.is_dir() else _downloaded(str(place), download)
    return SavedModel(folder / WEIGHTS, _config(folder / CONFIG), _tensors(folder / WEIGHTS))


def _best(run: Path) -> Path:
    best = run / "checkpoints" / "best.ckpt"
    if not best.is_file():
        others = ", ".join(sorted(str(file) for file in best.parent.glob("*.ckpt")))
        raise FileNotFoundError(
            f"There is no checkpoint {best}: the run has not been validated yet. "
            + (f"Give one of {others}." if others else "Train it further, or give another run.")
        )
    return best


def _checkpoint(file: Path) -> SavedModel:
    try:
        with zipfile.ZipFile(file) as archive:  # torch does not look at the checksums
            if (record := archive.testzip()) is not None:
                raise ValueError(f"it is damaged: the checksum of {record} does not match")
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        state = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    except Exception as error:  # torch, zipfile and pickle raise many kinds
        raise ValueError(f"{file} cannot be read as a checkpoint ({error!s:.300}). {_CHOICES}") from error
    return SavedModel(file, content.get("model_config"), state)


def _downloaded(name: str, download: Mapping[str, Any]) -> Path:
    if name.endswith(".ckpt") or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):  # cannot be a name on the Hub
        raise FileNotFoundError(f"There is no folder or file {name}. {_CHOICES}")
    try:
        return Path(snapshot_download(name, **{"allow_patterns": [CONFIG, WEIGHTS], **download}))
    except Exception as error:  # the Hub's client raises many kinds
        raise ConnectionError(
            f"There is no folder or file {name}, and no model of that name could be had from the Hugging Face Hub "
            f"({type(error).__name__}: {error!s:.200}). {_CHOICES}"
        ) from error


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}. {_CHOICES}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}). Copy the folder again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{file} does not describe a model of umedpt-lightning: it lacks `format: {FORMAT}`.")
    if config.get("version") != VERSION:
        raise ValueError(
            f"{file} has version {config.get('version')!r}, but this release reads version {VERSION}. It was written "
            f"by {config.get('written_by')!r}: use a release near to that."
        )
    model = config.get("model")
    if not isinstance(model, dict):
        raise ValueError(f"{file}: model must be a mapping, but it is {model!r:.60}. Copy the folder again.")
    return model


def _tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}. {_CHOICES}")
    try:
        with safe_open(file, framework="pt") as content:
            state: dict[str, Tensor] = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            # of tensors that share memory one is written, and the metadata name it for the others
            same = {name: state[kept] for name, kept in (content.metadata() or {}).items() if kept in state}
    except Exception as error:  # safetensors has its own kind
        raise ValueError(f"{file} cannot be loaded ({error!s:.300}). Copy the folder again.") from error
    return same | state
