"""A sweep: every method in every mode at every fraction of the labels, for several seeds."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from umedpt_lightning.blocks.lora import add_lora
from umedpt_lightning.data.cache.identity import code_identity, identity
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.inference.digests import weights_digest
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.progress import progress
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Task
from umedpt_lightning.tasks.answers import Answers, metrics_of
from umedpt_lightning.transfer.bags import BagHead, bag_head
from umedpt_lightning.transfer.cells import TRAINED, Cell, CellFolder, Result, grid
from umedpt_lightning.transfer.embeddings import Embeddings, embeddings
from umedpt_lightning.transfer.evaluation import evaluation_batches, patient_intervals, predict_part
from umedpt_lightning.transfer.finetune import FineTuned, FineTuner, set_head
from umedpt_lightning.transfer.probe import Probe, linear_probe, neighbour_probe
from umedpt_lightning.transfer.protocol import Part, Protocol
from umedpt_lightning.transfer.subsets import Labelled, LabelSubset, LabelSubsets, has_label


class Sweep:
    """Runs what is not finished yet.

    `head` and `training` are what the config says of these, as text: results depend on it, on training only where they
    need any.
    """

    def __init__(
        self, protocol: Protocol, cells: CellFolder, compute: ComputeOptions, head: str = "", training: str = ""
    ) -> None:
        self._protocol, self._cells, self._compute = protocol, cells, compute
        self._readers = protocol.readers
        parts = [identity(reader) for reader in self._readers.values()]
        code = code_identity(
            ("labels", "tasks", "training", "transfer"), ("lightning", "numpy", "scikit-learn", "scipy")
        )
        self._settings = repr((parts, protocol.data.size, protocol.name, head, code))
        self._training = training
        self._subsets = cache(lambda part, seed: LabelSubsets(protocol.part(part), seed))
        self._digests: dict[tuple[str, int], str] = {}
        self._embedded: dict[tuple[str, str], Embeddings] = {}

    def run(self, part: tuple[int, int] | None = None) -> dict[Cell, Result]:
        """All results, of cells finished before too.

        Several processes may run the same sweep in the same folder, on a GPU each: they share the cells out.

        Args:
            part: The number of this process, from 0, of so many that work on the sweep: each begins at another cell,
                and does not wait for those that others are at, whose results are left out.
        """
        protocol, results = self._protocol, dict[Cell, Result]()
        modes = {method: protocol.modes_of(method) for method in protocol.methods}
        cells = list(grid(modes, protocol.fractions or [], protocol.seeds, protocol.shots))
        first = len(cells) * part[0] // part[1] if part else 0
        with progress(f"{protocol.name}: cells", len(cells)) as advance:
            for wait in (False,) if part else (False, True):  # those that another process is at come last
                for cell in [*cells[first:], *cells[:first]]:
                    found = None if cell in results else self._run(cell, wait)
                    if found is not None:
                        results[cell] = found
                        advance(1)
        return {cell: results[cell] for cell in cells if cell in results}

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
            try:
                found, answers = self._measure(cell, self._labelled(cell, "train"))
            except ValueError as error:
                raise ValueError(f"{cell}: {error}") from error
            self._cells.write(cell, key, found, answers.arrays())
        return found

    def _key(self, cell: Cell) -> str:
        """What the result of a cell depends on."""
        by_training = not self._protocol.embeds or (self._protocol.has_bags and cell.mode != "knn")
        training = self._training if cell.mode in TRAINED or by_training else ""
        parts = (self._digest(cell), self._settings, training, cell)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _labelled(self, cell: Cell, part: Part) -> LabelSubset:
        """What may be looked at: a share of the train part, and of the val part where there are few shots."""
        if part == "val" and not cell.shots:
            return LabelSubset(np.arange(len(self._protocol.part(part))), ())
        subsets: LabelSubsets = self._subsets(part, cell.seed)
        return subsets.shots(cell.shots) if cell.shots else subsets(cell.fraction)

    def _measure(self, cell: Cell, subset: LabelSubset) -> tuple[Result, Answers]:
        choosing = self._labelled(cell, "val")
        labelled = Labelled(self._protocol.part("train"), subset.rows)
        val = Labelled(self._protocol.part("val"), choosing.rows) if cell.shots else self._protocol.part("val")
        embedded: dict[str, Embeddings] = {}
        if self._protocol.embeds:
            embedded = {part: self._embeddings(cell, part) for part in ("train", "val")}
        started = time.monotonic()
        task, probe = self._protocol.head(labelled.spec), None
        if embedded:
            pair = embedded["train"][subset.rows], embedded["val"][choosing.rows]
            probe = self._probe(cell, labelled, task, *pair)
        chosen = self._train(cell, labelled, val, probe) if probe is None or cell.mode in TRAINED else probe
        elapsed = time.monotonic() - started
        # the test part is read from here on, after all has been chosen
        if not isinstance(chosen, FineTuned):
            embedded = {name: self._embeddings(cell, name) for name in ("test", *self._protocol.external)}
        started = time.monotonic() - elapsed

        def answered(name: str) -> Answers:
            if isinstance(chosen, FineTuned):
                protocol = self._protocol
                return predict_part(chosen.model, protocol.name, protocol.data, self._readers[name], self._compute)
            answers = task.answers()
            given = embedded[name]
            outputs = chosen(given) if isinstance(chosen, BagHead) else chosen(given.means().features)
            answers.add(outputs, torch.from_numpy(given.targets))
            return answers

        test = answered("test")
        result = Result(
            int(has_label(labelled).sum()),
            chosen.options,
            chosen.val,
            test.score(),
            patient_intervals(test, self._readers["test"]),
            [*subset.notes, *(f"To choose by: {note}" for note in choosing.notes), *(probe.notes if probe else ())],
            {name: answered(name).score() for name in self._protocol.external},
        )
        result.seconds = round(time.monotonic() - started, 2)
        return result, test

    def _probe(self, cell: Cell, labelled: Reader, task: Task, train: Embeddings, val: Embeddings) -> Probe | BagHead:
        protocol = self._protocol
        if cell.mode == "knn":
            return neighbour_probe(task, train.means(), val.means())
        if not protocol.has_bags:
            return linear_probe(task, train, val)
        model, batch_size = self._build(cell, labelled), protocol.data.batch_size
        return bag_head(model, protocol.name, train, val, protocol.finetuning, batch_size, cell.seed)

    def _train(self, cell: Cell, labelled: Reader, val: Reader, probe: Probe | BagHead | None) -> FineTuned:
        protocol = self._protocol
        model = self._build(cell, labelled)
        data = replace(protocol.data, val=val)
        tuner = FineTuner(protocol.name, data, labelled, protocol.finetuning, self._compute, cell.seed)
        stages = 2 if probe is None and cell.mode in TRAINED else 1
        options = protocol.finetuning
        steps = stages * len(options.learning_rates) * options.evaluations * options.steps_an_evaluation
        with progress(str(cell), steps) as advance:
            if isinstance(probe, BagHead):
                probe.set_in(model)
            elif probe is not None:
                set_head(model, protocol.name, probe)
            else:
                tuned = tuner.train(model, advance, whole=False)
                if cell.mode == "frozen":
                    return tuned
                model = tuned.model
            if cell.mode == "lora":
                add_lora(model.encoder, options.lora_rank)
            return tuner.train(model, advance)

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
                model, protocol.name, protocol.data, self._readers[part], self._compute, what
            )
        return self._embedded[digest, part]


def baseline_score(protocol: Protocol) -> dict[str, float]:
    """The test metrics of the majority baseline, which has seen all training labels but no image; none without one."""
    task, test = protocol.head(protocol.part("train").spec), protocol.part("test")
    if not task.has_baseline:
        return {}
    if test.targets is not None:
        targets = torch.from_numpy(np.stack([test.spec.prepared(target, (1, 1)) for target in test.targets]))
        return metrics_of(task, task.baseline(targets), targets)
    for batch in evaluation_batches(protocol.name, protocol.data, test, ComputeOptions()):
        task.update(task.baseline(batch.targets), task.truth(batch))
    return {name: float(value) for name, value in task.compute().items()}
