"""The nearest samples by the angle between embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umedpt_lightning.app.neighbours import NearestSamples

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(40, 8)).astype(np.float32)
IDS = [f"images/{i}.png" for i in range(40)]
GROUPS = [f"patient {i // 4}" for i in range(40)]


def _samples() -> NearestSamples:
    return NearestSamples(IDS, GROUPS, VECTORS)


def test_they_are_those_of_the_smallest_angle() -> None:
    query = RNG.normal(size=8)
    cosines = [float(v @ query / np.linalg.norm(v) / np.linalg.norm(query)) for v in VECTORS]
    found = _samples()(query, 5)
    best = sorted(range(40), key=lambda i: -cosines[i])[:5]
    assert [one.id for one in found] == [IDS[i] for i in best]
    assert [one.group for one in found] == [GROUPS[i] for i in best]
    np.testing.assert_allclose([one.cosine for one in found], [cosines[i] for i in best], atol=1e-6)


@pytest.mark.parametrize("index", [0, 17, 39])
def test_a_sample_is_nearest_to_itself_whatever_its_length(index: int) -> None:
    nearest = _samples()(1000 * VECTORS[index], 1)[0]
    assert nearest.id == IDS[index]
    assert nearest.cosine == pytest.approx(1)


def test_all_are_found_where_fewer_are_there_and_equal_ones_keep_their_order() -> None:
    samples = NearestSamples(["a", "b", "c"], ["", "", ""], np.array([[1, 0], [1, 0], [0, 0]], np.float32))
    assert [(one.id, one.cosine) for one in samples(np.array([2.0, 0]), 10)] == [("a", 1), ("b", 1), ("c", 0)]


def test_an_embedding_of_another_width_is_told() -> None:
    with pytest.raises(ValueError, match=r"8 numbers is wanted.*has 7"):
        _samples()(np.zeros(7), 3)


def _write(file: Path, columns: Mapping[str, Any]) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(columns)), file)
    return file


def _fixed(vectors: Any) -> Any:
    pa = pytest.importorskip("pyarrow")
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    groups = [None, *GROUPS[1:]]
    read = NearestSamples.read(_write(tmp_path / "e.parquet", {"id": IDS, "group": groups, "vector": _fixed(VECTORS)}))
    assert read.ids == IDS
    assert read.groups == ["", *GROUPS[1:]]
    np.testing.assert_array_equal(read.unit, _samples().unit)


def test_a_table_of_several_chunks_is_read_whole(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"id": IDS, "group": GROUPS, "vector": _fixed(VECTORS)})
    with pq.ParquetWriter(tmp_path / "e.parquet", table.schema) as writer:
        for start in range(0, 40, 16):
            writer.write_table(table.slice(start, 16))
    np.testing.assert_array_equal(NearestSamples.read(tmp_path / "e.parquet").unit, _samples().unit)


def test_a_bad_table_is_told_with_its_name(tmp_path: Path) -> None:
    broken = VECTORS.copy()
    broken[3, 2] = np.nan
    ragged = [[1.0], [1.0, 2.0]]
    tables = {
        "column": {"id": IDS, "group": GROUPS},
        "finite": {"id": IDS, "group": GROUPS, "vector": _fixed(broken)},
        "ragged": {"id": ["a", "b"], "group": ["", ""], "vector": ragged},
        "empty": {"id": [], "group": [], "vector": _fixed(VECTORS[:0])},
    }
    files = [_write(tmp_path / f"{name}.parquet", columns) for name, columns in tables.items()]
    files.append(tmp_path / "text.parquet")
    files[-1].write_text("id,group,vector")
    for file in files:
        with pytest.raises(ValueError, match=rf"{file.name} is no table of embeddings"):
            NearestSamples.read(file)
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        NearestSamples.read(tmp_path / "none.parquet")
