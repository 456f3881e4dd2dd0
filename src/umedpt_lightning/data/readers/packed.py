"""Samples that `umedpt data pack` has written into shards."""

from __future__ import annotations

import hashlib
import os
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.cache.cache_folders import is_first
from umedpt_lightning.data.cache.sample_file import unpack_content
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.shards.byte_cache import ByteCache
from umedpt_lightning.data.shards.index import INDEX, SAMPLES, read_index
from umedpt_lightning.data.shards.store import ShardStore
from umedpt_lightning.types import Sample


class Packed(Reader):
    """The samples of another reader, packed into shards, from a disk, a server or a bucket.

    They are the same samples with the same indices, so that a run reads the same stream of them. Of a shard that is not
    on a disk here, only the bytes of the sample are read, those of a micro-batch at the same time.

    Args:
        address: The folder of the part: a path, or any address that fsspec knows, such as ``https://…`` or ``s3://…``.
        cache_gib: GiB of the local disk, at most, for samples that were read from elsewhere, in the folder that
            ``$UMEDPT_CACHE`` names; 0 for none. What does not fit is read each time.
        options: Of the file system, such as ``{anon: true}`` for a public bucket.
        classes: Label kinds of one's own that samples have, as ``package.module.Class``.

    Raises:
        FileNotFoundError: There are no packed samples.
        ValueError: The address cannot be opened, or the index not be read.
        ServerLostError: The server does not answer.
    """

    def __init__(
        self,
        address: str,
        cache_gib: float = 10.0,
        options: dict[str, Any] | None = None,
        classes: Sequence[type] = (),
    ) -> None:
        if cache_gib < 0:
            raise ValueError(f"cache_gib is {cache_gib}, but it is a size. Write 0 for no cache.")
        self._store = ShardStore(address, options)
        index = self._store.file(INDEX)
        self._index = read_index(index, self._store.file(SAMPLES), self._store.address)
        self.spec, self.targets = self._index.spec, self._index.targets
        self._ahead: dict[int, bytes] = {}
        self._cache: ByteCache | None = None
        self._is_full = False
        if cache_gib and not self._store.is_local:
            name = hashlib.sha256(self._store.address.encode() + index).hexdigest()[:32]
            self._cache = ByteCache(name, len(self), int(cache_gib * 2**30))
            (self._cache.folder / "full").unlink(missing_ok=True)  # of an earlier run

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ahead": {}, "_is_full": False}  # what was read so far is no part of what it is

    def __len__(self) -> int:
        return len(self._index.names)

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`, as the reader gave it that was packed."""
        index = self._at(index)
        content = self._ahead.pop(index, None) or self._cached(index)
        if content is None:
            place = self._index.place(index)
            content = self._store.one(place)
            if not self._is_whole(index, content):
                raise ValueError(
                    f"{self._store.address}/{place.shard}: bytes {place.start:,} to {place.stop:,}, which hold "
                    f"{self.name(index)}, are not those that were packed. Copy the shard again, or pack the samples "
                    "again."
                )
            self._keep(index, content)
        sample = unpack_content(np.frombuffer(bytearray(zlib.decompress(content)), np.uint8))
        if sample is None:
            raise ValueError(f"{self._store.address}: {self.name(index)} cannot be read. Pack the samples again.")
        return sample

    def ahead(self, indices: Sequence[int]) -> None:
        """As `Reader.ahead`: what is elsewhere is read at the same time."""
        if self._store.is_local:
            return
        self._ahead = {}
        missing = [index for index in dict.fromkeys(map(self._at, indices)) if self._take(index) is None]
        if len(missing) < 2:
            return
        for index, content in zip(missing, self._store.some([*map(self._index.place, missing)]), strict=True):
            if content is not None and self._is_whole(index, content):
                self._ahead[index] = content
                self._keep(index, content)

    def name(self, index: int) -> str:
        """As that of the reader that was packed."""
        return os.fsdecode(self._index.names[self._at(index)])

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """As those of the reader that was packed."""
        groups = self._index.groups
        return None if groups is None else groups.array()

    @property
    def places(self) -> NDArray[np.float32] | None:
        """As those of the reader that was packed."""
        return self._index.places

    def _take(self, index: int) -> bytes | None:
        """The bytes of a sample that is in the cache, held for when it is asked for."""
        content = self._cached(index)
        if content is not None:
            self._ahead[index] = content
        return content

    def _cached(self, index: int) -> bytes | None:
        if self._cache is None:
            return None
        content = self._cache.get(index, int(self._index.length[index]))
        # a machine that went down may have left something else there
        return content if content and self._is_whole(index, content) else None

    def _is_whole(self, index: int, content: bytes) -> bool:
        return zlib.crc32(content) == int(self._index.checksum[index])

    def _keep(self, index: int, content: bytes) -> None:
        if self._cache is None or self._is_full:
            return
        try:
            self._cache.keep(index, content)
        except OSError as error:
            if is_first(self._cache.folder / "full"):
                warnings.warn(
                    f"{self._store.address}/{self._index.place(index).shard}: its samples are not kept in "
                    f"{self._cache.folder} ({error.strerror}). What is not there is read from its address each time. "
                    "Make room, lower cache_gib, or name a folder on another disk in the environment variable "
                    "UMEDPT_CACHE.",
                    stacklevel=2,
                )
            self._is_full = True  # for this process
