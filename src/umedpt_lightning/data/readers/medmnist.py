"""The .npz files of MedMNIST, and what the `medmnist` package knows of them: class names, addresses, checksums."""

from __future__ import annotations

import ast
import re
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets.utils import download_url

from umedpt_lightning.data.formats import npz
from umedpt_lightning.data.formats.faults import raise_all
from umedpt_lightning.data.formats.files import Images, check_channels, full_range
from umedpt_lightning.data.formats.images import to_channels
from umedpt_lightning.data.formats.labels import check_names
from umedpt_lightning.data.readers.base import TargetReader
from umedpt_lightning.io.atomic import atomic_write
from umedpt_lightning.labels.wording import shorten
from umedpt_lightning.types import ClassSpec, MultilabelSpec, Sample

Split = Literal["train", "val", "test"]
_NAME = re.compile(r"(?P<set>[a-z]+mnist)(?P<size>_\d+)?")


class MedMNIST(TargetReader["_Images"]):
    """One class an image, from a 2-D MedMNIST file (binary, multi-class or ordinal; ordinal levels are classes here).

    Images are mapped into memory, which all processes share. A compressed file is unpacked once into the folder
    `cache_folder`, only the images of this split.

    Args:
        file: Holds ``{split}_images`` ``(N, H, W)`` or ``(N, H, W, 3)``, of any size, and ``{split}_labels``
            ``(N, 1)``.
        split: The part to read.
        classes: Class names. None for those that the package `medmnist` knows for a file of this name, such as
            ``pathmnist_224.npz``; where it is not installed or knows none, numbers up to the highest label of
            all splits.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the file has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.
        download: Fetch the file if it is not there; its name says which, and the extra ``medmnist`` from where.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: It is to be fetched, and the extra is missing.
        OSError: It could not be fetched.
        ValueError: The file lacks a part, is not 2-D, or holds a label that is no class.
    """

    def __init__(
        self,
        file: Path | str,
        split: Split,
        classes: list[str | int] | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
        download: bool = False,
    ) -> None:
        self._images = _Images(file, split, channels, value_range, download)
        labels = _read_labels(self._images)  # (N, L)
        if labels.shape[1] != 1:
            raise ValueError(f"{file}: {labels.shape[1]} labels an image. Read this file with MedMNISTMultilabel.")
        if classes is None:  # the labels of other splits too, so that all parts agree
            path = self._images.file
            count = 1 + max(int(npz.load(path, key).max()) for key in npz.keys(path) if key.endswith("_labels"))
            classes = [*(label_names(path, count) or range(count))]
        names = check_names(classes, "classes", file)
        _check_range(labels, len(names), self._images, "Name all classes in `classes`.")
        self.targets = labels[:, 0].astype(np.int64)  # (N,)
        self.spec = ClassSpec(**self._images.facts, classes=names).with_statistics(self.targets)


class MedMNISTMultilabel(TargetReader["_Images"]):
    """Any number of labels an image, from a 2-D MedMNIST file (multi-label, binary-class).

    Args:
        file: As for `MedMNIST`, but with ``{split}_labels`` ``(N, L)`` of 0 and 1.
        split: The part to read.
        labels: Label names, one a column; None as for the classes of `MedMNIST`.
        channels: As for `MedMNIST`.
        value_range: As for `MedMNIST`.
        download: As for `MedMNIST`.

    Raises what `MedMNIST` does, and ValueError for labels that are not 0 and 1.
    """

    def __init__(
        self,
        file: Path | str,
        split: Split,
        labels: list[str] | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
        download: bool = False,
    ) -> None:
        self._images = _Images(file, split, channels, value_range, download)
        values = _read_labels(self._images)  # (N, L)
        count = values.shape[1]
        labels = labels or label_names(self._images.file, count) or [str(i) for i in range(count)]
        names = check_names(labels, "labels", file)
        if len(names) != count:
            raise ValueError(f"{file}: {count} labels an image, but `labels` names {len(names)}. Name all.")
        _check_range(values, 2, self._images, "Read a file of classes with MedMNIST.")
        self.targets = values.astype(np.float32)
        self.spec = MultilabelSpec(**self._images.facts, labels=names).with_statistics(self.targets)


