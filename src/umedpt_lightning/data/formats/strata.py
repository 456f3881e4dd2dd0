"""Parts of given shares, with groups kept together and labels spread evenly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.types import TaskSpec


@dataclass
class Strata:
    """What every part should have its share of.

    Attributes:
        members: ``(N, S)`` whether a sample counts for a stratum; the first stratum is that of all samples.
        names: Names of the strata that no part may lack, which come first.
    """

    members: NDArray[np.bool_]
    names: list[str]


def strata_of(spec: TaskSpec, targets: NDArray[np.generic] | None, samples: int, least: float) -> Strata:
    """The strata of a data set: all samples, and what its label kind says, see `TaskSpec.strata`.

    `targets` are as `Reader.targets`, and `least` is the smallest share of a part.
    """
    whole = np.ones((samples, 1), np.bool_)
    if targets is None:
        return Strata(whole, ["samples"])
    members, names = spec.strata(targets, least)
    return Strata(np.hstack([whole, members]), ["samples", *names])


def assign(
    groups: NDArray[np.str_], strata: Strata, shares: tuple[float, ...], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The part ``(N,)`` of each sample, all samples of a group ``(N,)`` in one, by shares that are 1 together.

    Groups that are alike are dealt by their shares as far as that goes without a remainder. The others follow one by
    one, first those that hold much of a stratum, as in iterative stratification (Sechidis et al., 2011,
    doi:10.1007/978-3-642-23808-6_10), each to the part where the sum of (count - target)^2 / target over all parts and
    strata grows least, the whole weighing as much as all other strata. A part that still has nothing of a stratum it
    may not lack goes before all others. The result does not depend on the order of the samples; `rng` chooses among
    groups that are alike.
    """
    units, unit_of = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(units), strata.members.shape[1]), np.int64)  # (U, S)
    np.add.at(counts, unit_of, strata.members)
    kinds, kind_of, sizes = np.unique(counts, axis=0, return_inverse=True, return_counts=True)  # (K, S), (U,), (K,)
    alikes = np.split(np.argsort(kind_of, kind="stable"), np.cumsum(sizes)[:-1])
    share = np.array(shares)[:, None]  # (P, 1)
    totals = np.maximum(counts.sum(axis=0), 1)  # (S,)
    targets = share * totals  # (P, S)
    weights = np.ones(len(totals))
    weights[0] = len(totals) - 1 or 1  # that of all samples, else lost among many strata
    hard = np.arange(len(totals)) < len(strata.names)
    rarity = 1 / np.maximum((counts > 0).sum(axis=0), 1)  # so that nothing else takes the place of what few units have

    part_of = np.empty(len(units), np.int64)
    filled = np.zeros(targets.shape)  # (P, S)
    rest: list[int] = []
    for count, units_alike in zip(kinds, alikes, strict=True):
        alike = rng.permutation(units_alike)
        dealt = np.floor(share[:, 0] * len(alike)).astype(np.int64)  # (P,)
        if not dealt.all():  # so few that the least part might get none
            dealt[:] = 0
        part_of[alike[: dealt.sum()]] = np.repeat(np.arange(len(shares)), dealt)
        filled += dealt[:, None] * count
        rest += alike[dealt.sum() :].tolist()
    order = np.array(rest, np.int64)[rng.permutation(len(rest))]
    held = (counts[order] / totals).max(axis=1, initial=0)
    for unit in order[np.argsort(-held, kind="stable")]:
        count = counts[unit]
        growth = (count * (2 * (filled - targets) + count) / targets) @ weights  # (P,)
        lacking = ((filled == 0) & (count > 0) & hard) @ rarity  # (P,)
        part = np.lexsort((growth, -lacking))[0]
        part_of[unit] = part
        filled[part] += count
    return part_of[unit_of]
