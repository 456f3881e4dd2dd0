"""Folders that say classes or masks: one folder a class, or images beside masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.files import ImageFiles, check_pairs, is_hidden, list_images, one_by_name, stem_of
from umedpt_lightning.data.formats.labels import check_names, class_indices, natural_key, spellings
from umedpt_lightning.data.formats.masks import MaskFiles
from umedpt_lightning.data.formats.missing import check_folder
from umedpt_lightning.data.formats.patterns import by_wildcards, is_pattern
from umedpt_lightning.data.readers.base import ImageReader, TargetReader
from umedpt_lightning.types import ClassSpec, MaskSpec, SampleTarget

_PARTS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})


class ClassFolders(TargetReader[ImageFiles]):
    """One class an image, said by the sub-folder that the image lies in, at any depth.

    Args:
        folder: Holds one sub-folder a class. Files beside them and hidden folders are left out.
        classes: Names of the sub-folders in the order of the indices, or the sub-folders of each name, as
            ``{AP: ap, PA: [pa, pa2]}``; None for all of them in natural order. Say them where a part has no image of
            some class, so that all parts agree.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are no images, or a sub-folder is not among the classes.
    """

    def __init__(
        self,
        folder: Path | str,
        classes: list[str | int] | dict[str, str | list[str]] | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        folder = Path(folder)
        check_folder(folder)
        found = [path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
        found.sort(key=natural_key)
        if not found:
            raise ValueError(f"{folder}: there are no sub-folders, one a class, in it. Correct the path.")
        if classes is None and all(name.lower() in _PARTS for name in found):
            raise ValueError(
                f"{folder}: {found} are parts, not classes. Write {folder / found[0]} as `folder`, the others in other "
                "parts, or name all in `classes` if they are classes."
            )
        names = check_names(found if classes is None else classes, "classes", folder)
        index = spellings(found if classes is None else classes, folder)
        unknown = [name for name in found if name not in index]
        class_indices(unknown, names, [str(folder / name) for name in unknown], folder, mapped=True)  # raises for these

        paths: list[Path] = []
        counts: list[int] = []
        folders = sorted(found, key=index.__getitem__)  # those of a class in natural order
        for name in folders:
            images = list_images(folder / name, recursive=True)
            paths += images
            counts.append(len(images))
        self._images = ImageFiles(paths, channels, value_range, folder)
        self._folders = (folder,)
        self.targets = np.repeat([index[name] for name in folders], counts)
        self.spec = ClassSpec(**self._images.facts, classes=names).with_statistics(self.targets)


class MaskFileReader(ImageReader[ImageFiles]):
    """A reader of images with one mask file each."""

    _masks: MaskFiles

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        return self._masks.read(index, image, name)

    def mask_files(self) -> Sequence[str]:
        """As `Reader.mask_files`."""
        return self._masks.files


class MaskFolders(MaskFileReader):
    """One class a pixel: the mask of ``images/a.jpg`` is ``masks/a.png``, whatever the two suffixes are.

    Args:
        images: Folder of images, read in natural order of their names. Or a pattern of files such as
            ``x/*_image.png``.
        masks: Folder of masks, one an image. Or a pattern such as ``x/*_mask.png``: a pair has the same in place of the
            wildcards.
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
        image_of, mask_of = (
            by_wildcards(f) if is_pattern(f) else one_by_name((stem_of(path), path) for path in list_images(f))
            for f in (images, masks)
        )
        check_pairs(image_of, mask_of, images, masks)
        self._folders = tuple(f for f in (images, masks) if not is_pattern(f))
        self._images = ImageFiles(list(image_of.values()), channels, value_range, images)
        self._masks = MaskFiles([mask_of[stem] for stem in image_of], classes, ignore, masks)
        self.spec = MaskSpec(**self._images.facts, classes=self._masks.classes)