class _Images(Images):
    """The images of one split, mapped in each process that reads them; a file that is to be fetched is fetched."""

    def __init__(
        self, file: Path | str, split: Split, channels: int | None, value_range: tuple[float, float] | None, fetch: bool
    ) -> None:
        self.file, self.split = Path(file), split
        if fetch and not self.file.is_file():
            fetch_file(self.file)
        self._key = f"{split}_images"
        shape, dtype = npz.header(self.file, self._key)
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            raise ValueError(f"{file}: 2-D images are (N, H, W) or (N, H, W, 3), but {self._key} is {shape}.")
        if not shape[0]:
            raise ValueError(f"{file}: {self._key} is empty. Leave this part out.")
        found = 3 if len(shape) == 4 else 1
        self.channels = found if channels is None else channels
        check_channels(self.channels, found, str(file))
        self.value_range = full_range(dtype, value_range, str(file))
        self._length = shape[0]
        self._array: NDArray[Any] | None = None

    def __len__(self) -> int:
        return self._length

    def name(self, index: int) -> str:
        return f"{self.file}[{self.split} {index}]"

    def sample(self, index: int) -> Sample:
        if self._array is None:
            self._array = npz.mapped(self.file, self._key)
        image = np.array(self._array[index]).reshape(*self._array.shape[1:3], -1)  # (H, W, C), no longer mapped
        return Sample(to_channels(image, self.channels, self.name(index)), None, self.name(index))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_array": None}


def _read_labels(images: _Images) -> NDArray[Any]:
    """``(N, L)`` integers."""
    file, key = images.file, f"{images.split}_labels"
    npz.header(file, key)  # says which arrays there are where this one is not
    labels = npz.load(file, key)
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.ndim != 2 or len(labels) != len(images) or labels.dtype.kind not in "iub":
        raise ValueError(
            f"{file}: {key} must be integers of shape ({len(images)}, L), one row an image, but it is {labels.dtype} "
            f"{labels.shape}. Correct the file."
        )
    return labels.astype(np.int64)


def _check_range(labels: NDArray[Any], stop: int, images: _Images, mend: str) -> None:
    rows = np.flatnonzero(((labels < 0) | (labels >= stop)).any(axis=1))
    raise_all(
        [
            ValueError(f"{images.name(i)}: label {labels[i].tolist()} lies outside 0 to {stop - 1}. {mend}")
            for i in rows.tolist()
        ]
    )


def label_names(file: Path, labels: int) -> list[str] | None:
    """Names of the classes or labels of a file such as ``pathmnist_224.npz``.

    None where the package is not installed, or does not know the set, or knows another number of `labels`.
    """
    match = _NAME.fullmatch(file.stem)
    known = _sets().get(match["set"]) if match else None
    return list(known["label"].values()) if known and len(known["label"]) == labels else None


def fetch_file(file: Path) -> None:
    """Fetches a file that is not there, such as ``pathmnist_224.npz``.

    Raises ImportError without the package, ValueError where it knows no such set or size, OSError where that fails.
    """
    sets = _sets()
    if not sets:
        raise ImportError(
            f"{file}: its address comes from medmnist, which is not installed. Install it with: "
            'pip install "umedpt-lightning[medmnist]"'
        )
    match = _NAME.fullmatch(file.stem)
    known, size = (sets.get(match["set"], {}), match["size"] or "") if match else ({}, "")
    if file.suffix != ".npz" or f"url{size}" not in known:
        names = [name for name in sets if not name.endswith("3d")]
        raise ValueError(
            f"{file}: MedMNIST has no file of that name, but {shorten(names, 20)}, each as NAME.npz (28 pixels), "
            "NAME_64.npz, NAME_128.npz and NAME_224.npz. Correct the name."
        )
    url, md5 = known[f"url{size}"], known[f"MD5{size}"]
    try:
        with atomic_write(file) as unfinished:
            download_url(url, unfinished.parent, unfinished.name, md5)
    except (OSError, HTTPException, RuntimeError) as error:  # the last is that of the checksum
        raise OSError(
            f"{file}: it could not be fetched from {url} ({error}). Try again with a network, or fetch it elsewhere "
            f"(MD5 {md5}), put it there, and leave `download` out."
        ) from error


def _sets() -> dict[str, Any]:
    """The table of the package; empty where it is not installed.

    It is read, not imported: the import makes a folder in the user's home, and takes seconds for pandas.
    """
    package = find_spec("medmnist")
    if package is None or package.origin is None:
        return {}
    source = ast.parse(Path(package.origin).with_name("info.py").read_text(encoding="utf-8"))
    for node in source.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["INFO"]:
            table: dict[str, Any] = ast.literal_eval(node.value)
            return table
    return {}
