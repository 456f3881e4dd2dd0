"""The JSON layout of COCO, and its polygons and run lengths as masks."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from umedpt_lightning.data.formats.faults import Collector, raise_all
from umedpt_lightning.data.formats.labels import check_names
from umedpt_lightning.data.formats.text_files import read_json

_KINDS = "a list of polygons [x1, y1, x2, y2, x3, y3, ...] or {size: [height, width], counts: ...}"
# As for boxes: tools round, and a polygon may stick out this far (pixels). It is clipped.
_TOLERANCE = 1.0


class CocoFile:
    """A COCO JSON file; raises FileNotFoundError or ValueError where there is none that has the fields that are used.

    Args:
        file: The JSON file.
        outline: The field that says where an object is, ``bbox`` or ``segmentation``.
        fault: What is wrong with that field in an image of a width and height, and the mend; empty where nothing is.
        classes: Category names in the order of the indices; None for all in the order of their ids.
        crowds: Keep the crowd regions.
        faults: Gathers the annotations that cannot be used.

    Attributes:
        annotations: Those that can be used.
        owners: ``(N,)`` index of the image of each annotation.
        labels: ``(N,)`` class index of each annotation.
        sizes: ``(M, 2)`` width and height of each image.
    """

    def __init__(
        self,
        file: Path,
        outline: str,
        fault: Callable[[Any, int, int], str],
        classes: Sequence[str | int] | None,
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
                other = _other_type(a["image_id"], row_of)
                raise ValueError(
                    f"{file}: annotation {a['id']} is of image_id {a['image_id']!r}, which is not among the images"
                    f"{other}. Remove it, or add the image."
                )
            if a["category_id"] not in index_of:
                other = _other_type(a["category_id"], categories)
                found = categories.get(a["category_id"], f"which is not among the categories{other}")
                raise ValueError(
                    f"{file}: annotation {a['id']} has category_id {a['category_id']!r} ({found}), but the classes are "
                    f"{list(self.names)}. Remove it, or name its class."
                )
            if what := fault(a[outline], *sizes[row_of[a["image_id"]]]):
                raise ValueError(f"{file}: the {outline} of annotation {a['id']} {what}")
            return a

        annotations = [a for a in content["annotations"] if crowds or not is_crowd(a)]
        self.annotations = faults.good(check, annotations)
        self.owners = np.array([row_of[a["image_id"]] for a in self.annotations], np.int64)
        self.labels = np.array([index_of[a["category_id"]] for a in self.annotations], np.int64)

    def paths(self, folder: Path | str) -> list[Path]:
        """The image files, whose names are relative to a folder."""
        return [Path(folder) / record["file_name"] for record in self.images]


def _load(file: Path, outline: str) -> dict[str, list[dict[str, Any]]]:
    content = read_json(file)
    fields: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
        "categories": {"id": _ID, "name": _TEXT},
        "images": {"id": _ID, "file_name": _TEXT, "width": _SIZE, "height": _SIZE},
        "annotations": {"id": _ID, "image_id": _ID, "category_id": _ID, outline: (lambda value: True, "")},
    }
    for key, needed in fields.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{file}: COCO files have a list of {key}, but this one has none. Export it as COCO.")
        faults = [
            ValueError(f"{file}: {key}[{place}] (id {_id(record)}) {what}. Export it as COCO, or correct it.")
            for place, record in enumerate(content[key])
            for what in _faults(record, needed)
        ]
        raise_all(faults)
        ids = [record["id"] for record in content[key]]
        kinds = {isinstance(id, str): id for id in ids}
        if len(kinds) > 1:
            raise ValueError(
                f"{file}: {key} have ids that are numbers ({kinds[False]!r}) and texts ({kinds[True]!r}). Write all as "
                "numbers, also where other records name them."
            )
        if len(set(ids)) < len(ids):
            raise ValueError(f"{file}: {key} share ids, so that it is not clear what belongs where. Export it again.")
    raise_all(list(_repeated(content["images"], file)))
    return dict(content)


def _repeated(images: Iterable[dict[str, Any]], file: Path) -> Iterator[ValueError]:
    """Of files that several records name: the objects of one record would be background of the other."""
    first: dict[str, Any] = {}
    for record in images:
        other = first.setdefault(posixpath.normpath(record["file_name"]), record["id"])
        if other != record["id"]:
            yield ValueError(
                f"{file}: image {record['id']!r} is of the file {record['file_name']}, as image {other!r} is. Give the "
                "annotations of both one image_id, and remove the other image."
            )


def _other_type(id: Any, ids: Iterable[Any]) -> str:
    """That an id is there as a number in place of a text, or the other way round."""
    like = [known for known in ids if str(known) == str(id)]
    return f", but {like[0]!r} is: write both as numbers" if like else ""


def _faults(record: Any, needed: Mapping[str, tuple[Callable[[Any], bool], str]]) -> Iterator[str]:
    """What is wrong with a record."""
    if not isinstance(record, dict):
        yield f"is {record!r:.40}, but it should have {list(needed)}"
    elif lacking := [field for field in needed if field not in record]:
        yield f"has no {lacking}"
    else:
        for field, (is_good, what) in needed.items():
            if not is_good(record[field]):
                yield f"has the {field} {record[field]!r:.40}, but it should be {what}"


def _id(record: Any) -> Any:
    return record.get("id") if isinstance(record, dict) else None


def _is_whole(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


_ID = (lambda value: _is_whole(value) or isinstance(value, str), "a whole number or a text")
_TEXT = (lambda value: isinstance(value, str) and bool(value), "a text")
_SIZE = (lambda value: (_is_whole(value) and value > 0) or str(value).isdecimal(), "a whole number above 0")


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is a crowd region; some tools write numbers as texts, and "0" is none."""
    return str(annotation.get("iscrowd") or 0).lower() in ("1", "1.0", "true")


