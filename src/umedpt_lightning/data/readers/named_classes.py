"""Classes that the names of files and folders say."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from umedpt_lightning.data.formats.files import ImageFiles, list_images
from umedpt_lightning.data.formats.labels import check_names, class_indices
from umedpt_lightning.data.readers.base import TargetReader
from umedpt_lightning.data.readers.subset import matches
from umedpt_lightning.types import ClassSpec


class NamedClasses(TargetReader[ImageFiles]):
    r"""One class an image, which a regular expression finds in its path.

    Args:
        folder: Holds the images, at any depth.
        label: A regular expression with one group in parentheses, found in the path of each image below the folder:
            ``_([01])\.png$``.
        classes: What it finds in the order of the indices; or what it finds for each name, such as
            ``{normal: "0", tuberculosis: "1"}``.
        files: Which images to read: a pattern of their path below the folder, such as ``*/40X/*.png``, where ``*`` goes
            over folders too.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are no images, or the name of one says none of the classes.
    """

    def __init__(
        self,
        folder: Path | str,
        label: str,
        classes: list[str | int] | dict[str, str],
        files: str = "*",
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._folders = (Path(folder),)
        found = {path.relative_to(folder).as_posix(): path for path in list_images(Path(folder), recursive=True)}
        chosen = {name: path for name, path in found.items() if fnmatch(name, files)}
        names = check_names(classes, "classes", folder)
        stored = [str(text) for text in (classes.values() if isinstance(classes, Mapping) else names)]
        self._images = ImageFiles(list(chosen.values()), channels, value_range, folder)
        texts = matches(label, list(chosen), "label").tolist()
        self.targets = class_indices(texts, stored, [str(path) for path in chosen.values()], folder)
        self.spec = ClassSpec(**self._images.facts, classes=names).with_statistics(self.targets)
