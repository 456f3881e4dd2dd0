"""Encoder weights from timm's hub or from a file, loaded completely or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import nn


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
    if not timm.is_model(name):
        similar = timm.list_models(f"*{name.split('_')[0]}*")[:8] or timm.list_models("*swin_tiny*")
        raise ValueError(f"timm knows no model {name!r}. Near it: {', '.join(similar)}; see timm.list_models().")
    if weights is None:
        return _features(name, pretrained=False, **options)
    if weights == "timm":
        return _download(name, **options)
    return _from_file(name, Path(weights), **options)


def _features(name: str, pretrained: bool, **options: Any) -> nn.Module:
    try:
        net: nn.Module = timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    except (RuntimeError, AttributeError, TypeError) as error:
        if pretrained:
            raise
        raise ValueError(f"timm's {name} cannot be used as an encoder ({error}). Take one with a pyramid.") from error
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
    overlay = {"pretrained_cfg_overlay": {"file": str(file)}}
    try:
        net = _features(name, pretrained=True, **overlay, **options)
        twin = _features(name, pretrained=True, **overlay, **options)
    except Exception as error:  # timm, torch and safetensors raise many kinds here
        raise ValueError(f"encoder.weights: {file} cannot be loaded into timm's {name} ({error}).") from error
    # timm says nothing when keys are missing: what the file lacks is random, hence different in a second copy
    pairs = zip(net.state_dict().items(), twin.state_dict().values(), strict=True)
    random = [key for (key, value), other in pairs if not torch.equal(value, other)]
    if random:
        raise ValueError(
            f"encoder.weights: {file} lacks {len(random)} tensors of timm's {name}, first {', '.join(random[:3])}. "
            "It belongs to another model: change `encoder.name` or the file."
        )
    return net
