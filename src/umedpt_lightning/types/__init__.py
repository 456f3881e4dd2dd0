"""What travels between the parts: samples, batches, and what a data set says of itself.

Shape vocabulary, used everywhere: ``B`` images in a micro-batch, ``C`` channels, ``H`` and ``W`` pixels,
``K`` classes, ``L`` labels, ``Q`` quantities, ``N`` boxes. Boxes are ``(x1, y1, x2, y2)`` in pixels, with
``0 <= x1 < x2 <= W`` and ``0 <= y1 < y2 <= H``.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.labels import IGNORE_INDEX as IGNORE_INDEX
from umedpt_lightning.labels import BoxArrays as BoxArrays
from umedpt_lightning.labels import BoxSpec as BoxSpec
from umedpt_lightning.labels import ClassSpec as ClassSpec
from umedpt_lightning.labels import MaskSpec as MaskSpec
from umedpt_lightning.labels import MultilabelSpec as MultilabelSpec
from umedpt_lightning.labels import RegressionSpec as RegressionSpec
from umedpt_lightning.labels import SurvivalSpec as SurvivalSpec
from umedpt_lightning.labels import TaskSpec as TaskSpec
from umedpt_lightning.labels import UnlabelledSpec as UnlabelledSpec
from umedpt_lightning.types.bags import Bags as Bags


class Boxes(NamedTuple):
    """The boxes of one image in a batch.

    Attributes:
        boxes: ``(N, 4)`` float32, pixels.
        labels: ``(N,)`` int64, class indices.
    """

    boxes: Tensor
    labels: Tensor


#: What a reader may give as the target of one image: a class index, ``(L,)`` or ``(Q,)`` float32 with NaN where
#: unknown, ``(H, W)`` integers, boxes, or what a label kind of one's own asks for.
SampleTarget = Any
#: The same for a micro-batch: ``(B,)`` int64, ``(B, L)`` or ``(B, Q)`` float32, ``(B, H, W)`` integers, or a list.
BatchTargets = Tensor | list[Any]


@dataclass(frozen=True)
class PackedArray:
    """An array in few bytes, compressed by zlib, with its shape and dtype: masks shrink to a hundredth."""

    data: bytes
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, array: NDArray[Any]) -> PackedArray:
        """An array, packed."""
        return cls(zlib.compress(np.ascontiguousarray(array).data, level=1), array.shape, array.dtype.str)

    def unpack(self) -> NDArray[Any]:
        """The array."""
        return np.frombuffer(bytearray(zlib.decompress(self.data)), self.dtype).reshape(self.shape)


@dataclass
class Sample:
    """One image with its target.

    Attributes:
        image: ``(H, W, C)`` in the dtype it was stored in.
        target: See `SampleTarget`.
        name: What a message calls it: its file, or its file and place in it.
        stored_size: Height and width before any resizing, pixels; those of `image` where it was not resized.
        stored_target: A target that has a value for each pixel as it was before it was resampled with the image: by the
            reader, which gives it, or by `Transform` in evaluation, which packs it. None for other targets, and where
            it was not resampled.
    """

    image: NDArray[Any]
    target: SampleTarget
    name: str
    stored_size: tuple[int, int] = (0, 0)
    stored_target: NDArray[Any] | PackedArray | None = None

    def __post_init__(self) -> None:
        if self.stored_size == (0, 0):
            self.stored_size = (self.image.shape[0], self.image.shape[1])

    @property
    def images(self) -> list[NDArray[Any]]:
        """The image, or all images of a bag."""
        return [self.image]


@dataclass
class Bag(Sample):
    """Several images with one target: the slices, tiles or visits of a patient; `image` is the first of them.

    `positions` is ``(N, 2)`` float32, where each lies, see `umedpt_lightning.types.bags.shares`; None where nothing is
    known.
    """

    instances: list[Sample] = field(default_factory=list)
    positions: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        instances: list[Sample],
        target: SampleTarget,
        name: str,
        positions: NDArray[np.float32] | None = None,
    ) -> Bag:
        """A bag of these, at least one."""
        return cls(instances[0].image, target, name, instances=instances, positions=positions)

    @property
    def images(self) -> list[NDArray[Any]]:
        """Of all instances."""
        return [instance.image for instance in self.instances]


@dataclass
class TaskBatch:
    """One micro-batch of one task.

    Attributes:
        task: The task's name.
        images: ``(B, C, H, W)`` in the dtype they were stored in, or `Bags` of them, one a sample.
        targets: See `BatchTargets`.
        names: What a message calls the samples, one a sample.
        stored_sizes: Height and width of each image before it was resized, pixels.
        bad_samples: What was wrong with samples that could not be read, for which others stand in this batch.
        stored_targets: See `Sample.stored_target`, one an image; None where targets were not resized.
    """

    task: str
    images: Tensor | Bags
    targets: BatchTargets
    names: list[str]
    stored_sizes: list[tuple[int, int]]
    bad_samples: list[str] = field(default_factory=list)
    stored_targets: list[PackedArray] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        """Small targets travel from a worker as arrays: a tensor opens a file and a connection, 0.25 ms each.

        For the boxes of 16 images it took the training process 7.4 ms, and takes 0.9 ms so.
        """
        masks = isinstance(self.targets, Tensor) and self.targets.ndim > 2  # like images, they are shared, not copied
        if masks or self.images.device.type != "cpu":
            return self.__dict__
        return self.__dict__ | {"targets": map_leaves(self.targets, Tensor.numpy)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        targets = state["targets"]
        self.__dict__ |= state
        if not isinstance(targets, Tensor):
            self.targets = map_leaves(targets, torch.from_numpy, np.ndarray)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TaskBatch:
        """The same batch on `device`; itself if it is on that `torch.device`."""
        if self.images.device == device:
            return self
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TaskBatch:
        """The same batch in page-locked memory; called by the DataLoader."""
        return self._map(Tensor.pin_memory)

    def unpack_targets(self) -> Iterator[Tensor]:
        """The `stored_targets` on the device of the images, one by one: together they may be large."""
        for target in self.stored_targets or ():
            yield torch.from_numpy(target.unpack()).to(self.images.device)

    def _map(self, function: Callable[[Tensor], Tensor]) -> TaskBatch:
        return replace(self, images=map_leaves(self.images, function), targets=map_leaves(self.targets, function))


def map_leaves(value: Any, function: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """The same value with everything of a kind in it, tensors or arrays, replaced by what a function makes of it.

    It is one of the kind, or lists, tuples, mappings and dataclasses of such; whatever else is in them is kept.
    """
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, list):
        return [map_leaves(item, function, kind) for item in value]
    if isinstance(value, tuple):
        items = (map_leaves(item, function, kind) for item in value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, dict):
        return {key: map_leaves(item, function, kind) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: map_leaves(getattr(value, f.name), function, kind) for f in fields(value)})
    return value


def finite_rows(value: Any, count: int) -> Tensor:
    """``(count,)`` bool: for which samples all numbers of a head's output are finite; waits for no device.

    The first axis of tensors, in whatever `map_leaves` knows, is that of samples; others do not count.
    """
    rows: list[Tensor] = []

    def note(leaf: Tensor) -> Tensor:
        if leaf.shape[:1] == (count,) and leaf.is_floating_point():
            rows.append(leaf.isfinite().reshape(count, -1).all(dim=1))
        return leaf

    map_leaves(value, note)
    return torch.stack(rows).all(dim=0) if rows else torch.ones(count, dtype=torch.bool)


def to_numpy(value: Any) -> Any:
    """The same value with arrays for tensors, half precision as float32, which numpy can compute with."""

    def convert(tensor: Tensor) -> NDArray[Any]:
        small = tensor.dtype in (torch.float16, torch.bfloat16)
        return (tensor.float() if small else tensor).detach().cpu().numpy()

    return map_leaves(value, convert)


class TaskRate(NamedTuple):
    """How many turns a task has in a round, on average, and of how many micro-batches a turn consists."""

    turns: float
    micro_batches: int


def __getattr__(name: str) -> Any:
    if name != "Pace":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("Pace is `TaskRate` now; the old name goes with the next release.", FutureWarning, stacklevel=2)
    return TaskRate


class MicroBatchId(NamedTuple):
    """Which micro-batch of a round: its task, and its number among the task's, counted from 0."""

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
        stream: Where the micro-batches of this rank come from; may be replaced before the round is iterated.
        again: Reads the same micro-batches anew, without the workers; as often as it is called.
    """

    def __init__(self, plan: RoundPlan, stream: Iterator[TaskBatch], again: Callable[[], Iterator[TaskBatch]]) -> None:
        self.plan = plan
        self.stream = stream
        self.again = again

    def __iter__(self) -> Iterator[TaskBatch]:
        for _ in self.plan.mine:
            yield next(self.stream)
