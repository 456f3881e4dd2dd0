"""Files found by patterns with wildcards, and files that a row of a table names in part."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from umedpt_lightning.data.formats.faults import raise_all
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.missing import composed

#: What wildcards stand for; ``**/`` for any folders.
_WILDCARDS = {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}
_PART = re.compile(r"(\*\*/|\*|\?|\[[^\]]+\]|\{[^{}]+\})")
_COLUMN = re.compile(r"\{([^{}]+)\}")


def is_pattern(path: Path | str) -> bool:
    """Whether a path has wildcards: ``*``, ``?`` or ``[0-9]``, and is no folder of that name."""
    return glob.has_magic(os.fspath(path)) and not os.path.exists(path)


def by_wildcards(pattern: Path | str) -> dict[str, Path]:
    """The files that a pattern finds, by what its wildcards stand for, in natural order.

    ``imagesTr/*_0000.nii.gz`` and ``labelsTr/*.nii.gz`` name a pair alike, and so do ``*/flair.nii`` and ``*/seg.nii``.

    Raises:
        FileNotFoundError: There is none.
    """
    text = os.fspath(pattern)
    expression = _expression(text, "")
    found = {
        composed("/".join(match.groups())): Path(path)
        for path in glob.glob(text, recursive=True)
        if os.path.isfile(path) and (match := expression.fullmatch(path))
    }
    if not found:
        raise FileNotFoundError(f"{text}: no file is found by this pattern. Correct it.")
    return {name: found[name] for name in sorted(found, key=natural_key)}


def columns_of(path: str) -> list[str]:
    """The columns that a path such as ``images/{patient}.png`` is filled from; empty where it is a column itself."""
    return list(dict.fromkeys(_COLUMN.findall(path)))


def fill(path: str, cells: Mapping[str, Sequence[str]], rows: Sequence[str], root: Path, source: object) -> list[str]:
    """The paths of rows, from a path with columns in braces and perhaps wildcards, which must find one file a row.

    Args:
        path: Such as ``images/*/{id}.dcm``.
        cells: Of each column.
        rows: What a message calls each row.
        root: Where relative paths start.
        source: What a message calls the table.

    Raises:
        ValueError: A cell is empty, or wildcards find no file or several.
    """
    columns = columns_of(path)
    values = list(zip(*(cells[column] for column in columns), strict=True))
    filled = [_filled(path, dict(zip(columns, value, strict=True))) for value in values]
    empty = f"one of {', '.join(columns)} is empty. Name the file, or remove the row."
    raise_all([ValueError(f"{row}: {empty}") for row, value in zip(rows, values, strict=True) if not all(value)])
    if not glob.has_magic(path):
        return filled
    before = "" if os.path.isabs(path) else os.path.join(root, "")
    expression = _expression(path, before)
    found: dict[tuple[str, ...], list[str]] = {}
    for file in glob.glob(glob.escape(before) + _COLUMN.sub("*", path), recursive=True):
        if match := expression.fullmatch(file):
            found.setdefault(tuple(match[f"c{i}"] for i in range(len(columns))), []).append(file)
    for value in values:
        if value not in found:  # its columns may be split in another way than they are found by
            escaped = {column: glob.escape(cell) for column, cell in zip(columns, value, strict=True)}
            found[value] = glob.glob(glob.escape(before) + _filled(path, escaped), recursive=True)
    mend = f"but {source} names one. Correct the path or them."
    raise_all(
        [
            ValueError(f"{row}: {len(found[value])} files are {before}{one}, {mend}")
            for row, one, value in zip(rows, filled, values, strict=True)
            if len(found[value]) != 1
        ]
    )
    return [found[value][0].removeprefix(before) for value in values]


def _filled(path: str, cells: Mapping[str, str]) -> str:
    return _COLUMN.sub(lambda match: cells[match[1]], path)


def _expression(path: str, before: str) -> re.Pattern[str]:
    """What finds a path by its wildcards, each a group, or by its columns, the groups c0, c1 and so on."""
    columns, seen, parts = columns_of(path), set[str](), []
    for part in _PART.split(path):
        if match := _COLUMN.fullmatch(part):
            name = f"c{columns.index(match[1])}"
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]*)")
            seen.add(name)
        elif part in _WILDCARDS or part.startswith("["):
            parts.append(f"({_WILDCARDS.get(part) or part.replace('[!', '[^')})")
        else:
            parts.append(re.escape(part))
    return re.compile(re.escape(before) + "".join(parts))
