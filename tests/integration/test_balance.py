"""Gradients weighed in the shared blocks: as TorchJD does it, by sketches, on ranks, resumed, with odd tasks."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from builders import SMALL_DETECTION, SMALL_PIXELS, MemoryReader, readers_of, small_encoder, trainer_of
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from benchmarks.ranks import on_ranks
from umedpt_lightning.callbacks.task_map import TaskMap, draw_matrix, in_words
from umedpt_lightning.cli import main
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.data.loading.schedule import SomeTasks
from umedpt_lightning.drawing.figures import as_picture
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.training.aggregation import ExactBalance, GradientAggregator, Gram, SketchBalance
from umedpt_lightning.training.aggregation.gram_weights import GramWeights
from umedpt_lightning.training.aggregation.watch import GradientWatch
from umedpt_lightning.types import RoundPlan, TaskRate

torchjd = pytest.importorskip("torchjd.aggregation")
KINDS = {"a": "class", "b": "mask", "c": "class", "d": "regression"}
UNCLIPPED = Optimization(clip=None)


def up_grad(kind: str) -> Any:
    from umedpt_lightning.training.aggregation.projector import NonNegativeProjector

    return getattr(torchjd, kind)(projector=NonNegativeProjector())


#: An aggregator of TorchJD and the weighting that belongs to it.
PAIRS: dict[str, tuple[Any, Any]] = {
    "mean": (torchjd.Mean, torchjd.MeanWeighting),
    "mgda": (torchjd.MGDA, torchjd.MGDAWeighting),
    "imtl_g": (torchjd.IMTLG, torchjd.IMTLGWeighting),
    "aligned": (torchjd.AlignedMTL, torchjd.AlignedMTLWeighting),
    "pcgrad": (torchjd.PCGrad, torchjd.PCGradWeighting),
    "upgrad": (partial(up_grad, "UPGrad"), partial(up_grad, "UPGradWeighting")),
    "dualproj": (partial(up_grad, "DualProj"), partial(up_grad, "DualProjWeighting")),
    "fairgrad": (partial(torchjd.FairGrad, 1.0), partial(torchjd.FairGradWeighting, 1.0)),
}


def data_of(
    distribute: str = "samples", times: int = 1, kinds: dict[str, str] = KINDS, batch_size: int = 2, **options: Any
) -> MultiTaskDataModule:
    readers = readers_of(kinds, size=8)
    tasks = {name: TaskData(train=r, val=r, batch_size=batch_size, micro_batches=times) for name, r in readers.items()}
    return MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=3, distribute=distribute, **options)


def module_of(data: MultiTaskDataModule, **options: Any) -> MultiTaskModule:
    torch.manual_seed(0)
    blocks = {"pixel_decoder": SMALL_PIXELS, "detection_decoder": SMALL_DETECTION}
    return MultiTaskModule(data.specs, small_encoder(), **blocks, **options).double()


class KeepApart(GradientAggregator):
    """Keeps a copy of what every task has added."""

    def start_round(self, buffer: Any) -> None:
        self.added: dict[str, dict[str, Tensor]] = {}
        self._before = {name: g.clone() for name, g in buffer.gradients.items()}

    def after_micro_batch(self, task: str, buffer: Any) -> None:
        now = {name: g.clone() for name, g in buffer.gradients.items()}
        added = {name: g - self._before[name] for name, g in now.items()}
        before = self.added.get(task, {})
        self.added[task] = {name: g + before.get(name, 0) for name, g in added.items()}
        self._before = now


def gradients(world_size: int = 1, distribute: str = "samples", times: int = 1, **options: Any) -> dict[str, Tensor]:
    """Those of the first round, as they go to the optimizer."""
    data = data_of(distribute, times)
    module = module_of(data, optimization=UNCLIPPED, **options)
    strategy = "ddp" if world_size > 1 else "auto"
    trainer_of(max_steps=1, devices=world_size, strategy=strategy, use_distributed_sampler=False).fit(module, data)
    return {name: g.clone() for name, g in module.gradients.buffer.gradients.items()}


@cache
def apart(times: int = 1) -> dict[str, dict[str, Tensor]]:
    data, keep = data_of(times=times), KeepApart()
    trainer_of(max_steps=1).fit(module_of(data, aggregator=keep, optimization=UNCLIPPED), data)
    return keep.added


def expected(aggregator: nn.Module, times: int = 1) -> dict[str, Tensor]:
    """What TorchJD makes of the Jacobian of the losses, and the heads' own gradients."""
    added = apart(times)
    names = [name for name in added["a"] if not name.startswith("tasks.")]
    # of the losses: the buffer has them over the number of tasks
    jacobian = torch.stack([torch.cat([g[name].flatten() for name in names]) for g in added.values()]) * len(added)
    torch.manual_seed(0)  # as the round of that number does
    vector = aggregator(jacobian)
    parts = vector.split([added["a"][name].numel() for name in names])
    shared = {name: part.view_as(added["a"][name]) for name, part in zip(names, parts, strict=True)}
    return {name: sum(g[name] for g in added.values()) for name in added["a"]} | shared


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance * 1e-2, msg=name)


