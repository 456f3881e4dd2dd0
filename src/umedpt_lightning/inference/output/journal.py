"""What is predicted already, line by line, so that a run that was killed goes on; tables are made of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from umedpt_lightning.io.atomic import atomic_write, write_csv, write_text
from umedpt_lightning.labels import TableRow

#: An image in which boxes were found: ``file_name`` as the COCO file calls it, ``height`` and ``width`` in pixels,
#: ``boxes`` (x1, y1, x2, y2 of each, pixels), ``scores`` (0 to 1), ``labels`` (class indices), and ``image_id`` in the
#: user's own COCO file, None where nothing says one.
CocoImage: TypeAlias = dict[str, Any]


class Journal:
    """The records of a task, a line each.

    Args:
        out: The folder of all predictions.
        task: The task's name.
        made_by: What the predictions depend on; those of another model or with other options cannot be gone on with.
        overwrite: Forget what is there.

    Raises:
        ValueError: The folder holds other predictions.
    """

    def __init__(self, out: Path, task: str, made_by: dict[str, Any], overwrite: bool) -> None:
        self._out, self._task = out, task
        self._file = out / ".progress" / f"{task}.jsonl"
        if overwrite or not self._file.is_file():
            write_text(self._file, json.dumps(made_by) + "\n")
        with self._file.open("r+b") as stream:  # without what a killed run has written of a line
            stream.truncate(sum(len(line) for line in stream if line.endswith(b"\n")))
        with self._file.open(encoding="utf-8") as text:
            before = json.loads(text.readline())
        if before != json.loads(json.dumps(made_by)):
            changed = [key for key in made_by if before.get(key) != made_by[key]] or ["release"]
            raise ValueError(
                f"--out {out} holds predictions of {task} that were made with another {', '.join(changed)}. Give "
                "another folder, or --overwrite."
            )
        self.done: set[str] = set()
        #: The ids of images in the user's own COCO file, by what the images are called.
        self.image_ids: dict[str, int | str] = {}
        self._stamps: dict[str, str] = {}
        for record in self._read():
            own = [(p["file_name"], p["image_id"]) for p in record["pictures"] if p.get("image_id") is not None]
            self.image_ids |= dict(own)
            if all((out / file).is_file() for file in record["files"]):
                self.done.add(record["id"])
                if record.get("stamp"):  # earlier releases wrote none
                    self._stamps[record["id"]] = record["stamp"]

    def add(
        self,
        id: str,
        rows: list[TableRow],
        pictures: Iterable[CocoImage] = (),
        files: Iterable[str] = (),
        parts: list[TableRow] | None = None,
        stamp: str = "",
    ) -> None:
        """Notes that an input is done: rows of the task's table, pictures of its COCO file, and files that are written.

        Files are named below the folder of all predictions. `parts` are rows of the second table, see `write_table`.
        The `stamp` is another one when the input has changed, see `forget_changed`.
        """
        record = {"id": id, "rows": rows, "pictures": list(pictures), "files": list(files), "parts": parts or []}
        record |= {"stamp": stamp}
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        self.done.add(id)

    def forget_changed(self, stamps: Mapping[str, str]) -> None:
        """Counts inputs as not done that had another stamp: another file of that name, or a new one in its place."""
        self.done -= {id for id, stamp in stamps.items() if self._stamps.get(id, stamp) != stamp}

    def write_table(self, of: Literal["rows", "parts"] = "rows") -> Path:
        """``<task>.csv``, which is returned: every row of every input, in the order in which they were done.

        Of `parts`, the images that inputs consist of, ``<task>.images.csv``.
        """
        columns = dict.fromkeys(key for record in self._latest() for row in record.get(of, ()) for key in row)
        path = self._out / f"{self._task}{'.csv' if of == 'rows' else '.images.csv'}"
        rows = (row for record in self._latest() for row in record.get(of, ()))
        write_csv(path, columns or ["id"], ([row.get(key) for key in columns] for row in rows))
        return path

    def write_coco(self, classes: Sequence[str], category_ids: Sequence[int] = ()) -> Path:
        """``<task>.json``, which is returned: all boxes, as COCO has results with their images and categories.

        Images have the ids of the user's COCO file where the inputs came from one, else they are numbered.

        Args:
            classes: The classes' names.
            category_ids: Their ids in the training data's COCO file; empty for numbers from 1.
        """
        categories = list(category_ids) or list(range(1, len(classes) + 1))
        path = self._out / f"{self._task}.json"
        with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8") as stream:
            stream.write('{"categories": ')
            json.dump([{"id": i, "name": name} for i, name in zip(categories, classes, strict=True)], stream)
            for key, items in (("images", self._images()), ("annotations", self._annotations(categories))):
                stream.write(f',\n"{key}": [')
                stream.writelines(json_items(items))
                stream.write("]")
            stream.write("}\n")
        return path

    def _images(self) -> Iterator[dict[str, Any]]:
        for i, picture in self._pictures():
            yield {"id": i} | {key: picture[key] for key in ("file_name", "height", "width")}

    def _annotations(self, categories: Sequence[int]) -> Iterator[dict[str, Any]]:
        number = itertools.count(1)
        for i, picture in self._pictures():
            boxes = zip(picture["boxes"], picture["scores"], picture["labels"], strict=True)
            for (x1, y1, x2, y2), score, label in boxes:
                box = [x1, y1, x2 - x1, y2 - y1]
                ids = {"id": next(number), "image_id": i, "category_id": categories[label]}
                yield {**ids, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": score}

    def _pictures(self) -> Iterator[tuple[int | str, CocoImage]]:
        """All images with their ids: their own, or the next number that is nobody's."""
        taken = {picture.get("image_id") for record in self._latest() for picture in record["pictures"]}
        numbers = (number for number in itertools.count(1) if number not in taken)
        for record in self._latest():
            for picture in record["pictures"]:
                own = picture.get("image_id")
                yield (next(numbers) if own is None else own), picture

    def _latest(self) -> Iterator[dict[str, Any]]:
        """One record an input: that which was written last."""
        last = {record["id"]: number for number, record in enumerate(self._read())}
        yield from (record for number, record in enumerate(self._read()) if last[record["id"]] == number)

    def _read(self) -> Iterator[dict[str, Any]]:
        with self._file.open(encoding="utf-8") as stream:
            next(stream)
            yield from map(json.loads, stream)


def json_items(items: Iterable[Any]) -> Iterator[str]:
    """The items of a JSON list, a line each, which may be too many for the memory."""
    for number, item in enumerate(items):
        yield (",\n" if number else "\n") + json.dumps(item)
