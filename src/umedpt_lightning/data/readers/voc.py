"""Boxes in the XML layout of Pascal VOC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.box_table import BoxTable, clip_boxes
from umedpt_lightning.data.formats.faults import Collector, FaultsError, for_all, raise_all
from umedpt_lightning.data.formats.files import FileTable, ImageFiles, list_images, one_by_name, stem_of
from umedpt_lightning.data.formats.labels import check_names, class_indices, natural_key
from umedpt_lightning.data.formats.missing import check_folder, no_such_file
from umedpt_lightning.data.formats.text_files import read_text
from umedpt_lightning.data.readers.base import ImageReader
from umedpt_lightning.labels.wording import shorten
from umedpt_lightning.types import BoxSpec, SampleTarget

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocBoxes(ImageReader[ImageFiles]):
    """Any number of boxes an image, from one XML file an image: that of ``images/a.jpg`` is ``annotations/a.xml``.

    Args:
        images: Folder of images.
        annotations: Folder of XML files.
        names: Text file that lists the part: a name without suffix a line, what follows it there is left out. None for
            all XML files.
        classes: Class names in the order of the indices; None for all of the folder in natural order, so that all parts
            agree, for which all of its XML files are read.
        difficult: Keep the objects that are marked as difficult. Without them they count as background.
        from_one: Corners are the first and the last pixel of an object, counted from 1, as Pascal VOC says: a box is
            ``xmin - 1`` to ``xmax`` then. False takes the numbers as they are, for tools that count from 0.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.

    Raises:
        FileNotFoundError: A folder, the list, XML files or images are missing.
        ValueError: An XML file cannot be used (the message names the object), or an image has none.
    """

    def __init__(
        self,
        images: Path | str,
        annotations: Path | str,
        names: Path | str | None = None,
        classes: list[str | int] | None = None,
        difficult: bool = True,
        from_one: bool = True,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        folder = Path(annotations)
        check_folder(folder)
        everywhere = sorted(folder.glob("*.xml"), key=lambda path: natural_key(path.name))
        image_of = one_by_name((stem_of(path), path) for path in list_images(Path(images)))
        if names is None:
            files = everywhere
            alone = sorted(image_of.keys() - {path.stem for path in files}, key=natural_key)
            if alone:
                mend = "or list in `names` what is to be read."
                raise FaultsError(
                    f"{folder}: {len(alone)} images have no XML file, the first: {shorten(alone, 5)}. Remove them, "
                    f"{mend}",
                    [ValueError(f"{image_of[n]}: it has no XML file in {folder}. Remove it, {mend}") for n in alone],
                )
        else:
            files = [folder / f"{name}.xml" for name in _listed(Path(names))]
        paths = [image_of.get(file.stem, Path(images) / f"{file.stem}.*") for file in files]
        needed = list(dict.fromkeys([*files, *(everywhere if classes is None else ())]))
        faults = Collector()
        with faults:
            self._images = ImageFiles(paths, channels, value_range, folder if names is None else names)
        with faults:
            parsed = dict(zip(needed, for_all(_parse, needed), strict=True))
        faults.raise_found()
        found = sorted({o.kind for parts in parsed.values() for o in parts.objects}, key=natural_key)
        known = check_names(found if classes is None else classes, "classes", folder)

        objects = [o for file in files for o in parsed[file].objects if difficult or not o.difficult]
        where = [f"{o.file} object {o.place}" for o in objects]
        row_of = {file: i for i, file in enumerate(files)}
        corners = np.array([o.corners for o in objects], np.float64).reshape(-1, 4)
        if from_one:
            corners[:, :2] -= 1
        owners = np.array([row_of[o.file] for o in objects], np.int64)
        sizes = np.array([parsed[file].size for file in files], np.int64)

        def tell(i: int) -> tuple[str, str]:
            o = objects[i]
            box = f"the box {', '.join(_CORNERS)} = {list(o.corners)} of object {o.place} ({o.kind})"
            return f"{o.file}: {box}", paths[row_of[o.file]].name

        with faults:
            labels = class_indices([o.kind for o in objects], known, where, folder)
        with faults:
            boxes = clip_boxes(corners, owners, sizes, tell)
        faults.raise_found()
        self._folders, self._annotations = (Path(images), folder), FileTable(files, "XML files", folder)
        self._boxes = BoxTable(boxes, labels, owners, sizes)
        self.spec = BoxSpec(**self._images.facts, classes=known)

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        return self._boxes.read(index, image, name)


@dataclass(frozen=True, slots=True)
class _Object:
    file: Path
    place: int  # from 1
    kind: str
    corners: tuple[float, ...]
    difficult: bool


@dataclass(frozen=True, slots=True)
class _Annotation:
    size: tuple[float, ...]  # width and height
    objects: list[_Object]


def _listed(file: Path) -> list[str]:
    lines = [line.split() for line in read_text(file).splitlines()]
    names = [words[0] for words in lines if words]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"{file}: {shorten(twice, 5)} are listed more than once. Keep one line of each.")
    return names


def _parse(file: Path) -> _Annotation:
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError as error:
        raise no_such_file(file, "Correct the list of names, or the folder.") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two of an unknown encoding
        raise ValueError(f"{file}: not an XML file ({error}). Export it again.") from error
    size = _numbers(root.find("size"), ("width", "height"))
    if len(size) < 2 or min(size) < 1:
        raise ValueError(f"{file}: it does not say the size of its image (size/width, height). Export it again.")
    objects, faults = [], []
    for place, element in enumerate(root.findall("object"), 1):
        kind, corners = (element.findtext("name") or "").strip(), _numbers(element.find("bndbox"), _CORNERS)
        if not kind or len(corners) < len(_CORNERS):
            needs = f"needs a name and a bndbox with the numbers {', '.join(_CORNERS)}"
            faults.append(ValueError(f"{file}: object {place} ({kind or 'no name'}) {needs}. Correct or remove it."))
        objects.append(_Object(file, place, kind, corners, (element.findtext("difficult") or "0").strip() == "1"))
    raise_all(faults)
    return _Annotation(size, objects)


def _numbers(element: ElementTree.Element | None, keys: tuple[str, ...]) -> tuple[float, ...]:
    """The numbers of these keys; those that are none are left out."""
    texts = [] if element is None else [element.findtext(key) or "" for key in keys]
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        return ()
