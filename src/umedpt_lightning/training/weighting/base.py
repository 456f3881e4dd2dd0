"""What every loss weighting has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class LossWeighting(nn.Module, ABC):
    """Says before each round how much each task's loss counts in it, and learns from the losses after it.

    Two kinds of state are saved in checkpoints, both by task name, so that a run goes on bit by bit:

    - What is in `state`.
    - Parameters that the optimizer learns, one a task, in an `nn.ParameterDict` by task name. `update` gives them their
      gradients; they learn at the full rate, without weight decay, and clipping leaves them alone.

    On several ranks `forward` and `update` are called with the same on all of them, and must do the same: what is drawn
    at random has to come from the number of the round, not from torch's generator, which is another on each rank.

    Args:
        weights: What ``model.weights`` says of each task of the run, 1 where it says nothing.

    Attributes:
        tasks: Names of all tasks, in the order of every tensor of the interface.
        weights: ``(T,)`` float64 on the CPU, those of ``model.weights``.
        state: ``(T,)`` tensors by name, which move to the device with the module.
        changes: Whether the weights change from round to round. If not, `update` is not called, which saves to sum
            losses over the ranks, and the weights are not logged.
    """

    changes: bool = True

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.tasks = list(weights)
        self.weights = torch.tensor(list(weights.values()), dtype=torch.float64)
        self.state: dict[str, Tensor] = {}  # no buffers, which callbacks that average weights would average

    @abstractmethod
    def forward(self, number: int) -> Tensor:
        """The weights of a round.

        Args:
            number: Of the round, counted from 0 over the whole run.

        Returns:
            ``(T,)`` float, without graph and not negative. Only their ratio counts: they are divided by their mean over
            the tasks of a round. Anything that waits for the device (`item`, `tolist`) costs time in every round.
        """

    def update(self, losses: Tensor, present: Tensor) -> None:  # many weightings do not look at losses
        """Learns from a round, before the optimizer's step; not called after one that was left out whole.

        Args:
            losses: ``(T,)`` the mean loss of each task over its micro-batches on all ranks, on the device; 0 where it
                had none. Those with a loss of 0 do not count, as they had no label or, of times, no event.
            present: ``(T,)`` bool, whether the round had the task, with a loss that is not 0.
        """

    def state_by_task(self) -> dict[str, dict[str, Tensor]]:
        """The state for a checkpoint, by name and by task."""
        return {name: dict(zip(self.tasks, tensor.cpu().clone(), strict=True)) for name, tensor in self.state.items()}

    def load_state_by_task(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes the state up again; a task that `state` does not know starts at its beginning."""
        for name, tensor in self.state.items():
            for number, task in enumerate(self.tasks):
                if task in state.get(name, {}):
                    tensor[number] = state[name][task]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LossWeighting:
        """Moves and casts as torch does."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.state = {name: fn(tensor) for name, tensor in self.state.items()}
        return self


#: Builds a weighting from the weights of all tasks.
LossWeightingFactory = Callable[[Mapping[str, float]], LossWeighting]
