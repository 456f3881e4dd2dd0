"""A round with a real trainer: its gradients, its memory, its samples, its logs, its resume."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import albumentations
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, MemoryReader, readers_of, small_encoder, trainer_of
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from umedpt_lightning.blocks import BaseEncoder, BatchNormMode, Encoder, ViTEncoder
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.data.loading import loaders
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.training.profiling.saved_bytes import SavedBytes
from umedpt_lightning.types import TaskBatch

TASKS = {f"a_{kind}": kind for kind in KINDS}


def data_of(
    readers: dict[str, MemoryReader],
    micro_batches: dict[str, int] | None = None,
    augment: dict[str, Any] | None = None,
    **options: Any,
) -> MultiTaskDataModule:
    tasks = {
        name: TaskData(
            train=reader,
            val=reader,
            test=reader,
            batch_size=2,
            micro_batches=(micro_batches or {}).get(name, 1),
            augment=augment,
        )
        for name, reader in readers.items()
    }
    return MultiTaskDataModule(tasks, **{"num_workers": 0, **options})


def module_of(
    data: MultiTaskDataModule, seed: int = 0, encoder: Callable[[], BaseEncoder] = small_encoder, **options: Any
) -> MultiTaskModule:
    torch.manual_seed(seed)
    return MultiTaskModule(
        data.specs, encoder(), pixel_decoder=SMALL_PIXELS, detection_decoder=SMALL_DETECTION, **options
    )


class Gradients(pl.Callback):
    """Copies the gradients before each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        model = pl_module.model
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def gradients_of(data: MultiTaskDataModule, module: MultiTaskModule, rounds: int = 1) -> list[dict[str, Tensor]]:
    gradients = Gradients()
    trainer_of(max_steps=rounds, callbacks=[gradients]).fit(module, data)
    return gradients.steps


TINY_STEP = Optimization(learning_rate=1e-30, clip=None)


# --- gradients ------------------------------------------------------------------------------------------------------


def test_a_rounds_gradients_are_those_of_the_weighted_mean_loss_in_one_graph() -> None:
    micro_batches, weights = {"a_mask": 2, "a_box": 3}, {"a_class": 2.0, "a_box": 0.5}
    data = data_of(readers_of(), micro_batches)
    module = module_of(data, weights=weights, optimization=TINY_STEP).double()
    model = copy.deepcopy(module.model)
    (found,) = gradients_of(data, module)

    losses: dict[str, list[Tensor]] = {}
    for batch in next(iter(data_of(readers_of(), micro_batches).train_dataloader())):
        losses.setdefault(batch.task, []).append(
            model.task(batch.task).loss(model(batch.images, batch.task), batch.targets)
        )
    assert {task: len(values) for task, values in losses.items()} == dict.fromkeys(TASKS, 1) | micro_batches
    assert all(loss.dtype == torch.float64 for values in losses.values() for loss in values)
    weighted = [weights.get(task, 1.0) * torch.stack(values).mean() for task, values in losses.items()]
    (sum(weighted) / sum(weights.get(task, 1.0) for task in TASKS)).backward()

    expected = {n: p.grad for n, p in model.named_parameters()}
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-9, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_gradients_do_not_pile_up_over_rounds() -> None:
    readers = {"a": MemoryReader("class", size=2)}  # every round has the same two samples
    data = data_of(readers, steps_per_epoch=3)
    first, *later = gradients_of(data, module_of(data, optimization=TINY_STEP), rounds=3)
    for gradients in later:
        for name, gradient in first.items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)


def test_a_task_of_weight_zero_trains_nothing_and_its_head_stays() -> None:
    def gradients(kinds: dict[str, str], weights: dict[str, float]) -> dict[str, Tensor]:
        data = data_of(readers_of(kinds))
        return gradients_of(data, module_of(data, weights=weights, optimization=TINY_STEP))[0]

    both = gradients({"a": "class", "b": "regression"}, {"b": 0.0})
    alone = gradients({"a": "class"}, {})
    assert all((both[n] == 0).all() for n in both if n.startswith("tasks.b."))
    for name, gradient in alone.items():
        torch.testing.assert_close(both[name], gradient, atol=1e-6, rtol=1e-4)


