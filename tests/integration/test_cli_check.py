"""`umedpt data check` as users call it, on real data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_real_data(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "umedpt_lightning", "data", "check", "--config", "c.yaml", "--json", "c.json"]
    result = subprocess.run(
        [*command, "--root", str(shared_data)],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert result.stderr == ""
    content = json.loads((tmp_path / "c.json").read_text())
    # PneumoniaMNIST has equal images in its train and val parts
    errors = [p for p in content["problems"] if p["severity"] == "error"]
    assert {(p["task"], p["part"], p["kind"]) for p in errors} == {("pneumonia", "val", "duplicate")}
    assert len(errors) == 5
    assert {p["kind"] for p in content["problems"]} == {"duplicate"}
    assert content["tasks"]["blood"]["parts"]["train"]["labels"]["boxes"]["RBC"] == 2381
    assert round(content["tasks"]["nodule"]["parts"]["train"]["labels"]["share"]["nodule"], 3) == 0.046
    assert result.stdout.splitlines()[-1].startswith("5 problems, 14 warnings in 4,304 samples")
    assert max(len(line) for line in result.stdout.splitlines() if "│" in line) <= 100


def test_the_command_does_without_lightning() -> None:
    code = "import sys, umedpt_lightning.cli.data; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
