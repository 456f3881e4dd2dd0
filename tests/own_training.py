"""What users bring along in a file of their own: weightings, an aggregator, an optimizer, groups, a schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from umedpt_lightning.training import ParameterGroups
from umedpt_lightning.training.aggregation import GradientAggregator
from umedpt_lightning.training.gradient_buffer import GradientBuffer
from umedpt_lightning.training.weighting import LossWeighting


class UncertaintyWeights(LossWeighting):
    """Learns a log-variance a task: Kendall et al., Multi-task learning using uncertainty, CVPR 2018, equation 7."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.log_variances = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in self.tasks})

    def forward(self, number: int) -> Tensor:
        s = torch.stack(list(self.log_variances.values())).detach()
        return self.weights.to(s) * torch.exp(-s)

    def update(self, losses: Tensor, present: Tensor) -> None:
        s = torch.stack(list(self.log_variances.values()))
        (present * (torch.exp(-s) * losses + s)).sum().backward()


class SlowestFirst(LossWeighting):
    """Weighs a task by its loss over the mean of its losses so far, and by a draw a round."""

    def __init__(self, weights: Mapping[str, float], power: float = 1.0) -> None:
        super().__init__(weights)
        self.power = power
        self.state = {name: torch.zeros(len(weights)) for name in ("means", "last", "rounds")}

    def forward(self, number: int) -> Tensor:
        means, last, rounds = self.state.values()
        drawn = torch.rand(len(self.tasks), generator=torch.Generator().manual_seed(number)).to(means)
        return torch.where(rounds > 0, (last / means.clamp(min=1e-6)) ** self.power, 1.0) + drawn

    def update(self, losses: Tensor, present: Tensor) -> None:
        means, last, rounds = self.state.values()
        rounds += present
        means += present * (losses - means) / rounds.clamp(min=1)
        last.copy_(torch.where(present, losses, last))


class KeepTasksApart(GradientAggregator):
    """Keeps a copy of what every micro-batch has added, and doubles the whole in the end."""

    def __init__(self, factor: float = 2.0) -> None:
        self.factor, self.rounds = factor, 0
        self.added: list[tuple[str, dict[str, Tensor]]] = []

    def start_round(self, buffer: GradientBuffer) -> None:
        self.added, self._before = [], {name: g.clone() for name, g in buffer.gradients.items()}

    def after_micro_batch(self, task: str, buffer: GradientBuffer) -> None:
        now = {name: g.clone() for name, g in buffer.gradients.items()}
        self.added.append((task, {name: g - self._before[name] for name, g in now.items()}))
        self._before = now

    def before_exchange(self, buffer: GradientBuffer) -> None:
        self.rounds += 1
        buffer.multiply(torch.tensor(self.factor))

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self.rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rounds = state["rounds"]


class SignDescent(Optimizer):
    """signSGD: Bernstein et al., ICML 2018. It has no weight decay."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p -= group["lr"] * p.grad.sign()


class Staircase(LambdaLR):
    """Halves the rate every so many rounds."""

    def __init__(self, optimizer: Optimizer, every: int = 10) -> None:
        super().__init__(optimizer, lambda step: 0.5 ** (step // every))


class HeadsTwiceAsFast(ParameterGroups):
    """Heads learn at twice the rate, and all parameters decay."""

    def rate(self, name: str, parameter: nn.Parameter, stage: int | None, stages: int) -> float:
        return 2.0 if ".tasks." in name else super().rate(name, parameter, stage, stages)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return True


def not_an_optimizer(params: Iterable[Any]) -> SGD:
    return 3  # type: ignore[return-value]
