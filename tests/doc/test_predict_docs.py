"""Every command and the Python block of the page on predictions run, on small files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from slide_files import slide, stained
from volume_files import nifti

from umedpt_lightning.cli import main

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "predict.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Tiles of 256 pixels are small")  # those of the page are, for this encoder
def test_predictions_as_on_the_page(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.max_epochs", "1", "--data.steps_per_epoch", "1", "--data.num_workers", "0"]
    main(["fit", "--config", str(project / "config.yaml"), "--run", "run", *options])
    main(["export", "--run", "run", "--out", "models/first"])
    (tmp_path / "images").symlink_to(project / "test" / "images")
    (tmp_path / "table.csv").write_text("path,patient\nimages/0.png,p1\nimages/1.png,p2\n")
    rng = np.random.default_rng(0)
    nifti(tmp_path / "scan.nii.gz", rng.integers(-200, 300, (40, 50, 3)).astype(np.int16))
    Image.fromarray(rng.integers(0, 256, (600, 700), np.uint8)).save("large.png")
    slide(tmp_path / "slide.tif", stained(600, 800, (0, 0, 800, 600)), mpp=0.25)
    commands = [shlex.split(line, comments=True) for line in "".join(_blocks("bash")).splitlines()]
    for command in commands:
        if "--dicomseg" not in command:  # for tasks of series, and not those of this model: test_cli_predict.py has one
            main([*command[1:], "--device", "cpu"])
    assert {path.name for path in Path("predictions").iterdir() if path.suffix} >= {"sizes.csv", "boxes.json"}
    assert Path("ct/squares/scan.nii.gz").is_file()
    assert Path("slides/squares/slide.tif").is_file()
    names: dict[str, Any] = {}
    (block,) = _blocks("python")
    exec(block, names)
    assert names["mask"].shape == (700, 900)
