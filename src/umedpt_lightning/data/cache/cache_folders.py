"""Folders that several processes share, and that go when nobody uses them any more.

Who uses a folder holds a shared lock on a file in it, which the system takes back when the process ends, however it
ends. So whoever gets the lock for himself alone may remove the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
import weakref
from pathlib import Path
from typing import Literal

from umedpt_lightning.data.cache.unpacked import cache_folder

Place = Literal["ram", "disk"]
#: Where files lie in memory.
_MEMORY = Path("/dev/shm")
#: Seconds without use after which a folder is removed from disk.
_IDLE = 30 * 24 * 3600.0


class SharedFolder:
    """A folder of one name for all processes of this machine that ask for it; raises ValueError if it cannot be made.

    In memory it is removed with the last process that uses it; one that a crash of all of them left behind is removed
    when the next run makes a cache in memory. On disk it stays until it has not been used for 30 days.

    Attributes:
        path: Where it lies.
    """

    def __init__(self, place: Place, name: str) -> None:
        self._place: Place = place
        self._name = name
        self._hold()

    def _hold(self) -> None:
        root = _root(self._place)
        idle = 0.0 if self._place == "ram" else _IDLE
        sweep(root, idle)
        self.path = root / self._name
        try:
            lock = _locked(self.path)
        except OSError as error:
            raise ValueError(
                f"{self.path}: the cache cannot be made here ({error}). Write `cache: none`, or name another folder in "
                "the environment variable UMEDPT_CACHE with `cache: disk`."
            ) from error
        # when it is dropped, or at the end of the process, also if an exception ends it
        weakref.finalize(self, _release, lock, os.getpid(), root, idle)

    def __getstate__(self) -> tuple[Place, str]:
        return self._place, self._name

    def __setstate__(self, state: tuple[Place, str]) -> None:
        self._place, self._name = state
        self._hold()


def is_first(path: Path) -> bool:
    """Whether no process has made this file before."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:  # not even that fits
        return True
    return True


def sweep(root: Path, idle: float) -> None:
    """Removes the folders in `root` that nobody uses, nor has for `idle` seconds."""
    import fcntl

    for folder in root.iterdir() if root.is_dir() else ():
        with contextlib.suppress(OSError):  # somebody else sweeps, or uses it
            if folder.name.startswith("."):  # left by a sweep that was cut short
                shutil.rmtree(folder, ignore_errors=True)
                continue
            descriptor = os.open(folder / "lock", os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(descriptor).st_mtime >= idle:
                    gone = Path(tempfile.mkdtemp(prefix=".", dir=root))
                    folder.replace(gone)  # at once, so that nobody finds half of it
                    shutil.rmtree(gone, ignore_errors=True)
            finally:
                os.close(descriptor)


def _root(place: Place) -> Path:
    """The folder of the folders, which only its owner can write to: in memory others could be there first."""
    if place == "disk":
        return cache_folder("samples")
    if not _MEMORY.is_dir():
        raise ValueError(f"cache: ram keeps samples in {_MEMORY}, which this system has not. Write `cache: disk`.")
    root = _MEMORY / f"umedpt-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ValueError(
            f"{root}: this must be a folder that only you can use, but it is not ({stat.filemode(found.st_mode)}, user "
            f"{found.st_uid}). Have it removed, or write `cache: disk`."
        )
    return root


def _locked(folder: Path) -> int:
    """Makes the folder, and returns the open file that holds its lock."""
    import fcntl

    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # it was swept in this moment
            continue
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(folder / "lock")):
                os.utime(descriptor)
                return descriptor
        os.close(descriptor)  # it was swept while this waited for the lock


def _release(lock: int, owner: int, root: Path, idle: float) -> None:
    if os.getpid() != owner:  # a forked worker, with its parent's lock
        return
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_UN)  # for forked workers too, which may not have ended yet
    os.close(lock)
    if not idle:
        sweep(root, idle)
