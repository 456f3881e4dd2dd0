"""The contract of a reader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from umedpt_lightning.types import Sample, TaskSpec


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

    def name(self, index: int) -> str:
        """What messages call the sample at `index`; readers that can say it without reading the image do."""
        return self[index].name

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

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...


Images = TypeVar("Images", bound=_Images)


class ImageReader(Reader, Generic[Images]):
    """A reader with one sample an image of a table of images."""

    _images: Images
    _groups: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """As `Reader.name`, without reading."""
        return self._images.name(self._at(index))

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """As `Reader.groups`."""
        return self._groups
