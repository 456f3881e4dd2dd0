"""A text that says which shared blocks a vector was computed by."""

from __future__ import annotations

import hashlib

import torch

from umedpt_lightning.data.cache.identity import code_identity
from umedpt_lightning.model import MultiTaskModel

#: The distributions whose code blocks consist of.
_COMPUTING = ("segmentation-models-pytorch", "timm", "torch", "torchvision")


def weights_digest(model: MultiTaskModel) -> str:
    """A text that is equal for shared blocks that compute the same: of structure, weights, statistics and code."""
    code = code_identity(("blocks", "model.py"), _COMPUTING, {type(module) for module in model.modules()})
    digest = hashlib.sha256(code.encode())
    for block, module in model.named_children():
        if block == "tasks":
            continue
        digest.update(repr(module).encode())
        for key, value in module.state_dict().items():
            digest.update(f"{block}.{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    digest.update(f"{model.encoder.mean} {model.encoder.std}".encode())
    return digest.hexdigest()[:32]
