"""The optimizer, and its learning rate over the rounds."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn, optim
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from umedpt_lightning.training.parameter_groups import ParameterGroups

T = TypeVar("T")
#: Options that an object stands in place of.
_REPLACED = {
    "optimizer": ("learning_rate", "weight_decay", "betas"),
    "lr_scheduler": ("warmup", "final"),
    "groups": ("encoder_share",),
}


@dataclass
class Optimization:
    """AdamW with a warm-up and a cosine, clipped; or any other optimizer and schedule.

    One optimizer has all parameters and makes one step a round. So does the schedule: what it calls epochs or steps are
    rounds.

    Attributes:
        learning_rate: Its peak.
        encoder_share: The encoder learns with this share of the rate; below 1 it keeps more of the weights it starts
            from, while heads and decoders, which are new, learn at full speed.
        weight_decay: Decoupled weight decay; none on norms and biases.
        betas: Decay rates of AdamW's two moments.
        warmup: Rounds until the peak; below 1 a share of all rounds.
        final: The last learning rate, as a share of the peak.
        clip: Largest norm of all gradients together; None for no clipping.
        optimizer: Another optimizer, with its own options in place of `learning_rate`, `weight_decay` and `betas`.
        lr_scheduler: Another schedule, in place of `warmup` and `final`. `lightning.pytorch.cli.ReduceLROnPlateau`
            makes its step after each validation.
        groups: Shares of the rate, what decays and what is frozen, in place of `encoder_share`.

    Raises:
        ValueError: A number makes no sense, or an object is given beside an option that it stands in place of.
    """

    learning_rate: float = 3e-4
    encoder_share: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.05
    final: float = 0.01
    clip: float | None = 1.0
    optimizer: OptimizerCallable | None = None
    lr_scheduler: LRSchedulerCallable | None = None
    groups: ParameterGroups | None = None

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.warmup < 0 or not 0 <= self.final <= 1:
            raise ValueError(
                "optimization: learning_rate must be positive, warmup not negative and final between 0 and 1, but they "
                f"are {self.learning_rate}, {self.warmup} and {self.final}."
            )
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"optimization.clip must be positive, or null for no clipping, but it is {self.clip}.")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for given, replaced in _REPLACED.items():
            lost = [name for name in replaced if getattr(self, name) != defaults[name]]
            if getattr(self, given) is not None and lost:
                raise ValueError(
                    f"optimization.{given} stands in place of {', '.join(replaced)}, so {lost[0]} "
                    f"({getattr(self, lost[0])}) would have no effect. Give it in {given}.init_args, and take it out."
                )
        # what makes no sense is told now
        ParameterGroups(self.encoder_share)
        if (make := self.optimizer) is not None:
            _check(_built("optimizer", Optimizer, lambda: make([nn.Parameter(torch.zeros(2, 2))])))

    def build_optimizer(self, module: nn.Module, scaled: bool = False) -> Optimizer:
        """The optimizer of the trainable parameters of `module`, whose encoder is ``module.model.encoder``.

        Every group has the names of its parameters (``param_names``), by which its state in a checkpoint is told apart.

        Args:
            module: Has the parameters.
            scaled: Whether gradients come scaled, as those of 16-mixed, and are to be clipped before the step.

        Raises:
            ValueError: It cannot be built, or not be used here.
        """
        groups = (self.groups or ParameterGroups(self.encoder_share)).split(
            module, by_decay=self.optimizer is not None or self.weight_decay > 0
        )
        # a fused step unscales gradients itself, which would leave nothing to clip before it
        adamw = partial(
            AdamW, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay, fused=not scaled
        )
        parameters = [{"params": list(group.parameters.values())} for group in groups]
        optimizer = _built("optimizer", Optimizer, lambda: (self.optimizer or adamw)(parameters))
        if scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(
                f"optimization.optimizer: a fused {type(optimizer).__name__} unscales gradients of 16-mixed itself, so "
                "that they could not be clipped before. Give it init_args: {fused: false}, or take bf16-mixed."
            )
        for options, group in zip(optimizer.param_groups, groups, strict=True):
            options["param_names"] = list(group.parameters)
            options["lr"] = options["initial_lr"] = options["lr"] * group.rate
            if not group.decays and "weight_decay" in options:
                options["weight_decay"] = 0.0
        return optimizer

    def build_schedule(self, optimizer: Optimizer, rounds: int) -> LRScheduler | ReduceLROnPlateau:
        """The schedule over `rounds` rounds; the last rate holds afterwards.

        By default linear from 0 to the peak, then half a cosine: Loshchilov & Hutter, SGDR, ICLR 2017.

        Raises:
            ValueError: It cannot be built, or does not say what it monitors.
        """
        if self.lr_scheduler is not None:
            make = self.lr_scheduler
            schedule = _built("lr_scheduler", LRScheduler, lambda: make(optimizer))
            if isinstance(schedule, optim.lr_scheduler.ReduceLROnPlateau) and not hasattr(schedule, "monitor"):
                raise ValueError(
                    "optimization.lr_scheduler: torch's ReduceLROnPlateau does not say which metric it goes by. Take "
                    "lightning.pytorch.cli.ReduceLROnPlateau with init_args: {monitor: val/score, mode: max}."
                )
            return schedule
        warmup = self.warmup if self.warmup >= 1 else self.warmup * rounds

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            progress = min(1.0, (step - warmup) / max(1.0, rounds - warmup))
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2

        return LambdaLR(optimizer, factor)


def _built(option: str, kind: type[T], make: Callable[[], Any]) -> T:
    """What an object of the config makes.

    Raises:
        ValueError: It cannot make it, with the option's name.
    """
    try:
        made = make()
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"optimization.{option} cannot be built: {error}. Correct its class_path or init_args."
        ) from error
    if not isinstance(made, kind):
        raise ValueError(
            f"optimization.{option} should give a {kind.__module__}.{kind.__name__}, but it gives a "
            f"{type(made).__name__}. Give the class's path, with its options as init_args."
        )
    return made


def _check(optimizer: Optimizer) -> None:
    """Holds that an optimizer needs gradients alone, and has a learning rate.

    Raises:
        ValueError: With the mend.
    """
    name = type(optimizer).__name__
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimization.optimizer: {name} evaluates the loss several times a step, for which every round would have "
            "to be read again. Take one that needs the gradients alone, such as torch.optim.AdamW or torch.optim.SGD."
        )
    if not all(isinstance(group.get("lr"), float | int | Tensor) for group in optimizer.param_groups):
        raise ValueError(
            f"optimization.optimizer: {name} has no learning rate that groups and schedules could change. Give it `lr` "
            "in its init_args."
        )
