"""``umedpt schema``: what may stand in a config, as a JSON schema for editors."""

from __future__ import annotations

import argparse
import json
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, get_args

import jsonargparse
import lightning.pytorch as pl
from lightning.pytorch import callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser

from umedpt_lightning.blocks.built import BlockFactory
from umedpt_lightning.cli.launching import add_launcher_options
from umedpt_lightning.cli.training import UmedptCLI
from umedpt_lightning.data import readers
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.loading.schedule import ScheduleFactory
from umedpt_lightning.model import DetectionDecoderFactory, PixelDecoderFactory, TaskFactory
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.weighting import LossWeightingFactory
from umedpt_lightning.transfer.medmnist import MedMNISTProtocol
from umedpt_lightning.transfer.protocol import Protocol

Schema = dict[str, Any]
#: Options of the trainer that hold objects of Lightning, whose types reach into all of torch.
_OBJECTS = {"accelerator", "strategy", "profiler", "plugins", "logger", "callbacks"}
#: Callbacks that take modules of torch: jsonargparse looks at all there are for seconds, and then gives up.
_TAKE_MODULES = {callbacks.ModelPruning}
#: Whose classes a config may name.
_LIBRARIES = ("umedpt_lightning.", "lightning.", "albumentations.")
#: An object of torch or of any other library.
_ANY_CLASS = {
    "type": "object",
    "properties": {"class_path": {"type": "string"}, "init_args": {"type": "object"}},
    "required": ["class_path"],
    "additionalProperties": False,
}
#: What is called with what only the program knows, so that a config leaves the first parameters out.
_FACTORIES = (
    BlockFactory,
    PixelDecoderFactory,
    DetectionDecoderFactory,
    TaskFactory,
    ScheduleFactory,
    LossWeightingFactory,
)


def main(command: str, arguments: Sequence[str]) -> None:
    """Prints the schema."""
    description = "Print a JSON schema of configs, with which editors complete and check them."
    argparse.ArgumentParser(prog=f"umedpt {command}", description=description).parse_args(arguments)
    print(json.dumps(config_schema(), indent=1))


def config_schema() -> Schema:
    """The JSON schema, draft 7, of configs of `umedpt fit`, its relatives, `umedpt transfer` and `umedpt medmnist`.

    A class is named by its name alone or with its module; one that is not known here may have any options. Nothing at
    the top is required, since a config may be put together of several files.
    """
    with warnings.catch_warnings():  # every name of a library is looked at, old ones too
        warnings.simplefilter("ignore")
        schema: Schema = json.loads(_parser().get_completion_script("jsonschema"))
    choices = schema["$defs"]["Reader"]["anyOf"]  # there are some that wrap others in the program alone
    schema["$defs"]["Reader"]["anyOf"] = [
        one for one in choices if not _path(one) or _path(one).rpartition(".")[2] in readers.__all__
    ]
    for factory in _FACTORIES:
        given, made = get_args(factory)
        _without_first(schema["$defs"][made.__name__], len(given))
    trainer = schema["properties"]["trainer"]["properties"]
    trainer |= {name: {"description": f"See Lightning's Trainer on `{name}`."} for name in sorted(_OBJECTS)}
    for name, module in (("callbacks", callbacks), ("logger", loggers)):
        one = {"$ref": f"#/$defs/{name}"}
        schema["$defs"][name] = {"anyOf": [_described(found, module.__name__) for found in _classes(module)]}
        trainer[name]["anyOf"] = [{"type": ["boolean", "null"]}, one, {"type": "array", "items": one}]
    for name in ("optimizer", "lr_scheduler"):
        option = schema["$defs"]["Optimization"]["properties"][name]
        option.pop("type", None)
        option["anyOf"] = [{"type": ["string", "null"]}, _ANY_CLASS]
    for choice in schema["$defs"]["GradientAggregator"]["anyOf"]:
        if option := choice.get("properties", {}).get("init_args", {}).get("properties", {}).get("weighting"):
            option.pop("type", None)
            option["anyOf"] = [{"type": "string"}, _ANY_CLASS]
    del schema["properties"]["model"]["properties"]["specs"]  # the data module says them
    data = schema["properties"]["data"]["properties"]
    described = data["tasks"]
    some = {"anyOf": [{key: value for key, value in described.items() if key != "description"}, {"type": "string"}]}
    data["tasks"] = {
        "description": described.get("description", ""),
        "anyOf": [*some["anyOf"], {"type": "array", "items": some}],
    }
    schema["properties"]["run"]["type"] = ["string", "null"]  # its default is none
    for section in (schema, *schema["properties"].values()):
        section.pop("required", None)
    for definition in schema["$defs"].values():
        _name_classes(definition)
    schema["$schema"] = "http://json-schema.org/draft-07/schema#"  # the one that editors know best
    schema["title"] = "Config of umedpt"
    draft_7: Schema = _draft_7(schema)
    _prune(draft_7)
    return draft_7


def _parser() -> LightningArgumentParser:
    """All options that may stand in a config."""
    parser = LightningArgumentParser(add_help=False)
    parser.add_argument("--seed_everything", type=bool | int, default=0, help="Seeds torch, NumPy and Python.")
    checkpoint = "Checkpoint to go on with or to use: best, best_<task>, last or a file."
    parser.add_argument("--ckpt_path", type=str | None, default=None, help=checkpoint)
    parser.add_class_arguments(pl.Trainer, "trainer", skip=_OBJECTS)
    parser.add_class_arguments(MultiTaskModule, "model")
    parser.add_class_arguments(MultiTaskDataModule, "data")
    UmedptCLI.add_arguments_to_parser(parser)
    parser.add_argument("--device", type=str, default="auto", help="Of transfer and medmnist: cpu, cuda, cuda:1, auto.")
    parser.add_argument("--num_workers", type=int, default=0, help="Of transfer and medmnist: readers.")
    centres = "Of `umedpt transfer`: what finds the centre, each of which is left out in turn."
    parser.add_argument("--centres", type=str | None, default=None, help=centres)
    parser.add_argument("--wandb", type=str | None, default=None, help="Of `umedpt transfer`: [entity/]project.")
    parser.add_argument("--shots", type=str | list[int], default=[], help="Of `umedpt transfer`: as transfer.shots.")
    add_launcher_options(parser)
    parser.add_class_arguments(Protocol, "transfer")
    parser.add_class_arguments(MedMNISTProtocol, "medmnist")
    return parser


