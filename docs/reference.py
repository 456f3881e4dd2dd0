"""The configuration reference as Markdown, from the JSON schema that is made of signatures and docstrings."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from typing import Any

import docstring_parser

from umedpt_lightning.cli.schema import config_schema

Schema = dict[str, Any]
#: Headings of definitions that hold classes, in the order of the page.
CLASSES = {
    "Reader": "Readers",
    "Task": "Heads",
    "BaseEncoder": "Encoder",
    "SharedBlock": "Shared blocks: `model.blocks`",
    "PixelDecoder": "Pixel decoder",
    "DetectionDecoder": "Detection decoder",
    "Schedule": "Schedules",
    "LossWeighting": "Loss weightings",
    "GradientAggregator": "Gradient aggregators",
    "ParameterGroups": "Parameter groups",
    "WeightSource": "Sources of transfer",
    "callbacks": "Callbacks of Lightning",
    "logger": "Loggers of Lightning",
}
#: Definitions of plain options, and where they stand.
OPTIONS = {
    "TaskData": "A task's data: `data.tasks.<name>`",
    "Optimization": "Optimization: `model.optimization`",
    "Table": "Table: `table` of a reader",
    "ClassColumn": "Class: `columns` of bags",
    "LabelColumns": "Labels: `columns` of bags",
    "NumberColumns": "Numbers: `columns` of bags",
    "SurvivalColumns": "Times to an event: `columns` of bags",
    "Slices": "Slices: `slices` of a reader of volumes",
    "Window": "Window: `intensity`",
    "Level": "Level: `intensity`",
    "Percentiles": "Percentiles: `intensity`",
    "Tiles": "Tiles: `tiles` of a reader of slides",
}
#: Those of albumentations, whose own pages are better.
ELSEWHERE = {"BasicTransform": "a transform of albumentations", "BaseCompose": "a composition of albumentations"}
#: Those of another class's section.
ELSEWHERE |= {"Teacher": "a [source](#weightsource)"}


def reference() -> str:
    """All options and classes that may stand in a config."""
    return "\n\n".join(_parts(config_schema()))


def _parts(schema: Schema) -> Iterator[str]:
    top = schema["properties"]
    sections = {name: one for name, one in top.items() if "properties" in one}
    yield "## Top of a config"
    yield _table({name: one for name, one in top.items() if name not in sections})
    for name in ("data", "model", "transfer", "medmnist", "trainer", "checkpoint", "last", "pictures", "map"):
        yield f"## `{name}`"
        yield _table(_flat(sections[name]), set(sections[name].get("required", [])))
    definitions = schema["definitions"]
    yield "## Groups of options"
    for name, heading in OPTIONS.items():
        yield f"### {heading} {{#{name.lower()}}}"
        yield _text(definitions[name].get("description", ""))
        yield _table(definitions[name]["properties"], set(definitions[name].get("required", [])))
    for name, heading in CLASSES.items():
        yield f"## {heading} {{#{name.lower()}}}"
        for found in definitions[name]["anyOf"]:
            _, path, *_ = found.get("properties", {}).get("class_path", {}).get("enum", ("", ""))
            if path.startswith(("umedpt_lightning.", "lightning.")):  # not those that somebody else has imported
                yield from _class(found)
    rest = definitions.keys() - CLASSES.keys() - OPTIONS.keys() - ELSEWHERE.keys()
    if missing := [name for name in rest if _is_ours(definitions[name])]:
        raise ValueError(f"docs/reference.py gives no place to {', '.join(missing)}. Add a heading.")


def _is_ours(definition: Schema) -> bool:
    return "properties" in definition or '"umedpt_lightning.' in json.dumps(definition)  # the whole name of a class


def _class(found: Schema) -> Iterator[str]:
    short, path, *_ = found["properties"]["class_path"]["enum"]
    options = found["properties"]["init_args"]
    yield f"### {short}"
    if path.startswith("umedpt_lightning."):
        yield _whole_text(path)
    else:
        yield f"{_text(found.get('description', ''))} `class_path: {path}`"
    if options.get("properties"):
        yield _table(options["properties"], set(options.get("required", [])))


def _whole_text(path: str) -> str:
    """What the docstring of a class says before its arguments."""
    module, _, name = path.rpartition(".")
    parsed = docstring_parser.parse(getattr(importlib.import_module(module), name).__doc__)
    return "\n\n".join(filter(None, [parsed.short_description, parsed.long_description]))


def _flat(section: Schema, prefix: str = "") -> dict[str, Schema]:
    """Options of an option under its name and a dot."""
    flat: dict[str, Schema] = {}
    for name, one in section["properties"].items():
        flat |= _flat(one, f"{prefix}{name}.") if "properties" in one else {f"{prefix}{name}": one}
    return flat


def _table(options: dict[str, Schema], required: set[str] | None = None) -> str:
    rows = ["| key | type | default | what |", "| --- | --- | --- | --- |"]
    for name, one in options.items():
        default = "**needed**" if name in (required or ()) else _default(one)
        rows.append(f"| `{name}` | {_type(one)} | {default} | {_text(one.get('description', ''))} |")
    return "\n".join(rows)


def _default(one: Schema) -> str:
    if "default" not in one:
        return "`null`" if "`null`" in _type(one) else ""
    value = one["default"]
    if isinstance(value, dict) and "class_path" in value:
        value = value["class_path"].rpartition(".")[2]
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`".replace("|", "\\|")


def _type(one: Schema) -> str:
    """What a value may be, in words."""
    match one:
        case {"$ref": target}:
            name = target.rpartition("/")[2]
            return ELSEWHERE.get(name) or (f"[{name}](#{name.lower()})" if name in {*CLASSES, *OPTIONS} else "any")
        case {"anyOf": kinds}:
            names = [_type(kind) for kind in kinds]
            classes = any(kind.get("$ref", "").rpartition("/")[2] in CLASSES for kind in kinds)
            kept = [name for name in names if not (classes and name == "text")]  # the name alone is short for a class
            return " or ".join(dict.fromkeys(kept))
        case {"enum": values}:
            return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in values)
        case {"type": "array", "items": list(items)}:
            return f"[{', '.join(map(_type, items))}]"
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"name: {_type(values)}"
        case {"type": kind}:
            kinds = kind if isinstance(kind, list) else [kind]
            return " or ".join(_WORDS.get(name, name) for name in kinds)
    return "any"


_WORDS = {
    "string": "text",
    "integer": "whole number",
    "boolean": "`true`, `false`",
    "null": "`null`",
    "array": "list",
    "object": "mapping",
}


def _text(description: str) -> str:
    """A description on one line: its first paragraph, without an example and Sphinx's roles."""
    description = re.split(r"\n\s*\n|\bExamples?:|\.\. \w+::", description.strip())[0]
    description = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", description)
    return " ".join(description.split()).replace("|", "\\|").replace("<", "&lt;")
