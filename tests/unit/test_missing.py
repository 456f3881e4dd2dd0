"""What is said of files that are missing where something much like them is there."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from reader_samples import image, table

from umedpt_lightning.data.formats.faults import each_of
from umedpt_lightning.data.formats.missing import check_folder
from umedpt_lightning.data.readers import ManifestClasses, SlideClasses, VolumeClasses

NFC, NFD = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("there", "named", "hint"),
    [
        ("sub/a.png", "sub\\a.png", r"backslashes of Windows, '.*sub/a\.png' is there"),
        ("sub/a.png", "C:\\data\\a.png", r"backslashes of Windows, '.*C:/data/a\.png' is how paths are written"),
        (f"{NFD}.png", f"{NFC}.png", "is there, which has its accents in the form NFD of Unicode"),
        (f"{NFC}.png", f"{NFD}.png", "is there, which has its accents in the form NFC of Unicode"),
        (f"{NFD}/a.png", f"{NFC}/a.png", f"{NFD}' is there, which has its accents in the form NFD"),
        ("a.PNG", "a.png", r"a\.PNG' is there, which differs in upper and lower case"),
        ("Sub/a.png", "sub/a.png", "Sub' is there, which differs in upper and lower case"),
        ("a b.png", "a%20b.png", r"encoded as in a web address, '.*a b\.png' is there"),
    ],
)
def test_a_name_that_is_nearly_right_gets_the_hint(tmp_path: Path, there: str, named: str, hint: str) -> None:
    image(tmp_path / there)
    file = table(tmp_path / "t.csv", [{"path": named, "label": "x"}])
    with pytest.raises(FileNotFoundError, match=hint) as found:
        ManifestClasses(file, None)
    (each,) = each_of(found.value)
    assert hint.split()[-1].strip("'") in str(each)  # what the check tells of each file
    for reader in (VolumeClasses, SlideClasses):
        with pytest.raises(FileNotFoundError, match=hint):
            reader(file, None)


def test_nothing_is_said_where_nothing_is_like_it(tmp_path: Path) -> None:
    image(tmp_path / "b.png")
    file = table(tmp_path / "t.csv", [{"path": "a.png", "label": "x"}, {"path": "none/b.png", "label": "x"}])
    with pytest.raises(FileNotFoundError) as found:
        ManifestClasses(file, None)
    assert "is there" not in str(found.value)
    assert all(
        " it. Correct its name" in str(each) or "names it. Correct" in str(each) for each in each_of(found.value)
    )


def test_folders_get_the_hint_too(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"images: there is no such folder\. '.*Images' is there"):
        check_folder(tmp_path / "images")


def test_a_folder_in_place_of_a_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no such file\. It is a folder, not a file\. "):
        ManifestClasses(tmp_path, None)
    file = table(tmp_path / "t.csv", [{"path": "a.png", "label": "x"}])
    with pytest.raises(FileNotFoundError, match=r"there is no such folder\. It is a file, not a folder\. "):
        check_folder(file)
