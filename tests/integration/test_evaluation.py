"""Validation and test through a real trainer: of the image's own pixels, and with nothing left out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, MemoryReader, readers_of, small_encoder, trainer_of
from numpy.typing import NDArray
from torch import Tensor
from volume_files import nifti

from benchmarks.ranks import on_ranks
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.data.readers import VolumeMasks
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.tasks import Classification
from umedpt_lightning.tasks.box_matching import average_precision, match_boxes
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.transfer.evaluation import predict_part
from umedpt_lightning.types import IGNORE_INDEX, BoxArrays, Sample

TASKS = {f"a_{kind}": kind for kind in KINDS}


class SmallObjects(MemoryReader):
    """Images of 128 pixels and less with objects of two and three, of which little is left when they are resized."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind, size=5, side=128)
        rng = np.random.default_rng(1)
        for index in range(len(self.values)):
            corners = rng.integers(0, 60, (8, 2)) * 2
            if kind == "mask":
                mask = np.zeros((128, 128), np.int16)
                for x, y in corners:
                    mask[y : y + 2, x : x + 2] = 1 + (x + y) % 2
                mask[:3] = IGNORE_INDEX
                self.values[index] = mask
            else:
                boxes = np.concatenate([corners, corners + 3], 1).astype(np.float32)
                self.values[index] = BoxArrays(boxes, np.arange(8, dtype=np.int64) % 3)

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        height = 128 - 8 * index  # the image and its truth
        target = sample.target[:height] if isinstance(sample.target, np.ndarray) else sample.target
        if isinstance(target, BoxArrays):
            inside = target.boxes[:, 3] <= height
            target = BoxArrays(target.boxes[inside], target.labels[inside])
        return replace(sample, image=sample.image[:height], target=target, stored_size=(height, 128))


def data_of(readers: dict[str, Any], **options: Any) -> MultiTaskDataModule:
    tasks = {
        name: TaskData(val=reader, test=reader, **({"batch_size": 2} | options)) for name, reader in readers.items()
    }
    return MultiTaskDataModule(tasks, num_workers=0)


def module_of(data: MultiTaskDataModule, **options: Any) -> MultiTaskModule:
    torch.manual_seed(0)
    module = MultiTaskModule(
        data.specs, small_encoder(), pixel_decoder=SMALL_PIXELS, detection_decoder=SMALL_DETECTION, **options
    )
    with torch.no_grad():
        for (
            task
        ) in module.model.tasks.values():  # outputs that differ from pixel to pixel, and boxes above the threshold
            for name, parameter in task.named_parameters():
                if name.endswith("weight"):
                    parameter.mul_(30)
                elif name.endswith("bias"):
                    parameter.fill_(0.3)
    return module


def evaluated(module: MultiTaskModule, data: MultiTaskDataModule, part: str = "val") -> dict[str, float]:
    trainer = trainer_of(limit_val_batches=1.0)
    (metrics,) = (trainer.validate if part == "val" else trainer.test)(module, data, verbose=False)
    return {name.removeprefix(f"{part}/"): value for name, value in metrics.items()}


def dice_by_hand(predictions: list[Any], truths: list[Any], label: int) -> float:
    said, true = (np.concatenate([np.asarray(m).ravel() for m in masks]) for masks in (predictions, truths))
    said, true = said[true != IGNORE_INDEX] == label, true[true != IGNORE_INDEX] == label
    return float(2 * (said & true).sum() / (said.sum() + true.sum()))


def answer_at_random(module: MultiTaskModule, task: str) -> None:
    """Whatever the pixels are like, each class somewhere; the same for all images of a size."""
    random = torch.Generator()

    def forward(pixels: Tensor) -> Tensor:
        one = torch.randn((1, 3, *pixels.shape[2:]), generator=random.manual_seed(1))
        return one.expand(len(pixels), -1, -1, -1)

    module.model.task(task).forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize("part", ["val", "test"])
def test_dice_is_of_the_images_own_pixels(part: str) -> None:
    reader = SmallObjects("mask")
    data = data_of({"lesions": reader}, size=32)
    module = module_of(data)
    answer_at_random(module, "lesions")
    found = evaluated(module, data, part)
    samples = [reader[i] for i in range(len(reader))]
    predictions = module.model.predict([s.image for s in samples], "lesions")
    for label in (1, 2):
        by_hand = dice_by_hand(predictions, [s.target for s in samples], label)
        assert found[f"lesions/dice_n{label}"] == pytest.approx(by_hand)
        assert by_hand < 1
    old = evaluated(module, data_of({"lesions": reader}, size=32, evaluate_at="resized"), part)
    assert old["lesions/dice"] != pytest.approx(found["lesions/dice"])


