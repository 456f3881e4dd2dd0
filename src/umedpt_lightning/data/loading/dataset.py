"""All tasks' readers behind one map-style data set, so that one worker pool serves them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from torch.utils.data import Dataset

from umedpt_lightning.data.loading.collate import collate
from umedpt_lightning.data.loading.sampling import SampleKey
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.types import Sample, TaskBatch

#: What to do when a sample cannot be read.
OnBadSample = Literal["stop", "skip"]
# So many bad samples in a row are no matter of single files any more: a disk is gone, or a folder.
_MOST_IN_A_ROW = 20


class Item(NamedTuple):
    """One sample on its way into a batch.

    Attributes:
        task: The task's name.
        sample: Transformed.
        bad_sample: What was wrong with the sample that this one stands in for; empty if it is the one asked for.
    """

    task: str
    sample: Sample
    bad_sample: str = ""


class MultiTaskDataset(Dataset[Item]):
    """Reads and transforms the sample that a key names.

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

    def __getitem__(self, key: SampleKey) -> Item:
        """The task's name and its transformed sample.

        Raises:
            ValueError: The sample cannot be used; the message names the task, the file and the mend.
        """
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
            except (ValueError, OSError) as error:
                first = first or str(error)
        raise ValueError(f"{tries} samples in a row cannot be read, the first: {first}")


def prepared(reader: Reader, index: int, seed: int | None = None) -> Sample:
    """A sample with its target as training takes it.

    Args:
        reader: Whose.
        index: Which.
        seed: For `Reader.draw`; None for the whole sample.

    Raises:
        ValueError: It cannot be used; the message names it.
    """
    sample = reader[index] if seed is None else reader.draw(index, seed)
    height, width = sample.image.shape[:2]
    try:
        return replace(sample, target=reader.spec.prepared(sample.target, (height, width)))
    except ValueError as error:
        raise ValueError(f"{sample.name}: {error}") from error


def collate_micro_batch(items: Sequence[Item]) -> TaskBatch:
    """A micro-batch of samples that are all of one task."""
    batch = collate(items[0].task, [item.sample for item in items])
    return replace(batch, bad_samples=[item.bad_sample for item in items if item.bad_sample])
