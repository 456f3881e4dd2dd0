"""What is given to be predicted: files, folders and tables, and what each input is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from umedpt_lightning.data.formats.images import image_suffixes
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.table import Table, read_rows
from umedpt_lightning.data.volume.dicom import is_dicom
from umedpt_lightning.data.volume.volumes import is_nifti

Kind = Literal["image", "nifti", "dicom", "slide"]
#: Suffixes of files that are written for an input.
_WRITTEN = (".png", ".nii", ".nii.gz", ".tif", ".csv", ".geojson")
_TABLES = (".csv", ".parquet")
_SLIDES = (".svs", ".scn", ".bif", ".ndpi", ".mrxs", ".vms")


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes:
        id: What tables call it; no two have the same.
        path: File, or folder of a DICOM series.
        kind: What it is.
        group: Patient, centre or whatever else a table says of it; empty without one.
    """

    id: str
    path: Path
    kind: Kind
    group: str = ""


def find_sources(inputs: Sequence[Path | str], group: str | None = None) -> list[Source]:
    """All inputs, each once.

    Args:
        inputs: Images, volumes, slides, folders that are searched, or tables with a column ``path``.
        group: Column of a table whose text becomes `Source.group`.

    Raises:
        FileNotFoundError: Something is missing.
        ValueError: There is nothing that can be predicted, a table cannot be used, or two inputs have one name.
    """
    sources = [source for given in inputs for source in _of(Path(given), group)]
    if not sources:
        raise ValueError(f"--inputs {' '.join(map(str, inputs))}: no image, volume or slide was found there.")
    twice = [name for name, count in Counter(source.id for source in sources).items() if count > 1]
    if twice:
        paths = [str(source.path) for source in sources if source.id == twice[0]]
        raise ValueError(
            f"--inputs: {len(twice)} names are there twice, such as {twice[0]!r} ({paths[0]} and {paths[1]}). Give a "
            "folder above both, or predict them into two folders."
        )
    written = {source.id + suffix for source in sources for suffix in _WRITTEN}
    for source in sources:
        if source.id in written:
            raise ValueError(
                f"--inputs: files for {source.id} would replace those for another input whose name lacks the suffix. "
                "Rename one of them."
            )
    return sources


def _of(path: Path, group: str | None) -> Iterator[Source]:
    if not path.exists():
        raise FileNotFoundError(f"--inputs: there is no {path}.")
    if path.suffix.lower() in _TABLES:
        rows = read_rows(Table(path, group=group), None, [])
        groups = rows.groups()
        for i, file in enumerate(rows.paths()):
            if not file.exists():
                raise FileNotFoundError(f"{path}: {file} is missing. Correct the column of paths.")
            name = file.relative_to(path.parent) if file.is_relative_to(path.parent) else Path(file.name)
            yield Source(name.as_posix(), file, _kind(file), "" if groups is None else str(groups[i]))
    elif path.is_dir() and not _is_series(path):
        for found in _search(path):
            yield Source(found.relative_to(path).as_posix(), found, _kind(found))
    else:
        yield Source(path.name, path, _kind(path))


def _search(folder: Path) -> Iterator[Path]:
    suffixes = image_suffixes()
    for path in sorted(folder.iterdir(), key=lambda p: natural_key(p.name)):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from [path] if _is_series(path) else _search(path)
        elif is_nifti(path) or path.suffix.lower() in _SLIDES or path.suffix.lower() in suffixes or is_dicom(path):
            yield path


def _is_series(folder: Path) -> bool:
    """Whether all files of a folder are DICOM, and there are several."""
    files = [path for path in folder.iterdir() if not path.name.startswith(".") and path.name.upper() != "DICOMDIR"]
    return len(files) > 1 and all(path.is_file() and is_dicom(path) for path in files)


def _kind(path: Path) -> Kind:
    if is_nifti(path):
        return "nifti"
    if path.is_dir():
        return "dicom"
    return "slide" if path.suffix.lower() in _SLIDES or _is_pyramid(path) else "image"


def _is_pyramid(path: Path) -> bool:
    """Whether a TIFF has several pages, each smaller than the one before."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        with Image.open(path) as image:
            sizes = []
            for page in range(min(3, getattr(image, "n_frames", 1))):
                image.seek(page)
                sizes.append(image.width * image.height)
    except Exception:  # of a broken file more is told when it is read
        return False
    return len(sizes) > 1 and sizes[1] < sizes[0]
