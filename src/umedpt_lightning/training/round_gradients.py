"""The gradients of a round: a backward pass after the other, exchanged once, without what is not finite."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training.gradients import sum_gradients
from umedpt_lightning.training.half_precision import leave_nothing_to_step, loss_scale, scaled
from umedpt_lightning.training.non_finite import (
    NonFiniteCounts,
    RoundSnapshot,
    all_non_finite,
    find_non_finite,
    leave_out,
    running_norms,
)
from umedpt_lightning.training.out_of_memory import explain_memory
from umedpt_lightning.training.packing import packs
from umedpt_lightning.training.running_statistics import RunningStatistics
from umedpt_lightning.types import MicroBatchId, Round, RoundPlan, TaskBatch


class RoundLosses(NamedTuple):
    """What came of a round.

    Attributes:
        total: Its loss, over all ranks, a scalar.
        tasks: The task of each of this rank's micro-batches.
        losses: Those of this rank's micro-batches, ``(N,)``, without graph.
        samples: How many samples each has.
    """

    total: Tensor
    tasks: list[str]
    losses: Tensor
    samples: list[int]


class RoundGradients:
    """Fills in the gradients of a model, one micro-batch in memory at a time.

    Args:
        module: Runs the backward passes and knows the trainer.
        model: Whose gradients.
        weights: Weight of each task's loss.
        max_bad_rounds: See `NonFiniteCounts`.
        pack_pixels: See `packs`.

    Attributes:
        non_finite: What was left out so far.
        norm: Of all gradients of the last round together, unscaled.
        pack_pixels: As above.
        parameters: All of the module; to look for them in every round would take milliseconds.

    Raises:
        ValueError: `max_bad_rounds` is not positive.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        model: MultiTaskModel,
        weights: Mapping[str, float],
        max_bad_rounds: int = 10,
        pack_pixels: int = 0,
    ) -> None:
        self._module, self._model, self._weights = module, model, weights
        self.pack_pixels = pack_pixels
        self.non_finite = NonFiniteCounts(max_bad_rounds)
        self.norm = math.nan
        self.parameters = list(module.parameters())
        self._statistics = RunningStatistics(model)
        self._norms = running_norms(model)

    def fill(self, batch: Round, on_micro_batch: Callable[[TaskBatch], None], seed: Callable[[], None]) -> RoundLosses:
        """Gradients of the loss of a round, the same on all ranks.

        A micro-batch whose loss or gradients are not finite on any rank is left out on all of them. Until then nothing
        is spent on them: one look at the sum of all says whether there is one, and then the round is read again.

        Args:
            batch: The round.
            on_micro_batch: Is given every micro-batch of this rank once.
            seed: Seeds what the round draws; called again where the round is begun anew.

        Raises:
            FloatingPointError: A task was not finite in too many rounds in a row.
            MemoryError: Memory ran out.
        """
        start = RoundSnapshot(self._norms, seed)
        self._statistics.start()
        losses = self._pass(_observed(batch, on_micro_batch), self.shares(batch.plan))
        if self._may_step(losses.total):
            self.non_finite.passed(batch.plan.micro_batches)
            return losses
        return self._without_non_finite(batch, start)

    def backward(self, pack: Sequence[TaskBatch], shares: Mapping[str, Tensor]) -> list[Tensor]:
        """Adds the gradients of a share of each micro-batch's loss.

        Args:
            pack: Micro-batches that go through the shared blocks together.
            shares: What the loss of a micro-batch of each task is multiplied with, scalars, scaled where there is a
                scaler: where its gradients begin, which saves the multiplication.

        Returns:
            The whole loss of each, without its graph.
        """
        try:  # not a `with`: this runs for every micro-batch
            device, model = self._device, self._model
            pack = [batch.to(device, non_blocking=True) for batch in pack]
            outputs = model.forward_pack([batch.images for batch in pack], [batch.task for batch in pack])
            losses = [
                model.task(batch.task).loss(output, batch.targets) for batch, output in zip(pack, outputs, strict=True)
            ]
            self._module.backward(_together(losses), _together([shares[batch.task] for batch in pack]))
        except RuntimeError as error:
            explain_memory(error, pack, self._module.trainer)
            raise
        return [loss.detach() for loss in losses]

    def _pass(self, batches: Iterable[TaskBatch], shares: Mapping[str, float]) -> RoundLosses:
        for parameter in self.parameters:
            parameter.grad = None
        on_device = self._on_device(shares)
        begin = scaled(on_device, self._module.trainer)
        found: list[Tensor] = []
        tasks: list[str] = []
        samples: list[int] = []
        for pack in packs(batches, self._model, self.pack_pixels):  # of one, unless small ones are packed
            found += self.backward(pack, begin)
            tasks += [batch.task for batch in pack]
            samples += [len(batch) for batch in pack]
        # in one go: what is done for every micro-batch counts where there are many small ones
        losses = torch.stack(found) if found else self._nothing()
        weights = torch.stack([on_device[task] for task in tasks]) if found else losses
        total = losses @ weights.to(losses.dtype)
        total, *statistics = sum_gradients(self.parameters, [total, *self._statistics.weighted()])
        self._statistics.take(statistics)
        return RoundLosses(total, tasks, losses, samples)

    def _on_device(self, shares: Mapping[str, float]) -> dict[str, Tensor]:
        """Scalars in the dtype of losses: float32, or float64 where the model is in that."""
        dtype, device = torch.promote_types(self.parameters[0].dtype, torch.float32), self._device
        return {task: _scalar(share, dtype, device) for task, share in shares.items()}

    @property
    def _device(self) -> torch.device:
        return self.parameters[0].device  # the module's says the same, after ten times as much Python

    def _nothing(self) -> Tensor:
        return torch.zeros(0, device=self._device)

    def shares(self, plan: RoundPlan, left_out: Collection[MicroBatchId] = ()) -> dict[str, float]:
        """What the loss of a micro-batch of each task is multiplied with, so that the sum over all ranks is the loss.

        The sum of weights is that of a round on average, not of this one: a turn weighs the same in every round. For
        micro-batches that are left out the others of their task make up; a task that has none left skips the round.
        """
        weight_sum = sum(self._weights[task] * rate.turns for task, rate in plan.rates.items())
        missing = Counter(id_.task for id_ in left_out)
        shares = {}
        for task, count in plan.micro_batches.items():
            if count > missing[task]:
                share = self._weights[task] / weight_sum / plan.rates[task].micro_batches / plan.parts
                shares[task] = share * count / (count - missing[task])
        return shares

    def _may_step(self, total: Tensor) -> bool:
        """Whether loss and gradients of a round are finite, the same on all ranks; waits for the device once."""
        gradients = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        norm, loss = torch.stack([gradients, total]).tolist()
        scale = loss_scale(self._module.trainer)
        self.norm = norm / scale
        # infinite gradients are how a scaler finds its scale; it passes over the step itself
        return math.isfinite(loss) and (math.isfinite(norm) or scale > 1)

    def _without_non_finite(self, batch: Round, start: RoundSnapshot) -> RoundLosses:
        """As `fill`, as if the micro-batches of the round that are not finite had never been in it."""
        plan = batch.plan
        start.restore()
        found = find_non_finite(
            plan.mine, batch.again(), self._backward_alone, self._model, gradients=loss_scale(self._module.trainer) <= 1
        )
        start.restore()
        left_out = {one.id for one in found}
        kept = leave_out(left_out, plan.mine, batch.again())
        losses = self._pass(kept, self.shares(plan, left_out))
        if len(left_out) == sum(plan.micro_batches.values()) or not self._may_step(losses.total):
            start.restore()
            found = all_non_finite(found, plan.micro_batches)
            losses = RoundLosses(losses.total, [], self._nothing(), [])
            self.norm = 0.0
            leave_nothing_to_step(self._module)
        self.non_finite.add(found, plan.micro_batches, self._module.global_step)
        return losses

    def _backward_alone(self, batch: TaskBatch) -> Tensor:
        return self.backward([batch], scaled(self._on_device({batch.task: 1.0}), self._module.trainer))[0]


@lru_cache
def _scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once, since a GPU would have to be waited for each time."""
    return torch.tensor(value, dtype=dtype, device=device)


def _together(scalars: list[Tensor]) -> Tensor:
    return scalars[0] if len(scalars) == 1 else torch.stack(scalars)


def _observed(batches: Iterable[TaskBatch], on_micro_batch: Callable[[TaskBatch], None]) -> Iterator[TaskBatch]:
    for batch in batches:
        on_micro_batch(batch)
        yield batch
