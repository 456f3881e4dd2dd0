"""All images of some files as tasks see them: an image is one, a volume has slices, a slide has tiles."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from umedpt_lightning.data.formats.images import image_size, read_image
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.opening import OpenFile, Opening
from umedpt_lightning.io.arrays import as_tensor
from umedpt_lightning.io.resize import resize

#: The index of a file that is to be seen by tiles that overlap.
BY_TILES = -1
#: Volumes and slides that are kept open at once.
_MOST_OPEN = 4


class Wanted(NamedTuple):
    """An image that is to be read: the number of its file, which of the file's images (or `BY_TILES`), for which tasks.

    It may be one that will be drawn.
    """

    file: int
    image: int = 0
    tasks: tuple[int, ...] = (0,)
    draw: bool = False


class Stack(NamedTuple):
    """Images ``(B, C, H, W)``, in the dtype they were stored in, that the task of a number sees together.

    `places` are which of the batch each is, and its height and width before it was resized, pixels.
    """

    task: int
    places: list[tuple[int, tuple[int, int]]]
    images: Tensor


class Batch(NamedTuple):
    """Images that were read together.

    Attributes:
        wanted: What they are.
        stacks: Those that could be read, by task and in order; neighbours of one size and dtype together.
        faults: What is wrong with the others: row, task and a message with the file's name.
        large: Row and task of those that are left to be seen by tiles.
        drawn: Images to draw, by row and task, ``(H, W, C)``, of large ones every so many pixels.
        targets: The targets of a reader's samples, one a row.
    """

    wanted: list[Wanted]
    stacks: list[Stack]
    faults: list[tuple[int, int, str]]
    large: list[tuple[int, int]]
    drawn: dict[tuple[int, int], NDArray[Any]]
    targets: list[Any]


class ImageDataset(Dataset[Batch], ABC):
    """Batches of images by what is wanted of them.

    Args:
        most_pixels: Images of a stack have no more pixels together; None for as many as they like.
        draw_side: Images to draw are thinned to about that side, pixels.
    """

    def __init__(self, most_pixels: int | None = None, draw_side: int = 1) -> None:
        self._most_pixels, self._draw_side = most_pixels, draw_side

    @abstractmethod
    def image(self, wanted: Wanted, task: int) -> NDArray[Any] | None:
        """The image ``(H, W, C)`` as a task sees it before it is resized; None where it is left to tiles.

        Raises:
            ValueError: It cannot be read, or is not like the data of the task; the message names the file.
            OSError: It cannot be read.
        """

    @abstractmethod
    def size(self, task: int) -> tuple[int, int] | None:
        """Height and width that a task's images are resized to."""

    def __getitem__(self, key: Sequence[Wanted]) -> Batch:
        """What could be read of what is wanted, and what is wrong with the rest."""
        batch = Batch(list(key), [], [], [], {}, [])
        stacks: dict[int, tuple[list[tuple[int, tuple[int, int]]], list[NDArray[Any]]]] = {}
        for row, wanted in enumerate(key):
            for task in wanted.tasks:
                try:
                    image = self.image(wanted, task)
                except (ValueError, OSError, ImportError) as error:
                    batch.faults.append((row, task, str(error)))
                    continue
                if image is None:
                    batch.large.append((row, task))
                    continue
                if wanted.draw:
                    batch.drawn[row, task] = thinned(image, self._draw_side)
                size = self.size(task)
                shown = image if size is None else resize(image, size)
                places, images = stacks.setdefault(task, ([], []))
                if images and not self._fits(images, shown):
                    batch.stacks.append(Stack(task, places, as_tensor(images)))
                    places, images = stacks[task] = ([], [])
                places.append((row, (image.shape[0], image.shape[1])))
                images.append(shown)
        batch.stacks.extend(Stack(task, places, as_tensor(images)) for task, (places, images) in stacks.items())
        return batch

    def _fits(self, images: list[NDArray[Any]], image: NDArray[Any]) -> bool:
        pixels = (len(images) + 1) * image.shape[0] * image.shape[1]
        alike = (image.shape, image.dtype) == (images[0].shape, images[0].dtype)
        return alike and (self._most_pixels is None or pixels <= self._most_pixels)


