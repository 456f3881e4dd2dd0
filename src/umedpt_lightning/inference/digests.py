"""Texts that say which weights something was computed by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import xxhash
from torch import Tensor, nn

from umedpt_lightning.data.cache.identity import code_identity
from umedpt_lightning.model import MultiTaskModel

#: The distributions whose code blocks consist of.
_COMPUTING = ("segmentation-models-pytorch", "timm", "torch", "torchvision")


def weights_digest(model: MultiTaskModel, without: Sequence[str] = ()) -> str:
    """A text that is equal for shared blocks that compute the same: of structure, weights, statistics and code.

    Children of the model that are named in `without` do not count.
    """
    code = code_identity(("blocks", "model.py"), _COMPUTING, {type(module) for module in model.modules()})
    digest = hashlib.sha256(code.encode())
    for block, module in model.named_children():
        if block == "tasks" or block in without:
            continue
        digest.update(repr(module).encode())
        for key, value in module.state_dict().items():
            digest.update(f"{block}.{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(_bytes(value))
    digest.update(f"{model.encoder.mean} {model.encoder.std}".encode())
    return digest.hexdigest()[:32]


def fingerprint(model: nn.Module) -> str:
    """A text of all weights, of heads too."""
    digest = xxhash.xxh3_128()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
