"""Files that are whole at every moment, under names that cannot lead out of their folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 100
#: A name of a file or folder that is one on every system.
_PLAIN = re.compile(r"\w[\w .-]{0,150}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which takes its place when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays: libraries choose the format by it
    unfinished = path.with_name(f".part.{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def file_name(name: str, suffix: str) -> str:
    """Where a file for an input lies, below a folder; inputs in folders keep them.

    Args:
        name: The input's, such as ``a/b.png``; one that could lead elsewhere is changed.
        suffix: Of the file; not added to a name that has it.
    """
    file = name if name.lower().endswith(suffix) else name + suffix
    if all(_PLAIN.fullmatch(part) for part in file.split("/")):
        return file
    plain = re.sub(r"[^\w.-]+", "_", file).lstrip("._")[-_LONGEST:]
    return f"{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}_{plain}"
