"""Where embeddings are kept: parts while they are computed, then one Parquet or ``.npy`` file."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require
from umedpt_lightning.io.atomic import atomic_write, remove_leftovers, write_csv, write_text

#: Rows that are joined at a time, and the row groups of Parquet; so the file does not depend on the parts.
_CHUNK = 1024


class Rows(NamedTuple):
    """Some embeddings: ids ``(N,)``, groups ``(N,)``, and vectors ``(N, D)``."""

    ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    vectors: NDArray[np.float32]


class Store:
    """A file of embeddings that may be made in several goes.

    Beside it lie ``<file>.parts/`` until it is complete, and then ``<file>.json`` with what it was made of.

    Args:
        file: ``.parquet``, or ``.npy`` with ids and groups beside it in ``<file>.csv``.
        made_of: All that embeddings depend on but the inputs: the model, the task, options; in types of JSON.
        digest: A text for the inputs of the images from one to another, see `InputRows.digest`.
        total: How many images there are.

    Attributes:
        done: So many of them are in parts.
        complete: Whether the file itself is there, from these inputs.
        about: The ``.json`` file.

    Raises:
        ImportError: It is Parquet, and pyarrow is missing.
        ValueError: What is there was made of something else, or the suffix is another.
    """

    def __init__(self, file: Path, made_of: Mapping[str, Any], digest: Callable[[int, int], str], total: int) -> None:
        if file.suffix not in (".parquet", ".npy"):
            raise ValueError(f"--out {file}: embeddings are written as .parquet or .npy. Give one of these suffixes.")
        if file.suffix == ".parquet":
            require("pyarrow.parquet", "parquet", file)
        self.file, self._digest, self._total = file, digest, total
        self._made_of = json.loads(json.dumps({"format": 1, **made_of}))
        self._folder = file.with_name(f"{file.name}.parts")
        self.about = file.with_name(f"{file.name}.json")
        self.complete = file.exists() and self._is_same()
        self.done = 0
        if not self.complete:
            self._go_on()

    def add(self, start: int, stop: int, rows: Rows, skipped: Sequence[str]) -> None:
        """Keeps the embeddings of the images from `start` to `stop`, but those that were skipped.

        Whoever finds the part finds all of it.
        """
        content = {"digest": np.array(self._digest(start, stop)), "skipped": np.array(skipped, np.str_)}
        arrays: dict[str, Any] = rows._asdict() | content
        with atomic_write(self._folder / f"{start:012}-{stop:012}.npz", durable=True) as unfinished:
            np.savez(unfinished, **arrays)
        self.done = stop

    def finish(self, skipped: Sequence[str]) -> tuple[int, int, list[str]]:
        """Joins the parts in constant memory and removes them; of skipped inputs that have no part it must be told.

        Returns:
            How many embeddings there are, how long they are, and what was wrong with the inputs that were skipped.

        Raises:
            ValueError: All were skipped, or a part is damaged.
        """
        count, width = 0, 0
        all_skipped = list(skipped)
        for part in self._parts():
            with _opened(part) as arrays:
                all_skipped += arrays["skipped"].tolist()
                if len(arrays["ids"]):
                    count, width = count + len(arrays["ids"]), arrays["vectors"].shape[1]
        if not count:
            raise ValueError("\n".join([f"None of the {self._total} images can be used:", *all_skipped[:20]]))
        join = self._join_parquet if self.file.suffix == ".parquet" else self._join_npy
        about = {"inputs": self._digest(0, self._total), "rows": count, "width": width, "skipped": all_skipped}
        text = json.dumps(self._made_of | about, indent=1, ensure_ascii=False) + "\n"
        write_text(self.about, text, durable=True)
        join(count, width)
        shutil.rmtree(self._folder)
        return count, width, all_skipped

    def _is_same(self) -> bool:
        """Whether the file is of the same; raises where it is not."""
        about = json.loads(self.about.read_text(encoding="utf-8")) if self.about.is_file() else {}
        now = self._made_of | {"inputs": self._digest(0, self._total)}
        if unlike := [key for key, value in now.items() if about.get(key) != value]:
            raise ValueError(
                f"{self.file} is there already, but was made of other {', '.join(unlike)}. Give another --out, or "
                "remove it to make it anew."
            )
        shutil.rmtree(self._folder, ignore_errors=True)
        return True

    def _go_on(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._folder)
        request = self._folder / "made_of.json"
        if not (self._parts() and request.is_file()):
            write_text(request, json.dumps(self._made_of, indent=1), durable=True)
        before = json.loads(request.read_text(encoding="utf-8"))
        unlike = [key for key in {**before, **self._made_of} if before.get(key) != self._made_of.get(key)]
        mend = f"Give the same again to go on with it, or remove {self._folder} to begin anew."
        if unlike:
            raise ValueError(f"{self._folder} was begun with other {', '.join(unlike)}. {mend}")
        for part in self._parts():
            start, stop = (int(number) for number in part.stem.split("-"))
            with _opened(part) as arrays:
                same = stop <= self._total and str(arrays["digest"]) == self._digest(start, stop)
            if start != self.done or not same:
                raise ValueError(f"{part} was made of other inputs: files were changed, added or removed. {mend}")
            self.done = stop

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("*-*.npz"))

    def _chunks(self) -> Iterator[Rows]:
        """All rows in pieces of one length, whatever the parts."""
        rest: list[Rows] = []
        for part in self._parts():
            with _opened(part) as arrays:
                if not len(arrays["ids"]):
                    continue
                rest.append(Rows(arrays["ids"], arrays["groups"], arrays["vectors"]))
            rest = [Rows(*map(np.concatenate, zip(*rest, strict=True)))]
            while len(rest[0].ids) >= _CHUNK:
                ids, groups, vectors = rest[0]
                yield Rows(ids[:_CHUNK], groups[:_CHUNK], vectors[:_CHUNK])
                rest = [Rows(ids[_CHUNK:], groups[_CHUNK:], vectors[_CHUNK:])]
        if rest and len(rest[0].ids):
            yield rest[0]

    def _join_parquet(self, count: int, width: int) -> None:
        pyarrow, parquet = require("pyarrow", "parquet", self.file), require("pyarrow.parquet", "parquet", self.file)
        vector = pyarrow.list_(pyarrow.float32(), width)
        schema = pyarrow.schema([("id", pyarrow.string()), ("group", pyarrow.string()), ("vector", vector)])
        with (
            atomic_write(self.file, durable=True) as unfinished,
            parquet.ParquetWriter(unfinished, schema, use_dictionary=["group"]) as writer,
        ):
            for rows in self._chunks():
                vectors = pyarrow.FixedSizeListArray.from_arrays(rows.vectors.ravel(), width)
                columns = [pyarrow.array(rows.ids), pyarrow.array(rows.groups), vectors]
                writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema), row_group_size=_CHUNK)

    def _join_npy(self, count: int, width: int) -> None:
        names = (pair for rows in self._chunks() for pair in zip(rows.ids, rows.groups, strict=True))
        write_csv(self.file.with_name(f"{self.file.name}.csv"), ["id", "group"], names, durable=True)
        with atomic_write(self.file, durable=True) as unfinished, unfinished.open("wb") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
            np.lib.format.write_array_header_1_0(stream, header)
            for rows in self._chunks():
                stream.write(np.ascontiguousarray(rows.vectors, "<f4").tobytes())


def _opened(part: Path) -> Any:
    try:
        return np.load(part, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{part} is damaged ({error}). Remove it and all after it; they are computed anew.") from error