class Outlines:
    """The areas of objects without `outline_fault` as text in one array: lists would be copied into every worker."""

    def __init__(self, annotations: list[dict[str, Any]], file: Path) -> None:
        texts = [json.dumps(annotation["segmentation"]).encode() for annotation in annotations]
        self._texts = np.frombuffer(b"".join(texts), np.uint8)
        self._ends = np.cumsum([0, *map(len, texts)])
        self._ids = np.array([str(annotation["id"]) for annotation in annotations])
        self._file = file

    def paint(self, mask: NDArray[np.int16], chosen: NDArray[np.int64], values: NDArray[np.int16]) -> None:
        """Writes the values of objects into a mask ``(H, W)``, large ones first; raises ValueError for broken runs."""
        codes = [self._encoded(i, *mask.shape) for i in chosen.tolist()]
        areas = np.array([coco_mask.area(code) for code in codes])
        for k in np.argsort(-areas.astype(np.int64), kind="stable"):
            mask[coco_mask.decode(codes[k]).view(np.bool_)] = values[k]

    def _encoded(self, index: int, height: int, width: int) -> dict[str, Any]:
        """The compressed run lengths of an object."""
        outline = json.loads(self._texts[self._ends[index] : self._ends[index + 1]].tobytes())
        code: dict[str, Any]
        try:
            if isinstance(outline, list):  # the polygons are parts of one object
                code = coco_mask.merge(coco_mask.frPyObjects(outline, height, width))
            elif isinstance(outline["counts"], list):
                code = coco_mask.frPyObjects(outline, height, width)
            else:
                code = {"size": [height, width], "counts": outline["counts"].encode()}
                coco_mask.decode(code)
                # it raises for runs that are too long, and leaves pixels as they are in memory for those too short
                if (filled := _pixels(code["counts"])) != height * width:
                    raise ValueError(f"its runs fill {filled} of {height * width} pixels")
        except (ValueError, UnicodeEncodeError) as error:
            raise ValueError(
                f"{self._file}: the segmentation of annotation {self._ids[index]} cannot be read ({error}). Export it "
                "again."
            ) from error
        return code


def _pixels(counts: bytes) -> int:
    """How many pixels compressed run lengths fill.

    A number is written in characters of 5 bits, the lowest first, each with a sixth bit where more follow; from the
    third on it is the difference to the run before the last (``rleToString`` in COCO's maskApi.c).
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) and 1 << shift  # the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return sum(runs)


def outline_fault(outline: Any, width: int, height: int) -> str:
    """What is wrong with an outline, and the mend; empty where nothing is."""
    match outline:
        case {"size": [int(h), int(w)], "counts": counts}:
            if (h, w) != (height, width):
                return f"is {w}x{h} (WxH), but its image {width}x{height}. Export it again."
            if isinstance(counts, list) and not (
                all(isinstance(n, int) and n >= 0 for n in counts) and sum(counts) == h * w
            ):
                return f"has runs that do not fill its image of {width}x{height} (WxH). Export it again."
            return "" if isinstance(counts, str | list) else f"has no counts of runs. Write {_KINDS}."
        case [_, *_]:
            for polygon in outline:
                try:
                    numbers = np.array(polygon, np.float64)
                    corners = numbers.reshape(-1, 2) if numbers.ndim == 1 else np.empty((0, 2))
                except (TypeError, ValueError):
                    corners = np.empty((0, 2))
                if len(corners) < 3 or not np.isfinite(corners).all():
                    return f"has a polygon of fewer than three points (x, y): {str(polygon)[:60]}. Write {_KINDS}."
                if (corners < -_TOLERANCE).any() or (corners > np.array([width, height]) + _TOLERANCE).any():
                    low, high = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
                    reach = f"reaches from {low} to {high} (x, y), outside its image of {width}x{height} (WxH)"
                    return f"{reach}. Correct or remove it."
            return ""
    return f"is {str(outline)[:60]}, but it should be {_KINDS}. Objects with boxes only are read with CocoBoxes."
