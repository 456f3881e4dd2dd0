"""All tasks' data for Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from umedpt_lightning.data.cache.cached import CachedReader
from umedpt_lightning.data.loading.dataset import MultiTaskDataset, OnBadSample
from umedpt_lightning.data.loading.loaders import EvaluationLoader, RoundLoader, WorkerPool
from umedpt_lightning.data.loading.sampling import Distribute, EvaluationSampler, RoundSampler, TaskSamples, TaskStream
from umedpt_lightning.data.loading.schedule import RoundRobin, ScheduleFactory, TaskSize
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.types import TaskSpec

Part = Literal["train", "val", "test"]


class MultiTaskDataModule(pl.LightningDataModule):
    """Rounds over all tasks in training, every sample once in evaluation, one worker pool for all.

    Args:
        tasks: The data of each task, by task name.
        num_workers: Processes that read, for all tasks together; 0 reads in the main process.
        prefetch: Micro-batches that each of them prepares ahead.
        steps_per_epoch: Rounds in an epoch; None for as many as it takes until every task has been read once.
        seed: Seeds the order and the augmentation of samples.
        on_bad_sample: What to do in training with a sample that cannot be read: stop the run, or replace it by the next
            one of its task that can be read, which is counted in the log. Evaluation always stops: figures of different
            samples cannot be compared.
        schedule: Which tasks are in which round; all of them in each by default.
        distribute: What several ranks share out: the samples of every micro-batch, so that a round has as many times
            the samples as there are ranks, or the micro-batches of a round, by the time that they take.
        timeout: Seconds without a micro-batch after which workers are taken to hang and the run stops; 0 for never.
        overfit: Train on the same so many rounds, or share of an epoch's rounds, in every epoch; 0 for all data. Set by
            ``trainer.overfit_batches``.

    Attributes:
        specs: What the data of each task say of themselves.

    Raises:
        ValueError: A task has no data, its parts do not fit each other, a number is not positive, or the schedule does
            not fit the tasks.
    """

    def __init__(
        self,
        tasks: dict[str, TaskData],
        num_workers: int = 2,
        prefetch: int = 2,
        steps_per_epoch: int | None = None,
        seed: int = 0,
        on_bad_sample: OnBadSample = "stop",
        schedule: ScheduleFactory = RoundRobin,
        distribute: Distribute = "samples",
        timeout: float = 0,
        overfit: int | float = 0,
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.num_workers, self.prefetch = num_workers, prefetch
        self.steps_per_epoch, self.seed = steps_per_epoch, seed
        self.on_bad_sample: OnBadSample = on_bad_sample
        self.timeout = timeout
        self.overfit = overfit
        self._workers: WorkerPool | None = None
        self._cached: dict[tuple[str, Part], Reader] = {}
        self._rounds: RoundLoader | None = None
        self._resumed: dict[str, Any] = {}
        self.specs: dict[str, TaskSpec] = {name: _check(name, task) for name, task in tasks.items()}
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"data.steps_per_epoch must be positive or null, but it is {steps_per_epoch}.")
        for key, number, least in (
            ("num_workers", num_workers, 0),
            ("prefetch", prefetch, 1),
            ("timeout", timeout, 0),
            ("overfit", overfit, 0),
        ):
            if number < least:
                raise ValueError(f"data.{key} must be {least} or more, but it is {number}.")
        self.schedule, self.distribute = schedule, distribute
        if sizes := _sizes(tasks):
            schedule(sizes)  # what does not fit is told now

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width that a task's images are resized to, of the tasks whose images are."""
        sizes = {name: task.size for name, task in self.tasks.items() if task.size is not None}
        return {name: (size, size) if isinstance(size, int) else size for name, size in sizes.items()}

    def train_dataloader(self) -> RoundLoader:
        """Rounds of the tasks that have a train part."""
        readers = self._readers("train")
        tasks = {
            name: TaskSamples(TaskStream(name, len(reader), self.seed), self.tasks[name].batch_size)
            for name, reader in readers.items()
        }
        sampler = RoundSampler(tasks, self.schedule(_sizes(self.tasks)), *self._rank_and_world_size(), self.distribute)
        _warn_of_idle_ranks(sampler)
        transforms = {
            name: Transform(self.tasks[name].size, self.tasks[name].augment, reader.spec.value_range)
            for name, reader in readers.items()
        }
        rounds = self.steps_per_epoch or sampler.rounds_in_a_pass()
        if self.overfit:
            rounds = self.overfit if isinstance(self.overfit, int) else max(1, round(self.overfit * rounds))
        dataset = MultiTaskDataset(readers, transforms, self.on_bad_sample, training=True)
        self._rounds = RoundLoader(dataset, sampler, self._pool(), rounds, again=bool(self.overfit))
        if self._resumed:
            self._rounds.load_state_dict(self._resumed)
        return self._rounds

    def state_dict(self) -> dict[str, Any]:
        """That of the training loader.

        Lightning saves a loader's state too, but does not give it back to one that was made before the state is
        restored, as it is where the learning rate needs the number of rounds in an epoch.
        """
        return {} if self._rounds is None else self._rounds.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lets the training loader, made already or later, go on where the state was taken."""
        self._resumed = state_dict
        if self._rounds is not None:
            self._rounds.load_state_dict(state_dict)

    def validated(self) -> dict[str, list[Any]]:
        """On what each task with a val part is measured: how many samples, and the size of resized ones."""
        return {
            name: [len(task.val), task.size if task.evaluate_at == "resized" else None]
            for name, task in self.tasks.items()
            if task.val is not None
        }

    def val_dataloader(self) -> EvaluationLoader:
        """The val parts."""
        return self._evaluation(self._readers("val"))

    def test_dataloader(self) -> EvaluationLoader:
        """The test parts."""
        return self._evaluation(self._readers("test"))

    def on_exception(self, exception: BaseException) -> None:
        """Ends the workers, and names the sample that one died of, which interrupts whatever training is doing."""
        if self._workers is not None:
            causes = [exception]  # code that is interrupted may raise an error of its own
            while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
                causes.append(cause)
            explanation = next(filter(None, map(self._workers.explain, causes)), "")
            if explanation and not any(explanation in str(cause) for cause in causes):
                exception.add_note(explanation)
        self._end_workers()

    def teardown(self, stage: str) -> None:
        """Ends the workers."""
        self._end_workers()

    def _end_workers(self) -> None:
        if self._rounds is not None:
            self._rounds.close()
        if self._workers is not None:
            self._workers.close()

    def _evaluation(self, readers: Mapping[str, Reader]) -> EvaluationLoader:
        sampler = EvaluationSampler(
            {name: len(reader) for name, reader in readers.items()},
            {name: self.tasks[name].batch_size for name in readers},
            *self._rank_and_world_size(),
        )
        transforms = {name: self.tasks[name].evaluation_transform for name in readers}
        return EvaluationLoader(MultiTaskDataset(readers, transforms), sampler, self._pool())

    def check_part(self, part: Part) -> None:
        """Raises ValueError where no task has a part."""
        if not any(part in task.readers for task in self.tasks.values()):
            without = ", or train without validation: --trainer.limit_val_batches 0" if part == "val" else ""
            raise ValueError(f"No task has a {part} part: give one under data.tasks.<name>.{part}{without}.")

    def _readers(self, part: Part) -> dict[str, Reader]:
        self.check_part(part)
        return {name: self._reader(name, part) for name, task in self.tasks.items() if part in task.readers}

    def _reader(self, name: str, part: Part) -> Reader:
        task = self.tasks[name]
        if task.cache == "none":
            return task.readers[part]
        if (name, part) not in self._cached:  # once: what it keeps in memory lives as long as it does
            self._cached[name, part] = task.readers[part].cached(partial(CachedReader, place=task.cache))
        return self._cached[name, part]

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _pool(self) -> WorkerPool:
        if self._workers is None:
            on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
            self._workers = WorkerPool(self.num_workers, self.prefetch, on_gpu, self.timeout)
        return self._workers


def _sizes(tasks: Mapping[str, TaskData]) -> dict[str, TaskSize]:
    """What a schedule is told of the tasks that are trained."""
    return {
        name: TaskSize(len(task.train), task.micro_batches) for name, task in tasks.items() if task.train is not None
    }


def _warn_of_idle_ranks(sampler: RoundSampler) -> None:
    in_a_round = sum(rate.turns * rate.micro_batches for rate in sampler.schedule.rates.values())
    if sampler.distribute == "tasks" and in_a_round < sampler.world_size:
        rank_zero_warn(
            f"data.distribute is tasks, but a round has only {in_a_round:g} micro-batches for {sampler.world_size} "
            "ranks, so that some have nothing to do. Give tasks more `micro_batches` of a smaller `batch_size`, "
            "use data.distribute: samples, or fewer ranks."
        )


def _check(name: str, task: TaskData) -> TaskSpec:
    """The spec of a task, the same in all its parts."""
    if not isinstance(task, TaskData):
        raise ValueError(f"tasks[{name!r}] is {task!r}, but has to be TaskData(train=..., val=...).")
    specs = {part: reader.spec for part, reader in task.readers.items()}
    if not specs:
        raise ValueError(f"data.tasks.{name} has no data: give it a train, val or test part.")
    first, spec = next(iter(specs.items()))
    for part, other in specs.items():
        if other != spec:
            raise ValueError(
                f"data.tasks.{name}: its {first} and {part} parts do not fit each other. {first} has {spec}, {part} "
                f"has {other}. Give both the same channels, value_range and classes."
            )
    height, width = (task.size, task.size) if isinstance(task.size, int) else task.size or (1, 1)
    numbers = {"batch_size": task.batch_size, "micro_batches": task.micro_batches, "size": min(height, width)}
    for key, number in numbers.items():
        if not number or number < 1:
            raise ValueError(f"data.tasks.{name}.{key} must be positive, but it is {number}.")
    return spec
