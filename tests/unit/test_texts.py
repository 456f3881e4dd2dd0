"""Columns of text in arrays: they are what lists of strings and of paths would be."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from umedpt_lightning.data.cache.identity import identity
from umedpt_lightning.data.formats import missing, table, table_file, texts
from umedpt_lightning.data.formats.faults import MissingFilesError
from umedpt_lightning.data.formats.paths import Paths
from umedpt_lightning.data.formats.texts import Texts
from umedpt_lightning.data.readers import ManifestClasses, Table
from umedpt_lightning.io.atomic import write_csv

WORDS = ["", "a", "Ä", "b c", "", "日本", "x" * 50, "a", "\udcff"]


@pytest.fixture(params=[2, 1 << 14], autouse=True)
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_CHUNK", request.param)


@pytest.mark.parametrize("words", [WORDS, WORDS[:2], [], [""], ["a", "bb", "ccc"]])
def test_texts_are_what_a_list_is(words: list[str]) -> None:
    found = Texts.of(iter(words))
    assert [*found] == words == [found[i] for i in range(len(found))] == found[:]
    assert found[1:] == words[1:]
    assert found[::-2] == words[::-2]
    rows = np.array([*range(len(words))[::-1], *range(len(words))], np.int64)
    assert [*found.take(rows)] == words[::-1] + words
    assert [*found.with_prefix("ü/")] == [f"ü/{word}" for word in words]
    assert [*found.with_prefix("ü/").take(rows)] == [f"ü/{word}" for word in words[::-1] + words]
    assert found.coded().array().tolist() == words
    assert len(found.coded().names) == len(set(words)) or not words
    assert found.hashes().tolist() == [*map(hash, words)]
    assert found.lengths.tolist() == [len(word.encode(errors="surrogateescape")) for word in words]
    again = pickle.loads(pickle.dumps(found.with_prefix("ü/")))
    assert [*again] == [f"ü/{word}" for word in words]


def test_there_is_nothing_outside() -> None:
    found = Texts.of(["a", "b"])
    assert found[-1] == "b"
    for index in (2, -3):
        with pytest.raises(IndexError, match="there are 2"):
            found[index]


@pytest.mark.parametrize("root", [".", "data", "/data", "/", "a/../b"])
@pytest.mark.parametrize("odd", ["c.png", "/abs/c.png", "./c.png", "a//c.png", "../c.png", "a/./c.png", "c/", ".c.png"])
def test_paths_are_those_that_pathlib_makes(root: str, odd: str) -> None:
    names = ["a.png", "b/b.png", odd]
    expected = [Path(root) / name for name in names]
    found = Paths.below(Path(root), Texts.of(names))
    assert [*found] == expected == found[:] == [found[i] for i in range(3)]
    assert [*found.texts] == [*map(str, expected)] == [*Paths.of(expected).texts]


def test_a_table_that_is_read_piece_by_piece_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["path", "note"], *([f"{i}.png", "ä, b" if i % 2 else f" line\n{i} "] for i in range(7))]
    write_csv(tmp_path / "a.csv", rows[0], rows[1:])
    monkeypatch.setattr(table_file, "_ROWS", 3)
    found = table.read_rows(Table(tmp_path / "a.csv"), None, ["note"])
    assert [*found.columns["path"]] == [row[0] for row in rows[1:]]
    assert [*found.columns["note"]] == [row[1].strip() for row in rows[1:]]
    assert [*found.names][:3] == [f"{tmp_path / 'a.csv'} line {line}" for line in (3, 4, 6)]


def test_of_very_many_files_some_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reader_samples import manifest

    file = manifest(tmp_path)
    monkeypatch.setattr(missing, "MOST_LOOKED_AT", 3)
    images = sorted((tmp_path / "images").glob("train*.png"))
    images[1].unlink()  # of 6, every second is looked at
    reader = ManifestClasses(file, "train")
    with pytest.raises(FileNotFoundError, match=r"train1\.png"):
        reader[1]
    images[2].unlink()
    with pytest.raises(MissingFilesError, match=r"1 of 3 images that were looked at, of 6 are missing.*train2"):
        ManifestClasses(file, "train")


def test_a_cache_knows_the_files_of_a_table(tmp_path: Path) -> None:
    from reader_samples import image, manifest

    file = manifest(tmp_path)
    before = identity(ManifestClasses(file, "train"))
    (tmp_path / "beside").mkdir()
    assert identity(ManifestClasses(file, "train")) == before, "what lies beside the files does not count"
    image(tmp_path / "images" / "train3.png", seed=77)
    assert identity(ManifestClasses(file, "train")) != before
