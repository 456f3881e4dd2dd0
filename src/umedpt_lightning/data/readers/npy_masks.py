"""Images and masks in two .npy files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.files import Images, check_channels, full_range
from umedpt_lightning.data.formats.images import to_channels
from umedpt_lightning.data.formats.masks import MaskValues
from umedpt_lightning.data.formats.npy import NpyStack
from umedpt_lightning.data.formats.table import Table, read_rows
from umedpt_lightning.data.readers.base import ImageReader
from umedpt_lightning.types import MaskSpec, Sample, SampleTarget


class NpyMasks(ImageReader["_Images"]):
    """One class a pixel, from a stack of images ``(N, H, W)`` or ``(N, H, W, C)`` and a stack of masks.

    The files are mapped into memory, which all processes share.

    Args:
        images: The images; 64-bit floats become 32-bit ones.
        masks: ``(N, H, W)``, or with planes ``(N, H, W, K)``.
        classes: Names of the classes stored as 0, 1, ..., the background first; or a stored value for each name. With
            `planes` the background's name and then, for each other name, the plane in which its pixels are not 0.
        plane: Which plane of the masks holds the classes, where another holds what else; None if there are no planes.
        planes: Every class but the first has a plane of its own. Where planes overlap, the later class is on top.
        ignore: The stored value of unlabelled pixels; None if every pixel is labelled.
        names: A table with a row an image in their order, whose column of paths names them, for splits by patient; None
            for their numbers.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the file has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The arrays are of other shapes, or of no dtype that images or masks may have.
    """

    def __init__(
        self,
        images: Path | str,
        masks: Path | str,
        classes: list[str | int] | dict[str, int],
        plane: int | None = None,
        planes: bool = False,
        ignore: int | None = None,
        names: Table | Path | str | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        if planes and not (plane is None and ignore is None):
            raise ValueError(
                f"{masks}: with `planes: true` every class has a plane, so that neither `plane` ({plane}) nor `ignore` "
                f"({ignore}) says anything. Leave them out, or `planes`."
            )
        self._masks = NpyStack(Path(masks))
        self._images = _Images(NpyStack(Path(images)), channels, value_range, names)
        self._values = MaskValues(classes, ignore, masks)
        self._plane = plane
        self._planes: list[int] | None = None
        if planes:
            self._planes = [*classes.values()][1:] if isinstance(classes, dict) else [*range(len(classes) - 1)]
        wanted = max([*(self._planes or ()), -1 if plane is None else plane]) + 1  # planes at least
        shape, stack = self._masks.shape, self._images.stack
        if shape[:3] != stack.shape[:3] or len(shape) != 3 + bool(wanted) or (wanted and shape[3] < wanted):
            raise ValueError(
                f"{masks}: the masks are {shape}, but the images {stack.file} are {stack.shape}. Masks are (N, H, W), "
                "as many and as large as the images. Of (N, H, W, K), say which by `plane`, or write `planes: true`."
            )
        self.spec = MaskSpec(**self._images.facts, classes=self._values.classes)

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        stored = self._masks[index]
        if self._planes is not None:
            mask = np.zeros(stored.shape[:2], np.int16)
            for i, plane in enumerate(self._planes, 1):
                mask[stored[..., plane] != 0] = i
            return mask
        return self._values.to_indices(_whole(stored if self._plane is None else stored[..., self._plane], name), name)


class _Images(Images):
    def __init__(
        self,
        stack: NpyStack,
        channels: int | None,
        value_range: tuple[float, float] | None,
        names: Table | Path | str | None,
    ) -> None:
        self.stack, shape = stack, stack.shape
        if len(shape) not in (3, 4) or not shape[0]:
            raise ValueError(f"{stack.file}: images are (N, H, W) or (N, H, W, C), but this array is {shape}.")
        found = shape[3] if len(shape) == 4 else 1
        self.channels = found if channels is None else channels
        check_channels(self.channels, found, str(stack.file))
        self._dtype = np.dtype(np.float32) if stack.dtype.kind == "f" else stack.dtype
        self.value_range = full_range(self._dtype, value_range, str(stack.file))
        self._names: NDArray[np.str_] | None = None
        if names is not None:
            table = names if isinstance(names, Table) else Table(names)
            rows = read_rows(table, None, [])
            self._names = np.array([*rows.columns[table.path]])
            if len(self._names) != len(stack):
                raise ValueError(f"{table.file}: {len(self._names)} rows for {len(stack)} images of {stack.file}.")

    def __len__(self) -> int:
        return len(self.stack)

    def name(self, index: int) -> str:
        return f"{self.stack.file}[{index if self._names is None else self._names[index]}]"

    def sample(self, index: int) -> Sample:
        image = self.stack[index].astype(self._dtype, copy=False)
        image = image.reshape(*image.shape[:2], -1)  # (H, W, C)
        return Sample(to_channels(image, self.channels, self.name(index)), None, self.name(index))


def _whole(mask: NDArray[Any], name: str) -> NDArray[np.uint16]:
    whole: NDArray[np.uint16] = mask.astype(np.uint16)
    if not np.array_equal(whole, mask):
        raise ValueError(f"{name}: masks hold whole numbers from 0 to 65535, but not this one. Correct `plane`.")
    return whole
