"""Bytes that were read from afar, kept on the local disk up to a bound, for all processes of a machine."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

from umedpt_lightning.data.cache.cache_folders import SharedFolder

#: Share of the disk that is left free.
_MARGIN = 0.05
_WIDTH = 8  # bytes of a place


class ByteCache:
    """Numbered pieces of known lengths, in one file that never exceeds a bound.

    What comes first is kept, and nothing goes to make room: every pass reads all pieces once in another order, so that
    no piece is more likely to be asked for than another, and what a full cache holds is its share of every pass. That
    is the best that can be done without knowing the order, and better than the last used, of which a pass finds less.

    Args:
        name: Of the cache; all processes of this machine that give the same share it. It goes when nobody has used it
            for 30 days.
        pieces: How many there are.
        limit: Bytes on the disk.
    """

    def __init__(self, name: str, pieces: int, limit: int) -> None:
        self._folder = SharedFolder("disk", name)
        self._limit, self._pieces = limit, pieces
        # a piece's end in the file of bytes; 0 where it is not there
        self._files = [os.open(self.folder / file, os.O_RDWR | os.O_CREAT, 0o600) for file in ("bytes", "places")]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder.path

    def __getstate__(self) -> tuple[str, int, int]:
        return self.folder.name, self._pieces, self._limit

    def __setstate__(self, state: tuple[str, int, int]) -> None:
        ByteCache.__init__(self, *state)

    def __del__(self) -> None:
        for file in getattr(self, "_files", ()):
            os.close(file)

    def get(self, number: int, length: int) -> bytes | None:
        """A piece; None where it is not kept."""
        content, places = self._files
        end = int.from_bytes(os.pread(places, _WIDTH, number * _WIDTH), "little")
        return os.pread(content, length, end - length) if end else None

    def keep(self, number: int, piece: bytes) -> None:
        """Keeps a piece where the bound has room for it; raises OSError where the disk has none."""
        content, places = self._files
        with (self.folder / "reserve").open("w") as lock:  # opened here: what is forked would share the lock
            fcntl.flock(lock, fcntl.LOCK_EX)
            end = os.fstat(content).st_size + len(piece)
            if end + self._pieces * _WIDTH > self._limit or self.get(number, 0) is not None:
                return
            usage = shutil.disk_usage(self.folder)
            if usage.free - len(piece) < _MARGIN * usage.total:
                raise OSError(errno.ENOSPC, f"less than {_MARGIN:.0%} of the disk is free")
            os.truncate(content, end)
        os.pwrite(content, piece, end - len(piece))
        os.pwrite(places, end.to_bytes(_WIDTH, "little"), number * _WIDTH)  # now it is there
