"""The JSON layout of COCO."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from umedpt_lightning.data.formats.faults import Collector, raise_all
from umedpt_lightning.data.formats.labels import check_names


class CocoFile:
    """A COCO JSON file, checked to have the fields that are used.

    Args:
        file: The JSON file.
        outline: The field that says where an object is, ``bbox`` or ``segmentation``.
        fault: What is wrong with that field in an image of a width and height, and the mend; empty where nothing is.
        classes: Category names in the order of the indices; None for all in the order of their ids.
        crowds: Keep the crowd regions.
        faults: Gathers the annotations that cannot be used.

    Attributes:
        images: Its images.
        annotations: Its annotations that can be used.
        names: Category names.
        category_ids: Their ids.
        owners: ``(N,)`` index of the image of each annotation.
        labels: ``(N,)`` class index of each annotation.
        sizes: ``(M, 2)`` width and height of each image.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file.
    """

    def __init__(
        self,
        file: Path,
        outline: str,
        fault: Callable[[Any, int, int], str],
        classes: Sequence[str] | None,
        crowds: bool,
        faults: Collector,
    ) -> None:
        content = _load(file, outline)
        self.images: list[dict[str, Any]] = content["images"]
        categories = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
        self.names = check_names(categories.values() if classes is None else classes, "classes", file)
        self.sizes = np.array([(r["width"], r["height"]) for r in self.images], np.int64).reshape(-1, 2)
        sizes: list[list[int]] = self.sizes.tolist()
        row_of = {record["id"]: row for row, record in enumerate(self.images)}
        index_of = {number: self.names.index(name) for number, name in categories.items() if name in self.names}
        ids_of = {name: number for number, name in categories.items()}
        self.category_ids = tuple(ids_of[name] for name in self.names) if ids_of.keys() >= set(self.names) else ()

        def check(a: dict[str, Any]) -> dict[str, Any]:
            if a["image_id"] not in row_of:
                raise ValueError(
                    f"{file}: annotation {a['id']} is of image_id {a['image_id']}, which is not among the images. "
                    "Remove it, or add the image."
                )
            if a["category_id"] not in index_of:
                found = categories.get(a["category_id"], "which is not among the categories")
                raise ValueError(
                    f"{file}: annotation {a['id']} has category_id {a['category_id']} ({found}), but the classes are "
                    f"{list(self.names)}. Remove it, or name its class."
                )
            if what := fault(a[outline], *sizes[row_of[a["image_id"]]]):
                raise ValueError(f"{file}: the {outline} of annotation {a['id']} {what}")
            return a

        annotations = [a for a in content["annotations"] if crowds or not a.get("iscrowd")]
        self.annotations = faults.good(check, annotations)
        self.owners = np.array([row_of[a["image_id"]] for a in self.annotations], np.int64)
        self.labels = np.array([index_of[a["category_id"]] for a in self.annotations], np.int64)

    def paths(self, folder: Path | str) -> list[Path]:
        """The image files, whose names are relative to a folder."""
        return [Path(folder) / record["file_name"] for record in self.images]


def _load(file: Path, outline: str) -> dict[str, list[dict[str, Any]]]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file. Correct the path in the configuration.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not a JSON file ({error}). Export it again.") from error
    needed = {
        "categories": ("id", "name"),
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("id", "image_id", "category_id", outline),
    }
    for key, fields in needed.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{file}: COCO files have a list of {key}, but this one has none. Export it as COCO.")
        ids = set()
        faults = []
        for place, record in enumerate(content[key]):
            lacking = [field for field in fields if field not in record]
            if lacking:
                what = f"{key}[{place}] (id {record.get('id')}) has no {lacking}"
                faults.append(ValueError(f"{file}: {what}. Export it as COCO."))
            ids.add(record.get("id"))
        raise_all(faults)
        if len(ids) < len(content[key]):
            raise ValueError(f"{file}: {key} share ids, so that it is not clear what belongs where. Export it again.")
    return dict(content)
