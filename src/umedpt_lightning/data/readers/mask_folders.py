"""A folder of images beside a folder of masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from umedpt_lightning.data.formats.files import ImageFiles, MaskFiles, check_pairs, list_images, stem_of, walk
from umedpt_lightning.data.readers.base import ImageReader
from umedpt_lightning.types import MaskSpec, Sample


class MaskFolders(ImageReader[ImageFiles]):
    """One class a pixel: the mask of ``images/a.jpg`` is ``masks/a.png``, whatever the two suffixes are.

    Args:
        images: Folder of images, read in natural order of their names.
        masks: Folder of masks, one an image.
        classes: Names of the classes stored as 0, 1, ..., the background first; or a stored value for each name, such
            as ``{background: 0, nodule: 255}``.
        ignore: The stored value of unlabelled pixels; None if every pixel is labelled.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: There are no images, or images and masks do not pair.
    """

    def __init__(
        self,
        images: Path | str,
        masks: Path | str,
        classes: list[str | int] | dict[str, int],
        ignore: int | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        images, masks = Path(images), Path(masks)
        image_of, mask_of = _by_stem(images), _by_stem(masks)
        check_pairs(image_of, mask_of, images, masks)
        self._folders = images, masks
        self._images = ImageFiles(list(image_of.values()), channels, value_range, images)
        self._masks = MaskFiles([mask_of[stem] for stem in image_of], classes, ignore, masks)
        read = self._images
        names = self._masks.classes
        self.spec = MaskSpec(channels=read.channels, value_range=read.value_range, cut=read.cut, classes=names)

    def __getitem__(self, index: int) -> Sample:
        """The image ``(H, W, C)`` with its mask ``(H, W)`` int16."""
        index = self._at(index)
        image, name = self._images.read(index)
        return Sample(image, self._masks.read(index, image, name), name)

    def found(self) -> Iterable[Path]:
        """As `Reader.found`."""
        return chain.from_iterable(map(walk, self._folders))

    def mask_files(self) -> Sequence[str]:
        """As `Reader.mask_files`."""
        return self._masks.files


def _by_stem(folder: Path) -> dict[str, Path]:
    result: dict[str, Path] = {}
    for path in list_images(folder):
        other = result.setdefault(stem_of(path), path)
        if other != path:
            raise ValueError(f"{path} and {other} have one name. Rename or remove one of them.")
    return result
