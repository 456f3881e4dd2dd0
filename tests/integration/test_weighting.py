"""Loss weightings and gradient aggregators from a user's file: told, saved, resumed, the same on all ranks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import own_training
import pytest
import torch
from builders import SMALL_DETECTION, SMALL_PIXELS, MemoryReader, readers_of, small_encoder, trainer_of
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from benchmarks.ranks import on_ranks
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.data.loading.schedule import SomeTasks
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.training.weighting import (
    DynamicWeightAverage,
    FastAdaptiveWeights,
    FixedWeights,
    ImpartialWeights,
    RandomWeights,
    UncertaintyWeights,
)
from umedpt_lightning.types import IGNORE_INDEX

KINDS = {"a": "class", "b": "mask", "c": "regression"}
STEPS = 6
WEIGHTINGS = [
    own_training.UncertaintyWeights,
    own_training.SlowestFirst,
    UncertaintyWeights,
    ImpartialWeights,
    RandomWeights,
    partial(DynamicWeightAverage, stretch=1),
    FastAdaptiveWeights,
]
any_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS, ids=str)


def data_of(distribute: str = "samples", times: int = 1) -> MultiTaskDataModule:
    readers = readers_of(KINDS, size=7)
    tasks = {name: TaskData(train=r, val=r, batch_size=2, micro_batches=times) for name, r in readers.items()}
    schedule = partial(SomeTasks, per_round=2)
    return MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=3, schedule=schedule, distribute=distribute)


def module_of(data: MultiTaskDataModule, **options: Any) -> MultiTaskModule:
    torch.manual_seed(0)
    blocks = {"pixel_decoder": SMALL_PIXELS, "detection_decoder": SMALL_DETECTION}
    return MultiTaskModule(data.specs, small_encoder(), **blocks, **{"weights": {"b": 3.0}, **options}).double()


class Weights(pl.Callback):
    """Keeps the weights of every round."""

    def __init__(self) -> None:
        self.found: list[list[float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.found.append(pl_module.gradients.coefficients.weights.tolist())


# --- weightings -------------------------------------------------------------------------------------------------------


def test_fixed_weights_are_those_of_the_config_and_are_the_default() -> None:
    module = module_of(data_of())
    assert isinstance(module.weighting, FixedWeights)
    assert module.weighting(7).tolist() == [1.0, 3.0, 1.0]
    assert list(module.weighting.parameters()) == []
    assert module.weighting.state_by_task() == {}
    assert not any("weighting" in name for name in module.state_dict())


def test_log_variances_learn_as_in_the_joint_loss_of_the_paper() -> None:
    data = MultiTaskDataModule({"a": TaskData(train=MemoryReader("class", size=2), batch_size=2)}, num_workers=0)
    slow = Optimization(optimizer=partial(torch.optim.SGD, lr=0.1), clip=1e-9, warmup=0, final=1)
    module = module_of(data, weighting=own_training.UncertaintyWeights, optimization=slow, weights={})
    trainer = trainer_of(max_steps=3)
    trainer.fit(module, data)
    loss, s = float(trainer.callback_metrics["train/a/loss"]), 0.0  # clipping keeps the model as it is
    for _ in range(3):
        s -= 0.1 * (1 - float(torch.exp(torch.tensor(-s, dtype=torch.float64))) * loss)
    assert module.weighting.log_variances["a"].item() == pytest.approx(s, rel=1e-4)


@any_weighting
def test_weights_change_with_the_losses_and_are_logged(weighting: Any) -> None:
    data, weights = data_of(), Weights()
    trainer = trainer_of(max_steps=STEPS, callbacks=[weights])
    trainer.fit(module_of(data, weighting=weighting), data)
    assert len({str(found) for found in weights.found}) >= STEPS - 2  # some need a round or two of each task
    logged = [float(trainer.callback_metrics[f"train/{task}/weight"]) for task in KINDS]
    assert logged == pytest.approx(weights.found[-1])


@pytest.mark.parametrize(
    ("weighting", "averaged"),
    # averaged: of one that learns parameters and of one that keeps tensors, the others beside the slow tests
    [
        *((one, False) for one in WEIGHTINGS),
        *((one, True) for one in WEIGHTINGS[:2]),
        *(pytest.param(one, True, marks=pytest.mark.slow) for one in WEIGHTINGS[2:]),
    ],
    ids=str,
)
def test_a_weighting_goes_on_with_the_same_bits(weighting: Any, averaged: bool, tmp_path: Path) -> None:
    def run(checkpoint: Path | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        data = data_of()
        module = module_of(data, weighting=weighting)
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        callbacks = [EMAWeightAveraging(decay=0.8)] if averaged else []
        trainer = trainer_of(max_steps=STEPS, callbacks=[*callbacks, saver], enable_checkpointing=True)
        trainer.fit(module, data, ckpt_path=checkpoint)
        return module.state_dict(), module.weighting.state_by_task()

    state, by_task = run(None)
    for step in (2, 4):
        again, by_task_again = run(tmp_path / f"step={step}.ckpt")
        assert state.keys() == again.keys()
        assert all(torch.equal(again[name], value) for name, value in state.items())
        assert by_task == by_task_again


@any_weighting
def test_the_state_in_a_checkpoint_is_by_task(weighting: Any, tmp_path: Path) -> None:
    data = data_of()
    saver = ModelCheckpoint(tmp_path, "last", every_n_train_steps=STEPS)
    trainer_of(max_steps=STEPS, callbacks=[saver], enable_checkpointing=True).fit(
        module_of(data, weighting=weighting), data
    )
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    names = {name for state in saved["weighting"].values() for name in state}
    names |= {name.rpartition(".")[2] for name in saved["state_dict"] if name.startswith("weighting.")}
    assert names == (set() if weighting is RandomWeights else set(KINDS))  # whose draws follow from the round
    other = weighting({"c": 1.0, "new": 1.0, "a": 1.0}).double()
    beginning = other.state_by_task()
    other.load_state_by_task(saved["weighting"])
    for name, state in other.state_by_task().items():
        assert state["a"] == saved["weighting"][name]["a"]
        assert state["c"] == saved["weighting"][name]["c"]
        assert state["new"] == beginning[name]["new"]


@pytest.mark.parametrize("before", [FixedWeights, own_training.UncertaintyWeights, own_training.SlowestFirst])
@pytest.mark.parametrize("after", [FixedWeights, own_training.UncertaintyWeights])
def test_a_run_goes_on_with_another_weighting_and_other_tasks(before: Any, after: Any, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    data = data_of()
    trainer_of(max_steps=2, callbacks=[saver], enable_checkpointing=True).fit(module_of(data, weighting=before), data)
    tasks = {"new" if name == "c" else name: task for name, task in data_of().tasks.items()}
    data = MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=3)
    module = module_of(data, weighting=after)
    trainer = trainer_of(max_steps=4)
    trainer.fit(module, data, ckpt_path=tmp_path / "step=2.ckpt")
    assert trainer.global_step == 4
    assert module.gradients.coefficients.weights.isfinite().all()


def trained(world_size: int, weighting: Any, distribute: str = "samples", times: int = 1) -> dict[str, Any]:
    data = data_of(distribute, times)
    module, weights = module_of(data, weighting=weighting), Weights()
    trainer = trainer_of(
        max_steps=STEPS,
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        use_distributed_sampler=False,
        callbacks=[weights],
    )
    trainer.fit(module, data)
    return {"state": module.state_dict(), "weights": weights.found}


@pytest.mark.parametrize(
    ("weighting", "distribute"), [(own_training.UncertaintyWeights, "samples"), (own_training.SlowestFirst, "tasks")]
)
def test_two_ranks_weigh_as_one_process_does(weighting: Any, distribute: str) -> None:
    expected = trained(1, weighting, times=2 if distribute == "samples" else 1)
    for found in on_ranks(trained, 2, 2, weighting, distribute):
        for one, other in zip(found["weights"], expected["weights"], strict=True):
            assert one == pytest.approx(other, rel=1e-9)
        for name, value in expected["state"].items():
            torch.testing.assert_close(found["state"][name], value, rtol=0, atol=1e-9, msg=name)


# --- the package's own, against their formulas ------------------------------------------------------------------------

TASKS = {"a": 1.0, "b": 2.0}


def losses_of(*values: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(values), torch.tensor([value > 0 for value in values])


def test_uncertainties_and_scales_go_where_their_terms_are_least() -> None:
    losses, present = losses_of(0.5, 2.0)
    for weighting, least in ((UncertaintyWeights(TASKS), (2 * losses).log()), (ImpartialWeights(TASKS), -losses.log())):
        optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1)
        for _ in range(300):
            optimizer.zero_grad()
            weighting.update(losses, present)
            optimizer.step()
        torch.testing.assert_close(torch.stack([*weighting.parameters()]).detach(), least, atol=1e-3, rtol=0)
        # then a task's weight is the inverse of its loss
        torch.testing.assert_close((weighting(0) * losses)[1] / (weighting(0) * losses)[0], torch.tensor(2.0), **CLOSE)


CLOSE: dict[str, float] = {"rtol": 1e-3, "atol": 0}


@any_weighting
def test_a_task_that_is_not_in_the_round_teaches_nothing(weighting: Any) -> None:
    made = weighting(TASKS)
    for _ in range(3):
        made.zero_grad()
        made.update(*losses_of(0.5, 2.0))
    before = {name: state.clone() for name, state in made.state.items()}
    made.zero_grad()
    made.update(*losses_of(0.7, 0.0))
    for name, state in made.state.items():
        assert state[1] == before[name][1], name
    assert all(not p.grad for name, p in made.named_parameters() if name.endswith(".b"))


def test_random_weights_follow_from_seed_and_round_alone() -> None:
    drawn = torch.stack([RandomWeights({"a": 1.0, "b": 1.0})(number) for number in range(2000)])
    assert len({tuple(row) for row in drawn.tolist()}) == 2000
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.5, 0.5], dtype=torch.float64), atol=0.02, rtol=0)
    assert torch.equal(RandomWeights(TASKS)(7), RandomWeights(TASKS)(7))
    assert not torch.equal(RandomWeights(TASKS)(7), RandomWeights(TASKS, seed=1)(7))


def test_what_falls_slowly_gets_more_by_the_average_of_two_stretches() -> None:
    weighting = DynamicWeightAverage(TASKS, temperature=0.5, stretch=2)
    for a, b in ((1.0, 1.0), (1.0, 3.0), (0.6, 1.0), (0.4, 3.0)):
        assert weighting(0).tolist() == pytest.approx([0.5, 1.0])  # their ratio is that of model.weights
        weighting.update(*losses_of(a, b))
    ratio = torch.tensor([0.5, 1.0])  # of the means 0.5 / 1 and 2 / 2
    torch.testing.assert_close(weighting(0), torch.tensor([1.0, 2.0]) * torch.softmax(ratio / 0.5, 0))
    for a, b in ((0.3, 1.0), (0.1, 3.0)):
        weighting.update(*losses_of(a, b))
    ratio = torch.tensor([0.4, 1.0])  # of 0.2 / 0.5 and 2 / 2: nothing of the first stretch is left
    torch.testing.assert_close(weighting(0), torch.tensor([1.0, 2.0]) * torch.softmax(ratio / 0.5, 0))


def test_what_falls_slowly_gets_more_by_its_logarithm() -> None:
    weighting = FastAdaptiveWeights({"a": 1.0, "b": 1.0}, decay=0.01)
    logits = torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.025, weight_decay=0.01)
    losses = [losses_of(0.9**number, 2.0 + 0.1 * (number % 3)) for number in range(20)]
    for number, (after, present) in enumerate(losses):
        weighting.update(after, present)
        if number:  # as the authors' program does it
            fall = losses[number - 1][0].log() - after.log()
            adam.zero_grad()
            torch.softmax(logits, 0).backward(fall)
            adam.step()
    torch.testing.assert_close(weighting.state["logits"], logits.detach())
    assert weighting.state["logits"][1] > 0.1 > weighting.state["logits"][0]
    z = torch.softmax(logits, 0).detach()
    torch.testing.assert_close(weighting(0), z / losses[-1][0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DynamicWeightAverage(TASKS, temperature=0), "temperature and stretch .* must be positive"),
        (lambda: FastAdaptiveWeights(TASKS, rate=0), "rate of FastAdaptiveWeights must be positive"),
    ],
)
def test_numbers_that_make_no_weighting_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@any_weighting
def test_a_task_of_weight_0_stays_without_weight_and_one_task_trains(weighting: Any) -> None:
    if weighting is own_training.SlowestFirst:
        pytest.skip("goes its own way")
    made = weighting({"a": 0.0, "b": 1.0})
    made.update(*losses_of(0.5, 2.0))
    assert made(1)[0] == 0
    assert made(1)[1] > 0
    data = MultiTaskDataModule({"a": TaskData(train=MemoryReader("class", size=2), batch_size=2)}, num_workers=0)
    module = module_of(data, weighting=weighting, weights={})
    trainer_of(max_steps=2).fit(module, data)
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_a_scaler_leaves_the_weightings_gradients_as_they_are() -> None:
    found = []
    for scale in (1.0, 2.0**10):
        data = data_of()
        module = module_of(data, weighting=own_training.UncertaintyWeights).float()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        precision = MixedPrecision("16-mixed", "cpu", scaler)
        trainer_of(max_steps=1, plugins=[precision]).fit(module, data)
        found.append([None if p.grad is None else float(p.grad) for p in module.weighting.parameters()])
    assert found[0] == pytest.approx(found[1], rel=1e-2)


def test_a_round_that_is_left_out_whole_teaches_nothing() -> None:
    reader = MemoryReader("class", size=2)
    reader.images = torch.full(reader.images.shape, torch.inf).numpy()
    data = MultiTaskDataModule({"a": TaskData(train=reader, batch_size=2)}, num_workers=0)
    module = module_of(data, weighting=own_training.SlowestFirst, weights={})
    with pytest.warns(UserWarning, match="left out"):
        trainer_of(max_steps=1).fit(module, data)
    assert module.weighting.state["rounds"].tolist() == [0.0]


def test_weights_that_leave_nothing_to_train_are_refused() -> None:
    readers = readers_of({"a": "class", "b": "class"})
    data = MultiTaskDataModule(
        {"a": TaskData(train=readers["a"], batch_size=2), "b": TaskData(val=readers["b"])}, num_workers=0
    )
    with pytest.raises(ValueError, match=r"model\.weights: all tasks that are trained have weight 0"):
        trainer_of(max_steps=1).fit(module_of(data, weights={"a": 0.0}), data)


def test_weights_that_are_not_one_a_task_are_refused() -> None:
    class One(FixedWeights):
        def forward(self, number: int) -> Tensor:
            return self.weights[:1]

    data = data_of()
    with pytest.raises(ValueError, match=r"model\.weighting: One gives weights of shape \(1,\), but there are 3 tasks"):
        trainer_of(max_steps=1).fit(module_of(data, weighting=One), data)


def test_a_weighting_learns_from_the_mean_over_a_tasks_micro_batches() -> None:
    class Seen(own_training.SlowestFirst):
        def update(self, losses: Tensor, present: Tensor) -> None:
            seen.append((losses.clone(), present.clone()))

    seen: list[tuple[Tensor, Tensor]] = []
    data = data_of(times=3)
    trainer = trainer_of(max_steps=1)
    trainer.fit(module_of(data, weighting=Seen), data)
    ((losses, present),) = seen
    logged = [float(trainer.callback_metrics.get(f"train/{task}/loss", 0.0)) for task in KINDS]
    assert losses.tolist() == pytest.approx(logged)
    assert present.tolist() == [loss > 0 for loss in logged]
    assert sum(present.tolist()) == 2


def test_micro_batches_without_a_label_teach_a_weighting_nothing() -> None:
    class Seen(FastAdaptiveWeights):
        def update(self, losses: Tensor, present: Tensor) -> None:
            super().update(losses, present)
            seen.append((losses.tolist(), present.tolist(), self(1).tolist()))

    seen: list[tuple[Any, Any, Any]] = []
    readers = readers_of({"a": "class", "b": "class"}, size=4)
    readers["a"].values = [2, *[IGNORE_INDEX] * 3]
    readers["b"].values = [IGNORE_INDEX] * 4
    tasks = {name: TaskData(train=reader, batch_size=1, micro_batches=4) for name, reader in readers.items()}
    data = MultiTaskDataModule(tasks, num_workers=0)
    trainer = trainer_of(max_steps=1)
    trainer.fit(module_of(data, weighting=Seen, weights={}), data)
    (((a, b), present, weights),) = seen
    assert a == pytest.approx(4 * float(trainer.callback_metrics["train/a/loss"]))  # which is a mean over all four
    assert (b, present) == (0, [True, False])
    assert weights[1] == 0.5, "a loss of 0 would have it grow beyond all bounds"


# --- an aggregator ----------------------------------------------------------------------------------------------------


def test_an_aggregator_sees_what_each_micro_batch_adds_packed_or_not() -> None:
    found = {}
    for pack_pixels in (0, 10**9):
        data, aggregator = data_of(times=2), own_training.KeepTasksApart(1.0)
        module = module_of(data, aggregator=aggregator, optimization=Optimization(clip=None), pack_pixels=pack_pixels)
        trainer_of(max_steps=1).fit(module, data)
        in_round = [task for task, _ in aggregator.added]
        assert sorted(in_round) == sorted(2 * [*dict.fromkeys(in_round)])
        for name, gradient in module.gradients.buffer.gradients.items():
            torch.testing.assert_close(sum(added[name] for _, added in aggregator.added), gradient)
        for task, added in aggregator.added:
            heads = {name.split(".")[1] for name, g in added.items() if name.startswith("tasks.") and g.any()}
            assert heads == {task}
        found[pack_pixels] = aggregator.added
    for (task, one), (other_task, other) in zip(found[0], found[10**9], strict=True):
        assert task == other_task
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_an_aggregator_writes_is_what_is_exchanged_and_clipped() -> None:
    norms = []
    for aggregator in (None, own_training.KeepTasksApart(4.0)):
        data = data_of()
        module = module_of(data, aggregator=aggregator)
        trainer_of(max_steps=1).fit(module, data)
        norms.append(module.gradients.norm)
    assert norms[1] == pytest.approx(4 * norms[0])


def test_an_aggregators_state_is_in_the_checkpoint(tmp_path: Path) -> None:
    data = data_of()
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    trainer_of(max_steps=4, callbacks=[saver], enable_checkpointing=True).fit(
        module_of(data, aggregator=own_training.KeepTasksApart()), data
    )
    data, aggregator = data_of(), own_training.KeepTasksApart()
    trainer_of(max_steps=4).fit(module_of(data, aggregator=aggregator), data, ckpt_path=tmp_path / "step=2.ckpt")
    assert aggregator.rounds == 4
