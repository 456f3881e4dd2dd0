"""One sample held against what its reader says of itself, and its objects: which ones resizing removes."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray

from umedpt_lightning.data.check.problems import take_apart
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.labels.findings import CORRECT_READER, Finding
from umedpt_lightning.labels.views import BoxLayer, Layer, MaskLayer
from umedpt_lightning.types import IGNORE_INDEX, Bag, Sample, TaskSpec

#: The finest stride that the detection decoder has by default, pixels.
FINEST_STRIDE = 8
#: Boxes with a side below this are dropped when they are resized, as in `Transform`.
_LEAST_SIDE = 0.99

_DTYPES = ("uint8", "uint16", "float32")


class Objects(NamedTuple):
    """The objects of one sample, boxes or connected areas of one class.

    They are how many there are, how many of them resizing leaves nothing of, and how many boxes are left with a side
    below the finest stride.
    """

    total: int = 0
    gone: int = 0
    small: int = 0


@dataclass(slots=True)
class Look:
    """What an image is like.

    Attributes:
        size: Height and width, pixels.
        outside: Share of the pixels outside the task's value_range.
        digest: Equal for equal pixels.
    """

    size: tuple[int, int]
    dtype: str
    low: float
    mean: float
    high: float
    outside: float
    digest: int


class Part(NamedTuple):
    """The samples to read, the size that training resizes them to, and the finest stride of the detection decoder."""

    reader: Reader
    size: int | tuple[int, int] | None = None
    stride: float = FINEST_STRIDE


@dataclass(slots=True)
class Reading:
    """What came of one sample.

    Attributes:
        index: Its place in the reader.
        found: What is wrong with it.
        look: Its image; None where there is none that could be looked at.
        labels: The target as a row of numbers, see `TaskSpec.inspect`.
        instances: How many images it has.
    """

    index: int
    name: str
    found: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    look: Look | None = None
    labels: NDArray[np.float32] | None = None
    objects: Objects = field(default_factory=Objects)
    instances: int = 1


def read_sample(part: Part, index: int) -> Reading:
    """Reads and inspects one sample; whatever goes wrong is in the result."""
    reader, size = part.reader, part.size
    started = time.perf_counter()
    name = f"sample {index}"
    try:
        sample = reader[index]
    except Exception as error:  # a reader may raise anything, and the others' problems are wanted too
        with contextlib.suppress(Exception):  # some readers must read a sample to name it
            name = reader.name(index)
        name, what, mend = take_apart(error, name, "Correct the file, or leave the sample out.")
        return Reading(index, name, [Finding("unreadable", what, mend)])
    seconds = time.perf_counter() - started
    if not isinstance(sample, Sample):
        what = f"the reader gives a {type(sample).__name__} in place of a Sample"
        return Reading(index, name, [Finding("unreadable", what, CORRECT_READER)])
    found, look = _inspect_images(sample, reader.spec)
    if look is None:
        return Reading(index, sample.name, found, seconds, instances=len(sample.images))
    more, labels = reader.spec.inspect(sample.target, look.size)
    objects = Objects()
    if labels is not None and not any(problem.severity == "error" for problem in more):
        wanted = look.size if size is None else (size, size) if isinstance(size, int) else size
        stored = sample.stored_target
        truth, shape = (stored, stored.shape[:2]) if isinstance(stored, np.ndarray) else (sample.target, look.size)
        objects = count_objects(reader.spec.truth_view(truth).truth, shape, wanted, part.stride)
    return Reading(index, sample.name, found + more, seconds, look, labels, objects, len(sample.images))


def _inspect_images(sample: Sample, spec: TaskSpec) -> tuple[list[Finding], Look | None]:
    """As `inspect_image`; of a bag all its images, each fault with the image's name, and a look at them together."""
    if not isinstance(sample, Bag):
        return inspect_image(sample.image, spec)
    found, looks = [], []
    for instance in sample.instances:
        faults, look = inspect_image(instance.image, spec)
        found += [replace(fault, what=f"{instance.name}: {fault.what}") for fault in faults]
        looks += [] if look is None else [look]
    if not looks:
        return found, None
    lows, means, highs, outside = np.array([(one.low, one.mean, one.high, one.outside) for one in looks]).T
    first, digest = looks[0], xxhash.xxh3_64_intdigest(repr([one.digest for one in looks]).encode())
    if len(kinds := {(one.size, one.dtype) for one in looks}) > 1:
        what = f"its images have {len(kinds)} sizes and depths, such as {min(kinds)} and {max(kinds)}"
        mend = "Save them alike; a `size` under data.tasks makes one size of all."
        found.append(Finding("size", what, mend, "warning"))
    return found, Look(first.size, first.dtype, lows.min(), means.mean(), highs.max(), outside.mean(), digest)


