"""The gradients of a round: a backward pass after the other, exchanged once, without what is not finite."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks.contract import loss_of
from umedpt_lightning.training.aggregation.base import GradientAggregator, planned
from umedpt_lightning.training.aggregation.gram import Gram
from umedpt_lightning.training.aggregation.watch import GradientWatch
from umedpt_lightning.training.coefficients import Coefficients
from umedpt_lightning.training.gradient_buffer import GradientBuffer, RoundBuffer
from umedpt_lightning.training.half_precision import leave_nothing_to_step, loss_scale, scaled
from umedpt_lightning.training.non_finite import NonFiniteCounts, all_non_finite, find_non_finite, leave_out
from umedpt_lightning.training.out_of_memory import explain_memory
from umedpt_lightning.training.packing import packs
from umedpt_lightning.training.running_statistics import RunningStatistics
from umedpt_lightning.training.sharding import ShardedGradients, is_shard
from umedpt_lightning.training.weighting import LossWeighting
from umedpt_lightning.types import MicroBatchId, Round, RoundPlan, TaskBatch


class RoundLosses(NamedTuple):
    """What came of a round.

    Attributes:
        total: Its loss, over all ranks, a scalar.
        tasks: The task of each of this rank's micro-batches.
        losses: Those of this rank's micro-batches, ``(N,)``, without graph.
        samples: How many samples each has.
        of_tasks: ``(2, T)`` sums of the losses of each task and their number, over all ranks, without those of 0, which
            come of samples without a label; without columns where the weighting does not ask for them.
    """

    total: Tensor
    tasks: list[str]
    losses: Tensor
    samples: list[int]
    of_tasks: Tensor


class RoundGradients:
    """Fills in the gradients of a model, one micro-batch in memory at a time.

    Args:
        module: Runs the backward passes and knows the trainer.
        model: Whose gradients.
        weighting: Weighs the tasks' losses.
        aggregator: Sees the gradients task by task.
        max_bad_rounds: See `NonFiniteCounts`.
        pack_pixels: See `packs`.

    Attributes:
        non_finite: What was left out so far.
        norm: Of all gradients of the last round together, unscaled.
        pack_pixels: As above.
        coefficients: What losses are multiplied with.
        buffer: The gradients; there from `prepare` on.
        watch: Whether the next rounds are to be measured for `gram`, where there is no aggregator; they are not packed.
        factors: What the gradients of tasks in the shared blocks were multiplied with in the last round, besides the
            coefficients; 1 where a task is left out.

    Raises:
        ValueError: `max_bad_rounds` is not positive.
    """

    buffer: RoundBuffer
    _statistics: RunningStatistics

    def __init__(
        self,
        module: pl.LightningModule,
        model: MultiTaskModel,
        weighting: LossWeighting,
        aggregator: GradientAggregator | None = None,
        max_bad_rounds: int = 10,
        pack_pixels: int = 0,
    ) -> None:
        self._module, self._model = module, model
        self._weighting, self._aggregator = weighting, aggregator
        self._watch = GradientWatch()
        self.watch = False
        self.factors: Mapping[str, float] = {}
        self.pack_pixels = pack_pixels
        self.non_finite = NonFiniteCounts(max_bad_rounds)
        self.norm = math.nan
        self.coefficients = Coefficients(weighting)
        self._numbers = {task: number for number, task in enumerate(weighting.tasks)}
        self._parameter = next(model.parameters())  # knows device and dtype, after a tenth of the module's Python

    @property
    def gram(self) -> Gram | None:
        """Of the last round that was measured, if any."""
        return (self._aggregator or self._watch).gram

    def prepare(self) -> None:
        """Looks for parameters and layers; just before the first round, since a trainer may exchange layers."""
        self._statistics = RunningStatistics(self._model)
        room = 1 + 2 * len(self._numbers) + self._statistics.size
        parameters = dict(self._model.named_parameters())
        self._parameter = next(iter(parameters.values()))
        sharded = any(map(is_shard, parameters.values()))
        self.buffer = ShardedGradients(parameters, room) if sharded else GradientBuffer(parameters, room)

    def fill(
        self, batch: Round, number: int, on_micro_batch: Callable[[TaskBatch], None], seed: Callable[[], None]
    ) -> RoundLosses:
        """Gradients of the loss of a round, the same on all ranks.

        A micro-batch whose loss or gradients are not finite on any rank is left out on all of them. Until then nothing
        is spent on them: the norm of all gradients says whether there is one, and then the round is read again.

        Args:
            batch: The round.
            number: Of the round, counted from 0 over the whole run.
            on_micro_batch: Is given every micro-batch of this rank once.
            seed: Seeds what the round draws; called again where the round is begun anew.

        Raises:
            FloatingPointError: A task was not finite in too many rounds in a row.
            MemoryError: Memory ran out.
        """
        with self._statistics.round(batch.plan.micro_batches):
            seed()
            losses = self._pass(_observed(batch, on_micro_batch), batch.plan, number)
            if self._may_step(losses.total):
                self.non_finite.passed(batch.plan.micro_batches)
                self._end_round()
            else:
                losses = self._without_non_finite(batch, number, seed)
        if losses.of_tasks.numel():
            self._weigh(losses.of_tasks)
        return losses

    def clip(self, norm: float | None) -> None:
        """Scales the gradients down to a norm if theirs is larger; once they are unscaled."""
        if norm is not None and self.norm + 1e-6 > norm:  # else torch's own would multiply all gradients with 1
            # as `torch.nn.utils.clip_grads_with_norm_` does it, in one multiplication
            total = torch.tensor(self.norm, dtype=self._parameter.dtype)
            self.buffer.multiply((norm / (total + 1e-6)).clamp(max=1.0))

    def backward(self, pack: Sequence[TaskBatch], coefficients: Mapping[str, Tensor]) -> list[Tensor]:
        """Adds the gradients of each micro-batch's loss, times its task's coefficient.

        Args:
            pack: Micro-batches that go through the shared blocks together.
            coefficients: Scalars, scaled where there is a scaler: where the gradients of the losses begin, which saves
                the multiplication.

        Returns:
            The whole loss of each, without its graph.
        """
        try:  # not a `with`: this runs for every micro-batch
            device, model = self._parameter.device, self._model
            pack = [model.task(batch.task).prepare(batch.to(device, non_blocking=True)) for batch in pack]
            images, tasks = [batch.images for batch in pack], [batch.task for batch in pack]
            if tasks[0] in self.factors:  # tasks that are weighed apart are not packed
                outputs = [model(images[0], tasks[0], self.factors[tasks[0]])]
            else:
                outputs = model.forward_pack(images, tasks)
            losses = [
                loss_of(model.task(batch.task), output, batch.targets)
                for batch, output in zip(pack, outputs, strict=True)
            ]
            # not `manual_backward`, which asks every callback before and after: 0.15 ms of a micro-batch's 10
            self._module.backward(_together(losses), _together([coefficients[batch.task] for batch in pack]))
        except RuntimeError as error:
            explain_memory(error, pack, self._module.trainer)
            raise
        self._statistics.add(pack[0].task)  # of one task: layers whose statistics move are not packed
        return [loss.detach() for loss in losses]

    def _pass(
        self, batches: Iterable[TaskBatch], plan: RoundPlan, number: int, left_out: Collection[MicroBatchId] = ()
    ) -> RoundLosses:
        self.buffer.zero()
        watcher = self._watcher
        if watcher:
            self.factors = planned(watcher, number, _without(plan, left_out), loss_scale(self._module.trainer))
            watcher.start_round(self.buffer.shared)
        coefficients = self.coefficients.of_round(number, plan, self._like_losses(), left_out)
        begin = scaled(coefficients, self._module.trainer)
        found: list[Tensor] = []
        tasks: list[str] = []
        samples: list[int] = []
        for pack in packs(batches, self._model, 0 if watcher else self.pack_pixels):
            found += self.backward(pack, begin)
            tasks += [batch.task for batch in pack]
            samples += [len(batch) for batch in pack]
            if watcher:
                watcher.after_micro_batch(pack[0].task, self.buffer.shared)
        if watcher:
            watcher.before_exchange(self.buffer.shared)
        # in one go: what is done for every micro-batch counts where there are many small ones
        losses = torch.stack(found) if found else self._like_losses()
        factors = torch.stack([coefficients[task] for task in tasks]) if found else losses
        total, of_tasks = losses @ factors.to(losses.dtype), self._by_task(tasks, losses)
        total, of_tasks, *statistics = self.buffer.exchange([total, of_tasks, *self._statistics.sums()])
        self._statistics.move(statistics)
        return RoundLosses(total, tasks, losses, samples, of_tasks)

    @property
    def _watcher(self) -> GradientAggregator | None:
        return self._aggregator or (self._watch if self.watch else None)

    def _end_round(self) -> None:
        if watcher := self._watcher:
            watcher.end_round()

    def _like_losses(self) -> Tensor:
        """Empty, in the dtype of losses: float32, or float64 where the model is in that."""
        dtype = torch.promote_types(self._parameter.dtype, torch.float32)
        return torch.zeros(0, dtype=dtype, device=self._parameter.device)

    def _by_task(self, tasks: Sequence[str], losses: Tensor) -> Tensor:
        """See `RoundLosses.of_tasks`; of this rank."""
        if not self._weighting.changes:
            return losses.new_zeros(2, 0)
        numbers = torch.tensor([self._numbers[task] for task in tasks], dtype=torch.long).to(
            losses.device, non_blocking=True
        )
        values = torch.stack([losses, (losses != 0).to(losses)])
        return losses.new_zeros(2, len(self._numbers)).index_add(1, numbers, values)

    def _weigh(self, of_tasks: Tensor) -> None:
        """Lets the weighting learn from the losses of all ranks."""
        sums, counts = of_tasks
        self._weighting.zero_grad()
        self._weighting.update(sums / counts.clamp(min=1), counts > 0)
        for parameter in self._weighting.parameters():
            if parameter.grad is not None:  # a scaler takes its scale from all gradients
                parameter.grad.mul_(loss_scale(self._module.trainer))

    def _may_step(self, total: Tensor) -> bool:
        """Whether loss and gradients of a round are finite, the same on all ranks; waits for the device once."""
        norm, loss = torch.stack([self.buffer.norm(), total]).tolist()
        scale = loss_scale(self._module.trainer)
        self.norm = norm / scale
        # infinite gradients are how a scaler finds its scale; it passes over the step itself
        return math.isfinite(loss) and (math.isfinite(norm) or scale > 1)

    def _without_non_finite(self, batch: Round, number: int, seed: Callable[[], None]) -> RoundLosses:
        """As `fill`, as if the micro-batches of the round that are not finite had never been in it."""
        plan = batch.plan
        seed()
        found = find_non_finite(
            plan.mine, batch.again(), self._backward_alone, self._model, gradients=loss_scale(self._module.trainer) <= 1
        )
        seed()
        self._statistics.restart()
        left_out = {one.id for one in found}
        losses = self._pass(leave_out(left_out, plan.mine, batch.again()), plan, number, left_out)
        if len(left_out) == sum(plan.micro_batches.values()) or not self._may_step(losses.total):
            seed()
            self._statistics.restart()
            found = all_non_finite(found, plan.micro_batches)
            nothing = self._like_losses()
            losses = RoundLosses(losses.total, [], nothing, [], nothing)
            self.norm = 0.0
            leave_nothing_to_step(self._module)
        else:
            self._end_round()
        self.non_finite.add(found, plan.micro_batches, self._module.global_step)
        return losses

    def _backward_alone(self, batch: TaskBatch) -> Tensor:
        """The gradients of a micro-batch and nothing else."""
        self.buffer.zero()
        one = torch.ones((), dtype=self._like_losses().dtype, device=self._parameter.device)
        return self.backward([batch], scaled({batch.task: one}, self._module.trainer))[0]


def _without(plan: RoundPlan, left_out: Collection[MicroBatchId]) -> RoundPlan:
    if not left_out:
        return plan
    missing = Counter(id_.task for id_ in left_out)
    counts = {task: count - missing[task] for task, count in plan.micro_batches.items() if count > missing[task]}
    return replace(plan, micro_batches=counts, mine=[id_ for id_ in plan.mine if id_ not in left_out])


def _together(scalars: list[Tensor]) -> Tensor:
    return scalars[0] if len(scalars) == 1 else torch.stack(scalars)


def _observed(batches: Iterable[TaskBatch], on_micro_batch: Callable[[TaskBatch], None]) -> Iterator[TaskBatch]:
    for batch in batches:
        on_micro_batch(batch)
        yield batch
