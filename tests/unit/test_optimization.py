"""The optimizer's groups and the learning rate over the steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import own_training
import pytest
import timm.optim
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from umedpt_lightning.training import Optimization, ParameterGroups
from umedpt_lightning.training.resume import Resumption
from umedpt_lightning.training.resume import resumption as resumption_module


class WithClosure(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any) -> None: ...


class WithoutRate(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": None})

    def step(self, closure: Any = None) -> None: ...


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1))


def rates(steps: int, extra: int = 0, **options: Any) -> list[float]:
    """The learning rate of each step, and of `extra` ones beyond the last."""
    optimization = Optimization(**options)
    optimizer = optimization.build_optimizer(network(), scaled=True)
    schedule = optimization.build_schedule(optimizer, steps)
    found = []
    for _ in range(steps + extra):
        found.append(schedule.get_last_lr()[0])
        assert all(group["lr"] == found[-1] for group in optimizer.param_groups)
        optimizer.step()
        schedule.step()
    return found


# --- parameter groups -----------------------------------------------------------------------------------------------


def test_norms_and_biases_do_not_decay_and_all_else_does() -> None:
    module = network()
    groups = Optimization(weight_decay=0.3).build_optimizer(module, scaled=True).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in module.named_parameters():
        vector = name.endswith("bias") or name.startswith(("1.", "3."))
        assert decay.pop(id(parameter)) == (0.0 if vector else 0.3), name
    assert decay == {}


def test_frozen_parameters_are_left_out() -> None:
    module = network()
    module[0].requires_grad_(False)
    groups = Optimization().build_optimizer(module, scaled=True).param_groups
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in module.parameters() if p.requires_grad}


def test_the_encoder_learns_with_its_share_of_the_rate_all_along() -> None:
    module = nn.ModuleDict({"model": nn.ModuleDict({"encoder": network(), "pixel_decoder": network()})})
    optimization = Optimization(learning_rate=0.1, encoder_share=0.5, warmup=0.5)
    optimizer = optimization.build_optimizer(module, scaled=True)
    schedule = optimization.build_schedule(optimizer, 4)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in module.parameters()}
    encoder = {id(p) for p in module["model"]["encoder"].parameters()}
    for _ in range(5):
        rate = optimizer.param_groups[0]["lr"]  # as the log shows it
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert group["lr"] == pytest.approx(rate * (0.5 if id(parameter) in encoder else 1))
        optimizer.step()
        schedule.step()


def test_its_options_reach_adamw() -> None:
    optimizer = Optimization(learning_rate=0.1, betas=(0.5, 0.6)).build_optimizer(network())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["lr"] == 0.1
    assert all(g["betas"] == (0.5, 0.6) and g["fused"] for g in optimizer.param_groups)


def names_of(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[list[str]]:
    """The names of the parameters in each group, by the parameters themselves."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


@pytest.mark.parametrize("options", [{}, {"optimizer": own_training.SignDescent}, {"weight_decay": 0.0}])
def test_groups_know_the_names_of_their_parameters_in_a_checkpoint_too(options: dict[str, Any]) -> None:
    module = model_of()
    optimizer = Optimization(encoder_share=0.5, **options).build_optimizer(module)
    assert [group["param_names"] for group in optimizer.param_groups] == names_of(optimizer, module)
    assert [group["param_names"] for group in optimizer.state_dict()["param_groups"]] == names_of(optimizer, module)


def test_groups_are_ordered_as_in_checkpoints_of_earlier_releases() -> None:
    module = model_of()
    optimizer = Optimization(learning_rate=0.1, encoder_share=0.5).build_optimizer(module)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.1, 0.05),
        (0.1, 0.0),
        (0.05, 0.05),
        (0.05, 0.0),
    ]
    without_decay = Optimization(weight_decay=0).build_optimizer(module)
    assert names_of(without_decay, module) == [[name for name, _ in module.named_parameters()]]


# --- groups as an object ----------------------------------------------------------------------------------------------


