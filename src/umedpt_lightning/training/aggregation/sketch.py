"""A long vector in few numbers that keep its inner products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Sketch:
    """Sums of signed elements: a count sketch whose buckets are taken in turn.

    Element i goes to bucket ``i mod buckets`` with a random sign. The inner product of two sketches is, on average over
    the signs, that of the vectors, with a standard deviation of about ``|x| |y| / sqrt(buckets)``: Weinberger et al.,
    Feature hashing for large scale multitask learning, ICML 2009. As a sketch is linear, that of what is added to a
    vector is the difference of the sketches before and after it.

    There is no sign for each element in memory: those of a piece of the vector are a window of one row of signs, which
    begins at another random place for each piece.

    Args:
        vectors: Flat tensors that together are the vector, on one device.
        buckets: How many numbers.
    """

    def __init__(self, vectors: Sequence[Tensor], buckets: int) -> None:
        self._vectors, self.buckets = list(vectors), buckets
        self.device = vectors[0].device
        self.dtype = torch.promote_types(vectors[0].dtype, torch.float32)
        generator = torch.Generator().manual_seed(0)  # the same on all ranks and in all runs
        signs = torch.randint(2, (2 * buckets,), generator=generator) * 2 - 1
        self._signs = signs.to(self.device, self.dtype)
        pieces = sum(len(torch.split(vector, buckets)) for vector in vectors)
        self._starts: list[int] = torch.randint(buckets, (pieces,), generator=generator).tolist()

    @property
    def bytes(self) -> int:
        """Memory that it takes itself, whatever is sketched."""
        return self._signs.nbytes

    def __call__(self) -> Tensor:
        """``(buckets,)`` of the vector as it is now, float32 or float64."""
        total = torch.zeros(self.buckets, dtype=self.dtype, device=self.device)
        starts = iter(self._starts)
        for vector in self._vectors:
            for piece in torch.split(vector, self.buckets):
                start, size = next(starts), len(piece)
                total[:size].addcmul_(piece.to(self.dtype), self._signs[start : start + size])
        return total
