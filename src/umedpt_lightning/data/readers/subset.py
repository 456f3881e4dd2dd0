"""Some samples of another reader: a range of them, or those of some centres."""

from __future__ import annotations

import copy
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.labels.wording import shorten
from umedpt_lightning.types import Sample


class Selection(Reader):
    """Some samples of another reader, with statistics of their own; subclasses say which.

    Args:
        reader: The whole.
        rows: ``(N,)`` indices into it.
    """

    @abstractmethod
    def __init__(self, reader: Reader, rows: NDArray[np.int64]) -> None:
        self._reader, self._rows = reader, rows
        if reader.targets is None:
            self.spec = reader.spec
        else:
            self.targets = reader.targets[rows]
            self.spec = reader.spec.with_statistics(self.targets)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index` of this part."""
        return self._reader[int(self._rows[self._at(index)])]

    def draw(self, index: int, seed: int) -> Sample:
        """As that of the whole."""
        return self._reader.draw(int(self._rows[self._at(index)]), seed)

    def ahead(self, indices: Sequence[int]) -> None:
        """Of the whole."""
        self._reader.ahead(self._rows[[self._at(index) for index in indices]].tolist())

    @property
    def draws(self) -> bool:
        """As the whole."""
        return self._reader.draws

    def cached(self, keep: Callable[[Reader], Reader]) -> Reader:
        """Of a reader that draws, such as that of bags, the images of the whole."""
        if not self.draws:
            return keep(self)
        part = copy.copy(self)
        part._reader = self._reader.cached(keep)
        return part

    @property
    def without_images(self) -> frozenset[str]:
        """As those of the whole."""
        return self._reader.without_images

    def name(self, index: int) -> str:
        """As that of the whole."""
        return self._reader.name(int(self._rows[self._at(index)]))

    def found(self) -> Iterable[Path]:
        """As that of the whole."""
        return self._reader.found()

    def mask_files(self) -> Sequence[str]:
        """As those of the whole."""
        return self._reader.mask_files()

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """As those of the whole."""
        groups = self._reader.groups
        return None if groups is None else groups[self._rows]

    @property
    def places(self) -> NDArray[np.float32] | None:
        """As those of the whole."""
        places = self._reader.places
        return None if places is None else places[self._rows]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """As those of the whole."""
        return self._reader.sizes[self._rows]


class Subset(Selection):
    """A contiguous range of another reader's samples.

    Where neighbours belong together (slices of a patient, fields of a slide), ranges split them without leakage as
    random choices cannot. Put the borders between the groups.

    Args:
        reader: The whole.
        start: First sample: an index, or a float from 0 to 1 as a fraction of the samples; None the first.
        stop: One past the last sample, likewise; None the end. A part that stops at 0.8 and one that starts there meet.

    Raises:
        ValueError: A border lies outside, or the range is empty.
    """

    def __init__(self, reader: Reader, start: int | float | None = None, stop: int | float | None = None) -> None:
        total = len(reader)
        first = 0 if start is None else _border("start", start, total)
        end = total if stop is None else _border("stop", stop, total)
        if first >= end:
            raise ValueError(
                f"The range from start={start} to stop={stop} holds none of the {total} samples. "
                "Put stop behind start; floats are fractions, integers indices."
            )
        super().__init__(reader, np.arange(first, end))


def _border(name: str, value: int | float, total: int) -> int:
    if isinstance(value, float) and value > 1 and value.is_integer():
        value = int(value)  # parsers of configs may take an integer for a float, where a union allows both
    most = 1.0 if isinstance(value, float) else total
    if not 0 <= value <= most:
        raise ValueError(
            f"{name} is {value!r}, but it must be an index from 0 to {total} (the number of samples) "
            "or a fraction, written as a float from 0.0 to 1.0."
        )
    return round(value * total) if isinstance(value, float) else value


class Centres(Selection):
    r"""The samples of some centres, or those of all but some.

    To leave a centre out: ``without: [B]`` around the train, val and test parts, and ``only: [B]`` around the reader
    that is measured on.

    Args:
        reader: The whole.
        only: Names of the centres whose samples are taken.
        without: Names of the centres whose samples are left out; give one of both.
        centre: A regular expression with one group in parentheses that finds the centre in the group of each sample, or
            in its name where the reader knows no groups, as in ``^([A-Z]+)-``. None where the groups are the centres.

    Raises:
        ValueError: Not one of both is given, no sample is of a centre that is named, or none is left.
    """

    def __init__(
        self,
        reader: Reader,
        only: list[str | int] | None = None,
        without: list[str | int] | None = None,
        centre: str | None = None,
    ) -> None:
        named = [str(name) for name in only or without or ()]
        if not named or (only and without):
            raise ValueError("Centres takes `only` or `without`, a list of names. Give one of both.")
        centres = centres_of(reader, centre)
        known = sorted(set(centres.tolist()))
        unknown = [name for name in named if name not in known]
        if unknown:
            raise ValueError(f"No sample is of the centre {unknown[0]!r}, but of {shorten(known)}. Correct the name.")
        chosen = np.isin(centres, named)
        rows = np.flatnonzero(chosen if only else ~chosen)
        if not len(rows):
            raise ValueError(f"Without {shorten(named)} there is no sample left. Name fewer centres.")
        super().__init__(reader, rows)


def centres_of(reader: Reader, centre: str | None) -> NDArray[np.str_]:
    """``(N,)`` the centre of each sample.

    Args:
        reader: Of the samples.
        centre: How it is found, as for `Centres`.

    Raises:
        ValueError: Nothing tells the centres.
    """
    groups = reader.groups
    if groups is None and centre is None:
        raise ValueError(
            "The reader knows no groups of its samples, so nothing tells their centres. Give its table a column of "
            r"groups, or `centre`, a regular expression such as `^([A-Z]+)-`, to find them in the names."
        )
    texts = [reader.name(i) for i in range(len(reader))] if groups is None else groups.tolist()
    return np.array(texts) if centre is None else matches(centre, texts, "centre")


def matches(pattern: str, names: list[str], option: str) -> NDArray[np.str_]:
    """What an expression finds in each name; `option` is what messages call it."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{option} is {pattern!r}, no regular expression ({error}). Correct it.") from error
    if expression.groups != 1:
        raise ValueError(
            f"{option} is {pattern!r}, but it needs one pair of parentheses around what files of a group have in "
            r"common, such as `patient(\d+)_`."
        )
    found = [expression.search(name) for name in names]
    without = [name for name, match in zip(names, found, strict=True) if match is None or match[1] is None]
    if without:
        raise ValueError(
            f"{option} {pattern!r} is not found in {len(without)} names: {shorten(without, 5)}. Correct it."
        )
    return np.array([match[1] for match in found if match is not None])