def _classes(module: Any) -> Iterator[type]:
    """The classes that a module of Lightning offers, without those that are there to be derived from."""
    bases = {"Callback", "Checkpoint", "Logger", "ProgressBar"}
    names = [name for name in sorted(module.__all__) if name not in bases and not name.startswith("Base")]
    yield from (getattr(module, name) for name in names)


def _described(found: type, module: str) -> Schema:
    """An object of a class of Lightning; where its options cannot be described, any are taken."""
    parser = jsonargparse.ArgumentParser(add_help=False)
    options: Schema = {"type": "object"}
    if found not in _TAKE_MODULES:
        with suppress(Exception):  # types that jsonargparse cannot describe make it raise whatever they raise
            parser.add_class_arguments(found)
            options = json.loads(parser.get_completion_script("jsonschema"))
    if "$defs" in options:  # of objects in objects
        options = {"type": "object", "properties": {key: {} for key in options["properties"]}}
    options = {key: value for key, value in options.items() if key not in ("$schema", "description")}
    described = {"class_path": {"const": f"{module}.{found.__name__}"}, "init_args": options}
    summary = (found.__doc__ or "").strip().split("\n\n")[0]
    summary = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", " ".join(summary.split()))
    return {
        "type": "object",
        "description": summary,
        "properties": described,
        "required": ["class_path"],
        "additionalProperties": False,
    }


def _without_first(definition: Schema, count: int) -> None:
    """Takes the first options of all classes of a definition away."""
    for choice in definition["anyOf"]:
        options = choice.get("properties", {}).get("init_args")
        if options is None:
            continue
        given = [name for name in options["properties"] if name != "$schema"][:count]
        options["properties"] = {name: one for name, one in options["properties"].items() if name not in given}
        options["required"] = [name for name in options.get("required", []) if name not in given]
        if not options["required"]:
            del options["required"]
            choice["required"] = ["class_path"]


def _path(choice: Schema) -> str:
    """The class that a choice describes; empty where it is something else."""
    path: str = choice.get("properties", {}).get("class_path", {}).get("const", "")
    return path


def _whole_names(path: str) -> list[str]:
    """The whole names of a class, of all packages that offer it; the one that jsonargparse writes first."""
    if not path.startswith("umedpt_lightning."):
        return [path]
    found = pkgutil.resolve_name(path)
    parts = found.__module__.split(".")
    places = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    offering = [f"{place}.{found.__name__}" for place in places if hasattr(sys.modules[place], found.__name__)]
    return list(dict.fromkeys([path, *offering]))


def _name_classes(definition: Schema) -> None:
    """Lets known classes be named without their module, and unknown ones with one have any options."""
    known: list[str] = []
    for choice in definition.get("anyOf", []):
        if path := _path(choice):
            names = [path.rpartition(".")[2], *_whole_names(path)]
            choice["properties"]["class_path"] = {"enum": names}
            known += names
    if "anyOf" in definition and not any(name.startswith(_LIBRARIES) for name in known):
        definition.clear()  # NumPy's and Python's own
    elif known:
        last_names = "|".join(name for name in known if "." not in name)
        other = {"type": "string", "pattern": rf"^(?!umedpt_lightning\.).+\.(?!({last_names})$)\w+$"}
        options = {"type": "object", "description": "Its options."}
        definition["anyOf"].append(
            {
                "type": "object",
                "description": "A class of your own, by its module and name.",
                "properties": {"class_path": other, "init_args": options},
                "required": ["class_path"],
                "additionalProperties": False,
            }
        )


def _draft_7(value: Any, inside: bool = False) -> Any:
    """The same in draft 7; the key ``$schema`` is left at the top alone."""
    match value:
        case list():
            return [_draft_7(item, True) for item in value]
        case dict():
            kept = {key: item for key, item in value.items() if not (inside and key == "$schema")}
            if re.search(r"^<.* at 0x\w+>$", str(kept.get("default"))):  # an object, which no config can hold
                del kept["default"]
            if "prefixItems" in kept:
                kept |= {"items": kept.pop("prefixItems"), "additionalItems": kept["items"]}
            if "$ref" in kept:
                kept["$ref"] = kept["$ref"].replace("#/$defs/", "#/definitions/")
            if "$defs" in kept:
                kept["definitions"] = kept.pop("$defs")
            return {key: _draft_7(item, True) for key, item in kept.items()}
    return value


def _prune(schema: Schema) -> None:
    """Takes away definitions that nothing refers to."""
    definitions = schema.pop("definitions")
    needed: dict[str, Schema] = {}
    waiting = list(_references(schema))
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed[name] = definitions[name]
            waiting += _references(definitions[name])
    schema["definitions"] = {name: needed[name] for name in definitions if name in needed}


def _references(value: Any) -> Iterable[str]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    for item in items:
        yield from _references(item)
    if isinstance(value, dict) and isinstance(value.get("$ref"), str):
        yield value["$ref"].rpartition("/")[2]