# --- the exact way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("kind", PAIRS)
def test_what_is_exact_is_what_torchjd_makes_of_the_jacobian(kind: str, times: int) -> None:
    aggregator, weighting = PAIRS[kind]
    wanted = expected(aggregator(), times)
    for options in ({}, {"pack_pixels": 10**9}):
        assert_equal(gradients(times=times, aggregator=ExactBalance(weighting(), on_cpu=True), **options), wanted)


@pytest.mark.parametrize(
    ("kind", "distribute"),
    [
        *[("mgda", "samples"), ("imtl_g", "tasks"), ("aligned", "samples"), ("pcgrad", "tasks"), ("upgrad", "tasks")],
        pytest.param("mgda", "tasks", marks=pytest.mark.slow),
        pytest.param("imtl_g", "samples", marks=pytest.mark.slow),
        pytest.param("aligned", "tasks", marks=pytest.mark.slow),
        pytest.param("pcgrad", "samples", marks=pytest.mark.slow),
        pytest.param("upgrad", "samples", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_are_as_exact(kind: str, distribute: str) -> None:
    aggregator, weighting = PAIRS[kind]
    wanted = expected(aggregator(), 2)
    times = 1 if distribute == "samples" else 2  # ranks that share samples read twice as many
    balance = ExactBalance(weighting())
    for found in on_ranks(partial(gradients, aggregator=balance), 2, 2, distribute, times):
        assert_equal(found, wanted)


def test_fairgrad_at_alpha_1_is_the_bargain_of_nash_mtl() -> None:
    """``G α = 1 / α``, equation 3 of Navon et al., ICML 2022, with gradients as unlike as those of real tasks."""
    gradients = torch.randn(7, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients *= torch.tensor([32, 5, 1.6, 1, 0.6, 0.5, 0.2], dtype=torch.float64)[:, None]
    tasks = [*"abcdefg"]
    factors = GramWeights(torchjd.FairGradWeighting(1.0), None)(Gram(tasks, gradients @ gradients.T), 0)
    weights = torch.tensor([factors[task] for task in tasks], dtype=torch.float64) / len(tasks)
    assert (weights > 0).all()
    torch.testing.assert_close(gradients @ gradients.T @ weights, 1 / weights, rtol=1e-3, atol=0)


def test_a_task_that_is_clipped_counts_less() -> None:
    norms = Gram(["a", "b"], torch.tensor([[4.0, 0.0], [0.0, 0.25]], dtype=torch.float64))
    mean = torchjd.MeanWeighting()
    assert GramWeights(mean, 1.0)(norms, 0) == {"a": 0.5, "b": 1.0}
    assert GramWeights(mean, None)(norms, 0) == {"a": 1.0, "b": 1.0}


def test_the_projection_of_opposed_gradients_has_its_closed_form() -> None:
    """Of the least `vᵀ G v` with `v >= u`: the second gradient helps with half of what it opposes the first."""
    products = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    found = up_grad("UPGradWeighting").projector(torch.eye(2), products)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5], [0.5, 1.0]]), rtol=0, atol=1e-3)


def test_what_a_weighting_draws_depends_on_the_round_alone() -> None:
    draw, gram = GramWeights(lambda products: torch.rand(len(products)), None), Gram(["a", "b"], torch.eye(2))
    first = draw(gram, 3)
    torch.rand(5)
    assert draw(gram, 3) == first != draw(gram, 4)


def test_a_weighting_is_not_asked_about_what_is_not_finite() -> None:
    gram = Gram(["a", "b"], torch.tensor([[1.0, math.nan], [math.nan, 1.0]]))
    assert GramWeights(lambda products: 1 / 0, None)(gram, 0) == {"a": 1.0, "b": 1.0}


