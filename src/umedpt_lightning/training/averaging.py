"""Lets Lightning's weight averaging leave whole numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

#: The averaged tensor, the current one and the number of those averaged so far to the new average.
AverageFunction = Callable[[Tensor, Tensor, Tensor | int], Tensor]


def average_floats_only(callbacks: Iterable[Callback]) -> None:
    """Makes averaged models take over integers as they are.

    Buffers are averaged as parameters are. Tables of indices such as Swin's are buffers of int64: 0.999 * 7 + 0.001 * 7
    is 6.9999995 in float32 and becomes 6, so that the averaged model looks up other places than the trained one.

    Args:
        callbacks: Those of the trainer, after their `setup`.
    """
    for callback in callbacks:
        average = getattr(callback, "_average_model", None)  # there is no public way to it
        if isinstance(average, AveragedModel) and average.multi_avg_fn is None:
            average.avg_fn = _of_floats(average.avg_fn or get_swa_avg_fn())  # type: ignore[no-untyped-call]


def _of_floats(function: AverageFunction) -> AverageFunction:
    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        return function(averaged, current, count) if averaged.is_floating_point() else current

    return average
