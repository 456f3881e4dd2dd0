"""Tables with several rows an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import raise_all
from umedpt_lightning.data.formats.table import Rows
from umedpt_lightning.data.formats.texts import Coded


class PerImage:
    """The images of a table in the order of their first rows.

    Args:
        rows: Of the table.

    Attributes:
        paths: Their files.
        groups: The group of each; None where the table says none.

    Raises:
        ValueError: A row names no file or no group, or rows of an image name several groups.
    """

    def __init__(self, rows: Rows) -> None:
        paths, groups = rows.paths(), rows.groups()
        first = {path: i for i, path in reversed(list(enumerate(paths)))}
        self.paths = list(dict.fromkeys(paths))
        firsts = [first[path] for path in self.paths]
        self.groups = None if groups is None else Coded(groups.names, groups.codes[firsts])
        place = {path: i for i, path in enumerate(self.paths)}
        self.owners: NDArray[np.int64] = np.array([place[path] for path in paths], np.int64)
        if groups is not None and self.groups is not None:
            said, codes = groups.names, self.groups.codes[self.owners]
            mend = "A split could part what belongs together: give all rows of an image one group."
            raise_all(
                [
                    ValueError(
                        f"{rows.names[i]}: {paths[i]} is of {said[codes[i]]} and {said[groups.codes[i]]}. {mend}"
                    )
                    for i in np.flatnonzero(codes != groups.codes).tolist()
                ]
            )

    def rows_of(self, chosen: Sequence[int]) -> Callable[[int], NDArray[np.int64]]:
        """Which of some rows, by their place among these, an image has."""
        return _RowsOf(self.owners[np.array(chosen, np.int64)], len(self.paths))


class _RowsOf:
    """Rows by image, in arrays: lists would be copied into every forked worker."""

    def __init__(self, owners: NDArray[np.int64], images: int) -> None:
        self._order = np.argsort(owners, kind="stable")
        self._first = np.searchsorted(owners[self._order], np.arange(images + 1))

    def __call__(self, index: int) -> NDArray[np.int64]:
        return self._order[self._first[index] : self._first[index + 1]]
