"""How volumes and slides were cut into the images that a task was trained on, as its spec says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.volume.intensity import Intensity, Level, Percentiles, Window
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.types import TaskSpec


def trained_slices(spec: TaskSpec) -> Slices:
    """How volumes were sliced, but every slice; all axial ones where the task was not trained on volumes.

    Raises:
        ValueError: The spec's options are not those of `Slices`.
    """
    made: Slices = _made(Slices, spec.cut.get("slices", {}), "slices")
    return replace(made, every=None)


def trained_intensity(spec: TaskSpec) -> Intensity | None:
    """What became 0 and 1 of volumes; None keeps the stored intensities.

    Raises:
        ValueError: The spec's options are those of no intensity.
    """
    options = spec.cut.get("intensity")
    if not options:
        return None
    kinds: dict[str, Any] = {"low": Window, "level": Level, "lower": Percentiles}
    made: Intensity = _made(kinds.get(min(options), Window), options, "intensity")
    return made


def trained_tiles(spec: TaskSpec, **asked: Any) -> Tiles:
    """How slides were cut; what is `asked` for and not None counts more.

    Raises:
        ValueError: The options are not those of `Tiles`.
    """
    options = {**spec.cut.get("tiles", {}), **{key: value for key, value in asked.items() if value is not None}}
    made: Tiles = _made(Tiles, options, "tiles")
    return made


def _made(cls: Any, options: Mapping[str, Any], what: str) -> Any:
    try:
        return cls(**options)
    except TypeError as error:
        raise ValueError(f"The model says of its {what}: {dict(options)}, which cannot be ({error}).") from error
