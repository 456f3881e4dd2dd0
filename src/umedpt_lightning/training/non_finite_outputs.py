"""The samples of an evaluation whose outputs are not finite: told, and counted as wrong."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from umedpt_lightning.model import NOT_FINITE, MultiTaskModel
from umedpt_lightning.training.ranks import gather_objects
from umedpt_lightning.types import TaskBatch, finite_rows

_MOST_NAMES = 8


class NonFiniteOutputs:
    """Which samples of an evaluation have an output that is not finite. Nobody waits for the device until its end."""

    def __init__(self) -> None:
        self._seen: list[tuple[str, list[str], Tensor]] = []

    def reset(self) -> None:
        """Forgets what an interrupted evaluation left."""
        self._seen = []

    def add(self, batch: TaskBatch, output: Any) -> None:
        """Looks at the output for a micro-batch."""
        self._seen.append((batch.task, batch.names, finite_rows(output, len(batch))))

    def tell(self, model: MultiTaskModel, part: str) -> None:
        """Warns of them, and starts anew. Every rank must call it.

        Args:
            model: With the tasks.
            part: Which part was evaluated.

        Raises:
            FloatingPointError: The metrics of a task do not count them as wrong.
        """
        found: dict[str, list[str]] = {}
        for task, names, finite in self._seen:
            if bad := [name for name, good in zip(names, finite.tolist(), strict=True) if not good]:
                found.setdefault(task, []).extend(bad)
        self._seen = []
        everywhere = gather_objects(found)
        uncounted = []
        for task in model.tasks:
            names = [name for of_rank in everywhere for name in of_rank.get(task, [])]
            if not names:
                continue
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            message = (
                f"{part}: task {task!r} gives numbers that are not finite for {len(names)} samples: "
                f"{', '.join(names[:_MOST_NAMES])}{more}."
            )
            if model.task(task).counts_not_finite:
                rank_zero_warn(f"{message} In its metrics they count as wrong. {NOT_FINITE}")
            else:
                uncounted.append(
                    f"{message} Its metrics would leave them out, and so be too good. {NOT_FINITE} Or let `update` of "
                    f"{type(model.task(task)).__name__} count them as wrong, and set its `counts_not_finite = True`."
                )
        if uncounted:
            raise FloatingPointError(" ".join(uncounted))