# --- the sketched way -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_sketches_give_the_cosines_of_the_gradients(times: int) -> None:
    data, balance = data_of(times=times), SketchBalance(torchjd.MeanWeighting())
    trainer_of(max_steps=1).fit(module_of(data, aggregator=balance, optimization=UNCLIPPED), data)
    added = apart(times)
    names = [name for name in added["a"] if not name.startswith("tasks.")]
    rows = torch.stack([torch.cat([g[name].flatten() for name in names]) for g in added.values()]) * len(added)
    exact = Gram([*added], rows @ rows.T)
    assert balance.gram is not None
    torch.testing.assert_close(balance.gram.cosines, exact.cosines, rtol=0, atol=0.02)
    torch.testing.assert_close(balance.gram.norms, exact.norms, rtol=0.02, atol=0)


class Halves(nn.Module):
    """Weighs the first task half as much as the others, and the last one not at all."""

    def forward(self, matrix: Tensor) -> Tensor:
        weights = torch.ones(len(matrix), dtype=matrix.dtype)
        weights[0], weights[-1] = 0.5, 0.0
        return weights / len(matrix)


def test_weights_of_the_next_round_are_of_the_shared_blocks_alone() -> None:
    after: list[dict[str, Tensor]] = []

    class Keep(SketchBalance):
        def before_exchange(self, buffer: Any) -> None:
            super().before_exchange(buffer)
            after.append({name: g.clone() for name, g in buffer.gradients.items()})

    still = Optimization(learning_rate=1e-30, clip=None)
    data, balance = data_of(batch_size=8), Keep(Halves())  # all samples in each round, which are alike so
    module = module_of(data, aggregator=balance, optimization=still)
    trainer_of(max_steps=2).fit(module, data)
    assert balance.factors == pytest.approx({"a": 0.5, "b": 1.0, "c": 1.0, "d": 1e-3})
    data, keep = data_of(batch_size=8), KeepApart()
    trainer_of(max_steps=2).fit(module_of(data, aggregator=keep, optimization=still), data)
    first, second = after
    for name, gradient in second.items():
        by_task = {task: g[name] for task, g in keep.added.items()}
        plain = sum(by_task.values())
        weighed = sum(balance.factors[task] * g for task, g in by_task.items())
        torch.testing.assert_close(gradient, plain if name.startswith("tasks.") else weighed, rtol=1e-6, atol=1e-9)
    assert first.keys() == second.keys()
    # a task that is hardly there is still measured
    shared = [name for name in second if not name.startswith("tasks.")]
    rows = [torch.cat([g[name].flatten() for name in shared]) * len(keep.added) for g in keep.added.values()]
    assert balance.gram is not None
    torch.testing.assert_close(balance.gram.norms, torch.stack([row.norm() for row in rows]), rtol=0.02, atol=0)


def trained(world_size: int, distribute: str = "samples", times: int = 1) -> dict[str, Tensor]:
    data = data_of(distribute, times, KINDS | {"e": "box"}, schedule=partial(SomeTasks, per_round=3))
    module = module_of(data, aggregator=SketchBalance(torchjd.PCGradWeighting()))
    strategy = "ddp" if world_size > 1 else "auto"
    trainer_of(max_steps=6, devices=world_size, strategy=strategy, use_distributed_sampler=False).fit(module, data)
    return module.state_dict()


@pytest.mark.parametrize("distribute", ["samples", "tasks"])
def test_two_ranks_weigh_as_one_process_does(distribute: str) -> None:
    wanted = trained(1, times=2)
    for found in on_ranks(trained, 2, 2, distribute, 1 if distribute == "samples" else 2):
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-8, msg=name)


def test_a_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    def run(checkpoint: Path | None) -> tuple[dict[str, Tensor], Any]:
        data = data_of(schedule=partial(SomeTasks, per_round=3))
        balance = SketchBalance(torchjd.PCGradWeighting(), memory=0.5)
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        module = module_of(data, aggregator=balance)
        options = {"enable_checkpointing": True, "default_root_dir": tmp_path}
        trainer_of(max_steps=6, callbacks=[saver, TaskMap(every=2)], **options).fit(module, data, ckpt_path=checkpoint)
        return module.state_dict(), balance.state_dict()

    state, average = run(None)
    for step in (2, 4):
        again, average_again = run(tmp_path / f"step={step}.ckpt")
        assert all(torch.equal(again[name], value) for name, value in state.items())
        assert average == average_again


