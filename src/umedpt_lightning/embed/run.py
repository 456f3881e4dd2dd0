"""Images through the encoder, batch by batch, into a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from umedpt_lightning.data.loading.shutdown import shut_down_with, shut_down_workers
from umedpt_lightning.data.loading.worker import outlive_signals, prepare_worker
from umedpt_lightning.embed.pieces import Pieces
from umedpt_lightning.embed.store import Rows, Store
from umedpt_lightning.model import MultiTaskModel

#: A part is written after so many images or seconds: what is lost when the program is killed, and kept in memory.
_MOST_IMAGES, _MOST_SECONDS = 1024, 20.0


@dataclass(frozen=True)
class Machine:
    """What computes.

    Attributes:
        device: As torch names it.
        precision: ``bf16`` computes the encoder in bfloat16 where torch holds that safe.
        batch_size: Images at a time.
        num_workers: Processes that read images; 0 reads in the main process.
    """

    device: str = "cpu"
    precision: Literal["32", "bf16"] = "32"
    batch_size: int = 32
    num_workers: int = 0


class Batch(NamedTuple):
    """The images of some neighbouring rows.

    Attributes:
        start: The first row.
        stop: The row after the last.
        rows: Those that could be read.
        images: Their images in order, ``(B, C, H, W)``, neighbours of one size and dtype together.
        faults: What is wrong with the others.
    """

    start: int
    stop: int
    rows: list[int]
    images: list[Tensor]
    faults: list[str]


def embed(
    model: MultiTaskModel,
    task: str,
    pieces: Pieces,
    store: Store,
    machine: Machine,
    *,
    scales: bool = False,
    skip_bad: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Computes what the store does not have yet; what is done is kept, however this ends.

    Args:
        model: Is moved to the device.
        task: Whose normalisation is used.
        pieces: The images.
        store: Where embeddings are kept.
        machine: What computes.
        scales: Take the means of all maps of the pyramid, see `multi_scale`, not the pooled embedding.
        skip_bad: Leave out images that cannot be used.
        advance: Called with how many images more are done.

    Raises:
        ValueError: An image cannot be used, and `skip_bad` is off.
        ChildProcessError: A worker died.
        MemoryError: The device has too little.
    """
    model.eval().to(machine.device)
    waiting = _Waiting(store, pieces)
    try:
        for batch in _batches(pieces, store.done, machine):
            try:
                vectors = _vectors(model, task, batch.images, machine, scales)
            except torch.OutOfMemoryError as error:
                raise MemoryError(
                    f"{machine.device} has no room for {len(batch.rows)} images at a time. What was done is kept: give "
                    "a smaller --batch_size, and the same command again."
                ) from error
            rows, finite = np.array(batch.rows, np.int64), np.isfinite(vectors).all(axis=1)  # (B,), (B,)
            faults = batch.faults + [
                f"{pieces.id(row)}: its embedding is not finite. Check the image and the model."
                for row in rows[~finite].tolist()
            ]
            if faults and not skip_bad:
                raise ValueError(
                    f"{faults[0]} What was done before is kept: mend it and give the same command again to go on, or "
                    "leave out what is bad with --skip_bad."
                )
            waiting.add(batch.stop, rows[finite], vectors[finite], faults)
            advance(batch.stop - batch.start)
    finally:
        waiting.write()


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
    model: MultiTaskModel, task: str, images: Sequence[Tensor], machine: Machine, scales: bool
) -> NDArray[np.float32]:
    device = torch.device(machine.device)
    half = torch.autocast(device.type, torch.bfloat16) if machine.precision == "bf16" else nullcontext()
    found = []
    for stack in images:
        with half:
            moved = stack.to(device, non_blocking=True)
            found.append(multi_scale(model, moved, task) if scales else model.embed(moved, task))
    if not found:
        return np.empty((0, 0), np.float32)
    vectors: NDArray[np.float32] = torch.cat(found).float().cpu().numpy()
    return vectors


class _Waiting:
    """Embeddings that are not in a part yet."""

    def __init__(self, store: Store, pieces: Pieces) -> None:
        self._store, self._pieces = store, pieces
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
            ids = np.array([self._pieces.id(row) for row in rows], np.str_)
            groups = np.array([self._pieces.group(row) for row in rows], np.str_)
            vectors = np.concatenate(self._vectors) if self._vectors else np.empty((0, 0), np.float32)
            self._store.add(self._store.done, self._stop, Rows(ids, groups, vectors), self._skipped)
        self._clear()

    def _clear(self) -> None:
        self._rows: list[NDArray[np.int64]] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._skipped: list[str] = []
        self._stop = 0
        self._since = time.monotonic()


class _Reading(Dataset[Batch]):
    """Batches by their first row; they do not depend on where a run begins, so that its results do not either."""

    def __init__(self, pieces: Pieces, batch_size: int) -> None:
        self._pieces, self._size = pieces, batch_size

    def __getitem__(self, start: int) -> Batch:
        stop = min(start + self._size, len(self._pieces))
        rows: list[int] = []
        stacks: list[list[Tensor]] = []
        faults: list[str] = []
        for row in range(start, stop):
            try:
                image = torch.from_numpy(np.ascontiguousarray(self._pieces[row].transpose(2, 0, 1)))
            except (ValueError, OSError) as error:
                faults.append(str(error))
                continue
            rows.append(row)
            if stacks and (stacks[-1][0].shape, stacks[-1][0].dtype) == (image.shape, image.dtype):
                stacks[-1].append(image)
            else:
                stacks.append([image])
        return Batch(start, stop, rows, [torch.stack(images) for images in stacks], faults)


def _batches(pieces: Pieces, start: int, machine: Machine) -> Iterator[Batch]:
    loader = DataLoader(
        _Reading(pieces, machine.batch_size),
        batch_size=None,
        sampler=range(start, len(pieces), machine.batch_size),
        num_workers=machine.num_workers,
        pin_memory=machine.device.startswith("cuda"),
        worker_init_fn=_prepare_worker,
    )
    batches = iter(loader)
    read = _read(batches)
    shut_down_with(read, batches)
    return read


def _read(batches: Iterator[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ChildProcessError(
            f"A process that reads images died ({error}). What was done is kept. Memory may have run out: give fewer "
            "--num_workers or a smaller --batch_size, and the same command again."
        ) from error
    finally:
        shut_down_workers(batches)


def _prepare_worker(number: int) -> None:
    outlive_signals()
    prepare_worker()