def test_only_the_ratio_of_weights_matters() -> None:
    data = data_of(readers_of({"a": "class", "b": "regression"}))
    ratios = [{"a": 1.0, "b": 3.0}, {"a": 10.0, "b": 30.0}, {"a": 3.0, "b": 1.0}]
    one, ten, other = (gradients_of(data, module_of(data, weights=w, optimization=TINY_STEP))[0] for w in ratios)
    for name, gradient in one.items():
        torch.testing.assert_close(ten[name], gradient)
    assert any(not torch.allclose(other[name], gradient) for name, gradient in one.items())


def test_weights_of_unknown_tasks_and_negative_ones_are_refused() -> None:
    data = data_of(readers_of({"a": "class"}))
    with pytest.raises(ValueError, match=r"model\.weights\.typo.*Known from data\.tasks: a"):
        module_of(data, weights={"typo": 1.0})
    with pytest.raises(ValueError, match=r"model\.weights\.a must not be negative.*-1"):
        module_of(data, weights={"a": -1.0})


def test_clipping_bounds_the_norm_of_all_gradients_together() -> None:
    class Norm(pl.Callback):
        found = 0.0

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            self.found = float(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).norm())

    norms = {}
    for clip in (1e-3, 1e9, None):
        data = data_of(readers_of({"a": "class"}))
        norm = Norm()
        module = module_of(data, optimization=Optimization(clip=clip))
        trainer_of(max_steps=1, callbacks=[norm]).fit(module, data)
        norms[clip] = norm.found
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[1e9] == norms[None] > 0.01


# --- memory ---------------------------------------------------------------------------------------------------------


def peak_of(kinds: dict[str, str], encoder: Callable[[], BaseEncoder] = small_encoder) -> int:
    data = data_of(readers_of(kinds))
    module = module_of(data, encoder=encoder)
    with SavedBytes() as saved:
        trainer_of(max_steps=2).fit(module, data)
    assert saved.alive == 0
    return saved.peak


def test_a_round_of_sixteen_tasks_keeps_no_more_activations_than_its_largest_task() -> None:
    many = {f"t{i}_{KINDS[i % 5]}": KINDS[i % 5] for i in range(16)}
    largest = max(peak_of({name: kind}) for name, kind in list(many.items())[:5])
    assert largest > 100_000
    assert peak_of(many) <= 1.01 * largest


def test_of_sixty_four_tasks_no_more_is_kept_than_of_one() -> None:
    assert peak_of({f"t{i}": "class" for i in range(64)}) <= 1.01 * peak_of({"t0": "class"})


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [0, 8])
def test_of_sixty_four_tasks_a_vision_transformer_keeps_no_more_than_of_the_largest(lora_rank: int) -> None:
    if lora_rank:
        pytest.importorskip("peft")
    tiny = {"depth": 2, "embed_dim": 32, "num_heads": 2}
    encoder = partial(ViTEncoder, "vit_tiny_patch16_224", model_args=tiny, lora_rank=lora_rank)
    many = {f"t{i}_{KINDS[i % 5]}": KINDS[i % 5] for i in range(64)}
    largest = max(peak_of({name: kind}, encoder) for name, kind in list(many.items())[:5])
    assert largest > 100_000
    assert peak_of(many, encoder) <= 1.01 * largest


def test_sixteen_tasks_keep_a_tenth_at_most_of_what_one_loss_of_all_keeps() -> None:
    kinds = {f"t{i}": "class" for i in range(16)}
    data = data_of(readers_of(kinds))
    model = module_of(data).model
    with SavedBytes() as saved:
        batches = list(next(iter(data.train_dataloader())))
        losses = [model.task(b.task).loss(model(b.images, b.task), b.targets) for b in batches]
        torch.stack(losses).mean().backward()
    assert peak_of(kinds) <= 0.10 * saved.peak


@pytest.mark.parametrize("pixels", [0, 4 * 32 * 32, 10**9])
def test_a_step_of_packs_has_the_gradients_of_a_step_without(pixels: int) -> None:
    micro_batches, weights = {"a_class": 3, "a_multilabel": 2, "a_mask": 2}, {"a_class": 2.0}

    def gradients(**options: Any) -> dict[str, Tensor]:
        data = data_of(readers_of(), micro_batches)
        return gradients_of(data, module_of(data, weights=weights, optimization=TINY_STEP, **options))[0]

    expected, found = gradients(), gradients(pack_pixels=pixels)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_at_most_two_micro_batches_are_alive_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    born: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    collate = loaders.collate_micro_batch

    def counted(items: Any) -> TaskBatch:
        batch = collate(items)
        born.append(weakref.ref(batch.images))
        alive.append(sum(images() is not None for images in born))
        return batch

    monkeypatch.setattr(loaders, "collate_micro_batch", counted)
    data = data_of(readers_of(), {"a_class": 4})
    trainer_of(max_steps=3).fit(module_of(data), data)
    assert len(born) == 3 * (len(TASKS) + 3)
    assert max(alive) <= 2