class Seen(nn.Module):
    """Keeps the inner products that it is asked for, and weighs all alike."""

    def forward(self, matrix: Tensor) -> Tensor:
        self.matrix = matrix
        return torch.full((len(matrix),), 1 / len(matrix))


def planned(average: list[Any], *tasks: str) -> Tensor:
    """What a weighting is given at the beginning of a round of some tasks."""
    seen = Seen()
    balance = SketchBalance(seen)
    balance.load_state_dict({"average": average})
    plan = RoundPlan(dict.fromkeys(tasks, 1), [], 1, dict.fromkeys(tasks, TaskRate(1.0, 1)))
    balance.plan_round(0, plan, 1.0)
    return seen.matrix


def test_a_weighting_is_given_inner_products_that_vectors_can_have() -> None:
    average = [["a", "a", 4.0, 3], ["b", "b", 1.0, 3], ["a", "b", -1.0, 2]]
    assert planned(average, "a", "b").tolist() == [[4, -1], [-1, 1]]
    assert planned(average, "b", "a").tolist() == [[1, -1], [-1, 4]]
    friends = [["a", "b", 0.9, 1], ["b", "c", 0.9, 1], ["a", "c", -0.9, 1]]  # as they met in different rounds
    found = planned([*([task, task, 1.0, 1] for task in "abc"), *friends], "a", "b", "c")
    torch.testing.assert_close(found, found.T)
    assert torch.linalg.eigvalsh(found).min() > -1e-9


def test_the_average_is_a_mean_at_first_and_then_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    balance = SketchBalance(torchjd.MeanWeighting(), memory=0.5)
    for value in (1.0, 3.0, 6.0):
        gram = Gram(["a"], torch.tensor([[value]], dtype=torch.float64))
        monkeypatch.setattr(GradientWatch, "end_round", lambda self, gram=gram: setattr(self, "gram", gram))
        balance.end_round()
    assert balance.state_dict() == {"average": [["a", "a", 4.0, 3]]}


