"""A wrong config is told in a sentence, and a class of one's own is found beside it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from reader_samples import class_folders, image

from umedpt_lightning.cli import main
from umedpt_lightning.cli.data_tasks import build, task_faults
from umedpt_lightning.cli.parser_errors import explain
from umedpt_lightning.data.formats.text_files import read_yaml


def reader(path: str, **options: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": options}


CASES = {
    "fold": (
        reader("ManifestClasses", table="x.csv", split=0),
        "split: 0 is given, .*str or null: put it in quotes, '0'",
    ),
    "flag": (
        reader("ManifestClasses", table="x.csv", split=False),
        "split: False is given, but it must",
    ),
    "names": (reader("ClassFolders", folder="a", classes=[True, "x"]), "classes: True is given.*put it in quotes"),
    "word": (
        reader("ClassFolders", folder="a", channels="three"),
        "three is given, but it must be int or null",
    ),
    "pair": (
        reader("ClassFolders", folder="a", value_range=[0]),
        r"value_range: \[0\] is given, .* tuple\[float",
    ),
    "key": (reader("ClassFolders", folder="a", chanels=3), "Option 'chanels' is not accepted"),
    "inner key": (reader("ManifestClasses", table={"fil": 1}, split="a"), "table: Table: Option 'fil' is not accepted"),
    "choice": (
        reader("VolumeClasses", table="x.csv", split="a", slices={"axis": "axiall"}),
        "axis: axiall is given, but it must be one of 'axial', 'coronal', 'sagittal'",
    ),
    "rule": (
        reader("VolumeClasses", table="x.csv", split="a", intensity={"low": 3, "high": 1}),
        "low must be below high, but they are 3.0 and 1.0",
    ),
    "several": (
        reader("VolumeClasses", table="x.csv", split="a", intensity={"lo": 3}),
        r"intensity: \{'lo': 3\} is given, but it must be .*one of Window, Level, Percentiles",
    ),
    "inside": (
        reader("Split", reader=reader("ManifestClasses", table="x.csv", split=["a"]), part="train"),
        r"Split: reader: ManifestClasses: split: \['a'\] is given",
    ),
    "name": (reader("ClasFolders", folder="a"), "no class of the name ClasFolders is known"),
    "module": (reader("no_such.Mine"), r"no module no_such\. It is looked for in the current folder, .*PYTHONPATH"),
    "import": (reader("broken.Mine"), "its module cannot be imported, since no_such_library, which it imports"),
    "attribute": (reader("beside.Mina"), "module 'beside' has no attribute 'Mina'"),
    "kind": (reader("beside.Other"), "does not correspond to a subclass of Reader"),
    "crash": (reader("crashing.Mine"), r"ZeroDivisionError: .*\(in .*crashing\.py line 1\)"),
    "none": ({"folder": "a"}, "does not say which Reader is meant"),
}


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with modules of one's own, which nothing else has put on the path."""
    (tmp_path / "beside.py").write_text(
        "from umedpt_lightning.data.readers import ClassFolders\nclass Mine(ClassFolders): ...\nclass Other: ...\n"
    )
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "crashing.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("beside", "broken", "crashing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_told_without_the_parsers_workings(beside: Path, case: str) -> None:
    sys.path.append(str(beside))
    options, message = CASES[case]
    _, problems = build({"cells": {"train": options}})
    assert len(problems) == 1
    told = f"{problems[0].name}: {problems[0].what}. {problems[0].mend}"
    for word in ("Parser key", "Union", "NoneType", "<class", "Expected a", "given class_path", "\n"):
        assert word not in told
    assert re.search(message, told), told


def test_other_messages_stay_as_they_are() -> None:
    for text in ("a.csv: the column 'x' comes 0 times.\nCorrect it.", "low must be below high. Swap them."):
        assert explain(text) == text


def write(folder: Path, tasks: dict[str, Any]) -> Path:
    content = {"model": {"encoder": reader("Encoder", name="test_convnext")}, "data": {"tasks": tasks}}
    (folder / "c.yaml").write_text(yaml.safe_dump(content))
    return folder / "c.yaml"


