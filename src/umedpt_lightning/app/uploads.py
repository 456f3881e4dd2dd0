"""From a file that somebody drops to an image that a task takes, or a message that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.data.formats.images import image_size, read_image, to_channels
from umedpt_lightning.data.volume import dicom_file
from umedpt_lightning.inference.input_files import InputFile, kind_of
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.types import TaskSpec

#: Smaller images show nothing, larger ones are not decoded: a file of a few kB can hold as many pixels as it likes.
LEAST_SIDE, MOST_PIXELS = 8, 2**26
#: Most pixels that go through a model at once; tasks with an image size of their own never see as many.
MOST_AT_ONCE = 2**24

Array = NDArray[Any]

_LARGE = f"This page takes up to {MOST_PIXELS / 1e6:.0f} million: cut out the part of interest, or save it smaller."


def load(path: Path, opening: Opening | None = None) -> Array:
    """The image ``(H, W, C)`` of a file, with intensities as they are stored; `opening` is how a task opens files.

    Raises ValueError, which names the file without its folder, where it cannot be used.
    """
    try:
        _check_size(path)
        image = read_image(path) if opening is None else _opened(path, opening)
    except FileNotFoundError as error:
        raise ValueError(f"{path.name} is no longer here: drop it again.") from error
    except (ValueError, ImportError) as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise ValueError(f"{path.name}: the image has far too many pixels. {_LARGE}") from error
        raise ValueError(str(error).replace(str(path), path.name)) from error
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError(f"{path.name}: some of its pixels are not numbers (NaN or infinite). Fill them in first.")
    return image


def for_task(image: Array, spec: TaskSpec, size: tuple[int, int] | None, stretch: bool) -> tuple[Array, list[str]]:
    """The image ``(H, W, C)`` as a task takes it, and what the user should know about it.

    Args:
        image: As stored.
        spec: What the task's data say of themselves.
        size: Height and width that the task's images are resized to; None where they are not.
        stretch: Map the image's least and greatest value to the ends of the task's `value_range`.

    Raises:
        ValueError: The task cannot take it.
    """
    height, width, channels = image.shape
    if channels != spec.channels and {channels, spec.channels} != {1, 3}:
        raise ValueError(
            f"This task takes images with {spec.channels} channels, but this one has {channels}. "
            "Give such images in Python: MultiTaskModel.predict takes arrays."
        )
    if size is None and height * width > MOST_AT_ONCE:
        raise ValueError(
            f"The image has {width} x {height} pixels, and this task computes on all of them at once: here it takes up "
            f"to {MOST_AT_ONCE / 1e6:.0f} million. Cut out the part of interest."
        )
    notes = []
    if channels != spec.channels:
        notes.append("Colours were turned to grey." if channels == 3 else "Grey was repeated in three channels.")
    image = to_channels(image, spec.channels, "the image")
    low, high = spec.value_range
    least, most = float(image.min()), float(image.max())
    if stretch and most > least:
        image = ((image.astype(np.float32) - least) / (most - least)) * (high - low) + low
        notes.append(f"Intensities {least:g} to {most:g} were stretched to {low:g} to {high:g}.")
    elif ((image < low) | (image > high)).mean() > 0.5 or most - least < (high - low) / 50:
        notes.append(
            f"Intensities go from {least:g} to {most:g}, but this task was trained on {low:g} to {high:g}: the answer "
            "may mean nothing. Tick “stretch intensities” where the file has another bit depth."
        )
    return image, notes


def _opened(path: Path, opening: Opening) -> Array:
    """The image as a task opens it, of a volume of one slice that slice."""
    file = InputFile(path.name, "", kind_of(path, opening.preference) or "image", str(path))
    if opening.is_single(file):
        return read_image(path, windowed=opening.windowed)
    opened = opening.open(file)
    if len(opened) > 1:
        raise ValueError(
            f"{path}: for this task the file holds {len(opened)} images. Predict all with `umedpt predict`."
        )
    return opened.read(0)


def _check_size(path: Path) -> None:
    """Holds that the image can be decoded safely, by its header alone."""
    if dicom_file.is_dicom(path) and dicom_file.is_deflated(path):
        raise ValueError(
            f"{path}: this DICOM file is deflated as a whole, so nobody knows how large it becomes. Save it with "
            "another transfer syntax."
        )
    height, width = image_size(path)
    if height * width > MOST_PIXELS:
        raise ValueError(f"{path}: the image has {width} x {height} pixels. {_LARGE}")
    if min(height, width) < LEAST_SIDE:
        raise ValueError(
            f"{path}: the image has {width} x {height} pixels. Nothing can be seen in so few: give one with at least "
            f"{LEAST_SIDE} on each side."
        )
