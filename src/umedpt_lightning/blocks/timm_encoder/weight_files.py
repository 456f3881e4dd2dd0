"""Weights as people have them: a file, or the folder or Hub id of a timm model."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

_CONFIG = "config.json"
_TENSORS = ("model.safetensors", "pytorch_model.bin")
#: Where training code puts a model's tensors beside others; the first that is there counts, averages before the rest.
_PARTS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model")
#: Words in the names of networks that are trained to be followed, or that follow without being the result.
_SECOND = ("student", "momentum", "encoder_k")
#: Names that DINO, MAE and MoCo give to what is around an encoder: their code normalises by ImageNet's mean.
_ORIGINAL = re.compile(r"teacher|encoder_q|base_encoder|mask_token|decoder_pos_embed")


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file, and what the file or its folder says of images.

    Attributes:
        state: The model's tensors by their names in it, without what came before these in the file.
        prefix: What came before them.
        left_out: What the names of others begin with instead.
        config: Of timm's ``pretrained_cfg``: mean, std and size of the images.
    """

    state: dict[str, Tensor]
    prefix: str
    left_out: set[str]
    config: dict[str, Any]

    def altered(self) -> WeightFile:
        """The same with other numbers."""
        state = {key: value + 1 if value.is_floating_point() else value for key, value in self.state.items()}
        return replace(self, state=state)


def find_weights(weights: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """The file with the tensors, and what the ``config.json`` of its folder says.

    Args:
        weights: A file, a folder with ``config.json`` and the tensors, or the id of such on the Hugging Face Hub.
        name: The timm model that they are for.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ConnectionError: It cannot be downloaded.
        ValueError: The folder is of another model.
    """
    folder = weights if weights.is_dir() else _downloaded(str(weights))
    if folder is None:
        if not weights.is_file():
            raise FileNotFoundError(
                f"encoder.weights: there is no file {weights}. Give a .safetensors or .pth file of {name}, the folder "
                f'of a timm model ({_CONFIG} and {_TENSORS[0]}), its id on the Hugging Face Hub, or "timm" to download.'
            )
        return weights, {}
    files = [folder / tensors for tensors in _TENSORS if (folder / tensors).is_file()]
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        architecture = str(config["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"encoder.weights: {folder} has no {_CONFIG} of a timm model ({type(error).__name__}: {error}). Give a "
            "folder with one, or a file of tensors; of a folder that `umedpt export` wrote, its encoder.safetensors."
        ) from error
    if not files:
        raise FileNotFoundError(f"encoder.weights: {folder} has none of {', '.join(_TENSORS)}. Copy it again.")
    if architecture.partition(".")[0] != name.partition(".")[0]:
        raise ValueError(
            f"encoder.weights: {folder} is of timm's {architecture}, but encoder.name is {name}. Write "
            f"name: {architecture}, or give another folder."
        )
    return files[0], config


def read_weights(file: Path, config: Mapping[str, Any], names: Collection[str]) -> WeightFile:
    """The tensors for a timm model; no code in the file is run.

    Args:
        file: With the tensors.
        config: What `find_weights` found beside it.
        names: Of the tensors of the whole timm model.
    """
    tensors = dict(_tensors(_read(file)))
    prefix = _prefix(tensors, names)
    state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    common = prefix.split(".")
    left_out = {
        next(part for i, part in enumerate(key.split(".")) if part not in common[i : i + 1])
        for key in tensors
        if not key.startswith(prefix)
    }
    said = config.get("pretrained_cfg") or config
    said = {key: tuple(said[key]) for key in ("mean", "std", "input_size") if key in said}
    if not config and any(map(_ORIGINAL.search, tensors)):
        said = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return WeightFile(state, prefix, left_out, said)


def _downloaded(place: str) -> Path | None:
    """The folder of a model on the Hub; None where the place looks like a file."""
    repository = re.sub(r"^hf[-_]hub:", "", place)
    by_id = re.fullmatch(r"[\w.-]+/[\w.-]+", repository) and Path(repository).suffix not in _SUFFIXES
    if Path(place).exists() or (repository == place and not by_id):
        return None
    try:
        folder = Path(snapshot_download(repository, allow_patterns=[_CONFIG, _TENSORS[0]]))
        if not (folder / _TENSORS[0]).is_file():
            folder = Path(snapshot_download(repository, allow_patterns=[_CONFIG, _TENSORS[1]]))
    except Exception as error:  # the Hub's client raises many kinds
        raise ConnectionError(
            f"encoder.weights: there is no file or folder {place}, and no timm model of that name could be had from "
            f"the Hugging Face Hub ({type(error).__name__}: {error!s:.200}). Where there is internet, and you are "
            f"logged in if its licence asks for it, get it by `hf download {repository} --local-dir FOLDER`; then give "
            "the folder."
        ) from error
    return folder


_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    with torch.serialization.safe_globals([argparse.Namespace]):  # MAE and DINO keep their arguments beside the weights
        return torch.load(file, map_location="cpu", weights_only=True)


def _tensors(content: Any, before: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested mappings, by the names of the mappings and their own."""
    if not isinstance(content, Mapping):
        return
    if not before:
        part = next((part for part in _PARTS if isinstance(content.get(part), Mapping)), None)
        content = content if part is None else {part: content[part]} if part == "teacher" else content[part]
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{before}{key}", value
        else:
            yield from _tensors(value, f"{before}{key}.")


def _prefix(keys: Collection[str], names: Collection[str]) -> str:
    """What stands before most of the model's own names: ``module.base_encoder.``, ``backbone.``, mostly nothing."""
    found: Counter[str] = Counter()
    for key in keys:
        parts = key.split(".")
        found.update(".".join([*parts[:i], ""]) for i in range(len(parts)) if ".".join(parts[i:]) in names)
    return max(found, key=lambda prefix: (found[prefix], not any(w in prefix for w in _SECOND)), default="")
