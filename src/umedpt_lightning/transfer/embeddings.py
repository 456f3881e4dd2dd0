"""Embeddings of a part, computed once for an encoder and kept on disk."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from umedpt_lightning.data.cache.identity import identity
from umedpt_lightning.data.cache.unpacked import cache_folder
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.digests import weights_digest
from umedpt_lightning.inference.embed import embed_reader
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.progress import Advance, progress
from umedpt_lightning.io.atomic import atomic_write
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.transfer.evaluation import evaluation_batches
from umedpt_lightning.types import Bags, to_numpy


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of some samples, in their order.

    Attributes:
        features: ``(N, D)`` float32; of bags those of all their images, ``(sum of sizes, D)``.
        targets: ``(N,)`` int64 classes, ``(N, L)`` float32 labels or ``(N, Q)`` float32 numbers, NaN where unknown.
        sizes: ``(N,)`` how many images each bag has; None where samples are single images.
        positions: ``(sum of sizes, 2)`` float32, as `umedpt_lightning.types.Bags` has them; None where unknown.
    """

    features: NDArray[np.float32]
    targets: NDArray[Any]
    sizes: NDArray[np.int64] | None = None
    positions: NDArray[np.float32] | None = None

    def __getitem__(self, rows: NDArray[np.int64]) -> Embeddings:
        """Those of some of the samples."""
        if self.sizes is None:
            return Embeddings(self.features[rows], self.targets[rows])
        ends = np.cumsum(self.sizes)
        images = np.concatenate([np.arange(ends[row] - self.sizes[row], ends[row]) for row in rows.tolist()])
        positions = None if self.positions is None else self.positions[images]
        return Embeddings(self.features[images], self.targets[rows], self.sizes[rows], positions)

    def means(self) -> Embeddings:
        """One for each sample: of bags the mean of their images."""
        if self.sizes is None:
            return self
        starts = np.cumsum(self.sizes) - self.sizes
        sums = np.add.reduceat(self.features.astype(np.float64), starts, axis=0)
        return Embeddings((sums / self.sizes[:, None]).astype(np.float32), self.targets)


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
    # those of the images of bags do not depend on the block that pools them
    digest = weights_digest(model, without=("blocks",) if reader.spec.bag else ())
    parts = (digest, identity(reader), data.size, reader.spec.value_range)
    file = cache_folder("embeddings") / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.npz"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Embeddings(**arrays)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):  # absent, or damaged: computed anew
        pass
    size = (data.size, data.size) if isinstance(data.size, int) else data.size
    with progress(what, len(reader)) as advance:
        if reader.spec.bag:
            found = _of_bags(model, name, data, reader, compute, advance)
        else:
            options = replace(compute, batch_size=data.batch_size)
            features, targets = embed_reader(model, name, reader, size, options, advance)
            found = Embeddings(features, np.asarray(targets))
    with atomic_write(file) as unfinished:
        np.savez(unfinished, **{key: value for key, value in vars(found).items() if value is not None})
    return found


def _of_bags(
    model: MultiTaskModel, name: str, data: TaskData, reader: Reader, compute: ComputeOptions, advance: Advance
) -> Embeddings:
    """Those of all images of all bags, one bag at a time."""
    model.eval().to(compute.device)
    features, targets, positions = [], [], []
    for batch in evaluation_batches(name, replace(data, batch_size=1), reader, compute):
        if not isinstance(batch.images, Bags):
            raise ValueError(f"The reader of task {name!r} gives single images, but its spec says bags.")
        with compute.enough_memory(), torch.inference_mode(), compute.autocast():
            features.append(to_numpy(model.instances(batch.images, name).float()))
        if not np.isfinite(features[-1]).all():
            raise ValueError(f"{batch.names[0]}: an embedding of it is not finite. Check its images, and the weights.")
        targets.append(to_numpy(batch.targets))
        if batch.images.positions is not None:
            positions.append(to_numpy(batch.images.positions))
        advance(1)
    sizes = np.array([len(each) for each in features], np.int64)
    places = np.concatenate(positions) if positions else None
    return Embeddings(np.concatenate(features), np.concatenate(targets), sizes, places)
