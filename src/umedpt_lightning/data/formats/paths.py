"""Paths of files in arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from umedpt_lightning.data.formats.texts import Texts


class Paths(Sequence[Path]):
    """Paths that are such only while one looks at them.

    Attributes:
        texts: What they are as texts.
    """

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    @classmethod
    def of(cls, paths: Iterable[Path | str]) -> Paths:
        """These paths."""
        return paths if isinstance(paths, Paths) else cls(Texts.of(os.fspath(path) for path in paths))

    @classmethod
    def below(cls, root: Path, names: Texts) -> Paths:
        """Names, relative to a folder or absolute, as paths."""
        if any(map(_is_unusual, names)):
            return cls.of(root / name for name in names)
        before = os.path.join(root, "")
        return cls(names.with_prefix("" if before == os.path.join(".", "") else before))

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        """A path, or the paths of a slice."""
        return [Path(text) for text in self.texts[index]] if isinstance(index, slice) else Path(self.texts[index])

    def __iter__(self) -> Iterator[Path]:
        return map(Path, self.texts)


def _is_unusual(name: str) -> bool:
    """Whether a path is absolute, or is written otherwise once it is one, as ``a//b`` and ``./a`` are."""
    return name[:1] in ("/", ".") or "//" in name or "/." in name or name[-1:] == "/" or os.sep != "/"
