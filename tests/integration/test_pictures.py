from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.callbacks import pictures
from umedpt_lightning.callbacks.pictures import EvenChoice, PredictionPictures
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.types import (
    BoxArrays,
    BoxSpec,
    ClassSpec,
    MaskSpec,
    MultilabelSpec,
    RegressionSpec,
    Sample,
    TaskSpec,
)

SIDE = 32
FIVE = {
    "plane": ClassSpec(channels=1, classes=("axial", "coronal"), counts=(1, 1)),
    "findings": MultilabelSpec(channels=3, labels=("edema", "mass")),
    "position": RegressionSpec(channels=1, quantities=("z",), units=("mm",), means=(0.0,), stds=(1.0,)),
    "tissue": MaskSpec(channels=1, classes=("background", "bone"), value_range=(0, 65535)),
    "cells": BoxSpec(channels=3, classes=("red", "white")),
}


class InMemory(Reader):
    """Random images with a target of any label type; one image in three has no box."""

    def __init__(self, spec: TaskSpec, size: int = 5) -> None:
        self.spec, self.size = spec, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        index = self._at(index)
        random = np.random.default_rng(index)
        dtype = np.uint16 if self.spec.value_range[1] > 255 else np.uint8
        image = random.integers(0, self.spec.value_range[1], (SIDE, SIDE, self.spec.channels)).astype(dtype)
        return Sample(image, self._target(random, index), f"some/where/{index}.png")

    def _target(self, random: np.random.Generator, index: int) -> Any:
        match self.spec:
            case ClassSpec():
                return index % 2
            case MultilabelSpec():
                return np.array([1, np.nan], np.float32)
            case RegressionSpec():
                return np.array([index], np.float32)
            case MaskSpec():
                return random.integers(0, 2, (SIDE, SIDE), dtype=np.uint8)
        corners = np.array([[4, 4, 20, 24], [10, 2, 30, 12]], np.float32)[: 2 * (index % 3 > 0)]
        return BoxArrays(corners, np.arange(len(corners), dtype=np.int64))


def parts(specs: dict[str, TaskSpec]) -> tuple[MultiTaskModule, MultiTaskDataModule]:
    readers = {name: InMemory(spec) for name, spec in specs.items()}
    tasks = {name: TaskData(reader, reader, reader, batch_size=2) for name, reader in readers.items()}
    data = MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=1)
    return MultiTaskModule(data.specs, Encoder("test_efficientnet_gn")), data