class Stages(nn.Module):
    """An encoder of three stages, and a norm beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout()) for _ in range(3)]
        )
        self.norm = nn.LayerNorm(3)

    def parameter_stages(self) -> list[list[tuple[str, nn.Parameter]]]:
        return [list(part.named_parameters()) for part in self.parts]


def model_of(encoder: nn.Module | None = None) -> nn.ModuleDict:
    return nn.ModuleDict({"model": nn.ModuleDict({"encoder": encoder or network(), "tasks": network()})})


def rates_of(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    return {name: group["lr"] for group in optimizer.param_groups for name in group["param_names"]}


def test_the_rate_falls_from_stage_to_stage_towards_the_image() -> None:
    module = model_of(Stages())
    groups = ParameterGroups(encoder_share=0.5, layer_decay=0.1)
    found = rates_of(Optimization(groups=groups, optimizer=partial(torch.optim.SGD, lr=8.0)).build_optimizer(module))
    for stage, rate in enumerate((0.04, 0.4, 4.0)):
        assert found[f"model.encoder.parts.{stage}.0.weight"] == pytest.approx(rate)
        assert found[f"model.encoder.parts.{stage}.1.bias"] == pytest.approx(rate)
    assert found["model.encoder.norm.weight"] == pytest.approx(4.0)
    assert found["model.tasks.0.weight"] == pytest.approx(8.0)


def test_frozen_stages_do_not_learn_nor_do_their_statistics_move() -> None:
    module = model_of(Stages()).train()
    optimizer = Optimization(groups=ParameterGroups(frozen_stages=2)).build_optimizer(module)
    found = rates_of(optimizer)
    for stage, layer in enumerate(module["model"]["encoder"].parts):
        assert layer.training == layer[1].training == layer[2].training == (stage == 2)
        assert all(p.requires_grad == (stage == 2) for p in layer.parameters())
        assert (f"model.encoder.parts.{stage}.0.weight" in found) == (stage == 2)


def test_all_stages_may_be_frozen() -> None:
    module = model_of(Stages()).train()
    found = rates_of(Optimization(groups=ParameterGroups(frozen_stages="all")).build_optimizer(module))
    assert found
    assert not any(name.startswith("model.encoder.parts") for name in found)
    assert not any(part.training for part in module["model"]["encoder"].parts.modules())


def test_groups_of_ones_own_say_rate_and_decay() -> None:
    module = nn.ModuleDict({"model": nn.ModuleDict({"encoder": network(), "tasks": network()})})
    sgd = partial(torch.optim.SGD, lr=0.1, weight_decay=0.3)
    optimizer = Optimization(groups=own_training.HeadsTwiceAsFast(), optimizer=sgd).build_optimizer(module)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.2, 0.3), (0.1, 0.3)]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ParameterGroups(encoder_share=0), r"encoder_share must be positive, but it is 0"),
        (lambda: ParameterGroups(layer_decay=-1), r"layer_decay must be positive, but it is -1"),
        (lambda: ParameterGroups(frozen_stages=-1), r"frozen_stages must not be negative, but it is -1"),
        (lambda: ParameterGroups(frozen_stages=4).split(model_of(Stages())), r"frozen_stages is 4.*has 3 stages"),
    ],
)
def test_groups_that_make_no_sense_are_refused(build: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


# --- any optimizer and schedule ---------------------------------------------------------------------------------------

OPTIMIZERS = {
    "torch's": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.3),
    "with a rate as a tensor": partial(torch.optim.Adam, lr=torch.tensor(0.1), weight_decay=0.3),
    "timm's": partial(timm.optim.Lion, lr=0.1, weight_decay=0.3),
    "one's own": partial(own_training.SignDescent, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_steps_with_the_groups_rates_and_decays(name: str) -> None:
    module = model_of()
    optimizer = Optimization(optimizer=OPTIMIZERS[name], groups=ParameterGroups(0.5)).build_optimizer(module)
    assert type(optimizer) is OPTIMIZERS[name].func
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.1, 0.1, 0.05, 0.05])
    if name != "one's own":
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0, 0.3, 0.0]
    before = [p.clone() for p in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(not torch.equal(p, q) for p, q in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (partial(torch.optim.SGD, lr=-1), r"optimization\.optimizer cannot be built: Invalid learning rate: -1"),
        (partial(torch.optim.SGD, rate=1), r"optimization\.optimizer cannot be built: .*rate.*Correct its class_path"),
        (own_training.not_an_optimizer, r"should give a torch\.optim\.optimizer\.Optimizer, but it gives a int"),
        (WithClosure, r"WithClosure evaluates the loss several times a step.*torch\.optim\.AdamW"),
        (torch.optim.LBFGS, r"LBFGS evaluates the loss several times a step"),
        (WithoutRate, r"WithoutRate has no learning rate.*Give it `lr`"),
    ],
)
def test_optimizers_that_cannot_be_used_are_refused_from_the_start(optimizer: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Optimization(optimizer=optimizer)


def test_a_fused_optimizer_under_a_scaler_is_refused_and_the_default_is_not_fused() -> None:
    with pytest.raises(ValueError, match=r"fused SGD unscales.*\{fused: false\}"):
        Optimization(optimizer=partial(torch.optim.SGD, fused=True)).build_optimizer(network(), scaled=True)
    assert not any(g["fused"] for g in Optimization().build_optimizer(network(), scaled=True).param_groups)


def test_any_schedule_may_be_given() -> None:
    optimization = Optimization(
        learning_rate=0.8, encoder_share=0.5, lr_scheduler=partial(own_training.Staircase, every=2)
    )
    optimizer = optimization.build_optimizer(model_of())
    schedule = optimization.build_schedule(optimizer, 99)
    found = []
    for _ in range(5):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[-1]["lr"]))
        optimizer.step()
        schedule.step()
    assert found == [(0.8, 0.4), (0.8, 0.4), (0.4, 0.2), (0.4, 0.2), (0.2, 0.1)]


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (partial(StepLR, step=1), r"optimization\.lr_scheduler cannot be built: .*step"),
        (ReduceLROnPlateau, r"lightning\.pytorch\.cli\.ReduceLROnPlateau with init_args: \{monitor: val/score"),
        (lambda optimizer: optimizer, r"should give a torch.*LRScheduler, but it gives a AdamW"),
    ],
)
def test_schedules_that_cannot_be_used_are_refused(schedule: Any, words: str) -> None:
    optimization = Optimization(lr_scheduler=schedule)
    with pytest.raises(ValueError, match=words):
        optimization.build_schedule(optimization.build_optimizer(network()), 10)


# --- the schedule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 10, 101])
@pytest.mark.parametrize("warmup", [0, 0.05, 0.5, 3, 50])
@pytest.mark.parametrize("final", [0, 0.1, 1])
def test_the_rate_rises_to_the_peak_then_falls_and_is_never_zero_nor_above(
    steps: int, warmup: float, final: float
) -> None:
    found = rates(steps, learning_rate=2.0, warmup=warmup, final=final)
    assert all(0 < rate <= 2.0 for rate in found)
    top = found.index(max(found))
    assert all(a <= b for a, b in pairwise(found[: top + 1]))
    assert all(a >= b for a, b in pairwise(found[top:]))


def test_the_warm_up_is_counted_in_rounds_or_as_a_share_of_all() -> None:
    for warmup in (10, 0.1):
        found = rates(100, learning_rate=1.0, warmup=warmup)
        assert found.index(max(found)) == 10
        assert max(found) == 1.0
        steps = [b - a for a, b in pairwise(found[:11])]
        assert steps == pytest.approx([steps[0]] * 10)


def test_the_fall_is_half_a_cosine_and_its_end_holds() -> None:
    found = rates(100, extra=20, learning_rate=1.0, warmup=0, final=0.2)
    assert found[0] == 1.0
    assert found[50] == pytest.approx(0.6)
    assert found[25] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert found[100:] == pytest.approx([0.2] * 20)


def test_without_warm_up_and_fall_the_rate_is_constant() -> None:
    assert rates(20, learning_rate=0.5, warmup=0, final=1) == [0.5] * 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": -1e-3}, "-0.001"),
        ({"warmup": -1}, "warmup not negative"),
        ({"final": 1.5}, "final between 0 and 1.*1.5"),
        ({"clip": 0.0}, r"optimization\.clip must be positive, or null"),
        ({"encoder_share": 0.0}, r"encoder_share must be positive, but it is 0\.0"),
        ({"optimizer": torch.optim.SGD, "weight_decay": 0.1}, r"weight_decay \(0\.1\) would have no effect.*init_args"),
        ({"lr_scheduler": StepLR, "warmup": 3}, r"warmup \(3\) would have no effect"),
        ({"groups": ParameterGroups(), "encoder_share": 0.5}, r"encoder_share \(0\.5\) would have no effect"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Optimization(**options)


def rates_in(rounds: int, optimizer: Any, schedule: Any, skip: int = 0) -> list[list[float]]:
    """The rates of all groups in so many rounds, after those that are skipped."""
    found = []
    for _ in range(skip + rounds):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step(*([1.0] if isinstance(schedule, ReduceLROnPlateau) else []))
    return found[skip:]


def saved_after(rounds: int, optimizer: Any, schedule: Any) -> dict[str, Any]:
    """A checkpoint of a new optimizer and schedule that have trained so many rounds."""
    resumption = Resumption(nn.Module(), None)  # type: ignore[arg-type]  # whose model is not looked at
    resumption.prepare(optimizer, schedule)
    rates_in(rounds, optimizer, schedule)
    checkpoint = {"global_step": rounds, "state_dict": {}, "lr_schedulers": [schedule.state_dict()]}
    checkpoint["optimizer_states"] = [optimizer.state_dict()]
    resumption.save(checkpoint)
    return copy.deepcopy(checkpoint)


def resumed(checkpoint: dict[str, Any], optimizer: Any, schedule: Any, rounds: int = 1) -> list[list[float]]:
    """The rates of a new optimizer and schedule that go on from a checkpoint, as Lightning does it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resumption_module, "fit_checkpoint", lambda *_: [])
        resumption = Resumption(nn.Module(), None)  # type: ignore[arg-type]
        resumption.compare(checkpoint, training=True)
    resumption.prepare(optimizer, schedule)
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    schedule.load_state_dict(checkpoint["lr_schedulers"][0])
    resumption.settle(optimizer)
    found = [[group["lr"] for group in optimizer.param_groups]]
    return found + (rates_in(rounds - 1, optimizer, schedule, skip=1) if rounds > 1 else [])


