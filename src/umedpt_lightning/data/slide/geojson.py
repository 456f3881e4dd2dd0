"""Annotations in the GeoJSON of QuPath."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.faults import Collector, for_all
from umedpt_lightning.data.formats.labels import class_indices
from umedpt_lightning.data.formats.text_files import read_json
from umedpt_lightning.data.slide.polygons import Polygons, valid


def read_geojson(path: Path, classes: Sequence[str], without: Iterable[str] = ()) -> Polygons:
    """The polygons of a file, in pixels of the slide's finest level, as QuPath exports them.

    Args:
        path: A FeatureCollection, a Feature, or a list of Features.
        classes: Names that a feature may have in ``properties.classification.name``.
        without: Names of features that are left out; an empty one for features without a class.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: shapely is missing.
        ValueError: It is not GeoJSON, or a feature has another class or is no polygon.
    """
    content = read_json(path)
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list) or not all(isinstance(f, dict) and f.get("type") == "Feature" for f in content):
        raise ValueError(f"{path}: this is no FeatureCollection, Feature or list of Features. Export it as GeoJSON.")
    left_out = set(without)
    named = [(f"{path}: feature {i}", _class(feature), feature) for i, feature in enumerate(content)]
    named = [item for item in named if item[1] not in left_out]
    faults = Collector()
    with faults:
        labels = class_indices([name for _, name, _ in named], classes, [at for at, _, _ in named], path)
    with faults:
        regions = for_all(lambda item: _region(item[2], item[0]), named)
    faults.raise_found()
    return Polygons(regions, labels)


def _class(feature: dict[str, Any]) -> str:
    """The name of its class; empty if it has none."""
    classification = (feature.get("properties") or {}).get("classification")
    if isinstance(classification, dict):  # QuPath 0.5 writes derived classes as a list of names
        return str(classification.get("name") or ": ".join(classification.get("names") or []))
    return str(classification or "")


def _region(feature: dict[str, Any], where: str) -> Any:
    shapely = require("shapely", "slides", where)
    geometry = feature.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else geometry
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(
            f"{where} is a {kind}, but only Polygon and MultiPolygon have an area. Remove it, or leave its class out "
            "with `without`."
        )
    try:
        with np.errstate(invalid="ignore"):  # what is not finite is told below
            region = shapely.force_2d(shapely.geometry.shape(geometry))
        sound = bool(np.isfinite(shapely.get_coordinates(region)).all())
    except Exception as error:  # of shapely's constructors, which raise many kinds
        raise ValueError(f"{where} has rings that are not three or more points x, y ({error}). {_MEND}") from error
    region = valid(region) if sound else shapely.Polygon()
    if region.is_empty:
        raise ValueError(f"{where} has rings without an area. {_MEND}")
    return region


_MEND = "Draw it again, or remove it."
