"""Files that are whole at every moment: the one way in which the package writes a file that others may read."""

from __future__ import annotations

import csv
import json
import math
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UNFINISHED = ".part."
#: Seconds after which a file that nobody has written to belongs to a process that is gone.
_ABANDONED = 3600.0


@contextmanager
def atomic_write(file: Path, durable: bool = False) -> Iterator[Path]:
    """Replaces a file at once when all of the new one is written; yields the path to write to, where nothing is yet.

    The block writes to a path beside the file, with its suffix, by which libraries choose the format. When it ends,
    that path takes the file's place, which no reader can see half done; when it raises, the old file stays and nothing
    is left beside it. Every call has a path of its own, so several threads and processes may write one file at once:
    the last one wins. The file has the usual rights, also where a library gives it others.

    Args:
        file: The file; its folder is made.
        durable: Also wait until file and folder are on the disk, so that the new file outlives a power cut. That costs
            some milliseconds on a local disk, and more on one in a network.

    Raises:
        OSError: The folder cannot be written to, or is full.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{secrets.token_hex(4)}{_UNFINISHED}{file.name}")
    try:
        unfinished.touch()
        rights = unfinished.stat().st_mode
        unfinished.unlink()
        yield unfinished
        if unfinished.stat().st_mode != rights:  # safetensors lets the owner alone read what it writes
            unfinished.chmod(rights)
        if durable:
            synchronise(unfinished)
        unfinished.replace(file)
        if durable:
            synchronise(file.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(file: Path, text: str, durable: bool = False) -> None:
    """Replaces a file by UTF-8 text with the line ends as they are, see `atomic_write`."""
    with atomic_write(file, durable) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def write_csv(file: Path, header: Iterable[Any], rows: Iterable[Iterable[Any]], durable: bool = False) -> None:
    """Replaces a file by a table, whose rows are taken one after the other, see `atomic_write`."""
    with atomic_write(file, durable) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def write_json(file: Path, content: Any) -> None:
    """Replaces a file by JSON, see `atomic_write`; JSON has neither NaN nor infinity, so that they become null."""
    write_text(file, json.dumps(null_for_nan(content), indent=1, allow_nan=False) + "\n")


def null_for_nan(value: Any) -> Any:
    """The same value with None for every number in it that is not finite."""
    match value:
        case dict():
            return {key: null_for_nan(item) for key, item in value.items()}
        case list() | tuple():
            return [null_for_nan(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value


def synchronise(path: Path) -> None:
    """Waits until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Removes what processes that were killed in the midst of `atomic_write` have left in a folder and below it.

    What was written to in the last hour stays: another process may be about to finish it.
    """
    for unfinished in folder.rglob(f".????????{_UNFINISHED}*"):
        try:
            if time.time() - unfinished.lstat().st_mtime > _ABANDONED:
                unfinished.unlink()
        except FileNotFoundError:  # somebody else has finished or removed it
            continue