class InputDataset(ImageDataset):
    """The images of files as tasks see them.

    What is known of the files is kept in a few arrays: lists would be copied into every forked worker.

    Args:
        files: At least one.
        openings: How each task opens them.
        opened: Files that are open already, by their number and that of the task.
        most_pixels: As for `ImageDataset`.
        draw_side: Likewise.
    """

    def __init__(
        self,
        files: Sequence[InputFile],
        openings: Sequence[Opening],
        opened: Mapping[tuple[int, int], OpenFile] | None = None,
        most_pixels: int | None = None,
        draw_side: int = 1,
    ) -> None:
        super().__init__(most_pixels, draw_side)
        self.openings = list(openings)
        self.ids = np.array([file.id.encode() for file in files])
        self.groups = np.array([file.group.encode() for file in files])
        self._files = np.array([os.fsencode(file.file) for file in files])
        self._kinds = np.array([file.kind for file in files])
        self._opened = dict(opened or {})
        self._open: OrderedDict[tuple[int, int], OpenFile] = OrderedDict()
        self._decoded: dict[tuple[str, bool], NDArray[Any]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def file(self, number: int) -> InputFile:
        """One of the files."""
        id, group = (names[number].item().decode() for names in (self.ids, self.groups))
        return InputFile(id, group, self._kinds[number].item(), os.fsdecode(self._files[number].item()))

    def open(self, number: int, task: int) -> OpenFile:
        """A file as a task opens it; the last few are kept open.

        Raises:
            ImportError: A library that reads it is missing.
            ValueError: It cannot be used.
        """
        key = (number, task)
        if key in self._opened:
            return self._opened[key]
        if key not in self._open:
            self._open[key] = self.openings[task].open(self.file(number))
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return self._open[key]

    def size(self, task: int) -> tuple[int, int] | None:
        """As `ImageDataset.size`."""
        return self.openings[task].size

    def image(self, wanted: Wanted, task: int) -> NDArray[Any] | None:
        """As `ImageDataset.image`."""
        opening, file = self.openings[task], self.file(wanted.file)
        if wanted.image == BY_TILES:
            return None
        if not opening.is_single(file):
            return self.open(wanted.file, task).read(wanted.image)
        if opening.at_once is not None:
            height, width = image_size(file.path)
            if height * width > opening.at_once:
                return None
        key = (file.file, opening.windowed)
        if key not in self._decoded:
            if any(other != file.file for other, _ in self._decoded):
                self._decoded.clear()
            self._decoded[key] = read_image(file.path, windowed=opening.windowed)
        return opening.seen(self._decoded[key], file.file)

    def __getitem__(self, key: Sequence[Wanted]) -> Batch:
        """As for `ImageDataset`; each image is decoded once for all tasks."""
        batch = super().__getitem__(key)
        self._decoded.clear()
        return batch


class ReaderImages(ImageDataset):
    """The images of a task's reader, read and resized to `size` as files are; batches have the targets too."""

    def __init__(self, reader: Reader, size: tuple[int, int] | None) -> None:
        super().__init__()
        self._reader, self._size = reader, size

    def __len__(self) -> int:
        return len(self._reader)

    def size(self, task: int) -> tuple[int, int] | None:
        """As `ImageDataset.size`."""
        return self._size

    def image(self, wanted: Wanted, task: int) -> NDArray[Any]:
        """As `ImageDataset.image`."""
        sample = self._reader[wanted.image]
        self._targets.append(sample.target)
        return sample.image

    def __getitem__(self, key: Sequence[Wanted]) -> Batch:
        """As for `ImageDataset`."""
        self._targets: list[Any] = []
        self._reader.ahead([wanted.image for wanted in key])
        return super().__getitem__(key)._replace(targets=self._targets)


def thinned(image: NDArray[Any], side: int) -> NDArray[Any]:
    """Every so many-th pixel of an image ``(H, W, C)``, so that its longer side is about `side` or less."""
    step = max(1, max(image.shape[:2]) // side)
    return image[::step, ::step].copy()
