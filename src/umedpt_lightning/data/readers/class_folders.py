"""One folder a class."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from umedpt_lightning.data.formats.files import ImageFiles, list_images, walk
from umedpt_lightning.data.formats.labels import check_names, class_indices, natural_key
from umedpt_lightning.data.formats.missing import check_folder
from umedpt_lightning.data.readers.base import TargetReader
from umedpt_lightning.types import ClassSpec


class ClassFolders(TargetReader[ImageFiles]):
    """One class an image, said by the sub-folder that the image lies in, at any depth.

    Args:
        folder: Holds one sub-folder a class. Files beside them and hidden folders are left out.
        classes: Names of the sub-folders in the order of the indices; None for all of them in natural order. Say them
            where a part has no image of some class, so that all parts agree.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are no images, or a sub-folder is not among the classes.
    """

    def __init__(
        self,
        folder: Path | str,
        classes: list[str | int] | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        folder = Path(folder)
        check_folder(folder)
        found = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        found.sort(key=natural_key)
        if not found:
            raise ValueError(f"{folder}: there are no sub-folders, one a class, in it. Correct the path.")
        names = check_names(found if classes is None else classes, "classes", folder)
        class_indices(found, names, [str(folder / name) for name in found], folder)  # raises for what is no class

        paths: list[Path] = []
        counts: list[int] = []
        for name in names:
            images = list_images(folder / name, recursive=True) if name in found else []
            paths += images
            counts.append(len(images))
        self._images = ImageFiles(paths, channels, value_range, folder)
        self._folder = folder
        self.targets = np.repeat(np.arange(len(names)), counts)
        read = self._images
        spec = ClassSpec(channels=read.channels, value_range=read.value_range, cut=read.cut, classes=names)
        self.spec = spec.with_statistics(self.targets)

    def found(self) -> Iterable[Path]:
        """As `Reader.found`."""
        return walk(self._folder)
