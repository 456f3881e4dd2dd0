"""Resizing and augmentation of samples; the only file that knows albumentations."""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias, cast

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask a server for newer releases

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.presets import build_augmentations
from umedpt_lightning.labels.wording import found_instead
from umedpt_lightning.types import Bag, BoxArrays, PackedArray, Sample

Augmentation: TypeAlias = albumentations.BasicTransform | albumentations.BaseCompose
Augmentations: TypeAlias = dict[str, albumentations.BasicTransform | albumentations.BaseCompose | None]

# A box of which less than this part is left in the picture shows too little of its object to be asked for.
_MIN_VISIBLE = 0.3
# Boxes smaller than a pixel are dropped; a little less than 1, because boxes are rounded on their way.
_MIN_SIDE = 0.99
# Share of an image that intensity augmentations may cut off: hot pixels and metal, but not half of the tissue.
_MAY_BE_CUT = 0.01
# The first four keep the shape: none, half a turn, the two flips.
_ORIENTATIONS = ("e", "r180", "v", "h", "r90", "r270", "t", "hvt")
# What albumentations takes as black and white.
_NATURAL_RANGE = {
    np.dtype(np.uint8): (0.0, 255.0),
    np.dtype(np.uint16): (0.0, 65535.0),
    np.dtype(np.float32): (0.0, 1.0),
}


class Orientation(albumentations.D4):  # type: ignore[misc]  # albumentations ships no types
    """Flips and quarter turns, all eight equally often; where an image is not square, the four that keep its shape.

    So all images of a batch keep one shape.
    """

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Chooses one; called by albumentations."""
        height, width = params["shape"][:2]
        return {"group_element": self.py_random.choice(_ORIENTATIONS[: 8 if height == width else 4])}


class Transform:
    """Resizes a sample, then augments it: a function of the sample and the seed alone.

    Args:
        size: Height and width, or both in one number; None keeps them. Images shrink by area, masks by nearest pixel.
        augment: albumentations transforms by name, applied in this order; None in place of one leaves it out, so
            that a config can switch off what another brings. Or the name of a preset, see `presets.PRESETS`, or the
            path of a YAML file.
        value_range: The stored intensities that are black and white to intensity augmentations; None the full range of
            the dtype, 0 to 1 for float32. So 12-bit images in uint16 get as much noise as others.
        keep_truth: Whether resizing leaves nothing out of the truth, as evaluation needs it: targets with a value for
            each pixel are kept as they are stored too (`Sample.stored_target`), and boxes however small they become.

    Raises:
        ValueError: `size` is not positive, or there is no such preset.
    """

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        augment: Augmentations | str | None = None,
        value_range: tuple[float, float] | None = None,
        keep_truth: bool = False,
    ) -> None:
        if keep_truth and augment:
            raise ValueError("keep_truth is for evaluation, which augments nothing. Leave one of the two out.")
        self._keep_truth = keep_truth
        if isinstance(augment, str):
            augment = cast(Augmentations, build_augmentations(augment, Augmentations))
        self._augment = {name: step for name, step in (augment or {}).items() if step is not None}
        self._steps: list[Augmentation] = list(self._augment.values())
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
            if height < 1 or width < 1:
                raise ValueError(f"size must be positive, but it is {size}. Write `size: 224` or `size: [224, 224]`.")
            resize = albumentations.Resize(
                height=height,
                width=width,
                area_for_downscale="image",
                mask_interpolation=cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST shifts masks by up to half a pixel
            )
            self._steps.insert(0, resize)
        self._value_range = value_range
        self._changes_intensities = any(isinstance(t, albumentations.ImageOnlyTransform) for t in _leaves(self._steps))
        self._composes: dict[bool, albumentations.Compose] = {}  # made on first use: with boxes or without

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The transformed sample, image and mask contiguous and in the dtype they had.

        Boxes are clipped; those of which little or less than a pixel is left are dropped.

        Args:
            sample: Image ``(H, W, C)`` uint8, uint16 or float32, with any target.
            seed: Not negative; equal seeds give equal results, in every process.

        Raises:
            ValueError: An augmentation cannot work on such images.
        """
        if isinstance(sample, Bag):  # each image by itself
            seeds = np.random.default_rng(seed).integers(1 << 32, size=len(sample.instances)).tolist()
            moved = [self(one, seed) for one, seed in zip(sample.instances, seeds, strict=True)]
            return replace(sample, image=moved[0].image, instances=moved)
        target = sample.target
        if not self._steps:
            return replace(
                sample, image=np.ascontiguousarray(sample.image), stored_target=self._truth(sample, sample.target)
            )
        stored = sample.image.dtype
        value_range = self._value_range or _NATURAL_RANGE.get(stored, (0.0, 1.0))
        # bytes of the full range as they are, which is several times faster
        scaled = self._changes_intensities and (stored != np.uint8 or value_range != _NATURAL_RANGE[stored])
        image = _to_unit(sample, value_range) if scaled else sample.image
        data: dict[str, Any] = {"image": image}
        if isinstance(target, BoxArrays) and not self._keep_truth:
            data |= {"bboxes": target.boxes, "labels": target.labels}
        elif isinstance(target, np.ndarray) and target.shape[:2] == image.shape[:2]:  # a value a pixel
            data["mask"] = target
        try:
            result = _run(self._compose("bboxes" in data), data, seed)
        except Exception as error:  # albumentations and OpenCV raise all kinds
            raise ValueError(self._failure(sample, image, f"{type(error).__name__}: {error}")) from error
        if not _alike(result["image"], image):
            found = result["image"]
            raise ValueError(self._failure(sample, image, f"they made it {found_instead(found)}"))

        image = _from_unit(result["image"], value_range, stored) if scaled else result["image"]
        image = np.ascontiguousarray(image)
        if "bboxes" in data:
            target = _to_boxes(result, image)
        elif "mask" in data:
            target = np.ascontiguousarray(result["mask"], dtype=data["mask"].dtype)
        elif isinstance(target, BoxArrays):
            target = _scaled(target, sample.image.shape, image.shape)
        return replace(sample, image=image, target=target, stored_target=self._truth(sample, target))

    def _truth(self, sample: Sample, target: Any) -> PackedArray | None:
        """The target as it is stored, where that is wanted and is not what was made of it."""
        stored = sample.stored_target
        if stored is None and isinstance(target, np.ndarray) and target.shape != sample.target.shape:
            stored = sample.target
        if stored is None or not self._keep_truth:
            return None
        return stored if isinstance(stored, PackedArray) else PackedArray.of(stored)

    def _compose(self, boxes: bool) -> albumentations.Compose:
        if boxes not in self._composes:
            params = albumentations.BboxParams(
                format="pascal_voc",
                label_fields=["labels"],
                min_visibility=_MIN_VISIBLE,
                min_width=_MIN_SIDE,
                min_height=_MIN_SIDE,
                clip=True,
            )
            with warnings.catch_warnings():  # that boxes stay where they are if nothing moves them is no news
                warnings.filterwarnings("ignore", message="Got processor for bboxes")
                # a copy each, since a Compose writes into its transforms
                steps = copy.deepcopy(self._steps)
                self._composes[boxes] = albumentations.Compose(steps, bbox_params=params if boxes else None)
        return self._composes[boxes]

    def _failure(self, sample: Sample, image: NDArray[Any], what: str) -> str:
        """A message that names the augmentations at fault: those that fail on the image alone, else all."""
        names = [name for name, augmentation in self._augment.items() if not _works(augmentation, image)]
        if not self._augment:
            return (
                f"{sample.name}: {sample.image.dtype} images with {image.shape[-1]} channels and such a target cannot "
                f"be resized ({what.rstrip('.')}). Let the reader give images of uint8, uint16 or float32, and a value "
                "a pixel as int16, int32 or float32."
            )
        return (
            f"{sample.name}: the augmentations {names or list(self._augment)} do not work on {sample.image.dtype} "
            f"images with {image.shape[-1]} channels ({what.rstrip('.')}). Write null for them in `augment`, or "
            "convert the images."
        )


