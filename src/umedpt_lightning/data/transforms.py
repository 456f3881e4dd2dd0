"""Resizing and augmentation of samples; the only file that knows albumentations."""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask a server for newer releases

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.types import BoxArrays, Sample

Augmentation: TypeAlias = albumentations.BasicTransform | albumentations.BaseCompose

# A box of which less than this part is left in the picture shows too little of its object to be asked for.
_MIN_VISIBLE = 0.3
# Boxes smaller than a pixel are dropped; a little less than 1, because boxes are rounded on their way.
_MIN_SIDE = 0.99


class Transform:
    """Resizes a sample, then augments it: a function of the sample and the seed alone.

    Args:
        size: Height and width, or both in one number; None keeps them. Images shrink by area, masks by nearest pixel.
        augment: albumentations transforms by name, applied in this order; None in place of one leaves it out, so
            that a config can switch off what another brings.

    Raises:
        ValueError: `size` is not positive.
    """

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        augment: dict[str, albumentations.BasicTransform | albumentations.BaseCompose | None] | None = None,
    ) -> None:
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
        self._needs_unit_range = any(isinstance(t, albumentations.ImageOnlyTransform) for t in _leaves(self._steps))
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
        image, target = sample.image, sample.target
        if not self._steps:
            return replace(sample, image=np.ascontiguousarray(image))
        if self._needs_unit_range and image.dtype == np.float32 and not (image.min() >= 0 and image.max() <= 1):
            raise ValueError(
                f"{sample.name}: intensity augmentations cut float images to 0..1, but this one lies between "
                f"{image.min()} and {image.max()}. Write null for them in `augment` (flips and the like work), or "
                "store the images as uint16."
            )
        data: dict[str, Any] = {"image": image}
        if isinstance(target, BoxArrays):
            data |= {"bboxes": target.boxes, "labels": target.labels}
        elif isinstance(target, np.ndarray) and target.ndim == 2:
            data["mask"] = target
        try:
            result = _run(self._compose("bboxes" in data), data, seed)
        except Exception as error:  # albumentations and OpenCV raise all kinds
            raise ValueError(self._failure(sample, f"{type(error).__name__}: {error}")) from error
        if not _alike(result["image"], image):
            found = result["image"]
            raise ValueError(self._failure(sample, f"they made it {found.dtype} of shape {found.shape}"))

        image = np.ascontiguousarray(result["image"])
        if "bboxes" in data:
            target = _to_boxes(result, image)
        elif "mask" in data:
            target = np.ascontiguousarray(result["mask"], dtype=data["mask"].dtype)
        return replace(sample, image=image, target=target)

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

    def _failure(self, sample: Sample, what: str) -> str:
        """A message that names the augmentations at fault: those that fail on the image alone, else all."""
        image = sample.image
        names = [name for name, augmentation in self._augment.items() if not _works(augmentation, image)]
        return (
            f"{sample.name}: the augmentations {names or list(self._augment)} do not work on {image.dtype} images with "
            f"{image.shape[-1]} channels ({what}). Write null for them in `augment`, or "
            "convert the images."
        )


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
    return result.dtype == image.dtype and result.ndim == 3 and result.shape[-1] == image.shape[-1]


def _to_boxes(result: dict[str, Any], image: NDArray[Any]) -> BoxArrays:
    height, width = image.shape[:2]
    boxes = np.asarray(result["bboxes"], np.float32).reshape(-1, 4)
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))  # rounding may put them outside
    return BoxArrays(np.ascontiguousarray(boxes), np.asarray(result["labels"], np.int64).reshape(-1))


def _leaves(steps: Iterable[Augmentation]) -> Iterator[albumentations.BasicTransform]:
    for step in steps:
        if isinstance(step, albumentations.BaseCompose):
            yield from _leaves(step.transforms)
        else:
            yield step
