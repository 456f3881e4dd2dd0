"""The samples of some hospitals, scanners or laboratories, or of all others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.readers.split import matches
from umedpt_lightning.data.readers.subset import Selection
from umedpt_lightning.labels.wording import shorten


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