# --- samples --------------------------------------------------------------------------------------------------------


def rounds_of(data: MultiTaskDataModule, rounds: int) -> list[TaskBatch]:
    """The micro-batches of the next rounds, over the ends of epochs."""

    def endless() -> Iterator[TaskBatch]:
        loader = data.train_dataloader()
        while True:
            for round_ in loader:
                yield from round_

    stream, micro_batches = endless(), sum(task.micro_batches for task in data.tasks.values())
    return [next(stream) for _ in range(rounds * micro_batches)]


def noise() -> dict[str, Any]:
    return {
        "flip": albumentations.HorizontalFlip(p=0.5),
        "shift": albumentations.RandomBrightnessContrast(p=1.0),
        "noise": albumentations.GaussNoise(p=1.0),
    }


def test_samples_and_their_augmentation_do_not_depend_on_the_number_of_workers() -> None:
    def read(workers: int) -> list[TaskBatch]:
        readers = readers_of({"a": "class", "b": "mask"}, size=5)
        return rounds_of(data_of(readers, {"b": 2}, noise(), num_workers=workers), 6)

    alone = read(0)
    for workers in (1, 2):
        for found, expected in zip(read(workers), alone, strict=True):
            assert (found.task, found.names) == (expected.task, expected.names)
            assert torch.equal(found.images, expected.images)
            assert torch.equal(found.targets, expected.targets)


def test_no_two_samples_get_the_same_augmentation_whatever_worker_or_pass_they_are_of() -> None:
    reader = MemoryReader("class", size=8)
    reader.images[:] = 128  # only augmentation can tell them apart
    batches = rounds_of(data_of({"a": reader}, augment=noise(), num_workers=2), 3 * 4)
    images = {image.numpy().tobytes() for batch in batches for image in batch.images}
    assert len(images) == 3 * 8


def test_another_seed_gives_another_order_and_another_augmentation() -> None:
    def read(seed: int) -> list[TaskBatch]:
        return rounds_of(data_of(readers_of({"a": "class"}, size=20), augment=noise(), seed=seed), 10)

    one, again, other = read(0), read(0), read(1)
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, again, strict=True))
    assert [b.names for b in one] != [b.names for b in other]
    by_name = [{n: i for b in run for n, i in zip(b.names, b.images, strict=True)} for run in (one, other)]
    assert by_name[0].keys() == by_name[1].keys()
    assert all(not torch.equal(by_name[0][n], by_name[1][n]) for n in by_name[0])


def test_an_epoch_is_one_pass_of_the_longest_task_or_as_many_rounds_as_asked_for() -> None:
    readers = {"a": MemoryReader("class", size=7), "b": MemoryReader("class", size=2)}
    assert len(data_of(readers).train_dataloader()) == 4
    data = data_of(readers, steps_per_epoch=3)
    trainer = trainer_of(max_epochs=2)
    trainer.fit(module_of(data), data)
    assert trainer.global_step == 6
    assert data_of(readers).train_dataloader().sampler.rounds_in_a_pass() == 4


# --- logs -----------------------------------------------------------------------------------------------------------


