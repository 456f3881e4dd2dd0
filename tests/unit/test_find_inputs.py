"""What a user gives becomes a list of images, volumes and slides."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from umedpt_lightning.inference.find_inputs import TableColumns, find_inputs


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with one or more of each kind, and things that are none."""
    pytest.importorskip("nibabel")
    pytest.importorskip("pydicom")
    pytest.importorskip("tifffile")
    from slide_files import slide
    from volume_files import dicom, nifti, series

    folder = tmp_path / "mixed"
    for name in ("a10.png", "a2.png", "deep/er/b.JPG", ".hidden.png", ".cache/c.png"):
        png(folder / name)
    nifti(folder / "scans/v.nii.gz", np.zeros((3, 4, 5), np.int16))
    series(folder / "scans/ct", np.zeros((3, 4, 5), np.int16))
    # a radiograph has no place in space, and scanners leave suffixes out
    dicom(folder / "x/chest", np.zeros((4, 4), np.uint16), Modality="CR")
    dicom(folder / "x/other.dcm", np.zeros((4, 4), np.uint16), Modality="CR")
    dicom(folder / "one/slice.dcm", np.zeros((4, 4), np.uint16), ImagePositionPatient=[0, 0, 0])
    dicom(folder / "x/report.dcm", np.zeros((4, 4), np.uint16), Rows=None, Columns=None)
    slide(folder / "s.tif", np.zeros((256, 256, 3), np.uint8))
    Image.new("L", (4, 4)).save(folder / "flat.tif")
    (folder / "notes.txt").write_text("x")
    (folder / "table.csv").write_text("path\na2.png\n")
    return folder


def test_a_folder_is_walked_in_natural_order_and_kinds_are_told(mixed: Path) -> None:
    found = find_inputs([mixed])
    assert [(source.id, source.kind) for source in found] == [
        ("a2.png", "image"),
        ("a10.png", "image"),
        ("flat.tif", "image"),
        ("s.tif", "slide"),
        ("deep/er/b.JPG", "image"),
        ("one/slice.dcm", "dicom"),
        ("scans/v.nii.gz", "nifti"),
        ("scans/ct", "dicom"),
        ("x/chest", "image"),
        ("x/other.dcm", "image"),
    ]
    assert all(source.path == mixed / source.id for source in found)
    assert all(source.group == source.id for source in found)


def test_the_folder_of_a_series_may_be_given_itself(mixed: Path) -> None:
    (source,) = find_inputs([mixed / "scans" / "ct"])
    assert (source.id, source.kind, source.path) == ("ct", "dicom", mixed / "scans" / "ct")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_names_files_ids_and_groups(tmp_path: Path, suffix: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    csv, parquet = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow.parquet")
    inside, outside = png(tmp_path / "tables/in/a.png"), png(tmp_path / "elsewhere/b.png")
    table = tmp_path / "tables" / f"t{suffix}"
    content = pyarrow.table(
        {"file": ["in/a.png", "../elsewhere/b.png", str(outside)], "name": ["p/1", "p/2", "3"], "who": ["x", "x", ""]}
    )
    (csv.write_csv if suffix == ".csv" else parquet.write_table)(content, table)
    plain = find_inputs([table], TableColumns("file"))
    assert [source.id for source in plain] == ["in/a.png", "elsewhere/b.png", str(outside).lstrip("/")]
    named = find_inputs([table], TableColumns("file", "name", "who"))
    assert [(source.id, source.group) for source in named] == [("p/1", "x"), ("p/2", "x"), ("3", "3")]
    assert [source.path.resolve() for source in named] == [inside, outside, outside]


def test_all_that_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    good, notes = png(tmp_path / "a.png"), tmp_path / "notes.txt"
    notes.write_text("x")
    table = tmp_path / "t.csv"
    table.write_text("path\na.png\ngone.png\n\nnotes.txt\n,\n".replace(",", '""'))
    missing = [tmp_path / f"gone{i}.png" for i in range(30)]
    with pytest.raises(FileNotFoundError) as told:
        find_inputs([good, *missing])
    assert all(str(path) in str(told.value) for path in missing)
    with pytest.raises(ValueError, match="3 inputs cannot be used") as mixed:
        find_inputs([notes, table])
    for words in (f"{notes}: this is no image", "line 3", "line 5"):
        assert words in str(mixed.value)


@pytest.mark.parametrize("given", [[], ["empty"]])
def test_nothing_is_told(tmp_path: Path, given: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"nothing"):
        find_inputs([tmp_path / name for name in given])


@pytest.mark.parametrize("text", ["path\n", ""])
def test_a_table_without_rows_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=r"t.csv: the (table has no rows|column 'path' comes 0 times)"):
        find_inputs([tmp_path / "t.csv"])


def test_two_files_of_one_id_are_told_but_one_file_may_come_twice(tmp_path: Path) -> None:
    first, second = png(tmp_path / "1/a.png"), png(tmp_path / "2/a.png")
    assert len(find_inputs([first, tmp_path / "1"])) == 1
    with pytest.raises(
        ValueError, match=rf"{second}: its id would be 'a.png', which is that of {first}.*Give the fold"
    ):
        find_inputs([first, second])
    assert [source.id for source in find_inputs([tmp_path])] == ["1/a.png", "2/a.png"]


TRICKS = ["../a", "x/../../a", "/etc/a", "..\\a", "\\\\host\\a", "C:\\a", "C:a", "..", ".", " ", "/"]


@pytest.mark.parametrize("trick", TRICKS)
def test_no_id_leads_out_of_the_folder_of_results(tmp_path: Path, trick: str) -> None:
    png(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(f"path,name\na.png,{trick}\n")
    with pytest.raises(ValueError, match=r"line 2: the id .* (leads out|is empty)"):
        find_inputs([tmp_path / "t.csv"], TableColumns(id="name"))


@pytest.mark.parametrize(("name", "told"), [("a\nb.png", "control characters"), (os.fsdecode(b"\xff.png"), "UTF-8")])
def test_a_file_whose_name_is_no_text_is_told(tmp_path: Path, name: str, told: str) -> None:
    png(tmp_path / name)
    with pytest.raises(ValueError, match=told):
        find_inputs([tmp_path])


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    png(tmp_path / "real/a.png")
    (tmp_path / "given").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "given" / "linked")
    os.symlink(tmp_path / "given", tmp_path / "given" / "round")
    assert [source.id for source in find_inputs([tmp_path / "given"])] == ["linked/a.png"]


def test_broken_dicom_files_are_all_named(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    for name in ("b.dcm", "c.dcm"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"(?s)b.dcm: not a DICOM.*c.dcm: not a DICOM"):
        find_inputs([tmp_path])
