"""Embeddings of a part, computed once for an encoder and kept on disk."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.cache.identity import identity
from umedpt_lightning.data.cache.unpacked import cache_folder
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.digests import weights_digest
from umedpt_lightning.inference.embed import embed_reader
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.progress import progress
from umedpt_lightning.io.atomic import atomic_write
from umedpt_lightning.model import MultiTaskModel


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of some samples, in their order.

    Attributes:
        features: ``(N, D)`` float32.
        targets: ``(N,)`` int64 classes, ``(N, L)`` float32 labels or ``(N, Q)`` float32 numbers, NaN where unknown.
    """

    features: NDArray[np.float32]
    targets: NDArray[Any]

    def __getitem__(self, rows: NDArray[np.int64]) -> Embeddings:
        """Those of some of the samples."""
        return Embeddings(self.features[rows], self.targets[rows])


def embeddings(
    model: MultiTaskModel, name: str, data: TaskData, reader: Reader, compute: ComputeOptions, what: str = "embeddings"
) -> Embeddings:
    """The embeddings of all samples of a reader, read from the cache where they have been computed before.

    The cache is the folder ``embeddings`` beside the other caches of the package. A file of it belongs to the weights,
    to all that the samples come from, and to the size that images are resized to; when one of them changes, embeddings
    are computed anew. `data` says batch size and image size, `what` is what the progress bar says.

    Raises:
        ValueError: A sample cannot be used, or an embedding is not finite.
    """
    parts = (weights_digest(model), identity(reader), data.size, reader.spec.value_range)
    file = cache_folder("embeddings") / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.npz"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Embeddings(arrays["features"], arrays["targets"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent, or damaged: computed anew
        pass
    size = (data.size, data.size) if isinstance(data.size, int) else data.size
    with progress(what, len(reader)) as advance:
        features, targets = embed_reader(
            model, name, reader, size, replace(compute, batch_size=data.batch_size), advance
        )
    found = Embeddings(features, np.asarray(targets))
    with atomic_write(file) as unfinished:
        np.savez(unfinished, features=found.features, targets=found.targets)
    return found