def test_average_precision_is_of_all_boxes_of_the_stored_image() -> None:
    reader = SmallObjects("box")
    data = data_of({"cells": reader}, size=(64, 32))
    module = module_of(data)
    found = evaluated(module, data)
    matches = []
    for i in range(len(reader)):
        (said,), truth = module.model.predict([reader[i].image], "cells"), reader[i].target
        boxes = torch.column_stack([said.boxes, said.labels, said.scores]).numpy()
        matches.append(match_boxes(boxes, np.column_stack(truth).astype(np.float32), 3, 300))
    over_all, at_half = average_precision(matches)
    assert found["cells/map50"] == pytest.approx(at_half, abs=1e-4)
    assert found["cells/map"] == pytest.approx(over_all, abs=1e-4)
    batches = {
        option: list(data_of({"cells": reader}, size=2, evaluate_at=option).val_dataloader())
        for option in ("stored", "resized")
    }
    counts = {name: sum(len(boxes.labels) for b in loader for boxes in b.targets) for name, loader in batches.items()}
    assert counts["stored"] == sum(len(reader[i].target.labels) for i in range(len(reader)))
    assert counts["resized"] == 0


def planted_volumes(folder: Path) -> tuple[VolumeMasks, NDArray[np.int16]]:
    """A reader that resamples to a quarter of the pixels, and the masks ``(N, H, W)`` of its slices as stored."""
    rng = np.random.default_rng(3)
    lines, truths = ["path,mask,split"], []
    for name, axes, shape in (("a", "RAS", (64, 48, 3)), ("b", "ILP", (48, 40, 2))):
        labels = np.zeros(shape, np.uint8)
        for x, y, z in zip(
            *(rng.integers(0, n - 1, 40) for n in shape[:2]), rng.integers(0, shape[2], 40), strict=True
        ):
            labels[x : x + 2, y, z] = 1 + (x + y) % 2  # lesions of two voxels
        nifti(folder / f"{name}.nii.gz", rng.integers(0, 256, shape, dtype=np.uint8), (0.5, 0.5, 2), axes)
        nifti(folder / f"{name}_mask.nii.gz", labels, (0.5, 0.5, 2), "LAS")  # of another orientation than the image
        lines.append(f"{name}.nii.gz,{name}_mask.nii.gz,val")
        truths += [labels[::-1, ::-1, k].T.astype(np.int16) for k in range(shape[2])]  # as radiologists see them
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    reader = VolumeMasks(folder / "table.csv", "val", ["no", "one", "two"], slices=Slices(spacing=2.0), channels=3)
    return reader, truths


