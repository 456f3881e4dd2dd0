"""One sample held against what its reader says of itself."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray

from umedpt_lightning.data.check.objects import FINEST_STRIDE, Objects, count_objects
from umedpt_lightning.data.check.problems import take_apart
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.labels.findings import CORRECT_READER, Finding
from umedpt_lightning.types import Bag, Sample, TaskSpec

# by dtype, since numpy makes the name anew each time
_DTYPES = {np.dtype(name): name for name in ("uint8", "uint16", "float32")}


@dataclass(slots=True)
class Look:
    """What an image is like.

    Attributes:
        size: Height and width, pixels.
        dtype: Its name.
        low: Lowest intensity.
        mean: Mean intensity.
        high: Highest intensity.
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
    """What is read.

    Attributes:
        reader: The samples.
        size: That they are resized to in training, as in `TaskData`.
        stride: The finest of the detection decoder, pixels.
    """

    reader: Reader
    size: int | tuple[int, int] | None = None
    stride: float = FINEST_STRIDE


@dataclass(slots=True)
class Reading:
    """What came of one sample.

    Attributes:
        index: Its place in the reader.
        name: What a message calls it.
        found: What is wrong with it.
        seconds: How long reading it took.
        look: Its image; None where there is none that could be looked at.
        labels: The target as a row of numbers, see `TaskSpec.inspect`.
        objects: How many objects it has, and what becomes of them.
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
        objects = count_objects(reader.spec.truth_view(sample.target).truth, look.size, wanted, part.stride)
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
    digest = looks[0].digest if len(looks) == 1 else xxhash.xxh3_64_intdigest(repr([one.digest for one in looks]))
    first = looks[0]
    together = Look(first.size, first.dtype, lows.min(), means.mean(), highs.max(), outside.mean(), digest)
    if len(kinds := {(one.size, one.dtype) for one in looks}) > 1:
        what = f"its images have {len(kinds)} sizes and depths, such as {sorted(kinds)[0]} and {sorted(kinds)[-1]}"
        mend = "Save them alike; a `size` under data.tasks makes one size of all."
        found.append(Finding("size", what, mend, "warning"))
    return found, together


def inspect_image(image: NDArray[Any], spec: TaskSpec) -> tuple[list[Finding], Look | None]:
    """What is wrong with an image that should be ``(H, W, C)``, and what it is like."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or not image.size:
        shape = f"an array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        return [Finding("image", f"an image is (H, W, C), but this one is {shape}", CORRECT_READER)], None
    found = []
    if image.shape[-1] != spec.channels:
        what = f"the image has {image.shape[-1]} channels, but the task has {spec.channels}"
        found.append(Finding("image", what, f"Save it with {spec.channels}, or give the reader `channels`."))
    dtype = _DTYPES.get(image.dtype)
    if dtype is None:
        what = f"images are {', '.join(_DTYPES.values())}, but this one is {image.dtype.name}"
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
    return xxhash.xxh3_64_intdigest(image.data, seed=_seed(image.shape, image.dtype))


@lru_cache
def _seed(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return xxhash.xxh3_64_intdigest(f"{shape} {dtype.str}".encode())
