"""Classes that another table, or another folder, calls by other names."""

from __future__ import annotations

from pathlib import Path

import pytest
import reader_samples

from umedpt_lightning.data.readers import ClassFolders, ManifestClasses
from umedpt_lightning.types import IGNORE_INDEX

OTHER = {"AP": "ap", "PA": ["pa", "p.a.", "1"], "other": []}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    cells = ["ap", "pa", "", "p.a.", "AP", "1"]
    rows = [
        {"path": reader_samples.image(tmp_path / f"{i}.png", i).name, "label": cell, "split": "val"}
        for i, cell in enumerate(cells)
    ]
    return reader_samples.table(tmp_path / "table.csv", rows)


def test_a_table_may_call_classes_otherwise(table: Path) -> None:
    reader = ManifestClasses(table, "val", classes=OTHER)
    assert reader.spec.names == ("AP", "PA", "other")
    assert reader.targets.tolist() == [0, 1, IGNORE_INDEX, 1, 0, 1]


def test_folders_may_be_called_otherwise(tmp_path: Path) -> None:
    for folder in ("pa", "AP", "p.a.", "ap"):
        reader_samples.image(tmp_path / folder / "a.png")
    reader = ClassFolders(tmp_path, OTHER)
    assert reader.spec.names == ("AP", "PA", "other")
    of_folder = {Path(reader.name(i)).parent.name: int(reader.targets[i]) for i in range(len(reader))}
    assert of_folder == {"ap": 0, "AP": 0, "pa": 1, "p.a.": 1}
    with pytest.raises(ValueError, match=r"'ap'.*another name of 'AP', write `classes: {AP: ap, ...}`"):
        ClassFolders(tmp_path, ["AP", "pa", "p.a."])


@pytest.mark.parametrize(
    ("classes", "match"),
    [
        (["PA", "AP", "p.a.", "1", "pa"], r"'ap' .*another name of 'AP', write `classes: {AP: ap, ...}`"),
        ({"AP": ["ap", "x"], "PA": ["pa", "x", "p.a.", "1"]}, "'x' is 'PA', but it is 'AP' too"),
        ({}, "classes are empty"),
    ],
)
def test_what_is_not_clear_is_told_with_the_mend(classes: object, match: str, table: Path) -> None:
    with pytest.raises(ValueError, match=match):
        ManifestClasses(table, "val", classes=classes)  # type: ignore[arg-type]


def test_two_hospitals_have_one_spec(shared_data: Path) -> None:
    nih = ManifestClasses(shared_data / "nih_chest" / "table.csv", "val", "view", ["PA", "AP"])
    other = ManifestClasses(shared_data / "hannover_chest" / "table.csv", "val", "projection", {"PA": "pa", "AP": "ap"})
    assert nih.spec.names == other.spec.names
    assert set(other.targets.tolist()) == {0, 1}
    with pytest.raises(ValueError, match=r"another name of '(AP|PA)', write `classes: {(AP: ap|PA: pa), ...}`"):
        ManifestClasses(shared_data / "hannover_chest" / "table.csv", "val", "projection", ["PA", "AP"])