def _to_unit(sample: Sample, value_range: tuple[float, float]) -> NDArray[np.float32]:
    """The image as float32 with the range at 0 and 1, as all albumentations understand it, and little outside."""
    low, high = value_range
    image = sample.image
    if image.min() < low or image.max() > high:  # False for NaN, which nothing here can mend
        share = np.mean((image < low) | (image > high))
        if share > _MAY_BE_CUT:
            raise ValueError(
                f"{sample.name}: intensity augmentations cut images to their value_range, {low:g} to {high:g}, but "
                f"this one lies between {image.min():g} and {image.max():g}, {share:.0%} of it outside. Give the "
                "reader a `value_range` that holds what matters, or write null for these augmentations in `augment`."
            )
    unit: NDArray[np.float32] = ((image.astype(np.float32) - low) / (high - low)).astype(np.float32, copy=False)
    return unit


def _from_unit(unit: NDArray[Any], value_range: tuple[float, float], dtype: np.dtype[Any]) -> NDArray[Any]:
    low, high = value_range
    image: NDArray[Any] = unit * np.float32(high - low) + np.float32(low)
    if dtype.kind == "f":
        return image
    limits = np.iinfo(dtype)
    whole: NDArray[Any] = np.rint(image).clip(limits.min, limits.max).astype(dtype)
    return whole


def _run(compose: Augmentation, data: dict[str, Any], seed: int) -> dict[str, Any]:
    # One stream for all: `set_random_seed` would give each transform its own with the same seed, so that two flips
    # with p=0.5 would always happen together.
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    result: dict[str, Any] = compose(**data)
    return result


def _works(augmentation: Augmentation, image: NDArray[Any]) -> bool:
    try:
        result = copy.deepcopy(augmentation)(image=image, force_apply=True)
    except Exception:  # whatever it is, it is being reported
        return False
    return _alike(result["image"], image)


def _alike(result: NDArray[Any], image: NDArray[Any]) -> bool:
    return (
        isinstance(result, np.ndarray)
        and result.dtype == image.dtype
        and result.ndim == 3
        and result.shape[-1] == image.shape[-1]
    )


def _to_boxes(result: dict[str, Any], image: NDArray[Any]) -> BoxArrays:
    height, width = image.shape[:2]
    boxes = np.asarray(result["bboxes"], np.float32).reshape(-1, 4)
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))  # rounding may put them outside
    return BoxArrays(np.ascontiguousarray(boxes), np.asarray(result["labels"], np.int64).reshape(-1))


def _scaled(target: BoxArrays, before: tuple[int, ...], after: tuple[int, ...]) -> BoxArrays:
    """All boxes of an image of a shape in the same image of another shape."""
    rows, columns = after[0] / before[0], after[1] / before[1]
    boxes = target.boxes * np.array([columns, rows, columns, rows])
    return BoxArrays(np.ascontiguousarray(boxes, np.float32), target.labels)


def _leaves(steps: Iterable[Augmentation]) -> Iterator[albumentations.BasicTransform]:
    for step in steps:
        if isinstance(step, albumentations.BaseCompose):
            yield from _leaves(step.transforms)
        else:
            yield step
