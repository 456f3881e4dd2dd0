"""Fine-tuning: what learns and how fast, which evaluation is kept, and what Lightning adds."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from builders import MemoryReader, small_convnext, small_encoder, spec_of
from torch import Tensor

from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks.answers import Answers
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.transfer.embeddings import Embeddings
from umedpt_lightning.transfer.evaluation import predict_part
from umedpt_lightning.transfer.finetune import FineTuner, FineTuning, set_head
from umedpt_lightning.transfer.probe import linear_probe
from umedpt_lightning.transfer.sources import TimmSource

NAME = "new"


def tuner(kind: str = "class", seed: int = 0, **options: Any) -> FineTuner:
    data = TaskData(MemoryReader(kind, size=16), MemoryReader(kind, size=16, seed=1), batch_size=8)
    given = {"steps": 4, "learning_rates": (1e-3,), "evaluations": 2} | options
    return FineTuner(NAME, data, data.train, FineTuning(**given), ComputeOptions(), seed)  # type: ignore[arg-type]


def model_of(kind: str = "class", net: str = "test_efficientnet_gn") -> MultiTaskModel:
    return TimmSource(net).create_model(NAME, spec_of(kind), None, 0)


def nothing(steps: int) -> None:
    """Wants to know of no step."""


def answers(model: MultiTaskModel, tuning: FineTuner, part: str) -> Answers:
    return predict_part(model, NAME, tuning.data, tuning.data.readers[part], ComputeOptions())


def moved(before: dict[str, Tensor], after: MultiTaskModel) -> set[str]:
    return {key for key, value in after.state_dict().items() if not torch.equal(value, before[key])}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each step of the optimizer had: the norm of the gradients, rates and decays by parameter."""
    seen: list[dict[str, Any]] = []

    def watched(self: MultiTaskModule, optimizer: torch.optim.Optimizer) -> None:
        original(self, optimizer)
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        names = {parameter: name for name, parameter in self.named_parameters()}
        of = {names[p]: group for group in optimizer.param_groups for p in group["params"]}
        seen.append({"norm": float(torch.nn.utils.get_total_norm(gradients)), "groups": of})

    original = MultiTaskModule.on_before_optimizer_step
    monkeypatch.setattr(MultiTaskModule, "on_before_optimizer_step", watched)
    return seen


def test_a_head_is_trained_on_a_frozen_encoder_and_everything_moves_the_encoder() -> None:
    tuning, model = tuner("mask"), model_of("mask", "test_resnet")  # whose BatchNorm could move too
    before = {key: value.clone() for key, value in model.state_dict().items()}
    counted: list[int] = []
    head = moved(before, tuning.train(model, counted.append, whole=False).model)
    assert counted == [1] * 4
    assert head
    assert not any(key.startswith("encoder.") for key in head)
    whole = moved(before, tuning.train(model, counted.append).model)
    assert any(key.startswith("encoder.") for key in whole)
    assert not moved(before, model), "the given model stays as it was"


def test_statistics_of_a_frozen_encoder_do_not_move() -> None:
    model = MultiTaskModel(small_encoder("test_resnet", batch_norm="keep"), {NAME: spec_of("class")})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = moved(before, tuner().train(model, nothing, whole=False).model)
    assert found == {"pooling.norm.weight", "pooling.norm.bias", f"tasks.{NAME}.head.weight", f"tasks.{NAME}.head.bias"}


def test_every_stage_of_the_encoder_learns_slower_than_the_next(steps: list[dict[str, Any]]) -> None:
    model = model_of()
    tuner(layer_decay=0.5, weight_decay=0.1).train(model, nothing)
    groups = steps[0]["groups"]
    encoder = [name for name, _ in model.encoder.named_parameters(prefix="model.encoder")]
    peaks = {name: group["initial_lr"] for name, group in groups.items()}
    rates = list(dict.fromkeys(peaks[name] for name in encoder))
    assert len(rates) > 3
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.5e-3)
    assert peaks[f"model.tasks.{NAME}.head.weight"] == pytest.approx(1e-3)
    assert len(groups) == len(list(model.parameters()))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_that_is_set_gives_the_outputs_of_its_probe(classes: int) -> None:
    rng = np.random.default_rng(0)
    model = model_of()
    head = model.task(NAME).head
    labels = np.arange(60) % classes
    # far from zero and of unlike scales, so that the mean and the scale of each number count
    features = (rng.normal(size=(60, head.in_features)) + labels[:, None]) * rng.uniform(0.1, 9, head.in_features) + 40
    train = Embeddings(features.astype(np.float32), labels)
    probe = linear_probe(model.task(NAME), train, train)
    set_head(model, NAME, probe)
    found, expected = head(torch.from_numpy(train.features)).softmax(1), probe(train.features).softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert float(expected.max()) > 0.8


