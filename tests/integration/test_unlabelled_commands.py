"""Tasks without labels beside one with classes, in every command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.cli import main
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.transfer.sources import CheckpointSource
from umedpt_lightning.types import ClassSpec, UnlabelledSpec


def reader(class_path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """A folder with a teacher, a config of tasks that paint and imitate beside classes, and the run that it gives."""
    folder = tmp_path_factory.mktemp("unlabelled")
    torch.manual_seed(1)
    encoder = reader("Encoder", name="test_efficientnet_gn", in_channels=1)
    MultiTaskModel(Encoder("test_efficientnet_gn", in_channels=1), {"old": UnlabelledSpec(channels=1)}).save_pretrained(
        folder / "teacher"
    )
    images = {
        part: reader("UnlabelledFolder", folder=str(project / part / "images")) for part in ("train", "val", "test")
    }
    teacher = {"teacher": reader("PretrainedSource", path=str(folder / "teacher"))}
    given = yaml.safe_load((project / "config.yaml").read_text())
    config: dict[str, Any] = {
        "root": str(project),
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, "enable_progress_bar": False},
        "model": {
            "encoder": encoder,
            "pixel_decoder": reader("PixelDecoder", channels=4),
            "tasks": {
                "paint": reader("MaskedImages", square=8),
                "vector": reader("ImitateEmbedding", **teacher),
                "map": reader("ImitateMaps", **teacher, size=64),
            },
        },
        "data": {
            "num_workers": 0,
            "steps_per_epoch": 2,
            "tasks": {
                "paint": images | {"batch_size": 4, "cache": "ram"},
                "vector": images | {"batch_size": 4},
                "map": images | {"batch_size": 4},
                "sizes": given["data"]["tasks"]["sizes"],
            },
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(folder / "config.yaml"), "--run", str(folder / "run")])
    return folder


def test_they_are_checked_and_drawn(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", "--config", str(files / "config.yaml")])
    assert "paint: no labels" in capsys.readouterr().out
    main(["data", "preview", "--config", str(files / "config.yaml"), "--out", str(files / "preview")])
    assert np.asarray(Image.open(files / "preview" / "paint.png")).std() > 0


def test_a_training_has_their_metrics_and_pictures(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads((files / "run" / "metrics.json").read_text())["val"]
    for task in ("paint", "vector", "map"):
        assert found["metrics"][f"{task}/explained"] <= 1
        assert np.asarray(Image.open(files / "run" / "pictures" / f"val_{task}.png")).std() > 0
    assert found["baseline"]["paint/explained"] == pytest.approx(0, abs=1e-6)
    assert Image.open(files / "run" / "pictures" / "val_paint.png").width > 3 * 256, "hidden, painted and whole"
    main(["test", "--config", str(files / "run" / "config.yaml"), "--ckpt_path", "best"])
    assert "explained" in capsys.readouterr().out


def test_a_checkpoint_says_which_teacher_it_had_and_has_none_of_its_weights(files: Path) -> None:
    saved = torch.load(files / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    of_teacher = [name for name in saved["state_dict"] if "tasks.vector" in name and "head" not in name]
    assert not of_teacher
    options = saved["model_config"]["tasks"]["vector"]["head"]["options"]
    assert options["origin"] == str(files / "teacher")
    assert len(options["fingerprint"]) == 32


def test_files_are_predicted_by_the_other_tasks(files: Path, project: Path, tmp_path: Path) -> None:
    inputs = ["--model", str(files / "run"), "--inputs", str(project / "test" / "images"), "--num_workers", "0"]
    main(["predict", *inputs, "--out", str(tmp_path / "all")])
    assert [file.name for file in (tmp_path / "all").glob("*.csv")] == ["sizes.csv"]
    with pytest.raises(SystemExit, match=r"'paint' taught the shared blocks by images without labels.*umedpt embed"):
        main(["predict", *inputs, "--out", str(tmp_path / "one"), "--tasks", "paint"])
    main(["embed", *inputs, "--task", "paint", "--out", str(tmp_path / "vectors.npy")])
    assert np.load(tmp_path / "vectors.npy").shape[0] == 6


def test_a_folder_goes_on_without_the_teacher_and_a_new_task_starts_from_the_encoder(
    files: Path, tmp_path: Path
) -> None:
    main(["export", "--run", str(files / "run"), "--out", str(tmp_path / "model")])
    model = MultiTaskModel.from_pretrained(tmp_path / "model")
    assert [name for name in model.tasks if model.task(name).predicts] == ["sizes"]
    source = CheckpointSource(str(files / "run" / "checkpoints" / "best.ckpt"))
    new = source.create_model("new", ClassSpec(channels=1, classes=("a", "b"), counts=(1, 1)), None, seed=0)
    for name, value in model.encoder.state_dict().items():
        torch.testing.assert_close(new.encoder.state_dict()[name], value)


@pytest.mark.slow
def test_a_run_goes_on(files: Path) -> None:
    again = ["fit", "--config", str(files / "config.yaml"), "--run", str(files / "run"), "--ckpt_path", "last"]
    main([*again, "--trainer.max_epochs", "2"])
    with (files / "run" / "metrics.csv").open() as file:
        losses = [float(row["train/vector/loss"]) for row in csv.DictReader(file) if row["train/vector/loss"]]
    assert len(losses) == 4
    assert all(0 < loss < 5 for loss in losses)


def test_a_run_does_not_go_on_with_another_teacher(files: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((files / "config.yaml").read_text())
    other = reader("TimmSource", name="test_efficientnet_gn", in_channels=1)
    config["model"]["tasks"]["vector"]["init_args"]["teacher"] = other
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    again = ["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(files / "run"), "--ckpt_path", "last"]
    with pytest.raises(
        SystemExit, match=r"model\.tasks\.vector: fingerprint was \w{32} when the checkpoint was written"
    ):
        main([*again, "--trainer.max_epochs", "3"])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (reader("ImitateEmbedding"), r"There is no teacher\. Give one under model\.tasks"),
        (reader("ImitateEmbedding", teacher=reader("PretrainedSource", path="nowhere/at/all")), "nowhere/at/all"),
        (reader("MaskedImages", hidden=2.0), r"hidden is 2\.0"),
    ],
)
def test_what_cannot_be_is_told_before_training(
    files: Path, tmp_path: Path, task: dict[str, Any], message: str
) -> None:
    config = yaml.safe_load((files / "config.yaml").read_text())
    config["model"]["tasks"]["vector"] = task
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises((SystemExit, ValueError), match=message):
        main(["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_graphs_are_of_tasks_that_predict(files: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"'\w+' only taught the shared blocks, and predicts nothing: its head is"):
        main(["export", "--run", str(files / "run"), "--out", str(tmp_path / "model"), "--onnx"])
    assert {file.name for file in (tmp_path / "model" / "onnx").glob("*.onnx")} == {"encoder.onnx", "task_sizes.onnx"}
