"""The training samples whose embeddings are nearest to an image's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require


@dataclass(frozen=True)
class Neighbour:
    """A sample near to an image.

    Attributes:
        id: The sample's name; where it is a file, its path below the folder of images.
        group: Its patient, slide or the like; empty where unknown.
        cosine: Of the angle between the two embeddings, -1 to 1.
    """

    id: str
    group: str
    cosine: float


class NearestSamples:
    """Finds samples by the angle between embeddings.

    Args:
        ids: The samples' names.
        groups: Their groups, one a sample.
        vectors: Their embeddings ``(N, D)``.

    Raises:
        ValueError: There is no sample, the lengths differ, or a vector is not finite.
    """

    def __init__(self, ids: Sequence[str], groups: Sequence[str], vectors: NDArray[Any]) -> None:
        if vectors.ndim != 2 or not vectors.size or not len(ids) == len(groups) == len(vectors):
            raise ValueError(
                f"There must be one id, group and vector a sample, but there are {len(ids)} ids, {len(groups)} groups "
                f"and vectors of shape {vectors.shape}."
            )
        broken = ~np.isfinite(vectors).all(1)
        if broken.any():
            raise ValueError(f"The vector of {ids[int(broken.argmax())]!r} is not finite. Make the embeddings again.")
        self.ids = ids
        self.groups = groups
        self.unit = _unit(vectors.astype(np.float32))  # (N, D)

    @classmethod
    def read(cls, file: Path) -> NearestSamples:
        """Those of a Parquet file with the columns ``id``, ``group`` and ``vector``.

        Raises FileNotFoundError, ImportError without pyarrow, or ValueError where the file is not of that form.
        """
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {file}. Make it with `umedpt embed`.")
        parquet = require("pyarrow.parquet", "parquet", file)
        try:
            table = parquet.read_table(file, columns=["id", "group", "vector"])
            ids, groups = (table[name].to_pylist() for name in ("id", "group"))
            vectors = table["vector"].combine_chunks()
            flat = vectors.flatten().to_numpy(zero_copy_only=False)
            found = cls([str(i) for i in ids], [str(g or "") for g in groups], flat.reshape(len(ids), -1))
        except Exception as error:  # pyarrow's own for broken files and missing columns, numpy's for ragged vectors
            raise ValueError(
                f"{file} is no table of embeddings ({error!s:.300}). It needs the columns id, group and vector, as "
                "`umedpt embed` writes them."
            ) from error
        return found

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        return int(self.unit.shape[1])

    def __call__(self, vector: NDArray[Any], count: int) -> list[Neighbour]:
        """The `count` samples nearest to an embedding ``(D,)``, the nearest first; all where there are fewer.

        Raises ValueError where the embedding is of another width.
        """
        if vector.shape != (self.width,):
            raise ValueError(
                f"An embedding of {self.width} numbers is wanted, as the samples' are, but it has {vector.size}."
            )
        cosines = self.unit @ _unit(vector[None].astype(np.float32))[0]  # (N,)
        nearest = np.argsort(-cosines, kind="stable")[:count]
        return [Neighbour(self.ids[i], self.groups[i], float(cosines[i])) for i in nearest]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1; those of length 0 stay, and are at a right angle to all others."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
