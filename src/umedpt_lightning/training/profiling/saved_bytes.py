"""Memory that a forward pass keeps for its backward pass."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class SavedBytes:
    """While it is entered, counts what autograd saves: every storage once, parameters not at all.

    What a checkpointed block computes again in the backward pass is not in it.

    Args:
        module: Its parameters are there anyway and are left out.

    Attributes:
        peak: Most bytes that were kept at a time.
    """

    def __init__(self, module: nn.Module) -> None:
        self.peak = 0
        self._parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self._holders: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> _Held:
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self._parameters:
            return _Held(tensor, None)
        self._holders[key] += 1
        self._sizes[key] = storage.nbytes()
        self.peak = max(self.peak, sum(self._sizes.values()))
        return _Held(tensor, _Release(self, key))

    def release(self, key: int) -> None:
        """One holder of a storage is gone."""
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._sizes[key]


class _Release:
    """Tells when autograd lets go of a tensor."""

    def __init__(self, meter: SavedBytes, key: int) -> None:
        self._meter, self._key = meter, key

    def __del__(self) -> None:
        self._meter.release(self._key)


class _Held(NamedTuple):
    tensor: Tensor
    release: _Release | None
