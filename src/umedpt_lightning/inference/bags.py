"""Files as bags: grouped as the images of the training were, and embedded bag by bag."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.blocks import BAG
from umedpt_lightning.data.readers.bags import numbered
from umedpt_lightning.data.readers.subset import matches
from umedpt_lightning.inference.dataset import Wanted
from umedpt_lightning.inference.embed import Piece, embedded
from umedpt_lightning.inference.find_inputs import TableColumns
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.rows import InputRows
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import TaskSpec
from umedpt_lightning.types.bags import shares


def bag_columns(columns: TableColumns | None, spec: TaskSpec) -> TableColumns:
    """The columns of tables, with that of the training's bags where none of groups is named."""
    columns = columns or TableColumns()
    made = spec.cut.get("bag", {})
    column = None if made.get("group") else made.get("column")
    return columns if columns.group is not None else replace(columns, group=column)


class BagInputs:
    r"""The images of files, by the bags that they are of, in the order given.

    Bags are told apart by the groups of tables, else by the expression of the training, else a volume or a slide is a
    bag, and the images of a folder are one, below the folder that was given.

    Args:
        files: What was given, as `find_inputs` finds it by `bag_columns`.
        opening: How the task opens them.
        skip_bad: Leave out bags of which a file cannot be opened.

    Attributes:
        rows: All images.
        names: Of the bags.
        members: ``(n,)`` rows of each.
        faults: What is wrong with bags that were left out, by their names.
        skipped: The same, without the names.

    Raises:
        ValueError: Nothing says which bag an image is of, or a file cannot be used.
    """

    def __init__(self, files: Sequence[InputFile], opening: Opening, skip_bad: bool = False) -> None:
        spec = opening.spec
        made = spec.cut.get("bag", {})
        self._position: str | None = made.get("position")
        bag_of = dict(zip([file.id for file in files], _bags_of(files, spec, made.get("group")), strict=True))
        self.rows = InputRows(files, opening, skip_bad)
        taken = set(self.rows.dataset.ids.tolist())
        lost = [bag_of[file.id] for file in files if file.id.encode() not in taken]
        self.faults: dict[str, str] = {}
        for name, fault in zip(lost, self.rows.skipped, strict=True):
            self.faults[name] = f"{self.faults.get(name, '')}\n{fault}".strip()
        members: dict[str, list[NDArray[np.int64]]] = {}
        for number in range(len(self.rows.dataset)):
            name = bag_of[self.rows.dataset.file(number).id]
            if name not in self.faults:
                members.setdefault(name, []).append(self.rows.of_file(number))
        self.names = list(members)
        self.members = [np.concatenate(rows) for rows in members.values()]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def skipped(self) -> list[str]:  # noqa: D102  # of the class
        return list(self.faults.values())

    def id(self, number: int) -> str:
        """The name of a bag."""
        return self.names[number]

    group = id

    def place(self, row: int) -> dict[str, Any]:
        """Where an image lies in its file or bag, by columns of a table."""
        number, index = self.rows.place(row)
        file = self.rows.dataset.file(number)
        if not self.rows.dataset.openings[0].is_single(file):
            return self.rows.dataset.open(number, 0).columns(index)
        return {"position": float(self._numbers([file])[0, 0])} if self._position is not None else {}

    def positions(self, bag: int) -> NDArray[np.float32] | None:
        """``(n, 2)`` where the images of a bag lie in it, from 0 to 1; None where nothing says it."""
        dataset, found = self.rows.dataset, []
        for row in self.members[bag].tolist():
            number, index = self.rows.place(row)
            file = dataset.file(number)
            if self._position is not None:
                found.append(self._numbers([file])[0])
            elif dataset.openings[0].is_single(file):
                return None
            else:
                place = np.atleast_1d(dataset.open(number, 0).images.places[index])
                found.append(np.pad(place, (0, 2 - len(place))))
        return shares(np.array(found))

    def digest(self, start: int, stop: int) -> str:
        """As `InputRows.digest`, of bags."""
        rows = np.concatenate(self.members[start:stop]) if stop > start else np.empty(0, np.int64)
        numbers = sorted({self.rows.place(row)[0] for row in rows.tolist()})
        files = [self.rows.digest(row := int(self.rows.of_file(n)[0]), row + 1) for n in numbers]
        sizes = [len(rows) for rows in self.members[start:stop]]
        return hashlib.sha256(repr((self.names[start:stop], sizes, files)).encode()).hexdigest()[:32]

    def stamp(self, number: int) -> str:
        """As that of `InputFile`, of all files of a bag."""
        places = {self.rows.place(row)[0] for row in self.members[number].tolist()}
        files = [self.rows.dataset.file(place) for place in sorted(places)]
        return hashlib.sha256(b"".join(file.id.encode() + file.state for file in files)).hexdigest()[:32]

    def _numbers(self, files: Sequence[InputFile]) -> NDArray[np.float32]:
        position = self._position or ""
        return numbered(matches(position, [file.file for file in files], "position").tolist(), position)


