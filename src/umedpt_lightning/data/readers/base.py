"""The contract of a reader."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from umedpt_lightning.data.formats.files import walk
from umedpt_lightning.types import Sample, SampleTarget, TaskSpec


class Reader(Dataset[Sample], ABC):
    """A map-style data set of one task and one part of it (train, val or test).

    Construction reads labels and the table of files, not the images: it must be quick, and it raises for
    everything that can be seen without decoding an image (a missing file, an unknown class, a label out of range).

    Attributes:
        spec: What the heads need to know.
        targets: The targets of all samples where they are in memory anyway (classes ``(N,)``, labels ``(N, L)``,
            numbers ``(N, Q)``), else None: a choice of samples can look at them without decoding images.
    """

    spec: TaskSpec
    targets: NDArray[Any] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`.

        Raises:
            ValueError: The sample cannot be used; the message names the file and the mend.
        """

    def draw(self, index: int, seed: int) -> Sample:
        """The sample at `index` as training takes it; of a bag some images, which the seed of each pass chooses."""
        return self[index]

    def cached(self, keep: Callable[[Reader], Reader]) -> Reader:
        """The same samples, where `keep` gives a reader that decodes each of its samples once."""
        return keep(self)

    @property
    def without_images(self) -> frozenset[str]:
        """Bags that have a target and no image: a check tells those that have none in any part."""
        return frozenset()

    def name(self, index: int) -> str:
        """What messages call the sample at `index`; readers that can say it without reading the image do."""
        return self[index].name

    def found(self) -> Iterable[Path]:
        """All files in the folders that the reader was given, read or not: a check tells those that nothing reads."""
        return ()

    def mask_files(self) -> Sequence[str]:
        """The image files of its masks: a check tells those that are stored with loss."""
        return ()

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """``(N,)`` what each sample shares with others (its patient, centre, volume); None where nothing is known.

        Samples of one group are alike: if one is trained on, the others cannot measure.
        """
        return None

    def _at(self, index: int) -> int:
        """The index counted from the start; raises IndexError outside, where iteration over a sequence ends."""
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"Sample {index} was asked for, but there are {length}.")
        return index % length


class _Images(Protocol):
    """What `ImageReader` needs of a table of images."""

    channels: int
    value_range: tuple[float, float]

    @property
    def owners(self) -> NDArray[np.int32] | None:
        """``(N,)`` the file that each image is a piece of; None where files are whole images."""

    @property
    def wholes(self) -> NDArray[np.str_] | None:
        """The names of these files; None as above."""

    @property
    def cut(self) -> dict[str, dict[str, Any]]:
        """As in `TaskSpec`."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def sample(self, index: int, target: SampleTarget) -> Sample: ...


Images = TypeVar("Images", bound=_Images)


class ImageReader(Reader, Generic[Images]):
    """A reader with one sample an image of a table of images."""

    _images: Images
    _of_rows: NDArray[np.str_] | None = None

    def found(self) -> Iterable[Path]:
        """As `Reader.found`: what lies in the folders of DICOM series."""
        folders = filter(os.path.isdir, () if self._images.wholes is None else self._images.wholes.tolist())
        return chain.from_iterable(walk(Path(folder)) for folder in folders)

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """As `Reader.name`, without reading."""
        return self._images.name(self._at(index))

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """As `Reader.groups`: those that a table names, else the pieces of a file belong together."""
        groups = self._images.wholes if self._of_rows is None else self._of_rows
        owners = self._images.owners
        # made anew: as many long texts would fill memory
        return groups if groups is None or owners is None else groups[owners]


class TargetReader(ImageReader[Images]):
    """A reader whose targets are in memory: a class index, labels or numbers of each image."""

    targets: NDArray[Any]

    @abstractmethod
    def __init__(self) -> None:
        """Sets `spec`, `targets` and the images."""

    def __getitem__(self, index: int) -> Sample:
        """The image ``(H, W, C)`` with its class index, or with float32 labels or numbers, NaN where unknown."""
        index = self._at(index)
        target = self.targets[index]
        return self._images.sample(index, target.copy() if target.ndim else int(target))
