"""All tasks' readers behind one map-style data set, so that one worker pool serves them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch.utils.data import Dataset

from umedpt_lightning.data.collate import collate
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.sampling import SampleKey
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.types import Sample, TaskBatch


class MultiTaskDataset(Dataset[tuple[str, Sample]]):
    """Reads and transforms the sample that a key names.

    Args:
        readers: A reader a task.
        transforms: A transform a task.
    """

    def __init__(self, readers: Mapping[str, Reader], transforms: Mapping[str, Transform]) -> None:
        self.readers, self.transforms = dict(readers), dict(transforms)

    def __getitem__(self, key: SampleKey) -> tuple[str, Sample]:
        """The task's name and its transformed sample.

        Raises:
            ValueError: The sample cannot be used; the message names the task, the file and the mend.
        """
        try:
            sample = self.readers[key.task][key.item]
            return key.task, self.transforms[key.task](sample, key.seed)
        except (ValueError, OSError) as error:
            raise ValueError(f"Task {key.task!r}: {error}") from error


def collate_micro_batch(items: Sequence[tuple[str, Sample]]) -> TaskBatch:
    """A micro-batch of samples that are all of one task."""
    return collate(items[0][0], [sample for _, sample in items])