def test_fit_names_the_task_and_shows_no_usage(beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {"cells": {"train": CASES["import"][0]}, "lungs": {"batch_size": "many", "sise": 3}, "good": {}}
    config = write(beside, wrong)
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", str(config)])
    told = capsys.readouterr().err
    assert "error: data.tasks.cells.train: Mine: its module cannot be imported, since no_such_library" in told
    assert "error: data.tasks.lungs.batch_size: many is given, but it must be int." in told
    assert "error: data.tasks.lungs.sise: there is no such option." in told
    assert "usage" not in told
    assert len(told.splitlines()) == 4
    assert task_faults(["--config", str(config), "--trainer.max_epochs", "1"]) != []


def test_a_class_that_is_not_known_is_told_where_there_may_be_none(
    beside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(beside, {"cells": {"train": CASES["name"][0]}})
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", str(config)])
    assert "data.tasks.cells.train: no class of the name ClasFolders is known" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["fit"], ["data", "check"]])
@pytest.mark.parametrize("names", [("no", "a"), ("a", "12")])
def test_names_that_yaml_takes_for_something_else(
    beside: Path, command: list[str], names: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(beside, {"first": {}, "second": {}})
    text = config.read_text()
    for old, new in zip(("first", "second"), names, strict=True):
        text = text.replace(f"{old}:", f"{new}:")
    config.write_text(text)
    with pytest.raises(SystemExit) as left:
        main([*command, "--config", str(config), *(["--run", str(beside / "run")] if command == ["fit"] else [])])
    told = f"{left.value}{capsys.readouterr().err}"
    assert re.search(
        r"data\.tasks: (False is a bool|12 is a int) in YAML, but names are texts\. Put it in quotes", told
    )


@pytest.mark.parametrize("command", [["fit"], ["data", "check"], ["affinity"]])
def test_a_key_that_stands_twice_is_told(beside: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = write(beside, {"cells": {"size": 32}})
    config.write_text(config.read_text().replace("    cells:\n", "    cells: {}\n    cells:\n"))
    with pytest.raises(SystemExit) as left:
        main([*command, "--config", str(config)])
    told = f"{left.value}{capsys.readouterr().err}"
    assert f"{config} line 4: 'cells' stands twice here" in told


@pytest.mark.parametrize("command", ["fit", "test", "affinity"])
def test_an_option_that_is_not_given_is_named(beside: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    (beside / "c.yaml").write_text("data: {tasks: {a: {size: 32}}}")
    with pytest.raises(SystemExit, match="2"):
        main([command, "--config", str(beside / "c.yaml")])
    told = capsys.readouterr().err
    assert "umedpt: error: model.encoder: it is not given. Write it into a config, or give --model.encoder.\n" in told


def test_mappings_may_be_merged_from_several_and_used_again(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n  x: 3\nd: [*a, *a, {x: 1}]\n")
    assert read_yaml(file)["c"] == {"x": 3, "y": 2}


def told_by_fit(config: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", config])
    told = capsys.readouterr().err
    assert told.startswith("umedpt: error: ")
    assert "usage" not in told
    return told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "# gr\u00f6\u00dfer\nmodel: {}".encode("cp1252"),
            r"c\.yaml line 1: this is no text in UTF-8.*cp1252.*Save it as UTF-8",
        ),
        ("model: {}\n".encode("utf-16-le"), r"c\.yaml line 1: there are zero bytes.*Save it as UTF-8"),
        ("model: {}\n".encode("utf-16"), r"c\.yaml: this is UTF-16.*Save it as UTF-8"),
        (b"model: [1\ndata: {", r"c\.yaml: not a YAML file .*line 2.*Correct it"),
        (None, r"config: File does not exist: .*c\.yaml"),
    ],
    ids=["cp1252", "no mark", "UTF-16", "broken", "missing"],
)
def test_a_config_that_cannot_be_read_is_named_with_its_mend(
    tmp_path: Path, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "c.yaml").write_bytes(content)
    assert re.search(message, told_by_fit(str(tmp_path / "c.yaml"), capsys), re.DOTALL)
    assert "Path is not a file" in told_by_fit(str(tmp_path), capsys)


def test_own_classes_beside_the_config_are_found(beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folders(beside, "train")
    image(beside / "train" / "a" / "more.png")
    sys.path[:] = [folder for folder in sys.path if folder not in ("", str(beside))]
    config = write(beside, {"cells": {"train": reader("beside.Mine", folder="train")}})
    main(["data", "check", "--config", str(config), "--workers", "1"])
    assert "0 problems" in capsys.readouterr().out
