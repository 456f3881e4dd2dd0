"""Parquet tables are read as CSV tables of the same content are."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from reader_samples import image, manifest, volumes

from umedpt_lightning.data.readers import (
    ManifestClasses,
    ManifestLabels,
    ManifestMasks,
    ManifestNumbers,
    Reader,
    Table,
    VolumeClasses,
    VolumeMasks,
    VolumeNumbers,
)

MASKS = ["background", "nodule"]


def as_parquet(file: Path, numbers: tuple[str, ...] = ()) -> Path:
    """The same table; columns of numbers as such, empty cells as nulls."""
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = {
        key: [None if row[key] == "" else float(row[key]) if key in numbers else row[key] for row in rows]
        for key in rows[0]
    }
    parquet.write_table(pyarrow.table(columns), file.with_suffix(".parquet"))
    return file.with_suffix(".parquet")


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (manifest, lambda file: ManifestClasses(Table(file, group="patient"), "train")),
        (manifest, lambda file: ManifestLabels(Table(file, group="patient"), "train", ["edema", "mass"])),
        (manifest, lambda file: ManifestNumbers(file, "val", {"z": "mm"})),
        (manifest, lambda file: ManifestMasks(file, None, MASKS)),
        (volumes, lambda file: VolumeClasses(file, "train")),
        (volumes, lambda file: VolumeNumbers(file, "val", {"z": "mm"})),
        (volumes, lambda file: VolumeMasks(file, "train", MASKS)),
    ],
)
def test_a_parquet_table_gives_the_same_samples(
    tmp_path: Path, make: Callable[[Path], Path], read: Callable[[Path], Reader]
) -> None:
    file = make(tmp_path)
    ours, theirs = read(as_parquet(file, ("edema", "mass", "z"))), read(file)
    assert ours.spec == theirs.spec
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(a.target, b.target)
    assert (ours.groups is None) == (theirs.groups is None)
    assert ours.groups is None or ours.groups.tolist() == theirs.groups.tolist()


def test_booleans_categories_and_whole_numbers_are_cells_too(tmp_path: Path) -> None:
    for i in range(3):
        image(tmp_path / f"{i}.png", i)
    columns = {
        "path": [f"{i}.png" for i in range(3)],
        "sick": [True, False, None],
        "kind": pyarrow.array(["x", "y", "x"]).dictionary_encode(),
        "grade": [2, 10, 2],
        "z": [1.5, float("nan"), None],
        "bytes": [b"x", "é".encode(), None],
    }
    file = tmp_path / "t.pq"
    parquet.write_table(pyarrow.table(columns), file)
    np.testing.assert_array_equal(ManifestLabels(file, None, ["sick"]).targets, [[1], [0], [np.nan]])
    assert ManifestClasses(file, None, label="kind").spec.classes == ("x", "y")
    assert ManifestClasses(file, None, label="grade").spec.classes == ("2", "10")
    assert ManifestClasses(file, None, label="bytes").spec.classes == ("x", "é")
    np.testing.assert_array_equal(ManifestNumbers(file, None, {"z": ""}).targets, [[1.5], [np.nan], [np.nan]])
    assert ManifestClasses(Table(file, group="grade"), None, label="kind").groups.tolist() == ["2", "10", "2"]


def test_faults_in_parquet_tables_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = as_parquet(manifest(tmp_path))
    with pytest.raises(ValueError, match=r"table\.parquet: the column 'kind' comes 0 times"):
        ManifestClasses(file, "train", label="kind")
    with pytest.raises(ValueError, match=r"table\.parquet row 1: label is 'a', but it should be 0, 1"):
        ManifestLabels(file, "train", ["label"])
    with pytest.raises(ValueError, match="no row has 'test'"):
        ManifestClasses(file, "test")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"table\.parquet: .*pyarrow.*pip install \"umedpt-lightning\[parquet\]\""):
        ManifestClasses(file, "train")
    monkeypatch.undo()
    file.write_text("text")
    with pytest.raises(ValueError, match=r"table\.parquet: not a Parquet file"):
        ManifestClasses(file, "train")
    parquet.write_table(pyarrow.table({"path": pyarrow.array([], "str"), "label": pyarrow.array([], "str")}), file)
    with pytest.raises(ValueError, match=r"table\.parquet: no row at all"):
        ManifestClasses(file, None)