def inspect_image(image: NDArray[Any], spec: TaskSpec) -> tuple[list[Finding], Look | None]:
    """What is wrong with an image that should be ``(H, W, C)``, and what it is like."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or not image.size:
        shape = f"an array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        return [Finding("image", f"an image is (H, W, C), but this one is {shape}", CORRECT_READER)], None
    found = []
    if image.shape[-1] != spec.channels:
        what = f"the image has {image.shape[-1]} channels, but the task has {spec.channels}"
        found.append(Finding("image", what, f"Save it with {spec.channels}, or give the reader `channels`."))
    dtype = image.dtype.name
    if image.dtype not in _DTYPES:  # another byte order is another one too
        what = f"images are {', '.join(_DTYPES)}, but this one is {dtype}"
        return [*found, Finding("image", what, "Convert it.")], None

    image = np.ascontiguousarray(image)
    pixels = image.reshape(len(image), -1)  # (H, W * C)
    # OpenCV is faster than numpy here, but would pass over NaN
    low, high = (pixels.min().item(), pixels.max().item()) if dtype == "float32" else cv2.minMaxLoc(pixels)[:2]
    if not (math.isfinite(low) and math.isfinite(high)):  # NaN and infinity come through minimum and maximum
        bad = ~np.isfinite(pixels)
        what = f"{bad.mean():.2%} of the values are NaN or infinite"
        return [*found, Finding("image", what, "Replace them by numbers, or leave the image out.")], None
    if low == high:
        mend = "Leave it out, unless empty images are to be learned."
        found.append(Finding("intensity", f"every value is {low:g}", mend, "warning"))
    bottom, top = spec.value_range
    inside = bottom <= low and high <= top
    outside = 0.0 if inside else float(((pixels < bottom) | (pixels > top)).mean())
    mean = float(cv2.mean(pixels)[0])  # several times faster than numpy's
    return found, Look(image.shape[:2], dtype, low, mean, high, outside, _digest(image))


def _digest(image: NDArray[Any]) -> int:
    """64 bits of the pixels, their shape and dtype; among a million images chance makes a false pair in 3 of 10⁸ cases.

    A cryptographic digest takes as long as a fifth of decoding a JPEG does, this one a hundredth.
    """
    seed = xxhash.xxh3_64_intdigest(f"{image.shape} {image.dtype.str}".encode())
    return xxhash.xxh3_64_intdigest(image.data, seed=seed)


def count_objects(layer: Layer | None, size: tuple[int, int], wanted: tuple[int, int], stride: float) -> Objects:
    """The objects of a target that is drawn as a mask or as boxes.

    Args:
        layer: The target.
        size: Height and width of the image, pixels.
        wanted: Those after resizing.
        stride: The finest of the detection decoder, pixels.
    """
    match layer:
        case BoxLayer():
            scale = np.tile([wanted[1] / size[1], wanted[0] / size[0]], 2)
            boxes = np.asarray(layer.boxes) * scale
            sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf)  # (N,)
            gone = sides < _LEAST_SIDE
            return Objects(len(boxes), int(gone.sum()), int((~gone & (sides < stride)).sum()))
        case MaskLayer() if wanted != size and layer.values.shape == size:
            return _areas(layer.values, wanted)
    return Objects()


def _areas(mask: NDArray[np.integer], wanted: tuple[int, int]) -> Objects:
    """Connected areas of each class but the first, and those that no pixel of the new mask is nearest to."""
    sides = zip(mask.shape, wanted, strict=True)
    places = [((np.arange(new) + 0.5) * old / new).astype(np.int64) for old, new in sides]
    total = left = 0
    for value in np.setdiff1d(np.unique(mask), [0, IGNORE_INDEX]):
        count, areas = cv2.connectedComponents((mask == value).astype(np.uint8), connectivity=8)
        total += count - 1
        left += int(np.count_nonzero(np.unique(areas[np.ix_(*places)])))
    return Objects(total, total - left)