@pytest.mark.parametrize("cache", ["none", "disk"])
@pytest.mark.parametrize("size", [None, 12])
def test_volumes_that_a_reader_resamples_count_in_the_voxels_of_the_label_file(
    tmp_path: Path, size: int | None, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    reader, truths = planted_volumes(tmp_path)
    options = {"size": size, "batch_size": 1 if size is None else 2, "cache": cache}
    data = data_of({"lesions": reader}, **options)
    module = module_of(data)
    answer_at_random(module, "lesions")
    for _ in range(2):  # from the files, and from the cache
        found = evaluated(module, data)
        said = []
        for batch in data.val_dataloader():
            said += module.model.eval().predict_batch(batch.images, "lesions", batch.stored_sizes)[0]
        assert [mask.shape for mask in said] == [truth.shape for truth in truths]
        for label, name in ((1, "one"), (2, "two")):
            assert found[f"lesions/dice_{name}"] == pytest.approx(dice_by_hand(said, truths, label))
    left = [int((reader[i].target > 0).sum()) for i in range(len(reader))]
    assert 0 < sum(left) < sum(int((truth > 0).sum()) for truth in truths) / 8
    scores = predict_part(module.model, "lesions", data.tasks["lesions"], reader, ComputeOptions()).score()
    assert scores["dice_one"] == pytest.approx(found["lesions/dice_one"])
    old = evaluated(module, data_of({"lesions": reader}, evaluate_at="resized", **options))
    assert old["lesions/dice_one"] != pytest.approx(found["lesions/dice_one"])
    assert all(
        batch.stored_targets is None
        for batch in MultiTaskDataModule(
            {"lesions": TaskData(train=reader, **options)}, num_workers=0, steps_per_epoch=1
        )
        .train_dataloader()
        .examples()
    )


def test_truth_crosses_the_process_border_packed_and_only_where_it_was_resized() -> None:
    reader = SmallObjects("mask")
    tasks = {"lesions": TaskData(val=reader, size=32, batch_size=5)}
    (batch,) = MultiTaskDataModule(tasks, num_workers=1).val_dataloader()
    for truth, index in zip(batch.unpack_targets(), range(5), strict=True):
        np.testing.assert_array_equal(truth.numpy(), reader[index].target)
        assert truth.numpy().dtype == reader[index].target.dtype
    assert sum(len(target.data) for target in batch.stored_targets) < 0.2 * sum(
        reader[i].target.nbytes for i in range(5)
    )
    same = MemoryReader("mask", side=32)
    (batch, *_) = data_of({"lesions": same}, size=32).val_dataloader()
    assert batch.stored_targets is None


def test_transfer_scores_in_the_images_own_pixels_as_validation_does() -> None:
    for kind in ("mask", "box"):
        reader = SmallObjects(kind)
        task_data = TaskData(val=reader, batch_size=2, size=(64, 32))
        data = MultiTaskDataModule({"new": task_data}, num_workers=0)
        module = module_of(data)
        found = evaluated(module, data)
        scores = predict_part(module.model, "new", task_data, reader, ComputeOptions()).score()
        assert scores == pytest.approx({name: found[f"new/{name}"] for name in scores}, abs=1e-6, nan_ok=True)


def test_the_validation_loss_is_the_mean_over_known_labels_whatever_the_batches() -> None:
    readers = readers_of({"a_class": "class", "a_multilabel": "multilabel", "a_regression": "regression"}, size=5)
    readers["a_class"].values[1] = IGNORE_INDEX
    readers["a_regression"].values[3][1:] = np.nan
    losses = []
    for batch_size in (4, 1):
        data = data_of(readers, batch_size=batch_size)
        found = evaluated(module_of(data), data)
        losses.append([found[f"{task}/loss"] for task in readers])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_samples_without_a_label_do_not_change_the_validation_loss() -> None:
    kinds = {f"a_{kind}": kind for kind in KINDS if kind != "box"}
    losses = []
    for size in (5, 3):
        readers = readers_of(kinds, size=5)
        for reader in readers.values():
            reader.images, reader.values = reader.images[:size], reader.values[:size]
            for index in range(3, size):
                value = np.asarray(reader.values[index])
                nothing = np.full_like(value, IGNORE_INDEX if value.dtype.kind == "i" else np.nan)
                reader.values[index] = nothing if value.ndim else IGNORE_INDEX
        data = data_of(readers, batch_size=1)
        found = evaluated(module_of(data), data)
        losses.append([found[f"{task}/loss"] for task in readers])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class _Broken:
    """Spoils the outputs for some samples, which are known by the number in their first pixel."""

    def __init__(self, module: MultiTaskModule, samples: set[int], value: float) -> None:
        self.samples, self.value = samples, value
        self.forward_of = module.model.forward
        module.model.forward = self  # type: ignore[method-assign]

    def __call__(self, images: Tensor, task: str) -> Any:
        output = self.forward_of(images, task)
        rows = [row for row, image in enumerate(images) if int(image[0, 0, 0]) in self.samples]
        for values in output.raw.values() if hasattr(output, "raw") else [output]:
            values[rows] = self.value
        return output


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["val", "test"])
def test_samples_whose_outputs_are_not_finite_are_named_and_lower_every_score(part: str, value: float) -> None:
    data = data_of(readers_of())
    module = module_of(data)
    with torch.no_grad():  # an answer that is wrong by more than ten deviations could not become worse
        module.model.task("a_regression").head.weight.mul_(1 / 30)
    whole = evaluated(module, data, part)
    _Broken(module, {1, 4}, value)
    with pytest.warns(UserWarning, match=rf"{part}: task .* not finite for 2 samples: sample 1, sample 4") as told:
        found = evaluated(module, data, part)
    texts = " ".join(str(warning.message) for warning in told)
    for task in TASKS:
        main = f"{task}/{module.model.task(task).main_metric}"
        assert f"task '{task}' gives" in texts
        assert found[main] < whole[main] or whole[main] == 0, main
        if part == "val":
            assert not math.isfinite(found[f"{task}/loss"])
    assert found["score"] < whole["score"]


class Own(Classification):
    """Does not say what it makes of numbers that are not finite."""

    counts_not_finite = False


def test_a_task_that_would_leave_them_out_ends_the_evaluation() -> None:
    data = data_of(readers_of({"a_class": "class"}))
    module = module_of(data, tasks={"a_class": Own})
    _Broken(module, {2}, math.nan)
    with pytest.raises(
        FloatingPointError, match=r"val: task 'a_class'.* 1 samples: sample 2.*counts_not_finite = True"
    ):
        evaluated(module, data)


def of_rank(tasks: dict[str, str], size: int, limit: float, devices: int) -> dict[str, float]:
    data = data_of(readers_of(tasks, size=size, side=64), batch_size=1)
    strategy = "ddp" if devices > 1 else "auto"
    trainer = trainer_of(
        limit_val_batches=limit,
        devices=devices,
        strategy=strategy,
        use_distributed_sampler=False,
        limit_test_batches=limit,
    )
    found: dict[str, float] = {}
    for run in (trainer.validate, trainer.test):
        (metrics,) = run(module_of(data), data, verbose=False)
        found |= metrics
    return found


@pytest.mark.parametrize(
    ("tasks", "size", "limit", "alone"),
    [(TASKS, 1, 1.0, 1.0), ({"a_mask": "mask"}, 5, 0.5, 2), ({"a_mask": "mask"}, 3, 0.5, 2)],
    ids=["one sample", "5 by half", "3 by half"],
)
def test_ranks_that_have_different_numbers_of_samples_find_what_one_process_finds(
    tasks: dict[str, str], size: int, limit: float, alone: float
) -> None:
    # half of the three, or of the two, micro-batches that the first rank has is one
    expected = of_rank(tasks, size, alone, 1)
    for found in on_ranks(of_rank, 2, tasks, size, limit, 2):
        assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
