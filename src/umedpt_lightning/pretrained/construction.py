"""The config of a model as a dictionary for JSON: its classes with their options, and what its data said."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, TypeVar, get_origin, get_type_hints

from torch import nn

from umedpt_lightning.blocks import (
    BagTransformer,
    BaseEncoder,
    DetectionDecoder,
    Encoder,
    GatedAttention,
    MeanBag,
    PixelDecoder,
    SharedBlock,
    ViTEncoder,
)
from umedpt_lightning.hparams import create
from umedpt_lightning.io.values import fits, from_json, to_json
from umedpt_lightning.tasks import DEFAULT_TASKS, OTHER_TASKS, Task
from umedpt_lightning.types import TaskSpec

#: The only classes that a config may name, unless its reader gives more.
_BLOCKS = (Encoder, ViTEncoder, PixelDecoder, DetectionDecoder, GatedAttention, MeanBag, BagTransformer)
KNOWN: tuple[type, ...] = (*_BLOCKS, *DEFAULT_TASKS, *DEFAULT_TASKS.values(), *OTHER_TASKS)
Config = dict[str, Any]
T = TypeVar("T")


def model_config(
    encoder: BaseEncoder,
    decoders: Mapping[str, nn.Module | None],
    blocks: Mapping[str, nn.Module],
    tasks: Mapping[str, Task],
    sizes: Mapping[str, tuple[int, int]],
) -> Config:
    """The config of a model of these parts, in types of JSON.

    Args:
        encoder: The shared encoder.
        decoders: ``pixel_decoder`` and ``detection_decoder``; None where no task needs it.
        blocks: Further shared blocks, by what tasks need.
        tasks: By name.
        sizes: Height and width that a task's images were resized to; a task left out has its own.

    Raises:
        ValueError: A class of one's own has an option that JSON cannot hold, or does not keep its options.
    """
    config = {"encoder": _block(encoder, "encoder")}
    config |= {name: _block(decoder, name, given=2) for name, decoder in decoders.items() if decoder is not None}
    if blocks:
        config["blocks"] = {name: _block(block, f"blocks.{name}", given=2) for name, block in blocks.items()}
    config["tasks"] = {
        name: {
            "spec": _spec(task.spec, f"tasks.{name}.spec"),
            "head": _block(task, f"tasks.{name}.head", given=2),
            "size": to_json(sizes.get(name), f"tasks.{name}.size"),
        }
        for name, task in tasks.items()
    }
    return config


def model_arguments(config: Any, classes: Iterable[type] = ()) -> dict[str, Any]:
    """The arguments of `MultiTaskModel` that build the model of a config.

    Nothing is imported, downloaded or read from a file: a config names classes of a closed set, with options.

    Args:
        config: What `model_config` gave.
        classes: Tasks, specs or blocks of one's own that may be named too.

    Raises:
        ValueError: It is not such a config, or names what is not known; the message names the key.
    """
    known = {cls.__name__: cls for cls in (*KNOWN, *classes)}
    config = _mapping(config, "model", {"encoder", "pixel_decoder", "detection_decoder", "blocks", "tasks"})
    parts: dict[str, Any] = {"specs": {}, "tasks": {}, "sizes": {}}
    for name, task in _mapping(config.get("tasks"), "model.tasks").items():
        key = f"model.tasks.{name}"
        task = _mapping(task, key, {"spec", "head", "size"})
        parts["specs"][name] = _made(_factory(task.get("spec"), f"{key}.spec", TaskSpec, known, 0), f"{key}.spec")
        parts["tasks"][name] = _factory(task.get("head"), f"{key}.head", Task, known, 2)  # type: ignore[type-abstract]
        size = from_json(task.get("size"))
        if not fits(size, tuple[int, int] | None) or (size and min(size) < 1):
            raise ValueError(f"{key}.size must be null or height and width, but it is {size!r}.")
        if size:
            parts["sizes"][name] = size
    for name in ("pixel_decoder", "detection_decoder"):
        if name in config:
            parts[name] = _factory(config[name], f"model.{name}", SharedBlock, known, 2)
    parts["blocks"] = {
        name: _factory(block, f"model.blocks.{name}", SharedBlock, known, 2)
        for name, block in _mapping(config.get("blocks", {}), "model.blocks").items()
    }
    encoder = _factory(config.get("encoder"), "model.encoder", BaseEncoder, known, 0)  # type: ignore[type-abstract]
    parts["encoder"] = _made(partial(create, encoder.func, **encoder.keywords), "model.encoder")
    return parts


def _block(block: nn.Module, where: str, given: int = 0) -> Config:
    """A block's class and options, without the first arguments, which the model gives."""
    if not hasattr(block, "hparams"):
        raise ValueError(
            f"{where}: {type(block).__name__} does not keep the arguments of its constructor, so that the model could "
            "not be built again. Derive the class from umedpt_lightning.hparams.HParamsMixin, too."
        )
    hparams: Any = block.hparams
    options = dict(list(hparams.items())[given:])
    return {
        "class": type(block).__name__,
        "options": {name: to_json(value, f"{where}: {name}") for name, value in options.items()},
    }


def _spec(spec: TaskSpec, where: str) -> Config:
    options = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    return {"class": type(spec).__name__, "options": to_json(options, where)}


def _factory(config: Any, key: str, base: type[T], known: Mapping[str, type], given: int) -> partial[T]:
    """The class that a config names, with its options; raises for what the class does not take."""
    config = _mapping(config, key, {"class", "options"})
    name = config.get("class")
    cls = known.get(name) if isinstance(name, str) else None
    if cls is None or not _is_a(cls, base):
        fitting = sorted(n for n, c in known.items() if _is_a(c, base))
        raise ValueError(
            f"{key}.class is {name!r}, but must be one of {', '.join(fitting)}. A class of your own must be given: "
            "from_pretrained(..., classes=[YourClass])."
        )
    options = from_json(_mapping(config.get("options"), f"{key}.options"))
    parameters = list(inspect.signature(cls).parameters.values())[given:]
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    hints = _hints(cls)
    for option, value in options.items():
        named = option in (parameter.name for parameter in parameters) and option not in getattr(
            cls, "hparams_ignored", ()
        )
        if not named and not takes_any:
            raise ValueError(f"{key}.options: {name} has no option {option!r}.")
        if not fits(value, hints.get(option, Any)):
            raise ValueError(f"{key}.options.{option} is {value!r}, which {name} does not take.")
        if get_origin(hints.get(option)) is list:
            options[option] = list(value)
    return partial(cls, **options)


def _made(factory: partial[T], key: str) -> T:
    try:
        return factory()
    except Exception as error:  # timm and torch raise many kinds for options that cannot be
        raise ValueError(f"{key} cannot be built: {error}") from error


def _is_a(cls: type, base: type) -> bool:
    """Whether a class may stand where `base` is wanted; any torch module of one's own may be an encoder."""
    if base is BaseEncoder and BaseEncoder not in cls.__mro__:
        return issubclass(cls, nn.Module) and not issubclass(cls, Task | SharedBlock)
    return issubclass(cls, base)


def _mapping(value: Any, key: str, keys: set[str] | None = None) -> Config:
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be a mapping, but it is {value!r:.60}.")
    unknown = value.keys() - (value.keys() if keys is None else keys)
    if unknown:
        raise ValueError(f"{key} has the unknown key {min(unknown)!r}. Known are {', '.join(sorted(keys or ()))}.")
    return value


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__)  # type: ignore[misc]
    except NameError:  # of a class of one's own, whose types are imported for checkers only
        return {}
