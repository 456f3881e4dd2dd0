"""Arrays of MedMNIST are mapped: shared by all processes, unpacked at most once, never read anew."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from benchmarks.processes import in_fresh_process
from umedpt_lightning.data.cache.unpacked import cache_folder, unpacked
from umedpt_lightning.data.formats import npz
from umedpt_lightning.data.readers import MedMNIST

RNG = np.random.default_rng(0)
ARRAYS = {
    "train_images": RNG.integers(0, 256, (6, 12, 16, 3), dtype=np.uint8),
    "deep": RNG.integers(0, 2**16, (3, 5, 4)).astype(np.uint16),
    "turned": np.asfortranarray(RNG.normal(size=(4, 5)).astype(np.float32)),
    "train_labels": np.arange(6)[:, None] % 3,
}
SAVE: dict[str, Callable[..., Any]] = {"stored": np.savez, "compressed": np.savez_compressed}

either_way = pytest.mark.parametrize("way", SAVE)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))


def kept() -> list[Path]:
    return sorted(cache_folder().iterdir()) if cache_folder().is_dir() else []


@either_way
def test_an_array_is_mapped_and_unpacked_at_most_once(tmp_path: Path, way: str) -> None:
    file = tmp_path / "a.npz"
    SAVE[way](file, **ARRAYS)
    for key, array in ARRAYS.items():
        found = npz.mapped(file, key)
        assert isinstance(found, np.memmap)
        assert npz.header(file, key) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found, array)
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 0
    first = [(path, path.stat().st_mtime_ns, path.stat().st_ino) for path in kept()]
    assert len(first) == (0 if way == "stored" else len(ARRAYS))
    for key in ARRAYS:
        npz.mapped(file, key)
    assert [(path, path.stat().st_mtime_ns, path.stat().st_ino) for path in kept()] == first


def sample_of(reader: MedMNIST) -> tuple[np.ndarray, str]:
    image = reader[4].image
    array = reader._images._array
    return image, str(array.filename)


@either_way
def test_every_process_maps_the_same_file_and_keeps_no_copy(tmp_path: Path, way: str) -> None:
    SAVE[way](tmp_path / "a.npz", **ARRAYS)
    reader = MedMNIST(tmp_path / "a.npz", "train")
    image, mapped = sample_of(reader)
    assert len(pickle.dumps(reader)) < 5000
    other, theirs = in_fresh_process(sample_of, reader)
    np.testing.assert_array_equal(image, ARRAYS["train_images"][4])
    np.testing.assert_array_equal(other, image)
    assert mapped == theirs
    assert type(image) is np.ndarray
    assert image.flags.writeable
    assert image.base is None or not isinstance(image.base, np.memmap)


def unpack(count: Path) -> bytes:
    def write(stream: IO[bytes]) -> None:
        with count.open("ab") as counter:
            counter.write(b"x")
        time.sleep(0.5)
        stream.write(b"content")

    return unpacked("name", write, "a").read_bytes()


def test_of_several_processes_one_unpacks_and_the_others_wait(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(unpack, [tmp_path / "count"] * 4, chunksize=1) == [b"content"] * 4
    assert (tmp_path / "count").read_bytes() == b"x"
    assert [path.name for path in kept()] == ["name"]


def test_a_changed_file_is_unpacked_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, x=np.zeros((3, 2)))
    assert npz.mapped(file, "x").sum() == 0
    np.savez_compressed(file, x=np.ones((3, 4)))
    assert npz.mapped(file, "x").sum() == 12


def test_damage_is_named_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(
        file, train_images=RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8), train_labels=np.ones((40, 1), int)
    )
    content = bytearray(file.read_bytes())
    content[3000:3100] = bytes(100)
    file.write_bytes(content)
    reader = MedMNIST(file, "train")
    with pytest.raises(
        ValueError, match=r"a\.npz: not an \.npz file of which train_images can be read.*Download it again"
    ):
        reader[0]
    assert kept() == []
    file.write_bytes(content[:5000])
    with pytest.raises(ValueError, match=r"a\.npz: not an \.npz file"):
        MedMNIST(file, "train")