def test_norms_and_biases_do_not_decay(steps: list[dict[str, Any]]) -> None:
    model = model_of()
    tuner(weight_decay=0.1).train(model, nothing)
    for name, parameter in model.named_parameters(prefix="model"):
        assert steps[0]["groups"][name]["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name


def test_gradients_are_clipped(steps: list[dict[str, Any]]) -> None:
    tuner(clip=None).train(model_of(), nothing)
    free = [step["norm"] for step in steps]
    limit = min(free) / 2
    steps.clear()
    tuner(clip=limit).train(model_of(), nothing)
    assert [step["norm"] for step in steps] == pytest.approx([limit] * 4, rel=1e-3)


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[dict[str, Tensor]]:
    """Lets the evaluations of the val part have these scores; returns the head's weights at each."""
    states: list[dict[str, Tensor]] = []

    def told(self: MultiTaskModule) -> None:
        states.append({key: value.clone() for key, value in self.model.state_dict().items()})
        self.log(f"val/{NAME}/auroc", scores[len(states) - 1])

    monkeypatch.setattr(MultiTaskModule, "on_validation_epoch_end", told)
    return states


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.5, 0.9, 0.7], 1), ([0.9, 0.7, 0.8], 0), ([0.5, 0.6, 0.7], 2), ([0.8, 0.8, 0.8], 0), ([math.nan, 0.2, 0.1], 1)],
)
def test_the_best_evaluation_is_kept_and_not_the_last(
    scores: list[float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = scripted(monkeypatch, scores)
    tuned = tuner(steps=6, evaluations=3).train(model_of(), nothing)
    assert len(states) == 3
    assert not moved(states[best], tuned.model)
    assert moved(states[(best + 1) % 3], tuned.model)
    assert tuned.options == {"learning_rate": 1e-3, "steps": 2.0 * (best + 1)}
    assert tuned.val == {"auroc": pytest.approx(scores[best])}


def test_the_best_learning_rate_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    states = scripted(monkeypatch, [0.6, 0.7, 0.9, 0.8, 0.5, 0.6])
    tuned = tuner(learning_rates=(1e-3, 1e-2, 1e-4)).train(model_of(), nothing)
    assert tuned.options == {"learning_rate": 1e-2, "steps": 2.0}
    assert not moved(states[2], tuned.model)


def test_training_learns_and_its_val_metrics_are_those_of_its_model() -> None:
    tuning, model = tuner(steps=40, learning_rates=(1e-3, 1e-2), evaluations=4), model_of()
    tuned = tuning.train(model, nothing)
    assert answers(tuned.model, tuning, "train").score()["auroc"] > answers(model, tuning, "train").score()["auroc"]
    val = answers(tuned.model, tuning, "val").score()
    assert {name: val[name] for name in tuned.val} == pytest.approx(tuned.val)
    assert tuned.options["steps"] in (10, 20, 30, 40)


@pytest.mark.parametrize("kind", ["class", "mask", "box"])
def test_a_seed_gives_one_result(kind: str) -> None:
    runs = [tuner(kind, seed=seed).train(model_of(kind), nothing) for seed in (0, 0, 1)]
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())


def test_the_seed_is_that_of_what_training_draws_too() -> None:
    torch.manual_seed(0)
    model = MultiTaskModel(small_convnext(0.5), {NAME: spec_of("class")})
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # whatever was drawn before
        states.append(tuner().train(model, nothing).model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_rate_that_is_too_high_loses_and_stops_nothing() -> None:
    with pytest.warns(UserWarning, match=r"Round \d+, task 'new': the loss is nan"):
        tuned = tuner(steps=40, evaluations=2, learning_rates=(1e30, 1e-3), clip=None).train(model_of(), nothing)
    assert tuned.options["learning_rate"] == 1e-3
    assert all(value.isfinite().all() for value in tuned.model.state_dict().values())


def test_averaged_weights_are_evaluated_and_kept() -> None:
    tuning = tuner(steps=6, evaluations=1, averaging=0.5)
    plain, averaged = (t.train(model_of(), nothing) for t in (tuner(steps=6, evaluations=1), tuning))
    assert moved(plain.model.state_dict(), averaged.model)
    val = answers(averaged.model, tuning, "val").score()
    assert {name: val[name] for name in averaged.val} == pytest.approx(averaged.val)


def test_half_precision_trains_and_keeps_the_weights_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    original = pl.Trainer.fit

    def watched(self: pl.Trainer, *arguments: Any, **options: Any) -> None:
        used.append(str(self.precision))
        original(self, *arguments, **options)

    monkeypatch.setattr(pl.Trainer, "fit", watched)
    before = {key: value.clone() for key, value in model_of().state_dict().items()}
    tuned = tuner(precision="bf16-mixed").train(model_of(), nothing)
    assert used == ["bf16-mixed"]
    assert moved(before, tuned.model)
    assert all(p.dtype == torch.float32 for p in tuned.model.parameters())


def test_many_trainings_say_and_write_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        tuner(learning_rates=(1e-3, 1e-4)).train(model_of(), nothing)
    assert not list(tmp_path.iterdir())
    out = capsys.readouterr()
    assert out.out + out.err + caplog.text == ""
    assert not list(recwarn)


def test_evaluations_are_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    at: list[int] = []
    original = MultiTaskModule.on_validation_epoch_end

    def watched(self: MultiTaskModule) -> None:
        at.append(self.global_step)
        original(self)

    monkeypatch.setattr(MultiTaskModule, "on_validation_epoch_end", watched)
    tuner(steps=7, evaluations=3).train(model_of(), nothing)
    assert at == [3, 6, 9]


@pytest.mark.parametrize(
    "options",
    [{"layer_decay": 2.0}, {"steps": 0}, {"learning_rates": ()}, {"learning_rates": (0.0,)}, {"evaluations": 5}],
)
def test_what_cannot_be_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="finetuning: steps, evaluations"):
        tuner(**options)


def test_a_val_part_that_tells_nothing_is_told() -> None:
    tuning = tuner()
    tuning.data.val.values = [0] * 16  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="val part has no defined auroc"):
        tuning.train(model_of(), nothing)
