"""Writing the samples of a reader into shards."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

from umedpt_lightning.data.cache.identity import identity
from umedpt_lightning.data.cache.sample_file import pack
from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.texts import Texts
from umedpt_lightning.data.loading.worker import prepare_worker
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.shards.index import INDEX, SAMPLES, ShardIndex
from umedpt_lightning.labels.wording import shorten

_LEVEL = 1  # of zlib: higher ones take several times as long for some per cent
#: What a pack leaves in a folder, also where it was cut short.
_OURS = re.compile(rf"(\.\w+\.part\.)?({INDEX}|{SAMPLES}|\d+\.tar)")


class _Records(Dataset[bytes | str]):
    """The samples of a reader, packed; of one that cannot be, what is wrong: a worker would raise a traceback."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> bytes | str:
        try:
            return zlib.compress(b"".join(pack(self._reader[index])), _LEVEL)
        except (ValueError, OSError, ImportError, TypeError) as error:
            return str(error)


def pack_reader(
    reader: Reader, folder: Path, shard_bytes: int, workers: int = 0, advance: Callable[[int], None] = lambda n: None
) -> bool:
    """Writes all samples into tar files, by WebDataset, and the index that `Packed` reads.

    Samples are as the reader gives them, decoded and without loss, one member of a tar file each. What is there
    already of the same reader and the same files is kept; a folder where the work was cut short is begun anew.

    Args:
        reader: Whose samples; of bags, pack the reader of their images.
        folder: Of the part.
        shard_bytes: Size of a shard, about.
        workers: Processes that read and compress.
        advance: Called with a number of samples when these are written.

    Returns:
        Whether anything had to be written.

    Raises:
        ValueError: A sample cannot be read, or its target not be packed; or the folder holds other files.
        OSError: The shards cannot be written.
        ImportError: WebDataset is missing.
    """
    folder = folder.absolute()  # WebDataset would take what stands before a colon for a protocol
    source = identity(reader)
    if _source(folder) == source:
        return False
    webdataset = require("webdataset", "shards", folder)
    others = sorted(file.name for file in folder.iterdir() if not _OURS.fullmatch(file.name)) if folder.is_dir() else []
    if others:
        raise ValueError(
            f"{folder}: there is something else than shards, {shorten(others, 5)}, but what lies where shards are "
            "written is removed. Name another folder with --out."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lengths, checksums = np.empty(len(reader), np.int64), np.empty(len(reader), np.uint32)
    records = DataLoader(
        _Records(reader), batch_size=None, num_workers=workers, worker_init_fn=lambda number: prepare_worker()
    )
    pattern = str(folder).replace("%", "%%") + "/%05d.tar"
    try:
        with webdataset.ShardWriter(pattern, maxsize=shard_bytes, maxcount=len(reader), verbose=0) as writer:
            for number, record in enumerate(records):
                if isinstance(record, str):
                    raise ValueError(record)
                writer.write({"__key__": f"{number:09d}", "sample": record})
                lengths[number], checksums[number] = len(record), zlib.crc32(record)
                advance(1)
    except OSError as error:
        raise OSError(
            f"{folder}: the shards cannot be written ({error.strerror or error}). Make room, or name another folder "
            "with --out; parts that are whole are kept."
        ) from error
    files = sorted(folder.glob("*.tar"))
    shards, starts = np.empty(len(reader), np.int32), np.empty(len(reader), np.int64)
    for shard, file in enumerate(files):
        with tarfile.open(file) as members:
            for member in members:
                number = int(member.name.partition(".")[0])
                shards[number], starts[number] = shard, member.offset_data
    groups = reader.groups
    names = np.array([reader.name(i).encode(errors="surrogateescape") for i in range(len(reader))])
    ShardIndex(
        reader.spec,
        [file.name for file in files],
        [file.stat().st_size for file in files],
        shards,
        starts,
        lengths,
        checksums,
        names,
        None if groups is None else Texts.of(groups.tolist()).coded(),
        reader.targets,
        reader.places,
        source,
    ).write(folder)
    return True


def _source(folder: Path) -> str | None:
    """Of which reader the samples in a folder are; None where they are not all there."""
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        whole = all((folder / shard["file"]).stat().st_size == shard["bytes"] for shard in content["shards"])
        return str(content["source"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
