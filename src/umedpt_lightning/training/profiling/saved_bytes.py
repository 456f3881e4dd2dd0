"""Memory that a forward pass keeps for its backward pass."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn


class SavedBytes:
    """While it is entered, counts what autograd saves: every storage once, parameters not at all.

    Parameters are known by their type: those of blocks that are shared out between ranks have another memory each time.
    What a checkpointed block computes again in the backward pass is not in it.

    Attributes:
        alive: Bytes that are kept now.
        peak: Most bytes that were kept at a time.
    """

    def __init__(self) -> None:
        self._holders: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self.alive = self.peak = 0

    def __enter__(self) -> SavedBytes:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: getattr(held, "tensor", held))
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor | _Held:
        is_parameter = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
        return tensor if is_parameter else _Held(tensor, self)

    def take(self, key: int, size: int) -> None:
        """One more holds the storage at `key`."""
        if not self._holders[key]:
            self._sizes[key] = size
            self.alive += size
            self.peak = max(self.peak, self.alive)
        self._holders[key] += 1

    def leave(self, key: int) -> None:
        """One less."""
        self._holders[key] -= 1
        if not self._holders[key]:
            self.alive -= self._sizes.pop(key)


class _Held:
    def __init__(self, tensor: Tensor, counter: SavedBytes) -> None:
        self.tensor, self.counter = tensor.detach(), counter
        self.key = tensor.untyped_storage().data_ptr()
        counter.take(self.key, tensor.untyped_storage().nbytes())

    def __del__(self) -> None:
        self.counter.leave(self.key)
