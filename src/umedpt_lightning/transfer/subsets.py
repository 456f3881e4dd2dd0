"""A share of the labels: stratified, groups whole, each smaller share inside the larger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.strata import Strata, assign, strata_of
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.readers.subset import Selection

#: Numbers of groups; a sample is a group of its own where the reader knows none.
Units = NDArray[np.int64]


@dataclass(frozen=True)
class LabelSubset:
    """The samples whose labels may be used.

    Attributes:
        rows: ``(N,)`` int64, indices into the reader, ascending.
        notes: Sentences on what is not as one might expect of such a share.
    """

    rows: NDArray[np.int64]
    notes: tuple[str, ...]


class Labelled(Selection):
    """The samples of a reader, ``(N,)`` rows of it, whose labels may be used."""

    def __init__(self, reader: Reader, rows: NDArray[np.int64]) -> None:
        super().__init__(reader, rows)


def has_label(reader: Reader) -> NDArray[np.bool_]:
    """``(N,)`` which samples have a label, as far as the reader knows without opening them."""
    targets = reader.targets
    if targets is None:
        return np.ones(len(reader), np.bool_)
    known: NDArray[np.bool_] = ~np.isnan(targets.reshape(len(targets), -1)).all(axis=1)
    return known & reader.spec.labelled(targets)


class LabelSubsets:
    """Shares of a reader's samples, of any size, from one order of its groups.

    The groups are put into an order whose every beginning looks like the whole: they are halved, labels spread evenly,
    one half before the other, and each half again in the same way. A share is a beginning of this order, so that
    shares are nested and one does not depend on which others are asked for. Where a share holds none of a class, or of
    a label, the first group of the order that does is added, so that the shares stay nested.

    Classes and labels are spread evenly, numbers by their quantiles; masks and boxes come at random.

    Args:
        reader: The whole.
        seed: Another one gives another order.
    """

    def __init__(self, reader: Reader, seed: int) -> None:
        self._reader, self._seed = reader, seed
        self._grouped = reader.groups is not None
        groups = np.arange(len(reader)) if reader.groups is None else reader.groups
        self._units, self._unit_of = np.unique(groups, return_inverse=True)  # (U,), (N,)
        self._sizes = np.bincount(self._unit_of)  # (U,)
        self._strata = self._strata_of(np.arange(len(reader)))
        self._halves: dict[str, tuple[Units, Units]] = {}

    def __call__(self, fraction: float) -> LabelSubset:
        """The share of that size, as near as whole groups allow, of one group at least.

        Raises:
            ValueError: The fraction is not above 0 and at most 1.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"A label fraction is above 0 and at most 1, but it is {fraction}. Write 0.01 for 1 %.")
        chosen = np.zeros(len(self._units), bool)
        chosen[self._beginning(fraction * len(self._reader))] = True
        added = []
        for stratum, name in enumerate(self._strata.names):
            members = self._strata.members[:, stratum]
            if not members[chosen[self._unit_of]].any():
                chosen[self._first(np.unique(self._unit_of[members]))] = True
                added.append(name)
        rows, total, notes = np.flatnonzero(chosen[self._unit_of]), len(self._reader), []
        if lacking := [name for name in added if name != "samples"]:
            what = "groups" if self._grouped else "samples"
            notes.append(
                f"{fraction:.3g} of {total} samples would hold no {', no '.join(lacking)}: {what} that do were added."
            )
        if abs(len(rows) - fraction * total) > max(1.0, 0.1 * fraction * total):
            kept = f", {chosen.sum()} whole groups" if self._grouped else ""
            notes.append(f"{fraction:.3g} of {total} samples came to {len(rows)}{kept}.")
        return LabelSubset(rows, tuple(notes))

    def shots(self, number: int) -> LabelSubset:
        """So many samples, of each class where a sample is of one class, else in all; fewer shots are among more.

        They come from as many groups as there are: one sample of each group in their order, before a second one of any.
        """
        spec, targets = self._reader.spec, self._reader.targets
        of_each = {"": np.flatnonzero(has_label(self._reader))}
        if targets is not None and spec.is_one_of_names:
            members = self._strata.members[:, 1 : len(self._strata.names)]
            of_each = {n: np.flatnonzero(m) for n, m in zip(self._strata.names[1:], members.T, strict=True)}
        chosen = {name: self._first_samples(rows, number) for name, rows in of_each.items()}
        counts = {name: len(rows) for name, rows in chosen.items() if len(rows) < number}
        few = [f"{count} of {name}" if name else str(count) for name, count in counts.items()]
        rows = np.unique(np.concatenate(list(chosen.values())))
        notes = [f"{number} shots were asked for, but there are only {', '.join(few)}."] if few else []
        lacking = [n for i, n in enumerate(self._strata.names) if not self._strata.members[rows, i].any()]
        notes += [f"The {number} shots hold no {', no '.join(lacking)}."] if lacking else []
        return LabelSubset(rows, tuple(notes))

    def _first_samples(self, rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        """The first of some samples: one a unit in the order of the units, then a second one of each, and so on."""
        wanted = np.zeros(len(self._units), bool)
        wanted[self._unit_of[rows]] = True
        places = [(np.arange(len(self._units)), "")]
        queue: list[tuple[int, int, int]] = []  # which of its unit, the unit's place in the order, row
        units = 0
        while places and units < number:
            node, path = places.pop()
            if not wanted[node].any():
                continue
            if len(node) > 1:
                first, second = self._halved(node, path)
                places += [(second, path + "1"), (first, path + "0")]
                continue
            inside = rows[self._unit_of[rows] == node[0]]
            inside = np.random.default_rng([self._seed, int(node[0])]).permutation(inside)
            queue += [(i, units, row) for i, row in enumerate(inside.tolist())]
            units += 1
        return np.array([row for _, _, row in sorted(queue)[:number]], np.int64)

    def _beginning(self, samples: float) -> Units:
        """The first units of the order, with as near as can be so many samples."""
        node, path, kept = np.arange(len(self._units)), "", [np.empty(0, np.int64)]
        while len(node) > 1:
            first, second = self._halved(node, path)
            held = self._sizes[first].sum()
            if samples <= held:
                node, path = first, path + "0"
            else:
                kept.append(first)
                samples -= held
                node, path = second, path + "1"
        if self._sizes[node].sum() < 2 * samples:  # nearer with it than without
            kept.append(node)
        return np.concatenate(kept)

    def _first(self, units: Units) -> int:
        """That of the units which comes first in the order."""
        node, path = np.arange(len(self._units)), ""
        while len(node) > 1:
            first, second = self._halved(node, path)
            node, path = (first, path + "0") if np.isin(units, first).any() else (second, path + "1")
        return int(node[0])

    def _halved(self, units: Units, path: str) -> tuple[Units, Units]:
        """Both halves of the units at a place in the tree of halves; `path` says how one comes there."""
        if path not in self._halves:
            rows = np.flatnonzero(np.isin(self._unit_of, units))
            rng = np.random.default_rng([self._seed, int("1" + path, 2)])
            half_of = assign(self._unit_of[rows].astype(str), self._strata_of(rows), (0.5, 0.5), rng)
            first = np.unique(self._unit_of[rows[half_of == 0]])
            if len(first) in (0, len(units)):  # of units of very unequal size
                first = rng.permutation(units)[: len(units) // 2]
            halves = first, np.setdiff1d(units, first)
            # the largest group is always in the first part of `assign`: it would begin the order of every seed
            self._halves[path] = halves[::-1] if self._grouped and rng.random() < 0.5 else halves
        return self._halves[path]

    def _strata_of(self, rows: NDArray[np.int64]) -> Strata:
        targets = self._reader.targets
        return strata_of(self._reader.spec, None if targets is None else targets[rows], len(rows), 0.5)
