"""Embeddings by an encoder that does not learn: without a graph, and of each image once where they are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn


def is_frozen(encoder: nn.Module) -> bool:
    """Whether what an encoder gives for an image stays as it is: it has nothing that learns, and draws nothing."""
    learns = any(parameter.requires_grad for parameter in encoder.parameters())
    return not learns and not any(module.training for module in encoder.modules())


class KeptEmbeddings:
    """Embeddings of images, each of which goes through the encoder once, by itself.

    In other company the last bits of an embedding could differ, so that a run that goes on after a kill would not end
    with the same ones. An image is known by what it shows, whichever task and part it is read for.

    Args:
        most: So many are kept.
        in_training: Tasks whose images are the same in each pass of the training, too.
    """

    def __init__(self, most: int, in_training: frozenset[str] = frozenset()) -> None:
        self._in_training = in_training
        self._most = most
        self._kept: dict[Hashable, Tensor] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def has(self, task: str, training: bool) -> bool:
        """Whether images of a task are the same each time that they are seen."""
        return not training or task in self._in_training

    def __call__(self, embed: Callable[[Tensor], Tensor], images: Tensor, kind: Hashable) -> Tensor:
        """The embeddings ``(N, D)``, without graph.

        Args:
            embed: Embeds images ``(1, C, H, W)``.
            images: ``(N, C, H, W)`` as stored.
            kind: What else an embedding depends on, such as the intensities that are black and white.
        """
        return torch.cat([self._of(embed, image, kind) for image in torch.split(images, 1)])

    def _of(self, embed: Callable[[Tensor], Tensor], image: Tensor, kind: Hashable) -> Tensor:
        shown = hashlib.blake2b(image.cpu().numpy().tobytes(), digest_size=16).digest()
        key = (shown, image.shape, image.dtype, kind)
        found = self._kept.get(key)
        if found is None:
            # what is made in inference mode could not be used in training
            with torch.inference_mode(False), torch.no_grad():
                found = embed(image)
                if len(self._kept) < self._most:
                    self._kept[key] = found.cpu()
        return found.to(image.device)


def forget_embeddings(model: Any, *_: Any) -> None:
    """Those of a model that gets other weights, which a fit that was broken off leaves behind."""
    model.kept = None
