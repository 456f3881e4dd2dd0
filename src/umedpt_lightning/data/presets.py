"""Augmentations in YAML files: those that come with the package, by name, and a user's own, by path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonargparse

from umedpt_lightning.data.formats.text_files import read_yaml

_FOLDER = Path(__file__).parent / "augmentations"
#: Names of the presets.
PRESETS = tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))


def read_augmentations(preset: str, kind: Any) -> dict[str, Any]:
    """What a preset says, as a parser of configs holds it: types checked, nothing built.

    `preset` is a name among `PRESETS`, or the path of a YAML file of the same form, and `kind` the type that the
    augmentations are to have. Raises ValueError where there is no such preset, or the file is not of that form.
    """
    parsed: dict[str, Any] = _parse(preset, kind)[1].augment
    return parsed


def build_augmentations(preset: str, kind: Any) -> Any:
    """The augmentations of a preset, built; arguments and errors as in `read_augmentations`."""
    parser, parsed = _parse(preset, kind)
    try:
        return parser.instantiate(parsed).augment
    except (ValueError, TypeError) as error:  # what albumentations says of an argument
        raise ValueError(f"{_file(preset)}: {error}. Correct it.") from error


def _parse(preset: str, kind: Any) -> tuple[jsonargparse.ArgumentParser, jsonargparse.Namespace]:
    file = _file(preset)
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise ValueError(
            f"{file}: a file of augmentations holds albumentations transforms by name, such as "
            "`flip: {class_path: albumentations.HorizontalFlip}`, but this one holds "
            f"{'nothing' if content is None else f'a {type(content).__name__}'}. Correct it."
        )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--augment", type=kind)
    try:
        return parser, parser.parse_object({"augment": content})
    except jsonargparse.ArgumentError as error:
        raise ValueError(f"{file}: {error}. Correct it.") from error


def _file(preset: str) -> Path:
    if preset in PRESETS:
        return _FOLDER / f"{preset}.yaml"
    file = Path(preset).expanduser()
    if file.is_file():
        return file
    raise ValueError(
        f"augment: there is no preset and no file {preset!r}. Presets are {', '.join(PRESETS)}; else give a mapping of "
        "albumentations transforms, or the path of a YAML file that holds one."
    )
