"""What may look at a round's gradients while they come together, and change them before the step."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from umedpt_lightning.training.aggregation.gram import Gram
from umedpt_lightning.training.gradient_buffer import GradientBuffer
from umedpt_lightning.types import RoundPlan


class GradientAggregator:
    """Sees the gradients task by task; this one does nothing, and those that do override what they need.

    The buffer adds up: after a micro-batch it holds the gradients of the round so far, so that a task's gradient is
    what its micro-batches have added. Each is already multiplied with the task's weight over the sum of all weights,
    and at 16-mixed with the loss scale. On several ranks every rank sees its own micro-batches until
    `before_exchange`, after which the buffers are summed. Where blocks are shared out (``strategy: sharded``) the
    buffer has this rank's parts of their gradients, which are sums already, see `GradientBuffer.is_part`. With an
    aggregator micro-batches are not packed.

    A round with a micro-batch that is not finite is begun anew, `plan_round` included.

    Attributes:
        gram: Of the tasks' gradients in the last round, where the aggregator knows it, for the map of the tasks.
        factors: What the tasks' gradients in the shared blocks were multiplied with in the last round, for the log.
    """

    gram: Gram | None = None
    factors: Mapping[str, float] = MappingProxyType({})

    def plan_round(self, number: int, plan: RoundPlan, loss_scale: float) -> Mapping[str, float]:
        """Called before anything else of a round.

        Args:
            number: Of the round, counted from 0 over the whole run.
            plan: What it consists of, the same on every rank but for ``mine``.
            loss_scale: What all losses are multiplied with at 16-mixed, else 1.

        Returns:
            What the gradient that a task's head hands down to the shared blocks is multiplied with; 1 where a task is
            left out. The head's own gradient stays as it is.
        """
        return {}

    def start_round(self, buffer: GradientBuffer) -> None:
        """Called with a buffer of zeros before the first micro-batch."""

    def after_micro_batch(self, task: str, buffer: GradientBuffer) -> None:
        """Called when the backward pass of a micro-batch is done.

        Args:
            task: Of the micro-batch.
            buffer: May be read, and written in place: what is in it afterwards is what the round goes on with.
        """

    def before_exchange(self, buffer: GradientBuffer) -> None:
        """Called after the last micro-batch of this rank; what is in the buffer afterwards is summed over the ranks."""

    def end_round(self) -> None:
        """Called when all gradients of the round are found finite, before the step; not for one that is left out."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, tensors and plain values; in the checkpoint it is the first rank's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""


def planned(aggregator: GradientAggregator, number: int, plan: RoundPlan, loss_scale: float) -> Mapping[str, float]:
    """What `GradientAggregator.plan_round` gives; raises ValueError where it is not of tasks of the run."""
    factors: Any = aggregator.plan_round(number, plan, loss_scale)
    if not isinstance(factors, Mapping) or not set(factors) <= set(plan.rates) | set(plan.micro_batches):
        raise ValueError(
            f"model.aggregator: {type(aggregator).__name__}.plan_round returned {factors!r:.200}. Return a mapping "
            f"from names of tasks ({', '.join(plan.rates)}) to factors, or {{}}."
        )
    return factors