def test_each_task_logs_its_loss_and_the_run_its_mean_rate_norm_and_speed() -> None:
    weights = {"a_class": 3.0}
    data = data_of(readers_of())
    trainer = trainer_of(max_steps=2)
    module = module_of(data, weights=weights)
    trainer.fit(module, data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    losses = {task: logged.pop(f"train/{task}/loss") for task in TASKS}
    assert all(0.2 < loss < 5 for loss in losses.values())
    mean = sum(weights.get(task, 1.0) * loss for task, loss in losses.items()) / (len(TASKS) + 2)
    assert logged.pop("train/loss") == pytest.approx(mean)
    assert logged.keys() >= {"train/learning_rate", "train/gradient_norm", "train/samples_per_second"}
    assert logged["train/gradient_norm"] == pytest.approx(module.gradients.norm)
    assert all(value > 0 for value in logged.values())


class Returned(pl.Callback):
    """Keeps what callbacks are given of a round."""

    loss = math.nan

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.loss = float(outputs["loss"])


def test_the_loss_that_callbacks_are_given_is_the_weighted_mean_too() -> None:
    data, returned = data_of(readers_of()), Returned()
    trainer = trainer_of(max_steps=1, callbacks=[returned])
    trainer.fit(module_of(data, weights={"a_class": 3.0}), data)
    assert returned.loss == pytest.approx(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.parametrize("part", ["val", "test"])
def test_metrics_are_named_by_part_and_task_and_the_score_is_the_mean_of_the_main_ones(part: str) -> None:
    data = data_of(readers_of())
    module = module_of(data)
    trainer = trainer_of(limit_val_batches=1.0)
    (logged,) = (trainer.validate if part == "val" else trainer.test)(module, data, verbose=False)
    expected = {f"{part}/{task}/{metric}" for task in TASKS for metric in module.model.task(task).compute()}
    expected |= {f"val/{task}/loss" for task in TASKS} if part == "val" else set()
    assert logged.keys() == expected | {f"{part}/score"}
    main = [logged[f"{part}/{task}/{module.model.task(task).main_metric}"] for task in TASKS]
    assert logged[f"{part}/score"] == pytest.approx(np.nanmean(main), rel=1e-5)  # a float32 mean
    with torch.inference_mode():
        for batch in data.val_dataloader():  # as an interrupted validation would leave it
            task = module.model.task(batch.task)
            task.update(task.baseline(batch.targets), batch.targets)
            module.val_losses[batch.task].update(1e6)
    (again,) = (trainer.validate if part == "val" else trainer.test)(module, data, verbose=False)
    assert again == pytest.approx(logged, nan_ok=True)


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0")
def test_one_dev_run_trains_every_task_and_gets_through_validation() -> None:
    data = data_of(readers_of())
    module = module_of(data)
    before = copy.deepcopy(module.model.state_dict())
    trainer = pl.Trainer(fast_dev_run=1, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(module, data)
    heads = {k: v for k, v in module.model.state_dict().items() if k.startswith("tasks.") and k.endswith("head.weight")}
    assert heads
    assert all(not torch.equal(v, before[k]) for k, v in heads.items())
    assert trainer.global_step == 1


@pytest.mark.parametrize(("mode", "moves"), [("keep", True), ("freeze", False)])
def test_frozen_statistics_stay_as_they_are_in_a_trainers_hands(mode: BatchNormMode, moves: bool) -> None:
    data = data_of({"a_class": MemoryReader("class")})
    module = MultiTaskModule(data.specs, Encoder("test_resnet", batch_norm=mode))

    def statistics() -> list[Tensor]:
        return [buffer.clone() for name, buffer in module.named_buffers() if "running" in name]

    before = statistics()
    trainer_of(max_epochs=1, limit_val_batches=1, num_sanity_val_steps=1).fit(module, data)
    assert len(before) > 4
    assert all(not torch.equal(a, b) for a, b in zip(before, statistics(), strict=True)) == moves


def test_training_without_an_end_is_refused() -> None:
    data = data_of(readers_of({"a": "class"}))
    with pytest.raises(ValueError, match=r"needs an end.*max_steps or trainer\.max_epochs"):
        trainer_of(max_steps=-1, max_epochs=-1).fit(module_of(data), data)


# --- resume ---------------------------------------------------------------------------------------------------------


def test_a_run_resumed_in_mid_epoch_ends_with_the_same_bits(tmp_path: Path) -> None:
    def run(seed: int, folder: str, **options: Any) -> dict[str, Tensor]:
        readers = readers_of({"a": "class", "b": "mask"}, size=7)
        data = data_of(readers, augment=noise(), steps_per_epoch=5)
        module = module_of(data, seed)
        saver = ModelCheckpoint(tmp_path / folder, "{step}", every_n_train_steps=3, save_top_k=-1)
        trainer = trainer_of(max_steps=8, callbacks=[saver], enable_checkpointing=True)
        trainer.fit(module, data, **options)
        assert trainer.global_step == 8
        assert trainer.train_dataloader.state_dict() == {"rounds": 8, "consumed": {"a": 16, "b": 16}, "costs": {}}
        return module.state_dict()

    whole = run(0, "whole")
    for step in (3, 6):  # the third and sixth of rounds that come in fives
        resumed = run(99, f"resumed{step}", ckpt_path=tmp_path / "whole" / f"step={step}.ckpt")
        assert whole.keys() == resumed.keys()
        for name, value in whole.items():
            assert torch.equal(resumed[name], value), name
