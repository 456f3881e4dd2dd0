"""What samples, and what is computed of them, depend on, in one short text."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import stat
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import umedpt_lightning
from umedpt_lightning import data, labels
from umedpt_lightning.data.cache.unpacked import fingerprint
from umedpt_lightning.data.formats.texts import Texts
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.volume.volume_files import companions


def identity(reader: Reader) -> str:
    """A text that is equal for equal samples, and another one when anything changes that they come from.

    It is made of all that the reader holds (its class and options, its tables of files and labels), of the size and the
    time of change of every file that is named anywhere in it, and of those of the code that reads: this package's
    `data` and `labels`, the modules that the classes of the reader and its options are defined in, and the versions of
    the libraries that decode. So it is equal on all ranks, and from one run to the next, without a reader saying
    anything about itself. What it cannot see are the insides of a folder whose files the reader does not name, and
    files that are changed without their size and time of change.

    Raises ValueError where the reader cannot be pickled.
    """
    look = _looked_at(reader)
    code = (file for package in (data, labels) for file in Path(str(package.__file__)).parent.rglob("*.py"))
    files = sorted({*(path.absolute() for path in code), *map(Path, look.files)})
    look.digest.update(fingerprint(files).encode())
    look.digest.update(_versions(_DECODERS).encode())
    return look.digest.hexdigest()[:32]


def named_files(reader: Reader) -> set[str]:
    """The absolute path of every file that a reader names anywhere; raises ValueError where it cannot be pickled."""
    return _looked_at(reader).files


def _looked_at(reader: Reader) -> _Look:
    look = _Look()
    try:
        look.dump(reader)
    except Exception as error:  # pickling calls the reader's own code
        raise ValueError(
            f"{type(reader).__name__}: samples cannot be cached, since the reader cannot be pickled "
            f"({type(error).__name__}: {error}). Write `cache: none`, or make it picklable as workers need it too."
        ) from error
    return look


def code_identity(parts: Iterable[str], libraries: Iterable[str], classes: Iterable[type] = ()) -> str:
    """A text that changes when code does that a result is computed by.

    Args:
        parts: Files and folders of this package, such as ``model.py`` and ``blocks``.
        libraries: Distributions whose versions count.
        classes: More code: that of the modules in which these are defined, such as a user's own blocks.
    """
    root = Path(umedpt_lightning.__file__).parent
    files = {
        file for part in parts for file in ([root / part] if part.endswith(".py") else (root / part).rglob("*.py"))
    }
    modules = {sys.modules.get(kind.__module__) for kind in classes}
    own = {Path(file) for module in modules if (file := getattr(module, "__file__", None))}
    digest = hashlib.sha256(_versions(libraries).encode())
    for file in (*sorted(files), *sorted(own - files)):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())  # wherever it is installed, and whenever
    return digest.hexdigest()[:32]


def _versions(libraries: Iterable[str]) -> str:
    found = []
    for name in sorted(libraries):
        with contextlib.suppress(PackageNotFoundError):  # of an extra
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


#: The distributions that decode files and resize images.
_DECODERS = (
    "imagecodecs",
    "nibabel",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pycocotools",
    "pydicom",
    "python-gdcm",
    "shapely",
    "SimpleITK",
    "tifffile",
    "tiffslide",
)


class _Look(pickle.Pickler):
    """Pickles an object, which visits everything in it, and notes the files on the way."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.files: set[str] = set()  # absolute; a `Path` takes longer to make than such a file to find
        super().__init__(self, protocol=5)
        # without references to what was pickled before: whether two equal texts are one object differs from process to
        # process
        self.fast = True

    def write(self, data: Any) -> None:
        """Called with the pickle, piece by piece."""
        self.digest.update(data)

    def persistent_id(self, value: Any) -> Any:
        """Called with everything that is pickled; what it returns, if anything, is pickled in its place."""
        match value:
            case Path() | str():
                self._note(value)
            case np.ndarray() if value.dtype.kind in "SU":
                for name in value.ravel().tolist():
                    self._note(os.fsdecode(name))
            case Texts():
                for name in value:
                    self._note(name)
            case set() | frozenset():  # their order differs from process to process
                for item in value:
                    self.persistent_id(item)
                return "set", sorted(map(repr, value))
            case type():
                file = getattr(sys.modules.get(value.__module__), "__file__", None)
                if file:
                    self._note(Path(file))
        return None

    def _note(self, name: Path | str) -> None:
        try:
            mode = os.stat(name).st_mode
        except (OSError, ValueError):  # not a file's name
            return
        # a word may happen to be that of a folder where one works
        if stat.S_ISREG(mode) or os.path.isabs(name) or isinstance(name, Path):
            self.files.update(map(os.path.abspath, (name, *companions(os.fspath(name)))))
