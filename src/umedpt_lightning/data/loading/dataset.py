"""All tasks' readers behind one map-style data set, so that one worker pool serves them all, and its micro-batches."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from umedpt_lightning.data.formats.faults import ServerLostError
from umedpt_lightning.data.loading.sampling import SampleKey
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.io.arrays import as_tensor
from umedpt_lightning.labels.wording import found_instead
from umedpt_lightning.types import (
    Bag,
    Bags,
    BatchTargets,
    BoxArrays,
    Boxes,
    PackedArray,
    Sample,
    TaskBatch,
    map_leaves,
)

#: What to do when a sample cannot be read.
OnBadSample = Literal["stop", "skip"]
# So many bad samples in a row are no matter of single files any more: a disk is gone, or a folder.
_MOST_IN_A_ROW = 20


class Item(NamedTuple):
    """One transformed sample on its way into a batch.

    Attributes:
        bad_sample: What was wrong with the sample that this one stands in for; empty if it is the one asked for.
    """

    task: str
    sample: Sample
    bad_sample: str = ""


class MultiTaskDataset(Dataset[Item]):
    """Reads and transforms the sample that a key names, by a reader and a transform a task.

    Args:
        readers: A reader a task.
        transforms: A transform a task.
        on_bad_sample: Whether a sample that cannot be read is an error, or replaced by the next one of its task that
            can. That depends on the key and the files alone, so that all workers and ranks agree, and resumed runs too.
        training: Whether a bag gives the images that `Reader.draw` chooses, else all.
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        transforms: Mapping[str, Transform],
        on_bad_sample: OnBadSample = "stop",
        training: bool = False,
    ) -> None:
        self._training = training
        self.readers, self.transforms = dict(readers), dict(transforms)
        self.on_bad_sample = on_bad_sample

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Item]:
        """The samples of a micro-batch; the DataLoader asks for them so where a data set can do that."""
        self.ahead(keys)
        return [self[key] for key in keys]

    def ahead(self, keys: Sequence[SampleKey]) -> None:
        """As `Reader.ahead`, for all tasks."""
        for task in dict.fromkeys(key.task for key in keys):
            self.readers[task].ahead([key.item for key in keys if key.task == task])

    def __getitem__(self, key: SampleKey) -> Item:
        """The sample; raises ValueError, which names task, file and mend, where it cannot be used."""
        _seed(key.seed)
        try:
            sample, bad_sample = self._read(key)
            return Item(key.task, self.transforms[key.task](sample, key.seed), bad_sample)
        except (ValueError, OSError) as error:
            raise ValueError(f"Task {key.task!r}: {error}") from error

    def _read(self, key: SampleKey) -> tuple[Sample, str]:
        """The sample, and what was wrong with the one that it stands in for."""
        reader, seed = self.readers[key.task], key.seed if self._training else None
        if self.on_bad_sample == "stop":
            return prepared(reader, key.item, seed), ""
        first = ""
        tries = min(len(reader), _MOST_IN_A_ROW)
        for step in range(tries):
            try:
                return prepared(reader, (key.item + step) % len(reader), seed), first
            except ServerLostError:  # another sample would be as far
                raise
            except (ValueError, OSError) as error:
                first = first or str(error)
        raise ValueError(f"{tries} samples in a row cannot be read, the first: {first}")


def _seed(seed: int) -> None:
    """Makes what readers and augmentations draw from global generators that of the sample, in every process and run."""
    random.seed(seed)
    np.random.seed(seed)
    if get_worker_info() is not None:  # in the main process the model draws from torch's
        torch.default_generator.manual_seed(seed)


def prepared(reader: Reader, index: int, seed: int | None = None) -> Sample:
    """A sample with its target as training takes it; raises ValueError, which names it, where it cannot be used.

    A seed is for `Reader.draw`; None gives the whole sample.
    """
    sample = reader[index] if seed is None else reader.draw(index, seed)
    _hold_form(reader, index, sample)
    height, width = sample.image.shape[:2]
    stored = sample.stored_target
    try:
        if isinstance(stored, np.ndarray):  # a cache packs it once it is prepared
            stored = reader.spec.prepared(stored, stored.shape[:2])
        target = sample.target
        if isinstance(target, Tensor):
            target = target.numpy() if target.ndim else target.item()
        return replace(sample, target=reader.spec.prepared(target, (height, width)), stored_target=stored)
    except ValueError as error:
        raise ValueError(f"{sample.name}: {error}") from error


