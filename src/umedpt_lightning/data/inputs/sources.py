"""Files, folders and tables that a user gives, as one list of images, volumes and slides."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from umedpt_lightning.data.formats.faults import FaultsError, MissingFilesError
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.table_files import read_columns
from umedpt_lightning.data.inputs.kinds import Kind, kind_of

_TABLES = frozenset({".csv", ".parquet", ".pq"})


@dataclass(frozen=True, slots=True)
class Source:
    """An image, a volume or a slide.

    Attributes:
        id: What it is called in results: its path below the folder that was given, a file's name, or what a table says.
            No two sources share one, and it never leads out of a folder that it is joined to.
        group: What a table says, such as the patient; else the id.
        kind: What it is.
        file: Its file, or the folder of a DICOM series.
    """

    id: str
    group: str
    kind: Kind
    file: str  # many of them are kept, and a Path takes five times the memory

    @property
    def path(self) -> Path:
        """As `file`."""
        return Path(self.file)


@dataclass(frozen=True)
class Columns:
    """What the columns of tables of inputs are called.

    Attributes:
        path: Column of the files, or folders of a DICOM series; relative ones start from the table's folder.
        id: Column of ids; None takes the paths.
        group: Column of groups; None if there is none.
    """

    path: str = "path"
    id: str | None = None
    group: str | None = None


def find_sources(inputs: Iterable[Path | str], columns: Columns | None = None) -> list[Source]:
    """All that a user gave, in the order given; folders are walked in natural order.

    Of a folder all is taken that can be read, also from folders in it; hidden files and what is nothing of that kind
    (notes, tables) are left out. The DICOM slices of one folder are one source, DICOM images without a place in space
    are one each.

    Args:
        inputs: Files, folders, and tables (``.csv``, ``.parquet``) that name files.
        columns: Of the tables.

    Raises:
        FileNotFoundError: Files are missing; the message names all.
        ImportError: Something is DICOM or Parquet, and its library is missing.
        ValueError: There is nothing, a file is nothing that can be read, or ids are not unique or lead elsewhere; the
            message names all.
    """
    faults: list[Exception] = []
    found: dict[str, Source] = {}
    given = [Path(name) for name in inputs]
    for path in given:
        try:
            sources = _of_input(path, columns or Columns(), faults)
        except (ValueError, OSError) as error:
            faults.append(error)
            continue
        for source in sources:
            other = found.setdefault(source.id, source)
            if fault := _id_fault(source.id):
                faults.append(ValueError(f"{source.file!r}: its id {source.id!r} {fault}. Rename it."))
            elif os.path.abspath(other.file) != os.path.abspath(source.file):
                faults.append(
                    ValueError(
                        f"{source.file}: its id would be {source.id!r}, which is that of {other.file}. Give the folder "
                        "that both are in, or a table with a column of ids."
                    )
                )
    _raise_all(faults)
    if not found:
        names = ", ".join(map(str, given)) or "no input"
        raise ValueError(
            f"There is nothing to read: {names}. Give images, NIfTI files, DICOM series, slides, folders of them, or a "
            "table (.csv, .parquet) with a column of paths."
        )
    return list(found.values())


def output_path(folder: Path, id: str, suffix: str) -> Path:
    """Where the output of a source belongs: ``folder/id`` with the suffix appended; nothing is made.

    Args:
        folder: The output folder.
        id: That of a source.
        suffix: Such as ``.mask.png``.

    Raises:
        ValueError: It would lie outside of the folder, also by a link in it.
    """
    fault = _id_fault(id)
    path = folder / f"{id}{suffix}"
    if fault or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{id!r}: its output would not lie in {folder} ({fault or 'by a link'}). Give another id.")
    return path


def _of_input(path: Path, columns: Columns, faults: list[Exception]) -> list[Source]:
    if path.is_dir():
        return _of_folder(path, faults)
    if path.suffix.lower() in _TABLES:
        return _of_table(path, columns, faults)
    return [_source(_tame(path.name), None, _kind(path), path)]


def _of_folder(folder: Path, faults: list[Exception]) -> list[Source]:
    found = []
    for inner, files in _walk(folder):
        below = inner.relative_to(folder)
        slices = []
        for file in files:
            try:
                kind = kind_of(file)
            except ValueError as error:
                faults.append(error)
                continue
            if kind == "dicom":
                slices.append(file)
            elif kind is not None:
                found.append(_source((below / file.name).as_posix(), None, kind, file))
        if len(slices) == 1:
            found.append(_source((below / slices[0].name).as_posix(), None, "dicom", slices[0]))
        elif slices:
            name = below.as_posix() if below.parts else _tame(folder.resolve().name)
            found.append(_source(name, None, "dicom", inner))
    if not found and not faults:
        faults.append(ValueError(f"{folder}: there is nothing in this folder that can be read. Correct the path."))
    return found


def _walk(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder with its files, hidden ones left out, in natural order; links are followed, but never in circles."""
    seen: set[str] = set()
    for inner, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(inner)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = _in_order(folders)
        yield Path(inner), [Path(inner, name) for name in _in_order(files)]


