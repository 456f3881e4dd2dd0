"""Every command and every Python block of the page on export runs, on a small project."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from umedpt_lightning.cli import main

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def place(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run; its encoder is that of the page and keeps BatchNorm, so that it can go to timm."""
    folder = tmp_path_factory.mktemp("docs")
    options = ["--trainer.max_epochs", "1", "--model.encoder.init_args.batch_norm", "keep"]
    options += ["--model.encoder.init_args.name", "test_resnet"]
    main(["fit", "--config", str(project / "config.yaml"), "--run", str(folder / "runs" / "first"), *options])
    return folder


def _run(place: Path, monkeypatch: pytest.MonkeyPatch, onnx: bool) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for line in "".join(_blocks("bash")).splitlines():
        if ("--onnx" in line) == onnx:
            main(shlex.split(line, comments=True)[1:])
    names: dict[str, Any] = {}
    for block in _blocks("python"):
        if onnx or "export" not in block:
            exec(block, names)
    assert names["probabilities"].shape == (2,)
    if onnx:
        assert names["names"] == ["square"]


def test_folders_and_python_as_on_the_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(place, monkeypatch, onnx=False)
    files, _, _ = TEXT.partition("## ONNX by family")  # whose table is of models
    table = re.findall(r"^\| `([\w.]+)` \|", files, re.MULTILINE)
    assert {file.name for file in Path("models/first").iterdir()} == set(table)


@pytest.mark.slow
def test_onnx_as_on_the_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(place)
    if not Path("models/first").exists():
        _run(place, monkeypatch, onnx=False)
    _run(place, monkeypatch, onnx=True)
