"""Tables of files: checked to exist when they are made, read one by one later."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import FaultsError
from umedpt_lightning.data.formats.images import image_suffixes, probe_image, read_image
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.lossy import lossy_format
from umedpt_lightning.data.formats.mask_images import read_mask
from umedpt_lightning.data.formats.mask_values import MaskValues
from umedpt_lightning.data.formats.missing import check_files, check_folder, composed
from umedpt_lightning.data.volume import dicom_file
from umedpt_lightning.labels.wording import shorten
from umedpt_lightning.types import Sample, SampleTarget

_LEFT_BY_SYSTEMS = frozenset({"thumbs.db", "desktop.ini", "dicomdir"})
_FULL_RANGE = {np.dtype(np.uint8): (0.0, 255.0), np.dtype(np.uint16): (0.0, 65535.0)}


class FileTable:
    """Many paths in one numpy array.

    A list of strings would be copied into every forked worker, since reading one changes its reference count.

    Args:
        paths: At least one.
        what: What a message calls the files.
        source: The file or folder that names them.

    Raises:
        ValueError: There are no paths.
        FileNotFoundError: Some files are missing.
    """

    def __init__(self, paths: Sequence[Path], what: str, source: object) -> None:
        if not paths:
            raise ValueError(f"{source}: there are no {what} here. Correct the path, or leave this part out.")
        check_files(paths, what, source)
        self._paths = np.array([os.fsencode(path) for path in paths])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self._paths[index])  # not a Path: to make one takes a twentieth of the time of a small JPEG


class ImageFiles:
    """The images of a reader, all of one number of channels and one dtype.

    Args:
        paths: At least one.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: The stored intensities that become 0 and 1; None the full range of the dtype. DICOM greys are
            shown through the window of their file where it is None, and are in their own unit where it is given.
        source: The file or folder that names the images.

    Attributes:
        channels: Channels of every image.
        value_range: As above, never None.

    Raises:
        ValueError: There are no paths, or the first image cannot be used.
        FileNotFoundError: Some files are missing.
    """

    def __init__(
        self, paths: Sequence[Path], channels: int | None, value_range: tuple[float, float] | None, source: object
    ) -> None:
        self._files = FileTable(paths, "images", source)
        self._wanted = channels
        first = self._files[0]
        self._windowed = value_range is None
        found, self._dtype = probe_image(first, windowed=self._windowed)
        self.channels = found if channels is None else channels
        check_channels(self.channels, found, first)
        self.value_range = full_range(self._dtype, value_range, first)

    owners = wholes = None  # a file is an image

    @property
    def cut(self) -> dict[str, dict[str, Any]]:
        """As in `TaskSpec`."""
        return {"images": {"windowed": self._windowed, "dtype": self._dtype.name}}

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """What a message calls an image."""
        return self._files[index]

    def read(self, index: int) -> tuple[NDArray[Any], str]:
        """The image ``(H, W, C)`` and its name.

        Raises:
            ValueError: It cannot be read, or is not like the first image.
        """
        path = self._files[index]
        image = read_image(path, self._wanted, windowed=self._windowed)
        if image.shape[-1] != self.channels:
            raise ValueError(
                f"{path}: {image.shape[-1]} channels, but the first image ({self._files[0]}) has {self.channels}. "
                "Write `channels: 3` (or 1) to read all images as colour (or grey)."
            )
        if image.dtype != self._dtype:
            raise ValueError(
                f"{path}: {image.dtype}, but the first image ({self._files[0]}) is {self._dtype}. Save all images of a "
                "task with one depth: one value_range cannot fit both."
            )
        return image, path

    def sample(self, index: int, target: SampleTarget) -> Sample:
        """The image with a target.

        Raises:
            ValueError: As for `read`.
        """
        image, name = self.read(index)
        return Sample(image, target, name)


class MaskFiles:
    """The masks of a reader, whose stored values are turned into class indices.

    Args:
        paths: At least one.
        classes: Names of the classes stored as 0, 1, ..., or a stored value for each name.
        ignore: The stored value of unlabelled pixels, None if there are none.
        source: The file or folder that names the masks.

    Attributes:
        classes: Class names.

    Raises:
        ValueError: There are no paths, or the classes cannot be used.
        FileNotFoundError: Some files are missing.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        classes: Sequence[str | int] | Mapping[str, int],
        ignore: int | None,
        source: object,
    ) -> None:
        self._values = MaskValues(classes, ignore, source)
        self.classes = self._values.classes
        self._files = FileTable(paths, "masks", source)

    @property
    def files(self) -> list[str]:
        """Their names."""
        return [self._files[i] for i in range(len(self._files))]

    def read(self, index: int, image: NDArray[Any], name: str) -> NDArray[np.int16]:
        """The mask ``(H, W)`` of class indices and `IGNORE_INDEX` that belongs to an image of that name.

        Raises:
            ValueError: It cannot be read, is not of the image's size, or holds another value.
        """
        path = self._files[index]
        mask = read_mask(path)
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"{path}: the mask is {mask.shape[0]}x{mask.shape[1]} (HxW), but its image {name} is "
                f"{image.shape[0]}x{image.shape[1]}. Save both at one size."
            )
        try:
            return self._values.to_indices(mask, path)
        except ValueError as error:
            if kind := lossy_format(path):
                raise ValueError(
                    f"{path}: the mask is stored as {kind}, with loss, which made other values of its classes. Export "
                    f"it again as PNG. ({error})"
                ) from error
            raise


