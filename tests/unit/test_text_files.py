"""Tables and annotations in whatever encoding a program wrote them: read, or named with the line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import slide_files
from reader_samples import coco, coco_content, image, manifest, voc, voc_object

from umedpt_lightning.cli.data_tasks import read_config
from umedpt_lightning.data.readers import CocoBoxes, ManifestClasses, VocBoxes
from umedpt_lightning.data.slide.annotations import read_geojson

MARKED = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


def encoded(path: Path, encoding: str, change: Callable[[str], str] = lambda text: text) -> Path:
    text = change(path.read_text(encoding="utf-8"))
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    path.write_bytes((mark + text).encode(encoding))
    return path


def table_of(folder: Path, encoding: str) -> list[str]:
    file = encoded(manifest(folder), encoding, lambda text: text.replace(",a,", ",Rötung,"))
    return list(ManifestClasses(file, "train").spec.classes)


def coco_of(folder: Path, encoding: str) -> list[str]:
    content = coco_content()
    content["categories"][0]["name"] = "Rötung"
    file = coco(folder, content)
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    return sorted(CocoBoxes(folder, encoded(file, encoding)).spec.classes)


def geojson_of(folder: Path, encoding: str) -> list[str]:
    feature = slide_files.feature("Rötung", slide_files.rectangle(0, 0, 4, 4))
    file = folder / "a.geojson"
    file.write_text(json.dumps([feature], ensure_ascii=False, indent=1), encoding="utf-8")
    regions = read_geojson(encoded(file, encoding), ["a", "Rötung"])
    return [["a", "Rötung"][i] for i in regions.labels]


def names_of(folder: Path, encoding: str) -> list[str]:
    voc(folder, {"Rötung": voc_object("x", (1, 1, 5, 5)), "b": ""})
    (folder / "names.txt").write_text("b\nRötung 1\n", encoding="utf-8")
    reader = VocBoxes(folder / "images", folder / "xml", encoded(folder / "names.txt", encoding))
    return [Path(reader.name(i)).stem for i in range(len(reader))]


def config_of(folder: Path, encoding: str) -> list[str]:
    (folder / "c.yaml").write_text("data:\n  tasks:\n    Rötung: {}\n", encoding="utf-8")
    return list(read_config([encoded(folder / "c.yaml", encoding)], None))


FILES = {"table": table_of, "coco": coco_of, "geojson": geojson_of, "names": names_of, "config": config_of}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("encoding", MARKED)
def test_what_says_its_encoding_is_read(tmp_path: Path, kind: str, encoding: str) -> None:
    assert "Rötung" in FILES[kind](tmp_path, encoding)


@pytest.mark.parametrize("kind", FILES)
def test_another_encoding_is_named_with_file_line_and_mend(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=r"line \d+: this is no text in UTF-8.*0xf6.*cp1252.*Rötung.*Save it as UTF-8"):
        FILES[kind](tmp_path, "cp1252")


def test_the_line_is_that_of_the_byte(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"path,label,split\na.png,x,train\n\xfc.png,x,train\nb.png,x,train\n")
    with pytest.raises(ValueError, match=r"t\.csv line 3: .*'ü\.png,x,train'"):
        ManifestClasses(tmp_path / "t.csv", "train")
    (tmp_path / "t.csv").write_bytes("path,label,split\na.png,x,train\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"t\.csv line 1: there are zero bytes, as in UTF-16 without.*UTF-8"):
        ManifestClasses(tmp_path / "t.csv", "train")


def test_broken_json_is_named_with_its_line(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "a.json").write_text('{"images": [],\n "categories": [],\n "annotations": [,]}')
    with pytest.raises(ValueError, match=r"a\.json line 3: not a JSON file \(.* column 18\)\. Export"):
        CocoBoxes(tmp_path, tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json line 3: not a JSON file"):
        read_geojson(tmp_path / "a.json", ["a"])
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json: not a JSON file"):
        CocoBoxes(tmp_path, tmp_path / "a.json")
