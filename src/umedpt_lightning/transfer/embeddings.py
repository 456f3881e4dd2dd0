"""Embeddings of a part, computed once for an encoder and kept on disk."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.cache.identity import identity
from umedpt_lightning.data.cache.unpacked import cache_folder
from umedpt_lightning.data.loading.dataset import MultiTaskDataset
from umedpt_lightning.data.loading.loaders import EvaluationLoader, WorkerPool
from umedpt_lightning.data.loading.sampling import EvaluationSampler
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.embed import embed_reader
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.weights_digest import weights_digest
from umedpt_lightning.io.atomic import atomic_write
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.transfer.progress import progress
from umedpt_lightning.types import TaskBatch


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


def evaluation_batches(name: str, data: TaskData, reader: Reader, compute: ComputeOptions) -> Iterator[TaskBatch]:
    """All samples of a reader in order, resized, without augmentation, on the device that computes."""
    dataset = MultiTaskDataset({name: reader}, {name: data.evaluation_transform})
    sampler = EvaluationSampler({name: len(reader)}, {name: data.batch_size})
    pool = WorkerPool(compute.num_workers, pin_memory=compute.device.startswith("cuda"))
    for batch in EvaluationLoader(dataset, sampler, pool):
        yield batch.to(compute.device)


def embeddings(
    model: MultiTaskModel, name: str, data: TaskData, reader: Reader, compute: ComputeOptions, what: str = "embeddings"
) -> Embeddings:
    """The embeddings of all samples of a reader, read from the cache where they have been computed before.

    The cache is the folder ``embeddings`` beside the other caches of the package. A file of it belongs to the weights,
    to all that the samples come from, and to the size that images are resized to; when one of them changes, embeddings
    are computed anew.

    Args:
        model: With the task; it is set to evaluation.
        name: The task.
        data: Its batch size and image size are used.
        reader: The samples.
        compute: What computes, and how many processes read.
        what: What the progress bar says.

    Raises:
        ValueError: A sample cannot be used, or an embedding is not finite.
    """
    spec = reader.spec
    parts = (weights_digest(model), identity(reader), data.size, spec.value_range)
    file = cache_folder("embeddings") / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.npz"
    found = _read(file)
    if found is None:
        found = _compute(model, name, data, reader, compute, what)
        features, targets = found.features, found.targets
        with atomic_write(file) as unfinished:
            np.savez(unfinished, features=features, targets=targets)
    return found


def _compute(
    model: MultiTaskModel, name: str, data: TaskData, reader: Reader, compute: ComputeOptions, what: str
) -> Embeddings:
    size = (data.size, data.size) if isinstance(data.size, int) else data.size
    compute = replace(compute, batch_size=data.batch_size)
    with progress(what, len(reader)) as advance:
        features, targets = embed_reader(model, name, reader, size, compute, advance)
    return Embeddings(features, np.asarray(targets))


def _read(file: Path) -> Embeddings | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Embeddings(arrays["features"], arrays["targets"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent, or damaged: computed anew
        return None
