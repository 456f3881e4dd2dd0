"""The receptive field of a network, measured: tiles must overlap by it to give what the whole image would."""

from __future__ import annotations

import warnings
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from umedpt_lightning.blocks.whole_image_layers import Own
from umedpt_lightning.inference.tiles.grid import overlap_for_radius
from umedpt_lightning.inference.tiles.shared_statistics import SharedStatistics
from umedpt_lightning.model import MultiTaskModel

#: A cut further away than this is not looked for, pixels.
_FURTHEST = 1024
#: Differences of features, as a share of their standard deviation, that make none of 1e-3 in a probability.
_NONE = 1e-4

_measured: WeakKeyDictionary[MultiTaskModel, dict[str, int | None]] = WeakKeyDictionary()


def receptive_field(model: MultiTaskModel, task: str) -> int | None:
    """The radius of the receptive field, pixels: further from a cut, features are those of the whole image.

    A strip of noise is seen whole and cut in two; the receptive field ends where both no longer differ. In theory some
    networks see further, but what comes from there is nothing beside rounding: 296 pixels of ResNet-18, 310 of Swin-T.

    Args:
        model: In evaluation mode.
        task: The task's name; those that read masks see as far as the pixel decoder does, others as the encoder does.

    Returns:
        None where there is no end, as some layers look at all of an image in a way that tiles cannot share: attention
        over all of it, or weights for channels that go by its maximum.
    """
    needs, known = model.task(task).needs, _measured.setdefault(model, {})
    if needs not in known:
        known[needs] = _measure(model, task)
    return known[needs]


def chosen_overlap(model: MultiTaskModel, task: str, tile: int, asked: int | None = None) -> int:
    """The overlap, pixels, of tiles with that side that give what the whole image would, or what was asked for.

    Where there is none it is `default_overlap`; with that, or where too little was asked for, there is a warning. The
    model is in evaluation mode.
    """
    radius = receptive_field(model, task)
    needed = None if radius is None else overlap_for_radius(model.encoder, radius)
    # with more than three quarters of it most of each tile would be seen by others as well
    if needed is not None and (4 * needed <= 3 * tile if asked is None else asked >= needed):
        return needed if asked is None else asked
    told, mend = (
        "The encoder looks at all of an image at once in a way that tiles cannot share (attention over all of it, say)",
        "Images that fit are seen whole with a --tile that is larger than they are.",
    )
    if needed is not None:
        what = f"Tiles of {tile} pixels" if asked is None else f"Tiles that share {asked} pixels"
        told = (
            f"{what} are small for an overlap of {needed}, which an encoder wants whose receptive field has a radius "
            f"of {radius} pixels"
        )
        mend = f"--tile {-(-4 * needed // 3)} or larger, without --overlap, is exact."
    warnings.warn(
        f"{told}: where tiles meet, task {task!r} may differ from what the whole image would give. {mend}", stacklevel=2
    )
    return default_overlap(tile) if asked is None else asked


def default_overlap(tile: int) -> int:
    """Three eighths of a tile, pixels."""
    return 3 * tile // 8


def _measure(model: MultiTaskModel, task: str) -> int | None:
    step, stride = model.encoder.tile_step, max(model.encoder.strides)
    height = max(2 * step, 256)
    length = -(-(_FURTHEST + stride) // step) * step
    strip = _noise(height, 2 * length, model.task(task).spec.channels).to(model.encoder.mean.device)
    low, high = model.task(task).spec.value_range
    images = low + strip * (high - low)
    statistics = SharedStatistics(model)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        statistics.measure([(Own(0, 1, 0, 1), lambda: _maps(model, task, images))])
        with statistics.used():
            whole, left, right = (
                _maps(model, task, part) for part in (images, images[..., :length], images[..., length:])
            )
    furthest = 0
    for one, *pieces in zip(whole, left, right, strict=True):
        differs = (one - torch.cat(pieces, -1)).abs().amax((0, 1, 2)) > _NONE * one.std()
        if differs.any():
            cut, places = one.shape[-1] // 2, differs.nonzero()
            pixels = length // cut  # of the image, a pixel of the map
            # strided convolutions do not see as far to one side as to the other
            furthest = max(furthest, pixels * (cut - int(places[0])), pixels * (int(places[-1]) + 1 - cut))
    return furthest if furthest <= _FURTHEST else None


def _maps(model: MultiTaskModel, task: str, images: Tensor) -> list[Tensor]:
    """What heads read, each ``(1, C, h, w)``."""
    pyramid = model.pyramid(images, task)
    if model.task(task).needs == "embedding":
        return pyramid.maps
    features = model.block(model.task(task).needs)(pyramid)
    # the pyramid stands for a decoder with several maps, whose few convolutions see little further
    return [features] if isinstance(features, Tensor) and features.ndim == 4 else pyramid.maps


def _noise(height: int, width: int, channels: int) -> Tensor:
    """Structures of several sizes, 0 to 1, ``(1, C, H, W)``; always the same."""
    random = torch.Generator().manual_seed(0)
    image = torch.zeros(1, channels, height, width)
    for size in (128, 32, 8, 1):
        coarse = torch.rand(1, channels, -(-height // size), -(-width // size), generator=random)
        image += coarse.repeat_interleave(size, 2).repeat_interleave(size, 3)[..., :height, :width] / 4
    return image
