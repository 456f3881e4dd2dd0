"""What travels between the parts: samples, batches, and what a data set says of itself.

Shape vocabulary, used everywhere: ``B`` images in a micro-batch, ``C`` channels, ``H`` and ``W`` pixels,
``K`` classes, ``L`` labels, ``Q`` quantities, ``N`` boxes. Boxes are ``(x1, y1, x2, y2)`` in pixels, with
``0 <= x1 < x2 <= W`` and ``0 <= y1 < y2 <= H``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: A class index no loss and no metric looks at, in class labels and in masks.
IGNORE_INDEX = 255


class BoxArrays(NamedTuple):
    """The boxes of one image, as a reader gives them.

    Attributes:
        boxes: ``(N, 4)`` float32, pixels.
        labels: ``(N,)`` int64, class indices.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


class Boxes(NamedTuple):
    """The boxes of one image in a batch.

    Attributes:
        boxes: ``(N, 4)`` float32, pixels.
        labels: ``(N,)`` int64, class indices.
    """

    boxes: Tensor
    labels: Tensor


#: What a reader may give as the target of one image: a class index, ``(L,)`` or ``(Q,)`` float32 with NaN where
#: unknown, ``(H, W)`` unsigned integers, or boxes.
SampleTarget = int | NDArray[Any] | BoxArrays
#: The same for a micro-batch: ``(B,)`` int64, ``(B, L)`` or ``(B, Q)`` float32, ``(B, H, W)`` integers, or a list.
BatchTargets = Tensor | list[Boxes]


@dataclass
class Sample:
    """One image with its target.

    Attributes:
        image: ``(H, W, C)`` in the dtype it was stored in.
        target: See `SampleTarget`.
        name: What a message calls it: its file, or its file and place in it.
        stored_size: Height and width before any resizing, pixels; those of `image` where it was not resized.
    """

    image: NDArray[Any]
    target: SampleTarget
    name: str
    stored_size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.stored_size == (0, 0):
            self.stored_size = (self.image.shape[0], self.image.shape[1])


@dataclass
class TaskBatch:
    """One micro-batch of one task.

    Attributes:
        task: The task's name.
        images: ``(B, C, H, W)`` in the dtype they were stored in.
        targets: See `BatchTargets`.
        names: What a message calls the samples, one an image.
        stored_sizes: Height and width of each image before it was resized, pixels.
        bad_samples: What was wrong with samples that could not be read, for which others stand in this batch.
    """

    task: str
    images: Tensor
    targets: BatchTargets
    names: list[str]
    stored_sizes: list[tuple[int, int]]
    bad_samples: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        """Small targets travel from a worker as arrays: a tensor opens a file and a connection, 0.25 ms each.

        For the boxes of 16 images it took the training process 7.4 ms, and takes 0.9 ms so.
        """
        masks = isinstance(self.targets, Tensor) and self.targets.ndim > 2  # like images, they are shared, not copied
        if masks or self.images.device.type != "cpu":
            return self.__dict__
        return self.__dict__ | {"targets": _converted(self.targets, Tensor.numpy)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        targets = state["targets"]
        self.__dict__ |= state
        if not isinstance(targets, Tensor):
            self.targets = _converted(targets, torch.from_numpy)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TaskBatch:
        """The same batch on `device`; itself if it is on that `torch.device`."""
        if self.images.device == device:
            return self
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TaskBatch:
        """The same batch in page-locked memory; called by the DataLoader."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> TaskBatch:
        return replace(self, images=function(self.images), targets=_converted(self.targets, function))


def _converted(targets: Any, function: Callable[[Any], Any]) -> Any:
    """The same targets, each tensor or array through the function."""
    if isinstance(targets, list):
        return [Boxes(function(b.boxes), function(b.labels)) for b in targets]
    return function(targets)


class TaskRate(NamedTuple):
    """How often a task has its turn, on average.

    Attributes:
        turns: In a round, on average over many rounds.
        micro_batches: In a turn; the task's loss is their mean.
    """

    turns: float
    micro_batches: int


class MicroBatchId(NamedTuple):
    """Which micro-batch of a round.

    Attributes:
        task: The task's name.
        number: Which of the task's micro-batches in the round, counted from 0.
    """

    task: str
    number: int


@dataclass(frozen=True)
class RoundPlan:
    """What a round consists of.

    Attributes:
        micro_batches: How many micro-batches of each task there are, on all ranks together.
        mine: Those that this rank reads, in this order.
        parts: How many ranks share out the samples of each micro-batch; 1 where they share out the micro-batches.
        rates: How often each task of the run has its turn, in this round or not.
    """

    micro_batches: Mapping[str, int]
    mine: Sequence[MicroBatchId]
    parts: int
    rates: Mapping[str, TaskRate]


class Round:
    """One step's worth of work: micro-batches that are pulled from the workers one by one.

    Args:
        plan: What it consists of.
        stream: Where the micro-batches of this rank come from.
        again: Reads the same micro-batches anew, without the workers; as often as it is called.

    Attributes:
        stream: As above; may be replaced before the round is iterated, by one that watches it.
    """

    def __init__(self, plan: RoundPlan, stream: Iterator[TaskBatch], again: Callable[[], Iterator[TaskBatch]]) -> None:
        self.plan = plan
        self.stream = stream
        self.again = again

    def __iter__(self) -> Iterator[TaskBatch]:
        for _ in self.plan.mine:
            yield next(self.stream)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What a data set says of itself; the heads take their sizes from it.

    Two parts of one task (train and val) must have equal specs. Statistics do not count for that.

    Attributes:
        channels: Channels of every image.
        value_range: The stored intensities that become 0 and 1.
        cut: How images were cut from volumes (``slices`` and ``intensity``) or slides (``tiles``), by the options of
            these; empty where files are images. Predictions for files go by it.
    """

    channels: int
    value_range: tuple[float, float] = (0.0, 255.0)
    cut: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        low, high = self.value_range
        if not low < high:
            raise ValueError(f"value_range must be (low, high) with low < high, but it is {self.value_range}.")
        if self.channels < 1:
            raise ValueError(f"An image has at least one channel, but channels is {self.channels}.")


@dataclass(frozen=True, kw_only=True)
class ClassSpec(TaskSpec):
    """One class an image.

    Attributes:
        classes: Class names; the target is an index into them.
        counts: Samples of each class, empty where unknown.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class MultilabelSpec(TaskSpec):
    """Any number of labels an image.

    Attributes:
        labels: Label names; the target is a vector of 0, 1 and NaN (unknown).
        counts: Samples with each label, empty where unknown.
        known: Samples whose value of each label is known, empty where unknown.
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...] = field(default=(), compare=False)
    known: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class RegressionSpec(TaskSpec):
    """One or several numbers an image.

    Attributes:
        quantities: What is measured; the target is a vector of numbers, NaN where unknown.
        units: Their units, one a quantity, empty strings for none.
        means: Mean of each quantity, in its unit.
        stds: Standard deviation of each quantity, in its unit.
    """

    quantities: tuple[str, ...]
    units: tuple[str, ...]
    means: tuple[float, ...] = field(default=(), compare=False)
    stds: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class MaskSpec(TaskSpec):
    """One class a pixel.

    Attributes:
        classes: Class names, the background first; mask values are indices into them, or `IGNORE_INDEX`.
    """

    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BoxSpec(TaskSpec):
    """Any number of boxes an image.

    Attributes:
        classes: Class names without a background; box labels are indices into them.
    """

    classes: tuple[str, ...]
