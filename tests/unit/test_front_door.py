"""`import umedpt_lightning` is quick, and has what users need."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
from builders import SMALL_DETECTION, SMALL_PIXELS, readers_of, small_encoder
from PIL import Image

import umedpt_lightning as umedpt


def test_every_name_is_there() -> None:
    assert {"fit", "MultiTaskModel", "MedMNIST", "ClassSpec", "Task", "Encoder"} <= set(umedpt.__all__)
    assert [name for name in umedpt.__all__ if getattr(umedpt, name) is None] == []
    assert set(umedpt.__all__) <= set(dir(umedpt))
    with pytest.raises(AttributeError, match="no_such_name"):
        umedpt.no_such_name  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("given", [3, "a.yaml", {"train": None}])
def test_a_task_that_is_no_data_of_a_task_is_told(given: object) -> None:
    with pytest.raises(ValueError, match=r"tasks\['a'\] is .*, but has to be TaskData\(train="):
        umedpt.MultiTaskDataModule({"a": given})  # type: ignore[dict-item]


def test_a_run_from_python_has_what_a_run_of_the_command_line_has(tmp_path: Path) -> None:
    readers = readers_of({"a": "class", "b": "mask"})
    tasks = {name: umedpt.TaskData(train=reader, val=reader, batch_size=2) for name, reader in readers.items()}
    data = umedpt.MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=2)
    pl.seed_everything(0)
    blocks = {"pixel_decoder": SMALL_PIXELS, "detection_decoder": SMALL_DETECTION}
    module = umedpt.MultiTaskModule(data.specs, small_encoder(), **blocks)
    run = tmp_path / "run"
    trainer = umedpt.fit(module, data, run, max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    assert trainer.global_step == 2
    assert {file.name for file in run.iterdir()} >= {"metrics.csv", "metrics.json", "pictures", "checkpoints"}
    model = umedpt.MultiTaskModel.from_pretrained(run)
    probabilities = model.predict([readers["a"].images[0]], "a")[0]
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    assert np.asarray(model.predict([readers["b"].images[0]], "b")[0]).shape == (32, 32)
    again = umedpt.MultiTaskModule.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    assert again.training
    assert again.model.state_dict().keys() == module.model.state_dict().keys()
    umedpt.export_run(run, tmp_path / "model")
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file, image in zip(files, readers["a"].images, strict=False):
        Image.fromarray(image).save(file)
    predicted = umedpt.predict_files(model, list(map(str, files)), tmp_path / "predictions", ["a"])
    assert (len(predicted.written), predicted.inputs, predicted.failed) == (1, 2, [])
    embedded = umedpt.embed_files(model, list(map(str, files)), tmp_path / "vectors.npy", "a")
    assert (embedded.rows, embedded.computed) == (2, 2)
    assert umedpt.embed_files(model, list(map(str, files)), tmp_path / "vectors.npy", "a").computed == 0
    assert np.load(tmp_path / "vectors.npy").shape == (2, embedded.width)
    with pytest.raises(ValueError, match="already holds a run"):
        umedpt.fit(module, data, run, max_epochs=1)
    longer = umedpt.fit(module, data, run, ckpt_path="last", max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    assert longer.global_step == 4
