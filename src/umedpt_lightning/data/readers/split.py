"""Train, val and test parts of another reader, by fractions or by a file."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import FaultsError, raise_all
from umedpt_lightning.data.formats.missing import composed
from umedpt_lightning.data.formats.strata import Strata, assign, strata_of
from umedpt_lightning.data.formats.table import Table, read_rows, warn_of_alike
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.readers.subset import Selection, matches
from umedpt_lightning.labels.wording import shorten

Part = Literal["train", "val", "test"]
_PARTS = ("train", "val", "test")


class Split(Selection):
    r"""A part by fraction: groups are kept together, and classes, labels or numbers are spread evenly.

    The three parts of one reader, with equal fractions and seed, share nothing and are the whole. They do not depend on
    the order of its samples, but on their names: keep the files as they are, or write the split to a table. Masks and
    boxes are split by their groups alone.

    Args:
        reader: The whole.
        part: Which part.
        fractions: Of train, val and test; 0 for a part that is not wanted.
        seed: Another one gives another split.
        group: A regular expression with one group in parentheses, found in the name of each sample: files whose text
            there is equal belong together, as in ``patient(\d+)_``. None for the groups that the reader knows, else
            every file is of its own.

    Raises:
        ValueError: The fractions or the expression cannot be used, or a part has no group, or none of some class.
    """

    def __init__(
        self,
        reader: Reader,
        part: Part,
        fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
        seed: int = 0,
        group: str | None = None,
    ) -> None:
        wanted = [i for i, fraction in enumerate(fractions) if fraction > 0]
        if not np.isclose(sum(fractions), 1) or min(fractions) < 0 or _PARTS.index(part) not in wanted:
            raise ValueError(
                f"fractions are {list(fractions)}, but they must be those of train, val and test, none below 0, 1 "
                f"together, and that of {part} above 0. Correct them, or leave this part out."
            )
        known = reader.groups if group is None else None
        names = [] if known is not None else [reader.name(i) for i in range(len(reader))]
        self._own = None if group is None else matches(group, names, "group")
        groups = known if known is not None else np.array(names) if self._own is None else self._own
        shares = tuple(fractions[i] for i in wanted)
        strata = strata_of(reader.spec, reader.targets, len(reader), min(shares))
        part_of = np.array(wanted)[assign(groups, strata, shares, np.random.default_rng(seed))]
        _check(part_of, groups, strata, [_PARTS[i] for i in wanted])
        super().__init__(reader, np.flatnonzero(part_of == _PARTS.index(part)))

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """What was kept together."""
        return super().groups if self._own is None else self._own[self._rows]


class FileSplit(Selection):
    """A part by a table of names and parts, for folders and files that say nothing of parts themselves.

    Args:
        reader: The whole.
        part: Which part: the rows with this text in the column `split_column`.
        file: The table, CSV or Parquet. Every sample needs a row. The rows of other samples do nothing.
        name: Column of names: the end of the sample's path, as much as makes it clear, with or without its suffix
            (``a.png``, ``a``, ``patient1/a.png``). Slices may go by their volume; samples in arrays go by their name in
            messages (``blood.npz[train 3]``).
        split_column: Column of parts.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: It is Parquet, and pyarrow is missing.
        ValueError: The table cannot be used, or a sample has no row or several that differ.
    """

    def __init__(
        self, reader: Reader, part: str | int, file: Path | str, name: str = "name", split_column: str = "split"
    ) -> None:
        rows = read_rows(Table(file, path=name), None, [split_column])
        cells = zip(map(composed, rows.columns[name]), rows.columns[split_column], rows.names, strict=True)
        parts_of: dict[str, str] = {}
        raise_all(
            [
                ValueError(f"{row}: {cell} is in the parts {parts_of[cell]!r} and {found!r}. Keep it in one.")
                for cell, found, row in cells
                if parts_of.setdefault(cell, found) != found
            ]
        )
        parts = [{parts_of[end] for end in _ends(reader.name(i)) if end in parts_of} for i in range(len(reader))]
        unclear = [reader.name(i) for i, found in enumerate(parts) if len(found) != 1]
        if unclear:
            mend = "Write one row for each, with as much of its path as makes it clear."
            raise FaultsError(
                f"{file}: {len(unclear)} of {len(reader)} samples have no row, or rows of several parts: "
                f"{shorten(unclear, 5)}. {mend}",
                [ValueError(f"{path}: {file} has no row of it, or rows of several parts. {mend}") for path in unclear],
            )
        part = str(part)
        chosen = np.array([i for i, found in enumerate(parts) if part in found], np.int64)
        if not len(chosen):
            raise ValueError(
                f"{file}: no sample is of the part {part!r}, only of {shorten(sorted(set().union(*parts)))}. Correct "
                "`part`, or leave it out."
            )
        warn_of_alike(part, Counter(rows.columns[split_column]), file)
        super().__init__(reader, chosen)


def _check(part_of: NDArray[np.int64], groups: NDArray[np.str_], strata: Strata, parts: list[str]) -> None:
    """Raises ValueError where a part has no sample, or none of some class or label."""
    for stratum, what in enumerate(strata.names):
        chosen = strata.members[:, stratum]
        filled = {_PARTS[i] for i in np.unique(part_of[chosen])}
        lacking = [part for part in parts if part not in filled]
        if lacking:
            count = len(np.unique(groups[chosen]))
            mend = (
                "Write a fraction of 0 for a part that can be spared, or add to what is rare, or leave it out."
                if count < len(parts)
                else "Try another seed or larger fractions, or split by a table."
            )
            raise ValueError(
                f"The split leaves {' and '.join(lacking)} without {what}: {int(chosen.sum())} in {count} groups "
                f"that must not be parted, for {len(parts)} parts. {mend}"
            )


def _ends(name: str) -> list[str]:
    """What a table may call a sample: the ends of its path, with and without the place in the file and the suffix."""
    whole = composed(Path(name).as_posix())
    file = re.sub(r"\[[^\[/]*\]$", "", whole)  # of a slice or an array: the volume or the file
    stem = re.sub(r"(?<=[^/])(\.nii)?\.\w+$", "", file)
    return [text[start:] for text in (whole, file, stem) for start in (0, *(m.end() for m in re.finditer("/", text)))]