def test_a_task_alone_in_its_round_is_not_weighed() -> None:
    gram = Gram(["a", "b"], torch.tensor([[4.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert GramWeights(Halves(), None)(gram, 0) == {"a": 1.0, "b": 1.0}


# --- half precision ---------------------------------------------------------------------------------------------------


def weighed(balance: Any, steps: int, scale: float | None = None, **options: Any) -> tuple[Any, dict[str, float]]:
    """The aggregator after some rounds on four kinds of labels that change nothing, and its average if it has one."""
    readers = readers_of({"a": "class", "b": "mask", "d": "regression"}) | {"e": MemoryReader("box", side=64)}
    data = MultiTaskDataModule({n: TaskData(train=r, batch_size=4) for n, r in readers.items()}, num_workers=0)
    aggregator = balance(torchjd.IMTLGWeighting())
    still = Optimization(learning_rate=1e-30)
    module = module_of(data, aggregator=aggregator, optimization=still).float()
    if scale is not None:  # 16-mixed with a simulated scaler
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        options["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler)]
    trainer_of(max_steps=steps, **options).fit(module, data)
    return aggregator, aggregator.state_dict().get("average", [])


@pytest.mark.parametrize("balance", [SketchBalance, ExactBalance])
def test_half_precision_weighs_as_full_precision_does(balance: Any) -> None:
    full, _ = weighed(balance, 2)
    for options in ({"precision": "bf16-mixed"}, {"scale": 16.0}):
        half, _ = weighed(balance, 2, **options)
        torch.testing.assert_close(half.gram.norms, full.gram.norms, rtol=0.05, atol=0)
        torch.testing.assert_close(half.gram.cosines, full.gram.cosines, rtol=0, atol=0.05)
        assert half.factors == pytest.approx(full.factors, rel=0.1)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # the scaler has passed over the first step
@pytest.mark.parametrize("balance", [SketchBalance, ExactBalance])
def test_rounds_in_which_a_scaler_looks_for_its_scale_teach_nothing(balance: Any) -> None:
    searching, average = weighed(balance, 2, scale=2.0**120)
    assert searching.gram is None
    assert not average
    assert set(searching.factors.values()) <= {1.0}


# --- odd rounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [SketchBalance, ExactBalance])
def test_a_task_of_weight_0_does_not_count(balance: Any) -> None:
    found = []
    for names in ("abcd", "bcd"):
        data = data_of(batch_size=8)
        data.tasks = {name: task for name, task in data.tasks.items() if name in names}
        aggregator = balance(torchjd.MGDAWeighting())  # which gives all weight to a gradient of zeros
        module = module_of(data, aggregator=aggregator, weights={"a": 0.0} if "a" in names else {})
        trainer_of(max_steps=2).fit(module, data)
        found.append(aggregator.factors)
    assert found[0].pop("a") == 1.0
    assert found[0] == pytest.approx(found[1], rel=0.2)


@pytest.mark.parametrize("balance", [SketchBalance, ExactBalance])
def test_one_task_alone_is_trained_as_it_is(balance: Any, tmp_path: Path) -> None:
    states = []
    for aggregator in (None, balance(torchjd.MGDAWeighting())):
        data = MultiTaskDataModule({"a": TaskData(train=MemoryReader("class"), batch_size=2)}, num_workers=0)
        module = module_of(data, aggregator=aggregator)
        trainer_of(max_steps=3, callbacks=[TaskMap(every=1)], default_root_dir=tmp_path).fit(module, data)
        states.append(module.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("balance", [SketchBalance, ExactBalance])
def test_what_is_not_finite_is_left_out_and_teaches_nothing(balance: Any) -> None:
    readers = readers_of({"a": "class", "b": "class", "bad": "class"})
    readers["bad"].images = np.full(readers["bad"].images.shape, np.inf, np.float32)
    data = MultiTaskDataModule(
        {name: TaskData(train=r, batch_size=2, micro_batches=2) for name, r in readers.items()}, num_workers=0
    )
    module = module_of(data, aggregator=balance(torchjd.MGDAWeighting()))
    with pytest.warns(UserWarning, match="left out"):
        trainer_of(max_steps=2).fit(module, data)
    assert module.aggregator.gram.tasks == ["a", "b"]
    assert module.aggregator.gram.matrix.isfinite().all()
    assert all(value.isfinite().all() for value in module.state_dict().values())


@pytest.mark.parametrize("balance", [SketchBalance, ExactBalance])
@pytest.mark.filterwarnings("ignore:Round")
def test_a_round_that_is_left_out_whole_has_no_map(balance: Any) -> None:
    readers = readers_of({"a": "class", "b": "class"}, size=4)
    for reader in readers.values():
        reader.images = reader.images.astype(np.float32)
        reader.images[2:] = np.inf
    tasks = {name: TaskData(train=reader, batch_size=1) for name, reader in readers.items()}
    data, found = MultiTaskDataModule(tasks, num_workers=0), []

    class Maps(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            left_out = module.gradients.norm == 0
            found.append((left_out, module.gradients.gram is None))

    trainer_of(max_steps=12, callbacks=[Maps()]).fit(
        module_of(data, aggregator=balance(torchjd.MGDAWeighting()), max_bad_rounds=100), data
    )
    assert {left_out for left_out, _ in found} == {True, False}
    assert all(left_out == without for left_out, without in found)


def two_classes() -> MultiTaskDataModule:
    readers = readers_of({"a": "class", "b": "class"})
    return MultiTaskDataModule({n: TaskData(train=r, batch_size=2) for n, r in readers.items()}, num_workers=0)


def test_frozen_blocks_leave_nothing_to_weigh() -> None:
    for balance in (SketchBalance(torchjd.MGDAWeighting()), ExactBalance(torchjd.MGDAWeighting())):
        data = two_classes()
        module = module_of(data, aggregator=balance)
        module.model.encoder.requires_grad_(False)
        module.model.pooling.requires_grad_(False)
        trainer_of(max_steps=2).fit(module, data)
        assert balance.factors == {"a": 1.0, "b": 1.0}


class Wrong(nn.Module):
    def forward(self, matrix: Tensor) -> Tensor:
        return matrix


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SketchBalance(torchjd.MeanWeighting(), memory=1.0), "memory must be from 0 to below 1"),
        (lambda: SketchBalance(torchjd.MeanWeighting(), buckets=0), "buckets must be positive"),
        (lambda: ExactBalance(torchjd.MeanWeighting(), clip=0.0), "clip must be positive"),
        (lambda: ExactBalance(torchjd.GradVacWeighting()), "GradVacWeighting keeps what it saw"),
        (lambda: GramWeights(Wrong(), None)(Gram(["a", "b"], torch.eye(2)), 0), r"weights of shape \(2, 2\)"),
        (lambda: TaskMap(every=-1), "every must be positive"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# --- the map ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregator", [None, "sketch", "exact"])
def test_a_run_has_a_map_before_each_validation(
    aggregator: str | None, config: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    if aggregator:
        name = {"sketch": "SketchBalance", "exact": "ExactBalance"}[aggregator]
        config["model"]["aggregator"] = {
            "class_path": f"umedpt_lightning.training.aggregation.{name}",
            "init_args": {"weighting": {"class_path": "torchjd.aggregation.IMTLGWeighting"}},
        }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    options = ["--trainer.max_epochs", "2", "--data.steps_per_epoch", "3", "--model.pack_pixels", "1000000"]
    options += ["--map.every", "null"]
    main(["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run"), *options])
    tasks = [*config["data"]["tasks"]]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row[f"gradients/{tasks[0]}/share"]]
    assert [int(row["step"]) for row in rows] == [2, 5]  # counted from 0
    assert sum(float(rows[0][f"gradients/{task}/share"]) for task in tasks) == pytest.approx(1)
    assert -1 <= float(rows[0][f"gradients/{tasks[0]}/{tasks[1]}/cosine"]) <= 1
    assert (tmp_path / "run" / "pictures" / "tasks.png").stat().st_size > 5000


@pytest.mark.parametrize("count", [2, 5, 24])
def test_what_is_written_above_the_map_is_within_the_picture(count: int) -> None:
    names = [f"TASK {i}" for i in range(count)]
    figure = draw_matrix(np.eye(count), names, names, "WORDS OF CAPITALS " * 20, "cosine")
    as_picture(figure)
    (text,) = [text for text in figure.texts if "WORDS" in text.get_text()]
    assert figure.bbox.x0 < text.get_window_extent().x0 < text.get_window_extent().x1 < figure.bbox.x1


def test_the_map_does_not_change_the_training(tmp_path: Path) -> None:
    states = []
    for every in (0, 1):
        data = data_of()
        module = module_of(data)
        trainer_of(max_steps=3, callbacks=[TaskMap(every=every)], default_root_dir=tmp_path).fit(module, data)
        states.append(module.state_dict())
        assert (module.gradients.gram is None) == (every == 0)
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_the_map_in_words() -> None:
    matrix = torch.tensor([[1.0, -0.21, 0.4], [-0.21, 1.0, 0.0], [0.4, 0.0, 1.0]], dtype=torch.float64)
    lengths = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    gram = Gram(["nodule", "chest", "cells"], matrix * lengths * lengths[:, None])
    told = "nodule and chest pull against each other, cosine −0.21; chest has 50% of the gradient"  # noqa: RUF001
    assert in_words(gram) == told
    friends = Gram(gram.tasks, gram.matrix.abs())
    assert in_words(friends).startswith("no two tasks pull against each other; nodule and cells pull together most")


def sketched(weighting: str) -> dict[str, Any]:
    return {"class_path": "SketchBalance", "init_args": {"weighting": {"class_path": weighting}}}


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("weighting", {"class_path": "Nowhere"}, "weighting: no class of the name Nowhere is known"),
        ("weighting", {"class_path": "torchjd.aggregation.MGDAWeighting"}, "MGDAWeighting is no LossWeighting"),
        ("aggregator", sketched("Nowhere"), "aggregator: SketchBalance: weighting: no class of the name Nowhere"),
        ("aggregator", sketched("torchjd.aggregation.Nothing"), "'torchjd.aggregation' has no attribute 'Nothing'"),
    ],
)
def test_a_weighting_that_is_not_known_is_named(
    option: str, value: Any, words: str, in_file: bool, config: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config | {"model": config["model"] | ({option: value} if in_file else {})}))
    given = [] if in_file else [f"--model.{option}", json.dumps(value)]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(file), "--run", str(tmp_path / "run"), *given])
    told = capsys.readouterr().err
    assert words in told
    assert len(told.splitlines()) == 2
    assert not re.search("Expected|Union|<class", told)


def test_an_extra_that_is_missing_is_named(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == "torchjd":
                raise ModuleNotFoundError("No module named 'torchjd'")

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchjd"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    config["model"]["aggregator"] = {
        "class_path": "umedpt_lightning.training.aggregation.SketchBalance",
        "init_args": {"weighting": {"class_path": "torchjd.aggregation.MGDAWeighting"}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")])
    assert "pip install 'umedpt-lightning[balance]'" in capsys.readouterr().err
