"""The protocol: every method in every mode at every fraction of the labels, for several seeds."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from umedpt_lightning.data.cache.identity import identity
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.model import MultiTaskModel, TaskFactory, check_task_names
from umedpt_lightning.tasks import FeatureWidths, Task, default_task
from umedpt_lightning.tasks.answers import Answers, metrics_of
from umedpt_lightning.transfer.cells import Cell, CellFolder, Mode, Result, grid
from umedpt_lightning.transfer.embeddings import Embeddings, Machine, embeddings, evaluation_batches
from umedpt_lightning.transfer.evaluation import answer, patient_intervals
from umedpt_lightning.transfer.finetune import FineTuning, Trained, Trainer, set_head
from umedpt_lightning.transfer.probe import Probe, linear_probe, neighbour_probe
from umedpt_lightning.transfer.progress import progress
from umedpt_lightning.transfer.sources import WeightSource, weights_digest
from umedpt_lightning.transfer.subsets import Labelled, LabelSubset, LabelSubsets
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
        fractions: Of the labels of the train part.
        seeds: How many repetitions, each with other labels.
        modes: ``frozen`` (a linear probe; for masks and boxes head and decoder on the frozen encoder), ``knn``,
            ``finetune``; one list for all methods, or lists by their names, and a method without one is left out.
        task: How to build the head; None for the default of the label type.
        finetuning: How models are trained.
        external: Other centres' samples of the same task, by a name for the report, which are read as the test part is.
    """

    data: TaskData
    methods: dict[str, WeightSource]
    name: str = "task"
    fractions: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.1, 0.25, 0.5, 1.0])
    seeds: int = 5
    modes: list[Mode] | dict[str, list[Mode]] = field(default_factory=lambda: list[Mode](("frozen", "knn")))
    task: TaskFactory | None = None
    finetuning: FineTuning = field(default_factory=FineTuning)
    external: dict[str, Reader] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, reader in self.readers.items():
            if reader.spec != self.part("train").spec:
                raise ValueError(
                    f"data: the train and {name} parts do not fit each other. train has {self.part('train').spec}, "
                    f"{name} has {reader.spec}. Give both the same channels, value_range and classes."
                )
        if taken := self.external.keys() & set(PARTS):
            raise ValueError(f"external: {', '.join(taken)} is a part of `data` already. Give the centre another name.")
        check_task_names({self.name: None}, {})
        if isinstance(self.modes, dict) and not self.modes.keys() <= self.methods.keys():
            raise ValueError(
                f"modes: some are for {', '.join(self.modes.keys() - self.methods.keys())}, but the methods are "
                f"{', '.join(self.methods)}. Correct the name."
            )
        modes = [mode for method in self.methods for mode in self.modes_of(method)]
        if not self.methods or not self.fractions or not modes or self.seeds < 1:
            raise ValueError("methods, fractions and modes must not be empty, and seeds at least 1.")
        for name in self.methods:
            if not name or "/" in name or name.startswith("."):
                raise ValueError(f"methods: {name!r} cannot name a method, since its folder is called so. Rename it.")
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise ValueError(f"fractions: {fraction} must be above 0 and at most 1. Write 0.01 for 1 %.")
        if "knn" in modes and not self.embeds:
            raise ValueError(
                "modes: knn needs a task whose head is a linear model on the embedding of an image, as for classes, "
                "labels and numbers, but not for masks and boxes. Leave it out."
            )

    @property
    def embeds(self) -> bool:
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


