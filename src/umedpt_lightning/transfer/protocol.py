"""The protocol of a sweep: which methods, modes, fractions of the labels and seeds, on which data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.model import TaskFactory
from umedpt_lightning.tasks import FeatureWidths, Task, default_task
from umedpt_lightning.tasks.names import check_task_names
from umedpt_lightning.transfer.cells import Mode
from umedpt_lightning.transfer.finetune import FineTuning
from umedpt_lightning.transfer.sources import WeightSource
from umedpt_lightning.types import TaskSpec

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


@dataclass
class Protocol:
    """What is measured.

    Attributes:
        data: Train, val and test part of the new task.
        methods: Where weights come from, by a name for the report.
        name: What the task is called.
        fractions: Of the labels of the train part; null or an empty list for none where there are shots.
        shots: Labelled samples of the train part, and as many of the val part: of each class where there are classes,
            else in all.
        seeds: How many repetitions, each with other labels.
        modes: ``frozen`` (a linear probe; for masks and boxes head and decoder on the frozen encoder; of bags head and
            block of bags on the embeddings of their images), ``knn`` (of bags by the mean of their images),
            ``finetune``, ``lora`` (adapters of the encoder learn, not itself); one list for all methods, or lists by
            their names, and a method without one is left out.
        task: How to build the head; None for the default of the label kind.
        finetuning: How models are trained.
        external: Other centres' samples of the same task, by a name for the report, which are read as the test part is.
    """

    data: TaskData
    methods: dict[str, WeightSource]
    name: str = "task"
    fractions: list[float] | None = field(default_factory=lambda: [0.01, 0.05, 0.1, 0.25, 0.5, 1.0])
    seeds: int = 5
    modes: list[Mode] | dict[str, list[Mode]] = field(default_factory=lambda: list[Mode](("frozen", "knn")))
    task: TaskFactory | None = None
    finetuning: FineTuning = field(default_factory=FineTuning)
    external: dict[str, Reader] = field(default_factory=dict)
    shots: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fractions = self.fractions or []
        if any(number < 1 for number in self.shots):
            raise ValueError(f"shots: {self.shots} are numbers of labelled samples, so each must be at least 1.")
        for name, reader in self.readers.items():
            if reader.spec != self.part("train").spec:
                raise ValueError(
                    f"data: the train and {name} parts do not fit each other. train has {self.part('train').spec}, "
                    f"{name} has {reader.spec}. Give both the same channels, value_range and classes."
                )
        if taken := self.external.keys() & set(PARTS):
            raise ValueError(f"external: {', '.join(taken)} is a part of `data` already. Give the centre another name.")
        check_task_names({self.name: None}, {})
        self._check_head()
        if isinstance(self.modes, dict) and not self.modes.keys() <= self.methods.keys():
            raise ValueError(
                f"modes: some are for {', '.join(self.modes.keys() - self.methods.keys())}, but the methods are "
                f"{', '.join(self.methods)}. Correct the name."
            )
        modes = [mode for method in self.methods for mode in self.modes_of(method)]
        if not self.methods or not (self.fractions or self.shots) or not modes or self.seeds < 1:
            raise ValueError("methods, fractions (or shots) and modes must not be empty, and seeds at least 1.")
        for name in self.methods:
            if not name or "/" in name or name.startswith("."):
                raise ValueError(f"methods: {name!r} cannot name a method, since its folder is called so. Rename it.")
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise ValueError(f"fractions: {fraction} must be above 0 and at most 1. Write 0.01 for 1 %.")
        if "knn" in modes and not self.is_linear:
            raise ValueError(
                "modes: knn needs a task whose head is a linear model on the embedding of an image, as for classes, "
                "labels and numbers, but not for masks, boxes and times to an event. Leave it out."
            )

    def _check_head(self) -> None:
        task = self.head(self.part("train").spec)
        if task.linear_family is None:
            return
        found = tuple(getattr(task(torch.zeros(2, 1)), "shape", ()))
        names: object = "numbers" if task.linear_family == "numbers" else len(task.spec.names)
        if len(found) != 2 or found[0] != 2 or names not in ("numbers", found[1]):
            raise ValueError(
                f"{type(task).__name__}.forward gives {found or 'no tensor'} for 2 embeddings, but a head with the "
                f"linear_family {task.linear_family!r} gives (2, {names}): flatten it, and shape it in `predict`; or "
                "set `linear_family` to None."
            )

    @property
    def has_bags(self) -> bool:
        """Whether samples are bags, whose images are embedded once."""
        return bool(self.part("train").spec.bag)

    @property
    def embeds(self) -> bool:
        """Whether a head is fitted on embeddings that are computed once."""
        return self.has_bags or self.is_linear

    @property
    def is_linear(self) -> bool:
        """Whether a linear model on embeddings can stand in for the head."""
        return self.head(self.part("train").spec).linear_family is not None

    def head(self, spec: TaskSpec) -> Task:
        """A head for what samples say of themselves, which alone it may know; by itself, not in a model."""
        return (self.task or default_task(spec, self.name))(spec, FeatureWidths(lambda needs: 1))

    def modes_of(self, method: str) -> list[Mode]:
        """How a method is measured."""
        return self.modes.get(method, []) if isinstance(self.modes, dict) else self.modes

    @property
    def readers(self) -> dict[str, Reader]:
        """The parts and the other centres, by name."""
        return {part: self.part(part) for part in PARTS} | self.external

    def part(self, part: Part) -> Reader:
        """The reader of a part."""
        reader = self.data.readers.get(part)
        if reader is None:
            raise ValueError(
                f"data.{part}: transfer trains on `train`, chooses on `val` and measures on `test`. Add it."
            )
        return reader
