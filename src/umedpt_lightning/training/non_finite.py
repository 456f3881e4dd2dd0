"""Micro-batches whose loss or gradients are not finite: found, left out, counted; too many in a row stop the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from umedpt_lightning.training.ranks import gather_objects
from umedpt_lightning.training.sharding import own_part
from umedpt_lightning.types import MicroBatchId, TaskBatch

_MOST_NAMES = 8


class NonFiniteMicroBatch(NamedTuple):
    """A micro-batch that is left out.

    Attributes:
        id: Which micro-batch of the round it is.
        what: What was not finite.
        samples: What messages call its samples.
    """

    id: MicroBatchId
    what: str
    samples: list[str]

    def __str__(self) -> str:
        names = ", ".join(self.samples[:_MOST_NAMES])
        more = f" and {len(self.samples) - _MOST_NAMES} more" if len(self.samples) > _MOST_NAMES else ""
        return f"task {self.id.task!r}: {self.what}" + (f" with the samples {names}{more}" if names else "")


class NonFiniteCounts:
    """How many micro-batches of each task were left out, and in how many rounds in a row.

    Args:
        stop_after: Rounds in a row with one of the same task that stop the run.

    Raises:
        ValueError: `stop_after` is not positive.
    """

    def __init__(self, stop_after: int) -> None:
        if stop_after < 1:
            raise ValueError(f"model.max_bad_rounds must be positive, but it is {stop_after}.")
        self.stop_after = stop_after
        self.dropped: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def passed(self, tasks: Iterable[str]) -> None:
        """Takes note of a round of `tasks` in which all was finite."""
        if self._in_a_row:
            for task in tasks:
                self._in_a_row.pop(task, None)

    def add(self, found: Collection[NonFiniteMicroBatch], tasks: Iterable[str], step: int) -> None:
        """Counts those of a round of `tasks` that are not finite, and warns.

        Args:
            found: On all ranks the same.
            tasks: The tasks of the round.
            step: The round's number.

        Raises:
            FloatingPointError: A task had one in too many rounds in a row.
        """
        self.dropped.update(task for task, _ in {one.id for one in found})
        bad = {one.id.task: one for one in found}
        self.passed(task for task in tasks if task not in bad)
        self._in_a_row.update(bad.keys())
        for one in found:
            rank_zero_warn(f"Round {step}, {one}. The micro-batch is left out.", stacklevel=2)
        for task, one in bad.items():
            if self._in_a_row[task] >= self.stop_after:
                raise FloatingPointError(
                    f"In {self.stop_after} rounds in a row (model.max_bad_rounds) something was not finite, at last in "
                    f"{one}. Lower model.optimization.learning_rate or its clip, prefer trainer.precision bf16-mixed "
                    "or 32-true to 16-mixed, and look for wild intensities and targets among these samples with "
                    "`umedpt data check`."
                )

    def state_dict(self) -> dict[str, dict[str, int]]:
        """The counts, for a checkpoint; the same on every rank."""
        return {"dropped": dict(self.dropped), "in_a_row": dict(self._in_a_row)}

    def load_state_dict(self, state: dict[str, dict[str, int]]) -> None:
        """Counts on from `state`."""
        self.dropped, self._in_a_row = Counter(state["dropped"]), Counter(state["in_a_row"])


def find_non_finite(
    ids: Iterable[MicroBatchId],
    batches: Iterable[TaskBatch],
    backward: Callable[[TaskBatch], Tensor],
    model: nn.Module,
    gradients: bool,
) -> list[NonFiniteMicroBatch]:
    """Looks at each micro-batch of a round alone; what any rank finds, all are told.

    Args:
        ids: Which micro-batches of the round this rank has.
        batches: Those.
        backward: Gives `model` the gradients of a micro-batch alone, and returns its loss.
        model: Whose gradients are looked at.
        gradients: Whether those with gradients that are not finite are looked for, too.
    """
    found = []
    for id_, batch in zip(ids, batches, strict=True):
        what = _what(backward(batch), model if gradients else None)
        if what:
            found.append(NonFiniteMicroBatch(id_, what, batch.names))
    return [one for of_rank in gather_objects(found) for one in of_rank]


def leave_out(
    left_out: Collection[MicroBatchId], ids: Iterable[MicroBatchId], batches: Iterable[TaskBatch]
) -> Iterator[TaskBatch]:
    """The micro-batches of a round without those that are left out, here or on another rank."""
    return (batch for id_, batch in zip(ids, batches, strict=True) if id_ not in left_out)


def all_non_finite(
    found: Collection[NonFiniteMicroBatch], micro_batches: Mapping[str, int]
) -> list[NonFiniteMicroBatch]:
    """What was found, and all others: each is finite alone, but not all together."""
    ids = {one.id for one in found}
    others = (MicroBatchId(task, number) for task, count in micro_batches.items() for number in range(count))
    what = "the gradients of the round are not finite, though they are one by one"
    return [*found, *(NonFiniteMicroBatch(id_, what, []) for id_ in others if id_ not in ids)]


def _what(loss: Tensor, model: nn.Module | None) -> str:
    """What is not finite, empty if all is."""
    if not loss.isfinite():
        return f"the loss is {loss.item()}"
    blocks = {
        # encoder, pixel_decoder, …, and each task's head for itself
        ".".join(name.split(".")[: 2 if name.startswith("tasks.") else 1]): None
        for name, parameter in (model.named_parameters() if model else ())
        if parameter.grad is not None and not own_part(parameter.grad).isfinite().all()
    }
    return f"the loss is {loss.item():.3g}, but the gradients of {', '.join(blocks)} are not finite" if blocks else ""
