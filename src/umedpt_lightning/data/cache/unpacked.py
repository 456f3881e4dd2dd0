"""Decompressed copies of files that cannot be read in the middle, made once for all processes of a machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from umedpt_lightning.io.atomic import atomic_write


def cache_folder(name: str = "volumes") -> Path:
    """The folder of that name in ``$UMEDPT_CACHE``, or in ``umedpt`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    What lies there may be removed at any time when no run uses it.
    """
    if cache := os.environ.get("UMEDPT_CACHE"):
        return Path(cache).expanduser() / name
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "umedpt" / name


def fingerprint(paths: Iterable[Path]) -> str:
    """A name that changes when one of the files does: of their paths, sizes and times of change."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(os.fsencode(path.absolute()) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def unpacked(name: str, write: Callable[[IO[bytes]], None], source: object) -> Path:
    """The file of that name in the cache, made by `write` if it is absent; raises ValueError if it cannot be written.

    A file that exists is a whole one. Of several processes that need it at once, one unpacks it, and the others wait.
    The name is from `fingerprint`, and a message says that `source` is unpacked.
    """
    folder = cache_folder()
    path = folder / name
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f".{name}.lock"):
            if not path.is_file():
                with atomic_write(path) as unfinished, unfinished.open("wb") as stream:
                    write(stream)
    except PermissionError as error:
        raise ValueError(f"{source}: {_UNWRITABLE.format(folder, error)}") from error
    except OSError as error:
        if error.errno is None:  # of a decompressor, about the source
            raise
        raise ValueError(f"{source}: {_UNWRITABLE.format(folder, error)}") from error
    return path


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keeps other processes of this machine out; the system takes the lock back when this one ends, however it does."""
    import fcntl

    with file.open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: all unpack, and one of them wins
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)  # whoever waits for it has it open


_UNWRITABLE = (
    "it is unpacked once into {0}, which failed ({1}). Make room there, or name another folder in the environment "
    "variable UMEDPT_CACHE."
)
