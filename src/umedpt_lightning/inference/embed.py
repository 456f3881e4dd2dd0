"""Images through the encoder, batch by batch, into a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.inference.dataset import Batch, ImageDataset, ReaderImages, Wanted
from umedpt_lightning.inference.pool import ComputeOptions, read_ahead
from umedpt_lightning.inference.rows import InputRows
from umedpt_lightning.inference.store import Rows, Store
from umedpt_lightning.model import MultiTaskModel

#: A part is written after so many images or seconds: what is lost when the program is killed, and kept in memory.
_MOST_IMAGES, _MOST_SECONDS = 1024, 20.0


def embed(
    model: MultiTaskModel,
    task: str,
    inputs: InputRows,
    store: Store,
    options: ComputeOptions,
    *,
    scales: bool = False,
    skip_bad: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Computes what the store does not have yet; what is done is kept, however this ends.

    Args:
        model: Is moved to the device.
        task: Whose normalisation is used.
        inputs: The images.
        store: Where embeddings are kept.
        options: What computes.
        scales: Take the means of all maps of the pyramid, see `multi_scale`, not the pooled embedding.
        skip_bad: Leave out images that cannot be used.
        advance: Called with how many images more are done.

    Raises:
        ValueError: An image cannot be used, and `skip_bad` is off.
        ChildProcessError: A worker died.
        MemoryError: The device has too little.
    """
    part = _Part(store, inputs)
    keys = inputs.batches(store.done, options.batch_size)
    start = store.done
    try:
        for batch, rows, vectors in embedded(model, task, inputs.dataset, keys, options, scales):
            finite = np.isfinite(vectors).all(axis=1)  # (B,)
            faults = [text for _, _, text in batch.faults]
            faults += [
                f"{inputs.id(start + row)}: its embedding is not finite. Check the image and the model."
                for row in rows[~finite].tolist()
            ]
            if faults and not skip_bad:
                raise ValueError(
                    f"{faults[0]} What was done before is kept: mend it and give the same command again to go on, or "
                    "leave out what is bad with --skip_bad."
                )
            stop = start + len(batch.wanted)
            part.add(stop, start + rows[finite], vectors[finite], faults)
            advance(stop - start)
            start = stop
    finally:
        part.write()


def embed_reader(
    model: MultiTaskModel,
    task: str,
    reader: Reader,
    size: tuple[int, int] | None,
    options: ComputeOptions,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[NDArray[np.float32], list[Any]]:
    """The embeddings of all samples of a reader, in their order, without augmentation.

    Args:
        model: Is moved to the device.
        task: Whose normalisation is used.
        reader: The samples.
        size: Height and width that images are resized to; None keeps them.
        options: What computes.
        advance: Called with how many samples more are done.

    Returns:
        ``(N, D)`` float32, and the samples' targets.

    Raises:
        ValueError: A sample cannot be used, or an embedding is not finite; the message names it.
        ChildProcessError: A worker died.
        MemoryError: The device has too little.
    """
    if reader.spec.bag:
        raise ValueError(
            f"Samples of task {task!r} are bags (of a {reader.spec.bag}), which have no embedding without a trained "
            "bag block. Give the reader of their images, or fine-tune the whole (`modes: [finetune]`)."
        )
    keys = (
        [Wanted(0, index) for index in range(start, min(start + options.batch_size, len(reader)))]
        for start in range(0, len(reader), options.batch_size)
    )
    found: list[NDArray[np.float32]] = []
    targets: list[Any] = []
    for batch, _, vectors in embedded(model, task, ReaderImages(reader, size), keys, options):
        if batch.faults:
            raise ValueError(batch.faults[0][2])
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            name = reader.name(batch.wanted[int(finite.argmin())].image)
            raise ValueError(f"{name}: its embedding is not finite. Check the image, and the weights.")
        found.append(vectors)
        targets += batch.targets
        advance(len(batch.wanted))
    return np.concatenate(found), targets


def embedded(
    model: MultiTaskModel,
    task: str,
    dataset: ImageDataset,
    keys: Iterable[Sequence[Wanted]],
    options: ComputeOptions,
    scales: bool = False,
) -> Iterator[tuple[Batch, NDArray[np.int64], NDArray[np.float32]]]:
    """The embeddings of images, a batch for each key.

    Args:
        model: Is set to evaluation and moved to the device.
        task: Whose normalisation is used.
        dataset: Reads the images.
        keys: What is wanted of it.
        options: What computes.
        scales: As for `embed`.

    Yields:
        What was read, ``(N,)`` which of it could be used, and the embeddings of these ``(N, D)``.

    Raises:
        ChildProcessError: A worker died.
        MemoryError: The device has too little.
    """
    model.eval().to(options.device)
    for batch in read_ahead(dataset, keys, options):
        with options.enough_memory():
            vectors = _vectors(model, task, [stack.images for stack in batch.stacks], options, scales)
        yield batch, np.array([row for stack in batch.stacks for row, _ in stack.places], np.int64), vectors


def multi_scale(model: MultiTaskModel, images: Tensor, task: str) -> Tensor:
    """The means over the image of every map of the pyramid, finest first, ``(B, sum of channels)``.

    Args:
        model: In evaluation mode.
        images: ``(B, C, H, W)`` in stored dtype.
        task: Whose normalisation is used.
    """
    pyramid = model.pyramid(images, task)
    height, width = pyramid.size
    means = [
        # without the rows and columns that hold padding alone
        features[:, :, : -(-height // stride), : -(-width // stride)].float().mean(dim=(2, 3))
        for features, stride in zip(pyramid.maps, pyramid.strides, strict=True)
    ]
    return torch.cat(means, dim=1)


@torch.inference_mode()
def _vectors(
    model: MultiTaskModel, task: str, images: Sequence[Tensor], options: ComputeOptions, scales: bool
) -> NDArray[np.float32]:
    found = []
    for stack in images:
        with options.autocast():
            moved = stack.to(options.device, non_blocking=True)
            found.append(multi_scale(model, moved, task) if scales else model.embed(moved, task))
    if not found:
        return np.empty((0, 0), np.float32)
    vectors: NDArray[np.float32] = torch.cat(found).float().cpu().numpy()
    return vectors


class _Part:
    """Embeddings that are not in the store yet."""

    def __init__(self, store: Store, inputs: InputRows) -> None:
        self._store, self._inputs = store, inputs
        self._clear()

    def add(self, stop: int, rows: NDArray[np.int64], vectors: NDArray[np.float32], faults: Sequence[str]) -> None:
        self._stop = stop
        self._skipped += faults
        if len(rows):
            self._rows.append(rows)
            self._vectors.append(vectors)
        if stop - self._store.done >= _MOST_IMAGES or time.monotonic() - self._since > _MOST_SECONDS:
            self.write()

    def write(self) -> None:
        if self._stop > self._store.done:
            rows = np.concatenate(self._rows).tolist() if self._rows else []
            ids = np.array([self._inputs.id(row) for row in rows], np.str_)
            groups = np.array([self._inputs.group(row) for row in rows], np.str_)
            vectors = np.concatenate(self._vectors) if self._vectors else np.empty((0, 0), np.float32)
            self._store.add(self._store.done, self._stop, Rows(ids, groups, vectors), self._skipped)
        self._clear()

    def _clear(self) -> None:
        self._rows: list[NDArray[np.int64]] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._skipped: list[str] = []
        self._stop = 0
        self._since = time.monotonic()