def _in_order(names: Sequence[str]) -> list[str]:
    return sorted((name for name in names if not name.startswith(".")), key=natural_key)


def _of_table(table: Path, columns: Columns, faults: list[Exception]) -> list[Source]:
    wanted = [columns.path, *(name for name in (columns.id, columns.group) if name is not None)]
    cells, rows = read_columns(table, list(dict.fromkeys(wanted)))
    paths = cells[columns.path]
    ids = [_tame(cell) for cell in paths] if columns.id is None else cells[columns.id]
    groups = [None] * len(rows) if columns.group is None else [cell or None for cell in cells[columns.group]]
    found: dict[str, Source] = {}
    for row, cell, id, group in zip(rows, paths, ids, groups, strict=True):
        try:
            if not cell:
                raise ValueError(f"{columns.path} is empty. Name the file, or remove the row.")
            if fault := _id_fault(id):
                raise ValueError(f"the id {id!r} {fault}. Write names or paths like 'a/b.png'.")
            if id in found:
                raise ValueError(f"the id {id!r} comes twice. Give each row one of its own.")
            path = table.parent / cell
            found[id] = _source(id, group, _kind(path), path)
        except FileNotFoundError as error:
            faults.append(FileNotFoundError(f"{row}: {error}"))
        except ValueError as error:
            faults.append(ValueError(f"{row}: {error}"))
    if not rows:
        faults.append(ValueError(f"{table}: the table has no rows. Add some, or correct the path."))
    return list(found.values())


def _kind(path: Path) -> Kind:
    """The kind of what was named, and so must be there and be readable."""
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r}: a path has no character NUL. Correct it.")
    if path.is_dir():  # of a table: all else would be many sources in one row
        if any(kind_of(file) == "dicom" for file in path.iterdir() if file.is_file()):
            return "dicom"
        raise ValueError(f"{path}: a folder in a table is a DICOM series, but here is no slice of one. Name files.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Correct the path.")
    kind = kind_of(path)
    if kind is None:
        raise ValueError(
            f"{path}: this is no image, NIfTI file, DICOM image or slide by its name. Leave it out, or give it the "
            "suffix of what it is."
        )
    return kind


def _source(id: str, group: str | None, kind: Kind, path: Path) -> Source:
    return Source(id, id if group is None else group, kind, str(path))


def _tame(path: str) -> str:
    """A path as an id: without what leads to the root or upwards."""
    return "/".join(part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "//", "..", "."))


def _id_fault(id: str) -> str:
    """What is wrong with an id; empty where nothing is."""
    if not id.strip("/. "):
        return "is empty"
    if any(ord(character) < 32 for character in id):
        return "has control characters"
    if any("\ud800" <= character <= "\udfff" for character in id):  # Python's stand-ins for bytes that are no text
        return "is not UTF-8"
    drive = id[1:2] == ":"
    if drive or id.startswith(("/", "\\")) or ".." in id.replace("\\", "/").split("/"):
        return "leads out of a folder"
    return ""


def _raise_all(faults: Sequence[Exception]) -> None:
    """Raises all in one, since a user mends them together."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        missing = all(isinstance(fault, FileNotFoundError) for fault in faults)
        lines = [f"{len(faults)} inputs cannot be used:", *map(str, faults)]
        raise (MissingFilesError if missing else FaultsError)("\n".join(lines), faults)
