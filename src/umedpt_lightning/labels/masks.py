"""One class a pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.labels.base import (
    IGNORE_INDEX,
    OLD_IGNORE_INDEX,
    Figures,
    Form,
    TableRow,
    TaskSpec,
    warn_of_255,
)
from umedpt_lightning.labels.findings import CORRECT_READER, UNLABELLED, Finding
from umedpt_lightning.labels.views import LegendEntry, MaskLayer, PageView, View
from umedpt_lightning.labels.wording import count, found_instead, shorten

_LIMITS = np.iinfo(np.int16)
_ROWS = 1024  # of a mask that are counted at once, as it may be a file that does not fit into memory


@dataclass(frozen=True, kw_only=True)
class MaskSpec(TaskSpec):
    """One class a pixel; a prediction is a mask ``(H, W)`` of class indices.

    Masks are int16 in training: OpenCV resizes and turns that, and there is room for a value that no class has.

    Attributes:
        classes: Class names, the background first; mask values are indices into them, or `IGNORE_INDEX`.

    Raises:
        ValueError: There are more classes than int16 holds.
    """

    kind: ClassVar[str] = "mask"
    title: ClassVar[str] = "one class a pixel"
    names_in: ClassVar[str] = "classes"
    hub_type: ClassVar[str] = "image-segmentation"
    form: ClassVar[Form] = "mask"

    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.classes) > _LIMITS.max + 1:
            raise ValueError(f"A mask has at most {_LIMITS.max + 1} classes, not {len(self.classes)}. Join rare ones.")

    @property
    def phrase(self) -> str:
        """As one says it."""
        return "areas"

    def prepared(self, target: Any, size: tuple[int, int]) -> NDArray[np.int16]:
        """In int16, of the image's size."""
        if found := _no_mask(target) or _other_size(target, size):
            raise ValueError(f"{found.what}. {found.mend}")
        mask: NDArray[np.int16] = self._with_ignore_index(target).clip(_LIMITS.min, _LIMITS.max)
        return mask.astype(np.int16, copy=False)

    def inspect(self, target: Any, size: tuple[int, int]) -> tuple[list[Finding], Figures | None]:
        """Values that are no class, and a size that is not that of the image, are errors."""
        if wrong_form := _no_mask(target):
            return [wrong_form], None
        found = list(filter(None, [_other_size(target, size)]))
        target, classes = self._with_ignore_index(target), len(self.classes)
        wrong = target[((target < 0) | (target >= classes)) & (target != IGNORE_INDEX)]
        if len(wrong):
            what = f"the mask holds {shorten(np.unique(wrong).tolist())}, but its classes are 0 to {classes - 1}"
            mend = f"Correct it, name the classes, or use {IGNORE_INDEX} for unlabelled pixels."
            return [*found, Finding("mask", what, mend)], None
        counts = np.bincount(target[target != IGNORE_INDEX].ravel(), minlength=classes)
        if not counts.sum():
            return [*found, UNLABELLED], np.full(classes, np.nan, np.float32)
        return found, (counts / counts.sum()).astype(np.float32)

    def statistics(self, rows: Figures) -> dict[str, Any]:
        """Images that show each class, and its mean share of their pixels."""
        known = rows[~np.isnan(rows).all(axis=1)]
        shares = known.mean(axis=0, dtype=np.float64).tolist() if len(known) else [None] * len(self.classes)
        return {"samples": self.samples(rows), "share": dict(zip(self.classes, shares, strict=True))}

    def check_lines(self, statistics: Mapping[str, Any], samples: int) -> dict[str, str]:
        """Each class with its share of the pixels."""
        shares, images = statistics["share"], statistics["samples"]
        return {
            f"  {n}": "none" if shares[n] is None else f"{shares[n]:.1%} in {count(images[n], 'image')}"
            for n in self.classes
        }

    def truth_view(self, target: Any) -> View:
        """The mask."""
        classes = dict(enumerate(self.classes))
        if (target == IGNORE_INDEX).any():
            classes[IGNORE_INDEX] = "not labelled"
        return View(truth=MaskLayer(target), classes=classes)

    def prediction_view(self, prediction: Any) -> View:
        """The mask."""
        return View(prediction=MaskLayer(prediction), classes=dict(enumerate(self.classes)))

    def page_view(self, prediction: Any, min_score: float) -> PageView:
        """The mask, and how much of the image each class but the background covers."""
        pixels = self._pixels(prediction)
        legend = [
            LegendEntry(i, name, f"{pixels[i] / prediction.size:.1%} of the image, {pixels[i]} px")
            for i, name in enumerate(self.classes)
            if i != 0  # the background is not drawn
        ]
        notes = () if pixels[1:].any() else ("Nothing but background was found.",)
        return PageView(legend=tuple(legend), layer=MaskLayer(prediction), notes=notes)

    def row(self, prediction: Any, area: float | None = None) -> TableRow:
        """Pixels of each class."""
        pixels = self._pixels(prediction).tolist()
        return {f"pixels_{name}": number for name, number in zip(self.classes, pixels, strict=True)}

    def resized(self, prediction: Any, size: tuple[int, int], wanted: tuple[int, int]) -> Any:
        """The nearest pixels, of those of the mask that are read."""
        places = [((np.arange(new) + 0.5) * old / new).astype(np.int64) for old, new in zip(size, wanted, strict=True)]
        return prediction if size == wanted else prediction[np.ix_(*places)]

    def _with_ignore_index(self, mask: NDArray[Any]) -> NDArray[Any]:
        """With `IGNORE_INDEX` for 255 in bytes, where that is no class."""
        if mask.dtype != np.uint8 or len(self.classes) > OLD_IGNORE_INDEX or mask.max() < OLD_IGNORE_INDEX:
            return mask
        warn_of_255()
        return np.where(mask == OLD_IGNORE_INDEX, np.int16(IGNORE_INDEX), mask)

    def _pixels(self, mask: NDArray[Any]) -> NDArray[np.int64]:
        """``(K,)`` how many there are of each class."""
        counts = np.zeros(len(self.classes), np.int64)
        for start in range(0, len(mask), _ROWS):
            counts += np.bincount(mask[start : start + _ROWS].ravel(), minlength=len(counts))
        return counts


def mask_dtype(classes: int) -> np.dtype[np.unsignedinteger]:
    """What masks are written in: bytes, of which 255 often means unlabelled, for up to 255 classes."""
    return np.dtype(np.uint8 if classes <= 255 else np.uint16)


def _no_mask(target: Any) -> Finding | None:
    if isinstance(target, np.ndarray) and target.ndim == 2 and target.dtype.kind in "ui" and target.size:
        return None
    what = f"a mask is (H, W) integers, but this one is {found_instead(target)}"
    return Finding("mask", what, CORRECT_READER)


def _other_size(target: NDArray[Any], size: tuple[int, int]) -> Finding | None:
    if target.shape == size:
        return None
    sizes = f"{target.shape[0]}x{target.shape[1]} (HxW), but the image is {size[0]}x{size[1]}"
    return Finding("mask", f"the mask is {sizes}", "Save both at one size.")
