"""Columns of text in arrays: millions of rows take little more than their letters, and forked workers share them."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

#: Texts that are turned into strings at a time.
_CHUNK = 1 << 14


class GrowingTexts:
    """Texts that become more; in two buffers that grow where they lie, so that no memory is left in pieces."""

    def __init__(self) -> None:
        self._content, self._lengths = bytearray(), array("q")

    def add(self, texts: Sequence[str]) -> None:
        """Adds these."""
        encoded = [text.encode(errors="surrogateescape") for text in texts]
        self._content += b"".join(encoded)
        self._lengths.extend(map(len, encoded))

    def texts(self) -> Texts:
        """All of them; nothing may be added after that."""
        return Texts(np.frombuffer(self._content, np.uint8), np.cumsum(np.frombuffer(self._lengths, np.int64)))


class Texts(Sequence[str]):
    """Texts that are strings only while one looks at them.

    A list of strings would take ten times the memory, and be copied into every forked worker, since reading a string
    changes its reference count.

    Args:
        content: ``(B,)`` uint8, all texts in UTF-8, one after the other.
        ends: ``(N,)`` int64, where each ends.
        prefix: What all of them begin with, besides.
    """

    def __init__(self, content: NDArray[np.uint8], ends: NDArray[np.int64], prefix: str = "") -> None:
        self._content, self._ends, self.prefix = content, ends, prefix

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """These texts; they need not be in memory at the same time."""
        grown, remaining = GrowingTexts(), iter(texts)
        while chunk := [*itertools.islice(remaining, _CHUNK)]:
            grown.add(chunk)
        return grown.texts()

    def __reduce__(self) -> tuple[Any, ...]:
        # in bytes: a cache that looks at what is pickled would take a prefix of paths for a file of its own
        return _again, (self._content, self._ends, self.prefix.encode(errors="surrogateescape"))

    def with_prefix(self, prefix: str) -> Texts:
        """The same texts behind `prefix`."""
        return Texts(self._content, self._ends, prefix + self.prefix)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(N,)`` bytes of each, the prefix left out."""
        return np.diff(self._ends, prepend=0)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """A text, or the texts of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"Text {index} was asked for, but there are {len(self)}.")
        index = index % len(self)
        start = int(self._ends[index - 1]) if index else 0
        return self.prefix + self._content[start : int(self._ends[index])].tobytes().decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for start, chunk in self._chunks():
            text, ends = chunk.decode(errors="surrogateescape"), self._ends[start : start + _CHUNK]
            places = [0, *(ends - (self._ends[start - 1] if start else 0)).tolist()]
            if len(text) == len(chunk):  # a letter a byte
                yield from [self.prefix + text[a:b] for a, b in itertools.pairwise(places)]
            else:
                pieces = (chunk[a:b].decode(errors="surrogateescape") for a, b in itertools.pairwise(places))
                yield from [self.prefix + piece for piece in pieces]

    def take(self, rows: NDArray[np.int64]) -> Texts:
        """Those of some rows ``(M,)``, in that order."""
        lengths = self.lengths[rows]
        ends = np.cumsum(lengths)
        content = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        for first in range(0, len(rows), _CHUNK):  # places of all bytes at once would take eight times their memory
            some, of_some = rows[first : first + _CHUNK], lengths[first : first + _CHUNK]
            stop = int(ends[first + len(some) - 1])
            start = stop - int(of_some.sum())
            shift = np.repeat(self._ends[some] - ends[first : first + len(some)], of_some)
            content[start:stop] = self._content[np.arange(start, stop) + shift]
        return Texts(content, ends, self.prefix)

    def coded(self) -> Coded:
        """Each different text once, and which of them each row has."""
        index: dict[str, int] = {}
        codes = np.fromiter((index.setdefault(text, len(index)) for text in self), np.int32, len(self))
        return Coded(np.array([*index] or [""]), codes)

    def hashes(self) -> NDArray[np.int64]:
        """``(N,)`` numbers that are equal for equal texts, and hardly ever for others; others in each process."""
        return np.fromiter(map(hash, self), np.int64, len(self))

    def _chunks(self) -> Iterator[tuple[int, bytes]]:
        begin = 0
        for start in range(0, len(self), _CHUNK):
            end = int(self._ends[min(start + _CHUNK, len(self)) - 1])
            yield start, self._content[begin:end].tobytes()
            begin = end


def _again(content: NDArray[np.uint8], ends: NDArray[np.int64], prefix: bytes) -> Texts:
    return Texts(content, ends, prefix.decode(errors="surrogateescape"))


class Coded:
    """Texts of which many are equal.

    Attributes:
        names: ``(U,)`` the different ones, in the order in which they come.
        codes: ``(N,)`` int32, which of them each is.
    """

    def __init__(self, names: NDArray[np.str_], codes: NDArray[np.int32]) -> None:
        self.names, self.codes = names, codes

    def __len__(self) -> int:
        return len(self.codes)

    def array(self) -> NDArray[np.str_]:
        """``(N,)`` the texts, made anew: as many long ones would fill memory."""
        return self.names[self.codes]
