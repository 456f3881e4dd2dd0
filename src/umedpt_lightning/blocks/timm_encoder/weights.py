"""timm models with weights from timm's hub or from files, loaded completely or not at all."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import nn

from umedpt_lightning.blocks.timm_encoder.weight_files import WeightFile, find_weights, read_weights

#: What families of timm call the option to take images of any size: those with windows, and vision transformers.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True})


class _Unexpected(logging.Filter):
    """Keeps what a model had no place for out of the log, where a classifier is no news, and for `Made.told`."""

    keys: tuple[str, ...] = ()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is about something else."""
        if found := re.search(r"Unexpected keys \((.*?)\)", record.getMessage()):
            self.keys = tuple(found[1].split(", "))
        return found is None


_unexpected = _Unexpected()
logging.getLogger("timm.models._builder").addFilter(_unexpected)


class _NoSuchOption(Exception):  # noqa: N818  # the next is tried
    """A family of timm has no such option."""


@dataclass(frozen=True)
class Made:
    """A timm model with its weights.

    Attributes:
        net: The model.
        model_args: The options that it was made with, those that the weights' folder says among them.
        told: A line about what of a file was taken; empty without one.
    """

    net: Any  # timm's classes are not typed
    model_args: dict[str, Any]
    told: str = ""


def create_encoder(
    name: str, weights: Literal["timm"] | Path | None, model_args: Mapping[str, Any], **options: Any
) -> Made:
    """A timm model with the wanted weights.

    Args:
        name: The timm model.
        weights: ``None``, ``"timm"`` to download, or as for `find_weights`.
        model_args: The user's options of the model.
        options: Further ones for ``timm.create_model``.

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
    args = dict(model_args)
    if own := sorted(args.keys() & {*inspect.signature(timm.create_model).parameters, *options}):
        raise ValueError(f"encoder.model_args: {own[0]!r} is no option of a timm model that can be set. Take it out.")
    if weights is None or weights == "timm":
        create = _download if weights else create_net
        return Made(create(name, **options, **args), args)
    file, config = find_weights(Path(weights), name)
    args = {k: v for k, v in (config.get("model_args") or {}).items() if k not in _DECIDED} | args
    return _from_file(name, file, config, args, options)


#: Options in a folder's config that the encoder decides itself.
_DECIDED = ("num_classes", "in_chans", *(option for options in _ANY_SIZE for option in options))


def create_net(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """``timm.create_model``, for images of any size where the family can, and with classes of layers by name."""
    for key, value in options.items():  # a layer's class cannot stand in a config, but its name
        if key.endswith("_layer") and isinstance(value, str) and hasattr(timm.layers, value):
            options[key] = getattr(timm.layers, value)
    for flexible in _ANY_SIZE:
        with suppress(_NoSuchOption):
            return _created(name, flexible, pretrained=pretrained, **options)
    return _created(name, {}, pretrained=pretrained, **options)


def _created(name: str, flexible: dict[str, Any], pretrained: bool, **options: Any) -> nn.Module:
    try:
        net: nn.Module = timm.create_model(name, pretrained=pretrained, **flexible, **options)
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
        return create_net(name, pretrained=True, **options)
    except (OSError, RuntimeError) as error:  # offline, blocked, or timm has no weights of that name
        raise ConnectionError(
            f"The weights of {name} could not be downloaded ({error}). Download them where there is internet, "
            "say by timm.create_model(..., pretrained=True) and safetensors.torch.save_file(net.state_dict(), "
            "file), and give the file as `encoder.weights`."
        ) from error


def _from_file(name: str, file: Path, config: dict[str, Any], args: dict[str, Any], options: dict[str, Any]) -> Made:
    try:
        with torch.device("meta"):  # only names are wanted
            names = create_net(name).state_dict().keys()
        found = read_weights(file, config, names)
        net, told = _filled(name, found, **options, **args), _told(name, found)
        unplaced = _unplaced(name, net.state_dict().keys())
        twin = _filled(name, found.altered(), **options, **args)
    except Exception as error:  # timm, torch and safetensors raise many kinds here
        raise ValueError(f"encoder.weights: {file} cannot be loaded into timm's {name} ({error}).") from error
    if unplaced:
        raise ValueError(
            f"encoder.weights: {file} has {len(unplaced)} tensors that timm's {name} has no place for, first "
            f"{', '.join(unplaced[:3])}. Set what makes it such a model under encoder.model_args (init_values: 1.0e-5 "
            "for ls1.gamma, say), or change `encoder.name`."
        )
    # timm says nothing when keys are missing: what is not from the file is the same in a twin of an altered file
    pairs = zip(net.state_dict().items(), twin.state_dict().values(), strict=True)
    missing = [key for (key, value), other in pairs if value.is_floating_point() and torch.equal(value, other)]
    if missing:
        raise ValueError(
            f"encoder.weights: {file} lacks {len(missing)} tensors of timm's {name}, first {', '.join(missing[:3])}; "
            f"the other {len(net.state_dict()) - len(missing)} are there. It belongs to another model: change "
            "`encoder.name` or the file."
        )
    return Made(net, args, f"encoder.weights: all {len(net.state_dict())} tensors of {name} are from {file}{told}.")


def _filled(name: str, found: WeightFile, **options: Any) -> nn.Module:
    """The timm model with all of the tensors that it has a place for, the rest the same at every call."""
    _unexpected.keys = ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # timm takes entries out of the state; with other classes than the model has it leaves a classifier out
        overlay = {**found.config, "state_dict": dict(found.state), "num_classes": 1001}
        net = create_net(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    for module in net.modules():
        kept: Any = getattr(module, "pretrained_cfg", None)
        if isinstance(kept, dict):
            kept.pop("state_dict", None)  # else a copy of all weights would stay in memory
    return net


def _unplaced(name: str, names: Collection[str]) -> list[str]:
    """What was learned inside of parts that the model has, its classifier aside, and now is left out."""
    classifier = getattr(timm.get_pretrained_cfg(name), "classifier", None) or ()
    heads = (classifier,) if isinstance(classifier, str) else classifier
    # where timm takes a network apart, stages.0 is called stages_0
    parts = {re.sub(r"_\d+$", "", key.split(".")[0]) for key in names} - {head.split(".")[0] for head in heads}
    learned = ("weight", "bias", "gamma", "gamma_1", "gamma_2")
    return [key for key in _unexpected.keys if key.split(".")[0] in parts and key.endswith(learned)]


def _told(name: str, found: WeightFile) -> str:
    """What was left out, and what is unlike timm's own."""
    parts = sorted({key.split(".")[0] for key in _unexpected.keys} | found.left_out)
    own = timm.get_pretrained_cfg(name)
    told = f", where their names begin with {found.prefix}" if found.prefix else ""
    told += f"; left out is {', '.join(parts[:8])}{', …' if len(parts) > 8 else ''}" if parts else ""
    for key in ("mean", "std"):
        if own is not None and tuple(found.config.get(key, getattr(own, key))) != tuple(getattr(own, key)):
            told += f"; the {key} of a pixel is theirs, {tuple(found.config[key])}"
    return told
