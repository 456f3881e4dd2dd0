"""Tables of files: checked to exist when they are made, read one by one later."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import FaultsError
from umedpt_lightning.data.formats.images import image_suffixes, probe_image, read_image
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.missing import check_files, check_folder, composed
from umedpt_lightning.data.formats.paths import Paths
from umedpt_lightning.data.volume import dicom_file
from umedpt_lightning.labels.wording import shorten
from umedpt_lightning.types import Sample

_LEFT_BY_SYSTEMS = frozenset({"thumbs.db", "desktop.ini", "dicomdir"})
_FULL_RANGE = {np.dtype(np.uint8): (0.0, 255.0), np.dtype(np.uint16): (0.0, 65535.0)}


class FileTable:
    """Many paths, see `Texts`; raises ValueError without any, and FileNotFoundError where files are missing.

    Args:
        paths: At least one.
        what: What a message calls the files.
        source: The file or folder that names them.
    """

    def __init__(self, paths: Sequence[Path], what: str, source: object) -> None:
        if not paths:
            raise ValueError(f"{source}: there are no {what} here. Correct the path, or leave this part out.")
        check_files(paths, what, source)
        self._paths = Paths.of(paths).texts

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> str:
        return self._paths[index]  # not a Path: to make one takes a twentieth of the time of a small JPEG


class Images(ABC):
    """The images of a reader.

    Attributes:
        channels: Channels of every image.
        value_range: The stored intensities that become 0 and 1.
        owners: ``(N,)`` the file that each image is a piece of; None where files are whole images.
        wholes: The names of these files; None as above.
        cut: As in `TaskSpec`.
    """

    channels: int
    value_range: tuple[float, float]
    owners: NDArray[np.int32] | None = None
    wholes: NDArray[np.str_] | None = None
    cut: Mapping[str, dict[str, Any]] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What a message calls an image."""

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """The image ``(H, W, C)``, without a target; raises ValueError where it cannot be read."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a spec says of images."""
        return {"channels": self.channels, "value_range": self.value_range, "cut": dict(self.cut)}


class ImageFiles(Images):
    """Image files, all of one number of channels and one dtype.

    Args:
        paths: At least one.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: As in `Images`; None the full range of the dtype. DICOM greys are shown through the window of their
            file where it is None, and are in their own unit where it is given.
        source: The file or folder that names the images.
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
        self.cut = {"images": {"windowed": self._windowed, "dtype": self._dtype.name}}

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """As `Images.name`."""
        return self._files[index]

    def sample(self, index: int) -> Sample:
        """As `Images.sample`; raises ValueError also for an image that is not like the first one."""
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
        return Sample(image, None, path)


class Pieces(Images):
    """Images that are cut out of larger files, each of which has a ``path``.

    Attributes:
        places: ``(N, ...)`` where in its file each image is.
    """

    owners: NDArray[np.int32]
    places: NDArray[np.int32]

    def _cut(self, files: Sequence[Any], places: Sequence[NDArray[np.int32]]) -> None:
        self.wholes = np.array([str(file.path) for file in files])
        self.owners = np.repeat(np.arange(len(places), dtype=np.int32), [len(each) for each in places])
        self.places = np.concatenate(places)

    def __len__(self) -> int:
        return len(self.owners)

    def keep(self, chosen: NDArray[np.bool_], otherwise: str) -> None:
        """Leaves out all images but those; raises ValueError with that message where none would be left."""
        if not chosen.any():
            raise ValueError(otherwise)
        self.owners, self.places = self.owners[chosen], self.places[chosen]


def list_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The image files of a folder by their suffix, and DICOM without one, in natural order of their names."""
    check_folder(folder)
    suffixes = image_suffixes()
    found = walk(folder, deep=recursive)
    images = [path for path in found if path.suffix.lower() in suffixes or dicom_file.is_dicom(path)]
    return sorted(images, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def walk(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """All files of `folders`."""
    return (inner / name for inner, files in folders(folder, deep=deep) for name in files)


def folders(folder: Path, *, deep: bool = True) -> Iterator[tuple[Path, list[str]]]:
    """A folder, and all below it in natural order, each with the names of its files.

    Hidden ones, and what systems leave there, are left out. Links are followed, but not to a folder that they are in.
    """
    real: dict[Path, str] = {}
    for path, inner, files in os.walk(folder, followlinks=True):
        here = Path(path)
        above = {real.get(parent) for parent in here.parents}
        real[here] = os.path.realpath(path)
        if real[here] in above:
            inner.clear()
            continue
        inner[:] = sorted((name for name in inner if not is_hidden(name)), key=natural_key) if deep else []
        yield here, [name for name in files if not name.startswith(".") and name.lower() not in _LEFT_BY_SYSTEMS]


def is_hidden(folder: str) -> bool:
    """Whether a folder of that name holds what is not meant to be seen, as the one that macOS puts into archives."""
    return folder.startswith(".") or folder == "__MACOSX"


def stem_of(path: Path) -> str:
    """The name of an image without its suffix, `composed`; what looks like one in a name by UID is none."""
    return composed(path.stem if path.suffix.lower() in image_suffixes() else path.name)


def one_by_name(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by name; raises ValueError where two have one."""
    result: dict[str, Path] = {}
    for name, path in named:
        other = result.setdefault(name, path)
        if other != path:
            raise ValueError(f"{path} and {other} have one name. Rename or remove one of them.")
    return result


def check_pairs(image_of: Mapping[str, Path], mask_of: Mapping[str, Path], images: object, masks: object) -> None:
    """Raises ValueError where images have no mask, or masks no image, of their name.

    `images` and `masks` are the folders that a message names.
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
    """`value_range`, or the full range of an integer dtype; raises ValueError for floats without one."""
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