def list_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The image files of a folder by their suffix, and DICOM without one, in natural order of their names.

    Hidden files and folders are left out.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    check_folder(folder)
    suffixes = image_suffixes()
    found = walk(folder, deep=recursive)
    images = [path for path in found if path.suffix.lower() in suffixes or dicom_file.is_dicom(path)]
    return sorted(images, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def walk(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """All files below a folder, or only those in it, but hidden ones and what systems leave there."""
    for inner, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower() not in _LEFT_BY_SYSTEMS:
                yield Path(inner, name)


def beside(images: ImageFiles) -> Iterator[Path]:
    """All files in the folders that images lie in."""
    for folder in sorted({os.path.dirname(images.name(i)) for i in range(len(images))}):
        yield from walk(Path(folder), deep=False)


def stem_of(path: Path) -> str:
    """The name of an image without its suffix, `composed`; what looks like one in a name by UID is none."""
    return composed(path.stem if path.suffix.lower() in image_suffixes() else path.name)


def check_pairs(image_of: Mapping[str, Path], mask_of: Mapping[str, Path], images: object, masks: object) -> None:
    """Raises ValueError where images have no mask, or masks no image, of their name.

    Args:
        image_of: Images by name.
        mask_of: Masks by name.
        images: The folder of images that a message names.
        masks: The folder of masks.
    """
    alone = [str(path) for name, path in image_of.items() if name not in mask_of]
    without = [str(path) for name, path in mask_of.items() if name not in image_of]
    if alone or without:
        mend = "Give both of a pair the same name, remove what has no partner, or pair them in a table."
        raise FaultsError(
            f"{images} and {masks} do not pair: {len(alone)} images have no mask {shorten(alone, 5)}, "
            f"{len(without)} masks no image {shorten(without, 5)}. {mend}",
            [
                *(ValueError(f"{path}: it has no mask in {masks}. {mend}") for path in alone),
                *(ValueError(f"{path}: it has no image in {images}. {mend}") for path in without),
            ],
        )


def check_channels(channels: int, found: int, name: str) -> None:
    """Raises ValueError where an image of `found` channels cannot be read with `channels`."""
    if channels != found and (channels, found) not in ((1, 3), (3, 1)):
        raise ValueError(
            f"{name}: `channels: {channels}` was asked for, but the image has {found}. Only grey and RGB are turned "
            f"into each other: write 1 or 3, or leave `channels` out."
        )


def full_range(dtype: np.dtype[Any], value_range: tuple[float, float] | None, name: str) -> tuple[float, float]:
    """`value_range`, or the full range of an integer dtype.

    Raises:
        ValueError: The dtype has no natural range, or is none that images may have.
    """
    if dtype not in _FULL_RANGE and dtype != np.float32:
        raise ValueError(f"{name}: images are uint8, uint16 or float32, but this one is {dtype}. Convert it.")
    if value_range is not None:
        low, high = value_range
        return float(low), float(high)
    if dtype not in _FULL_RANGE:
        raise ValueError(
            f"{name}: {dtype} images have no natural range. Write `value_range: [low, high]`, the stored intensities "
            "that become 0 and 1 (such as [-1000, 400] for Hounsfield units)."
        )
    return _FULL_RANGE[dtype]
