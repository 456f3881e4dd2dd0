"""`umedpt data check` as users call it, on real data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from umedpt_lightning.cli import main

CONFIG = """
trainer: {max_epochs: 2}
data:
  tasks:
    pneumonia:
      train: {class_path: MedMNIST, init_args: {file: "${root}/pneumoniamnist.npz", split: train}}
      val: {class_path: MedMNIST, init_args: {file: "${root}/pneumoniamnist.npz", split: val}}
    nodule:
      train:
        class_path: MaskFolders
        init_args:
          images: ${root}/msd_lung_ct/images
          masks: ${root}/msd_lung_ct/masks
          classes: [background, nodule]
    blood:
      train:
        class_path: CocoBoxes
        init_args: {images: "${root}/bccd/images", annotations: "${root}/bccd/instances_train.json"}
      val:
        class_path: CocoBoxes
        init_args: {images: "${root}/bccd/images", annotations: "${root}/bccd/instances_val.json"}
"""


def check(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What the check prints of ``c.yaml``, in which something is wrong."""
    with pytest.raises(SystemExit, match="1"):
        main(["data", "check", "--config", "c.yaml", "--json", "c.json", *options])
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_real_data(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    out = check(capsys, "--root", str(shared_data))
    content = json.loads((tmp_path / "c.json").read_text())
    # PneumoniaMNIST has equal images in its train and val parts
    errors = [p for p in content["problems"] if p["severity"] == "error"]
    assert {(p["task"], p["part"], p["kind"]) for p in errors} == {("pneumonia", "val", "duplicate")}
    assert len(errors) == 5
    assert {p["kind"] for p in content["problems"]} == {"duplicate"}
    assert content["tasks"]["blood"]["parts"]["train"]["labels"]["boxes"]["RBC"] == 2381
    assert round(content["tasks"]["nodule"]["parts"]["train"]["labels"]["share"]["nodule"], 3) == 0.046
    assert out.splitlines()[-1].startswith("5 problems, 14 warnings in 4,304 samples")
    assert max(len(line) for line in out.splitlines() if "│" in line) <= 100


def test_all_faults_of_a_table_and_of_boxes_are_named_and_only_those(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(project, tmp_path / "p")
    config = yaml.safe_load((tmp_path / "p" / "config.yaml").read_text())
    config["data"]["tasks"]["sizes"]["train"]["init_args"]["classes"] = ["large", "small"]
    lines = (tmp_path / "p" / "manifest.csv").read_text().splitlines()
    for i, wrong in ((3, "smal"), (5, "Large"), (7, "?")):
        cells = lines[i].split(",")
        lines[i] = ",".join([cells[0], wrong, *cells[2:]])
    (tmp_path / "p" / "manifest.csv").write_text("\n".join(lines))
    boxes = json.loads((tmp_path / "p" / "val.json").read_text())
    for i, box in enumerate(([30, 0, 9, 9], [5, 5, 0, 5], [1, 1, 3])):
        boxes["annotations"][i + 1]["bbox"] = box
    (tmp_path / "p" / "val.json").write_text(json.dumps(boxes))
    for i in (4, 6):
        (tmp_path / "p" / "train" / "images" / f"{i}.png").unlink()
    config["data"]["tasks"] = {name: config["data"]["tasks"][name] for name in ("sizes", "boxes")}
    for name in ("val", "test"):  # these would be whole
        del config["data"]["tasks"]["sizes"][name]
    del config["data"]["tasks"]["boxes"]["train"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))

    monkeypatch.chdir(tmp_path)
    out = check(capsys, "--root", "p")
    content = json.loads((tmp_path / "c.json").read_text())
    assert list(content["tasks"]["boxes"]["parts"]) == ["test"]  # what is whole was read
    errors = [p for p in content["problems"] if p["severity"] == "error"]
    assert [(p["task"], p["part"], p["name"]) for p in errors] == [
        *(("boxes", "val", "p/val.json") for _ in range(3)),
        *(("sizes", "train", f"p/manifest.csv line {i + 1}") for i in (3, 5, 7)),
        *(("sizes", "train", f"p/train/images/{i}.png") for i in (4, 6)),
    ]
    assert all(f"{p['name']}: {p['what']}." in out for p in errors)
    for found, i in zip(("four numbers", "outside", "no area"), (3, 1, 2), strict=True):
        assert sum(found in p["what"] and f"annotation {i}" in p["what"] for p in errors) == 1
