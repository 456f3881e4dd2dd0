"""Arrays in .npz files, mapped into memory: all processes share the pages, and only what is read is loaded."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.cache.unpacked import fingerprint, unpacked
from umedpt_lightning.data.formats.missing import no_such_file


def keys(file: Path) -> list[str]:
    """Names of the arrays; raises FileNotFoundError without a file, ValueError where it is no .npz file."""
    with _opened(file, "anything") as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def header(file: Path, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array, without reading the rest; raises as `keys`, and where there is no such array."""
    if key not in (found := keys(file)):
        raise ValueError(f"{file}: there is no array {key}, but {found}. Choose another split.")
    with _opened(file, key) as archive, archive.open(f"{key}.npy") as stream:
        shape, _, dtype = _header(stream)
    return shape, dtype


def load(file: Path, key: str) -> NDArray[Any]:
    """An array of which nothing is mapped: for small ones; raises ValueError where it cannot be read."""
    with _opened(file, key), np.load(file, allow_pickle=False) as arrays:
        try:
            array: NDArray[Any] = arrays[key]
        except ValueError as error:  # of objects, which would be unpickled
            raise ValueError(f"{file}: {key} cannot be read ({error}). Download the file again.") from error
        return array


def mapped(file: Path, key: str) -> NDArray[Any]:
    """An array, read only: mapped from the file itself where it is not compressed, else unpacked once into the cache.

    Raises ValueError where it cannot be read, or not be unpacked.
    """
    with _opened(file, key) as archive:
        member = archive.getinfo(f"{key}.npy")
        with archive.open(member) as stream:
            shape, fortran, dtype = _header(stream)
            offset, path = stream.tell(), file
        if member.compress_type == zipfile.ZIP_STORED:
            with file.open("rb") as stream:  # the local header, of 30 bytes, a name and an extra field, lies before it
                stream.seek(member.header_offset + 26)
                lengths = np.frombuffer(stream.read(4), "<u2")
            offset += member.header_offset + 30 + int(lengths.sum())
        else:

            def write(copy: IO[bytes]) -> None:
                with archive.open(member) as stream:
                    shutil.copyfileobj(stream, copy, 1 << 20)

            path = unpacked(f"{fingerprint([file])}-{key}.npy", write, file)
        return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    is_first = np.lib.format.read_magic(stream) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(stream)
    return found


@contextmanager
def _opened(file: Path, what: str) -> Iterator[zipfile.ZipFile]:
    if not file.is_file():
        raise no_such_file(file, "Correct the path in the configuration.")
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{file}: not an .npz file of which {what} can be read ({error}). Download it again."
        ) from error
