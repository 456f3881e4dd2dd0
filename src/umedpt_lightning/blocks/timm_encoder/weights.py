"""Encoder weights from timm's hub or from a file, loaded completely or not at all."""

from __future__ import annotations

import difflib
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

# an encoder has no place for the classifier of a whole model, which is no news
logging.getLogger("timm.models._builder").addFilter(lambda record: "Unexpected keys" not in record.getMessage())

#: What families of timm call the option to take images of any size: those with windows, and vision transformers.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True})


class _NoSuchOption(Exception):  # noqa: N818  # the next is tried
    """A family of timm has no such option."""


def create_encoder(name: str, weights: Literal["timm"] | Path | None, **options: Any) -> nn.Module:
    """A timm feature extractor with the wanted weights.

    Args:
        name: The timm model.
        weights: ``None``, ``"timm"`` to download, or a file with a state of the whole timm model.
        options: For ``timm.create_model``.

    Raises:
        FileNotFoundError: There is no such file.
        ConnectionError: The weights cannot be downloaded.
        ValueError: timm knows no such model, the model has no feature pyramid, or the file does not fit it.
    """
    architecture, _, tag = name.partition(".")
    # a scheme or a slash in a name would make timm read from elsewhere
    if not timm.is_model(architecture) or not all(part.isidentifier() for part in (architecture, tag or "_")):
        similar = difflib.get_close_matches(name, timm.list_models(), n=8) or timm.list_models("*swin_tiny*")
        raise ValueError(f"timm knows no model {name!r}. Near it: {', '.join(similar)}; see timm.list_models().")
    if weights is None:
        return _features(name, pretrained=False, **options)
    if weights == "timm":
        return _download(name, **options)
    return _from_file(name, Path(weights), **options)


def _features(name: str, pretrained: bool, **options: Any) -> nn.Module:
    for flexible in _ANY_SIZE:
        with suppress(_NoSuchOption):
            return _created(name, flexible, pretrained=pretrained, **options)
    return _created(name, {}, pretrained=pretrained, **options)


def _created(name: str, flexible: dict[str, Any], pretrained: bool, **options: Any) -> nn.Module:
    try:
        net: nn.Module = timm.create_model(name, features_only=True, pretrained=pretrained, **flexible, **options)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        if any(option in str(error) for option in flexible):
            raise _NoSuchOption from error
        if pretrained:
            raise
        raise ValueError(
            f"timm's {name} cannot be used as an encoder ({error}). Take one that gives feature maps: those that "
            "timm.create_model(name, features_only=True) makes."
        ) from error
    return net


def _download(name: str, **options: Any) -> nn.Module:
    try:
        return _features(name, pretrained=True, **options)
    except (OSError, RuntimeError) as error:  # offline, blocked, or timm has no weights of that name
        raise ConnectionError(
            f"The weights of {name} could not be downloaded ({error}). Download them where there is internet, "
            "say by timm.create_model(..., pretrained=True) and safetensors.torch.save_file(net.state_dict(), "
            "file), and give the file as `encoder.weights`."
        ) from error


def _from_file(name: str, file: Path, **options: Any) -> nn.Module:
    if not file.is_file():
        raise FileNotFoundError(
            f"encoder.weights: there is no file {file}. Give a .safetensors or .pth file of {name}, "
            'or "timm" to download.'
        )
    try:
        state = load_state_dict(str(file), weights_only=True)  # older timm would run code in the file
        net, twin = _filled(name, state, **options), _filled(name, _altered(state), **options)
    except Exception as error:  # timm, torch and safetensors raise many kinds here
        raise ValueError(f"encoder.weights: {file} cannot be loaded into timm's {name} ({error}).") from error
    # timm says nothing when keys are missing: what is not from the file is the same in a twin of an altered file
    pairs = zip(net.state_dict().items(), twin.state_dict().values(), strict=True)
    missing = [key for (key, value), other in pairs if value.is_floating_point() and torch.equal(value, other)]
    if missing:
        raise ValueError(
            f"encoder.weights: {file} lacks {len(missing)} tensors of timm's {name}, first {', '.join(missing[:3])}. "
            "It belongs to another model: change `encoder.name` or the file."
        )
    return net


def _filled(name: str, state: dict[str, Tensor], **options: Any) -> nn.Module:
    """The feature extractor with all of `state` that it has a place for, the rest the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        overlay = {"state_dict": dict(state)}  # timm takes entries out of it
        net = _features(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    for module in net.modules():
        config: Any = getattr(module, "pretrained_cfg", None)
        if isinstance(config, dict):
            config.pop("state_dict", None)  # else a copy of all weights would stay in memory
    return net


def _altered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
