"""Images without labels: those of any other reader, or all that lie in a folder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.files import ImageFiles, Images, list_images, walk
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.missing import check_folder
from umedpt_lightning.data.readers.base import ImageReader, Reader
from umedpt_lightning.data.volume.dicom_file import is_dicom
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.slices import Slices, VolumeImages
from umedpt_lightning.data.volume.volume_files import volume_suffix
from umedpt_lightning.types import Sample, SampleTarget, UnlabelledSpec


class Unlabelled(Reader):
    """The images of another reader without what it knows of them, for tasks that make their targets of the images.

    In training the target of an image is the seed of the pass, so that a task draws something else for it each time;
    in evaluation it is the image's index, so that it draws the same.

    Args:
        reader: Any reader of single images.

    Raises:
        ValueError: It gives bags.
    """

    def __init__(self, reader: Reader) -> None:
        if reader.spec.bag:
            raise ValueError(f"The reader gives bags ({reader.spec.bag}). Give that of their images.")
        self._reader = reader
        read = reader.spec
        self.spec = UnlabelledSpec(channels=read.channels, value_range=read.value_range, cut=read.cut)

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Sample:
        """The image with its index."""
        index = self._at(index)
        return self.draw(index, index)

    def draw(self, index: int, seed: int) -> Sample:
        """The image with the seed."""
        return replace(self._reader[index], target=seed, stored_target=None)

    def ahead(self, indices: Sequence[int]) -> None:
        """As the reader's."""
        self._reader.ahead(indices)

    def cached(self, keep: Callable[[Reader], Reader]) -> Reader:
        """The images are kept, not their seeds."""
        reader = copy.copy(self)
        reader._reader = keep(self._reader)
        return reader

    def name(self, index: int) -> str:
        """As the reader's."""
        return self._reader.name(index)

    def found(self) -> Iterable[Path]:
        """As the reader's."""
        return self._reader.found()

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """As the reader's."""
        return self._reader.groups


class UnlabelledFolder(ImageReader[Images]):
    """All images in a folder and in the folders below it, or all slices of the volumes there.

    Args:
        folder: Holds images (PNG, JPEG, TIFF, DICOM, …) or volumes (NIfTI and the like), in any order of folders. Or
            several such folders.
        slices: How volumes are cut; where this or `intensity` is given, the DICOM files of a folder are one series.
            None all axial slices of what can only be a volume.
        intensity: What becomes 0 and 1 in volumes, as for `VolumeClasses`.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.

    Raises:
        FileNotFoundError: There is no such folder.
        ImportError: nibabel or pydicom is missing.
        ValueError: There is nothing that can be read, images and volumes lie together, or two do not go together.
    """

    def __init__(
        self,
        folder: Path | str | list[Path | str],
        slices: Slices | None = None,
        intensity: Intensity | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        folders = tuple(map(Path, folder if isinstance(folder, list) else [folder]))
        for each in folders:
            check_folder(each)
        named = ", ".join(map(str, folders))
        images = [file for each in folders for file in list_images(each, recursive=True)]
        volumes = {file for each in folders for file in walk(each) if volume_suffix(file)}
        if slices is not None or intensity is not None:
            series = {file.parent for file in images if is_dicom(file)}
            images, volumes = [file for file in images if file.parent not in series], volumes | series
        if volumes and images:
            raise ValueError(
                f"{named}: there are volumes ({min(volumes)}) and images ({images[0]}). Give each a task or a folder "
                "of its own."
            )
        self._folders = folders
        if volumes:
            paths = sorted(volumes, key=lambda path: natural_key(path.as_posix()))
            self._images = VolumeImages(paths, slices, intensity, channels, value_range, named)
        else:
            self._images = ImageFiles(images, channels, value_range, named)
        self.spec = UnlabelledSpec(**self._images.facts)

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        return index

    def draw(self, index: int, seed: int) -> Sample:
        """As `Unlabelled.draw`."""
        return replace(self[index], target=seed)

    def cached(self, keep: Callable[[Reader], Reader]) -> Reader:
        """As `Unlabelled.cached`."""
        return Unlabelled(keep(self))
