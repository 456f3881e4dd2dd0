"""Files, folders, tables and COCO files that a user gives, as one list of images, volumes and slides."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from umedpt_lightning.data.formats.faults import FaultsError, MissingFilesError
from umedpt_lightning.data.formats.files import folders
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.table_file import read_columns
from umedpt_lightning.data.formats.text_files import read_json
from umedpt_lightning.inference.input_files import (
    FileKind,
    InputFile,
    Preference,
    id_fault,
    kind_of,
    named_inputs,
    tame,
)


@dataclass(frozen=True)
class TableColumns:
    """What the columns of tables of inputs are called.

    Attributes:
        path: Column of the files, or folders of a DICOM series.
        id: Column of ids; None takes the paths.
        group: Column of groups; None if there is none.
        root: The folder that relative paths of tables and COCO files start from; None that of the table or file.
    """

    path: str = "path"
    id: str | None = None
    group: str | None = None
    root: str | None = None


def find_inputs(
    inputs: Iterable[Path | str],
    columns: TableColumns | None = None,
    preference: Preference | None = None,
    coco_id: str | None = None,
) -> list[InputFile]:
    """All that a user gave, in the order given; folders are walked in natural order.

    Of a folder all is taken that can be read, also from folders in it; hidden files and what is nothing of that kind
    (notes, tables) are left out. The DICOM slices of one folder are one volume, unless tasks take them for images.

    Args:
        inputs: Files, folders, tables (``.csv``, ``.parquet``) and COCO files (``.json``) that name files.
        columns: Of the tables.
        preference: What the tasks take a file for that could be several things; None for volumes and slides.
        coco_id: Column of tables with the images' ids in the user's own COCO file; None if there is none.

    Raises:
        FileNotFoundError: Files are missing; the message names all.
        ImportError: Something is DICOM or Parquet, and its library is missing.
        ValueError: There is nothing, a file is nothing that can be read, or ids are not unique or lead elsewhere; the
            message names all.
    """
    faults: list[Exception] = []
    found: dict[str, InputFile] = {}
    given = [Path(name) for name in inputs]
    for path in given:
        try:
            files = _of_input(path, columns or TableColumns(), preference or Preference(), coco_id, faults)
        except (ValueError, OSError) as error:
            faults.append(error)
            continue
        for file in files:
            other = found.setdefault(file.id, file)
            if fault := id_fault(file.id):
                faults.append(ValueError(f"{file.file!r}: its id {file.id!r} {fault}. Rename it."))
            elif os.path.abspath(other.file) != os.path.abspath(file.file):
                faults.append(
                    ValueError(
                        f"{file.file}: its id would be {file.id!r}, which is that of {other.file}. Give the folder "
                        "that both are in, or a table with a column of ids."
                    )
                )
    if len(faults) == 1:
        raise faults[0]
    if faults:  # all in one, since a user mends them together
        missing = all(isinstance(fault, FileNotFoundError) for fault in faults)
        lines = [f"{len(faults)} inputs cannot be used:", *map(str, faults)]
        raise (MissingFilesError if missing else FaultsError)("\n".join(lines), faults)
    if not found:
        names = ", ".join(map(str, given)) or "no input"
        raise ValueError(
            f"There is nothing to read: {names}. Give images, NIfTI files, DICOM series, slides, folders of them, or a "
            "table (.csv, .parquet) with a column of paths."
        )
    return list(found.values())


def _of_input(
    path: Path, columns: TableColumns, preference: Preference, coco_id: str | None, faults: list[Exception]
) -> list[InputFile]:
    if path.is_dir():
        return _of_folder(path, preference, faults)
    match path.suffix.lower():
        case ".csv" | ".parquet" | ".pq":
            return _of_table(path, columns, preference, coco_id, faults)
        case ".json":
            return _of_coco(path, columns.root, preference, faults)
    return named_inputs(tame(path.name), None, path, preference)


def _of_folder(folder: Path, preference: Preference, faults: list[Exception]) -> list[InputFile]:
    found: list[tuple[str, FileKind, Path]] = []
    for inner, names in folders(folder):
        below = inner.relative_to(folder)
        slices = []
        for file in (inner / name for name in sorted(names, key=natural_key)):
            try:
                kind = kind_of(file, preference)
            except ValueError as error:
                faults.append(error)
                continue
            if kind == "dicom":
                slices.append(file)
            elif kind is not None:
                found.append(((below / file.name).as_posix(), kind, file))
        if len(slices) > 1 and preference.volumes:
            name = below.as_posix() if below.parts else tame(folder.resolve().name)
            found.append((name, "dicom", inner))
        else:
            found += [((below / file.name).as_posix(), "dicom", file) for file in slices]
    if not found and not faults:
        faults.append(ValueError(f"{folder}: there is nothing in this folder that can be read. Correct the path."))
    return [InputFile(id, id, kind, str(path)) for id, kind, path in found]


def _of_table(
    table: Path, columns: TableColumns, preference: Preference, coco_id: str | None, faults: list[Exception]
) -> list[InputFile]:
    optional = (columns.id, columns.group, coco_id)
    cells, rows = read_columns(table, list(dict.fromkeys([columns.path, *filter(None, optional)])))
    root = table.parent if columns.root is None else Path(columns.root)
    found: dict[str, InputFile] = {}
    for i, row in enumerate(rows):
        path = cells[columns.path][i]
        id, group, number = (name and cells[name][i] for name in optional)
        try:
            if not path:
                raise ValueError(f"{columns.path} is empty. Name the file, or remove the row.")
            name = tame(path) if id is None else id
            if fault := id_fault(name):
                raise ValueError(f"the id {name!r} {fault}. Write names or paths like 'a/b.png'.")
            coco = int(number) if number and number.lstrip("-").isdecimal() else number or None
            for file in named_inputs(name, group or None, root / path, preference, coco):
                if file.id in found:
                    raise ValueError(f"the id {file.id!r} comes twice. Give each row one of its own.")
                found[file.id] = file
        except FileNotFoundError as error:
            faults.append(FileNotFoundError(f"{row}: {error}"))
        except ValueError as error:
            faults.append(ValueError(f"{row}: {error}"))
    if not rows:
        faults.append(ValueError(f"{table}: the table has no rows. Add some, or correct the path."))
    return list(found.values())


def _of_coco(file: Path, root: str | None, preference: Preference, faults: list[Exception]) -> list[InputFile]:
    """The images that a COCO file names, with their ids."""
    content = read_json(file)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise ValueError(f"{file}: a COCO file has a list of images, but this one has none. Give the images' folder.")
    found = []
    for place, image in enumerate(images):
        name, number = (image.get(key) if isinstance(image, dict) else None for key in ("file_name", "id"))
        try:
            if not isinstance(name, str) or not isinstance(number, int | str):
                raise ValueError("it has no file_name or no id. Export it as COCO.")
            path = (file.parent if root is None else Path(root)) / name
            found += named_inputs(tame(name), None, path, preference, number)
        except (ValueError, FileNotFoundError) as error:
            faults.append(type(error)(f"{file}: images[{place}]: {error}"))
    return found