def _hold_form(reader: Reader, index: int, sample: Any) -> None:
    """Raises ValueError where a reader of one's own gives no sample, or images of another form than its spec says."""
    if not isinstance(sample, Sample):
        raise ValueError(
            f"{type(reader).__name__} gives a {type(sample).__name__} for sample {index}. Return a "
            "umedpt_lightning.Sample(image, target, name)."
        )
    for image in sample.images:
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != reader.spec.channels:
            raise ValueError(
                f"{sample.name}: {type(reader).__name__} gives an image that is {found_instead(image)}, but by its "
                f"spec it must be an array (H, W, {reader.spec.channels}). Correct its __getitem__, or `channels`."
            )


def collate_micro_batch(items: Sequence[Item]) -> TaskBatch:
    """A micro-batch of samples that are all of one task."""
    batch = collate(items[0].task, [item.sample for item in items])
    return replace(batch, bad_samples=[item.bad_sample for item in items if item.bad_sample])


def collate(task: str, samples: Sequence[Sample]) -> TaskBatch:
    """Stacks at least one sample of one task, with images ``(H, W, C)`` of one shape and dtype.

    Returns:
        Images ``(B, C, H, W)`` in the dtype they were stored in, those of bags as `Bags`. Targets are ``(B,)`` int64
        for integers, ``(B,)`` float32 for other numbers, ``(B, ...)`` for arrays of one shape and dtype, a list of
        `Boxes` for boxes, and for anything else a list of what it is, with tensors for arrays.

    Raises:
        ValueError: There are no samples, or images differ in shape or dtype.
    """
    if not samples:
        raise ValueError(f"Task {task!r}: a batch needs at least one sample, but there is none.")
    first = samples[0]
    each = [one for sample in samples for one in (sample.instances if isinstance(sample, Bag) else [sample])]
    for sample in each:
        if (sample.image.shape, sample.image.dtype) != (first.image.shape, first.image.dtype):
            one, other = (f"{image.transpose(2, 0, 1).shape} {image.dtype}" for image in (first.image, sample.image))
            raise ValueError(
                f"Task {task!r}: the images (C, H, W) of a batch must have one size and dtype, but that of "
                f"{first.name} is {one} and that of {sample.name} {other}. Give the task's transform a "
                "`size: [H, W]`, or use batches of one."
            )
    stored = None
    if any(sample.stored_target is not None for sample in samples):  # those that were not resized are as they are
        truths = [sample.target if sample.stored_target is None else sample.stored_target for sample in samples]
        stored = [truth if isinstance(truth, PackedArray) else PackedArray.of(truth) for truth in truths]
    images = as_tensor([sample.image for sample in each])
    return TaskBatch(
        task,
        _as_bags(images, samples) if isinstance(first, Bag) else images,
        _targets([sample.target for sample in samples]),
        [sample.name for sample in samples],
        [sample.stored_size for sample in samples],
        stored_targets=stored,
    )


def _as_bags(images: Tensor, samples: Sequence[Sample]) -> Bags:
    places = [sample.positions for sample in samples if isinstance(sample, Bag) and sample.positions is not None]
    positions = torch.from_numpy(np.concatenate(places)) if places else None
    return Bags(images, [len(sample.images) for sample in samples], positions)


def _targets(targets: Sequence[Any]) -> BatchTargets:
    if all(isinstance(target, BoxArrays) for target in targets):
        return [Boxes(*(torch.from_numpy(np.ascontiguousarray(array)) for array in boxes)) for boxes in targets]
    if all(isinstance(target, int | np.integer) for target in targets):
        return torch.tensor(targets, dtype=torch.int64)
    if all(isinstance(target, int | float | np.number) for target in targets):
        return torch.tensor(targets, dtype=torch.float32)
    arrays = [target for target in targets if isinstance(target, np.ndarray)]
    if len(arrays) == len(targets) and len({(array.shape, array.dtype) for array in arrays}) == 1:
        return torch.from_numpy(np.stack(arrays))
    return [map_leaves(target, torch.from_numpy, np.ndarray) for target in targets]