class Sweep:
    """Runs what is not finished yet.

    Args:
        protocol: What is measured.
        cells: Finished cells.
        machine: What computes.
        head: All that the config says of the head, as text: results depend on it.
        training: Likewise of training, on which those depend that need any.
    """

    def __init__(
        self, protocol: Protocol, cells: CellFolder, machine: Machine, head: str = "", training: str = ""
    ) -> None:
        self._protocol, self._cells, self._machine = protocol, cells, machine
        self._readers = protocol.readers
        parts = [identity(reader) for reader in self._readers.values()]
        self._settings = repr((parts, protocol.data.size, protocol.name, head))
        self._training = training
        self._subsets: dict[int, LabelSubsets] = {}
        self._digests: dict[tuple[str, int], str] = {}
        self._embedded: dict[tuple[str, str], Embeddings] = {}

    def run(self) -> dict[Cell, Result]:
        """All results, of cells finished before too.

        Several processes may run the same sweep in the same folder, on a GPU each: they share the cells out.
        """
        protocol, results = self._protocol, dict[Cell, Result]()
        cells = list(grid({m: protocol.modes_of(m) for m in protocol.methods}, protocol.fractions, protocol.seeds))
        with progress(f"{protocol.name}: cells", len(cells)) as advance:
            for wait in (False, True):  # those that another process is at come last
                for cell in cells:
                    found = None if cell in results else self._run(cell, wait)
                    if found is not None:
                        results[cell] = found
                        advance(1)
        return {cell: results[cell] for cell in cells}

    def _run(self, cell: Cell, wait: bool) -> Result | None:
        """The result of a cell; None if another process is at it and this one should not wait."""
        key = self._key(cell)
        found = self._cells.read(cell, key)
        if found is not None:
            return found
        with self._cells.claim(cell, wait) as mine:
            found = self._cells.read(cell, key)  # finished in the meantime
            if found is not None or not mine:
                return found
            if cell.seed not in self._subsets:
                self._subsets[cell.seed] = LabelSubsets(self._protocol.part("train"), cell.seed)
            try:
                found, answers = self._measure(cell, self._subsets[cell.seed](cell.fraction))
            except ValueError as error:
                raise ValueError(f"{cell}: {error}") from error
            self._cells.write(cell, key, found, answers.arrays())
        return found

    def _key(self, cell: Cell) -> str:
        """What the result of a cell depends on."""
        training = self._training if cell.mode == "finetune" or not self._protocol.embeds else ""
        parts = (self._digest(cell), self._settings, training, cell)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _measure(self, cell: Cell, subset: LabelSubset) -> tuple[Result, Answers]:
        labelled = Labelled(self._protocol.part("train"), subset.rows)
        embedded = {name: self._embeddings(cell, name) for name in self._readers} if self._protocol.embeds else {}
        started = time.monotonic()
        task, probe = self._protocol.head(labelled.spec), None
        if embedded:
            fit = neighbour_probe if cell.mode == "knn" else linear_probe
            probe = fit(task, embedded["train"][subset.rows], embedded["val"])
        chosen = self._train(cell, labelled, probe) if probe is None or cell.mode == "finetune" else probe

        def answered(name: str) -> Answers:
            if isinstance(chosen, Trained):
                protocol = self._protocol
                return answer(chosen.model, protocol.name, protocol.data, self._readers[name], self._machine)
            answers = task.answers()
            answers.add(chosen(embedded[name].features), torch.from_numpy(embedded[name].targets))
            return answers

        test = answered("test")
        result = Result(
            len(labelled),
            chosen.options,
            chosen.val,
            test.score(),
            patient_intervals(test, self._readers["test"]),
            [*subset.notes, *(probe.notes if probe else ())],
            {name: answered(name).score() for name in self._protocol.external},
        )
        result.seconds = round(time.monotonic() - started, 2)
        return result, test

    def _train(self, cell: Cell, labelled: Reader, probe: Probe | None) -> Trained:
        protocol = self._protocol
        model = self._build(cell, labelled)
        trainer = Trainer(protocol.name, protocol.data, labelled, protocol.finetuning, self._machine, cell.seed)
        stages = 2 if probe is None and cell.mode == "finetune" else 1
        with progress(
            str(cell), stages * protocol.finetuning.steps * len(protocol.finetuning.learning_rates)
        ) as advance:
            if probe is not None:
                set_head(model, protocol.name, probe)
            else:
                trained = trainer.head(model, advance)
                if cell.mode == "frozen":
                    return trained
                model = trained.model
            return trainer.everything(model, advance)

    def _build(self, cell: Cell, labelled: Reader) -> MultiTaskModel:
        try:
            method = self._protocol.methods[cell.method]
            return method.create_model(self._protocol.name, labelled.spec, self._protocol.task, cell.seed)
        except (ValueError, OSError) as error:
            raise ValueError(f"methods.{cell.method}: {error}") from error

    def _digest(self, cell: Cell) -> str:
        which = cell.method, cell.seed
        if which not in self._digests:
            self._digests[which] = weights_digest(self._build(cell, self._protocol.part("train")))
        return self._digests[which]

    def _embeddings(self, cell: Cell, part: str) -> Embeddings:
        digest, protocol = self._digest(cell), self._protocol
        if (digest, part) not in self._embedded:
            for other in [key for key in self._embedded if key[0] != digest]:
                del self._embedded[other]  # of another method or seed, and on disk
            model = self._build(cell, protocol.part("train"))
            what = f"{cell.method}: embeddings of {part}"
            self._embedded[digest, part] = embeddings(
                model, protocol.name, protocol.data, self._readers[part], self._machine, what
            )
        return self._embedded[digest, part]


def baseline_score(protocol: Protocol) -> dict[str, float]:
    """The test metrics of the majority baseline, which has seen all training labels but no image; none without one."""
    task, test = protocol.head(protocol.part("train").spec), protocol.part("test")
    if test.targets is not None:
        targets = torch.from_numpy(np.stack([test.spec.prepared(target, (1, 1)) for target in test.targets]))
        output = task.baseline(targets)
        return {} if output is None else metrics_of(task, output, targets)
    for batch in evaluation_batches(protocol.name, protocol.data, test, Machine()):
        output = task.baseline(batch.targets)
        if output is None:
            return {}
        task.update(output, batch.targets)
    return {name: float(value) for name, value in task.compute().items()}