class EmbeddedBag(NamedTuple):
    """The embeddings of a bag's images.

    Attributes:
        number: Which bag.
        vectors: ``(n, D)`` float32; fewer where images cannot be used.
        faults: What is wrong with these.
    """

    number: int
    vectors: NDArray[np.float32]
    faults: list[str]


def embedded_bags(
    model: MultiTaskModel, task: str, bags: BagInputs, numbers: Sequence[int], compute: ComputeOptions
) -> Iterator[EmbeddedBag]:
    """Bags one after the other, whose images are read and embedded in batches; errors are those of `embedded`."""
    order = [(number, row) for number in numbers for row in bags.members[number].tolist()]
    size, at = compute.batch_size, 0
    keys = ([Wanted(*bags.rows.place(row)) for _, row in order[i : i + size]] for i in range(0, len(order), size))
    vectors: list[NDArray[np.float32]] = []
    faults: list[str] = []
    for batch, usable, found in embedded(model, task, bags.rows.dataset, keys, compute):
        by_place: dict[int, Any] = dict(zip(usable.tolist(), found, strict=True))
        texts = {place: text for place, _, text in batch.faults}
        for place in range(len(batch.wanted)):
            number, row = order[at]
            at += 1
            if place in texts:
                faults.append(texts[place])
            elif not np.isfinite(by_place[place]).all():
                faults.append(f"{bags.rows.id(row)}: its embedding is not finite. Check the image and the model.")
            else:
                vectors.append(by_place[place])
            if at == len(order) or order[at][0] != number:  # it was the bag's last
                yield EmbeddedBag(number, np.array(vectors, np.float32), faults)
                vectors, faults = [], []


def bag_pieces(
    model: MultiTaskModel, task: str, bags: BagInputs, start: int, compute: ComputeOptions
) -> Iterator[Piece]:
    """The features of the bags from a number on, for a table of embeddings; errors are those of `embedded`."""
    one = np.zeros(1, np.int64)
    for found in embedded_bags(model, task, bags, range(start, len(bags)), compute):
        if found.faults:
            yield Piece(1, one[:0], np.empty((0, 0), np.float32), found.faults)
        else:
            features, _ = pooled(model, task, found.vectors, bags.positions(found.number))
            yield Piece(1, one, features.float().cpu().numpy(), [])


@torch.inference_mode()
def pooled(model: MultiTaskModel, task: str, vectors: NDArray[np.float32], positions: Any) -> tuple[Tensor, Tensor]:
    """The features ``(1, D)`` of a bag with these embeddings ``(n, D)``, and how much each counts ``(n,)``.

    Raises:
        ValueError: The block of bags needs positions, and there are none.
    """
    block, device = model.block(BAG), model.task(task).device
    places = None if positions is None else torch.from_numpy(positions).to(device)
    if places is None and getattr(block, "place", None) is not None:
        raise ValueError(
            f"Task {task!r} looks at where the images of a {model.task(task).spec.bag} lie, which these files do not "
            "say: give volumes or slides as in training."
        )
    features, (weights,) = block(torch.from_numpy(vectors).to(device), [len(vectors)], places)
    return features, weights


def _bags_of(files: Sequence[InputFile], spec: TaskSpec, group: str | None) -> list[str]:
    stated = [file.group if file.group != file.id else "" for file in files]
    if not any(stated) and group is not None:
        return list(matches(group, [file.file for file in files], "group").tolist())
    names, unknown = [], []
    for file, name in zip(files, stated, strict=True):
        folder = str(PurePosixPath(file.id).parent)
        found = name or (file.id if file.kind != "image" else "" if folder == "." else folder)
        names.append(found)
        if not found:
            unknown.append(file.file)
    if unknown:
        raise ValueError(
            f"Nothing says which {spec.bag} {unknown[0]} is of ({len(unknown)} of {len(files)} images). Give a folder "
            f"with a folder for each {spec.bag}, or a table with a column of {spec.bag}s and its name (--group of "
            "`umedpt predict`, --columns.group of `umedpt embed`), or choose a task of single images."
        )
    return names