def in_sequence(length: int, optimizer: Any) -> Any:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, length)]
    return lr_scheduler.SequentialLR(optimizer, parts, [3])


def chained(length: int, optimizer: Any) -> Any:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, length)]
    return lr_scheduler.ChainedScheduler(parts)


SCHEDULES: dict[str, Callable[[int], Callable[[Any], Any]]] = {
    "lambda": lambda n: partial(lr_scheduler.LambdaLR, lr_lambda=lambda number: 1 / (number + n)),
    "linear": lambda n: partial(lr_scheduler.LinearLR, total_iters=n),
    "power": lambda n: partial(lr_scheduler.PolynomialLR, total_iters=n, power=2),
    "exponential": lambda n: partial(lr_scheduler.ExponentialLR, gamma=1 - 1 / n),
    "cosine": lambda n: partial(lr_scheduler.CosineAnnealingLR, T_max=n),
    "restarts": lambda n: partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=n),
    "one cycle": lambda n: partial(lr_scheduler.OneCycleLR, max_lr=n / 100, total_steps=2 * n),
    "sequence": lambda n: partial(in_sequence, n),
    "chain": lambda n: partial(chained, n),
    "plateau": lambda n: partial(ReduceLROnPlateau, patience=1, factor=1 / n),
}


def trained_by(schedule: Callable[[Any], Any], rate: float = 0.1) -> tuple[Any, Any]:
    module = nn.Module()
    module.model = nn.ModuleDict({"encoder": network()})
    optimization = Optimization(optimizer=partial(torch.optim.AdamW, lr=rate), lr_scheduler=schedule)
    optimizer = optimization.build_optimizer(module)
    return optimizer, schedule(optimizer)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_with_the_same_bits(name: str) -> None:
    schedule = SCHEDULES[name](9)
    saved = saved_after(5, *trained_by(schedule))
    assert resumed(saved, *trained_by(schedule), rounds=4) == rates_in(4, *trained_by(schedule), skip=5)