def trainer(folder: Path, callback: PredictionPictures, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {"logger": False, "max_epochs": 1}
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **(defaults | options),
    )


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("pictures/*")}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The names of the samples in each picture, by its caption."""
    names: dict[str, list[str]] = {}
    draw = pictures.draw

    def remember(examples: Any, caption: str) -> Image.Image:
        names[caption] = [example.name for example in examples]
        return draw(examples, caption)

    monkeypatch.setattr(pictures, "draw", remember)
    return names


@pytest.mark.filterwarnings("error:No picture")
def test_validation_and_test_write_a_picture_of_every_task_and_nothing_else(tmp_path: Path) -> None:
    module, data = parts(FIVE)
    run = trainer(tmp_path, PredictionPictures(samples=3))
    run.fit(module, data)
    assert files(tmp_path) == {f"val_{name}.png" for name in FIVE}
    run.test(module, data, verbose=False)
    assert files(tmp_path) == {f"{part}_{name}.png" for part in ("val", "test") for name in FIVE}
    for path in tmp_path.glob("pictures/*.png"):
        assert Image.open(path).convert("RGB").size[0] > 500


def test_the_sanity_check_draws_nothing(tmp_path: Path) -> None:
    module, data = parts({"plane": FIVE["plane"]})
    run = trainer(tmp_path, PredictionPictures(), num_sanity_val_steps=2, limit_train_batches=0)
    run.fit(module, data)
    assert files(tmp_path) == set()


def test_every_validation_shows_the_same_samples(tmp_path: Path, drawn: dict[str, list[str]]) -> None:
    module, data = parts({"plane": FIVE["plane"]})
    trainer(tmp_path, PredictionPictures(samples=3), max_epochs=2).fit(module, data)
    assert list(drawn) == ["plane, val, round 1", "plane, val, round 2"]
    assert len(set(map(tuple, drawn.values()))) == 1
    assert next(iter(drawn.values())) == ["where/0.png", "where/2.png", "where/4.png"]


def test_a_task_with_few_samples_shows_them_all(tmp_path: Path, drawn: dict[str, list[str]]) -> None:
    module, data = parts({"plane": FIVE["plane"]})
    trainer(tmp_path, PredictionPictures(samples=50)).validate(module, data, verbose=False)
    assert drawn == {"plane, val": [f"where/{i}.png" for i in range(5)]}


def test_a_picture_that_fails_is_warned_of_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = pictures.draw

    def fail(examples: Any, caption: str) -> Image.Image:
        if caption.startswith("plane"):
            raise OSError("no ink")
        return draw(examples, caption)

    monkeypatch.setattr(pictures, "draw", fail)
    module, data = parts({"plane": FIVE["plane"], "tissue": FIVE["tissue"]})
    with pytest.warns(UserWarning, match="No picture of task 'plane'.*no ink") as caught:
        trainer(tmp_path, PredictionPictures(), max_epochs=2).fit(module, data)
    assert len([w for w in caught if "No picture" in str(w.message)]) == 1
    assert files(tmp_path) == {"val_tissue.png"}


def test_a_picture_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, data = parts({"plane": FIVE["plane"]})
    run = trainer(tmp_path, PredictionPictures())
    run.validate(module, data, verbose=False)
    before = (tmp_path / "pictures/val_plane.png").read_bytes()

    def half_written(self: Image.Image, file: Path, **_: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.warns(UserWarning, match="disk full"):
        run.validate(module, data, verbose=False)
    assert (tmp_path / "pictures/val_plane.png").read_bytes() == before


@pytest.mark.parametrize("samples", [0, -1])
def test_no_samples_are_refused(samples: int) -> None:
    with pytest.raises(ValueError, match="samples must be positive"):
        PredictionPictures(samples=samples)


@pytest.mark.parametrize("size", [1, 2, 4, 7])
@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 17, 100, 1001])
def test_a_choice_is_spread_evenly_whatever_the_length(size: int, length: int) -> None:
    choice = EvenChoice(size)
    for index in range(length):
        if choice.wants_next():
            choice.add(index)  # type: ignore[arg-type]
    chosen: list[Any] = choice.chosen()
    assert len(set(chosen)) == len(chosen) == min(size, length)
    assert chosen == sorted(chosen)
    if size > 1 and length >= 2 * size:
        gaps = np.diff([*chosen, length])
        assert gaps.max() <= 4 * gaps[:-1].min()


def test_wandb_gets_overlays_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for variable in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    module, data = parts(FIVE)
    logger = WandbLogger(project="pictures", save_dir=tmp_path, offline=True)
    logged: dict[str, Any] = {}
    log = logger.experiment.log
    monkeypatch.setattr(logger.experiment, "log", lambda metrics, **k: (logged.update(metrics), log(metrics, **k)))
    try:
        with pytest.MonkeyPatch.context() as strict:
            strict.setattr(pictures, "rank_zero_warn", pytest.fail)
            trainer(tmp_path, PredictionPictures(samples=3), logger=logger).fit(module, data)
        _check_overlays({name: logged[f"pictures/val/{name}"] for name in FIVE})
        assert logged["trainer/global_step"] == 1
    finally:
        wandb.finish()
    media = next(tmp_path.glob("wandb/offline-run-*/files/media"))
    assert len(list(media.glob("images/pictures/val/*.png"))) == 3 * len(FIVE)
    assert len(list(media.glob("images/mask/**/*.png"))) == 3 * 2  # truth and prediction
    assert json.loads(next(media.rglob("*boxes2D.json")).read_text())["box_data"] is not None


def _check_overlays(images: dict[str, list[Any]]) -> None:
    assert all(len(of_task) == 3 for of_task in images.values())
    for name in ("plane", "findings", "position"):
        assert images[name][0]._masks is None
        assert images[name][0]._boxes is None
    assert "truth: axial" in images["plane"][0]._caption
    assert "mass: ?" in images["findings"][0]._caption
    assert "error" in images["position"][0]._caption
    assert set(images["tissue"][0]._masks) == {"ground_truth", "prediction"}
    boxes = images["cells"][1]._boxes["ground_truth"]._val  # the sample with index 2
    assert [(box["class_id"], box["box_caption"]) for box in boxes] == [(0, "red"), (1, "white")]
    assert boxes[0]["position"] == {"minX": 4, "minY": 4, "maxX": 20, "maxY": 24}
    assert images["cells"][0]._boxes["ground_truth"]._val == []
