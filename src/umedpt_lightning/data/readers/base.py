"""The contract of a reader, and what readers of images and of tables have in common."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from umedpt_lightning.data.formats.columns import Columns
from umedpt_lightning.data.formats.faults import Collector
from umedpt_lightning.data.formats.files import ImageFiles, Images, Pieces, walk
from umedpt_lightning.data.formats.table import Table, read_rows
from umedpt_lightning.data.formats.texts import Coded
from umedpt_lightning.types import Sample, SampleTarget, TaskSpec

AnyImages = TypeVar("AnyImages", bound=Images)


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
        """The sample at `index` as training takes it: of a bag some images, which the seed of each pass chooses."""
        return self[index]

    def ahead(self, indices: Sequence[int]) -> None:
        """Called with the samples of a micro-batch before they are read: what comes from afar can come together."""

    @property
    def draws(self) -> bool:
        """Whether `draw` gives something else in each pass, so that a cache must not keep what it gives."""
        return type(self).draw is not Reader.draw

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

    @property
    def places(self) -> NDArray[np.float32] | None:
        """``(N, 2)`` where each sample lies in what it is a piece of; None where nothing is known.

        It is the corner of a tile, x and y, or the number of a slice and 0. Bags make positions of it.
        """
        return None

    @property
    def sizes(self) -> NDArray[np.int64]:
        """``(N,)`` how many images each sample has, of a bag all of them."""
        return np.ones(len(self), np.int64)

    def _at(self, index: int) -> int:
        """The index counted from the start; raises IndexError outside, where iteration over a sequence ends."""
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"Sample {index} was asked for, but there are {length}.")
        return index % length


class ImageReader(Reader, Generic[AnyImages]):
    """A reader with one sample an image of a table of images."""

    _images: AnyImages
    _of_rows: Coded | None = None
    _folders: tuple[Path, ...] = ()

    @abstractmethod
    def __init__(self) -> None:
        """Sets `spec` and the images."""

    @abstractmethod
    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        """That of the image ``(H, W, C)`` at an index from 0."""

    def __getitem__(self, index: int) -> Sample:
        """The image ``(H, W, C)`` with its target."""
        index = self._at(index)
        sample = self._images.sample(index)
        sample.target = self._target(index, sample.image, sample.name)
        return sample

    def found(self) -> Iterable[Path]:
        """As `Reader.found`: what lies in its folders, and in those of DICOM series."""
        series = filter(os.path.isdir, () if self._images.wholes is None else self._images.wholes.tolist())
        return chain.from_iterable(walk(Path(folder)) for folder in (self._folders or series))

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """As `Reader.name`, without reading."""
        return self._images.name(self._at(index))

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """As `Reader.groups`: those that a table names, else the pieces of a file belong together."""
        groups = self._images.wholes if self._of_rows is None else self._of_rows.array()
        owners = self._images.owners
        # made anew: as many long texts would fill memory
        return groups if groups is None or owners is None else groups[owners]

    @property
    def places(self) -> NDArray[np.float32] | None:
        """As `Reader.places`."""
        if not isinstance(self._images, Pieces):
            return None
        found = self._images.places.reshape(len(self), -1).astype(np.float32)  # (N, 1) or (N, 2)
        return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


class ListedReader(ImageReader[ImageFiles]):
    """A reader of the image files that another file names."""

    def found(self) -> Iterable[Path]:
        """As `Reader.found`: what lies beside these."""
        folders = {os.path.dirname(self.name(i)) for i in range(len(self))}
        return chain.from_iterable(walk(Path(folder), deep=False) for folder in sorted(folders))


class TargetReader(ImageReader[AnyImages]):
    """A reader whose targets are in memory: a class index, or float32 labels or numbers, NaN where unknown."""

    targets: NDArray[Any]

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        target = self.targets[index]
        return target.copy() if target.ndim else int(target)


class RowReader(TargetReader[AnyImages]):
    """A class, labels or numbers of each row of a table, which all images of the row have."""

    def _read(
        self,
        table: Table | Path | str,
        split: str | None,
        columns: Columns,
        images: Callable[..., AnyImages],
        *options: Any,
    ) -> None:
        """Sets everything, or raises all faults of the table at once; `images` are made with these options."""
        rows = read_rows(table, split, columns.columns)
        faults = Collector()
        with faults:
            self._of_rows = rows.groups()
        with faults:
            targets = columns.targets(rows)
        with faults:
            self._images = images(rows.paths(), *options, rows.file)
        faults.raise_found()
        self.targets = targets if self._images.owners is None else targets[self._images.owners]
        facts = self._images.facts
        if rows.table.group is not None:  # by which bags are told apart at inference
            facts["cut"]["table"] = {"group": rows.table.group}
        self.spec = columns.spec(rows, **facts).with_statistics(self.targets)
