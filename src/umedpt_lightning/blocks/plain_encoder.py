"""Torch modules of one's own as encoders: what they lack is told, and what they need not say is added."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from umedpt_lightning.blocks.encoder import BaseEncoder, Pyramid


def as_encoder(module: nn.Module) -> BaseEncoder:
    """The module with the defaults of `BaseEncoder` for all that it does not define itself.

    It stays the same object with the same names of parameters; only its class becomes one that is derived from
    `BaseEncoder` too. Where `mean` and `std` are no buffers yet they become such, which move along to a device.

    Args:
        module: An encoder, or any module with the attributes and the `forward` that `BaseEncoder` names.

    Raises:
        ValueError: It lacks some of them; the message lists all.
    """
    lacks = list(_lacks(module))
    if lacks:
        raise ValueError(
            f"{type(module).__name__} cannot be the encoder, since it lacks {'; '.join(lacks)}. Set what is missing in "
            "its constructor; umedpt_lightning.blocks.BaseEncoder says what each means."
        )
    for name in ("mean", "std"):
        if name not in module._buffers:
            value = torch.as_tensor(module.__dict__.pop(name), dtype=torch.float32)
            module.register_buffer(name, value.reshape(1, -1, 1, 1), persistent=False)
    own = type(module)
    if BaseEncoder not in own.__mro__:  # `issubclass` holds for any module
        module.__class__ = _with_defaults(own)  # type: ignore[arg-type]  # torch types __hash__ oddly
        if not hasattr(module, "hparams") and not inspect.signature(own).parameters:
            module.hparams = {}  # type: ignore[assignment]  # attributes of a module may be anything
        if not hasattr(module, "hparams"):
            warnings.warn(
                f"{own.__name__} does not keep the arguments of its constructor, so that a trained model cannot be "
                "exported or loaded without it. Derive it from umedpt_lightning.blocks.BaseEncoder, which keeps them.",
                stacklevel=3,
            )
    return module  # type: ignore[return-value]  # it is one now


def check_pyramid(encoder: BaseEncoder, pyramid: Any, images: Tensor, places: bool) -> None:
    """Holds that the encoder gave for images ``(B, C, H, W)`` what its attributes say.

    Args:
        encoder: Whose `forward` it was.
        pyramid: What that returned.
        images: What it was given.
        places: Whether a decoder asks where in the image a place of a map is: maps of another stride would have all
            masks and boxes elsewhere.

    Raises:
        ValueError: It is something else.
    """
    name = type(encoder).__name__
    if not isinstance(pyramid, Pyramid):
        raise ValueError(
            f"{name}.forward returned a {type(pyramid).__name__}. Return a umedpt_lightning.blocks.Pyramid: maps, "
            "strides, and the sizes of the images and of the padded ones."
        )
    if torch.compiler.is_exporting():  # sizes are symbols
        return
    embedding, length = pyramid.embedding, encoder.embedding_channels
    if embedding is not None and tuple(embedding.shape) != (len(images), length):
        raise ValueError(
            f"{name}.forward gave Pyramid.embedding {tuple(embedding.shape)} for {len(images)} images, but its "
            f"embedding_channels say {(len(images), length)}. Correct one of the two."
        )
    shapes = [tuple(getattr(one, "shape", ())) for one in pyramid.maps]
    wanted = [(len(images), channels) for channels in encoder.channels]
    fits = all(isinstance(one, Tensor) for one in pyramid.maps) and [shape[:2] for shape in shapes] == wanted
    if fits and places:
        fits = list(pyramid.strides) == list(encoder.strides) and all(
            abs(side * stride - whole) < stride
            for shape, stride in zip(shapes, encoder.strides, strict=True)
            for side, whole in zip(shape[2:], pyramid.padded_size, strict=True)
        )
    if not fits:
        raise ValueError(
            f"{name}.forward gave tensors {shapes} for images {tuple(images.shape)} padded to {pyramid.padded_size}, "
            f"but it says channels {list(encoder.channels)} and strides {list(encoder.strides)}: each map must be "
            "(B, channels, H' / stride, W' / stride) of the padded H' and W', finest first. Correct these in its "
            "constructor, or what it puts into the Pyramid."
        )


def _lacks(module: Any) -> Iterator[str]:
    """What the contract names and the module has not, in words."""
    if not isinstance(module, nn.Module):
        yield f"a base class torch.nn.Module (found {type(module).__name__})"
        return
    channels = getattr(module, "in_channels", None)
    if not _positive(channels):
        yield f"in_channels, a positive integer{_found(module, 'in_channels')}"
    lengths = []
    for name, what in (("channels", "channels of each map, finest first"), ("strides", "strides of the maps, pixels")):
        values = getattr(module, name, None)
        if not isinstance(values, list | tuple) or not values or not all(map(_positive, values)):
            yield f"{name}, a list of positive integers: the {what}{_found(module, name)}"
        else:
            lengths.append(len(values))
            if name == "strides" and sorted(values) != list(values):
                yield f"strides that do not fall, finest first{_found(module, name)}"
    if len(set(lengths)) > 1:
        yield f"as many channels as strides (found {lengths[0]} and {lengths[1]})"
    for name in ("mean", "std"):
        try:
            count = torch.as_tensor(module._buffers[name] if name in module._buffers else vars(module)[name]).numel()
        except (KeyError, TypeError, ValueError, RuntimeError):
            count = 0
        if count not in (1, channels):
            what = "mean" if name == "mean" else "standard deviation"
            yield (
                f"{name}, a buffer (1, in_channels, 1, 1) with the {what} of pixels (0..1) that it expects: in the "
                f'constructor, self.register_buffer("{name}", ..., persistent=False)'
            )
    try:
        inspect.signature(module.forward).bind(Tensor(), None)
    except (TypeError, ValueError):
        yield "forward(images, task), which takes images and the name of their task (or None) and returns a Pyramid"


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _found(module: nn.Module, name: str) -> str:
    return f" (found {getattr(module, name)!r:.80})" if hasattr(module, name) else ""


@functools.cache
def _with_defaults(own: type[nn.Module]) -> type[nn.Module]:
    """A class like `own` with all that `BaseEncoder` has and it has not."""

    def reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        return _empty, (own,), self.__dict__  # pickle finds `own` in its file, but not this class

    return type(own.__name__, (own, BaseEncoder), {"__module__": own.__module__, "__reduce_ex__": reduce})


def _empty(own: type[nn.Module]) -> nn.Module:
    module: nn.Module = object.__new__(_with_defaults(own))  # type: ignore[arg-type]
    return module
