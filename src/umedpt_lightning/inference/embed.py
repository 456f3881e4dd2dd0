"""Images through the encoder, batch by batch, and into a store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.inference.dataset import Batch, ImageDataset, ReaderImages, Wanted
from umedpt_lightning.inference.pool import ComputeOptions, read_ahead
from umedpt_lightning.inference.progress import Advance
from umedpt_lightning.inference.rows import InputRows
from umedpt_lightning.inference.store import Rows, Store
from umedpt_lightning.model import MultiTaskModel

#: A part is written after so many rows or seconds: what is lost when the program is killed, and kept in memory.
_MOST_ROWS, _MOST_SECONDS = 1024, 20.0


class Piece(NamedTuple):
    """Some rows of a table of embeddings.

    Attributes:
        inputs: How many of the inputs they are.
        rows: ``(N,)`` which of these could be used, counted from 0.
        vectors: ``(N, D)`` float32.
        faults: What is wrong with the others.
    """

    inputs: int
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    faults: list[str]


class Named(Protocol):
    """What the rows of a table are called."""

    def id(self, row: int) -> str:
        """The row's name."""

    def group(self, row: int) -> str:
        """What it shares with others."""


def fill(
    store: Store,
    inputs: Named,
    pieces: Iterable[Piece],
    *,
    skip_bad: bool = False,
    advance: Advance = lambda count: None,
) -> None:
    """Keeps what the store does not have yet; what is done is kept, however this ends.

    `skip_bad` leaves out inputs that cannot be used; `advance` is called with how many more are done.

    Raises:
        ValueError: An input cannot be used, and `skip_bad` is off.
    """
    stop = store.done
    kept: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    skipped: list[str] = []
    since = time.monotonic()

    def write() -> None:
        nonlocal since
        if stop > store.done:
            rows = [row for numbers, _ in kept for row in numbers.tolist()]
            ids, groups = (np.array([of(row) for row in rows], np.str_) for of in (inputs.id, inputs.group))
            vectors = np.concatenate([v for _, v in kept]) if kept else np.empty((0, 0), np.float32)
            store.add(store.done, stop, Rows(ids, groups, vectors), skipped)
        kept.clear()
        skipped.clear()
        since = time.monotonic()

    try:
        for piece in pieces:
            if piece.faults and not skip_bad:
                raise ValueError(
                    f"{piece.faults[0]} What was done before is kept: mend it and give the same command again to go "
                    "on, or leave out what is bad with --skip_bad."
                )
            if len(piece.rows):
                kept.append((stop + piece.rows, piece.vectors))
            skipped += piece.faults
            stop += piece.inputs
            if stop - store.done >= _MOST_ROWS or time.monotonic() - since > _MOST_SECONDS:
                write()
            advance(piece.inputs)
    finally:
        write()


def image_pieces(
    model: MultiTaskModel, task: str, inputs: InputRows, start: int, options: ComputeOptions, scales: bool = False
) -> Iterator[Piece]:
    """The embeddings of the images from a row on.

    The model is moved to the device, the normalisation is that of the task. `scales` takes the means of all maps of the
    pyramid, see `multi_scale`, not the pooled embedding.

    Raises:
        ChildProcessError: A worker died.
        MemoryError: The device has too little.
    """
    keys = inputs.batches(start, options.batch_size)
    for batch, rows, vectors in embedded(model, task, inputs.dataset, keys, options, scales):
        finite = np.isfinite(vectors).all(axis=1)  # (B,)
        faults = [text for _, _, text in batch.faults]
        faults += [
            f"{inputs.id(start + row)}: its embedding is not finite. Check the image and the model."
            for row in rows[~finite].tolist()
        ]
        yield Piece(len(batch.wanted), rows[finite], vectors[finite], faults)
        start += len(batch.wanted)


def embed_reader(
    model: MultiTaskModel,
    task: str,
    reader: Reader,
    size: tuple[int, int] | None,
    options: ComputeOptions,
    advance: Advance = lambda count: None,
) -> tuple[NDArray[np.float32], list[Any]]:
    """The embeddings ``(N, D)`` float32 of all samples of a reader, in their order, without augmentation; and targets.

    Arguments are those of `embedded`; images are resized to `size`, height and width in pixels, or kept.

    Raises:
        ValueError: A sample cannot be used, or an embedding is not finite; the message names it.
        ChildProcessError: A worker died.
        MemoryError: The device has too little.
    """
    if reader.spec.bag:
        raise ValueError(
            f"Samples of task {task!r} are bags (of a {reader.spec.bag}), which have no embedding without a trained "
            "bag block. Give the reader of their images."
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
    """The embeddings of images, a batch for each key; arguments and errors are those of `image_pieces`.

    Yields:
        What was read, ``(N,)`` which of it could be used, and the embeddings of these ``(N, D)``.
    """
    model.eval().to(options.device)
    pooled = partial(multi_scale, model) if scales else partial(_last_map, model)
    for batch in read_ahead(dataset, keys, options):
        found = []
        with options.enough_memory(), torch.inference_mode(), options.autocast():
            for stack in batch.stacks:
                found.append(pooled(stack.images.to(options.device, non_blocking=True), task))
            vectors = torch.cat(found or [torch.empty(0, 0)]).float().cpu().numpy()
        yield batch, np.array([row for stack in batch.stacks for row, _ in stack.places], np.int64), vectors


def _last_map(model: MultiTaskModel, images: Tensor, task: str) -> Tensor:
    """As `MultiTaskModel.embed`, without its warning: of files it was told with their names."""
    embedding: Tensor = model.pooling(model.pyramid(images, task))
    return embedding


def multi_scale(model: MultiTaskModel, images: Tensor, task: str) -> Tensor:
    """The means over images ``(B, C, H, W)`` of every map of the pyramid, finest first, ``(B, sum of channels)``."""
    pyramid = model.pyramid(images, task)
    height, width = pyramid.size
    means = [
        # without the rows and columns that hold padding alone
        features[:, :, : -(-height // stride), : -(-width // stride)].float().mean(dim=(2, 3))
        for features, stride in zip(pyramid.maps, pyramid.strides, strict=True)
    ]
    return torch.cat(means, dim=1)
