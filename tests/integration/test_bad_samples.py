"""A sample that cannot be read: it stops the run, or is replaced and counted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import small_encoder, trainer_of
from PIL import Image

from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.readers import ClassFolders
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.bad_samples import BadSamples
from umedpt_lightning.types import TaskBatch

BROKEN = (2, 3, 7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images of two classes, three of which are broken."""
    for i in range(8):
        path = tmp_path / "images" / "ab"[i // 4] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(path)
        if i in BROKEN:
            path.write_bytes(path.read_bytes()[:60])
    return tmp_path / "images"


def data_of(folder: Path, **options: Any) -> MultiTaskDataModule:
    reader = ClassFolders(folder)
    tasks = {name: TaskData(train=reader, val=reader, batch_size=2) for name in ("one", "two")}
    return MultiTaskDataModule(tasks, **{"num_workers": 0, "on_bad_sample": "skip", **options})


def batches_of(data: MultiTaskDataModule) -> list[TaskBatch]:
    return [batch for batches in data.train_dataloader() for batch in batches]


def test_the_next_sample_stands_in_whatever_the_workers(folder: Path) -> None:
    asked = {2: 4, 3: 4, 7: 0}
    runs = [batches_of(data_of(folder, num_workers=workers)) for workers in (0, 2)]
    for here, there in zip(*runs, strict=True):
        assert (here.names, here.bad_samples) == (there.names, there.bad_samples)
        assert torch.equal(here.images, there.images)
    found = sorted(Path(name).stem for batch in runs[0] if batch.task == "one" for name in batch.names)
    assert found == sorted(str(asked.get(i, i)) for i in range(8))
    assert all(len(batch) == 2 for batch in runs[0])
    faults = [fault for batch in runs[0] if batch.task == "two" for fault in batch.bad_samples]
    assert sorted(fault.split(":")[0] for fault in faults) == [str(folder / "ab"[i // 4] / f"{i}.png") for i in BROKEN]


def test_the_log_counts_them_and_each_file_is_told_once(folder: Path) -> None:
    data = data_of(folder)
    trainer = trainer_of(max_steps=12)  # three times all
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(MultiTaskModule(data.specs, small_encoder()), data)
    counts = {key: float(value) for key, value in trainer.callback_metrics.items() if "skipped" in key}
    assert counts == {"train/one/skipped": 9.0, "train/two/skipped": 9.0}
    told = [str(warning.message) for warning in caught if "is replaced" in str(warning.message)]
    assert len(told) == len(BROKEN)
    for i in BROKEN:
        assert sum(f"{i}.png: not an image" in text and "Save it again" in text for text in told) == 1


def test_a_good_set_has_no_such_column(folder: Path) -> None:
    for i in BROKEN:
        (folder / "ab"[i // 4] / f"{i}.png").unlink()
    data = data_of(folder)
    trainer = trainer_of(max_steps=1)
    trainer.fit(MultiTaskModule(data.specs, small_encoder()), data)
    assert not [key for key in trainer.callback_metrics if "skipped" in key]


def test_otherwise_it_stops_the_run_with_task_file_and_mend(folder: Path) -> None:
    data = data_of(folder, on_bad_sample="stop")
    with pytest.raises(ValueError, match=r"Task 'one': .*\d\.png: not an image .*Save it again"):
        batches_of(data)


def test_evaluation_always_stops(folder: Path) -> None:
    data = data_of(folder)
    trainer = trainer_of(limit_val_batches=1.0)
    with pytest.raises(ValueError, match=r"Task 'one': .*2\.png"):
        trainer.validate(MultiTaskModule(data.specs, small_encoder()), data)


def test_many_in_a_row_stop_the_run_all_the_same(folder: Path) -> None:
    data = data_of(folder)
    for path in folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"Task 'one': 8 samples in a row cannot be read, the first: .*no such file"):
        batches_of(data)


def test_counts_are_those_of_the_whole_run() -> None:
    counter = BadSamples(["a", "b"])
    batch = TaskBatch("b", torch.zeros(1, 1, 2, 2), torch.zeros(1), ["x"], [(2, 2)], ["x.png: broken. Mend it."])
    with pytest.warns(UserWarning, match=r"Task 'b'.*x\.png: broken"):
        counter.add(batch)
    for total in (1.0, 2.0):
        assert counter.read(torch.device("cpu")) == {"b": total}
        counter.add(batch)


def test_counts_go_on_from_those_of_all_ranks() -> None:
    states = [{"counts": {"a": 2}}, {"counts": {"a": 1, "b": 3}}]
    counter = BadSamples(["a", "b", "c"])
    counter.load_state_dicts(states)
    assert counter.read(torch.device("cpu")) == {"a": 3.0, "b": 3.0}
    counter.load_state_dicts([counter.state_dict()])  # in the place of what was counted, not beside it
    assert counter.read(torch.device("cpu")) == {"a": 3.0, "b": 3.0}