@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - {"plateau"}))
@pytest.mark.parametrize(("before", "rate"), [(None, 0.2), (None, 0.1), ("lambda", 0.1), ("plateau", 0.1)])
def test_a_schedule_that_is_changed_is_where_it_would_be_by_now(name: str, before: str | None, rate: float) -> None:
    """Its rate, its options, or what it was before."""
    now, then = SCHEDULES[name](9 if rate == 0.2 else 12), SCHEDULES[before or name](9)
    saved = saved_after(5, *trained_by(then))
    saved["lr_schedulers"][0]["last_epoch"] = 2 if before == "plateau" else 5  # it counts validations
    assert resumed(saved, *trained_by(now, rate), rounds=4) == rates_in(4, *trained_by(now, rate), skip=5)


@pytest.mark.parametrize("before", ["lambda", "cosine"])
def test_a_schedule_by_a_metric_begins_at_the_rate_of_the_config(before: str) -> None:
    saved = saved_after(5, *trained_by(SCHEDULES[before](9)))
    assert resumed(saved, *trained_by(SCHEDULES["plateau"](9)))[0] == [0.1, 0.1]


def test_a_schedule_goes_on_with_another_number_of_groups() -> None:
    def made(**options: Any) -> tuple[Any, Any]:
        optimization, module = Optimization(**options), nn.Module()
        module.model = nn.ModuleDict({"encoder": network(), "head": nn.Linear(1, 1)})
        optimizer = optimization.build_optimizer(module)
        return optimizer, optimization.build_schedule(optimizer, 10)

    before, (other_optimizer, other) = made(), made(encoder_share=0.1)
    assert len(other_optimizer.param_groups) > len(before[0].param_groups)
    saved = saved_after(1, *before)
    assert resumed(saved, other_optimizer, other) == rates_in(1, *made(encoder_share=0.1), skip=1)
    assert other.last_epoch == 1
    assert other.base_lrs == [group["initial_lr"] for group in other_optimizer.param_groups]
